"""The fenced blocks of the pages, and the commands in them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"

#: The pages of the documentation.
PAGES = (
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / folder / "README.md" for folder in ("benchmarks", "fuzz")),
)


class Fence(NamedTuple):
    """A block: its page, its line, its language, and its text."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT).as_posix()}:{self.line}"


def fences() -> list[Fence]:
    """Return all blocks, in the order of the pages."""
    found = []
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        number = 0
        while number < len(lines):
            opened = re.match(r"( *)(`{3,}|:{3,})(.*)$", lines[number])
            number += 1
            if opened is None:
                continue
            margin, marks, language = opened.groups()
            start = number
            while lines[number].strip() != marks:
                number += 1
            text = "\n".join(line.removeprefix(margin) for line in lines[start:number])
            found.append(Fence(page, start + 1, language.strip(), f"{text}\n"))
            number += 1
    return found


def commands() -> list[tuple[Fence, list[str]]]:
    """Return the commands of shell blocks as words; "…" stands for further words."""
    found = []
    for fence in fences():
        if fence.language not in ("sh", "console", ""):
            continue
        text = fence.text.replace("\\\n", " ")
        if fence.language == "console":
            text = "\n".join(
                line[2:] for line in text.splitlines() if line.startswith(("$ ", "# "))
            )
        for line in text.splitlines():
            if fence.language == "" and not line.startswith("wsproto-sip "):
                continue
            for part in re.split(r" && | \| | ; ", line):
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    del words[0]
                if words:
                    words[0] = words[0].removeprefix(".venv/bin/")
                    found.append((fence, words))
    return found
