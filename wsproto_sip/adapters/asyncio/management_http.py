"""Management commands over HTTP/1.1 on the loopback address.

``POST /`` accepts JSON-RPC 2.0, ``GET /metrics`` returns metrics in Prometheus' text format,
``GET /health`` and ``GET /ready`` report whether the server is alive and accepts new connections.

Every program on the machine may send requests, unless the channel has a token: then requests must
contain it as a Bearer token (RFC 6750 §2.1), for metrics too. Web pages may not, whatever their
browser can reach: the Host must be a name of this machine, so that no other name can be pointed
here; a request with an Origin is refused; and commands must be sent as JSON, for which browsers ask
permission from other origins, which is never given.
"""

from __future__ import annotations

import asyncio
import hmac
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11

from ...events import Request
from ...policy.decision import Continue, Reject, RequestContext
from ...policy.health import HealthPolicy
from ...policy.host import HostPolicy
from ...server.management.jsonrpc import decode_calls
from ...server.management.prometheus import CONTENT_TYPE, Family, render
from .listening import open_sockets
from .management import BACKLOG, CLIENT_SECONDS, MAX_MESSAGE, StreamChannel, answered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ...server.management.commands import Execute
    from .management import Anywhere

__all__ = ["HttpChannel"]

#: The address it listens on.
HOST: Final = "127.0.0.1"

#: Bytes of a request's head, and requests of one connection.
MAX_HEAD: Final = 16 * 1024
MAX_REQUESTS: Final = 1000

#: The same paths as on the port of WebSocket connections.
_health: Final = HealthPolicy("/health", "/ready")
_is_ours: Final = HostPolicy(["localhost", "127.0.0.1", "[::1]"])


class _Answer(Exception):  # not all of them are errors
    """The answer to a request.

    Args:
        status: The status code.
        body: The body.
        headers: Header fields in addition to those of every answer.
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
        families: Returns the metrics for ``/metrics``.
        ready: Returns whether new connections are accepted, for ``/ready``.
        refused: Called with each request that contained another token.
        token: The token that requests must contain, except for ``/health`` and ``/ready``;
            ``None`` for no token.
        anywhere: Executes a command that may concern other servers.
    """

    def __init__(
        self,
        port: int,
        execute: Execute,
        families: Callable[[], Iterable[Family]],
        *,
        ready: Callable[[], bool] = lambda: True,
        token: str | None = None,
        refused: Callable[[], object] = lambda: None,
        anywhere: Anywhere | None = None,
    ) -> None:
        super().__init__()
        self._port = port
        self._execute = execute
        self._anywhere = anywhere
        self._families = families
        self._ready = ready
        self._refused = refused
        self._authorization = None if token is None else f"bearer {token}".encode("ascii")

    @property
    def name(self) -> str:
        """Its URL, with the actual port once it is open."""
        return f"http://{HOST}:{self._port}/"

    async def open(self) -> None:
        """Listen.

        Raises:
            OSError: The server cannot listen there.
        """
        sockets = await open_sockets(HOST, self._port, backlog=BACKLOG)
        self._port = sockets[0].getsockname()[1]
        await self.listen(sockets)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
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
            if reply.status < HTTPStatus.BAD_REQUEST:
                self.answered()
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
                    raise _fault(413, f"more than {MAX_MESSAGE} bytes")
        except _Answer as reply:
            return reply
        if request.method == b"POST":
            calls = decode_calls(body, max_bytes=MAX_MESSAGE)
            found = await answered(calls, self._execute, self._anywhere)
            if not found:
                return _Answer(204)
            return _Answer(200, found, content_type="application/json")
        return _Answer(200, render(self._families()).encode("utf-8"), content_type=CONTENT_TYPE)

    def _check(self, request: h11.Request) -> None:
        """Refuse requests that must not be answered, before their body is read."""
        headers = dict(request.headers)
        host = headers.get(b"host", b"").decode("latin-1")
        context = RequestContext(Request(host=host, target="/"))
        if not isinstance(_is_ours(context), Continue):
            raise _fault(403, "Host is not a name of this machine")
        if b"origin" in headers:
            raise _fault(403, "not for web pages")
        if request.method in (b"GET", b"HEAD"):
            self._check_health(request.target.decode("latin-1"))
        if self._authorization is not None:
            scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
            given = scheme.lower() + b" " + token.strip(b" ")
            if not hmac.compare_digest(given, self._authorization):
                if token:
                    self._refused()
                raise _fault(401, "a token is required", www_authenticate="Bearer")
        allowed = {b"/": (b"POST",), b"/metrics": (b"GET", b"HEAD")}.get(request.target)
        if allowed is None:
            raise _fault(404, "not one of /, /metrics, /health and /ready")
        if request.method not in allowed:
            methods = b", ".join(allowed).decode("ascii")
            raise _fault(405, f"only {methods}", allow=methods)
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip(b" \t").lower()
        if request.method == b"POST" and kind != b"application/json":
            raise _fault(415, "only application/json")

    def _check_health(self, target: str) -> None:
        """Answer health checks, which need no token."""
        request = Request(host="", target=target)
        answer = _health(RequestContext(request, upgrade=False, enabled=self._ready()))
        if isinstance(answer, Reject):
            raise _Answer(answer.status, answer.body, content_type="text/plain; charset=utf-8")

    @staticmethod
    def _write(
        connection: h11.Connection, writer: asyncio.StreamWriter, reply: _Answer, method: bytes
    ) -> None:
        headers = [*reply.headers, (b"cache-control", b"no-store")]
        if reply.status != 204:
            headers.append((b"content-length", b"%d" % len(reply.body)))
        if connection.their_state is not h11.DONE:
            # The rest of the request is not read.
            headers.append((b"connection", b"close"))
        head = connection.send(h11.Response(status_code=reply.status, headers=headers))
        body = b""
        if method != b"HEAD" and reply.body:
            body = connection.send(h11.Data(data=reply.body)) or b""
        end = connection.send(h11.EndOfMessage()) or b""
        writer.write((head or b"") + body + end)
