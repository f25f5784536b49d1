"""What a client's session tells of itself and of its messages."""

from __future__ import annotations

from dataclasses import dataclass

from .uri import MsrpPath

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
    """The relay has given a session, or more time for it.

    Args:
        path: What to tell the other side.
        expires: Seconds the session lasts.
    """

    path: MsrpPath
    expires: int


@dataclass(frozen=True, slots=True)
class AuthenticationFailed:
    """The relay has not given a session, or not more time; an older session goes on.

    Args:
        status: The status it answered; 408 for no answer.
        reason: What was wrong.
    """

    status: int
    reason: str


@dataclass(frozen=True, slots=True)
class SendProgress:
    """A chunk has been accepted by the next hop.

    Args:
        message_id: The message.
        acknowledged: Its octets accepted so far.
        total: All its octets.
    """

    message_id: bytes
    acknowledged: int
    total: int


@dataclass(frozen=True, slots=True)
class MessageSent:
    """The next hop has accepted all of a message.

    Args:
        message_id: The message.
    """

    message_id: bytes


@dataclass(frozen=True, slots=True)
class MessageDelivered:
    """Success reports have confirmed all of a message.

    Args:
        message_id: The message.
    """

    message_id: bytes


@dataclass(frozen=True, slots=True)
class MessageFailed:
    """A message was refused, here or further on, or has had no answer. It is over.

    Args:
        message_id: The message.
        status: The status; 408 for no answer.
        comment: The text beside it.
    """

    message_id: bytes
    status: int
    comment: bytes = b""


@dataclass(frozen=True, slots=True)
class ReceiveProgress:
    """A part of a message has come.

    Args:
        message_id: The message.
        received: Its octets here so far.
        total: All its octets, ``None`` while not known.
    """

    message_id: bytes
    received: int
    total: int | None


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A whole message has come.

    Args:
        message_id: The message.
        content_type: What it is.
        body: Its octets.
    """

    message_id: bytes
    content_type: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class MessageAborted:
    """The other side has abandoned a message of which a part had come.

    Args:
        message_id: The message.
    """

    message_id: bytes


#: What a session tells.
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
