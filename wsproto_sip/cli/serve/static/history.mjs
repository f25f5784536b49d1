// Calls and messages that were, kept by the browser: so many, and none too long.

const MOST = 200;
const LONGEST = 2000;

/*
 * An entry is {kind: "call", direction, peer, at, seconds, why, status?} or
 * {kind: "message", direction, peer, at, text, failed?}; `direction` is "in" or "out", `at` a time in
 * milliseconds.
 */
export class History {
  constructor(owner, { storage = localStorage, most = MOST } = {}) {
    Object.assign(this, { storage, most });
    this.key = `history of ${owner}`;
    this.entries = [];
    try {
      const found = JSON.parse(storage.getItem(this.key));
      if (Array.isArray(found)) this.entries = found.filter(isEntry).slice(-most);
    } catch {
      // Not ours, or storage is forbidden: an empty history.
    }
  }

  add(entry) {
    const kept = { ...entry, peer: entry.peer.slice(0, LONGEST) };
    if (entry.text !== undefined) kept.text = entry.text.slice(0, LONGEST);
    this.entries = [...this.entries, kept].slice(-this.most);
    this.save();
    return kept;
  }

  save() {
    // The room is shared with all pages of this origin: the oldest go first.
    for (let kept = this.entries; ; kept = kept.slice(Math.ceil(kept.length / 2))) {
      try {
        this.storage.setItem(this.key, JSON.stringify(kept));
        return;
      } catch {
        if (!kept.length) return;
      }
    }
  }

  clear() {
    this.entries = [];
    try {
      this.storage.removeItem(this.key);
    } catch {
      // Then it was not kept either.
    }
  }
}

function isEntry(entry) {
  const strings = entry && typeof entry.peer === "string" && ["in", "out"].includes(entry.direction);
  if (!strings || !Number.isFinite(entry.at)) return false;
  return entry.kind === "message" ? typeof entry.text === "string" : entry.kind === "call";
}
