// What the page's agent makes of what it is told, without a browser: results as JSON.
// Arguments: the directory of the page's scripts.

const { Message, UserAgent, address, userOf } = await import(`${process.argv[2]}/sip.js`);

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

// How long it waits to register again, in milliseconds.
async function refreshedAfter(...fields) {
  const delays = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (_, delay) => delays.push(delay);
  const bob = new UserAgent({ url: "ws://sip.test/", user: "bob", domain: "sip.test" });
  bob.start();
  bob.socket.readyState = Socket.OPEN;
  bob.socket.onopen();
  const register = Message.parse(bob.socket.sent[0]);
  const kept = ["via", "from", "to", "call-id", "cseq"].map((name) => `${name}: ${register.get(name)}`);
  const given = fields.map((field) => field.replace("OWN", bob.contact));
  bob.receive(["SIP/2.0 200 OK", ...kept, ...given, "", ""].join("\r\n"));
  await new Promise((resolve) => setTimeout(resolve));
  globalThis.setTimeout = setTimeout;
  return bob.state === "registered" ? delays.at(-1) : bob.state;
}

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
  refreshed: [
    await refreshedAfter("Contact: <sip:bob@old.invalid>;expires=9, <OWN>;reg-id=1;expires=120"),
    await refreshedAfter("Contact: <OWN>", "Expires: 60"),
    await refreshedAfter(),
  ],
  closed: agent.socket.readyState,
  state: agent.state,
}));
