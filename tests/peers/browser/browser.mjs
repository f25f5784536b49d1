// Chromium with any number of pages, each of which is a telephone.
//
//   node browser.mjs MODULES CHROMIUM [OPTION…]
//
// MODULES is a directory that npm has installed package.json of this directory in. Commands come
// on standard input and are answered on standard output, one JSON object a line, one after the
// other:
//
//   {"do": "open", "page": NAME, "kind": "jssip" | "sipjs", "settings": {…}}   a new page
//   {"do": "tell", "page": NAME, "call": METHOD, "arguments": […]}             of its telephone
//   {"do": "frames", "page": NAME}                  WebSocket messages since this was asked last
//   {"do": "hear", "page": NAME, "pattern": REGEXP}          waits until one matches that has come
//   {"do": "close", "page": NAME}
//
// An answer is {"value": …} or {"error": TEXT}. There are SECONDS for each.

import { EventEmitter, once } from "node:events";
import { createRequire } from "node:module";
import http from "node:http";
import path from "node:path";
import readline from "node:readline";
import { fileURLToPath } from "node:url";

const SECONDS = 20;
const HERE = path.dirname(fileURLToPath(import.meta.url));

const [modules, executablePath, ...args] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(modules), "package.json"));
const { chromium } = require("playwright-core");
const esbuild = require("esbuild");

const bundle = await esbuild.build({
  entryPoints: [path.join(HERE, "page.mjs")],
  bundle: true,
  write: false,
  format: "iife",
  target: "es2022",
  nodePaths: [path.join(path.resolve(modules), "node_modules")],
});
const script = bundle.outputFiles[0].text;

const files = {
  "/": ["text/html; charset=utf-8", '<!doctype html><title>phone</title><script src="page.js"></script>'],
  "/page.js": ["text/javascript; charset=utf-8", script],
};
const server = http.createServer((request, response) => {
  const file = files[request.url];
  response.writeHead(file ? 200 : 404, { "Content-Type": file ? file[0] : "text/plain" });
  response.end(file ? file[1] : "");
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const url = `http://127.0.0.1:${server.address().port}/`;

const browser = await chromium.launch({ executablePath, args, headless: true });
const context = await browser.newContext();
const pages = new Map();

async function open({ page: name, kind, settings }) {
  const page = await context.newPage();
  const opened = { page, frames: [], said: [], console: [], heard: new EventEmitter() };
  pages.set(name, opened);
  page.on("console", (message) => opened.console.push(message.text()));
  page.on("pageerror", (error) => opened.console.push(String(error)));
  page.on("websocket", (socket) => {
    for (const [event, sent] of [["framesent", true], ["framereceived", false]]) {
      socket.on(event, ({ payload }) => {
        const text = typeof payload === "string";
        if (!text) payload = payload.toString("latin1");
        opened.frames.push({ sent, text, payload });
        opened.said.push(summary(sent, payload));
        opened.heard.emit("frame");
      });
    }
  });
  await page.goto(url);
  await page.evaluate(([kind, settings]) => window.make(kind, settings), [kind, settings]);
}

const tell = ({ page, call, arguments: values = [] }) =>
  pages.get(page).page.evaluate(([call, values]) => window.phone[call](...values), [call, values]);

async function hear({ page, pattern }) {
  const { frames, heard } = pages.get(page);
  const wanted = new RegExp(pattern);
  while (!frames.some(({ sent, payload }) => !sent && wanted.test(payload))) {
    await once(heard, "frame");
  }
}

/** Does a command, within its time. */
async function bounded(command) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing within ${SECONDS} s`)), SECONDS * 1000);
  });
  const done = commands[command.do](command);
  try {
    return await Promise.race([done, late]);
  } finally {
    // Whichever of the two it was, the other may still come.
    Promise.resolve(done).catch(() => {});
    clearTimeout(timer);
  }
}

/** What there is to say of a page on which something went wrong. */
async function account({ page }) {
  const opened = pages.get(page);
  if (opened === undefined) return [];
  const left = await opened.page.evaluate(() => window.phone?.left() ?? []);
  return [
    `events that nobody asked for: ${left.join(", ")}`,
    ...opened.console.slice(-10).map((line) => `console: ${line}`),
    ...opened.said.slice(-60),
  ];
}

/** One line on a message: when, which way, what. */
function summary(sent, payload) {
  const [start] = payload.split("\r\n", 1);
  const [, cseq] = /^CSeq: *(.*)/im.exec(payload) ?? [];
  return `${performance.now().toFixed()} ms ${sent ? ">" : "<"} ${start} (${cseq})`;
}

const commands = {
  open,
  tell,
  hear,
  frames: ({ page }) => pages.get(page).frames.splice(0),
  close: async ({ page }) => {
    await pages.get(page).page.close();
    pages.delete(page);
  },
};

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
say({ value: browser.version() });
for await (const line of readline.createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  try {
    say({ value: (await bounded(command)) ?? null });
  } catch (error) {
    say({ error: [line, error.message, ...(await account(command))].join("\n") });
  }
}
await browser.close();
server.close();
