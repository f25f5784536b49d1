"""Aliases shared by every layer."""

from __future__ import annotations

from collections.abc import Callable

#: Header fields in the order of the wire: ``[(name, value), …]``, both as bytes.
Headers = list[tuple[bytes, bytes]]

#: Anything that carries octets.
BytesLike = bytes | bytearray | memoryview

#: Source of random octets: takes a count, returns that many unpredictable octets
#: (the contract of :func:`os.urandom`).
Entropy = Callable[[int], bytes]

#: An address as text, and a port where the transport has one.
Address = tuple[str, int | None]
