"""Chunks out of a TCP connection (RFC 4975 §7.3.1).

Theory of operation: the first line gives the transaction id, and only the end-line with that id
ends the chunk; the search goes on where it stopped, so that its cost is linear however the octets
come in.
"""

from __future__ import annotations

from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .message import END_LINE, FIRST_LINE, MsrpParseError, find_end_line

__all__ = ["MsrpStreamParser"]


class MsrpStreamParser:
    """Cuts the octets of a TCP connection into chunks (RFC 4975 §7.3.1).

    It only frames: what it hands out still goes through :func:`parse_chunk`. It holds at most one
    chunk of ``max_chunk_size`` besides what one call brings, and looks at each octet a bounded
    number of times.

    Args:
        limits: ``max_first_line`` and ``max_chunk_size`` count here.

    Attributes:
        error: Why the stream can no longer be framed, or ``None``. Then nothing more comes out,
            later input is dropped, and the connection is of no further use.
    """

    __slots__ = ("_buffer", "_limits", "_searched", "_tid", "error")

    def __init__(self, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        self._tid: bytes | None = None
        self._searched = 0
        self.error: MsrpParseError | None = None

    def receive(self, data: bytes) -> list[bytes]:
        """Take octets from the connection.

        Args:
            data: What was read, cut anywhere.

        Returns:
            The chunks that are now complete.
        """
        chunks: list[bytes] = []
        if self.error is None:
            self._buffer += data
            while (chunk := self._next()) is not None:
                chunks.append(chunk)
        return chunks

    def _fail(self, status: int, message: str) -> None:
        self.error = MsrpParseError(status, message)
        self._buffer = bytearray()

    def _next(self) -> bytes | None:
        buffer = self._buffer
        limits = self._limits
        if self._tid is None:
            first = FIRST_LINE.match(buffer, 0, limits.max_first_line)
            if first is None:
                # A whole line, or as much as a line may have, and still no match.
                if b"\r\n" in buffer[: limits.max_first_line] or len(buffer) >= (
                    limits.max_first_line
                ):
                    self._fail(400, f"no first line of MSRP: {bytes(buffer[:80])!r}")
                return None
            self._tid = first[1]
            self._searched = first.end() - 2
        end = find_end_line(buffer, self._tid, self._searched)
        if end < 0:
            # Look again only where an end-line could still begin that is not all here.
            unfinished = len(buffer) - len(END_LINE) - len(self._tid) - 2
            self._searched = max(self._searched, unfinished)
            if len(buffer) > limits.max_chunk_size:
                self._fail(413, f"a chunk of more than {limits.max_chunk_size} octets")
            return None
        size = end + len(END_LINE) + len(self._tid) + 3
        if size > limits.max_chunk_size:
            self._fail(413, f"a chunk of {size} octets, more than {limits.max_chunk_size}")
            return None
        chunk = bytes(buffer[:size])
        del buffer[:size]
        self._tid = None
        return chunk
