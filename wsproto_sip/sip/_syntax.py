r"""The pieces of SIP's grammar that several headers share (RFC 3261 §25.1).

Everything works on the unfolded text of one header field. Character classes are written out: the
shorthand ones (``\d``, ``\s``) and the string methods take characters for digits or space that
SIP does not. Quantifiers are possessive, so that a match costs linear time on any input.
"""

from __future__ import annotations

import re

from .errors import SipParseError, SipValueError

__all__ = [
    "GENERIC_VALUE",
    "HOST",
    "LWS",
    "MAX_VALUES",
    "PARAMS",
    "QUOTED",
    "TOKEN",
    "TOKEN_RE",
    "check_text",
    "check_token",
    "parse_port",
    "parse_uint",
    "quote",
    "split_first",
    "split_values",
    "unquote",
]

#: White space within a field whose folds have been undone.
LWS = r"[ \t]*+"
TOKEN = r"[A-Za-z0-9\-.!%*_+`'~]++"  # noqa: S105 - a grammar rule
QUOTED = r'"(?:[^"\\\r\n]++|\\[^\r\n])*+"'
#: A host name (with the underscores that real names have), an IPv4 address or a bracketed IPv6 one.
HOST = r"(?:[A-Za-z0-9_.\-]++|\[[0-9A-Fa-f:.]++\])"
#: The unquoted value of a header parameter. Wider than the grammar's token or host: tags with a
#: slash, an equals sign or an at sign are met in practice and can mislead nobody.
GENERIC_VALUE = r'[^\x00-\x20\x7f-\U0010ffff",;<>\\]++'
#: Header parameters, from the first semicolon on.
PARAMS = rf"(?:{LWS};{LWS}{TOKEN}(?:{LWS}={LWS}(?:{QUOTED}|{GENERIC_VALUE}))?+)*+"

#: Values of one list, in however many fields: taking one apart costs far more than its octets.
MAX_VALUES = 128

TOKEN_RE = re.compile(TOKEN)
_VALUE_RE = re.compile(rf'(?:[^,"<]++|{QUOTED}|<[^<>]*+>)++')
_UINT_RE = re.compile(r"[0-9]++")
_ESCAPE_RE = re.compile(r"\\(.)", re.DOTALL)
# NUL has one place in the grammar: behind the backslash of a quoted pair.
_FORBIDDEN_RE = re.compile(r"[\r\n]|(?<!\\)\x00")


def check_text(text: str, what: str) -> str:
    """Return the text if it can stand in a header field, else raise SipValueError."""
    if _FORBIDDEN_RE.search(text):
        raise SipValueError(f"{what} holds a line break or NUL: {text!r:.100}")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SipValueError(f"{what} cannot be written in UTF-8: {text!r:.100}") from None
    return text


def check_token(text: str, what: str) -> str:
    """Return ``text`` if it is a token, else raise SipValueError."""
    if not TOKEN_RE.fullmatch(text):
        raise SipValueError(f"{what} is not a token: {text!r:.100}")
    return text


def quote(text: str) -> str:
    """Write any text as a quoted string; line breaks and NUL are refused."""
    # A backslash in front of NUL is escaped itself, and makes no quoted pair of it.
    check_text(text.replace("\\", ""), "quoted text")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """The text of a quoted string; anything else as it is."""
    if text[:1] != '"':
        return text
    text = text[1:-1]
    return _ESCAPE_RE.sub(r"\1", text) if "\\" in text else text


def _value_end(text: str, start: int) -> int:
    """Where the value that starts at ``start`` ends: at a comma or at the end of the text."""
    match = _VALUE_RE.match(text, start)
    end = match.end() if match else start
    if end < len(text) and text[end] != ",":
        raise SipParseError(400, f"unbalanced quotes or angle brackets: {text!r:.100}")
    return end


def split_values(text: str) -> list[str]:
    """Split a field into its comma-separated values (RFC 3261 §7.3.1), trimmed.

    Commas within quotes and angle brackets do not count. An empty field has no values.

    Raises:
        SipParseError: 400, for an empty value between commas, quotes or brackets that are not
            closed, or more than :data:`MAX_VALUES`.
    """
    if "," not in text:
        text = text.strip(" \t")
        return [text] if text else []
    values: list[str] = []
    if '"' not in text and "<" not in text:
        values = [value.strip(" \t") for value in text.split(",")]
    else:
        position = -1
        while position < len(text):
            end = _value_end(text, position + 1)
            values.append(text[position + 1 : end].strip(" \t"))
            position = end
            if len(values) > MAX_VALUES:
                break
    if len(values) > MAX_VALUES:
        raise SipParseError(400, f"more than {MAX_VALUES} values: {text!r:.100}")
    if not all(values):
        raise SipParseError(400, f"empty value in a list: {text!r:.100}")
    return values


def split_first(text: str) -> tuple[str, str]:
    """The first value of a field, and what follows the comma behind it, both trimmed.

    Raises:
        SipParseError: 400, where that value's quotes or brackets are not closed.
    """
    if "," not in text:
        return text.strip(" \t"), ""
    end = _value_end(text, 0)
    return text[:end].strip(" \t"), text[end + 1 :].strip(" \t")


def parse_uint(text: str, maximum: int, what: str) -> int:
    """Read a decimal number (leading zeros allowed) of at most ``maximum``.

    Raises:
        SipParseError: 400, for anything else, signs and foreign digits included.
    """
    if not _UINT_RE.fullmatch(text):
        raise SipParseError(400, f"{what} is not a number: {text!r:.100}")
    # Length first: the conversion of very long numbers is slow, and refused by CPython itself.
    digits = text if len(text) <= 20 else text.lstrip("0")[:21]
    number = int(digits or "0")
    if number > maximum:
        raise SipParseError(400, f"{what} is above {maximum}: {text!r:.100}")
    return number


def parse_port(text: str | None) -> int | None:
    """Read a port number; ``None`` for ``None``."""
    return None if text is None else parse_uint(text, 65535, "port")
