// The media of one call: an RTCPeerConnection, with microphone and camera.

const GATHERING = 2000;
// RFC 4733: how long a key sounds, and the pause until the next, in milliseconds.
const [KEY, GAP] = [120, 70];

/*
 * Events: "change", and "told" with {what, reason} when there is no microphone or camera.
 * The call's `mediaChanged` is set by `follow`.
 */
export class Media extends EventTarget {
  constructor(devices, { video = false } = {}) {
    super();
    Object.assign(this, { devices, wanted: video });
    this.connection = new RTCPeerConnection();
    this.local = null;
    this.stream = null;
    this.closed = false;
    this.held = false;
    this.muted = false;
    this.unseen = false;
    this.tone = null;
    this.connected = false;
    this.watch = () => {};
    this.connection.ontrack = ({ track, streams: [stream] }) => {
      this.stream = stream || this.stream || new MediaStream();
      if (!this.stream.getTracks().includes(track)) this.stream.addTrack(track);
      this.changed();
    };
    this.connection.onconnectionstatechange = () => {
      const { connectionState: state } = this.connection;
      if (state === "connected") this.connected = true;
      if (["connected", "disconnected", "failed"].includes(state)) this.watch(state);
      this.changed();
    };
  }

  /* Has a call told of the connection's state. */
  follow(call) {
    this.watch = (state) => call.mediaChanged(state);
  }

  changed() {
    this.dispatchEvent(new CustomEvent("change"));
  }

  get alive() {
    return this.connected && this.connection.connectionState !== "failed" && !this.closed;
  }

  get remote() {
    return this.connection.remoteDescription?.sdp || "";
  }

  /* Whether a picture of the other side may come, and whether one goes out. */
  get seesRemote() {
    return Boolean(this.stream) && this.stream.getVideoTracks().some((track) => track.readyState === "live");
  }

  get hasCamera() {
    return Boolean(this.local) && this.local.getVideoTracks().length > 0;
  }

  // -- microphone and camera -------------------------------------------------------------------

  /* Opens them, once; without, the other side hears a tone. */
  capture() {
    this.capturing ||= this.open().then((stream) => {
      this.local = stream;
      if (this.closed) {
        this.close();
        throw new Error("the call has ended");
      }
      for (const track of stream.getTracks()) this.connection.addTrack(track, stream);
      this.apply();
      this.changed();
    });
    return this.capturing;
  }

  async open() {
    try {
      return await this.devices.open({ audio: true, video: this.wanted });
    } catch (error) {
      if (this.wanted) {
        // A microphone alone is better than nothing.
        const stream = await this.devices.open({ audio: true }).catch(() => null);
        this.told(stream ? "no camera" : "no microphone", error);
        if (stream) return stream;
      } else this.told("no microphone", error);
      return this.hum();
    }
  }

  told(what, error) {
    this.dispatchEvent(new CustomEvent("told", { detail: { what, reason: error.message } }));
  }

  // What is heard of a telephone without a microphone.
  hum() {
    this.tone = new AudioContext();
    const [source, volume] = [this.tone.createOscillator(), this.tone.createGain()];
    const out = this.tone.createMediaStreamDestination();
    volume.gain.value = 0.05;
    source.connect(volume).connect(out);
    source.start();
    return out.stream;
  }

  apply() {
    for (const track of this.local?.getTracks() || []) {
      track.enabled = !this.held && !(track.kind === "audio" ? this.muted : this.unseen);
    }
  }

  mute(yes) {
    this.muted = yes;
    this.apply();
    this.changed();
  }

  hide(yes) {
    this.unseen = yes;
    this.apply();
    this.changed();
  }

  /* Switches to the chosen device during a call. `kind` is "audioinput" or "videoinput". */
  async change(kind) {
    const what = kind === "audioinput" ? "audio" : "video";
    const sender = this.connection.getSenders().find(({ track }) => track?.kind === what);
    if (!sender || this.closed) return;
    const old = sender.track;
    const stream = await this.devices.open({ [what]: true });
    const [track] = stream.getTracks();
    if (this.closed) {
      track.stop();
      return;
    }
    await sender.replaceTrack(track);
    this.local.removeTrack(old);
    this.local.addTrack(track);
    old.stop();
    if (what === "audio" && this.tone) {
      this.tone.close();
      this.tone = null;
    }
    this.apply();
    this.changed();
  }

  /* Adds a camera to a call without one; the other side has to be asked after this. */
  async addCamera() {
    const stream = await this.devices.open({ video: true });
    const [track] = stream.getTracks();
    if (this.closed) {
      track.stop();
      return;
    }
    this.local.addTrack(track);
    this.connection.addTrack(track, this.local);
    this.apply();
    this.changed();
  }

  // -- hold and keys ---------------------------------------------------------------------------

  /* Offers to send only, and sends silence (RFC 3264 §8.4). */
  hold(yes) {
    this.held = yes;
    for (const transceiver of this.connection.getTransceivers()) {
      if (transceiver.direction === "stopped" || transceiver.stopped) continue;
      const sends = Boolean(transceiver.sender.track);
      if (yes) transceiver.direction = sends ? "sendonly" : "inactive";
      else transceiver.direction = sends ? "sendrecv" : "recvonly";
    }
    this.apply();
    this.changed();
  }

  /* Sends a key in the media (RFC 4733); false where that is not possible. */
  key(key) {
    const sender = this.connection.getSenders().find(({ track }) => track?.kind === "audio");
    if (!sender?.dtmf?.canInsertDTMF) return false;
    // What was pressed before and has not sounded yet stays in front.
    sender.dtmf.insertDTMF(sender.dtmf.toneBuffer + key, KEY, GAP);
    return true;
  }

  // -- offer and answer ------------------------------------------------------------------------

  // The description with the addresses in it: SIP has no later word for them here.
  async described(description) {
    const { connection } = this;
    await connection.setLocalDescription(description);
    if (connection.iceGatheringState !== "complete") {
      await new Promise((resolve) => {
        connection.onicegatheringstatechange = () => {
          if (connection.iceGatheringState === "complete") resolve();
        };
        setTimeout(resolve, GATHERING);
      });
    }
    return connection.localDescription.sdp;
  }

  async offer({ restart = false }) {
    await this.capture();
    return this.described(await this.connection.createOffer({ iceRestart: restart }));
  }

  answered(sdp) {
    return this.connection.setRemoteDescription({ type: "answer", sdp });
  }

  async answer(sdp) {
    await this.connection.setRemoteDescription({ type: "offer", sdp });
    await this.capture();
    try {
      return await this.described(await this.connection.createAnswer());
    } catch (error) {
      if (!this.closed) await this.connection.setRemoteDescription({ type: "rollback" }).catch(() => {});
      throw error;
    }
  }

  async rollback() {
    if (this.connection.signalingState === "have-local-offer") {
      await this.connection.setLocalDescription({ type: "rollback" });
    }
  }

  /* RTP packets so far, both ways. */
  async count() {
    const packets = { sent: 0, received: 0 };
    for (const report of (await this.connection.getStats()).values()) {
      if (report.type === "outbound-rtp") packets.sent += report.packetsSent;
      if (report.type === "inbound-rtp") packets.received += report.packetsReceived;
    }
    return packets;
  }

  close() {
    this.closed = true;
    for (const track of this.local?.getTracks() || []) track.stop();
    if (this.tone) this.tone.close();
    this.tone = null;
    this.connection.close();
    this.changed();
  }
}
