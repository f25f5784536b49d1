"""The masking kernel: XOR of a payload with a four-byte key (RFC 6455 §5.3).

Theory of operation: the interpreter costs more than the bytes do, so a payload is handled as a
whole. Up to ``INTEGER_LIMIT`` bytes it becomes one big integer, and so does the key, by a
multiplication with ``0x00000001_00000001_…``. That repeats whole keys; if the size is not a
multiple of four, the excess bytes are cut off: from the product if it is short, otherwise from the
result, because a shift copies a number byte by byte and a slice does not. In the result they have
to come after the payload, which they do in little-endian numbers. Several frames of one size become
one integer together: see :func:`unmask_run`.

Larger payloads are masked by exchanging every fourth byte through a translation table of 256 bytes,
four times with the four bytes of the key: linear, and faster than any arithmetic on long integers.
``bytearray`` makes strided slices cheap; ``bytes`` would be copied per item.

The compiled engine replaces the functions by its own, and has no use for the tables.
"""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import cycle, islice, product, repeat
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .typing import Entropy

__all__ = [
    "FROM_0",
    "FROM_1",
    "FROM_2",
    "FROM_3",
    "INTEGER_LIMIT",
    "MASKED",
    "NOTHING",
    "SHORT",
    "TABLES",
    "KeySource",
    "apply_mask",
    "fast_frames",
    "joining",
    "plug_in",
    "plugged",
    "rotate_key",
    "set_default",
    "short_header",
    "singles",
    "unmask_run",
]

#: Payloads shorter than this are masked as one integer (crossover measured on CPython 3.11 to 3.13,
#: where it lies between 450 and 800 bytes, depending on the build).
INTEGER_LIMIT: Final = 512

# ``_REPUNIT[n] * key``: the key repeated over n bytes or up to three more, n < INTEGER_LIMIT.
_WORDS: Final = [((1 << 32 * words) - 1) // 0xFFFFFFFF for words in range(INTEGER_LIMIT // 4 + 1)]
_REPUNIT: Final = [_WORDS[(size + 3) // 4] for size in range(INTEGER_LIMIT)]

#: For each size of a short payload: the unpacker that takes key and payload from a frame in one
#: call; the factor that makes a mask of the key, ``key * repunit``; and the size of that mask in
#: bytes, 0 for the payload's size. If it is 0, both are big-endian numbers, otherwise
#: little-endian.
SHORT: Final = [
    (Struct(f"<I{size}s").unpack_from, _REPUNIT[size], (size + 3) // 4 * 4)
    if size % 4
    else (Struct(f">I{size}s").unpack_from, _REPUNIT[size], 0)
    for size in range(INTEGER_LIMIT)
]

_Masked = tuple[int, Any, int, int, int]

#: By the second byte of a masked frame, if that is the whole length: the size of the frame, the
#: unpacker that takes key and payload from it, the two numbers that make a mask of the key, ``key *
#: repunit >> shift``, and the payload's size.
MASKED: Final[list[_Masked | None]] = [
    (6 + size, Struct(f">2xI{size}s").unpack_from, _REPUNIT[size], 8 * (-size % 4), size)
    if 0 <= size < 126
    else None
    for size in range(-128, 128)
]

# Used instead of ``MASKED`` if frames have no key.
_UNMASKED: Final[list[_Masked | None]] = [None] * 256

_ALL: Final = int.from_bytes(range(256))
_ONES: Final = int.from_bytes(b"\x01" * 256)
#: ``TABLES[k]`` translates a byte into itself XOR k.
TABLES: Final = [(_ALL ^ _ONES * key).to_bytes(256) for key in range(256)]

#: Slices that select every fourth byte.
FROM_0: Final = slice(0, None, 4)
FROM_1: Final = slice(1, None, 4)
FROM_2: Final = slice(2, None, 4)
FROM_3: Final = slice(3, None, 4)

# Never added to.
_NO_OCTETS: Final = bytearray()

# The function plugged in to mask instead of this module, if any (see the public module), and the
# compiled engine's function, if that is in use.
_plugged_in: Final[list[Callable[[bytes, bytes], bytes]]] = []
_default: Final[list[Callable[[bytes, bytes], bytes]]] = []
#: Only a function that the program has plugged in.
plugged: Final[list[Callable[[bytes, bytes], bytes]]] = []
#: The compiled engine's function that makes a masked frame of header, payload and key, as long as
#: no function is plugged in to mask.
joining: Final[list[Callable[[bytes, bytes, bytes], bytes]]] = []
_default_joining: Final[list[Callable[[bytes, bytes, bytes], bytes]]] = []


def plug_in(function: Callable[[bytes, bytes], bytes] | None) -> None:
    """Mask with another function from now on; existing parsers unmask most frames as before.

    Args:
        function: Returns the XOR of a payload and a key; ``None`` for the default.
    """
    plugged[:] = [] if function is None else [function]
    _plugged_in[:] = plugged or _default
    joining[:] = _default_joining if function is None else []
    fast_frames.cache_clear()


def set_default(
    function: Callable[[bytes, bytes], bytes] | None,
    join: Callable[[bytes, bytes, bytes], bytes] | None = None,
) -> None:
    """Choose the functions used when none is plugged in, and unplug any.

    Args:
        function: Returns the XOR of a payload and a key; ``None`` for this module's.
        join: Returns a frame, made of its header, its payload and its key.
    """
    _default[:] = [] if function is None else [function]
    _default_joining[:] = [] if join is None else [join]
    plug_in(None)


def apply_mask(payload: bytes | bytearray, key: bytes) -> bytes | bytearray:
    """Mask or unmask a payload; the operation is its own inverse (RFC 6455 §5.3).

    Args:
        payload: The bytes.
        key: The key's four bytes.

    Returns:
        The same number of bytes, as a ``bytearray`` if there are many, to save a copy.
    """
    if _plugged_in:
        return _plugged_in[0](bytes(payload), key)
    size = len(payload)
    if size < INTEGER_LIMIT:
        mask = int.from_bytes(key, "little") * _REPUNIT[size]
        return (int.from_bytes(payload, "little") ^ mask).to_bytes(size + 3, "little")[:size]
    # Adding is cheaper than calling bytearray.
    octets = _NO_OCTETS + payload
    octets[FROM_0] = octets[FROM_0].translate(TABLES[key[0]])
    octets[FROM_1] = octets[FROM_1].translate(TABLES[key[1]])
    octets[FROM_2] = octets[FROM_2].translate(TABLES[key[2]])
    octets[FROM_3] = octets[FROM_3].translate(TABLES[key[3]])
    return octets


@lru_cache
def fast_frames(
    client: bool, limit: int
) -> tuple[list[_Masked | None], int, int, int, int, Callable[[bytes, bytes], bytes] | None]:
    """Return what a parser needs for frames that need no closer look; parsers share it.

    Args:
        client: Whether the parser receives unmasked frames.
        limit: The maximum payload length in bytes.

    Returns:
        ``MASKED``, or a list of ``None`` if that table does not suit this parser; the mask bit; the
        number of bytes before a payload of fewer than 126; the fewest bytes worth looking at, which
        are those and at least the four of a longer payload's length; the limit; and the plugged-in
        mask function.
    """
    if client:
        return _UNMASKED, 0, 2, 4, limit, None
    if _plugged_in:
        return _UNMASKED, 0x80, 6, 6, limit, _plugged_in[0]
    return MASKED if limit >= 125 else _UNMASKED, 0x80, 6, 6, limit, None


@lru_cache(maxsize=256)
def _run(size: int, count: int) -> tuple[int, tuple[int, ...], int, Any]:
    """Return what :func:`unmask_run` needs.

    Returns:
        The bits of the keys; by how many bits to shift in order to repeat them over the payloads;
        how many bytes the result has; and the unpacker of its payloads.
    """
    words = (size + 3) // 4
    total = 6 + size
    keys = int.from_bytes((b"\x00\x00\xff\xff\xff\xff" + bytes(size)) * count, "little")
    repeated, steps = 1, []
    while repeated < words:
        step = min(repeated, words - repeated)
        steps.append(32 * step)
        repeated += step
    unpack = Struct("<" + f"6x{size}s" * count).unpack_from
    return keys, tuple(steps), count * total + 4, unpack


def unmask_run(frames: bytes, size: int, count: int) -> tuple[bytes, ...]:
    """Return the payloads of several masked frames of one size, unmasked.

    All of them become one integer, and so do their keys, which are left where they are and repeated
    by shifting: what a frame costs is then mostly the making of its payload.

    Args:
        frames: The frames, one after the other.
        size: The size of each payload in bytes, less than 126.
        count: How many frames there are.
    """
    keys, steps, length, unpack = _run(size, count)
    block = int.from_bytes(frames, "little")
    # The last repetition of a key may reach into the next header.
    mask = (block & keys) << 32
    for step in steps:
        mask |= mask << step
    payloads: tuple[bytes, ...] = unpack((block ^ mask).to_bytes(length, "little"))
    return payloads


def rotate_key(key: bytes, count: int) -> bytes:
    """Return the key as it applies after ``count`` bytes that were masked with it.

    Args:
        key: The key's four bytes.
        count: Bytes already handled.

    Returns:
        The key for the bytes that follow.
    """
    turn = count & 3
    return key[turn:] + key[:turn]


# Pieces of one byte, with its value: any; those that may come as the rest of a header, up to the
# key's third byte; and, by the highest bits of a key's bytes, those that share them.
_ANY: Final = {bytes((octet,)): octet for octet in range(256)}


def _between(start: int, stop: int) -> dict[bytes, int]:
    return {piece: octet for piece, octet in _ANY.items() if start <= octet < stop}


_HEADER: Final = (_between(0x80, 0xFE), _ANY, _ANY, _ANY)
_LIKE: Final = {0: _between(0, 0x80), 0x80: _between(0x80, 0x100)}
# 32 times the four.
_ASCII: Final = {
    int.from_bytes(bits): tuple(_LIKE[bit] for bit in bits) * 32
    for bits in product((0, 0x80), repeat=4)
}


def singles(count: int, ascii_key: bytes | None = None) -> Iterator[dict[bytes, int]]:
    """Return, for each of a number of bytes that arrive one by one, which values are allowed.

    Args:
        count: The number of bytes.
        ascii_key: The key's four bytes, if the unmasked bytes have to be ASCII.

    Returns:
        For each byte, the allowed pieces of one byte, each with its value; without a key, all of
        them.
    """
    if ascii_key is None:
        return repeat(_ANY, count)
    likes = _ASCII[int.from_bytes(ascii_key) & 0x80808080]
    # A tuple iterates fastest, but has to be short.
    return iter(likes[:count]) if count <= len(likes) else islice(cycle(likes), count)


def short_header() -> Iterator[dict[bytes, int]]:
    """Like :func:`singles`, for the bytes after the first one of a short masked frame.

    Returns:
        The second bytes that such frames have, and the first three of the key's four bytes.
    """
    return iter(_HEADER)


#: No bytes at all.
NOTHING: Final[Iterator[dict[bytes, int]]] = iter(())

_POOL_SIZE: Final = 1024
_POOL: Final = Struct("4s" * _POOL_SIZE)
_keys: list[bytes] = []

# A child process must not repeat its parent's keys. Platforms without this function cannot fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.clear)


class KeySource:
    """Masking keys for one connection, fresh and unpredictable (RFC 6455 §5.3).

    The system's entropy is read for many keys at once and shared by all connections of the process;
    a custom source is asked for each key.

    Args:
        entropy: Returns the requested number of random bytes.
    """

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        # ``None`` for the system's source, which is pooled.
        self._entropy = None if entropy is os.urandom else entropy

    def next_key(self) -> bytes:
        """Return the four bytes of the next key.

        Raises:
            ValueError: The custom source returned the wrong number of bytes.
            TypeError: It returned something else.
        """
        if self._entropy is not None:
            key = bytes(memoryview(self._entropy(4)))
            if len(key) != 4:
                raise ValueError(f"entropy returned {len(key)} bytes, not 4")
            return key
        try:
            return _keys.pop()
        except IndexError:
            # Another thread may refill at the same time; then there are keys for both.
            fresh: list[bytes] = [*_POOL.unpack(os.urandom(4 * _POOL_SIZE))]
            key = fresh.pop()
            _keys.extend(fresh)
            return key
