import assert from "node:assert/strict";
import { test } from "node:test";

import { TIMEOUT, Transactions } from "../../../../wsproto_sip/cli/serve/static/transactions.mjs";
import { FakeClock, request, settle } from "./harness.mjs";

function layer({ connected = true } = {}) {
  const [sent, received, acks] = [[], [], []];
  const clock = new FakeClock();
  const transactions = new Transactions({
    send: (message) => connected && Boolean(sent.push(message)),
    clock,
    received: (transaction) => received.push(transaction),
    acknowledged: (ack) => acks.push(ack),
  });
  return { transactions, clock, sent, received, acks, starts: () => sent.map(({ start }) => start.split(" SIP/2.0")[0]) };
}

const invite = () => request("INVITE", { headers: [["Max-Forwards", "70"], ["Route", "<sip:p;lr>"]] });
const outcome = (promise) => promise.then(({ status }) => status, ({ status, message }) => `${status} ${message}`);

test("timer F: a request without a final response fails after 64*T1", async () => {
  const { transactions, clock } = layer();
  const heard = [];
  const options = request("OPTIONS");
  const end = outcome(transactions.request(options, { provisional: ({ status }) => heard.push(status) }));
  transactions.receive(options.respond(100));
  await clock.pass(TIMEOUT - 1);
  assert.equal(transactions.clients.size, 1);
  await clock.pass(1);
  assert.equal(await end, "408 no answer");
  assert.deepEqual(heard, [100]);
  assert.equal(transactions.clients.size, 0);
});

test("timer B: an INVITE that nothing answers fails; one that rings does not", async () => {
  const { transactions, clock } = layer();
  const silent = outcome(transactions.request(request("INVITE", { branch: "z9hG4bKx" })));
  const rings = invite();
  let ended = false;
  transactions.request(rings).then(() => (ended = true));
  transactions.receive(rings.respond(180));
  await clock.pass(TIMEOUT);
  assert.equal(await silent, "408 no answer");
  await clock.pass(10 * TIMEOUT);
  assert.ok(!ended);
});

test("a refusal is acknowledged in the INVITE's own transaction, which then is over", async () => {
  const { transactions, sent } = layer();
  const asked = invite();
  const end = outcome(transactions.request(asked));
  transactions.receive(asked.respond(486, { tag: "t" }));
  assert.equal(await end, 486);
  const ack = sent.at(-1);
  assert.equal(ack.start, "ACK sip:alice@sip.test SIP/2.0");
  assert.deepEqual([ack.branch, ack.get("to"), ack.get("cseq"), ack.get("route")], [asked.branch, "<sip:alice@sip.test>;tag=t", "1 ACK", "<sip:p;lr>"]);
  assert.equal(transactions.clients.size, 0);
});

test("timer M: each further 2xx is told for 64*T1", async () => {
  const { transactions, clock } = layer();
  const [asked, again] = [invite(), []];
  const end = outcome(transactions.request(asked, { repeated: ({ status }) => again.push(status) }));
  for (const status of [200, 200, 180, 486, 200]) transactions.receive(asked.respond(status));
  assert.equal(await end, 200);
  assert.deepEqual(again, [200, 200]);
  await clock.pass(TIMEOUT);
  assert.equal(transactions.clients.size, 0);
});

test("a CANCEL waits until something was heard, and not for ever for the end", async () => {
  const { transactions, clock, starts, sent } = layer();
  const asked = invite();
  let client;
  const end = outcome(transactions.request(asked, { begun: (begun) => (client = begun) }));
  client.cancel();
  client.cancel();
  assert.deepEqual(starts(), ["INVITE sip:alice@sip.test"]);
  transactions.receive(asked.respond(100));
  transactions.receive(asked.respond(180));
  assert.deepEqual(starts().slice(1), ["CANCEL sip:alice@sip.test"]);
  const cancel = sent.at(-1);
  assert.deepEqual([cancel.branch, cancel.get("cseq"), cancel.get("to")], [asked.branch, "1 CANCEL", asked.get("to")]);
  transactions.receive(cancel.respond(200));
  await clock.pass(TIMEOUT);
  assert.equal(await end, "487 cancelled");
});

test("a CANCEL is sent at once while it rings, and the refusal is acknowledged", async () => {
  const { transactions, starts } = layer();
  const asked = invite();
  let client;
  const end = outcome(transactions.request(asked, { begun: (begun) => (client = begun) }));
  transactions.receive(asked.respond(180));
  client.cancel();
  transactions.receive(asked.respond(487));
  assert.equal(await end, 487);
  assert.deepEqual(starts().map((start) => start.split(" ")[0]), ["INVITE", "CANCEL", "ACK"]);
});

test("without a connection a request fails at once, and with the connection all that is under way", async () => {
  assert.equal(await outcome(layer({ connected: false }).transactions.request(invite())), "503 there is no connection");
  const { transactions, received } = layer();
  const end = outcome(transactions.request(request("OPTIONS", { branch: "z9hG4bK2" })));
  transactions.receive(invite());
  transactions.lost();
  assert.equal(await end, "503 the connection was lost");
  assert.equal(received[0].state, "terminated");
  received[0].respond(invite().respond(200));
});

test("timer H: a refusal waits 64*T1 for its ACK", async () => {
  for (const acknowledged of [true, false]) {
    const { transactions, clock, sent, received, acks } = layer();
    transactions.receive(invite());
    received[0].respond(invite().respond(180));
    transactions.receive(invite());
    received[0].respond(invite().respond(486));
    transactions.receive(invite());
    assert.deepEqual(sent.map(({ status }) => status), [180, 180, 486, 486]);
    assert.equal(received.length, 1);
    if (acknowledged) transactions.receive(request("ACK"));
    else await clock.pass(TIMEOUT);
    assert.equal(transactions.servers.size, 0);
    assert.deepEqual(acks, []);
  }
});

test("timer L: an accepted INVITE is remembered, and its 2xx is its user's to repeat", async () => {
  const { transactions, clock, sent, received, acks } = layer();
  transactions.receive(invite());
  received[0].respond(invite().respond(200));
  transactions.receive(invite());
  assert.equal(sent.length, 1);
  transactions.receive(request("ACK"));
  transactions.receive(request("ACK", { branch: "z9hG4bKack" }));
  assert.equal(acks.length, 2);
  await clock.pass(TIMEOUT);
  assert.equal(transactions.servers.size, 0);
});

test("a CANCEL ends what rings, is too late after the answer, and 481 for what there is not", async () => {
  const { transactions, sent, received } = layer();
  transactions.receive(request("CANCEL"));
  assert.equal(sent.at(-1).status, 481);
  transactions.receive(invite());
  const [rings] = received;
  let cancelled = 0;
  rings.cancelled = () => cancelled++;
  rings.respond(invite().respond(180, { tag: "t" }));
  transactions.receive(request("CANCEL"));
  assert.deepEqual([sent.at(-1).status, sent.at(-1).get("to"), cancelled], [200, "<sip:alice@sip.test>;tag=t", 1]);
  rings.respond(invite().respond(487, { tag: "t" }));
  transactions.receive(request("CANCEL"));
  assert.equal(cancelled, 1);
});

test("the same request by two ways is a loop; another sender's branch is another transaction", async () => {
  const { transactions, sent, received } = layer();
  transactions.receive(invite());
  transactions.receive(request("INVITE", { branch: "z9hG4bK2" }));
  assert.equal(sent.at(-1).status, 482);
  const other = request("INVITE", { callId: "c2" });
  other.headers[0] = ["via", "SIP/2.0/WS other.invalid;branch=z9hG4bK1"];
  transactions.receive(other);
  assert.equal(received.length, 2);
  transactions.receive(request("OPTIONS", { to: "<sip:alice@sip.test>;tag=t", branch: "z9hG4bK3" }));
  assert.equal(received.length, 3);
  await settle();
});

test("a response that belongs to nothing is dropped", () => {
  const { transactions, sent } = layer();
  transactions.receive(request("OPTIONS").respond(200));
  assert.equal(sent.length, 0);
});
