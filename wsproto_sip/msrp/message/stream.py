"""Split a TCP connection into chunks (RFC 4975 §7.3.1).

Theory of operation: the first line gives the transaction id, and only the end-line with that id
ends the chunk; the search continues where it stopped, so that its cost is linear however the bytes
arrive. A relay may forward a large chunk as several (RFC 4975 §5.1): then its head is kept, and
returned again with each part of the body.
"""

from __future__ import annotations

from .chunk import (
    END_LINE,
    FIRST_LINE,
    Continuation,
    MsrpParseError,
    MsrpRequest,
    find_end_line,
    parse_chunk,
)
from .fields import ByteRange
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits

__all__ = ["ChunkPart", "MsrpStreamParser"]

#: Room in bytes for the Byte-Range of a part.
_RANGE_SIZE = len(b"Byte-Range: -/\r\n") + 3 * 19

#: How many bytes a part may grow when it is forwarded: our transaction ids have 20 bytes, in two
#: places, and others may have 4.
_GROWTH = 2 * (20 - 4)


class ChunkPart(bytes):
    """The bytes of a part, except the last one, of a chunk that was too large.

    Success is not answered for a part: the sender has sent one chunk, and gets one answer for its
    end.
    """

    __slots__ = ()


class MsrpStreamParser:
    """Splits the bytes of a TCP connection into chunks (RFC 4975 §7.3.1).

    It only frames: pass its results to :func:`parse_chunk`. It holds at most one chunk of
    ``max_chunk_size`` in addition to the input of one call, and looks at each byte a bounded number
    of times.

    Args:
        limits: The limits, of which ``max_first_line`` and ``max_chunk_size`` are used.
        cut: Whether a SEND above ``max_chunk_size`` is returned in parts instead of ending the
            stream; all but the last part are :class:`ChunkPart`. A part stays below that limit when
            it is forwarded.

    Attributes:
        error: Why the stream can no longer be framed, or ``None``. After an error all input is
            dropped, and the connection should be closed.
    """

    __slots__ = ("_buffer", "_cut", "_large", "_limits", "_room", "_searched", "_tid", "error")

    def __init__(self, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS, cut: bool = False) -> None:
        self._limits = limits
        self._cut = cut
        #: The head of the chunk that is being split, which is no longer in the buffer.
        self._large: MsrpRequest | None = None
        #: Bytes of body in one part of it.
        self._room = 0
        self._buffer = bytearray()
        self._tid: bytes | None = None
        self._searched = 0
        self.error: MsrpParseError | None = None

    def receive(self, data: bytes) -> list[bytes]:
        """Take bytes from the connection.

        Args:
            data: Received bytes, split anywhere.

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
                    self._fail(400, f"not an MSRP first line: {bytes(buffer[:80])!r}")
                return None
            self._tid = first[1]
            self._searched = first.end() - 2
        end = find_end_line(buffer, self._tid, self._searched)
        if end < 0:
            # Continue the search where an incomplete end-line could start.
            unfinished = len(buffer) - len(END_LINE) - len(self._tid) - 2
            self._searched = max(self._searched, unfinished)
            size = len(buffer)
        else:
            self._searched = end
            size = end + len(END_LINE) + len(self._tid) + 3
        if self._large is not None:
            return self._next_part(self._large, end, size)
        if size > limits.max_chunk_size:
            if self._cut and self._take_head():
                return self._next()
            self._fail(413, f"a chunk of more than {limits.max_chunk_size} bytes")
            return None
        if end < 0:
            return None
        chunk = bytes(buffer[:size])
        del buffer[:size]
        self._tid = None
        return chunk

    def _take_head(self) -> bool:
        """Start to split the chunk in the buffer, if possible; otherwise there may be an error."""
        assert self._tid is not None  # noqa: S101  # for the type checker
        buffer = self._buffer
        head_size = buffer.find(b"\r\n\r\n") + 4
        room = self._limits.max_chunk_size - head_size - _RANGE_SIZE - _GROWTH
        room -= len(END_LINE) + len(self._tid) + 3
        if head_size < 4 or room < 1:
            return False
        try:
            head = parse_chunk(
                b"%b\r\n-------%b+\r\n" % (bytes(buffer[:head_size]), self._tid),
                limits=self._limits,
            )
        except MsrpParseError:
            return False
        if not isinstance(head, MsrpRequest) or head.method != b"SEND":
            return False
        where = head.byte_range or ByteRange()
        head.headers = [item for item in head.headers if item[0].lower() != b"byte-range"]
        # Before Content-Type, which is the last field.
        head.headers.insert(-1, (b"Byte-Range", bytes(where)))
        self._large, self._room = head, room
        del buffer[:head_size]
        self._searched = max(self._searched - head_size, 0)
        return True

    def _next_part(self, head: MsrpRequest, end: int, size: int) -> bytes | None:
        """Return the next part of a large chunk, if enough of it has arrived.

        Args:
            head: The chunk's head.
            end: Where its end-line starts in the buffer; negative while it is unknown.
            size: Where that ends, or the buffer.
        """
        buffer = self._buffer
        last = 0 <= end <= self._room
        if last:
            body = bytes(buffer[:end])
            head.continuation = Continuation(bytes(buffer[size - 3 : size - 2]))
        elif end >= 0 or self._searched >= self._room:
            # Bytes before the place to continue the search are not part of an end-line.
            size = self._room
            body = bytes(buffer[:size])
            head.continuation = Continuation.MORE
        else:
            return None
        del buffer[:size]
        where = ByteRange.parse(head.headers[-2][1])
        following = where.start + len(body)
        try:
            held = ByteRange(where.start, following - 1, where.total)
        except ValueError as error:
            self._fail(400, str(error))
            return None
        head.headers[-2] = (b"Byte-Range", bytes(held))
        head.body = b""
        frame = head.to_bytes()
        at = len(frame) - (len(END_LINE) + len(head.transaction_id) + 3)
        chunk = b"%b%b%b" % (frame[:at], body, frame[at:])
        if last:
            self._tid = self._large = None
            self._searched = 0
            return chunk
        self._searched = max(self._searched - size, 0)
        head.headers[-2] = (b"Byte-Range", bytes(ByteRange(following, None, where.total)))
        return ChunkPart(chunk)
