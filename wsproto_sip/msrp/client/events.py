"""The events of a client's session and its messages."""

from __future__ import annotations

from dataclasses import dataclass

from ..message.uri import MsrpPath

__all__ = [
    "Authenticated",
    "AuthenticationFailed",
    "MessageAborted",
    "MessageDelivered",
    "MessageFailed",
    "MessageReceived",
    "MessageSent",
    "MsrpEvent",
    "ReceiveProgress",
    "SendProgress",
]


@dataclass(frozen=True, slots=True)
class Authenticated:
    """The relay has granted a session, or extended it.

    Args:
        path: The path to tell the other side.
        expires: The lifetime of the session in seconds.
    """

    path: MsrpPath
    expires: int


@dataclass(frozen=True, slots=True)
class AuthenticationFailed:
    """The relay has not granted or extended a session; an existing session continues.

    Args:
        status: The status of its answer; 408 without an answer.
        reason: What was wrong.
    """

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class SendProgress:
    """A chunk has been accepted by the next hop.

    Args:
        message_id: The message.
        acknowledged: How many of its bytes were accepted so far.
        total: Its length in bytes.
    """

    message_id: bytes
    acknowledged: int
    total: int


@dataclass(frozen=True, slots=True)
class MessageSent:
    """The next hop has accepted the whole message.

    Args:
        message_id: The message.
    """

    message_id: bytes


@dataclass(frozen=True, slots=True)
class MessageDelivered:
    """Success reports have confirmed the whole message.

    Args:
        message_id: The message.
    """

    message_id: bytes


@dataclass(frozen=True, slots=True)
class MessageFailed:
    """A message was refused, here or further on, or was not answered. It has ended.

    Args:
        message_id: The message.
        status: The status; 408 without an answer.
        comment: The comment after the status.
    """

    message_id: bytes
    status: int
    comment: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceiveProgress:
    """A part of a message has arrived.

    Args:
        message_id: The message.
        received: How many of its bytes have arrived so far.
        total: Its length in bytes; ``None`` while it is unknown.
    """

    message_id: bytes
    received: int
    total: int | None


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A whole message has arrived.

    Args:
        message_id: The message.
        content_type: Its media type.
        body: Its bytes.
    """

    message_id: bytes
    content_type: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class MessageAborted:
    """The other side has abandoned a message that had partly arrived.

    Args:
        message_id: The message.
    """

    message_id: bytes


#: The events of a session.
MsrpEvent = (
    Authenticated
    | AuthenticationFailed
    | SendProgress
    | MessageSent
    | MessageDelivered
    | MessageFailed
    | ReceiveProgress
    | MessageReceived
    | MessageAborted
)
