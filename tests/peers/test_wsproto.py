"""wsproto as the peer, and wsproto_sip in place of wsproto."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, strategies as st

pytest.importorskip("wsproto")

from ._support import NOISE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PROGRAMS = Path(__file__).with_name("_wsproto_programs.py")


class Library:
    """One of the two libraries.

    Args:
        package: Its name.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.events: Any = importlib.import_module(f"{package}.events")
        self.connection: Any = importlib.import_module(f"{package}.connection")
        self.extensions: Any = importlib.import_module(f"{package}.extensions")
        self.top: Any = importlib.import_module(package)


OURS, THEIRS = Library("wsproto_sip"), Library("wsproto")

# -- both ends ------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A run of bytes that is too long to print.

    Args:
        start: Its position in the noise.
        size: Its length.
    """

    start: int
    size: int


class Action(NamedTuple):
    """Something that one end sends.

    Args:
        by_client: Whether the client sends it.
        kind: The name of the event's class.
        parts: The pieces of a message, or the one payload.
    """

    by_client: bool
    kind: str
    parts: Sequence[Any]

    def payloads(self) -> list[Any]:
        """Return the pieces, as they are sent."""
        return [
            NOISE[part.start : part.start + part.size] if isinstance(part, Run) else part
            for part in self.parts
        ]


def pieces(part: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(part, min_size=1, max_size=4)


REPETITIVE = st.builds(bytes.__mul__, st.binary(max_size=9), st.integers(0, 200))
RUNS = st.builds(Run, st.integers(0, 1000), st.integers(120, 130) | st.integers(65530, 65540))
ACTIONS = st.one_of(
    st.builds(Action, st.booleans(), st.just("TextMessage"), pieces(st.text(max_size=200))),
    st.builds(
        Action,
        st.booleans(),
        st.just("BytesMessage"),
        pieces(st.binary(max_size=200) | REPETITIVE | RUNS),
    ),
    st.builds(
        Action,
        st.booleans(),
        st.sampled_from(["Ping", "Pong"]),
        st.tuples(st.binary(max_size=125)),
    ),
)

#: What each end offers, or accepts.
DEFLATES = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "client_no_context_takeover": st.booleans(),
        "server_no_context_takeover": st.booleans(),
        "client_max_window_bits": st.integers(9, 15),
        "server_max_window_bits": st.integers(9, 15),
    },
)

CLOSES = st.tuples(
    st.sampled_from([1000, 1001, 1003, 1011, 3000, 4999]), st.none() | st.text(max_size=30)
)


#: Sizes of reads, repeated in a cycle; one of them is large enough to finish.
SIZES = st.builds(
    lambda small, large: [*small, large],
    st.lists(st.integers(1, 300), max_size=5),
    st.integers(1, 70000).map(lambda size: max(size, 500)),
)


class End:
    """One end of a connection in memory.

    Args:
        library: Its library.
        client: Whether it is the client.
        deflate: What it offers or accepts.
        whole: Whether ours delivers whole messages.
    """

    def __init__(
        self, library: Library, *, client: bool, deflate: dict[str, Any] | None, whole: bool
    ) -> None:
        self.library = library
        kinds = library.connection.ConnectionType
        options = {"whole_messages": whole} if library is OURS else {}
        self.connection = library.top.WSConnection(
            kinds.CLIENT if client else kinds.SERVER, **options
        )
        self.extensions = (
            [] if deflate is None else [library.extensions.PerMessageDeflate(**deflate)]
        )
        #: Received events, as names and contents.
        self.got: list[tuple[str, Any]] = []
        self._pieces: list[Any] = []

    def event(self, kind: str, *arguments: Any, **fields: Any) -> Any:
        return getattr(self.library.events, kind)(*arguments, **fields)

    def send(self, kind: str, *arguments: Any, **fields: Any) -> bytes:
        data: bytes = self.connection.send(self.event(kind, *arguments, **fields))
        return data

    def receive(self, data: bytes, cuts: Iterator[int]) -> None:
        """Receive bytes in reads of the given sizes, and store the events."""
        while data:
            size = next(cuts)
            self.connection.receive_data(data[:size])
            data = data[size:]
            for event in self.connection.events():
                self._take(event)

    def _take(self, event: Any) -> None:
        kind = type(event).__name__
        if kind in ("TextMessage", "BytesMessage"):
            self._pieces.append(event.data)
            if event.message_finished:
                empty = "" if kind == "TextMessage" else b""
                self.got.append((kind, empty.join(self._pieces)))
                self._pieces.clear()
        elif kind in ("Ping", "Pong"):
            self.got.append((kind, bytes(event.payload)))
        elif kind == "CloseConnection":
            self.got.append((kind, (int(event.code), event.reason or "")))
        else:
            self.got.append((kind, event))

    @property
    def state(self) -> str:
        name: str = self.connection.state.name
        return name


def endless(sizes: list[int]) -> Iterator[int]:
    while True:
        yield from sizes


@pytest.mark.parametrize("client_is_ours", [True, False], ids=["our client", "our server"])
@given(
    actions=st.lists(ACTIONS, max_size=12),
    sizes=SIZES,
    offered=DEFLATES,
    accepted=DEFLATES,
    close=CLOSES,
    client_closes=st.booleans(),
    whole=st.booleans(),
)
def test_conversation(
    client_is_ours: bool,
    actions: list[Action],
    sizes: list[int],
    offered: dict[str, Any] | None,
    accepted: dict[str, Any] | None,
    close: tuple[int, str | None],
    client_closes: bool,
    whole: bool,
) -> None:
    """Everything that one end sends arrives at the other, in order, with any chunking."""
    libraries = (OURS, THEIRS) if client_is_ours else (THEIRS, OURS)
    client = End(libraries[0], client=True, deflate=offered, whole=whole)
    server = End(libraries[1], client=False, deflate=accepted, whole=whole)
    cuts = endless(sizes)

    request = client.send(
        "Request",
        host="example.com",
        target="/",
        extensions=client.extensions,
        subprotocols=["sip"],
    )
    server.receive(request, cuts)
    answer = server.send("AcceptConnection", subprotocol="sip", extensions=server.extensions)
    client.receive(answer, cuts)
    assert (client.state, server.state) == ("OPEN", "OPEN")
    ((kind, got),) = client.got
    assert (kind, got.subprotocol) == ("AcceptConnection", "sip")
    deflated = offered is not None and accepted is not None
    assert len(got.extensions) == deflated
    client.got.clear()
    server.got.clear()

    expected: dict[bool, list[tuple[str, Any]]] = {True: [], False: []}
    for action in actions:
        sender, receiver = (client, server) if action.by_client else (server, client)
        if action.kind in ("Ping", "Pong"):
            receiver.receive(sender.send(action.kind, action.parts[0]), cuts)
            expected[action.by_client].append((action.kind, action.parts[0]))
            continue
        payloads = action.payloads()
        for number, part in enumerate(payloads, 1):
            last = number == len(payloads)
            receiver.receive(sender.send(action.kind, part, message_finished=last), cuts)
            # In wsproto, a control frame resets whether the message is compressed.
            if not last and (receiver.library is OURS or not deflated):
                receiver.receive(sender.send("Ping", b"between"), cuts)
                expected[action.by_client].append(("Ping", b"between"))
        empty = "" if action.kind == "TextMessage" else b""
        expected[action.by_client].append((action.kind, empty.join(payloads)))
    assert server.got == expected[True]
    assert client.got == expected[False]

    first, second = (client, server) if client_closes else (server, client)
    second.got.clear()
    first.got.clear()
    second.receive(first.send("CloseConnection", *close), cuts)
    assert (first.state, second.state) == ("LOCAL_CLOSING", "REMOTE_CLOSING")
    ((kind, (code, reason)),) = second.got
    assert (kind, code) == ("CloseConnection", close[0])
    assert reason == cut(close[1] or "")
    first.receive(second.send("CloseConnection", code, reason), cuts)
    assert first.got == second.got
    assert (first.state, second.state) == ("CLOSED", "CLOSED")


def cut(reason: str) -> str:
    """Return a reason shortened to fit into a close frame."""
    return reason.encode()[:123].decode(errors="ignore")


# -- in place of wsproto ---------------------------------------------------------------------------


def load(package: str) -> dict[str, Callable[[], list[object]]]:
    """Load the programs, with their imports changed to the package."""
    source = re.sub(r"^from wsproto\b", f"from {package}", PROGRAMS.read_text("utf-8"), flags=re.M)
    namespace: dict[str, Any] = {"__name__": f"programs_for_{package}"}
    exec(compile(source, str(PROGRAMS), "exec"), namespace)
    return {program.__name__: program for program in namespace["PROGRAMS"]}


def plain(value: Any) -> Any:
    """Convert a value to a form that is the same for both libraries."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
        return type(value).__name__, fields
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


OUR_PROGRAMS, THEIR_PROGRAMS = load("wsproto_sip"), load("wsproto")


@pytest.mark.parametrize("name", sorted(THEIR_PROGRAMS))
def test_program(name: str) -> None:
    ours, theirs = OUR_PROGRAMS[name](), THEIR_PROGRAMS[name]()
    assert theirs
    assert plain(ours) == plain(theirs)


def test_programs_do_not_share_a_library() -> None:
    assert OUR_PROGRAMS["handshake"].__globals__["WSConnection"] is OURS.top.WSConnection
    assert THEIR_PROGRAMS["handshake"].__globals__["WSConnection"] is THEIRS.top.WSConnection
