"""Scripts that complete words, in the shells they are for."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli import main
from wsproto_sip.cli._commands import COMMANDS, options_of, parser_of
from wsproto_sip.cli.completion import SERVER_COMMANDS, SHELLS, script

from ._service import launched

if TYPE_CHECKING:
    from pathlib import Path


def shell(name: str) -> str:
    """Return the path of a program, or skip."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return program


@pytest.mark.parametrize("name", SHELLS)
def test_every_option_and_command_is_in_the_script(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", name]) == 0
    text = capsys.readouterr().out
    assert text == script(name)
    for command in COMMANDS:
        assert command in text
        for action in options_of(parser_of(command)):
            for option in action.option_strings:
                assert option.removeprefix("--") in text


def test_only_shells_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "cmd"])
    assert "'cmd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["se"], ["serve"]),
        (["serve", "--tls-ci"], ["--tls-ciphers"]),
        (["serve", "--sip-mode", ""], ["outbound", "alias"]),
        (["serve", "--sip-mode", "al"], ["alias"]),
        (["serve", "--host", ""], []),
        (["serve", "--no-pa"], ["--no-page"]),
        (["ctl", "ul."], ["ul.dump", "ul.lookup", "ul.rm"]),
        (["ctl", "--socket", "x", "to"], ["top"]),
        (["completion", "z"], ["zsh"]),
        (["serve", "--config", "a fi"], ["a file.toml"]),
    ],
)
@pytest.mark.parametrize("name", ["bash", "fish"])
def test_words_are_completed(
    name: str, words: list[str], expected: list[str], tmp_path: Path
) -> None:
    program = shell(name)
    (tmp_path / "script").write_text(script(name), encoding="utf-8")
    (tmp_path / "a file.toml").write_text("")
    if name == "bash":
        code = (
            'source ./script; COMP_WORDS=(wsproto-sip "$@"); COMP_CWORD=$#; _wsproto_sip; '
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        command = [program, "--norc", "-c", code, "bash", *words]
    else:
        line = " ".join(word.replace(" ", "\\ ") for word in ["wsproto-sip", *words])
        command = [program, "--no-config", "-c", 'source ./script; complete -C "$argv"', line]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = [line.partition("\t")[0] for line in done.stdout.splitlines() if line]
    assert sorted(found) == sorted(expected)
    assert done.stderr == ""


def test_zsh_takes_the_script(tmp_path: Path) -> None:
    program = shell("zsh")
    (tmp_path / "script").write_text(script("zsh"), encoding="utf-8")
    code = "autoload -U compinit; compinit -D; source ./script; print $_comps[wsproto-sip]"
    done = subprocess.run(
        [program, "-f", "-c", code],
        cwd=tmp_path,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("_wsproto_sip\n", "")


def test_the_names_are_those_of_a_server_that_runs(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n", encoding="utf-8")
    options = ["--ctl-socket", str(tmp_path / "ctl"), "--msrp-users", str(users)]
    with launched(*options, "--allow-insecure-msrp") as service:
        # A server with upstreams, which is not a registrar, has another command, and so has a node.
        others = {"top", "ws.nodes", "ws.upstreams"}
        assert {*service.call("system.listMethods"), *others} == {*SERVER_COMMANDS}
