"""The opening handshake over HTTP/1.1 (RFC 6455 §4), both roles, on h11.

Theory of operation: this module collects a head up to its blank line, within its limits. An
ordinary request is read in one pass; any other head is given to h11 in one piece, so that h11 never
sees what follows it. The result is one mapping of joined header fields; a field that may not be
repeated fails its own pattern if it was. Errors raise
:class:`~wsproto_sip.utilities.RemoteProtocolError`; on a server its ``event_hint`` is the response
to send. After an error, and after a rejection, input is dropped unread. h11 frames the bodies of
rejections, in both directions.

A server answers a bad request with 505 if the major version of HTTP is not 1, 405 if the method is
not GET, 426 if the upgrade is missing (unless plain requests are accepted) or asks for another
version of the protocol, 431 if the head exceeds a limit, h11's own choice (400 or 501) if h11
refuses, and 400 otherwise. End of input before the handshake has finished is a
``RemoteProtocolError`` at any point, also before the first byte and between a request and its
answer, since the peer has gone.
"""

from __future__ import annotations

import os
import re
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import h11

from ._head import HeadReader, read_ordinary_request, refusal
from .connection import Connection
from .events import AcceptConnection, PlainRequest, RejectConnection, RejectData, Request
from .limits import Limits, bound
from .negotiation import (
    TAKEN_FROM_ANSWER,
    TAKEN_FROM_REQUEST,
    WEBSOCKET_VERSION,
    client_extensions_handshake,
    read_answer,
    read_host,
    read_list,
    read_offers,
    server_extensions_handshake,
    write_answer,
    write_host,
    write_offers,
    write_target,
)
from .states import TRANSITIONS, ConnectionState, ConnectionType, Step
from .utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    check_header_fields,
    generate_accept_token,
    generate_nonce,
    is_token,
    is_valid_key,
    normed_header_dict,
    received_fields,
    target_authority,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .events import Event
    from .extensions import Extension
    from .typing import BytesLike, Entropy, Headers, ParsedHeaders

__all__ = [
    "WEBSOCKET_VERSION",
    "H11Handshake",
    "client_extensions_handshake",
    "server_extensions_handshake",
]

#: The most bytes of a rejection's body in one event.
BODY_PIECE = 64 * 1024

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_REJECTING = ConnectionState.REJECTING
_CLOSED = ConnectionState.CLOSED

_DEFAULT_LIMITS = Limits()
_ACCEPTED = TRANSITIONS[_CONNECTING, Step.ACCEPT]
_is_zero = re.compile(rb"0+").fullmatch
# What h11 takes as a line ending or refuses in a line: NUL, and LF to CR.
_is_broken = re.compile(rb"[\0\n-\r]").search
_VERSION: Headers = [(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)]
# RFC 9110 §15.5.22: 426 has to name what to upgrade to, and §7.8 requires it in Connection.
_UPGRADE: Headers = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), *_VERSION]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _has_token(fields: Mapping[bytes, bytes], name: bytes, token: bytes, limits: Limits) -> bool:
    """Return whether a list contains a token, in any case (RFC 9110 §7.6.1, §7.8)."""
    if fields.get(name, b"").lower() == token:
        return True
    return token.decode() in [item.lower() for item in read_list(fields, name, limits)]


def _closing(headers: Headers) -> Headers:
    """Replace Connection by one field, at the end, that says close (RFC 9112 §9.6)."""
    options: list[bytes] = []
    others: Headers = []
    for name, value in headers:
        if name.lower() == b"connection":
            options += [item.strip(b" \t") for item in value.split(b",")]
        else:
            others.append((name, value))
    kept = [item for item in options if item and item.lower() not in (b"close", b"keep-alive")]
    return [*others, (b"Connection", b", ".join([b"close", *kept]))]


class H11Handshake:
    """One opening handshake over HTTP/1.1 (RFC 6455 §4): bytes in, events out, and back.

    A server gets a ``Request`` from :meth:`events` and sends ``AcceptConnection``, or
    ``RejectConnection`` and optionally ``RejectData``. A client sends a ``Request`` and gets
    ``AcceptConnection``, or ``RejectConnection`` (which always announces a body, possibly an empty
    one) and ``RejectData`` up to the one with ``body_finished``.

    Args:
        connection_type: Which end this is.
        limits: The limits of the head. The bytes received after a request, before it is answered,
            are limited by ``max_handshake_bytes`` too.
        entropy: Source of the client's key.
        plain_requests: Whether a server accepts GET and HEAD without an upgrade too: they become a
            :class:`~wsproto_sip.events.PlainRequest`, which can only be rejected.

    Attributes:
        subprotocol: The negotiated sub-protocol, once ``state`` is ``OPEN``.
        accepted_extensions: The negotiated extensions, once ``state`` is ``OPEN``.
    """

    __slots__ = (
        "_body_left",
        "_connection",
        "_entropy",
        "_events",
        "_failed",
        "_h11",
        "_head",
        "_key",
        "_limits",
        "_method",
        "_offered",
        "_offers",
        "_ordinary_head",
        "_plain",
        "_seen",
        "_server",
        "_state",
        "_subprotocols",
        "_trailing",
        "accepted_extensions",
        "subprotocol",
    )

    def __init__(
        self,
        connection_type: ConnectionType,
        *,
        limits: Limits | None = None,
        entropy: Entropy = os.urandom,
        plain_requests: bool = False,
    ) -> None:
        self._plain = plain_requests
        self._server = connection_type is ConnectionType.SERVER
        self._limits = limits = limits or _DEFAULT_LIMITS
        self._entropy = entropy
        self._state = _CONNECTING
        self._failed = False
        # Created when it is needed, which for an ordinary request is its rejection.
        self._h11: h11.Connection | None = None
        self._ordinary_head = b""
        self._head = HeadReader(limits, b"" if self._server else b"HTTP/")
        self._events: list[Event] = []
        self._trailing = bytearray()
        # The key of the request that was received or sent; ``None`` without such a request, empty
        # for a request that cannot be accepted.
        self._key: bytes | None = None
        self._method = b"GET"
        # Target and header fields of the received request, valid or not.
        self._seen: tuple[bytes, Headers] | None = None
        # The offers: text on a server, objects on a client.
        self._offers: tuple[str, ...] = ()
        self._offered: tuple[Extension, ...] = ()
        self._subprotocols: tuple[str, ...] = ()
        self._body_left: int | None = None
        self._connection: Connection | None = None
        self.subprotocol: str | None = None
        self.accepted_extensions: list[Extension] = []

    @property
    def state(self) -> ConnectionState:
        """The progress of the handshake: ``CONNECTING``, ``OPEN``, ``REJECTING`` or ``CLOSED``."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """The bytes received after the head: the first ones of the connection."""
        return bytes(self._trailing) if self._trailing else b""

    def events(self) -> Iterator[Event]:
        """Iterate over the events not taken yet; unread ones are left for the next call."""
        while self._events:
            yield self._events.pop(0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(client={self.client}, state={self.state})"

    @property
    def client(self) -> bool:
        """Whether this is the client's end."""
        return not self._server

    @property
    def seen(self) -> Request | None:
        """The received request, as far as it was read: for logging a refused one.

        Unlike the event, it need not be a valid handshake, and its offers are left out.
        """
        if self._seen is None:
            return None
        target, headers = self._seen
        fields = dict(headers)
        return Request(
            fields.get(b"host", b"").decode("latin-1"), target.decode("latin-1"), [], [*headers]
        )

    @property
    def connection(self) -> Connection | None:
        """The connection that the handshake has opened, including :attr:`trailing_data`.

        ``None`` until then. It is created on first use, with the handshake's limits.
        """
        if self._connection is None and self._state is _OPEN:
            self._connection = Connection(
                ConnectionType.SERVER if self._server else ConnectionType.CLIENT,
                self.accepted_extensions,
                self.trailing_data,
                limits=None if self._limits is _DEFAULT_LIMITS else self._limits,
                entropy=self._entropy,
            )
        return self._connection

    def initiate_upgrade_connection(self, headers: ParsedHeaders, path: bytes | str) -> None:
        """Start from a request that another HTTP server has already parsed.

        The request is checked as if it had arrived as bytes, with the method GET and the version
        HTTP/1.1; afterwards :meth:`events` yields the ``Request``. Values that cannot occur in a
        head, for example with a control character, are refused too, so that a caller may forward
        the fields to another server.

        Args:
            headers: The request's header fields, names in any case, as bytes or as text.
            path: The request target.

        Raises:
            LocalProtocolError: This is a client, or a request was received already.
            RemoteProtocolError: The request is not a valid opening handshake; ``event_hint`` is the
                answer to send.
        """
        if not self._server:
            raise LocalProtocolError("a client cannot start from a received request")
        if self._state is not _CONNECTING or self._failed or self._key is not None or self._head:
            raise LocalProtocolError("a request was received already")
        try:
            target = path.encode(errors="surrogatepass") if isinstance(path, str) else path
            fields = received_fields(headers)
            for name, value in fields:
                if not is_token(name):
                    raise RemoteProtocolError(f"not a header field's name: {name[:40]!r}")
                if _is_broken(value):
                    raise RemoteProtocolError(
                        f"{name[:40].decode()} has an invalid value: {value[:40]!r}"
                    )
            self._read_request(fields, target)
        except RemoteProtocolError as error:
            self._fail(error)
            raise

    def send(self, event: Event) -> bytes:
        """Turn an event into bytes for the peer.

        Args:
            event: ``Request`` on a client; ``AcceptConnection``, ``RejectConnection`` or
                ``RejectData`` on a server.

        Returns:
            What to write to the transport.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents can never be sent.
                The handshake is unchanged.
        """
        if not self._server:
            if isinstance(event, Request):
                return self._send_request(event)
        elif isinstance(event, AcceptConnection):
            return self._accept(event)
        elif isinstance(event, RejectConnection):
            return self._reject(event)
        elif isinstance(event, RejectData):
            return self._reject_data(event)
        role = "server" if self._server else "client"
        raise LocalProtocolError(
            f"{type(event).__name__} cannot be sent by a {role} during the handshake"
        )

    def receive_data(self, data: BytesLike | None) -> None:
        """Take the next bytes from the peer; :meth:`events` returns the resulting events.

        Args:
            data: Bytes, split anywhere; ``None`` at the end of input.

        Raises:
            RemoteProtocolError: The peer broke the protocol, or its input ended. On a server,
                ``event_hint`` is the answer to send, and nothing else can be sent; on a client, the
                state is ``CLOSED``. Earlier events of a client are kept.
            LocalProtocolError: The handshake has succeeded; further input is for the connection.
        """
        if self._state is _OPEN:
            raise LocalProtocolError("the handshake has finished: give the data to the connection")
        if self._failed or self._state is _CLOSED or (self._server and self._state is _REJECTING):
            # RFC 9112 §9.6: bytes after a refused request are not read.
            return
        try:
            if self._server:
                self._receive_request(data)
            else:
                self._receive_response(data)
        except RemoteProtocolError as error:
            self._fail(error)
            raise

    def _move(self, step: Step) -> None:
        self._state = TRANSITIONS[self._state, step]

    def _fail(self, error: RemoteProtocolError) -> None:
        self._failed = True
        self._key = None
        self._head = HeadReader(self._limits)
        self._trailing = bytearray()
        if self._server:
            self._events.clear()
            hint = error.event_hint
            if not isinstance(hint, RejectConnection):
                hint = RejectConnection()
            error.event_hint = RejectConnection(hint.status_code, _closing(hint.headers))
        else:
            error.event_hint = None
            self._move(Step.END)

    def _http(self) -> h11.Connection:
        """Return h11's connection, having received the input so far."""
        if self._h11 is None:
            most = int(min(bound(self._limits.max_handshake_bytes), sys.maxsize))
            role = h11.SERVER if self._server else h11.CLIENT
            self._h11 = h11.Connection(role, max_incomplete_event_size=most)
            if self._ordinary_head:
                self._http().receive_data(self._ordinary_head)
                self._h11.next_event()
        return self._h11

    def _next_event(self) -> object:
        try:
            return self._http().next_event()
        except h11.RemoteProtocolError as error:
            raise refusal(f"invalid HTTP: {error}"[:200], error.error_status_hint) from error

    # -- server ------------------------------------------------------------------------------------

    def _receive_request(self, data: BytesLike | None) -> None:
        if data is None:
            raise RemoteProtocolError("the client went away before the handshake was over")
        if self._key is not None:
            # RFC 6455 §4.1 requires the client to wait for the answer; early data is tolerated
            # within limits.
            self._keep(data)
            return
        found = self._head.feed(data)
        if found is None:
            return
        head, rest = found
        ordinary = read_ordinary_request(head)
        if ordinary is not None:
            self._ordinary_head = head
            self._check_request(*ordinary, ordinary=True)
        else:
            self._http().receive_data(head)
            request = cast("h11.Request", self._next_event())
            self._method = request.method
            self._seen = request.target, [*request.headers]
            if request.http_version >= b"2":
                # RFC 9110 §15.6.6; HTTP/2 without TLS begins with such a line (RFC 9113 §3.4).
                raise refusal(f"HTTP/{request.http_version.decode()} in the syntax of HTTP/1", 505)
            if request.method != b"GET" and not (self._plain and request.method == b"HEAD"):
                raise self._bad_method(b"GET, HEAD" if self._plain else b"GET")
            old = request.http_version < b"1.1"
            if old and not (self._plain and request.http_version == b"1.0"):
                raise RemoteProtocolError("the version of HTTP is below 1.1")
            self._read_request(request.headers.raw_items(), request.target, old)
        if rest:
            self._keep(rest)

    def _keep(self, data: BytesLike) -> None:
        self._trailing += data
        if len(self._trailing) > bound(self._limits.max_handshake_bytes):
            raise RemoteProtocolError("too much data before the answer to the request")

    def _read_request(
        self, headers: Iterable[tuple[bytes, bytes]], target: bytes, old: bool = False
    ) -> None:
        headers = [(name.lower(), value) for name, value in headers]
        fields = dict(headers)
        if len(fields) != len(headers):
            fields = normed_header_dict(headers)
        self._check_request(target, headers, fields, old)

    def _check_request(
        self,
        target: bytes,
        headers: Headers,
        fields: Mapping[bytes, bytes],
        old: bool = False,
        *,
        ordinary: bool = False,
    ) -> None:
        """Validate a request (RFC 6455 §4.2.1) and make its event.

        Args:
            target: The request target.
            headers: The header fields, with names in lower case.
            fields: The same fields by name.
            old: Whether the request is of HTTP/1.0, as in health checks of load balancers. It is
                always plain (RFC 9110 §7.8) and may lack Host (RFC 9112 §3.2).
            ordinary: Whether it was read as an ordinary one, which has no body and whose target is
                a path.
        """
        self._seen = target, headers
        limits = self._limits
        host = read_host(fields[b"host"]) if ordinary else self._check_resource(target, fields, old)
        if old or not (
            _has_token(fields, b"upgrade", b"websocket", limits)
            and _has_token(fields, b"connection", b"upgrade", limits)
        ):
            if not self._plain:
                raise refusal("the request does not ask for an upgrade to websocket", 426, _UPGRADE)
            self._key = b""
            plain = Request(host, target.decode("ascii"), [], headers)
            self._events.append(PlainRequest(plain, self._method.decode("ascii")))
            return
        if self._method != b"GET":
            raise self._bad_method(b"GET")
        version = fields.get(b"sec-websocket-version")
        if version is None or b"," in version:
            raise refusal("one Sec-WebSocket-Version is needed", 400, _VERSION)
        if version != WEBSOCKET_VERSION:
            # RFC 6455 §4.4.
            raise refusal(f"unsupported Sec-WebSocket-Version {version[:20]!r}", 426, _UPGRADE)
        key = fields.get(b"sec-websocket-key")
        if key is None or not is_valid_key(key):
            raise RemoteProtocolError("one Sec-WebSocket-Key of 16 bytes in base64 is needed")
        extensions, subprotocols = read_offers(fields, limits)
        self._key = key
        # Copies: the lists of the event belong to the caller.
        self._offers = tuple(extensions)
        self._subprotocols = tuple(subprotocols)
        self._events.append(
            Request(
                host=host,
                target=target.decode("ascii"),
                extensions=extensions,
                extra_headers=[item for item in headers if item[0] not in TAKEN_FROM_REQUEST],
                subprotocols=subprotocols,
            )
        )

    @staticmethod
    def _check_resource(target: bytes, fields: Mapping[bytes, bytes], old: bool) -> str:
        """Check what an ordinary request cannot have wrong; return the host."""
        length = fields.get(b"content-length")
        if b"transfer-encoding" in fields or (length is not None and not _is_zero(length)):
            raise RemoteProtocolError("the request has a body")
        named = not old or b"host" in fields
        host = read_host(fields.get(b"host")) if named else ""
        try:
            authority = target_authority(target)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from None
        if named and authority is not None and authority.lower() != host.lower().encode("ascii"):
            # RFC 9112 §3.2.2 requires them to agree; we do not guess which of the two is meant.
            raise RemoteProtocolError("the target names another host than the Host field")
        return host

    def _bad_method(self, allowed: bytes) -> RemoteProtocolError:
        text = f"the method is {self._method[:20]!r} and not {allowed.decode()}"
        return refusal(text, 405, [(b"Allow", allowed)])

    def _accept(self, event: AcceptConnection) -> bytes:
        if self._state is not _CONNECTING or not self._key:
            raise LocalProtocolError("no request was received yet")
        fields, agreed = write_answer(event, self._offers, self._subprotocols)
        raw = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
            % (
                generate_accept_token(self._key),
                b"".join([b"%b: %b\r\n" % field for field in fields]),
            )
        )
        self.subprotocol = event.subprotocol
        self.accepted_extensions = agreed
        self._state = _ACCEPTED
        return raw

    def _reject(self, event: RejectConnection) -> bytes:
        if self._state is not _CONNECTING:
            raise LocalProtocolError("the request has been answered")
        status = event.status_code
        # Over HTTP/1.1 any final response except the upgrade is a rejection (RFC 6455 §4.1), even a
        # page.
        if not 200 <= status <= 999:
            raise LocalProtocolError(f"{status} does not reject a handshake")
        headers = _closing(check_header_fields(event.headers))
        fields = normed_header_dict(headers)
        bodiless = status in (204, 304) or self._method == b"HEAD"
        if not (
            event.has_body
            or bodiless
            or b"content-length" in fields
            or b"transfer-encoding" in fields
        ):
            headers.append((b"Content-Length", b"0"))
        try:
            response = h11.Response(status_code=status, headers=headers, reason=_phrase(status))
        except h11.LocalProtocolError as error:
            raise LocalProtocolError(str(error)) from error
        left = self._length(response)
        if left and not event.has_body and not bodiless:
            raise LocalProtocolError(f"a body of {left} bytes is announced, without has_body")
        raw = self._http().send(response)
        if event.has_body:
            self._body_left = 0 if status in (204, 304) else left
            self._move(Step.REJECT)
        else:
            raw += self._http().send(h11.EndOfMessage())
            self._move(Step.END)
        self._key = None
        self._trailing = bytearray()
        return raw

    @staticmethod
    def _length(response: h11.Response) -> int | None:
        """Return the length of the body that a response announces; ``None`` if it does not."""
        fields = dict(response.headers)
        # RFC 9112 §6.3: Transfer-Encoding overrides Content-Length.
        if b"transfer-encoding" in fields or b"content-length" not in fields:
            return None
        # h11 has checked that this is a number of reasonable length.
        return int(fields[b"content-length"])

    def _reject_data(self, event: RejectData) -> bytes:
        if self._state is not _REJECTING:
            raise LocalProtocolError("no rejection with a body was sent")
        if self._body_left is not None:
            left = self._body_left - len(event.data)
            if left < 0 or (left and event.body_finished):
                raise LocalProtocolError("the body is not as long as Content-Length announced")
            self._body_left = left
        raw = b""
        # RFC 9110 §9.3.2: the answer to HEAD has the header of a body but no content.
        if event.data and self._method != b"HEAD":
            raw = self._http().send(h11.Data(data=event.data))
        if event.body_finished:
            raw += self._http().send(h11.EndOfMessage())
            self._move(Step.END)
        return raw

    # -- client ------------------------------------------------------------------------------------

    def _send_request(self, request: Request) -> bytes:
        if self._state is not _CONNECTING or self._key is not None:
            raise LocalProtocolError("a request cannot be sent twice, or after an error")
        target = write_target(request.target)
        host = write_host(request.host)
        fields, offered = write_offers(request)
        key = generate_nonce(self._entropy)
        headers = [
            (b"Host", host),
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", key),
            *fields,
        ]
        raw = self._http().send(h11.Request(method="GET", target=target, headers=headers))
        raw += self._http().send(h11.EndOfMessage())
        self._key = key
        self._offered = tuple(offered)
        self._subprotocols = tuple(request.subprotocols)
        return raw

    def _receive_response(self, data: BytesLike | None) -> None:
        if self._state is _REJECTING:
            self._receive_body(data)
            return
        if data is None:
            raise RemoteProtocolError("the server went away before it answered")
        if self._key is None and data:
            raise RemoteProtocolError("the server spoke before the request")
        found = self._head.feed(data)
        while found is not None:
            head, rest = found
            self._http().receive_data(head)
            response = self._next_event()
            if not isinstance(response, h11.InformationalResponse):
                self._begin_rejection(cast("h11.Response", response))
                self._receive_body(rest)
                return
            if response.status_code == 101:
                self._establish(response)
                self._trailing += rest
                return
            # RFC 9110 §15.2: after any other interim response comes the final one.
            found = self._head.feed(rest)

    def _establish(self, response: h11.InformationalResponse) -> None:
        """Validate a 101 response (RFC 6455 §4.1) and make its event."""
        headers = list(response.headers)
        fields = normed_header_dict(headers)
        if not b"1.1" <= response.http_version < b"2":
            version = response.http_version.decode()
            raise RemoteProtocolError(f"the server switched protocols in HTTP/{version}")
        if fields.get(b"upgrade", b"").lower() != b"websocket":
            raise RemoteProtocolError("the server did not switch to websocket")
        if not _has_token(fields, b"connection", b"upgrade", self._limits):
            raise RemoteProtocolError("the server's Connection field has no upgrade")
        if fields.get(b"sec-websocket-accept") != generate_accept_token(self._key or b""):
            raise RemoteProtocolError("Sec-WebSocket-Accept does not answer the key")
        self.subprotocol, self.accepted_extensions = read_answer(
            fields, self._offered, self._subprotocols, self._limits
        )
        self._move(Step.ACCEPT)
        self._events.append(
            AcceptConnection(
                subprotocol=self.subprotocol,
                extensions=self.accepted_extensions,
                extra_headers=[item for item in headers if item[0] not in TAKEN_FROM_ANSWER],
            )
        )

    def _begin_rejection(self, response: h11.Response) -> None:
        self._move(Step.REJECT)
        # Whether the body is empty is not known yet; at least one piece always follows.
        self._events.append(
            RejectConnection(response.status_code, list(response.headers), has_body=True)
        )

    def _receive_body(self, data: BytesLike | None) -> None:
        if data is None:
            self._http().receive_data(b"")
        elif data:
            self._http().receive_data(bytes(data))
        body = bytearray()
        finished = False
        try:
            while isinstance(event := self._next_event(), h11.Data):
                body += event.data
            finished = event is not h11.NEED_DATA
        finally:
            # Joined, because a server may send chunks of one byte.
            pieces = [bytes(body[at : at + BODY_PIECE]) for at in range(0, len(body), BODY_PIECE)]
            if finished:
                self._move(Step.END)
                self._events += [RejectData(piece, False) for piece in pieces[:-1]]
                self._events.append(RejectData(pieces[-1] if pieces else b"", True))
            else:
                self._events += [RejectData(piece, False) for piece in pieces]
