"""WebSocket clients with blocking sockets and threads.

Theory of operation: an :class:`~wsproto_sip.adapters._opening.Opening` determines where to connect
and what to request. A client connects in the caller's thread, hands the socket to a
:class:`~wsproto_sip.adapters.blocking.connection.Connection`, which has a thread of its own, and
waits for the response. A redirect starts that anew.
"""

from __future__ import annotations

import logging
import socket
import ssl as tls
from time import monotonic, sleep
from typing import TYPE_CHECKING, Final, TypedDict, Unpack

from ...session.config import SessionConfig
from ...session.lifecycle import Cause
from ...session.session import Session
from ...states import ConnectionType
from .._arguments import check_arguments, check_options, no_extensions
from .._opening import TOO_LATE, Opening
from ..backoff import Backoff, is_transient, retry_after
from ..exceptions import ConnectionClosedError, HandshakeRejected
from .connection import Connection
from .dial import left, reach, secure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ...extensions import Extension
    from .._arguments import HeaderFields

__all__ = ["ConnectOptions", "connect", "reconnect"]

_logger = logging.getLogger("wsproto_sip.blocking")

_DEFAULT: Final = SessionConfig()


class ConnectOptions(TypedDict, total=False):
    """The arguments of :func:`connect` besides the URI and the header fields."""

    subprotocols: Sequence[str]
    extensions: Callable[[], Sequence[Extension]]
    config: SessionConfig
    ssl: tls.SSLContext | None
    max_redirects: int
    proxy: str | bool | None
    proxy_ssl: tls.SSLContext | None
    host: str | None
    port: int | None
    sock: socket.socket | None
    server_hostname: str | None
    credentials: tuple[str, str] | None


def connect(
    uri: str,
    *,
    headers: HeaderFields = (),
    subprotocols: Sequence[str] = (),
    extensions: Callable[[], Sequence[Extension]] = no_extensions,
    config: SessionConfig = _DEFAULT,
    ssl: tls.SSLContext | None = None,
    max_redirects: int = 5,
    proxy: str | bool | None = True,
    proxy_ssl: tls.SSLContext | None = None,
    host: str | None = None,
    port: int | None = None,
    sock: socket.socket | None = None,
    server_hostname: str | None = None,
    credentials: tuple[str, str] | None = None,
) -> Connection:
    """Open a connection; as a context manager, it is closed with 1000 at the end of the block.

    Args:
        uri: The URI to connect to, ``ws://`` or ``wss://``; a user and password in it are sent as
            basic authentication (RFC 7617).
        headers: Header fields for the request: a mapping or pairs, in bytes or text.
        subprotocols: The sub-protocols to offer, the preferred one first.
        extensions: Makes the extensions to offer.
        config: The configuration of the session. ``open_timeout`` bounds everything from the name
            look-up on, which itself cannot be interrupted. The adapter sets ``auto_pause`` and
            ``limits.max_outgoing`` itself.
        ssl: The TLS context; ``None`` for one with the system's certificates.
        max_redirects: How many redirects to follow; none leads from wss to ws. Another origin gets
            no credentials and, of the header fields, only Accept-Language, Origin and User-Agent.
        proxy: The URI of a proxy (:class:`~wsproto_sip.adapters.proxies.Proxy`); True to use the
            environment; ``None`` or False for no proxy.
        proxy_ssl: The TLS context for an ``https`` proxy; ``None`` for one with the system's
            certificates.
        host: Connect to this host instead of the URI's. This and the next three arguments apply to
            the URI's origin: a redirect to another origin drops them.
        port: Connect to this port instead of the URI's.
        sock: A connected socket to use, without a proxy; redirects are not followed and
            challenges not answered.
        server_hostname: The name that the server's certificate must have instead of the host's.
        credentials: A user and a password, sent when the server asks for them (401): with Digest
            (RFC 7616) if the server supports it, otherwise with Basic, which is readable in transit
            over ws. They are not sent to other origins than the URI's.

    Returns:
        The open connection.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: The URI is not a WebSocket URI or not that of a proxy, or is wss through an
            ``https`` proxy, which would need TLS in TLS.
        LocalProtocolError: The request cannot be sent.
        OSError: No connection could be made.
        ProxyError: The proxy refused or failed.
        ModuleNotFoundError: The proxy is a SOCKS proxy, and python-socks is not installed.
        TimeoutError: Opening took too long.
        HandshakeRejected: The server rejected the handshake.
        ConnectionClosedError: The server ended the connection without a response.
    """
    check_arguments(ssl=ssl, proxy=proxy, proxy_ssl=proxy_ssl, sock=sock)
    opening = Opening(
        uri,
        headers=headers,
        subprotocols=subprotocols,
        extensions=extensions,
        config=config,
        max_redirects=0 if sock is not None else max_redirects,
        host=host,
        port=port,
        server_hostname=server_hostname,
        credentials=credentials if sock is None else None,
    )
    config = opening.config
    until = None if config.open_timeout is None else monotonic() + config.open_timeout
    while True:
        request = opening.request()
        end = sock or reach(opening, proxy=proxy, proxy_ssl=proxy_ssl, until=until)
        if opening.uri.secure:
            end = secure(end, ssl, opening.server_hostname)
        session = Session(ConnectionType.CLIENT, now=monotonic(), config=config)
        try:
            connection = Connection(session, end, request=request)
        except OSError:
            # Too few descriptors for the alarm that wakes its thread.
            end.close()
            raise
        try:
            connection.start()
            connection.wait_opened(left(until))
        except HandshakeRejected as rejection:
            connection.abandon()
            opening.follow(rejection)
        except ConnectionClosedError as error:
            connection.abandon()
            if error.event.cause is Cause.OPEN_TIMEOUT:
                raise TimeoutError("the opening handshake took too long") from None
            raise
        except TimeoutError:
            connection.abandon()
            if connection.rejection is not None:
                # Only the body of the rejection took too long.
                raise connection.rejection from None
            raise TimeoutError(TOO_LATE) from None
        except BaseException:
            connection.abandon()
            raise
        else:
            return connection


def reconnect(
    uri: str | Callable[[], str],
    *,
    headers: HeaderFields | Callable[[], HeaderFields] = (),
    backoff: Backoff | None = None,
    retry: Callable[[Exception], bool] = is_transient,
    wait: Callable[[float], object] = sleep,
    **options: Unpack[ConnectOptions],
) -> Iterator[Connection]:
    """Yield one connection after another, forever.

    When asked for the next connection, close the last one with 1000 if it is still open, wait
    according to the back-off (RFC 6455 §7.2.3), and open another. The program decides what the end
    of a connection means, by leaving the loop or continuing it. After the loop the last connection
    is closed with the generator, which CPython does at once if nothing else refers to it.

    Args:
        uri: As for :func:`connect`; or a function that returns it, called for each attempt.
        headers: As for :func:`connect`; or such a function, for tokens that expire.
        backoff: Computes the waiting times.
        retry: Decides whether to retry after an exception of :func:`connect`; if not, it is raised
            out of the loop. :func:`~wsproto_sip.adapters.backoff.is_transient` is the default.
        wait: Waits for a number of seconds; may raise to end the loop.
        options: Further arguments of :func:`connect`, except ``sock``, which cannot be reused.

    Returns:
        The open connections.

    Raises:
        TypeError: An argument is unknown.
    """
    check_options(connect, options, "reconnect")
    if options.get("sock") is not None:
        raise TypeError("reconnect() cannot use the same sock= for each connection")

    def opening() -> Connection:
        place = uri() if callable(uri) else uri
        return connect(place, headers=headers() if callable(headers) else headers, **options)

    return _reconnect(opening, backoff or Backoff(), retry, wait)


def _reconnect(
    opening: Callable[[], Connection],
    backoff: Backoff,
    retry: Callable[[Exception], bool],
    wait: Callable[[float], object],
) -> Iterator[Connection]:
    while True:
        try:
            connection = opening()
        except Exception as error:
            if not retry(error):
                raise
            seconds = backoff.failed(monotonic(), at_least=retry_after(error))
            why: object = error
        else:
            backoff.opened(monotonic())
            try:
                yield connection
            finally:
                connection.close()
            seconds = backoff.failed(monotonic())
            why = "the connection has ended"
        _logger.info("%s; connecting again in %.1f s", why, seconds)
        wait(seconds)
