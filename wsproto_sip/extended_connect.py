"""WebSocket on a stream of HTTP/2 (RFC 8441) or HTTP/3 (RFC 9220): extended CONNECT, both roles.

Theory of operation: the caller's HTTP library owns the connection, its settings and its frames. The
caller passes in header lists, including pseudo-header fields, and gets back header lists to send,
and then a :class:`~wsproto_sip.connection.Connection`. That connection is fed the payload of the
stream's DATA frames, and its output is sent in such frames. The end of the stream is the end of
input (RFC 8441 §5). Both versions of HTTP use the same lists, so this module need not know which
one it is.

The caller checks that the server has sent SETTINGS_ENABLE_CONNECT_PROTOCOL before a client sends a
request. Key and accept value are not used and not checked (RFC 8441 §5).

A server answers a bad request with 405 if the method is not CONNECT, 501 if the protocol is not
websocket (RFC 9220 §3), 431 if the list exceeds a limit, and 400 otherwise. If the list is
malformed, the caller may reset the stream instead (RFC 9113 §8.1.1).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ._head import refusal
from .connection import Connection
from .events import AcceptConnection, RejectConnection, Request
from .limits import Limits, bound
from .negotiation import (
    RESERVED,
    TAKEN_FROM_ANSWER,
    TAKEN_FROM_REQUEST,
    WEBSOCKET_VERSION,
    read_answer,
    read_host,
    read_offers,
    write_answer,
    write_host,
    write_offers,
    write_target,
)
from .states import ConnectionType
from .utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    check_header_fields,
    is_token,
    normed_header_dict,
    received_fields,
    target_authority,
)

if TYPE_CHECKING:
    from .extensions import Extension
    from .typing import Entropy, Headers, ParsedHeaders

__all__ = ["ClientExtendedConnect", "ServerExtendedConnect"]

# RFC 9113 §8.2.2 and RFC 9114 §4.2: fields that describe an HTTP/1.1 connection.
_OF_A_CONNECTION = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]
)
# RFC 8441 §4: a request has all of these.
_OF_A_REQUEST = frozenset([b":authority", b":method", b":path", b":protocol", b":scheme"])
_OF_A_RESPONSE = frozenset([b":status"])
_RESERVED = RESERVED | _OF_A_CONNECTION

_DEFAULT_LIMITS = Limits()
_is_status = re.compile(rb"[1-9][0-9]{2}").fullmatch
# RFC 9113 §8.2.1: values may not contain these, nor start or end with white space.
_forbidden = re.compile(rb"[\r\n\x00]|\A[ \t]|[ \t]\Z").search


def _read(headers: Headers, pseudo: frozenset[bytes], limits: Limits) -> dict[bytes, bytes]:
    """Check what RFC 9113 §8.2 and §8.3 require of any header list, and join its fields."""
    if len(headers) > bound(limits.max_headers) + len(pseudo):
        raise refusal(f"more than {limits.max_headers} header fields", 431)
    # RFC 9113 §6.5.2: a field counts as 32 bytes more than its name and value.
    size = sum(len(name) + len(value) + 32 for name, value in headers)
    if size > bound(limits.max_handshake_bytes):
        raise refusal(f"the list is longer than {limits.max_handshake_bytes} bytes", 431)
    seen: set[bytes] = set()
    regular = False
    for name, value in headers:
        if name in pseudo:
            if regular or name in seen:
                raise RemoteProtocolError(f"{name.decode()} is repeated or out of place")
            seen.add(name)
        else:
            regular = True
            if not is_token(name) or name != name.lower():
                raise RemoteProtocolError(f"not a field name: {name[:40]!r}")
            if name in _OF_A_CONNECTION or (name == b"te" and value != b"trailers"):
                raise RemoteProtocolError(f"{name.decode()} is not allowed in this version of HTTP")
        if _forbidden(value):
            raise RemoteProtocolError(f"{name.decode()} has an invalid value")
    return normed_header_dict(headers)


def _lower(headers: Headers) -> Headers:
    """Return the same fields with names in lower case (RFC 9113 §8.2.1)."""
    return [(name.lower(), value) for name, value in headers]


class _Stream:
    """The parts that the two roles share."""

    __slots__ = (
        "_answered",
        "_connection",
        "_entropy",
        "_limits",
        "_max_frames",
        "_offered",
        "_offers",
        "_subprotocols",
        "_text_as_bytes",
        "_whole_messages",
    )

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        entropy: Entropy = os.urandom,
        whole_messages: bool = False,
        text_as_bytes: bool = False,
        max_frames: int | None = None,
    ) -> None:
        self._limits = limits
        self._entropy = entropy
        self._whole_messages = whole_messages
        self._text_as_bytes = text_as_bytes
        self._max_frames = max_frames
        self._connection: Connection | None = None
        self._answered = False
        # The client's offers, as text on a server and as objects on a client; ``None`` until there
        # is a request.
        self._offers: tuple[str, ...] | None = None
        self._offered: tuple[Extension, ...] | None = None
        self._subprotocols: tuple[str, ...] = ()

    @property
    def connection(self) -> Connection:
        """The connection on the stream.

        Raises:
            LocalProtocolError: The handshake has not succeeded yet.
        """
        if self._connection is None:
            raise LocalProtocolError("the handshake has not succeeded")
        return self._connection

    def _connect(self, role: ConnectionType, extensions: list[Extension]) -> None:
        self._connection = Connection(
            role,
            extensions,
            limits=self._limits,
            entropy=self._entropy,
            whole_messages=self._whole_messages,
            text_as_bytes=self._text_as_bytes,
            max_frames=self._max_frames,
        )


class ServerExtendedConnect(_Stream):
    """The server's side of one extended CONNECT.

    Args:
        limits: The limits of the header list and of the connection.
        entropy: See :class:`~wsproto_sip.connection.Connection`, as for the following arguments.
        whole_messages: Whether events carry whole messages.
        text_as_bytes: Whether text messages are delivered as bytes.
        max_frames: Frames parsed at a time.
    """

    __slots__ = ()

    def receive_request(self, headers: ParsedHeaders) -> Request:
        """Receive the request (RFC 8441 §5).

        Args:
            headers: Its header list, as bytes or as text: pseudo-header fields first, names in
                lower case.

        Returns:
            The request; its ``host`` is ``:authority``.

        Raises:
            RemoteProtocolError: It is not a valid WebSocket request; pass ``event_hint`` to
                :meth:`reject`.
            LocalProtocolError: A request was received already.
        """
        if self._answered or self._offers is not None:
            raise LocalProtocolError("a request was received already")
        try:
            request, extensions = self._read_request(received_fields(headers))
        except RemoteProtocolError as error:
            if error.event_hint is None:
                error.event_hint = RejectConnection()
            raise
        # Copies: the lists of the event belong to the caller.
        self._offers = tuple(extensions)
        self._subprotocols = tuple(request.subprotocols)
        return request

    def _read_request(self, headers: Headers) -> tuple[Request, list[str]]:
        limits = self._limits or _DEFAULT_LIMITS
        fields = _read(headers, _OF_A_REQUEST, limits)
        method = fields.get(b":method")
        if method is not None and method != b"CONNECT":
            raise refusal(f"the method is {method[:20]!r}", 405, [(b"allow", b"CONNECT")])
        missing = _OF_A_REQUEST - fields.keys()
        if missing:
            raise RemoteProtocolError(f"{min(missing).decode()} is missing")
        protocol = fields[b":protocol"]
        if protocol != b"websocket":
            raise refusal(f"the protocol is {protocol[:20]!r} and not websocket", 501)
        # RFC 8441 §5: the schemes that stand for wss and ws.
        if fields[b":scheme"] not in (b"https", b"http"):
            raise RemoteProtocolError(f"the scheme is {fields[b':scheme'][:20]!r}")
        path = fields[b":path"]
        try:
            authority = target_authority(path)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from None
        if authority is not None:
            raise RemoteProtocolError(":path does not start with a slash")
        host = read_host(fields[b":authority"])
        # RFC 9113 §8.3.1: Host is not used here, but it must not contradict :authority.
        if fields.get(b"host", fields[b":authority"]).lower() != fields[b":authority"].lower():
            raise RemoteProtocolError("Host and :authority differ")
        if b"content-length" in fields:
            # RFC 9110 §9.3.6: everything after the header is the connection.
            raise RemoteProtocolError("the request has a body")
        if fields.get(b"sec-websocket-version", WEBSOCKET_VERSION) != WEBSOCKET_VERSION:
            # RFC 6455 §4.4. The usual 426 needs Upgrade, which HTTP/2 does not have.
            version = [(b"sec-websocket-version", WEBSOCKET_VERSION)]
            raise refusal("unsupported Sec-WebSocket-Version", 400, version)
        extensions, subprotocols = read_offers(fields, limits)
        request = Request(
            host=host,
            target=path.decode("ascii"),
            extensions=extensions,
            extra_headers=[
                (name, value)
                for name, value in headers
                if name not in _OF_A_REQUEST and name not in TAKEN_FROM_REQUEST
            ],
            subprotocols=subprotocols,
        )
        return request, extensions

    def accept(self, event: AcceptConnection) -> Headers:
        """Accept the request; :attr:`connection` is available afterwards.

        Args:
            event: The answer.

        Returns:
            The response's header list, to be sent without ending the stream.

        Raises:
            LocalProtocolError: No request waits for an answer, the sub-protocol was not offered,
                or a header field cannot be sent.
        """
        if self._answered or self._offers is None:
            raise LocalProtocolError("no request was received yet")
        fields, agreed = write_answer(event, self._offers, self._subprotocols, _RESERVED)
        self._answered = True
        self._connect(ConnectionType.SERVER, agreed)
        return [(b":status", b"200"), *_lower(fields)]

    def reject(self, event: RejectConnection) -> Headers:
        """Reject the request.

        Args:
            event: The answer. Fields that only HTTP/1.1 has are left out, so that one rejection
                works for all versions.

        Returns:
            The response's header list. The caller sends the body in DATA frames; without a body,
            the list ends the stream.

        Raises:
            LocalProtocolError: The request was answered before, or the status or a header field is
                not valid for a rejection.
        """
        if self._answered:
            raise LocalProtocolError("the request has been answered")
        if not 300 <= event.status_code <= 999:
            raise LocalProtocolError(f"{event.status_code} does not reject a handshake")
        fields = _lower(check_header_fields(event.headers))
        self._answered = True
        return [
            (b":status", b"%d" % event.status_code),
            *(field for field in fields if field[0] not in _OF_A_CONNECTION),
        ]


class ClientExtendedConnect(_Stream):
    """The client's side of one extended CONNECT.

    Args:
        limits: The limits of the header list and of the connection.
        entropy: See :class:`~wsproto_sip.connection.Connection`, as for the following arguments.
        whole_messages: Whether events carry whole messages.
        text_as_bytes: Whether text messages are delivered as bytes.
        max_frames: Frames parsed at a time.
    """

    __slots__ = ()

    def request_headers(self, request: Request, *, secure: bool = True) -> Headers:
        """Send a request for a WebSocket (RFC 8441 §5).

        Args:
            request: The request; its ``host`` becomes ``:authority``.
            secure: Whether the URI's scheme is ``wss``.

        Returns:
            The request's header list, to be sent without ending the stream.

        Raises:
            LocalProtocolError: A request was sent before, or this one cannot be sent as it is.
        """
        if self._offered is not None:
            raise LocalProtocolError("a request cannot be sent twice")
        target = write_target(request.target)
        host = write_host(request.host)
        fields, offered = write_offers(request, _RESERVED)
        self._offered = tuple(offered)
        self._subprotocols = tuple(request.subprotocols)
        return [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"https" if secure else b"http"),
            (b":path", target),
            (b":authority", host),
            *_lower(fields),
        ]

    def receive_response(
        self, headers: ParsedHeaders
    ) -> AcceptConnection | RejectConnection | None:
        """Receive a response.

        Args:
            headers: Its header list, as bytes or as text: ``:status`` first, names in lower case.

        Returns:
            The answer; ``None`` for an interim response, after which another one follows. After an
            acceptance :attr:`connection` is available; the body of a rejection, if any, is the
            payload of the stream's DATA frames and makes no events.

        Raises:
            RemoteProtocolError: The response is malformed, or accepts something that was not
                offered. Reset the stream.
            LocalProtocolError: No request was sent, or it was answered before.
        """
        if self._offered is None or self._answered:
            raise LocalProtocolError("no request is waiting for an answer")
        try:
            event = self._read_response(received_fields(headers), self._offered)
        except RemoteProtocolError as error:
            self._answered = True
            # A client cannot answer.
            error.event_hint = None
            raise
        self._answered = event is not None
        return event

    def _read_response(
        self, headers: Headers, offered: tuple[Extension, ...]
    ) -> AcceptConnection | RejectConnection | None:
        limits = self._limits or _DEFAULT_LIMITS
        fields = _read(headers, _OF_A_RESPONSE, limits)
        text = fields.get(b":status", b"")
        # RFC 9113 §8.6: 101 does not exist here.
        if not _is_status(text) or text == b"101":
            raise RemoteProtocolError(f"not a status: {text[:20]!r}")
        status = int(text)
        if status < 200:
            return None
        rest = [(name, value) for name, value in headers if name != b":status"]
        if status >= 300:
            return RejectConnection(status, rest)
        # RFC 8441 §5: only 200, and no other success, opens the connection.
        if status != 200:
            raise RemoteProtocolError(f"status {status} neither accepts nor rejects")
        subprotocol, extensions = read_answer(fields, offered, self._subprotocols, limits)
        self._connect(ConnectionType.CLIENT, extensions)
        return AcceptConnection(
            subprotocol=subprotocol,
            extensions=extensions,
            extra_headers=[item for item in rest if item[0] not in TAKEN_FROM_ANSWER],
        )
