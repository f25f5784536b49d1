"""The opening handshake over HTTP/1.1 (RFC 6455 §4), both roles, on h11.

Theory of operation: a head is collected here, up to its blank line and within its limits, and
given to h11 in one piece, so that h11 never sees an octet of what comes behind it. What h11 makes
of it is one mapping of joined header fields, in which a field that may not be repeated fails its
own pattern when it was. What is wrong raises :class:`~wsproto_sip.utilities.RemoteProtocolError`;
on a server its ``event_hint`` is the response to send. After that, and after a rejection, input is
dropped unread. Bodies of rejections are framed by h11, both ways.

What a server answers to a bad request: 405 to another method than GET, 426 where the upgrade
itself is missing (unless plain requests are taken) or asks for another version, 431 to a head above
a limit, h11's own choice (400 or 501) where it refuses, 400 to everything else. End of input before
the handshake is over is a ``RemoteProtocolError`` wherever it falls, before the first octet and
between a request and its answer too: nobody is left to talk to.
"""

from __future__ import annotations

import os
import re
import sys
from collections import deque
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import h11

from ._head import HeadReader, refusal
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
from .states import ConnectionState, ConnectionType
from .utilities import (
    LocalProtocolError,
    RemoteProtocolError,
    check_header_fields,
    generate_accept_token,
    generate_nonce,
    is_valid_key,
    normed_header_dict,
    target_authority,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .events import Event
    from .extensions import Extension
    from .typing import BytesLike, Entropy, Headers

__all__ = [
    "WEBSOCKET_VERSION",
    "H11Handshake",
    "client_extensions_handshake",
    "server_extensions_handshake",
]

#: Octets of a rejection's body in one event, at most.
BODY_PIECE = 64 * 1024

_CONNECTING = ConnectionState.CONNECTING
_OPEN = ConnectionState.OPEN
_REJECTING = ConnectionState.REJECTING
_CLOSED = ConnectionState.CLOSED

_DEFAULT_LIMITS = Limits()
_is_zero = re.compile(rb"0+").fullmatch
_VERSION: Headers = [(b"Sec-WebSocket-Version", WEBSOCKET_VERSION)]
# RFC 9110 §15.5.22: 426 has to say what to upgrade to, and §7.8 wants that named in Connection.
_UPGRADE: Headers = [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), *_VERSION]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _has_token(fields: Mapping[bytes, bytes], name: bytes, token: bytes, limits: Limits) -> bool:
    """Whether a list of tokens has this one, in any case (RFC 9110 §7.6.1, §7.8)."""
    if fields.get(name, b"").lower() == token:
        return True
    return token.decode() in [item.lower() for item in read_list(fields, name, limits)]


def _closing(headers: Headers) -> Headers:
    """The same fields, with one Connection field, last, that says close (RFC 9112 §9.6)."""
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
    """One opening handshake over HTTP/1.1 (RFC 6455 §4): octets in, events out, and back.

    A server gets a ``Request`` from :meth:`events` and sends ``AcceptConnection``, or
    ``RejectConnection`` and perhaps ``RejectData``. A client sends a ``Request`` and gets
    ``AcceptConnection``, or ``RejectConnection`` (which says that a body follows, if only an
    empty one) and ``RejectData`` up to the one with ``body_finished``.

    Args:
        connection_type: Which end this is.
        limits: Bounds of the head; the octets behind a request that was not answered yet may be
            ``max_handshake_bytes`` too.
        entropy: Source of the client's key.
        plain_requests: Whether a server takes GET and HEAD without an upgrade too: they give a
            :class:`~wsproto_sip.events.PlainRequest`, which can only be rejected.

    Attributes:
        subprotocol: The sub-protocol agreed on, once ``state`` is ``OPEN``.
        accepted_extensions: The extensions agreed on, once ``state`` is ``OPEN``.
    """

    __slots__ = (
        "_body_left",
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
        "_plain",
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
        self._h11 = h11.Connection(
            h11.SERVER if self._server else h11.CLIENT,
            max_incomplete_event_size=int(min(bound(limits.max_handshake_bytes), sys.maxsize)),
        )
        self._head = HeadReader(limits, b"" if self._server else b"HTTP/")
        self._events: deque[Event] = deque()
        self._trailing = bytearray()
        # The key of the request that was received or sent; None while there is no such request,
        # nothing for one that cannot be accepted.
        self._key: bytes | None = None
        self._method = b"GET"
        # What it offered: text on a server, objects on a client.
        self._offers: tuple[str, ...] = ()
        self._offered: tuple[Extension, ...] = ()
        self._subprotocols: tuple[str, ...] = ()
        self._body_left: int | None = None
        self.subprotocol: str | None = None
        self.accepted_extensions: list[Extension] = []

    @property
    def state(self) -> ConnectionState:
        """How far the handshake is: ``CONNECTING``, ``OPEN``, ``REJECTING`` or ``CLOSED``."""
        return self._state

    @property
    def trailing_data(self) -> bytes:
        """What was received behind the head: the connection's first octets."""
        return bytes(self._trailing)

    def events(self) -> Iterator[Event]:
        """Gives the events not taken yet; what is left behind in a loop stays for the next call."""
        while self._events:
            yield self._events.popleft()

    def initiate_upgrade_connection(self, headers: Headers, path: bytes | str) -> None:
        """Begins with a request that another HTTP server has parsed already.

        It is checked like one that came as octets, its method being GET and its version
        HTTP/1.1; :meth:`events` has the ``Request`` then.

        Args:
            headers: The request's header fields, names in any case.
            path: The request target.

        Raises:
            LocalProtocolError: This is a client, or there is a request already.
            RemoteProtocolError: The request is no proper opening handshake; ``event_hint`` is the
                answer to send.
        """
        if not self._server:
            raise LocalProtocolError("a client has no request to begin with")
        if self._state is not _CONNECTING or self._failed or self._key is not None or self._head:
            raise LocalProtocolError("there is a request already")
        try:
            target = path.encode(errors="surrogatepass") if isinstance(path, str) else path
            self._read_request(headers, target)
        except RemoteProtocolError as error:
            self._fail(error)
            raise

    def send(self, event: Event) -> bytes:
        """Turns an event into octets for the peer.

        Args:
            event: ``Request`` on a client; ``AcceptConnection``, ``RejectConnection`` or
                ``RejectData`` on a server.

        Returns:
            What to write to the transport.

        Raises:
            LocalProtocolError: The event may not be sent now, or its contents may not be sent at
                all; the handshake is as it was.
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
        """Takes what the peer sent; :meth:`events` tells what it was.

        Args:
            data: Octets in any division; None at the end of input.

        Raises:
            RemoteProtocolError: The peer broke the protocol, or its input ended. On a server,
                ``event_hint`` is the answer to send, and nothing else can be; on a client, the
                state is ``CLOSED``. Events that a client got before are still there.
            LocalProtocolError: The handshake has succeeded: what comes now is for the connection.
        """
        if self._state is _OPEN:
            raise LocalProtocolError("the handshake is over; this is for the connection")
        if self._failed or self._state is _CLOSED or (self._server and self._state is _REJECTING):
            # RFC 9112 §9.6: what comes behind a refused request is not read.
            return
        try:
            if self._server:
                self._receive_request(data)
            else:
                self._receive_response(data)
        except RemoteProtocolError as error:
            self._fail(error)
            raise

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
            self._state = _CLOSED

    def _next_event(self) -> object:
        try:
            return self._h11.next_event()
        except h11.RemoteProtocolError as error:
            raise refusal(f"bad HTTP: {error}"[:200], error.error_status_hint) from error

    # -- server ------------------------------------------------------------------------------------

    def _receive_request(self, data: BytesLike | None) -> None:
        if data is None:
            raise RemoteProtocolError("the client went away before the handshake was over")
        if self._key is not None:
            # RFC 6455 §4.1 has the client wait for the answer; one that does not is not punished
            # for it, within reason.
            self._keep(data)
            return
        found = self._head.feed(data)
        if found is None:
            return
        head, rest = found
        self._h11.receive_data(head)
        request = cast("h11.Request", self._next_event())
        self._method = request.method
        if request.method != b"GET" and not (self._plain and request.method == b"HEAD"):
            raise self._bad_method(b"GET, HEAD" if self._plain else b"GET")
        if request.http_version < b"1.1":
            raise RemoteProtocolError("the version of HTTP is below 1.1")
        self._read_request(request.headers.raw_items(), request.target)
        self._keep(rest)

    def _keep(self, data: BytesLike) -> None:
        self._trailing += data
        if len(self._trailing) > bound(self._limits.max_handshake_bytes):
            raise RemoteProtocolError("too much was sent before the request was answered")

    def _read_request(self, headers: Iterable[tuple[bytes, bytes]], target: bytes) -> None:
        """Checks a request (RFC 6455 §4.2.1) and makes the event of it."""
        limits = self._limits
        headers = [(name.lower(), value) for name, value in headers]
        fields = dict(headers)
        if len(fields) != len(headers):
            fields = normed_header_dict(headers)
        length = fields.get(b"content-length")
        if b"transfer-encoding" in fields or (length is not None and not _is_zero(length)):
            raise RemoteProtocolError("the request has a body")
        host = read_host(fields.get(b"host"))
        try:
            authority = target_authority(target)
        except ValueError as error:
            raise RemoteProtocolError(str(error)) from None
        if authority is not None and authority.lower() != host.lower().encode("ascii"):
            # RFC 9112 §3.2.2 has them agree; which of the two is meant is not ours to guess.
            raise RemoteProtocolError("the target names another host than the Host field")
        if not (
            _has_token(fields, b"upgrade", b"websocket", limits)
            and _has_token(fields, b"connection", b"upgrade", limits)
        ):
            if not self._plain:
                raise refusal("no upgrade to websocket is asked for", 426, _UPGRADE)
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
            raise refusal(f"version {version[:20]!r} is not spoken", 426, _UPGRADE)
        key = fields.get(b"sec-websocket-key")
        if key is None or not is_valid_key(key):
            raise RemoteProtocolError("one Sec-WebSocket-Key of 16 octets in base64 is needed")
        extensions, subprotocols = read_offers(fields, limits)
        self._key = key
        # Copies: the lists of the event are the caller's.
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

    def _bad_method(self, allowed: bytes) -> RemoteProtocolError:
        text = f"the method is {self._method[:20]!r} and not {allowed.decode()}"
        return refusal(text, 405, [(b"Allow", allowed)])

    def _accept(self, event: AcceptConnection) -> bytes:
        if self._state is not _CONNECTING or not self._key:
            raise LocalProtocolError("there is no request to accept")
        fields, agreed = write_answer(event, self._offers, self._subprotocols)
        lines = [
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: %b\r\n" % generate_accept_token(self._key)
        ]
        lines += [b"%b: %b\r\n" % field for field in fields]
        lines.append(b"\r\n")
        self.subprotocol = event.subprotocol
        self.accepted_extensions = agreed
        self._state = _OPEN
        return b"".join(lines)

    def _reject(self, event: RejectConnection) -> bytes:
        if self._state is not _CONNECTING:
            raise LocalProtocolError("the request has been answered")
        status = event.status_code
        # Over HTTP/1.1 any final response but the upgrade is a refusal (RFC 6455 §4.1), a page too.
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
            raise LocalProtocolError(f"a body of {left} octets is announced, and none will follow")
        octets = self._h11.send(response)
        if event.has_body:
            self._body_left = 0 if status in (204, 304) else left
            self._state = _REJECTING
        else:
            octets += self._h11.send(h11.EndOfMessage())
            self._state = _CLOSED
        self._key = None
        self._trailing = bytearray()
        return octets

    @staticmethod
    def _length(response: h11.Response) -> int | None:
        """The octets of body that a response announces; None when it does not say."""
        fields = dict(response.headers)
        # RFC 9112 §6.3: Transfer-Encoding overrides.
        if b"transfer-encoding" in fields or b"content-length" not in fields:
            return None
        # h11 has checked that these are digits, and not too many of them.
        return int(fields[b"content-length"])

    def _reject_data(self, event: RejectData) -> bytes:
        if self._state is not _REJECTING:
            raise LocalProtocolError("there is no rejection that this could be the body of")
        if self._body_left is not None:
            left = self._body_left - len(event.data)
            if left < 0 or (left and event.body_finished):
                raise LocalProtocolError("the body is not as long as Content-Length announced")
            self._body_left = left
        octets = b""
        # RFC 9110 §9.3.2: the answer to HEAD has the header of a body only.
        if event.data and self._method != b"HEAD":
            octets = self._h11.send(h11.Data(data=event.data))
        if event.body_finished:
            octets += self._h11.send(h11.EndOfMessage())
            self._state = _CLOSED
        return octets

    # -- client ------------------------------------------------------------------------------------

    def _send_request(self, request: Request) -> bytes:
        if self._state is not _CONNECTING or self._key is not None:
            raise LocalProtocolError("a request cannot be sent twice or after an error")
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
        octets = self._h11.send(h11.Request(method="GET", target=target, headers=headers))
        octets += self._h11.send(h11.EndOfMessage())
        self._key = key
        self._offered = tuple(offered)
        self._subprotocols = tuple(request.subprotocols)
        return octets

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
            self._h11.receive_data(head)
            response = self._next_event()
            if not isinstance(response, h11.InformationalResponse):
                self._begin_rejection(cast("h11.Response", response))
                self._receive_body(rest)
                return
            if response.status_code == 101:
                self._establish(response)
                self._trailing += rest
                return
            # RFC 9110 §15.2: any other interim response has the final one behind it.
            found = self._head.feed(rest)

    def _establish(self, response: h11.InformationalResponse) -> None:
        """Checks a 101 (RFC 6455 §4.1) and makes the event of it."""
        headers = list(response.headers)
        fields = normed_header_dict(headers)
        if response.http_version < b"1.1":
            raise RemoteProtocolError("the version of HTTP is below 1.1")
        if fields.get(b"upgrade", b"").lower() != b"websocket":
            raise RemoteProtocolError("the server did not switch to websocket")
        if not _has_token(fields, b"connection", b"upgrade", self._limits):
            raise RemoteProtocolError("the server's Connection field has no upgrade")
        if fields.get(b"sec-websocket-accept") != generate_accept_token(self._key or b""):
            raise RemoteProtocolError("Sec-WebSocket-Accept does not answer the key")
        self.subprotocol, self.accepted_extensions = read_answer(
            fields, self._offered, self._subprotocols, self._limits
        )
        self._state = _OPEN
        self._events.append(
            AcceptConnection(
                subprotocol=self.subprotocol,
                extensions=self.accepted_extensions,
                extra_headers=[item for item in headers if item[0] not in TAKEN_FROM_ANSWER],
            )
        )

    def _begin_rejection(self, response: h11.Response) -> None:
        self._state = _REJECTING
        # Whether the body is empty shows later; one piece at least always follows.
        self._events.append(
            RejectConnection(response.status_code, list(response.headers), has_body=True)
        )

    def _receive_body(self, data: BytesLike | None) -> None:
        if data is None:
            self._h11.receive_data(b"")
        elif data:
            self._h11.receive_data(bytes(data))
        body = bytearray()
        finished = False
        try:
            while isinstance(event := self._next_event(), h11.Data):
                body += event.data
            finished = event is not h11.NEED_DATA
        finally:
            # Joined, because a server may send chunks of one octet.
            pieces = [bytes(body[at : at + BODY_PIECE]) for at in range(0, len(body), BODY_PIECE)]
            if finished:
                self._state = _CLOSED
                self._events += [RejectData(piece, False) for piece in pieces[:-1]]
                self._events.append(RejectData(pieces[-1] if pieces else b"", True))
            else:
                self._events += [RejectData(piece, False) for piece in pieces]
