"""``wsproto-sip connect``: a WebSocket client for terminals and pipes.

Theory of operation: a thread reads standard input, because no event loop can wait for a plain
file; it never gets more than a few reads ahead. Each line goes out as one message. At the end of
the input the client waits until the server has been quiet for a while, because many servers answer
a close frame before the messages in front of it; then it sends its own and reads on until the
server's, so that of a server that keeps the order every answer is printed, however slow it is.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import ssl
import sys
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urlsplit

from .. import ConnectionType, WSConnection
from ..events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from ..extensions import PerMessageDeflate
from ..states import ConnectionState
from ..utilities import LocalProtocolError, RemoteProtocolError
from ._text import authority, escape, notice, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..events import Event

__all__ = ["Address", "add_command", "parse_header", "parse_url"]

#: Seconds to the end of the opening handshake.
OPEN_SECONDS = 10.0
#: Seconds without anything from the server after our close frame.
CLOSE_SECONDS = 5.0
#: Octets of a rejection's body that are shown.
BODY_SHOWN = 16 * 1024
#: Octets of unsent answers to pings, above which further pings are not answered.
PONGS_PENDING = 64 * 1024

#: RFC 9110 §5.1, §5.5: a name, and a value without control characters.
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: Header fields that the handshake writes itself (RFC 6455 §4.1).
_OWN_HEADERS = re.compile(
    r"host|connection|upgrade|content-length|transfer-encoding"
    r"|sec-websocket-(key|version|accept|extensions|protocol)",
    re.IGNORECASE,
)
#: RFC 3986 §3.3, §3.4: what stays as it is in a path, besides letters, digits and ``_.-~``.
_IN_TARGET = "/%:@!$&'()*+,;="
#: Close codes that end a connection in order (RFC 6455 §7.4.1): normal, going away, none given.
_IN_ORDER = frozenset({1000, 1001, 1005})


class Address(NamedTuple):
    """Where a ws or wss URL leads (RFC 6455 §3).

    Args:
        host: A name or an address, without brackets.
        port: The port.
        secure: Whether it is wss.
        target: Path and query, as they stand in the request.
    """

    host: str
    port: int
    secure: bool
    target: str

    @property
    def host_header(self) -> str:
        """The value of the Host header field (RFC 6455 §4.1): a default port stays unsaid."""
        return authority(self.host, self.port, 443 if self.secure else 80)


def parse_url(text: str) -> Address:
    """Takes a ws or wss URL apart (RFC 6455 §3).

    Args:
        text: The URL; characters outside ASCII are encoded as a browser does it.

    Raises:
        ValueError: It is not such a URL; the message says why.
    """
    if re.search(r"[\x00-\x20\x7f]", text):
        raise ValueError("it holds a space or a control character")
    url = urlsplit(text)
    if url.scheme not in {"ws", "wss"}:
        raise ValueError("it does not begin with ws:// or wss://")
    if "#" in text:
        raise ValueError("it has a fragment")
    if url.username is not None:
        raise ValueError("it names a user; use --header 'Authorization: …'")
    if not url.hostname:
        raise ValueError("it names no host")
    try:
        host = url.hostname.encode("idna").decode("ascii")
    except UnicodeError:
        raise ValueError("its host is not a domain name") from None
    secure = url.scheme == "wss"
    port = (443 if secure else 80) if url.port is None else url.port
    target = quote(url.path or "/", safe=_IN_TARGET)
    if url.query:
        target += "?" + quote(url.query, safe=_IN_TARGET + "?")
    return Address(host, port, secure, target)


def parse_header(text: str) -> tuple[bytes, bytes]:
    """Takes a header field apart.

    Args:
        text: ``Name: value``.

    Raises:
        ValueError: It is no header field, or one that the handshake writes itself.
    """
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError("it is not of the form 'Name: value'")
    name, value = match.groups()
    if _OWN_HEADERS.fullmatch(name):
        raise ValueError(f"{name} is written by the handshake")
    return name.encode("ascii"), value.strip(" \t").encode("utf-8", "surrogateescape")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``connect`` to the command line."""
    parser = commands.add_parser(
        "connect",
        help="a WebSocket client for terminals and pipes",
        description="Sends each line of standard input as a message and prints what comes back.",
    )
    parser.add_argument("url", metavar="URL", help="ws://host:port/path or wss://…")
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="NAME", help="offer a sub-protocol"
    )
    parser.add_argument(
        "--header", action="append", default=[], metavar="'NAME: VALUE'", help="add a header field"
    )
    parser.add_argument(
        "--cafile", metavar="FILE", help="trust the certificates in this file, for wss"
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="close when input has ended and nothing came for so long (%(default)s)",
    )
    parser.set_defaults(run=_run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _run(arguments: argparse.Namespace) -> int:
    try:
        address = parse_url(arguments.url)
    except ValueError as error:
        return _complain(f"{arguments.url!r} is not a WebSocket URL: {error}")
    headers = []
    for text in arguments.header:
        try:
            headers.append(parse_header(text))
        except ValueError as error:
            return _complain(f"--header {text!r}: {error}")
    context = None
    if address.secure:
        try:
            context = ssl.create_default_context(cafile=arguments.cafile)
        except OSError as error:
            return _complain(f"--cafile {arguments.cafile!r}: {reason_of(error)}")
    request = Request(
        host=address.host_header,
        target=address.target,
        extensions=[PerMessageDeflate()],
        extra_headers=headers,
        subprotocols=arguments.subprotocol,
    )
    return asyncio.run(_connect(address, context, request, arguments.wait))


def _complain(text: str) -> int:
    print("wsproto-sip:", escape(text), file=sys.stderr)
    return 2


async def _connect(
    address: Address, context: ssl.SSLContext | None, request: Request, wait: float
) -> int:
    websocket = WSConnection(ConnectionType.CLIENT, whole_messages=True)
    try:
        greeting = websocket.send(request)
    except LocalProtocolError as error:
        return _complain(str(error))
    where = authority(address.host, address.port)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
    except TimeoutError:
        return _complain(f"cannot connect to {where}: no answer")
    except OSError as error:
        return _complain(f"cannot connect to {where}: {reason_of(error)}")
    client = Client(websocket, reader, writer, wait=wait)
    try:
        return await client.talk(greeting)
    finally:
        writer.transport.abort()


class Client:
    """A conversation, from the request to the end of the connection.

    Args:
        websocket: The protocol.
        reader: What the server sends.
        writer: What it gets.
        wait: Seconds of quiet between the end of the input and the close frame.
    """

    def __init__(
        self,
        websocket: WSConnection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        wait: float,
    ) -> None:
        self._websocket = websocket
        self._reader = reader
        self._writer = writer
        self._wait = wait
        self._loop = asyncio.get_running_loop()
        self._last_message = 0.0
        self._terminal = sys.stdout.isatty()
        self._deadline = asyncio.timeout(OPEN_SECONDS)
        self._input: asyncio.Task[None] | None = None
        self._body_left = BODY_SHOWN
        self._code: int | None = None
        self._interrupted = False
        self._over = False

    async def talk(self, greeting: bytes) -> int:
        """Has the conversation.

        Args:
            greeting: The handshake's request.

        Returns:
            The exit code.
        """
        previous = signal.signal(
            signal.SIGINT, lambda *_: self._loop.call_soon_threadsafe(self._interrupt)
        )
        self._writer.write(greeting)
        try:
            async with self._deadline:
                await self._read()
        except TimeoutError:
            if self._interrupted:
                return 130
            if self._code is None:
                self._tell_what_is_missing()
        finally:
            self._over = True
            signal.signal(signal.SIGINT, previous)
            if self._input is not None:
                self._input.cancel()
        return 1 if self._code is None else self._code

    async def _read(self) -> None:
        while True:
            try:
                data = await self._reader.read(65536)
            except OSError:  # the connection was reset: an end as well
                data = b""
            if self._code is None:
                self._receive(data or None)
            if not data:
                return
            if self._websocket.state is ConnectionState.LOCAL_CLOSING:
                self._expect_more(CLOSE_SECONDS)

    def _receive(self, data: bytes | None) -> None:
        try:
            self._websocket.receive_data(data)
        except RemoteProtocolError as error:
            notice(f"this is not a WebSocket handshake: {error}")
            self._end(1)
            return
        for event in self._websocket.events():
            self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case AcceptConnection():
                notice(f"connected, sub-protocol {event.subprotocol or 'none'}")
                self._deadline.reschedule(None)
                self._input = self._loop.create_task(self._send_lines())
            case RejectConnection():
                notice(f"rejected: {event.status_code} {_phrase(event.status_code)}".rstrip(" "))
                for name, value in event.headers:
                    notice(f"{name.decode('latin-1')}: {value.decode('latin-1')}")
                if not event.has_body:
                    self._end(1)
            case RejectData():
                self._show_body(event.data)
                if event.body_finished:
                    self._end(1)
            case TextMessage() | BytesMessage():
                self._last_message = self._loop.time()
                self._show(event.data)
            case Ping():
                notice(f"ping {_octets(event.payload)}")
                # RFC 6455 §5.5.3: answering the latest of several pings is enough.
                pending = self._writer.transport.get_write_buffer_size()
                if self._websocket.state is ConnectionState.OPEN and pending < PONGS_PENDING:
                    self._writer.write(self._websocket.send(event.response()))
            case Pong():
                notice(f"pong {_octets(event.payload)}")
            case CloseConnection():
                self._closed(event)

    def _closed(self, event: CloseConnection) -> None:
        if event.code == 1006:
            notice("the connection was lost")
        else:
            shown = "no code" if event.code == 1005 else str(event.code)
            notice(f"closed: {shown} {event.reason or ''}".rstrip(" "))
        if self._websocket.state is ConnectionState.REMOTE_CLOSING:
            self._writer.write(self._websocket.send(event.response()))
        self._end(0 if event.code in _IN_ORDER else 1)

    def _end(self, code: int) -> None:
        # RFC 6455 §7.1.1: the server closes TCP first; it gets some time to do so.
        self._code = code
        self._expect_more(CLOSE_SECONDS)

    def _expect_more(self, seconds: float) -> None:
        if not self._over:
            self._deadline.reschedule(self._loop.time() + seconds)

    def _tell_what_is_missing(self) -> None:
        closing = self._websocket.state is ConnectionState.LOCAL_CLOSING
        what = "the closing handshake" if closing else "the handshake"
        notice(f"the server did not answer {what}")

    def _interrupt(self) -> None:
        """Ctrl-C: ends the input, or, with nothing left to end, the program."""
        if self._websocket.state is ConnectionState.OPEN:
            self._close()
        else:
            self._interrupted = True
            self._expect_more(0)

    # -- from standard input to the server --------------------------------------------------------

    async def _send_lines(self) -> None:
        lines: asyncio.Queue[list[bytes] | None] = asyncio.Queue()
        ahead = threading.Semaphore(4)
        arguments = (self._loop, lines.put_nowait, ahead)
        threading.Thread(target=_read_lines, args=arguments, daemon=True).start()
        try:
            while (batch := await lines.get()) is not None:
                for line in batch:
                    if self._websocket.state is not ConnectionState.OPEN:
                        return
                    self._writer.write(self._websocket.send(_message(line)))
                await self._writer.drain()
                ahead.release()
        except OSError:
            return  # the reading side finds the same, and tells
        quiet_since = self._loop.time()
        while (left := quiet_since + self._wait - self._loop.time()) > 0:
            await asyncio.sleep(left)
            quiet_since = max(quiet_since, self._last_message)
        self._close()

    def _close(self) -> None:
        if self._websocket.state is ConnectionState.OPEN:
            self._writer.write(self._websocket.send(CloseConnection(1000)))
            self._expect_more(CLOSE_SECONDS)

    # -- from the server to standard output -------------------------------------------------------

    def _show(self, data: str | bytes) -> None:
        if not self._terminal:
            octets = data.encode() if isinstance(data, str) else data
            sys.stdout.buffer.write(octets + b"\n")
            sys.stdout.buffer.flush()
        elif isinstance(data, str):
            for line in data.split("\n"):
                print("<", escape(line.removesuffix("\r")), flush=True)
        else:
            print("<", _octets(data), flush=True)

    def _show_body(self, data: bytes) -> None:
        shown = data[: self._body_left]
        self._body_left -= len(shown)
        for line in shown.split(b"\n"):
            if line:
                notice(line.removesuffix(b"\r").decode("utf-8", "replace"))


def _phrase(status_code: int) -> str:
    try:
        return HTTPStatus(status_code).phrase
    except ValueError:
        return ""


def _octets(data: bytes) -> str:
    """Octets for the eye: how many, and the first of them."""
    shown = data[:32].hex(" ") + (" …" if len(data) > 32 else "")
    return f"({len(data)} octets) {shown}".rstrip(" ")


def _message(line: bytes) -> TextMessage | BytesMessage:
    try:
        return TextMessage(line.decode("utf-8"))
    except UnicodeDecodeError:
        return BytesMessage(line)


def _read_lines(
    loop: asyncio.AbstractEventLoop,
    put: Callable[[list[bytes] | None], None],
    ahead: threading.Semaphore,
) -> None:
    """Reads standard input, in a thread of its own.

    Not through ``sys.stdin``: a thread that waits in it at the program's end holds its lock, which
    the interpreter wants.

    Args:
        loop: Where ``put`` is called.
        put: Takes the lines of one read, without their ends; None at the end of the input.
        ahead: Taken once for each read.
    """
    rest: list[bytes] = []
    try:
        while True:
            ahead.acquire()
            chunk = _read_input()
            *lines, last = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join([*rest, lines[0]])
                rest.clear()
            rest.append(last)
            if not chunk:
                lines = [b"".join(rest)] if any(rest) else []
            loop.call_soon_threadsafe(put, [line.removesuffix(b"\r") for line in lines])
            if not chunk:
                loop.call_soon_threadsafe(put, None)
                return
    except RuntimeError:
        pass  # the connection ended first, and the loop with it


def _read_input() -> bytes:
    """The next octets of standard input, none at its end."""
    if sys.stdin is None:  # closed before we were started
        return b""
    try:
        return os.read(sys.stdin.fileno(), 65536)
    except OSError:
        return b""
