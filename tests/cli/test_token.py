"""Files with a token."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli._token import read_token

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "0123456789abcdef"  # of a test


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        (f"{TOKEN}\n", 0o644, r"other users may use it \(mode 0644\)"),
        (TOKEN, 0o620, "other users may use it"),
        ("short", 0o600, "not a token of 16"),
        (f"{TOKEN} {TOKEN}", 0o600, "not a token of 16"),
        ("\n", 0o600, "not a token of 16"),
    ],
)
def test_files_that_keep_no_secret_are_refused(
    tmp_path: Path, text: str, mode: int, message: str
) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ValueError, match=message):
        read_token(str(path))


def test_white_space_around_a_token_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f" {TOKEN}\n")
    path.chmod(0o600)
    assert read_token(str(path)) == TOKEN
