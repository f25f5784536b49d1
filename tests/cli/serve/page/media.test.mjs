import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { Media } from "../../../../wsproto_sip/cli/serve/static/media.mjs";
import { heard, settle } from "./harness.mjs";

class Track {
  enabled = true;
  readyState = "live";

  constructor(kind) {
    this.kind = kind;
  }

  stop() {
    this.readyState = "ended";
  }
}

class Stream {
  constructor(...kinds) {
    this.tracks = kinds.map((kind) => new Track(kind));
  }

  getTracks() {
    return this.tracks;
  }

  getVideoTracks() {
    return this.tracks.filter(({ kind }) => kind === "video");
  }

  addTrack(track) {
    this.tracks.push(track);
  }

  removeTrack(track) {
    this.tracks = this.tracks.filter((other) => other !== track);
  }
}

class Peer {
  senders = [];
  transceivers = [];
  log = [];
  iceGatheringState = "complete";
  connectionState = "new";
  signalingState = "stable";

  addTrack(track) {
    const sender = { track, replaceTrack: async (other) => (sender.track = other) };
    if (track.kind === "audio") {
      sender.dtmf = { canInsertDTMF: true, toneBuffer: "1", insertDTMF: (...values) => this.log.push(values) };
    }
    this.senders.push(sender);
    this.transceivers.push({ sender, direction: "sendrecv" });
  }

  getSenders() {
    return this.senders;
  }

  getTransceivers() {
    return this.transceivers;
  }

  async createOffer(options) {
    return { type: "offer", sdp: JSON.stringify(options) };
  }

  async createAnswer() {
    if (this.broken) throw new Error("no codec");
    return { type: "answer", sdp: "answer" };
  }

  async setLocalDescription(description) {
    this.log.push(`local ${description.type}`);
    this.signalingState = description.type === "offer" ? "have-local-offer" : "stable";
    this.localDescription = description;
  }

  async setRemoteDescription(description) {
    this.log.push(`remote ${description.type}`);
    this.remoteDescription = description;
  }

  async getStats() {
    return new Map([[1, { type: "outbound-rtp", packetsSent: 3 }], [2, { type: "inbound-rtp", packetsReceived: 4 }], [3, { type: "other" }]]);
  }

  turn(state) {
    this.connectionState = state;
    this.onconnectionstatechange();
  }

  close() {
    this.connectionState = "closed";
  }
}

class Audio {
  createOscillator() {
    return { connect: (next) => next, start() {} };
  }

  createGain() {
    return { gain: {}, connect() {} };
  }

  createMediaStreamDestination() {
    return { stream: new Stream("audio") };
  }

  close() {
    this.closed = true;
  }
}

beforeEach(() => Object.assign(globalThis, { RTCPeerConnection: Peer, MediaStream: Stream, AudioContext: Audio }));
afterEach(() => {
  for (const name of ["RTCPeerConnection", "MediaStream", "AudioContext"]) delete globalThis[name];
});

const devices = () => ({
  opened: [],
  async open({ audio, video }) {
    const stream = new Stream(...(audio ? ["audio"] : []), ...(video ? ["video"] : []));
    this.opened.push(stream);
    return stream;
  },
});

function made(options, own = devices()) {
  const media = new Media(own, options);
  return { media, own, peer: media.connection, told: heard(media, "told") };
}

test("an offer has what microphone and camera give, opened once", async () => {
  const { media, own, peer } = made({ video: true });
  assert.equal(await media.offer({}), '{"iceRestart":false}');
  assert.equal(await media.offer({ restart: true }), '{"iceRestart":true}');
  assert.deepEqual(peer.senders.map(({ track }) => track.kind), ["audio", "video"]);
  assert.equal(own.opened.length, 1);
  assert.ok(media.hasCamera);
  await media.answered("sdp");
  assert.equal(media.remote, "sdp");
});

test("the description waits for the addresses", async () => {
  const { media, peer } = made();
  peer.iceGatheringState = "gathering";
  let done = false;
  const offer = media.offer({}).then(() => (done = true));
  await settle();
  peer.onicegatheringstatechange();
  await settle();
  assert.ok(!done);
  peer.iceGatheringState = "complete";
  peer.onicegatheringstatechange();
  await offer;
});

test("an answer that fails takes the offer back", async () => {
  const { media, peer } = made();
  assert.equal(await media.answer("offer"), "answer");
  peer.broken = true;
  await assert.rejects(media.answer("offer"), /no codec/);
  assert.equal(peer.log.at(-1), "remote rollback");
  await media.rollback();
  assert.ok(!peer.log.includes("local rollback"));
  await media.offer({});
  await media.rollback();
  assert.equal(peer.log.at(-1), "local rollback");
});

test("without a camera a microphone is used, and without both a tone", async () => {
  const own = devices();
  const { open } = own;
  own.open = async ({ audio, video }) => {
    if (video) throw new Error("busy");
    return open.call(own, { audio });
  };
  const seen = made({ video: true }, own);
  await seen.media.capture();
  assert.deepEqual(seen.told, [{ what: "no camera", reason: "busy" }]);
  for (const video of [true, false]) {
    const { media, told } = made({ video }, { open: async () => { throw new Error("none"); } });
    await media.capture();
    assert.deepEqual(told, [{ what: "no microphone", reason: "none" }]);
    const { tone } = media;
    media.close();
    assert.ok(tone.closed);
  }
});

test("a call that ends while they are being opened closes them", async () => {
  const { media, own } = made();
  const captured = media.capture();
  media.close();
  await assert.rejects(captured, /ended/);
  assert.equal(own.opened[0].tracks[0].readyState, "ended");
});

test("mute, camera off and hold: a track sends where nothing is against it", async () => {
  const { media, peer } = made({ video: true });
  await media.capture();
  const [audio, video] = media.local.getTracks();
  peer.transceivers.push({ sender: { track: null }, direction: "recvonly" }, { stopped: true, sender: {}, direction: "stopped" });
  const sends = () => [audio.enabled, video.enabled];
  media.mute(true);
  assert.deepEqual(sends(), [false, true]);
  media.hide(true);
  media.hold(true);
  media.mute(false);
  assert.deepEqual(sends(), [false, false]);
  assert.deepEqual(peer.transceivers.map(({ direction }) => direction), ["sendonly", "sendonly", "inactive", "stopped"]);
  media.hold(false);
  assert.deepEqual(sends(), [true, false]);
  assert.deepEqual(peer.transceivers.map(({ direction }) => direction), ["sendrecv", "sendrecv", "recvonly", "stopped"]);
});

test("another microphone in the middle of a call, and a camera for one without", async () => {
  const { media, peer } = made();
  await media.capture();
  media.mute(true);
  const [old] = media.local.getTracks();
  await media.change("audioinput");
  assert.equal(old.readyState, "ended");
  const [now] = media.local.getTracks();
  assert.equal(peer.senders[0].track, now);
  assert.equal(now.enabled, false);
  await media.change("videoinput");
  assert.ok(!media.hasCamera);
  await media.addCamera();
  assert.ok(media.hasCamera);
  const changed = media.change("videoinput");
  media.close();
  await changed;
  await media.addCamera();
  await media.change("audioinput");
  assert.ok(media.local.getTracks().every(({ readyState }) => readyState === "ended"));
});

test("a tone ends when there is a microphone after all", async () => {
  const own = devices();
  const { open } = own;
  own.open = async () => { throw new Error("none"); };
  const { media } = made({}, own);
  await media.capture();
  own.open = open;
  const { tone } = media;
  await media.change("audioinput");
  assert.ok(tone.closed);
});

test("keys wait for those before them, and are not sent where that is impossible", async () => {
  const { media, peer } = made();
  assert.equal(media.key("2"), false);
  await media.capture();
  assert.equal(media.key("2"), true);
  assert.deepEqual(peer.log.at(-1), ["12", 120, 70]);
  peer.senders[0].dtmf.canInsertDTMF = false;
  assert.equal(media.key("2"), false);
});

test("what the other side sends, and how the connection is", async () => {
  const { media, peer } = made();
  const states = [];
  media.follow({ mediaChanged: (state) => states.push(state) });
  assert.ok(!media.seesRemote && !media.alive);
  const [sound, picture] = [new Track("audio"), new Track("video")];
  peer.ontrack({ track: sound, streams: [] });
  peer.ontrack({ track: picture, streams: [media.stream] });
  peer.ontrack({ track: picture, streams: [media.stream] });
  assert.equal(media.stream.getTracks().length, 2);
  assert.ok(media.seesRemote);
  for (const state of ["connecting", "connected", "disconnected"]) peer.turn(state);
  assert.ok(media.alive);
  peer.turn("failed");
  assert.ok(!media.alive);
  assert.deepEqual(states, ["connected", "disconnected", "failed"]);
  assert.deepEqual(await media.count(), { sent: 3, received: 4 });
  assert.equal(media.remote, "");
});
