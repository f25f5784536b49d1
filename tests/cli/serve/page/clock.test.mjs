import assert from "node:assert/strict";
import { test } from "node:test";

import { clock, pause } from "../../../../wsproto_sip/cli/serve/static/clock.mjs";
import { FakeClock } from "./harness.mjs";

test("the real clock calls, or does not when that was prevented", async () => {
  let late = false;
  const stop = clock.after(0, () => (late = true));
  stop();
  await new Promise((resolve) => clock.after(1, resolve));
  assert.ok(!late);
  assert.ok(Math.abs(clock.now() - Date.now()) < 1000);
});

test("a pause ends when its time is over", async () => {
  const time = new FakeClock();
  let over = false;
  pause(time, 10).then(() => (over = true));
  await time.pass(9);
  assert.ok(!over);
  await time.pass(1);
  assert.ok(over);
});
