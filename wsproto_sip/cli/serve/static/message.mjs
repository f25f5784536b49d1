// SIP messages: text to objects and back (RFC 3261 §7, §25).

const COMPACT = {
  a: "accept-contact", b: "referred-by", c: "content-type", e: "content-encoding", f: "from",
  i: "call-id", k: "supported", l: "content-length", m: "contact", o: "event", r: "refer-to",
  s: "subject", t: "to", u: "allow-events", v: "via", x: "session-expires",
};

const REASONS = {
  100: "Trying", 180: "Ringing", 200: "OK", 202: "Accepted", 400: "Bad Request", 403: "Forbidden",
  405: "Method Not Allowed", 415: "Unsupported Media Type", 420: "Bad Extension",
  480: "Temporarily Unavailable",
  481: "Call/Transaction Does Not Exist", 482: "Loop Detected", 486: "Busy Here",
  487: "Request Terminated", 488: "Not Acceptable Here", 491: "Request Pending",
  500: "Server Internal Error", 603: "Decline",
};

const random = (size) => crypto.getRandomValues(new Uint8Array(size));
const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

/* A random word for tags, branches and Call-IDs. */
export const token = () => hex(random(8));

/* A random UUID; crypto.randomUUID is missing where the context is not secure. */
export function uuid() {
  return hex(random(16)).replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, "$1-$2-4$3-8$4-$5");
}

/* The values of a list, split at the commas that are neither quoted nor in angle brackets. */
export function listed(value) {
  const pattern = /(?:"(?:[^"\\]|\\.)*"|<[^>]*>|[^,"<])+/g;
  return (value.match(pattern) || []).map((item) => item.trim()).filter(Boolean);
}

/* The URI and tag of From, To, Contact, Refer-To and their kind. A display name may say anything. */
export function address(value) {
  // A quoted name in front may hold anything, angle brackets too.
  const bracketed = /^(?:\s*"(?:[^"\\]|\\.)*"\s*|[^"<]*)<([^>]*)>(.*)$/s.exec(value);
  const [, uri, rest] = bracketed || /^\s*([^;]*)(.*)$/s.exec(value);
  const tag = /;\s*tag\s*=\s*([^\s;]+)/i.exec(rest);
  return { uri, tag: tag ? tag[1] : null };
}

/* The user of a SIP URI, or the URI if it has none. */
export function userOf(uri) {
  const user = (/^sips?:([^@;?]*)@/i.exec(uri) || [])[1] || uri;
  try {
    return decodeURIComponent(user);
  } catch {
    // Not UTF-8.
    return user;
  }
}

/* A SIP URI without its parameters and header fields. */
export const withoutParameters = (uri) => uri.replace(/[;?].*$/s, "");

/* A SIP URI as people write it: the user alone if it is in the domain, else with the host. */
export function shown(uri, domain) {
  const [, host] = /^sips?:[^@;?]*@([^;?]*)/i.exec(uri) || [];
  const user = userOf(uri);
  return host && host.toLowerCase() !== domain.toLowerCase() ? `${user}@${host}` : user;
}

/* Converts user input to a URI: a name in the domain, name@domain or a whole URI. */
export function toUri(text, domain) {
  if (/^sips?:/i.test(text)) return text;
  const at = text.lastIndexOf("@");
  const [user, host] = at < 0 ? [text, domain] : [text.slice(0, at), text.slice(at + 1)];
  // RFC 3261 §25.1: what may stand in a user part as it is.
  const escaped = encodeURIComponent(user).replace(/%(?:26|3D|2B|24|2C|3B|3F|2F)/g, decodeURIComponent);
  return `sip:${escaped}@${host}`;
}

/* The header fields that a URI asks for (RFC 3261 §19.1.1), names in lower case. */
export function uriHeaders(uri) {
  const found = {};
  for (const item of uri.split("?").slice(1).join("?").split("&").filter(Boolean)) {
    const [name, ...value] = item.split("=");
    try {
      found[decodeURIComponent(name).toLowerCase()] = decodeURIComponent(value.join("="));
    } catch {
      // Not UTF-8: a header field that nothing here reads.
    }
  }
  return found;
}

export class Message {
  constructor(start, headers, body = "") {
    this.start = start;
    this.headers = headers;
    this.body = body;
    const [first, second] = start.split(" ");
    if (first === "SIP/2.0") this.status = Number(second);
    else [this.method, this.uri] = [first, second];
  }

  /* Reads a message; null if it is not one. */
  static parse(text) {
    const end = text.indexOf("\r\n\r\n");
    if (end < 0) return null;
    const [start, ...lines] = text.slice(0, end).replace(/\r\n[ \t]+/g, " ").split("\r\n");
    const headers = lines.map((line) => {
      const colon = line.indexOf(":");
      const name = line.slice(0, colon).trim().toLowerCase();
      return [COMPACT[name] || name, line.slice(colon + 1).trim()];
    });
    const message = new Message(start, headers, text.slice(end + 4));
    const needed = ["via", "from", "to", "call-id", "cseq"];
    const number = message.status >= 100 && message.status <= 699;
    const line = number || /^[A-Za-z0-9.!%*_+`'~-]+ \S+ SIP\/2\.0$/.test(start);
    const whole = line && needed.every((name) => message.get(name));
    return whole && Number.isInteger(message.sequence.number) ? message : null;
  }

  all(name) {
    return this.headers.filter(([other]) => other.toLowerCase() === name).map(([, value]) => value);
  }

  get(name) {
    return this.all(name)[0];
  }

  /* The option tags, methods or URIs of all fields with a name. */
  list(name) {
    return this.all(name).flatMap(listed);
  }

  /* Whether an option tag, method or other word is in a list, in any case. */
  lists(name, word) {
    return this.list(name).some((item) => item.toLowerCase() === word.toLowerCase());
  }

  /* The media type of the body in lower case, without parameters. */
  get type() {
    return (this.get("content-type") || "").split(";")[0].trim().toLowerCase();
  }

  get reason() {
    return this.start.split(" ").slice(2).join(" ");
  }

  get branch() {
    return (/;\s*branch\s*=\s*([^\s;,]+)/i.exec(this.get("via")) || [])[1];
  }

  get sequence() {
    const [number, method] = this.get("cseq").split(/\s+/);
    return { number: Number(number), method };
  }

  toString() {
    const size = new TextEncoder().encode(this.body).length;
    const lines = this.headers.map(([name, value]) => `${name}: ${value}`);
    return [this.start, ...lines, `Content-Length: ${size}`, "", this.body].join("\r\n");
  }

  /* A response to this request (RFC 3261 §8.2.6). */
  respond(status, { tag, headers = [], body = "" } = {}) {
    const to = this.get("to");
    const kept = ["via", "from", "call-id", "cseq", "record-route"];
    return new Message(
      `SIP/2.0 ${status} ${REASONS[status] || "Unknown"}`,
      [
        ...this.headers.filter(([name]) => kept.includes(name.toLowerCase())),
        ["To", address(to).tag || status === 100 ? to : `${to};tag=${tag || token()}`],
        ...headers,
      ],
      body,
    );
  }
}
