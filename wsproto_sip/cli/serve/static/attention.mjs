// Attracts the attention of a user in another tab or window: by the title, and by a notification.

import { clock as realClock } from "./clock.mjs";

const BLINK = 1000;

export class Attention {
  constructor({ document = globalThis.document, Notification = globalThis.Notification, clock = realClock } = {}) {
    Object.assign(this, { document, Notification, clock });
    this.plain = document.title;
    this.stop = () => {};
    this.shown = new Map();
  }

  /* Asks whether notifications may be shown, when the user has just done something. */
  async ask() {
    if (this.Notification?.permission === "default") await this.Notification.requestPermission();
  }

  /* The title; one that is `urgent` takes turns with the plain one. Null for the plain one. */
  title(text, urgent = false) {
    this.stop();
    const full = text ? `${text} – ${this.plain}` : this.plain;
    this.document.title = full;
    if (!text || !urgent) return;
    let on = true;
    const turn = () => {
      on = !on;
      this.document.title = on ? full : this.plain;
      this.stop = this.clock.after(BLINK, turn);
    };
    this.stop = this.clock.after(BLINK, turn);
  }

  /* Shows a notification if the page is not looked at. A tag has one at a time. */
  notify(tag, title, body, { stays = false } = {}) {
    if (!this.document.hidden || this.Notification?.permission !== "granted") return;
    let shown;
    try {
      shown = new this.Notification(title, { body, tag, icon: "icon.svg", requireInteraction: stays });
    } catch {
      // Some browsers take them from service workers alone.
      return;
    }
    shown.onclick = () => {
      globalThis.focus?.();
      shown.close();
    };
    this.shown.set(tag, shown);
  }

  forget(tag) {
    this.shown.get(tag)?.close();
    this.shown.delete(tag);
  }
}
