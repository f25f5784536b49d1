"""The man page."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

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
