"""What the clients of every adapter must do with refusals whose bodies are truncated, or endless.

Theory of operation: the server is a socket that writes what the test defines, and then keeps
silent, or ends TCP.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.adapters import _driver
from wsproto_sip.adapters._driver import BODY_KEPT
from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import Cause

from ._policies import Policies
from ._suite import HOST, reset

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

WHY = b"X-Why: because\r\n"
LONG = b"Content-Length: 1000\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

#: Responses, and the parts of their bodies that arrive.
REFUSALS = {
    "body cut off": (b"HTTP/1.1 403 No\r\n" + WHY + LONG + b"\r\nonly this", b"only this"),
    "no body at all": (b"HTTP/1.1 503 Later\r\n" + WHY + LONG + b"\r\n", b""),
    "body without a length": (b"HTTP/1.1 200 OK\r\n" + WHY + b"\r\n<p>", b"<p>"),
    "chunk cut off": (b"HTTP/1.1 500 Oh\r\n" + WHY + CHUNKED + b"\r\n5\r\nabc", b"abc"),
    "no last chunk": (b"HTTP/1.1 502 Bad\r\n" + WHY + CHUNKED + b"\r\n3\r\nabc\r\n", b"abc"),
}

#: Answers that end the handshake and refuse nothing, and what the program is told of them.
INVALID = {
    "another protocol": (b"SSH-2.0-OpenSSH_9.2\r\n", "HTTP"),
    "wrong key": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        "Sec-WebSocket-Accept",
    ),
    "unknown coding": (b"HTTP/1.1 503 Later\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer"),
    "endless head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 20_000, "longer"),
}


@asynccontextmanager
async def answering(answer: bytes, way: str, repeated: bytes = b"") -> AsyncIterator[int]:
    """Run a server that writes a response and ends TCP, or does nothing more.

    Args:
        answer: The response.
        way: ``close``, ``reset``, or anything else.
        repeated: Bytes to write after that, again and again.
    """
    listener = socket.create_server((HOST, 0))
    listener.setblocking(False)
    loop = asyncio.get_running_loop()

    async def serve() -> None:
        while True:
            sock, _ = await loop.sock_accept(listener)
            with sock, suppress(OSError):
                request = b""
                while not request.endswith(b"\r\n\r\n"):
                    request += await loop.sock_recv(sock, 65536)
                await loop.sock_sendall(sock, answer)
                while repeated:
                    await loop.sock_sendall(sock, repeated)
                if way == "reset":
                    reset(sock)
                elif way != "close":
                    await loop.sock_recv(sock, 65536)

    task = asyncio.create_task(serve())
    try:
        yield listener.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        listener.close()


class Refusals(Policies):
    """All the tests."""

    def refused(
        self, answer: bytes, way: str, repeated: bytes = b"", config: SessionConfig | None = None
    ) -> HandshakeRejected:
        """Return the rejection that a client reports."""
        told: list[HandshakeRejected] = []

        async def scenario() -> None:
            async with answering(answer, way, repeated) as port:
                with pytest.raises(HandshakeRejected) as caught:
                    async with self.client(f"ws://{HOST}:{port}", config=config or SessionConfig()):
                        pass
                told.append(caught.value)

        self.run(scenario())
        return told[0]

    @pytest.mark.parametrize("refusal", REFUSALS)
    @pytest.mark.parametrize("way", ["close", "reset", "silence"])
    def test_refusal_with_truncated_body_keeps_its_status(
        self, refusal: str, way: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_driver, "_BODY_TIME", 0.02)
        answer, body = REFUSALS[refusal]
        rejection = self.refused(answer, way)
        assert rejection.status_code == int(answer[9:12])
        assert rejection.header(b"x-why") == b"because"
        assert rejection.body == body

    def test_refusal_with_invalid_chunks_keeps_its_status(self) -> None:
        answer = b"HTTP/1.1 401 Who\r\n" + WHY + CHUNKED + b"\r\n3\r\nabc\r\nzz\r\n"
        rejection = self.refused(answer, "silence")
        assert rejection.status_code == 401
        assert rejection.header(b"x-why") == b"because"

    @pytest.mark.parametrize("length", [b"", b"Content-Length: 1000000000\r\n"])
    def test_endless_refusal_is_read_up_to_the_bound(self, length: bytes) -> None:
        answer = b"HTTP/1.1 200 OK\r\n" + WHY + length + b"\r\n"
        rejection = self.refused(answer, "silence", b"x" * 1000)
        assert rejection.status_code == 200
        assert rejection.body == b"x" * BODY_KEPT

    def test_refusal_with_a_slow_body_keeps_its_status(self) -> None:
        answer, body = REFUSALS["body cut off"]
        told: list[HandshakeRejected] = []
        # On a busy machine, the head itself may come too late; then it is tried with more time.
        for seconds in (0.1, 1.0, 10.0):
            with suppress(TimeoutError):
                config = SessionConfig(open_timeout=seconds)
                told.append(self.refused(answer, "silence", config=config))
                break
        assert [(rejection.status_code, rejection.body) for rejection in told] == [(403, body)]

    @pytest.mark.parametrize("case", INVALID)
    def test_invalid_answer_of_a_server_that_waits_is_told_at_once(self, case: str) -> None:
        answer, why = INVALID[case]
        # Nothing but the answer itself ends it.
        config = SessionConfig(open_timeout=None, close_timeout=None)

        async def scenario() -> None:
            async with answering(answer, "silence") as port:
                with pytest.raises(ConnectionClosedError, match=why) as caught:
                    async with self.client(f"ws://{HOST}:{port}", config=config):
                        pass
                assert caught.value.event.cause is Cause.PROTOCOL_ERROR

        self.run(scenario())
