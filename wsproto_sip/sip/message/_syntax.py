r"""The pieces of SIP's grammar that several headers share (RFC 3261 §25.1).

All functions take the unfolded text of one header field. Character classes are written out: the
shorthands (``\d``, ``\s``) and the string methods accept digits and spaces that SIP does not.

Every pattern matches in linear time on any input: there is at most one way to divide the characters
between its repetitions, because what follows a run never begins with a character of that run, and
no run is itself repeated. (Possessive quantifiers would express this, but some of them are broken
before Python 3.11.5.)
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
    "escaped",
    "parse_port",
    "parse_uint",
    "quote",
    "split_first",
    "split_values",
    "unquote",
]

#: White space within a field whose folds have been undone.
LWS = r"[ \t]*"
TOKEN = r"[A-Za-z0-9\-.!%*_+`'~]+"  # noqa: S105 - a grammar rule
QUOTED = r'"[^"\\\r\n]*(?:\\[^\r\n][^"\\\r\n]*)*"'
#: A host name (with the underscores that real names have), an IPv4 address or a bracketed IPv6 one.
HOST = r"(?:[A-Za-z0-9_.\-]+|\[[0-9A-Fa-f:.]+\])"
#: The unquoted value of a header parameter. Wider than the grammar's token or host: tags that
#: contain a slash, an equals sign or an at sign exist in practice and cannot be misread.
GENERIC_VALUE = r'[^\x00-\x20\x7f-\U0010ffff",;<>\\]+'
#: Header parameters, from the first semicolon on.
PARAMS = rf"(?:{LWS};{LWS}{TOKEN}(?:{LWS}={LWS}(?:{QUOTED}|{GENERIC_VALUE}))?)*"

#: Values in one list, over all its fields: splitting a list costs far more than its bytes.
MAX_VALUES = 128

TOKEN_RE = re.compile(TOKEN)
# What follows the repetition always matches, so its parts are never divided anew.
_VALUE_RE = re.compile(rf'(?:[^,"<]+|{QUOTED}|<[^<>]*>)+')
_UINT_RE = re.compile(r"[0-9]+")
_ESCAPE_RE = re.compile(r"\\(.)", re.DOTALL)
# The grammar allows NUL in one place only: after the backslash of a quoted pair.
_FORBIDDEN_RE = re.compile(r"[\r\n]|(?<!\\)\x00")


def escaped(char: str) -> str:
    """Build a pattern for one or more characters of a class or escapes (``%41``).

    Args:
        char: The class, as a pattern for one character. It must not contain ``%``.
    """
    escape = "%[0-9A-Fa-f]{2}"
    return f"(?:{char}+(?:{escape}{char}*)*|(?:{escape}{char}*)+)"


def check_text(text: str, what: str) -> str:
    """Return the text if it is valid in a header field, otherwise raise SipValueError."""
    if _FORBIDDEN_RE.search(text):
        raise SipValueError(f"{what} contains a line break or NUL: {text!r:.100}")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SipValueError(f"{what} cannot be written in UTF-8: {text!r:.100}") from None
    return text


def check_token(text: str, what: str) -> str:
    """Return ``text`` if it is a token, otherwise raise SipValueError."""
    if not TOKEN_RE.fullmatch(text):
        raise SipValueError(f"{what} is not a token: {text!r:.100}")
    return text


def quote(text: str) -> str:
    """Write any text as a quoted string; line breaks and NUL are refused."""
    # `quote` escapes every backslash, so none of them can form a quoted pair with a NUL.
    check_text(text.replace("\\", ""), "quoted text")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """Return the text of a quoted string, or any other text unchanged."""
    if text[:1] != '"':
        return text
    text = text[1:-1]
    return _ESCAPE_RE.sub(r"\1", text) if "\\" in text else text


def _value_end(text: str, start: int) -> int:
    """Return where the value that starts at ``start`` ends: at a comma, or with the text."""
    match = _VALUE_RE.match(text, start)
    end = match.end() if match else start
    if end < len(text) and text[end] != ",":
        raise SipParseError(400, f"unbalanced quotes or angle brackets: {text!r:.100}")
    return end


def split_values(text: str) -> list[str]:
    """Split a field into its comma-separated values (RFC 3261 §7.3.1), trimmed.

    Commas within quotes and angle brackets do not separate values. An empty field has no values.

    Raises:
        SipParseError: 400, for an empty value between commas, unclosed quotes or brackets, or
            more than :data:`MAX_VALUES` values.
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
    """Return the first value of a field and the rest after its comma, both trimmed.

    Raises:
        SipParseError: 400, if that value has unclosed quotes or brackets.
    """
    if "," not in text:
        return text.strip(" \t"), ""
    end = _value_end(text, 0)
    return text[:end].strip(" \t"), text[end + 1 :].strip(" \t")


def parse_uint(text: str, maximum: int, what: str) -> int:
    """Read a decimal number (leading zeros allowed) of at most ``maximum``.

    Raises:
        SipParseError: 400, for anything else, including signs and non-ASCII digits.
    """
    if not _UINT_RE.fullmatch(text):
        raise SipParseError(400, f"{what} is not a number: {text!r:.100}")
    # Bound the length first: converting very long numbers is slow, and CPython refuses it.
    digits = text if len(text) <= 20 else text.lstrip("0")[:21]
    number = int(digits or "0")
    if number > maximum:
        raise SipParseError(400, f"{what} is above {maximum}: {text!r:.100}")
    return number


def parse_port(text: str | None) -> int | None:
    """Read a port number; ``None`` for ``None``."""
    return None if text is None else parse_uint(text, 65535, "port")
