"""Serving one connection, without I/O: the answer to its request, and its close code.

Theory of operation: a :class:`Serving` is what the connections of a server share. Answering a
request involves code of the program: the deferred questions of policies, and ``process_request``.
On asyncio and trio that code is awaited, on threads it is called. :meth:`Serving.answering` is
therefore a generator: it yields each call to be made, and continues with its result.
:func:`run_async` and :func:`run_blocking` make the calls.

The policies are asked first. A request that they admit goes to ``process_request``, which may
answer it; otherwise the request is accepted. A plain request (``SessionConfig.plain_requests``)
takes the same way, and is answered with 426 by default.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial
from inspect import isawaitable
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from ..auth.throttle import network_of
from ..events import AcceptConnection
from ..frame_protocol import CloseReason
from ..policy.decision import NO_UPGRADE, Accept, Pending, PolicyChain, Reject, RequestContext
from ..server.registry import Others
from ..session.config import SessionConfig
from ..states import ConnectionState
from ..subprotocols import select_subprotocol
from ._arguments import (
    adapted,
    check_arguments,
    make_extensions,
    no_extensions,
    protocol_names,
)
from .exceptions import ConnectionClosedError, HandshakeRejected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Sequence

    from ..events import Request
    from ..extensions import Extension
    from ..policy.decision import Outcome
    from ._driver import Driver

__all__ = ["Serving", "awaited", "run_async", "run_blocking"]

C = TypeVar("C", bound="Driver[Any]")
T = TypeVar("T")

_CONNECTING: Final = ConnectionState.CONNECTING
_DEFAULT: Final = SessionConfig()


class Serving(Generic[C]):
    """How a server answers requests, and its current connections.

    Args:
        logger: Receives failures of the program's code.
        policies: Decide about each request first.
        resolve: Called with the connection and the question that a policy deferred; returns the
            answer in the form that the policy expects.
        process_request: Called with each connection whose request was admitted; may return the
            answer.
        subprotocols: The sub-protocols of the server; the client's order of preference decides.
        extensions: Makes the extensions that one connection may use.
        config: The configuration of sessions.

    Attributes:
        config: The configuration of sessions, adapted for an adapter.

    Raises:
        TypeError: An argument is of the wrong type.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        policies: PolicyChain | None = None,
        resolve: Callable[[C, object], object] | None = None,
        process_request: Callable[[C], object] | None = None,
        subprotocols: Sequence[str] = (),
        extensions: Callable[[], Sequence[Extension]] = no_extensions,
        config: SessionConfig = _DEFAULT,
    ) -> None:
        if policies is not None and not isinstance(policies, PolicyChain):
            raise TypeError(f"policies must be a PolicyChain, not {type(policies).__name__}")
        check_arguments(extensions=extensions, process_request=process_request, resolve=resolve)
        self.config = adapted(config)
        self._logger = logger
        self._policies = policies
        self._resolve = resolve
        self._process_request = process_request
        self._subprotocols = protocol_names(subprotocols)
        self._extensions = extensions
        # The connections by their peers' addresses, for policies to count. With threads, several
        # use it at the same time.
        self._lock = Lock()
        self._addresses: dict[C, str] = {}
        self._counts: Counter[str] = Counter()

    # -- current connections -----------------------------------------------------------------------

    def enter(self, connection: C) -> None:
        """Count a connection.

        Args:
            connection: The connection.
        """
        if self._policies is not None:
            self._count(connection, connection.peer[0])

    def leave(self, connection: C) -> None:
        """Stop counting a connection; does nothing when repeated.

        Args:
            connection: The connection.
        """
        if self._policies is not None:
            self._count(connection, None)

    def _count(self, connection: C, address: str | None) -> None:
        with self._lock:
            before = self._addresses.pop(connection, None)
            if before is not None:
                self._counts[before] -= 1
                if not self._counts[before]:
                    del self._counts[before]
            if address is not None:
                # A client with one address of an IPv6 /64 has all of them.
                network = self._addresses[connection] = network_of(address)
                self._counts[network] += 1

    # -- the request -------------------------------------------------------------------------------

    def answering(self, connection: C) -> Generator[Callable[[], Any], Any, bool]:
        """Answer the request of a connection.

        Args:
            connection: The connection, after its request has arrived.

        Yields:
            Functions to call without arguments; send the result.

        Returns:
            Whether the connection is open now.
        """
        request = connection.request
        if request is None:
            return False
        try:
            accepted: Accept | None = None
            if self._policies is not None:
                outcome = yield from self._decide(self._policies, connection, request)
                if isinstance(outcome, Accept):
                    accepted = outcome
                    self._identify(connection, outcome)
                elif outcome != NO_UPGRADE:
                    return connection.answer(outcome)
            own = None
            if self._process_request is not None:
                own = yield partial(self._process_request, connection)
            return connection.answer(self._conclude(connection, request, accepted, own))
        except HandshakeRejected as rejection:
            return self._reject(connection, rejection)
        except Exception:
            self._logger.exception("a handshake could not be answered")
            return connection.answer(HandshakeRejected(500))

    def admitting(self, connection: C) -> Generator[Callable[[], Any], Any, Accept | None]:
        """Ask the policies only, and answer a request that they refuse.

        Args:
            connection: The connection, after its request has arrived.

        Yields:
            Functions to call without arguments; send the result.

        Returns:
            Their decision; ``None`` for a refusal.
        """
        request = cast("Request", connection.request)
        if self._policies is None:
            return Accept(self._context(connection, request))
        try:
            outcome = yield from self._decide(self._policies, connection, request)
            if isinstance(outcome, Accept):
                self._identify(connection, outcome)
                return outcome
            connection.answer(outcome)
        except Exception:
            self._logger.exception("a handshake could not be answered")
            connection.answer(HandshakeRejected(500))
        return None

    def _reject(self, connection: C, rejection: HandshakeRejected) -> bool:
        """Send a rejection raised by the program."""
        try:
            return connection.answer(rejection)
        except Exception:
            self._logger.exception("a rejection could not be sent")
            return connection.answer(HandshakeRejected(500))

    def _decide(
        self, policies: PolicyChain, connection: C, request: Request
    ) -> Generator[Callable[[], Any], Any, Accept | Reject]:
        """Ask the policies until they decide."""
        outcome: Outcome = policies.decide(self._context(connection, request))
        while isinstance(outcome, Pending):
            if self._resolve is None:
                raise TypeError("a policy deferred its decision: pass resolve= to answer it")
            answer = yield partial(self._resolve, connection, outcome.question)
            outcome = policies.resume(outcome, answer, connection._time())
        return outcome

    def _context(self, connection: C, request: Request) -> RequestContext:
        """Return what policies are asked about."""
        address, port = connection.peer
        return RequestContext(
            request=request,
            now=connection._time(),
            peer_address=address,
            peer_port=port,
            secure=connection.secure,
            local_port=connection.local[1],
            method=connection.method,
            upgrade=connection.upgrade,
            connections=len(self._addresses) - 1,
            connections_by_address=Others(self._counts, address),
        )

    def _identify(self, connection: C, accepted: Accept) -> None:
        """Record what the policies established about the client."""
        context = accepted.context
        connection.peer = (context.peer_address, context.peer_port)
        connection.secure = context.secure
        connection.identity = accepted.identity
        if not connection.session.closed:
            self._count(connection, context.peer_address)

    def _conclude(
        self, connection: C, request: Request, accepted: Accept | None, own: object
    ) -> AcceptConnection | Reject:
        """Return the answer to an admitted request."""
        if isinstance(own, Reject):
            return own
        if not connection.upgrade:
            if own is not None:
                raise TypeError(f"answer a plain request with Respond(), not {own!r:.100}")
            return NO_UPGRADE
        if own is None:
            chosen = accepted.subprotocol if accepted is not None else None
            chosen = chosen or select_subprotocol(request.subprotocols, self._subprotocols)
            own = AcceptConnection(chosen, make_extensions(self._extensions))
        elif not isinstance(own, AcceptConnection):
            raise TypeError(
                "process_request() must return AcceptConnection, Reject, Respond or None, "
                f"not {type(own).__name__}"
            )
        if accepted is not None and accepted.headers:
            fields = [*accepted.headers, *own.extra_headers]
            return AcceptConnection(own.subprotocol, own.extensions, fields)
        return own

    # -- the end -----------------------------------------------------------------------------------

    def code_after(self, error: Exception | None) -> CloseReason:
        """Return the code to close a connection with after its handler.

        Args:
            error: The exception of the handler, or ``None``. It is logged, unless it only says that
                the connection has ended.
        """
        if error is None or _only_closed(error):
            return CloseReason.NORMAL_CLOSURE
        self._logger.error("the handler of a connection failed", exc_info=error)
        return CloseReason.INTERNAL_ERROR


def _only_closed(error: Exception) -> bool:
    """Return whether a handler and its tasks failed only because the connection has ended."""
    if isinstance(error, ExceptionGroup):
        return error.split(ConnectionClosedError)[1] is None
    return isinstance(error, ConnectionClosedError)


def run_blocking(answering: Generator[Callable[[], Any], Any, T]) -> T:
    """Run an answer, making its calls.

    Args:
        answering: A generator of :meth:`Serving.answering` or :meth:`Serving.admitting`.

    Returns:
        Its result.
    """
    try:
        call = next(answering)
        while True:
            try:
                result = call()
            except Exception as error:
                call = answering.throw(error)
            else:
                call = answering.send(result)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


async def run_async(answering: Generator[Callable[[], Any], Any, T]) -> T:
    """Run an answer, awaiting its calls.

    Args:
        answering: A generator of :meth:`Serving.answering` or :meth:`Serving.admitting`.

    Returns:
        Its result.
    """
    try:
        call = next(answering)
        while True:
            try:
                result = await awaited(call)
            except Exception as error:
                call = answering.throw(error)
            else:
                call = answering.send(result)
    except StopIteration as stop:
        outcome: T = stop.value
        return outcome


def awaited(call: Callable[[], Any]) -> Awaitable[Any]:
    """Call an async function of the program.

    Args:
        call: The function.

    Returns:
        What is to be awaited. A coroutine of our own around it would be a step of each resumption.

    Raises:
        TypeError: It did not return an awaitable.
    """
    result = call()
    if not isawaitable(result):
        function = getattr(call, "func", call)
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{name}() must be an async function: it returned {result!r}")
    return result
