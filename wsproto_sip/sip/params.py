"""Parameters behind a semicolon: of headers (RFC 3261 §7.3.1) and of SIP URIs (§19.1.1)."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Self
from urllib.parse import unquote as percent_decode

from ._syntax import GENERIC_VALUE, LWS, PARAMS, QUOTED, TOKEN, quote, unquote
from .errors import SipParseError, SipValueError

__all__ = ["Params", "UriParams", "percent_encode"]

_HEADER_PARAMS_RE = re.compile(PARAMS + LWS)
_HEADER_PARAM_RE = re.compile(rf";{LWS}({TOKEN})(?:{LWS}={LWS}({QUOTED}|{GENERIC_VALUE}))?+")
_HEADER_NAME_RE = re.compile(TOKEN)
#: What the RFC lets stand unquoted: a token, or a host with its brackets and colons.
_STRICT_VALUE_RE = re.compile(r"[A-Za-z0-9\-.!%*_+`'~\[\]:]++")

_URI_CHAR = r"(?:[A-Za-z0-9\-_.!~*'()\[\]/:&+$]++|%[0-9A-Fa-f]{2})++"
_URI_PARAMS_RE = re.compile(rf"(?:;{_URI_CHAR}(?:={_URI_CHAR})?+)*+")
_URI_PIECE_RE = re.compile(_URI_CHAR)
_URI_SAFE = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()[]/:&+$"
)


def percent_encode(text: str, safe: frozenset[int]) -> str:
    """Escape every octet of the text's UTF-8 form that is not in ``safe`` (RFC 3986 §2.1).

    Raises:
        SipValueError: The text holds a surrogate that stands for no octet.
    """
    try:
        octets = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SipValueError(f"text cannot be written in UTF-8: {text!r:.100}") from None
    return "".join([chr(octet) if octet in safe else f"%{octet:02X}" for octet in octets])


class _ParamList(ABC):
    """An immutable list of parameters: names without regard to case, values as written."""

    __slots__ = ("_known", "_text")

    #: Names and values as written; ``None`` until somebody asks, where there is only one.
    _known: tuple[tuple[str, str | None], ...] | None
    #: The text that is not taken apart yet.
    _text: str

    def __init__(self, items: Iterable[tuple[str, str | None]] = ()) -> None:
        """Take names and plain values; ``None`` is a parameter without a value.

        Raises:
            SipValueError: A name or value cannot be written, or a name is there twice.
        """
        written = tuple([(self._name(name), self._write(value)) for name, value in items])
        if len({name.lower() for name, _ in written}) != len(written):
            raise SipValueError("a parameter is there twice")
        self._known = written

    @staticmethod
    @abstractmethod
    def _name(name: str) -> str:
        """Check a name, and escape it where the syntax can."""

    @staticmethod
    @abstractmethod
    def _write(value: str | None) -> str | None:
        """Turn a plain value into what is written."""

    @staticmethod
    @abstractmethod
    def _read(value: str) -> str:
        """Turn what is written into the plain value."""

    @classmethod
    def _from_items(cls, items: tuple[tuple[str, str | None], ...]) -> Self:
        params = cls.__new__(cls)
        params._known = items
        return params

    @classmethod
    def _from_text(cls, text: str) -> Self:
        """Parameters that match the grammar; several are compared with each other at once."""
        params = cls.__new__(cls)
        params._text = text
        params._known = None
        if text.count(";") > 1:
            items = params._items
            if len({name.lower() for name, _ in items}) != len(items):
                raise SipParseError(400, f"a parameter is there twice: {text!r:.100}")
        return params

    @property
    def _items(self) -> tuple[tuple[str, str | None], ...]:
        items = self._known
        if items is None:
            items = self._known = self._take_apart(self._text)
        return items

    @staticmethod
    def _take_apart(text: str) -> tuple[tuple[str, str | None], ...]:
        """Take apart parameters without quotes and white space."""
        items: list[tuple[str, str | None]] = []
        for piece in text[1:].split(";"):
            name, equals, value = piece.partition("=")
            items.append((name, value if equals else None))
        return tuple(items)

    def _find(self, name: str) -> int:
        for index, (have, _) in enumerate(self._items):
            if have == name:
                return index
        name = name.lower()
        for index, (have, _) in enumerate(self._items):
            if have.lower() == name:
                return index
        return -1

    def get(self, name: str, default: str | None = None) -> str | None:
        """The plain value, unquoted or unescaped; ``""`` where the parameter has no value."""
        index = self._find(name)
        if index < 0:
            return default
        value = self._items[index][1]
        return "" if value is None else self._read(value)

    def with_param(self, name: str, value: str | None = None, *, first: bool = False) -> Self:
        """These parameters with one set: in its place if it is there, else as the last.

        Args:
            name: The parameter.
            value: Its plain value, quoted or escaped here as it needs; ``None`` for none.
            first: Put a new one in front of the others instead.

        Raises:
            SipValueError: The name or value cannot be written as a parameter.
        """
        item = (self._name(name), self._write(value))
        index = self._find(name)
        items = self._items
        if index >= 0:
            return self._from_items((*items[:index], item, *items[index + 1 :]))
        return self._from_items((item, *items) if first else (*items, item))

    def without(self, name: str) -> Self:
        """These parameters without that one."""
        index = self._find(name)
        if index < 0:
            return self
        return self._from_items(self._items[:index] + self._items[index + 1 :])

    def __contains__(self, name: str) -> bool:
        return self._find(name) >= 0

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        """Names and values as written (quotes and escapes kept)."""
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        """Same parameters in the same order; names without regard to case."""
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[str, str | None], ...]:
        return tuple([(name.lower(), value) for name, value in self._items])

    def __str__(self) -> str:
        return "".join(
            [f";{name}" if value is None else f";{name}={value}" for name, value in self._items]
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class Params(_ParamList):
    """The parameters of a header value: ``;tag=abc;+sip.instance="<urn:uuid:…>"``.

    Args:
        items: Names and plain values; ``None`` is a parameter without a value.

    Raises:
        SipValueError: A name is no token or there twice, or a value holds a line break or NUL.
    """

    __slots__ = ()

    @staticmethod
    def _name(name: str) -> str:
        if not _HEADER_NAME_RE.fullmatch(name):
            raise SipValueError(f"parameter name is not a token: {name!r:.100}")
        return name

    @staticmethod
    def _write(value: str | None) -> str | None:
        if value is None or _STRICT_VALUE_RE.fullmatch(value):
            return value
        return quote(value)

    @staticmethod
    def _read(value: str) -> str:
        return unquote(value)

    @classmethod
    def parse(cls, text: str) -> Params:
        """Read parameters from their first semicolon to the end of the value.

        Raises:
            SipParseError: 400, for bad syntax or a parameter that is there twice.
        """
        if not _HEADER_PARAMS_RE.fullmatch(text):
            raise SipParseError(400, f"bad parameters: {text!r:.100}")
        return cls.from_checked(text)

    @classmethod
    def from_checked(cls, text: str) -> Params:
        """Read a text that is known to match the grammar of parameters."""
        if not text:
            return NO_PARAMS
        return cls._from_text(text)

    @staticmethod
    def _take_apart(text: str) -> tuple[tuple[str, str | None], ...]:
        if '"' in text or " " in text or "\t" in text:
            found: list[tuple[str, str]] = _HEADER_PARAM_RE.findall(text)
            return tuple([(name, value or None) for name, value in found])
        return _ParamList._take_apart(text)


class UriParams(_ParamList):
    """The parameters of a SIP URI: ``;transport=ws;lr``.

    Args:
        items: Names and plain values, escaped here where they need it; ``None`` is a parameter
            without a value.

    Raises:
        SipValueError: A name is empty or there twice, or a value is empty.
    """

    __slots__ = ()

    @staticmethod
    def _name(name: str) -> str:
        if not name:
            raise SipValueError("a parameter needs a name")
        return percent_encode(name, _URI_SAFE)

    @staticmethod
    def _write(value: str | None) -> str | None:
        if value == "":
            raise SipValueError("a URI parameter's value cannot be empty")
        return None if value is None else percent_encode(value, _URI_SAFE)

    @staticmethod
    def _read(value: str) -> str:
        return percent_decode(value, errors="surrogateescape") if "%" in value else value

    @classmethod
    def parse(cls, text: str) -> UriParams:
        """Read parameters from their first semicolon to their end.

        Raises:
            SipParseError: 400, for bad syntax or a parameter that is there twice.
        """
        if not text:
            return NO_URI_PARAMS
        if not _URI_PARAMS_RE.fullmatch(text):
            raise SipParseError(400, f"bad URI parameters: {text!r:.100}")
        return cls._from_text(text)


NO_PARAMS = Params()
NO_URI_PARAMS = UriParams()
