import assert from "node:assert/strict";
import { test } from "node:test";

import { hasVideo, isHold, isSameSession } from "../../../../wsproto_sip/cli/serve/static/sdp.mjs";

const sdp = (...lines) => ["v=0", "o=- 7 1 IN IP4 127.0.0.1", "s=-", ...lines, ""].join("\r\n");

test("on hold is who is to be sent nothing", () => {
  for (const [lines, hold] of [
    [["m=audio 9 X 0"], false],
    [["m=audio 9 X 0", "a=sendrecv"], false],
    [["m=audio 9 X 0", "a=recvonly"], false],
    [["m=audio 9 X 0", "a=sendonly"], true],
    [["m=audio 9 X 0", "a=inactive"], true],
    [["a=inactive", "m=audio 9 X 0"], true],
    [["a=inactive", "m=audio 9 X 0", "a=sendrecv"], false],
    [["m=video 9 X 0", "a=sendonly", "m=audio 9 X 0"], false],
    [["m=audio 9 X 0", "m=video 9 X 0", "a=inactive"], false],
    [["c=IN IP4 0.0.0.0", "m=audio 9 X 0"], true],
    [["m=audio 9 X 0", "c=IN IP4 0.0.0.0", "a=ice-ufrag:x"], false],
  ]) assert.equal(isHold(sdp(...lines)), hold, lines.join());
});

test("a picture is one that was not refused", () => {
  assert.ok(hasVideo(sdp("m=audio 9 X 0", "m=video 9 X 0")));
  assert.ok(!hasVideo(sdp("m=audio 9 X 0", "m=video 0 X 0")));
});

test("a session stays the same when its version grows", () => {
  const of = (origin) => `v=0\no=${origin}\n`;
  assert.ok(isSameSession(of("- 7 1 IN IP4 0.0.0.0"), of("- 7 9 IN IP4 0.0.0.0")));
  assert.ok(!isSameSession(of("- 7 1 IN IP4 0.0.0.0"), of("- 8 1 IN IP4 0.0.0.0")));
  assert.ok(!isSameSession("", ""));
  assert.ok(!isSameSession(of("-"), of("-")));
});
