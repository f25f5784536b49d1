"""The management commands over HTTP/1.1 on this machine's own address.

``POST /`` takes JSON-RPC 2.0, ``GET /metrics`` gives the statistics in Prometheus' text format.
There are no passwords: every program on the machine may ask. Web pages may not, whatever their
browser can reach. The Host has to be a name of this machine, so that no name of theirs can be made
to point here; a request with an Origin is refused; commands have to be called JSON, which browsers
do not send elsewhere without asking first, and asking is never answered with yes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import h11

from ..events import Request
from ..policy.decision import Continue, RequestContext
from ..policy.host import HostPolicy
from ..server.codecs.jsonrpc import answer, decode_calls
from ..server.prometheus import CONTENT_TYPE, render
from .management import CLIENT_SECONDS, MAX_MESSAGE, StreamChannel

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..server.commands import Command, Result
    from ..server.statistics import Statistics

__all__ = ["HttpChannel"]

#: Where it listens.
HOST: Final = "127.0.0.1"

#: Octets of a request's head, and requests of one connection.
MAX_HEAD: Final = 16 * 1024
MAX_REQUESTS: Final = 1000

_is_ours: Final = HostPolicy(["localhost", "127.0.0.1", "[::1]"])


class _Answer(Exception):  # not all of them are errors
    """What a request is answered with.

    Args:
        status: The status code.
        body: The body.
        headers: Header fields besides those that every answer has.
    """

    def __init__(self, status: int, body: bytes = b"", **headers: str) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = [
            (name.replace("_", "-").encode("ascii"), value.encode("ascii"))
            for name, value in headers.items()
        ]


def _fault(status: int, text: str, **headers: str) -> _Answer:
    body = f"{text}\n".encode("ascii")
    return _Answer(status, body, content_type="text/plain; charset=utf-8", **headers)


class HttpChannel(StreamChannel):
    """Commands and statistics over HTTP.

    Args:
        port: The port on 127.0.0.1; 0 for a free one.
        execute: Executes a command.
        statistics: What ``/metrics`` shows.
    """

    def __init__(
        self, port: int, execute: Callable[[Command], Result], statistics: Statistics
    ) -> None:
        super().__init__()
        self._port = port
        self._execute = execute
        self._statistics = statistics

    @property
    def name(self) -> str:
        """Its URL; with the real port once it is open."""
        return f"http://{HOST}:{self._port}/"

    async def open(self) -> None:
        """Listens.

        Raises:
            OSError: It cannot be listened there.
        """
        self._server = await asyncio.start_server(self.connected, HOST, self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request after the other."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        for _ in range(MAX_REQUESTS):
            method = b""
            try:
                async with asyncio.timeout(CLIENT_SECONDS):
                    request = await self._next_event(connection, reader)
                    if not isinstance(request, h11.Request):
                        return
                    method = request.method
                    reply = await self._reply(connection, reader, request)
            except h11.RemoteProtocolError as exc:
                reply = _fault(exc.error_status_hint, "malformed request")
            self._write(connection, writer, reply, method)
            async with asyncio.timeout(CLIENT_SECONDS):
                await writer.drain()
            if connection.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
                return
            connection.start_next_cycle()

    @staticmethod
    async def _next_event(
        connection: h11.Connection, reader: asyncio.StreamReader
    ) -> h11.Event | type[h11.PAUSED]:
        while (event := connection.next_event()) is h11.NEED_DATA:
            connection.receive_data(await reader.read(MAX_MESSAGE))
        return event  # type: ignore[return-value]

    async def _reply(
        self, connection: h11.Connection, reader: asyncio.StreamReader, request: h11.Request
    ) -> _Answer:
        try:
            self._check(request)
            body = b""
            while isinstance(event := await self._next_event(connection, reader), h11.Data):
                body += event.data
                if len(body) > MAX_MESSAGE:
                    raise _fault(413, f"more than {MAX_MESSAGE} octets")
        except _Answer as reply:
            return reply
        if request.method == b"POST":
            answered = answer(decode_calls(body, max_octets=MAX_MESSAGE), self._execute)
            if not answered:
                return _Answer(204)
            return _Answer(200, answered, content_type="application/json")
        return _Answer(200, render(self._statistics).encode("ascii"), content_type=CONTENT_TYPE)

    @staticmethod
    def _check(request: h11.Request) -> None:
        """Refuses what is not to be answered, before its body is read."""
        headers = dict(request.headers)
        host = headers.get(b"host", b"").decode("latin-1")
        context = RequestContext(Request(host=host, target="/"))
        if not isinstance(_is_ours(context), Continue):
            raise _fault(403, "Host is not a name of this machine")
        if b"origin" in headers:
            raise _fault(403, "not for web pages")
        allowed = {b"/": (b"POST",), b"/metrics": (b"GET", b"HEAD")}.get(request.target)
        if allowed is None:
            raise _fault(404, "commands are at /, statistics at /metrics")
        if request.method not in allowed:
            methods = b", ".join(allowed).decode("ascii")
            raise _fault(405, f"only {methods}", allow=methods)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip(b" \t").lower()
        if request.method == b"POST" and kind != b"application/json":
            raise _fault(415, "only application/json")

    @staticmethod
    def _write(
        connection: h11.Connection, writer: asyncio.StreamWriter, reply: _Answer, method: bytes
    ) -> None:
        headers = [*reply.headers, (b"cache-control", b"no-store")]
        if reply.status != 204:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        if connection.their_state is not h11.DONE:
            # What is left of the request is not read.
            headers.append((b"connection", b"close"))
        head = connection.send(h11.Response(status_code=reply.status, headers=headers))
        body = b""
        if method != b"HEAD" and reply.body:
            body = connection.send(h11.Data(data=reply.body)) or b""
        end = connection.send(h11.EndOfMessage()) or b""
        writer.write((head or b"") + body + end)
