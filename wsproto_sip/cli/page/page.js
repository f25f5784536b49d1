// What is seen and heard: forms, messages, and the media of a call.

import { UserAgent, userOf } from "./sip.js";

const GATHERING = 2000;
const at = (id) => document.getElementById(id);
const asked = new URLSearchParams(location.search);

let agent = null;
let media = null;

function note(who, text) {
  const [item, name] = [document.createElement("li"), document.createElement("b")];
  name.textContent = who;
  item.append(name, text);
  at("log").append(item);
}

function show() {
  const { registered } = agent || {};
  const call = agent && agent.call;
  at("state").textContent = agent ? agent.state : "not registered";
  for (const id of ["user", "password", "enter"]) at(id).disabled = Boolean(agent);
  at("leave").hidden = !agent;
  at("talk").hidden = !registered;
  at("call").hidden = !call;
  at("dial").disabled = Boolean(call);
  if (!call) return;
  const what = { calling: "Calling", ringing: "Ringing at", incoming: "Call from", active: "In a call with" };
  at("progress").textContent = `${what[call.state] || ""} ${call.user}`;
  at("answer").hidden = call.state !== "incoming" || Boolean(media);
  at("end").textContent = call.state === "incoming" ? "Decline" : "Hang up";
}

// -- media -----------------------------------------------------------------------------------------

class Media {
  constructor() {
    this.connection = new RTCPeerConnection();
    this.connection.ontrack = ({ streams: [stream] }) => this.see("remote", stream);
    this.closed = false;
  }

  see(id, stream) {
    at(id).srcObject = stream;
    at(id).classList.toggle("seen", stream !== null && stream.getVideoTracks().length > 0);
  }

  async capture(video) {
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: true, video });
    } catch (error) {
      // Without a microphone, or without leave to use it, the other side hears a tone.
      note("", `no microphone or camera (${error.message}): sending a tone`);
      this.audio = new AudioContext();
      const [tone, volume] = [this.audio.createOscillator(), this.audio.createGain()];
      const out = this.audio.createMediaStreamDestination();
      volume.gain.value = 0.1;
      tone.connect(volume).connect(out);
      tone.start();
      this.stream = out.stream;
    }
    if (this.closed) {
      this.close();
      throw new Error("the call has ended");
    }
    for (const track of this.stream.getTracks()) this.connection.addTrack(track, this.stream);
    this.see("local", this.stream);
  }

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

  async offer() {
    return this.described(await this.connection.createOffer());
  }

  answered(sdp) {
    return this.connection.setRemoteDescription({ type: "answer", sdp });
  }

  async answer(sdp) {
    await this.connection.setRemoteDescription({ type: "offer", sdp });
    return this.described(await this.connection.createAnswer());
  }

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
    for (const track of this.stream ? this.stream.getTracks() : []) track.stop();
    if (this.audio) this.audio.close();
    this.connection.close();
    for (const id of ["remote", "local"]) this.see(id, null);
  }
}

setInterval(async () => {
  const { sent, received } = media ? await media.count() : {};
  at("count").textContent = sent === undefined ? "" : `RTP packets: ${sent} sent, ${received} received`;
}, 500);

// -- calls -----------------------------------------------------------------------------------------

function follow(call) {
  call.answered = (sdp) => media.answered(sdp);
  call.offered = (sdp) => media.answer(sdp);
  call.addEventListener("state", () => {
    if (call.state === "ended") {
      note(call.user, call.reason);
      if (media) media.close();
      media = null;
    }
    show();
  });
}

at("dial").onclick = async () => {
  if (!at("peer").reportValidity() || media) return;
  const mine = (media = new Media());
  at("dial").disabled = true;
  try {
    await mine.capture(at("video").checked);
    const offer = await mine.offer();
    if (agent.call) throw new Error("somebody is calling");
    follow(agent.invite(at("peer").value, offer));
  } catch (error) {
    note("", error.message);
    mine.close();
    if (media === mine) media = null;
  }
  show();
};

at("answer").onclick = async () => {
  const { call } = agent;
  if (!call || media) return;
  const mine = (media = new Media());
  show();
  try {
    await mine.capture(/^m=video [1-9]/m.test(call.offer));
    call.accept(await mine.answer(call.offer));
  } catch (error) {
    note("", error.message);
    if (call.state !== "ended") call.hangUp();
  }
};

at("end").onclick = () => agent.call && agent.call.hangUp();

// -- registration and messages ---------------------------------------------------------------------

at("register").onsubmit = (event) => {
  event.preventDefault();
  const { path, domain } = document.body.dataset;
  agent = new UserAgent({
    url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`,
    user: at("user").value,
    domain: domain || location.hostname,
    password: at("password").value,
  });
  agent.addEventListener("state", show);
  agent.addEventListener("message", ({ detail }) => note(userOf(detail.from), detail.text));
  agent.addEventListener("call", ({ detail: call }) => {
    follow(call);
    show();
  });
  agent.start();
  const other = new URLSearchParams({ user: at("peer").value, peer: agent.user });
  at("other").href = `?${other}`;
  show();
};

at("leave").onclick = async () => {
  const leaving = agent;
  await leaving.stop();
  if (agent === leaving) agent = null;
  show();
};

at("talk").onsubmit = async (event) => {
  event.preventDefault();
  const [user, text] = [at("peer").value, at("text").value];
  if (!text) return;
  at("text").value = "";
  try {
    await agent.message(user, text);
    note(agent.user, text);
  } catch (error) {
    note("", `not delivered to ${user}: ${error.message}`);
  }
};

window.addEventListener("pagehide", () => agent && agent.stop());

at("user").value = asked.get("user") || "alice";
at("peer").value = asked.get("peer") || "bob";
at("other").href = `?${new URLSearchParams({ user: at("peer").value, peer: at("user").value })}`;
