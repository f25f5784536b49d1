// The few things that a telephone reads in a session description (RFC 8866, RFC 3264).

const lines = (sdp) => sdp.split(/\r\n|\n/);

/* Whether the sender of a description has put us on hold: it wants to hear nothing (RFC 3264 §8.4). */
export function isHold(sdp) {
  let [direction, connection] = ["sendrecv", ""];
  let section = null;
  for (const line of lines(sdp)) {
    if (line.startsWith("m=")) {
      if (section === "audio") break;
      section = line.startsWith("m=audio") ? "audio" : "other";
    }
    if (section === "other") continue;
    const said = /^a=(sendrecv|sendonly|recvonly|inactive)$/.exec(line);
    if (said) direction = said[1];
    if (line.startsWith("c=")) connection = line;
  }
  // The way of RFC 2543 counts with it, but not for ICE, whose default address may be that one.
  const silent = connection === "c=IN IP4 0.0.0.0" && !sdp.includes("a=ice-ufrag");
  return silent || direction === "sendonly" || direction === "inactive";
}

/* Whether a description has a picture. */
export const hasVideo = (sdp) => /^m=video [1-9]/m.test(sdp);

/* Whether two descriptions are of one session (RFC 8866 §5.2): all of o= but its version. */
export function isSameSession(one, other) {
  const origin = (sdp) => {
    const [name, id, , ...rest] = (lines(sdp).find((line) => line.startsWith("o=")) || "").split(" ");
    return id === undefined ? null : [name, id, ...rest].join(" ");
  };
  return origin(one) !== null && origin(one) === origin(other);
}
