"""Every bound of the SIP parser in one place."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields

from ..._checks import check_fields
from .errors import SipValueError

__all__ = ["DEFAULT_LIMITS", "SipLimits"]


@dataclass(frozen=True, slots=True)
class SipLimits:
    """Bounds on one SIP message. ``None`` removes a bound.

    A request that exceeds a bound is refused with the status code given here; the connection stays
    usable. The defaults suit a public address. In addition, a list header has at most 128 values:
    reading a longer one fails with 400.

    Args:
        max_message_size: Bytes of a message, head and body. Refused with 513, or with 413 if the
            body alone exceeds it (RFC 3261 §21.4.11).
        max_headers: Header fields; a folded one counts once. Refused with 400.
        max_header_line: Bytes of one header field including its folds, and of the start line apart
            from its Request-URI. Refused with 513.
        max_vias: Via values: the sender's, and one for each hop that the usual Max-Forwards of 70
            allows. Refused with 400.
        max_uri: Bytes of the Request-URI. Refused with 414.

    Raises:
        SipValueError: A bound is negative.
    """

    max_message_size: int | None = 64 * 1024
    max_headers: int | None = 100
    max_header_line: int | None = 4 * 1024
    max_vias: int | None = 71
    max_uri: int | None = 1024
    #: The bounds in the order above, all of them numbers, as the parser uses them.
    bounds: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        bounds = []
        for item in fields(self)[:-1]:
            value = getattr(self, item.name)
            if value is not None and value < 0:
                raise SipValueError(f"{item.name} must not be negative: {value!r}")
            bounds.append(sys.maxsize if value is None else value)
        object.__setattr__(self, "bounds", tuple(bounds))


DEFAULT_LIMITS = SipLimits()
