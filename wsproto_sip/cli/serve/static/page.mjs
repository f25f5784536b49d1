// The visible page: forms, calls, history and settings, connected to the telephone.

import { UserAgent } from "./agent.mjs";
import { Attention } from "./attention.mjs";
import { Devices } from "./devices.mjs";
import { History } from "./history.mjs";
import { Media } from "./media.mjs";
import { uuid } from "./message.mjs";
import { Phone } from "./phone.mjs";
import { Stored } from "./stored.mjs";
import { Tones } from "./tones.mjs";
import { duration, ending, failure, moment, presence, progress, refusal, spokenDuration } from "./words.mjs";

const at = (id) => document.getElementById(id);
const { body } = document;
const asked = new URLSearchParams(location.search);
const settings = new Stored(() => localStorage);
const session = new Stored(() => sessionStorage);
const devices = new Devices({ storage: settings });
const tones = new Tones();
const attention = new Attention();

// Hosts where one person is likely to test both sides.
const LOOPBACK = /^(?:localhost|127\..*|\[::1\])$/;

let agent = null;
let phone = null;
const rows = new Map();

function text(element, value) {
  // The same text once more would be read out once more.
  if (element.textContent !== value) element.textContent = value;
}

function say({ text: words, how }) {
  const urgent = how === "alarm" || how === "error";
  text(at(urgent ? "alarm" : "said"), words);
  if (how !== "notice" && how !== "error") return;
  at("notice").classList.toggle("error", how === "error");
  text(at("notice").firstElementChild, words);
  at("notice").hidden = false;
}

function quieten() {
  at("notice").hidden = true;
  text(at("alarm"), "");
}

// -- everything that changes ----------------------------------------------------------------------

function show() {
  const state = agent ? agent.state : { name: "ended" };
  text(at("state"), presence(state, agent?.user));
  at("state").dataset.name = state.name;
  // After the first registration, a lost connection hides nothing.
  const inside = Boolean(phone) && phone.entered;
  const entering = inside && at("desk").hidden;
  at("register").hidden = inside;
  at("desk").hidden = !inside;
  at("leave").hidden = !inside;
  at("hint").hidden = !inside || !LOOPBACK.test(location.hostname);
  const trying = Boolean(agent) && state.name !== "refused" && state.name !== "ended";
  for (const id of ["user", "password", "enter"]) at(id).disabled = trying;
  text(at("enter"), trying ? "Signing in …" : "Sign in");
  // The form that had the focus is gone.
  if (entering) at("peer").focus();
  showCalls();
  showStage();
}

function showCalls() {
  const calls = phone ? phone.calls : [];
  const items = [...calls, ...(phone ? phone.referrals : [])];
  for (const [item, row] of rows) {
    if (items.includes(item)) continue;
    if (row.contains(document.activeElement)) at("peer").focus();
    row.remove();
    rows.delete(item);
  }
  for (const item of items) {
    if (!rows.has(item)) {
      rows.set(item, calls.includes(item) ? callRow(item) : askRow(item));
      at("calls").append(rows.get(item));
    }
    if (calls.includes(item)) showRow(item, rows.get(item));
  }
  at("calls").hidden = !items.length;
}

function row(template, actions) {
  const element = at(template).content.firstElementChild.cloneNode(true);
  for (const button of element.querySelectorAll("button")) {
    button.onclick = () => {
      quieten();
      actions[button.dataset.do]();
    };
  }
  return element;
}

function callRow(call) {
  const element = row("row", {
    answer: () => phone.answer(call, { video: false }),
    video: () => phone.answer(call, { video: true }),
    mute: () => phone.mute(call, !call.media.muted),
    hold: () => phone.hold(call, true),
    select: () => phone.select(call),
    end: () => call.hangUp(),
  });
  element.setAttribute("aria-label", `Call with ${call.user}`);
  text(element.querySelector(".face"), [...call.user][0] || "?");
  text(element.querySelector(".name"), call.user);
  return element;
}

function showRow(call, element) {
  const { state } = call;
  const [incoming, active] = [state === "incoming", state === "active"];
  element.className = `call ${state}${call === phone.current ? " current" : ""}`;
  text(element.querySelector(".progress"), progress(call));
  const shown = {
    answer: incoming,
    video: incoming && call.offersVideo,
    mute: active && !call.held,
    hold: active && !call.held,
    select: active && call.held,
    end: true,
  };
  const pressed = element.contains(document.activeElement) ? document.activeElement : null;
  for (const button of element.querySelectorAll("button")) {
    const action = button.dataset.do;
    button.hidden = !shown[action];
    const label = button.querySelector("span");
    if (action === "end") text(label, incoming ? "Decline" : "Hang up");
    if (action === "select") text(label, phone.calls.some((other) => other !== call && !other.held && other.state === "active") ? "Swap" : "Resume");
    if (action === "mute") {
      button.setAttribute("aria-pressed", String(Boolean(call.media?.muted)));
      button.querySelector("use").setAttribute("href", call.media?.muted ? "#i-muted" : "#i-mute");
    }
    button.setAttribute("aria-label", `${label.textContent}: ${call.user}`);
  }
  // Hold turns into Resume under the finger that pressed it; nothing turns into Hang up.
  if (pressed?.hidden) (element.querySelector("button:not([hidden], [data-do=end])") || element).focus();
}

function askRow(referral) {
  const element = row("ask", { follow: () => phone.follows(referral), stay: () => phone.stays(referral) });
  element.setAttribute("aria-label", `Question from ${referral.call.user}`);
  text(element.querySelector(".what"), `${referral.call.user} wants to transfer you to ${referral.user}`);
  text(element.querySelector("[data-do=follow] span"), `Call ${referral.user}`);
  return element;
}

// -- the current call -----------------------------------------------------------------------------

let staged = null;

function showStage() {
  const call = phone?.current || null;
  at("stage").hidden = !call;
  if (call !== staged) {
    for (const name of ["keypad", "transfer"]) open(name, false);
    text(at("count"), "");
    staged = call;
  }
  const media = call?.media;
  const stream = media?.stream && !call.held ? media.stream : null;
  if (at("remote").srcObject !== stream) at("remote").srcObject = stream;
  const own = media?.hasCamera && !media.unseen ? media.local : null;
  if (at("local").srcObject !== own) at("local").srcObject = own;
  at("local").hidden = !own;
  const seen = Boolean(stream) && media.seesRemote && !call.remoteHeld;
  at("remote").classList.toggle("seen", seen);
  at("portrait").hidden = seen;
  if (!call) return;
  text(at("stage-title"), `Call with ${call.user}`);
  text(at("portrait").querySelector(".face"), [...call.user][0] || "?");
  text(at("portrait").querySelector("strong"), call.user);
  text(at("portrait").querySelector(".progress"), progress(call));
  const active = call.state === "active";
  for (const id of ["keypad-open", "transfer-open"]) at(id).disabled = !active || call.held;
  at("transfer-open").disabled = !active;
  at("camera").disabled = !active || call.held;
  at("camera").setAttribute("aria-pressed", String(Boolean(media?.hasCamera) && !media.unseen));
  if (!at("keypad").hidden && at("keypad-open").disabled) open("keypad", false);
  text(at("transfer-who"), call.user);
  showConsulted(call);
}

// An attended transfer, to the other side of another call.
function showConsulted(call) {
  const others = phone.calls.filter((other) => other !== call && other.state === "active");
  const wanted = others.map(({ user }) => user).join("\n");
  if (at("consulted").dataset.users === wanted) return;
  at("consulted").dataset.users = wanted;
  at("consulted").replaceChildren(
    ...others.map((other) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Connect ${call.user} with ${other.user}`;
      button.onclick = () => {
        open("transfer", false);
        phone.transfer(call, null, other);
      };
      return button;
    }),
  );
}

// Opens or closes what a button controls.
function open(name, yes) {
  const button = at(`${name}-open`);
  if (!yes && at(name).contains(document.activeElement)) button.focus();
  at(name).hidden = !yes;
  button.setAttribute("aria-expanded", String(yes));
}

for (const name of ["keypad", "transfer", "settings"]) {
  at(`${name}-open`).onclick = () => {
    open(name, at(name).hidden);
    if (at(name).hidden) return;
    if (name === "settings") showSettings();
    at(name).scrollIntoView({ block: "nearest" });
    at(name).querySelector("input, select, button").focus();
  };
  at(name).addEventListener("keydown", (event) => {
    if (event.key === "Escape") open(name, false);
  });
}

at("keypad").append(
  ...[..."123456789*0#"].map((key) => {
    const button = document.createElement("button");
    button.textContent = key;
    if (key === "*") button.setAttribute("aria-label", "Star");
    if (key === "#") button.setAttribute("aria-label", "Hash");
    button.onclick = () => phone.key(phone.current, key);
    return button;
  }),
);
at("keypad").addEventListener("keydown", ({ key }) => {
  if (/^[0-9*#]$/.test(key)) phone.key(phone.current, key);
});

at("transfer").onsubmit = (event) => {
  event.preventDefault();
  quieten();
  const who = at("target").value.trim();
  at("target").value = "";
  open("transfer", false);
  phone.transfer(phone.current, who);
};

at("camera").onclick = () => phone.camera(phone.current);
at("volume").oninput = () => {
  at("remote").volume = Number(at("volume").value);
  settings.keep("volume", at("volume").value);
};

setInterval(async () => {
  for (const [call, element] of rows) {
    if (!call.media && call.state !== "incoming") continue;
    const seconds = call.answeredAt ? (Date.now() - call.answeredAt) / 1000 : null;
    const timer = element.querySelector(".timer");
    text(timer, seconds === null ? "" : duration(seconds));
  }
  const media = phone?.current?.media;
  if (!media || media.closed) return;
  const { sent, received } = await media.count();
  text(at("count"), `RTP packets: ${sent} sent, ${received} received`);
}, 500);

// -- history and messages --------------------------------------------------------------------------

function element(name, className, content) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = content;
  return made;
}

function logged(entry) {
  const item = document.createElement("li");
  const when = moment(entry.at, Date.now());
  if (entry.kind === "message") {
    item.className = entry.direction;
    const about = entry.direction === "in" ? `${entry.peer}, ${when}` : `You to ${entry.peer}, ${when}`;
    item.append(element("span", "about", about), element("span", "text", entry.text));
    if (entry.failed) item.append(element("span", "failed", `Not delivered: ${entry.failed}`));
    return item;
  }
  const answered = Number.isFinite(entry.seconds);
  item.className = `event${entry.why === "missed" ? " missed" : ""}`;
  const who = entry.direction === "in" ? `${entry.peer} called` : `You called ${entry.peer}`;
  const words = answered ? spokenDuration(entry.seconds) : ending(entry, entry.peer);
  const line = element("p", "", entry.why === "missed" ? `${words}` : `${who}: ${words}`);
  line.append(element("span", "about", when));
  const again = element("button", "quiet", "Call");
  again.setAttribute("aria-label", `Call ${entry.peer}`);
  again.onclick = () => {
    at("peer").value = entry.peer;
    dial(false);
  };
  item.append(line, again);
  return item;
}

function showHistory() {
  at("log").replaceChildren(...phone.history.entries.map(logged));
  showPeople();
  at("log").scrollTop = at("log").scrollHeight;
}

function showEntry(entry) {
  at("log").append(logged(entry));
  while (at("log").childElementCount > phone.history.entries.length) at("log").firstElementChild.remove();
  showPeople();
  at("log").scrollTop = at("log").scrollHeight;
}

function showPeople() {
  const names = [...new Set(phone.history.entries.map(({ peer }) => peer).reverse())].slice(0, 20);
  at("people").replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
  at("forget").hidden = !phone.history.entries.length;
}

at("forget").onclick = () => {
  phone.history.clear();
  showHistory();
  at("peer").focus();
};

at("write").onsubmit = async (event) => {
  event.preventDefault();
  const [peer, words] = [at("peer").value.trim(), at("text").value];
  if (!words || !at("peer").reportValidity()) return;
  quieten();
  at("text").value = "";
  // Put back what was not delivered, so that it can be sent again.
  if (!(await phone.write(peer, words)) && !at("text").value) at("text").value = words;
};

// -- calling ---------------------------------------------------------------------------------------

function dial(video) {
  if (!at("peer").reportValidity()) return;
  quieten();
  if (agent.registered) phone.dial(at("peer").value.trim(), { video });
  else say({ text: failure(503), how: "error" });
}

at("talk").onsubmit = (event) => {
  event.preventDefault();
  dial(false);
};
at("dial-video").onclick = () => dial(true);
at("notice").lastElementChild.onclick = quieten;

// -- settings --------------------------------------------------------------------------------------

async function showSettings() {
  for (const kind of ["audioinput", "videoinput"]) {
    const found = await devices.list(kind);
    const options = found.map(({ id, label }) => Object.assign(document.createElement("option"), { value: id, textContent: label }));
    at(kind).replaceChildren(...options);
    if (found.some(({ id }) => id === devices.chosen[kind])) at(kind).value = devices.chosen[kind];
  }
  const said = { granted: "This page may notify you of calls.", denied: "The browser does not allow this page to notify you of calls." };
  text(at("notifications"), said[globalThis.Notification?.permission] || "Sign in to allow notifications of calls.");
}

for (const kind of ["audioinput", "videoinput"]) {
  at(kind).onchange = () => {
    devices.choose(kind, at(kind).value);
    for (const call of phone?.calls || []) {
      call.media?.change(kind).catch(({ message }) => say({ text: `The device was not changed: ${message}`, how: "error" }));
    }
  };
}
navigator.mediaDevices?.addEventListener("devicechange", () => at("settings").hidden || showSettings());

at("ring-volume").oninput = () => {
  tones.volume = Number(at("ring-volume").value);
  settings.keep("ring volume", at("ring-volume").value);
};
at("ring-test").onclick = () => {
  tones.unlock();
  tones.sample("ring");
};

// -- signing in and out ----------------------------------------------------------------------------

function refused(state) {
  const words = refusal(state, { password: at("password").value, user: at("user").value });
  if (phone.entered && (state.seconds || phone.calls.length)) {
    say({ text: words, how: "error" });
    return;
  }
  text(at("refusal"), words);
  at("refusal").hidden = false;
  leave();
  at([401, 407].includes(state.status) ? "password" : "user").select();
}

async function leave() {
  const leaving = agent;
  [agent, phone] = [null, null];
  tones.play(null);
  attention.title(null);
  show();
  await leaving.stop();
}

at("register").onsubmit = (event) => {
  event.preventDefault();
  quieten();
  at("refusal").hidden = true;
  tones.unlock();
  attention.ask().catch(() => {});
  const { path, domain } = body.dataset;
  const user = at("user").value.trim();
  // RFC 5626 §4.1: a telephone keeps its name; each tab is one.
  const instance = session.getItem("instance") || `urn:uuid:${uuid()}`;
  session.keep("instance", instance);
  settings.keep("user", user);
  const mine = (agent = new UserAgent({
    url: `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}${path}`,
    user,
    domain: domain || location.hostname,
    password: at("password").value,
    instance,
  }));
  const history = new History(mine.aor, { storage: settings });
  phone = new Phone({ agent, makeMedia: (options) => new Media(devices, options), tones, attention, history });
  phone.entered = false;
  phone.addEventListener("said", ({ detail }) => say(detail));
  phone.addEventListener("entry", ({ detail }) => mine === agent && showEntry(detail));
  phone.addEventListener("change", () => mine === agent && show());
  mine.addEventListener("state", ({ detail }) => {
    if (mine !== agent) return;
    if (detail.name === "refused" || (detail.name === "offline" && !phone.entered)) refused(detail);
    else if (detail.name === "registered" && !phone.entered) {
      phone.entered = true;
      showHistory();
      at("other").href = `?${new URLSearchParams({ user: at("peer").value, peer: mine.user })}`;
      show();
    }
  });
  mine.start();
  show();
};

at("leave").onclick = () => leave().then(() => at("user").focus());
window.addEventListener("online", () => agent?.connection.hurry());
window.addEventListener("pagehide", () => agent?.stop());

at("user").value = asked.get("user") || settings.getItem("user") || "alice";
at("peer").value = asked.get("peer") || (at("user").value === "bob" ? "alice" : "bob");
at("other").href = `?${new URLSearchParams({ user: at("peer").value, peer: at("user").value })}`;
for (const [id, key] of [["volume", "volume"], ["ring-volume", "ring volume"]]) at(id).value = settings.getItem(key) || at(id).value;
at("remote").volume = Number(at("volume").value);
tones.volume = Number(at("ring-volume").value);
show();
