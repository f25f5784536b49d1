"""The parties that the Autobahn testsuite judges, and reading its report, without the suite."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("trio")
pytest.importorskip("uvicorn")

from wsproto_sip.adapters.asyncio import Connection, serve
from wsproto_sip.adapters.blocking import connect

from ._autobahn_parties import CLIENTS, HOST, LARGE, SERVERS, deflate
from ._support import BOUND, NOISE, ROOT, run

if TYPE_CHECKING:
    from pathlib import Path


def load() -> Any:
    file = ROOT / ".ci" / "autobahn.py"
    spec = importlib.util.spec_from_file_location("autobahn", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["autobahn"] = module
    spec.loader.exec_module(module)
    return module


autobahn = load()

# -- the parties ----------------------------------------------------------------------------------


#: Messages to echo.
MESSAGES: list[str | bytes] = ["grüße", b"", NOISE[:100_000]]


@pytest.mark.parametrize("name", SERVERS)
def test_server_echoes_messages_larger_than_by_default(name: str) -> None:
    command = autobahn.program(autobahn.Party("server", name), True)
    with autobahn.running(command, stdout=subprocess.PIPE) as server:
        uri = f"ws://{HOST}:{autobahn.read_port(server)}"
        with connect(uri, config=LARGE, extensions=deflate) as connection:
            assert connection.session.extensions
            for message in [*MESSAGES, NOISE * 2]:
                connection.send(message)
                assert connection.recv(BOUND) == message


@pytest.mark.parametrize("name", CLIENTS)
def test_client_echoes_in_each_case_and_asks_for_the_report(name: str) -> None:
    asked: list[tuple[str, dict[str, list[str]]]] = []
    answers: list[str | bytes] = []

    async def suite(connection: Connection) -> None:
        assert connection.request is not None
        parts = urlsplit(connection.request.target)
        asked.append((parts.path, parse_qs(parts.query)))
        if parts.path == "/runCase":
            for message in MESSAGES:
                await connection.send(message)
                answers.append(await connection.recv())
            if len(asked) == 1:
                # A case may end without a close frame.
                connection.transport.abort()

    async def scenario() -> None:
        async with serve(suite, HOST, 0, extensions=deflate) as server:
            (place,) = server.addresses
            party = autobahn.Party("client", name)
            command = autobahn.program(party, False, f"ws://{HOST}:{place[1]}", 2, "agent")
            with autobahn.running(command) as process:
                assert await asyncio.to_thread(process.wait) == 0

    run(scenario())
    assert asked == [
        ("/runCase", {"case": ["1"], "agent": ["agent"]}),
        ("/runCase", {"case": ["2"], "agent": ["agent"]}),
        ("/updateReports", {"agent": ["agent"]}),
    ]
    assert answers == MESSAGES * 2


# -- the report -----------------------------------------------------------------------------------

PARTY = autobahn.Party("server", "asyncio")


def report(folder: Path, **changed: tuple[str, str]) -> Any:
    """Return the summary of a report on 7.1.5, 7.1.6 and 7.13.1."""
    ends = {
        "7.1.5": ("OK", "OK"),
        "7.1.6": ("INFORMATIONAL", "INFORMATIONAL"),
        "7.13.1": ("INFORMATIONAL", "INFORMATIONAL"),
    }
    ends |= {name.replace("_", "."): end for name, end in changed.items()}
    cases = {
        case: {"behavior": behavior, "behaviorClose": closing, "reportfile": "case.json"}
        for case, (behavior, closing) in ends.items()
    }
    (folder / "index.json").write_text(json.dumps({"agent": cases}))
    (folder / "case.json").write_text(json.dumps({"result": "This.", "resultClose": "That."}))
    return autobahn.judge(PARTY, folder)


def test_good_report_has_counts_and_no_faults(tmp_path: Path) -> None:
    outcome = report(tmp_path)
    assert outcome.counts == Counter(OK=1, INFORMATIONAL=2)
    assert outcome.faults == []


@pytest.mark.parametrize(
    ("case", "end"),
    [
        ("7_1_5", ("FAILED", "OK")),
        ("7_1_5", ("NON-STRICT", "OK")),
        ("7_1_5", ("UNIMPLEMENTED", "OK")),
        ("7_1_5", ("INFORMATIONAL", "INFORMATIONAL")),
        ("7_1_5", ("OK", "INFORMATIONAL")),
        ("7_1_5", ("OK", "UNCLEAN")),
        ("7_1_5", ("OK", "WRONG CODE")),
        ("7_1_6", ("FAILED", "INFORMATIONAL")),
        ("7_1_6", ("INFORMATIONAL", "FAILED BY CLIENT")),
    ],
)
def test_unexpected_end_of_a_case_is_a_fault(
    tmp_path: Path, case: str, end: tuple[str, str]
) -> None:
    outcome = report(tmp_path, **{case: end})
    name = case.replace("_", ".")
    assert outcome.faults == [f"{name} {end[0]} / {end[1]}: This. That."]


def test_run_without_a_report_fails_and_quotes_the_logs(tmp_path: Path) -> None:
    # An interpreter without the suite.
    outcome = autobahn.run(sys.executable, tmp_path, BOUND, (PARTY, autobahn.CORE))
    assert not outcome.counts
    assert outcome.faults[0].startswith("FileNotFoundError")
    assert "No module named 'twisted'" in outcome.faults[-1]


def test_part_with_a_good_report_is_not_run_again(tmp_path: Path) -> None:
    # An interpreter without the suite: a run would end without a report.
    small = autobahn.CORE._replace(count=3)
    folder = tmp_path / "server-asyncio" / small.name
    folder.mkdir(parents=True)
    report(folder)
    kept = autobahn.run(sys.executable, tmp_path, BOUND, (PARTY, small))
    assert kept.counts == Counter(OK=1, INFORMATIONAL=2)
    report(folder, **{"7_1_5": ("FAILED", "OK")})
    assert not autobahn.run(sys.executable, tmp_path, BOUND, (PARTY, small)).counts


def test_part_with_cases_missing_is_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "server-asyncio" / autobahn.CORE.name
    folder.mkdir(parents=True)
    report(folder)
    assert not autobahn.run(sys.executable, tmp_path, BOUND, (PARTY, autobahn.CORE)).counts


def test_outcome_of_a_party_is_the_sum_of_its_parts() -> None:
    parts = [
        autobahn.Outcome(PARTY, Counter(OK=2, FAILED=1), ["9.1.1 FAILED"], 1.0),
        autobahn.Outcome(PARTY, Counter(OK=3), [], 2.0),
    ]
    expected = autobahn.Outcome(PARTY, Counter(OK=5, FAILED=1), ["9.1.1 FAILED"], 3.0)
    assert autobahn.combine(PARTY, parts) == expected


def test_parts_are_all_the_cases() -> None:
    assert sum(part.count for part in autobahn.PARTS) == autobahn.EVERYTHING_OK[True].total()
    assert autobahn.CORE.count == autobahn.EVERYTHING_OK[False].total()


# -- the interpreter ------------------------------------------------------------------------------


def fake_python(folder: Path, answer: str) -> str:
    """Make a command that answers like an interpreter."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "python2.7"
    file.write_text(f'#!/bin/sh\necho "{answer}"\n')
    file.chmod(0o755)
    return str(file)


def test_named_python_2_7_is_found(tmp_path: Path) -> None:
    named = fake_python(tmp_path / "named", "('CPython', '2.7')")
    on_path = fake_python(tmp_path / "path", "('CPython', '2.7')")
    environment = {"PATH": str(tmp_path / "path"), "PYTHON27": named}
    assert autobahn.find_python27(environment) == named
    assert autobahn.find_python27({"PATH": environment["PATH"]}) == on_path


def test_python_2_7_of_pyenv_is_found(tmp_path: Path) -> None:
    # The command with that name is pyenv's shim and does not run.
    fake_python(tmp_path / "path", "pyenv: python2.7: command not found")
    pyenv = tmp_path / "path" / "pyenv"
    pyenv.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    pyenv.chmod(0o755)
    there = fake_python(tmp_path / "versions" / "2.7.18" / "bin", "('CPython', '2.7')")
    assert autobahn.find_python27({"PATH": str(tmp_path / "path")}) == there


@pytest.mark.parametrize("answer", ["('PyPy', '2.7')", "CPython 3.1", ""])
def test_other_interpreter_is_ignored(tmp_path: Path, answer: str) -> None:
    fake_python(tmp_path, answer)
    environment = {"PATH": str(tmp_path), "PYTHON27": str(tmp_path / "missing")}
    assert autobahn.find_python27(environment) is None
