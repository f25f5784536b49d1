from __future__ import annotations

import itertools
import random
import tracemalloc
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings, strategies as st

from wsproto_sip import _deflate
from wsproto_sip._deflate import DeflateCodec, InflateError, deflate_message
from wsproto_sip.frame_protocol import CloseReason
from wsproto_sip.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TAIL = b"\x00\x00\xff\xff"
BAD = CloseReason.INVALID_FRAME_PAYLOAD_DATA
BIG = CloseReason.MESSAGE_TOO_BIG
SIP = (
    b"INVITE sip:bob@example.com SIP/2.0\r\n"
    b"Via: SIP/2.0/WS df7jal23ls0d.invalid;branch=z9hG4bK56sdasks\r\n"
    b"From: <sip:alice@example.com>;tag=asdyka899\r\nTo: <sip:bob@example.com>\r\n"
    b"Call-ID: asidkj3ss\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n"
    b"Contact: <sip:alice@example.com;gr=urn:uuid:f81-7dec-14a06cf1;ob>\r\n\r\n"
)
RATIO = Limits(max_inflate_ratio=200, inflate_ratio_floor=64 * 1024)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def peer_deflates(data: bytes, window: int = 15) -> bytes:
    """Return one message as another implementation would send it first."""
    deflater = zlib.compressobj(wbits=-window)
    return (deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def codec(limits: Limits | None = None, *, window: int = 15, resets: bool = False) -> DeflateCodec:
    made = DeflateCodec()
    made.configure(inflate_window=window, inflate_resets=resets)
    if limits is not None:
        made.set_limits(limits)
    return made


def inflate(subject: DeflateCodec, pieces: Sequence[bytes], budget: int | None = None) -> bytes:
    """Feed one message in pieces, as the engine does: the budget shrinks by the output."""
    output = b""
    for index, piece in enumerate(pieces):
        left = None if budget is None else budget - len(output)
        output += subject.decompress(piece, index == len(pieces) - 1, left)
    return output


def outcome(
    subject: DeflateCodec, pieces: Sequence[bytes], budget: int | None = None
) -> bytes | CloseReason:
    try:
        return inflate(subject, pieces, budget)
    except InflateError as exc:
        return exc.code


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = [0, *sorted(place % (len(data) + 1) for place in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


def reference(history: bytes, payload: bytes) -> bytes | CloseReason:
    """Inflate a message the slow and simple way.

    A copy of the inflater is asked whether it is between two blocks, and the whole history is kept.
    """
    output = b""
    rest = payload + TAIL
    try:
        while True:
            inflater = zlib.decompressobj(-15, (history + output)[-32768:])
            output += inflater.decompress(rest)
            if not inflater.eof:
                break
            rest = inflater.unused_data
        probe = inflater.copy()
        if probe.decompress(b"\x01\x00\x00\xff\xff") or not probe.eof or probe.unused_data:
            return BAD
    except zlib.error:
        return BAD
    return output


@pytest.fixture
def soon() -> Iterator[None]:
    """Let an inflater stay from the second message on."""
    with pytest.MonkeyPatch.context() as patch:
        stay_soon(patch)
        yield


def stay_soon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_deflate, "_CHEAP_HISTORY", 0)
    patch.setattr(_deflate, "_MOST_KEPT", 1 << 60)
    patch.setattr(_deflate, "_keepers", deque())


# -- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("window", range(8, 16))
def test_messages_come_back_within_every_window(window: int, resets: bool) -> None:
    sender = DeflateCodec()
    sender.configure(deflate_window=window, deflate_resets=resets)
    receiver = codec(window=window, resets=resets)
    messages = [
        SIP,
        SIP.replace(b"bob", b"carol"),
        b"",
        b"",
        noise(3000),
        bytes(5000),
        noise(3000),
        SIP * 40,
        b"x",
    ]
    for message in messages:
        payload = sender.compress(message, True)
        assert not payload.endswith(TAIL)
        assert receiver.decompress(payload, True, len(message)) == message


def inflate_strictly(payload: bytes, window: int, history: bytes = b"") -> bytes:
    """Inflate byte by byte, so that zlib refuses each reference beyond the window.

    In one call it would accept references within the same output.
    """
    inflater = zlib.decompressobj(-window, history)
    output = inflater.decompress(payload + TAIL, 1)
    while inflater.unconsumed_tail:
        output += inflater.decompress(inflater.unconsumed_tail, 1)
    return output


@pytest.mark.parametrize("window", range(8, 16))
def test_references_stay_within_the_window(window: int) -> None:
    generator = random.Random(window)
    block = noise(70)
    data = bytearray()
    for distance in (100, 180, 250, 256, 300, 511, 512, 1000, 5000, 20000, 40000):
        data += block + bytes(generator.randrange(256) for _ in range(distance - len(block)))
    sender = DeflateCodec(level=9)
    sender.configure(deflate_window=window, deflate_resets=True)
    payload = sender.compress(bytes(data), True)
    assert inflate_strictly(payload, window) == data


@pytest.mark.parametrize("window", range(9, 16))
def test_window_is_used(window: int) -> None:
    # zlib keeps some 262 bytes of a window to look ahead.
    within, beyond = noise(2**window - 280), noise(2**window + 1)
    assert len(deflate_message(within * 2, window)) < len(within) * 1.3
    assert len(deflate_message(beyond * 2, window)) > len(beyond) * 1.9


def test_window_of_8_still_compresses() -> None:
    # Only repetitions of one byte, whatever zlib uses as its smallest window.
    assert len(deflate_message(b"ab" * 500, 8)) > 100
    assert len(deflate_message(bytes(1000), 8)) < 20
    assert len(deflate_message(SIP * 10, 8)) < len(SIP * 10) * 0.8


def test_history_is_kept_only_with_context_takeover() -> None:
    sender = DeflateCodec()
    sender.configure()
    first, second = sender.compress(SIP, True), sender.compress(SIP, True)
    assert len(second) < 20 < len(first)
    keeps = codec()
    assert keeps.decompress(first, True, None) == SIP
    assert keeps.decompress(second, True, None) == SIP
    forgets = codec(resets=True)
    assert forgets.decompress(first, True, None) == SIP
    with pytest.raises(InflateError, match="invalid distance too far back") as caught:
        forgets.decompress(second, True, None)
    assert caught.value.code is BAD


@pytest.mark.parametrize("filler", [4096 - 50, 4096, 5000])
@pytest.mark.parametrize("cuts", [[], [30, 60]])
@pytest.mark.parametrize("stays", [False, True])
def test_history_is_at_most_one_window(
    stays: bool, cuts: list[int], filler: int, request: pytest.FixtureRequest
) -> None:
    """A peer that refers beyond the negotiated window is refused, however its message is split."""
    if stays:
        request.getfixturevalue("soon")
    peer = zlib.compressobj(wbits=-15)
    subject = codec(window=12)
    fillers = [noise(filler, 2)[at : at + 900] for at in range(0, filler, 900)]
    for message in (noise(100, 1), *fillers):
        payload = (peer.compress(message) + peer.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert inflate(subject, cut(payload, cuts)) == message
    beyond = (noise(100, 1) + noise(filler, 2))[-4096 - 50 :][:50]
    payload = (peer.compress(beyond) + peer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(payload) < 20
    assert outcome(subject, [payload]) is BAD


@pytest.mark.parametrize("cuts", [[], [30_000], range(0, 60_000, 97)])
def test_window_is_not_enforced_inside_a_message(cuts: Sequence[int]) -> None:
    """A peer may succeed with too large a window there, but not by chance."""
    message = (noise(20_000) + bytes(100)) * 3
    payload = peer_deflates(message)
    assert len(payload) < 25_000
    assert inflate(codec(window=9), cut(payload, cuts)) == message


@given(
    st.lists(st.binary(max_size=300), max_size=12),
    st.integers(9, 15),
    st.integers(1, 9),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_zlib_peer_in_any_pieces(
    messages: list[bytes], window: int, mem_level: int, resets: bool, source: random.Random
) -> None:
    subject = codec(window=window, resets=resets)
    deflater = zlib.compressobj(6, zlib.DEFLATED, -window, mem_level)
    for message in messages:
        if resets:
            deflater = zlib.compressobj(6, zlib.DEFLATED, -window, mem_level)
        payload = (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        # zlib suppresses a flush right after another one.
        payload = payload or b"\x00"
        pieces = cut(payload, [source.randrange(1000) for _ in range(source.randrange(4))])
        assert inflate(subject, pieces, len(message)) == message


FLUSHES = [
    zlib.Z_NO_FLUSH,
    zlib.Z_PARTIAL_FLUSH,
    zlib.Z_SYNC_FLUSH,
    zlib.Z_FULL_FLUSH,
    zlib.Z_BLOCK,
    zlib.Z_FINISH,
]


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.binary(max_size=40) | st.sampled_from([SIP, SIP[::-1], bytes(500)]),
                st.sampled_from(FLUSHES),
                st.integers(0, 9),
            ),
            max_size=5,
        ),
        max_size=4,
    ),
    st.lists(st.integers(0, 10_000), max_size=3),
)
@example([[(SIP, zlib.Z_FINISH, 6)], [(SIP, zlib.Z_FINISH, 6)]], [])
@example([[(SIP, zlib.Z_FINISH, 6), (SIP, zlib.Z_FINISH, 6)]], [5, 60])
def test_every_way_to_end_a_block_is_understood(
    messages: list[list[tuple[bytes, int, int]]], cuts: list[int]
) -> None:
    """Blocks of all types and sizes, and streams that end (BFINAL) and start again.

    The earlier output is their history, within one message and from one message to the next.
    """
    subject = codec()
    history = b""
    deflater = zlib.compressobj(wbits=-15)
    for message in messages:
        payload, expected = b"", b""
        for data, flush, level in message:
            payload += deflater.compress(data)
            expected += data
            history = (history + data)[-32768:]
            if flush == zlib.Z_FINISH:
                payload += deflater.flush(zlib.Z_FINISH)
                deflater = zlib.compressobj(level, zlib.DEFLATED, -15, zdict=history)
            elif flush != zlib.Z_NO_FLUSH:
                payload += deflater.flush(flush)
        payload += deflater.flush(zlib.Z_SYNC_FLUSH)
        payload = payload[:-4] if payload.endswith(TAIL) else payload + b"\x00"
        pieces = cut(payload, cuts)
        assert outcome(subject, pieces) == expected


# -- RFC 7692 §7.2.3, its examples -----------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        ["f248cdc9c90700"],
        ["f248cd", "c9c90700"],
        ["000500faff48656c6c6f00"],
        ["f348cdc9c9070000"],
        ["f248050000", "00ffffcac9c90700"],
    ],
    ids=["one block", "fragments", "no compression", "BFINAL", "two blocks"],
)
def test_examples_of_the_standard(pieces: list[str]) -> None:
    assert inflate(codec(), [bytes.fromhex(piece) for piece in pieces], 5) == b"Hello"


def test_sliding_window_of_the_standard() -> None:
    subject = codec()
    assert subject.decompress(bytes.fromhex("f248cdc9c90700"), True, 5) == b"Hello"
    assert subject.decompress(bytes.fromhex("f200110000"), True, 5) == b"Hello"


def test_empty_message_of_the_standard() -> None:
    assert codec().decompress(b"\x00", True, 0) == b""
    assert deflate_message(b"", 12) == b"\x00"
    keeps = DeflateCodec()
    assert [keeps.compress(b"", True) for _ in range(3)] == [b"\x00"] * 3


@pytest.mark.parametrize("payload", [b"\x01", b"\x03\x00\x01", b"\x00"])
def test_final_block_may_be_the_empty_one_at_the_end(payload: bytes) -> None:
    subject = codec()
    assert subject.decompress(payload, True, 0) == b""
    assert subject.decompress(peer_deflates(SIP), True, len(SIP)) == SIP


# -- block boundaries ------------------------------------------------------------------------------

TRUNCATED = [
    peer_deflates(SIP),
    peer_deflates(SIP * 3 + noise(50) + SIP),
    peer_deflates(noise(200)),
    zlib.compressobj(0, wbits=-15).compress(b"") + b"\x00\x05\x00\xfa\xffHello\x00",
    peer_deflates(bytes(5000)),
    b"\xf3\x48\xcd\xc9\xc9\x07\x00" * 3 + b"\x00",
]


@pytest.mark.parametrize("payload", TRUNCATED)
def test_truncated_message_is_refused(payload: bytes) -> None:
    assert reference(b"", payload) != BAD
    for size in range(len(payload)):
        expected = reference(b"", payload[:size])
        assert outcome(codec(), [payload[:size]]) == expected
        assert outcome(codec(), [payload[: size // 2], payload[size // 2 : size]]) == expected
        if size < len(payload) - 1:
            # With stored and final blocks, the truncated message may happen to be complete.
            assert expected == BAD or payload not in TRUNCATED[:2]


def test_reference_agrees_with_a_long_lived_inflater() -> None:
    """Messages with context takeover, for which the inflater is never replaced."""
    deflater = zlib.compressobj(wbits=-12)
    kept = zlib.decompressobj(-12)
    subject = codec(window=12)
    history = b""
    for number in range(40):
        message = SIP.replace(b"bob", b"user%d" % number)
        payload = (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for size in range(0, len(payload), 7):
            living = kept.copy()
            try:
                output: bytes | CloseReason = living.decompress(payload[:size] + TAIL)
                ended = not living.decompress(b"\x01\x00\x00\xff\xff") and living.eof
                output = output if ended and not living.unused_data else BAD
            except zlib.error:
                output = BAD
            assert reference(history, payload[:size]) == output
        assert kept.decompress(payload + TAIL) == message
        assert subject.decompress(payload, True, 1000) == message
        history = (history + message)[-4096:]


@given(st.binary(max_size=60), st.lists(st.integers(0, 100), max_size=3))
@example(b"\x03", [])
@example(b"\x00\x04\x00\xfb\xff", [])  # the four bytes complete a stored block
@example(b"\xf3\x48\xcd\xc9\xc9\x07\x00", [])  # BFINAL, and nothing after it
@settings(max_examples=300)
def test_any_bytes_give_what_the_reference_gives(payload: bytes, cuts: list[int]) -> None:
    expected = reference(b"", payload)
    assert outcome(codec(), [payload]) == expected
    assert outcome(codec(), cut(payload, cuts)) == expected


@given(
    st.sampled_from(TRUNCATED),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 7)), max_size=3),
    st.integers(0, 5000),
    st.lists(st.integers(0, 5000), max_size=4),
)
@settings(max_examples=300)
def test_damaged_messages_give_what_the_reference_gives(
    payload: bytes, flips: list[tuple[int, int]], size: int, cuts: list[int]
) -> None:
    damaged = bytearray(payload)
    for place, bit in flips:
        damaged[place % len(damaged)] ^= 1 << bit
    damaged_payload = bytes(damaged[: size % len(damaged) + 1])
    expected = reference(b"", damaged_payload)
    assert outcome(codec(), [damaged_payload]) == expected
    assert outcome(codec(), cut(damaged_payload, cuts)) == expected


def test_tail_decoded_as_data_is_not_a_boundary() -> None:
    """A final block that includes the bytes appended to the message must not pass for its end."""
    # A stored, final block of 4 + 5 missing bytes.
    assert outcome(codec(), [b"\x01\x09\x00\xf6\xff"]) is BAD
    # A fixed block ended by the zeros, one bit off.
    assert outcome(codec(), [b"\x02"]) == reference(b"", b"\x02") == BAD


def test_errors_say_what_is_wrong() -> None:
    with pytest.raises(InflateError, match=r"^compressed data is invalid: .*invalid block type"):
        codec().decompress(b"\x06", True, None)
    with pytest.raises(InflateError, match=r"^compressed message ends inside a block$"):
        codec().decompress(b"\x00\x09\x00\xf6\xff", True, None)
    with pytest.raises(InflateError, match=r"^message of more than 10 bytes$"):
        codec().decompress(peer_deflates(SIP), True, 10)
    with pytest.raises(InflateError, match=r"^message inflates to more than 200 times its size$"):
        codec(RATIO).decompress(peer_deflates(bytes(1 << 20)), True, None)


@pytest.mark.parametrize("pieces", [1, 2])
def test_nothing_inflates_after_a_failure(pieces: int) -> None:
    subject = codec()
    assert subject.decompress(peer_deflates(SIP), True, None) == SIP
    bad = [b"\x06"] if pieces == 1 else [b"\x06", b""]
    with pytest.raises(InflateError) as caught:
        inflate(subject, bad)
    assert caught.value.code is BAD
    for data, finished in ((peer_deflates(b"x"), True), (b"", False), (b"\x00", True)):
        with pytest.raises(InflateError, match="previous message") as caught:
            subject.decompress(data, finished, None)
        assert caught.value.code is BAD
    # Sending continues, at least for the close frame.
    assert codec().decompress(subject.compress(SIP, True), True, None) == SIP


# -- bounds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [SIP, noise(1000), bytes(1000), noise(70_000)], ids=["text", "noise", "zeros", "70k"]
)
@pytest.mark.parametrize("cuts", [[], [3], [0, 9, 9]])
def test_exactly_the_budget_passes_and_one_more_fails(message: bytes, cuts: list[int]) -> None:
    payload = peer_deflates(message)
    assert inflate(codec(), cut(payload, cuts), len(message)) == message
    with pytest.raises(InflateError) as caught:
        inflate(codec(), cut(payload, cuts), len(message) - 1)
    assert caught.value.code is BIG
    assert str(caught.value) == f"message of more than {len(message) - 1} bytes"


@pytest.mark.parametrize("budget", [0, -1, -(2**70)])
def test_zero_budget_passes_only_the_empty_message(budget: int) -> None:
    assert codec().decompress(b"\x00", True, budget) == b""
    for finished in (True, False):
        with pytest.raises(InflateError) as caught:
            codec().decompress(peer_deflates(b"x"), finished, budget)
        assert caught.value.code is BIG


@pytest.mark.parametrize("budget", [None, 2**63 - 2, 2**63 - 1, 2**63, 2**100])
def test_budget_beyond_the_range_of_zlib_is_unlimited(budget: int | None) -> None:
    assert codec().decompress(peer_deflates(SIP), True, budget) == SIP
    ample = Limits(max_inflate_ratio=2**70, inflate_ratio_floor=2**80)
    assert codec(ample).decompress(peer_deflates(SIP), True, budget) == SIP


def test_size_is_counted_per_message() -> None:
    payload = peer_deflates(noise(1000))
    subject = codec(ratio_limits(1, 1000))
    for _ in range(2):
        assert inflate(subject, [payload[:500], payload[500:]], 1000) == noise(1000)
    with pytest.raises(InflateError, match=r"^message of more than 999 bytes$"):
        inflate(subject, [payload[:500], payload[500:]], 999)
    subject = codec(ratio_limits(1, 1000))
    assert inflate(subject, [payload[:500], payload[500:]]) == noise(1000)
    assert outcome(subject, cut(peer_deflates(bytes(1001)), [3])) is BIG


def test_unfinished_message_fails_as_soon_as_it_is_too_big() -> None:
    payload = peer_deflates(noise(5000))
    subject = codec()
    with pytest.raises(InflateError, match="more than 100 bytes"):
        subject.decompress(payload[:200], False, 100)


@pytest.mark.parametrize("window", [9, 12, 15])
@pytest.mark.parametrize("mem_level", [1, 5, 9])
def test_incompressible_messages_pass(window: int, mem_level: int) -> None:
    message = noise(200_000)
    sender = DeflateCodec(mem_level=mem_level)
    sender.configure(deflate_window=window)
    payload = sender.compress(message, True)
    assert len(payload) > len(message)
    assert codec(window=window).decompress(payload, True, len(message)) == message


def ratio_limits(ratio: int, floor: int) -> Limits:
    return Limits(max_inflate_ratio=ratio, inflate_ratio_floor=floor)


def test_ratio_is_checked_above_its_floor() -> None:
    message = bytes(10_000)
    payload = peer_deflates(message)
    exact = len(message) // len(payload) + 1
    for cuts in ([], [7], range(len(payload))):
        pieces = cut(payload, cuts)
        assert inflate(codec(ratio_limits(exact, 0)), pieces) == message
        assert outcome(codec(ratio_limits(exact - 1, 0)), pieces) is BIG
        assert inflate(codec(ratio_limits(1, len(message))), pieces) == message
        assert outcome(codec(ratio_limits(1, len(message) - 1)), pieces) is BIG
        assert outcome(codec(ratio_limits(0, 0)), pieces) is BIG


def test_message_starting_with_empty_blocks_passes_however_it_is_split() -> None:
    """The ratio is that of the whole: 100 kB of zeros before dense data."""
    message = bytes(100_000) + noise(2000)
    payload = peer_deflates(message)
    assert len(message) < 200 * len(payload)
    assert inflate(codec(), [payload], len(message)) == message
    pieces = cut(payload, range(len(payload)))
    assert inflate(codec(), pieces, len(message)) == message


def test_excess_over_the_ratio_stays_compressed() -> None:
    payload = peer_deflates(bytes(300_000) + noise(5000))
    subject = codec(ratio_limits(10, 1000))
    given = 0
    for index in range(len(payload)):
        given += len(subject.decompress(payload[index : index + 1], False, None))
        assert given <= max(1000, 10 * (index + 1))
    with pytest.raises(InflateError, match="10 times"):
        subject.decompress(b"", True, None)


@given(
    st.lists(
        st.tuples(st.sampled_from([b"\x00", b"ab", SIP, noise(300)]), st.integers(1, 400)),
        max_size=5,
    ),
    st.lists(st.integers(0, 100_000), max_size=6),
    st.integers(0, 60),
    st.integers(0, 3000),
    st.none() | st.integers(0, 30_000),
)
@settings(max_examples=300)
def test_limits_do_not_depend_on_how_a_message_is_split(
    parts: list[tuple[bytes, int]], cuts: list[int], ratio: int, floor: int, budget: int | None
) -> None:
    message = b"".join(
        data * (count if len(data) < 9 else 1 + count // 100) for data, count in parts
    )
    payload = peer_deflates(message)
    limits = ratio_limits(ratio, floor)
    whole = outcome(codec(limits), [payload], budget)
    fits = len(message) <= max(floor, ratio * len(payload))
    fits = fits and (budget is None or len(message) <= budget)
    assert whole == (message if fits else BIG)
    assert outcome(codec(limits), cut(payload, cuts), budget) == whole


def peak_of(subject: DeflateCodec, pieces: Sequence[bytes], budget: int | None) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(InflateError) as caught:
            inflate(subject, pieces, budget)
        assert caught.value.code is BIG
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BOMB = peer_deflates(bytes(200_000_000), 15)


def test_bomb_takes_no_more_memory_than_the_budget() -> None:
    assert len(BOMB) < 200_000
    budget = 1 << 20
    # For a moment, zlib's pieces and the whole that they are joined to: twice the budget.
    for limits in (None, RATIO):
        assert peak_of(codec(limits), [BOMB], budget) < 2.5 * budget
    pieces = cut(BOMB, range(0, len(BOMB), 50))
    assert peak_of(codec(), pieces, budget) < 3.5 * budget


def test_bomb_takes_no_more_memory_than_the_ratio() -> None:
    start = BOMB[:2000]
    assert peak_of(codec(RATIO), [start], None) < 2.5 * 200 * len(start)
    subject = codec(RATIO)
    subject.decompress(start[:10], False, None)
    assert peak_of(subject, [start[10:], b""], None) < 3.5 * 200 * len(start)


class CountingZlib:
    """Replaces the module, and counts the bytes and calls of its inflaters."""

    error = zlib.error

    def __init__(self) -> None:
        self.count = 0
        self.calls = 0
        self.made = 0

    def decompressobj(self, wbits: int, zdict: bytes) -> Any:
        inflater = zlib.decompressobj(wbits, zdict)
        counter = self
        self.made += 1

        class Counted:
            def decompress(self, data: bytes, limit: int) -> bytes:
                counter.count += len(data)
                counter.calls += 1
                return inflater.decompress(data, limit)

            def __getattr__(self, name: str) -> Any:
                return getattr(inflater, name)

        return Counted()


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> CountingZlib:
    counting = CountingZlib()
    monkeypatch.setattr(_deflate, "zlib", counting)
    return counting


def test_trickled_bomb_takes_linear_time(counted: CountingZlib) -> None:
    """Single bytes, most of which have to wait; they are not processed each time."""
    subject = codec(ratio_limits(2, 0))
    given = 0
    for index in range(20_000):
        given += len(subject.decompress(BOMB[index : index + 1], False, None))
    assert 20_000 < given <= 40_000
    assert counted.count < 3 * given


# -- final blocks ----------------------------------------------------------------------------------

FINAL = b"\x03\x00"  # a fixed block with BFINAL and nothing in it


def test_number_of_final_blocks_is_limited() -> None:
    for pieces in ([FINAL * 1024 + b"\x00"], [FINAL * 1000, FINAL * 24, b"\x00"]):
        subject = codec()
        assert inflate(subject, pieces, 0) == b""
        # The count is per message.
        assert inflate(subject, pieces, 0) == b""
    for pieces in ([FINAL * 1025 + b"\x00"], [FINAL * 1000, FINAL * 25, b"\x00"]):
        with pytest.raises(InflateError, match="more than 1024 final blocks") as caught:
            inflate(codec(), pieces, 0)
        assert caught.value.code is BIG


def test_final_blocks_take_linear_time(counted: CountingZlib) -> None:
    message = noise(1_000_000)
    payload = FINAL * 1024 + peer_deflates(message)
    assert codec().decompress(payload, True, None) == message
    # The first look at all of it, twice, then 512 bytes for each final block, then the rest.
    assert counted.count < 3 * len(payload) + 1024 * 512
    assert counted.calls < 1024 + 20


def test_history_survives_final_blocks() -> None:
    """The end of a stream does not affect later messages (RFC 7692 §7.2.3.4)."""
    subject = codec()
    assert subject.decompress(peer_deflates(SIP), True, None) == SIP
    last = zlib.compressobj(wbits=-15, zdict=SIP)
    payload = last.compress(SIP) + last.flush() + b"\x00"
    assert len(payload) < 20
    assert subject.decompress(payload, True, None) == SIP
    later = zlib.compressobj(wbits=-15, zdict=SIP + SIP)
    payload = (later.compress(SIP * 2) + later.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(payload) < 20
    assert subject.decompress(payload, True, None) == SIP * 2


def test_history_is_dropped_between_messages_without_takeover() -> None:
    subject = codec(resets=True)
    refers = zlib.compressobj(wbits=-15, zdict=SIP)
    payload = refers.compress(SIP) + refers.flush(zlib.Z_SYNC_FLUSH)
    # Within one message it is kept after a final block …
    ended = zlib.compressobj(wbits=-15)
    first = ended.compress(SIP) + ended.flush()
    assert subject.decompress(first + payload[:-4], True, None) == SIP * 2
    # … and in the next message it is not.
    assert outcome(subject, [payload[:-4]]) is BAD


# -- inflaters that stay ---------------------------------------------------------------------------


def bits_of(data: bytes) -> str:
    return "".join(f"{octet:08b}"[::-1] for octet in data)


def bytes_of(bits: str) -> bytes:
    padded = bits + "0" * (-len(bits) % 8)
    return bytes(int(padded[at : at + 8][::-1], 2) for at in range(0, len(padded), 8))


def ending_with(bits: str) -> bytes:
    """Return a message that ends with these bits, which begin after a block with output."""
    # One literal of eight bits, and as many of nine as it takes to end with a whole byte.
    literals = "01010001" + "110010000" * (-(18 + len(bits)) % 8)
    return bytes_of("010" + literals + "0000000" + bits)


def test_message_with_any_ending_gives_what_the_reference_gives(soon: None) -> None:
    """All that can follow the last byte of output, up to where tables of codes begin."""
    subject, history = codec(), b""
    accepted = 0
    for size in range(12):
        for number in range(1 << size):
            if not history:
                subject, history = codec(), SIP
                assert outcome(subject, [peer_deflates(SIP)]) == SIP
            payload = ending_with(f"{number:0{size}b}" if size else "")
            expected = reference(history, payload)
            assert outcome(subject, [payload]) == expected
            if isinstance(expected, bytes):
                history = (history + expected)[-32768:]
                accepted += 1
            else:
                history = b""
    assert accepted > 300


@pytest.mark.parametrize("final", "01")
@pytest.mark.parametrize("counts", ["0000000000", "1011110110", "00000000000000"])
def test_header_without_codes_for_its_lengths(soon: None, final: str, counts: str) -> None:
    """Each bit after it is a length of 0, until zlib has seen all."""
    subject = codec()
    assert outcome(subject, [peer_deflates(SIP)]) == SIP
    assert outcome(subject, [ending_with(final + "01" + counts)]) is BAD


def test_header_that_ends_with_an_appended_block_is_not_the_end(soon: None) -> None:
    """A dynamic block whose header and end are in the bytes that are appended to check the end."""
    # Codes of three bits for these lengths of codes, where 17 repeats zeros.
    symbols = [0, 1, 2, 8, 9, 10, 11, 17]
    order = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15]
    bits = "001" + "00000" + f"{10 - 1:05b}"[::-1] + f"{19 - 4:04b}"[::-1]
    bits += "".join("110" if symbol in symbols else "000" for symbol in order)
    # A literal of one bit and 127 of eight; the end of the block will be eight ones.
    lengths = [1, *[8] * 127, *[0] * (219 - 128)]
    bits += "".join(f"{symbols.index(length):03b}" for length in lengths)
    # The first zero of the tail completes the code of a length of 0.
    payload = ending_with(bits + "00")
    ends = zlib.decompressobj(-15)
    ends.decompress(payload + TAIL + b"\x00" + TAIL)
    assert ends.decompress(b"\x01" + TAIL) == b""
    assert ends.eof
    assert reference(SIP, payload) is BAD
    subject = codec()
    assert outcome(subject, [peer_deflates(SIP)]) == SIP
    assert outcome(subject, [payload]) is BAD


PIECES_OF_MESSAGES = st.lists(
    st.binary(max_size=30)
    | st.sampled_from([SIP, SIP[::-1], noise(300), noise(5000), bytes(40_000), b"a", b""]),
    min_size=1,
    max_size=3,
)


@given(
    st.lists(
        st.tuples(
            PIECES_OF_MESSAGES,
            st.sampled_from([0, 1, 6, 9]),
            st.sampled_from(FLUSHES),
            st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 7)), max_size=1),
            st.lists(st.integers(0, 10_000), max_size=1),
        ),
        min_size=2,
        max_size=6,
    ),
    st.integers(8, 15),
    st.integers(9, 15),
    st.none() | st.integers(0, 45_000),
    st.none() | st.tuples(st.integers(1, 300), st.integers(0, 3000)),
)
@settings(max_examples=300)
def test_inflater_that_stays_changes_nothing(
    messages: list[tuple[list[bytes], int, int, list[tuple[int, int]], list[int]]],
    window: int,
    peers_window: int,
    budget: int | None,
    ratio: tuple[int, int] | None,
) -> None:
    """The same messages, errors and their texts as with a new inflater for every message."""
    limits = None if ratio is None else ratio_limits(*ratio)
    plain, keeping = codec(limits, window=window), codec(limits, window=window)
    deflater = zlib.compressobj(wbits=-peers_window)
    history = b""
    for pieces, level, flush, flips, cuts in messages:
        payload = b""
        for piece in pieces:
            payload += deflater.compress(piece)
            history = (history + piece)[-32768:]
            if flush == zlib.Z_FINISH:
                payload += deflater.flush(zlib.Z_FINISH)
                deflater = zlib.compressobj(level, zlib.DEFLATED, -peers_window, zdict=history)
            elif flush != zlib.Z_NO_FLUSH:
                payload += deflater.flush(flush)
        payload += deflater.flush(zlib.Z_SYNC_FLUSH)
        damaged = bytearray(payload[:-4] if payload.endswith(TAIL) else payload + b"\x00")
        for place, bit in flips:
            damaged[place % len(damaged)] ^= 1 << bit
        given = cut(bytes(damaged), cuts)
        expected: bytes | str
        seen: bytes | str
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_deflate, "_CHEAP_HISTORY", 1 << 20)
            try:
                expected = inflate(plain, given, budget)
            except InflateError as exc:
                expected = f"{exc.code} {exc}"
            stay_soon(patch)
            try:
                seen = inflate(keeping, given, budget)
            except InflateError as exc:
                seen = f"{exc.code} {exc}"
        assert seen == expected
        if isinstance(seen, str):
            break


def in_sequence(messages: Iterable[bytes]) -> list[bytes]:
    """Return messages as one peer would send them, with context takeover."""
    deflater = zlib.compressobj(wbits=-15)
    return [
        (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for message in messages
    ]


def test_busy_connection_makes_no_new_inflaters(counted: CountingZlib) -> None:
    subject = codec()
    payloads = in_sequence([SIP] * 220)
    for payload in payloads[:100]:
        assert subject.decompress(payload, True, None) == SIP
    made = counted.made
    for payload in payloads[100:200]:
        assert subject.decompress(payload, True, None) == SIP
    assert counted.made == made
    # From the second message after one that arrives in pieces, another one stays.
    assert inflate(subject, cut(payloads[200], [5])) == SIP
    for payload in payloads[201:]:
        assert subject.decompress(payload, True, None) == SIP
    assert counted.made == made + 3


@pytest.mark.parametrize("large", [bytes(100_000), noise(5000)])
def test_large_message_is_not_for_an_inflater_that_stays(large: bytes) -> None:
    messages = [noise(9000), SIP, SIP, large, SIP, SIP, large, large]
    subject = codec()
    *payloads, last = in_sequence(messages)
    for payload, message in zip(payloads, messages, strict=False):
        assert subject.decompress(payload, True, len(message)) == message
    with pytest.raises(InflateError, match=f"^message of more than {len(large) - 1} bytes$"):
        subject.decompress(last, True, len(large) - 1)


@pytest.mark.parametrize("window", [10, 15])
@pytest.mark.parametrize("size", [1, 20, 511, 512, 3000])
def test_history_survives_the_inflater_that_stayed(soon: None, window: int, size: int) -> None:
    """It holds the whole window, whatever the sizes of the messages, and not much more."""
    generator = random.Random(size)
    deflater = zlib.compressobj(wbits=-window)
    subject = codec(window=window)
    sent = b""
    while len(sent) < 3 * (1 << window):
        # A few bytes that are new, so that each message has output at its end.
        message = generator.randbytes(min(size, 30)).ljust(size)
        sent += message
        payload = (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]
        assert subject.decompress(payload, True, None) == message
        history = b"".join(subject._recent) or subject._history
        assert history.endswith(sent[-(1 << window) :])
        assert len(subject._recent) < 4 * (1 << window) // 512 + 8
        assert sum(map(len, subject._recent)) < (1 << window) + 2048 + size
    # Refers to the oldest bytes that the window reaches, and arrives in pieces.
    oldest = sent[-min(1 << window, 32768 - 262) :][:20]
    again = zlib.compressobj(wbits=-15, zdict=sent[-(1 << window) :])
    payload = (again.compress(oldest) + again.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert inflate(subject, cut(payload, [2])) == oldest


def test_history_survives_an_inflater_that_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection whose inflater another one needs goes on with the same history."""
    stay_soon(monkeypatch)
    monkeypatch.setattr(_deflate, "_MOST_KEPT", 1)
    message = noise(300)
    payloads = in_sequence([message] * 5)
    first, second = codec(), codec()
    for subject in (first, second):
        for payload in payloads[:4]:
            assert subject.decompress(payload, True, None) == message
        assert subject._kept is not None
    assert first._kept is None
    # It refers to the messages before.
    assert len(payloads[4]) < 20
    assert first.decompress(payloads[4], True, None) == message


def inflaters_made(counting: CountingZlib, connections: int, rounds: int) -> int:
    """Return how many inflaters are made for the last messages of connections that take turns."""
    messages = [SIP.replace(b"bob", b"user%d" % index) for index in range(40)]
    turns = list(zip(in_sequence(messages), messages, strict=True))
    subjects = [codec() for _ in range(connections)]
    before = 0
    for index, (payload, message) in enumerate(turns):
        if index == len(turns) - rounds:
            before = counting.made
        for subject in subjects:
            assert subject.decompress(payload, True, None) == message
    return counting.made - before


def test_inflaters_stay_for_few_connections(
    counted: CountingZlib, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_deflate, "_MOST_KEPT", 4)
    assert inflaters_made(counted, 4, 10) == 0
    # More that come in turn would only take it away from each other.
    assert inflaters_made(counted, 6, 10) == 60


def test_inflaters_that_stay_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_deflate, "_MOST_KEPT", 3)
    monkeypatch.setattr(_deflate, "_keepers", deque())
    first, second = peer_deflates(noise(10_000)), peer_deflates(SIP)
    tracemalloc.start()
    try:
        subjects = []
        for _ in range(40):
            subject = codec()
            for payload in (first, second, second):
                subject.decompress(payload, True, None)
            subjects.append(subject)
        # The histories, and three inflaters with their windows.
        assert tracemalloc.get_traced_memory()[0] < 40 * 14_000 + 3 * 45_000
        # None stays for a connection that has gone.
        subjects.clear()
        del subject
        assert tracemalloc.get_traced_memory()[0] < 10_000
    finally:
        tracemalloc.stop()


def test_inflater_that_stays_holds_the_history_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_deflate, "_keepers", deque())
    payloads = in_sequence([noise(20_000), noise(20_000, 2), SIP, SIP, SIP])
    tracemalloc.start()
    try:
        subject = codec()
        for payload in payloads:
            subject.decompress(payload, True, None)
        assert subject._kept is not None
        # The history, and the inflater with its window.
        assert tracemalloc.get_traced_memory()[0] < 33_000 + 45_000
    finally:
        tracemalloc.stop()


def test_one_message_brings_no_other_inflater_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every second message starts over, it would have to be made for each of the others."""
    monkeypatch.setattr(_deflate, "_CHEAP_HISTORY", 0)
    monkeypatch.setattr(_deflate, "_keepers", deque())
    subject = codec()
    payloads = in_sequence([SIP] * 20)
    for payload in payloads[:5]:
        subject.decompress(payload, True, None)
    assert subject._kept is not None
    for first, second in zip(payloads[5::2], payloads[6::2], strict=False):
        # It has no output.
        assert subject.decompress(b"\x00", True, None) == b""
        assert subject._kept is None
        assert subject.decompress(first, True, None) == SIP
        assert subject._kept is None
        assert subject.decompress(second, True, None) == SIP
        assert subject._kept is not None


def test_messages_that_start_over_leave_the_history_whole(soon: None) -> None:
    """To divide it costs more than such a message, of which a peer may send many."""
    subject = codec()
    for payload in in_sequence([SIP] * 3):
        subject.decompress(payload, True, None)
    # It has no output.
    subject.decompress(b"\x00", True, None)
    history = subject._history
    for _ in range(4):
        subject.decompress(b"\x00", True, None)
        assert subject._history is history
    assert history == SIP * 3


def test_connection_that_loses_its_own_inflaters_takes_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_deflate, "_MOST_KEPT", 2)
    monkeypatch.setattr(_deflate, "_keepers", deque())
    steady, varied = codec(), codec()
    payloads = in_sequence([SIP] * 60)
    for payload in payloads[:40]:
        for subject in (steady, varied):
            subject.decompress(payload, True, None)
    inflater = steady._kept
    assert inflater is not None
    for payload in payloads[40:]:
        assert varied.decompress(payload, True, None) == SIP
        if varied._kept is not None:
            varied.decompress(b"\x00", True, None)
    assert steady._kept is inflater


def test_inflaters_are_limited_after_some_were_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    stay_soon(monkeypatch)
    monkeypatch.setattr(_deflate, "_MOST_KEPT", 2)
    subjects = [codec() for _ in range(5)]
    payloads = in_sequence([SIP] * 30)
    for turn in range(6):
        for subject in subjects:
            for payload in payloads[5 * turn : 5 * turn + 5]:
                assert subject.decompress(payload, True, None) == SIP
            assert subject._kept is not None
            assert sum(other._kept is not None for other in subjects) <= 2


# -- compressing -----------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), max_size=6), st.booleans()
)
def test_messages_may_be_compressed_in_pieces(messages: list[list[bytes]], resets: bool) -> None:
    sender = DeflateCodec()
    sender.configure(deflate_window=12, deflate_resets=resets)
    receiver = codec(window=12, resets=resets)
    for message in messages:
        pieces = [
            sender.compress(piece, index == len(message) - 1) for index, piece in enumerate(message)
        ]
        assert inflate(receiver, pieces) == b"".join(message)


@given(st.lists(st.binary(max_size=400), max_size=8), st.integers(8, 15), st.integers(0, 9))
def test_independently_compressed_message_has_no_history(
    messages: list[bytes], window: int, level: int
) -> None:
    payloads = [deflate_message(message, window, level) for message in messages]
    again = [deflate_message(message, window, level) for message in reversed(messages)]
    assert payloads == again[::-1]
    for message, payload in zip(messages, payloads, strict=True):
        assert inflate_strictly(payload, window) == message


def test_codec_without_takeover_sends_the_same_as_deflate_message() -> None:
    sender = DeflateCodec(level=4, mem_level=7)
    sender.configure(deflate_window=10, deflate_resets=True)
    for message in (SIP, SIP, b"", noise(100), SIP):
        assert sender.compress(message, True) == deflate_message(message, 10, 4, 7)


def test_level_and_mem_level_reach_zlib() -> None:
    stored = DeflateCodec(level=0)
    assert len(stored.compress(bytes(1000), True)) > 1000
    data = noise(50_000)
    small, large = DeflateCodec(mem_level=1), DeflateCodec(mem_level=9)
    for subject in (small, large):
        subject.configure(deflate_window=15)
    assert len(small.compress(data, True)) > len(large.compress(data, True))


# -- memory ----------------------------------------------------------------------------------------


def kept_by(make_busy: bool, *, resets: bool, receive: bool, send: bool) -> float:
    """Memory in bytes of one of many codecs, between messages."""
    payload = peer_deflates(SIP * 20, 12)
    deflate_message(SIP, 12)
    tracemalloc.start()
    try:
        subjects = []
        for _ in range(20):
            subject = codec(window=12, resets=resets)
            subject.configure(
                inflate_window=12, inflate_resets=resets, deflate_window=12, deflate_resets=resets
            )
            if make_busy and receive:
                subject.decompress(payload, True, None)
                inflate(subject, [payload[:9], payload[9:]])
            if make_busy and send:
                subject.compress(SIP, True)
            subjects.append(subject)
        return tracemalloc.get_traced_memory()[0] / len(subjects)
    finally:
        tracemalloc.stop()


def test_memory_between_messages_is_as_documented() -> None:
    assert kept_by(False, resets=False, receive=True, send=True) < 1000
    assert kept_by(True, resets=True, receive=True, send=True) < 3500
    assert kept_by(True, resets=False, receive=True, send=False) < 7000
    assert 20_000 < kept_by(True, resets=False, receive=False, send=True) < 60_000


def test_failed_inflater_releases_its_memory() -> None:
    tracemalloc.start()
    try:
        subjects = []
        for _ in range(20):
            subject = codec()
            inflate(subject, [peer_deflates(noise(40_000))])
            with pytest.raises(InflateError):
                inflate(subject, [peer_deflates(noise(5000))[:3000], b"\xff\xff"])
            subjects.append(subject)
        del _, subject
        assert tracemalloc.get_traced_memory()[0] / len(subjects) < 6000
    finally:
        tracemalloc.stop()
