import assert from "node:assert/strict";
import { test } from "node:test";

import { History } from "../../../../wsproto_sip/cli/serve/static/history.mjs";
import { Stored } from "../../../../wsproto_sip/cli/serve/static/stored.mjs";

const storage = () => new Stored(() => null);
const message = (text, values = {}) => ({ kind: "message", direction: "in", peer: "bob", at: 1, text, ...values });

test("what was survives a reload, for each owner alone", () => {
  const kept = storage();
  const history = new History("alice", { storage: kept });
  history.add(message("hello"));
  history.add({ kind: "call", direction: "out", peer: "bob", at: 2, seconds: 3, why: "remote" });
  assert.deepEqual(new History("alice", { storage: kept }).entries, history.entries);
  assert.deepEqual(new History("bob", { storage: kept }).entries, []);
  history.clear();
  assert.deepEqual(new History("alice", { storage: kept }).entries, []);
});

test("the oldest go, and what is long is cut", () => {
  const kept = storage();
  const history = new History("alice", { storage: kept, most: 3 });
  for (let i = 0; i < 5; i++) history.add(message(String(i)));
  assert.deepEqual(history.entries.map(({ text }) => text), ["2", "3", "4"]);
  assert.equal(history.add(message("x".repeat(5000), { peer: "p".repeat(5000) })).text.length, 2000);
  assert.equal(new History("alice", { storage: kept, most: 2 }).entries.length, 2);
});

test("where there is little room, the latest are kept", () => {
  const kept = storage();
  const { setItem } = kept;
  kept.setItem = (key, value) => {
    if (value.length > 300) throw new Error("full");
    setItem.call(kept, key, value);
  };
  const history = new History("alice", { storage: kept });
  for (let i = 0; i < 20; i++) history.add(message(String(i)));
  const found = new History("alice", { storage: kept }).entries;
  assert.ok(found.length > 0 && found.length < 20);
  assert.equal(found.at(-1).text, "19");
  kept.setItem = kept.removeItem = () => {
    throw new Error("forbidden");
  };
  history.add(message("20"));
  assert.equal(history.entries.length, 21);
  history.clear();
  assert.equal(history.entries.length, 0);
});

test("what others left there is no history", () => {
  for (const text of ["{", "{}", "null", '[1, null, {"kind": "call"}, {"kind": "message", "direction": "in", "peer": "b", "at": 1}, {"kind": "x", "direction": "in", "peer": "b", "at": 1}]']) {
    const kept = storage();
    kept.setItem("history of alice", text);
    assert.deepEqual(new History("alice", { storage: kept }).entries, []);
  }
  const forbidden = { getItem: () => { throw new Error("forbidden"); } };
  assert.deepEqual(new History("alice", { storage: forbidden }).entries, []);
});
