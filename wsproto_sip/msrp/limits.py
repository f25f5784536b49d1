"""Every bound of the MSRP half in one place.

A bound stands where the octets first cost memory: a chunk in the framer, a message while it is put
together, a session or a transaction when it is created. The defaults hold on a public address.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["DEFAULT_MSRP_LIMITS", "MsrpLimits"]


@dataclass(frozen=True, slots=True)
class MsrpLimits:
    """What one MSRP connection, and a relay in all, may cost.

    Args:
        max_chunk_size: Octets of one chunk, first line to end-line; more is answered with 413
            where it can be answered, and so is a chunk that would have more when it is
            forwarded. A SEND on a relay's TCP stream is cut into several chunks; anything else
            there ends the stream, whose framing is then lost.
        max_first_line: Octets of the first line with its CRLF; more is malformed (400).
        max_headers: Header fields behind From-Path; more are malformed (400).
        max_header_line: Octets of one header line; more is malformed (400).
        max_path_uris: URIs in To-Path or From-Path; more are malformed (400).
        max_uri: Octets of one URI; more are malformed (400).
        max_message_size: Octets of one message put together from chunks; more is answered with
            413, as is a chunk that lies beyond.
        max_messages: Messages being put together at once; a further one is answered with 413.
        max_buffered: Octets held in all for messages being put together, the cost of keeping
            separate pieces included; more is answered with 413.
        max_pieces: Separate pieces of one message, that is gaps plus one; more are answered
            with 413.
        max_outstanding_chunks: Chunks a client sends before the first of them is answered;
            sending pauses.
        max_connections: Connections of one relay; a further one is closed at once.
        max_sessions: Sessions of one relay; a further AUTH is answered with 403.
        max_sessions_per_connection: Sessions of one connection; the same.
        max_transactions: Forwarded requests of one relay that wait for their response; above,
            the oldest one counts as timed out, so that nobody can take all for themselves.
        max_transactions_per_connection: Of these, the ones that came from one connection; a
            further one is answered with 413. Nobody has to wait for responses, so it is what a
            fast sender may have on its way to a receiver far off: 8 MiB in chunks of 2 KiB.
        max_authentication_failures: Refused credentials on one connection, after which it is
            closed.
        max_malformed: Malformed chunks on one connection since its last AUTH that succeeded,
            after which it is closed.
        max_used_nonces: Nonces whose count is remembered; above, the oldest ones become stale.

    Raises:
        ValueError: A bound is not positive.
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
    max_used_nonces: int = 10_000

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value < 1:
                raise ValueError(f"{item.name} must be positive: {value!r}")


#: What every function of this package uses when it is given nothing else.
DEFAULT_MSRP_LIMITS = MsrpLimits()
