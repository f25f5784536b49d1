const at = (id) => document.getElementById(id);

// Seconds before the first attempt to connect again, and the most between two.
const [FIRST, LONGEST] = [1, 30];

let socket = null;
let pause = FIRST;

function connect(name) {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  at("state").textContent = "Connecting …";
  socket = new WebSocket(`${scheme}://${location.host}/${encodeURIComponent(name)}`);
  socket.onopen = () => {
    at("state").textContent = `Connected as ${name}`;
    pause = FIRST;
  };
  socket.onmessage = ({ data }) => show(data);
  // The browser fires this for every end, also if no connection was made.
  socket.onclose = ({ code }) => {
    // A random share of the pause: after a restart, not all clients come back at once.
    const seconds = pause * (0.5 + Math.random() / 2);
    pause = Math.min(2 * pause, LONGEST);
    at("state").textContent = `Disconnected (${code}), next attempt in ${Math.ceil(seconds)} s`;
    setTimeout(connect, 1000 * seconds, name);
  };
}

function show(line) {
  const item = document.createElement("li");
  // textContent and not innerHTML: what others write is text.
  item.textContent = line;
  at("lines").append(item);
  item.scrollIntoView({ block: "nearest" });
}

at("enter").onsubmit = (event) => {
  event.preventDefault();
  at("enter").hidden = true;
  at("room").hidden = false;
  at("text").focus();
  connect(at("name").value);
};

at("say").onsubmit = (event) => {
  event.preventDefault();
  // send() on a socket that is not open loses the message without an error.
  if (socket.readyState !== WebSocket.OPEN || !at("text").value) return;
  socket.send(at("text").value);
  at("text").value = "";
};
