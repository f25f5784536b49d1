// What the page's agent makes of what it is told, without a browser: results as JSON.
// Arguments: the directory of the page's scripts.

const { UserAgent, address, userOf } = await import(`${process.argv[2]}/sip.js`);

class Socket {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  readyState = Socket.CONNECTING;
  sent = [];

  send(text) {
    this.sent.push(text);
  }

  close() {
    this.readyState = 3;
    this.onclose();
  }
}

globalThis.WebSocket = Socket;

const agent = new UserAgent({ url: "ws://sip.test/", user: "alice", domain: "sip.test" });
agent.start();
await agent.stop();

const values = [
  'bob <sip:bob@sip.test>;tag=1',
  '"<sip:bob@sip.test>;tag=2" <sip:mallory@sip.test>;tag=1',
  '"a \\" <sip:bob@sip.test> \\\\" <sip:mallory@sip.test>;tag=1',
  "<sip:bob@sip.test>",
  "sip:bob@sip.test;tag=1",
];
console.log(JSON.stringify({
  addresses: values.map(address),
  users: ["sip:b%20b@sip.test", "sip:%FF@sip.test", "tel:+1"].map(userOf),
  closed: agent.socket.readyState,
  state: agent.state,
}));
