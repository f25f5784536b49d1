"""Accepting connections on asyncio, also with too few descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.peers._support import HOST, run
from wsproto_sip.adapters.asyncio.listening import Listener, listen, open_sockets

if TYPE_CHECKING:
    from collections.abc import Callable

LOGGER = logging.getLogger("wsproto_sip.test")


class Greeter(asyncio.Protocol):
    """Sends a greeting, and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(b"hello")
        transport.close()


class Scarce(socket.socket):
    """A listening socket whose process has no descriptors for a while."""

    failures: list[OSError]
    attempts = 0

    def accept(self) -> Any:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop()
        return super().accept()


def scarce(failures: list[OSError]) -> Scarce:
    sock = Scarce()
    sock.failures = failures
    sock.setblocking(False)
    sock.bind((HOST, 0))
    sock.listen()
    return sock


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  # polled on purpose
        await asyncio.sleep(0)


async def greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


def test_many_connections_at_once_are_accepted() -> None:
    async def scenario() -> None:
        sockets = await open_sockets(HOST, 0, backlog=300)
        listener = await listen(Greeter, sockets, LOGGER)
        port = sockets[0].getsockname()[1]
        assert await asyncio.gather(*[greeting(port) for _ in range(150)]) == [b"hello"] * 150
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await greeting(port)

    run(scenario())


def test_lack_of_descriptors_is_logged_once_and_pauses(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio alone would log a hundred tracebacks per second."""
    few = OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario() -> None:
        sock = scarce([few, few, ConnectionAbortedError(), few])
        listener = await listen(Greeter, [sock], LOGGER)
        assert await greeting(sock.getsockname()[1]) == b"hello"
        assert sock.attempts < 10
        sock.failures = [few]
        waiting = asyncio.ensure_future(greeting(sock.getsockname()[1]))
        await until(lambda: not sock.failures)
        # In the middle of a pause.
        listener.close()
        with pytest.raises(OSError, match=r"reset|aborted"):
            await waiting
        await listener.wait_closed()

    run(scenario())
    assert caplog.messages == ['accept-failed reason="Too many open files" failures=1']


def test_pending_tls_handshakes_are_dropped_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "wsproto_sip.test")

    async def scenario() -> None:
        sockets = await open_sockets(HOST, 0)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        listener = await listen(Greeter, sockets, LOGGER, ssl=context)
        port = sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"this is not TLS\r\n\r\n")
        await reader.read()
        writer.close()
        await until(lambda: "opening-failed reason=" in caplog.text)
        silent, other = await asyncio.open_connection(HOST, port)
        await until(lambda: listener._opening)
        listener.close()
        await listener.wait_closed()
        assert await silent.read() == b""
        other.close()

    run(scenario())


@pytest.mark.parametrize("closes", [True, False])
def test_stop_in_the_turn_in_which_a_tls_handshake_completes(closes: bool) -> None:
    """The transport still obeys abort(), even if its protocol has closed it before."""
    authority = trustme.CA()
    here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("edge.test").configure_cert(here)
    there = ssl.create_default_context()
    authority.configure_trust(there)
    loop: asyncio.AbstractEventLoop
    listener: Listener

    class Closing(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport
            opened.append(self)
            if closes:
                transport.close()
            listener.close()
            stopping.append(loop.create_task(listener.wait_closed()))

        def connection_lost(self, exc: Exception | None) -> None:
            lost.set()

    opened: list[Closing] = []
    stopping: list[asyncio.Task[None]] = []
    lost = asyncio.Event()

    async def scenario() -> None:
        nonlocal listener, loop
        loop = asyncio.get_running_loop()
        sockets = await open_sockets(HOST, 0)
        port = sockets[0].getsockname()[1]
        listener = await listen(Closing, sockets, LOGGER, ssl=here)
        sock = await asyncio.to_thread(socket.create_connection, (HOST, port))
        # This client completes the handshake and does nothing more.
        with await asyncio.to_thread(there.wrap_socket, sock, server_hostname="edge.test"):
            await until(lambda: stopping)
            await stopping[0]
            assert not lost.is_set()
            opened[0].transport.abort()
            async with asyncio.timeout(10):
                await lost.wait()

    run(scenario())


def test_certificates_may_be_exchanged_while_it_listens() -> None:
    authority = trustme.CA()
    there = ssl.create_default_context()
    authority.configure_trust(there)
    contexts = []
    for name in ("one.test", "two.test"):
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        authority.issue_cert(name).configure_cert(contexts[-1])

    async def scenario() -> None:
        sockets = await open_sockets(HOST, 0)
        port = sockets[0].getsockname()[1]
        listener = await listen(Greeter, sockets, LOGGER, ssl=lambda: contexts[0])
        for name in ("one.test", "two.test"):
            reader, writer = await asyncio.open_connection(
                HOST, port, ssl=there, server_hostname=name
            )
            assert await reader.read()
            writer.close()
            await writer.wait_closed()
            contexts.pop(0)
        listener.close()
        await listener.wait_closed()

    run(scenario())


def test_waiting_connections_are_accepted_before_the_end() -> None:
    async def scenario() -> None:
        sockets = await open_sockets(HOST, 0)
        listener = Listener(Greeter, sockets, LOGGER, {})
        with socket.create_connection(sockets[0].getsockname()) as client:
            listener.accept_waiting()
            listener.close()
            client.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(client, 100) == b"hello"
            await listener.wait_closed()

    run(scenario())


def test_loop_without_readers_uses_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def lacking(*_: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(loop, "add_reader", lacking)
        monkeypatch.setattr(loop, "remove_reader", lacking)
        sockets = await open_sockets(HOST, 0)
        listener = await listen(Greeter, sockets, LOGGER)
        assert listener.servers[0].is_serving()
        # It accepts them itself.
        listener.accept_waiting()
        listener.close()
        assert not listener.servers[0].is_serving()

    run(scenario())


def test_socket_options_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        [one] = await open_sockets(HOST, 0, reuse_port=True, reuse_address=False)
        port = one.getsockname()[1]
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        [two] = await open_sockets([HOST, HOST], port, reuse_port=True, family=socket.AF_INET)
        two.close()
        with pytest.raises(OSError, match=r"cannot bind to .*: address already in use"):
            await open_sockets(HOST, port)
        one.close()
        every = await open_sockets(None, 0)
        assert {sock.family for sock in every} >= {socket.AF_INET}
        for sock in every:
            sock.close()

        def lacking(*_: Any) -> None:
            raise OSError(errno.EAFNOSUPPORT, "no such family")

        with monkeypatch.context() as monkey:
            monkey.setattr(socket, "socket", lacking)
            with pytest.raises(OSError, match=r"no address of '127.0.0.1' can be listened on"):
                await open_sockets(HOST, 0)

    run(scenario())
