"""Every bound of the SIP parser in one place."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields

from .errors import SipValueError

__all__ = ["DEFAULT_LIMITS", "SipLimits"]


@dataclass(frozen=True, slots=True)
class SipLimits:
    """What one SIP message may cost. ``None`` switches a bound off.

    A request that passes a bound is refused with the status code given here; the connection goes
    on. The defaults hold on a public address. Beside them stands that a header that is a list has
    128 values at most, where it is read; more are answered with 400.

    Args:
        max_message_size: Octets of a message, head and body; more are answered with 513, and with
            413 where the body alone has more (RFC 3261 §21.4.11).
        max_headers: Header fields, folded ones counted once; more are answered with 400.
        max_header_line: Octets of one header field with its folds, and of the start line beside
            its Request-URI; more are answered with 513.
        max_vias: Via values, the hops a request has made; more are answered with 400.
        max_uri: Octets of the Request-URI; more are answered with 414.

    Raises:
        SipValueError: A bound is negative.
    """

    max_message_size: int | None = 64 * 1024
    max_headers: int | None = 100
    max_header_line: int | None = 4 * 1024
    max_vias: int | None = 70
    max_uri: int | None = 1024
    #: The bounds in the order above, as numbers all of them: the parser's own form.
    bounds: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bounds = []
        for item in fields(self)[:-1]:
            value = getattr(self, item.name)
            if value is not None and value < 0:
                raise SipValueError(f"{item.name} must not be negative: {value!r}")
            bounds.append(sys.maxsize if value is None else value)
        object.__setattr__(self, "bounds", tuple(bounds))


DEFAULT_LIMITS = SipLimits()
