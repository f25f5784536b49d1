"""The receive loop, compared with a model that reads byte by byte, and case by case."""

from __future__ import annotations

import gc
import random
import sys
import tracemalloc
import zlib
from array import array
from itertools import chain, product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from tests._wire import (
    BINARY,
    BROKEN_TEXT,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    Model,
    Seen,
    Stream,
    binaries,
    close_payload,
    cut,
    cuttings,
    deflated,
    frame,
    frames,
    masked,
    message,
    one_by_one,
    seen,
    settled,
    streams,
    text_like,
)
from wsproto_sip import implementation, masking
from wsproto_sip._frames import KINDS_NONE
from wsproto_sip._implementation import PARSER as Parser
from wsproto_sip._parser import FrameParser
from wsproto_sip.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.frame_protocol import CloseReason, Opcode, RsvBits
from wsproto_sip.limits import STREAMING_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType

OPEN = Limits(
    max_message_size=None,
    max_fragments=None,
    max_inflated_per_read=None,
    max_inflate_ratio=None,
)

both_roles = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
both_modes = pytest.mark.parametrize("whole", [False, True], ids=["pieces", "whole"])


def deflate(**options: Any) -> PerMessageDeflate:
    extension = PerMessageDeflate(**options)
    assert extension.accept("permessage-deflate") is not None
    extension.set_limits(OPEN)
    return extension


def parse(parser: FrameParser, pieces: Iterable[bytes]) -> list[Event]:
    """Return all events, resuming pauses at once."""
    events = []
    for piece in pieces:
        events += parser.receive(piece)
        while parser.paused:
            assert parser.halted
            events += parser.receive(b"")
    return events


def parse_one(data: bytes, **options: Any) -> list[Seen]:
    options = {"client": False, "limits": OPEN, **options}
    return seen(parse(Parser(**options), [data]))


# -- against the model -----------------------------------------------------------------------------


@both_modes
@both_roles
@given(data=st.data())
def test_byte_by_byte_gives_the_events_of_the_model(
    client: bool, whole: bool, data: st.DataObject
) -> None:
    stream = data.draw(streams(client=client))
    model = Model(client=client, whole=whole)
    parser = Parser(client, OPEN, whole_messages=whole)
    found: list[Seen] = []
    for byte in one_by_one(stream.data):
        seen(parser.receive(byte), found)
        model.feed(byte)
        assert parser.closed == parser.halted == model.over
        assert parser.failed == (model.failed_at is not None)
        if model.over:
            break
        # Earlier events are not compared again.
        assert found[-2:] == (model.seen + model.partial())[-2:]
    assert settled(found, parser.failed) == settled(model.seen + model.partial(), parser.failed)


@both_modes
@both_roles
@given(data=st.data())
def test_any_split_of_the_stream_gives_the_same(
    client: bool, whole: bool, data: st.DataObject
) -> None:
    stream = data.draw(streams(client=client))
    model = Model(client=client, whole=whole).feed(stream.data)
    max_frames = data.draw(st.sampled_from([None, None, 1, 2, 5]))
    one, other = (
        Parser(client, OPEN, whole_messages=whole, max_frames=max_frames) for _ in range(2)
    )
    found = parse(one, stream.pieces())
    in_one = parse(other, [stream.data])
    failed = model.failed_at is not None
    assert one.failed == other.failed == failed
    assert settled(seen(found), failed) == settled(model.seen + model.partial(), failed)
    assert settled(seen(in_one), failed) == settled(seen(found), failed)
    # The text of an error is the same too.
    assert found[-1:] == in_one[-1:] or not failed


@both_modes
@given(data=st.data())
def test_limits_are_those_of_the_model(whole: bool, data: st.DataObject) -> None:
    bounds = st.one_of(st.none(), st.integers(0, 12), st.integers(100, 600))
    max_frame, max_message = data.draw(bounds), data.draw(bounds)
    max_fragments = data.draw(st.one_of(st.none(), st.integers(0, 4)))
    limits = Limits(
        max_message_size=max_message, max_frame_size=max_frame, max_fragments=max_fragments
    )
    model = Model(
        whole=whole, max_frame=max_frame, max_message=max_message, max_fragments=max_fragments
    )
    stream = data.draw(streams(client=False))
    parser = Parser(False, limits, whole_messages=whole)
    events: list[Event] = []
    for piece in stream.pieces():
        events += parser.receive(piece)
        model.feed(piece)
        assert parser.failed == (model.failed_at is not None)
    assert settled(seen(events), parser.failed) == settled(
        model.seen + model.partial(), parser.failed
    )


@both_modes
@both_roles
@given(data=st.data())
def test_compressed_messages_are_those_of_the_model(
    client: bool, whole: bool, data: st.DataObject
) -> None:
    stream = b"".join(data.draw(frames(client=client, rsv1=True)))
    bound = data.draw(st.one_of(st.none(), st.integers(0, 3000)))
    model = Model(client=client, whole=whole, deflate=True, max_message=bound).feed(stream)
    limits = Limits(max_message_size=bound, max_fragments=None, max_inflated_per_read=None)
    parser = Parser(client, limits, deflate(), whole_messages=whole)
    found = parse(parser, cut(stream, data.draw(cuttings(len(stream)))))
    assert parser.failed == (model.failed_at is not None)
    if parser.failed:
        # zlib returns nothing for a piece in which it finds an error, so invalid text in the same
        # piece is not seen.
        assert found[-1].code in (1002, 1007, 1009)  # type: ignore[attr-defined]
        return
    assert seen(found) == model.seen + model.partial()


@both_modes
@given(stream=streams(client=False, rsv1=True))
def test_damaged_compressed_messages(whole: bool, stream: Stream) -> None:
    one, other = (Parser(False, OPEN, deflate(), whole_messages=whole) for _ in range(2))
    found = settled(seen(parse(one, stream.pieces())), one.failed)
    in_one = settled(seen(parse(other, [stream.data])), other.failed)
    assert one.failed == other.failed
    if not one.failed:
        assert found == in_one
    else:
        assert found[:-1] == in_one[:-1]


@both_modes
@both_roles
@given(text=text_like, data=st.data())
def test_text_passes_if_and_only_if_the_whole_of_it_is_utf8(
    client: bool, whole: bool, text: bytes, data: st.DataObject
) -> None:
    pieces = list(cut(text, data.draw(st.lists(st.integers(0, len(text)), max_size=3))))
    stream = b"".join(message(TEXT, pieces, key=None if client else KEY))
    parser = Parser(client, OPEN, whole_messages=whole)
    events = parse(parser, cut(stream, data.draw(cuttings(len(stream)))))
    try:
        expected = text.decode()
    except UnicodeDecodeError:
        assert events[-1].code == 1007  # type: ignore[attr-defined]
        assert parser.failed
    else:
        assert not parser.failed
        assert "".join(event.data for event in events) == expected  # type: ignore[attr-defined]
        assert events[-1].message_finished  # type: ignore[attr-defined]


@both_modes
def test_invalid_second_byte_of_a_character_fails_at_once(whole: bool) -> None:
    # The decoder of the standard library accepts a surrogate's second byte.
    characters = chain(range(0x80, 0xD800), range(0xE000, 0x110000))
    beginnings = {chr(number).encode()[:2] for number in characters}
    for pair in product(range(0xC2, 0xF5), range(256)):
        parser = Parser(False, OPEN, whole_messages=whole)
        parser.receive(b"\x01\x84\0\0\0\0" + bytes(pair))
        assert parser.failed == (bytes(pair) not in beginnings), pair


@both_modes
@given(data=st.data())
def test_text_as_bytes_is_the_same_text(whole: bool, data: st.DataObject) -> None:
    stream = data.draw(streams(client=False))
    plain, as_bytes = (
        Parser(False, OPEN, whole_messages=whole, text_as_bytes=kept) for kept in (False, True)
    )
    for piece in stream.pieces():
        expected, events = plain.receive(piece), as_bytes.receive(piece)
        for one, other in zip(expected, events, strict=True):
            assert type(one) is type(other)
            if isinstance(one, TextMessage):
                assert type(other.data) is bytes  # type: ignore[attr-defined]
                other.data = other.data.decode()  # type: ignore[attr-defined]
            assert one == other


@both_modes
@given(stream=streams(client=False))
def test_any_bytes_like_object_is_accepted(whole: bool, stream: Stream) -> None:
    found = []
    for kind in (bytes, bytearray, memoryview):
        parser = Parser(False, OPEN, whole_messages=whole)
        found.append(parse(parser, [kind(piece) for piece in stream.pieces()]))  # type: ignore[misc]
    assert found[0] == found[1] == found[2]


def contents(found: list[Seen]) -> list[Seen]:
    """Return the contents of messages, however they were divided."""
    merged: list[Seen] = []
    for item in found:
        if item[0] in ("text", "binary"):
            name, data, _, finished = item
            if merged and merged[-1][0] == name and not merged[-1][2]:
                data = merged.pop()[1] + data  # type: ignore[operator]
            if data or finished:
                merged.append((name, data, finished))
        elif item[0] == "close":
            merged.append(item[:2])
    return merged


@both_roles
@given(data=st.data())
def test_pieces_may_be_asked_for_at_any_moment_and_come_at_once(
    client: bool, data: st.DataObject
) -> None:
    stream = data.draw(streams(client=client))
    pieces = list(stream.pieces())
    switch = data.draw(st.integers(0, len(pieces)))
    parser = FrameParser(client, OPEN, whole_messages=True)
    model = Model(client=client)
    found: list[Seen] = []
    for number, piece in enumerate([*pieces, b""]):
        if number == switch:
            found += seen(parser.deliver_pieces())
            assert parser.put_aside == 0
            assert parser.deliver_pieces() == []
        if number >= switch and not parser.failed:
            # Pings between two pieces do not count here.
            assert contents([s for s in found if s[0] not in ("ping", "pong")]) == contents(
                [s for s in [*model.seen, *model.partial()] if s[0] not in ("ping", "pong")]
            )
        found += seen(parse(parser, [piece]))
        model.feed(piece)
    assert parser.failed == (model.failed_at is not None)


@given(data=st.data())
def test_pieces_of_a_compressed_message_asked_for_in_the_middle(data: st.DataObject) -> None:
    payload = data.draw(st.one_of(st.binary(max_size=300), text_like))
    text = data.draw(st.booleans()) and not _wrong(payload)
    encoded = deflated(payload)
    at = data.draw(st.integers(0, len(encoded)))
    stream = frame(TEXT if text else BINARY, encoded[:at], fin=False, rsv=4)
    stream += frame(CONTINUATION, encoded[at:])
    parser = FrameParser(False, OPEN, deflate(), whole_messages=True)
    place = data.draw(st.integers(0, len(stream)))
    events = parse(parser, cut(stream[:place], data.draw(cuttings(place))))
    events += parser.deliver_pieces()
    events += parse(parser, cut(stream[place:], data.draw(cuttings(len(stream) - place))))
    joined = (event.data for event in events)  # type: ignore[attr-defined]
    if text:
        assert "".join(joined) == payload.decode()
    else:
        assert b"".join(joined) == payload
    assert events[-1].message_finished  # type: ignore[attr-defined]


def _wrong(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_paused_parser_delivers_pieces_when_it_continues() -> None:
    stream = b"".join(message(TEXT, [b"a", b"b", b"c"], key=KEY))
    parser = FrameParser(False, OPEN, whole_messages=True, max_frames=1)
    assert parser.receive(stream) == []
    assert parser.deliver_pieces() == [TextMessage("a", False, False)]
    assert parser.paused
    assert parse(parser, [b""]) == [TextMessage("b", True, False), TextMessage("c", True, True)]
    parser.end_of_input()
    assert parser.deliver_pieces() == []


# -- the fast ways against the slow one ------------------------------------------------------------


def slow_parser(limits: Limits, **options: Any) -> FrameParser:
    """Return a parser that takes the general path for every frame."""
    parser = Parser(False, limits, **options)
    parser._between = parser._kinds = KINDS_NONE
    return parser


@both_modes
@given(data=st.data())
def test_runs_of_fragments_give_the_same_as_single_frames(whole: bool, data: st.DataObject) -> None:
    pieces = st.lists(st.binary(max_size=5) | text_like | st.just(b"x" * 130), max_size=12)
    opcode = st.sampled_from([TEXT, TEXT, BINARY])
    parts: list[bytes] = []
    for kind, payloads in data.draw(st.lists(st.tuples(opcode, pieces), max_size=4)):
        parts += message(kind, payloads)
    for _ in range(data.draw(st.integers(0, 2))):
        odd = data.draw(st.sampled_from([frame(PING, b"x"), frame(CONTINUATION, b"y"), b"\x83"]))
        parts.insert(data.draw(st.integers(0, len(parts))), odd)
    stream = b"".join(parts)
    limits = data.draw(
        st.sampled_from([OPEN, Limits(max_fragments=4), Limits(max_message_size=140)])
    )
    options: dict[str, Any] = {
        "whole_messages": whole,
        "text_as_bytes": data.draw(st.booleans()),
        "max_frames": data.draw(st.sampled_from([None, 1, 2, 3])),
    }
    compare(stream, data.draw(cuttings(len(stream))), limits, options)


def compare(
    stream: bytes, places: Iterable[int], limits: Limits, options: dict[str, Any]
) -> tuple[FrameParser, list[Event]]:
    """Parse a stream in two ways; return the fast parser and the events."""
    fast, slow = Parser(False, limits, **options), slow_parser(limits, **options)
    events: list[Event] = []
    for piece in cut(stream, places):
        found = slow.receive(piece)
        assert fast.receive(piece) == found
        events += found
        while slow.paused:
            assert fast.paused
            found = slow.receive(b"")
            assert fast.receive(b"") == found
            events += found
        assert (fast.paused, fast.closed, fast.failed) == (False, slow.closed, slow.failed)
        if not slow.failed:
            assert (fast.controls, fast.fragments) == (slow.controls, slow.fragments)
    return fast, events


def run_of(opcode: int, payloads: Iterable[bytes], seed: int, *, fin: bool = True) -> bytes:
    """Return masked frames of one kind, each with a key of its own."""
    keys = random.Random(seed)
    return b"".join(frame(opcode, sent, fin=fin, key=keys.randbytes(4)) for sent in payloads)


@both_modes
@given(data=st.data())
def test_runs_of_alike_frames_give_the_same_as_single_frames(
    whole: bool, data: st.DataObject
) -> None:
    alike = st.tuples(
        st.sampled_from([TEXT, TEXT, BINARY, CONTINUATION]),
        st.sampled_from([0, 1, 2, 3, 4, 7, 16, 30, 125]),
        st.integers(0, 45),
        st.integers(0, 2000),
    )
    parts = []
    for opcode, size, count, odd in data.draw(st.lists(alike, max_size=5)):
        payloads = [bytes([32 + number]) * size for number in range(count)]
        if odd < count:
            payloads[odd] = data.draw(st.sampled_from([b"\xff" * size, b"", b"other"]))
        if opcode == CONTINUATION:
            run = run_of(CONTINUATION, payloads, odd, fin=False)
            parts += [frame(TEXT, b"begin", fin=False), run, frame(CONTINUATION, b"end")]
        else:
            parts.append(run_of(opcode, payloads, odd))
    stream = b"".join(parts)
    limits = data.draw(
        st.sampled_from([OPEN, OPEN, Limits(max_fragments=20), Limits(max_message_size=140)])
    )
    options: dict[str, Any] = {
        "whole_messages": whole,
        "text_as_bytes": data.draw(st.booleans()),
        "max_frames": data.draw(st.sampled_from([None, 1, 4, 5, 17, 40])),
    }
    compare(stream, data.draw(cuttings(len(stream))), limits, options)


@both_modes
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_client_that_sends_many_frames_of_one_size(opcode: int, whole: bool) -> None:
    payloads = [b"%020d" % number for number in range(1000)]
    options = {"whole_messages": whole}
    alike = compare(run_of(opcode, payloads, 1), (), OPEN, options)[1]
    assert [event.data for event in alike] == (  # type: ignore[attr-defined]
        [payload.decode() for payload in payloads] if opcode == TEXT else payloads
    )
    if implementation == "pure":
        # They are unmasked together.
        mixed = [payload[number % 2 :] for number, payload in enumerate(payloads)]
        steps = [
            steps_of(FrameParser(False, OPEN, **options), [run_of(opcode, sent, 1)])  # type: ignore[arg-type]
            for sent in (payloads, mixed)
        ]
        assert steps[0] < steps[1] * 0.6


@both_modes
@pytest.mark.parametrize("count", [4, 16, 20, 21])
def test_run_ends_where_frames_of_another_kind_or_size_begin(count: int, whole: bool) -> None:
    runs = [(TEXT, 7), (BINARY, 7), (TEXT, 7), (TEXT, 9), (BINARY, 20), (BINARY, 0), (TEXT, 0)]
    stream = b"".join(
        run_of(opcode, [bytes([48 + number]) * size for number in range(count)], size)
        for opcode, size in runs
    )
    for max_frames in (None, 16, 40):
        options = {"whole_messages": whole, "max_frames": max_frames}
        assert len(compare(stream, (), OPEN, options)[1]) == count * len(runs)
    fragments = b"".join(
        run_of(CONTINUATION, [b"x" * size] * count, size, fin=False) for size in (7, 9, 7, 0, 1)
    )
    stream = frame(BINARY, b"", fin=False) + fragments + frame(CONTINUATION, b"y") + stream
    compare(stream, (), OPEN, {"whole_messages": whole})


def test_wrong_text_in_a_run_ends_it_there() -> None:
    payloads = [b"%020d" % number for number in range(100)]
    payloads[50] = b"\xff" * 20
    parser, events = compare(run_of(TEXT, payloads, 1), (), OPEN, {"whole_messages": True})
    assert parser.failed
    assert len(events) == 51
    assert isinstance(events[-1], CloseConnection)


@pytest.mark.parametrize("whole", [False, True])
def test_split_character_must_continue_in_the_next_fragment(whole: bool) -> None:
    begun = frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"\xc3", fin=False)
    for following, fails in ((b"\xa4", False), (b"b", True), (b"", False)):
        parser = Parser(False, OPEN, whole_messages=whole)
        parser.receive(begun + frame(CONTINUATION, following, fin=False))
        assert parser.failed == fails


@both_modes
@given(stream=streams(client=False))
def test_function_plugged_in_for_masks_changes_nothing(whole: bool, stream: Stream) -> None:
    expected = parse(Parser(False, OPEN, whole_messages=whole), stream.pieces())
    try:
        masking.use(masked)
        parser = Parser(False, OPEN, whole_messages=whole)
        assert parse(parser, stream.pieces()) == expected
    finally:
        masking.use(None)


# -- what is wrong, and where ----------------------------------------------------------------------

#: Bytes to a server, how many of them it takes to fail, code, reason.
WRONG = {
    "opcode 3": ("83", 1, 1002, "unknown opcode 0x3"),
    "opcode 7": ("07", 1, 1002, "unknown opcode 0x7"),
    "opcode B": ("8b", 1, 1002, "unknown opcode 0xB"),
    "opcode F": ("0f", 1, 1002, "unknown opcode 0xF"),
    "RSV1": ("c1", 1, 1002, "reserved bit set that was not negotiated"),
    "RSV2": ("a1", 1, 1002, "reserved bit set that was not negotiated"),
    "RSV3": ("91", 1, 1002, "reserved bit set that was not negotiated"),
    "RSV on a Ping": ("c9", 1, 1002, "reserved bit set that was not negotiated"),
    "Ping without FIN": ("09", 1, 1002, "fragmented control frame"),
    "Close without FIN": ("08", 1, 1002, "fragmented control frame"),
    "continuation of nothing": ("80", 1, 1002, "continuation frame without a message to continue"),
    "more of nothing": ("00", 1, 1002, "continuation frame without a message to continue"),
    "text in text": (
        "0180 00000000 01",
        7,
        1002,
        "new message before the end of the fragmented one",
    ),
    "binary in text": (
        "0180 00000000 82",
        7,
        1002,
        "new message before the end of the fragmented one",
    ),
    "continuation after the end": (
        "0180 00000000 8080 00000000 80",
        13,
        1002,
        "continuation frame without a message to continue",
    ),
    "no mask": ("8100", 2, 1002, "unmasked frame"),
    "no mask on a Ping": ("8905", 2, 1002, "unmasked frame"),
    "Ping of 126": ("89fe", 2, 1002, "control frame longer than 125 bytes"),
    "Close of 127": ("88ff", 2, 1002, "control frame longer than 125 bytes"),
    "125 in two bytes": ("81fe 007d", 4, 1002, "length not in its shortest form"),
    "0 in two bytes": ("81fe 0000", 4, 1002, "length not in its shortest form"),
    "65535 in eight": ("82ff 000000000000ffff", 10, 1002, "length not in its shortest form"),
    "2**63": ("82ff 8000000000000000", 10, 1002, "length with its top bit set"),
    "Close of one byte": ("8881 00000000 03", 7, 1002, "close frame with a body of one byte"),
    "close code 999": ("8882 00000000 03e7", 8, 1002, "close code 999 may not be sent in a frame"),
    "close code 1005": (
        "8882 00000000 03ed",
        8,
        1002,
        "close code 1005 may not be sent in a frame",
    ),
    "text not UTF-8": (
        "8185 00000000 41ff",
        8,
        1007,
        "text is not UTF-8: invalid start byte",
    ),
    "text with a surrogate": (
        "8185 00000000 41eda0",
        9,
        1007,
        "text is not UTF-8: invalid continuation byte",
    ),
    "text with the last surrogate": (
        "8184 00000000 edbf",
        8,
        1007,
        "text is not UTF-8: invalid continuation byte",
    ),
    "text with an overlong character": (
        "8184 00000000 e09f",
        8,
        1007,
        "text is not UTF-8: invalid continuation byte",
    ),
    "text above the last character": (
        "8184 00000000 f490",
        8,
        1007,
        "text is not UTF-8: invalid continuation byte",
    ),
    "text cut inside a character": (
        "8181 00000000 c3",
        7,
        1007,
        "text is not UTF-8: unexpected end of data",
    ),
    "Close with a reason that is not UTF-8": (
        "8883 00000000 03e8ff",
        9,
        1007,
        "text is not UTF-8: invalid start byte",
    ),
}


@both_modes
@pytest.mark.parametrize("name", WRONG)
def test_failure_comes_with_the_earliest_byte(name: str, whole: bool) -> None:
    text, at, code, reason = WRONG[name]
    data = bytes.fromhex(text)
    assert len(data) == at
    failure = CloseConnection(code, reason)
    parser = Parser(False, OPEN, whole_messages=whole)
    before = parse(parser, one_by_one(data[:-1]))
    assert not parser.closed
    # Nothing more is needed to detect it.
    assert parser.receive(data[-1:]) == [failure]
    assert parser.closed
    assert parser.failed
    in_one = Parser(False, OPEN, whole_messages=whole)
    assert in_one.receive(data + frame(TEXT, b"more"))[-1] == failure
    # Nothing follows it.
    for end in (parser, in_one):
        assert end.receive(frame(TEXT, b"more")) == []
        assert end.receive(b"x") == []
        assert end.receive(b"") == []
        assert end.end_of_input() == []
    assert not any(isinstance(event, CloseConnection) for event in before)


def test_client_refuses_masked_frames() -> None:
    parser = Parser(True, OPEN)
    assert parser.receive(frame(TEXT, b"x")[:2]) == [
        CloseConnection(1002, "masked frame from a server")
    ]


@pytest.mark.parametrize("broken", BROKEN_TEXT, ids=bytes.hex)
def test_events_before_an_error_are_delivered(broken: bytes) -> None:
    good = frame(TEXT, b"hello") + frame(PING, b"p")
    stream = good + frame(TEXT, broken) + frame(CLOSE, close_payload(1000))
    *before, last = parse_one(stream)
    assert before == [("text", "hello", True, True), ("ping", b"p")]
    assert last[:2] == ("close", 1007)


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_valid_close_codes_are_accepted(code: int) -> None:
    parser = Parser(False, OPEN)
    stream = frame(CLOSE, close_payload(code, "bis später".encode())) + frame(TEXT, b"more")
    (event,) = parser.receive(stream)
    assert event == CloseConnection(code, "bis später")
    assert isinstance(event, CloseConnection)
    # As in wsproto: a member of the enumeration if there is one.
    assert isinstance(event.code, CloseReason) == (code < 3000)
    assert parser.closed
    assert parser.halted
    assert not parser.failed
    assert not parser.paused
    assert parser.receive(b"more") == []
    assert parser.end_of_input() == []


@pytest.mark.parametrize(
    "code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]
)
def test_invalid_close_codes_are_refused(code: int) -> None:
    assert parse_one(frame(CLOSE, close_payload(code))) == [
        ("close", 1002, f"close code {code} may not be sent in a frame")
    ]


def test_close_frame_without_a_code() -> None:
    parser = Parser(False, OPEN)
    assert parser.receive(frame(CLOSE)) == [CloseConnection(1005, "")]
    assert not parser.failed


@both_modes
def test_close_frame_inside_a_message_is_a_clean_close(whole: bool) -> None:
    parser = Parser(False, OPEN, whole_messages=whole)
    events = parser.receive(
        frame(TEXT, b"unfinished", fin=False) + frame(CLOSE, close_payload(1001, b"bye"))
    )
    assert events[-1] == CloseConnection(1001, "bye")
    assert not parser.failed


@both_modes
@both_roles
def test_end_of_input(client: bool, whole: bool) -> None:
    stream = frame(TEXT, b"abc", key=None if client else KEY)
    for size in range(len(stream) + 1):
        parser = Parser(client, OPEN, whole_messages=whole)
        parser.receive(stream[:size])
        assert parser.end_of_input() == [CloseConnection(1006)]
        assert parser.closed
        assert not parser.failed
        assert parser.end_of_input() == []
        assert parser.receive(stream) == []


@both_roles
@both_modes
def test_control_frames_and_fragments_are_counted(client: bool, whole: bool) -> None:
    parser = Parser(client, OPEN, whole_messages=whole)
    stream = [
        (TEXT, b"whole", True),
        (TEXT, b"in", False),
        (PING, b"1", True),
        (CONTINUATION, b"", False),
        (PONG, b"2", True),
        (CONTINUATION, b"pieces", True),
        (BINARY, b"half", False),
    ]
    key = None if client else KEY
    data = b"".join(frame(opcode, payload, fin=fin, key=key) for opcode, payload, fin in stream)
    parse(parser, [data[:-1]])
    assert (parser.controls, parser.fragments) == (2, 2)
    # A fragment counts when it is complete.
    parse(parser, [data[-1:]])
    assert (parser.controls, parser.fragments) == (2, 3)
    parse(parser, [frame(CLOSE, key=key)])
    assert parser.controls == 3


def test_control_frames_of_every_size() -> None:
    for size in (0, 1, 124, 125):
        payload = bytes(range(size))
        stream = frame(PING, payload) + frame(PONG, payload)
        for pieces in ([stream], one_by_one(stream)):
            parser = Parser(False, OPEN)
            assert seen(parse(parser, pieces)) == [("ping", payload), ("pong", payload)]


@both_modes
@both_roles
@pytest.mark.parametrize(
    "size", [0, 1, 2, 3, 4, 5, 125, 126, 127, 509, 510, 511, 512, 513, 65535, 65536, 65537]
)
def test_payloads_at_the_boundaries_of_code_paths(client: bool, whole: bool, size: int) -> None:
    payload = bytes(i * 7 & 0x7F for i in range(size))
    key = None if client else bytes.fromhex("00ff8001")
    for opcode, data in ((TEXT, payload.decode()), (BINARY, payload)):
        name = "text" if opcode == TEXT else "binary"
        stream = frame(opcode, payload, key=key) + frame(PING, b"next", key=key)
        for places in ((), (len(stream) - 11,), (1, 7), (size // 2 + 8,), (size // 2, 3 * size)):
            parser = Parser(client, OPEN, whole_messages=whole)
            found = seen(parse(parser, cut(stream, places)))
            assert found == [(name, data, True, True), ("ping", b"next")]


# -- input that is none, and input that is not bytes ----------------------------------------------


@both_modes
@given(stream=streams(client=False))
def test_empty_input_has_no_effect(whole: bool, stream: Stream) -> None:
    plain, other = (Parser(False, OPEN, whole_messages=whole) for _ in range(2))
    for piece in stream.pieces():
        expected = plain.receive(piece)
        assert other.receive(b"") == []
        assert other.receive(piece) == expected
    assert other.receive(b"") == []


@pytest.mark.parametrize("begun", ["", "81", "8185", "8185 00000000 41"])
@pytest.mark.parametrize("wrong", [None, 5, "text", ["x"], [65]])
def test_other_types_change_nothing(wrong: Any, begun: str) -> None:
    parser = Parser(False, OPEN, whole_messages=True)
    stream = bytes.fromhex("8185 00000000 41") + b"BCDE"
    start = len(bytes.fromhex(begun))
    parser.receive(stream[:start])
    with pytest.raises(TypeError):
        parser.receive(wrong)
    assert seen(parser.receive(stream[start:])) == [("text", "ABCDE", True, True)]


def put_aside(parser: FrameParser) -> tuple[int, int]:
    """Return the size of the unfinished message, and the number of those assembled."""
    front = parser.front
    return parser.put_aside + front.arrived, parser.joined + front.completed


def test_put_aside_bytes_are_counted_until_the_message_is_whole() -> None:
    stream = frame(TEXT, b"a" * 1000, key=bytes(4))
    parser = Parser(False, OPEN, whole_messages=True)
    parser.receive(stream[:500])
    parser.receive(stream[500:700])
    assert put_aside(parser) == (692, 0)
    parser.receive(stream[700:] + stream[:100])
    assert put_aside(parser) == (92, 1)
    parser.end_of_input()
    assert put_aside(parser) == (0, 1)
    pieces = Parser(False, OPEN)
    pieces.receive(stream[:500])
    assert pieces.put_aside == 0


def test_view_of_wider_items_is_taken_as_bytes() -> None:
    stream = frame(TEXT, b"ABCDEFGHIJ", key=bytes(4))
    parser = Parser(False, OPEN, whole_messages=True)
    parser.receive(stream[:8])
    for start in range(8, 16, 4):
        parser.receive(memoryview(array("I", stream[start : start + 4])))
    assert parser.end_of_input() == [CloseConnection(1006)]
    parser = Parser(False, OPEN, whole_messages=True)
    parser.receive(stream[:8])
    assert seen(parser.receive(memoryview(array("Q", stream[8:])))) == [
        ("text", "ABCDEFGHIJ", True, True)
    ]


# -- limits ----------------------------------------------------------------------------------------


def limited(**bounds: Any) -> Limits:
    return Limits(**{"max_message_size": None, "max_fragments": None, **bounds})


@both_modes
@pytest.mark.parametrize("bound", [5, 300, 1000, 70000])
def test_exactly_the_limit_passes_and_one_more_fails(bound: int, whole: bool) -> None:
    limits = limited(max_message_size=bound)
    for size in (bound, bound + 1):
        payload = bytes(size)
        half = [payload[: bound // 2], payload[bound // 2 :]]
        compressed = deflated(payload)
        for pieces, rsv in (([payload], 0), (half, 0), ([compressed], 4), ([b"", compressed], 4)):
            stream = b"".join(message(BINARY, pieces, rsv=rsv))
            for places in ((), (len(stream) - 1,), (9, 20)):
                parser = Parser(False, limits, deflate(), whole_messages=whole)
                *_, last = parse(parser, cut(stream, places))
                if size == bound:
                    assert isinstance(last, BytesMessage)
                    assert last.message_finished
                else:
                    assert last == CloseConnection(1009, f"message of more than {bound} bytes")
                    assert parser.failed


@both_modes
@pytest.mark.parametrize("bound", [5, 300, 1000, 70000])
def test_length_above_the_limit_fails_before_its_payload(bound: int, whole: bool) -> None:
    for limits, reason in (
        (limited(max_message_size=bound), f"message of more than {bound} bytes"),
        (
            limited(max_frame_size=bound),
            f"frame of {bound + 1} bytes, more than {bound}",
        ),
    ):
        header = frame(BINARY, bytes(bound + 1))[: -bound - 1 - 4]
        parser = Parser(False, limits, whole_messages=whole)
        *before, last = (parser.receive(byte) for byte in one_by_one(header))
        assert not any(before)
        assert last == [CloseConnection(1009, reason)]


def test_incompressible_messages_up_to_the_limit_pass() -> None:
    payload = b"".join(i.to_bytes(4, "big") for i in range(0, 2**32, 2**20))[:10000]
    stored = zlib.compressobj(0, wbits=-15)
    parser = Parser(False, limited(max_message_size=10000), deflate(), whole_messages=True)
    wire = deflated(payload, stored)
    assert len(wire) > 10000
    assert seen(parser.receive(frame(BINARY, wire, rsv=4))) == [("binary", payload, True, True)]
    # A message that exceeds that growth is refused at the header.
    parser = Parser(False, limited(max_message_size=10000), deflate())
    assert parser.receive(frame(BINARY, bytes(10690), rsv=4)[:4]) == [
        CloseConnection(1009, "message of more than 10000 bytes")
    ]


@both_modes
@pytest.mark.parametrize("bound", [1, 2, 5])
def test_every_data_frame_counts(bound: int, whole: bool) -> None:
    limits = limited(max_fragments=bound)
    for piece in (b"", b"x"):
        parts = list(chain(*([part, frame(PING)] for part in message(TEXT, [piece] * bound))))
        # The count restarts with each message, and does not include control frames.
        parser = Parser(False, limits, whole_messages=whole)
        found = seen(parse(parser, parts * 2))
        assert found.count(("ping", b"")) == 2 * bound
        last = ("text", piece.decode() * (bound if whole else 1), True, True)
        assert found.count(last) == 2
        # One more, which fails with its first byte.
        parts = message(TEXT, [piece] * (bound + 1))
        parts[-1] = parts[-1][:1]
        parser = Parser(False, limits, whole_messages=whole)
        found = seen(parse(parser, parts))
        assert found[-1] == ("close", 1009, f"message in more than {bound} frames")
        assert len(found) == (1 if whole else bound + 1)


@pytest.mark.parametrize(
    ("size", "piece"), [(8 << 20, 4096), (700_000, 512), (1 << 20, 512), (1 << 20, 64)]
)
def test_message_in_fair_sized_fragments_passes(size: int, piece: int) -> None:
    limits = Limits(max_message_size=size)
    payload = bytes(size)
    parts = [payload[start : start + piece] for start in range(0, size, piece)]
    for whole in (True, False):
        parser = Parser(False, limits, whole_messages=whole)
        found = parse(parser, message(BINARY, parts))
        assert b"".join(event.data for event in found) == payload  # type: ignore[attr-defined]


@both_modes
@pytest.mark.parametrize("piece", [0, 1, 8])
def test_flood_of_small_fragments_is_limited(piece: int, whole: bool) -> None:
    parser = Parser(False, Limits(), whole_messages=whole)
    flood = b"".join(message(BINARY, [bytes(piece)] * 5000))
    last = parser.receive(flood)[-1]
    allowed = 1024 * 64 // (64 - piece)
    assert last == CloseConnection(1009, f"message in more than {allowed} frames")


def test_fragments_are_paid_for_by_earlier_payload() -> None:
    limits = limited(max_fragments=2)
    parts = [bytes(63), bytes(1), b"", b"", b""]
    parser = Parser(False, limits)
    found = parse(parser, message(BINARY, parts))
    assert found[-1] == CloseConnection(1009, "message in more than 3 frames")
    assert len(found) == 4
    # The next message starts from zero.
    parser = Parser(False, limits)
    found = parse(parser, [frame(BINARY, bytes(1000)), *message(BINARY, [b"", b"", b""])])
    assert found[-1] == CloseConnection(1009, "message in more than 2 frames")


#: Data that deflate makes 200 times smaller, and more.
REPETITIVE = {
    "122 KB of equal log lines": b'2026-11-29T02:31:01Z INFO GET /health 200 "-" 0.001\n' * 2350,
    "200 KB of zeros in JSON": b"[" + b"0," * 100_000 + b"0]",
    "1 MiB of zeros": bytes(1 << 20),
}


@both_modes
@pytest.mark.parametrize("name", REPETITIVE)
def test_repetitive_message_within_the_size_passes(name: str, whole: bool) -> None:
    payload = REPETITIVE[name]
    wire = deflated(payload)
    assert len(payload) > 200 * len(wire)
    extension = deflate()
    extension.set_limits(Limits() if whole else STREAMING_LIMITS)
    parser = Parser(False, Limits(), extension, whole_messages=whole)
    assert parser.receive(frame(BINARY, wire, rsv=4)) == [BytesMessage(payload)]


def test_endless_message_ends_while_streaming() -> None:
    extension = deflate()
    extension.set_limits(STREAMING_LIMITS)
    parser = Parser(False, STREAMING_LIMITS, extension)
    wire = deflated(bytes(20 << 20))
    found = parse(parser, [frame(BINARY, wire, rsv=4)])
    assert found == [CloseConnection(1009, "message inflates to more than 200 times its size")]


def test_no_frames_at_all() -> None:
    parser = Parser(False, limited(max_fragments=0))
    assert parser.receive(frame(TEXT, b"x")) == [
        CloseConnection(1009, "message in more than 0 frames")
    ]


def test_max_frames_must_be_positive() -> None:
    with pytest.raises(ValueError, match="max_frames must be 1 or more: 0"):
        Parser(False, OPEN, max_frames=0)


def test_bound_on_frames_may_be_any_number() -> None:
    parser = Parser(False, OPEN, whole_messages=True, max_frames=1 << 64)
    assert parser.receive(frame(TEXT, b"a") * 2) == [TextMessage("a")] * 2


# -- pausing ---------------------------------------------------------------------------------------


@both_modes
@pytest.mark.parametrize("bound", [1, 2, 3, 7])
def test_pausing_after_a_number_of_frames(bound: int, whole: bool) -> None:
    one = [
        frame(TEXT, b"a"),
        frame(PING),
        frame(BINARY, b"b", fin=False),
        frame(PONG),
        frame(CONTINUATION, b"c", fin=True),
        frame(TEXT, b"d" * 1000),
        frame(TEXT, b"e"),
    ]
    stream = b"".join(one)
    plain = Parser(False, OPEN, whole_messages=whole)
    parser = Parser(False, OPEN, whole_messages=whole, max_frames=bound)
    expected = [plain.receive(part) for part in one]
    events = parser.receive(stream)
    calls = 1
    for start in range(0, len(one), bound):
        assert events == [*chain(*expected[start : start + bound])]
        finished = start + bound >= len(one)
        assert parser.paused == parser.halted == (not finished)
        assert not parser.closed
        if not finished:
            events = parser.receive(b"")
            calls += 1
    assert calls == -(-len(one) // bound)
    # A read with exactly that many does not pause; input during a pause waits.
    assert len(parser.receive(one[0] * bound)) == bound
    assert not parser.paused
    parser.receive(one[0] * (bound + 1))
    assert parser.paused
    assert len(parser.receive(one[0] * bound)) == bound
    assert parser.paused
    assert len(parser.receive(b"")) == 1
    assert not parser.paused


@both_modes
@both_roles
def test_frame_that_was_begun_before_counts(client: bool, whole: bool) -> None:
    key = None if client else KEY
    begun = frame(TEXT, b"x" * 200, key=key)
    more = frame(TEXT, b"y", key=key)
    for bound, following, now, left in ((2, 3, 2, 2), (1, 1, 1, 1), (1, 0, 1, 0), (3, 2, 3, 0)):
        parser = Parser(client, OPEN, whole_messages=whole, max_frames=bound)
        found = seen(parser.receive(begun[:100]))
        seen(parser.receive(begun[100:] + more * following), found)
        assert len(found) == now
        assert found[0][1] == "x" * 200
        assert parser.paused is (left > 0)
        rest = []
        while parser.paused:
            rest += parser.receive(b"")
        assert len(rest) == left


def test_incomplete_frame_does_not_pause() -> None:
    parser = Parser(False, OPEN, whole_messages=True, max_frames=1)
    stream = frame(TEXT, b"abc")
    assert parser.receive(stream[:4]) == []
    assert not parser.paused
    assert parser.receive(stream[4:8]) == []
    assert not parser.paused
    assert len(parser.receive(stream[8:])) == 1
    assert not parser.paused


def test_held_bytes_are_reported() -> None:
    parser = Parser(False, OPEN, max_frames=1)
    assert parser.held == 0
    parser.receive(frame(TEXT, b"a") + frame(TEXT, b"bc") + frame(TEXT))
    assert parser.held == len(frame(TEXT, b"bc") + frame(TEXT))
    parser.receive(b"")
    parser.receive(b"")
    assert parser.held == 0


def test_end_of_input_in_a_pause() -> None:
    parser = Parser(False, OPEN, max_frames=1)
    parser.receive(frame(TEXT, b"a") * 2)
    assert parser.paused
    assert parser.end_of_input() == [CloseConnection(1006)]
    assert not parser.paused
    assert parser.halted
    assert parser.receive(b"") == []


@both_modes
def test_pausing_after_much_was_inflated(whole: bool) -> None:
    bomb = frame(BINARY, deflated(bytes(1000)), rsv=4)
    small = frame(TEXT, b"x")
    limits = limited(max_inflated_per_read=2500)
    parser = Parser(False, limits, deflate(client_no_context_takeover=True))
    events = parser.receive((bomb + small) * 7 + small)
    assert [len(event.data) for event in events] == [1000, 1, 1000, 1, 1000]  # type: ignore[attr-defined]
    assert parser.paused
    assert parser.halted
    events = parser.receive(b"")
    assert [len(event.data) for event in events] == [1, 1000, 1, 1000, 1, 1000]  # type: ignore[attr-defined]
    assert parser.paused
    events = parser.receive(bomb)
    assert [len(event.data) for event in events] == [1, 1000, 1, 1, 1000]  # type: ignore[attr-defined]
    assert not parser.paused
    # It is counted per read.
    for _ in range(10):
        assert len(parser.receive(bomb * 2 + small)) == 3
        assert not parser.paused
    # Without remaining bytes there is nothing to wait for.
    assert len(parser.receive(bomb * 3)) == 3
    assert not parser.paused
    # The rest of a frame that was started counts too.
    rest = frame(BINARY, deflated(bytes(2600)), rsv=4)
    assert parser.receive(rest[:6]) == []
    events = parser.receive(rest[6:] + bomb + small)
    assert [len(event.data) for event in events] == [2600, 1000]
    assert parser.paused
    assert parser.receive(b"") == [TextMessage("x")]
    # Also a frame that uses the allowance for incompressible data.
    limits = limited(max_message_size=100, max_inflated_per_read=50)
    stored = deflated(bytes(range(100)), zlib.compressobj(0, wbits=-15))
    parser = Parser(False, limits, deflate(), whole_messages=whole)
    assert parser.receive(frame(BINARY, stored, rsv=4) + small) == [BytesMessage(bytes(range(100)))]
    assert parser.paused
    assert parser.receive(b"") == [TextMessage("x")]


# -- permessage-deflate ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "rsv", "fin"),
    [
        (TEXT, 2, True),
        (TEXT, 5, True),
        (PING, 4, True),
        (CONTINUATION, 4, True),
        (BINARY, 6, False),
    ],
)
def test_rsv1_stands_on_the_first_frame_of_a_message_only(opcode: int, rsv: int, fin: bool) -> None:
    parser = Parser(False, OPEN, deflate())
    if opcode == CONTINUATION:
        parser.receive(frame(TEXT, b"", rsv=4, fin=False))
    assert parser.receive(frame(opcode, b"", rsv=rsv, fin=fin)[:1])[-1] == CloseConnection(
        1002, "reserved bit set that was not negotiated"
    )


@both_modes
def test_compressed_and_plain_messages_take_turns(whole: bool) -> None:
    compressor = zlib.compressobj(wbits=-15)
    stream = b""
    expected: list[Seen] = []
    for text in ("one", "zwei", "Grüße " * 200, "", "trois"):
        encoded = text.encode()
        wire = deflated(encoded, compressor)
        half = len(wire) // 2
        stream += frame(TEXT, wire, rsv=4)
        stream += frame(TEXT, encoded)
        stream += frame(BINARY, wire[:0] + deflated(encoded, compressor), rsv=4)
        wire = deflated(encoded, compressor)
        stream += frame(BINARY, wire[:half], rsv=4, fin=False)
        stream += frame(PING, b"between")
        stream += frame(CONTINUATION, wire[half:])
        expected += [("text", text, True, True)] * 2
        expected += [("binary", encoded, True, True), ("ping", b"between")]
        expected += [("binary", encoded, True, True)]
    for places in ((), range(len(stream)), range(0, len(stream), 7)):
        parser = Parser(False, OPEN, deflate(), whole_messages=True)
        assert seen(parse(parser, cut(stream, places))) == expected


@pytest.mark.parametrize("raw", [False, True])
def test_whole_compressed_messages_are_text_or_bytes_as_asked_for(raw: bool) -> None:
    for text in ("ASCII", "Grüße"):
        parser = Parser(False, OPEN, deflate(), text_as_bytes=raw)
        (event,) = parser.receive(frame(TEXT, deflated(text.encode()), rsv=4))
        assert event == TextMessage(text.encode() if raw else text)  # type: ignore[arg-type]
        (event,) = parser.receive(frame(TEXT, deflated(b"\xff"), rsv=4))
        assert event.code == 1007  # type: ignore[attr-defined]


def test_invalid_compressed_data_fails() -> None:
    parser = Parser(False, OPEN, deflate())
    (event,) = parser.receive(frame(TEXT, b"\x07", rsv=4) + frame(TEXT, b"x"))
    assert isinstance(event, CloseConnection)
    assert event.code == 1007
    assert parser.receive(frame(TEXT, b"x")) == []
    # Also if the message is unfinished.
    parser = Parser(False, OPEN, deflate())
    parser.receive(frame(TEXT, b"\x07\x00", rsv=4)[:-1])
    assert parser.failed


def test_message_that_ends_inside_a_block() -> None:
    wire = deflated(b"hello, hello, hello, hello")
    parser = Parser(False, OPEN, deflate())
    (event,) = parser.receive(frame(TEXT, wire[:-2], rsv=4))
    assert isinstance(event, CloseConnection)
    assert event.code == 1007


def test_inflated_text_has_to_be_utf8() -> None:
    for pieces in (1, 2):
        wire = deflated(b"hell\xff" * pieces)
        parser = Parser(False, OPEN, deflate())
        stream = b"".join(message(TEXT, list(cut(wire, [3] * (pieces - 1))), rsv=4))
        assert parser.receive(stream)[-1] == CloseConnection(
            1007, "text is not UTF-8: invalid start byte"
        )


def test_bomb_is_not_inflated() -> None:
    bomb = deflated(bytes(50_000_000))
    assert len(bomb) < 50_000
    parser = Parser(False, Limits(), deflate(), whole_messages=True)
    stream = frame(BINARY, bomb, rsv=4)
    tracemalloc.start()
    try:
        assert seen(parser.receive(stream)) == [
            ("close", 1009, "message of more than 1048576 bytes")
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


# -- memory ----------------------------------------------------------------------------------------


def peak_of(parser: FrameParser, pieces: Iterable[bytes]) -> int:
    """Return the peak allocation while parsing the pieces and discarding their events."""
    gc.collect()
    tracemalloc.start()
    try:
        for piece in pieces:
            parser.receive(piece)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [1, 3, 700])
def test_trickled_frame_costs_its_size(opcode: int, size: int) -> None:
    payload = "Grüße, wie sie sind. ".encode() * 2000
    stream = frame(opcode, payload)
    parser = Parser(False, OPEN, whole_messages=True)
    pieces = list(cut(stream, range(0, len(stream), size)))
    last = pieces.pop()
    assert peak_of(parser, pieces) < 3 * len(payload)
    (event,) = parser.receive(last)
    assert event.data == (payload if opcode == BINARY else payload.decode())  # type: ignore[attr-defined]


def steps_of(parser: FrameParser, reads: Iterable[bytes]) -> int:
    """Return how many interpreter instructions some reads take."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        frame.f_trace_opcodes = True
        steps += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for read in reads:
            parser.receive(read)
    finally:
        sys.settrace(before)
    assert not parser.closed
    return steps


@both_modes
@pytest.mark.parametrize(
    "make",
    [
        lambda count: one_by_one(frame(BINARY, bytes(count))),
        lambda count: one_by_one(frame(TEXT, "ü".encode() * (count // 2))),
        lambda count: one_by_one(frame(PING, b"payload") * (count // 13)),
        lambda count: [frame(PING, b"payload") * count],
        lambda count: [frame(TEXT, fin=False), frame(CONTINUATION, b"x", fin=False) * count],
        lambda count: [frame(TEXT, fin=False), *[frame(CONTINUATION, fin=False)] * count],
        lambda count: [frame(TEXT, b"x") * count],
    ],
    ids=[
        "a frame byte by byte",
        "text byte by byte",
        "Pings byte by byte",
        "Pings",
        "fragments",
        "fragments one by one",
        "messages",
    ],
)
def test_work_is_linear_in_the_input(make: Callable[[int], Iterable[bytes]], whole: bool) -> None:
    # Python 3.12 does not count all instructions of code that it traces for the first time.
    _, once, twice = (
        steps_of(Parser(False, OPEN, whole_messages=whole), make(count))
        for count in (2000, 1000, 2000)
    )
    # Compiled code is not traced.
    assert once > 1000 or implementation == "compiled"
    assert twice / once < 2.1


def test_much_ascii_byte_by_byte() -> None:
    stream = frame(TEXT, b"x" * 200_000)
    parser = Parser(False, OPEN, whole_messages=True)
    assert peak_of(parser, one_by_one(stream[:-1])) < 400_000
    assert parser.receive(stream[-1:]) == [TextMessage("x" * 200_000)]


def test_small_fragments_cost_their_size() -> None:
    parser = Parser(False, OPEN, whole_messages=True)
    parser.receive(frame(BINARY, b"x", fin=False))
    read = frame(CONTINUATION, b"x", fin=False) * 1000
    assert peak_of(parser, [read] * 50) < 250_000
    assert parser.receive(frame(CONTINUATION, b"y")) == [BytesMessage(b"x" * 50_001 + b"y")]


@both_modes
def test_unlimited_empty_fragments_take_no_memory(whole: bool) -> None:
    parser = Parser(False, OPEN, whole_messages=whole)
    read = frame(CONTINUATION, b"", fin=False) * 100
    parser.receive(frame(TEXT, b"", fin=False))
    assert peak_of(parser, [read] * 500) < 25_000
    (event,) = parser.receive(frame(CONTINUATION, b""))
    assert event == TextMessage("", True, True)


@pytest.mark.parametrize(
    "end", [frame(CLOSE), frame(3), frame(TEXT, b"\xff"), None], ids=["close", "bad", "text", "end"]
)
def test_input_after_the_end_is_not_kept(end: bytes | None) -> None:
    parser = Parser(False, OPEN, whole_messages=True)
    parser.receive(frame(TEXT, b"x" * 100_000, fin=False))
    if end is None:
        parser.end_of_input()
    else:
        parser.receive(frame(PING, b"x") + (end if end[0] != 0x81 else frame(0, b"\xff")))
    assert parser.closed
    more = frame(TEXT, b"x" * 10_000)
    pieces = [more, b"x", more[:5000]] * 100
    assert peak_of(parser, pieces) < 3000


def test_parser_at_rest_is_small() -> None:
    limits = Limits()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        parsers = [Parser(False, limits, max_frames=256) for _ in range(100)]
        for parser in parsers:
            parser.receive(frame(TEXT, b"hello") * 10)
            parser.receive(frame(TEXT, b"hello")[:8])
            parser.receive(frame(TEXT, b"hello")[8:])
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (after - before) / len(parsers) < 450


# -- byte by byte --------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("client", [False, True])
def test_single_bytes_and_larger_pieces_alternate(opcode: int, client: bool) -> None:
    payload = "ASCII und Größen, 漢字 und 🙂, wieder ASCII.".encode() * 3
    stream = frame(opcode, payload, key=None if client else KEY)
    for first in range(2, 14):
        places = [*range(first), *range(first, len(stream), first)]
        places += [place + 1 for place in places[first:]]
        parser = Parser(client, OPEN, whole_messages=True)
        (event,) = parse(parser, cut(stream, places))
        assert event.data == (payload if opcode == BINARY else payload.decode())  # type: ignore[attr-defined]


def test_control_frame_byte_by_byte_inside_a_message() -> None:
    stream = frame(TEXT, b"ab", fin=False) + frame(PING, b"x" * 125) + frame(CONTINUATION, b"cd")
    parser = Parser(False, OPEN, whole_messages=True)
    assert seen(parse(parser, one_by_one(stream))) == [
        ("ping", b"x" * 125),
        ("text", "abcd", True, True),
    ]


# -- extensions of others --------------------------------------------------------------------------


class Shift(Extension):
    """Adds a number to every byte; marks changed payloads with a reserved bit."""

    name = "x-shift"

    def __init__(self, rsv: int, factor: int, offset: int) -> None:
        self.rsv = RsvBits(*(bool(rsv >> bit & 1) for bit in (2, 1, 0)))
        self.factor = factor
        self.offset = offset
        self.headers: list[tuple[Opcode, RsvBits, int]] = []
        self.ends: list[bool] = []

    def enabled(self) -> bool:
        return True

    def frame_inbound_header(
        self, proto: object, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        assert type(opcode) is Opcode
        self.headers.append((opcode, rsv, payload_length))
        return self.rsv

    def frame_inbound_payload_data(self, proto: object, data: bytes) -> bytes | CloseReason:
        assert type(data) is bytes
        return bytes(byte * self.factor + self.offset & 0xFF for byte in data)

    def frame_inbound_complete(self, proto: object, fin: bool) -> bytes | CloseReason | None:
        self.ends.append(fin)
        return None


@both_modes
def test_extensions_undo_in_the_reverse_order(whole: bool) -> None:
    for places in ((), range(100)):
        # The sender adds 1, and then multiplies by 3; 171 is the inverse of 3.
        inner, outer = Shift(2, 1, -1), Shift(4, 171, 0)
        parser = Parser(False, OPEN, extensions=[inner, outer], whole_messages=whole)
        wire = bytes((byte + 1) * 3 & 0xFF for byte in "schön".encode())
        stream = (
            frame(TEXT, wire[:4], rsv=6, fin=False)
            + frame(PING, wire[:2], rsv=4)
            + frame(CONTINUATION, wire[4:])
        )
        found = seen(parse(parser, cut(stream, places)))
        assert ("ping", b"sc") in found
        texts = [what for what in found if what[0] == "text"]
        assert "".join(str(what[1]) for what in texts) == "schön"
        assert texts[-1][3]
        expected = [
            (Opcode.TEXT, RsvBits(True, True, False), 4),
            (Opcode.PING, RsvBits(True, False, False), 2),
            (Opcode.CONTINUATION, RsvBits(False, False, False), 2),
        ]
        assert inner.headers == outer.headers == expected
        assert inner.ends == outer.ends == [False, True, True]


def test_reserved_bit_without_an_extension_fails() -> None:
    parser = Parser(False, OPEN, extensions=[Shift(2, 1, 0), Shift(4, 1, 0)])
    assert parser.receive(frame(TEXT, b"x", rsv=7)) == [
        CloseConnection(1002, "reserved bit set that was not negotiated")
    ]


class Refusing(Extension):
    """Refuses at one of its hooks; otherwise appends bytes to each frame."""

    name = "x-refusing"

    def __init__(self, where: str = "") -> None:
        self.where = where

    def frame_inbound_header(
        self, proto: object, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        if self.where == "header":
            return CloseReason.POLICY_VIOLATION
        return RsvBits(False, False, False)

    def frame_inbound_payload_data(self, proto: object, data: bytes) -> bytes | CloseReason:
        return CloseReason.UNSUPPORTED_DATA if self.where == "data" else data

    def frame_inbound_complete(self, proto: object, fin: bool) -> bytes | CloseReason | None:
        return CloseReason.INTERNAL_ERROR if self.where == "complete" else b"+"


@pytest.mark.parametrize(("where", "code"), [("header", 1008), ("data", 1003), ("complete", 1011)])
@pytest.mark.parametrize("opcode", [TEXT, PING])
def test_extension_may_refuse(where: str, code: int, opcode: int) -> None:
    parser = Parser(False, OPEN, extensions=[Refusing(where)])
    assert parser.receive(frame(opcode, b"x") + frame(TEXT, b"more")) == [
        CloseConnection(code, "refused by extension x-refusing")
    ]


def test_extension_may_add_and_is_bounded() -> None:
    parser = Parser(False, limited(max_message_size=5), extensions=[Refusing()])
    stream = b"".join(message(BINARY, [b"ab", b"c"]))
    assert seen(parse(parser, one_by_one(stream))) == [
        ("binary", b"ab+", True, False),
        ("binary", b"c+", True, True),
    ]
    assert seen(parser.receive(b"".join(message(BINARY, [b"ab", b"", b"c"])))) == [
        ("binary", b"ab+", True, False),
        ("binary", b"+", True, False),
        ("close", 1009, "message of more than 5 bytes"),
    ]


def test_deflate_together_with_another_extension() -> None:
    compressed = deflate()
    compressed.set_limits(OPEN)
    shift = Shift(2, 1, -1)
    parser = Parser(False, OPEN, extensions=[shift, compressed], whole_messages=True)
    wire = deflated(bytes(byte + 1 for byte in b"hello"))
    stream = b"".join(message(TEXT, [wire[:3], wire[3:]], rsv=6)) + frame(PING, b"b", rsv=2)
    for _ in range(2):
        assert seen(parse(parser, one_by_one(stream))) == [
            ("text", "hello", True, True),
            ("ping", b"a"),
        ]
    assert parser.receive(frame(PING, b"", rsv=4)) == [
        CloseConnection(1002, "refused by extension permessage-deflate")
    ]


def test_events_equal_constructed_ones() -> None:
    parser = Parser(False, OPEN)
    events = parser.receive(frame(TEXT, b"x") + frame(BINARY, b"y") + frame(PING, b"z"))
    assert events == [TextMessage("x"), BytesMessage(b"y"), Ping(b"z")]
    assert [repr(event) for event in events[:2]] == [
        repr(TextMessage("x")),
        repr(BytesMessage(b"y")),
    ]


@given(payload=binaries)
def test_payloads_are_independent_bytes(payload: bytes) -> None:
    for whole in (False, True):
        for places in ((), (8,), range(600)):
            parser = Parser(False, OPEN, whole_messages=whole)
            for event in parse(parser, cut(frame(BINARY, payload), places)):
                assert isinstance(event, BytesMessage)
                assert type(event.data) is bytes
