// The user agent (RFC 3261, RFC 7118, RFC 5626): it registers, sends and takes messages, and has calls.
// It knows nothing of media or of the page.

import { Call } from "./call.mjs";
import { clock as realClock } from "./clock.mjs";
import { Connection } from "./connection.mjs";
import { credentials } from "./digest.mjs";
import { Message, address, toUri, token, uuid, withoutParameters } from "./message.mjs";
import { ALLOW, EXTENSIONS, SUPPORTED } from "./names.mjs";
import { Failure, Transactions } from "./transactions.mjs";

const EXPIRES = 600;
const MOST_CALLS = 4;
// Seconds until a refused registration is tried again; a wrong password would be wrong again.
const AGAIN = 30;

const emit = (target, name, detail) => target.dispatchEvent(new CustomEvent(name, { detail }));

/*
 * Events:
 *   "state"    the state has changed: {name, seconds?, status?, reason?}; names are "connecting",
 *              "offline" (an attempt comes in `seconds`), "registering", "registered", "refused",
 *              "ended"
 *   "message"  {uri, text}
 *   "call"     a Call that has come in, or one that a transfer has begun
 *   "calls"    the list of calls has changed
 */
export class UserAgent extends EventTarget {
  constructor({ url, user, domain, password, instance, clock = realClock, WebSocket = globalThis.WebSocket }) {
    super();
    Object.assign(this, { url, user, domain, password, clock });
    this.host = `${token()}.invalid`;
    this.aor = toUri(user, domain);
    this.ownContact = `${toUri(user, this.host)};transport=ws`;
    this.gruu = null;
    this.instance = instance || `urn:uuid:${uuid()}`;
    this.registration = { callId: token(), tag: token(), number: 0 };
    this.state = { name: "connecting" };
    this.calls = [];
    // Calls that have ended here and wait for an ACK until they may say so.
    this.leaving = new Set();
    // The dialogs of calls that were hung up while there was no connection.
    this.owed = [];
    this.refresh = () => {};
    this.transactions = new Transactions({
      send: (message) => this.connection.send(message),
      clock,
      received: (transaction) => this.request(transaction),
      acknowledged: (ack) => this.owner(ack)?.acknowledged(ack),
    });
    this.connection = new Connection({
      url,
      clock,
      WebSocket,
      connecting: () => this.tell({ name: "connecting" }),
      opened: () => this.register(),
      received: (text) => this.receive(text),
      lost: () => this.lost(),
      waiting: (seconds) => this.tell({ name: "offline", seconds }),
    });
  }

  get registered() {
    return this.state.name === "registered";
  }

  start() {
    this.connection.start();
  }

  /* Hangs up, unregisters and closes the connection. */
  async stop() {
    this.connection.stopped = true;
    for (const call of [...this.calls]) call.hangUp({ status: 480 });
    if (this.registered) await this.register(0);
    this.connection.stop();
  }

  tell(state) {
    this.state = state;
    emit(this, "state", state);
  }

  receive(text) {
    const message = Message.parse(text);
    if (message) this.transactions.receive(message);
  }

  lost() {
    this.refresh();
    this.transactions.lost();
    for (const call of [...this.calls]) call.connectionLost();
    if (this.connection.stopped) this.tell({ name: "ended" });
  }

  // -- requests of ours ------------------------------------------------------------------------

  make(method, uri, { to, from, callId, number, routes = [], headers = [], body = "", branch }) {
    const transport = this.url.startsWith("wss:") ? "WSS" : "WS";
    return new Message(
      `${method} ${uri} SIP/2.0`,
      [
        ["Via", `SIP/2.0/${transport} ${this.host};branch=${branch || `z9hG4bK${token()}`}`],
        ["Max-Forwards", "70"],
        ...routes.map((route) => ["Route", route]),
        ["From", from],
        ["To", to],
        ["Call-ID", callId],
        ["CSeq", `${number} ${method}`],
        ...headers,
      ],
      body,
    );
  }

  /*
   * Sends a request, with the password if that is asked for, and gives its final response. `next`
   * gives CSeq numbers; `wanted` says, before each attempt, whether it is still to be made.
   */
  async ask(method, uri, { next, ...options }, { wanted = () => true, ...hooks } = {}) {
    let proofs = [];
    for (let attempt = 0; ; attempt++) {
      if (!wanted()) throw new Failure(487, "cancelled");
      const headers = [...(options.headers || []), ...proofs];
      const request = this.make(method, uri, { ...options, number: next(), headers });
      const response = await this.transactions.request(request, hooks);
      const proxy = response.status === 407;
      if (!(proxy || response.status === 401) || attempt === 2 || !this.password) return response;
      const challenges = response.all(proxy ? "proxy-authenticate" : "www-authenticate");
      const stale = challenges.some((challenge) => /stale\s*=\s*"?true/i.test(challenge));
      if (attempt && !stale) return response;
      const proof = await credentials(challenges, method, uri, this.user, this.password);
      if (!proof) return response;
      proofs = [[proxy ? "Proxy-Authorization" : "Authorization", proof]];
    }
  }

  async register(expires = EXPIRES) {
    this.refresh();
    const { callId, tag } = this.registration;
    const contact = `<${this.ownContact};ob>;reg-id=1;+sip.instance="<${this.instance}>";expires=${expires}`;
    if (expires && !this.registered) this.tell({ name: "registering" });
    let response;
    try {
      response = await this.ask("REGISTER", `sip:${this.domain}`, {
        to: `<${this.aor}>`,
        from: `<${this.aor}>;tag=${tag}`,
        callId,
        next: () => ++this.registration.number,
        headers: [["Contact", contact], ["Supported", "gruu, outbound, path"], ["Allow", ALLOW]],
      });
    } catch (failure) {
      response = failure;
    }
    if (expires && this.connection.open) this.registrationAnswered(response);
  }

  registrationAnswered(response) {
    const { status, reason = response.message } = response;
    if (status !== 200) {
      const wrong = [401, 403, 407].includes(status);
      if (!wrong) this.refresh = this.clock.after(AGAIN * 1000, () => this.register());
      this.tell({ name: "refused", status, reason, seconds: wrong ? null : AGAIN });
      return;
    }
    const contacts = response.list("contact");
    const own = contacts.find((value) => address(value).uri.startsWith(this.ownContact)) || "";
    // RFC 5627 §4.2: a name of this client that outlives its connections.
    const [, gruu] = /;\s*pub-gruu\s*=\s*"([^"]+)"/i.exec(own) || [];
    this.gruu = gruu || null;
    // RFC 3261 §10.2.4: how long it lasts is for the registrar to say.
    const [, seconds] = /;\s*expires\s*=\s*(\d+)/i.exec(own) || [];
    const granted = Number(seconds || response.get("expires")) || EXPIRES;
    this.refresh = this.clock.after(granted * 750, () => this.register());
    const timer = Number(response.get("flow-timer"));
    if (timer) this.connection.keepAlive(timer);
    this.connection.failures = 0;
    if (this.registered) return;
    this.tell({ name: "registered" });
    this.payDebts();
    for (const call of [...this.calls]) call.connectionBack();
  }

  /* A call was hung up while there was no connection; the other side is told when there is one. */
  owes(dialog) {
    if (!this.connection.stopped) this.owed.push(dialog);
  }

  payDebts() {
    for (const dialog of this.owed.splice(0)) this.ask("BYE", dialog.target, dialog.fields()).catch(() => {});
  }

  toUri(who) {
    return toUri(who, this.domain);
  }

  /* The Contact of calls. */
  get contact() {
    return this.gruu ? `<${this.gruu}>` : `<${this.ownContact};ob>`;
  }

  /* Sends a text. Rejects with a Failure if it is not delivered. */
  async message(who, text) {
    const uri = this.toUri(who);
    let number = 0;
    const response = await this.ask("MESSAGE", uri, {
      to: `<${uri}>`,
      from: `<${this.aor}>;tag=${token()}`,
      callId: token(),
      next: () => ++number,
      headers: [["Content-Type", "text/plain; charset=utf-8"]],
      body: text,
    });
    if (response.status >= 300) throw new Failure(response.status, response.reason);
  }

  /* Starts a call. `headers` may hold Referred-By and Replaces, of a transfer. */
  call(who, media, { headers = [] } = {}) {
    const call = new Call(this, { uri: this.toUri(who), media });
    this.add(call);
    call.invite(headers);
    return call;
  }

  add(call) {
    this.calls.push(call);
    emit(this, "calls");
  }

  remove(call) {
    this.calls = this.calls.filter((other) => other !== call);
    emit(this, "calls");
  }

  // -- requests of others ----------------------------------------------------------------------

  owner(request) {
    return [...this.calls, ...this.leaving].find((call) => call.dialog?.matches(request));
  }

  request(transaction) {
    const { request } = transaction;
    const { method } = request;
    const refuse = (status, headers = []) => transaction.respond(request.respond(status, { headers }));
    const within = address(request.get("to")).tag;
    if (!ALLOW.split(", ").includes(method)) {
      refuse(405, [["Allow", ALLOW]]);
      return;
    }
    // RFC 3261 §8.2.2.3.
    const unknown = request.list("require").filter((tag) => !EXTENSIONS.includes(tag.toLowerCase()));
    if (unknown.length) {
      refuse(420, [["Unsupported", unknown.join(", ")]]);
      return;
    }
    const call = within ? this.owner(request) : null;
    if (call) call.request(transaction);
    else if (method === "OPTIONS") {
      const accept = [["Accept", "application/sdp, text/plain"], ["Supported", SUPPORTED]];
      refuse(within ? 481 : 200, [["Allow", ALLOW], ...accept]);
    } else if (within) refuse(481);
    else if (method === "MESSAGE") this.took(transaction);
    else if (method === "INVITE") this.incoming(transaction);
    // A call of which nothing is known, or a request to call somebody out of the blue.
    else refuse(method === "REFER" ? 403 : 481);
  }

  took(transaction) {
    const { request } = transaction;
    if (request.type && request.type !== "text/plain") {
      transaction.respond(request.respond(415, { headers: [["Accept", "text/plain"]] }));
      return;
    }
    transaction.respond(request.respond(200));
    const uri = withoutParameters(address(request.get("from")).uri);
    emit(this, "message", { uri, text: request.body });
  }

  incoming(transaction) {
    const { request } = transaction;
    const refuse = (status) => transaction.respond(request.respond(status));
    const replaces = request.get("replaces");
    let replaced = null;
    if (replaces !== undefined) {
      // RFC 3891 §3.
      const [callId, ...parameters] = replaces.split(";").map((part) => part.trim());
      const tags = Object.fromEntries(parameters.map((part) => part.split("=").map((word) => word.trim())));
      replaced = this.calls.find((call) => call.dialog?.is(callId, tags["to-tag"], tags["from-tag"]));
      if (!replaced || replaced.state !== "active") {
        refuse(481);
        return;
      }
      if ("early-only" in tags) {
        refuse(486);
        return;
      }
      if (replaced.resumes(request)) {
        replaced.takeOver(transaction);
        return;
      }
    } else if (this.calls.length >= MOST_CALLS) {
      refuse(486);
      return;
    }
    // A call to oneself is busy.
    if (this.calls.some((call) => call.callId === request.get("call-id"))) refuse(486);
    else if (request.body && request.type !== "application/sdp") {
      transaction.respond(request.respond(415, { headers: [["Accept", "application/sdp"]] }));
    } else {
      const { uri } = address(request.get("from"));
      const call = new Call(this, { uri: withoutParameters(uri), replaced });
      this.add(call);
      call.incoming(transaction);
      emit(this, "call", call);
    }
  }
}

