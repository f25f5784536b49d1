"""``wsproto-sip serve``: a WebSocket server that sends every message back.

Theory of operation: one :class:`EchoConnection` per TCP connection moves octets between an asyncio
transport and a :class:`~wsproto_sip.WSConnection`. While the peer does not read, no event is taken
and nothing is read, so that a connection never holds more than one read and one buffer of output.
A connection ends with the server's FIN first (RFC 6455 §7.1.1); it goes on reading until the
peer's, because closing on unread octets would reset the connection and lose the close frame.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import signal
import sys
from typing import TYPE_CHECKING

from .. import ConnectionType, WSConnection
from ..events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from ..extensions import PerMessageDeflate
from ..limits import Limits
from ..states import ConnectionState
from ..utilities import RemoteProtocolError
from ._text import authority, notice, reason_of

if TYPE_CHECKING:
    from ..events import Event

__all__ = ["EchoConnection", "EchoServer", "add_command"]

#: What the server speaks, in no order: the client's order decides.
SUBPROTOCOLS = ("sip", "msrp")

#: Seconds from the TCP connection to the end of the opening handshake.
OPEN_SECONDS = 10.0
#: Seconds from our close frame, or our FIN, to the peer's.
CLOSE_SECONDS = 5.0

_GUIDE = """\
Sub-protocols {subprotocols} and none, on any path; messages of at most {size} octets.
Every message comes back as it was sent; there is no SIP or MSRP behind the names yet.
Try it from another terminal:
  {program} connect {url}
  {program} connect --subprotocol sip {url}
or in a browser's console:
  ws = new WebSocket("{url}"); ws.onmessage = (e) => console.log(e.data); ws.onopen = () => ws.send("hello")
Ctrl-C stops the server.
"""  # noqa: E501  # one line to copy


class EchoServer:
    """The connections of one server.

    Args:
        verbose: Whether to tell about each of them.
    """

    def __init__(self, *, verbose: bool = False) -> None:
        self._verbose = verbose
        self._connections: set[EchoConnection] = set()
        self._none_left = asyncio.Event()
        self._none_left.set()
        self._closing = False

    def __call__(self) -> EchoConnection:
        """Makes a connection, for :meth:`asyncio.loop.create_server`."""
        return EchoConnection(self)

    def tell(self, connection: EchoConnection, text: str) -> None:
        """Prints what happened on a connection, if asked to."""
        if self._verbose:
            notice(f"{connection.peer} {text}")

    def opened(self, connection: EchoConnection) -> None:
        """Takes note of a TCP connection."""
        self._connections.add(connection)
        self._none_left.clear()
        if self._closing:  # it was accepted while the listening socket was being closed
            connection.abort()

    def lost(self, connection: EchoConnection) -> None:
        """Forgets a TCP connection."""
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()

    async def drain(self) -> None:
        """Closes every connection with 1001 (RFC 6455 §7.4.1) and waits until all are gone."""
        self._closing = True
        for connection in list(self._connections):
            connection.go_away()
        await self._none_left.wait()

    def abort(self) -> None:
        """Drops every connection at once."""
        for connection in list(self._connections):
            connection.abort()


class EchoConnection(asyncio.Protocol):
    """One connection.

    Args:
        server: Where it belongs.
    """

    _transport: asyncio.Transport

    def __init__(self, server: EchoServer) -> None:
        self.peer = "?"
        self._server = server
        self._websocket = WSConnection(ConnectionType.SERVER, whole_messages=True)
        self._loop = asyncio.get_running_loop()
        self._deadline: asyncio.TimerHandle | None = None
        self._blocked = False
        self._finished = False

    # -- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # for the type checker
        self._transport = transport
        # A client that is gone already has no name any more.
        host, port, *_ = transport.get_extra_info("peername") or ("?", 0)
        self.peer = authority(host, port)
        self._abort_in(OPEN_SECONDS)
        self._server.opened(self)

    def data_received(self, data: bytes) -> None:
        """Octets have come."""
        self._receive(data)

    def eof_received(self) -> None:
        """The client sends no more; asyncio closes the transport behind this."""
        self._receive(None)

    def pause_writing(self) -> None:
        """The client does not take what we send."""
        self._blocked = True

    def resume_writing(self) -> None:
        """The client has taken most of it."""
        self._blocked = False
        self._go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._finished = True
        self._server.lost(self)

    # -- what the server calls --------------------------------------------------------------------

    def go_away(self) -> None:
        """Starts the closing handshake, or what comes nearest to it in this state."""
        if self._websocket.state is ConnectionState.OPEN:
            self._send(CloseConnection(1001, "the server is going away"))
            self._abort_in(CLOSE_SECONDS)
            # Nothing is answered from here on, so there is no reason left not to read.
            self._go_on()
        elif self._websocket.state is ConnectionState.CONNECTING:
            self.abort()

    def abort(self) -> None:
        """Drops the TCP connection."""
        self._transport.abort()

    # -- inside -----------------------------------------------------------------------------------

    def _receive(self, data: bytes | None) -> None:
        if self._finished:
            return
        try:
            self._websocket.receive_data(data)
        except RemoteProtocolError as error:
            # Only the opening handshake raises; what follows it fails with a CloseConnection.
            self._server.tell(self, f"refused: {error}")
            if error.event_hint is not None:
                self._send(error.event_hint)
            self._finish()
        else:
            self._go_on()

    def _go_on(self) -> None:
        """Takes the events there are, as long as the peer takes the answers."""
        if self._finished:
            return
        for event in self._websocket.events():
            self._handle(event)
            if self._blocked and self._websocket.state is ConnectionState.OPEN:
                self._transport.pause_reading()
                return
        self._transport.resume_reading()

    def _handle(self, event: Event) -> None:
        match event:
            case Request():
                self._accept(event)
            case TextMessage() | BytesMessage():
                if self._websocket.state is ConnectionState.OPEN:
                    self._send(event)
            case Ping():
                if self._websocket.state is ConnectionState.OPEN:
                    self._send(event.response())
            case CloseConnection():
                self._server.tell(self, f"closed: {event.code} {event.reason or ''}")
                if self._websocket.state is ConnectionState.REMOTE_CLOSING:
                    self._send(event.response())
                self._finish()

    def _accept(self, request: Request) -> None:
        # RFC 6455 §4.2.2: a server that speaks none of the sub-protocols offered accepts without
        # one, and the client decides whether that will do.
        subprotocol = next((name for name in request.subprotocols if name in SUBPROTOCOLS), None)
        self._send(AcceptConnection(subprotocol=subprotocol, extensions=[PerMessageDeflate()]))
        if self._deadline is not None:
            self._deadline.cancel()
        self._server.tell(self, f"open: {request.target}, sub-protocol {subprotocol or 'none'}")

    def _send(self, event: Event) -> None:
        self._transport.write(self._websocket.send(event))

    def _finish(self) -> None:
        self._finished = True
        self._abort_in(CLOSE_SECONDS)
        if not self._transport.is_closing():
            self._transport.write_eof()
            self._transport.resume_reading()

    def _abort_in(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self.abort)


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``serve`` to the command line."""
    parser = commands.add_parser(
        "serve",
        help="a WebSocket server that sends every message back",
        description="Serves WebSocket connections and sends every message back as it came.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (%(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="0 picks a free one (%(default)s)")
    parser.add_argument("--verbose", action="store_true", help="tell about each connection")
    parser.set_defaults(run=_run)


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 0 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 65535")
    return port


def _run(arguments: argparse.Namespace) -> int:
    return asyncio.run(_serve(arguments.host, arguments.port, verbose=arguments.verbose))


async def _serve(host: str, port: int, *, verbose: bool) -> int:
    loop = asyncio.get_running_loop()
    connections = EchoServer(verbose=verbose)
    try:
        server = await loop.create_server(connections, host, port)
    except OSError as error:
        where = authority(host, port)
        print(f"wsproto-sip: cannot listen on {where}: {reason_of(error)}", file=sys.stderr)
        return 2
    stopping = asyncio.Event()

    def stop() -> None:
        if stopping.is_set():
            connections.abort()
        stopping.set()

    # Not loop.add_signal_handler, which Windows does not have.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop))

    urls = [f"ws://{authority(*sock.getsockname()[:2])}/" for sock in server.sockets]
    for url in urls:
        print("Listening on", url)
    size = Limits().max_message_size
    offers = ", ".join(SUBPROTOCOLS)
    guide = _GUIDE.format(subprotocols=offers, size=size, program=_program(), url=urls[0])
    print(guide, end="", flush=True)

    await stopping.wait()
    server.close()
    await connections.drain()
    return 0


def _program() -> str:
    """How this program was started, to start it once more."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return shlex.join([sys.executable, "-m", "wsproto_sip"])
    return shlex.quote(sys.argv[0])
