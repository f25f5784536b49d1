"""What the adapters over a session have in common: exceptions, configuration, the client's URI."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, unquote_to_bytes, urljoin, urlsplit

from ..events import AcceptConnection, BytesMessage, RejectConnection, Request, TextMessage
from ..lifecycle import Cause, ConnectionClosed
from ..limits import bound
from ..prepared import PreparedMessage
from ..subprotocols import select_subprotocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..config import SessionConfig
    from ..events import Event
    from ..extensions import Extension
    from ..typing import Headers

__all__ = [
    "BODY_KEPT",
    "ConnectionClosedError",
    "HandshakeRejected",
    "WebSocketURI",
    "adapted",
    "default_answer",
    "lost",
    "make_request",
    "message_event",
    "no_extensions",
    "only_closed",
    "protocol_names",
    "redirected",
]

#: Octets of a rejection's body that a client keeps.
BODY_KEPT: Final = 64 * 1024

#: RFC 6455 §7.4.1: normal closure, going away, and a close frame without a code.
_IN_ORDER: Final = frozenset({1000, 1001, 1005})

#: RFC 3986 §3.3, §3.4: what stays as it is in a path, besides letters, digits and ``_.-~``.
_IN_TARGET: Final = "/%:@!$&'()*+,;="

_DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
#: RFC 9110 §15.4: responses that say where else to ask; 303 asks for GET, as the handshake does.
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
#: What is only for the server it was meant for.
_CONFIDENTIAL: Final = frozenset({b"authorization", b"cookie", b"proxy-authorization"})

_not_in_uri = re.compile(r"[\x00-\x20\x7f]").search


class ConnectionClosedError(Exception):
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
        """The code of the peer's close frame; 1005 and 1006 as in the event."""
        return self.event.code

    @property
    def reason(self) -> str:
        """The reason in it, or what is known about the cause."""
        return self.event.reason

    @property
    def in_order(self) -> bool:
        """Whether the peer closed with 1000, 1001 or no code (RFC 6455 §7.4.1)."""
        return self.event.close_rcvd is not None and self.event.code in _IN_ORDER

    def __str__(self) -> str:
        event = self.event
        reason = f": {event.reason}" if event.reason else ""
        return f"connection closed with {event.code} ({event.cause.value}){reason}"


class HandshakeRejected(Exception):
    """The opening handshake was answered with something else than success (RFC 6455 §4.2.2).

    A client gets it from connecting; a server's code raises it in order to reject.

    Args:
        status_code: The HTTP status code.
        headers: The response's header fields.
        body: Its body; a client keeps the first 64 KiB.
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
        """The first header field of a name.

        Args:
            name: The name, in lower case.
        """
        return next((value for key, value in self.headers if key.lower() == name), None)

    def response(self) -> RejectConnection:
        """The event that begins to send it; the body comes behind."""
        length = (b"Content-Length", str(len(self.body)).encode())
        return RejectConnection(self.status_code, [*self.headers, length], has_body=True)


def lost(detail: str) -> ConnectionClosed:
    """What is known of a connection whose transport has gone before its end was read."""
    return ConnectionClosed(1006, detail, Cause.END_OF_INPUT)


def only_closed(error: Exception) -> bool:
    """Whether a handler failed for nothing but the end of its connection.

    Args:
        error: What it raised: the exception itself, or a group of those of its tasks.
    """
    if isinstance(error, ExceptionGroup):
        return error.split(ConnectionClosedError)[1] is None
    return isinstance(error, ConnectionClosedError)


def adapted(config: SessionConfig) -> SessionConfig:
    """Makes a configuration fit for an adapter in which senders and readers wait.

    The adapter pauses the session when nobody receives, and a call gives no more than a queue's
    worth. Output needs no hard bound, because senders wait above ``high_water``, so that a single
    message may be longer than any such bound.

    Args:
        config: The configuration.
    """
    limits = config.limits
    frames = min(bound(limits.max_frames_per_call), bound(limits.max_queued_messages))
    most = None if frames == inf else int(frames)
    return replace(
        config,
        auto_pause=False,
        whole_messages=True,
        limits=replace(limits, max_outgoing=None, max_frames_per_call=most),
        profiles={name: adapted(profile) for name, profile in config.profiles.items()},
    )


def no_extensions() -> Sequence[Extension]:
    """What a connection may use unless its user says otherwise."""
    return ()


def protocol_names(subprotocols: Sequence[str]) -> list[str]:
    """Makes a list of the sub-protocols that a program speaks.

    Args:
        subprotocols: Their names.

    Raises:
        TypeError: It is one name, which would be taken for those of its letters.
    """
    if isinstance(subprotocols, str):
        raise TypeError(f"subprotocols is a sequence of names: [{subprotocols!r}]")
    return list(subprotocols)


def default_answer(
    request: Request, subprotocols: Sequence[str], extensions: Sequence[Extension]
) -> AcceptConnection:
    """How a server accepts a request, if the program does not say.

    Args:
        request: The request.
        subprotocols: Those that the server speaks; the client's order decides.
        extensions: The extensions that the connection may use.
    """
    chosen = select_subprotocol(request.subprotocols, subprotocols)
    return AcceptConnection(chosen, list(extensions))


def message_event(
    message: str | bytes | bytearray | memoryview | PreparedMessage,
) -> Event | PreparedMessage:
    """What a session is given in order to send a message.

    Args:
        message: Text, octets, or a prepared message.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(message, bytes | bytearray | memoryview):
        return BytesMessage(message)  # type: ignore[arg-type]
    if isinstance(message, str):
        return TextMessage(message)
    if isinstance(message, PreparedMessage):
        return message
    raise TypeError(f"a message is str, octets or prepared, and not {type(message).__name__}")


@dataclass(frozen=True, slots=True)
class WebSocketURI:
    """Where a ws or wss URI leads (RFC 6455 §3).

    Args:
        secure: Whether it is wss.
        host: A name or an address, without brackets.
        port: The port.
        target: Path and query, as they stand in the request.
        credentials: User and password, in octets, joined by a colon (RFC 7617 §2); None without.
    """

    secure: bool
    host: str
    port: int
    target: str
    credentials: bytes | None = None

    @classmethod
    def parse(cls, text: str) -> WebSocketURI:
        """Takes a URI apart.

        Args:
            text: The URI; characters outside ASCII are encoded as browsers do.

        Raises:
            ValueError: It is not such a URI; the message says why.
        """
        if _not_in_uri(text):
            raise ValueError("the URI holds a space or a control character")
        url = urlsplit(text)
        default_port = _DEFAULT_PORTS.get(url.scheme)
        if default_port is None:
            raise ValueError("the URI does not begin with ws:// or wss://")
        if "#" in text:
            raise ValueError("the URI has a fragment")
        if not url.hostname:
            raise ValueError("the URI names no host")
        try:
            host = url.hostname.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError("the URI's host is not a domain name") from None
        credentials = None
        if url.username is not None:
            credentials = unquote_to_bytes(url.username)
            if b":" in credentials:
                raise ValueError("the URI's user name holds a colon")
            credentials += b":" + unquote_to_bytes(url.password or "")
        target = quote(url.path or "/", safe=_IN_TARGET)
        if url.query:
            target += "?" + quote(url.query, safe=_IN_TARGET + "?")
        port = default_port if url.port is None else url.port
        return cls(url.scheme == "wss", host, port, target, credentials)

    @property
    def host_header(self) -> str:
        """The value of the Host header field (RFC 6455 §4.1): a default port stays unsaid."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    @property
    def origin(self) -> tuple[bool, str, int]:
        """What it has in common with other URIs of the same server (RFC 6454 §4)."""
        return self.secure, self.host.lower(), self.port

    def __str__(self) -> str:
        return f"{'wss' if self.secure else 'ws'}://{self.host_header}{self.target}"


def make_request(
    uri: WebSocketURI,
    *,
    headers: Iterable[tuple[bytes, bytes]],
    subprotocols: Sequence[str],
    extensions: Sequence[Extension],
) -> Request:
    """The request of an opening handshake (RFC 6455 §4.1).

    Args:
        uri: Where to.
        headers: Header fields of the caller's; an Authorization among them stands instead of the
            URI's credentials.
        subprotocols: The sub-protocols to offer.
        extensions: The extensions to offer.

    Raises:
        TypeError: The sub-protocols are one name.
    """
    fields = list(headers)
    if uri.credentials is not None and all(name.lower() != b"authorization" for name, _ in fields):
        fields.append((b"Authorization", b"Basic " + base64.b64encode(uri.credentials)))
    return Request(
        host=uri.host_header,
        target=uri.target,
        extensions=list(extensions),
        extra_headers=fields,
        subprotocols=protocol_names(subprotocols),
    )


def redirected(
    uri: WebSocketURI, headers: Iterable[tuple[bytes, bytes]], rejection: HandshakeRejected
) -> tuple[WebSocketURI, Headers] | None:
    """Where a rejection leads a client to (RFC 6455 §4.1, RFC 9110 §15.4).

    Args:
        uri: Where the client asked.
        headers: The header fields it sent.
        rejection: The answer.

    Returns:
        Where to ask next, with which header fields (another server is told no secrets); None where
        the answer is no redirection that may be followed: without a proper Location, or from wss
        to ws.
    """
    location = rejection.header(b"location")
    if rejection.status_code not in _REDIRECTS or not location or not location.isascii():
        return None
    # urljoin() knows what is relative to an http URI.
    here = f"{'https' if uri.secure else 'http'}://{uri.host_header}{uri.target}"
    scheme, colon, rest = urljoin(here, location.decode("ascii")).partition(":")
    try:
        there = WebSocketURI.parse(_SCHEMES.get(scheme.lower(), scheme) + colon + rest)
    except ValueError:
        return None
    if uri.secure and not there.secure:
        return None
    fields = list(headers)
    if there.origin != uri.origin:
        fields = [field for field in fields if field[0].lower() not in _CONFIDENTIAL]
    elif there.credentials is None:
        there = replace(there, credentials=uri.credentials)
    return there, fields
