"""An MSRP relay among hostile and honest clients, as steps of small numbers, with its invariants.

As :mod:`fuzz.sip_edge`, for the relay: clients that log in, send, answer for themselves and for
others, and a peer relay. What the relay sends is read by a reader that shares no code with the
library, after each step. Another relay gets the same in bytes that it reads the long way, and must
do the same. A :class:`~fuzz.invariants.BrokenInvariant` names the invariant by number and sentence.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from wsproto_sip.auth import Challenge, answer_challenge
from wsproto_sip.msrp.authentication import DigestServer
from wsproto_sip.msrp.relay.config import (
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayAction,
    SendChunk,
)
from wsproto_sip.msrp.relay.relay import MsrpRelay

from .invariants import Invariants

__all__ = ["INVARIANTS", "STEPS", "World", "drive"]

INVARIANTS: Final = Invariants(
    {
        52: "One WebSocket message is one MSRP chunk; trailing bytes are refused.",
        58: "An MSRP end-line matches its own transaction only.",
        59: "The first From-Path URI equals the bound path; To-Path is popped once for each "
        "session.",
        60: "Session ids carry at least 80 random bits.",
        61: "Byte ranges stay in [1, 2**63).",
        # Beyond the list.
        0: "Only what was sent is delivered, and no state is left at the end.",
        -1: "An ordinary chunk on a known route is treated like any other.",
    }
)

hold = INVARIANTS.hold


# -- a reader of our own ---------------------------------------------------------------------------

_START: Final = re.compile(rb"MSRP ([A-Za-z0-9.\-+%=]{4,32}) ([^\r\n]*)\r\n")


@dataclass
class Read:
    """One chunk as plain text shows it."""

    tid: bytes
    what: bytes
    fields: dict[bytes, bytes]
    body: bytes | None

    @property
    def to_path(self) -> list[bytes]:
        return self.fields.get(b"to-path", b"").split()

    @property
    def from_path(self) -> list[bytes]:
        return self.fields.get(b"from-path", b"").split()


def read(data: bytes) -> Read | None:
    """Read exactly one chunk; ``None`` for anything else."""
    match = _START.match(data)
    if match is None:
        return None
    end = re.search(rb"(?<=\r\n)-------" + re.escape(match[1]) + rb"[+$#]\r\n", data)
    if end is None or end.end() != len(data):
        return None
    head, blank, body = data[match.end() : end.start()].partition(b"\r\n\r\n")
    pairs = [line.partition(b":")[::2] for line in head.split(b"\r\n") if line]
    fields = {name.strip().lower(): value.strip() for name, value in pairs}
    return Read(match[1], match[2], fields, body[:-2] if blank else None)


# -- two relays -----------------------------------------------------------------------------------


class LongWay(bytes):
    """A chunk that a relay parses as a whole, since these are not plain bytes."""

    __slots__ = ()


def _relay(config: MsrpRelayConfig) -> MsrpRelay:
    """Return a relay that makes the same ids as another one."""
    entropy = random.Random(1).randbytes
    return MsrpRelay(config, DigestServer("relay.example", USERS, entropy=entropy), entropy=entropy)


class Twins:
    """A relay, and one that parses every chunk as a whole; they do the same.

    Args:
        config: The configuration of both.
    """

    def __init__(self, config: MsrpRelayConfig) -> None:
        self.relay, self._other = self._relays = _relay(config), _relay(config)

    def receive(self, cid: int, data: bytes, now: float) -> list[RelayAction]:
        """Take a chunk."""
        return self._same(
            [self.relay.receive(cid, data, now), self._other.receive(cid, LongWay(data), now)], data
        )

    def connection_opened(self, cid: int, now: float, peer: str | None = None) -> list[RelayAction]:
        """Record a connection."""
        return self._same([it.connection_opened(cid, now, peer=peer) for it in self._relays])

    def connection_closed(self, cid: int, now: float) -> list[RelayAction]:
        """Forget a connection."""
        return self._same([relay.connection_closed(cid, now) for relay in self._relays])

    def handle_timeout(self, now: float) -> list[RelayAction]:
        """Do what is due."""
        return self._same([relay.handle_timeout(now) for relay in self._relays])

    def _same(self, actions: list[list[RelayAction]], data: bytes = b"") -> list[RelayAction]:
        """Return the actions of both."""
        known, other = actions
        hold(-1, known == other, (data, known, other))
        states = [self._state(relay) for relay in self._relays]
        hold(-1, states[0] == states[1], (data, states))
        return known

    @staticmethod
    def _state(relay: MsrpRelay) -> tuple[object, ...]:
        journal = relay.journal
        return (
            relay.connections,
            relay.sessions,
            relay.transactions,
            relay.next_deadline(),
            relay.refused,
            journal.relayed,
            journal.refused,
            journal.failed,
            journal.dropped,
            journal.sizes.total,
        )


# -- what clients say ------------------------------------------------------------------------------

USERS: Final = {"alice": "wonderland", "bob": "builder"}
RELAY: Final = "msrps://relay.example:2855;ws"
PEER: Final = "msrp://10.1.1.1:2855/theirs;tcp"
BODIES: Final = (
    b"hi",
    b"",
    b"\x00\xff\r\n",
    b"x\r\n-------{tid}$",
    b"x\r\n-------{tid}$\r\nMSRP evil0001 SEND\r\nTo-Path: msrp://x:1/y;ws\r\n-------evil0001$",
    b"-------{tid}+",
    b"x\r\n-------other123$\r\n",
    b"y" * 3000,
)
RANGES: Final = (
    "1-{0}/{0}",
    "1-*/*",
    "0-1/2",
    "2-1/2",
    "1-{0}/9223372036854775807",
    "1-2/9223372036854775808",
    "9223372036854775806-*/*",
    "9223372036854775807-9223372036854775807/*",
    "-1-2/2",
    "1-{0}/{0}\r\nByte-Range: 5-6/7",
    "01-{0}/{0}",
)


@dataclass(eq=False)
class Client:
    """A connection, and what it knows."""

    cid: int
    user: str
    session: str = ""
    live: bool = True
    peer: bool = False
    inbox: list[Read] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return PEER if self.peer else f"msrp://x{self.cid}.invalid:9/{self.user};ws"


class World:
    """A relay with everything around it."""

    def __init__(self) -> None:
        self.relay = Twins(
            MsrpRelayConfig("relay.example", 2855, peers={"bob": ("10.1.1.1", 2855)})
        )
        self.now = 1000.0
        self.numbers = count(1)
        self.clients: dict[int, Client] = {}
        #: Sessions, and whose they are; ids that were given out.
        self.sessions: dict[bytes, Client] = {}
        self.said: dict[bytes, list[tuple[Client, Read]]] = {}
        #: The relay's transactions by receiver.
        self.waits: dict[bytes, Client] = {}
        self.replies: list[Read] = []
        self.speaker: Client | None = None
        self.seen = 0
        self.join(0, 0, 0)
        self.join(1, 1, 0)
        self.link()

    # -- steps -------------------------------------------------------------------------------------

    def join(self, cid: int, user: int, password: int) -> None:
        """Connect a client and log it in, under a number that another one may have had."""
        number = 1 + cid % 4
        if number in self.clients:
            return
        self.clients[number] = Client(number, sorted(USERS)[user % 2])
        self._do(self.relay.connection_opened(number, self.now))
        self.login(number, password)

    def login(self, who: int, password: int) -> None:
        """Ask for a session, with the right password or another."""
        client = self.clients.get(who) or self._client(who)
        if client is None or client.peer:
            return
        self._say(client, self._chunk("AUTH", RELAY, client.uri))
        for reply in list(self.replies):
            challenge = Challenge.parse(reply.fields.get(b"www-authenticate", b"").decode())
            if challenge is None:
                continue
            secret = "guess" if password % 4 == 3 else USERS[client.user]
            proof = answer_challenge(challenge, client.user, secret, "AUTH", RELAY)
            extra = f"Authorization: {proof}\r\n"
            self._say(client, self._chunk("AUTH", RELAY, client.uri, extra=extra))
            for given in list(self.replies):
                session = given.fields.get(b"use-path")
                if session:
                    self._session(client, session)
            return

    def link(self) -> None:
        """Connect the peer relay."""
        if 9 not in self.clients:
            self.clients[9] = Client(9, "peer", peer=True)
            self._do(self.relay.connection_opened(9, self.now, peer="bob"))

    def leave(self, who: int) -> None:
        """End a connection."""
        client = self._client(who)
        if client is not None:
            del self.clients[client.cid]
            client.live = False
            self._do(self.relay.connection_closed(client.cid, self.now))

    def send(
        self, who: int, to: int, via: int, frm: int, number: int, body: int, mode: int
    ) -> None:
        """Send by the client's own session or another's, in its own name or another's."""
        client, target = self._client(who), self._client(to)
        if client is None or target is None:
            return
        other = self._client(via) or client
        first = client if via % 3 else other
        hops = [first.session, target.session, target.uri]
        if client.peer:
            hops = [target.session, target.uri]
        elif target.peer:
            hops = [first.session, PEER]
        if via == 7:
            hops = [first.session, *hops]
        path = " ".join(hop for hop in hops if hop) or RELAY
        sender = (other if frm % 5 == 4 else client).uri
        content = BODIES[body % len(BODIES)]
        tid = f"t{next(self.numbers):05d}"
        content = content.replace(b"{tid}", tid.encode())
        text = RANGES[number] if number < len(RANGES) else RANGES[0]
        extra = f"Message-ID: mid{next(self.numbers):05d}\r\n"
        extra += f"Byte-Range: {text.format(len(content))}\r\n"
        extra += ("", "Failure-Report: no\r\n", "Failure-Report: partial\r\n")[mode % 3]
        flag = "$+#"[mode // 3 % 3]
        self._say(client, self._chunk("SEND", path, sender, extra, content, tid=tid, flag=flag))

    def answer(self, who: int, which: int, code: int, by: int) -> None:
        """Answer what a client was sent, for itself or for another one."""
        client = self._client(who)
        if client is None or not client.inbox:
            return
        request = client.inbox[-1 - which % len(client.inbox)]
        speaker = self._client(by) if by else client
        if speaker is None:
            return
        status = ("200 OK", "413 Stop", "481 None", "200 OK")[code % 4]
        data = (
            f"MSRP {request.tid.decode()} {status}\r\nTo-Path: {request.from_path[0].decode()}\r\n"
            f"From-Path: {speaker.uri}\r\n-------{request.tid.decode()}$\r\n"
        )
        allowed = self.waits.get(request.tid) is speaker
        before = self.seen
        self._say(speaker, data.encode())
        hold(58, allowed or self.seen == before, ("answered for another", speaker.uri, request))

    def damage(self, who: int, which: int, at: int, how: int, byte: int) -> None:
        """Send something that a client has said, with one thing changed."""
        client, other = self._client(who), self._client(who + how // 5)
        if client is None or other is None or not other.sent:
            return
        data = other.sent[-1 - which % len(other.sent)]
        at %= len(data) + 1
        if how % 5 == 0:
            data = data[:at] + bytes([byte]) + data[at + 1 :]
        elif how % 5 == 1:
            data = data[:at] + (b"\r\n", b"\0", b"-------", b"\n")[byte % 4] + data[at:]
        elif how % 5 == 2:
            data = data[:at]
        elif how % 5 == 3:
            data += data
        else:
            data = data[:at] + data[at + 1 + byte % 40 :]
        self._say(client, data)

    def wait(self, time: int) -> None:
        """Let time pass."""
        self.now += (0.0, 1.0, 31.0, 700.0)[time % 4]
        self._do(self.relay.handle_timeout(self.now))

    def finish(self) -> None:
        """End all connections: nothing stays."""
        while self.clients:
            self.leave(0)
        self.wait(3)
        relay = self.relay.relay
        hold(0, not (relay.connections or relay.sessions or relay.transactions), "something stays")

    # -- between -----------------------------------------------------------------------------------

    def _client(self, who: int) -> Client | None:
        numbers = sorted(self.clients)
        return self.clients[numbers[who % len(numbers)]] if numbers else None

    def _chunk(
        self,
        method: str,
        to: str,
        frm: str,
        extra: str = "",
        body: bytes | None = None,
        *,
        tid: str = "",
        flag: str = "$",
    ) -> bytes:
        tid = tid or f"t{next(self.numbers):05d}"
        head = f"MSRP {tid} {method}\r\nTo-Path: {to}\r\nFrom-Path: {frm}\r\n{extra}".encode()
        if body is not None:
            head += b"Content-Type: text/plain\r\n\r\n" + body + b"\r\n"
        return head + f"-------{tid}{flag}\r\n".encode()

    def _say(self, client: Client, data: bytes) -> None:
        client.sent.append(data)
        chunk = read(data)
        if chunk is not None:
            self.said.setdefault(chunk.fields.get(b"message-id", b""), []).append((client, chunk))
        self.replies, self.speaker = [], client
        self._do(self.relay.receive(client.cid, data, self.now))
        self.speaker = None

    def _session(self, client: Client, session: bytes) -> None:
        (name,) = re.findall(rb":2855/([A-Za-z0-9_\-]+);", session)
        hold(60, len(name) * 6 >= 80, session)
        known = self.sessions.setdefault(session, client)
        hold(60, known is client, ("given out again", session))
        client.session = session.decode()

    def _do(self, actions: list[RelayAction]) -> None:
        for action in actions:
            if isinstance(action, SendChunk):
                hold(0, action.cid in self.clients, ("not there", action.cid))
                self._delivered(self.clients[action.cid], action.data)
            elif isinstance(action, ForwardToPeer):
                self._delivered(self.clients.get(9, Client(9, "peer", peer=True)), action.data)
            elif isinstance(action, DropConnection) and action.cid in self.clients:
                client = self.clients.pop(action.cid)
                client.live = False
                self._do(self.relay.connection_closed(client.cid, self.now))

    def _delivered(self, client: Client, data: bytes) -> None:
        chunk = read(data)
        hold(58, chunk is not None, data)
        assert chunk is not None
        hold(58, data.count(b"-------" + chunk.tid) == 1, data)
        self._range(chunk)
        if chunk.what.split(b" ")[0].isdigit():
            hold(58, client is self.speaker, ("a response to another", chunk))
            self.replies.append(chunk)
            return
        self.seen += 1
        if chunk.what == b"REPORT":
            return
        candidates = self.said.get(chunk.fields.get(b"message-id", b""), [])
        sent = (chunk.what, chunk.body)
        hold(
            52,
            any((said.what, said.body) == sent for _, said in candidates),
            ("from nowhere", chunk, candidates),
        )
        # What a sender has chosen names no transaction of the relay's.
        hold(58, all(chunk.tid != said.tid for _, said in candidates), chunk)
        self._paths(client, chunk, [pair for pair in candidates if pair[1].body == chunk.body])
        self.waits[chunk.tid] = client
        client.inbox.append(chunk)

    @staticmethod
    def _range(chunk: Read) -> None:
        text = chunk.fields.get(b"byte-range")
        if text is None:
            return
        match = re.fullmatch(rb"([0-9]+)-([0-9]+|\*)/([0-9]+|\*)", text)
        hold(61, match, text)
        assert match is not None
        numbers = [int(part) for part in match.groups() if part != b"*"]
        hold(61, numbers[0] >= 1 and max(numbers) < 2**63, text)

    def _paths(self, client: Client, chunk: Read, candidates: list[tuple[Client, Read]]) -> None:
        """Hold the paths against those of what was sent, whichever of the same it was."""
        found = []
        for sender, original in candidates:
            popped = original.to_path[: len(original.to_path) - len(chunk.to_path)]
            owners = [self.sessions.get(uri) for uri in popped]
            expected = [party for party in (sender, client) if not party.peer]
            found.append(
                1 <= len(popped) <= 2
                and original.to_path[len(popped) :] == chunk.to_path
                and chunk.from_path == [*reversed(popped), *original.from_path]
                and owners == expected
                and all(owner is not None and owner.live for owner in owners)
                and (sender.peer or original.from_path[0] == sender.uri.encode())
            )
        hold(59, any(found), (client.uri, chunk, candidates))


#: The steps, with what each argument stays below.
STEPS: Final[dict[str, dict[str, int]]] = {
    "join": {"cid": 4, "user": 2, "password": 4},
    "login": {"who": 5, "password": 4},
    "link": {},
    "leave": {"who": 5},
    "send": {
        "who": 5,
        "to": 5,
        "via": 8,
        "frm": 10,
        "number": 3 * len(RANGES),
        "body": len(BODIES),
        "mode": 9,
    },
    "answer": {"who": 5, "which": 4, "code": 4, "by": 5},
    "damage": {"who": 5, "which": 4, "at": 256, "how": 15, "byte": 256},
    "wait": {"time": 4},
}


def drive(data: bytes) -> World:
    """Take steps as bytes say, and end in order; raises what does not hold.

    Args:
        data: Each step and its arguments, a byte each. Arguments that are missing are 0.

    Returns:
        The world at its end.
    """
    left = iter(data)
    world = World()
    names = list(STEPS)
    while (step := next(left, None)) is not None:
        name = names[step % len(names)]
        arguments = {key: next(left, 0) % below for key, below in STEPS[name].items()}
        getattr(world, name)(**arguments)
    world.finish()
    return world
