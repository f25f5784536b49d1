"""WebSockets of ASGI applications under uvicorn (the extra ``uvicorn``).

``uvicorn --ws wsproto_sip.adapters.uvicorn:WebSocketProtocol application:app``

Theory of operation: uvicorn hands over a transport when it has read an upgrade request, and passes
that request again as bytes. From there on this is an asyncio connection like any other, whose
handler is the application: limits, keep-alive, back-pressure and closing are the session's.
``--ws-max-size``, ``--ws-max-queue``, ``--ws-ping-interval``, ``--ws-ping-timeout``,
``--ws-per-message-deflate`` and ``--h11-max-incomplete-event-size`` are respected.
:func:`websocket_protocol` takes further settings, including policies.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast
from urllib.parse import unquote

from ..events import AcceptConnection, RejectConnection, RejectData
from ..extensions import PerMessageDeflate
from ..frame_protocol import CloseReason
from ..limits import Limits
from ..negotiation import RESERVED
from ..session.config import SessionConfig
from ..session.keepalive import KeepaliveConfig, Mechanism
from ..session.lifecycle import Cause
from ..session.session import Session
from ..states import ConnectionState, ConnectionType
from ._arguments import adapted
from ._serving import Serving, run_async
from .asyncio.connection import Connection
from .exceptions import ClientDisconnected, ConnectionClosedError, HandshakeRejected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    from uvicorn.config import Config
    from uvicorn.server import ServerState

    from ..events import Event
    from ..policy.decision import Accept, PolicyChain
    from ..typing import Headers

    Message = MutableMapping[str, Any]

__all__ = ["ClientDisconnected", "WebSocketProtocol", "websocket_protocol"]

_logger = logging.getLogger("uvicorn.error")

_CONNECTING = ConnectionState.CONNECTING

#: Bytes of a request's head if uvicorn sets no bound: uvicorn has read it already, and a head that
#: is acceptable for HTTP must be acceptable here.
_HEAD_SIZE: Final = 128 * 1024

#: How often an application is told of the end of its connection. One that has not understood by
#: then never will, and would keep the processor busy.
_MOST_DISCONNECTS: Final = 100

#: The header fields that say where a body ends.
_FRAMING: Final = frozenset([b"content-length", b"transfer-encoding"])

#: The configuration of sessions, unless uvicorn has an option.
_DEFAULT: Final = SessionConfig(
    limits=Limits(max_handshake_bytes=_HEAD_SIZE, max_header_line=_HEAD_SIZE, max_headers=None)
)


def session_config(config: Config, base: SessionConfig = _DEFAULT) -> SessionConfig:
    """Return the configuration of sessions according to uvicorn's options.

    Args:
        config: uvicorn's configuration.
        base: The configuration for everything else.
    """
    interval, timeout = config.ws_ping_interval, config.ws_ping_timeout
    keepalive = KeepaliveConfig(mechanism=Mechanism.NONE)
    if interval:
        keepalive = KeepaliveConfig(
            interval=min(max(interval, 1.0), 3600.0), answer_timeout=min(timeout or 3600.0, 3600.0)
        )
    # A connection needs room for at least one message.
    queue = max(config.ws_max_queue, 1)
    limits = replace(base.limits, max_message_size=config.ws_max_size, max_queued_messages=queue)
    if (size := config.h11_max_incomplete_event_size) is not None:
        limits = replace(limits, max_handshake_bytes=size, max_header_line=size)
    return adapted(replace(base, limits=limits, keepalive=keepalive))


class WebSocketProtocol(Connection):
    """One connection of an application, created by uvicorn.

    Args:
        config: uvicorn's configuration.
        server_state: The state shared by its connections.
        app_state: The state set by the application's lifespan.
    """

    _base: ClassVar[SessionConfig] = _DEFAULT
    _serving: ClassVar[Serving[Any]] = Serving(_logger)

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = _loop or asyncio.get_running_loop()
        behaviour = session_config(config, self._base)
        session = Session(ConnectionType.SERVER, now=loop.time(), config=behaviour)
        super().__init__(session)
        self._config = config
        self._state = server_state
        self._app_state = app_state
        # The scope passed to the application; middleware may have changed it since.
        self._scope: dict[str, Any] = {}
        self._told_connect = False
        # How often it was told of the end.
        self._told_disconnect = 0
        # The decision of the policies.
        self._accepted: Accept | None = None
        # The start of the application's own response, until the first part of its body.
        self._response: HandshakeRejected | None = None
        # Whether the application has sent its last event.
        self._ended = False

    # -- for uvicorn -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the transport."""
        # uvicorn's set is typed for its own protocol classes.
        cast("set[Any]", self._state.connections).add(self)
        super().connection_made(transport)
        self._serving.enter(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the transport."""
        cast("set[Any]", self._state.connections).discard(self)
        self._serving.leave(self)
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close the connection because the server shuts down."""
        self.begin_close(CloseReason.SERVICE_RESTART, cause=Cause.SHUTDOWN)

    # -- for the application -----------------------------------------------------------------------

    def _requested(self) -> None:
        task = self._loop.create_task(self._run())
        self._state.tasks.add(task)
        task.add_done_callback(self._state.tasks.discard)

    def _make_scope(self) -> dict[str, Any]:
        request = self.request
        target, _, query = request.target.partition("?") if request else ("", "", "")
        root = self._config.root_path
        sockname = self.transport.get_extra_info("sockname")
        address, port = self.peer
        headers = request.extra_headers if request else []
        return {
            "type": "websocket",
            "asgi": {"version": self._config.asgi_version, "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": "wss" if self.secure else "ws",
            "server": sockname[:2] if isinstance(sockname, tuple) else (sockname, None),
            "client": (address, port or 0) if address else None,
            "root_path": root,
            "path": root + unquote(target),
            "raw_path": root.encode("ascii") + target.encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": [(b"host", request.host.encode("ascii") if request else b""), *headers],
            "subprotocols": request.subprotocols if request else [],
            "state": self._app_state.copy(),
            "extensions": {
                "websocket.http.response": {},
                "wsproto_sip": {"identity": self.identity},
            },
        }

    async def _run(self) -> None:
        """Run the application for the life of the connection."""
        code = CloseReason.NORMAL_CLOSURE
        try:
            self._accepted = await run_async(self._serving.admitting(self))
            if self._accepted is None:
                return
            self._scope = self._make_scope()
            await cast("Any", self._config.loaded_app)(
                self._scope, self._asgi_receive, self._asgi_send
            )
            if self.session.state is _CONNECTING and self._response is None:
                _logger.error("the application returned without answering the handshake")
        except ClientDisconnected:
            pass
        except asyncio.CancelledError:
            code = CloseReason.SERVICE_RESTART
            raise
        except Exception:
            code = CloseReason.INTERNAL_ERROR
            _logger.exception("the application failed")
        finally:
            if self.session.state is _CONNECTING:
                self.reject(self._response or HandshakeRejected(500))
            elif self.session.state is ConnectionState.REJECTING:
                # Other servers complete the response of an application that has returned, too.
                self._tell(RejectData(b"", body_finished=True))
            self.begin_close(code)

    async def _asgi_receive(self) -> Message:
        if not self._told_connect:
            self._told_connect = True
            return {"type": "websocket.connect"}
        try:
            data = await self.recv()
        except ConnectionClosedError as error:
            self._told_disconnect += 1
            if self._told_disconnect > _MOST_DISCONNECTS:
                raise RuntimeError("receive() was called again and again after the end") from None
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
                raise RuntimeError(f"{kind} after the end of the connection")
            raise ClientDisconnected(str(self._closed_error()))
        elif kind == "websocket.http.response.body" and (
            self._response is not None or state is ConnectionState.REJECTING
        ):
            self._send_body(message.get("body", b""), bool(message.get("more_body", False)))
        elif self._response is not None:
            raise RuntimeError(f"{kind} cannot be sent now")
        elif state is _CONNECTING:
            self._answer(kind, message)
        elif kind == "websocket.close":
            self._ended = True
            self.begin_close(message.get("code") or 1000, message.get("reason") or "")
        else:
            raise RuntimeError(f"{kind} cannot be sent now")

    def _answer(self, kind: str, message: Message) -> None:
        """Answer the handshake."""
        # Other servers accept white space around a value.
        given = message.get("headers", ())
        headers = [(bytes(name), bytes(value).strip()) for name, value in given]
        if kind == "websocket.accept":
            self._accept_as_told(message.get("subprotocol"), headers)
            outcome = "[accepted]"
        elif kind == "websocket.close":
            self._ended = True
            self.reject(HandshakeRejected(403))
            outcome = "403"
        elif kind == "websocket.http.response.start":
            # The session frames the body, whatever length the application has promised.
            own = [field for field in headers if field[0].lower() not in _FRAMING]
            response = HandshakeRejected(message["status"], own)
            # Report now what cannot be sent.
            response.events()
            self._response = response
            outcome = str(message["status"])
        else:
            raise RuntimeError(f"{kind} does not answer the handshake")
        client = self._scope["client"]
        peer = f"{client[0]}:{client[1]}" if client else ""
        target = self.request.target if self.request else ""
        _logger.info('%s - "WebSocket %s" %s', peer, target, outcome)

    def _send_body(self, data: bytes, more: bool) -> None:
        """Send a part of the application's own response."""
        self._ended = not more
        response, self._response = self._response, None
        if response is None:
            self._tell(RejectData(data, self._ended))
        elif self._ended:
            response.body = data
            self.reject(response)
        else:
            self._tell(RejectConnection(response.status_code, response.headers, has_body=True))
            self._tell(RejectData(data, body_finished=False))

    def _accept_as_told(self, subprotocol: str | None, headers: Headers) -> None:
        """Accept the handshake, without header fields that an application must not set."""
        accepted = cast("Accept", self._accepted)
        named = [value for name, value in headers if name.lower() == b"sec-websocket-protocol"]
        if subprotocol is None and named:
            subprotocol = named[0].decode("latin-1")
        subprotocol = subprotocol or accepted.subprotocol
        offers = self.request.subprotocols if self.request else []
        if subprotocol is not None and subprotocol not in offers:
            # A client would have to fail the connection (RFC 6455 §4.1).
            _logger.warning("the application chose %r, which was not offered", subprotocol)
            subprotocol = None
        fields = [*self._state.default_headers, *accepted.headers, *headers]
        own = [field for field in fields if field[0].lower() not in RESERVED]
        extensions = [PerMessageDeflate()] if self._config.ws_per_message_deflate else []
        self.accept(AcceptConnection(subprotocol, [*extensions], own))

    def _tell(self, event: Event) -> None:
        self.session.send(event, self._time())
        self._follow_session()


def websocket_protocol(
    *,
    config: SessionConfig = _DEFAULT,
    policies: PolicyChain | None = None,
    resolve: Callable[[WebSocketProtocol, object], Awaitable[object]] | None = None,
) -> type[WebSocketProtocol]:
    """Make a class for uvicorn's ``ws`` option, with settings that uvicorn lacks.

    Args:
        config: The configuration of sessions; options of uvicorn take precedence.
        policies: Decide about each request before the application is called. Their results are in
            the scope: the identity in ``scope["extensions"]["wsproto_sip"]["identity"]``, and the
            corrected address of the client in ``scope["client"]``.
        resolve: An async function that answers the deferred questions of policies. It is called
            with the connection and the question.

    Raises:
        TypeError: An argument is of the wrong type.
    """
    serving: Serving[Any] = Serving(_logger, policies=policies, resolve=resolve, config=config)
    return type("WebSocketProtocol", (WebSocketProtocol,), {"_base": config, "_serving": serving})
