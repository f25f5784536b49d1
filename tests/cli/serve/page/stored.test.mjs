import assert from "node:assert/strict";
import { test } from "node:test";

import { Stored } from "../../../../wsproto_sip/cli/serve/static/stored.mjs";

const forbidden = () => {
  throw new Error("forbidden");
};

test("the browser's storage is used, or memory where it is forbidden", () => {
  const items = new Map();
  const real = { getItem: (key) => items.get(key) ?? null, setItem: (key, value) => items.set(key, value), removeItem: (key) => items.delete(key) };
  for (const stored of [new Stored(() => real), new Stored(forbidden), new Stored(() => null)]) {
    assert.equal(stored.getItem("a"), null);
    stored.setItem("a", "1");
    stored.keep("b", "2");
    assert.deepEqual([stored.getItem("a"), stored.getItem("b")], ["1", "2"]);
    stored.removeItem("a");
    assert.equal(stored.getItem("a"), null);
  }
  assert.deepEqual([...items], [["b", "2"]]);
});

test("a full storage loses what is kept, and tells who sets it", () => {
  const stored = new Stored(() => ({ setItem: forbidden }));
  stored.keep("a", "1");
  assert.throws(() => stored.setItem("a", "1"));
});
