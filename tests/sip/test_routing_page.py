"""What docs/explanation/sip-routing.md shows is what happens."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "explanation" / "sip-routing.md"


def test_the_page_works_as_shown() -> None:
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) > 8
    # The blocks build on each other.
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "page", PAGE.name, 0)
    assert len(test.examples) > 40
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)
