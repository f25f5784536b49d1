"""SIP in datagrams: one message in each, and what stands behind it is no part of it."""

from __future__ import annotations

import re

from .limits import DEFAULT_LIMITS, SipLimits
from .message import SipRequest, SipResponse
from .parser import parse_message

__all__ = ["parse_datagram"]

_LENGTH_RE = re.compile(
    rb"\r\n(?:Content-Length|l)[ \t]*+:[ \t]*+([0-9]{1,5})[ \t]*+(?=\r\n)", re.IGNORECASE
)


def parse_datagram(data: bytes, *, limits: SipLimits = DEFAULT_LIMITS) -> SipRequest | SipResponse:
    """Read one datagram as one SIP message (RFC 3261 §18.3).

    Octets beyond the body that Content-Length tells of are dropped; a body that is shorter than
    that is an error, and a message without Content-Length ends with the datagram.

    Args:
        data: The datagram.
        limits: What a message may cost.

    Raises:
        SipParseError: As for :func:`~wsproto_sip.sip.parser.parse_message`.
    """
    end = data.find(b"\r\n\r\n")
    if end >= 0:
        lengths = _LENGTH_RE.findall(data, 0, end + 2)
        if len(lengths) == 1:
            data = data[: end + 4 + int(lengths[0])]
    return parse_message(data, limits=limits)
