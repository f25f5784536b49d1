"""The masking kernel: XOR of a payload with a four-octet key (RFC 6455 §5.3).

Theory of operation: the interpreter costs more than the octets do, so the payload is handled whole.
Up to ``INTEGER_LIMIT`` octets it becomes one big integer, and so does the key, by a multiplication
with ``0x00000001_00000001_…``. Above, every fourth octet is exchanged through a translation table
of 256 octets, four times with the four octets of the key: linear, and faster than any arithmetic on
long integers. ``bytearray`` is what makes strided slices cheap; ``bytes`` would be copied per item.

This module is small and typed so that it can also be compiled as it stands.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .typing import Entropy

__all__ = [
    "INTEGER_LIMIT",
    "REPEAT",
    "SHIFT",
    "KeySource",
    "apply_mask",
    "mask_in_place",
    "rotate_key",
]

#: Payloads shorter than this are masked as one integer (measured crossover on CPython 3.11–3.13).
INTEGER_LIMIT: Final = 512

#: ``REPEAT[n] * key``: the key repeated over at least n octets, n < INTEGER_LIMIT.
REPEAT: Final = [
    sum(1 << (32 * word) for word in range((size + 3) // 4)) for size in range(INTEGER_LIMIT)
]

#: How far that product is shifted right so that exactly n octets are left.
SHIFT: Final = [8 * (-size % 4) for size in range(INTEGER_LIMIT)]

# ``_TABLES[k]`` translates an octet into itself XOR k.
_TABLES: Final = [bytes(octet ^ key for octet in range(256)) for key in range(256)]

_FROM_0: Final = slice(0, None, 4)
_FROM_1: Final = slice(1, None, 4)
_FROM_2: Final = slice(2, None, 4)
_FROM_3: Final = slice(3, None, 4)


def apply_mask(payload: bytes, key: bytes) -> bytes:
    """Masks, or unmasks, a payload: the operation is its own inverse (RFC 6455 §5.3).

    Args:
        payload: The octets.
        key: The key's four octets.

    Returns:
        As many octets.
    """
    size = len(payload)
    if size < INTEGER_LIMIT:
        pad = int.from_bytes(key, "big") * REPEAT[size] >> SHIFT[size]
        return (int.from_bytes(payload, "big") ^ pad).to_bytes(size, "big")
    octets = bytearray(payload)
    mask_in_place(octets, key)
    return bytes(octets)


def mask_in_place(octets: bytearray, source: bytes, at: int = 0) -> None:
    """Masks, or unmasks, a long payload where it stands (RFC 6455 §5.3).

    Args:
        octets: The payload.
        source: What holds the key.
        at: Where in it the key's four octets begin.
    """
    octets[_FROM_0] = octets[_FROM_0].translate(_TABLES[source[at]])
    octets[_FROM_1] = octets[_FROM_1].translate(_TABLES[source[at + 1]])
    octets[_FROM_2] = octets[_FROM_2].translate(_TABLES[source[at + 2]])
    octets[_FROM_3] = octets[_FROM_3].translate(_TABLES[source[at + 3]])


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


_POOL_SIZE: Final = 1024
_POOL: Final = Struct("4s" * _POOL_SIZE)
_keys: list[bytes] = []

# A child process must not repeat its parent's keys.
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
        """The four octets of the next key."""
        if self._entropy is not os.urandom:
            return self._entropy(4)
        try:
            return _keys.pop()
        except IndexError:
            # Another thread may refill at the same time: then there are keys for both.
            key, *rest = _POOL.unpack(os.urandom(4 * _POOL_SIZE))
            _keys.extend(rest)
            return bytes(key)
