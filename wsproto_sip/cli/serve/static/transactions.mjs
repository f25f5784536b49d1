// Transactions (RFC 3261 §17, RFC 6026), over a transport that loses nothing.
//
// A WebSocket is such a transport, so the timers that send a message again (A, E, G) are not started
// and those that wait for such copies (D, I, J, K) are zero. These are left, each of 64*T1:
//
//   B  no response at all to an INVITE          F  no final response to another request
//   H  no ACK to the refusal of an INVITE       L, M  how long an accepted INVITE is remembered
//
// A 2xx is sent again until its ACK comes even here (§13.3.1.4), since a hop further on may lose it.

import { Message, address } from "./message.mjs";

export const T1 = 500;
export const T2 = 4000;
export const TIMEOUT = 64 * T1;

/* A failed request. `status` is the equivalent of the failure (RFC 3261 §8.1.3.1). */
export class Failure extends Error {
  constructor(status, reason) {
    super(reason);
    this.status = status;
  }
}

export class Transactions {
  /*
   * `send` gets messages; `clock` is time; `received` gets each new request as a ServerTransaction;
   * `acknowledged` gets each ACK to a 2xx, which belongs to no transaction.
   */
  constructor({ send, clock, received, acknowledged }) {
    Object.assign(this, { send, clock, received, acknowledged });
    this.clients = new Map();
    this.servers = new Map();
  }

  /* The ways in: messages from the transport, and its end. */

  receive(message) {
    if (message.status) {
      const client = this.clients.get(`${message.branch} ${message.sequence.method}`);
      if (client) client.response(message);
      return;
    }
    const server = this.servers.get(serverKey(message));
    if (message.method === "ACK") {
      // That of a 2xx belongs to no transaction (§17.1.1.3).
      if (server && server.state === "completed") server.end();
      else this.acknowledged(message);
    } else if (server && message.method === "CANCEL") server.cancel(message);
    else if (server) server.again();
    else {
      const made = new ServerTransaction(this, message);
      if (message.method === "CANCEL") made.respond(message.respond(481));
      else if (this.merged(message)) made.respond(message.respond(482));
      else this.received(made);
    }
  }

  /* The transport has failed: nothing that is under way gets an answer. */
  lost() {
    for (const client of [...this.clients.values()]) client.fail(new Failure(503, "the connection was lost"));
    for (const server of [...this.servers.values()]) server.end();
  }

  // §8.2.2.2: the same request by another way.
  merged(request) {
    if (address(request.get("to")).tag) return false;
    const same = ({ request: other }) =>
      other.get("call-id") === request.get("call-id") && other.get("cseq") === request.get("cseq") &&
      address(other.get("from")).tag === address(request.get("from")).tag;
    return [...this.servers.values()].some((server) => server.request !== request && same(server));
  }

  /*
   * Sends a request. Resolves with its final response and rejects with a Failure. `provisional` gets
   * the responses before that one, `repeated` the 2xx to an INVITE that come after the first, and
   * `begun` the transaction, to cancel it.
   */
  request(message, { begun = () => {}, ...hooks } = {}) {
    return new Promise((resolve, reject) => {
      begun(new ClientTransaction(this, message, { resolve, reject, ...hooks }));
    });
  }
}

class ClientTransaction {
  constructor(layer, request, { resolve, reject, provisional = () => {}, repeated = () => {} }) {
    Object.assign(this, { layer, request, resolve, reject, provisional, repeated });
    this.key = `${request.branch} ${request.method}`;
    this.invite = request.method === "INVITE";
    this.state = "calling";
    this.taken = false;
    layer.clients.set(this.key, this);
    // Timer B or F.
    this.stop = layer.clock.after(TIMEOUT, () => this.fail(new Failure(408, "no answer")));
    if (!layer.send(request)) this.fail(new Failure(503, "there is no connection"));
  }

  response(response) {
    const { status } = response;
    if (this.state === "accepted") {
      if (status >= 200 && status < 300) this.repeated(response);
    } else if (status < 200) {
      // An INVITE may ring for long; a hop in between ends it (timer C).
      if (this.invite && !this.taken) this.stop();
      if (this.state === "calling" && this.taken) this.sendCancel();
      this.state = "proceeding";
      this.provisional(response);
    } else {
      this.stop();
      if (this.invite && status < 300) {
        this.state = "accepted";
        // Timer M.
        this.stop = this.layer.clock.after(TIMEOUT, () => this.forget());
      } else {
        if (this.invite) this.layer.send(refusalAck(this.request, response));
        // Timers D and K are zero here.
        this.forget();
      }
      this.resolve(response);
    }
  }

  /* Takes an INVITE back: not before anything was heard, and not for ever (§9.1). */
  cancel() {
    if (this.taken) return;
    this.taken = true;
    if (this.state === "proceeding") this.sendCancel();
  }

  sendCancel() {
    const { layer, request } = this;
    const kept = request.headers.filter(([name]) => /^(?:via|max-forwards|route|from|to|call-id)$/i.test(name));
    const headers = [...kept, ["CSeq", `${request.sequence.number} CANCEL`]];
    this.stop();
    this.stop = layer.clock.after(TIMEOUT, () => this.fail(new Failure(487, "cancelled")));
    layer.request(new Message(`CANCEL ${request.uri} SIP/2.0`, headers)).catch(() => {});
  }

  fail(failure) {
    this.forget();
    this.reject(failure);
  }

  forget() {
    this.stop();
    this.layer.clients.delete(this.key);
  }
}

// §17.2.3: the sender's host counts, and an ACK or CANCEL is looked up as the INVITE that it is for.
function serverKey(request) {
  const sentBy = request.get("via").split(";")[0].trim().toLowerCase();
  const method = ["ACK", "CANCEL"].includes(request.method) ? "INVITE" : request.method;
  return `${request.branch} ${sentBy} ${method}`;
}

// §17.1.1.3: the ACK to a refusal is part of the INVITE's own transaction.
function refusalAck(invite, response) {
  const kept = invite.headers.filter(([name]) => /^(?:via|max-forwards|route|from|call-id)$/i.test(name));
  const { number } = invite.sequence;
  return new Message(`ACK ${invite.uri} SIP/2.0`, [...kept, ["To", response.get("to")], ["CSeq", `${number} ACK`]]);
}

/*
 * A request that came. Its user answers with `respond`; `cancelled`, if set, is called with the
 * CANCEL when the other side takes an INVITE back.
 */
export class ServerTransaction {
  constructor(layer, request) {
    this.layer = layer;
    this.request = request;
    this.key = serverKey(request);
    this.state = "proceeding";
    this.last = null;
    this.stop = () => {};
    this.cancelled = () => {};
    // One that is answered at once needs no place.
    if (request.method !== "CANCEL") layer.servers.set(this.key, this);
  }

  get answered() {
    return this.state !== "proceeding";
  }

  respond(response) {
    if (this.answered) return;
    this.last = response;
    this.layer.send(response);
    if (response.status < 200) return;
    if (this.request.method !== "INVITE") this.end();
    else {
      // Timer L or H.
      this.state = response.status < 300 ? "accepted" : "completed";
      this.stop = this.layer.clock.after(TIMEOUT, () => this.end());
    }
  }

  // A copy of the request: the last answer once more, unless that is a 2xx (RFC 6026 §7.1).
  again() {
    if (this.last && this.state !== "accepted") this.layer.send(this.last);
  }

  // §9.2: a CANCEL has no effect on what is answered.
  cancel(request) {
    const tag = this.last ? address(this.last.get("to")).tag : undefined;
    this.layer.send(request.respond(200, { tag }));
    if (!this.answered) this.cancelled(request);
  }

  end() {
    this.stop();
    this.state = "terminated";
    this.layer.servers.delete(this.key);
  }
}
