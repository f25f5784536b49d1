"""Every limit of a connection, in one place.

A limit applies where the bytes first cost memory: to the head of the handshake while it is read, to
a frame at its header, to a message while it is assembled, to inflated bytes inside the inflater.
``None`` disables a limit; the defaults are safe on a public address. ``inflate_ratio_floor`` and
``control_burst`` only modify other limits, and ``high_water`` limits nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Final

from ._checks import check_fields

__all__ = ["HONEST_FRAGMENT", "STREAMING_LIMITS", "Limits", "bound"]

#: Payload bytes that justify a data frame of their own (see ``max_fragments``): keeping track of a
#: frame costs little in comparison.
HONEST_FRAGMENT: Final = 64

_NOT_ZERO: Final = frozenset(["max_frames_per_call", "max_queued_messages"])


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one connection may cost. All sizes are in bytes.

    Args:
        max_handshake_bytes: The handshake's head as a whole; a longer one is answered with 431.
        max_header_line: One line of that head; a longer one is answered with 431.
        max_headers: Header fields in the head; more are answered with 431.
        max_list_items: Items in one list-valued header field; more are answered with 400.
        max_message_size: One message, inflated; a longer one fails the connection with 1009, at the
            frame header that announces it.
        max_frame_size: One frame; a longer one fails the connection with 1009. ``None`` leaves
            frames to ``max_message_size``.
        max_fragments: Data frames in one message, including empty ones, in addition to one for each
            64 bytes of its payloads; more fail the connection with 1009. Frames of that size or
            larger are only bounded by the message's size.
        max_inflate_ratio: How many times its compressed size a message may inflate to, checked once
            it exceeds ``inflate_ratio_floor``; more fails the connection with 1009. It matters only
            if ``max_message_size`` does not bound what a few bytes can become (deflate expands them
            to at most 1,032 times as many): if messages of any size are streamed in pieces.
        inflate_ratio_floor: Inflated size up to which the ratio is not checked.
        max_inflated_per_read: Inflated bytes from one read, after which parsing pauses until the
            events so far have been taken.
        max_frames_per_call: Frames that a session processes in one call; it continues in the next
            call, for which its deadline is immediate.
        max_queued_messages: Messages after which a session with ``auto_pause`` stops reading.
        max_queued_bytes: Bytes in messages after which a session with ``auto_pause`` stops reading.
        max_paused_bytes: Bytes that a session holds while it is paused, if its adapter keeps
            reading; more fail the connection with 1008.
        max_control_rate: Control frames per second, above ``control_burst``; more fail the
            connection with 1008. Each message pays for one in the same read, so that Pings sent
            with messages do not add up. Processing a control frame costs some microseconds.
        control_burst: Control frames that may arrive at once.
        high_water: Bytes waiting to be sent above which a session is not ``writable``.
        max_outgoing: Bytes waiting to be sent above which the connection fails with 1008; a single
            message, if nothing else is waiting, may be longer.

    Raises:
        TypeError: A limit is not an integer.
        ValueError: A limit is negative, or 0 if that would allow nothing at all.
    """

    max_handshake_bytes: int | None = 16 * 1024
    max_header_line: int | None = 16 * 1024
    max_headers: int | None = 64
    max_list_items: int | None = 32
    max_message_size: int | None = 1024 * 1024
    max_frame_size: int | None = None
    max_fragments: int | None = 1024
    max_inflate_ratio: int | None = None
    inflate_ratio_floor: int = 1024 * 1024
    max_inflated_per_read: int | None = 2 * 1024 * 1024
    max_frames_per_call: int | None = 256
    max_queued_messages: int | None = 16
    max_queued_bytes: int | None = 64 * 1024
    max_paused_bytes: int | None = 1024 * 1024
    max_control_rate: int | None = 200
    control_burst: int = 1000
    high_water: int = 64 * 1024
    max_outgoing: int | None = 1024 * 1024

    def __post_init__(self) -> None:
        check_fields(self)
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and value < 0:
                raise ValueError(f"{item.name} must not be negative: {value!r}")
            if value == 0 and item.name in _NOT_ZERO:
                raise ValueError(f"{item.name} must be 1 or more")


def bound(limit: int | None) -> float:
    """Convert a limit to a number that can be compared.

    Args:
        limit: A value from :class:`Limits`.

    Returns:
        The same number; infinity for ``None``.
    """
    return inf if limit is None else limit


#: The limits for a connection that streams the pieces of messages to its caller. It holds no
#: message, so the caller has to bound the size and the number of pieces. The ratio prevents a small
#: message from becoming endless work.
STREAMING_LIMITS = Limits(max_message_size=None, max_fragments=None, max_inflate_ratio=200)
