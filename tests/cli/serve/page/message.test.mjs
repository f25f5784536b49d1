import assert from "node:assert/strict";
import { test } from "node:test";

import { Message, address, listed, shown, toUri, token, uriHeaders, userOf, uuid, withoutParameters } from "../../../../wsproto_sip/cli/serve/static/message.mjs";
import { request } from "./harness.mjs";

test("an address has a URI and a tag, and a display name says nothing", () => {
  const addresses = [
    ["<sip:bob@sip.test>;tag=1", "sip:bob@sip.test", "1"],
    ['"Bob <sip:bob@sip.test>" <sip:mallory@sip.test>;tag=1', "sip:mallory@sip.test", "1"],
    ['"\\"<sip:bob@sip.test>" <sip:mallory@sip.test> ; tag = 1', "sip:mallory@sip.test", "1"],
    ["sip:bob@sip.test", "sip:bob@sip.test", null],
    ["sip:bob@sip.test;tag=1", "sip:bob@sip.test", "1"],
    ["Bob <sip:bob@sip.test;transport=ws>", "sip:bob@sip.test;transport=ws", null],
  ];
  for (const [value, uri, tag] of addresses) assert.deepEqual(address(value), { uri, tag });
});

test("a list is split at its own commas", () => {
  assert.deepEqual(listed('"a, b" <sip:a,b@c>;x="1,2", <sip:d@e>,'), ['"a, b" <sip:a,b@c>;x="1,2"', "<sip:d@e>"]);
});

test("users and what people type", () => {
  assert.deepEqual(["sip:b%20b@sip.test", "sips:%FF@sip.test", "tel:+1"].map(userOf), ["b b", "%FF", "tel:+1"]);
  assert.equal(toUri("bob", "sip.test"), "sip:bob@sip.test");
  assert.equal(toUri("bob@other.test", "sip.test"), "sip:bob@other.test");
  assert.equal(toUri("sips:bob@other.test", "sip.test"), "sips:bob@other.test");
  assert.equal(toUri("+49/30;b b>@x", "sip.test"), "sip:+49/30;b%20b%3E@x");
  assert.equal(shown("sip:bob@SIP.test;gr=1", "sip.test"), "bob");
  assert.equal(shown("sip:bob@other.test", "sip.test"), "bob@other.test");
  assert.equal(shown("tel:1", "sip.test"), "tel:1");
  assert.equal(withoutParameters("sip:bob@x;gr=1?a=b"), "sip:bob@x");
});

test("the header fields of a URI", () => {
  assert.deepEqual(uriHeaders("sip:b@x?Replaces=1%3Bto-tag%3D2&x=%FF&y"), { replaces: "1;to-tag=2", y: "" });
  assert.deepEqual(uriHeaders("sip:b@x"), {});
});

test("a message is read: short names, folded lines, lists", () => {
  const text = "MESSAGE sip:a@x SIP/2.0\r\nv: SIP/2.0/WS y;branch=z9\r\nf: <sip:b@x>;tag=1\r\nt: <sip:a@x>\r\ni: 7\r\n" +
    "CSeq: 3 MESSAGE\r\nk: a,\r\n b\r\nSupported: C\r\nc: Text/Plain ; charset=utf-8\r\n\r\nhello";
  const message = Message.parse(text);
  assert.equal(message.method, "MESSAGE");
  assert.equal(message.branch, "z9");
  assert.deepEqual(message.sequence, { number: 3, method: "MESSAGE" });
  assert.deepEqual(message.list("supported"), ["a", "b", "C"]);
  assert.ok(message.lists("supported", "c"));
  assert.ok(!message.lists("supported", "d"));
  assert.deepEqual([message.type, message.body], ["text/plain", "hello"]);
});

test("what is not a message", () => {
  const whole = request("OPTIONS").toString();
  assert.ok(Message.parse(whole));
  const bad = ["", "\r\n\r\n", whole.slice(0, -2), whole.replace("SIP/2.0\r\n", "HTTP/1.1\r\n"), whole.replace("Via", "Vie"), whole.replace("1 OPTIONS", "x OPTIONS"), whole.replace(/^.*?\r\n/, "SIP/2.0 99 Early\r\n")];
  for (const text of bad) assert.equal(Message.parse(text), null);
});

test("a response has what identifies its request, and the length in bytes", () => {
  const answer = request("INVITE", { headers: [["Record-Route", "<sip:p>"]] }).respond(180, { tag: "t", headers: [["X-Y", "y"]], body: "ü" });
  const read = Message.parse(answer.toString());
  assert.deepEqual([read.status, read.reason, read.get("to"), read.get("x-y")], [180, "Ringing", "<sip:alice@sip.test>;tag=t", "y"]);
  assert.equal(answer.get("record-route"), "<sip:p>");
  assert.equal(read.get("content-length"), "2");
  assert.equal(request("INVITE").respond(100).get("to"), "<sip:alice@sip.test>");
  const within = request("BYE", { to: "<sip:alice@sip.test>;tag=mine" });
  assert.equal(within.respond(299, { tag: "other" }).get("to"), "<sip:alice@sip.test>;tag=mine");
});

test("random words differ", () => {
  assert.match(token(), /^[0-9a-f]{16}$/);
  assert.match(uuid(), /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-8[0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(token(), token());
});
