"""Header names, and values that are neither addresses nor Via."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ._syntax import TOKEN, TOKEN_RE, check_token, parse_uint, split_values
from .address import NameAddr
from .errors import SipParseError, SipValueError

__all__ = [
    "CANONICAL",
    "COMPACT_FORMS",
    "CSeq",
    "parse_contacts",
    "parse_expires",
    "parse_q",
    "parse_tokens",
]

#: Compact forms (RFC 3261 §7.3.3 and the registry of header fields).
COMPACT_FORMS = {
    "a": "accept-contact",
    "b": "referred-by",
    "c": "content-type",
    "d": "request-disposition",
    "e": "content-encoding",
    "f": "from",
    "i": "call-id",
    "j": "reject-contact",
    "k": "supported",
    "l": "content-length",
    "m": "contact",
    "n": "identity-info",
    "o": "event",
    "r": "refer-to",
    "s": "subject",
    "t": "to",
    "u": "allow-events",
    "v": "via",
    "x": "session-expires",
    "y": "identity",
}

_USUAL = (
    "Accept Accept-Encoding Accept-Language Alert-Info Allow Allow-Events "
    "Authentication-Info Authorization CSeq Call-ID Call-Info Contact Content-Disposition "
    "Content-Encoding Content-Language Content-Length Content-Type Date Error-Info Event "
    "Expires Flow-Timer From Identity In-Reply-To Max-Forwards MIME-Version Min-Expires "
    "Min-SE Organization P-Access-Network-Info P-Asserted-Identity P-Preferred-Identity "
    "Path Priority Privacy Proxy-Authenticate Proxy-Authorization Proxy-Require RAck RSeq "
    "Reason Record-Route Refer-To Referred-By Replaces Reply-To Require Retry-After Route "
    "SIP-ETag SIP-If-Match Server Service-Route Session-Expires Subject "
    "Subscription-State Supported Timestamp To Unsupported User-Agent Via "
    "WWW-Authenticate Warning"
)


class _Names(dict[str, str]):
    """Canonical names by spelling."""

    def __missing__(self, name: str) -> str:
        if not TOKEN_RE.fullmatch(name):
            raise SipValueError(f"header name is not a token: {name!r:.100}")
        return name.lower()


#: The canonical name of each header: its full name in lower case. The usual, the lower-case and the
#: compact spellings are found without work. A name that is not a token raises SipValueError.
CANONICAL = _Names()
for _name in _USUAL.split(" "):
    CANONICAL[_name] = CANONICAL[_name.lower()] = _name.lower()
for _name, _full in COMPACT_FORMS.items():
    CANONICAL[_name] = CANONICAL[_name.upper()] = _full

_CSEQ_RE = re.compile(rf"([0-9]+)[ \t]+({TOKEN})")
_Q_RE = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")
_MAX_CSEQ = 2**31 - 1
_MAX_EXPIRES = 2**32 - 1


@dataclass(frozen=True, slots=True)
class CSeq:
    """Sequence number and method (RFC 3261 §20.16).

    Args:
        number: 0 to 2³¹ - 1.
        method: The method, with its case.

    Raises:
        SipValueError: The number is out of range or the method is not a token.
    """

    number: int
    method: str

    def __post_init__(self) -> None:
        if not 0 <= self.number <= _MAX_CSEQ:
            raise SipValueError(f"CSeq out of range: {self.number!r}")
        check_token(self.method, "method")

    @classmethod
    def parse(cls, text: str) -> CSeq:
        """Read a CSeq value.

        Raises:
            SipParseError: 400, for bad syntax or a number of 2³¹ or more (§8.1.1.5).
        """
        match = _CSEQ_RE.fullmatch(text)
        if match is None:
            raise SipParseError(400, f"bad CSeq: {text!r:.100}")
        cseq = cls.__new__(cls)
        digits = match[1]
        short = len(digits) < 10
        _set(cseq, "number", int(digits) if short else parse_uint(digits, _MAX_CSEQ, "CSeq"))
        _set(cseq, "method", match[2])
        return cseq

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


_set = object.__setattr__


def parse_contacts(values: list[str]) -> list[NameAddr] | None:
    """Parse the contacts of a message; return ``None`` for ``Contact: *`` (RFC 3261 §10.2.2).

    Args:
        values: The values of all its Contact fields.

    Raises:
        SipParseError: 400, for a bad address, or for ``*`` together with others.
    """
    if "*" in values:
        if len(values) > 1:
            raise SipParseError(400, "Contact: * together with other contacts")
        return None
    return [NameAddr.parse(value) for value in values]


def parse_tokens(text: str) -> list[str]:
    """Split a list of tokens (Supported, Require, Proxy-Require, Allow …), keeping order and case.

    Raises:
        SipParseError: 400, for an item that is not a token.
    """
    tokens = split_values(text)
    for token in tokens:
        if not TOKEN_RE.fullmatch(token):
            raise SipParseError(400, f"not a token: {token!r:.100}")
    return tokens


def parse_expires(text: str) -> int:
    """Parse the seconds of an Expires header or expires parameter (RFC 3261 §20.19).

    Raises:
        SipParseError: 400, if it is not a number from 0 to 2³² - 1.
    """
    return parse_uint(text, _MAX_EXPIRES, "expires")


def parse_q(text: str) -> int:
    """Parse a contact's q value to thousandths: ``0.7`` is 700 (RFC 3261 §20.10).

    Raises:
        SipParseError: 400, if it is not a number from 0 to 1 with at most three decimals.
    """
    if not _Q_RE.fullmatch(text):
        raise SipParseError(400, f"bad q value: {text!r:.100}")
    whole, _, decimals = text.partition(".")
    return int(whole) * 1000 + int((decimals + "000")[:3])
