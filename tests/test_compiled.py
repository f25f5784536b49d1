"""The parser on the kernel: every test of the pure one, and the two side by side.

The kernel is compiled if the package was built that way, and interpreted otherwise: its source is
Python, and ``librt`` works there too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

pytest.importorskip("librt.strings", reason="librt is missing: pip install 'wsproto-sip[compiled]'")

from tests import test_parser
from tests._wire import BINARY, PING, TEXT, Stream, cut, cuttings, frame, masked, seen, streams
from tests.test_parser import *  # noqa: F403 - to run them here too
from tests.test_parser import OPEN, both_modes, both_roles, deflate
from wsproto_sip import masking
from wsproto_sip._compiled import KernelParser
from wsproto_sip._parser import FrameParser
from wsproto_sip.events import Ping, TextMessage
from wsproto_sip.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module", autouse=True)
def the_parser_of_the_kernel() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_parser, "Parser", KernelParser)
        yield


# The number of joined messages is left out: it depends on what is taken in one call.
def state(parser: FrameParser) -> tuple[Any, ...]:
    if parser.failed:
        return (True,)
    return (
        parser.closed,
        parser.paused,
        parser.halted,
        parser.controls,
        parser.fragments,
    )


def waiting(parser: FrameParser) -> int:
    """Return the size of what waits for more; a header may count as long as it is held."""
    arrived: int = parser.front.arrived
    return parser.put_aside + arrived + parser.held


LONGEST_HEADER = 14


def side_by_side(stream: Stream, client: bool, limits: Limits, **options: Any) -> None:
    """Compare the results of the two parsers for each piece of a stream."""
    compressed = options.pop("compressed", False)
    one, other = (
        kind(client, limits, deflate() if compressed else None, **options)
        for kind in (KernelParser, FrameParser)
    )
    for piece in stream.pieces():
        found, wanted = one.receive(piece), other.receive(piece)
        while other.paused:
            assert state(one) == state(other)
            found += one.receive(b"")
            wanted += other.receive(b"")
        assert found == wanted
        assert state(one) == state(other)
        assert abs(waiting(one) - waiting(other)) <= LONGEST_HEADER


@both_roles
@given(data=st.data())
def test_any_stream_gives_the_same_as_the_pure_parser(client: bool, data: st.DataObject) -> None:
    compressed = data.draw(st.booleans())
    side_by_side(
        data.draw(streams(client=client, rsv1=compressed)),
        client,
        data.draw(
            st.sampled_from(
                [
                    OPEN,
                    Limits(max_fragments=3),
                    Limits(max_message_size=60),
                    Limits(max_frame_size=10),
                    Limits(max_inflated_per_read=20),
                ]
            )
        ),
        compressed=compressed,
        whole_messages=data.draw(st.booleans()),
        text_as_bytes=data.draw(st.booleans()),
        max_frames=data.draw(st.sampled_from([None, None, 1, 2, 5])),
    )


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("size", [0, 3, 6, 8, 11])
def test_pieces_are_delivered_from_any_point_on(size: int, opcode: int) -> None:
    stream = frame(opcode, b"hello") + frame(opcode, b"world")[:8]
    parsers = [kind(False, OPEN, whole_messages=True) for kind in (KernelParser, FrameParser)]
    found, wanted = (
        [
            *parser.receive(stream[:size]),
            *parser.deliver_pieces(),
            *parser.receive(stream[size:]),
        ]
        for parser in parsers
    )
    assert seen(found) == seen(wanted)


TEXT_OUTSIDE_ASCII = "a\xe4\u20ac\U0001f600" * 3


@pytest.mark.parametrize("size", range(6, 6 + len(TEXT_OUTSIDE_ASCII.encode())))
def test_text_is_delivered_in_pieces_from_any_point_on(size: int) -> None:
    stream = frame(TEXT, TEXT_OUTSIDE_ASCII.encode())
    parsers = [kind(False, OPEN, whole_messages=True) for kind in (KernelParser, FrameParser)]
    for parser in parsers:
        assert parser.receive(stream[:size]) == []
    one, other = ([*parser.deliver_pieces()] for parser in parsers)
    assert seen(one) == seen(other)
    one, other = (parser.receive(stream[size:]) for parser in parsers)
    assert seen(one) == seen(other)


@pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0", b"\xc3a", b"\xe2\x82", b"\xf4\x90"])
@pytest.mark.parametrize("good", ["", "a", "\xe4", "a\u20ac" * 300])
@pytest.mark.parametrize("rest", [b"", b"b", bytes(200)])
def test_wrong_text_fails_at_the_same_byte_with_the_same_reason(
    good: str, wrong: bytes, rest: bytes
) -> None:
    whole = frame(TEXT, good.encode() + wrong + rest)
    start = len(whole) - len(wrong + rest)
    for cuts in ((start,), (start, start + 1), (start, start + 2), (start - 1, start + 1), ()):
        side_by_side(Stream(whole, cuts), False, OPEN, whole_messages=True)


SIZES = st.sampled_from([0, 1, 7, 8, 125, 126, 127, 1023, 1024, 65535, 65536, 70000])


@both_modes
@both_roles
@given(
    sizes=st.lists(st.tuples(st.sampled_from([TEXT, BINARY]), SIZES), min_size=1, max_size=4),
    data=st.data(),
)
def test_every_form_of_length_is_parsed(
    client: bool, whole: bool, sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    key = None if client else b"\x81\x00\xff\x7e"
    stream = b"".join(frame(opcode, b"x" * size, key=key) for opcode, size in sizes)
    cuts = data.draw(cuttings(len(stream)).filter(lambda cuts: len(cuts) < 100))
    assert b"".join(cut(stream, cuts)) == stream
    limits = data.draw(st.sampled_from([OPEN, Limits(max_frame_size=65535)]))
    side_by_side(Stream(stream, cuts), client, limits, whole_messages=whole)


@pytest.mark.parametrize(
    "length",
    [b"\xfe\x00\x7d", b"\xff" + bytes(7) + b"\x7e", b"\xff\x80" + bytes(7), b"\xff" + b"\xff" * 8],
    ids=["short in two bytes", "short in eight bytes", "top bit", "all bits"],
)
@pytest.mark.parametrize("first", [b"\x81", b"\x82", b"\x01"])
@both_modes
def test_invalid_lengths_fail_as_in_the_pure_parser(
    whole: bool, first: bytes, length: bytes
) -> None:
    stream = frame(BINARY, b"before") + first + length + bytes(140)
    side_by_side(Stream(stream, ()), False, OPEN, whole_messages=whole)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_large_payloads_are_masked_by_the_plugged_in_function(opcode: int) -> None:
    sizes: list[int] = []

    def plugged(payload: bytes, key: bytes) -> bytes:
        sizes.append(len(payload))
        return masked(payload, key)

    stream = b"".join(frame(opcode, b"x" * size) for size in (20, 4095, 4096, 20000))
    try:
        masking.use(plugged)
        sizes.clear()
        parser = KernelParser(False, OPEN, whole_messages=True)
        # The last one arrives in parts.
        events = [*parser.receive(stream[:-15001]), *parser.receive(stream[-15001:-1000])]
        events += parser.receive(stream[-1000:])
    finally:
        masking.use(None)
    one = "x" if opcode == TEXT else b"x"
    assert [event.data for event in events] == [one * size for size in (20, 4095, 4096, 20000)]  # type: ignore[attr-defined]
    assert sizes == [4096, 4999, 14001]


def test_read_ends_within_the_head_of_a_message() -> None:
    parser = KernelParser(False, OPEN, whole_messages=True)
    message = frame(TEXT, b"a")
    assert parser.receive(frame(PING, b"p") + message[:3]) == [Ping(b"p")]
    assert parser.receive(message[3:]) == [TextMessage("a")]
