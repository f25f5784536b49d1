"""Collect the head of an HTTP/1.1 message, within its limits.

Theory of operation: bytes are kept until the blank line that ends the head has arrived; each byte
is looked at once, however the input is split. Input that cannot become a head is refused at its
first byte, and a limit is enforced as soon as it is exceeded, so that we never keep more than
``max_handshake_bytes`` and one read. h11 checks the grammar; :func:`read_ordinary_request` reads
the requests of almost all clients in a tenth of the time and leaves the others to h11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .events import RejectConnection
from .limits import bound
from .utilities import RemoteProtocolError

if TYPE_CHECKING:
    from .limits import Limits
    from .typing import BytesLike, Headers

__all__ = ["HeadReader", "read_ordinary_request", "refusal"]

# After this many bytes, the beginning of a head has been checked.
_BEGINNING = len(b"HTTP/")

# RFC 9112 §2.2: a line may end with a bare LF. h11 finds the end of a head the same way.
_blank_line = re.compile(rb"\n\r?\n").search
# RFC 9112 §3: a request starts with its method, which is a token.
_is_tchar = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]").match

# RFC 9112 §3, §5, as far as almost all clients use them: a path in visible ASCII without a
# fragment, one space after the colon, and a value in printable ASCII without surrounding white
# space. No character class includes the character that must follow it, so matching is linear.
_ordinary_start = re.compile(rb"GET (/[!\"$-~]*) HTTP/1\.1\r\n").match
_ordinary_fields = re.compile(
    rb"\n([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ([!-~][ -~]*)(?<! )\r(?=\n)"
).findall
# Fields that describe a body can be invalid on their own or in combination.
_BODY_FIELDS: Final = frozenset([b"content-length", b"transfer-encoding"])


def read_ordinary_request(head: bytes) -> tuple[bytes, Headers, dict[bytes, bytes]] | None:
    """Read the head of an ordinary upgrade request in one pass (RFC 9112 §3, §5).

    h11 accepts everything that this function accepts, with the same result.

    Args:
        head: The head with its blank line.

    Returns:
        The target, and the header fields, with names in lower case, as an ordered list and by name;
        ``None`` for a request that h11 has to look at, valid or not.
    """
    start = _ordinary_start(head)
    if start is None or head[-4:] != b"\r\n\r\n":
        return None
    headers = [(name.lower(), value) for name, value in _ordinary_fields(head)]
    fields = dict(headers)
    # Every line except the first and the blank one must be a field, no field may be repeated, and
    # RFC 9112 §3.2 requires Host.
    if not (head.count(b"\n") - 2 == len(headers) == len(fields) and b"host" in fields):
        return None
    return (start[1], headers, fields) if _BODY_FIELDS.isdisjoint(fields) else None


def refusal(message: str, status: int = 400, headers: Headers | None = None) -> RemoteProtocolError:
    """Make an error that carries the response a server sends for it.

    Args:
        message: What was wrong.
        status: The response's status code.
        headers: Its header fields.
    """
    return RemoteProtocolError(message, RejectConnection(status, headers or []))


class HeadReader:
    """Collect a head up to its blank line, within the limits.

    Args:
        limits: The bounds of the head.
        start: What the head must start with; empty for a request, which starts with a token and may
            have one empty line before it (RFC 9112 §2.2).
    """

    __slots__ = ("_buffer", "_empty_line", "_limits", "_line", "_searched", "_spent", "_start")

    def __init__(self, limits: Limits, start: bytes = b"") -> None:
        self._limits = limits
        self._start = start
        self._buffer = bytearray()
        self._empty_line = not start
        self._searched = 0  # bytes searched without finding the end of a blank line
        self._line = 0  # where the last line starts
        self._spent = 0  # bytes of earlier heads

    def __bool__(self) -> bool:
        return bool(self._buffer)

    def feed(self, data: BytesLike) -> tuple[bytes, bytes] | None:
        """Add received bytes.

        Returns:
            Once the head is complete, the head and the bytes after it; ``None`` before that.

        Raises:
            RemoteProtocolError: The input cannot become a head, or exceeds a limit.
        """
        if not self._buffer and type(data) is bytes and self._begins(data):
            # A head that arrives whole, as almost all do: without a copy.
            found = _blank_line(data)
            if found is not None:
                return self._complete(data, found.end())
        buffer = self._buffer
        buffer += data
        if self._searched <= _BEGINNING and not self._begins_well():
            raise refusal(f"not HTTP: {bytes(buffer[:16])!r}")
        limits = self._limits
        newest = buffer.rfind(b"\n", self._searched)
        found = _blank_line(buffer, max(self._searched - 2, 0)) if newest >= 0 else None
        if found is not None:
            self._buffer = bytearray()
            self._searched = self._line = 0
            return self._complete(bytes(buffer), found.end())
        end = len(buffer)
        self._check_length(end)
        if newest >= 0:
            self._line = newest + 1
        self._searched = end
        if end - self._line > bound(limits.max_header_line):
            raise refusal(f"a line is longer than {limits.max_header_line} bytes", 431)
        return None

    def _begins(self, data: bytes) -> bool:
        """Return whether this is the beginning of a head, without an empty line before it."""
        return data.startswith(self._start) if self._start else _is_tchar(data) is not None

    def _complete(self, data: bytes, end: int) -> tuple[bytes, bytes]:
        """Check the head, which ends at ``end``; return it and the bytes after it."""
        self._check_length(end)
        head = data[:end]
        self._check_lines(head)
        self._spent += end
        return head, data[end:]

    def _check_length(self, length: int) -> None:
        most = self._limits.max_handshake_bytes
        if most is not None and self._spent + length > most:
            raise refusal(f"the head is longer than {most} bytes", 431)

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
        most = limits.max_headers
        # The start line and the blank line are not fields.
        if most is not None and head.count(b"\n") - 2 > most:
            raise refusal(f"more than {most} header fields", 431)
        most = limits.max_header_line
        if most is not None and len(head) > most and max(map(len, head.split(b"\n"))) > most:
            raise refusal(f"a line is longer than {most} bytes", 431)
