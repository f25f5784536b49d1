"""Aliases shared by every layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

#: Header fields in wire order: ``[(name, value), …]``, both as bytes.
Headers = list[tuple[bytes, bytes]]

#: Header fields that another program has parsed: names and values as bytes or as text.
ParsedHeaders = Iterable[tuple[bytes | str, bytes | str]]

#: Any bytes-like object.
BytesLike = bytes | bytearray | memoryview

#: Source of random bytes: takes a count, returns that many unpredictable bytes (like
#: :func:`os.urandom`).
Entropy = Callable[[int], bytes]

#: An address as text, and a port if the transport has ports.
Address = tuple[str, int | None]
