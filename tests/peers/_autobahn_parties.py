"""The parties that the Autobahn testsuite judges: an echo on each adapter, as server and client.

``python -m tests.peers._autobahn_parties server NAME`` listens on a free port of 127.0.0.1, prints
the port, and echoes every message until it is killed. ``... client NAME URI COUNT AGENT`` connects
to a fuzzing server once per case, echoes there, and requests the report at the end. ``--large``
raises the bound on the size of a message to what the cases of 9.* send; all other settings are the
defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wsproto_sip import ConnectionState, ConnectionType, WSConnection
from wsproto_sip.adapters.exceptions import ConnectionClosedError
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.uri import WebSocketURI

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wsproto_sip.extensions import Extension

HOST = "127.0.0.1"

#: Bytes of the longest message in the suite.
LARGEST = 16 * 1024 * 1024

#: Seconds after which a client leaves a case. The suite ends each case itself, the longest after
#: 480 seconds.
PATIENCE = 600.0

DEFAULT = SessionConfig()
LARGE = replace(DEFAULT, limits=replace(DEFAULT.limits, max_message_size=LARGEST))


def deflate() -> Sequence[Extension]:
    """Return the extensions that every party may use."""
    return [PerMessageDeflate()]


def say_port(port: int) -> None:
    """Print the port of a server."""
    print(port, flush=True)


# -- a connection without an adapter, on a plain socket -------------------------------------------


def echo_on_socket(connection: WSConnection, sock: socket.socket) -> None:
    """Echo until the connection is closed, and read what the peer still sends."""
    while True:
        data = sock.recv(65536)
        connection.receive_data(data or None)
        for event in connection.events():
            if isinstance(event, Request):
                sock.sendall(connection.send(AcceptConnection(extensions=list(deflate()))))
            elif isinstance(event, TextMessage | BytesMessage):
                sock.sendall(connection.send(event))
            elif isinstance(event, Ping):
                sock.sendall(connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                if connection.state is ConnectionState.REMOTE_CLOSING:
                    sock.sendall(connection.send(event.response()))
                if not connection.client:
                    sock.shutdown(socket.SHUT_WR)
                while sock.recv(65536):
                    pass
                return


def serve_connection(config: SessionConfig) -> None:
    def handle(sock: socket.socket) -> None:
        with sock, suppress(ConnectionError, TimeoutError):
            sock.settimeout(PATIENCE)
            echo_on_socket(WSConnection(ConnectionType.SERVER), sock)

    with socket.create_server((HOST, 0)) as listener:
        say_port(listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=handle, args=[sock], daemon=True).start()


def run_connection(uris: Sequence[str], config: SessionConfig) -> None:
    for uri in uris:
        target = WebSocketURI.parse(uri)
        with (
            socket.create_connection((target.host, target.port), PATIENCE) as sock,
            suppress(ConnectionError, TimeoutError),
        ):
            connection = WSConnection(ConnectionType.CLIENT)
            request = Request(
                host=target.host_header, target=target.target, extensions=list(deflate())
            )
            sock.sendall(connection.send(request))
            echo_on_socket(connection, sock)


# -- the adapters ---------------------------------------------------------------------------------


async def echo(connection: Any) -> None:
    """Echo every message until the connection ends."""
    with suppress(ConnectionClosedError):
        async for message in connection:
            await connection.send(message)


def serve_asyncio(config: SessionConfig) -> None:
    from wsproto_sip.adapters.asyncio import serve

    async def main() -> None:
        async with serve(echo, HOST, 0, config=config, extensions=deflate) as server:
            say_port(server.addresses[0][1])
            await asyncio.Event().wait()

    asyncio.run(main())


def run_asyncio(uris: Sequence[str], config: SessionConfig) -> None:
    from wsproto_sip.adapters.asyncio import connect

    async def main() -> None:
        for uri in uris:
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(PATIENCE),
                    connect(uri, config=config, extensions=deflate) as connection,
                ):
                    await echo(connection)

    asyncio.run(main())


def serve_blocking(config: SessionConfig) -> None:
    from wsproto_sip.adapters.blocking import Connection, serve

    def handle(connection: Connection) -> None:
        with suppress(ConnectionClosedError):
            for message in connection:
                connection.send(message)

    with serve(handle, HOST, 0, config=config, extensions=deflate) as server:
        say_port(server.addresses[0][1])
        threading.Event().wait()


def run_blocking(uris: Sequence[str], config: SessionConfig) -> None:
    from wsproto_sip.adapters.blocking import connect

    for uri in uris:
        with (
            suppress(ConnectionClosedError, TimeoutError),
            connect(uri, config=config, extensions=deflate) as connection,
        ):
            while True:
                connection.send(connection.recv(PATIENCE))


def serve_trio(config: SessionConfig) -> None:
    import trio

    from wsproto_sip.adapters.trio import serve

    async def main() -> None:
        async with serve(echo, HOST, 0, config=config, extensions=deflate) as server:
            say_port(server.addresses[0][1])
            await trio.sleep_forever()

    trio.run(main)


def run_trio(uris: Sequence[str], config: SessionConfig) -> None:
    import trio

    from wsproto_sip.adapters.trio import connect

    async def main() -> None:
        for uri in uris:
            with trio.move_on_after(PATIENCE):
                async with connect(uri, config=config, extensions=deflate) as connection:
                    await echo(connection)

    trio.run(main)


def serve_uvicorn(config: SessionConfig) -> None:
    import uvicorn

    from wsproto_sip.adapters.uvicorn import WebSocketProtocol

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            with suppress(OSError):
                await send({**message, "type": "websocket.send"})

    size = config.limits.max_message_size
    assert size is not None
    protocol: Any = WebSocketProtocol
    settings = uvicorn.Config(
        application, ws=protocol, ws_max_size=size, lifespan="off", log_config=None
    )
    listener = socket.create_server((HOST, 0))
    say_port(listener.getsockname()[1])
    uvicorn.Server(settings).run(sockets=[listener])


def serve_command(config: SessionConfig) -> None:
    """Replace this process by ``wsproto-sip serve``, which prints its port itself."""
    options = ["--port", "0", "--max-message-size", str(config.limits.max_message_size)]
    os.execv(sys.executable, [sys.executable, "-m", "wsproto_sip", "serve", *options])


SERVERS: dict[str, Callable[[SessionConfig], None]] = {
    "Connection": serve_connection,
    "asyncio": serve_asyncio,
    "blocking": serve_blocking,
    "trio": serve_trio,
    "uvicorn": serve_uvicorn,
    "wsproto-sip serve": serve_command,
}
CLIENTS: dict[str, Callable[[Sequence[str], SessionConfig], None]] = {
    "Connection": run_connection,
    "asyncio": run_asyncio,
    "blocking": run_blocking,
    "trio": run_trio,
}


def main() -> None:
    """Run one of the parties."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    sides = parser.add_subparsers(dest="side", required=True)
    sides.add_parser("server").add_argument("name", choices=SERVERS)
    client = sides.add_parser("client")
    client.add_argument("name", choices=CLIENTS)
    client.add_argument("uri")
    client.add_argument("count", type=int)
    client.add_argument("agent")
    options = parser.parse_args()
    config = LARGE if options.large else DEFAULT
    if options.side == "server":
        SERVERS[options.name](config)
        return
    cases = [
        f"{options.uri}/runCase?case={number}&agent={options.agent}"
        for number in range(1, options.count + 1)
    ]
    # Connecting is enough to have the report written.
    end = f"{options.uri}/updateReports?agent={options.agent}"
    CLIENTS[options.name]([*cases, end], config)


if __name__ == "__main__":
    main()
