"""The exceptions of connecting, serving and connections, shared by all adapters.

All of them are a :class:`~wsproto_sip.errors.WsprotoSipError`::

    WsprotoSipError
    ├── ConnectionClosedError            the connection has ended, or is closing
    ├── HandshakeRejected                the response to the request was a refusal
    ├── ProxyError (ConnectionError)     a proxy did not open the way to the server
    └── ClientDisconnected (OSError)     the same as the first, for ASGI applications

``OSError`` and ``TimeoutError`` mean that no connection was made at all, ``LocalProtocolError``
that something cannot be sent as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import WsprotoSipError
from ..policy.decision import Respond

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..events import Event
    from ..session.lifecycle import ConnectionClosed
    from ..typing import Headers

__all__ = ["ClientDisconnected", "ConnectionClosedError", "HandshakeRejected", "ProxyError"]

#: RFC 6455 §7.4.1: normal closure, going away, and a close frame without a code.
_IN_ORDER: Final = frozenset({1000, 1001, 1005})


class ConnectionClosedError(WsprotoSipError):
    """The connection is closed, or closing.

    Args:
        event: How it ended.

    Attributes:
        event: How it ended.
    """

    def __init__(self, event: ConnectionClosed) -> None:
        super().__init__(event)
        self.event = event

    @property
    def code(self) -> int:
        """The code of the peer's close frame, or 1005 or 1006 as in the event."""
        return self.event.code

    @property
    def reason(self) -> str:
        """The reason in that frame, or what is known about the cause."""
        return self.event.reason

    @property
    def in_order(self) -> bool:
        """Whether the peer closed with 1000, 1001 or no code (RFC 6455 §7.4.1)."""
        return self.event.close_rcvd is not None and self.event.code in _IN_ORDER

    def __str__(self) -> str:
        event = self.event
        reason = f": {event.reason}" if event.reason else ""
        return f"connection closed with {event.code} ({event.cause.value}){reason}"


class HandshakeRejected(WsprotoSipError):
    """The opening handshake was answered with a failure status (RFC 6455 §4.2.2).

    Connecting raises it on a client. The code of a server raises it to reject a request.

    Args:
        status_code: The HTTP status code.
        headers: The response's header fields.
        body: The response's body; a client keeps the first 64 KiB.
    """

    def __init__(
        self, status_code: int, headers: Iterable[tuple[bytes, bytes]] = (), body: bytes = b""
    ) -> None:
        super().__init__(status_code, headers, body)
        self.status_code = status_code
        self.headers: Headers = list(headers)
        self.body = body

    def __str__(self) -> str:
        return f"the handshake was rejected with status {self.status_code}"

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first header field with a name.

        Args:
            name: The name, in lower case.
        """
        return next((value for key, value in self.headers if key.lower() == name), None)

    def events(self) -> list[Event]:
        """Return the events with which a server rejects.

        Raises:
            ValueError: The status is not that of a final response.
            LocalProtocolError: A header field cannot be sent.
        """
        return Respond(self.status_code, headers=self.headers, body=self.body).events()


class ProxyError(WsprotoSipError, ConnectionError):
    """A proxy did not open the way to the server.

    Args:
        message: What the proxy did instead.
        status_code: The HTTP status code of its answer; ``None`` without an answer.
        headers: The answer's header fields.
        transient: Whether another attempt may succeed.
    """

    def __init__(
        self,
        message: str,
        status_code: int | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        transient: bool = True,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.headers: Headers = list(headers)
        self.transient = transient


class ClientDisconnected(WsprotoSipError, OSError):
    """Raised to an ASGI application that sends on a closed connection."""
