import assert from "node:assert/strict";
import { test } from "node:test";

import { Attention } from "../../../../wsproto_sip/cli/serve/static/attention.mjs";
import { FakeClock } from "./harness.mjs";

function page({ permission = "granted", hidden = true } = {}) {
  const shown = [];
  class Notification {
    static permission = permission;
    static asked = 0;

    static async requestPermission() {
      Notification.asked++;
    }

    constructor(title, options) {
      Object.assign(this, { title, options });
      shown.push(this);
    }

    close() {
      this.closed = true;
    }
  }
  const [clock, document] = [new FakeClock(), { title: "page", hidden }];
  return { clock, document, shown, Notification, attention: new Attention({ document, Notification, clock }) };
}

test("the title says who is calling, and blinks; a calm one does not", async () => {
  const { attention, clock, document } = page();
  attention.title("bob is calling", true);
  const seen = [];
  for (let i = 0; i < 3; i++) {
    seen.push(document.title);
    await clock.pass(1000);
  }
  assert.deepEqual(seen, ["bob is calling – page", "page", "bob is calling – page"]);
  attention.title("bob");
  await clock.pass(5000);
  assert.equal(document.title, "bob – page");
  attention.title(null);
  assert.equal(document.title, "page");
});

test("a notification is shown where the page is not, and goes with its cause", () => {
  const { attention, shown } = page();
  attention.notify("c1", "bob is calling", "text", { stays: true });
  assert.deepEqual([shown[0].title, shown[0].options.tag, shown[0].options.requireInteraction], ["bob is calling", "c1", true]);
  shown[0].onclick();
  assert.ok(shown[0].closed);
  attention.notify("c2", "x", "");
  attention.forget("c2");
  attention.forget("c3");
  assert.ok(shown[1].closed);
});

test("none without leave, in front of the user's eyes, or where the browser has none", () => {
  for (const values of [{ permission: "denied" }, { hidden: false }]) {
    const { attention, shown } = page(values);
    attention.notify("c", "x", "");
    assert.equal(shown.length, 0);
  }
  const { document, clock } = page();
  new Attention({ document, clock, Notification: null }).notify("c", "x", "");
  class Worker {
    static permission = "granted";
    constructor() {
      throw new TypeError("use a service worker");
    }
  }
  new Attention({ document, clock, Notification: Worker }).notify("c", "x", "");
});

test("leave is asked for once, where nothing was said yet", async () => {
  for (const [permission, times] of [["default", 1], ["granted", 0], ["denied", 0]]) {
    const { attention, Notification } = page({ permission });
    await attention.ask();
    assert.equal(Notification.asked, times);
  }
  const { document, clock } = page();
  await new Attention({ document, clock, Notification: null }).ask();
});
