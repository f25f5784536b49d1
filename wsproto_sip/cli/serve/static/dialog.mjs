// Dialogs (RFC 3261 §12): their two sides, the target of requests, and their numbers.

import { address, token } from "./message.mjs";

export class Dialog {
  constructor(values) {
    // `number` counts the requests of this side, `remoteNumber` those of the other one.
    Object.assign(this, { number: 0, remoteNumber: -1, replaces: false }, values);
    this.localTag = address(this.local).tag;
    this.remoteTag = address(this.remote).tag;
  }

  /* Of the calling side, made by a 2xx (§12.1.2). */
  static ofCaller(request, response, number) {
    return new Dialog({
      callId: request.callId,
      local: request.from,
      remote: response.get("to"),
      target: address(response.get("contact") || response.get("to")).uri,
      routes: response.list("record-route").reverse(),
      number,
      replaces: response.lists("supported", "replaces"),
    });
  }

  /* Of the called side, made by an INVITE (§12.1.1). */
  static ofCallee(request) {
    return new Dialog({
      callId: request.get("call-id"),
      local: `${request.get("to")};tag=${token()}`,
      remote: request.get("from"),
      target: address(request.get("contact") || request.get("from")).uri,
      routes: request.list("record-route"),
      remoteNumber: request.sequence.number,
      replaces: request.lists("supported", "replaces"),
    });
  }

  /* Whether a request of the other side is within this dialog. */
  matches(request) {
    return this.is(request.get("call-id"), address(request.get("to")).tag, address(request.get("from")).tag);
  }

  /* Whether these are its names, as the other side would write them (RFC 3891 §3). */
  is(callId, toTag, fromTag) {
    // A peer of RFC 2543 has no tag.
    const remote = this.remoteTag === null ? [null, undefined, "0"] : [this.remoteTag];
    return this.callId === callId && this.localTag === toTag && remote.includes(fromTag);
  }

  /* The value of a Replaces header field that names this dialog. */
  get replacement() {
    return `${this.callId};to-tag=${this.remoteTag ?? "0"};from-tag=${this.localTag}`;
  }

  /* The header fields that every request within it needs. */
  fields(values = {}) {
    return {
      to: this.remote,
      from: this.local,
      callId: this.callId,
      routes: this.routes,
      next: () => ++this.number,
      ...values,
    };
  }

  /* Takes a request's number; false for one that comes too late (§12.2.2). */
  takes({ number }) {
    if (number < this.remoteNumber) return false;
    this.remoteNumber = number;
    return true;
  }

  /* A target refresh (§12.2). */
  refresh(message) {
    const contact = message.get("contact");
    if (contact) this.target = address(contact).uri;
  }
}
