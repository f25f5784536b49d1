"""Hostile peers, in memory: how much each makes a session hold, and for how long.

Theory of operation: bytes are made before anything is measured, and passed to a session by a
minimal adapter: it reads until the session has had enough, keeps the bytes that the transport does
not take, and reports how many they are. The application reads nothing, or drops its events at once.
Memory is the peak of all allocations from the first byte of the attack on, including those of the
adapter. The outcome of the connection is part of the figure, and has to be the expected one: an
attack that fails early for another reason costs nothing and shows nothing.
"""

from __future__ import annotations

import gc
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks._harness import DeliveryError, Figure, middle
from benchmarks._wire import chunks, masked
from wsproto_sip.events import AcceptConnection, Event, Request, TextMessage
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import ConnectionClosed
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

KEY = b"\x11\x82\x33\x44"
READ = 64 * 1024
FIELDS = (
    b"Host: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
REQUEST = b"GET / HTTP/1.1\r\n" + FIELDS + b"\r\n"


def frame(first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8)
    return head + KEY + masked(payload, KEY)


def open_session(deflate: bool = False, **options: object) -> Session:
    """Return a server's session after its handshake."""
    extensions = []
    if deflate:
        extensions.append(PerMessageDeflate())
        extensions[0].accept("permessage-deflate")
    config = SessionConfig(**options)  # type: ignore[arg-type]
    return Session.established(ConnectionType.SERVER, now=0.0, config=config, extensions=extensions)


class Adapter:
    """Reads for a session, and writes to a transport that accepts nothing."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.events: list[Event] = []
        self._stuck: list[bytes] = []
        self._backlog = 0

    def feed(self, data: bytes, *, keep: bool = False) -> None:
        """Pass in one read, and do the remaining work; keep the events on request."""
        session = self.session
        events = session.receive(data, 0.0)
        self._write()
        while True:
            if keep:
                self.events += events
            del events
            if not session.has_work:
                return
            events = session.handle_timeout(0.0)
            self._write()

    def _write(self) -> None:
        if data := self.session.data_to_send():
            self._stuck.append(data)
            self._backlog += len(data)
        self.session.transport_backlog(self._backlog, 0.0)

    def outcome(self) -> str:
        """Return the outcome of the connection."""
        session = self.session
        if session.paused:
            return "paused"
        if session.state is ConnectionState.OPEN:
            return "open"
        [end] = [e for e in session.receive(None, 0.0) if isinstance(e, ConnectionClosed)]
        return f"failed, {int(end.close_sent.code)}" if end.close_sent else end.cause.value


@dataclass(frozen=True, slots=True)
class Attack:
    """The actions of a peer, and their highest allowed cost.

    Args:
        what: A description.
        outcome: The expected outcome of the connection.
        budget: The maximum number of bytes that may be held.
        prepare: Prepares the attack; the function it returns is measured, and returns the outcome.
    """

    what: str
    outcome: str
    budget: int
    prepare: Callable[[], Callable[[], str]]

    def run(self) -> Figure:
        """Measure the attack.

        Raises:
            DeliveryError: The outcome is a different one.
        """
        attack = self.prepare()
        gc.collect()
        tracemalloc.start()
        try:
            outcome = attack()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        if outcome != self.outcome:
            raise DeliveryError(f"{self.what}: {outcome}, expected {self.outcome}")
        return Figure(f"{self.what}: {outcome}", "kB", peak / 1000, self.budget / 1000)


def reading(
    reads: Iterable[bytes], *, keep: bool = False, deflate: bool = False, **options: object
) -> Callable[[], str]:
    """Return an attack that only sends input, as long as the session accepts any."""
    adapter = Adapter(open_session(deflate, **options))

    def run() -> str:
        for data in reads:
            if adapter.session.state is ConnectionState.CLOSED or adapter.session.paused:
                break
            adapter.feed(data, keep=keep)
        return adapter.outcome()

    return run


def repeated(raw: bytes, count: int) -> list[bytes]:
    """Return reads of the same frame again and again; they share what they can."""
    each = READ // len(raw)
    reads = [raw * each] * (count // each)
    return [*reads, raw * (count % each)]


def deflated(payload: bytes) -> bytes:
    """Return a compressed binary message of its own."""
    compressor = zlib.compressobj(9, wbits=-15)
    data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return frame(0xC2, data.removesuffix(b"\x00\x00\xff\xff"))


def after_the_end(scale: float) -> Callable[[], str]:
    """Send to a session that has failed, with an adapter that ignores this."""
    session = open_session()
    session.receive(b"\xff\xff", 0.0)
    reads = repeated(frame(0x81, b"x" * 1000), int(10_000 * scale))

    def run() -> str:
        for data in reads:
            session.receive(data, 0.0)
        return Adapter(session).outcome()

    return run


def behind_a_pause(reads: list[bytes], **options: object) -> Callable[[], str]:
    """Pass in input while paused, which an adapter should not do."""
    adapter = Adapter(open_session(True, auto_pause=True, **options))

    def run() -> str:
        for data in reads:
            adapter.feed(data, keep=True)
        return adapter.outcome()

    return run


def sending() -> str:
    """Send to a peer that accepts nothing, until that is refused."""
    adapter = Adapter(open_session())
    data = b"x" * 1000
    with_text = TextMessage(data.decode())
    try:
        while True:
            adapter.session.send(with_text, 0.0)
            adapter._write()
    except LocalProtocolError:
        return adapter.outcome()


def shaking_hands(reads: Iterable[bytes]) -> Callable[[], str]:
    """Send input before the handshake was accepted."""
    adapter = Adapter(Session(ConnectionType.SERVER, now=0.0))

    def run() -> str:
        for data in reads:
            adapter.feed(data)
        return adapter.session.state.name.lower()

    return run


def attacks(scale: float) -> list[Attack]:
    """Return every attack.

    Args:
        scale: The fraction of the frames to make.
    """
    many = max(int(1_000_000 * scale), 2000)
    mega = 2**20 if scale == 1 else 2**16
    unlimited = Limits(max_control_rate=None, max_fragments=None)
    million = deflated(bytes(1_000_000))
    bombs = list(chunks(million * 300, READ))
    bomb = list(chunks(deflated(bytes(int(200_000_000 * max(scale, 0.1)))), READ))
    huge = frame(0x82, bytes(mega))
    foreign = frame(0x81, ("é" * (mega // 2)).encode())

    def unread() -> Callable[[], str]:
        return behind_a_pause(bombs)

    return [
        Attack(
            f"{many:,} Pings, our Pongs not read",
            "failed, 1008",
            2_000_000,
            lambda: reading(repeated(frame(0x89), many)),
        ),
        Attack(
            f"{many:,} Pings of 125 B, not read, any rate allowed",
            "open",
            2_000_000,
            lambda: reading(repeated(frame(0x89, bytes(125)), many), limits=unlimited),
        ),
        Attack(
            f"{many:,} empty fragments",
            "failed, 1009",
            2_000_000,
            lambda: reading([frame(0x01), *repeated(frame(0x00), many)]),
        ),
        Attack(
            f"{many:,} empty fragments, any number allowed",
            "open",
            2_000_000,
            lambda: reading([frame(0x01), *repeated(frame(0x00), many)], limits=unlimited),
        ),
        Attack(
            f"{many:,} fragments of 1 B, any number allowed",
            "open",
            2_000_000,
            lambda: reading([frame(0x01), *repeated(frame(0x00, b"x"), many)], limits=unlimited),
        ),
        Attack(
            f"300 deflated messages of 1 MB from {len(million) * 300 // 1000} kB, not read by us",
            "paused",
            8_000_000,
            unread,
        ),
        Attack(
            "the same, each dropped when read",
            "open",
            8_000_000,
            lambda: reading(bombs, deflate=True),
        ),
        Attack(
            f"{200 * max(scale, 0.1):.0f} MB from {sum(map(len, bomb)) // 1000} kB in one message",
            "failed, 1009",
            3_000_000,
            lambda: reading(bomb, deflate=True),
        ),
        Attack(
            f"a frame of {mega:,} B byte by byte, the last one missing",
            "open",
            mega * 5 // 4,
            lambda: reading(chunks(huge[:-1], 1)),
        ),
        Attack(
            f"a frame of {mega:,} B of non-ASCII text byte by byte, the last one missing",
            "open",
            mega * 5 // 4,
            lambda: reading(chunks(foreign[:-1], 1)),
        ),
        Attack(
            "a frame of 2**62 B announced, 1 MB of it sent",
            "failed, 1009",
            100_000,
            lambda: reading([b"\x82\xff" + (1 << 62).to_bytes(8) + KEY, bytes(1_000_000)]),
        ),
        Attack("10 MB after the end", "failed, 1002", 10_000, lambda: after_the_end(scale)),
        Attack(
            "64 MB of messages that we do not read",
            "paused",
            4 * READ,
            lambda: reading(
                repeated(frame(0x81, b"x" * 1000), int(64_000 * scale)), keep=True, auto_pause=True
            ),
        ),
        Attack("messages to a peer that does not read", "failed, 1008", 1_200_000, lambda: sending),
        Attack(
            "an endless request, byte by byte",
            "connecting",
            40_000,
            lambda: shaking_hands(chunks(legal_heads()["64 fields of 240 B"][:-2], 1)),
        ),
        Attack(
            "a request of 1 MB",
            "closed",
            4 * READ,
            lambda: shaking_hands(chunks(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 170_000, READ)),
        ),
        Attack(
            "1 MB of frames after an unanswered request",
            "closed",
            4 * READ,
            lambda: shaking_hands([REQUEST, *repeated(frame(0x81, b"x" * 1000), 1000)]),
        ),
    ]


# -- CPU -------------------------------------------------------------------------------------------


def legal_heads() -> dict[str, bytes]:
    """Return requests as odd as the limits allow, by their oddity."""

    def request(more: bytes, target: bytes = b"/") -> bytes:
        return b"GET " + target + b" HTTP/1.1\r\n" + FIELDS + more + b"\r\n"

    def field(name: bytes, value: bytes) -> bytes:
        return name + b": " + value + b"\r\n"

    extensions, protocols = b"Sec-WebSocket-Extensions", b"Sec-WebSocket-Protocol"
    offers = b", ".join([b"permessage-deflate; client_max_window_bits=9"] * 32)
    return {
        "64 fields of 240 B": request(b"".join(field(b"a%d" % n, b"x" * 234) for n in range(59))),
        "an 8 KiB target": request(b"", b"/" + b"%41" * 2700),
        "8 KiB of commas in the extensions": request(field(extensions, b"a" + b"," * 8000)),
        "8 KiB of one quoted string": request(field(extensions, b'a; b="' + b"\\x" * 4000 + b'"')),
        "8 KiB of semicolons": request(field(extensions, b"a" + b";" * 8000)),
        "8 KiB of quotes": request(field(extensions, b'a; b="' + b'"' * 8000)),
        "8 KiB of white space": request(field(extensions, b"a" + b" \t" * 4000 + b"; b")),
        "32 offers of compression": request(field(extensions, offers)),
        "32 sub-protocols of 250 B": request(
            field(protocols, b", ".join(b"%02d" % n + b"p" * 246 for n in range(32)))
        ),
        "16 KiB in 2 lists": request(
            field(b"Connection", b", ".join([b"c" * 500] * 15)) + field(b"X", b"," * 8000)
        ),
        "8 KiB of a cookie": request(field(b"Cookie", b"c=" + b"=;" * 4000)),
    }


def handshakes(rounds: int) -> list[Figure]:
    """Return the CPU time of each, from the first byte to the response."""
    figures = []
    for what, head in legal_heads().items():
        samples = [_handshake([head]) for _ in range(rounds)]
        figures.append(middle(f"handshake, {what}", "µs", samples, 5000.0))
    dribbled = list(chunks(legal_heads()["64 fields of 240 B"], 1))
    samples = [_handshake(dribbled) / len(dribbled) for _ in range(rounds)]
    figures.append(middle("handshake, 16 KiB byte by byte, for each", "µs", samples))
    return figures


def _handshake(reads: Iterable[bytes]) -> float:
    session = Session(ConnectionType.SERVER, now=0.0)
    start = time.process_time_ns()
    for data in reads:
        for event in session.receive(data, 0.0):
            if isinstance(event, Request):
                session.send(AcceptConnection(extensions=[PerMessageDeflate()]), 0.0)
    response = session.data_to_send()
    elapsed = time.process_time_ns() - start
    if response[:9] != b"HTTP/1.1 ":
        raise DeliveryError(f"a handshake without a response: {response!r}")
    return elapsed / 1000


def growths(scale: float, rounds: int) -> list[Figure]:
    """Return how many times longer an attack of twice the size takes."""
    count = max(int(50_000 * scale), 500)
    unlimited = Limits(max_control_rate=None, max_fragments=None)

    def single_bytes(size: int) -> Iterable[bytes]:
        return list(chunks(frame(0x82, bytes(size)), 1))

    def fragments(size: int) -> Iterable[bytes]:
        return [frame(0x01), *repeated(frame(0x00, b"x"), size)]

    def pings(size: int) -> Iterable[bytes]:
        return repeated(frame(0x89, b"payload"), size)

    def held(reads: Iterable[bytes]) -> Callable[[], str]:
        session = open_session(limits=Limits(max_paused_bytes=None))

        def run() -> str:
            session.pause(0.0)
            for data in reads:
                session.receive(data, 0.0)
            session.resume(0.0)
            while session.has_work:
                session.handle_timeout(0.0)
            return session.state.name.lower()

        return run

    def small(size: int) -> Iterable[bytes]:
        return [frame(0x81, b"x" * 58)] * size

    def unbounded(reads: Iterable[bytes]) -> Callable[[], str]:
        return reading(reads, limits=unlimited)

    figures = []
    for what, make, attack in (
        ("a frame byte by byte", single_bytes, unbounded),
        ("fragments of 1 B", fragments, unbounded),
        ("Pings", pings, unbounded),
        ("reads of 64 B while paused, and after it", small, held),
    ):
        ratios = []
        for _ in range(rounds):
            once, twice = (
                median(_time(attack(make(size))) for _ in range(3)) for size in (count, 2 * count)
            )
            ratios.append(twice / once)
        figures.append(middle(f"{what}, {2 * count:,} / {count:,}", "", ratios, 2.5))
    return figures


def _time(run: Callable[[], str]) -> float:
    gc.collect()
    start = time.process_time_ns()
    if (outcome := run()) != "open":
        raise DeliveryError(f"not open, but {outcome}")
    return time.process_time_ns() - start


# -- deadlines -------------------------------------------------------------------------------------


def _seconds(session: Session) -> float:
    """Return when a session ends if its adapter only follows instructions."""
    now = 0.0
    while not session.closed:
        deadline = session.next_deadline()
        if deadline is None:
            raise DeliveryError("nothing will end this session")
        now = deadline
        session.handle_timeout(now)
        session.data_to_send()
    return now


def deadlines() -> list[Figure]:
    """Return the seconds until a silent peer is dropped, by simulated time."""
    config = SessionConfig()
    keepalive = config.keepalive
    silent = open_session()
    stuck = open_session()
    stuck.send(TextMessage("x" * 10_000), 0.0)
    stuck.transport_backlog(len(stuck.data_to_send()), 0.0)
    closing = open_session()
    closing.close(now=0.0)
    handshake = Session(ConnectionType.SERVER, now=0.0)
    handshake.receive(REQUEST[:-2], 0.0)
    unread = open_session()
    unread.pause(0.0)
    untold = open_session()
    untold.send(TextMessage("x" * 10_000), 0.0)
    untold.data_to_send()
    cases = [
        ("sends nothing", silent, keepalive.interval + keepalive.answer_timeout),
        ("does not read, transport not watched", untold, 45.0),
        ("does not read, transport watched", stuck, config.send_timeout),
        ("does not answer our close frame", closing, config.close_timeout),
        ("is gone while we read nothing", unread, (config.pause_timeout or 0) + 5.0),
        ("does not end its request", handshake, (config.open_timeout or 0) + 5.0),
    ]
    return [
        Figure(f"seconds until a peer is dropped that {what}", "s", _seconds(session), goal)
        for what, session, goal in cases
    ]
