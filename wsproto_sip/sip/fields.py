"""The header fields of a message: looking them up and editing them, in their text form."""

from __future__ import annotations

import re
from typing import Any

from ._head import MORE, ROUTING, VALUES
from ._syntax import MAX_VALUES, check_text, split_first, split_values
from .address import NameAddr
from .errors import SipParseError, SipValueError
from .headers import KNOWN_NAMES, CSeq, canonical_name
from .via import Via

__all__ = ["HeaderFields", "HeaderValue"]

HeaderValue = str | Via | NameAddr | CSeq | int

_FOLD_RE = re.compile(r"\r\n[ \t]++")


class HeaderFields:
    """The fields in their order, each as it was written. The base of all messages.

    Of a head in its common spelling ``_names``, ``_fields`` and ``_first`` are made when they are
    first looked at.
    """

    __slots__ = ("_cache", "_fields", "_first", "_names", "_quick", "_wire")

    #: The octets as received, until something is edited.
    _wire: bytes | None
    #: The head in its common spelling, until a field is edited.
    _quick: re.Match[str] | None
    #: Canonical names, and beside them the fields as written, with their names.
    _names: list[str]
    _fields: list[str]
    #: What stands behind the colon of the first field of each name.
    _first: dict[str, str]
    #: Values taken apart already; emptied by edits.
    _cache: dict[str, Any]

    def _indexed(self) -> dict[str, str]:
        """``_first``, with it and the lists made where the head was not taken apart yet."""
        quick = self._quick
        if quick is None or self._first:
            return self._first
        fields = quick[0].split("\r\n")
        # The start line, and the empty one behind the last field.
        del fields[0], fields[-2:]
        first: dict[str, str] = {}
        known = KNOWN_NAMES
        try:
            for field in fields:
                name, _, value = field.partition(":")
                first[known[name]] = value
        except KeyError:
            names = []
        else:
            names = list(first)
        if len(names) != len(fields):
            names = []
            first = {}
            for field in fields:
                name, _, value = field.partition(":")
                names.append(canonical_name(name))
                first.setdefault(names[-1], value)
        self._names = names
        self._fields = fields
        self._first = first
        return first

    def get(self, name: str) -> str | None:
        """The text of the first field of that name, unfolded and trimmed; ``None`` without one."""
        quick = self._quick
        if quick is not None and name in VALUES:
            return quick[VALUES[name]]
        first = self._first or self._indexed()
        value = first.get(KNOWN_NAMES.get(name) or canonical_name(name))
        if value is None:
            return None
        if "\r\n" in value:
            value = _FOLD_RE.sub(" ", value)
        return value.strip(" \t")

    def get_all(self, name: str) -> list[str]:
        """The texts of all fields of that name, top first, each unfolded and trimmed."""
        quick = self._quick
        if quick is not None and name in VALUES:
            value = quick[VALUES[name]]
            if value is None:
                return []
            if name not in MORE or quick[MORE[name]] is None:
                return [value]
        name = canonical_name(name)
        first = self._first or self._indexed()
        value = first.get(name)
        if value is None:
            return []
        if len(first) == len(self._names):
            return [plain(value)]
        return [
            plain(field.partition(":")[2])
            for have, field in zip(self._names, self._fields, strict=True)
            if have == name
        ]

    @property
    def routing_texts(self) -> tuple[str | None, ...]:
        """The texts of Via, From, To, Call-ID, CSeq and Contact, the first field of each.

        All at once, which costs no more than one of them: for a log, or for who shares messages out
        among others by what stands there.
        """
        quick = self._quick
        if quick is not None:
            return quick.group(*ROUTING)
        return tuple(self.get(name) for name in ("via", "from", "to", "call-id", "cseq", "contact"))

    def values(self, name: str) -> list[str]:
        """All values of that name, top first, with lists taken apart at their commas.

        Only for fields that are comma-separated lists.

        Raises:
            SipParseError: 400, for bad syntax or more than 128 values.
        """
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
        """Canonical names and plain texts of all fields, in their order."""
        self._indexed()
        return [
            (name, plain(field.partition(":")[2]))
            for name, field in zip(self._names, self._fields, strict=True)
        ]

    def __contains__(self, name: str) -> bool:
        return canonical_name(name) in (self._first or self._indexed())

    def _required(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise SipParseError(400, f"{name} is missing")
        return value

    # -- editing -----------------------------------------------------------------------------------

    def _changed(self) -> None:
        """What was made of the fields is no longer true."""
        self._wire = self._quick = None
        self._cache.clear()

    def _touch(self, name: str) -> None:
        """Some field of that name has changed."""
        self._changed()
        if name in self._names:
            self._first[name] = self._fields[self._names.index(name)].partition(":")[2]
        else:
            self._first.pop(name, None)

    def add_header(self, name: str, value: HeaderValue) -> None:
        """Add a field behind all others.

        Args:
            name: Its name, written as given.
            value: Its value; text may hold commas where the header is a list.

        Raises:
            SipValueError: The name is no token, or the value holds a line break or NUL.
        """
        first = self._first or self._indexed()
        canonical = canonical_name(name)
        text = _checked(value)
        self._names.append(canonical)
        self._fields.append(f"{name}: {text}")
        first.setdefault(canonical, f" {text}")
        self._changed()

    def insert_header(self, name: str, value: HeaderValue) -> None:
        """Put a field before the first of its name, or before all others.

        That is where a Via, Record-Route, Route or Path of one's own goes.

        Raises:
            SipValueError: As for :meth:`add_header`.
        """
        canonical = canonical_name(name)
        first = self._first or self._indexed()
        text = _checked(value)
        position = self._names.index(canonical) if canonical in first else 0
        self._names.insert(position, canonical)
        self._fields.insert(position, f"{name}: {text}")
        first[canonical] = f" {text}"
        self._changed()

    def replace_header(self, name: str, value: HeaderValue) -> None:
        """Put one field in the place of all those of its name; add it if there is none.

        Raises:
            SipValueError: As for :meth:`add_header`.
        """
        canonical = canonical_name(name)
        first = self._first or self._indexed()
        if canonical not in first:
            self.add_header(name, value)
            return
        text = _checked(value)
        names, fields = self._names, self._fields
        position = names.index(canonical)
        fields[position] = f"{name}: {text}"
        if len(first) != len(names):
            # Of all the others there may be more of the same.
            keep = [at for at, have in enumerate(names) if have != canonical or at == position]
            self._names = [names[at] for at in keep]
            self._fields = [fields[at] for at in keep]
        first[canonical] = f" {text}"
        self._changed()

    def remove_header(self, name: str) -> int:
        """Remove all fields of that name; returns how many there were."""
        canonical = canonical_name(name)
        self._indexed()
        keep = [index for index, have in enumerate(self._names) if have != canonical]
        removed = len(self._names) - len(keep)
        if removed:
            self._names = [self._names[index] for index in keep]
            self._fields = [self._fields[index] for index in keep]
            self._touch(canonical)
        return removed

    def replace_first(self, name: str, value: HeaderValue) -> None:
        """Put another value in the place of the first one of that name; the others stay.

        Raises:
            SipValueError: There is none, or the value holds a line break or NUL.
            SipParseError: The first value has no end.
        """
        self._edit_first(name, _checked(value))

    def remove_first(self, name: str) -> str:
        """Remove the first value of that name, with its field if it was the only one in it.

        Returns:
            The value.

        Raises:
            SipValueError: There is none.
            SipParseError: The first value has no end.
        """
        return self._edit_first(name, None)

    def _edit_first(self, name: str, value: str | None) -> str:
        canonical = canonical_name(name)
        if canonical not in (self._first or self._indexed()):
            raise SipValueError(f"no {name} to edit")
        index = self._names.index(canonical)
        written, _, text = self._fields[index].partition(":")
        old, others = split_first(plain(text))
        values = [piece for piece in (value, others) if piece]
        if values:
            self._fields[index] = f"{written}: {', '.join(values)}"
        else:
            del self._names[index], self._fields[index]
        self._touch(canonical)
        return old


def plain(value: str) -> str:
    """What stands behind a colon, unfolded (RFC 3261 §7.3.1) and trimmed."""
    if "\r\n" in value:
        value = _FOLD_RE.sub(" ", value)
    return value.strip(" \t")


def _checked(value: HeaderValue) -> str:
    text = value if isinstance(value, str) else str(value)
    # Leading space would be lost, trailing space too; neither is worth an error.
    return check_text(text, "header value").strip(" \t")
