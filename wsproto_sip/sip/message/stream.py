"""SIP over a byte stream: from TCP's bytes to messages and keep-alives (RFC 3261 §18.3)."""

from __future__ import annotations

import re
from enum import Enum

from ._syntax import parse_uint
from .errors import SipParseError
from .limits import DEFAULT_LIMITS, SipLimits
from .message import SipRequest, SipResponse
from .parser import error_response, parse_message

__all__ = ["KeepAlive", "SipStreamParser", "StreamItem", "is_keepalive"]


class KeepAlive(Enum):
    """The keep-alives of a flow (RFC 5626 §4.4.1)."""

    #: A double CRLF, to be answered at once with a single one.
    PING = b"\r\n\r\n"
    #: A single CRLF: the answer.
    PONG = b"\r\n"

    @classmethod
    def of(cls, data: bytes | str) -> KeepAlive | None:
        """Return the keep-alive that a WebSocket message is, or ``None``."""
        if len(data) > 4:
            return None
        raw = data.encode("utf-8", "replace") if isinstance(data, str) else bytes(data)
        return cls(raw) if raw in (b"\r\n", b"\r\n\r\n") else None


def is_keepalive(data: bytes | str) -> bool:
    """Return whether a WebSocket message is a CRLF keep-alive, not a SIP message (RFC 7118 §6)."""
    return KeepAlive.of(data) is not None


StreamItem = SipRequest | SipResponse | KeepAlive | SipParseError

_LENGTH_RE = re.compile(
    rb"\r\n(?:Content-Length|l)[ \t]*:(?:[ \t]|\r\n[ \t])*([^\r\n]*)", re.IGNORECASE
)


class SipStreamParser:
    """Cut a stream into messages: bytes in, messages and keep-alives out.

    A message that is framed but invalid is returned as the :class:`SipParseError` it caused, in its
    place among the others, and the stream goes on. If the framing itself is lost (no usable
    Content-Length, a message above the limit), the error is the last item: its ``fatal`` is true,
    the connection must be closed, and later input is dropped.

    Args:
        limits: Bounds on each message; at most one message is buffered.
    """

    __slots__ = ("_buffer", "_limits", "_need", "_pongs", "_scanned", "closed")

    def __init__(self, *, limits: SipLimits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._buffer = bytearray()
        #: Position up to which the buffer is known not to contain the end of a head.
        self._scanned = 0
        #: Size of the message at the front of the buffer once its head is complete, otherwise 0.
        self._need = 0
        self._pongs = 0
        #: Whether the framing was lost.
        self.closed = False

    def expect_pong(self) -> None:
        """Report the next single CRLF between messages at once: call this after sending a ping.

        Otherwise a single CRLF waits for more input, since it may be half a ping.
        """
        self._pongs += 1

    def receive(self, data: bytes | bytearray | memoryview) -> list[StreamItem]:
        """Take bytes from the stream, in pieces of any size, and return what they complete."""
        items: list[StreamItem] = []
        if self.closed:
            return items
        self._buffer += data
        position = 0
        while used := self._next(position, items):
            position += used
        # One cut for all messages of a read keeps the cost linear.
        del self._buffer[:position]
        return items

    def _next(self, start: int, items: list[StreamItem]) -> int:
        """Handle the buffer from ``start`` on; return the bytes used, or 0 if more are needed."""
        buffer = self._buffer
        if len(buffer) <= start:
            return 0
        if not self._need:
            if buffer.startswith(b"\r", start):
                return self._line_ends(start, items)
            if not self._head(start, items):
                return 0
        need = self._need
        if len(buffer) - start < need:
            return 0
        self._need = self._scanned = 0
        try:
            items.append(parse_message(bytes(buffer[start : start + need]), limits=self._limits))
        except SipParseError as error:
            items.append(error)
        return need

    def _line_ends(self, start: int, items: list[StreamItem]) -> int:
        """Read CRLFs between messages: keep-alives, or nothing (RFC 3261 §7.5)."""
        buffer = self._buffer
        if self._pongs and buffer.startswith(b"\r\n", start):
            self._pongs -= 1
            items.append(KeepAlive.PONG)
            return 2
        if buffer.startswith(b"\r\n\r\n", start):
            items.append(KeepAlive.PING)
            return 4
        rest = bytes(buffer[start : start + 4])
        if b"\r\n\r\n".startswith(rest):
            return 0
        if rest[:2] == b"\r\n":
            return 2
        self._fail(items, SipParseError(400, "a CR without LF between messages"))
        return 0

    def _head(self, start: int, items: list[StreamItem]) -> bool:
        """Find the end of a head and the size of its message; return whether both are known."""
        buffer = self._buffer
        maximum = self._limits.bounds[0]
        end = buffer.find(b"\r\n\r\n", start + self._scanned)
        if end < 0:
            size = len(buffer) - start
            self._scanned = max(0, size - 3)
            if size > maximum:
                self._fail(items, SipParseError(513, "header above the limit"))
            return False
        head = bytes(buffer[start:end])
        lengths = _LENGTH_RE.findall(head)
        try:
            if len(lengths) != 1:
                raise SipParseError(400, f"{len(lengths)} Content-Length fields in a stream")
            text = lengths[0].decode("latin-1").rstrip(" \t")
            body = parse_uint(text, 10**18, "Content-Length")
            size = len(head) + 4 + body
            if size > maximum:
                raise SipParseError(413 if body > maximum else 513, f"message of {size} bytes")
        except SipParseError as error:
            self._fail(items, error, head)
            return False
        self._need = size
        return True

    def _fail(self, items: list[StreamItem], error: SipParseError, head: bytes = b"") -> None:
        if head:
            error.response = error_response(head, error.status)
        error.fatal = True
        self.closed = True
        self._buffer = bytearray()
        items.append(error)
