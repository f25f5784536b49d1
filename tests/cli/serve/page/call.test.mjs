import assert from "node:assert/strict";
import { test } from "node:test";

import { Message, address } from "../../../../wsproto_sip/cli/serve/static/message.mjs";
import { FakeClock, FakeMedia, SDP, Server, heard, last, request, settle } from "./harness.mjs";

const names = (server) => server.log.filter((line) => !line.endsWith("REGISTER"));

async function two(...values) {
  const clock = new FakeClock();
  const server = new Server(clock);
  const [alice, bob] = [await server.phone("alice", ...values), await server.phone("bob", ...values)];
  return { clock, server, alice, bob };
}

/* Two telephones in a call. */
async function talking(...values) {
  const found = await two(...values);
  const { alice, bob } = found;
  const incoming = heard(bob, "call");
  const out = alice.call("bob", new FakeMedia("a"));
  await settle();
  incoming[0].accept(new FakeMedia("b"));
  await settle();
  assert.deepEqual([out.state, incoming[0].state], ["active", "active"]);
  return { ...found, out, into: incoming[0] };
}

/* A telephone and somebody else of whom the test says every word. */
async function alone() {
  const clock = new FakeClock();
  const server = new Server(clock);
  const alice = await server.phone("alice");
  const socket = alice.WebSocket.made[0];
  socket.deliver = undefined;
  const say = async (message) => {
    socket.onmessage({ data: message.toString() });
    await settle();
  };
  return { clock, alice, socket, say };
}

const contact = [["Contact", "<sip:bob@b.invalid>"], ["Supported", "replaces"]];
const described = [...contact, ["Content-Type", "application/sdp"]];

test("a call rings, is answered and hung up", async () => {
  const { server, alice, bob, clock } = await two();
  const incoming = heard(bob, "call");
  const media = new FakeMedia("a");
  const out = alice.call("bob", media);
  assert.equal(out.state, "calling");
  await settle();
  const [into] = incoming;
  assert.deepEqual([out.state, into.state, into.user, into.direction], ["ringing", "incoming", "alice", "in"]);
  into.accept(new FakeMedia("b"));
  await settle();
  assert.deepEqual([out.state, into.state], ["active", "active"]);
  assert.match(media.remote, /^o=- b /m);
  await clock.pass(5000);
  into.hangUp();
  await settle();
  assert.deepEqual([out.ending.why, into.ending.why], ["remote", "hung up"]);
  assert.equal(out.endedAt - out.answeredAt, 5000);
  assert.ok(media.closed);
  assert.deepEqual([alice.calls, bob.calls], [[], []]);
  assert.deepEqual(names(server), ["alice INVITE", "bob 180 INVITE", "bob 200 INVITE", "alice ACK", "bob BYE", "alice 200 BYE"]);
});

test("calls that come to nothing: declined, taken back, nobody there, oneself", async () => {
  const { alice, bob, server } = await two();
  const incoming = heard(bob, "call");
  const declined = alice.call("bob", new FakeMedia());
  await settle();
  incoming[0].hangUp();
  await settle();
  assert.deepEqual([declined.ending.why, declined.ending.status, incoming[0].ending.why], ["refused", 603, "declined"]);
  const taken = alice.call("bob", new FakeMedia());
  await settle();
  taken.hangUp();
  taken.hangUp();
  await settle();
  assert.deepEqual([taken.ending.why, incoming[1].ending.why], ["cancelled", "missed"]);
  assert.deepEqual(names(server).slice(-4), ["alice CANCEL", "bob 200 CANCEL", "bob 487 INVITE", "alice ACK"]);
  const nobody = alice.call("nobody", new FakeMedia());
  const self = alice.call("alice", new FakeMedia());
  await settle();
  assert.deepEqual([nobody.ending.status, self.ending.status], [404, 486]);
  assert.deepEqual(alice.calls, []);
});

test("media that cannot be had end a call before it begins", async () => {
  const { alice } = await two();
  const media = new FakeMedia();
  media.offer = async () => {
    throw new Error("no device");
  };
  const call = alice.call("bob", media);
  await settle();
  assert.deepEqual([call.ending.why, call.ending.reason], ["failed", "no device"]);
  const other = new FakeMedia();
  const hung = alice.call("bob", other);
  hung.hangUp();
  await settle();
  assert.equal(hung.ending.why, "cancelled");
});

test("an answer that crosses the hanging up is acknowledged and ended", async () => {
  const { alice, socket, say } = await alone();
  const call = alice.call("bob", new FakeMedia());
  await settle();
  const invite = last(socket, "INVITE");
  await say(invite.respond(180, { tag: "t" }));
  call.hangUp();
  await settle();
  await say(last(socket, "CANCEL").respond(200));
  await say(invite.respond(200, { tag: "t", headers: described, body: SDP }));
  assert.ok(last(socket, "ACK"));
  assert.equal(last(socket, "BYE").uri, "sip:bob@b.invalid");
});

test("each copy of the 2xx is acknowledged, and a second telephone that answers is hung up on", async () => {
  const { alice, socket, say } = await alone();
  const call = alice.call("bob", new FakeMedia());
  await settle();
  const invite = last(socket, "INVITE");
  const route = ["Record-Route", "<sip:p1;lr>, <sip:p2;lr>"];
  const answer = (tag) => invite.respond(200, { tag, headers: [...described, route], body: SDP });
  await say(answer("one"));
  assert.equal(call.state, "active");
  const acks = () => socket.sent.filter((text) => text.startsWith("ACK")).map((text) => Message.parse(text));
  await say(answer("one"));
  assert.equal(acks().length, 2);
  assert.deepEqual(acks()[0].all("route"), ["<sip:p2;lr>", "<sip:p1;lr>"]);
  assert.equal(acks()[0].get("cseq"), "1 ACK");
  await say(answer("two"));
  assert.equal(address(acks()[2].get("to")).tag, "two");
  assert.equal(address(last(socket, "BYE").get("to")).tag, "two");
  assert.equal(call.state, "active");
});

test("the ACK has the credentials that the INVITE had", async () => {
  const { alice, socket, say } = await alone();
  alice.password = "x";
  alice.call("bob", new FakeMedia());
  await settle();
  await say(last(socket, "INVITE").respond(407, { headers: [["Proxy-Authenticate", 'Digest realm="r", nonce="n", qop="auth"']] }));
  const second = last(socket, "INVITE");
  assert.equal(second.get("cseq"), "2 INVITE");
  await say(second.respond(200, { tag: "t", headers: described, body: SDP }));
  assert.equal(last(socket, "ACK").get("cseq"), "2 ACK");
  assert.equal(last(socket, "ACK").get("proxy-authorization"), second.get("proxy-authorization"));
});

test("hanging up between a challenge and its answer calls nobody", async () => {
  const { alice, socket, say } = await alone();
  alice.password = "x";
  const call = alice.call("bob", new FakeMedia());
  await settle();
  const answer = last(socket, "INVITE").respond(407, { headers: [["Proxy-Authenticate", 'Digest realm="r", nonce="n", qop="auth"']] });
  call.hangUp();
  await say(answer);
  assert.equal(last(socket, "INVITE").get("cseq"), "1 INVITE");
});

test("an answer without a description, or a bad one, is hung up on", async () => {
  const { alice, socket, say } = await alone();
  const call = alice.call("bob", new FakeMedia());
  await settle();
  await say(last(socket, "INVITE").respond(200, { tag: "t", headers: contact }));
  assert.deepEqual([call.ending.why, call.ending.reason], ["failed", "bad answer"]);
  assert.ok(last(socket, "BYE"));
});

const invitation = (values = {}) => request("INVITE", { headers: described, body: SDP, ...values });

async function ringing(values = {}) {
  const found = await alone();
  const incoming = heard(found.alice, "call");
  await found.say(invitation(values));
  const to = found.socket.sent.map((text) => Message.parse(text)).filter((m) => m?.status === 180).at(-1).get("to");
  return { ...found, call: incoming[0], within: (method, more = {}) => request(method, { to, branch: `z9hG4bK${Math.random()}`, number: 2, ...more }) };
}

test("an unanswered call says each minute that it still rings", async () => {
  const { socket, clock } = await ringing();
  const count = () => socket.sent.filter((text) => text.startsWith("SIP/2.0 180")).length;
  await clock.pass(120_000);
  assert.equal(count(), 3);
});

test("an invitation ends when it expires, when the caller says BYE, and when others have answered", async () => {
  const late = await ringing({ headers: [...described, ["Expires", "20"]] });
  await late.clock.pass(20_000);
  assert.deepEqual([late.call.ending.why, last(late.socket, 487) !== undefined], ["missed", true]);
  const bye = await ringing();
  await bye.say(bye.within("BYE"));
  assert.equal(bye.call.ending.why, "missed");
  assert.ok(last(bye.socket, 487));
  const elsewhere = await ringing();
  await elsewhere.say(request("CANCEL", { headers: [["Reason", 'SIP;cause=200;text="Call completed elsewhere"']] }));
  assert.equal(elsewhere.call.ending.why, "elsewhere");
});

test("the 2xx is sent again until the ACK comes, and the call ends without one", async () => {
  const { clock, socket, call } = await ringing();
  call.accept(new FakeMedia());
  const count = () => socket.sent.filter((text) => text.startsWith("SIP/2.0 200")).length;
  const times = [];
  await settle();
  for (let i = 0, before = count(); i < 330; i++) {
    await clock.pass(100);
    if (count() > before) times.push((i + 1) / 10);
    before = count();
  }
  // T1, doubled up to T2, for 64*T1.
  assert.deepEqual(times, [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]);
  assert.deepEqual([call.ending.why, call.ending.reason], ["failed", "no ACK"]);
  assert.ok(last(socket, "BYE"));
  const good = await ringing();
  good.call.accept(new FakeMedia());
  await settle();
  await good.say(good.within("ACK", { number: 1 }));
  const before = good.socket.sent.length;
  await good.clock.pass(60_000);
  assert.equal(good.socket.sent.length, before);
  assert.equal(good.call.state, "active");
});

test("the called side says BYE after the ACK, and not before", async () => {
  const { clock, socket, call, say, within, alice } = await ringing();
  call.accept(new FakeMedia());
  await settle();
  call.hangUp();
  await clock.pass(1000);
  assert.equal(last(socket, "BYE"), undefined);
  await say(within("ACK", { number: 7 }));
  assert.equal(last(socket, "BYE"), undefined);
  await say(within("ACK", { number: 1 }));
  assert.ok(last(socket, "BYE"));
  assert.equal(alice.leaving.size, 0);
});

test("a call whose offer comes later: ours goes out, and the ACK answers it", async () => {
  const { socket, call, say, within } = await ringing({ headers: contact, body: "" });
  const media = new FakeMedia("a");
  call.accept(media);
  await settle();
  assert.match(last(socket, 200).body, /^o=- a 1 /m);
  await say(within("ACK", { number: 1, headers: [["Content-Type", "application/sdp"]], body: SDP.replace("sendrecv", "sendonly") }));
  assert.deepEqual(media.log, ["offer", "answered"]);
  assert.ok(call.remoteHeld);
  const bad = await ringing({ headers: contact, body: "" });
  bad.call.accept(new FakeMedia());
  await settle();
  await bad.say(bad.within("ACK", { number: 1 }));
  assert.equal(bad.call.ending.why, "failed");
  assert.ok(last(bad.socket, "BYE"));
});

test("an offer that cannot be answered is refused with 488", async () => {
  const { socket, call } = await ringing();
  const media = new FakeMedia();
  media.broken = true;
  await call.accept(media);
  assert.equal(call.ending.why, "failed");
  assert.ok(last(socket, 488));
});

test("declining while microphone and camera are being opened", async () => {
  const { socket, call } = await ringing();
  const media = new FakeMedia();
  let opened;
  media.answer = () => new Promise((resolve) => (opened = resolve));
  call.accept(media);
  await settle();
  assert.equal(call.state, "answering");
  call.hangUp();
  opened(SDP);
  await settle();
  assert.equal(call.ending.why, "declined");
  assert.ok(last(socket, 603));
  assert.equal(last(socket, 200)?.sequence.method, undefined);
});

test("at most four calls at a time", async () => {
  const { alice, say, socket } = await alone();
  for (let i = 0; i < 5; i++) await say(invitation({ callId: `c${i}`, branch: `z9hG4bK${i}` }));
  assert.equal(alice.calls.length, 4);
  assert.equal(last(socket, 486).get("call-id"), "c4");
});

// -- within a call ---------------------------------------------------------------------------------

async function spoken() {
  const found = await ringing();
  found.media = new FakeMedia("a");
  found.call.accept(found.media);
  await settle();
  await found.say(found.within("ACK", { number: 1 }));
  return found;
}

test("hold and resume on both sides", async () => {
  const { out, into, server } = await talking();
  await out.hold(true);
  await settle();
  assert.deepEqual([out.held, into.remoteHeld], [true, true]);
  await out.hold(true);
  await into.hold(true);
  await settle();
  assert.deepEqual([into.held, out.remoteHeld], [true, true]);
  await out.hold(false);
  await into.hold(false);
  await settle();
  assert.deepEqual([out.held, into.held, out.remoteHeld, into.remoteHeld], [false, false, false, false]);
  assert.equal(names(server).filter((line) => line.endsWith(" INVITE") && !/\d/.test(line)).length, 5);
});

test("a refused hold is taken back, and a call that the other side does not know ends", async () => {
  const { out, into, server } = await talking();
  server.refuse = ({ method }) => (method === "INVITE" ? 488 : null);
  await assert.rejects(out.hold(true), { status: 488 });
  assert.deepEqual([out.held, out.media.held, out.media.log.at(-1)], [false, false, "rollback"]);
  server.refuse = ({ method }) => (method === "INVITE" ? 481 : null);
  await out.hold(true);
  assert.equal(out.ending.why, "remote");
  assert.equal(into.state, "active");
});

test("both put each other on hold at the same moment", async () => {
  const { out, into, clock } = await talking();
  const holds = [out.hold(true), into.hold(true)];
  await settle();
  await clock.pass(10_000);
  await Promise.all(holds);
  await settle();
  assert.deepEqual([out.held, into.held, out.remoteHeld, into.remoteHeld], [true, true, true, true]);
});

test("requests of the other side within a call", async () => {
  const { call, say, within, socket, alice, media } = await spoken();
  const told = heard(call, "told");
  const messages = heard(alice, "message");
  await say(within("OPTIONS"));
  assert.equal(last(socket, 200).sequence.method, "OPTIONS");
  await say(within("INFO", { number: 3, headers: [["Content-Type", "application/dtmf-relay"]], body: "Signal= 5\r\nDuration=160" }));
  await say(within("INFO", { number: 4, headers: [["Content-Type", "application/dtmf"]], body: "#" }));
  await say(within("INFO", { number: 5 }));
  assert.deepEqual(told.map(({ key }) => key), ["5", "#"]);
  await say(within("INFO", { number: 6, headers: [["Content-Type", "text/x"]], body: "x" }));
  assert.ok(last(socket, 415));
  await say(within("MESSAGE", { number: 7, headers: [["Content-Type", "text/plain"]], body: "hi" }));
  assert.equal(messages[0].text, "hi");
  await say(within("OPTIONS", { number: 1 }));
  assert.ok(last(socket, 500));
  await say(within("CANCEL", { number: 8 }));
  await say(within("NOTIFY", { number: 9 }));
  assert.ok(last(socket, 481));
  await say(within("INVITE", { number: 10, headers: [["Contact", "<sip:bob@new.invalid>"]] }));
  assert.match(last(socket, 200).body, /^o=- a /m);
  await say(within("ACK", { number: 10, headers: described, body: SDP }));
  assert.deepEqual(media.log.slice(-2), ["offer", "answered"]);
  assert.equal(call.dialog.target, "sip:bob@new.invalid");
  call.hangUp();
  await settle();
  assert.equal(last(socket, "BYE").uri, "sip:bob@new.invalid");
});

test("a re-INVITE that crosses ours gets 491, one before the ACK 500, a bad one 488, no ACK ends it", async () => {
  const { call, say, within, socket, media, clock } = await spoken();
  const hold = call.hold(true);
  await settle();
  const ours = last(socket, "INVITE");
  await say(within("INVITE", { number: 2, headers: described, body: SDP }));
  assert.ok(last(socket, 491));
  await say(ours.respond(200, { headers: described, body: SDP }));
  await hold;
  assert.equal(last(socket, "ACK").get("cseq"), ours.get("cseq").replace("INVITE", "ACK"));
  await say(within("INVITE", { number: 3, headers: described, body: SDP }));
  await say(within("INVITE", { number: 4, headers: described, body: SDP }));
  assert.match(last(socket, 500).get("retry-after"), /^\d$/);
  await say(within("ACK", { number: 3 }));
  media.broken = true;
  await say(within("INVITE", { number: 5, headers: described, body: SDP }));
  assert.ok(last(socket, 488));
  media.broken = false;
  await say(within("INVITE", { number: 6, headers: described, body: SDP }));
  await clock.pass(32_000);
  assert.deepEqual([call.ending.why, call.ending.reason], ["failed", "no ACK"]);
});

test("keys go as INFO where the media cannot carry them", async () => {
  const { out, into, server } = await talking();
  const told = heard(into, "told");
  await out.inform("*");
  assert.deepEqual(told, [{ what: "key", key: "*" }]);
  server.refuse = () => 415;
  await assert.rejects(out.inform("1"), { status: 415 });
});

// -- transfer --------------------------------------------------------------------------------------

async function three() {
  const found = await talking();
  found.carol = await found.server.phone("carol");
  found.offers = heard(found.into, "referred");
  found.carols = heard(found.carol, "call");
  found.told = heard(found.out, "told");
  return found;
}

test("a transfer: bob is asked, calls carol, and alice leaves", async () => {
  const { out, into, bob, offers, carols, told } = await three();
  await out.refer("sip:carol@sip.test");
  assert.ok(out.held && into.remoteHeld);
  assert.equal(out.transfer.who, "carol");
  await settle();
  const [referral] = offers;
  assert.equal(referral.user, "carol");
  const call = referral.accept(new FakeMedia("b2"));
  await settle();
  carols[0].accept(new FakeMedia("c"));
  await settle();
  assert.equal(call.state, "active");
  assert.deepEqual(told.map(({ what }) => what), ["transfer rings", "transferred"]);
  assert.deepEqual([out.ending.why, into.ending.why], ["transferred", "remote"]);
  assert.deepEqual(bob.calls, [call]);
});

test("a transfer that is declined or fails leaves the call on hold", async () => {
  const { out, offers, told, carols } = await three();
  await out.refer("sip:carol@sip.test");
  await settle();
  offers[0].decline();
  await settle();
  assert.deepEqual(told.at(-1), { what: "transfer failed", who: "carol", status: 603, reason: "Decline" });
  await out.refer("sip:carol@sip.test");
  await settle();
  offers[1].accept(new FakeMedia());
  await settle();
  carols[0].hangUp();
  await settle();
  assert.equal(told.at(-1).status, 603);
  await out.refer("sip:nobody@sip.test");
  await settle();
  offers[2].accept(new FakeMedia()).hangUp();
  await settle();
  assert.equal(told.at(-1).what, "transfer failed");
  assert.deepEqual([out.state, out.held, out.transfer], ["active", true, null]);
});

test("an attended transfer: bob takes the place of alice in her call with carol", async () => {
  const { alice, out, into, offers, carol, carols } = await three();
  await out.hold(true);
  const second = alice.call("carol", new FakeMedia("a2"));
  await settle();
  carols[0].accept(new FakeMedia("c"));
  await settle();
  await out.refer(second.uri, second);
  await settle();
  assert.equal(offers[0].target, "sip:carol@sip.test;gr=carol");
  const third = offers[0].accept(new FakeMedia("b2"));
  await settle();
  // What the page does with a call that replaces another one.
  assert.equal(carols[1].replaced, carols[0]);
  await carols[1].accept(new FakeMedia("c2"));
  carols[0].hangUp({ why: "replaced" });
  await settle();
  await settle();
  assert.deepEqual([third.state, carols[1].state], ["active", "active"]);
  assert.deepEqual([out.ending.why, second.ending.why, into.ending.why, carols[0].ending.why], ["transferred", "transferred", "remote", "replaced"]);
  assert.deepEqual([alice.calls, carol.calls], [[], [carols[1]]]);
});

test("a transfer of which nothing more is heard, or only that it is over", async () => {
  const { call, say, within, socket, clock } = await spoken();
  const told = heard(call, "told");
  const refer = async () => {
    const done = call.refer("sip:carol@sip.test");
    await settle();
    if (!call.held) await settle();
    const hold = last(socket, "INVITE");
    if (hold && !told.length) await say(hold.respond(200, { headers: described, body: SDP }));
    await say(last(socket, "REFER").respond(202));
    await done;
  };
  await refer();
  await clock.pass(180_000);
  assert.equal(told.at(-1).status, 408);
  await refer();
  await say(within("NOTIFY", { number: 20, headers: [["Event", "refer"], ["Subscription-State", "terminated;reason=timeout"]] }));
  assert.deepEqual(told.at(-1), { what: "transfer failed", who: "carol", status: 0, reason: "" });
  const third = assert.rejects(call.refer("sip:carol@sip.test"), { status: 405 });
  await settle();
  await say(last(socket, "REFER").respond(405));
  await third;
  assert.equal(call.transfer, null);
});

test("what a REFER must not ask for", async () => {
  const { say, within, socket, call } = await spoken();
  const offers = heard(call, "referred");
  let number = 2;
  for (const headers of [[], [["Refer-To", "<https://x.test/>"]], [["Refer-To", "<sip:a@x>, <sip:b@x>"]]]) {
    await say(within("REFER", { number: number++, headers }));
    assert.equal(last(socket, 400).sequence.number, number - 1);
  }
  await say(within("REFER", { number, headers: [["Refer-To", "<sip:c@x?Replaces=1%0d%0aX:y&Subject=z>"]] }));
  assert.deepEqual(offers[0].headers, []);
});

// -- the server is lost ----------------------------------------------------------------------------

const lose = async (agent) => {
  agent.WebSocket.made.at(-1).lose();
  await settle();
};

const comeBack = async (server, agent, clock) => {
  await clock.pass(1000);
  await server.connect(agent);
  await clock.pass(1);
};

test("a call with media outlives its connection, and a re-INVITE tells where it is now", async () => {
  const { out, into, alice, server, clock } = await talking();
  await lose(alice);
  assert.deepEqual([out.state, out.adrift], ["active", true]);
  await out.hold(true);
  assert.ok(out.media.held);
  await comeBack(server, alice, clock);
  assert.deepEqual([out.state, out.adrift, into.remoteHeld], ["active", false, true]);
  out.hangUp();
  await settle();
  assert.equal(into.ending.why, "remote");
});

test("a call without media, or not answered yet, ends with its connection", async () => {
  const { out, alice, bob, into } = await talking();
  out.media.alive = false;
  await lose(alice);
  assert.equal(out.ending.why, "lost");
  into.hangUp();
  const waiting = bob.call("carol", new FakeMedia());
  await lose(bob);
  assert.equal(waiting.ending.why, "lost");
  const offline = bob.call("carol", new FakeMedia());
  await settle();
  assert.equal(offline.ending.why, "lost");
});

test("hung up while the connection is lost, the other side hears of it later", async () => {
  const { out, into, alice, server, clock } = await talking();
  await lose(alice);
  out.hangUp();
  await settle();
  assert.equal(into.state, "active");
  await comeBack(server, alice, clock);
  assert.equal(into.ending.why, "remote");
});

test("when the route of the call has gone too, a new dialog takes its place for the same media", async () => {
  const { out, into, alice, bob, server, clock } = await talking();
  const media = [out.media, into.media];
  const old = out.dialog.callId;
  // The server has forgotten all dialogs.
  server.refuse = (request) => (address(request.get("to")).tag && request.get("call-id") === old ? 403 : null);
  await lose(alice);
  await lose(bob);
  await clock.pass(1000);
  await server.connect(bob);
  await server.connect(alice);
  await clock.pass(5000);
  assert.deepEqual([out.adrift, into.adrift], [false, false]);
  assert.notEqual(out.dialog.callId, old);
  assert.equal(out.dialog.callId, into.dialog.callId);
  assert.deepEqual([out.media, into.media], media);
  assert.ok(!media[0].closed && !media[1].closed);
  assert.ok(media[0].log.includes("restart"));
  into.hangUp();
  await settle();
  assert.equal(out.ending.why, "remote");
});

test("it is tried until the other side is back", async () => {
  const { out, into, alice, bob, server, clock } = await talking();
  const old = out.dialog.callId;
  server.refuse = (request) => (address(request.get("to")).tag && request.get("call-id") === old ? 430 : null);
  await lose(alice);
  await lose(bob);
  server.homes.delete("bob");
  await clock.pass(1000);
  await server.connect(alice);
  await clock.pass(10_000);
  assert.equal(out.adrift, true);
  await server.connect(bob);
  await clock.pass(40_000);
  assert.deepEqual([out.adrift, into.adrift, out.state], [false, false, "active"]);
});

test("a peer that knows no Replaces is not called a second time", async () => {
  const { out, alice, server, clock } = await talking();
  out.dialog.replaces = false;
  server.refuse = (request) => (address(request.get("to")).tag ? 403 : null);
  await lose(alice);
  await comeBack(server, alice, clock);
  await clock.pass(60_000);
  assert.deepEqual([out.state, out.adrift], ["active", true]);
  assert.equal(server.log.filter((line) => line === "bob 180 INVITE").length, 1);
});

test("media that fail are tried at other addresses, and end the call if that does not help", async () => {
  const { out, into, clock } = await talking();
  out.mediaChanged("failed");
  out.mediaChanged("failed");
  await settle();
  assert.ok(out.media.log.includes("restart"));
  out.mediaChanged("connected");
  await clock.pass(60_000);
  assert.equal(out.state, "active");
  out.mediaChanged("failed");
  await clock.pass(20_000);
  assert.deepEqual([out.ending.why, into.ending.why], ["lost", "remote"]);
  out.mediaChanged("failed");
});

test("an INVITE that replaces a call early, or one that is not answered, is refused", async () => {
  const { say, socket, call } = await spoken();
  const { callId, localTag } = call.dialog;
  await say(invitation({ callId: "n1", branch: "z9hG4bKn1", headers: [...described, ["Replaces", `${callId};to-tag=${localTag};from-tag=b;early-only`]] }));
  assert.equal(last(socket, 486).get("call-id"), "n1");
  const other = await ringing();
  await other.say(invitation({ callId: "n2", branch: "z9hG4bKn2", headers: [...described, ["Replaces", `${other.call.dialog.callId};to-tag=${other.call.dialog.localTag};from-tag=b`]] }));
  assert.equal(last(other.socket, 481).get("call-id"), "n2");
});
