import assert from "node:assert/strict";
import { test } from "node:test";

import { UserAgent } from "../../../../wsproto_sip/cli/serve/static/agent.mjs";
import { Message } from "../../../../wsproto_sip/cli/serve/static/message.mjs";
import { FakeClock, SDP, Server, heard, last, request, settle, sockets } from "./harness.mjs";

async function connected({ password = "", url = "ws://sip.test/" } = {}) {
  const [clock, WebSocket] = [new FakeClock(), sockets()];
  const agent = new UserAgent({ url, user: "alice", domain: "sip.test", password, clock, WebSocket });
  const states = heard(agent, "state");
  agent.start();
  const socket = WebSocket.made[0];
  socket.open();
  await settle();
  const answer = async (status, headers = []) => {
    const sent = socket.sent.map((text) => Message.parse(text)).filter((message) => message?.method).at(-1);
    const filled = headers.map((line) => [line.split(": ")[0], line.slice(line.indexOf(": ") + 2).replace("OWN", agent.ownContact)]);
    socket.onmessage({ data: sent.respond(status, { headers: filled }).toString() });
    await settle();
  };
  return { agent, clock, socket, answer, states, made: WebSocket.made, names: () => states.map(({ name }) => name) };
}

test("it registers with Outbound and a GRUU, and says so", async () => {
  const { agent, socket, answer, names } = await connected({ url: "wss://sip.test/" });
  const register = last(socket, "REGISTER");
  assert.match(register.get("via"), /^SIP\/2\.0\/WSS [0-9a-f]+\.invalid;branch=z9hG4bK/);
  assert.match(register.get("contact"), /^<sip:alice@[0-9a-f]+\.invalid;transport=ws;ob>;reg-id=1;\+sip\.instance="<urn:uuid:[^>]+>";expires=600$/);
  assert.equal(register.get("supported"), "gruu, outbound, path");
  assert.match(agent.contact, /;ob>$/);
  await answer(200, ['Contact: <OWN;ob>;expires=600;pub-gruu="sip:alice@sip.test;gr=1"']);
  assert.deepEqual(names(), ["connecting", "registering", "registered"]);
  assert.equal(agent.contact, "<sip:alice@sip.test;gr=1>");
});

for (const [fields, seconds] of [
  [["Contact: <OWN;ob>;expires=120, <sip:other@x>;expires=7"], 120],
  [["Contact: <sip:other@x>;expires=7", "Expires: 60"], 60],
  [[], 600],
]) {
  test(`it registers again when three quarters of ${seconds} s are over`, async () => {
    const { socket, clock, answer, names } = await connected();
    await answer(200, fields);
    await clock.pass(seconds * 750 - 1);
    assert.equal(socket.sent.length, 1);
    await clock.pass(1);
    assert.equal(socket.sent.length, 2);
    assert.equal(last(socket, "REGISTER").get("cseq"), "2 REGISTER");
    await answer(200, fields);
    assert.equal(names().filter((name) => name === "registered").length, 1);
  });
}

test("the server's flow timer sets the keep-alive", async () => {
  const { socket, clock, answer } = await connected();
  await answer(200, ["Flow-Timer: 30"]);
  await clock.pass(24_000);
  assert.equal(socket.sent.at(-1), "\r\n\r\n");
});

const CHALLENGE = 'WWW-Authenticate: Digest realm="r", nonce="n1", qop="auth"';

test("a challenge is answered once, and a stale nonce once more", async () => {
  const { agent, socket, answer } = await connected({ password: "secret" });
  await answer(401, [CHALLENGE]);
  assert.match(last(socket, "REGISTER").get("authorization"), /username="alice"/);
  assert.equal(last(socket, "REGISTER").get("cseq"), "2 REGISTER");
  await answer(401, [`${CHALLENGE}, stale=true`]);
  assert.equal(socket.sent.length, 3);
  await answer(401, [CHALLENGE]);
  assert.equal(socket.sent.length, 3);
  assert.deepEqual([agent.state.name, agent.state.status, agent.state.seconds], ["refused", 401, null]);
});

test("a wrong password is not tried again, nor one that is missing or cannot be used", async () => {
  for (const [password, challenge, requests] of [["wrong", CHALLENGE, 2], ["", CHALLENGE, 1], ["x", "WWW-Authenticate: Basic realm=x", 1]]) {
    const { agent, socket, answer, clock } = await connected({ password });
    await answer(401, [challenge]);
    if (requests === 2) await answer(401, [challenge]);
    await clock.pass(3_600_000);
    assert.equal(socket.sent.length, requests);
    assert.equal(agent.state.name, "refused");
  }
});

test("a proxy's challenge gets its own field", async () => {
  const { socket, answer } = await connected({ password: "secret" });
  await answer(407, ['Proxy-Authenticate: Digest realm="r", nonce="n", qop="auth"']);
  assert.match(last(socket, "REGISTER").get("proxy-authorization"), /^Digest /);
});

test("a server with a problem is asked again in 30 seconds, and one that does not answer too", async () => {
  const { agent, socket, clock, answer } = await connected();
  await answer(503);
  assert.deepEqual([agent.state.name, agent.state.seconds], ["refused", 30]);
  await clock.pass(30_000);
  assert.equal(socket.sent.length, 2);
  await clock.pass(32_000);
  assert.deepEqual([agent.state.name, agent.state.status], ["refused", 408]);
});

test("a lost connection comes back and registers", async () => {
  const { agent, clock, made, answer, names } = await connected();
  await answer(200);
  made[0].lose();
  assert.equal(agent.state.name, "offline");
  await clock.pass(1000);
  made[1].open();
  await settle();
  assert.deepEqual(names().slice(2), ["registered", "offline", "connecting", "registering"]);
});

test("stopping unregisters; a connection that is still being opened does not register after all", async () => {
  const { agent, socket, answer } = await connected();
  await answer(200);
  const stopped = agent.stop();
  await settle();
  assert.match(last(socket, "REGISTER").get("contact"), /expires=0$/);
  await answer(200);
  await stopped;
  assert.deepEqual([agent.state.name, socket.code], ["ended", 1000]);
  const WebSocket = sockets();
  const early = new UserAgent({ url: "ws://x/", user: "a", domain: "x", clock: new FakeClock(), WebSocket });
  early.start();
  await early.stop();
  assert.deepEqual([early.state.name, WebSocket.made[0].sent], ["ended", []]);
});

test("messages go to whom they are for, and come from whom they say", async () => {
  const server = new Server(new FakeClock());
  const [alice, bob] = [await server.phone("alice"), await server.phone("bob")];
  const got = heard(bob, "message");
  await alice.message("bob", "Grüße\r\n\r\n!");
  assert.deepEqual(got, [{ uri: "sip:alice@sip.test", text: "Grüße\r\n\r\n!" }]);
  await assert.rejects(alice.message("nobody", "x"), { status: 404 });
});

test("what it does not know or cannot do is refused with the right status", async () => {
  const { socket } = await connected();
  const statuses = [];
  const within = "<sip:alice@sip.test>;tag=x";
  for (const [method, values] of [
    ["SUBSCRIBE", {}],
    ["OPTIONS", {}],
    ["OPTIONS", { to: within }],
    ["OPTIONS", { headers: [["Require", "replaces, 100rel"]] }],
    ["BYE", { to: within }],
    ["BYE", {}],
    ["INVITE", { to: within }],
    ["REFER", {}],
    ["NOTIFY", {}],
    ["MESSAGE", { headers: [["Content-Type", "image/png"]] }],
    ["MESSAGE", { body: "without a type" }],
    ["INVITE", { headers: [["Content-Type", "text/plain"]], body: "hi" }],
    ["INVITE", { headers: [["Replaces", "c;to-tag=1;from-tag=2"]], body: SDP }],
    ["CANCEL", {}],
    ["ACK", {}],
  ]) {
    const before = socket.sent.length;
    const branch = `z9hG4bK${statuses.length}`;
    socket.onmessage({ data: request(method, { ...values, branch, callId: branch }).toString() });
    await settle();
    statuses.push(socket.sent.length > before ? Message.parse(socket.sent.at(-1)).status : null);
  }
  assert.deepEqual(statuses, [405, 200, 481, 420, 481, 481, 481, 403, 481, 415, 200, 415, 481, 481, null]);
  assert.equal(last(socket, 420).get("unsupported"), "100rel");
  assert.match(last(socket, 405).get("allow"), /REFER/);
  socket.onmessage({ data: "nonsense" });
});
