"""Name-addr and addr-spec: the values of From, To, Contact, Route, Record-Route and Path."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Self

from ._syntax import LWS, PARAMS, QUOTED, check_text, quote, unquote
from .errors import SipParseError
from .params import NO_PARAMS, Params
from .uri import SipUri, Uri, parse_uri

__all__ = ["NameAddr"]

#: Tokens with white space between them; characters outside ASCII, which the grammar wants quoted,
#: are met without quotes in practice.
_WORDS = r"[A-Za-z0-9\-.!%*_+`'~\x80-\U0010ffff](?:[A-Za-z0-9\-.!%*_+`'~ \t\x80-\U0010ffff]*+)"
_NAME_ADDR_RE = re.compile(rf"{LWS}(?:({QUOTED}){LWS}|({_WORDS}))?+<([^<>]++)>({PARAMS}){LWS}")
#: Without brackets a URI ends at the first comma, question mark or semicolon (RFC 3261 §20.10).
_ADDR_SPEC_RE = re.compile(rf"{LWS}([^\x00-\x20,;?<>\"]++)({PARAMS}){LWS}")


@dataclass(frozen=True, slots=True)
class NameAddr:
    """A URI with a display name and header parameters: ``"Alice" <sip:alice@a.test>;tag=1``.

    Args:
        uri: The URI.
        params: The parameters behind the brackets, which belong to the header.
        display_name: The plain name, without quotes; ``None`` for none.

    Raises:
        SipValueError: The display name holds a line break or NUL.
    """

    uri: Uri
    params: Params = field(default=NO_PARAMS)
    display_name: str | None = None

    def __post_init__(self) -> None:
        if self.display_name is not None:
            check_text(self.display_name, "display name")

    @classmethod
    def parse(cls, text: str) -> NameAddr:
        """Read one value.

        Raises:
            SipParseError: 400, for bad syntax in the value or its URI.
        """
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
        _set(value, "uri", parse_uri(uri))
        _set(value, "params", Params.from_checked(params))
        _set(value, "display_name", display)
        return value

    @property
    def sip_uri(self) -> SipUri:
        """The URI, where it has to be a SIP or SIPS one.

        Raises:
            SipParseError: 416, for another scheme.
        """
        if not isinstance(self.uri, SipUri):
            raise SipParseError(416, f"not a SIP URI: {self.uri!s:.100}")
        return self.uri

    @property
    def tag(self) -> str | None:
        """The tag parameter of From and To (RFC 3261 §19.3)."""
        return self.params.get("tag")

    def with_param(self, name: str, value: str | None = None) -> Self:
        """This value with a header parameter set; see :meth:`Params.with_param`."""
        return replace(self, params=self.params.with_param(name, value))

    def without_param(self, name: str) -> Self:
        """This value without that header parameter."""
        return replace(self, params=self.params.without(name))

    def with_uri(self, uri: Uri) -> Self:
        """This value with another URI."""
        return replace(self, uri=uri)

    def __str__(self) -> str:
        name = "" if self.display_name is None else f"{quote(self.display_name)} "
        return f"{name}<{self.uri}>{self.params}"


_set = object.__setattr__
