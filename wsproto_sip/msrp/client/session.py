"""The client half: one MSRP session through a relay (RFC 4975 §7, RFC 4976 §5, RFC 7977 §5).

Theory of operation: the client authenticates, gets a session at the relay, and tells the other side
its path by other means, such as SDP in SIP; in the same way it learns the other side's path. Then
messages are sent in chunks that take turns, so that a text does not wait for a file; the window
limits how many are sent before the first one is answered. Chunks are made on demand, so that a slow
connection does not need a queue of them.

Responses, reports and authentication are sent before the chunks of messages.
"""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum

from ...auth.digest import Secret
from ...typing import Entropy
from ...utilities import LocalProtocolError
from ..authentication import AuthenticationError
from ..message.chunk import (
    Continuation,
    MsrpParseError,
    MsrpRequest,
    MsrpResponse,
    new_transaction_id,
    parse_chunk,
)
from ..message.chunking import (
    DEFAULT_CHUNK_SIZE,
    MessageSplitter,
    Piece,
    Reassembler,
    ReassemblyError,
)
from ..message.fields import ByteRange, FailureReport, format_status, parse_status
from ..message.limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from ..message.uri import MsrpPath, MsrpUri
from .events import (
    Authenticated,
    AuthenticationFailed,
    MessageAborted,
    MessageDelivered,
    MessageFailed,
    MessageReceived,
    MessageSent,
    MsrpEvent,
    ReceiveProgress,
    SendProgress,
)
from .login import Granted, RelayLogin

__all__ = ["MsrpSession", "MsrpSessionState"]

#: The fraction of a session's lifetime after which it is extended.
_PROLONG_AT = 0.75

#: How many separate parts of one message success reports may confirm.
_MAX_CONFIRMED = 256


class MsrpSessionState(Enum):
    """The progress of a session."""

    #: No session at the relay, and none requested.
    NEW = "new"
    #: The first AUTH waits for its answer.
    AUTHENTICATING = "authenticating"
    #: A session at the relay exists.
    READY = "ready"
    #: The connection is gone.
    CLOSED = "closed"


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A message being sent, or one about which an event may still arrive."""

    message_id: bytes
    content_type: bytes
    splitter: MessageSplitter
    success_report: bool
    failure_report: bool
    total: int
    acknowledged: int = 0
    #: The parts that success reports have confirmed: first and last bytes, sorted and disjoint.
    confirmed: list[tuple[int, int]] = field(default_factory=list)
    over: bool = False

    def confirm(self, start: int, end: int) -> bool:
        """Record a success report, in any order; return whether everything is confirmed now."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted([*self.confirmed, (start, min(end, self.total))]):
            if merged and first <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
            else:
                merged.append((first, last))
        # There are at most as many reports as chunks, unless the peer invents some.
        self.confirmed = merged[:_MAX_CONFIRMED]
        return merged[0][0] == 1 and merged[0][1] >= self.total


@dataclass(frozen=True, slots=True)
class _Sent:
    """A chunk that waits for its response."""

    message: _Outgoing
    size: int
    deadline: float


class MsrpSession:
    """One session of a client.

    Args:
        relay: The URI of the relay to authenticate with.
        username: The user's name.
        password: The password, or hashes derived from it.
        expires: The lifetime to request in seconds; ``None`` leaves it to the relay.
        prolong: Whether to authenticate again automatically before the lifetime ends.
        require_proof: Whether to refuse a relay that does not prove knowledge of the password.
        accept: Media types to accept, without parameters and in lower case; others are answered
            with 415. ``None`` accepts all.
        chunk_size: The size of the body of one chunk in bytes.
        timeout: Seconds after which an unanswered chunk has failed (RFC 4975 §7.1.1).
        limits: The limits.
        entropy: Source of ids and of the client's own URI.

    Raises:
        ValueError: The user name contains control characters.

    Attributes:
        local: The client's own URI. It has no address, because a client in a browser does not know
            its own (RFC 7977 §5.2.1).
        state: The state of the session.
    """

    def __init__(
        self,
        relay: MsrpUri,
        username: str,
        password: Secret,
        *,
        expires: int | None = None,
        prolong: bool = True,
        require_proof: bool = False,
        accept: Collection[bytes] | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        timeout: float = 30.0,
        limits: MsrpLimits = DEFAULT_MSRP_LIMITS,
        entropy: Entropy = os.urandom,
    ) -> None:
        self._prolong = prolong
        self._accept = accept
        self._chunk_size = chunk_size
        self._timeout = timeout
        self._limits = limits
        self._entropy = entropy
        self.local = MsrpUri.build(
            entropy(8).hex() + ".invalid",
            2855,
            entropy(12).hex(),
            secure=relay.secure,
            transport="ws",
        )
        self.state = MsrpSessionState.NEW
        self._login = RelayLogin(
            relay,
            self.local,
            username,
            password,
            expires=expires,
            require_proof=require_proof,
            timeout=timeout,
            limits=limits,
            entropy=entropy,
        )
        self._use_path: MsrpPath = ()
        self._remote: MsrpPath = ()
        self._prolong_at: float | None = None
        self._control: deque[bytes] = deque()
        self._active: deque[_Outgoing] = deque()
        self._messages: OrderedDict[bytes, _Outgoing] = OrderedDict()
        self._sent: OrderedDict[bytes, _Sent] = OrderedDict()
        self._reassembler = Reassembler(limits=limits)
        self._rejected: OrderedDict[bytes, None] = OrderedDict()

    # -- setting up ------------------------------------------------------------------------------

    @property
    def path(self) -> MsrpPath:
        """The URIs that the other side appends to its own session in To-Path; SDP's ``a=path``."""
        return (*self._use_path, self.local)

    def authenticate(self, now: float) -> None:
        """Request a session from the relay, or its extension.

        Args:
            now: The time in seconds.

        Raises:
            LocalProtocolError: The connection is gone, or an AUTH waits for its answer.
        """
        if self.state is MsrpSessionState.CLOSED:
            raise LocalProtocolError("the connection is gone")
        if self._login.deadline is not None:
            raise LocalProtocolError("an AUTH is still waiting for its answer")
        if self.state is MsrpSessionState.NEW:
            self.state = MsrpSessionState.AUTHENTICATING
        self._control.append(self._login.start(now))

    def connect(self, remote: MsrpPath) -> None:
        """Set the path of the other side; messages are only sent to it and accepted from it.

        Args:
            remote: The other side's :attr:`path`.

        Raises:
            LocalProtocolError: The path is empty.
        """
        if not remote:
            raise LocalProtocolError("the path of the other side is empty")
        self._remote = remote

    # -- sending ---------------------------------------------------------------------------------

    def send(
        self,
        body: bytes,
        content_type: bytes = b"text/plain",
        *,
        success_report: bool = False,
        failure_report: bool = True,
    ) -> bytes:
        """Queue a message.

        Args:
            body: Its bytes.
            content_type: Their media type.
            success_report: Whether to request a report of its delivery.
            failure_report: Whether to request reports of failures, which include progress. Without
                them, only a success report produces events for the message.

        Returns:
            The Message-ID, which identifies the message in events.

        Raises:
            LocalProtocolError: The session is not established, the other side's path is unknown,
                too many messages are being sent, or the content type is malformed.
        """
        if self.state is not MsrpSessionState.READY or not self._remote:
            raise LocalProtocolError("a message needs a session and the other side's path")
        if len(self._active) >= self._limits.max_messages:
            raise LocalProtocolError(f"{len(self._active)} messages are being sent already")
        message = _Outgoing(
            self._entropy(10).hex().encode("ascii"),
            content_type,
            MessageSplitter(body, chunk_size=self._chunk_size),
            success_report,
            failure_report,
            len(body),
        )
        # Invalid input should fail here and not when its turn comes.
        self._chunk(message, MessageSplitter(b"").next_piece()).to_bytes()
        self._active.append(message)
        self._messages[message.message_id] = message
        # Further events for the oldest ones are unlikely.
        while len(self._messages) > self._limits.max_transactions_per_connection:
            self._messages.popitem(last=False)
        return message.message_id

    def abort(self, message_id: bytes) -> None:
        """Abandon a message being sent; unknown and completely sent ones are ignored."""
        message = self._messages.get(message_id)
        if message is not None and message in self._active:
            self._end(message)

    def reject(self, message_id: bytes) -> None:
        """Stop a message being received: its remaining chunks are answered with 413."""
        self._reassembler.discard(message_id)
        self._rejected[message_id] = None
        while len(self._rejected) > self._limits.max_messages:
            self._rejected.popitem(last=False)

    def data_to_send(self, now: float) -> list[bytes]:
        """Return the chunks to send now, each as one WebSocket message.

        Call it again after input, and, while it returns any, when the transport has taken them.

        Args:
            now: The time in seconds.
        """
        out = list(self._control)
        self._control.clear()
        for _ in range(self._limits.max_outstanding_chunks):
            if not self._active or len(self._sent) >= self._limits.max_outstanding_chunks:
                break
            message = self._active.popleft()
            piece = message.splitter.next_piece()
            if not message.splitter.finished:
                self._active.append(message)
            request = self._chunk(message, piece)
            if message.failure_report:
                self._sent[request.transaction_id] = _Sent(
                    message, len(piece.data), now + self._timeout
                )
            out.append(request.to_bytes())
        return out

    def _chunk(self, message: _Outgoing, piece: Piece) -> MsrpRequest:
        headers = [
            (b"Message-ID", message.message_id),
            (b"Byte-Range", bytes(piece.byte_range)),
        ]
        if message.success_report:
            headers.append((b"Success-Report", b"yes"))
        if not message.failure_report:
            headers.append((b"Failure-Report", b"no"))
        headers.append((b"Content-Type", message.content_type))
        return MsrpRequest(
            new_transaction_id(piece.data, entropy=self._entropy),
            b"SEND",
            self._use_path + self._remote,
            (self.local,),
            headers,
            piece.data,
            piece.continuation,
        )

    def _end(self, message: _Outgoing) -> None:
        """Stop sending a message and reporting on it; the other side is told if it has begun."""
        message.over = True
        self._messages.pop(message.message_id, None)
        if message in self._active:
            self._active.remove(message)
            piece = message.splitter.abort()
            if piece is not None:
                self._control.append(self._chunk(message, piece).to_bytes())

    # -- receiving -------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> list[MsrpEvent]:
        """Take one WebSocket message.

        Args:
            data: Its bytes.
            now: The time in seconds.
        """
        events: list[MsrpEvent] = []
        try:
            chunk = parse_chunk(data, limits=self._limits)
        except MsrpParseError as error:
            response = error.response()
            if response is not None:
                self._control.append(response.to_bytes())
            return events
        if isinstance(chunk, MsrpResponse):
            self._on_response(chunk, now, events)
        elif chunk.method == b"SEND":
            self._on_send(chunk, events)
        elif chunk.method == b"REPORT":
            self._on_report(chunk, events)
        else:
            self._control.append(chunk.response(501).to_bytes())
        return events

    def _on_send(self, request: MsrpRequest, events: list[MsrpEvent]) -> None:
        before = len(events)
        status = self._take_chunk(request, events)
        wanted = request.failure_report
        if wanted is FailureReport.YES or (wanted is FailureReport.PARTIAL and status != 200):
            self._control.append(request.response(status).to_bytes())
        for event in events[before:]:
            if isinstance(event, MessageReceived) and request.success_report:
                self._confirm(request, event)

    def _take_chunk(self, request: MsrpRequest, events: list[MsrpEvent]) -> int:
        """Take the body of a SEND; return the status to answer with (RFC 4975 §7.3)."""
        if request.to_path != (self.local,) or not self._remote:
            return 481
        if request.from_path != self._use_path + self._remote:
            return 506
        message_id = request.message_id
        if message_id is None:
            return 400
        aborted = request.continuation is Continuation.ABORT
        if request.body is None and not aborted:
            # A keep-alive (RFC 7977 §6).
            return 200
        content_type = request.content_type or b""
        media_type = content_type.partition(b";")[0].strip(b" \t").lower()
        if not aborted and self._accept is not None and media_type not in self._accept:
            return 415
        if message_id in self._rejected:
            if request.continuation is not Continuation.MORE:
                del self._rejected[message_id]
            return 413
        try:
            state = self._reassembler.receive(
                message_id, request.byte_range, request.body or b"", request.continuation
            )
        except ReassemblyError as error:
            return error.status
        if state.aborted:
            events.append(MessageAborted(message_id))
        elif state.body is None:
            events.append(ReceiveProgress(message_id, state.received, state.total))
        else:
            events.append(MessageReceived(message_id, content_type, state.body))
        return 200

    def _confirm(self, request: MsrpRequest, received: MessageReceived) -> None:
        """Report a whole message as received (RFC 4975 §7.1.2)."""
        size = len(received.body)
        report = MsrpRequest(
            new_transaction_id(entropy=self._entropy),
            b"REPORT",
            request.from_path,
            (self.local,),
            [
                (b"Message-ID", received.message_id),
                (b"Byte-Range", bytes(ByteRange(1, size, size))),
                (b"Status", format_status(200)),
            ],
        )
        self._control.append(report.to_bytes())

    def _on_report(self, report: MsrpRequest, events: list[MsrpEvent]) -> None:
        message = self._messages.get(report.message_id or b"")
        status = report.header(b"status")
        if message is None or status is None or report.to_path != (self.local,):
            return
        try:
            code, comment = parse_status(status)
        except ValueError:
            # In a namespace that is not defined yet.
            return
        if code != 200:
            self._fail(message, code, comment, events)
            return
        held = report.byte_range or ByteRange(1, message.total, message.total)
        end = message.total if held.end is None else held.end
        if message.confirm(held.start, end) and message.splitter.finished:
            del self._messages[message.message_id]
            events.append(MessageDelivered(message.message_id))

    def _fail(self, message: _Outgoing, code: int, comment: bytes, events: list[MsrpEvent]) -> None:
        """Fail a message: report it once, and do not send the rest of it."""
        if not message.over:
            self._end(message)
            events.append(MessageFailed(message.message_id, code, comment))

    def _on_response(self, response: MsrpResponse, now: float, events: list[MsrpEvent]) -> None:
        if response.to_path != (self.local,):
            return
        if self._login.awaits(response):
            try:
                answer = self._login.receive(response, now)
            except AuthenticationError as error:
                self._login_failed(response.code, str(error), events)
                return
            if isinstance(answer, Granted):
                self._on_granted(answer, now, events)
            else:
                self._control.append(answer)
            return
        sent = self._sent.pop(response.transaction_id, None)
        if sent is None or sent.message.over:
            return
        message = sent.message
        if response.code != 200:
            self._fail(message, response.code, response.comment or b"", events)
            return
        message.acknowledged += sent.size
        events.append(SendProgress(message.message_id, message.acknowledged, message.total))
        if message.acknowledged == message.total:
            events.append(MessageSent(message.message_id))

    def _on_granted(self, granted: Granted, now: float, events: list[MsrpEvent]) -> None:
        self._use_path = granted.path
        self.state = MsrpSessionState.READY
        if self._prolong and granted.expires:
            self._prolong_at = now + _PROLONG_AT * granted.expires
        events.append(Authenticated(self.path, granted.expires))

    def _login_failed(self, status: int, reason: str, events: list[MsrpEvent]) -> None:
        if self.state is MsrpSessionState.AUTHENTICATING:
            self.state = MsrpSessionState.NEW
        events.append(AuthenticationFailed(status, reason))

    # -- time and the end ------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return the next time for :meth:`handle_timeout`; ``None`` for never."""
        candidates = (
            self._login.deadline,
            self._prolong_at,
            next(iter(self._sent.values())).deadline if self._sent else None,
        )
        return min((when for when in candidates if when is not None), default=None)

    def handle_timeout(self, now: float) -> list[MsrpEvent]:
        """Perform the actions that are due; an early or repeated call does nothing.

        Args:
            now: The time in seconds.
        """
        events: list[MsrpEvent] = []
        if self._login.deadline is not None and self._login.deadline <= now:
            self._login.cancel()
            self._login_failed(408, "the relay does not answer", events)
        if self._prolong_at is not None and self._prolong_at <= now:
            self._prolong_at = None
            if self._login.deadline is None:
                self._control.append(self._login.start(now))
        while self._sent:
            tid, sent = next(iter(self._sent.items()))
            if sent.deadline > now:
                break
            del self._sent[tid]
            self._fail(sent.message, 408, b"", events)
        return events

    def connection_closed(self) -> list[MsrpEvent]:
        """Fail every unfinished message and end the session: the connection is gone."""
        events: list[MsrpEvent] = []
        unfinished = dict.fromkeys(self._active)
        unfinished.update((sent.message, None) for sent in self._sent.values())
        for message in unfinished:
            self._fail(message, 481, b"connection lost", events)
        self.state = MsrpSessionState.CLOSED
        self._login.cancel()
        self._prolong_at = None
        self._control.clear()
        self._sent.clear()
        self._messages.clear()
        self._reassembler.clear()
        return events
