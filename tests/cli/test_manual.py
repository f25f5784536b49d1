"""The man page."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from tests._layers import ROOT
from wsproto_sip.cli import main
from wsproto_sip.cli._commands import COMMANDS, options_of, parser_of
from wsproto_sip.cli.manual import page


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manual"]) == 0
    text = capsys.readouterr().out
    assert text == page()
    assert text.isascii()
    plain = text.replace("\\-", "-")
    for command in COMMANDS:
        assert f"wsproto-sip {command}" in plain
        for action in options_of(parser_of(command)):
            for option in action.option_strings:
                assert f"\\fB{option}\\fR" in plain
    for heading in ("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "EXIT STATUS", "SIGNALS"):
        assert f".SH {heading}\n" in text


def test_help_and_pages_say_that_each_process_counts_failed_logins() -> None:
    (option,) = [
        action
        for action in options_of(parser_of("serve"))
        if "--guess-pair" in action.option_strings
    ]
    assert "each process and each node counts failed logins for itself" in str(option.help)
    assert "each process and each node counts failed logins for itself" in page()
    for name in ("reference/command-line", "howto/scale-out", "explanation/security"):
        words = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").split()
        assert "counts for itself" in " ".join(words), name


def test_groff_reads_it_without_a_warning() -> None:
    groff = shutil.which("groff")
    if groff is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        [groff, "-man", "-Tutf8", "-ww"], input=page(), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    # Bold characters are printed twice.
    shown = re.sub(".\x08", "", done.stdout)
    assert "--check-config" in shown
    assert "wss://" in shown
