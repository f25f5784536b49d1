import assert from "node:assert/strict";
import { test } from "node:test";

import { PATTERNS, Tones, keyFrequencies } from "../../../../wsproto_sip/cli/serve/static/tones.mjs";
import { FakeClock } from "./harness.mjs";

class FakeAudio {
  static made = 0;
  currentTime = 100;
  destination = {};
  state = "suspended";
  sounds = [];

  constructor() {
    FakeAudio.made++;
  }

  async resume() {
    this.state = "running";
  }

  createGain() {
    const points = [];
    const at = (value, time) => points.push([value, time]);
    this.gain = { gain: { setValueAtTime: at, linearRampToValueAtTime: at }, points, connect() {} };
    return this.gain;
  }

  createOscillator() {
    const sound = { frequency: {}, connect() {}, start: (time) => (sound.begin = time), stop: (time = this.currentTime) => (sound.end = time) };
    this.sounds.push(sound);
    return sound;
  }
}

function ready() {
  const clock = new FakeClock();
  const tones = new Tones({ clock, AudioContext: FakeAudio });
  tones.unlock();
  return { clock, tones, sounds: tones.context.sounds };
}

test("nothing sounds until the user has done something, or where there is no sound", () => {
  const tones = new Tones({ clock: new FakeClock(), AudioContext: FakeAudio });
  tones.play("ring");
  tones.unlock();
  tones.unlock();
  assert.equal(FakeAudio.made, 1);
  assert.equal(tones.context.sounds.length, 0);
  const none = new Tones({ clock: new FakeClock(), AudioContext: undefined });
  none.unlock();
  none.key("1");
});

test("ringback is one second of 425 Hz every five, until it is stopped", async () => {
  const { clock, tones, sounds } = ready();
  tones.play("ringback");
  tones.play("ringback");
  await clock.pass(10_000);
  assert.equal(sounds.length, 3);
  assert.deepEqual([sounds[0].frequency.value, sounds[0].begin, sounds[0].end], [425, 100, 101]);
  tones.play(null);
  await clock.pass(20_000);
  assert.equal(sounds.length, 3);
  assert.equal(tones.playing, null);
});

test("another tone takes the place of the first, and its sound stops", async () => {
  const { clock, tones, sounds } = ready();
  tones.play("ring");
  const first = sounds.length;
  tones.play("busy");
  assert.ok(sounds.slice(0, first).every(({ end }) => end === 100));
  await clock.pass(60_000);
  assert.equal(sounds.length, first + 3);
  assert.equal(tones.playing, null);
});

test("a short tone does not interrupt one that plays", async () => {
  const { clock, tones, sounds } = ready();
  tones.once("message");
  tones.once("ended");
  assert.equal(sounds.length, 2);
  await clock.pass(2000);
  tones.once("ended");
  assert.equal(sounds.length, 4);
});

test("a sample is heard one time", async () => {
  const { clock, tones, sounds } = ready();
  tones.sample("ring");
  await clock.pass(60_000);
  assert.equal(sounds.length, PATTERNS.ring.sounds.length);
});

test("keys have the frequencies of ITU-T Q.23", () => {
  assert.deepEqual(keyFrequencies("1"), [697, 1209]);
  assert.deepEqual(keyFrequencies("#"), [941, 1477]);
  assert.deepEqual(["x", "", "12"].map(keyFrequencies), [null, null, null]);
  const { tones, sounds } = ready();
  tones.key("0");
  tones.key("x");
  assert.deepEqual(sounds.map(({ frequency }) => frequency.value), [941, 1336]);
});

test("volume is obeyed, and silence makes no sound at all", () => {
  const { tones, sounds } = ready();
  tones.volume = 0.5;
  tones.play("ringback");
  assert.equal(Math.max(...tones.context.gain.points.map(([value]) => value)), 0.125);
  tones.play(null);
  tones.volume = 0;
  tones.play("ring");
  assert.equal(sounds.length, 1);
});

test("every pattern fits in its period", () => {
  for (const { period, sounds } of Object.values(PATTERNS)) {
    for (const [start, length, volume] of sounds) assert.ok(start + length <= period && volume <= 0.5);
  }
});
