"""Collecting the head of an HTTP/1.1 message, within its limits.

Theory of operation: octets are kept until the blank line that ends the head is among them; each is
looked at once, however they are divided. What cannot become a head is refused at its first octet,
and a limit as soon as it is passed, so that no more than ``max_handshake_bytes`` and one read are
ever kept. The grammar is h11's to check.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .events import RejectConnection
from .limits import bound
from .utilities import RemoteProtocolError

if TYPE_CHECKING:
    from .limits import Limits
    from .typing import BytesLike, Headers

__all__ = ["HeadReader", "refusal"]

# Octets after which there is nothing to learn from how a head begins.
_BEGINNING = len(b"HTTP/")

# RFC 9112 §2.2: a line may end in a bare LF; h11 finds the end of a head the same way.
_blank_line = re.compile(rb"\n\r?\n").search
# RFC 9112 §3: a request begins with its method, which is a token.
_is_tchar = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]").match


def refusal(message: str, status: int = 400, headers: Headers | None = None) -> RemoteProtocolError:
    """An error together with the response that a server sends because of it.

    Args:
        message: What was wrong.
        status: The response's status code.
        headers: Its header fields.
    """
    return RemoteProtocolError(message, RejectConnection(status, headers or []))


class HeadReader:
    """Collects a head up to its blank line, within the limits.

    Args:
        limits: The bounds of the head.
        start: What it has to begin with; empty for a request, which begins with a token and may
            have one empty line before it (RFC 9112 §2.2).
    """

    __slots__ = ("_buffer", "_empty_line", "_limits", "_line", "_searched", "_spent", "_start")

    def __init__(self, limits: Limits, start: bytes = b"") -> None:
        self._limits = limits
        self._start = start
        self._buffer = bytearray()
        self._empty_line = not start
        self._searched = 0  # octets known to have no blank line that ends in them
        self._line = 0  # where the last line starts
        self._spent = 0  # octets of heads before this one

    def __bool__(self) -> bool:
        return bool(self._buffer)

    def feed(self, data: BytesLike) -> tuple[bytes, bytes] | None:
        """Takes octets.

        Returns:
            Once the head is whole: the head, and what came behind it. None before that.

        Raises:
            RemoteProtocolError: It cannot become a head, or is above a limit.
        """
        buffer = self._buffer
        buffer += data
        if self._searched <= _BEGINNING and not self._begins_well():
            raise refusal(f"this is not HTTP: {bytes(buffer[:16])!r}")
        limits = self._limits
        newest = buffer.rfind(b"\n", self._searched)
        found = _blank_line(buffer, max(self._searched - 2, 0)) if newest >= 0 else None
        end = found.end() if found is not None else len(buffer)
        if self._spent + end > bound(limits.max_handshake_bytes):
            raise refusal(f"the head is longer than {limits.max_handshake_bytes} octets", 431)
        if found is None:
            if newest >= 0:
                self._line = newest + 1
            self._searched = end
            if end - self._line > bound(limits.max_header_line):
                raise refusal(f"a line is longer than {limits.max_header_line} octets", 431)
            return None
        head = bytes(buffer[:end])
        rest = bytes(buffer[end:])
        self._check_lines(head)
        self._buffer = bytearray()
        self._searched = self._line = 0
        self._spent += end
        return head, rest

    def _begins_well(self) -> bool:
        buffer = self._buffer
        if self._start:
            return self._start.startswith(buffer[: len(self._start)])
        if self._empty_line and self._searched <= 1:
            if buffer[:2] == b"\r\n":
                del buffer[:2]
                self._searched = self._line = 0
                self._empty_line = False
            elif buffer == b"\r":
                return True
        return not buffer or _is_tchar(buffer) is not None

    def _check_lines(self, head: bytes) -> None:
        limits = self._limits
        # The start line and the blank line are no fields.
        if head.count(b"\n") - 2 > bound(limits.max_headers):
            raise refusal(f"more than {limits.max_headers} header fields", 431)
        most = bound(limits.max_header_line)
        if len(head) > most and max(map(len, head.split(b"\n"))) > most:
            raise refusal(f"a line is longer than {most} octets", 431)
