"""The program's own words: its commands, what is loaded for them, and mistakes in writing them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest

from wsproto_sip import __version__
from wsproto_sip.cli import main
from wsproto_sip.cli._commands import COMMANDS, Parser, options_of, parser_of

from .conftest import ROOT

_LOADED = """
import json, sys
before = set(sys.modules)
import wsproto_sip
package = set(sys.modules)
from wsproto_sip.cli import main
{run}
print(json.dumps(sorted(set(sys.modules) - package)))
"""


def loaded(run: str) -> set[str]:
    """Return the modules loaded in addition to those of the package's import."""
    code = _LOADED.format(run=run)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_version_loads_only_the_package() -> None:
    assert loaded('main(["--version"])') == {"wsproto_sip.cli"}


def test_a_command_loads_no_other_one() -> None:
    found = loaded("from wsproto_sip.cli._commands import parser_of; parser_of('ctl')")
    ours = {name for name in found if name.startswith("wsproto_sip.")}
    assert "wsproto_sip.cli.ctl" in ours
    assert not [name for name in ours if "adapters.asyncio" in name or "cli.serve" in name]
    assert "asyncio" not in found


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wsproto-sip {__version__}\n"


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert any(line.split() == [name, *text.split()] for line in out.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: wsproto-sip {command} ")
    for action in options_of(parser_of(command)):
        assert action.help
        assert all(option in out for option in action.option_strings)


@pytest.mark.parametrize("command", COMMANDS)
def test_usage_is_one_line(command: str) -> None:
    usage = parser_of(command).format_usage()
    assert usage.count("\n") == 1
    assert len(usage) < 110


def test_help_says_which_options_may_be_repeated(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main(["connect", "--help"])
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert lines["--subprotocol"].endswith("; may be repeated")
    assert "repeated" not in lines["--origin"]


@pytest.mark.parametrize("command", ["serve", "connect", "ctl"])
def test_examples_of_the_help_are_commands(command: str) -> None:
    parser = parser_of(command)
    text = str(parser.epilog).partition("Examples:\n")[2].replace("\\\n", " ")
    commands = re.findall(rf"wsproto-sip {command}.*", text)
    assert len(commands) >= 3
    for line in commands:
        parser.parse_args(shlex.split(line)[2:])


def test_parameters_of_a_command_are_optional(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ctl", "--socket", "x"])
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "wsproto-sip ctl: the following arguments are required: COMMAND"
    assert parser_of("ctl").parse_args(["--socket", "x", "ws.dump"]).params == []


@pytest.mark.parametrize(
    ("words", "program", "message"),
    [
        ([], "", "the following arguments are required: COMMAND"),
        (["serv"], "", "'serv': no such command; did you mean serve?"),
        (["x\x1b[2J"], "", "'x\\x1b[2J': no such command"),
        (["--vresion"], "", "the following arguments are required: COMMAND"),
        (["--version", "serve"], "", "--version takes no arguments"),
        (["serve", "--prot", "1"], " serve", "--prot: no such option; did you mean --port?"),
        (["serve", "--prot=1"], " serve", "--prot: no such option; did you mean --port?"),
        # Not --tls-cert and not --tls-client-ca: an abbreviation is none.
        (["serve", "--tls-c", "x"], " serve", "--tls-c: no such option"),
        (["serve", "--zebra"], " serve", "--zebra: no such option"),
        (["serve", "8080"], " serve", "'8080': too many arguments"),
        (
            ["serve", "--port", "x"],
            " serve",
            "argument --port: 'x' is not a number from 0 to 65535",
        ),
    ],
)
def test_mistakes(
    words: list[str], program: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"wsproto-sip{program}: {message}")
    assert second == f"Try 'wsproto-sip{program} --help'."


def test_words_after_options_are_read_in_any_order() -> None:
    parser = Parser("program")
    parser.add_argument("--flag")
    parser.add_argument("name")
    assert vars(parser.parse_args(["n", "--flag", "f"])) == {"flag": "f", "name": "n"}
