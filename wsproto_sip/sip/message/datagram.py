"""SIP in datagrams: one message each; bytes after the message are ignored."""

from __future__ import annotations

import re

from .limits import DEFAULT_LIMITS, SipLimits
from .message import SipRequest, SipResponse
from .parser import parse_message

__all__ = ["parse_datagram"]

_LENGTH_RE = re.compile(
    rb"\r\n(?:Content-Length|l)[ \t]*:[ \t]*([0-9]{1,5})[ \t]*(?=\r\n)", re.IGNORECASE
)


def parse_datagram(data: bytes, *, limits: SipLimits = DEFAULT_LIMITS) -> SipRequest | SipResponse:
    """Read one datagram as one SIP message (RFC 3261 §18.3).

    Bytes after the body's Content-Length are dropped. A body shorter than its Content-Length is an
    error. Without Content-Length, the message ends with the datagram.

    Args:
        data: The datagram.
        limits: Bounds on the message.

    Raises:
        SipParseError: As for :func:`~wsproto_sip.sip.message.parser.parse_message`.
    """
    end = data.find(b"\r\n\r\n")
    if end >= 0:
        lengths = _LENGTH_RE.findall(data, 0, end + 2)
        if len(lengths) == 1:
            data = data[: end + 4 + int(lengths[0])]
    return parse_message(data, limits=limits)
