"""The output of ``connect``: lines for people, or JSON for programs.

Theory of operation: messages go to standard output and everything else to standard error, so that a
pipe only gets messages. With ``--json``, every event is one object per line on standard output.
Text from a peer is always escaped before it is written to a terminal.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol

from ...events import Ping
from ...session.lifecycle import Cause
from .._text import escape

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TextIO

    from ...adapters.asyncio import Connection, HandshakeRejected
    from ...events import Pong
    from ...session.lifecycle import ConnectionClosed

__all__ = ["BODY_SHOWN", "JsonOutput", "Output", "TextOutput"]

#: Bytes of a rejection's body that are shown.
BODY_SHOWN: Final = 16 * 1024

#: Colours, as SGR parameters (ECMA-48 §8.3.117).
_MESSAGE: Final = "36"
_NOTICE: Final = "2"
_ERROR: Final = "31"


class Output(Protocol):
    """The receiver of events."""

    def opened(self, connection: Connection) -> None:
        """Report that the connection is open."""

    def message(self, data: str | bytes) -> None:
        """Show a received message."""

    def control(self, event: Ping | Pong) -> None:
        """Show a received Ping or Pong."""

    def round_trip(self, seconds: float) -> None:
        """Report the answer to a Ping of this side."""

    def closed(self, event: ConnectionClosed) -> None:
        """Report the end of the connection."""

    def rejected(self, rejection: HandshakeRejected) -> None:
        """Report that the server has refused the handshake."""

    def failed(self, reason: str) -> None:
        """Report that no connection was made."""

    def mistaken(self, reason: str) -> None:
        """Report a command that cannot be executed."""

    def wire(self, line: str) -> None:
        """Show a line about bytes on the wire, which is safe to print."""

    def lines(self, lines: Iterable[str]) -> None:
        """Show lines of help."""


def _colours(stream: TextIO) -> bool:
    """Return whether a stream is a terminal that shows colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class _Streams:
    """The current standard output and error.

    A prompt takes both over while it is shown; standard error that is not a terminal stays as it
    was, for example a file.
    """

    def __init__(self) -> None:
        self._error = None if sys.stderr.isatty() else sys.stderr
        self._error_in_colour = _colours(sys.stderr)

    def _tell(self, text: str, colour: str = _NOTICE) -> None:
        """Print a line on standard error."""
        line = f"\x1b[{colour}m{text}\x1b[m" if self._error_in_colour else text
        print(line, file=self._error or sys.stderr, flush=True)

    def wire(self, line: str) -> None:
        """Show a line about bytes on the wire."""
        self._tell(line)


class TextOutput(_Streams):
    """Lines for people; in a pipe, messages are written unchanged."""

    def __init__(self) -> None:
        super().__init__()
        self._terminal = sys.stdout.isatty()
        self._in_colour = _colours(sys.stdout)

    def _notice(self, text: str, colour: str = _NOTICE) -> None:
        self._tell(f"-- {escape(text)}", colour)

    def opened(self, connection: Connection) -> None:
        """Report that the connection is open."""
        self._notice(f"connected, sub-protocol {connection.subprotocol or 'none'}")

    def message(self, data: str | bytes) -> None:
        """Show a message: unchanged in a pipe; otherwise escaped, or as hexadecimal."""
        if not self._terminal:
            raw = data.encode() if isinstance(data, str) else data
            sys.stdout.buffer.write(raw + b"\n")
            sys.stdout.buffer.flush()
        elif isinstance(data, str):
            for line in data.split("\n"):
                self._print(escape(line.removesuffix("\r")))
        else:
            self._print(_in_hexadecimal(data))

    def _print(self, text: str) -> None:
        print(f"\x1b[{_MESSAGE}m< {text}\x1b[m" if self._in_colour else f"< {text}", flush=True)

    def control(self, event: Ping | Pong) -> None:
        """Show a Ping or a Pong."""
        self._notice(f"{_kind(event)} {_in_hexadecimal(event.payload)}")

    def round_trip(self, seconds: float) -> None:
        """Report the round-trip time of a Ping."""
        self._notice(f"round trip {seconds * 1000:.3f} ms")

    def closed(self, event: ConnectionClosed) -> None:
        """Report the end of the connection."""
        if event.cause is Cause.CLOSE_TIMEOUT:
            self._notice("the server did not answer the closing handshake", _ERROR)
        elif event.code == 1006:
            self._notice("the connection was lost", _ERROR)
        else:
            shown = "no code" if event.code == 1005 else str(event.code)
            self._notice(f"closed: {shown} {event.reason or ''}".rstrip(" "))

    def rejected(self, rejection: HandshakeRejected) -> None:
        """Show the server's response."""
        phrase = _phrase(rejection.status_code)
        self._notice(f"rejected: {rejection.status_code} {phrase}".rstrip(" "), _ERROR)
        for name, value in rejection.headers:
            self._notice(f"{name.decode('latin-1')}: {value.decode('latin-1')}")
        for line in rejection.body[:BODY_SHOWN].split(b"\n"):
            if line:
                self._notice(line.removesuffix(b"\r").decode("utf-8", "replace"))

    def failed(self, reason: str) -> None:
        """Report why no connection was made."""
        self._tell(f"wsproto-sip: {escape(reason)}", _ERROR)

    def mistaken(self, reason: str) -> None:
        """Report what was wrong with a command."""
        self._notice(reason, _ERROR)

    def lines(self, lines: Iterable[str]) -> None:
        """Show lines of help."""
        for line in lines:
            self._notice(line)


class JsonOutput(_Streams):
    """One object per line on standard output, for programs."""

    def _event(self, event: str, **fields: object) -> None:
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        # ASCII is safe to print, whatever a peer has sent.
        print(json.dumps({"time": when, "event": event, **fields}), flush=True)

    def opened(self, connection: Connection) -> None:
        """Report that the connection is open."""
        headers = connection.response.extra_headers if connection.response is not None else []
        self._event(
            "opened",
            subprotocol=connection.subprotocol,
            extensions=[extension.name for extension in connection.session.extensions],
            headers=_texts(headers),
        )

    def message(self, data: str | bytes) -> None:
        """Show a message, binary ones as hexadecimal."""
        if isinstance(data, str):
            self._event("message", type="text", data=data)
        else:
            self._event("message", type="binary", data=data.hex())

    def control(self, event: Ping | Pong) -> None:
        """Show a Ping or a Pong."""
        self._event(_kind(event), data=event.payload.hex())

    def round_trip(self, seconds: float) -> None:
        """Report the round-trip time of a Ping."""
        self._event("round-trip", seconds=round(seconds, 6))

    def closed(self, event: ConnectionClosed) -> None:
        """Report the end of the connection."""
        self._event("closed", code=event.code, reason=event.reason, cause=event.cause.value)

    def rejected(self, rejection: HandshakeRejected) -> None:
        """Show the server's response."""
        self._event(
            "rejected",
            status=rejection.status_code,
            headers=_texts(rejection.headers),
            body=rejection.body[:BODY_SHOWN].decode("utf-8", "replace"),
        )

    def failed(self, reason: str) -> None:
        """Report why no connection was made."""
        self._event("failed", reason=reason)

    def mistaken(self, reason: str) -> None:
        """Report what was wrong with a command."""
        self._event("mistake", reason=reason)

    def lines(self, lines: Iterable[str]) -> None:
        """Show lines of help, which are not events."""
        for line in lines:
            self._tell(line)


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> list[list[str]]:
    return [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers]


def _kind(event: Ping | Pong) -> str:
    return "ping" if isinstance(event, Ping) else "pong"


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return ""


def _in_hexadecimal(data: bytes) -> str:
    """Format bytes for people: their number, and the first of them."""
    shown = data[:32].hex(" ") + (" …" if len(data) > 32 else "")
    return f"({len(data)} bytes) {shown}".rstrip(" ")
