// A call (RFC 3261 §13 to §15): from the INVITE to the BYE, with hold, transfer (RFC 3515, RFC 3891,
// RFC 5589), and what is done when the server is lost in between.
//
// The media are an object that the page makes. A call asks it for
//
//   offer({restart}), answer(sdp)   promises of a description, once there are microphone and camera
//   answered(sdp)                   the other side's answer
//   rollback()                      the offer has come to nothing
//   hold(yes), close()
//   remote                          the latest description of the other side
//   alive                           whether they connect, or did until now
//
// and is told with mediaChanged() when their connection fails or comes back.

import { pause } from "./clock.mjs";
import { Dialog } from "./dialog.mjs";
import { address, shown, token, uriHeaders, withoutParameters } from "./message.mjs";
import { ALLOW, SUPPORTED } from "./names.mjs";
import { hasVideo, isHold, isSameSession } from "./sdp.mjs";
import { Failure, T1, T2, TIMEOUT } from "./transactions.mjs";

// RFC 3261 §13.3.1.1: an INVITE that rings is answered again each minute, or proxies give it up.
const STILL_RINGING = 60000;
// How long media may be dead until the call is.
const GRACE = 20000;
// How long the other side may take to report the result of a transfer.
const TRANSFER_TIMEOUT = 180000;
const [FIRST_RECOVERY, LAST_RECOVERY, CALLEE_WAITS] = [1000, 30000, 4000];
// Refusals that mean the way is gone, and not the other side.
const NO_WAY = [403, 404, 408, 430, 480, 503];

/*
 * `state` is "calling", "ringing", "incoming", "answering", "active" or "ended". Events:
 *   "change"    anything that is to be seen
 *   "told"      {what, ...}: something to tell the user, see words.mjs
 *   "referred"  a Referral: the other side asks us to call somebody else
 * When it has ended, `ending` is {why, status?, reason?}; `why` is "hung up", "remote", "cancelled",
 * "declined", "missed", "elsewhere", "refused", "lost", "failed", "transferred" or "replaced".
 */
export class Call extends EventTarget {
  constructor(agent, { uri, media = null, replaced = null }) {
    super();
    Object.assign(this, { agent, uri, media, replaced });
    this.user = shown(uri, agent.domain);
    this.clock = agent.clock;
    this.state = "calling";
    this.direction = "out";
    this.began = this.clock.now();
    this.answeredAt = null;
    this.endedAt = null;
    this.ending = null;
    this.held = false;
    this.remoteHeld = false;
    // The server is lost, or has forgotten the way to the other side.
    this.adrift = false;
    this.dialog = null;
    this.callId = token();
    // What an INVITE of ours waits for, and the ACK that a 2xx of ours waits for.
    this.invitation = null;
    this.unacknowledged = null;
    this.acks = new Map();
    this.transfer = null;
    this.turn = Promise.resolve();
    this.turns = 0;
    this.timers = new Set();
    this.offered = "";
  }

  // -- small things ----------------------------------------------------------------------------

  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  set(state) {
    this.state = state;
    if (state === "active" && this.answeredAt === null) this.answeredAt = this.clock.now();
    this.emit("change");
  }

  tell(what, values = {}) {
    this.emit("told", { what, ...values });
  }

  after(milliseconds, action) {
    const stop = this.clock.after(milliseconds, () => {
      this.timers.delete(stop);
      action();
    });
    this.timers.add(stop);
    return stop;
  }

  quiet() {
    for (const stop of this.timers) stop();
    this.timers.clear();
  }

  end(why, { status, reason } = {}) {
    if (this.state === "ended") return;
    this.quiet();
    this.ending = { why, status, reason };
    this.endedAt = this.clock.now();
    if (this.media) this.media.close();
    this.agent.remove(this);
    this.set("ended");
  }

  get offersVideo() {
    return hasVideo(this.offered);
  }

  get ended() {
    return this.state === "ended";
  }

  // One offer and answer at a time (RFC 3264 §4): what is to be negotiated waits for its turn.
  exclusive(action) {
    this.turns++;
    const done = this.turn.then(action).finally(() => this.turns--);
    this.turn = done.catch(() => {});
    return done;
  }

  get ownFields() {
    return [["Contact", this.agent.contact], ["Allow", ALLOW], ["Supported", SUPPORTED]];
  }

  get sdpFields() {
    return [...this.ownFields, ["Content-Type", "application/sdp"]];
  }

  /* Sends a request within the call. Resolves with its final response. */
  within(method, { dialog = this.dialog, ...values } = {}, hooks = {}) {
    return this.agent.ask(method, dialog.target, dialog.fields(values), hooks);
  }

  // -- as the calling side ---------------------------------------------------------------------

  async invite(headers) {
    this.emit("change");
    try {
      const offer = await this.media.offer({});
      if (this.ended) return;
      const { dialog, response } = await this.initial(this.uri, offer, headers, {
        callId: this.callId,
        wanted: () => !this.ended,
        provisional: ({ status }) => {
          if (status > 100 && this.state === "calling") this.set("ringing");
        },
      });
      if (response.status >= 300) {
        this.end("refused", response);
        return;
      }
      if (this.ended) {
        this.bye(dialog);
        return;
      }
      this.dialog = dialog;
      await this.media.answered(response.body);
      if (!this.ended) this.set("active");
    } catch (failure) {
      if (this.dialog) this.hangUp({ why: "failed", reason: failure.message });
      else this.end(failure.status === 503 ? "lost" : "failed", { status: failure.status, reason: failure.message });
    }
  }

  /* An INVITE outside of a dialog: its final response, and the dialog that a 2xx has made. */
  async initial(uri, offer, headers, { callId = token(), ...hooks }) {
    const request = { to: `<${uri}>`, from: `<${this.agent.aor}>;tag=${token()}`, callId };
    let number = 0;
    const response = await this.agent.ask(
      "INVITE",
      uri,
      { ...request, next: () => ++number, headers: [...this.sdpFields, ...headers], body: offer },
      {
        ...hooks,
        begun: (invitation) => (this.invitation = invitation),
        repeated: (again) => this.repeated(again),
      },
    );
    const sent = this.invitation.request;
    this.invitation = null;
    if (response.status >= 300) return { response };
    const dialog = Dialog.ofCaller(request, response, number);
    this.acknowledge(dialog, sent);
    // What else answers has a dialog of its own, and one is enough (§13.2.2.4).
    this.acks.get(dialog.remoteTag).superfluous = (again) => {
      const other = Dialog.ofCaller(request, again, number);
      this.acknowledge(other, sent);
      this.bye(other);
    };
    return { response, dialog };
  }

  // §13.2.2.4, §22.1: with the number and the credentials of the INVITE.
  acknowledge(dialog, invite) {
    const { number } = invite.sequence;
    const headers = invite.headers.filter(([name]) => /^(?:proxy-)?authorization$/i.test(name));
    const ack = this.agent.make("ACK", dialog.target, { ...dialog.fields(), number, headers });
    this.acks.set(dialog.remoteTag, { ack, number });
    this.agent.connection.send(ack);
  }

  repeated(response) {
    const known = this.acks.get(address(response.get("to")).tag);
    if (known && known.number === response.sequence.number) this.agent.connection.send(known.ack);
    else [...this.acks.values()].find(({ superfluous }) => superfluous)?.superfluous(response);
  }

  // -- as the called side ----------------------------------------------------------------------

  incoming(transaction) {
    const { request } = transaction;
    this.direction = "in";
    this.transaction = transaction;
    this.callId = request.get("call-id");
    this.offered = request.body;
    this.dialog = Dialog.ofCallee(request);
    transaction.cancelled = (taken) => {
      this.refuse(487);
      this.end(/cause\s*=\s*200/i.test(taken.get("reason") || "") ? "elsewhere" : "missed");
    };
    const ring = () => {
      transaction.respond(this.response(transaction, 180, { headers: this.ownFields }));
      this.after(STILL_RINGING, ring);
    };
    ring();
    const expires = Number(request.get("expires"));
    if (expires) this.after(expires * 1000, () => transaction.cancelled(request));
    this.set("incoming");
  }

  response(transaction, status, options = {}) {
    return transaction.request.respond(status, { tag: this.dialog.localTag, ...options });
  }

  refuse(status) {
    this.transaction.respond(this.response(this.transaction, status));
  }

  /* Answers it, with these media. */
  async accept(media) {
    if (this.state !== "incoming") return;
    this.media = media;
    this.set("answering");
    await this.exclusive(async () => {
      try {
        const body = await (this.offered ? media.answer(this.offered) : media.offer({}));
        if (this.ended) return;
        this.quiet();
        this.remoteHeld = Boolean(this.offered) && isHold(this.offered);
        const acknowledged = this.succeed(this.transaction, body, !this.offered);
        this.set("active");
        await acknowledged;
      } catch (failure) {
        if (this.ended) return;
        if (this.state === "answering") {
          this.refuse(488);
          this.end("failed", { reason: failure.message });
        } else this.hangUp({ why: "failed", reason: failure.message });
      }
    });
  }

  /*
   * A 2xx, again and again until its ACK comes (§13.3.1.4). Resolves then. `offer` says that the
   * body is one, whose answer comes in the ACK.
   */
  succeed(transaction, body, offer = false) {
    const { agent } = this;
    const response = this.response(transaction, 200, { headers: this.sdpFields, body });
    transaction.respond(response);
    return new Promise((resolve, reject) => {
      let [delay, waited] = [T1, 0];
      const waiting = { number: transaction.request.sequence.number, offer, stop: () => {} };
      const done = (settle, value) => {
        waiting.stop();
        this.unacknowledged = null;
        settle(value);
        if (agent.leaving.delete(this)) this.bye();
      };
      waiting.resolve = () => done(resolve);
      waiting.reject = (failure) => done(reject, failure);
      const again = () => {
        waited += delay;
        if (waited >= TIMEOUT) {
          waiting.reject(new Failure(408, "no ACK"));
          return;
        }
        agent.connection.send(response);
        delay = Math.min(delay * 2, T2);
        waiting.stop = this.clock.after(Math.min(delay, TIMEOUT - waited), again);
      };
      waiting.stop = this.clock.after(delay, again);
      this.unacknowledged = waiting;
    });
  }

  /* An ACK has come. */
  async acknowledged(ack) {
    const waiting = this.unacknowledged;
    if (!waiting || waiting.number !== ack.sequence.number) return;
    if (!waiting.offer || this.ended) {
      waiting.resolve();
      return;
    }
    waiting.stop();
    try {
      await this.media.answered(ack.body);
      this.remoteHeld = isHold(ack.body);
      this.emit("change");
      waiting.resolve();
    } catch (failure) {
      waiting.reject(failure);
    }
  }

  // -- requests of the other side --------------------------------------------------------------

  request(transaction) {
    const { request } = transaction;
    const answer = (status, headers = []) => transaction.respond(this.response(transaction, status, { headers }));
    if (!this.dialog.takes(request.sequence)) {
      answer(500);
      return;
    }
    const does = {
      BYE: () => this.leftBy(answer),
      INVITE: () => this.invitedAgain(transaction, answer),
      INFO: () => this.informed(request, answer),
      MESSAGE: () => this.agent.took(transaction),
      NOTIFY: () => this.notified(request, answer),
      OPTIONS: () => answer(200, this.ownFields),
      REFER: () => this.referred(request, answer),
    };
    if (does[request.method]) does[request.method]();
    else answer(481);
  }

  leftBy(answer) {
    answer(200);
    this.agent.leaving.delete(this);
    if (this.ended) return;
    // The target of a transfer ends its call with us when the other one has begun.
    if (this.state === "active") this.end(this.consulted?.transfer ? "transferred" : "remote");
    else {
      this.refuse(487);
      this.end("missed");
    }
  }

  async invitedAgain(transaction, answer) {
    const { request } = transaction;
    if (this.state !== "active") answer(this.ended ? 481 : 491);
    // §14.2: it may have crossed one of ours, or come too early.
    else if (this.invitation) answer(491);
    else if (this.unacknowledged) answer(500, [["Retry-After", String(Math.floor(Math.random() * 10))]]);
    else if (this.turns) answer(491);
    else {
      this.dialog.refresh(request);
      await this.exclusive(() => this.answerOffer(transaction)).catch((failure) => {
        if (transaction.answered) this.hangUp({ why: "failed", reason: failure.message });
        else answer(488);
      });
    }
  }

  async answerOffer(transaction) {
    const { body } = transaction.request;
    const own = body ? await this.media.answer(body) : await this.media.offer({});
    if (this.ended) {
      transaction.respond(this.response(transaction, 487));
      return;
    }
    const acknowledged = this.succeed(transaction, own, !body);
    this.adrift = false;
    if (body) this.remoteHeld = isHold(body);
    this.emit("change");
    await acknowledged;
  }

  informed(request, answer) {
    const known = ["application/dtmf-relay", "application/dtmf"].includes(request.type);
    if (request.body && !known) {
      answer(415, [["Accept", "application/dtmf-relay, application/dtmf"]]);
      return;
    }
    answer(200);
    const [, key] = /^(?:\s*Signal\s*=)?\s*([0-9*#A-D])\s*$/im.exec(request.body) || [];
    if (key) this.tell("key", { key });
  }

  // -- hold ------------------------------------------------------------------------------------

  /* Puts the other side on hold, or takes it back. */
  async hold(on) {
    if (this.state !== "active" || this.held === on) return;
    this.held = on;
    this.media.hold(on);
    this.emit("change");
    // Without a server the other side hears nothing at least; it is told when there is one again.
    if (this.adrift) return;
    try {
      await this.renegotiate();
    } catch (failure) {
      if (this.ended || this.held !== on || failure.status === 503) return;
      this.held = !on;
      this.media.hold(!on);
      this.emit("change");
      throw failure;
    }
  }

  /* A re-INVITE (§14.1). Rejects with a Failure. */
  async renegotiate(options = {}) {
    for (;;) {
      const response = await this.exclusive(() => (this.ended ? null : this.offerAgain(options)));
      if (response === null || response.status < 300) return;
      if (response.status !== 491) {
        if (response.status === 481) this.end("remote");
        throw new Failure(response.status, response.reason);
      }
      // Both have asked at once; whose Call-ID it is waits longer.
      const units = Math.floor(Math.random() * 200);
      await pause(this.clock, (this.direction === "out" ? 2100 : 0) + units * 10);
    }
  }

  async offerAgain({ restart = false }) {
    const offer = await this.media.offer({ restart });
    let sent = null;
    try {
      const response = await this.within(
        "INVITE",
        { headers: this.sdpFields, body: offer },
        {
          begun: (invitation) => {
            this.invitation = invitation;
            sent = invitation.request;
          },
          repeated: (again) => this.repeated(again),
        },
      );
      this.invitation = null;
      if (response.status < 300) {
        this.dialog.refresh(response);
        this.acknowledge(this.dialog, sent);
        await this.media.answered(response.body);
      } else await this.media.rollback();
      return response;
    } catch (failure) {
      this.invitation = null;
      if (!this.ended) await this.media.rollback();
      throw failure;
    }
  }

  // -- keys ------------------------------------------------------------------------------------

  /* A key as a SIP INFO, for media that have no telephone-event (RFC 4733). */
  async inform(key) {
    const headers = [["Content-Type", "application/dtmf-relay"]];
    const body = `Signal=${key}\r\nDuration=160\r\n`;
    const response = await this.within("INFO", { headers, body });
    if (response.status >= 300) throw new Failure(response.status, response.reason);
  }

  // -- transfer, as the transferor -------------------------------------------------------------

  /*
   * Asks the other side to call somebody, or to take the place of ours in another call. Resolves
   * when it has said that it will; what becomes of it is told.
   */
  async refer(who, other = null) {
    const { aor } = this.agent;
    let to = `<${withoutParameters(who)}>`;
    if (other) {
      const { target, replacement } = other.dialog;
      const uri = /[;]gr(?:[=;]|$)/.test(target) ? target : withoutParameters(address(other.dialog.remote).uri);
      to = `<${uri}?Replaces=${encodeURIComponent(replacement)}>`;
    }
    this.transfer = { who: shown(who, this.agent.domain), other };
    if (other) other.consulted = this;
    this.emit("change");
    try {
      await this.hold(true);
      const headers = [["Refer-To", to], ["Referred-By", `<${aor}>`], ...this.ownFields];
      const response = await this.within("REFER", { headers });
      if (response.status >= 300) throw new Failure(response.status, response.reason);
    } catch (failure) {
      this.transfer = null;
      if (!this.ended) this.emit("change");
      throw failure;
    }
    this.transfer.stop = this.after(TRANSFER_TIMEOUT, () => this.transferFailed(408, "no answer"));
  }

  // RFC 3515 §2.4.4: what becomes of the other side's call.
  notified(request, answer) {
    const { transfer } = this;
    if (!transfer || !/^refer\b/i.test(request.get("event") || "")) {
      answer(481);
      return;
    }
    answer(200);
    const [, status, reason] = /^SIP\/2\.0 (\d{3}) ?(.*)/.exec(request.body) || [];
    if (status >= 300) this.transferFailed(Number(status), reason);
    else if (status >= 200) {
      this.tell("transferred", { who: transfer.who });
      transfer.other?.hangUp({ why: "transferred" });
      this.hangUp({ why: "transferred" });
    } else if (/^terminated/i.test(request.get("subscription-state") || "")) this.transferFailed(0, "");
    else if (status > 100) this.tell("transfer rings", { who: transfer.who });
  }

  transferFailed(status, reason) {
    const { who, stop = () => {} } = this.transfer;
    stop();
    this.transfer = null;
    this.tell("transfer failed", { who, status, reason });
    this.emit("change");
  }

  // -- transfer, as the transferee -------------------------------------------------------------

  referred(request, answer) {
    const values = request.list("refer-to");
    const { uri } = address(values[0] || "");
    if (this.state !== "active" || values.length !== 1 || !/^sips?:[^@]+@/i.test(uri)) {
      answer(400);
      return;
    }
    answer(202, this.ownFields);
    const referral = new Referral(this, uri, request);
    referral.notify(100, "Trying");
    this.emit("referred", referral);
  }

  // -- the server is lost, and comes back ------------------------------------------------------

  connectionLost() {
    if (this.unacknowledged) this.unacknowledged.resolve();
    if (this.ended) return;
    if (this.state === "active" && this.media.alive) {
      this.adrift = true;
      this.emit("change");
    } else this.end("lost");
  }

  connectionBack() {
    if (!this.adrift) return;
    // Both may have lost it. The caller goes first.
    this.after(this.direction === "out" ? 0 : CALLEE_WAITS, () => this.recover(FIRST_RECOVERY));
  }

  /*
   * Finds the way to the other side again: a re-INVITE tells it where we are now. If the route of
   * the call has gone with the server, a new dialog takes the place of the old one (RFC 3891), for
   * the same media.
   */
  async recover(delay) {
    if (!this.adrift || !this.agent.registered) return;
    const restart = this.failing !== undefined;
    try {
      await this.renegotiate({ restart }).catch(async (failure) => {
        if (!NO_WAY.includes(failure.status) || !this.dialog.replaces || this.ended) throw failure;
        if (this.adrift) await this.exclusive(() => this.replaceDialog());
      });
      this.adrift = false;
      this.emit("change");
    } catch {
      if (!this.ended) this.after(delay, () => this.recover(Math.min(delay * 2, LAST_RECOVERY)));
    }
  }

  async replaceDialog() {
    const { target, remote, replacement } = this.dialog;
    const uri = /;gr(?:[=;]|$)/.test(target) ? target : withoutParameters(address(remote).uri);
    const offer = await this.media.offer({ restart: true });
    this.replacing = true;
    try {
      const headers = [["Replaces", replacement], ["Require", "replaces"]];
      const { response, dialog } = await this.initial(uri, offer, headers, { wanted: () => !this.ended });
      if (response.status >= 300) throw new Failure(response.status, response.reason);
      if (this.ended) {
        this.bye(dialog);
        return;
      }
      this.dialog = dialog;
      await this.media.answered(response.body);
    } catch (failure) {
      if (!this.ended) await this.media.rollback();
      throw failure;
    } finally {
      this.replacing = false;
    }
  }

  /* Whether an INVITE with a Replaces of this call is the other side's way back to it. */
  resumes(request) {
    return isSameSession(request.body, this.media.remote);
  }

  async takeOver(transaction) {
    if (this.replacing && this.direction === "out") {
      transaction.respond(transaction.request.respond(491));
      return;
    }
    await this.exclusive(async () => {
      const old = this.dialog;
      this.dialog = Dialog.ofCallee(transaction.request);
      try {
        await this.answerOffer(transaction);
      } catch (failure) {
        if (transaction.answered) throw failure;
        transaction.respond(this.response(transaction, 488));
        this.dialog = old;
      }
    }).catch((failure) => this.hangUp({ why: "failed", reason: failure.message }));
  }

  /* The media tell how their connection is: "connected", "disconnected" or "failed". */
  mediaChanged(state) {
    if (this.ended) return;
    if (state === "connected") {
      this.failing?.();
      this.failing = undefined;
    } else if (state === "failed" && this.failing === undefined) {
      this.failing = this.after(GRACE, () => this.hangUp({ why: "lost" }));
      // Other addresses may work.
      if (!this.adrift && this.state === "active") this.renegotiate({ restart: true }).catch(() => {});
    }
    this.emit("change");
  }

  // -- the end ---------------------------------------------------------------------------------

  /* Ends the call, whatever its state. `status` is for one that is declined. */
  hangUp({ why = "hung up", status = 603, reason } = {}) {
    if (this.ended) return;
    if (this.state === "incoming" || this.state === "answering") {
      this.refuse(status);
      this.end("declined");
    } else if (this.dialog) {
      // §15: not before the ACK has come.
      if (this.unacknowledged) this.agent.leaving.add(this);
      else this.bye();
      this.end(why, { reason });
    } else {
      this.invitation?.cancel();
      this.end("cancelled");
    }
  }

  bye(dialog = this.dialog) {
    this.within("BYE", { dialog }).catch((failure) => {
      if (failure.status === 503) this.agent.owes(dialog);
    });
  }
}

/* A request of the other side (REFER) that we call another user. */
export class Referral {
  constructor(call, uri, request) {
    this.call = call;
    this.id = request.sequence.number;
    this.uri = withoutParameters(uri);
    this.user = shown(this.uri, call.agent.domain);
    this.target = uri.replace(/\?.*$/s, "");
    const { replaces } = uriHeaders(uri);
    const by = request.get("referred-by");
    this.headers = [];
    // What cannot stand in one line is not a header field.
    for (const [name, value] of [["Replaces", replaces], ["Referred-By", by]]) {
      if (value && !/[\r\n]/.test(value)) this.headers.push([name, value]);
    }
    this.over = false;
  }

  /* Makes the requested call, and reports its progress to the other side. */
  accept(media) {
    const call = this.call.agent.call(this.target, media, { headers: this.headers });
    call.addEventListener("change", () => {
      if (call.state === "ringing") this.notify(180, "Ringing");
      else if (call.state === "active") this.notify(200, "OK");
      else if (call.ended) this.notify(call.ending.status || 487, call.ending.reason || "Request Terminated");
    });
    return call;
  }

  decline() {
    this.notify(603, "Decline");
  }

  notify(status, reason) {
    if (this.over || this.call.ended) return;
    this.over = status >= 200;
    const state = this.over ? "terminated;reason=noresource" : "active;expires=180";
    const headers = [
      ["Event", `refer;id=${this.id}`],
      ["Subscription-State", state],
      ["Content-Type", "message/sipfrag;version=2.0"],
      ...this.call.ownFields,
    ];
    this.call.within("NOTIFY", { headers, body: `SIP/2.0 ${status} ${reason}\r\n` }).catch(() => {});
  }
}
