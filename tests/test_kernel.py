"""The kernel's functions, compiled or interpreted, against the plain definition."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

pytest.importorskip("librt.strings", reason="librt is missing: pip install 'wsproto-sip[compiled]'")

from tests._wire import BINARY, CONTINUATION, PING, TEXT, frame, masked
from wsproto_sip import _kernel
from wsproto_sip.events import BytesMessage, TextMessage

keys = st.binary(min_size=4, max_size=4)
MASKED = _kernel.MASKED


@given(st.binary(max_size=100), keys)
def test_mask_is_xor_with_the_repeated_key(payload: bytes, key: bytes) -> None:
    assert _kernel.mask(payload, key) == masked(payload, key)


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


def test_text_kept_as_bytes_is_checked() -> None:
    data = frame(TEXT, b"good") + frame(TEXT, b"\xff")
    events: list[Any] = []
    with pytest.raises(UnicodeDecodeError):
        _kernel.take_messages(data, 0, MASKED | _kernel.TEXT_AS_BYTES, 100, 100, events)
    assert events == [TextMessage(b"good")]  # type: ignore[arg-type]


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
