"""Opening a client's connection, without I/O: what to request, from which server, and redirects.

Theory of operation: an :class:`Opening` holds what the caller asked for. An adapter connects to the
place it names, sends its request, and passes a refusal to it. A refusal is raised, unless it is a
redirect (RFC 6455 §4.1, RFC 9110 §15.4): then the opening names another place, and the adapter
starts anew.

The caller's arguments apply to the server they were given for. If a redirect leads to another
origin (RFC 6454 §4: scheme, host and port), that origin gets nothing that may be a secret of the
first: no credentials, no cookies, only a short list of the caller's header fields, and no
sub-protocol whose name could be a token. The overrides of where to connect (``host=``, ``port=``,
``server_hostname=``) are dropped, too.

Separate credentials are only sent when the server asks for them, with Digest (RFC 7616) if the
server supports it and with Basic (RFC 7617) otherwise; the URI's are sent unasked.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from ..auth.digest import Challenge, DigestError, answer_challenge
from ..auth.identity import is_username
from ..events import Request
from ..uri import WebSocketURI
from ._arguments import (
    adapted,
    check_arguments,
    header_fields,
    make_extensions,
    no_extensions,
    protocol_names,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..extensions import Extension
    from ..session.config import SessionConfig
    from ._arguments import HeaderFields
    from .exceptions import HandshakeRejected

__all__ = ["TOO_LATE", "Opening", "too_late"]

#: The message of the exception for an opening that has taken too long.
TOO_LATE: Final = "the connection could not be opened in time"

_SCHEMES: Final = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}

#: RFC 9110 §15.4: redirects; 303 asks for GET, which the handshake uses anyway.
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

#: The caller's header fields that are sent to other origins, too.
_HARMLESS: Final = frozenset({b"accept-language", b"origin", b"user-agent"})

#: A sub-protocol's name that is not a token: short, with short parts. The names registered with
#: IANA look like that; keys, signed tokens and UUIDs do not.
_is_plain_name = re.compile(r"(?=.{1,32}\Z)[A-Za-z0-9]{1,16}(?:[._-][A-Za-z0-9]{1,16})*").fullmatch


def too_late(error: TimeoutError) -> TimeoutError:
    """Return what to raise for a timeout while opening.

    Args:
        error: The timeout: one of the system, which has an error number and is kept, or ours.
    """
    return TimeoutError(TOO_LATE) if error.errno is None else error


class Opening:
    """The opening of one client connection, across redirects.

    Args:
        uri: The URI to connect to.
        headers: The caller's header fields. An Authorization among them replaces the URI's
            credentials.
        subprotocols: The sub-protocols to offer.
        extensions: Makes the extensions to offer.
        config: The configuration of the session.
        max_redirects: How many redirects to follow at most.
        host: Connect to this host instead of the URI's.
        port: Connect to this port instead of the URI's.
        server_hostname: The name that the server's certificate must have, by default the URI's
            host.
        credentials: A user and a password, for servers that ask for them.

    Attributes:
        uri: The current URI; a redirect changes it.
        config: The configuration of the session, adapted for an adapter.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: ``uri`` is not a WebSocket URI, ``server_hostname`` is given for ws, or the name
            in ``credentials`` is invalid.
        LocalProtocolError: A header field cannot be sent.
    """

    def __init__(
        self,
        uri: str,
        *,
        headers: HeaderFields = (),
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig,
        max_redirects: int = 5,
        host: str | None = None,
        port: int | None = None,
        server_hostname: str | None = None,
        credentials: tuple[str, str] | None = None,
    ) -> None:
        if not isinstance(uri, str):
            raise TypeError(f"uri must be a str, not {type(uri).__name__}")
        self.uri = WebSocketURI.parse(uri)
        check_arguments(
            extensions=extensions,
            max_redirects=max_redirects,
            host=host,
            port=port,
            server_hostname=server_hostname,
        )
        if server_hostname is not None and not self.uri.secure:
            raise ValueError("server_hostname is only allowed with wss:// URIs")
        if credentials is not None and not is_username(credentials[0]):
            raise ValueError(f"not a user name: {credentials[0]!r:.100}")
        self.config = adapted(config)
        self._fields = header_fields(headers)
        self._subprotocols = protocol_names(subprotocols)
        self._extensions = extensions
        self._redirects = max_redirects
        self._host = host
        self._port = port
        self._server_hostname = server_hostname
        self._credentials = credentials
        # What answers the last challenge, and how many more are answered: one, and a second one
        # that finds nothing wrong but the age of the nonce.
        self._answer: str | None = None
        self._answers = 2

    @property
    def host(self) -> str:
        """The host to connect to."""
        return self._host or self.uri.host

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._port or self.uri.port

    @property
    def server_hostname(self) -> str:
        """The name that the server's certificate must have."""
        return self._server_hostname or self.uri.server_name

    def request(self) -> Request:
        """Return the request of the opening handshake (RFC 6455 §4.1)."""
        fields = list(self._fields)
        authorization = self._answer.encode() if self._answer else self.uri.authorization
        if authorization and not self._authorized_by_caller():
            fields.append((b"Authorization", authorization))
        return Request(
            host=self.uri.host_header,
            target=self.uri.target,
            extensions=make_extensions(self._extensions),
            extra_headers=fields,
            subprotocols=list(self._subprotocols),
        )

    def _authorized_by_caller(self) -> bool:
        return any(name.lower() == b"authorization" for name, _ in self._fields)

    def follow(self, rejection: HandshakeRejected) -> None:
        """Follow a redirect or answer a challenge, or raise the rejection.

        Args:
            rejection: The answer to the request.

        Raises:
            HandshakeRejected: It is neither a redirect to follow (no usable Location, a redirect
                from wss to ws, more redirects than allowed) nor a challenge to answer (no
                credentials, or they were refused).
        """
        if self._answers_challenge(rejection):
            return
        there = self._target(rejection)
        if there is None or self._redirects <= 0:
            raise rejection
        self._redirects -= 1
        self._answer, self._answers = None, 2
        if there.origin != self.uri.origin:
            self._forget()
        elif there.credentials is None:
            there = replace(there, credentials=self.uri.credentials)
        self.uri = there

    def _answers_challenge(self, rejection: HandshakeRejected) -> bool:
        """Answer a challenge with the next request, if it can be answered (RFC 9110 §11.6.1)."""
        if (
            rejection.status_code != 401
            or self._credentials is None
            or self._authorized_by_caller()
            or self._answers <= 0
        ):
            return False
        user, password = self._credentials
        challenges, basic = _challenges(rejection)
        stale = any(challenge.stale for challenge in challenges)
        if self._answer is not None and not stale:
            return False
        self._answers -= 1
        if challenges:
            # The server lists its preferred challenge first (RFC 7616 §3.7).
            self._answer = str(
                answer_challenge(challenges[0], user, password, "GET", self.uri.target)
            )
        elif basic and ":" not in user:  # RFC 7617 §2
            token = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._answer = f"Basic {token}"
        else:
            return False
        return True

    def _target(self, rejection: HandshakeRejected) -> WebSocketURI | None:
        """Return where a rejection leads to; ``None`` if it is not a redirect to follow."""
        location = rejection.header(b"location")
        if rejection.status_code not in _REDIRECTS or not location or not location.isascii():
            return None
        uri = self.uri
        # urljoin() resolves relative references for http URIs only.
        here = f"{'https' if uri.secure else 'http'}://{uri.host_header}{uri.target}"
        try:
            scheme, colon, rest = urljoin(here, location.decode("ascii")).partition(":")
            there = WebSocketURI.parse(_SCHEMES.get(scheme.lower(), scheme) + colon + rest)
        except ValueError:
            return None
        return None if uri.secure and not there.secure else there

    def _forget(self) -> None:
        """Drop what was meant for the previous server, and what may be a secret of it."""
        self._host = self._port = self._server_hostname = self._credentials = None
        self._fields = [field for field in self._fields if field[0].lower() in _HARMLESS]
        self._subprotocols = [name for name in self._subprotocols if _is_plain_name(name)]


def _challenges(rejection: HandshakeRejected) -> tuple[list[Challenge], bool]:
    """Return the Digest challenges that can be answered, and whether Basic is offered."""
    found: list[Challenge] = []
    basic = False
    for name, value in rejection.headers:
        if name.lower() != b"www-authenticate":
            continue
        text = value.decode("utf-8", "replace")
        basic = basic or text.lower().startswith("basic ")
        try:
            challenge = Challenge.parse(text)
        except DigestError:
            continue
        if challenge is not None:
            found.append(challenge)
    return found, basic
