import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";

import { credentials, md5 } from "../../../../wsproto_sip/cli/serve/static/digest.mjs";

const hash = (name, text) => createHash(name).update(text).digest("hex");

test("MD5 of every length around a block", () => {
  for (let size = 0; size < 200; size++) {
    const text = "ä".repeat(size % 7) + "x".repeat(size);
    assert.equal(md5(text), hash("md5", text));
  }
});

for (const [algorithm, name] of [["MD5", "md5"], ["SHA-256", "sha256"]]) {
  test(`credentials of ${algorithm}`, async () => {
    const challenge = `Digest realm="a \\"b\\"", nonce="n", opaque="o", qop="auth-int, auth", algorithm=${algorithm}`;
    const text = await credentials(["Basic x", challenge], "REGISTER", "sip:x", "al\"ice", "p w");
    const value = (key) => new RegExp(`${key}="?((?:[^"\\\\,]|\\\\.)*)`).exec(text)[1];
    const ha1 = hash(name, `al"ice:a "b":p w`);
    const ha2 = hash(name, "REGISTER:sip:x");
    assert.equal(value("response"), hash(name, `${ha1}:n:00000001:${value("cnonce")}:auth:${ha2}`));
    assert.equal(value("username"), 'al\\"ice');
    assert.equal(value("opaque"), "o");
  });
}

test("the first challenge that can be answered is", async () => {
  const first = 'Digest realm="r", nonce="n", qop="auth", algorithm=SHA-512-256';
  const second = 'Digest realm="r", nonce="n", qop="auth"';
  assert.match(await credentials([first, second], "BYE", "sip:x", "a", "b"), /algorithm=MD5/);
  assert.equal(await credentials([first, 'Digest realm="r", nonce="n"'], "BYE", "sip:x", "a", "b"), null);
});
