"""Split messages into chunks and reassemble them (RFC 4975 §5.1, §7.3.1).

Theory of operation: the sender makes one piece at a time, so that pieces of several messages can
take turns on one connection and a message can be abandoned between two. The receiver keeps the
pieces it has, sorted and without overlap; it never allocates memory for bytes that have not
arrived, so a chunk that claims a distant position costs no more than its size.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

from ...utilities import LocalProtocolError, RemoteProtocolError
from .chunk import Continuation
from .fields import ByteRange
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits

__all__ = [
    "DEFAULT_CHUNK_SIZE",
    "MessageSplitter",
    "Piece",
    "Reassembled",
    "Reassembler",
    "ReassemblyError",
    "reported_range",
]

#: Bytes of body in one chunk: the size that RFC 4975 §7.1.1 allows without being interruptible.
DEFAULT_CHUNK_SIZE = 2048

#: The approximate overhead of a separate piece in bytes.
_PIECE_COST = 128


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a message that goes into one chunk.

    Args:
        byte_range: Its position.
        data: Its bytes.
        continuation: The flag for the end-line.
    """

    byte_range: ByteRange
    data: bytes
    continuation: Continuation


class MessageSplitter:
    """Splits one message into pieces, on demand.

    Args:
        body: The bytes of the message.
        chunk_size: The maximum size of a piece in bytes.

    Attributes:
        position: How many bytes were returned so far.
        finished: Whether the last piece has been returned.

    Raises:
        ValueError: ``chunk_size`` is not positive.
    """

    __slots__ = ("_body", "_chunk_size", "finished", "position")

    def __init__(self, body: bytes, *, chunk_size: int = DEFAULT_CHUNK_SIZE) -> None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be positive: {chunk_size}")
        self._body = body
        self._chunk_size = chunk_size
        self.position = 0
        self.finished = False

    @property
    def total(self) -> int:
        """The length of the whole message in bytes."""
        return len(self._body)

    def next_piece(self) -> Piece:
        """Return the next piece. An empty message has one.

        Raises:
            LocalProtocolError: The message is finished.
        """
        if self.finished:
            raise LocalProtocolError("the message is finished")
        start = self.position
        data = self._body[start : start + self._chunk_size]
        self.position = start + len(data)
        self.finished = self.position == len(self._body)
        return Piece(
            ByteRange(start + 1, self.position, len(self._body)),
            data,
            Continuation.COMPLETE if self.finished else Continuation.MORE,
        )

    def abort(self) -> Piece | None:
        """Abandon the message and return the piece that says so (RFC 4975 §7.1.1).

        ``None`` if the receiver need not know, because no piece or all pieces were returned.
        """
        begun = self.position > 0 and not self.finished
        self.finished = True
        if not begun:
            return None
        here = ByteRange(self.position + 1, self.position, len(self._body))
        return Piece(here, b"", Continuation.ABORT)


class ReassemblyError(RemoteProtocolError):
    """A chunk does not fit its message, which has been dropped.

    Args:
        status: The status to answer with: 400, or 413 if a limit is exceeded.
        message: What is wrong.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Reassembled:
    """The progress of a message after a chunk.

    Args:
        received: How many bytes of the message have arrived, each counted once.
        total: The length of the whole message in bytes; ``None`` while it is unknown.
        body: The whole message, once it is complete.
        aborted: Whether the sender has abandoned it.
    """

    received: int
    total: int | None
    body: bytes | None = None
    aborted: bool = False


@dataclass(slots=True)
class _Message:
    """A message being received: its pieces in order, without overlap.

    Neighbouring pieces are joined only if the later one arrives last, which is the normal order of
    chunks; joining in other cases would copy the message again and again.
    """

    starts: list[int] = field(default_factory=list)
    pieces: list[bytearray] = field(default_factory=list)
    received: int = 0
    total: int | None = None
    #: The chunk with the last byte has arrived.
    ended: bool = False

    @property
    def cost(self) -> int:
        return self.received + _PIECE_COST * len(self.pieces)

    def insert(self, start: int, data: bytes) -> None:
        """Store bytes at an offset from 0, replacing bytes that are already there."""
        if not data:
            return
        starts = self.starts
        end = start + len(data)
        index = bisect_right(starts, start) - 1
        if index >= 0:
            before = self.pieces[index]
            before_end = starts[index] + len(before)
            if before_end > start:
                # Bytes after the new ones are kept, as a separate piece.
                if before_end > end:
                    starts.insert(index + 1, end)
                    self.pieces.insert(index + 1, before[end - starts[index] :])
                    self.received += before_end - end
                del before[start - starts[index] :]
                self.received -= before_end - start
        index += 1
        last = index
        while last < len(starts) and starts[last] < end:
            piece = self.pieces[last]
            over = min(end - starts[last], len(piece))
            self.received -= over
            if over < len(piece):
                del piece[:over]
                starts[last] = end
                break
            last += 1
        del starts[index:last], self.pieces[index:last]
        if index and starts[index - 1] + len(self.pieces[index - 1]) == start:
            self.pieces[index - 1] += data
        else:
            starts.insert(index, start)
            self.pieces.insert(index, bytearray(data))
        self.received += len(data)


class Reassembler:
    """Reassembles messages from chunks in any order, within limits (RFC 4975 §7.3.1).

    Args:
        limits: The limits, of which ``max_message_size``, ``max_messages``, ``max_pieces`` and
            ``max_buffered`` are used.
    """

    __slots__ = ("_buffered", "_limits", "_messages")

    def __init__(self, *, limits: MsrpLimits = DEFAULT_MSRP_LIMITS) -> None:
        self._limits = limits
        self._messages: dict[bytes, _Message] = {}
        self._buffered = 0

    @property
    def buffered(self) -> int:
        """Bytes held at present, including the overhead of keeping them."""
        return self._buffered

    def __len__(self) -> int:
        """Return how many messages are incomplete."""
        return len(self._messages)

    def receive(
        self,
        message_id: bytes,
        byte_range: ByteRange | None,
        data: bytes,
        continuation: Continuation,
    ) -> Reassembled:
        """Take the body of one chunk.

        Args:
            message_id: The message it belongs to.
            byte_range: Its position; ``None`` means the whole message.
            data: Its bytes; their number decides where it ends.
            continuation: The flag of the end-line.

        Raises:
            ReassemblyError: The chunk contradicts itself or earlier ones, or exceeds a limit. The
                message is dropped.
        """
        where = ByteRange() if byte_range is None else byte_range
        limits = self._limits
        message = self._messages.pop(message_id, None)
        if message is None:
            message = _Message()
        else:
            self._buffered -= message.cost
        if continuation is Continuation.ABORT:
            return Reassembled(message.received, message.total, aborted=True)
        start = where.start - 1
        end = start + len(data)
        self._check(message, where, end, continuation)
        if end > limits.max_message_size or (message.total or 0) > limits.max_message_size:
            raise ReassemblyError(413, f"a message of more than {limits.max_message_size} bytes")
        message.insert(start, data)
        if message.ended and message.received == message.total:
            body = bytes(message.pieces[0]) if message.pieces else b""
            if len(message.pieces) > 1:
                body = b"".join(message.pieces)
            return Reassembled(len(body), len(body), body)
        if len(message.pieces) > limits.max_pieces:
            raise ReassemblyError(413, f"a message in more than {limits.max_pieces} pieces")
        if len(self._messages) == limits.max_messages:
            raise ReassemblyError(413, f"more than {limits.max_messages} incomplete messages")
        if self._buffered + message.cost > limits.max_buffered:
            raise ReassemblyError(
                413, f"more than {limits.max_buffered} bytes in incomplete messages"
            )
        self._messages[message_id] = message
        self._buffered += message.cost
        return Reassembled(message.received, message.total)

    def discard(self, message_id: bytes) -> None:
        """Drop an incomplete message; an unknown one is ignored."""
        message = self._messages.pop(message_id, None)
        if message is not None:
            self._buffered -= message.cost

    def clear(self) -> None:
        """Drop all incomplete messages."""
        self._messages.clear()
        self._buffered = 0

    @staticmethod
    def _check(message: _Message, where: ByteRange, end: int, continuation: Continuation) -> None:
        """Record the size of the message according to the chunk, and refuse contradictions."""
        # An interrupted chunk has fewer bytes than its header promised, a complete one does not
        # (RFC 4975 §7.1.1).
        last = continuation is Continuation.COMPLETE
        if where.end is not None and (end > where.end or (last and end < where.end)):
            raise ReassemblyError(400, f"{end} bytes in a range that ends at {where.end}")
        totals = [total for total in (message.total, where.total) if total is not None]
        if last:
            totals.append(end)
        if totals and min(totals) != max(totals):
            raise ReassemblyError(400, f"a message of {min(totals)} and of {max(totals)} bytes")
        total = totals[0] if totals else None
        known = message.starts[-1] + len(message.pieces[-1]) if message.pieces else 0
        if total is not None and max(end, known) > total:
            raise ReassemblyError(400, f"bytes beyond the message's total of {total}")
        message.total = total
        message.ended = message.ended or last


def reported_range(claimed: bytes | None, size: int, last: bool) -> ByteRange:
    """Return the actual range of a chunk, for a REPORT about it (RFC 4975 §7.1.2).

    Args:
        claimed: The value of its Byte-Range header field; ``None`` without one.
        size: The length of its body in bytes.
        last: Whether it was the end of its message.

    Raises:
        ValueError: The value is malformed, which cannot happen in a parsed chunk.
    """
    where = ByteRange() if claimed is None else ByteRange.parse(claimed)
    end = where.start - 1 + size
    total = end if where.total is None and last else where.total
    try:
        return ByteRange(where.start, end, total)
    except ValueError:
        # The body contradicts its header; repeat the sender's own range.
        return where
