// A telephone made of JsSIP.

import JsSIP from "jssip";
import { Phone } from "./phone.mjs";

// [connect]
/** A user agent for sip:user@domain on a WebSocket; without a password it has no credentials. */
function userAgent({ url, user, domain, password }) {
  return new JsSIP.UA({
    sockets: [new JsSIP.WebSocketInterface(url)],
    uri: `sip:${user}@${domain}`,
    ...(password && { password }),
    register: false, // true: registers whenever it has connected
    // Seconds before it connects again: 2 to 30 by default, which is kinder to a busy server.
    connection_recovery_min_interval: 1,
    connection_recovery_max_interval: 1,
  });
}
// [end]

// [call]
const audio = {
  mediaConstraints: { audio: true, video: false },
  pcConfig: { iceServers: [] },
};
// [end]

const status = (response) => response?.status_code ?? null;

export class JsSipPhone extends Phone {
  constructor(settings) {
    super();
    this.domain = settings.domain;
    this.ua = userAgent(settings);
    // It connects again by itself; to register again is left to us, since "register" is false.
    this.again = false;
    this.ua.on("connected", () => {
      this.tell("connected");
      if (this.again) this.ua.register();
    });
    this.ua.on("disconnected", ({ code }) => this.tell("disconnected", { code: code ?? null }));
    this.ua.on("registered", ({ response }) => {
      this.again = true;
      this.tell("registered", { status: status(response) });
    });
    this.ua.on("unregistered", ({ response }) => {
      // It says so as well when the connection is lost.
      if (response) this.tell("unregistered", { status: status(response) });
    });
    this.ua.on("registrationFailed", ({ response }) =>
      this.tell("registered", { status: status(response) }),
    );
    this.ua.on("newMessage", ({ originator, message, request }) => {
      if (originator !== "remote") return;
      message.accept();
      this.tell("message", {
        from: request.from.uri.toString(),
        type: request.getHeader("content-type"),
        text: request.body,
      });
    });
    this.ua.on("newRTCSession", ({ originator, session, request }) => {
      this.#watch(session);
      if (originator === "remote") {
        this.tell("incoming", { from: request.from.uri.toString() });
      }
    });
  }

  #uri(user) {
    return `sip:${user}@${this.domain}`;
  }

  #watch(session) {
    this.session = session;
    session.on("progress", ({ originator, response }) => {
      if (originator === "remote") this.tell("ringing", { status: status(response) });
    });
    session.on("confirmed", () => this.tell("confirmed"));
    session.on("failed", ({ originator, message, cause }) =>
      this.tell("failed", { by: originator, status: status(message), cause }),
    );
    session.on("ended", ({ originator }) => this.tell("ended", { by: originator }));
    session.on("hold", ({ originator }) => {
      if (originator === "remote") this.tell("held");
    });
    session.on("unhold", ({ originator }) => {
      if (originator === "remote") this.tell("resumed");
    });
    session.on("update", () => this.tell("updated"));
    session.on("newDTMF", ({ originator, dtmf }) => {
      if (originator === "remote") this.tell("tone", { tone: dtmf.tone });
      else dtmf.on("succeeded", ({ response }) => this.tell("sent", { status: status(response) }));
    });
  }

  peerConnection() {
    return this.session.connection;
  }

  inCall() {
    return this.session !== undefined && !this.session.isEnded();
  }

  connect() {
    this.ua.start();
    return this.until("connected");
  }

  register() {
    this.ua.register();
    return this.until("registered");
  }

  /** Itself, or everybody who has registered for the user. */
  unregister(all = false) {
    this.again = false;
    this.ua.unregister({ all });
    return this.until("unregistered");
  }

  /** Unregisters before its page is closed, if it is registered. */
  async leave() {
    if (this.ua.isRegistered()) await this.unregister();
  }

  #ask(method, user, body, options) {
    return new Promise((resolve) => {
      const done = ({ response, cause }) =>
        resolve({
          status: status(response),
          cause: cause ?? null,
          allow: response?.getHeader("allow") ?? null,
        });
      // As text it would be taken for a user's name.
      const uri = user === null ? new JsSIP.URI("sip", null, this.domain) : this.#uri(user);
      const eventHandlers = { succeeded: done, failed: done };
      this.ua[method](uri, body, { ...options, eventHandlers });
    });
  }

  message(user, text) {
    return this.#ask("sendMessage", user, text, { contentType: "text/plain" });
  }

  options(user) {
    return this.#ask("sendOptions", user, undefined, {});
  }

  call(user) {
    this.ua.call(this.#uri(user), audio);
  }

  answer() {
    this.session.answer(audio);
  }

  reject(code) {
    this.session.terminate({ status_code: code });
  }

  cancel() {
    this.session.terminate();
  }

  hangUp() {
    this.session.terminate();
  }

  hold() {
    return new Promise((resolve, reject) => {
      if (!this.session.hold({}, resolve)) reject(new Error("cannot hold"));
    });
  }

  resume() {
    return new Promise((resolve, reject) => {
      if (!this.session.unhold({}, resolve)) reject(new Error("cannot resume"));
    });
  }

  /** Offers what there is already, by UPDATE, as it does itself to keep a long call. */
  update() {
    return new Promise((resolve, reject) => {
      if (!this.session.renegotiate({ useUpdate: true }, resolve)) reject(new Error("cannot"));
    });
  }

  tone(tone) {
    this.session.sendDTMF(tone, { transportType: "INFO" });
    return this.until("sent");
  }
}
