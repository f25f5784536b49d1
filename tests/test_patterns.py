"""Every regular expression of the package: its parts, and the cost of hostile input.

The expressions are found where they are used, so that a new one is tested without being listed
here. For each, inputs are made from the expression itself: a prefix that leads to one of its
repetitions, then many times what the repetition matches, then something that does not match. If
characters can be divided between repetitions in more than one way, one of these inputs shows it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import re._constants as ops  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import wsproto_sip

PACKAGE = Path(wsproto_sip.__file__).parent

#: The lengths of the inputs, in repetitions. Short ones come first: they reveal exponential growth.
SIZES = (14, 18, 22, 26, 2000)
#: How many times as long as a plain walk through the same text a match may take. Linear matching
#: takes up to 10 times as long; trying all pairs of positions, 30 times or more.
ALLOWED = 20

_walk = re.compile(r"(?:[^\x00]|\x00)*").fullmatch
_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT)


class Used(NamedTuple):
    """An expression, with one of the ways in which it is used."""

    name: str
    pattern: re.Pattern[Any]
    method: str


def _modules() -> Iterator[Any]:
    yield wsproto_sip
    for found in pkgutil.walk_packages([str(PACKAGE)], "wsproto_sip."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def _members(value: Any) -> Iterator[Any]:
    """Yield a value, or the items of a container."""
    if isinstance(value, dict):
        value = [*value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _members(item)
    else:
        yield value


def _found() -> list[Used]:
    source = "\n".join(path.read_text("utf-8") for path in sorted(PACKAGE.rglob("*.py")))
    found: dict[tuple[int, str], Used] = {}
    for module in _modules():
        for name, value in vars(module).items():
            for member in _members(value):
                bound = getattr(member, "__self__", None)
                if isinstance(member, re.Pattern):
                    pattern = member
                    methods = set(re.findall(rf"\b{name}\.(\w+)\(", source)) & METHODS.keys()
                    methods = methods or {"fullmatch"}
                elif isinstance(bound, re.Pattern):
                    pattern, methods = bound, {member.__name__}
                else:
                    continue
                for method in sorted(methods):
                    place = f"{module.__name__.removeprefix('wsproto_sip.')}.{name}"
                    found.setdefault((id(pattern), method), Used(place, pattern, method))
    return list(found.values())


METHODS: dict[str, Callable[[re.Pattern[Any], Any], object]] = {
    "match": lambda pattern, text: pattern.match(text),
    "fullmatch": lambda pattern, text: pattern.fullmatch(text),
    "search": lambda pattern, text: pattern.search(text),
    "findall": lambda pattern, text: pattern.findall(text),
    "finditer": lambda pattern, text: list(pattern.finditer(text)),
    "split": lambda pattern, text: pattern.split(text),
    "sub": lambda pattern, text: pattern.sub(lambda match: match[0][:0], text),
    "subn": lambda pattern, text: pattern.subn(lambda match: match[0][:0], text),
}
USED = _found()


def _tree(pattern: re.Pattern[Any]) -> Any:
    flags = pattern.flags & (re.IGNORECASE | re.MULTILINE | re.DOTALL | re.VERBOSE)
    return parser.parse(pattern.pattern, flags)


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield all operations of an expression, at any depth."""
    for operation, argument in tree:
        yield operation, argument
        pending = [argument]
        while pending:
            value = pending.pop()
            if isinstance(value, parser.SubPattern):
                yield from _nodes(value)
            elif isinstance(value, tuple | list):
                pending += value


def _characters(items: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return up to five characters of a class: one of each category in it."""
    inside: set[int] = set()
    negated = False
    for operation, argument in items:
        if operation is ops.NEGATE:
            negated = True
        elif operation is ops.LITERAL:
            inside.add(argument)
        elif operation is ops.RANGE:
            inside |= set(range(argument[0], min(argument[1], 255) + 1))
    if negated:
        inside = set(range(256)) - inside
    sorts = ("a", "0", " \t", "\r\n", '%;,=/:."\\<@-_', "\xe4", "".join(map(chr, range(256))))
    chosen = [next((char for char in sort if ord(char) in inside), "") for sort in sorts]
    return list(dict.fromkeys(char for char in chosen if char))


def _sample(tree: Any) -> str:
    """Return a short text that an expression matches, ignoring assertions."""
    text = ""
    for operation, argument in tree:
        if operation is ops.LITERAL:
            text += chr(argument)
        elif operation is ops.NOT_LITERAL:
            text += _characters([(ops.NEGATE, None), (ops.LITERAL, argument)])[0]
        elif operation is ops.ANY:
            text += "a"
        elif operation is ops.IN:
            text += (_characters(argument) or [""])[0]
        elif operation in _REPEATS:
            text += _sample(argument[2]) * max(argument[0], 1)
        elif operation is ops.SUBPATTERN:
            text += _sample(argument[3])
        elif operation is ops.BRANCH:
            text += _sample(argument[1][0])
    return text


def _repeated(tree: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each unbounded repetition, with a prefix that leads to it."""
    for operation, argument in tree:
        if operation in _REPEATS:
            if argument[1] > 64:
                yield before, argument[2]
            yield from _repeated(argument[2], before)
        elif operation is ops.SUBPATTERN:
            yield from _repeated(argument[3], before)
        elif operation is ops.BRANCH:
            for branch in argument[1]:
                yield from _repeated(branch, before)
        before += _sample([(operation, argument)])


def _units(body: Any) -> Iterator[str]:
    """Yield one or two repetitions' worth of matching text."""
    chars: list[str] = []
    for operation, argument in _nodes(body):
        if operation is ops.LITERAL:
            chars.append(chr(argument))
        elif operation is ops.IN:
            chars += _characters(argument)
        elif operation is ops.ANY:
            chars.append("a")
    chars = list(dict.fromkeys(chars))[:8]
    yield from dict.fromkeys(
        [_sample(body), *chars, *(a + b for a in chars for b in chars if a != b)]
    )


def _hostile(pattern: re.Pattern[Any], size: int) -> Iterator[str]:
    tree = _tree(pattern)
    whole = _sample(tree)
    seen: set[tuple[str, str]] = set()
    for before, body in _repeated(tree):
        for unit in _units(body):
            if unit and (before, unit) not in seen:
                seen.add((before, unit))
                for end in ("", "\x00", " !"):
                    yield before + unit * size + end
    # A searched expression may match anywhere.
    for unit in (whole, whole[:-1], whole[:1], whole[1:]):
        yield unit * size
        yield unit * size + "\x00"


def _seconds(function: Callable[[], object]) -> float:
    """Return the CPU time of a call, independent of other processes."""
    started = time.thread_time()
    function()
    return time.thread_time() - started


def _is_slow(used: Used, text: str) -> bool:
    binary = isinstance(used.pattern.pattern, bytes)
    data: Any = text.encode("latin-1", "replace") if binary else text

    def match() -> object:
        return METHODS[used.method](used.pattern, data)

    def walk() -> object:
        return _walk(text)

    if _seconds(match) <= ALLOWED * _seconds(walk):
        return False
    return min(map(_seconds, [match] * 5)) > ALLOWED * min(map(_seconds, [walk] * 5)) + 0.0002


def test_expressions_are_found() -> None:
    names = {used.name for used in USED}
    assert {"utilities._is_extension", "sip.message.via._VIA_RE"} <= names
    assert len({id(used.pattern) for used in USED}) > 100


@pytest.mark.parametrize("used", USED, ids=lambda used: f"{used.name}-{used.method}")
def test_no_possessive_quantifiers(used: Used) -> None:
    # CPython gh-106052: before 3.11.5 some of them do not match correctly.
    operations = {str(operation) for operation, _ in _nodes(_tree(used.pattern))}
    assert not operations & {"POSSESSIVE_REPEAT", "ATOMIC_GROUP"}


@pytest.mark.parametrize("used", USED, ids=lambda used: f"{used.name}-{used.method}")
def test_hostile_input_costs_linear_time(used: Used) -> None:
    for size in SIZES:
        for text in _hostile(used.pattern, size):
            assert not _is_slow(used, text), (size, text[:60], text[-10:])


@pytest.mark.parametrize(
    ("expression", "method"),
    [
        (r"(?:a+)+b", "match"),
        (r"(?:[a-z]+,?)+", "fullmatch"),
        (r"[ \t]*[ \t]*;", "match"),
        (r"x[a-z]*[a-z0-9]*-", "match"),
        (r"[a-z]+-", "search"),
        (r'(?:[^"]|"[^"]*")*;', "search"),
    ],
)
def test_slow_expressions_are_found(expression: str, method: str) -> None:
    used = Used("slow", re.compile(expression), method)
    # The simplest ones need a longer input to stand out reliably.
    sizes = (*SIZES, 8000)
    assert any(_is_slow(used, text) for size in sizes for text in _hostile(used.pattern, size))
