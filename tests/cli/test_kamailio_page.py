"""The page on Kamailio leaves nothing out, names tests that exist, and does as it shows."""

from __future__ import annotations

import ast
import doctest
import itertools
import re
from functools import cache
from pathlib import Path

from wsproto_sip.server.management.commands import COMMAND_NAMES
from wsproto_sip.server.management.kamailio import ModParams
from wsproto_sip.server.statistics import MODULE_STATISTICS

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
TEXT = (DOCS / "howto" / "from-kamailio.md").read_text(encoding="utf-8")
TESTS = (DOCS / "reference" / "kamailio-tests.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """Yield the cells of all tables, without headings."""
    lines = TEXT.split("\n")
    return [
        [cell.strip(" ") for cell in line.strip("|").split(" | ")]
        for line, following in itertools.pairwise(lines)
        if line.startswith("| ") and not following.startswith("|---")
    ]


def first_cells() -> set[str]:
    return {name for row in rows() for name in re.findall(r"`([a-z][A-Za-z_:.]+)", row[0])}


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            inside = (item for item in node.body if isinstance(item, ast.FunctionDef))
            names |= {f"{node.name}::{item.name}" for item in inside}
    return frozenset(names)


def test_everything_of_the_guide_has_a_row() -> None:
    parameters = {name for name in ModParams.__dataclass_fields__ if name != "notes"}
    functions = {"ws_handle_handshake", "ws_close"}
    everything = parameters | functions | {*COMMAND_NAMES, *MODULE_STATISTICS, "websocket:closed"}
    # Those of applications.
    everything |= {"ul.dump", "ul.lookup", "ul.rm", "tm.list", "msrp.sessions", "ws.upstreams"}
    everything |= {"config.get", "reload", "log.level"}
    assert first_cells() == everything
    assert len(MODULE_STATISTICS) == 25


def test_every_row_has_a_test_that_exists() -> None:
    shown = re.findall(r"^([^:\n#].*)\n: (.+(?:\n  .+)*)$", TESTS, re.MULTILINE)
    named = {name for term, _ in shown for name in re.findall(r"`([a-z][A-Za-z_:.]+)", term)}
    assert first_cells() - {*MODULE_STATISTICS} <= named
    differences = TEXT.partition("## What is different\n")[2].partition("\n## ")[0]
    assert len(re.findall(r"^- ", differences, re.MULTILINE)) == len(
        re.findall(r"^: ", TESTS.partition("## What is different\n")[2], re.MULTILINE)
    )
    assert all(re.search(r"`tests/[^`]+::test_[^`]+`", tests) for _, tests in shown)
    named_tests = re.findall(r"`(tests/[^`:]+)::([^`]+)`", TESTS)
    assert len(named_tests) > 50
    assert [f"{path}::{name}" for path, name in named_tests if name not in names_in(path)] == []


def test_the_examples_work_as_shown() -> None:
    blocks = re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("".join(blocks), {}, "page", "from-kamailio.md", 0)
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)
    assert results.attempted > 30


def test_no_example_is_left_out() -> None:
    headings = "\n".join(line for line in TEXT.split("\n") if re.match(r"(?:### )?1\.\d", line))
    assert "1.3 to 1.9" in headings
    for number in (1, *range(3, 13)):
        assert re.search(rf"(?:### |^)1\.{number} ", headings, re.MULTILINE), number
