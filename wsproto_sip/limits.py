"""Every bound in one place.

A bound stands where the bytes first cost memory: the head of the handshake while it is read, the
frame at its header, the message while it is put together, inflated octets inside the inflater.
``None`` switches a bound off; the defaults hold on a public address. What belongs to another bound
(``inflate_ratio_floor``, ``control_burst``) goes with that one, and ``high_water`` bounds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import inf
from typing import Final

__all__ = ["STREAMING_LIMITS", "Limits", "bound"]


_NOT_ZERO: Final = frozenset(["max_frames_per_call", "max_queued_messages"])


@dataclass(frozen=True, slots=True)
class Limits:
    """What one connection may cost.

    Args:
        max_handshake_bytes: Octets of the handshake's head in all; more is answered with 431.
        max_header_line: Octets of one line of that head; more is answered with 431.
        max_headers: Header fields in it; more are answered with 431.
        max_list_items: Items in one list-valued header field; more are answered with 400.
        max_message_size: Octets of one message, inflated; more fails the connection with 1009,
            at the header that announces them.
        max_frame_size: Octets of one frame; more fails with 1009. ``None`` leaves frames to
            ``max_message_size``.
        max_fragments: Data frames in one message, empty ones included; more fail with 1009.
        max_inflate_ratio: How many times its compressed size a message may inflate to, counted
            once it has passed ``inflate_ratio_floor``; more fails with 1009.
        inflate_ratio_floor: Octets up to which the ratio is not looked at.
        max_inflated_per_read: Inflated octets out of one read, after which parsing pauses until
            the events so far have been taken.
        max_frames_per_call: Frames that a session takes in one call; the rest is continued in the
            next, and its deadline is at once.
        max_queued_messages: Messages after which a session with ``auto_pause`` stops reading.
        max_queued_bytes: Octets in messages after which it does.
        max_control_rate: Control frames a second, above ``control_burst``; more fail with 1008.
        control_burst: Control frames that may come at once.
        high_water: Octets waiting to be sent above which a session is not ``writable``.
        max_outgoing: Octets waiting to be sent above which the connection fails with 1008; a single
            message, with nothing else waiting, may be longer.

    Raises:
        ValueError: A bound is negative, or 0 where nothing would ever be taken.
    """

    max_handshake_bytes: int | None = 16 * 1024
    max_header_line: int | None = 8 * 1024
    max_headers: int | None = 64
    max_list_items: int | None = 32
    max_message_size: int | None = 1024 * 1024
    max_frame_size: int | None = None
    max_fragments: int | None = 1024
    max_inflate_ratio: int | None = 200
    inflate_ratio_floor: int = 64 * 1024
    max_inflated_per_read: int | None = 2 * 1024 * 1024
    max_frames_per_call: int | None = 256
    max_queued_messages: int | None = 16
    max_queued_bytes: int | None = 64 * 1024
    max_control_rate: int | None = 50
    control_burst: int = 200
    high_water: int = 64 * 1024
    max_outgoing: int | None = 1024 * 1024

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and value < 0:
                raise ValueError(f"{item.name} must not be negative: {value!r}")
            if value == 0 and item.name in _NOT_ZERO:
                raise ValueError(f"{item.name} must be 1 or more")


def bound(limit: int | None) -> float:
    """A bound that can be compared with.

    Args:
        limit: As it stands in :class:`Limits`.

    Returns:
        The same number; infinity where there is no bound.
    """
    return inf if limit is None else limit


#: What a connection gets that streams the pieces of messages to its caller: it holds no message,
#: so the size and the number of pieces of one are the caller's to bound, and a message may be a
#: megabyte of zeros.
STREAMING_LIMITS = Limits(
    max_message_size=None, max_fragments=None, inflate_ratio_floor=1024 * 1024
)
