import assert from "node:assert/strict";
import { test } from "node:test";

import * as words from "../../../../wsproto_sip/cli/serve/static/words.mjs";

test("durations, for the eye and for the ear", () => {
  assert.deepEqual([-1, 7.9, 61, 750, 3723].map(words.duration), ["0:00", "0:07", "1:01", "12:30", "1:02:03"]);
  assert.deepEqual([0, 1, 60, 125].map(words.spokenDuration), ["0 seconds", "1 second", "1 minute", "2 minutes 5 seconds"]);
});

test("failures are sentences about a person, whatever the status", () => {
  assert.equal(words.failure(404, "Not Found", "bob"), "bob is not registered");
  assert.equal(words.failure(486, "Busy Here", "bob"), "bob is busy");
  assert.equal(words.failure(480, "", "bob"), "bob cannot be reached right now");
  assert.equal(words.failure(502, "Bad Gateway", "bob"), "The server failed (502 Bad Gateway)");
  assert.equal(words.failure(499, "Odd", "bob"), "bob: 499 Odd");
  assert.equal(words.failure(undefined, undefined, "bob"), "bob: no answer");
  for (let status = 300; status < 700; status++) {
    const said = words.failure(status, "Reason", "bob");
    assert.ok(said.length > 5 && !/undefined|null/.test(said), said);
  }
});

test("refused registrations say what to do", () => {
  const who = { user: "alice", password: "x" };
  assert.equal(words.refusal({ status: 401 }, who), "Wrong name or password. Try again.");
  assert.equal(words.refusal({ status: 401 }, { user: "alice", password: "" }), "“alice” needs a password.");
  assert.equal(words.refusal({ name: "offline" }, who), "The server cannot be reached. Try again.");
  assert.equal(words.refusal({ status: 418, reason: "Teapot" }, who), "The server refused: 418 Teapot");
  for (const status of [403, 404, 408, 423, 429, 503]) assert.ok(!/undefined/.test(words.refusal({ status }, who)));
});

test("each ending and each state of a call has words", () => {
  const ends = ["hung up", "remote", "cancelled", "declined", "missed", "elsewhere", "lost", "transferred", "replaced"];
  const said = ends.map((why) => words.ending({ why }, "bob"));
  assert.equal(new Set(said).size, ends.length);
  assert.equal(words.ending({ why: "refused", status: 603 }, "bob"), "bob declined");
  assert.equal(words.ending({ why: "failed", status: 408 }, "bob"), "No answer from bob");
  assert.equal(words.ending({ why: "failed", reason: "no ACK" }, "bob"), "The call failed: no ACK");
  assert.equal(words.ending({ why: "failed" }, "bob"), "The call failed");
  const call = { user: "bob", state: "active" };
  const states = [
    { state: "calling" }, { state: "ringing" }, { state: "incoming" }, { state: "answering" },
    { state: "ended", ending: { why: "remote" } }, { transfer: { who: "carol" } }, { failing: () => {} },
    { held: true }, { remoteHeld: true }, { adrift: true }, {},
  ].map((values) => words.progress({ ...call, ...values }));
  assert.equal(new Set(states).size, states.length);
});

test("what calls tell, and how the registration is", () => {
  const told = [
    { what: "key", key: "5" }, { what: "transferred", who: "carol" }, { what: "transfer rings", who: "carol" },
    { what: "transfer failed", who: "carol", status: 486 }, { what: "transfer failed", who: "carol", status: 0 },
    { what: "no camera", reason: "x" }, { what: "no microphone", reason: "x" },
  ].map((detail) => words.told(detail, "bob"));
  assert.equal(told[3], "The transfer failed. carol is busy");
  assert.equal(new Set(told).size, told.length);
  const states = ["connecting", "registering", "registered", "refused", "offline"];
  assert.equal(new Set(states.map((name) => words.presence({ name, seconds: 3 }, "alice"))).size, 5);
  assert.equal(words.presence({ name: "ended" }), "Not registered");
});

test("a moment of another day has its date", () => {
  const at = new Date(2024, 4, 17, 10, 30).getTime();
  assert.ok(!words.moment(at, at + 1000).includes("17"));
  assert.ok(words.moment(at, at + 86_400_000).includes("17"));
});
