"""Masking, byte for byte, and the source of keys.

What is about the function runs over that of the engine in use and over the tables, which are the
same in a pure build. The tables and what takes frames with them are tested in every build.
"""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, strategies as st

from tests._wire import BINARY, CONTINUATION, KEY, frame, masked
from wsproto_sip import _masking, masking
from wsproto_sip._implementation import choose
from wsproto_sip._masking import (
    FROM_0,
    FROM_1,
    FROM_2,
    FROM_3,
    INTEGER_LIMIT,
    MASKED,
    SHORT,
    TABLES,
    KeySource,
    apply_mask,
    fast_frames,
    rotate_key,
    set_default,
    short_header,
    singles,
    unmask_run,
)
from wsproto_sip._parser import FrameParser
from wsproto_sip.events import BytesMessage
from wsproto_sip.frame_protocol import encode_frame
from wsproto_sip.limits import Limits

keys = st.binary(min_size=4, max_size=4)
#: Short ones, and some on either side of where one of the algorithms changes.
payloads = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda size, seed: (seed * size)[:size],
        st.one_of(
            st.integers(INTEGER_LIMIT - 8, INTEGER_LIMIT + 8), st.integers(4096 - 8, 4096 + 8)
        ),
        st.binary(min_size=1, max_size=7),
    ),
)

Mask = Callable[[bytes | bytearray, bytes], bytes | bytearray]


@contextmanager
def without_a_default() -> Iterator[None]:
    """Let the tables mask, as they do if nothing is compiled."""
    set_default(None)
    try:
        yield
    finally:
        choose(os.environ)


def by_tables(payload: bytes | bytearray, key: bytes) -> bytes | bytearray:
    with without_a_default():
        return apply_mask(payload, key)


both_functions = pytest.mark.parametrize("mask", [apply_mask, by_tables])


@both_functions
@given(payload=payloads, key=keys)
def test_every_byte_is_masked_with_its_byte_of_the_key(
    mask: Mask, payload: bytes, key: bytes
) -> None:
    assert mask(payload, key) == masked(payload, key)
    assert mask(bytearray(payload), key) == masked(payload, key)
    assert mask(bytes(mask(payload, key)), key) == payload


@both_functions
@pytest.mark.parametrize("key", ["00000000", "ffffffff", "00000001", "80000000", "0102fdfe"])
def test_every_size_is_masked(key: str, mask: Mask) -> None:
    raw = bytes.fromhex(key)
    for size in [*range(INTEGER_LIMIT + 10), 4095, 4096, 4097, 16383, 16384, 20481, 65537]:
        payload = bytes(i * 31 & 0xFF for i in range(size))
        assert mask(payload, raw) == masked(payload, raw)


@both_functions
def test_payload_is_not_modified(mask: Mask) -> None:
    for size in (10, 1000, 5000):
        payload = bytearray(size)
        mask(payload, b"\xff\xff\xff\xff")
        assert payload == bytes(size)


@both_functions
@given(payload=payloads, key=keys, data=st.data())
def test_rotated_key_continues_at_the_offset(
    mask: Mask, payload: bytes, key: bytes, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(payload)))
    rest = mask(payload[count:], rotate_key(key, count))
    assert mask(payload[:count], key) + rest == masked(payload, key)


def test_frame_is_masked_by_the_same_function() -> None:
    for size in (0, 125, 126, 4095, 4096, 65535, 65536):
        payload = bytes(i * 7 & 0xFF for i in range(size))
        wanted = frame(BINARY, payload)
        assert encode_frame(0x80 | BINARY, payload, KEY) == wanted
        with without_a_default():
            assert encode_frame(0x80 | BINARY, payload, KEY) == wanted


# -- the tables ------------------------------------------------------------------------------------


def test_tables_for_single_bytes() -> None:
    assert len(TABLES) == 256
    for key, table in enumerate(TABLES):
        assert table == bytes(byte ^ key for byte in range(256))


def test_slices_are_every_fourth_byte() -> None:
    raw = range(11)
    assert [raw[part][:3] for part in (FROM_0, FROM_1, FROM_2, FROM_3)] == [
        range(start, 12, 4)[: 2 + (start < 3)] for start in range(4)
    ]


@given(key=keys, data=st.data())
def test_table_by_size_unmasks(key: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, INTEGER_LIMIT - 1))
    payload = data.draw(st.binary(min_size=size, max_size=size))
    unpack, repunit, whole = SHORT[size]
    number, raw = unpack(b"ab" + key + masked(payload, key) + b"behind", 2)
    assert raw == masked(payload, key)
    assert whole == (0 if size % 4 == 0 else size + -size % 4)
    order: Literal["little", "big"] = "little" if whole else "big"
    mixed = int.from_bytes(raw, order) ^ number * repunit
    assert mixed.to_bytes(whole or size, order)[:size] == payload


@pytest.mark.parametrize("limit", [0, 124, 125, 126, 1 << 64])
def test_parsers_share_fast_frames(limit: int) -> None:
    nothing = [None] * 256
    with without_a_default():
        assert fast_frames(True, limit) == (nothing, 0, 2, 4, limit, None)
        table = MASKED if limit >= 125 else nothing
        assert fast_frames(False, limit) == (table, 0x80, 6, 6, limit, None)
        assert fast_frames(False, limit) is fast_frames(False, limit)


@given(key=keys, data=st.data())
def test_table_by_the_second_byte_unmasks(key: bytes, data: st.DataObject) -> None:
    payload = data.draw(st.binary(max_size=125))
    raw = frame(1, payload, key=key)
    entry = MASKED[raw[1]]
    assert entry is not None
    total, unpack, repunit, shift, size = entry
    assert total == len(raw)
    assert size == len(payload)
    number, data_ = unpack(b"xyz" + raw, 3)
    assert (int.from_bytes(data_) ^ number * repunit >> shift).to_bytes(size) == payload


def test_long_lengths_have_no_entry() -> None:
    # Without a mask, and with an extended length.
    assert [second for second in range(256) if MASKED[second] is None] == [*range(128), 254, 255]
    assert len(SHORT) == INTEGER_LIMIT
    assert len(MASKED) == 256


@given(size=st.integers(0, 125), count=st.integers(1, 20), seed=st.integers(0, 100))
def test_run_of_frames_is_unmasked_as_each_of_them(size: int, count: int, seed: int) -> None:
    entropy = random.Random(seed)
    expected, run = [], b""
    for _ in range(count):
        key, payload = entropy.randbytes(4), entropy.randbytes(size)
        expected.append(payload)
        run += entropy.randbytes(2) + key + masked(payload, key)
    assert unmask_run(run, size, count) == tuple(expected)


@given(key=keys, count=st.integers(0, 20))
def test_singles_are_ascii_after_unmasking(key: bytes, count: int) -> None:
    found = list(singles(count, key))
    assert len(found) == count
    for position, allowed in enumerate(found):
        plain = {masked(piece, key[position % 4 :] + key) for piece in allowed}
        assert plain == {bytes([byte]) for byte in range(128)}
        assert allowed == {bytes([byte]): byte for byte in allowed.values()}
    found = list(singles(count))
    assert found == [{bytes([byte]): byte for byte in range(256)}] * count


def test_short_header_allows_valid_second_bytes() -> None:
    second, *key = short_header()
    assert second == {bytes([byte]): byte for byte in range(256) if MASKED[byte] is not None}
    assert key == [{bytes([byte]): byte for byte in range(256)}] * 3
    # Each has a different one.
    assert len(list(short_header())) == 4


# -- keys ------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _empty_pool() -> None:
    _masking._keys.clear()


def test_keys_are_fresh_after_refilling_the_pool() -> None:
    sources = [KeySource(), KeySource()]
    found = [source.next_key() for _ in range(2000) for source in sources]
    assert {len(key) for key in found} == {4}
    # By chance two of 4000 are equal once in 500 runs, three pairs of them never.
    assert len(set(found)) > 3996
    for position in range(4):
        for bit in range(8):
            ones = sum(key[position] >> bit & 1 for key in found)
            assert 1500 < ones < 2500


def test_entropy_is_read_for_many_keys_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    urandom = os.urandom

    def counted(size: int) -> bytes:
        asked.append(size)
        return urandom(size)

    monkeypatch.setattr(os, "urandom", counted)
    source = KeySource(counted)
    keys = [source.next_key() for _ in range(1024)]
    assert asked == [4096]
    assert len(_masking._keys) == 0
    # Keys are not repeated: those of the pool are all used once.
    assert len(keys) == 1024
    source.next_key()
    assert asked == [4096, 4096]


def test_custom_source_is_asked_for_each_key() -> None:
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    source = KeySource(entropy)
    assert [source.next_key() for _ in range(3)] == [b"\1" * 4, b"\2" * 4, b"\3" * 4]
    assert asked == [4, 4, 4]


def test_source_may_return_anything_bytes_like() -> None:
    for kind in (bytearray, memoryview):
        key = KeySource(lambda size, kind=kind: kind(bytes(size))).next_key()  # type: ignore[misc]
        assert (type(key), key) == (bytes, bytes(4))
    with pytest.raises(TypeError):
        KeySource(lambda _: "four").next_key()  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("size", [0, 3, 5])
def test_source_returning_the_wrong_number_of_bytes_is_an_error(size: int) -> None:
    source = KeySource(lambda _: bytes(size))
    with pytest.raises(ValueError, match=f"entropy returned {size} bytes, not 4"):
        source.next_key()


FORK = """
import os
from wsproto_sip._masking import KeySource
source = KeySource()
source.next_key()
reader, writer = os.pipe()
if os.fork() == 0:
    os.write(writer, b"".join(source.next_key() for _ in range(1000)))
    os._exit(0)
os.close(writer)
own = {source.next_key() for _ in range(1000)}
with open(reader, "rb") as stream:
    keys = stream.read()
os.wait()
assert len(keys) == 4000
print(len(own & {keys[i:i + 4] for i in range(0, 4000, 4)}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_child_process_has_different_keys() -> None:
    result = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=Path(__file__).parent.parent,
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(result.stdout) <= 2


@pytest.mark.parametrize("forks", [True, False])
def test_pool_is_cleared_in_a_child_process(forks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    registered: list[Callable[[], Any]] = []
    if forks:
        monkeypatch.setattr(
            os,
            "register_at_fork",
            lambda *, after_in_child: registered.append(after_in_child),
            raising=False,
        )
    else:
        monkeypatch.delattr(os, "register_at_fork", raising=False)
    spec = importlib.util.spec_from_file_location("masking_again", _masking.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert len(registered) == forks
    module.KeySource().next_key()
    assert len(module._keys) == 1023
    for clear in registered:
        clear()
        assert len(module._keys) == 0


# -- another function ------------------------------------------------------------------------------


@pytest.fixture
def plugged_in() -> Iterator[list[int]]:
    """Another function in use, and the sizes of the payloads that it has masked."""
    sizes: list[int] = []

    def function(payload: bytes, key: bytes) -> bytes:
        assert type(payload) is type(key) is bytes
        sizes.append(len(payload))
        return masked(payload, key)

    masking.use(function)
    sizes.clear()
    yield sizes
    masking.use(None)


@pytest.mark.parametrize("size", [0, 1, 5, 125, 126, 599, 600, 70_000])
def test_plugged_in_function_masks_everything(size: int, plugged_in: list[int]) -> None:
    payload = bytes(size)
    whole = frame(BINARY, payload)
    fragments = frame(BINARY, payload, fin=False) + frame(CONTINUATION, b"end")
    assert encode_frame(0x80 | BINARY, payload, KEY) == whole
    # The parser on the kernel calls it for large payloads alone, see test_compiled.py.
    parser = FrameParser(False, Limits(), whole_messages=True)
    assert parser.receive(whole) == [BytesMessage(payload)]
    assert parser.receive(fragments) == [BytesMessage(payload + b"end")]
    # Runs of short fragments are unmasked with the tables: a call for each would cost more.
    assert plugged_in[:3] == [size, size, size]
    assert parser.receive(whole[:-1]) == []
    assert parser.receive(bytearray(whole[-1:])) == [BytesMessage(payload)]
    assert apply_mask(bytearray(payload), KEY) == masked(payload, KEY)
    before = list(plugged_in)
    masking.use(None)
    parser = FrameParser(False, Limits(), whole_messages=True)
    assert parser.receive(whole + fragments)[0] == BytesMessage(payload)
    assert plugged_in == before


def test_function_that_masks_incorrectly_is_refused() -> None:
    def almost(payload: bytes, key: bytes) -> bytes:
        return masked(payload, key) if len(payload) != 257 else payload

    with pytest.raises(ValueError, match=r"masks a payload of 257 bytes incorrectly$"):
        masking.use(almost)
    with pytest.raises(TypeError, match=r"must return bytes, not bytearray$"):
        masking.use(lambda payload, key: bytearray(masked(payload, key)))  # type: ignore[arg-type,return-value]
    assert apply_mask(bytes(257), b"key!") == masked(bytes(257), b"key!")
