"""MSRP over WebSocket (RFC 7977, RFC 4975, RFC 4976): chunks, messages, a relay and a client.

Everything here is a state machine or a pure function: octets and the time go in, octets and
events come out.
"""

from __future__ import annotations

from .authentication import (
    Accepted,
    AuthenticationError,
    Challenge,
    Credentials,
    DigestServer,
    Ha1,
    Refused,
    answer_challenge,
    verify_server,
)
from .binding import LinkOutput, MsrpApplication
from .chunking import (
    DEFAULT_CHUNK_SIZE,
    MessageSplitter,
    Piece,
    Reassembled,
    Reassembler,
    ReassemblyError,
)
from .fields import ByteRange, FailureReport, format_status, parse_status
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .message import (
    Continuation,
    MsrpChunk,
    MsrpParseError,
    MsrpRequest,
    MsrpResponse,
    new_transaction_id,
    parse_chunk,
)
from .relay import MsrpRelay
from .relay_config import DropConnection, ForwardToPeer, MsrpRelayConfig, RelayAction, SendChunk
from .session import MsrpSession, MsrpSessionState
from .session_events import (
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
from .stream import ChunkPart, MsrpStreamParser
from .uri import MsrpPath, MsrpUri, MsrpUriError, format_path, parse_path

__all__ = [
    "DEFAULT_CHUNK_SIZE",
    "DEFAULT_MSRP_LIMITS",
    "Accepted",
    "Authenticated",
    "AuthenticationError",
    "AuthenticationFailed",
    "ByteRange",
    "Challenge",
    "ChunkPart",
    "Continuation",
    "Credentials",
    "DigestServer",
    "DropConnection",
    "FailureReport",
    "ForwardToPeer",
    "Ha1",
    "LinkOutput",
    "MessageAborted",
    "MessageDelivered",
    "MessageFailed",
    "MessageReceived",
    "MessageSent",
    "MessageSplitter",
    "MsrpApplication",
    "MsrpChunk",
    "MsrpEvent",
    "MsrpLimits",
    "MsrpParseError",
    "MsrpPath",
    "MsrpRelay",
    "MsrpRelayConfig",
    "MsrpRequest",
    "MsrpResponse",
    "MsrpSession",
    "MsrpSessionState",
    "MsrpStreamParser",
    "MsrpUri",
    "MsrpUriError",
    "Piece",
    "Reassembled",
    "Reassembler",
    "ReassemblyError",
    "ReceiveProgress",
    "Refused",
    "RelayAction",
    "SendChunk",
    "SendProgress",
    "answer_challenge",
    "format_path",
    "format_status",
    "new_transaction_id",
    "parse_chunk",
    "parse_path",
    "parse_status",
    "verify_server",
]
