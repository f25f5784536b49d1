// The browser's storage, or a place in memory where it is forbidden.

export class Stored {
  /* `find` gives the storage; it may throw. */
  constructor(find) {
    try {
      this.storage = find();
    } catch {
      this.storage = null;
    }
    this.memory = new Map();
  }

  getItem(key) {
    return this.storage ? this.storage.getItem(key) : (this.memory.get(key) ?? null);
  }

  /* Throws, as the storage does, when there is no room. */
  setItem(key, value) {
    if (this.storage) this.storage.setItem(key, value);
    else this.memory.set(key, value);
  }

  /* Keeps a value if there is room. */
  keep(key, value) {
    try {
      this.setItem(key, value);
    } catch {
      // Then it is forgotten with the page.
    }
  }

  removeItem(key) {
    if (this.storage) this.storage.removeItem(key);
    else this.memory.delete(key);
  }
}
