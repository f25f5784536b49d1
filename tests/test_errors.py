"""Every exception has one base class, and the module's docstring draws them all."""

from __future__ import annotations

import importlib
import pkgutil

import wsproto_sip
from wsproto_sip import errors
from wsproto_sip.errors import WsprotoSipError


def exceptions() -> set[type[Exception]]:
    """Return the exceptions that a caller can get, from every module that can be imported here."""
    collected = set()
    for module in pkgutil.walk_packages(wsproto_sip.__path__, "wsproto_sip."):
        if module.name.endswith("__main__"):
            continue
        try:
            found = vars(importlib.import_module(module.name))
        except ModuleNotFoundError as exc:
            if str(exc.name).startswith("wsproto_sip"):
                raise
            # An extra that is not installed.
            continue
        for name, value in found.items():
            if (
                isinstance(value, type)
                and issubclass(value, Exception)
                and value.__module__ == module.name
                and not name.startswith("_")
            ):
                collected.add(value)
    return collected


EXCEPTIONS = exceptions()


def drawn(of: type[Exception], indent: str = "    ") -> list[str]:
    """Return the tree below an exception, as the module's docstring draws it."""
    below = sorted(
        (found for found in EXCEPTIONS if found.__bases__[0] is of),
        key=lambda found: (EXCEPTIONS.isdisjoint(found.__subclasses__()), found.__name__),
    )
    lines = []
    for number, found in enumerate(below, 1):
        branch, trunk = ("└── ", "    ") if number == len(below) else ("├── ", "│   ")
        others = ", ".join(base.__name__ for base in found.__bases__[1:])
        lines.append(indent + branch + found.__name__ + (f" ({others})" if others else ""))
        lines += drawn(found, indent + trunk)
    return lines


def test_one_except_clause_catches_every_exception_of_the_package() -> None:
    assert [found for found in EXCEPTIONS if not issubclass(found, WsprotoSipError)] == []


def test_module_docstring_draws_every_exception() -> None:
    assert "\n".join(["    WsprotoSipError", *drawn(WsprotoSipError)]) in str(errors.__doc__)
