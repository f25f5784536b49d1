"""All limits of MSRP in one place.

A limit applies where the bytes first cost memory: to a chunk in the framer, to a message while it
is reassembled, to a session or a transaction when it is created. The defaults are safe on a public
address.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..._checks import check_fields

__all__ = ["DEFAULT_MSRP_LIMITS", "MsrpLimits"]


@dataclass(frozen=True, slots=True)
class MsrpLimits:
    """How much one MSRP connection, and a relay as a whole, may cost. All sizes are in bytes.

    Args:
        max_chunk_size: One chunk, from the first line to the end-line; a larger one is answered
            with 413 if it can be answered, and so is a chunk that would exceed it when forwarded. A
            SEND on a relay's TCP stream is split into several chunks; any other chunk there ends
            the stream, because its framing is lost.
        max_first_line: The first line with its CRLF; a longer one is malformed (400).
        max_headers: Header fields after From-Path; more are malformed (400).
        max_header_line: One header line; a longer one is malformed (400).
        max_path_uris: URIs in To-Path or From-Path; more are malformed (400).
        max_uri: One URI; a longer one is malformed (400).
        max_message_size: One message reassembled from chunks; a larger one is answered with 413, as
            is a chunk that lies beyond.
        max_messages: Incomplete messages at a time; a further one is answered with 413.
        max_buffered: Bytes held in total for incomplete messages, including the overhead of
            separate pieces; more are answered with 413.
        max_pieces: Separate pieces of one message, which is gaps plus one; more are answered with
            413.
        max_outstanding_chunks: Chunks that a client sends before the first of them is answered;
            then sending pauses.
        max_connections: Connections of one relay; a further one is closed at once.
        max_sessions: Sessions of one relay; a further AUTH is answered with 403.
        max_sessions_per_connection: Sessions of one connection; a further AUTH is answered with
            403.
        max_transactions: Forwarded requests of one relay that wait for their response, in shares of
            users and peers (:mod:`wsproto_sip.server.shares`); further ones are answered with 413.
        max_transactions_per_connection: Such requests from one connection; a further one is
            answered with 413. Senders need not wait for responses, so this is how much a fast
            sender may have on its way to a distant receiver: 8 MiB in chunks of 2 KiB.
        max_authentication_failures: Refused credentials on one connection, after which it is
            closed.
        max_malformed: Malformed chunks on one connection since its last successful AUTH, after
            which it is closed.

    Raises:
        ValueError: A limit is not positive.
    """

    max_chunk_size: int = 64 * 1024
    max_first_line: int = 256
    max_headers: int = 32
    max_header_line: int = 4 * 1024
    max_path_uris: int = 8
    max_uri: int = 512
    max_message_size: int = 16 * 1024 * 1024
    max_messages: int = 16
    max_buffered: int = 32 * 1024 * 1024
    max_pieces: int = 8 * 1024
    max_outstanding_chunks: int = 32
    max_connections: int = 10_000
    max_sessions: int = 10_000
    max_sessions_per_connection: int = 8
    max_transactions: int = 65_536
    max_transactions_per_connection: int = 4_096
    max_authentication_failures: int = 5
    max_malformed: int = 20

    def __post_init__(self) -> None:
        check_fields(self)
        for item in fields(self):
            value = getattr(self, item.name)
            if value < 1:
                raise ValueError(f"{item.name} must be positive: {value!r}")


#: The default limits of every function of this package.
DEFAULT_MSRP_LIMITS = MsrpLimits()
