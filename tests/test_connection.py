"""A connection: its states, what may be sent in them, and in which order events come out."""

from __future__ import annotations

import gc
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests._wire import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    Model,
    close_payload,
    cut,
    cuttings,
    deflated,
    frame,
    seen,
    settled,
    streams,
)
from wsproto_sip.connection import (
    Connection,
    ConnectionState,
    ConnectionType,
    WSConnection,
    arrange_extensions,
)
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.limits import STREAMING_LIMITS, Limits
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CLIENT, SERVER = ConnectionType.CLIENT, ConnectionType.SERVER
CONNECTING = ConnectionState.CONNECTING
OPEN = ConnectionState.OPEN
REMOTE_CLOSING = ConnectionState.REMOTE_CLOSING
LOCAL_CLOSING = ConnectionState.LOCAL_CLOSING
CLOSED = ConnectionState.CLOSED
REJECTING = ConnectionState.REJECTING

both_roles = pytest.mark.parametrize("role", [SERVER, CLIENT], ids=["server", "client"])


def server(**options: Any) -> Connection:
    return Connection(SERVER, entropy=lambda size: KEY[:size], **options)


def take(connection: Connection | WSConnection) -> list[Event]:
    return list(connection.events())


def key(role: ConnectionType) -> bytes | None:
    """What masks the frames that such an end receives."""
    return KEY if role is SERVER else None


# -- what comes ------------------------------------------------------------------------------------


@both_roles
@given(data=st.data())
def test_what_comes_is_what_the_model_reads(role: ConnectionType, data: st.DataObject) -> None:
    client = role is CLIENT
    stream = data.draw(streams(client=client))
    whole = data.draw(st.booleans())
    max_frames = data.draw(st.sampled_from([None, 1, 2]))
    connection = Connection(role, whole_messages=whole, max_frames=max_frames)
    model = Model(
        client=client,
        whole=whole,
        max_message=2**20 if whole else None,
        max_fragments=1024 if whole else None,
    )
    found: list[Event] = []
    for piece in stream.pieces():
        connection.receive_data(piece)
        # Some of it, now and then.
        events = connection.events()
        for _ in range(data.draw(st.integers(0, 3))):
            found += [event for event in [next(events, None)] if event is not None]
    found += connection.events()
    model.feed(stream.data)
    failed = model.failed_at is not None
    assert settled(seen(found), failed) == settled(model.seen + model.partial(), failed)
    assert connection.state is (REMOTE_CLOSING if model.over else OPEN)
    connection.receive_data(None)
    rest = take(connection)
    if model.over:
        assert rest == []
    else:
        assert rest == [CloseConnection(1006)]
        assert connection.state is CLOSED


def test_events_left_behind_come_first() -> None:
    connection = server()
    stream = b"".join(frame(TEXT, b"%d" % number) for number in range(3))
    expected = [TextMessage(str(number)) for number in range(3)]
    connection.receive_data(stream)
    for event in connection.events():
        assert event == expected[0]
        break
    assert take(connection) == expected[1:]
    assert take(connection) == []
    # More comes before the rest is taken, again and again.
    connection.receive_data(stream)
    assert next(connection.events()) == expected[0]
    for _ in range(3):
        connection.receive_data(stream)
        assert next(connection.events()) in expected
    assert take(connection) == (expected * 4)[4:]
    assert take(connection) == []
    connection.receive_data(stream)
    assert take(connection) == expected


def test_an_iterator_that_is_kept_gives_nothing_twice_and_nothing_out_of_order() -> None:
    connection = server()
    stream = frame(TEXT, b"a") + frame(TEXT, b"b")
    connection.receive_data(stream)
    kept = connection.events()
    found = [next(kept)]
    connection.receive_data(stream)
    found += kept
    found += connection.events()
    assert [event.data for event in found] == ["a", "b", "a", "b"]  # type: ignore[attr-defined]
    # The one that follows it takes in what comes meanwhile.
    connection.receive_data(stream)
    next(connection.events())
    connection.receive_data(stream)
    found = []
    for event in connection.events():
        if len(found) < 10:
            connection.receive_data(frame(PING, b"%d" % len(found)))
        found.append(event)
    assert [event.data for event in found[:3]] == ["b", "a", "b"]  # type: ignore[attr-defined]
    assert found[3:] == [Ping(b"%d" % number) for number in range(10)]


def test_many_reads_before_anything_is_taken() -> None:
    connection = server()
    for number in range(5000):
        connection.receive_data(frame(PING, b"%d" % number))
    assert take(connection) == [Ping(b"%d" % number) for number in range(5000)]


@both_roles
def test_octets_behind_the_handshake(role: ConnectionType) -> None:
    stream = frame(TEXT, b"early", key=key(role)) + frame(BINARY, b"half", key=key(role))
    connection = Connection(role, None, stream[:-2])
    assert connection.connection_type is role
    found = take(connection)
    connection.receive_data(stream[-2:])
    assert seen(found + take(connection)) == [
        ("text", "early", True, True),
        ("binary", b"half", True, True),
    ]


def test_empty_input_is_nothing() -> None:
    connection = server()
    for data in (b"", bytearray(), memoryview(b"")):
        connection.receive_data(data)
        assert take(connection) == []
    assert connection.state is OPEN


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_octets_is_taken(kind: Callable[[bytes], Any]) -> None:
    connection = server()
    connection.receive_data(kind(frame(TEXT, b"hello")))
    assert take(connection) == [TextMessage("hello")]


@pytest.mark.parametrize("wrong", ["text", 5, [1]])
def test_what_is_not_octets(wrong: Any) -> None:
    connection = server()
    with pytest.raises(TypeError):
        connection.receive_data(wrong)
    connection.receive_data(frame(TEXT, b"hello"))
    assert take(connection) == [TextMessage("hello")]


def test_pieces_or_whole_messages() -> None:
    stream = frame(TEXT, b"one, ", fin=False) + frame(CONTINUATION, "zwölf".encode())
    for whole, expected in (
        (
            False,
            [
                TextMessage("one, ", True, False),
                TextMessage("zw", False, False),
                TextMessage("ölf", True, True),
            ],
        ),
        (True, [TextMessage("one, zwölf")]),
    ):
        connection = server(whole_messages=whole)
        found = []
        for piece in (stream[:-4], stream[-4:]):
            connection.receive_data(piece)
            found += take(connection)
        assert found == expected


def test_text_as_octets() -> None:
    connection = server(text_as_bytes=True)
    connection.receive_data(frame(TEXT, "zwölf".encode()) + frame(TEXT, b"\xff"))
    found = take(connection)
    assert [type(event) for event in found] == [TextMessage, CloseConnection]
    assert found[0].data == "zwölf".encode()  # type: ignore[attr-defined]
    assert found[1].code == 1007  # type: ignore[attr-defined]


def test_limits() -> None:
    big = bytes(2**20 + 1)
    for options, code in (
        ({}, None),
        ({"whole_messages": True}, 1009),
        ({"whole_messages": True, "limits": STREAMING_LIMITS}, None),
        ({"limits": Limits()}, 1009),
        ({"limits": Limits(max_message_size=10)}, 1009),
    ):
        connection = server(**options)
        connection.receive_data(frame(BINARY, big))
        (event,) = take(connection)
        assert event == (BytesMessage(big) if code is None else event)
        assert getattr(event, "code", None) == code


# -- states ----------------------------------------------------------------------------------------


def test_the_state_follows_when_the_event_is_taken() -> None:
    connection = server()
    connection.receive_data(
        frame(TEXT, b"question") + frame(PING, b"p") + frame(CLOSE, close_payload(1000, b"bye"))
    )
    answers = b""
    for event in connection.events():
        if isinstance(event, CloseConnection):
            assert event == CloseConnection(1000, "bye")
            assert connection.state is REMOTE_CLOSING
        else:
            assert connection.state is OPEN
            answers += connection.send(
                event.response() if isinstance(event, Ping) else TextMessage("answer")
            )
    assert answers == frame(TEXT, b"answer", key=None) + frame(PONG, b"p", key=None)
    assert connection.send(CloseConnection(1000, "bye").response()) == frame(
        CLOSE, close_payload(1000, b"bye"), key=None
    )
    assert connection.state is CLOSED


def in_open() -> Connection:
    return server()


def in_local_closing() -> Connection:
    connection = server()
    connection.send(CloseConnection(1000))
    return connection


def in_remote_closing() -> Connection:
    connection = server()
    connection.receive_data(frame(CLOSE, close_payload(1001)))
    assert take(connection) == [CloseConnection(1001, "")]
    return connection


def in_failure() -> Connection:
    connection = server()
    connection.receive_data(frame(3))
    assert take(connection) == [CloseConnection(1002, "unknown opcode 0x3")]
    return connection


def closed_by_both() -> Connection:
    connection = in_remote_closing()
    connection.send(CloseConnection(1001))
    return connection


def closed_by_both_here_first() -> Connection:
    connection = in_local_closing()
    connection.receive_data(frame(CLOSE, close_payload(1000)))
    assert take(connection) == [CloseConnection(1000, "")]
    return connection


def closed_by_failure() -> Connection:
    connection = in_failure()
    connection.send(CloseConnection(1002))
    return connection


def failed_while_closing() -> Connection:
    connection = in_local_closing()
    connection.receive_data(frame(3))
    assert len(take(connection)) == 1
    return connection


def closed_by_the_end() -> Connection:
    connection = server()
    connection.receive_data(None)
    assert take(connection) == [CloseConnection(1006)]
    return connection


def closed_by_the_end_while_closing() -> Connection:
    connection = in_local_closing()
    connection.receive_data(None)
    assert take(connection) == [CloseConnection(1006)]
    return connection


MESSAGES: list[Event] = [
    TextMessage("x"),
    BytesMessage(b"x"),
    Message(data="x"),
    TextMessage("x", message_finished=False),
]
PINGS: list[Event] = [Ping(b"x"), Pong(b"x")]
CLOSES: list[Event] = [CloseConnection(1000, "x"), CloseConnection(1005)]

#: For each way to come to a state: the state, what may be sent in it, the state behind a close
#: frame.
STATES: dict[
    Callable[[], Connection], tuple[ConnectionState, list[Event], ConnectionState | None]
] = {
    in_open: (OPEN, MESSAGES + PINGS, LOCAL_CLOSING),
    in_local_closing: (LOCAL_CLOSING, [], None),
    in_remote_closing: (REMOTE_CLOSING, MESSAGES, CLOSED),
    in_failure: (REMOTE_CLOSING, [], CLOSED),
    closed_by_both: (CLOSED, [], None),
    closed_by_both_here_first: (CLOSED, [], None),
    closed_by_failure: (CLOSED, [], None),
    failed_while_closing: (CLOSED, [], None),
    closed_by_the_end: (CLOSED, [], None),
    closed_by_the_end_while_closing: (CLOSED, [], None),
}


@pytest.mark.parametrize("come_to", STATES, ids=lambda function: function.__name__)
def test_what_may_be_sent_in_which_state(come_to: Callable[[], Connection]) -> None:
    state, allowed, closing = STATES[come_to]
    for event in MESSAGES + PINGS + CLOSES:
        connection = come_to()
        assert connection.state is state
        if event in allowed:
            assert connection.send(event)
            assert connection.state is state
        elif event in CLOSES and closing is not None:
            assert connection.send(event)[0] == 0x88
            assert connection.state is closing
        else:
            name = type(event).__name__
            with pytest.raises(
                LocalProtocolError, match=f"{name} cannot be sent in state {state.name}"
            ):
                connection.send(event)
            assert connection.state is state


@pytest.mark.parametrize("come_to", STATES, ids=lambda function: function.__name__)
def test_what_comes_in_which_state(come_to: Callable[[], Connection]) -> None:
    state, _, _ = STATES[come_to]
    hears = state in (OPEN, LOCAL_CLOSING)
    for octets, event, behind in (
        (frame(TEXT, b"x"), TextMessage("x"), state),
        (frame(PING, b"x"), Ping(b"x"), state),
        (
            frame(CLOSE),
            CloseConnection(1005, ""),
            REMOTE_CLOSING if state is OPEN else CLOSED,
        ),
        (None, CloseConnection(1006), CLOSED),
    ):
        connection = come_to()
        connection.receive_data(octets)
        assert connection.state is state
        assert take(connection) == ([event] if hears else [])
        assert connection.state is (behind if hears else state)


def test_what_is_refused_changes_nothing() -> None:
    connection = server()
    connection.send(TextMessage("begun", message_finished=False))
    for event in (
        TextMessage("\ud800"),
        BytesMessage(b"other kind"),
        Ping(bytes(126)),
        CloseConnection(1006),
        CloseConnection(1000, "\ud800"),
    ):
        with pytest.raises(LocalProtocolError):
            connection.send(event)
        assert connection.state is OPEN
    assert connection.send(TextMessage("ended")) == frame(CONTINUATION, b"ended", key=None)


@pytest.mark.parametrize(
    "event", [Request(host="h", target="/"), AcceptConnection(), Event(), RejectData(b"")]
)
def test_events_of_the_handshake_come_too_late(event: Event) -> None:
    connection = server()
    with pytest.raises(LocalProtocolError, match=r" cannot be sent in state OPEN$"):
        connection.send(event)
    assert connection.state is OPEN


@pytest.mark.parametrize("wrong", [None, "x"])
def test_what_a_connection_does_not_send(wrong: Any) -> None:
    with pytest.raises(TypeError, match="not an event that an open connection sends"):
        server().send(wrong)


@both_roles
def test_messages_as_programs_for_wsproto_send_them(role: ConnectionType) -> None:
    connection = Connection(role, entropy=lambda size: KEY[:size])
    mask = None if role is SERVER else KEY
    for event, octets in (
        (Message(data="text"), frame(TEXT, b"text", key=mask)),
        (Message(data=b"octets"), frame(BINARY, b"octets", key=mask)),
        (
            TextMessage(data="text", message_finished=False),
            frame(TEXT, b"text", fin=False, key=mask),
        ),
        (Message(data="end"), frame(CONTINUATION, b"end", key=mask)),
        (BytesMessage(data=b"octets"), frame(BINARY, b"octets", key=mask)),
        (Ping(), frame(PING, key=mask)),
        (Pong(payload=b"x"), frame(PONG, b"x", key=mask)),
        (CloseConnection(code=1000), frame(CLOSE, close_payload(1000), key=mask)),
    ):
        assert connection.send(event) == octets


# -- pausing and the end ---------------------------------------------------------------------------


def test_frames_are_parsed_while_the_events_are_taken() -> None:
    connection = server(max_frames=2)
    connection.receive_data(b"".join(frame(PING, b"%d" % number) for number in range(7)))
    # A frame that is wrong, far behind, and not parsed yet.
    connection.receive_data(frame(3))
    found: list[Event] = []
    for event in connection.events():
        found.append(event)
        if len(found) == 3:
            connection.receive_data(b"never looked at")
    assert found == [*(Ping(b"%d" % number) for number in range(7)), found[-1]]
    assert found[-1] == CloseConnection(1002, "unknown opcode 0x3")
    assert connection.state is REMOTE_CLOSING


def test_a_pause_without_an_event() -> None:
    connection = server(max_frames=1, whole_messages=True)
    pieces = [frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b", fin=False)]
    connection.receive_data(b"".join(pieces) + frame(CONTINUATION, b"c") + frame(TEXT, b"d"))
    assert take(connection) == [TextMessage("abc"), TextMessage("d")]
    assert take(connection) == []
    connection.receive_data(frame(PING))
    assert take(connection) == [Ping()]


def test_the_end_while_paused_comes_behind_everything() -> None:
    connection = server(max_frames=1)
    connection.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"c"))
    connection.receive_data(None)
    connection.receive_data(None)
    # What is said to come behind the end does not.
    connection.receive_data(frame(TEXT, b"d"))
    assert connection.state is OPEN
    assert take(connection) == [
        *map(TextMessage, ("a", "b", "c")),
        CloseConnection(1006),
    ]
    assert connection.state is CLOSED
    connection.receive_data(None)
    connection.receive_data(frame(TEXT, b"e"))
    assert take(connection) == []


def test_the_end_while_paused_before_a_close_frame() -> None:
    connection = server(max_frames=1)
    connection.receive_data(frame(TEXT, b"a") + frame(CLOSE))
    connection.receive_data(None)
    assert take(connection) == [TextMessage("a"), CloseConnection(1005, "")]
    assert connection.state is REMOTE_CLOSING
    assert take(connection) == []


def test_the_end_with_events_left_behind() -> None:
    connection = server()
    connection.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b"))
    next(connection.events())
    connection.receive_data(None)
    events = connection.events()
    assert next(events) == TextMessage("b")
    assert connection.state is OPEN
    assert next(events) == CloseConnection(1006)
    assert connection.state is CLOSED
    assert next(events, None) is None


def test_a_program_may_stop_taking_at_the_close_event() -> None:
    connection = server()
    connection.receive_data(frame(CLOSE))
    for event in connection.events():
        assert event == CloseConnection(1005, "")
        break
    connection.receive_data(frame(TEXT, b"x"))
    connection.receive_data(None)
    assert take(connection) == []
    assert connection.state is REMOTE_CLOSING


def test_much_inflated_in_one_read() -> None:
    deflate = PerMessageDeflate()
    assert deflate.accept("permessage-deflate; client_no_context_takeover") is not None
    limits = Limits(max_inflated_per_read=2500)
    connection = Connection(SERVER, [deflate], limits=limits, whole_messages=True)
    connection.receive_data(frame(BINARY, deflated(bytes(1000)), rsv=4) * 10)
    assert take(connection) == [BytesMessage(bytes(1000))] * 10


@pytest.mark.parametrize("come_to", [closed_by_both, closed_by_the_end, in_failure])
def test_nothing_is_kept_behind_the_end(come_to: Callable[[], Connection]) -> None:
    connection = come_to()
    stream = frame(TEXT, bytes(10_000))
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(100):
            connection.receive_data(stream)
            assert next(connection.events(), None) is None
        assert tracemalloc.get_traced_memory()[1] < 2000
    finally:
        tracemalloc.stop()


def test_an_iterator_may_be_closed() -> None:
    def wrapped(connection: Connection) -> Iterator[Event]:
        yield from connection.events()

    for left_behind in (False, True):
        for options in ({}, {"max_frames": 1}):
            connection = server(**options)
            connection.receive_data(b"".join(frame(PING, b"%d" % number) for number in range(5)))
            found = []
            for _ in range(3):
                events = wrapped(connection)
                found.append(next(events))
                events.close()  # type: ignore[attr-defined]
                if left_behind:
                    connection.receive_data(b"")
            connection.receive_data(None)
            events = wrapped(connection)
            found.append(next(events))
            del events
            # Several at a time share what there is.
            one, other = connection.events(), connection.events()
            found += [next(one), next(other)]
            assert found == [*(Ping(b"%d" % number) for number in range(5)), CloseConnection(1006)]
            assert connection.state is CLOSED
            assert next(one, None) is next(other, None) is None


# -- extensions ------------------------------------------------------------------------------------


class Upper(Extension):
    """Sends in upper case, receives in lower case, and says so with RSV3."""

    name = "x-upper"

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled

    def enabled(self) -> bool:
        return self._enabled

    def frame_inbound_header(self, proto: Any, opcode: Any, rsv: Any, payload_length: int) -> Any:
        assert proto.client in (True, False)
        return rsv._replace(rsv1=False, rsv2=False, rsv3=True)

    def frame_inbound_payload_data(self, proto: Any, data: bytes) -> bytes:
        return data.lower()

    def frame_outbound(self, proto: Any, opcode: Any, rsv: Any, data: bytes, fin: bool) -> Any:
        assert proto.client in (True, False)
        return rsv._replace(rsv3=True), data.upper()


def deflate() -> PerMessageDeflate:
    extension = PerMessageDeflate()
    assert extension.accept("permessage-deflate") is not None
    return extension


def test_arranging_extensions() -> None:
    limits = Limits(max_inflate_ratio=7)
    upper, off, one, other = Upper(), Upper(False), deflate(), PerMessageDeflate()
    assert arrange_extensions([], limits) == ([], None, [])
    assert arrange_extensions([off, upper, other], limits) == ([upper], None, [upper])
    assert arrange_extensions([one, off], limits) == ([one], one, [])
    assert one.max_ratio == 7
    both = deflate()
    assert arrange_extensions([both, upper], limits) == ([both, upper], None, [both, upper])
    assert both.max_ratio == 7
    assert arrange_extensions([upper, both], limits) == ([upper, both], None, [upper, both])


def test_extensions_of_others() -> None:
    upper = Upper()
    client, server = Connection(CLIENT, [upper]), Connection(SERVER, [upper])
    assert client.extensions == [upper]
    octets = client.send(TextMessage("hello"))
    assert octets[0] == 0x91
    assert octets.endswith(bytes(a ^ b for a, b in zip(b"HELLO", octets[2:6] * 2, strict=False)))
    server.receive_data(octets + client.send(CloseConnection(1000, "BYE")))
    # The reason has the code in front, which has no case.
    assert take(server) == [TextMessage("hello"), CloseConnection(1000, "bye")]


@settings(max_examples=30)
@given(data=st.data())
def test_compressing_alone_and_with_another_extension(data: st.DataObject) -> None:
    for others in (False, True):

        def extensions() -> list[Extension]:
            # Compressed data has no case, so it must not be changed behind the compression.
            return [Upper(), deflate()] if others else [deflate()]  # noqa: B023

        client, server = Connection(CLIENT, extensions()), Connection(SERVER, extensions())
        text = data.draw(st.text("abc", max_size=300))
        stream = b"".join(
            [
                client.send(TextMessage(text)),
                client.send(TextMessage(text, message_finished=False)),
                client.send(Ping(b"ping")),
                client.send(TextMessage(text)),
            ]
        )
        assert stream[0] & 0x40
        found: list[Event] = []
        for piece in cut(stream, data.draw(cuttings(len(stream)))):
            server.receive_data(piece)
            found += take(server)
        pings = [event for event in found if isinstance(event, Ping)]
        assert pings == [Ping(b"ping")]
        texts = [event for event in found if isinstance(event, TextMessage)]
        assert "".join(event.data for event in texts) == text * 3
        assert sum(event.message_finished for event in texts) == 2


# -- two ends --------------------------------------------------------------------------------------


class TwoEnds(RuleBasedStateMachine):
    """Two connections, and between them two pipes that cut and delay, and lose nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = [Connection(CLIENT), Connection(SERVER)]
        self.pipes = [bytearray(), bytearray()]
        self.sent: list[list[Any]] = [[], []]
        self.taken: list[list[Any]] = [[], []]
        self.closes = [0, 0]
        self.kinds = ["", ""]

    @initialize(
        whole=st.tuples(st.booleans(), st.booleans()),
        frames=st.tuples(*[st.sampled_from([None, 1, 3])] * 2),
        compressed=st.booleans(),
    )
    def choose(
        self,
        whole: tuple[bool, bool],
        frames: tuple[int | None, int | None],
        compressed: bool,
    ) -> None:
        self.ends = [
            Connection(
                role,
                [deflate()] if compressed else None,
                whole_messages=whole[end],
                max_frames=frames[end],
            )
            for end, role in enumerate((CLIENT, SERVER))
        ]

    def put(self, end: int, event: Event) -> bool:
        connection = self.ends[end]
        before = connection.state
        try:
            self.pipes[end] += connection.send(event)
        except LocalProtocolError:
            assert connection.state is before
            return False
        return True

    @rule(end=st.integers(0, 1), data=st.text(max_size=200), fin=st.booleans())
    def send_text(self, end: int, data: str, fin: bool) -> None:
        self.send(end, "text", data, TextMessage(data, message_finished=fin))

    @rule(end=st.integers(0, 1), data=st.binary(max_size=600), fin=st.booleans())
    def send_octets(self, end: int, data: bytes, fin: bool) -> None:
        self.send(end, "octets", data, BytesMessage(data, message_finished=fin))

    def send(self, end: int, kind: str, data: Any, event: Message[str] | Message[bytes]) -> None:
        done = self.put(end, event)
        allowed = self.ends[end].state in (OPEN, REMOTE_CLOSING)
        assert done == (allowed and self.kinds[end] in ("", kind))
        if done:
            if not self.kinds[end]:
                self.sent[end].append(data)
            else:
                self.sent[end][-1] += data
            self.kinds[end] = "" if event.message_finished else kind

    @rule(end=st.integers(0, 1), payload=st.binary(max_size=125))
    def ping(self, end: int, payload: bytes) -> None:
        assert self.put(end, Ping(payload)) == (self.ends[end].state is OPEN)

    @rule(end=st.integers(0, 1), code=st.sampled_from([1000, 1001, 3000, 1005]))
    def close(self, end: int, code: int) -> None:
        may = self.ends[end].state in (OPEN, REMOTE_CLOSING)
        assert self.put(end, CloseConnection(code)) == may
        self.closes[end] += may

    @rule(end=st.integers(0, 1), size=st.integers(0, 700))
    def carry(self, end: int, size: int) -> None:
        piece = bytes(self.pipes[end][:size])
        del self.pipes[end][:size]
        self.ends[1 - end].receive_data(piece)

    @rule(end=st.integers(0, 1), number=st.sampled_from([1, 2, 1000]))
    def take(self, end: int, number: int) -> None:
        connection = self.ends[end]
        for event in connection.events():
            if isinstance(event, TextMessage | BytesMessage):
                if self.taken[end] and not self.taken[end][-1][1]:
                    data, _ = self.taken[end].pop()
                    self.taken[end].append((data + event.data, event.message_finished))
                else:
                    self.taken[end].append((event.data, event.message_finished))
            elif isinstance(event, CloseConnection):
                assert event.code in (1000, 1001, 3000, 1005)
                assert connection.state in (REMOTE_CLOSING, CLOSED)
            else:
                assert isinstance(event, Ping)
            number -= 1
            if not number:
                break

    @precondition(lambda self: self.closes == [1, 1])
    @rule()
    def finish(self) -> None:
        for end in (0, 1):
            self.carry(end, len(self.pipes[end]))
        for end in (0, 1):
            self.take(end, 100_000)
        assert [connection.state for connection in self.ends] == [CLOSED, CLOSED]
        for end in (0, 1):
            finished = [data for data, done in self.taken[1 - end] if done]
            count = len(self.sent[end]) - bool(self.kinds[end])
            assert finished == self.sent[end][:count]

    @invariant()
    def nothing_is_made_up(self) -> None:
        for end in (0, 1):
            assert self.closes[end] <= 1
            for (data, done), sent in zip(self.taken[1 - end], self.sent[end], strict=False):
                assert data == sent if done else sent.startswith(data)


TestTwoEnds = TwoEnds.TestCase
TestTwoEnds.settings = settings(max_examples=60, stateful_step_count=30)


# -- with the handshake ----------------------------------------------------------------------------


REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def opened(**options: Any) -> WSConnection:
    connection = WSConnection(SERVER, **options)
    connection.receive_data(REQUEST)
    assert [type(event) for event in connection.events()] == [Request]
    connection.send(AcceptConnection())
    return connection


def test_both_ends_from_the_first_octet_to_the_last() -> None:
    client, server = WSConnection(CLIENT), WSConnection(SERVER)
    assert client.client
    assert not server.client
    assert client.state is server.state is CONNECTING
    server.receive_data(client.send(Request(host="example.com", target="/")))
    assert server.state is CONNECTING
    (request,) = server.events()
    assert isinstance(request, Request)
    response = server.send(AcceptConnection())
    assert server.state is OPEN
    assert take(server) == []
    client.receive_data(response)
    assert client.state is OPEN
    (accepted,) = client.events()
    assert isinstance(accepted, AcceptConnection)
    server.receive_data(client.send(TextMessage("hello")))
    assert take(server) == [TextMessage("hello")]
    client.receive_data(server.send(CloseConnection(1000)))
    assert server.state is LOCAL_CLOSING
    (close,) = client.events()
    assert isinstance(close, CloseConnection)
    assert client.state is REMOTE_CLOSING
    server.receive_data(client.send(close.response()))
    assert take(server) == [CloseConnection(1000, "")]
    assert client.state is server.state is CLOSED
    client.receive_data(None)
    assert take(client) == []


def test_frames_behind_the_request_and_behind_the_response() -> None:
    server = WSConnection(SERVER)
    server.receive_data(REQUEST + frame(TEXT, b"early")[:4])
    assert [type(event) for event in server.events()] == [Request]
    response = server.send(AcceptConnection())
    server.receive_data(frame(TEXT, b"early")[4:])
    assert take(server) == [TextMessage("early")]
    client = WSConnection(CLIENT, entropy=lambda size: b"the sample nonce"[:size])
    client.send(Request(host="example.com", target="/chat"))
    client.receive_data(response + frame(TEXT, b"first", key=None))
    # Events of the handshake and of the connection, taken one by one.
    events = client.events()
    assert isinstance(next(events), AcceptConnection)
    client.receive_data(frame(TEXT, b"second", key=None))
    assert next(client.events()) == TextMessage("first")
    assert take(client) == [TextMessage("second")]
    assert take(client) == []


def test_a_handshake_that_another_server_has_parsed() -> None:
    headers = [
        (b"Host", b"example.com"),
        (b"Upgrade", b"websocket"),
        (b"Connection", b"Upgrade"),
        (b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"Sec-WebSocket-Version", b"13"),
    ]
    connection = WSConnection(SERVER)
    connection.initiate_upgrade_connection(headers, "/chat")
    (request,) = connection.events()
    assert isinstance(request, Request)
    assert request.target == "/chat"
    connection.send(AcceptConnection())
    connection.receive_data(frame(PING))
    assert take(connection) == [Ping()]
    with pytest.raises(LocalProtocolError, match="there is a request already"):
        connection.initiate_upgrade_connection(headers, "/chat")


def test_a_rejection() -> None:
    connection = WSConnection(SERVER)
    connection.receive_data(REQUEST)
    assert len(take(connection)) == 1
    connection.send(RejectConnection(status_code=403, has_body=True))
    assert connection.state is REJECTING
    connection.send(RejectData(b"no"))
    assert connection.state is CLOSED
    for event in (TextMessage("x"), CloseConnection(1000)):
        with pytest.raises(LocalProtocolError):
            connection.send(event)
    assert take(connection) == []


def test_a_request_that_is_none() -> None:
    connection = WSConnection(SERVER)
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
    assert isinstance(caught.value.event_hint, RejectConnection)
    connection.send(caught.value.event_hint)
    assert connection.state is CLOSED


def test_the_head_has_limits() -> None:
    connection = WSConnection(SERVER, limits=Limits(max_headers=3))
    with pytest.raises(RemoteProtocolError) as caught:
        connection.receive_data(REQUEST)
    assert caught.value.event_hint == RejectConnection(431, caught.value.event_hint.headers)  # type: ignore[union-attr]


def test_options_reach_the_connection() -> None:
    connection = opened(
        whole_messages=True,
        text_as_bytes=True,
        max_frames=1,
        limits=Limits(max_message_size=4),
    )
    connection.receive_data(
        frame(TEXT, b"ab", fin=False) + frame(CONTINUATION, b"cd") + frame(TEXT, b"abcde")
    )
    events: Iterator[Any] = connection.events()
    assert next(events).data == b"abcd"
    assert next(events) == CloseConnection(1009, "message of more than 4 octets")
    client = WSConnection(CLIENT, entropy=lambda size: b"the sample nonce"[:size])
    request = client.send(Request(host="example.com", target="/chat"))
    assert b"dGhlIHNhbXBsZSBub25jZQ==" in request
    server = WSConnection(SERVER)
    server.receive_data(request)
    assert len(take(server)) == 1
    client.receive_data(server.send(AcceptConnection()))
    assert client.send(TextMessage("x")) == frame(TEXT, b"x", key=b"the ")


def test_compression_that_was_negotiated() -> None:
    client, server = WSConnection(CLIENT), WSConnection(SERVER)
    server.receive_data(
        client.send(Request(host="example.com", target="/", extensions=[PerMessageDeflate()]))
    )
    assert len(take(server)) == 1
    client.receive_data(server.send(AcceptConnection(extensions=[PerMessageDeflate()])))
    assert len(take(client)) == 1
    octets = server.send(TextMessage("hello " * 20))
    assert octets[0] == 0xC1
    inflater = zlib.decompressobj(-15)
    assert inflater.decompress(octets[2:] + b"\0\0\xff\xff") == b"hello " * 20
    client.receive_data(octets)
    assert take(client) == [TextMessage("hello " * 20)]


def test_an_open_connection_at_rest_is_small() -> None:
    connections = [opened() for _ in range(20)]
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        connections += [opened() for _ in range(100)]
        for connection in connections[20:]:
            connection.receive_data(frame(TEXT, b"x"))
            assert len(take(connection)) == 1
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / 100 < 2000
