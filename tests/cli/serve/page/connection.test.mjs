import assert from "node:assert/strict";
import { test } from "node:test";

import { Connection } from "../../../../wsproto_sip/cli/serve/static/connection.mjs";
import { FakeClock, sockets } from "./harness.mjs";

function started() {
  const [clock, WebSocket, log] = [new FakeClock(), sockets(), []];
  const told = (name) => (value) => log.push(value === undefined ? name : `${name} ${value}`);
  const hooks = Object.fromEntries(["opened", "received", "lost", "waiting", "connecting"].map((name) => [name, told(name)]));
  const connection = new Connection({ url: "ws://x/", clock, WebSocket, ...hooks });
  connection.start();
  return { clock, log, connection, made: WebSocket.made, socket: WebSocket.made[0] };
}

test("messages come in and go out as text of the sip sub-protocol", () => {
  const { connection, socket, log } = started();
  assert.equal(connection.send("early"), false);
  socket.open();
  assert.equal(socket.protocol, "sip");
  assert.equal(connection.send({ toString: () => "out" }), true);
  socket.onmessage({ data: "in" });
  socket.onmessage({ data: new TextEncoder().encode("ü").buffer });
  assert.deepEqual(log, ["connecting", "opened", "received in", "received ü"]);
  assert.deepEqual(socket.sent, ["out"]);
});

test("a ping is answered, and a pong is not", () => {
  const { socket } = started();
  socket.open();
  socket.onmessage({ data: "\r\n\r\n" });
  socket.onmessage({ data: "\r\n" });
  assert.deepEqual(socket.sent, ["\r\n"]);
});

test("a lost connection is tried again after pauses that grow up to 30 seconds", async () => {
  const { clock, log, made } = started();
  const pauses = [];
  for (let i = 0; i < 8; i++) {
    made.at(-1).lose();
    pauses.push(Number(log.at(-1).split(" ")[1]));
    await clock.pass(pauses.at(-1) * 1000);
    assert.equal(made.length, i + 2);
  }
  for (const [i, pause] of pauses.entries()) {
    const most = Math.min(2 ** i, 30);
    assert.ok(pause > 0 && pause >= Math.floor(most / 2) && pause <= most, `${pauses}`);
  }
});

test("the keep-alive notices a dead peer without its closing handshake", async () => {
  const { clock, connection, log, made, socket } = started();
  socket.open();
  connection.keepAlive(100);
  await clock.pass(80_000);
  assert.deepEqual(socket.sent, ["\r\n\r\n"]);
  socket.onmessage({ data: "\r\n" });
  await clock.pass(10_000);
  assert.ok(!log.includes("lost"));
  await clock.pass(70_000);
  assert.equal(socket.sent.length, 2);
  await clock.pass(10_000);
  assert.equal(socket.code, 4000);
  assert.equal(log.filter((line) => line === "lost").length, 1);
  await clock.pass(1000);
  assert.equal(made.length, 2);
});

test("it hurries when the network is back, unless it is there or stopped", async () => {
  const { connection, made, socket, clock } = started();
  connection.hurry();
  socket.open();
  connection.hurry();
  assert.equal(made.length, 1);
  socket.lose();
  connection.hurry();
  assert.equal(made.length, 2);
  await clock.pass(60_000);
  assert.equal(made.length, 2);
  connection.stop();
  connection.hurry();
  await clock.pass(60_000);
  assert.equal(made.length, 2);
});

test("stopping closes what is open or being opened, and waits for no attempt", async () => {
  const opening = started();
  opening.connection.stop();
  assert.equal(opening.socket.code, 1000);
  assert.deepEqual(opening.log, ["connecting", "lost"]);
  const waits = started();
  waits.socket.lose();
  waits.connection.stop();
  await waits.clock.pass(60_000);
  assert.equal(waits.made.length, 1);
  assert.equal(waits.log.at(-1), "lost");
});
