"""A hook for the program's own decisions: whether a request may go on, where to, and how.

Theory of operation: the hook is called with each request that has passed the edge's own checks, so
that its sender is known. It returns a :data:`Verdict`, or :data:`~wsproto_sip.auth.outcome.LATER`;
then the request waits, and the :class:`HookRequest` becomes a question, whose answer is the
verdict. If the hook fails, only the request gets 500, and the failure is reported.

The hook is not called for ACK and CANCEL, which follow the request they belong to, nor for an
OPTIONS to the edge itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...auth.outcome import Later, Unavailable
from ..message.headers import CANONICAL
from ..message.message import SipRequest
from ..message.uri import SipUri, parse_uri
from ..rules.routing import Rejection

if TYPE_CHECKING:
    from ..message.uri import Uri

__all__ = ["EdgeHook", "Failed", "HookRequest", "Proceed", "Refuse", "Verdict", "apply_verdict"]

#: Header fields that the edge itself or the dialog depends on (RFC 3261 §8.1.1, §16.6).
_FIXED: Final = frozenset(
    (
        "call-id",
        "content-length",
        "cseq",
        "from",
        "max-breadth",
        "max-forwards",
        "path",
        "record-route",
        "route",
        "to",
        "via",
    )
)


@dataclass(frozen=True, slots=True)
class HookRequest:
    """A request for the hook to decide about.

    Args:
        request: A copy of it, as it would go on.
        user: The authenticated user; ``None`` for a stranger, and from the upstream.
        connection: The id of the client's connection; ``None`` for the upstream.
        address: The client's address as text; empty for the upstream.
        secure: Whether the client's connection uses TLS.
        in_dialog: Whether it came along the route of a dialog.
        now: The time, in seconds.
    """

    request: SipRequest
    user: str | None
    connection: int | None
    address: str
    secure: bool
    in_dialog: bool
    now: float


@dataclass(frozen=True, slots=True)
class Proceed:
    """Let the request go on.

    Args:
        uri: A Request-URI to replace its own, as text or parsed. A user of this edge is looked up;
            all other URIs go to the upstream. Not allowed within a dialog, whose routes decide.
        remove: Names of header fields to remove.
        add: Header fields to add, after the removal.

    Raises:
        SipParseError: The URI is malformed.
        ValueError: A header field is one that the edge or the dialog depends on, or cannot be
            written.
    """

    uri: str | Uri | None = None
    remove: Sequence[str] = ()
    add: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if isinstance(self.uri, str):
            parse_uri(self.uri)
        for name in (*self.remove, *[name for name, _ in self.add]):
            if CANONICAL[name] in _FIXED:
                raise ValueError(f"header field {name!r:.100} cannot be added or removed")
        _check_fields(self.add)


@dataclass(frozen=True, slots=True)
class Refuse:
    """Refuse the request.

    Args:
        status: The status code, 300 to 699.
        detail: The reason, for the log; it is not sent.
        headers: Header fields for the response, such as Contact or Retry-After.

    Raises:
        ValueError: The status is out of range, or a header field cannot be written.
    """

    status: int
    detail: str = "refused by the hook"
    headers: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if not 300 <= self.status <= 699:
            raise ValueError(f"not a status from 300 to 699: {self.status!r}")
        _check_fields(self.headers)


def _check_fields(fields: Sequence[tuple[str, str]]) -> None:
    # Adding them is the check.
    trial = SipRequest("OPTIONS", SipUri.make("a.invalid"), [])
    for name, value in fields:
        trial.add_header(name, value)


#: The decision of a hook; ``None`` lets the request go on unchanged.
Verdict = Proceed | Refuse | None
#: A hook: takes a request, and decides at once or later.
EdgeHook = Callable[[HookRequest], Verdict | Later]


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer of a failed hook: the request gets 500.

    Args:
        error: The exception.
    """

    error: Exception


def apply_verdict(verdict: object, request: SipRequest, *, in_dialog: bool) -> Rejection | None:
    """Apply the verdict of a hook to a request.

    Args:
        verdict: The answer of the hook: a :data:`Verdict`, or
            :class:`~wsproto_sip.auth.outcome.Unavailable`.
        request: The request.
        in_dialog: Whether it came along the route of a dialog.

    Returns:
        ``None`` if it goes on, or the refusal.

    Raises:
        TypeError: It is not a verdict.
        ValueError: The verdict is not allowed for the request.
        Exception: That of a :class:`Failed`.
    """
    match verdict:
        case None:
            return None
        case Refuse():
            return Rejection(verdict.status, verdict.detail, tuple(verdict.headers))
        case Unavailable():
            headers = (("Retry-After", str(verdict.retry_after)),)
            return Rejection(503, f"the hook: {verdict.reason}", headers)
        case Failed():
            raise verdict.error
        case Proceed():
            uri = verdict.uri
            if uri is not None:
                if in_dialog:
                    raise ValueError("a request within a dialog cannot go to another URI")
                request.uri = parse_uri(uri) if isinstance(uri, str) else uri
            for name in verdict.remove:
                request.remove_header(name)
            for name, value in verdict.add:
                request.add_header(name, value)
            return None
    raise TypeError(f"a hook must return Proceed, Refuse, None or LATER, not {verdict!r:.100}")
