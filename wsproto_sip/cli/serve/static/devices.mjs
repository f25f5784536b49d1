// Microphones and cameras: which there are, which was chosen, and their streams.

const CHOICE = "devices";

export class Devices {
  constructor({ mediaDevices = navigator.mediaDevices, storage = localStorage } = {}) {
    Object.assign(this, { mediaDevices, storage });
    this.chosen = { audioinput: "", videoinput: "" };
    try {
      Object.assign(this.chosen, JSON.parse(storage.getItem(CHOICE)));
    } catch {
      // Nothing readable: as if nothing was chosen.
    }
  }

  /* The devices of a kind, "audioinput" or "videoinput": {id, label}, the default first. */
  async list(kind) {
    // Without a secure context there are none.
    const found = this.mediaDevices ? await this.mediaDevices.enumerateDevices() : [];
    const known = found.filter((device) => device.kind === kind && device.deviceId);
    const names = known.map(({ deviceId, label }, i) => ({ id: deviceId, label: label || `Device ${i + 1}` }));
    return [{ id: "", label: "Browser default" }, ...names.filter(({ id }) => id !== "default")];
  }

  choose(kind, id) {
    this.chosen[kind] = id;
    try {
      this.storage.setItem(CHOICE, JSON.stringify(this.chosen));
    } catch {
      // It holds until the page is left.
    }
  }

  wanted(kind) {
    const id = this.chosen[kind];
    // Not "exact": one that was pulled out must not keep anybody from answering.
    return id ? { deviceId: { ideal: id } } : true;
  }

  /* The streams that are asked for; rejects as getUserMedia does. */
  open({ audio = false, video = false }) {
    if (!this.mediaDevices) return Promise.reject(new Error("the page did not come over https"));
    return this.mediaDevices.getUserMedia({
      audio: audio && this.wanted("audioinput"),
      video: video && this.wanted("videoinput"),
    });
  }
}
