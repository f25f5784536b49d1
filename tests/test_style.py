"""The words of the project: docstrings, comments, errors, test names and pages avoid some of them.

This test checks what ruff cannot: words that read like translated English, or an RFC's term where
Python has another, and first words of docstrings that D401 lets pass (*Whether*, *Presses*).
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).resolve().parent.parent

#: A word or phrase to avoid, as a pattern, and what to write instead.
WORDS: Final = {
    r"whoever|whomever": "name the person, the peer or the caller",
    r"nobody|somebody else": "name the person, the peer or the caller",
    r"octets?(?!-stream)": '"byte", unless an RFC is quoted',
    # "There is no …" is fine; "'abc' is no number" is not.
    r"(?<!there )(?:is|are|was|were) no(?! longer\b| more\b| less\b)": '"is not" or "invalid"',
    r"none of it\b(?! before)": "say what is missing",
    # Programs stand behind proxies; time and order have other words.
    r"behind(?! (?:[\w-]+ ){0,2}(?:prox|nginx|haproxy|nat\b|firewall|balancer))": (
        '"after" for time and order, "following" for place'
    ),
}

#: What the test reads. This file has the words themselves.
FOLDERS: Final = (".ci", "benchmarks", "docs", "examples", "fuzz", "tests", "wsproto_sip")

_WORD: Final = {
    re.compile(rf"(?<![\w.'\"`-])(?:{pattern})(?![\w'\"`])", re.IGNORECASE): instead
    for pattern, instead in WORDS.items()
}
#: First words of a function's docstring that are not in the imperative.
_NOT_IMPERATIVE: Final = re.compile(
    r"(?:A|An|All|How|No|One|The|What|When|Where|Whether|Which|Who|Why|[A-Z]\w*[^s\W]s)\b"
)
#: A test's name has underscores in place of spaces.
_NAME: Final = re.compile(r"(?<![a-z])(?:whoever|nobody|octets?|behind|(?:is|are)_no)(?![a-z])")


class Prose(NamedTuple):
    """A piece of text that people read, and its place."""

    path: Path
    line: int
    text: str


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path != Path(__file__).resolve():
                yield path


def pages() -> Iterator[Path]:
    yield from sorted((ROOT / "docs").rglob("*.md"))
    yield from sorted(ROOT.glob("*.md"))


def first_lines_of_functions(source: str) -> Iterator[tuple[int, str]]:
    """Yield where functions are and how their docstrings start.

    Tests have no docstrings in the imperative, and properties and fixtures describe a value.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = {ast.unparse(item).partition("(")[0] for item in node.decorator_list}
            named = decorators & {"property", "cached_property", "pytest.fixture"}
            text = ast.get_docstring(node)
            if text and not named and not node.name.startswith("test_"):
                yield node.lineno, text.partition("\n")[0]


def prose_of(source: str, path: Path) -> Iterator[Prose]:
    """Yield the docstrings, comments and error messages of a module."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str() as text)):
                yield Prose(path, node.lineno, text)
            case ast.Raise():
                for part in ast.walk(node):
                    if isinstance(part, ast.Constant) and isinstance(part.value, str):
                        yield Prose(path, part.lineno, part.value)
    for token in tokenize.generate_tokens(iter(source.splitlines(keepends=True)).__next__):
        if token.type == tokenize.COMMENT:
            yield Prose(path, token.start[0], token.string)


def prose_of_page(text: str, path: Path) -> Iterator[Prose]:
    """Yield the lines of a page outside its fences, without code and targets of links."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield Prose(path, number, re.sub(r"`[^`]*`|\]\([^)]*\)", "", line))


def faults(prose: Prose) -> list[str]:
    """Return the words to avoid in a piece of prose, each with its place and a better one."""
    found = []
    # A wrapped line is one text; the line of the first word is close enough.
    text = re.sub(r"\s+(?:#:? )?", " ", prose.text)
    for pattern, instead in _WORD.items():
        for match in pattern.finditer(text):
            place = prose.path.relative_to(ROOT) if prose.path.is_absolute() else prose.path
            found.append(f"{place}:{prose.line}: {match[0]!r}: {instead}")
    return found


def test_prose_avoids_the_words() -> None:
    found: list[str] = []
    for path in sources():
        for prose in prose_of(path.read_text(encoding="utf-8"), path):
            found += faults(prose)
    for path in pages():
        for prose in prose_of_page(path.read_text(encoding="utf-8"), path):
            found += faults(prose)
    assert not found, "\n".join(found)


def test_names_of_tests_avoid_the_words() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and _NAME.search(node.name)
    ]
    assert not found, "\n".join(found)


def test_docstrings_of_functions_are_in_the_imperative() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sources()
        for line, text in first_lines_of_functions(path.read_text(encoding="utf-8"))
        if _NOT_IMPERATIVE.match(text)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("Return it.", False),
        ("Pass it on.", False),
        ("Presses keys.", True),
        ("Whether it is there.", True),
        ("The number of keys.", True),
        ("Allow it.", False),
    ],
)
def test_mood_of_a_docstring(text: str, wrong: bool) -> None:
    source = f'def f():\n    """{text}"""\n\n@property\ndef g(self):\n    """The name."""\n'
    found = [line for line, first in first_lines_of_functions(source) if first]
    assert found == [1]
    assert bool(_NOT_IMPERATIVE.match(text)) is wrong


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Whoever sends it, waits.", 1),
        ("It is no number.", 1),
        ("It is no longer\n    there, and there is no other.", 0),
        ("Eight octets of application/octet-stream.", 1),
        ("What comes behind the message.", 1),
        ("A server behind a reverse proxy, or behind nginx.", 0),
        ("Pass `behind` to it.", 0),
        ("nobody and nobody", 2),
    ],
)
def test_words_are_found(text: str, count: int) -> None:
    assert len(faults(Prose(Path("a.py"), 1, text))) == count


def test_docstrings_comments_and_errors_are_read() -> None:
    source = '"""Nobody."""\nx = 1  # nobody\nraise ValueError(f"nobody {x}")\ny = "nobody"\n'
    found = [prose.line for prose in prose_of(source, Path("a.py")) if faults(prose)]
    assert sorted(found) == [1, 2, 3]


def test_fences_and_code_of_pages_are_not_read() -> None:
    page = "nobody\n```\nnobody\n```\n`nobody` [x](nobody.md)\n"
    found = [prose.line for prose in prose_of_page(page, Path("a.md")) if faults(prose)]
    assert found == [1]
