// The texts of the page.

/* Seconds as people read them: 0:07, 12:30, 1:02:03. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (number) => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

/* Seconds as a screen reader should say them. */
export function spokenDuration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [minutes, rest] = [Math.floor(whole / 60), whole % 60];
  const some = (number, word) => (number ? [`${number} ${word}${number === 1 ? "" : "s"}`] : []);
  return [...some(minutes, "minute"), ...some(rest, "second")].join(" ") || "0 seconds";
}

/* Why a request to a user failed. */
export function failure(status, reason, who) {
  switch (status) {
    case 400: case 416: case 484: return `“${who}” is not a valid address`;
    case 401: case 403: case 407: return `The server does not allow you to reach ${who}`;
    case 404: case 410: case 604: return `${who} is not registered`;
    case 408: return `No answer from ${who}`;
    case 415: case 488: case 606: return `${who} does not support this kind of call`;
    case 420: case 421: return `${who} does not support this`;
    case 430: case 480: return `${who} cannot be reached right now`;
    case 481: return `${who} is no longer in this call`;
    case 482: case 483: case 513: return `The call to ${who} cannot be routed`;
    case 486: case 600: return `${who} is busy`;
    case 487: return `${who} did not answer`;
    case 503: return "Not connected to the server";
    case 603: return `${who} declined`;
    default: return status >= 500 ? `The server failed (${status} ${reason})` : `${who}: ${status || ""} ${reason || "no answer"}`.replace("  ", " ");
  }
}

/* Why the registration failed. */
export function refusal({ name, status, reason }, { password, user }) {
  if (name === "offline") return "The server cannot be reached. Try again.";
  switch (status) {
    case 401: case 407:
      return password ? "Wrong name or password. Try again." : `“${user}” needs a password.`;
    case 403: return `“${user}” may not register here. Try another name.`;
    case 404: return "This server does not serve this domain.";
    case 408: return "The server did not answer. Try again.";
    case 423: return "The server requires longer registrations than this page requests.";
    case 429: case 503: return "The server is busy. Try again later.";
    default: return `The server refused: ${status} ${reason}`;
  }
}

/* How a call ended, in either direction. */
export function ending({ why, status, reason }, who) {
  switch (why) {
    case "hung up": return "You hung up";
    case "remote": return `${who} hung up`;
    case "cancelled": return "You cancelled the call";
    case "declined": return "You declined";
    case "missed": return `Missed call from ${who}`;
    case "elsewhere": return "Answered on another telephone";
    case "refused": return failure(status, reason, who);
    case "lost": return "The connection was lost";
    case "transferred": return "Transferred";
    case "replaced": return `${who} transferred you`;
    default: return status ? failure(status, reason, who) : `The call failed${reason ? `: ${reason}` : ""}`;
  }
}

/* The progress of a call. */
export function progress(call) {
  const { state, held, remoteHeld, adrift, transfer } = call;
  if (state === "calling") return "Calling …";
  if (state === "ringing") return "Ringing …";
  if (state === "incoming") return "Incoming call";
  if (state === "answering") return "Connecting …";
  if (state === "ended") return ending(call.ending, call.user);
  if (transfer) return `Transferring to ${transfer.who} …`;
  if (call.failing) return "Reconnecting the call …";
  if (held) return "On hold";
  if (remoteHeld) return `${call.user} has put you on hold`;
  return adrift ? "Connected, without the server" : "Connected";
}

/* News of a call or its media. */
export function told({ what, key, who, status, reason }, user) {
  switch (what) {
    case "key": return `${user} pressed ${key}`;
    case "transferred": return `${user} is now talking to ${who}`;
    case "transfer rings": return `${who} is ringing`;
    case "transfer failed":
      return `The transfer failed. ${status ? failure(status, reason, who) : `${user} did not say why`}`;
    case "no camera": return `No camera (${reason}). ${user} can hear but not see you.`;
    default: return `No microphone (${reason}). ${user} hears a soft tone instead of you.`;
  }
}

/* The state of the registration. */
export function presence({ name, seconds }, user) {
  switch (name) {
    case "connecting": return "Connecting …";
    case "registering": return "Registering …";
    case "registered": return `Registered as ${user}`;
    case "refused": return "Not registered";
    case "offline": return `Disconnected, next attempt in ${seconds} s`;
    default: return "Not registered";
  }
}

/* A point in time, in short. */
export function moment(at, now) {
  const [then, today] = [new Date(at), new Date(now)];
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (then.toDateString() === today.toDateString()) return time;
  return `${then.toLocaleDateString([], { day: "numeric", month: "short" })}, ${time}`;
}
