import assert from "node:assert/strict";
import { test } from "node:test";

import { History } from "../../../../wsproto_sip/cli/serve/static/history.mjs";
import { Phone, soundOf } from "../../../../wsproto_sip/cli/serve/static/phone.mjs";
import { Stored } from "../../../../wsproto_sip/cli/serve/static/stored.mjs";
import { FakeClock, FakeMedia, Server, heard, settle } from "./harness.mjs";

async function phone(server, user) {
  const agent = await server.phone(user);
  const media = [];
  const tones = {
    playing: null,
    played: [],
    play(name) {
      this.playing = name;
      if (name) this.played.push(name);
    },
    once(name) {
      this.played.push(name);
    },
    key(key) {
      this.played.push(`key ${key}`);
    },
  };
  const attention = {
    notes: [],
    title: (text) => (attention.shown = text),
    notify: (tag, title) => attention.notes.push(title),
    forget: () => {},
  };
  const history = new History(user, { storage: new Stored(() => null) });
  const makeMedia = (options) => {
    const made = Object.assign(new FakeMedia(`${user}${media.length}`), { options });
    media.push(made);
    return made;
  };
  const made = new Phone({ agent, makeMedia, tones, attention, history, clock: server.clock });
  return Object.assign(made, { media, said: heard(made, "said"), log: heard(made, "entry") });
}

async function phones(...users) {
  const server = new Server(new FakeClock());
  return [server, ...(await Promise.all(users.map((user) => phone(server, user))))];
}

const errors = ({ said }) => said.filter(({ how }) => how === "error").map(({ text }) => text);

test("what sounds, of what there is", () => {
  const [rings, goes, speaks, held] = [{ state: "incoming" }, { state: "ringing" }, { state: "active" }, { state: "active", held: true }];
  assert.equal(soundOf([]), null);
  assert.equal(soundOf([rings]), "ring");
  assert.equal(soundOf([rings, held]), "ring");
  assert.equal(soundOf([rings, speaks]), "waiting");
  assert.equal(soundOf([rings, goes]), "waiting");
  assert.equal(soundOf([goes, held]), "ringback");
  assert.equal(soundOf([goes, speaks]), null);
  assert.equal(soundOf([{ state: "calling" }]), null);
});

test("a call is heard, seen in the title, notified and remembered", async () => {
  const [server, alice, bob] = await phones("alice", "bob");
  const call = await alice.dial("bob");
  await settle();
  assert.deepEqual([alice.tones.playing, bob.tones.playing], ["ringback", "ring"]);
  assert.equal(bob.attention.shown, "alice is calling");
  assert.deepEqual(bob.attention.notes, ["alice is calling"]);
  assert.deepEqual(bob.said[0], { text: "alice is calling", how: "alarm" });
  await Promise.all([bob.answer(bob.calls[0]), settle()]);
  assert.equal(alice.attention.shown, "bob: Connected");
  assert.deepEqual([alice.tones.playing, bob.tones.playing], [null, null]);
  await server.clock.pass(3000);
  call.hangUp();
  await settle();
  const { at, ...entry } = bob.log[0];
  assert.deepEqual(entry, { kind: "call", direction: "in", peer: "alice", seconds: 3, why: "remote", status: undefined, reason: undefined });
  assert.equal(alice.log[0].why, "hung up");
  assert.equal(alice.attention.shown, null);
  assert.equal(alice.current, null);
});

test("failures are said in words, and a busy tone is heard", async () => {
  const [, alice] = await phones("alice");
  await alice.dial("nobody");
  await settle();
  assert.deepEqual(errors(alice), ["nobody is not registered"]);
  assert.ok(alice.tones.played.includes("busy"));
  assert.equal(alice.log[0].status, 404);
  assert.equal(await alice.write("nobody", "hi"), false);
  assert.deepEqual(errors(alice).at(-1), "Not delivered: nobody is not registered");
  assert.equal(alice.log[1].failed, "nobody is not registered");
});

test("a missed call is notified once more", async () => {
  const [, alice, bob] = await phones("alice", "bob");
  const call = await alice.dial("bob");
  await settle();
  call.hangUp();
  await settle();
  assert.deepEqual(bob.attention.notes, ["alice is calling", "Missed call from alice"]);
  assert.equal(bob.log[0].why, "missed");
});

test("a second call knocks; answering it lets the first one wait, and they swap", async () => {
  const [, alice, bob, carol] = await phones("alice", "bob", "carol");
  await alice.dial("bob");
  await settle();
  await Promise.all([bob.answer(bob.calls[0]), settle()]);
  await carol.dial("bob");
  await settle();
  assert.equal(bob.tones.playing, "waiting");
  const [first, second] = bob.calls;
  await bob.answer(second);
  await settle();
  assert.deepEqual([first.held, second.held, bob.current], [true, false, second]);
  assert.ok(alice.calls[0].remoteHeld);
  await bob.select(first);
  assert.deepEqual([first.held, second.held, bob.current], [false, true, first]);
  first.hangUp();
  await settle();
  assert.deepEqual([bob.current, second.held], [second, true]);
  await bob.select(second);
  assert.equal(second.held, false);
  bob.dial("alice");
  await settle();
  assert.ok(second.held);
});

test("muting, keys and camera", async () => {
  const [server, alice, bob] = await phones("alice", "bob");
  const call = await alice.dial("bob");
  await settle();
  await Promise.all([bob.answer(bob.calls[0], { video: true }), settle()]);
  assert.equal(bob.media[0].options.video, false);
  alice.mute(call, true);
  assert.ok(call.media.muted);
  alice.mute(call, false);
  await alice.key(call, "5");
  await settle();
  assert.deepEqual(bob.said.at(-1), { text: "alice pressed 5", how: "notice" });
  call.media.key = () => true;
  await alice.key(call, "6");
  assert.ok(alice.tones.played.includes("key 6"));
  call.media.addCamera = async () => {};
  await alice.camera(call);
  assert.equal(alice.said.at(-1).text, "Camera on");
  Object.assign(call.media, { hasCamera: true, unseen: false, hide: (yes) => (call.media.unseen = yes) });
  await alice.camera(call);
  assert.equal(alice.said.at(-1).text, "Camera off");
  await alice.camera(call);
  assert.equal(alice.said.at(-1).text, "Camera on");
  server.refuse = ({ method }) => ({ INVITE: 488, INFO: 480 })[method] ?? null;
  call.media.hasCamera = false;
  await alice.camera(call);
  await alice.hold(call, true);
  call.media.key = () => false;
  await alice.key(call, "7");
  call.media.addCamera = async () => {
    throw new Error("none");
  };
  await alice.camera(call);
  assert.deepEqual(errors(alice), [
    "No video: bob does not support this kind of call",
    "Not put on hold: bob does not support this kind of call",
    "The key was not sent: bob cannot be reached right now",
    "No camera (none)",
  ]);
  call.media.dispatchEvent(new CustomEvent("told", { detail: { what: "no microphone", reason: "x" } }));
  call.media.dispatchEvent(new Event("change"));
  assert.match(alice.said.at(-1).text, /^No microphone/);
});

test("messages come in with a sound and a notification", async () => {
  const [, alice, bob] = await phones("alice", "bob");
  assert.equal(await alice.write("bob", "hello"), true);
  assert.deepEqual(bob.said, [{ text: "alice writes: hello", how: "quiet" }]);
  assert.deepEqual([bob.log[0].text, alice.log[0].direction, bob.attention.notes], ["hello", "out", ["alice"]]);
});

test("a transfer is asked of the user, who goes or stays", async () => {
  const [, alice, bob, carol] = await phones("alice", "bob", "carol");
  const call = await alice.dial("bob");
  await settle();
  await Promise.all([bob.answer(bob.calls[0]), settle()]);
  await alice.transfer(call, "carol");
  await settle();
  assert.deepEqual(bob.said.at(-1), { text: "alice wants to transfer you to carol", how: "alarm" });
  bob.stays(bob.referrals[0]);
  await settle();
  assert.deepEqual(errors(alice), ["The transfer failed. carol declined"]);
  await alice.transfer(call, "carol");
  await settle();
  bob.follows(bob.referrals[0]);
  await settle();
  await Promise.all([carol.answer(carol.calls[0]), settle()]);
  assert.deepEqual([alice.calls.length, bob.calls.length, bob.referrals.length], [0, 1, 0]);
  assert.equal(bob.current.user, "carol");
  const [left] = bob.calls;
  await left.hold(true);
  const { request } = carol.calls[0];
  carol.calls[0].request = (transaction) => (transaction.request.method === "REFER" ? transaction.respond(transaction.request.respond(405)) : request.call(carol.calls[0], transaction));
  await bob.transfer(left, "alice");
  assert.match(errors(bob).at(-1), /^The transfer failed/);
});

test("in an attended transfer, the last one changes over without doing anything", async () => {
  const [, alice, bob, carol] = await phones("alice", "bob", "carol");
  const first = await alice.dial("bob");
  await settle();
  await Promise.all([bob.answer(bob.calls[0]), settle()]);
  const second = await alice.dial("carol");
  await settle();
  await Promise.all([carol.answer(carol.calls[0]), settle()]);
  await alice.transfer(first, null, second);
  await settle();
  bob.follows(bob.referrals[0]);
  await settle();
  await settle();
  assert.deepEqual([alice.calls.length, bob.calls.length, carol.calls.length], [0, 1, 1]);
  assert.deepEqual([bob.current.user, carol.current.user], ["carol", "bob"]);
  assert.deepEqual(carol.log.map(({ why }) => why), ["replaced"]);
  assert.ok(carol.said.some(({ text }) => text === "You are now talking to bob"));
});
