"""The masking kernel: XOR of a payload with a four-octet key (RFC 6455 §5.3).

Theory of operation: the interpreter costs more than the octets do, so the payload is handled whole.
Up to ``INTEGER_LIMIT`` octets it becomes one big integer, and so does the key, by a multiplication
with ``0x00000001_00000001_…``. That gives whole keys; of a size that is no multiple of four the
octets too many are cut off: from the product where that is short, else from the result, because a
shift copies a number octet by octet and a slice does not. In the result they have to stand behind
the payload, which they do where numbers are little-endian.
Above that size, every fourth octet is exchanged through a translation table
of 256 octets, four times with the four octets of the key: linear, and faster than any arithmetic on
long integers. ``bytearray`` is what makes strided slices cheap; ``bytes`` would be copied per item.

This module is small and typed so that it can also be compiled as it stands.
"""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import chain, cycle, islice, product, repeat
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .typing import Entropy

__all__ = [
    "FROM_0",
    "FROM_1",
    "FROM_2",
    "FROM_3",
    "INTEGER_LIMIT",
    "MASKED",
    "SHORT",
    "TABLES",
    "KeySource",
    "apply_mask",
    "fast_frames",
    "rotate_key",
    "short_header",
    "singles",
]

#: Payloads shorter than this are masked as one integer (crossover measured on CPython 3.11, where
#: it lies between 800 and 1000 octets, depending on the machine).
INTEGER_LIMIT: Final = 900

# ``_REPUNIT[n] * key``: the key repeated over n octets or up to three more, n < INTEGER_LIMIT.
_WORDS: Final = [((1 << 32 * words) - 1) // 0xFFFFFFFF for words in range(INTEGER_LIMIT // 4 + 1)]
_REPUNIT: Final = [_WORDS[(size + 3) // 4] for size in range(INTEGER_LIMIT)]

#: For each size of a short payload: what takes key and payload out of a frame in one call; what
#: makes a mask of the key, ``key * repunit``; and of how many octets that is, 0 for the payload's
#: size. In that case both are big-endian numbers, otherwise they are little-endian.
SHORT: Final = [
    (Struct(f"<I{size}s").unpack_from, _REPUNIT[size], (size + 3) // 4 * 4)
    if size % 4
    else (Struct(f">I{size}s").unpack_from, _REPUNIT[size], 0)
    for size in range(INTEGER_LIMIT)
]

_Masked = tuple[int, Any, int, int, int]

#: By the second octet of a masked frame, where that is all there is of a length: the size of the
#: frame, what takes key and payload out of it, the two numbers that make a mask of the key,
#: ``key * repunit >> shift``, and the payload's size.
MASKED: Final[list[_Masked | None]] = [
    (6 + size, Struct(f">2xI{size}s").unpack_from, _REPUNIT[size], 8 * (-size % 4), size)
    if 0 <= size < 126
    else None
    for size in range(-128, 128)
]

# What takes the place of ``MASKED`` where frames have no key.
_UNMASKED: Final[list[_Masked | None]] = [None] * 256

_ALL: Final = int.from_bytes(range(256))
_ONES: Final = int.from_bytes(b"\x01" * 256)
#: ``TABLES[k]`` translates an octet into itself XOR k.
TABLES: Final = [(_ALL ^ _ONES * key).to_bytes(256) for key in range(256)]

#: Slices that have every fourth octet.
FROM_0: Final = slice(0, None, 4)
FROM_1: Final = slice(1, None, 4)
FROM_2: Final = slice(2, None, 4)
FROM_3: Final = slice(3, None, 4)

# Nobody adds to this one.
_NO_OCTETS: Final = bytearray()


def apply_mask(payload: bytes | bytearray, key: bytes) -> bytes | bytearray:
    """Masks, or unmasks, a payload: the operation is its own inverse (RFC 6455 §5.3).

    Args:
        payload: The octets.
        key: The key's four octets.

    Returns:
        As many octets; a ``bytearray`` if they are many, to save a copy.
    """
    size = len(payload)
    if size < INTEGER_LIMIT:
        mask = int.from_bytes(key, "little") * _REPUNIT[size]
        return (int.from_bytes(payload, "little") ^ mask).to_bytes(size + 3, "little")[:size]
    # A sum is cheaper than to call bytearray.
    octets = _NO_OCTETS + payload
    octets[FROM_0] = octets[FROM_0].translate(TABLES[key[0]])
    octets[FROM_1] = octets[FROM_1].translate(TABLES[key[1]])
    octets[FROM_2] = octets[FROM_2].translate(TABLES[key[2]])
    octets[FROM_3] = octets[FROM_3].translate(TABLES[key[3]])
    return octets


@lru_cache
def fast_frames(client: bool, limit: int) -> tuple[list[_Masked | None], int, int, int, int]:
    """What a parser goes by for frames that need no closer look; parsers share it.

    Args:
        client: Whether it receives unmasked frames.
        limit: Octets that a payload may have.

    Returns:
        ``MASKED``, or as many ``None`` if what is in there is not for this parser; the mask bit;
        the octets in front of a payload of fewer than 126; the fewest octets to look at, which
        are those and at least four for a longer payload's length; and the limit.
    """
    if client:
        return _UNMASKED, 0, 2, 4, limit
    return MASKED if limit >= 125 else _UNMASKED, 0x80, 6, 6, limit


def rotate_key(key: bytes, count: int) -> bytes:
    """The key as it applies behind ``count`` octets that were masked with it.

    Args:
        key: The key's four octets.
        count: Octets already handled.

    Returns:
        The key for the octets that follow.
    """
    turn = count & 3
    return key[turn:] + key[:turn]


# Pieces of one octet: any; the second octets in MASKED; and for the highest bits of a key's octets
# those that have them too.
_PIECES: Final = [bytes((octet,)) for octet in range(256)]
_ANY: Final = frozenset(_PIECES)
_SECOND: Final = (frozenset(_PIECES[0x80:0xFE]),)
_LIKE: Final = {0: frozenset(_PIECES[:128]), 0x80: frozenset(_PIECES[128:])}
_ASCII: Final = {
    int.from_bytes(bits): tuple(_LIKE[bit] for bit in bits) for bits in product((0, 0x80), repeat=4)
}


def singles(count: int, ascii_key: bytes | None = None) -> Iterator[frozenset[bytes]]:
    """Which octets may come when they come one by one, for each of a number of them.

    Args:
        count: The number of octets.
        ascii_key: The key's four octets, if what was masked with it has to be ASCII.

    Returns:
        For each one all the pieces of one octet that may come; without a key these are all.
    """
    if ascii_key is None:
        return repeat(_ANY, count)
    return islice(cycle(_ASCII[int.from_bytes(ascii_key) & 0x80808080]), count)


def short_header() -> Iterator[frozenset[bytes]]:
    """Like :func:`singles`, for what follows the first octet of a short masked frame.

    Returns:
        The second octets that such frames have, and three of the key's four octets.
    """
    return chain(_SECOND, repeat(_ANY, 3))


_POOL_SIZE: Final = 1024
_POOL: Final = Struct("4s" * _POOL_SIZE)
_keys: list[bytes] = []

# A child process must not repeat its parent's keys. Where this is missing nothing forks.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keys.clear)


class KeySource:
    """Masking keys for one connection, fresh and unpredictable (RFC 6455 §5.3).

    The system's entropy is taken for many keys at once and shared by all connections of the
    process; a source of the caller's own is asked for each key.

    Args:
        entropy: Gives random octets.
    """

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Entropy = os.urandom) -> None:
        self._entropy = entropy

    def next_key(self) -> bytes:
        """The four octets of the next key.

        Raises:
            ValueError: The caller's source gave another number of octets.
        """
        if self._entropy is not os.urandom:
            key = self._entropy(4)
            if len(key) != 4:
                raise ValueError(f"4 random octets were asked for, {len(key)} were given")
            return key
        try:
            return _keys.pop()
        except IndexError:
            # Another thread may refill at the same time: then there are keys for both.
            fresh: list[bytes] = [*_POOL.unpack(os.urandom(4 * _POOL_SIZE))]
            key = fresh.pop()
            _keys.extend(fresh)
            return key
