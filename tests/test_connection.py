"""A connection: its states, which events may be sent in them, and the order of received ones."""

from __future__ import annotations

import gc
import random
import re
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
    masked,
    seen,
    settled,
    streams,
)
from wsproto_sip import connection as module
from wsproto_sip.connection import (
    Connection,
    ConnectionState,
    ConnectionType,
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
    RejectData,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.limits import STREAMING_LIMITS, Limits
from wsproto_sip.utilities import LocalProtocolError

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


def take(connection: Connection) -> list[Event]:
    return list(connection.events())


def key(role: ConnectionType) -> bytes | None:
    """Return the key that masks the frames this end receives."""
    return KEY if role is SERVER else None


# -- what comes ------------------------------------------------------------------------------------


@both_roles
@given(data=st.data())
def test_events_are_those_of_the_model(role: ConnectionType, data: st.DataObject) -> None:
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


@pytest.mark.parametrize("whole", [False, True])
@given(data=st.data())
def test_single_bytes_give_the_events_of_the_model(whole: bool, data: st.DataObject) -> None:
    stream = data.draw(streams(client=False)).data
    # Runs of single bytes, and between them pieces of any size and type.
    places = set(range(len(stream)))
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(stream)))
        places -= set(range(start, start + data.draw(st.integers(0, 20))))
    connection = Connection(SERVER, whole_messages=whole)
    model = Model(whole=whole, max_message=2**20 if whole else None)
    found: list[Any] = []
    failed = False
    for piece in cut(stream, places):
        kind = data.draw(st.sampled_from([bytes, bytes, bytes, bytearray, memoryview]))
        connection.receive_data(kind(piece))
        seen(connection.events(), found)
        model.feed(piece)
        failed = model.failed_at is not None
        # A wrong byte is reported at once.
        assert bool(found and found[-1][0] == "close") == model.over
        if model.over:
            break
    assert settled(found, failed) == settled(model.seen + model.partial(), failed)


def test_unread_events_come_first() -> None:
    connection = server()
    stream = b"".join(frame(TEXT, b"%d" % number) for number in range(3))
    expected = [TextMessage(str(number)) for number in range(3)]
    connection.receive_data(stream)
    for event in connection.events():
        assert event == expected[0]
        break
    assert take(connection) == expected[1:]
    assert take(connection) == []
    # More input before the rest is taken, again and again.
    connection.receive_data(stream)
    assert next(connection.events()) == expected[0]
    for _ in range(3):
        connection.receive_data(stream)
        assert next(connection.events()) in expected
    assert take(connection) == (expected * 4)[4:]
    assert take(connection) == []
    connection.receive_data(stream)
    assert take(connection) == expected


def test_kept_iterator_gives_each_event_once_and_in_order() -> None:
    connection = server()
    stream = frame(TEXT, b"a") + frame(TEXT, b"b")
    connection.receive_data(stream)
    kept = connection.events()
    found = [next(kept)]
    connection.receive_data(stream)
    found += kept
    found += connection.events()
    assert [event.data for event in found] == ["a", "b", "a", "b"]  # type: ignore[attr-defined]
    # The following iterator includes later input.
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


def test_many_reads_before_events_are_taken() -> None:
    connection = server()
    for number in range(5000):
        connection.receive_data(frame(PING, b"%d" % number))
    assert take(connection) == [Ping(b"%d" % number) for number in range(5000)]


@both_roles
def test_client_and_connection_type_say_which_end_it_is(role: ConnectionType) -> None:
    connection = Connection(role)
    assert (connection.connection_type, connection.client) == (role, role is module.CLIENT)
    assert (module.CLIENT, module.SERVER) == (ConnectionType.CLIENT, ConnectionType.SERVER)


@both_roles
def test_bytes_after_the_handshake_are_parsed(role: ConnectionType) -> None:
    stream = frame(TEXT, b"early", key=key(role)) + frame(BINARY, b"half", key=key(role))
    connection = Connection(role, None, stream[:-2])
    assert connection.connection_type is role
    found = take(connection)
    connection.receive_data(stream[-2:])
    assert seen(found + take(connection)) == [
        ("text", "early", True, True),
        ("binary", b"half", True, True),
    ]


def test_empty_input_has_no_effect() -> None:
    connection = server()
    for data in (b"", bytearray(), memoryview(b"")):
        connection.receive_data(data)
        assert take(connection) == []
    assert connection.state is OPEN


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_object_is_accepted(kind: Callable[[bytes], Any]) -> None:
    connection = server()
    connection.receive_data(kind(frame(TEXT, b"hello")))
    assert take(connection) == [TextMessage("hello")]


@pytest.mark.parametrize("wrong", ["text", 5, [1]])
def test_other_types_raise_type_error(wrong: Any) -> None:
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


def test_text_as_bytes() -> None:
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


def test_state_follows_when_the_event_is_taken() -> None:
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

#: For each way to reach a state: the state, the events allowed in it, and the state after a close
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
def test_sending_is_allowed_by_state(come_to: Callable[[], Connection]) -> None:
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
def test_receiving_in_each_state(come_to: Callable[[], Connection]) -> None:
    state, _, _ = STATES[come_to]
    hears = state in (OPEN, LOCAL_CLOSING)
    for raw, event, after in (
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
        connection.receive_data(raw)
        assert connection.state is state
        assert take(connection) == ([event] if hears else [])
        assert connection.state is (after if hears else state)


def test_refused_event_changes_nothing() -> None:
    connection = server()
    connection.send(TextMessage("begun", message_finished=False))
    for event in (
        TextMessage("\ud800"),
        BytesMessage(b"other kind"),
        Ping(bytes(126)),
        CloseConnection(1004),
        CloseConnection(1000, "\ud800"),
    ):
        with pytest.raises(LocalProtocolError):
            connection.send(event)
        assert connection.state is OPEN
    assert connection.send(TextMessage("ended")) == frame(CONTINUATION, b"ended", key=None)


@pytest.mark.parametrize(
    "event", [Request(host="h", target="/"), AcceptConnection(), Event(), RejectData(b"")]
)
def test_events_of_the_handshake_are_refused(event: Event) -> None:
    connection = server()
    with pytest.raises(LocalProtocolError, match=r" cannot be sent in state OPEN$"):
        connection.send(event)
    assert connection.state is OPEN


@pytest.mark.parametrize("wrong", [None, "x"])
def test_other_objects_raise_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="not an event that an open connection sends"):
        server().send(wrong)


@both_roles
def test_messages_as_programs_for_wsproto_send_them(role: ConnectionType) -> None:
    connection = Connection(role, entropy=lambda size: KEY[:size])
    mask = None if role is SERVER else KEY
    for event, raw in (
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
        assert connection.send(event) == raw


# -- pausing and the end ---------------------------------------------------------------------------


def test_frames_are_parsed_while_the_events_are_taken() -> None:
    connection = server(max_frames=2)
    connection.receive_data(b"".join(frame(PING, b"%d" % number) for number in range(7)))
    # An invalid frame, far away, and not parsed yet.
    connection.receive_data(frame(3))
    found: list[Event] = []
    for event in connection.events():
        found.append(event)
        if len(found) == 3:
            connection.receive_data(b"never looked at")
    assert found == [*(Ping(b"%d" % number) for number in range(7)), found[-1]]
    assert found[-1] == CloseConnection(1002, "unknown opcode 0x3")
    assert connection.state is REMOTE_CLOSING


def test_pause_without_an_event_continues() -> None:
    connection = server(max_frames=1, whole_messages=True)
    pieces = [frame(TEXT, b"a", fin=False), frame(CONTINUATION, b"b", fin=False)]
    connection.receive_data(b"".join(pieces) + frame(CONTINUATION, b"c") + frame(TEXT, b"d"))
    assert take(connection) == [TextMessage("abc"), TextMessage("d")]
    assert take(connection) == []
    connection.receive_data(frame(PING))
    assert take(connection) == [Ping()]


def test_end_of_input_while_paused_comes_after_all_events() -> None:
    connection = server(max_frames=1)
    connection.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"c"))
    connection.receive_data(None)
    connection.receive_data(None)
    # Events that should come after the end do not.
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


def test_end_of_input_while_paused_comes_after_the_close_frame() -> None:
    connection = server(max_frames=1)
    connection.receive_data(frame(TEXT, b"a") + frame(CLOSE))
    connection.receive_data(None)
    assert take(connection) == [TextMessage("a"), CloseConnection(1005, "")]
    assert connection.state is REMOTE_CLOSING
    assert take(connection) == []


def test_end_of_input_comes_after_unread_events() -> None:
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


def test_program_may_stop_taking_at_the_close_event() -> None:
    connection = server()
    connection.receive_data(frame(CLOSE))
    for event in connection.events():
        assert event == CloseConnection(1005, "")
        break
    connection.receive_data(frame(TEXT, b"x"))
    connection.receive_data(None)
    assert take(connection) == []
    assert connection.state is REMOTE_CLOSING


def test_reading_pauses_after_inflating_much() -> None:
    deflate = PerMessageDeflate()
    assert deflate.accept("permessage-deflate; client_no_context_takeover") is not None
    limits = Limits(max_inflated_per_read=2500)
    connection = Connection(SERVER, [deflate], limits=limits, whole_messages=True)
    connection.receive_data(frame(BINARY, deflated(bytes(1000)), rsv=4) * 10)
    assert take(connection) == [BytesMessage(bytes(1000))] * 10


@pytest.mark.parametrize("come_to", [closed_by_both, closed_by_the_end, in_failure])
def test_input_after_the_end_is_not_kept(come_to: Callable[[], Connection]) -> None:
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


def test_iterator_may_be_closed() -> None:
    def wrapped(connection: Connection) -> Iterator[Event]:
        yield from connection.events()

    for unread in (False, True):
        for options in ({}, {"max_frames": 1}):
            connection = server(**options)
            connection.receive_data(b"".join(frame(PING, b"%d" % number) for number in range(5)))
            found = []
            for _ in range(3):
                events = wrapped(connection)
                found.append(next(events))
                events.close()  # type: ignore[attr-defined]
                if unread:
                    connection.receive_data(b"")
            connection.receive_data(None)
            events = wrapped(connection)
            found.append(next(events))
            del events
            # Several at a time share the events.
            one, other = connection.events(), connection.events()
            found += [next(one), next(other)]
            assert found == [*(Ping(b"%d" % number) for number in range(5)), CloseConnection(1006)]
            assert connection.state is CLOSED
            assert next(one, None) is next(other, None) is None


# -- extensions ------------------------------------------------------------------------------------


class Upper(Extension):
    """Sends in upper case, receives in lower case, and marks that with RSV3."""

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
    assert arrange_extensions([], limits, False) == ([], None, [])
    assert arrange_extensions([off, upper, other], limits, True) == ([upper], None, [upper])
    assert arrange_extensions([one, off], limits, False) == ([one], one, [])
    assert one.max_ratio == 7
    both = deflate()
    found = arrange_extensions([both, upper], limits, True)
    assert found == ([both, upper], None, [both, upper])
    assert both.max_ratio == 7
    found = arrange_extensions([upper, both], limits, False)
    assert found == ([upper, both], None, [upper, both])


class ZlibPeer:
    """A browser, or its server: RFC 7692 with plain zlib objects.

    Args:
        client: Whether it is the browser.
        answer: The negotiated parameters.
    """

    def __init__(self, client: bool, answer: str) -> None:
        words = dict.fromkeys(answer.split("; "), 15)
        words |= {name: int(bits) for name, bits in re.findall(r"(\w+)=(\d+)", answer)}
        ours, theirs = ("client", "server") if client else ("server", "client")
        self.client = client
        self._bits = [words.get(f"{side}_max_window_bits", 15) for side in (ours, theirs)]
        self._resets = [f"{side}_no_context_takeover" in words for side in (ours, theirs)]
        self._deflater = zlib.compressobj(wbits=-self._bits[0])
        self._inflater = zlib.decompressobj(wbits=-self._bits[1])

    def send(self, message: bytes) -> bytes:
        if self._resets[0]:
            self._deflater = zlib.compressobj(wbits=-self._bits[0])
        payload = self._deflater.compress(message) + self._deflater.flush(zlib.Z_SYNC_FLUSH)
        return frame(BINARY, payload[:-4], rsv=4, key=KEY if self.client else None)

    def read(self, raw: bytes) -> bytes:
        if self._resets[1]:
            self._inflater = zlib.decompressobj(wbits=-self._bits[1])
        assert raw[0] == 0xC2
        start = {126: 4, 127: 10}.get(raw[1] & 0x7F, 2)
        payload = raw[start:]
        if not self.client:
            payload = masked(payload[4:], payload[:4])
        return self._inflater.decompress(payload + b"\x00\x00\xff\xff")


class Bystander(Extension):
    """Enabled without an effect: permessage-deflate then works through its hooks."""

    name = "x-bystander"

    def enabled(self) -> bool:
        return True


@pytest.mark.parametrize("others", [[], [Bystander()]], ids=["alone", "with another"])
@pytest.mark.parametrize(
    "answer",
    [
        "",
        "client_no_context_takeover",
        "server_no_context_takeover",
        "client_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits=9",
        "server_max_window_bits=9",
        "client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=15",
        "server_no_context_takeover; server_max_window_bits=15; client_max_window_bits=9",
    ],
)
def test_proxy_that_finalizes_one_answer_on_both_of_its_sides(
    answer: str, others: list[Extension]
) -> None:
    """Like mitmproxy: each side compresses and inflates in its own direction."""
    noise = random.Random(4).randbytes(3000)
    messages = [b"a" * 600, noise, b"a" * 600, noise, bytes(9000) + noise, b"", noise, b"a" * 600]
    for role in (SERVER, CLIENT):
        extension = PerMessageDeflate()
        extension.finalize(f"permessage-deflate; {answer}" if answer else "permessage-deflate")
        side = Connection(role, [extension, *others], whole_messages=True)
        peer = ZlibPeer(role is SERVER, answer)
        for message in messages:
            side.receive_data(peer.send(message))
            assert take(side) == [BytesMessage(message)]
            assert peer.read(side.send(BytesMessage(message))) == message


def test_custom_extensions_work() -> None:
    upper = Upper()
    client, server = Connection(CLIENT, [upper]), Connection(SERVER, [upper])
    assert client.extensions == [upper]
    raw = client.send(TextMessage("hello"))
    assert raw[0] == 0x91
    assert raw.endswith(bytes(a ^ b for a, b in zip(b"HELLO", raw[2:6] * 2, strict=False)))
    server.receive_data(raw + client.send(CloseConnection(1000, "BYE")))
    # The code before the reason has no case.
    assert take(server) == [TextMessage("hello"), CloseConnection(1000, "bye")]


@settings(max_examples=30)
@given(data=st.data())
def test_compressing_alone_and_with_another_extension(data: st.DataObject) -> None:
    for others in (False, True):

        def extensions() -> list[Extension]:
            # Compressed data has no case, so it must not be changed after compression.
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
    """Two connections, and two lossless pipes between them that split and delay."""

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
    def send_bytes(self, end: int, data: bytes, fin: bool) -> None:
        self.send(end, "bytes", data, BytesMessage(data, message_finished=fin))

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
