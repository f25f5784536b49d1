// The WebSocket to the server (RFC 7118): it comes back by itself, and notices when it is dead.

// RFC 6455 §7.2.3: the pauses between attempts grow, and clients do not come back all at once.
const LONGEST_PAUSE = 30000;
const PONG_TIMEOUT = 10000;

export class Connection {
  /*
   * `opened`, `received(text)` and `lost` are called as things happen; `waiting(seconds)` before
   * the pause until the next attempt, and `connecting` at each.
   */
  constructor({ url, clock, WebSocket, opened, received, lost, waiting, connecting }) {
    Object.assign(this, { url, clock, WebSocket, opened, received, lost, waiting, connecting });
    this.socket = null;
    this.failures = 0;
    this.stopped = false;
    this.timers = { retry: () => {}, ping: () => {}, pong: () => {} };
  }

  get open() {
    return Boolean(this.socket) && this.socket.readyState === this.WebSocket.OPEN;
  }

  start() {
    this.timers.retry();
    this.connecting();
    const socket = (this.socket = new this.WebSocket(this.url, "sip"));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.opened();
    socket.onmessage = ({ data }) => this.take(typeof data === "string" ? data : new TextDecoder().decode(data));
    socket.onclose = () => this.closed();
  }

  /* Does not wait for the next attempt: the network is said to be there again. */
  hurry() {
    if (!this.stopped && this.socket && this.socket.readyState === this.WebSocket.CLOSED) this.start();
  }

  /* Sends a message; false if there is no connection. */
  send(message) {
    if (this.open) this.socket.send(message.toString());
    return this.open;
  }

  take(text) {
    // RFC 5626 §3.5.1, RFC 7118 §6: pings and pongs between the messages.
    if (text.trim()) {
      this.received(text);
      return;
    }
    this.timers.pong();
    if (text === "\r\n\r\n") this.send("\r\n");
  }

  /* RFC 5626 §4.4.1: the server says how often it wants to hear from us. */
  keepAlive(seconds) {
    this.timers.ping();
    this.timers.ping = this.clock.after(seconds * 800, () => {
      this.send("\r\n\r\n");
      this.timers.pong = this.clock.after(PONG_TIMEOUT, () => this.drop());
      this.keepAlive(seconds);
    });
  }

  // A dead peer does not answer the closing handshake either, and the browser waits long for that.
  drop() {
    const { socket } = this;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.close(4000);
    this.closed();
  }

  closed() {
    this.timers.ping();
    this.timers.pong();
    this.lost();
    if (this.stopped) return;
    const pause = Math.min(1000 * 2 ** this.failures++, LONGEST_PAUSE) * (0.5 + Math.random() / 2);
    this.timers.retry();
    this.timers.retry = this.clock.after(pause, () => this.start());
    this.waiting(Math.ceil(pause / 1000));
  }

  /* Closes it for good. */
  stop() {
    this.stopped = true;
    this.timers.retry();
    // One that is still being opened would otherwise register once it is open.
    if (this.socket && this.socket.readyState < this.WebSocket.CLOSING) this.socket.close(1000);
    else this.lost();
  }
}
