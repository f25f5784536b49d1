"""The kernel's functions, compiled or interpreted, against the plain definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

pytest.importorskip("librt.strings", reason="librt is missing: pip install 'wsproto-sip[compiled]'")

from tests._wire import BINARY, CONTINUATION, PING, TEXT, cut, frame, masked
from tests.test_inbox import *  # noqa: F403 - to cover the inbox of the kernel
from wsproto_sip import _kernel, masking
from wsproto_sip.events import BytesMessage, TextMessage

keys = st.binary(min_size=4, max_size=4)
MASKED, WHOLE = _kernel.MASKED, _kernel.WHOLE


@given(st.binary(max_size=100), keys)
def test_mask_is_xor_with_the_repeated_key(payload: bytes, key: bytes) -> None:
    assert _kernel.mask(payload, key) == masked(payload, key)


@pytest.mark.parametrize("size", [0, 5, 125, 4095, 4096, 8191, 8192, 16384, 20001])
def test_frame_is_head_and_masked_payload(size: int) -> None:
    payload, key = bytes(range(256)) * 80, b"\x81\x00\xff\x7e"
    found = _kernel.masked_frame(b"head", payload[:size], key)
    assert found == b"head" + masked(payload[:size], key)


def test_plugged_in_function_masks_large_payloads() -> None:
    sizes: list[int] = []

    def function(payload: bytes, key: bytes) -> bytes:
        sizes.append(len(payload))
        return masked(payload, key)

    payload, key = bytes(range(256)) * 80, b"\x81\x00\xff\xfe"
    try:
        masking.use(function)
        sizes.clear()
        for size in (10, 4095, 4096, 20480):
            assert _kernel.mask(payload[:size], key) == masked(payload[:size], key)
    finally:
        masking.use(None)
    assert sizes == [4096, 20480]


def take(data: bytes, mode: int, limit: int = 1 << 20, turns: int = 100) -> tuple[int, list[Any]]:
    events: list[Any] = []
    return _kernel.take_messages(data, 0, mode, limit, turns, events), events


@pytest.mark.parametrize("key", [None, b"\x01\x80\xfe\x37"])
def test_messages_are_taken_up_to_the_first_other_frame(key: bytes | None) -> None:
    mode = 0 if key is None else MASKED
    messages = frame(TEXT, "ä".encode(), key=key) + frame(BINARY, bytes(200), key=key)
    wanted = [TextMessage("ä"), BytesMessage(bytes(200))]
    for following in (
        frame(PING, b"", key=key),
        frame(TEXT, b"x", key=key, fin=False),
        frame(TEXT, b"12345678", key=key)[:-1],
        frame(TEXT, bytes(200), key=key)[:3],
        frame(TEXT, bytes(70000), key=key)[:9],
        b"",
        b"\x81",
    ):
        assert take(messages + following, mode) == (len(messages), wanted)


def test_size_and_count_are_limited() -> None:
    data = frame(BINARY, bytes(10)) * 3
    assert take(data, MASKED, limit=9) == (0, [])
    assert take(data, MASKED, turns=2) == (2 * len(data) // 3, [BytesMessage(bytes(10))] * 2)


@pytest.mark.parametrize("mode", [MASKED, MASKED | _kernel.TEXT_AS_BYTES])
def test_text_that_is_not_utf8_is_not_taken(mode: int) -> None:
    good = frame(TEXT, b"good")
    stop, events = take(good + frame(TEXT, b"\xff"), mode)
    assert (stop, [len(event.data) for event in events]) == (len(good), [4])


@pytest.mark.parametrize("key", [None, b"\x01\x80\xfe\x37"])
@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_one_frame(key: bytes | None, size: int) -> None:
    data = frame(PING, bytes(size), key=key)
    is_masked = key is not None
    assert _kernel.take_frame(data + b"more", 0, is_masked, size) == (len(data), bytes(size))
    assert _kernel.take_frame(data, 0, is_masked, size - 1) is None
    assert _kernel.take_frame(data[:-1], 0, is_masked, size) is None
    assert _kernel.take_frame(data[:1], 0, is_masked, size) is None


@pytest.mark.parametrize("length", [b"\x80\x7e\x00\x7d", b"\x80\x7f" + b"\xff" * 8])
def test_invalid_length_is_left_to_the_parser(length: bytes) -> None:
    assert _kernel.take_frame(length + bytes(200), 0, False, 100) is None


@pytest.mark.parametrize("key", [None, b"\x01\x80\xfe\x37"])
def test_runs_of_fragments(key: bytes | None) -> None:
    is_masked = key is not None
    pieces = [frame(CONTINUATION, text, key=key, fin=False) for text in (b"one", b"", b"two")]
    last = frame(CONTINUATION, b"end", key=key)
    begun, whole = b"".join(pieces), b"".join((*pieces, last))
    taken = _kernel.take_fragments(whole + pieces[0], 0, is_masked, 100, 100)
    assert taken == (len(whole), 4, True, b"onetwoend")
    for following in (
        last[:-1],
        frame(PING, b"", key=key),
        frame(CONTINUATION, bytes(126), key=key),
        b"",
    ):
        taken = _kernel.take_fragments(begun + following, 0, is_masked, 100, 100)
        assert taken == (len(begun), 3, False, b"onetwo")
    assert _kernel.take_fragments(whole, 0, is_masked, 5, 100)[1:] == (2, False, b"one")
    assert _kernel.take_fragments(whole, 0, is_masked, 100, 1)[1:] == (1, False, b"one")


def intake(mode: int = MASKED | WHOLE, limit: int = 1 << 20, turns: int = 100) -> Any:
    return _kernel.Intake(_kernel.Settings(mode, limit, turns), True)


LARGE = bytes(range(256)) * 80


@pytest.mark.parametrize("key", [None, b"\x01\x80\xfe\x37"])
@pytest.mark.parametrize(
    "event",
    [
        TextMessage("hello"),
        TextMessage("x" * 300),
        BytesMessage(bytes(70000)),
        BytesMessage(LARGE),
        TextMessage("y" * len(LARGE)),
    ],
    ids=lambda event: f"{type(event).__name__} {len(event.data)}",
)
def test_message_may_be_cut_anywhere(event: TextMessage | BytesMessage, key: bytes | None) -> None:
    data = event.data
    opcode, payload = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
    stream = frame(opcode, payload, key=key)
    size = len(stream)
    for cuts in [(n,) for n in (*range(1, 16), size // 2, size - 1)] + [(9, size - 3), (20, 9000)]:
        taker = intake(MASKED | WHOLE if key else WHOLE)
        events: list[Any] = []
        for piece in cut(stream, tuple(n for n in cuts if n < size)):
            assert events == []
            events = taker.receive(piece)
        assert events == [event]
        assert (taker.held, taker.arrived, taker.waiting) == (0, 0, None)


def test_single_bytes_are_joined() -> None:
    taker = intake()
    stream = frame(TEXT, b"hello") + frame(BINARY, b"\xff\xfe")
    events = [event for octet in stream for event in taker.receive(bytearray((octet,)))]
    assert events == [TextMessage("hello"), BytesMessage(b"\xff\xfe")]
    assert taker.completed == 2


def test_no_two_messages_have_the_same_number() -> None:
    taker = intake()
    stream = frame(BINARY, b"ab")
    for _ in range(300):
        assert taker.receive(stream[:7]) == []
        assert taker.receive(stream[7:]) == [BytesMessage(b"ab")]
    assert taker.completed == 300


def test_what_is_incomplete_is_counted() -> None:
    taker = intake()
    stream = frame(BINARY, bytes(300))
    assert (taker.receive(stream[:5]), taker.held, taker.arrived) == ([], 5, 0)
    assert (taker.receive(stream[5:10]), taker.held, taker.arrived) == ([], 0, 2)
    taker.close()
    assert (taker.arrived, taker.ready) == (0, False)


def test_complete_text_outside_ascii_is_taken() -> None:
    taker = intake()
    stream = frame(TEXT, "aä".encode())
    assert taker.receive(stream[:7]) == []
    assert taker.receive(stream[7:]) == [TextMessage("aä")]


ONE = TextMessage("one")


def feed(taker: Any, text: bytes, cuts: tuple[int, ...]) -> Any:
    """Pass the frame of a text, cut at places of the text; return the last result."""
    head = 6 if len(text) < 126 else 8
    *before, last = cut(frame(TEXT, text), tuple(head + n for n in cuts))
    assert [taker.receive(piece) for piece in before] == [[]] * len(before)
    return taker.receive(last)


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("abcdäefg", (5,)),
        ("äöü" * 10, (1, 2, 3, 8, 30)),
        ("a😀b€" * 2000, (2, 4097, 8200, 9000)),
        ("ä" * 20000, (16385, 39999)),
        ("a" * 9000 + "€" * 400, (4000, 9001, 9602, 9603)),
    ],
)
def test_text_outside_ascii_is_decoded_as_it_arrives(text: str, cuts: tuple[int, ...]) -> None:
    taker = intake()
    assert feed(taker, text.encode(), cuts) == [TextMessage(text)]
    assert taker.waiting is None


def test_decoded_text_is_counted_in_characters() -> None:
    taker = intake()
    raw = ("€" * 600 + "ab").encode()
    stream = frame(TEXT, raw)
    assert taker.receive(stream[: 8 + 1000]) == []
    assert taker.arrived == 333 + 1
    assert taker.receive(stream[1008:1808]) == []
    assert taker.arrived == 600
    assert taker.waiting.texts == ["€" * 600]


def test_long_pieces_of_text_are_joined_at_the_end() -> None:
    taker = intake()
    text = "ä" * 3000
    stream = frame(TEXT, text.encode())
    for start in range(0, 6000, 2000):
        assert taker.receive(stream[start : start + 2000]) == []
    assert len(taker.waiting.texts) == 3
    assert taker.receive(stream[6000:]) == [TextMessage(text)]


@pytest.mark.parametrize(
    ("good", "wrong", "rest", "decoded"),
    [
        (b"ab", b"\xff", b"cd", ""),
        (b"ab", b"\xff", b"", ""),
        (b"\xc3\xa4b", b"c\xff", b"d", "\xe4b"),
        (b"\xc3\xa4b", b"\xff", b"", "\xe4b"),
        (b"\xc3\xa4b", b"\xc3", b"", "\xe4b"),
        (b"\xc3", b"b", b"c", ""),
        (b"\xc3\xa4\xed", b"\xa0", b"\x80", "\xe4"),
        (b"a", b"\xed\xa0", b"\x80", ""),
        (b"a" * 5000, b"b" * 5000 + b"\xff" + b"c" * 5000, b"d", ""),
    ],
)
def test_wrong_text_is_left_as_soon_as_it_arrives(
    good: bytes, wrong: bytes, rest: bytes, decoded: str
) -> None:
    taker = intake()
    stream = frame(TEXT, good + wrong + rest)
    start = len(stream) - len(wrong + rest)
    assert taker.receive(stream[:start]) == []
    piece = stream[start : start + len(wrong)]
    assert taker.receive(piece) == (piece, len(piece), 100, [])
    assert "".join(taker.waiting.texts) == decoded
    # What the parser goes on with, to fail in its own words.
    assert decoded.encode() + taker.waiting.payload() == good + wrong
    assert taker.waiting.missing == len(rest)


@pytest.mark.parametrize(("good", "last"), [(b"ab", "\xe4".encode()), (b"ab", b"\xff")])
def test_text_that_stays_bytes_is_left_or_checked_at_its_end(good: bytes, last: bytes) -> None:
    taker = intake(MASKED | WHOLE | _kernel.TEXT_AS_BYTES)
    stream = frame(TEXT, good + last)
    size = len(stream) - len(last)
    assert taker.receive(stream[:size]) == []
    result = taker.receive(stream[size:])
    if last == b"\xff":
        assert result == (stream[size:], 1, 100, [])
    else:
        assert [event.data for event in result] == [good + last]
    stream = frame(TEXT, good + last + b"more")
    taker = intake(MASKED | WHOLE | _kernel.TEXT_AS_BYTES)
    assert taker.receive(stream[:size]) == []
    assert type(taker.receive(stream[size : size + len(last)])) is tuple


def test_single_bytes_outside_ascii_are_decoded() -> None:
    taker = intake()
    *before, last = frame(TEXT, "a\xe4a\u20aca".encode())
    assert [taker.receive(bytes((octet,))) for octet in before] == [[]] * len(before)
    assert taker.receive(bytes((last,))) == [TextMessage("a\xe4a\u20aca")]


@pytest.mark.parametrize(
    "rest",
    [
        frame(PING, b""),
        frame(TEXT, b"\xff"),
        frame(TEXT, b"abc", key=None),
        frame(BINARY, bytes(101))[:50],
        frame(BINARY, bytes(150))[:20],
        b"\x82\xfe\x00\x7d",
    ],
    ids=["other", "not UTF-8", "not masked", "too large", "too large, two bytes", "bad length"],
)
def test_what_is_not_ordinary_is_left(rest: bytes) -> None:
    good = frame(TEXT, b"one")
    assert intake(limit=100).receive(good + rest) == (good + rest, len(good), 99, [ONE])


def test_pieces_and_further_frames_are_left() -> None:
    good = frame(TEXT, b"one")
    begun = good[:-1]
    assert intake(MASKED).receive(good + begun) == (good + begun, len(good), 99, [ONE])
    assert intake(turns=1).receive(good + good) == (good + good, len(good), 0, [ONE])


def test_everything_is_left_unless_it_is_ready() -> None:
    taker = intake()
    taker.ready = False
    good = frame(TEXT, b"one")
    assert taker.receive(good) == (good, 0, 100, [])


@given(
    st.one_of(
        st.integers(0, 70000),
        st.builds(
            lambda block, count, around: block * count + around,
            st.sampled_from([4096, 16384]),
            st.integers(0, 4),
            st.integers(0, 20),
        ),
    ),
    st.integers(0, 255),
    keys,
)
def test_payload_of_any_size_is_masked(size: int, seed: int, key: bytes) -> None:
    payload = bytes(i * 31 + seed & 0xFF for i in range(251)) * 280
    payload = payload[seed : seed + size]
    wanted = masked(payload, key)
    assert _kernel.mask(payload, key) == wanted
    assert _kernel.masked_frame(b"head", payload, key) == b"head" + wanted


@given(st.integers(8000, 70000), st.integers(1, 70000), st.integers(0, 3), st.booleans(), keys)
def test_cut_payload_of_any_size_is_unmasked(
    size: int, place: int, more: int, text: bool, key: bytes
) -> None:
    payload = (bytes(range(32, 127)) * 740)[:size]
    data = payload.decode() if text else payload
    stream = frame(TEXT if text else BINARY, payload, key=key)
    events: list[Any] = []
    taker = intake()
    # The key applies rotated after the first cut, and after the second.
    first = min(place, len(stream) - 2)
    for piece in cut(stream, (first, min(first + 8192 + more, len(stream) - 1))):
        assert taker.take(piece, 0, events) is None
    assert [event.data for event in events] == [data]
