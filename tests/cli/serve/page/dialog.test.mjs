import assert from "node:assert/strict";
import { test } from "node:test";

import { Dialog } from "../../../../wsproto_sip/cli/serve/static/dialog.mjs";
import { request } from "./harness.mjs";

const headers = [["Contact", "<sip:bob@b.invalid;gr=1>"], ["Record-Route", "<sip:p1;lr>, <sip:p2;lr>"], ["Supported", "Replaces"]];

test("the called side's dialog: routes as they came, the caller's numbers", () => {
  const dialog = Dialog.ofCallee(request("INVITE", { headers, number: 7 }));
  assert.equal(dialog.target, "sip:bob@b.invalid;gr=1");
  assert.deepEqual(dialog.routes, ["<sip:p1;lr>", "<sip:p2;lr>"]);
  assert.ok(dialog.replaces);
  const to = dialog.local;
  assert.ok(dialog.matches(request("BYE", { to })));
  assert.ok(!dialog.matches(request("BYE", { to, callId: "other" })));
  assert.ok(!dialog.matches(request("BYE", { to, from: "<sip:bob@sip.test>;tag=x" })));
  assert.ok(!dialog.matches(request("BYE")));
  assert.deepEqual([6, 8, 8, 7].map((number) => dialog.takes({ number })), [false, true, true, false]);
});

test("the calling side's dialog: routes turned round, and its own numbers go on", () => {
  const answer = request("INVITE").respond(200, { tag: "t", headers });
  const dialog = Dialog.ofCaller({ callId: "c1", from: "<sip:bob@sip.test>;tag=b" }, answer, 3);
  assert.deepEqual(dialog.routes, ["<sip:p2;lr>", "<sip:p1;lr>"]);
  const { to, next } = dialog.fields();
  assert.deepEqual([to, next(), next()], ["<sip:alice@sip.test>;tag=t", 4, 5]);
  assert.equal(dialog.replacement, "c1;to-tag=t;from-tag=b");
  assert.ok(dialog.is("c1", "b", "t"));
});

test("a side without Contact is asked at its address, and one without a tag is of RFC 2543", () => {
  const old = Dialog.ofCallee(request("INVITE", { from: "<sip:bob@sip.test>" }));
  assert.equal(old.target, "sip:bob@sip.test");
  assert.ok(old.is("c1", old.localTag, undefined));
  assert.ok(old.is("c1", old.localTag, "0"));
  assert.match(old.replacement, /^c1;to-tag=0;from-tag=/);
  const other = Dialog.ofCaller({ callId: "c1", from: "<sip:b@x>;tag=b" }, request("INVITE").respond(200, { tag: "t" }), 1);
  assert.equal(other.target, "sip:alice@sip.test");
  assert.ok(!other.replaces);
});

test("a target refresh changes where requests go", () => {
  const dialog = Dialog.ofCallee(request("INVITE", { headers }));
  dialog.refresh(request("INVITE", { headers: [["Contact", "<sip:bob@new.invalid>"]] }));
  dialog.refresh(request("INVITE"));
  assert.equal(dialog.target, "sip:bob@new.invalid");
});
