// The sounds of a telephone, made of sine waves (Web Audio).

import { clock as realClock } from "./clock.mjs";

const [A, B, C] = [659.25, 783.99, 987.77];

/*
 * Each is a period in seconds and what sounds in it: [start, length, volume, frequencies]. Ringback
 * and busy are as ITU-T E.180 recommends and most of Europe has them.
 */
export const PATTERNS = {
  ring: { period: 3, sounds: [[0, 0.25, 0.5, [A]], [0.25, 0.25, 0.5, [B]], [0.5, 0.6, 0.5, [C]], [1.2, 0.25, 0.4, [B]], [1.45, 0.6, 0.4, [C]]] },
  ringback: { period: 5, sounds: [[0, 1, 0.25, [425]]] },
  waiting: { period: 6, sounds: [[0, 0.15, 0.25, [425]], [0.3, 0.15, 0.25, [425]]] },
  busy: { period: 1, times: 3, sounds: [[0, 0.5, 0.25, [425]]] },
  message: { period: 1, times: 1, sounds: [[0, 0.12, 0.3, [B]], [0.12, 0.2, 0.3, [C]]] },
  ended: { period: 1, times: 1, sounds: [[0, 0.12, 0.25, [B]], [0.14, 0.2, 0.25, [A]]] },
};

// ITU-T Q.23.
const ROWS = [697, 770, 852, 941];
const COLUMNS = [1209, 1336, 1477, 1633];
const KEYS = ["123A", "456B", "789C", "*0#D"];

/* The two frequencies of a key; null for another key. */
export function keyFrequencies(key) {
  const row = KEYS.findIndex((line) => key.length === 1 && line.includes(key));
  return row < 0 ? null : [ROWS[row], COLUMNS[KEYS[row].indexOf(key)]];
}

// Seconds in which a sound begins and ends: at once, it would click.
const EDGE = 0.015;

export class Tones {
  constructor({ clock = realClock, AudioContext = globalThis.AudioContext } = {}) {
    Object.assign(this, { clock, AudioContext });
    this.context = null;
    this.volume = 1;
    this.playing = null;
    this.stop = () => {};
  }

  /* Called when the user does something: browsers let no page sound before. */
  unlock() {
    if (!this.AudioContext) return;
    this.context ||= new this.AudioContext();
    if (this.context.state === "suspended") this.context.resume().catch(() => {});
  }

  /* Plays a pattern until another is played; null for silence. */
  play(name) {
    if (name === this.playing) return;
    this.stop();
    this.playing = name;
    if (!name) return;
    let next = () => {};
    let sources = [];
    const { period, times = Infinity, sounds } = PATTERNS[name];
    let left = times;
    const round = () => {
      if (left-- <= 0) {
        this.playing = null;
        return;
      }
      sources = sounds.flatMap((sound) => this.sound(...sound));
      next = this.clock.after(period * 1000, round);
    };
    this.stop = () => {
      next();
      for (const source of sources) source.stop();
      this.stop = () => {};
      this.playing = null;
    };
    round();
  }

  /* Plays a pattern of limited length, unless one is under way. */
  once(name) {
    if (!this.playing) this.play(name);
  }

  /* Plays a pattern once, in addition to the current sound. */
  sample(name) {
    for (const sound of PATTERNS[name].sounds) this.sound(...sound);
  }

  key(key) {
    const frequencies = keyFrequencies(key);
    if (frequencies) this.sound(0, 0.12, 0.2, frequencies);
  }

  sound(start, length, volume, frequencies) {
    const { context } = this;
    if (!context || !this.volume) return [];
    const begin = context.currentTime + start;
    const gain = context.createGain();
    const loud = (volume * this.volume) / frequencies.length;
    gain.gain.setValueAtTime(0, begin);
    gain.gain.linearRampToValueAtTime(loud, begin + EDGE);
    gain.gain.setValueAtTime(loud, begin + length - EDGE);
    gain.gain.linearRampToValueAtTime(0, begin + length);
    gain.connect(context.destination);
    return frequencies.map((frequency) => {
      const source = context.createOscillator();
      source.frequency.value = frequency;
      source.connect(gain);
      source.start(begin);
      source.stop(begin + length);
      return source;
    });
  }
}
