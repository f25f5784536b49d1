"""Name-addr and addr-spec: the values of From, To, Contact, Route, Record-Route and Path."""

from __future__ import annotations

import re
from functools import lru_cache

from ._syntax import LWS, PARAMS, QUOTED, check_text, quote, unquote
from .errors import SipParseError
from .params import NO_PARAMS, Params
from .uri import SipUri, Uri, parse_uri

__all__ = ["NameAddr"]

#: Longest text, in characters, whose parsed value is cached.
_MAX_REMEMBERED = 256

#: Tokens separated by white space. Characters outside ASCII are accepted without the quotes that
#: the grammar requires, because implementations send them so.
_WORDS = r"[A-Za-z0-9\-.!%*_+`'~\x80-\U0010ffff](?:[A-Za-z0-9\-.!%*_+`'~ \t\x80-\U0010ffff]*)"
_NAME_ADDR_RE = re.compile(rf"{LWS}(?:({QUOTED}){LWS}|({_WORDS}))?<([^<>]+)>({PARAMS}){LWS}")
#: Without brackets a URI ends at the first comma, question mark or semicolon (RFC 3261 §20.10).
_ADDR_SPEC_RE = re.compile(rf"{LWS}([^\x00-\x20,;?<>\"]+)({PARAMS}){LWS}")


class NameAddr:
    """A URI with a display name and header parameters: ``"Alice" <sip:alice@a.test>;tag=1``.

    Args:
        uri: The URI.
        params: The parameters after the brackets, which belong to the header field.
        display_name: The plain name, without quotes; ``None`` if there is none.

    Raises:
        SipValueError: The display name contains a line break or NUL.
    """

    __slots__ = ("_display_name", "_params", "_uri")

    def __init__(
        self, uri: Uri, params: Params = NO_PARAMS, display_name: str | None = None
    ) -> None:
        if display_name is not None:
            # quote() escapes every backslash, so a backslash does not make a NUL legal.
            check_text(display_name.replace("\\", ""), "display name")
        self._uri = uri
        self._params = params
        self._display_name = display_name

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """Read one value.

        Raises:
            SipParseError: 400, for bad syntax in the value or its URI.
        """
        return _remembered(text) if len(text) <= _MAX_REMEMBERED else cls._read(text)

    @classmethod
    def _read(cls, text: str) -> NameAddr:
        display: str | None = None
        match = _NAME_ADDR_RE.fullmatch(text)
        if match is not None:
            quoted, words, uri, params = match.groups()
            if quoted is not None:
                display = unquote(quoted)
            elif words is not None:
                display = words.rstrip(" \t")
        else:
            match = _ADDR_SPEC_RE.fullmatch(text)
            if match is None:
                raise SipParseError(400, f"bad address: {text!r:.100}")
            uri, params = match.groups()
        value = cls.__new__(cls)
        value._uri = parse_uri(uri)
        value._params = Params.from_checked(params) if params else NO_PARAMS
        value._display_name = display
        return value

    @property
    def uri(self) -> Uri:
        """The URI."""
        return self._uri

    @property
    def params(self) -> Params:
        """The parameters after the brackets."""
        return self._params

    @property
    def display_name(self) -> str | None:
        """The plain name; ``None`` if there is none."""
        return self._display_name

    @property
    def sip_uri(self) -> SipUri:
        """The URI as a SIP or SIPS URI.

        Raises:
            SipParseError: 416, if the scheme is another.
        """
        uri = self._uri
        if not isinstance(uri, SipUri):
            raise SipParseError(416, f"not a SIP URI: {uri!s:.100}")
        return uri

    @property
    def tag(self) -> str | None:
        """The tag parameter of From and To (RFC 3261 §19.3)."""
        return self._params.get("tag")

    def with_param(self, name: str, value: str | None = None) -> NameAddr:
        """Return a copy with a header parameter set; see ``Params.with_param``."""
        return NameAddr(self._uri, self._params.with_param(name, value), self._display_name)

    def without_param(self, name: str) -> NameAddr:
        """Return a copy without a header parameter."""
        return NameAddr(self._uri, self._params.without(name), self._display_name)

    def with_uri(self, uri: Uri) -> NameAddr:
        """Return a copy with another URI."""
        return NameAddr(uri, self._params, self._display_name)

    def __eq__(self, other: object) -> bool:
        """Compare URI (by its scheme's rules), parameters and display name."""
        if not isinstance(other, NameAddr):
            return NotImplemented
        return (self._uri, self._params, self._display_name) == (
            other._uri,
            other._params,
            other._display_name,
        )

    def __hash__(self) -> int:
        return hash((self._uri, self._params, self._display_name))

    def __repr__(self) -> str:
        return f"NameAddr({str(self)!r})"

    def __str__(self) -> str:
        name = "" if self._display_name is None else f"{quote(self._display_name)} "
        return f"{name}<{self._uri}>{self._params}"


# From, To and Contact repeat in all messages of a dialog, and values are immutable.
_remembered = lru_cache(maxsize=512)(NameAddr._read)
