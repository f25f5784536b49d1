// What the tests of the page's modules share: time that the test turns, sockets without a network,
// a registrar that connects the telephones of a test, and media without sound.

import { UserAgent } from "../../../../wsproto_sip/cli/serve/static/agent.mjs";
import { Message, address, userOf } from "../../../../wsproto_sip/cli/serve/static/message.mjs";

/* Lets everything happen that waits for no time. */
export const settle = async () => {
  for (let i = 0; i < 60; i++) await new Promise((resolve) => setImmediate(resolve));
};

export class FakeClock {
  time = 1_000_000;
  waiting = new Set();

  now() {
    return this.time;
  }

  after(milliseconds, action) {
    const timer = { at: this.time + milliseconds, action };
    this.waiting.add(timer);
    return () => this.waiting.delete(timer);
  }

  /* Lets time pass; what is due happens in its order. */
  async pass(milliseconds) {
    const end = this.time + milliseconds;
    await settle();
    for (;;) {
      const due = [...this.waiting].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      this.waiting.delete(due);
      this.time = Math.max(this.time, due.at);
      due.action();
      await settle();
    }
    this.time = end;
  }
}

export class FakeSocket {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;
  static made = [];

  readyState = FakeSocket.CONNECTING;
  sent = [];

  constructor(url, protocol) {
    Object.assign(this, { url, protocol });
    FakeSocket.made.push(this);
  }

  open() {
    this.readyState = FakeSocket.OPEN;
    this.onopen();
  }

  send(text) {
    this.sent.push(text);
    this.deliver?.(text);
  }

  close(code) {
    this.code = code;
    this.lose();
  }

  lose() {
    if (this.readyState === FakeSocket.CLOSED) return;
    this.readyState = FakeSocket.CLOSED;
    this.onclose?.();
  }
}

/* A class of sockets of one test. */
export function sockets() {
  return class extends FakeSocket {
    static made = [];

    constructor(url, protocol) {
      super(url, protocol);
      FakeSocket.made.pop();
      this.constructor.made.push(this);
    }
  };
}

export class FakeMedia extends EventTarget {
  alive = true;
  remote = "";
  log = [];
  local = "";
  version = 0;

  constructor(name = "m") {
    super();
    this.name = name;
  }

  describe(direction) {
    return `v=0\r\no=- ${this.name} ${++this.version} IN IP4 0.0.0.0\r\ns=-\r\nm=audio 9 X 0\r\na=${direction}\r\n`;
  }

  async offer({ restart = false }) {
    this.log.push(restart ? "restart" : "offer");
    return this.describe(this.held ? "sendonly" : "sendrecv");
  }

  async answer(sdp) {
    if (this.broken) throw new Error("no codec");
    this.remote = sdp;
    this.log.push("answer");
    return this.describe(this.held ? "sendonly" : "sendrecv");
  }

  async answered(sdp) {
    if (this.broken || !sdp) throw new Error("bad answer");
    this.remote = sdp;
    this.log.push("answered");
  }

  async rollback() {
    this.log.push("rollback");
  }

  hold(yes) {
    this.held = yes;
  }

  mute(yes) {
    this.muted = yes;
  }

  follow(call) {
    this.call = call;
  }

  key() {
    return false;
  }

  close() {
    this.closed = true;
  }
}

/*
 * A registrar and proxy for the telephones of one test. `lost` has the requests that went nowhere;
 * `refuse(request)` may give a status instead of passing a request on.
 */
export class Server {
  homes = new Map();
  log = [];
  refuse = () => null;
  gruu = true;

  constructor(clock) {
    this.clock = clock;
  }

  /* A telephone that has registered. */
  async phone(user, values = {}) {
    const WebSocket = sockets();
    const agent = new UserAgent({ url: "ws://sip.test/", user, domain: "sip.test", clock: this.clock, WebSocket, ...values });
    agent.start();
    agent.WebSocket = WebSocket;
    await this.connect(agent);
    return agent;
  }

  /* Opens the latest socket of a telephone. */
  async connect(agent) {
    const socket = agent.WebSocket.made.at(-1);
    socket.deliver = (text) => setImmediate(() => this.take(text, socket));
    socket.open();
    await settle();
    return socket;
  }

  async take(text, socket) {
    const message = Message.parse(text);
    if (!message) return;
    const who = [...this.homes].find(([, home]) => home === socket)?.[0] ?? "?";
    this.log.push(message.status ? `${who} ${message.status} ${message.sequence.method}` : `${who} ${message.method}`);
    if (message.status) {
      const back = this.#open.get(message.branch);
      back?.onmessage({ data: text });
    } else if (message.method === "REGISTER") this.register(message, socket);
    else {
      const status = this.refuse(message, who);
      const home = this.homes.get(userOf(message.uri));
      this.#open.set(message.branch, socket);
      if (message.method === "ACK" && (status || !home)) return;
      if (status) socket.onmessage({ data: message.respond(status).toString() });
      else if (home?.readyState === 1) home.onmessage({ data: text });
      else if (message.method !== "ACK") socket.onmessage({ data: message.respond(404).toString() });
    }
  }

  #open = new Map();

  register(request, socket) {
    const user = userOf(address(request.get("to")).uri);
    const contact = request.get("contact");
    if (contact.includes("expires=0")) this.homes.delete(user);
    else this.homes.set(user, socket);
    const gruu = this.gruu ? `;pub-gruu="sip:${user}@sip.test;gr=${user}"` : "";
    const answer = request.respond(200, { headers: [["Contact", `${contact}${gruu}`]] });
    socket.onmessage({ data: answer.toString() });
  }
}

/* The last request with a method, or response with a status, that a socket has sent. */
export function last(socket, what) {
  const found = socket.sent.map((text) => Message.parse(text)).filter(Boolean);
  return found.filter(({ method, status }) => method === what || status === what).at(-1);
}

/* Puts a request to a telephone together, as another one would send it. */
export function request(method, { to = "<sip:alice@sip.test>", from = "<sip:bob@sip.test>;tag=b", callId = "c1", number = 1, branch = "z9hG4bK1", uri = "sip:alice@sip.test", headers = [], body = "" } = {}) {
  const fields = [["Via", `SIP/2.0/WS b.invalid;branch=${branch}`], ["From", from], ["To", to], ["Call-ID", callId], ["CSeq", `${number} ${method}`]];
  return new Message(`${method} ${uri} SIP/2.0`, [...fields, ...headers], body);
}

export const SDP = "v=0\r\no=- 7 1 IN IP4 0.0.0.0\r\ns=-\r\nm=audio 9 X 0\r\na=sendrecv\r\n";

/* What a target told of a kind, as it comes. */
export function heard(target, ...names) {
  const found = [];
  for (const name of names) target.addEventListener(name, ({ detail }) => found.push(detail));
  return found;
}
