"""Users and passwords: where they come from, and that they reach servers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli.connect.credentials import (
    PASSWORD_VARIABLE,
    ask_password,
    read_credentials,
    split_credentials,
)

from .._service import launched
from ..conftest import HANGS
from ._terminal import Terminal

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., subprocess.Popen[bytes]]
    Connect = Callable[..., tuple[int, bytes, str]]


@pytest.fixture(scope="module", params=["digest", "basic"])
def guarded(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[str]:
    """Start our server with password authentication."""
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text("alice:se:cret\n")
    users.chmod(0o600)
    options = ("--auth-file", str(users), "--auth-scheme", request.param)
    with launched(
        *options,
        "--guess-pair",
        "1000,longest=1,forgive=1",
        "--guess-address",
        "1000,longest=1,forgive=1",
    ) as service:
        yield service.url


@pytest.mark.parametrize(
    ("text", "parts"),
    [("a", ("a", None)), ("a:", ("a", "")), ("a:b:c", ("a", "b:c"))],
)
def test_user_and_password(text: str, parts: tuple[str, str | None]) -> None:
    assert split_credentials(text) == parts


def test_user_is_needed() -> None:
    with pytest.raises(ValueError, match="USER"):
        split_credentials(":x")


@pytest.mark.parametrize("line", ["alice:secret", "alice:secret\r\nmore"])
def test_file(tmp_path: Path, line: str) -> None:
    path = tmp_path / "credentials"
    path.write_text(line)
    assert read_credentials(str(path)) == ("alice", "secret")


@pytest.mark.parametrize("line", [b"", b"alice", b":x", b"a:\xff"])
def test_file_of_another_form(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(line)
    with pytest.raises(ValueError, match="its first line is not"):
        read_credentials(str(path))


def test_file_that_others_may_use(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("a:b")
    path.chmod(0o640)
    with pytest.raises(ValueError, match=r"mode 0640"):
        read_credentials(str(path))


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "x")
    assert ask_password("alice") == "x"


def test_login(guarded: str, connect: Connect, tmp_path: Path) -> None:
    assert connect("--auth", "alice:se:cret", guarded, lines=b"a\n")[:2] == (0, b"a\n")
    path = tmp_path / "credentials"
    path.write_text("alice:se:cret\n")
    assert connect("--auth-file", str(path), guarded, lines=b"a\n")[:2] == (0, b"a\n")


def test_wrong_password(guarded: str, connect: Connect) -> None:
    code, _, err = connect("--auth", "alice:x", guarded)
    assert code == 4
    assert err.startswith("-- rejected: 401 Unauthorized\n")


def test_password_is_asked_for_without_an_echo(guarded: str) -> None:
    with Terminal("connect", "--auth", "alice", "--wait", "0", guarded) as terminal:
        terminal.wait_for("Password of alice: ")
        terminal.type("se:cret\n")
        terminal.wait_for_prompt("-- connected")
        terminal.type("\x04")
        assert terminal.ended() == 0
        assert "cret" not in terminal.shown


def test_password_of_the_environment(guarded: str, start: Start) -> None:
    environment = {**os.environ, PASSWORD_VARIABLE: "se:cret"}
    process = start("connect", "--auth", "alice", guarded, env=environment)
    out, _ = process.communicate(b"a\n", HANGS)
    assert (process.returncode, out) == (0, b"a\n")


def test_nowhere_to_ask(start: Start) -> None:
    # A session of its own has no terminal.
    process = start("connect", "--auth", "alice", "ws://127.0.0.1:1/", start_new_session=True)
    _, err = process.communicate(b"secret\n", HANGS)
    assert process.returncode == 2
    assert err.decode().startswith("wsproto-sip: --auth: no password, and no terminal")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--auth", ":x"], "--auth: not of the form USER[:PASSWORD]"),
        (["--auth-file", "/nowhere"], "--auth-file '/nowhere': No such file"),
        (["--auth-file", "/dev/null"], "--auth-file '/dev/null': other users may use it"),
    ],
)
def test_mistakes(connect: Connect, arguments: list[str], complaint: str) -> None:
    code, _, err = connect(*arguments, "ws://127.0.0.1:1/")
    assert code == 2
    assert err.startswith(f"wsproto-sip: {complaint}")
