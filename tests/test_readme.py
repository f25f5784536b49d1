"""What README shows is what happens."""

from __future__ import annotations

import doctest
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_the_examples_do_what_they_show() -> None:
    examples = blocks("pycon")
    assert examples
    for number, text in enumerate(examples):
        test = doctest.DocTestParser().get_doctest(text, {}, f"example {number}", "README.md", 0)
        assert test.examples
        report: list[str] = []
        results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
        assert results.failed == 0, "".join(report)


def test_the_commands_name_what_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    start, test, *_ = blocks("sh")
    assert start.endswith(".venv/bin/wsproto-sip serve\n")
    assert "wsproto-sip" in project["scripts"]
    assert test.endswith("-e '.[test]' && .venv/bin/python -m pytest\n")
    assert "test" in project["optional-dependencies"]


def test_links_lead_somewhere() -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", TEXT) if not t.startswith("https://")]
    assert targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []
