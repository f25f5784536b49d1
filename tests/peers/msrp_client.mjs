// An MSRP client over WebSocket, written from RFC 4975, RFC 4976 and RFC 7977 on Node's own
// WebSocket: it shares no code with the package it talks to.
//
// It is a process that takes one JSON object a line on standard input, a command, and writes one a
// line on standard output, what happened. Bodies are told by size and SHA-256.
//
//   node [--experimental-websocket] msrp_client.mjs URL RELAY-URI

import { createHash, randomBytes } from "node:crypto";
import { createInterface } from "node:readline";

const [url, relay] = process.argv.slice(2);
const CHUNK = 2048;
const WINDOW = 64;

const random = (size) => randomBytes(size).toString("hex");
const md5 = (text) => createHash("md5").update(text, "utf8").digest("hex");
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
const tell = (event, values = {}) => console.log(JSON.stringify({ event, ...values }));

// RFC 7977 §5.2.1: a client in a browser has no address.
const scheme = relay.split(":")[0];
const own = `${scheme}://${random(8)}.invalid:2855/${random(12)};ws`;

let usePath = [];
let remote = [];
const pending = new Map(); // transaction id -> what to do with the response
const outgoing = new Map(); // Message-ID -> what is being sent
const incoming = new Map(); // Message-ID -> what has come of it

const socket = new WebSocket(url, "msrp");
socket.binaryType = "arraybuffer";

// -- chunks ----------------------------------------------------------------------------------------

function write(kind, id, to, from, headers, body, flag = "$") {
  let head = `MSRP ${id} ${kind}\r\nTo-Path: ${to.join(" ")}\r\nFrom-Path: ${from.join(" ")}\r\n`;
  for (const [name, value] of headers) head += `${name}: ${value}\r\n`;
  const end = `-------${id}${flag}\r\n`;
  if (body === null) return socket.send(head + end);
  // As browsers do: bodies in binary, everything else in text.
  socket.send(Buffer.concat([Buffer.from(`${head}\r\n`), body, Buffer.from(`\r\n${end}`)]));
}

function request(method, to, headers, body, flag, answered) {
  let id = random(10);
  while (body !== null && body.includes(`-------${id}`)) id = random(10);
  if (answered) pending.set(id, answered);
  write(method, id, to, [own], headers, body, flag);
}

function read(data) {
  const text = data.toString("latin1");
  const first = /^MSRP ([0-9A-Za-z][0-9A-Za-z.\-+%=]{3,31}) ([A-Z]+|[0-9]{3})( [^\r\n]*)?\r\n/.exec(text);
  if (first === null) throw new Error(`no chunk: ${text.slice(0, 80)}`);
  const [line, id, kind] = first;
  const flag = text.slice(-3, -2);
  const end = `-------${id}${flag}\r\n`;
  if (!text.endsWith(end) || !"$+#".includes(flag)) throw new Error("no end-line");
  let rest = text.slice(line.length, -end.length);
  let body = null;
  const blank = rest.indexOf("\r\n\r\n");
  if (blank >= 0) {
    body = data.subarray(line.length + blank + 4, data.length - end.length - 2);
    rest = rest.slice(0, blank + 2);
  }
  const headers = {};
  for (const field of rest.split("\r\n").slice(0, -1)) {
    const colon = field.indexOf(": ");
    headers[field.slice(0, colon).toLowerCase()] = Buffer.from(field.slice(colon + 2), "latin1").toString();
  }
  const paths = { to: headers["to-path"].split(" "), from: headers["from-path"].split(" ") };
  return { id, kind, flag, body, headers, ...paths };
}

// -- AUTH (RFC 4976 §5.1) --------------------------------------------------------------------------

function authenticate({ user, password, expires }, challenge) {
  const headers = expires === undefined ? [] : [["Expires", expires]];
  let expected = null;
  if (challenge) {
    const asked = Object.fromEntries(
      [...challenge.matchAll(/(\w+)="?([^",]*)"?/g)].map((found) => [found[1], found[2]]),
    );
    const cnonce = random(8);
    const ha1 = md5(`${user}:${asked.realm}:${password}`);
    const proof = (a2) => md5(`${ha1}:${asked.nonce}:00000001:${cnonce}:auth:${md5(a2)}`);
    expected = proof(`:${relay}`);
    headers.push([
      "Authorization",
      `Digest username="${user}", realm="${asked.realm}", nonce="${asked.nonce}", uri="${relay}", ` +
        `response="${proof(`AUTH:${relay}`)}", qop=auth, cnonce="${cnonce}", nc=00000001`,
    ]);
  }
  request("AUTH", [relay], headers, null, "$", (answer) => {
    if (answer.kind === "401" && !challenge) {
      authenticate({ user, password, expires }, answer.headers["www-authenticate"]);
    } else if (answer.kind === "200") {
      usePath = answer.headers["use-path"].split(" ");
      tell("ready", {
        path: [...usePath, own],
        expires: Number(answer.headers.expires),
        // RFC 2617 §3.2.3: the relay knows the password too.
        proven: answer.headers["authentication-info"].includes(`rspauth="${expected}"`),
      });
    } else {
      tell("refused", { status: Number(answer.kind), minimum: answer.headers["min-expires"] });
    }
  });
}

// -- sending ---------------------------------------------------------------------------------------

function send({ name, text, size, seed, abortAt }) {
  const body = text === undefined ? file(size, seed) : Buffer.from(text);
  const type = text === undefined ? "application/octet-stream" : "text/plain";
  const message = { name, body, type, abortAt, id: random(8), at: 0, inFlight: 0, over: false };
  outgoing.set(message.id, message);
  tell("sending", { name, size: body.length, sha256: sha256(body) });
  more(message);
}

// Bytes that are not UTF-8, and of which no chunk repeats: xorshift.
function file(size, seed) {
  const body = Buffer.alloc(size);
  let state = seed >>> 0 || 1;
  for (let at = 0; at < size; at++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    body[at] = state;
  }
  return body;
}

function more(message) {
  const { body } = message;
  while (!message.over && message.inFlight < WINDOW) {
    const from = message.at;
    const abort = message.abortAt !== undefined && from >= message.abortAt;
    const piece = abort ? Buffer.alloc(0) : body.subarray(from, from + CHUNK);
    message.at += piece.length;
    message.over = abort || message.at >= body.length;
    message.inFlight++;
    const headers = [
      ["Message-ID", message.id],
      ["Byte-Range", `${from + 1}-${from + piece.length}/${body.length}`],
      ["Success-Report", "yes"],
      ["Content-Type", message.type],
    ];
    const flag = abort ? "#" : message.over ? "$" : "+";
    request("SEND", [...usePath, ...remote], headers, piece, flag, (answer) => {
      message.inFlight--;
      if (answer.kind === "200") {
        if (message.over && message.inFlight === 0) tell("sent", { name: message.name, status: 200 });
        return more(message);
      }
      if (!message.failed) tell("failed", { name: message.name, status: Number(answer.kind) });
      message.failed = message.over = true;
    });
    if (abort) tell("aborted", { name: message.name, at: from });
  }
}

// -- receiving -------------------------------------------------------------------------------------

function onSend(chunk, binary) {
  if (chunk.headers["failure-report"] !== "no") {
    write("200 OK", chunk.id, chunk.from.slice(0, 1), [own], [], null);
  }
  const id = chunk.headers["message-id"];
  const known = incoming.get(id) ?? { pieces: [], chunks: 0, binary: 0 };
  incoming.set(id, known);
  known.chunks++;
  known.binary += binary;
  if (chunk.flag === "#") {
    incoming.delete(id);
    return tell("abandoned", { bytes: known.pieces.reduce((sum, piece) => sum + piece[1].length, 0) });
  }
  const start = Number(/^([0-9]+)-/.exec(chunk.headers["byte-range"] ?? "1-*/*")[1]) - 1;
  known.pieces.push([start, chunk.body]);
  if (chunk.flag === "+") return;
  incoming.delete(id);
  const size = Math.max(...known.pieces.map(([at, piece]) => at + piece.length));
  const body = Buffer.alloc(size);
  for (const [at, piece] of known.pieces) piece.copy(body, at);
  const report = [["Message-ID", id], ["Byte-Range", `1-${size}/${size}`], ["Status", "000 200 OK"]];
  if (chunk.headers["success-report"] === "yes") request("REPORT", chunk.from, report, null, "$");
  const type = chunk.headers["content-type"];
  const text = type === "text/plain" ? { text: body.toString() } : {};
  const { chunks, binary: inBinary } = known;
  tell("received", { type, size, sha256: sha256(body), chunks, binary: inBinary, ...text });
}

function onReport({ headers }) {
  const message = outgoing.get(headers["message-id"]);
  const status = Number(headers.status.split(" ")[1]);
  tell("report", { name: message?.name, status, range: headers["byte-range"] });
  if (status !== 200 && message) message.over = true;
}

socket.onmessage = ({ data }) => {
  const binary = typeof data !== "string";
  const chunk = read(Buffer.from(data));
  if (chunk.to.length !== 1 || chunk.to[0] !== own) throw new Error(`not ours: ${chunk.to}`);
  if (chunk.kind === "SEND") onSend(chunk, binary);
  else if (chunk.kind === "REPORT") onReport(chunk);
  else if (/^[0-9]/.test(chunk.kind)) {
    const answered = pending.get(chunk.id);
    pending.delete(chunk.id);
    answered?.(chunk);
  } else throw new Error(`unexpected ${chunk.kind}`);
};

socket.onopen = () => tell("open", { protocol: socket.protocol });
socket.onerror = () => tell("error");
socket.onclose = ({ code, reason }) => {
  tell("closed", { code, reason });
  process.exit(0);
};

createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line);
    if (command.do === "authenticate") authenticate(command);
    else if (command.do === "connect") remote = command.path;
    else if (command.do === "send") send(command);
    else if (command.do === "close") socket.close(1000);
  })
  .on("close", () => socket.close());
