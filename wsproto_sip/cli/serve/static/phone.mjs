// The telephone without its appearance: several calls of which one is current, sounds, history, and
// messages to the user.

import { clock as realClock } from "./clock.mjs";
import { shown } from "./message.mjs";
import { ending, failure, progress, told } from "./words.mjs";

/*
 * What sounds, of the patterns in tones.mjs: a call that comes in rings, or knocks if somebody is
 * being spoken to; one that goes out has its ringback.
 */
export function soundOf(calls) {
  const speaking = calls.some(({ state, held }) => (state === "active" && !held) || state === "answering");
  const outgoing = calls.some(({ state }) => state === "calling" || state === "ringing");
  if (calls.some(({ state }) => state === "incoming")) return speaking || outgoing ? "waiting" : "ring";
  return calls.some(({ state }) => state === "ringing") && !speaking ? "ringback" : null;
}

/*
 * Events: "change"; "said" {text, how}; "entry" when the history has a new one. What is said is read out
 * politely ("quiet"), or at once ("alarm"); "notice" and "error" are the same and shown too.
 */
export class Phone extends EventTarget {
  /* `makeMedia({video})` gives a call its media; the others are of the modules of their names. */
  constructor({ agent, makeMedia, tones, attention, history, clock = realClock }) {
    super();
    Object.assign(this, { agent, makeMedia, tones, attention, history, clock });
    this.current = null;
    this.referrals = [];
    agent.addEventListener("call", ({ detail: call }) => this.came(call));
    agent.addEventListener("message", ({ detail }) => this.wrote(detail));
    agent.addEventListener("state", () => this.changed());
  }

  get calls() {
    return this.agent.calls;
  }

  changed() {
    const { calls, attention } = this;
    if (!calls.includes(this.current)) {
      const speaking = calls.find(({ state, held }) => state !== "incoming" && !held);
      this.current = speaking || calls.find(({ state }) => state !== "incoming") || null;
    }
    this.tones.play(this.sound());
    const caller = calls.find(({ state }) => state === "incoming");
    if (caller) attention.title(`${caller.user} is calling`, true);
    else attention.title(this.current ? `${this.current.user}: ${progress(this.current)}` : null);
    this.dispatchEvent(new CustomEvent("change"));
  }

  // A tone of its own length is not cut off by silence.
  sound() {
    const wanted = soundOf(this.calls);
    return wanted || !["busy", "ended", "message"].includes(this.tones.playing) ? wanted : this.tones.playing;
  }

  say(text, how = "quiet") {
    this.dispatchEvent(new CustomEvent("said", { detail: { text, how } }));
  }

  remember(entry) {
    const kept = this.history.add(entry);
    this.dispatchEvent(new CustomEvent("entry", { detail: kept }));
  }

  // -- calls -----------------------------------------------------------------------------------

  follow(call, media) {
    media.follow(call);
    media.addEventListener("change", () => this.changed());
    media.addEventListener("told", ({ detail }) => this.say(told(detail, call.user), "notice"));
  }

  listen(call) {
    let last = "";
    call.addEventListener("told", ({ detail }) => {
      this.say(told(detail, call.user), detail.what === "transfer failed" ? "error" : "notice");
    });
    call.addEventListener("referred", ({ detail: referral }) => {
      this.referrals.push(referral);
      this.say(`${call.user} wants to transfer you to ${referral.user}`, "alarm");
      this.changed();
    });
    call.addEventListener("change", () => {
      if (call.ended) this.finished(call);
      else if (progress(call) !== last) {
        last = progress(call);
        // Incoming calls are announced on their own.
        if (call.state !== "incoming") this.say(`${call.user}: ${last}`);
      }
      this.changed();
    });
  }

  finished(call) {
    const { why, status, reason } = call.ending;
    this.attention.forget(call.callId);
    this.referrals = this.referrals.filter((referral) => referral.call !== call);
    const seconds = call.answeredAt === null ? null : (call.endedAt - call.answeredAt) / 1000;
    this.tones.play(soundOf(this.calls));
    if (why === "refused" || why === "failed") this.tones.once("busy");
    else if (seconds !== null) this.tones.once("ended");
    const { direction, user: peer, began: at } = call;
    this.remember({ kind: "call", direction, peer, at, seconds, why, status, reason });
    this.say(ending(call.ending, peer), ["refused", "failed", "lost"].includes(why) ? "error" : "quiet");
    if (why === "missed") this.attention.notify(call.callId, `Missed call from ${peer}`, "");
  }

  came(call) {
    this.listen(call);
    if (call.replaced) {
      // It replaces an answered call (RFC 3891), so it is answered automatically.
      const { replaced } = call;
      this.answer(call).then(() => replaced.hangUp({ why: "replaced" }));
      this.say(`You are now talking to ${call.user}`, "notice");
      return;
    }
    this.say(`${call.user} is calling`, "alarm");
    this.attention.notify(call.callId, `${call.user} is calling`, "Open the page to answer", { stays: true });
    this.changed();
  }

  // One conversation at a time: the others wait.
  async park(but) {
    const talking = this.calls.filter((call) => call !== but && call.state === "active" && !call.held);
    await Promise.all(talking.map((call) => this.hold(call, true)));
  }

  async dial(who, { video = false } = {}) {
    this.park(null);
    const media = this.makeMedia({ video });
    const call = this.agent.call(who, media);
    this.listen(call);
    this.follow(call, media);
    this.current = call;
    this.changed();
    return call;
  }

  async answer(call, { video = call.offersVideo } = {}) {
    this.park(call.replaced || call);
    const media = this.makeMedia({ video: video && call.offersVideo });
    this.follow(call, media);
    this.attention.forget(call.callId);
    this.current = call;
    await call.accept(media);
  }

  async hold(call, on) {
    try {
      await call.hold(on);
    } catch ({ status, message }) {
      this.say(`${on ? "Not put on hold" : "Still on hold"}: ${failure(status, message, call.user)}`, "error");
    }
  }

  /* Speaks in this call, and lets the others wait. */
  async select(call) {
    this.current = call;
    this.changed();
    await this.park(call);
    if (call.held) await this.hold(call, false);
  }

  mute(call, yes) {
    call.media.mute(yes);
    this.say(yes ? `Muted: ${call.user} cannot hear you` : `${call.user} can hear you`);
  }

  /* Shows the camera or hides it; a call without one gets one. */
  async camera(call) {
    const { media } = call;
    if (media.hasCamera) {
      media.hide(!media.unseen);
      this.say(media.unseen ? "Camera off" : "Camera on");
      return;
    }
    try {
      await media.addCamera();
    } catch ({ message }) {
      this.say(`No camera (${message})`, "error");
      return;
    }
    await call.renegotiate().then(
      () => this.say("Camera on"),
      ({ status, message }) => this.say(`No video: ${failure(status, message, call.user)}`, "error"),
    );
  }

  async key(call, key) {
    this.tones.key(key);
    if (call.media.key(key)) return;
    await call.inform(key).catch(({ status, message }) => {
      this.say(`The key was not sent: ${failure(status, message, call.user)}`, "error");
    });
  }

  /* Asks the other side to call another user: by name, or the other side of another call. */
  async transfer(call, who, other = null) {
    try {
      await call.refer(other ? other.uri : this.agent.toUri(who), other);
    } catch ({ status, message }) {
      this.say(`The transfer failed. ${failure(status, message, call.user)}`, "error");
    }
  }

  follows(referral) {
    this.referrals = this.referrals.filter((other) => other !== referral);
    this.park(null);
    const media = this.makeMedia({ video: false });
    const call = referral.accept(media);
    this.listen(call);
    this.follow(call, media);
    this.current = call;
    this.changed();
    return call;
  }

  stays(referral) {
    this.referrals = this.referrals.filter((other) => other !== referral);
    referral.decline();
    this.changed();
  }

  // -- messages --------------------------------------------------------------------------------

  wrote({ uri, text }) {
    const peer = shown(uri, this.agent.domain);
    this.remember({ kind: "message", direction: "in", peer, at: this.clock.now(), text });
    this.say(`${peer} writes: ${text}`);
    this.tones.once("message");
    this.attention.notify(`message of ${peer}`, peer, text.slice(0, 200));
  }

  /* Sends a text message; resolves to whether it was delivered. */
  async write(peer, text) {
    const entry = { kind: "message", direction: "out", peer, at: this.clock.now(), text };
    try {
      await this.agent.message(peer, text);
      this.remember(entry);
      return true;
    } catch ({ status, message }) {
      const failed = failure(status, message, peer);
      this.remember({ ...entry, failed });
      this.say(`Not delivered: ${failed}`, "error");
      return false;
    }
  }
}
