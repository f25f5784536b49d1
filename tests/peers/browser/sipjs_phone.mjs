// A telephone made of SIP.js.

import { Inviter, Messager, Registerer, RegistererState, SessionState, UserAgent } from "sip.js";
import { Phone } from "./phone.mjs";

// [connect]
/** A user agent for sip:user@domain on a WebSocket; without a password it has no credentials. */
function userAgent({ url, user, domain, password }, delegate) {
  return new UserAgent({
    transportOptions: { server: url },
    uri: UserAgent.makeURI(`sip:${user}@${domain}`),
    ...(password && { authorizationUsername: user, authorizationPassword: password }),
    sessionDescriptionHandlerFactoryOptions: { peerConnectionConfiguration: { iceServers: [] } },
    logBuiltinEnabled: false,
    delegate,
  });
}

/** Registers as flow 1 of an instance where that is wanted (RFC 5626), and plainly otherwise. */
function registerer(userAgent, outbound) {
  const flow = { regId: 1, instanceId: userAgent.instanceId };
  return new Registerer(userAgent, outbound ? flow : {});
}
// [end]

// [again]
/** Connects again until that succeeds: SIP.js does not do so by itself. */
async function reconnect(userAgent, wait) {
  for (;;) {
    await wait();
    try {
      return await userAgent.reconnect();
    } catch {
      // Not there yet.
    }
  }
}
// [end]

// [call]
const audio = { constraints: { audio: true, video: false } };
// [end]

const status = (response) => response.message.statusCode;

/** A promise of the final response to a request, and the delegate that keeps it. */
function answered() {
  let resolve;
  const final = new Promise((done) => {
    resolve = done;
  });
  return [final, { onAccept: resolve, onReject: resolve, onRedirect: resolve }];
}

export class SipJsPhone extends Phone {
  constructor(settings) {
    super();
    this.settings = settings;
    this.ua = userAgent(settings, {
      onConnect: () => this.tell("connected"),
      onDisconnect: (error) => this.#disconnected(error),
      onMessage: (message) => this.#message(message),
      onInvite: (invitation) => {
        this.#watch(invitation);
        this.tell("incoming", { from: invitation.request.from.uri.toString() });
      },
    });
    this.registerer = registerer(this.ua, settings.outbound);
    this.again = false;
  }

  #uri(user) {
    const { domain } = this.settings;
    return UserAgent.makeURI(user === null ? `sip:${domain}` : `sip:${user}@${domain}`);
  }

  async #disconnected(error) {
    this.tell("disconnected", { error: error ? error.message : null });
    // There is no error where we have disconnected ourselves.
    if (!error) return;
    await reconnect(this.ua, () => new Promise((resolve) => setTimeout(resolve, 250)));
    if (this.again) this.tell("registered", await this.#register());
  }

  #message(message) {
    const { request } = message;
    message.accept();
    this.tell("message", {
      from: request.from.uri.toString(),
      type: request.getHeader("content-type"),
      text: request.body,
    });
  }

  #watch(session) {
    this.session = session;
    this.by = "local";
    this.refused = null;
    let confirmed = false;
    session.stateChange.addListener(async (state) => {
      // An invitation is established when the ACK has come.
      if (state === SessionState.Established) {
        confirmed = true;
        this.tell("confirmed");
      } else if (state === SessionState.Terminated) {
        // Only behind this does the delegate hear why.
        await null;
        this.tell(confirmed ? "ended" : "failed", { by: this.by, status: this.refused });
      }
    });
    session.delegate = {
      onBye: (bye) => {
        this.by = "remote";
        bye.accept();
      },
      onCancel: () => {
        this.by = "remote";
      },
      onInfo: (info) => {
        info.accept();
        const [, tone] = /^Signal=(.)/m.exec(info.request.body) ?? [];
        this.tell("tone", { tone });
      },
      onInvite: (request) =>
        this.tell(/^a=(sendonly|inactive)/m.test(request.body) ? "held" : "resumed"),
    };
  }

  peerConnection() {
    return this.session.sessionDescriptionHandler.peerConnection;
  }

  inCall() {
    return this.session !== undefined && this.session.state !== SessionState.Terminated;
  }

  async connect() {
    await this.ua.start();
    return this.until("connected");
  }

  async #register() {
    const [final, requestDelegate] = answered();
    await this.registerer.register({ requestDelegate });
    this.again = true;
    return { status: status(await final) };
  }

  register() {
    return this.#register();
  }

  /** Itself, or everybody who has registered for the user. */
  async unregister(all = false) {
    this.again = false;
    const [final, requestDelegate] = answered();
    await this.registerer.unregister({ all, requestDelegate });
    return { status: status(await final) };
  }

  /** Does what it does by itself with a keepAliveInterval (RFC 7118 §6). */
  async keepAlive() {
    await this.ua.transport.sendKeepAlive();
  }

  /** Unregisters before its page is closed, if it is registered. */
  async leave() {
    if (this.registerer.state === RegistererState.Registered) await this.unregister();
  }

  async message(user, text) {
    const [final, requestDelegate] = answered();
    const messager = new Messager(this.ua, this.#uri(user), text, "text/plain");
    await messager.message({ requestDelegate });
    return { status: status(await final) };
  }

  async options(user) {
    // There is no class for this one.
    const core = this.ua.userAgentCore;
    const { aor } = core.configuration;
    const uri = this.#uri(user);
    const [final, requestDelegate] = answered();
    core.request(core.makeOutgoingRequestMessage("OPTIONS", uri, aor, uri, {}), requestDelegate);
    const response = await final;
    return { status: status(response), allow: response.message.getHeader("allow") ?? null };
  }

  async call(user) {
    const inviter = new Inviter(this.ua, this.#uri(user), {
      sessionDescriptionHandlerOptions: audio,
    });
    this.#watch(inviter);
    await inviter.invite({
      requestDelegate: {
        onProgress: (response) => this.tell("ringing", { status: status(response) }),
        onReject: (response) => {
          this.by = "remote";
          this.refused = status(response);
        },
      },
    });
  }

  async answer() {
    await this.session.accept({ sessionDescriptionHandlerOptions: audio });
  }

  async reject(statusCode) {
    await this.session.reject({ statusCode });
  }

  async cancel() {
    await this.session.cancel();
  }

  async hangUp() {
    await this.session.bye();
  }

  // [hold]
  async #offer(hold) {
    const [final, requestDelegate] = answered();
    // It holds for the answers to what the other side offers, too.
    this.session.sessionDescriptionHandlerOptionsReInvite = { ...audio, hold };
    await this.session.invite({ requestDelegate });
    await final;
  }
  // [end]

  hold() {
    return this.#offer(true);
  }

  resume() {
    return this.#offer(false);
  }

  // [tone]
  async tone(tone) {
    const [final, requestDelegate] = answered();
    const body = {
      contentDisposition: "render",
      contentType: "application/dtmf-relay",
      content: `Signal=${tone}\r\nDuration=100`,
    };
    await this.session.info({ requestDelegate, requestOptions: { body } });
    return { status: status(await final) };
  }
  // [end]
}
