"""Nonces for Digest authentication (RFC 7616 §3.3, §5.4, §5.5).

Theory of operation: a nonce contains its creation time and a keyed hash of that, so issuing
challenges takes no memory. Only nonces that were used with the right password are remembered, with
their highest count, and only a limited number of them; when one has to be forgotten, all nonces
created up to its time count as too old. Either way a captured request cannot be replayed.
"""

from __future__ import annotations

import heapq
import hmac
import os
import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = ["Nonces"]

_NONCE = re.compile(r"[0-9a-f]{64}")
_NONCES = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


class Nonces:
    """Nonces that expire and cannot be used twice, in bounded memory.

    Args:
        lifetime: Seconds for which a nonce may be used.
        capacity: How many used nonces are remembered.
        secret: The key; random by default. Servers that share a key, and a clock, accept each
            other's nonces, but do not see each other's counts.
        entropy: Source of random bytes.

    Raises:
        ValueError: The lifetime or the capacity is not positive, or the key is shorter than 16
            bytes.
    """

    def __init__(
        self,
        *,
        lifetime: float = 300.0,
        capacity: int = 10_000,
        secret: bytes | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        if not lifetime > 0:
            raise ValueError(f"lifetime must be positive: {lifetime!r}")
        if capacity < 1:
            raise ValueError(f"capacity must be positive: {capacity!r}")
        if secret is not None and len(secret) < 16:
            raise ValueError("secret must have at least 16 bytes")
        self._lifetime = lifetime
        self._capacity = capacity
        self._secret = entropy(32) if secret is None else secret
        self._entropy = entropy
        self._counts: dict[str, int] = {}
        self._ages: list[tuple[float, str]] = []
        self._forgotten = float("-inf")

    def __len__(self) -> int:
        return len(self._counts)

    def _seal(self, head: bytes) -> bytes:
        # 128 bits cannot be guessed, and keep the nonce short.
        return hmac.digest(self._secret, head, "sha256")[:16]

    def make(self, now: float) -> str:
        """Make a nonce: 64 lower-case hexadecimal digits.

        Args:
            now: The time, in seconds.
        """
        head = struct.pack(">d", now) + self._entropy(8)
        return (head + self._seal(head)).hex()

    def _made(self, raw: bytes) -> bool:
        # In constant time, because the seal is all that makes a nonce ours.
        return hmac.compare_digest(self._seal(raw[:16]), raw[16:])

    def in_text(self, text: str) -> bool:
        """Return whether a text contains a nonce of ours, of any age.

        Args:
            text: Credentials, possibly malformed.
        """
        return any(self._made(bytes.fromhex(nonce)) for nonce in _NONCES.findall(text))

    def use(self, nonce: str, count: int, now: float) -> bool:
        """Use a nonce once, after the response with it was verified.

        Args:
            nonce: The nonce as the client returned it.
            count: The client's count; each use needs a higher one.
            now: The time, in seconds.

        Returns:
            Whether the nonce is ours and not too old, and the count has not been used.
        """
        if not _NONCE.fullmatch(nonce):
            return False
        raw = bytes.fromhex(nonce)
        if not self._made(raw):
            return False
        made: float = struct.unpack(">d", raw[:8])[0]
        # A nonce from the future comes from another clock, or from before ours was set back.
        if not 0 <= now - made <= self._lifetime:
            return False
        while self._ages and self._ages[0][0] + self._lifetime < now:
            del self._counts[heapq.heappop(self._ages)[1]]
        known = self._counts.get(nonce)
        if known is None:
            # It may be one of those that were used and forgotten.
            if made <= self._forgotten:
                return False
            heapq.heappush(self._ages, (made, nonce))
        # RFC 7616 §3.4: a count that does not rise is a replay.
        elif count <= known:
            return False
        self._counts[nonce] = count
        if len(self._counts) > self._capacity:
            # Forget the oldest, and from now on refuse everything made up to then.
            self._forgotten, oldest = heapq.heappop(self._ages)
            del self._counts[oldest]
        return True
