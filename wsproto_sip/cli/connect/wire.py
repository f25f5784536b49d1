"""The handshake and the frames as sent and received, for ``--show``.

Theory of operation: each direction is parsed a second time, next to the connection, by a parser
that does not judge: invalid input of a peer is shown as it is. It keeps only a bounded part of a
frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .._text import escape

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PAYLOAD_SHOWN", "Wire"]

#: Bytes of a frame's payload that are shown.
PAYLOAD_SHOWN: Final = 1000
#: Bytes shown of a head without an end, and of a body.
_HEAD_SHOWN: Final = 64 * 1024

#: RFC 6455 §5.2.
_NAMES: Final = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


class Wire:
    """Show the bytes of one connection after another.

    Args:
        show: Takes a line, which is safe to print.
    """

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._connection: object = None
        self._readers: dict[bool, _Direction] = {}

    def __call__(self, connection: object, data: bytes, sent: bool) -> None:
        """Show bytes.

        Args:
            connection: Their connection; another one starts anew.
            data: The bytes.
            sent: Whether they were sent.
        """
        if connection is not self._connection:
            self._connection = connection
            self._readers = {True: _Direction(), False: _Direction()}
        mark = "->" if sent else "<-"
        for line in self._readers[sent].feed(data):
            self._show(f"{mark} {line}".rstrip())


class _Direction:
    """One direction: a head, and then frames, or the body of a response."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._reading: Callable[[], Iterator[str] | None] = self._head
        # The current frame: its header, description, remaining bytes, and kept payload.
        self._header = b""
        self._left = 0
        self._kept = bytearray()
        # The opcode of the current message, and whether it is compressed.
        self._message = (1, False)
        self._body_left = _HEAD_SHOWN

    def feed(self, data: bytes) -> Iterator[str]:
        """Yield the lines that are complete with these bytes."""
        self._buffer += data
        while (lines := self._reading()) is not None:
            yield from lines

    def _head(self) -> Iterator[str] | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 and len(self._buffer) <= _HEAD_SHOWN:
            return None
        end = len(self._buffer) if end < 0 else end + 4
        lines = bytes(self._buffer[:end]).decode("latin-1").removesuffix("\r\n").split("\r\n")
        del self._buffer[:end]
        words = lines[0].split(" ")
        status = words[1] if words[0].startswith("HTTP/") and len(words) > 1 else "101"
        if status == "101":
            self._reading = self._frame_header
        elif not status.startswith("1"):  # RFC 9110 §15.2: an interim response is followed by more
            self._reading = self._body
        return map(escape, lines)

    def _body(self) -> Iterator[str] | None:
        if not self._buffer:
            return None
        text = bytes(self._buffer[: self._body_left]).decode("utf-8", "replace")
        self._body_left -= min(self._body_left, len(self._buffer))
        self._buffer.clear()
        return iter([escape(line) for line in text.splitlines()])

    def _frame_header(self) -> Iterator[str] | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        extended = {126: 2, 127: 8}.get(buffer[1] & 0x7F, 0)
        size = 2 + extended + (4 if buffer[1] & 0x80 else 0)
        if len(buffer) < size:
            return None
        self._header = bytes(buffer[:size])
        del buffer[:size]
        self._left = (
            int.from_bytes(self._header[2 : 2 + extended]) if extended else (self._header[1] & 0x7F)
        )
        self._kept.clear()
        self._reading = self._payload
        return iter(())

    def _payload(self) -> Iterator[str] | None:
        taken = min(self._left, len(self._buffer))
        self._kept += self._buffer[: min(taken, PAYLOAD_SHOWN - len(self._kept))]
        del self._buffer[:taken]
        self._left -= taken
        if self._left:
            return None
        self._reading = self._frame_header
        return iter([self._frame()])

    def _frame(self) -> str:
        header, payload = self._header, bytes(self._kept)
        first, second = header[0], header[1]
        opcode = first & 0x0F
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(header[2 : 4 if length == 126 else 10])
        if opcode in (1, 2):
            self._message = (opcode, bool(first & 0x40))
        words = [_NAMES.get(opcode, f"opcode {opcode}")]
        if not first & 0x80:
            words.append("not final")
        words += [f"rsv{n}" for n, bit in ((1, 0x40), (2, 0x20), (3, 0x10)) if first & bit]
        if second & 0x80:
            key = header[-4:]
            payload = bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))
            words.append("masked")
        words.append(f"{length} bytes")
        shown = self._shown(opcode, payload) + (" …" if length > len(payload) else "")
        return f"{header.hex(' ')}  {', '.join(words)}  {shown}".rstrip()

    def _shown(self, opcode: int, payload: bytes) -> str:
        kind, compressed = self._message
        if opcode == 8 and len(payload) >= 2:
            reason = escape(payload[2:].decode("utf-8", "backslashreplace"))
            return f"{int.from_bytes(payload[:2])} {reason}"
        if opcode in (0, 1) and kind == 1 and not compressed:
            return escape(payload.decode("utf-8", "backslashreplace"))
        return payload.hex(" ")
