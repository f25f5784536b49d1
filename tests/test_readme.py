"""The examples of README run, and its tables are correct."""

from __future__ import annotations

import ast
import doctest
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = ROOT / "docs"

#: A test for each row of the table of features that says "yes" or "both" of this package.
FEATURES = {
    "engine without I/O": "tests/test_layering.py::test_no_layer_imports_a_lower_one",
    "deadlines and keep-alive in that engine": (
        "tests/session/test_session.py::TestDeadlines::test_peer_does_not_answer_our_close_frame"
    ),
    "clients and servers": "tests/peers/test_websockets.py",
    "asyncio": "tests/adapters/asyncio/test_asyncio.py",
    "threads, without an event loop": "tests/adapters/blocking/test_blocking.py",
    "trio": "tests/adapters/trio/test_trio.py",
    "ASGI, under uvicorn": "tests/peers/test_uvicorn.py",
    "permessage-deflate (RFC 7692)": "tests/test_deflate.py",
    "HTTP/2 and HTTP/3 (RFC 8441, 9220)": "tests/test_extended_connect.py",
    "proxies for clients: HTTP, SOCKS": "tests/adapters/test_proxies.py",
    "check of Origin": "tests/policy/test_origin.py",
    "Basic, Digest and tokens in the handshake": "tests/policy/test_authentication.py",
    "SIP registrar and proxy": "tests/peers/test_sip_browsers.py",
    "MSRP relay": "tests/peers/test_msrp_node.py",
    "management commands, metrics": "tests/peers/test_kamailio_module.py",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    """Return the cells of the table under a heading, including its head."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]


def test_examples_run() -> None:
    examples = blocks("pycon")
    assert examples
    for number, text in enumerate(examples):
        test = doctest.DocTestParser().get_doctest(text, {}, f"example {number}", "README.md", 0)
        assert test.examples
        report: list[str] = []
        results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
        assert results.failed == 0, "".join(report)


@pytest.mark.parametrize(("number", "name"), [(0, "echo_server.py"), (1, "echo_client.py")])
def test_programs_are_the_tested_examples(number: int, name: str) -> None:
    program = (ROOT / "examples" / name).read_text(encoding="utf-8").partition('"""\n\n')[2]
    assert blocks("python")[number] == program
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 10


def test_commands_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    start, test, *_ = blocks("sh")
    assert start.endswith(".venv/bin/wsproto-sip serve\n")
    assert "wsproto-sip" in project["scripts"]
    assert test.endswith("-e '.[test]' && .venv/bin/python -m pytest\n")
    assert "test" in project["optional-dependencies"]


def test_links_resolve() -> None:
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", TEXT) if not t.startswith("https://")]
    assert targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []


def test_every_page_is_linked() -> None:
    documentation = TEXT.partition("\n## Documentation\n")[2]
    linked = set(re.findall(r"\]\(docs/([^)]+)\.md\)", documentation))
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^([a-z-]+(?:/[a-z-]+)?)$", index, re.MULTILINE))
    assert shown - linked == {"changelog", "contributing", "security-policy"}


def test_sections_stand_in_order() -> None:
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE) == [
        "Try it",
        "A server and a client",
        "The same without I/O",
        "What it has",
        "How fast it is",
        "Documentation",
    ]


def test_features_are_tested() -> None:
    head, *found = rows("What it has")
    assert head[1] == "wsproto-sip"
    said = {row[0]: row[1] for row in found if row[1] in ("yes", "both")}
    assert set(said) == set(FEATURES)
    assert {row[1] for row in found} == {"yes", "both", "Python"}
    for place in FEATURES.values():
        path, *names = place.split("::")
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        for name in names:
            [node] = [item for item in body if getattr(item, "name", None) == name]
            body = getattr(node, "body", [])
        assert body, place


def test_ratios_are_those_of_the_page_on_performance() -> None:
    measured = (DOCS / "figures" / "performance.md").read_text(encoding="utf-8")
    [date] = re.findall(r"^Measured on ([0-9-]+):", measured, re.MULTILINE)
    assert f"Measured on {date}." in TEXT
    table = measured.partition("**Receiving, pure Python**")[2].partition("\n**")[0]
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    for row in rows("How fast it is"):
        assert f"| {' | '.join(row)} |" in lines, row[0]


def test_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2
    assert all((ROOT / picture).stat().st_size < 60_000 for picture in pictures)
