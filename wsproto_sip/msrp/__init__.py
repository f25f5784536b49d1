"""MSRP over WebSocket (RFC 7977, RFC 4975, RFC 4976): chunks, messages, a relay and a client.

All of it consists of state machines and pure functions: bytes and the time go in, bytes and events
come out.
"""

from __future__ import annotations

from .authentication import AuthenticationError, DigestServer
from .client.events import (
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
from .client.session import MsrpSession, MsrpSessionState
from .message.chunk import (
    Continuation,
    MsrpChunk,
    MsrpParseError,
    MsrpRequest,
    MsrpResponse,
    new_transaction_id,
    parse_chunk,
)
from .message.chunking import (
    DEFAULT_CHUNK_SIZE,
    MessageSplitter,
    Piece,
    Reassembled,
    Reassembler,
    ReassemblyError,
)
from .message.fields import ByteRange, FailureReport, format_status, parse_status
from .message.limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .message.stream import ChunkPart, MsrpStreamParser
from .message.uri import MsrpPath, MsrpUri, MsrpUriError, format_path, parse_path
from .relay.application import LinkOutput, MsrpApplication
from .relay.config import (
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayAction,
    RelayNode,
    SendChunk,
)
from .relay.relay import MsrpRelay

__all__ = [
    "DEFAULT_CHUNK_SIZE",
    "DEFAULT_MSRP_LIMITS",
    "Authenticated",
    "AuthenticationError",
    "AuthenticationFailed",
    "ByteRange",
    "ChunkPart",
    "Continuation",
    "DigestServer",
    "DropConnection",
    "FailureReport",
    "ForwardToPeer",
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
    "RelayAction",
    "RelayNode",
    "SendChunk",
    "SendProgress",
    "format_path",
    "format_status",
    "new_transaction_id",
    "parse_chunk",
    "parse_path",
    "parse_status",
]
