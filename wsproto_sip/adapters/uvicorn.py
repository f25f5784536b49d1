"""WebSockets of ASGI applications under uvicorn (the extra ``uvicorn``).

``uvicorn --ws wsproto_sip.adapters.uvicorn:WebSocketProtocol application:app``

Theory of operation: uvicorn hands a transport over when it has read a request to upgrade, and gives
that request once more as octets. From there on this is a connection on asyncio like any other,
whose handler is the application: limits, keep-alive, back-pressure and closing are the session's.
``--ws-max-size``, ``--ws-max-queue``, ``--ws-ping-interval``, ``--ws-ping-timeout`` and
``--ws-per-message-deflate`` are followed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from ..config import SessionConfig
from ..events import AcceptConnection, RejectConnection, RejectData
from ..extensions import PerMessageDeflate
from ..frame_protocol import CloseReason
from ..keepalive import KeepaliveConfig, Mechanism
from ..lifecycle import Cause
from ..limits import Limits
from ..session import Session
from ..states import ConnectionState, ConnectionType
from ._asyncio_connection import Connection
from ._common import ConnectionClosedError, HandshakeRejected, adapted

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from ..events import Event

    Message = MutableMapping[str, Any]

__all__ = ["ClientDisconnected", "WebSocketProtocol"]

_CONNECTING = ConnectionState.CONNECTING


class ClientDisconnected(OSError):
    """The application sends to a connection that is closed."""


def session_config(config: Config) -> SessionConfig:
    """What uvicorn's options say about sessions.

    Args:
        config: uvicorn's configuration.
    """
    interval, timeout = config.ws_ping_interval, config.ws_ping_timeout
    keepalive = KeepaliveConfig(mechanism=Mechanism.NONE)
    if interval:
        keepalive = KeepaliveConfig(
            interval=min(max(interval, 1.0), 3600.0), answer_timeout=min(timeout or 3600.0, 3600.0)
        )
    # There is no connection without room for a message.
    queue = max(config.ws_max_queue, 1)
    limits = Limits(max_message_size=config.ws_max_size, max_queued_messages=queue)
    return adapted(SessionConfig(limits=limits, keepalive=keepalive))


class WebSocketProtocol(Connection):
    """One connection of an application; uvicorn makes them.

    Args:
        config: uvicorn's configuration.
        server_state: What its connections share.
        app_state: What the application's lifespan has left for requests.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = _loop or asyncio.get_running_loop()
        session = Session(ConnectionType.SERVER, now=loop.time(), config=session_config(config))
        super().__init__(session)
        self._config = config
        self._state = server_state
        self._app_state = app_state
        self._logger = logging.getLogger("uvicorn.error")
        # What the application was told; somebody in front of it may have changed it since.
        self._scope: dict[str, Any] = {}
        self._told_connect = False
        # Whether the application has said its last word.
        self._ended = False

    # -- for uvicorn -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The transport is handed over."""
        # uvicorn keeps a set of protocols of its own kinds.
        cast("set[Any]", self._state.connections).add(self)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """The request that uvicorn has read."""
        self._dispatch(self.session.receive(data, self._time()))
        self._settle()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        cast("set[Any]", self._state.connections).discard(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server shuts down."""
        self.begin_close(CloseReason.SERVICE_RESTART, cause=Cause.SHUTDOWN)

    # -- for the application -----------------------------------------------------------------------

    def _requested(self) -> None:
        self._scope = self._make_scope()
        task = self._loop.create_task(self._run())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _make_scope(self) -> dict[str, Any]:
        request = self.request
        target, _, query = request.target.partition("?") if request else ("", "", "")
        root = self._config.root_path
        sockname = self.transport.get_extra_info("sockname")
        peername = self.transport.get_extra_info("peername")
        headers = request.extra_headers if request else []
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if self.transport.get_extra_info("sslcontext") else "ws",
            "server": sockname[:2] if isinstance(sockname, tuple) else (sockname, None),
            "client": peername[:2] if isinstance(peername, tuple) else None,
            "root_path": root,
            "path": root + unquote(target),
            "raw_path": root.encode("ascii") + target.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [(b"host", request.host.encode("ascii") if request else b""), *headers],
            "subprotocols": request.subprotocols if request else [],
            "state": self._app_state.copy(),
            "extensions": {"websocket.http.response": {}},
        }

    async def _run(self) -> None:
        """The life of the connection: that of the application's call."""
        code = CloseReason.NORMAL_CLOSURE
        try:
            await cast("Any", self._config.loaded_app)(
                self._scope, self._asgi_receive, self._asgi_send
            )
            if self.session.state is _CONNECTING:
                self._logger.error("the application returned without answering the handshake")
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            code = CloseReason.SERVICE_RESTART
            raise
        except Exception:
            code = CloseReason.INTERNAL_ERROR
            self._logger.exception("the application failed")
        finally:
            if self.session.state is _CONNECTING:
                self.reject(HandshakeRejected(500))
            self.begin_close(code)

    async def _asgi_receive(self) -> Message:
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        try:
            data = await self.recv()
        except ConnectionClosedError as error:
            sent = error.event.close_sent
            code = sent.code if error.code == CloseReason.ABNORMAL_CLOSURE and sent else error.code
            return {"type": "websocket.disconnect", "code": int(code), "reason": error.reason}
        kind = "text" if type(data) is str else "bytes"
        return {"type": "websocket.receive", kind: data}

    async def _asgi_send(self, message: Message) -> None:
        kind = message["type"]
        state = self.session.state
        if kind == "websocket.send" and state is not _CONNECTING and not self._ended:
            data = message.get("bytes")
            try:
                await self.send(message["text"] if data is None else data)
            except ConnectionClosedError as error:
                raise ClientDisconnected(str(error)) from None
        elif self._ended or state is ConnectionState.CLOSED:
            if self._ended:
                raise RuntimeError(f"{kind} behind the end of the connection")
            raise ClientDisconnected(str(self._closed_error()))
        elif state is _CONNECTING:
            self._answer(kind, message)
        elif state is ConnectionState.REJECTING and kind == "websocket.http.response.body":
            self._ended = not message.get("more_body", False)
            self._tell(RejectData(message.get("body", b""), self._ended))
        elif kind == "websocket.close":
            self._ended = True
            self.begin_close(message.get("code") or 1000, message.get("reason") or "")
        else:
            raise RuntimeError(f"{kind} cannot be sent now")

    def _answer(self, kind: str, message: Message) -> None:
        """Answers the handshake."""
        headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        if kind == "websocket.accept":
            extensions = [PerMessageDeflate()] if self._config.ws_per_message_deflate else []
            own = [*self._state.default_headers, *headers]
            self.accept(AcceptConnection(message.get("subprotocol"), [*extensions], own))
            outcome = "[accepted]"
        elif kind == "websocket.close":
            self._ended = True
            self.reject(HandshakeRejected(403))
            outcome = "403"
        elif kind == "websocket.http.response.start":
            self._tell(RejectConnection(message["status"], headers, has_body=True))
            outcome = str(message["status"])
        else:
            raise RuntimeError(f"{kind} does not answer the handshake")
        client = self._scope["client"]
        peer = f"{client[0]}:{client[1]}" if client else ""
        target = self.request.target if self.request else ""
        self._logger.info('%s - "WebSocket %s" %s', peer, target, outcome)

    def _tell(self, event: Event) -> None:
        self.session.send(event, self._time())
        self._settle()
