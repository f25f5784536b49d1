"""The actions that an edge asks of its owner, to be done in order."""

from __future__ import annotations

from dataclasses import dataclass

from .config import DATAGRAMS, STREAM

__all__ = [
    "AskQuestion",
    "EdgeAction",
    "HookFailed",
    "ResetUpstream",
    "SendToConnection",
    "SendToUpstream",
    "UpstreamAction",
    "UpstreamChanged",
]


@dataclass(frozen=True, slots=True)
class SendToConnection:
    """Send one WebSocket message.

    Args:
        cid: The connection.
        data: Text for a text message, bytes for a binary one.
    """

    cid: int
    data: str | bytes


@dataclass(frozen=True, slots=True)
class SendToUpstream:
    """Send a SIP message to an upstream: one datagram, or into a stream.

    Args:
        upstream: Its name in the configuration.
        data: The message.
        link: :data:`DATAGRAMS`; :data:`STREAM`, to be opened if it is not open; or the connection
            opened by the upstream that the request came on. STREAM replaces one that has ended.
    """

    upstream: str
    data: bytes
    link: int = DATAGRAMS


@dataclass(frozen=True, slots=True)
class ResetUpstream:
    """Close a connection with the upstream, because its input cannot be framed.

    Args:
        upstream: Its name in the configuration.
        reason: What was wrong.
        link: The connection; pending messages on it are still sent.
    """

    upstream: str
    reason: str
    link: int = STREAM


@dataclass(frozen=True, slots=True)
class UpstreamChanged:
    """Tell the operator that an upstream has come into service, or gone out of service.

    Args:
        upstream: Its name in the configuration.
        in_service: Whether it is in service now.
        reason: The evidence for it.
    """

    upstream: str
    in_service: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AskQuestion:
    """Answer a question, through :meth:`~wsproto_sip.sip.edge.edge.SipEdge.answer`.

    Args:
        number: The number to answer with; below zero if no request waits for the answer.
        question: An :class:`~wsproto_sip.auth.verifier.AccountQuestion`, a
            :class:`~wsproto_sip.sip.registrar.bearer.BearerQuestion`, a
            :class:`~wsproto_sip.sip.edge.hook.HookRequest`; or, for the location store, a
            :class:`~wsproto_sip.sip.registrar.store.Lookup` or
            :class:`~wsproto_sip.sip.registrar.store.Update`.
    """

    number: int
    question: object


@dataclass(frozen=True, slots=True)
class HookFailed:
    """Tell the operator that the program's own code has failed; the request got 500.

    Args:
        method: The method of the request.
        error: The exception.
    """

    method: str
    error: Exception


#: Actions for upstreams, which are left to the owner of the links.
UpstreamAction = SendToUpstream | ResetUpstream | UpstreamChanged
#: The actions of an edge, to be done in order.
EdgeAction = SendToConnection | UpstreamAction | AskQuestion | HookFailed
