"""Check the fields of a configuration against their declared types.

Theory of operation: the annotations of a dataclass are read once and cached. A name that is
imported for type checkers only accepts any value. A bool is not a number here; an int is accepted
where a float is declared. Each configuration checks its own ranges.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Set as AbstractSet
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin

__all__ = ["check_fields"]

_NAMES: Final[dict[str, object]] = {
    "Callable": Callable,
    "Entropy": Callable,
    "Mapping": Mapping,
    "Sequence": Sequence,
}
_WORDS: Final[dict[object, str]] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    bytes: "bytes",
    NoneType: "None",
}


def check_fields(config: Any) -> None:
    """Check the types of a dataclass's fields; call it from ``__post_init__``.

    Args:
        config: The instance.

    Raises:
        TypeError: A field has the wrong type. The message has its name, its value and the types
            allowed.
    """
    for name, hint in _hints(type(config)):  # type: ignore[arg-type]
        value = getattr(config, name)
        if not _fits(value, hint):
            raise TypeError(f"{name} must be {_described(hint)}: {repr(value)[:100]}")


class _Scope(dict[str, object]):
    """The names of a module, including those it imports for type checkers only."""

    def __missing__(self, name: str) -> object:
        builtins: dict[str, object] = vars(sys.modules["builtins"])
        return builtins.get(name, _NAMES.get(name, object))


@cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    """Return the name and the type of each field of a class."""
    scope = _Scope(vars(sys.modules[kind.__module__]))
    return tuple(
        (item.name, eval(str(item.type), {}, scope))  # noqa: S307 - the package's own annotations
        for item in fields(kind)
        if item.init
    )


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value has a type."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is UnionType:
        return any(_fits(value, option) for option in arguments)
    if kind is Callable:
        return callable(value)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not isinstance(value, kind):
        return False
    if kind is tuple and arguments[-1] is not Ellipsis:
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if issubclass(kind, Mapping):
        return all(
            _fits(key, arguments[0]) and _fits(item, arguments[1]) for key, item in value.items()
        )
    if arguments and issubclass(kind, (Sequence, AbstractSet)):
        return not isinstance(value, str) and all(_fits(item, arguments[0]) for item in value)
    return True


def _described(hint: Any) -> str:
    """Describe the allowed types in words."""
    if get_origin(hint) is UnionType:
        return " or ".join(map(_described, get_args(hint)))
    if hint in _WORDS:
        return _WORDS[hint]
    if (get_origin(hint) or hint) is Callable:
        return "callable"
    return str(hint).replace("collections.abc.", "") if get_args(hint) else str(hint.__name__)
