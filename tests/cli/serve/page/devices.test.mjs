import assert from "node:assert/strict";
import { test } from "node:test";

import { Devices } from "../../../../wsproto_sip/cli/serve/static/devices.mjs";
import { Stored } from "../../../../wsproto_sip/cli/serve/static/stored.mjs";

const asked = [];
const mediaDevices = {
  enumerateDevices: async () => [
    { kind: "audioinput", deviceId: "default", label: "Default" },
    { kind: "audioinput", deviceId: "m1", label: "Headset" },
    { kind: "audioinput", deviceId: "m2", label: "" },
    { kind: "videoinput", deviceId: "", label: "" },
  ],
  getUserMedia: async (constraints) => asked.push(constraints),
};

test("the devices of a kind, with the browser's own choice first", async () => {
  const devices = new Devices({ mediaDevices, storage: new Stored(() => null) });
  assert.deepEqual(await devices.list("audioinput"), [
    { id: "", label: "Browser default" },
    { id: "m1", label: "Headset" },
    { id: "m2", label: "Device 3" },
  ]);
  assert.equal((await devices.list("videoinput")).length, 1);
});

test("what was chosen is asked for, and remembered", async () => {
  const storage = new Stored(() => null);
  const devices = new Devices({ mediaDevices, storage });
  await devices.open({ audio: true, video: true });
  devices.choose("audioinput", "m1");
  await new Devices({ mediaDevices, storage }).open({ audio: true });
  assert.deepEqual(asked, [{ audio: true, video: true }, { audio: { deviceId: { ideal: "m1" } }, video: false }]);
  storage.setItem("devices", "{");
  assert.equal(new Devices({ mediaDevices, storage }).chosen.audioinput, "");
  storage.setItem = () => {
    throw new Error("full");
  };
  devices.choose("videoinput", "c1");
  assert.equal(devices.chosen.videoinput, "c1");
});

test("without a secure context there are none, and the reason is said", async () => {
  const devices = new Devices({ mediaDevices: null, storage: new Stored(() => null) });
  assert.equal((await devices.list("audioinput")).length, 1);
  await assert.rejects(devices.open({ audio: true }), /https/);
});
