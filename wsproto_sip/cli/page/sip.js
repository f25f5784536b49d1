// A small SIP user agent over WebSocket (RFC 3261, RFC 7118, RFC 5626): it registers, sends and takes
// messages, and has one call at a time. It knows nothing of media: a call has an offer and an answer.

import { credentials } from "./digest.js";

const COMPACT = {
  c: "content-type", f: "from", i: "call-id", k: "supported", l: "content-length", m: "contact",
  t: "to", v: "via",
};
const REASONS = {
  180: "Ringing", 200: "OK", 405: "Method Not Allowed", 481: "Call/Transaction Does Not Exist",
  486: "Busy Here", 487: "Request Terminated", 488: "Not Acceptable Here", 603: "Decline",
};
const ALLOW = "ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, OPTIONS";
// RFC 3261 §17.1.1.1: T1, T2 and 64*T1, in milliseconds.
const [T1, T2, TIMEOUT] = [500, 4000, 32000];
const PONG_TIMEOUT = 10000;

const token = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(8)), (n) => n.toString(16).padStart(2, "0")).join("");

// The values of a list, at the commas that are neither quoted nor within angle brackets.
function listed(value) {
  const pattern = /(?:"(?:[^"\\]|\\.)*"|<[^>]*>|[^,"<])+/g;
  return (value.match(pattern) || []).map((item) => item.trim()).filter(Boolean);
}

export function address(value) {
  // A quoted name before it may hold anything, angle brackets too.
  const bracketed = /^(?:\s*"(?:[^"\\]|\\.)*"\s*|[^"<]*)<([^>]*)>(.*)$/s.exec(value);
  const [, uri, rest] = bracketed || /^\s*([^;]*)(.*)$/s.exec(value);
  const tag = /;\s*tag\s*=\s*([^\s;]+)/i.exec(rest);
  return { uri, tag: tag ? tag[1] : null };
}

export function userOf(uri) {
  const user = (/^sips?:([^@;?]*)@/i.exec(uri) || [])[1] || uri;
  try {
    return decodeURIComponent(user);
  } catch {
    // Not UTF-8.
    return user;
  }
}

export class Message {
  constructor(start, headers, body = "") {
    this.start = start;
    this.headers = headers;
    this.body = body;
  }

  static parse(text) {
    const end = text.indexOf("\r\n\r\n");
    if (end < 0) return null;
    const [start, ...lines] = text.slice(0, end).replace(/\r\n[ \t]+/g, " ").split("\r\n");
    const headers = lines.map((line) => {
      const colon = line.indexOf(":");
      const name = line.slice(0, colon).trim().toLowerCase();
      return [COMPACT[name] || name, line.slice(colon + 1).trim()];
    });
    const message = new Message(start, headers, text.slice(end + 4));
    const [first, second] = start.split(" ");
    if (first === "SIP/2.0") message.status = Number(second);
    else [message.method, message.uri] = [first, second];
    const needed = ["via", "from", "to", "call-id", "cseq"];
    return needed.every((name) => message.get(name)) ? message : null;
  }

  all(name) {
    return this.headers.filter(([other]) => other.toLowerCase() === name).map(([, value]) => value);
  }

  get(name) {
    return this.all(name)[0];
  }

  get reason() {
    return this.start.split(" ").slice(2).join(" ");
  }

  get branch() {
    return (/;\s*branch\s*=\s*([^\s;,]+)/i.exec(this.get("via")) || [])[1];
  }

  get sequence() {
    const [number, method] = this.get("cseq").split(/\s+/);
    return { number: Number(number), method };
  }

  toString() {
    const size = new TextEncoder().encode(this.body).length;
    const lines = this.headers.map(([name, value]) => `${name}: ${value}`);
    return [this.start, ...lines, `Content-Length: ${size}`, "", this.body].join("\r\n");
  }
}

const emit = (target, name, detail) => target.dispatchEvent(new CustomEvent(name, { detail }));

/*
 * Events: "state" (detail: text) when the connection or the registration changes, "message"
 * (detail: {from, text}), "call" (detail: an incoming Call).
 */
export class UserAgent extends EventTarget {
  constructor({ url, user, domain, password }) {
    super();
    Object.assign(this, { url, user, domain, password });
    this.host = `${token()}.invalid`;
    this.aor = `sip:${user}@${domain}`;
    this.contact = `sip:${user}@${this.host};transport=ws;ob`;
    this.instance = `urn:uuid:${crypto.randomUUID ? crypto.randomUUID() : uuid()}`;
    this.registration = { callId: token(), tag: token(), number: 0 };
    this.registered = false;
    this.state = "";
    this.call = null;
    this.pending = new Map();
    this.failures = 0;
    this.stopped = false;
    this.timers = {};
  }

  // -- the connection --------------------------------------------------------------------------

  start() {
    this.tell("connecting");
    const socket = (this.socket = new WebSocket(this.url, "sip"));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.register();
    socket.onmessage = ({ data }) => {
      this.receive(typeof data === "string" ? data : new TextDecoder().decode(data));
    };
    socket.onclose = () => this.lost();
  }

  lost() {
    this.registered = false;
    for (const timer of Object.values(this.timers)) clearTimeout(timer);
    for (const transaction of [...this.pending.values()]) transaction.fail("the connection was lost");
    if (this.call) this.call.end("the connection was lost");
    if (this.stopped) {
      this.tell("unregistered");
      return;
    }
    // RFC 6455 §7.2.3: not all at once.
    const pause = Math.min(1000 * 2 ** this.failures++, 30000) * (0.5 + Math.random() / 2);
    this.tell(`no connection; next attempt in ${Math.ceil(pause / 1000)} s`);
    this.timers.reconnect = setTimeout(() => this.start(), pause);
  }

  async stop() {
    this.stopped = true;
    clearTimeout(this.timers.reconnect);
    if (this.call) this.call.hangUp();
    if (this.registered) await this.register(0).catch(() => {});
    // One that is still being opened would register when it is open; the end of either is told.
    if (this.socket.readyState < WebSocket.CLOSING) this.socket.close(1000);
    else this.lost();
  }

  tell(state) {
    this.state = state;
    emit(this, "state", state);
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(message.toString());
  }

  receive(text) {
    if (!text.trim()) {
      clearTimeout(this.timers.pong);
      if (text === "\r\n\r\n") this.socket.send("\r\n");
      return;
    }
    const message = Message.parse(text);
    if (!message) return;
    if (message.status) {
      const transaction = this.pending.get(`${message.branch} ${message.sequence.method}`);
      if (transaction) transaction.response(message);
    } else this.request(message);
  }

  // RFC 5626 §4.4.1: the server says how often it wants to hear from us.
  keepAlive(seconds) {
    clearTimeout(this.timers.ping);
    this.timers.ping = setTimeout(() => {
      this.socket.send("\r\n\r\n");
      this.timers.pong = setTimeout(() => this.socket.close(4000), PONG_TIMEOUT);
      this.keepAlive(seconds);
    }, seconds * 800);
  }

  // -- requests of ours ------------------------------------------------------------------------

  make(method, uri, { to, from, callId, number, routes = [], headers = [], body = "", branch }) {
    const secure = this.url.startsWith("wss:") ? "WSS" : "WS";
    return new Message(
      `${method} ${uri} SIP/2.0`,
      [
        ["Via", `SIP/2.0/${secure} ${this.host};branch=${branch || `z9hG4bK${token()}`}`],
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

  /* Sends a request, with the password if that is asked for, and gives its final response. */
  async ask(method, uri, options, { provisional = () => {}, sent = () => {} } = {}) {
    let headers = options.headers || [];
    for (let attempt = 0; ; attempt++) {
      const request = this.make(method, uri, { ...options, headers });
      sent(request);
      const response = await this.exchange(request, method, provisional);
      const proxy = response.status === 407;
      if (!(proxy || response.status === 401) || attempt === 2 || !this.password) return response;
      const challenges = response.all(proxy ? "proxy-authenticate" : "www-authenticate");
      const stale = challenges.some((challenge) => /stale\s*=\s*"?true/i.test(challenge));
      if (attempt && !stale) return response;
      const proof = await credentials(challenges, method, uri, this.user, this.password);
      if (!proof) return response;
      const name = proxy ? "Proxy-Authorization" : "Authorization";
      headers = [...(options.headers || []), [name, proof]];
      options.number = options.next ? options.next() : options.number + 1;
    }
  }

  exchange(request, method, provisional) {
    const sent = Message.parse(request.toString());
    const key = `${sent.branch} ${method}`;
    return new Promise((resolve, reject) => {
      const done = (settle, value) => {
        clearTimeout(timer);
        this.pending.delete(key);
        settle(value);
      };
      // An INVITE may ring; the server ends it when it has rung too long.
      const expire = () => done(reject, new Error("no answer"));
      let timer = setTimeout(expire, TIMEOUT);
      this.pending.set(key, {
        fail: (reason) => done(reject, new Error(reason)),
        response: (response) => {
          if (response.status < 200) {
            if (method === "INVITE") clearTimeout(timer);
            provisional(response);
            return;
          }
          if (method === "INVITE" && response.status >= 300) this.acknowledge(sent, response);
          done(resolve, response);
        },
      });
      if (this.socket.readyState === WebSocket.OPEN) this.send(request);
      else done(reject, new Error("there is no connection"));
    });
  }

  // RFC 3261 §17.1.1.3: the ACK to a refusal belongs to the INVITE's own transaction.
  acknowledge(invite, response) {
    this.send(
      this.make("ACK", invite.uri, {
        branch: invite.branch,
        routes: invite.all("route"),
        from: invite.get("from"),
        to: response.get("to"),
        callId: invite.get("call-id"),
        number: invite.sequence.number,
      }),
    );
  }

  async register(expires = 600) {
    const { callId, tag } = this.registration;
    const contact = `<${this.contact}>;reg-id=1;+sip.instance="<${this.instance}>";expires=${expires}`;
    const next = () => ++this.registration.number;
    try {
      const response = await this.ask("REGISTER", `sip:${this.domain}`, {
        to: `<${this.aor}>`,
        from: `<${this.aor}>;tag=${tag}`,
        callId,
        number: next(),
        next,
        headers: [["Contact", contact], ["Supported", "outbound, path"], ["Allow", ALLOW]],
      });
      if (response.status !== 200) throw new Error(`${response.status} ${response.reason}`);
      this.registered = expires > 0;
      if (!this.registered) return;
      this.failures = 0;
      const timer = Number(response.get("flow-timer"));
      if (timer) this.keepAlive(timer);
      this.timers.refresh = setTimeout(() => this.register(), this.granted(response, expires) * 750);
      this.tell("registered");
    } catch (error) {
      // The connection's end, if that was it, has been told.
      if (this.socket.readyState === WebSocket.OPEN) {
        this.registered = false;
        this.tell(`not registered: ${error.message}`);
      }
    }
  }

  // RFC 3261 §10.2.4: for how long is the registrar's to say.
  granted(response, asked) {
    const contacts = response.all("contact").flatMap(listed);
    const own = contacts.find((value) => address(value).uri === this.contact) || "";
    const [, seconds] = /;\s*expires\s*=\s*(\d+)/i.exec(own) || [];
    return Number(seconds || response.get("expires")) || asked;
  }

  dialogless(user) {
    const uri = user.includes("@") ? `sip:${user}` : `sip:${user}@${this.domain}`;
    return {
      uri,
      options: { to: `<${uri}>`, from: `<${this.aor}>;tag=${token()}`, callId: token(), number: 1 },
    };
  }

  async message(user, text) {
    const { uri, options } = this.dialogless(user);
    const headers = [["Content-Type", "text/plain; charset=utf-8"]];
    const response = await this.ask("MESSAGE", uri, { ...options, headers, body: text });
    if (response.status >= 300) throw new Error(`${response.status} ${response.reason}`);
  }

  invite(user, offer) {
    this.call = new Call(this, user);
    this.call.invite(offer);
    return this.call;
  }

  // -- requests of others ----------------------------------------------------------------------

  response(request, status, { tag, headers = [], body = "" } = {}) {
    const to = request.get("to");
    const kept = ["via", "from", "call-id", "cseq", "record-route"];
    return new Message(
      `SIP/2.0 ${status} ${REASONS[status]}`,
      [
        ...request.headers.filter(([name]) => kept.includes(name)),
        ["To", address(to).tag ? to : `${to};tag=${tag || token()}`],
        ...headers,
      ],
      body,
    );
  }

  answer(request, status, options) {
    this.send(this.response(request, status, options));
  }

  request(request) {
    const call = this.call && this.call.owns(request) ? this.call : null;
    if (call) call.request(request);
    else if (request.method === "MESSAGE") {
      this.answer(request, 200);
      emit(this, "message", { from: address(request.get("from")).uri, text: request.body });
    } else if (request.method === "OPTIONS") this.answer(request, 200, { headers: [["Allow", ALLOW]] });
    else if (request.method === "INVITE" && !address(request.get("to")).tag) this.incoming(request);
    else if (["BYE", "CANCEL", "INFO", "INVITE"].includes(request.method)) this.answer(request, 481);
    else if (request.method !== "ACK") this.answer(request, 405, { headers: [["Allow", ALLOW]] });
  }

  incoming(request) {
    if (this.call) this.answer(request, 486);
    else if (!request.body) this.answer(request, 488);
    else {
      this.call = new Call(this, userOf(address(request.get("from")).uri));
      this.call.incoming(request);
      emit(this, "call", this.call);
    }
  }
}

function uuid() {
  const digits = token() + token();
  return digits.replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-4$3-8$4-$5");
}

/*
 * One call. Events: "state" (detail: text). States: "calling", "ringing", "incoming", "active",
 * "ended". `answered(sdp)` is called with the answer to our offer, `offered(sdp)` with an offer
 * within the call, to give the answer.
 */
export class Call extends EventTarget {
  constructor(agent, user) {
    super();
    Object.assign(this, { agent, user, state: "", reason: "", ack: null });
    this.answered = async () => {};
    this.offered = async () => null;
  }

  tell(state) {
    this.state = state;
    emit(this, "state", state);
  }

  end(reason) {
    if (this.state === "ended") return;
    clearTimeout(this.timer);
    this.reason = reason;
    if (this.agent.call === this) this.agent.call = null;
    this.tell("ended");
  }

  // Within the call, or a CANCEL of what began it. Who calls himself has two with one Call-ID.
  owns(request) {
    if (request.method === "CANCEL") return Boolean(this.asked) && this.asked.branch === request.branch;
    const { tag } = address(request.get("to"));
    return this.callId === request.get("call-id") && address(this.local).tag === tag;
  }

  get sdpHeaders() {
    return [["Contact", `<${this.agent.contact}>`], ["Content-Type", "application/sdp"]];
  }

  /* A request within the call. */
  within(method, extra = {}) {
    if (method !== "ACK") this.number++;
    const options = {
      to: this.remote, from: this.local, callId: this.callId, number: this.number,
      routes: this.routes, next: () => ++this.number, ...extra,
    };
    if (method !== "ACK") return this.agent.ask(method, this.target, options);
    return this.agent.make("ACK", this.target, options);
  }

  // -- as the caller ---------------------------------------------------------------------------

  async invite(offer) {
    const { uri, options } = this.agent.dialogless(this.user);
    Object.assign(this, { callId: options.callId, local: options.from, number: 1, answers: false });
    this.tell("calling");
    const provisional = (response) => {
      this.answers = true;
      if (this.cancelled) this.cancel();
      else if (response.status > 100 && this.state === "calling") this.tell("ringing");
    };
    let response;
    try {
      response = await this.agent.ask(
        "INVITE",
        uri,
        {
          ...options,
          headers: [...this.sdpHeaders, ["Supported", "outbound"], ["Allow", ALLOW]],
          body: offer,
          next: () => ++this.number,
        },
        {
          provisional,
          sent: (request) => {
            this.sent = Message.parse(request.toString());
            this.answers = false;
          },
        },
      );
    } catch (error) {
      this.end(error.message);
      return;
    }
    if (response.status >= 300) {
      this.end(this.cancelled ? "cancelled" : `${response.status} ${response.reason}`);
      return;
    }
    this.remote = response.get("to");
    this.target = address(response.get("contact") || `<${uri}>`).uri;
    this.routes = response.all("record-route").flatMap(listed).reverse();
    this.acknowledgeSuccess();
    if (this.cancelled || this.state === "ended") {
      this.hangUp("cancelled");
      return;
    }
    // Until it is quiet: the other side says it again until it has heard the ACK.
    const key = `${this.sent.branch} INVITE`;
    this.agent.pending.set(key, { fail: () => {}, response: (again) => this.saidAgain(again) });
    setTimeout(() => this.agent.pending.delete(key), TIMEOUT);
    try {
      await this.answered(response.body);
    } catch (error) {
      this.hangUp(error.message);
      return;
    }
    if (this.state !== "ended") this.tell("active");
  }

  acknowledgeSuccess() {
    const cseq = this.sent.sequence.number;
    this.agent.send(this.within("ACK", { number: cseq }));
  }

  saidAgain(response) {
    if (response.status >= 300) return;
    if (address(response.get("to")).tag === address(this.remote).tag) {
      this.acknowledgeSuccess();
      return;
    }
    // Somebody else has answered too (RFC 3261 §13.2.2.4); one is enough.
    const other = new Call(this.agent, this.user);
    Object.assign(other, {
      callId: this.callId, local: this.local, remote: response.get("to"), number: this.number,
      sent: this.sent, target: address(response.get("contact")).uri,
      routes: response.all("record-route").flatMap(listed).reverse(),
    });
    other.acknowledgeSuccess();
    other.within("BYE").catch(() => {});
  }

  cancel() {
    const { sent } = this;
    const request = this.agent.make("CANCEL", sent.uri, {
      branch: sent.branch, routes: sent.all("route"), from: sent.get("from"), to: sent.get("to"),
      callId: this.callId, number: sent.sequence.number,
    });
    this.agent.exchange(request, "CANCEL", () => {}).catch(() => {});
  }

  // -- as the called side ----------------------------------------------------------------------

  incoming(request) {
    this.asked = request;
    this.callId = request.get("call-id");
    this.offer = request.body;
    this.number = 0;
    this.remote = request.get("from");
    this.target = address(request.get("contact") || `<${address(this.remote).uri}>`).uri;
    this.routes = request.all("record-route").flatMap(listed);
    this.tag = token();
    this.local = `${request.get("to")};tag=${this.tag}`;
    this.agent.answer(request, 180, { tag: this.tag, headers: [["Contact", `<${this.agent.contact}>`]] });
    this.tell("incoming");
  }

  accept(answer) {
    if (this.state !== "incoming") return;
    this.succeed(this.asked, answer);
    this.tell("active");
  }

  /* A 2xx, again and again until its ACK comes (RFC 3261 §13.3.1.4). */
  succeed(request, body) {
    const options = { tag: this.tag, headers: [...this.sdpHeaders, ["Supported", "outbound"]], body };
    const response = this.agent.response(request, 200, options);
    let [pause, waited] = [T1, 0];
    const again = () => {
      if (waited >= TIMEOUT) {
        this.hangUp("no ACK");
        return;
      }
      this.agent.send(response);
      this.timer = setTimeout(again, pause);
      waited += pause;
      pause = Math.min(pause * 2, T2);
    };
    again();
  }

  // -- both ------------------------------------------------------------------------------------

  async request(request) {
    const { method } = request;
    if (method === "ACK") clearTimeout(this.timer);
    else if (method === "CANCEL") {
      this.agent.answer(request, 200);
      if (this.state === "incoming") {
        this.agent.answer(this.asked, 487, { tag: this.tag });
        this.end("cancelled");
      }
    } else if (method === "BYE") {
      this.agent.answer(request, 200);
      this.end("the other side has hung up");
    } else if (method === "INVITE" && this.state === "active") {
      const answer = request.body ? await this.offered(request.body).catch(() => null) : null;
      if (answer) this.succeed(request, answer);
      else this.agent.answer(request, 488);
    } else if (["INFO", "OPTIONS", "MESSAGE"].includes(method)) this.agent.answer(request, 200);
    else this.agent.answer(request, 405, { headers: [["Allow", ALLOW]] });
  }

  hangUp(reason = "hung up") {
    if (this.state === "incoming") {
      this.agent.answer(this.asked, 603, { tag: this.tag });
      this.end("declined");
    } else if (this.target) {
      this.within("BYE").catch(() => {});
      this.end(reason);
    } else if (this.state !== "ended" && !this.cancelled) {
      // RFC 3261 §9.1: not before anything was heard.
      this.cancelled = true;
      if (this.answers) this.cancel();
    }
  }
}
