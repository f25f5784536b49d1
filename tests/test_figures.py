"""The page of test figures is generated from its data, and the data from command output."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from benchmarks import figures
from benchmarks._harness import Results

STATISTICS = base64.b64encode(
    b"""tests/sip/test_a.py::test_property:

  - during generate phase (2.42 seconds):
    - Typical runtimes: ~ 0-49 ms, of which < 1ms in data generation
    - 100 passing, 0 failing, and 17 invalid test cases

  - Stopped because settings.max_examples=100
"""
).decode()


def report(*cases: tuple[str, str, str], properties: str = "") -> str:
    """Return a pytest report on tests: modules, names, and the contents of their elements."""
    lines = [
        f'<testcase classname="{where}" name="{name}">{inside}</testcase>'
        for where, name, inside in cases
    ]
    return f"<testsuites><testsuite>{properties}{''.join(lines)}</testsuite></testsuites>"


@pytest.mark.parametrize(
    ("missing", "hint"),
    [
        ("picows (ModuleNotFoundError: No module named 'picows')", True),
        ("picows on 800 B deflate (has no permessage-deflate)", False),
    ],
)
def test_benchmark_says_how_to_install_a_peer(missing: str, hint: bool) -> None:
    results = Results("receiving", {"ours": "us"}, ["ours"], [missing])
    rendered = results.render([], markdown=False)
    assert f"not measured: {missing}" in rendered
    assert ("pip install -e '.[bench]'" in rendered) == hint


def test_page_is_generated_from_its_data() -> None:
    data = json.loads(figures.DATA.read_text(encoding="utf-8"))
    assert figures.PAGE.read_text(encoding="utf-8") == figures.render(data)
    # The page has all of the data.
    assert set(data) <= set(figures.RENDERERS)


def test_every_section_has_a_renderer() -> None:
    assert list(figures.SECTIONS) == list(figures.RENDERERS)


def test_tests_are_counted_by_kind_and_outcome() -> None:
    found = figures.count_tests(
        [
            report(
                ("tests.sip.test_a", "test_b[x]", ""),
                ("tests.sip.test_a.TestC", "test_d", "<skipped/>"),
                ("tests.test_uri", "test_e", "<failure/>"),
                ("tests.test_uri", "test_f", "<error/>"),
            ),
            report(("tests.session.test_f", "test_g", "<failure/>")),
            # Of another run of some of them.
            report(
                ("tests.session.test_f", "test_g", "<system-out/>"),
                ("tests.sip.test_a", "test_b[x]", ""),
            ),
        ]
    )
    assert found["kinds"] == {
        "sessions": {"passed": 1},
        "SIP": {"passed": 1, "skipped": 1},
        "the protocol engine, documentation and layers": {"failed": 2},
    }


def test_inputs_of_hypothesis_are_added_up() -> None:
    name = "hypothesis-statistics-tests/sip/test_a.py::test_property"
    item = f'<properties><property name="{name}" value="{STATISTICS}"/></properties>'
    found = figures.count_tests([report(properties=item), report(properties=item)])
    assert found["kinds"] == {"SIP": {"properties": 2, "examples": 200}}


def test_attacks_torture_and_faults_count_if_they_passed() -> None:
    [fault, *_] = figures.test_names(figures.ROOT / "tests" / "adapters" / "_ends.py")
    found = figures.count_tests(
        [
            report(
                ("tests.adapters.test_attacks", "test_an_attack[serve-not HTTP]", ""),
                ("tests.adapters.test_attacks", "test_an_attack[trio-not HTTP]", "<failure/>"),
                ("tests.adapters.test_attacks", "test_one_more[trio]", ""),
                ("tests.sip.message.test_torture", "test_odd", ""),
                ("tests.sip.message.test_torture", "test_broken", "<error/>"),
                ("tests.adapters.trio.test_trio.TestTrio", fault, ""),
                ("tests.adapters.blocking.test_blocking.TestBlocking", f"{fault}[1]", ""),
                ("tests.adapters.blocking.test_blocking.TestBlocking", fault, "<skipped/>"),
            )
        ]
    )
    assert found["attacks"] == {"serve": ["not HTTP"], "trio": ["one more"]}
    assert found["torture"] == 1
    assert list(found["ends"].values()) == [2]
    page = figures.render_attacks({"servers": found["attacks"]})
    assert "| not HTTP | survived |  |\n| one more |  | survived |" in page


@pytest.mark.parametrize("file", figures.ENDS)
def test_files_of_faults_define_tests(file: str) -> None:
    assert figures.test_names(figures.ROOT / file)


def test_output_of_the_commands_is_read() -> None:
    assert figures.read_wsproto(
        "41 failed, 92 passed in 6.70s\n92 tests passed, 41 failed, x.py was left out\n"
        "  15  the words of errors\n   1  an interim response\n"
    ) == {
        "passed": 92,
        "meant": 41,
        "reasons": {"the words of errors": 15, "an interim response": 1},
    }
    assert figures.read_flood(
        "10,100 INVITEs of 127.0.0.9: 9,876 answered with 503\n"
        "99 of 100 calls set up in 12.3 s, the slowest in 0.45 s\n"
    ) == {
        "invites": 10100,
        "refused": 9876,
        "done": 99,
        "calls": 100,
        "seconds": 12.3,
        "slowest": 0.45,
    }
    assert figures.read_fuzz(
        "== frames\nINFO: 1\nstat::number_of_executed_units: 4711\nstat::x: 1\n"
        "== session\nstat::number_of_executed_units: 12\n"
    ) == {"frames": 4711, "session": 12}


@pytest.mark.parametrize("read", [figures.read_wsproto, figures.read_flood, figures.read_fuzz])
def test_output_without_figures_is_an_error(read: object) -> None:
    assert callable(read)
    with pytest.raises(figures.MeasuringError):
        read("nothing")


def test_command_that_fails_gives_no_figure() -> None:
    with pytest.raises(figures.MeasuringError, match="no such thing"):
        figures.run("-c", "raise SystemExit('no such thing')")


def test_failed_section_keeps_the_figures_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(options: object) -> figures.Data:
        raise figures.MeasuringError("it is broken")

    before = {"fuzz": {"on": "1999-12-31", "with": "x", "figures": {"seconds": 1, "targets": {}}}}
    monkeypatch.setattr(figures, "DATA", tmp_path / "data.json")
    monkeypatch.setattr(figures, "PAGE", tmp_path / "page.md")
    figures.DATA.write_text(json.dumps(before))
    monkeypatch.setitem(figures.SECTIONS, "fuzz", fail)
    flood = figures.read_flood(
        "1 INVITEs of 127.0.0.9: 1 answered with 503\n"
        "1 of 1 calls set up in 1.0 s, the slowest in 1.00 s\n"
    )
    monkeypatch.setitem(figures.SECTIONS, "flood", lambda options: flood)
    assert figures.main(["flood", "fuzz"]) == 1
    assert "it is broken" in capsys.readouterr().err
    after = json.loads(figures.DATA.read_text())
    assert after["fuzz"] == before["fuzz"]
    assert after["flood"]["figures"] == flood
    page = figures.PAGE.read_text()
    assert page == figures.render(after)
    assert "*1999-12-31, x*" in page
    figures.PAGE.unlink()
    assert figures.main(["--page"]) == 0
    assert figures.PAGE.read_text() == page
