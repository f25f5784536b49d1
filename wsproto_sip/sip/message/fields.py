"""The header fields of a message: lookup and editing, in their text form."""

from __future__ import annotations

import re
from collections.abc import Iterable, KeysView
from typing import Any, Final

from ._head import MORE, RARE, RARE_LETTERS, ROUTING, USUAL, VALUES
from ._syntax import MAX_VALUES, check_text, split_first, split_values
from .address import NameAddr
from .errors import SipParseError, SipValueError
from .headers import CANONICAL, CSeq
from .via import Via

__all__ = ["HeaderFields", "HeaderValue"]

HeaderValue = str | Via | NameAddr | CSeq | int

_FOLD_RE = re.compile(r"\r\n[ \t]+")
#: Name and value of each field of a head in its common spelling.
_FIELD_RE = re.compile(r"\n([^:\r\n]+):([^\r]+)")
NO_GROUPS: frozenset[int] = frozenset()
#: Returned instead of an index; never changed.
_NOTHING: Final[dict[str, str]] = {}
#: First or last character of a value that needs trimming; ``""`` for an empty value.
_SPACE = ("", " ", "\t")


class HeaderFields:
    """The header fields in order, each as it was written. The base of all messages.

    For a head in its common spelling, ``_names``, ``_fields`` and ``_first`` are built when they
    are first needed. To replace the only Via, as with each request, they are not. An edit drops the
    cached values of the edited name and of no other.
    """

    __slots__ = (
        "_edited",
        "_fields",
        "_first",
        "_lists",
        "_names",
        "_quick",
        "_single",
        "_top",
        "_wire",
    )

    #: The bytes as received, until something is edited.
    _wire: bytes | None
    #: The head in its common spelling, as received.
    _quick: re.Match[str] | None
    #: The groups of it that are stale, because their fields were edited.
    _edited: frozenset[int]
    #: The new text of the only Via, until the fields are indexed.
    _top: str | None
    #: Canonical names and, in parallel, the fields as written, with their names.
    _names: list[str]
    _fields: list[str]
    #: What follows the colon of the first field of each name; empty until it is needed.
    _first: dict[str, str]
    #: Parsed values by canonical name: of fields that may occur once, and of lists. The lists are
    #: never mutated.
    _single: dict[str, Any]
    _lists: dict[str, list[Any]]

    def _clear(self) -> None:
        """Start without any fields."""
        self._wire = self._quick = None
        self._edited = NO_GROUPS
        self._top = None
        self._names = []
        self._fields = []
        self._first = {}
        self._single = {}
        self._lists = {}

    def _indexed(self) -> dict[str, str]:
        """Return ``_first``, building it and the two lists if they do not exist yet."""
        if self._first:
            return self._first
        quick = self._quick
        if quick is None:
            for name, field in zip(self._names, self._fields, strict=True):
                if name not in self._first:
                    self._first[name] = field.partition(":")[2]
            return self._first
        head = quick[0]
        fields = head.split("\r\n")
        # The start line, and the empty one after the last field.
        del fields[0], fields[-2:]
        pairs = _FIELD_RE.findall(head)
        names = [CANONICAL[name] for name, _ in pairs]
        # From the last to the first, so that the first field of a name wins.
        self._first = {
            name: pair[1] for name, pair in zip(reversed(names), reversed(pairs), strict=True)
        }
        self._names = names
        self._fields = fields
        if self._top is not None:
            fields[names.index("via")] = f"Via: {self._top}"
            self._first["via"] = self._top
            self._top = None
        return self._first

    def _with(self, canonical: str) -> dict[str, str]:
        """Return ``_first``, or nothing if it is plain without an index that a field is missing."""
        quick = self._quick
        if quick is None or quick[RARE] is not None or self._first:
            return self._first or self._indexed()
        if canonical[0] in RARE_LETTERS and canonical not in USUAL:
            return _NOTHING
        return self._indexed()

    def get(self, name: str) -> str | None:
        """Return the text of the first field with that name, unfolded and trimmed.

        Returns:
            ``None`` if the field is absent.
        """
        quick = self._quick
        if quick is not None and name in VALUES and VALUES[name] not in self._edited:
            return quick[VALUES[name]]
        name = CANONICAL[name]
        first = self._first or self._with(name)
        return plain(first[name]) if name in first else None

    def get_all(self, name: str) -> list[str]:
        """Return the texts of all fields with that name, top first, each unfolded and trimmed."""
        quick = self._quick
        if quick is not None and name in VALUES and VALUES[name] not in self._edited:
            value = quick[VALUES[name]]
            if value is None:
                return []
            if name not in MORE or quick[MORE[name]] is None:
                return [value]
        name = CANONICAL[name]
        if name == "via" and self._top is not None:
            return [self._top]
        first = self._first or self._with(name)
        if name not in first:
            return []
        if len(first) == len(self._names):
            return [plain(first[name])]
        return [
            plain(field.partition(":")[2])
            for have, field in zip(self._names, self._fields, strict=True)
            if have == name
        ]

    @property
    def routing_texts(self) -> tuple[str | None, ...]:
        """The texts of Via, From, To, Call-ID, CSeq and Contact, the first field of each.

        One call for all of them costs no more than for one: for a log, or for distributing messages
        by their routing fields.
        """
        quick = self._quick
        if quick is not None and not self._edited:
            return quick.group(*ROUTING)
        return tuple(self.get(name) for name in ("via", "from", "to", "call-id", "cseq", "contact"))

    def values(self, name: str) -> list[str]:
        """Return all values with that name, top first, with lists split at their commas.

        Only for fields that are comma-separated lists.

        Raises:
            SipParseError: 400, for bad syntax or more than 128 values.
        """
        quick = self._quick
        if quick is not None and name in MORE and VALUES[name] not in self._edited:
            value = quick[VALUES[name]]
            if value is None:
                return []
            if quick[MORE[name]] is None and "," not in value:
                return [value]
        fields = self.get_all(name)
        if len(fields) == 1:
            return split_values(fields[0])
        values: list[str] = []
        for field in fields:
            values += split_values(field)
            if len(values) > MAX_VALUES:
                raise SipParseError(400, f"more than {MAX_VALUES} values of {name}")
        return values

    def header_items(self) -> list[tuple[str, str]]:
        """Return canonical names and plain texts of all fields, in order."""
        self._indexed()
        return [
            (name, plain(field.partition(":")[2]))
            for name, field in zip(self._names, self._fields, strict=True)
        ]

    @property
    def header_names(self) -> KeysView[str]:
        """The canonical names of the message's fields, each once."""
        return (self._first or self._indexed()).keys()

    @property
    def rare_names(self) -> KeysView[str]:
        """The canonical names that begin with d, h, p, r, s or t; perhaps others, too.

        Of those, server, session-expires, subject, supported and to may be left out. Most messages
        have no others, which takes no time to find out.
        """
        return (self._first or self._with("route")).keys()

    def __contains__(self, name: str) -> bool:
        name = CANONICAL[name]
        return name in (self._first or self._with(name))

    def _required(self, name: str) -> str:
        """Return the text of a field that routing and answering require.

        Args:
            name: Via, From, To, Call-ID or CSeq, in lower case.

        Raises:
            SipParseError: 400, if it is missing.
        """
        quick = self._quick
        if quick is not None and VALUES[name] not in self._edited:
            # The fast path takes only heads that have all of them.
            return quick[VALUES[name]]
        if name == "via" and self._top is not None:
            return self._top
        first = self._first or self._indexed()
        if name not in first:
            raise SipParseError(400, f"{name} is missing")
        return plain(first[name])

    # -- editing -----------------------------------------------------------------------------------

    def _forget(self, canonical: str) -> None:
        """Drop the cached values of a name that is being edited."""
        self._wire = None
        if canonical in VALUES:
            self._edited |= {VALUES[canonical]}
        if canonical in self._single:
            del self._single[canonical]
        if canonical in self._lists:
            del self._lists[canonical]

    def _touch(self, canonical: str) -> None:
        """Find the first field of a name again after one of its fields has changed."""
        self._forget(canonical)
        if canonical in self._names:
            field = self._fields[self._names.index(canonical)]
            self._first[canonical] = field.partition(":")[2]
        else:
            self._drop(canonical)

    def _drop(self, canonical: str) -> None:
        """Record that no field of a name is left."""
        del self._first[canonical]
        if not self._first:
            # Empty because no field is left, not because it has not been built yet.
            self._quick = None

    def add_header(self, name: str, value: HeaderValue) -> None:
        """Append a field.

        Args:
            name: The header name, written as given.
            value: The value; text may contain commas if the header is a list.

        Raises:
            SipValueError: The name is not a token, or the value contains a line break or NUL.
        """
        first = self._first or self._indexed()
        canonical = CANONICAL[name]
        text = _checked(value)
        self._names.append(canonical)
        self._fields.append(f"{name}: {text}")
        if canonical not in first:
            first[canonical] = text
        self._forget(canonical)

    def _extend(self, headers: Iterable[tuple[str, HeaderValue]]) -> None:
        """Append fields, as :meth:`add_header` does, to a message without cached values."""
        names, fields = self._names, self._fields
        for name, value in headers:
            names += (CANONICAL[name],)
            fields += (f"{name}: {_checked(value)}",)

    def insert_header(self, name: str, value: HeaderValue) -> None:
        """Insert a field before the first one with its name, or before all others.

        An element's own Via, Record-Route, Route or Path goes there.

        Raises:
            SipValueError: As for :meth:`add_header`.
        """
        canonical = CANONICAL[name]
        first = self._first or self._indexed()
        text = _checked(value)
        position = self._names.index(canonical) if canonical in first else 0
        self._names.insert(position, canonical)
        self._fields.insert(position, f"{name}: {text}")
        first[canonical] = text
        self._forget(canonical)

    def replace_header(self, name: str, value: HeaderValue) -> None:
        """Replace all fields with that name by one; append it if there are none.

        Raises:
            SipValueError: As for :meth:`add_header`.
        """
        canonical = CANONICAL[name]
        first = self._first or self._indexed()
        if canonical not in first:
            self.add_header(name, value)
            return
        text = _checked(value)
        names, fields = self._names, self._fields
        position = names.index(canonical)
        fields[position] = f"{name}: {text}"
        if len(first) != len(names):
            # Some name occurs more than once; it may be this one.
            keep = [at for at, have in enumerate(names) if have != canonical or at == position]
            self._names = [names[at] for at in keep]
            self._fields = [fields[at] for at in keep]
        first[canonical] = text
        self._forget(canonical)

    def remove_header(self, name: str) -> int:
        """Remove all fields with that name and return their number."""
        canonical = CANONICAL[name]
        first = self._first or self._indexed()
        if canonical not in first:
            return 0
        if len(first) == len(self._names):
            position = self._names.index(canonical)
            del self._names[position], self._fields[position]
            self._forget(canonical)
            self._drop(canonical)
            return 1
        keep = [index for index, have in enumerate(self._names) if have != canonical]
        removed = len(self._names) - len(keep)
        self._names = [self._names[index] for index in keep]
        self._fields = [self._fields[index] for index in keep]
        self._forget(canonical)
        self._drop(canonical)
        return removed

    def replace_first(self, name: str, value: HeaderValue) -> None:
        """Replace the first value of that name; the others stay.

        Raises:
            SipValueError: No value has that name, or the new one contains a line break or NUL.
            SipParseError: The first value has unclosed quotes or brackets.
        """
        canonical = CANONICAL[name]
        text = _checked(value)
        known = self._lists.get(canonical)
        if canonical == "via" and text and self._has_one_via():
            self._top = text
            self._forget(canonical)
            old = text
        else:
            old = self._edit_first(canonical, name, text)
        if old and known and isinstance(value, type(known[0])):
            # The new value need not be parsed again.
            self._lists[canonical] = [value, *known[1:]]

    def remove_first(self, name: str) -> str:
        """Remove the first value of that name, and its field if it was the only value there.

        Returns:
            The removed value.

        Raises:
            SipValueError: No value has that name.
            SipParseError: The first value has unclosed quotes or brackets.
        """
        canonical = CANONICAL[name]
        known = self._lists.get(canonical)
        removed = self._edit_first(canonical, name, None)
        if removed and known:
            self._lists[canonical] = known[1:]
        return removed

    def _has_one_via(self) -> bool:
        """Return whether the fields are not indexed yet, and the only Via is as received."""
        quick = self._quick
        return (
            quick is not None
            and not self._first
            and quick[MORE["via"]] is None
            and "," not in quick[VALUES["via"]]
        )

    def _edit_first(self, canonical: str, name: str, value: str | None) -> str:
        if canonical not in (self._first or self._indexed()):
            raise SipValueError(f"the message has no {name} to edit")
        index = self._names.index(canonical)
        written, _, text = self._fields[index].partition(":")
        old, others = split_first(plain(text))
        if value and others:
            value = f"{value}, {others}"
        if value := value or others:
            self._fields[index] = f"{written}: {value}"
            self._first[canonical] = value
            self._forget(canonical)
        else:
            del self._names[index], self._fields[index]
            self._touch(canonical)
        return old


def plain(value: str) -> str:
    """Unfold (RFC 3261 §7.3.1) and trim what follows a colon."""
    if "\r\n" in value:
        value = _FOLD_RE.sub(" ", value)
    return value.strip(" \t")


def _checked(value: HeaderValue) -> str:
    text = value if value.__class__ is str else str(value)
    if not (text.isascii() and text.isprintable()):
        check_text(text, "header value")
    # Leading and trailing space would not survive parsing; trim it rather than fail.
    return text.strip(" \t") if text[:1] in _SPACE or text[-1:] in _SPACE else text
