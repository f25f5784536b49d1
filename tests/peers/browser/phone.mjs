// What the telephones of both libraries have in common: what they tell, and how that is waited for.

export class Phone {
  // What happened and was not asked for yet, and who waits for what.
  #told = [];
  #waiting = [];

  /** Something has happened. */
  tell(event, values = {}) {
    const told = { event, ...values };
    const place = this.#waiting.findIndex((waiter) => waiter.events.includes(event));
    if (place < 0) this.#told.push(told);
    else this.#waiting.splice(place, 1)[0].resolve(told);
  }

  /** The next event of these kinds; others are kept. */
  until(...events) {
    const place = this.#told.findIndex((told) => events.includes(told.event));
    if (place >= 0) return this.#told.splice(place, 1)[0];
    return new Promise((resolve) => this.#waiting.push({ events, resolve }));
  }

  /** What has happened and was not asked for. */
  left() {
    return this.#told.map((told) => told.event);
  }

  /** Whether there is no call, and nothing that was not asked for. */
  isIdle() {
    return this.#told.length === 0 && !this.inCall();
  }

  /**
   * RTP packets that came and went, when there have been more of both than given here: a counter
   * has no event, so it is read until it has moved on.
   */
  async media(received = 0, sent = 0) {
    const connection = this.peerConnection();
    for (;;) {
      const counted = { received: 0, sent: 0 };
      for (const report of (await connection.getStats()).values()) {
        if (report.type === "inbound-rtp") counted.received += report.packetsReceived;
        if (report.type === "outbound-rtp") counted.sent += report.packetsSent;
      }
      if (counted.received > received && counted.sent > sent) return counted;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Which way audio goes: sendrecv, sendonly, recvonly or inactive. */
  direction() {
    return this.peerConnection().getTransceivers()[0].currentDirection;
  }
}
