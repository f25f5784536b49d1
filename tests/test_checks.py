"""The types of configuration fields."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, get_args

import pytest

import wsproto_sip
from wsproto_sip._checks import _hints, check_fields


@dataclass
class Config:
    whole: int = 0
    bound: int | None = None
    time: float = 1
    text: str = ""
    switch: bool = False
    call: Callable[[str], int] = len
    pair: tuple[str, int] = ("a", 1)
    pairs: tuple[tuple[str, int | None], ...] = ()
    table: Mapping[str, int] = field(default_factory=dict)
    names: Sequence[str] = ()
    group: frozenset[str] = frozenset()
    unknown: Unknown = None  # type: ignore[name-defined]  # noqa: F821
    made: int = field(init=False, default="made")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        check_fields(self)


def test_declared_types_pass() -> None:
    Config()
    Config(1, 2, 0.5, "a", True, int, ("b", 2), (("c", None),), {"d": 1}, ["e"], frozenset("f"), 5)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("whole", "1", "an integer: '1'"),
        ("whole", True, "an integer: True"),
        ("whole", 1.0, "an integer: 1.0"),
        ("bound", 1.5, "an integer or None: 1.5"),
        ("time", "soon", "a number: 'soon'"),
        ("time", False, "a number: False"),
        ("text", b"a", "text: b'a'"),
        ("switch", 1, "True or False: 1"),
        ("call", 5, "callable: 5"),
        ("pair", ("a",), r"tuple\[str, int\]: \('a',\)"),
        ("pair", ("a", "b"), r"tuple\[str, int\]: "),
        ("pairs", (("a", "b"),), r"tuple\[tuple\[str, int \| None\], \.\.\.\]: "),
        ("table", {"a": "b"}, r"Mapping\[str, int\]: \{'a': 'b'\}"),
        ("table", {1: 1}, r"Mapping\[str, int\]: "),
        ("table", [], r"Mapping\[str, int\]: "),
        ("names", "abc", r"Sequence\[str\]: 'abc'"),
        ("names", [1], r"Sequence\[str\]: \[1\]"),
        ("group", {"a"}, r"frozenset\[str\]: "),
    ],
)
def test_wrong_type_error_has_name_value_and_allowed_types(
    name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be {allowed}"):
        Config(**{name: value})


def test_long_values_are_truncated() -> None:
    with pytest.raises(TypeError) as caught:
        Config(whole="x" * 1000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 150


def configurations() -> list[type]:
    """Return all classes of configurations, and of what one has as a field."""
    found: dict[type, None] = {}
    waiting: list[Any] = []
    for module in pkgutil.walk_packages(wsproto_sip.__path__, "wsproto_sip.", lambda _: None):
        # Modules of adapters may need packages that are not there; what is read from a
        # kamailio.cfg is not written by a program.
        if module.name.split(".")[1].startswith(("_", "adapters", "cli")):
            continue
        if module.name.endswith(".kamailio_cfg"):
            continue
        names = vars(importlib.import_module(module.name))
        waiting += [
            kind
            for name, kind in names.items()
            if name.endswith(("Config", "Limits"))
            and isinstance(kind, type)
            and kind.__module__ == module.name
        ]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if is_dataclass(kind) and isinstance(kind, type) and kind not in found:
            found[kind] = None
            waiting += [hint for _, hint in _hints(kind)]
    return list(found)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, item.name) for kind in configurations() for item in fields(kind) if item.init],
    ids=lambda part: part.__name__ if isinstance(part, type) else part,
)
def test_every_configuration_checks_its_fields(kind: type, name: str) -> None:
    unfit = object()
    config: Any = object.__new__(kind)
    for item in fields(kind):
        value = item.default
        if item.default_factory is not MISSING:
            value = item.default_factory()
        if item.name == name or value is MISSING:
            value = unfit
        if item.init:
            object.__setattr__(config, item.name, value)
    with pytest.raises((TypeError, ValueError), match=r" must be |is not a valid"):
        config.__post_init__()
