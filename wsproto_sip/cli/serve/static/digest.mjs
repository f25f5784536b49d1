// Digest authentication as SIP has it (RFC 3261 §22, RFC 8760): MD5 and, where the page may, SHA-256.

const SHIFTS = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21];
const SINES = Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32));

function hex(octets) {
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("");
}

// RFC 1321; browsers have no MD5 of their own.
export function md5(text) {
  const octets = new TextEncoder().encode(text);
  const size = ((octets.length + 8) >> 6) * 64 + 64;
  const padded = new Uint8Array(size);
  padded.set(octets);
  padded[octets.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(size - 8, (octets.length * 8) >>> 0, true);
  view.setUint32(size - 4, Math.floor(octets.length / 2 ** 29), true);
  let [a, b, c, d] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
  for (let block = 0; block < size; block += 64) {
    const [a0, b0, c0, d0] = [a, b, c, d];
    for (let i = 0; i < 64; i++) {
      const round = i >> 4;
      let f;
      let word;
      if (round === 0) [f, word] = [(b & c) | (~b & d), i];
      else if (round === 1) [f, word] = [(d & b) | (~d & c), (5 * i + 1) % 16];
      else if (round === 2) [f, word] = [b ^ c ^ d, (3 * i + 5) % 16];
      else [f, word] = [c ^ (b | ~d), (7 * i) % 16];
      const sum = (a + f + SINES[i] + view.getUint32(block + word * 4, true)) | 0;
      const shift = SHIFTS[round * 4 + (i % 4)];
      [a, d, c, b] = [d, c, b, (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0];
    }
    [a, b, c, d] = [(a + a0) | 0, (b + b0) | 0, (c + c0) | 0, (d + d0) | 0];
  }
  const out = new DataView(new ArrayBuffer(16));
  [a, b, c, d].forEach((word, i) => out.setInt32(i * 4, word, true));
  return hex(new Uint8Array(out.buffer));
}

async function sha256(text) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text))));
}

const HASHES = { MD5: md5, "SHA-256": sha256 };

function parameters(challenge) {
  const found = {};
  const pattern = /([A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))/g;
  for (const [, name, quoted, plain] of challenge.matchAll(pattern)) {
    found[name.toLowerCase()] = quoted === undefined ? plain : quoted.replace(/\\(.)/g, "$1");
  }
  return found;
}

const quote = (text) => `"${text.replace(/["\\]/g, "\\$&")}"`;

// The credentials that answer the first challenge that can be answered, or null.
export async function credentials(challenges, method, uri, user, password) {
  for (const challenge of challenges) {
    if (!/^Digest\s/i.test(challenge)) continue;
    const asked = parameters(challenge);
    const algorithm = (asked.algorithm || "MD5").toUpperCase();
    const qops = (asked.qop || "").split(",").map((word) => word.trim());
    const hash = HASHES[algorithm];
    if (!hash || (algorithm !== "MD5" && !crypto.subtle) || !qops.includes("auth")) continue;
    const cnonce = hex(crypto.getRandomValues(new Uint8Array(8)));
    const ha1 = await hash(`${user}:${asked.realm}:${password}`);
    const ha2 = await hash(`${method}:${uri}`);
    const proof = await hash(`${ha1}:${asked.nonce}:00000001:${cnonce}:auth:${ha2}`);
    const fields = [
      `username=${quote(user)}`,
      `realm=${quote(asked.realm)}`,
      `nonce=${quote(asked.nonce)}`,
      `uri=${quote(uri)}`,
      `response="${proof}"`,
      `algorithm=${algorithm}`,
      "qop=auth",
      "nc=00000001",
      `cnonce="${cnonce}"`,
    ];
    if (asked.opaque !== undefined) fields.push(`opaque=${quote(asked.opaque)}`);
    return `Digest ${fields.join(", ")}`;
  }
  return null;
}
