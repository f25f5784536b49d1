"""Parameters after a semicolon: of headers (RFC 3261 §7.3.1) and of SIP URIs (§19.1.1)."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, Self
from urllib.parse import unquote as percent_decode

from ._syntax import GENERIC_VALUE, LWS, PARAMS, QUOTED, TOKEN, escaped, quote, unquote
from .errors import SipParseError, SipValueError

__all__ = ["Params", "UriParams", "percent_encode"]

_HEADER_PARAMS_RE = re.compile(PARAMS + LWS)
_HEADER_PARAM_RE = re.compile(rf";{LWS}({TOKEN})(?:{LWS}={LWS}({QUOTED}|{GENERIC_VALUE}))?")
_HEADER_NAME_RE = re.compile(TOKEN)
#: Values that need no quotes: a token, or a host with its brackets and colons.
_STRICT_VALUE_RE = re.compile(r"[A-Za-z0-9\-.!%*_+`'~\[\]:]+")

_URI_CHARS = escaped(r"[A-Za-z0-9\-_.!~*'()\[\]/:&+$]")
_URI_PARAMS_RE = re.compile(rf"(?:;{_URI_CHARS}(?:={_URI_CHARS})?)*")
_URI_PIECE_RE = re.compile(_URI_CHARS)
_URI_SAFE = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.!~*'()[]/:&+$"
)


def percent_encode(text: str, safe: frozenset[int]) -> str:
    """Escape every byte of the text's UTF-8 form that is not in ``safe`` (RFC 3986 §2.1).

    Raises:
        SipValueError: The text contains a surrogate that does not stand for a byte.
    """
    if text.isascii() and text.isalnum():
        return text
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise SipValueError(f"text cannot be written in UTF-8: {text!r:.100}") from None
    return "".join([chr(byte) if byte in safe else f"%{byte:02X}" for byte in data])


class _ParamList(ABC):
    """An immutable list of parameters: names ignore case, values are kept as written."""

    __slots__ = ("_known", "_text")

    #: A character that every written value contains that :meth:`_read` would change.
    _MARK: ClassVar[str]
    #: Names and values as written; ``None`` until they are first needed.
    _known: tuple[tuple[str, str | None], ...] | None
    #: The text that is not split yet.
    _text: str

    def __init__(self, items: Iterable[tuple[str, str | None]] = ()) -> None:
        """Take names and plain values; ``None`` is for a parameter without a value.

        Raises:
            SipValueError: A name or value cannot be written, or a name is repeated.
        """
        written = tuple([(self._name(name), self._write(value)) for name, value in items])
        if len({name.lower() for name, _ in written}) != len(written):
            raise SipValueError("a parameter is repeated")
        self._known = written

    @staticmethod
    @abstractmethod
    def _name(name: str) -> str:
        """Check a name, and escape it if the syntax allows that."""

    @staticmethod
    @abstractmethod
    def _write(value: str | None) -> str | None:
        """Return the written form of a plain value."""

    @staticmethod
    @abstractmethod
    def _read(value: str) -> str:
        """Return the plain value of a written one."""

    @classmethod
    def _from_items(cls, items: tuple[tuple[str, str | None], ...]) -> Self:
        params = cls.__new__(cls)
        params._known = items
        return params

    @classmethod
    def _from_text(cls, text: str) -> Self:
        """Make parameters of text that matches the grammar, checking for repeated names."""
        params = cls.__new__(cls)
        params._text = text
        params._known = None
        if text.count(";") > 1:
            items = params._items
            if len({name.lower() for name, _ in items}) != len(items):
                raise SipParseError(400, f"a parameter is repeated: {text!r:.100}")
        return params

    @property
    def _items(self) -> tuple[tuple[str, str | None], ...]:
        items = self._known
        if items is None:
            items = self._known = self._take_apart(self._text)
        return items

    @staticmethod
    def _take_apart(text: str) -> tuple[tuple[str, str | None], ...]:
        """Split parameters without quotes and white space."""
        items: list[tuple[str, str | None]] = []
        for piece in text[1:].split(";"):
            name, equals, value = piece.partition("=")
            items += ((name, value if equals else None),)
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
        """Return the plain value, unquoted or unescaped; ``""`` for a parameter without one."""
        items = self._known
        if items is None:
            items = self._items
        for have, value in items:
            if have == name:
                return self._plain(value)
        index = self._find(name) if items else -1
        return default if index < 0 else self._plain(items[index][1])

    def _plain(self, value: str | None) -> str:
        if value is None:
            return ""
        return self._read(value) if self._MARK in value else value

    def with_param(self, name: str, value: str | None = None, *, first: bool = False) -> Self:
        """Return a copy with one parameter set: in its place if present, otherwise appended.

        Args:
            name: The parameter.
            value: Its plain value, quoted or escaped here as needed; ``None`` for no value.
            first: Prepend a new parameter instead of appending it.

        Raises:
            SipValueError: The name or value cannot be written as a parameter.
        """
        item = (self._name(name), self._write(value))
        index = self._find(name)
        items = self._items
        if index >= 0:
            return self._from_items((*items[:index], item, *items[index + 1 :]))
        return self._from_items((item, *items) if first else (*items, item))

    def with_written(self, given: Mapping[str, str | None]) -> Self:
        """Return a copy with some parameters set, each in its place or otherwise appended.

        Args:
            given: Names in lower case, and values that need neither quotes nor escapes; ``None``
                for no value.
        """
        left = dict(given)
        items: list[tuple[str, str | None]] = []
        for name, value in self._known or self._items:
            key = name.lower()
            items += ((name, left.pop(key)) if key in left else (name, value),)
        return self._from_items((*items, *left.items()))

    def without(self, name: str) -> Self:
        """Return a copy without a parameter."""
        index = self._find(name)
        if index < 0:
            return self
        return self._from_items(self._items[:index] + self._items[index + 1 :])

    def __contains__(self, name: str) -> bool:
        return self._find(name) >= 0

    def __iter__(self) -> Iterator[tuple[str, str | None]]:
        """Iterate over names and values as written, with quotes and escapes."""
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        """Compare parameters in order; names ignore case."""
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[tuple[str, str | None], ...]:
        return tuple([(name.lower(), value) for name, value in self._items])

    def __str__(self) -> str:
        items = self._known
        if items is None:
            items = self._items
        text = ""
        for name, value in items:
            text += f";{name}" if value is None else f";{name}={value}"
        return text

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"


class Params(_ParamList):
    """The parameters of a header value: ``;tag=abc;+sip.instance="<urn:uuid:…>"``.

    Args:
        items: Names and plain values; ``None`` is for a parameter without a value.

    Raises:
        SipValueError: A name is not a token or is repeated, or a value contains a line break
            or NUL.
    """

    __slots__ = ()
    _MARK = '"'

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
            SipParseError: 400, for bad syntax or a parameter that is repeated.
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
        items: Names and plain values, escaped here as needed; ``None`` is for a parameter
            without a value.

    Raises:
        SipValueError: A name is empty or repeated, or a value is empty.
    """

    __slots__ = ()
    _MARK = "%"

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
            SipParseError: 400, for bad syntax or a parameter that is repeated.
        """
        if not text:
            return NO_URI_PARAMS
        if not _URI_PARAMS_RE.fullmatch(text):
            raise SipParseError(400, f"bad URI parameters: {text!r:.100}")
        return cls._from_text(text)


NO_PARAMS = Params()
NO_URI_PARAMS = UriParams()
