"""The unit for systemd, and the configurations that the files of deploy/ name."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.cli import main
from wsproto_sip.cli._commands import parser_of
from wsproto_sip.cli.serve.settings import load

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).resolve().parent.parent.parent / "deploy"
UNIT = DEPLOY / "systemd" / "wsproto-sip.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Return the unit, with a program that is installed here."""
    path = tmp_path / UNIT.name
    text = UNIT.read_text(encoding="utf-8")
    assert "ExecStart=/usr/bin/wsproto-sip " in text
    path.write_text(text.replace("/usr/bin/wsproto-sip", "/bin/true"), encoding="utf-8")
    shutil.copy(DEPLOY / "systemd" / "wsproto-sip.socket", tmp_path)
    return path


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def _fails(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_systemd_takes_the_units(unit: Path) -> None:
    for path in (unit, unit.with_suffix(".socket")):
        done = analyze("verify", "--man=no", str(path))
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_service_is_exposed_to_little(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--threshold=20", str(unit))
    assert done.returncode == 0, done.stdout
    assert re.search(r"Overall exposure level .*: (0|1)\.\d", done.stdout)


def entries() -> dict[str, str]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if re.match(r"[A-Za-z]+=", line))


def test_the_unit_starts_what_there_is() -> None:
    found = entries()
    words = found["ExecStart"].split()
    arguments = parser_of("serve").parse_args(words[2:])
    assert arguments.config == "/etc/wsproto-sip/serve.toml"
    assert (found["Type"], found["ExecReload"]) == ("notify", "/bin/kill -HUP $MAINPID")
    assert int(found["WatchdogSec"]) > 0
    # Enough for as many connections as there are unless told otherwise.
    settings = load({}).settings
    assert int(found["LimitNOFILE"]) > settings.max_connections + settings.max_handshakes


CONFIGURATIONS = sorted(DEPLOY.rglob("serve.toml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.parent.name))
def test_configurations_would_start(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With directories and users of this machine."""
    text = path.read_text(encoding="utf-8")
    (tmp_path / "users").write_text((DEPLOY / "compose" / "users").read_text(encoding="utf-8"))
    (tmp_path / "users").chmod(0o600)
    for named, here in (
        ("/run/wsproto-sip", str(tmp_path)),
        ("/etc/wsproto-sip/users", str(tmp_path / "users")),
        ("0.0.0.0:8080", "0.0.0.0:0"),
    ):
        text = text.replace(named, here)
    config = tmp_path / "serve.toml"
    config.write_text(text, encoding="utf-8")
    assert main(["serve", "--check-config", "--config", str(config)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "The configuration is valid"
    assert err == ""


def test_there_are_configurations() -> None:
    assert [path.parent.name for path in CONFIGURATIONS] == ["compose", "container", "deploy"]
    for path in CONFIGURATIONS:
        assert tomllib.loads(path.read_text(encoding="utf-8"))["ctl-socket"]


def instructions() -> Iterator[tuple[str, str]]:
    """Yield the instructions of the container's file, continued lines joined."""
    text = (DEPLOY / "container" / "Containerfile").read_text(encoding="utf-8")
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text))
    for line in text.splitlines():
        if line:
            name, _, rest = line.partition(" ")
            yield name, rest


class TestContainer:
    """What hadolint would look at, and that its words are ours."""

    def test_bases_are_small_and_of_one_version(self) -> None:
        bases = [rest for name, rest in instructions() if name == "FROM"]
        assert len(bases) == 2
        for base in bases:
            assert re.fullmatch(r"python:3\.\d+-slim( AS build)?", base)

    def test_it_ends_without_the_power_of_root(self) -> None:
        users = [rest for name, rest in instructions() if name == "USER"]
        assert users == ["10001:10001"]
        names = [name for name, _ in instructions()]
        assert "RUN" not in names[names.index("USER") :]

    def test_commands_are_lists_and_files_are_copied(self) -> None:
        import json

        found = dict(instructions())
        assert "ADD" not in found
        for name in ("ENTRYPOINT", "CMD"):
            assert all(isinstance(word, str) for word in json.loads(found[name]))
        entry, words = json.loads(found["ENTRYPOINT"]), json.loads(found["CMD"])
        assert entry == ["wsproto-sip", "serve"]
        assert parser_of("serve").parse_args(words).config == "/etc/wsproto-sip/serve.toml"
        _, _, check = found["HEALTHCHECK"].partition("CMD ")
        program, command, *arguments = json.loads(check)
        assert (program, command) == ("wsproto-sip", "ctl")
        asked = parser_of("ctl").parse_args(arguments)
        settings = load({}, config=str(DEPLOY / "container" / "serve.toml")).settings
        assert asked.socket == settings.ctl_socket
        assert asked.name == "core.uptime"
        for name, rest in instructions():
            if name == "RUN" and "pip install" in rest:
                assert "--no-cache-dir" in rest
            if name == "WORKDIR":
                assert rest.startswith("/")

    def test_what_it_copies_is_there(self) -> None:
        root = DEPLOY.parent
        ignored = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
        for name, rest in instructions():
            if name != "COPY" or rest.startswith("--from=build "):
                continue
            *sources, _ = rest.split()
            for source in sources:
                assert (root / source).exists()
                assert any(source.startswith(line[1:]) for line in ignored if line[0] == "!")

    def test_it_is_built_where_there_is_docker(self) -> None:
        docker = shutil.which("docker")
        if docker is None or _fails(docker, "info"):
            pytest.skip("docker is not installed, or its daemon does not run")
        file = DEPLOY / "container" / "Containerfile"
        subprocess.run([docker, "build", "-q", "-f", file, DEPLOY.parent], check=True)


def test_compose_names_files_and_options_that_there_are() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    folder = DEPLOY / "compose"
    document = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    server, tls = document["services"]["server"], document["services"]["tls"]
    build = server["build"]
    assert (folder / build["context"] / build["dockerfile"]).is_file()
    for volume in (*server["volumes"], *tls["volumes"]):
        source, target, mode = volume.split(":")
        assert mode == "ro"
        # The certificates are the operator's to put there.
        assert (folder / source).exists() or source == "./tls"
        assert target.startswith("/etc/wsproto-sip/")
    assert server["read_only"]
    assert server["cap_drop"] == ["ALL"]
    # Clients reach the server through the one that speaks TLS alone.
    assert "ports" not in server
    assert tls["ports"] == ["80:80", "443:443"]
    [network] = document["networks"]["inside"]["ipam"]["config"]
    settings = load({}, config=str(folder / "serve.toml")).settings
    assert settings.trusted_proxy == (network["subnet"],)
    assert server["stop_grace_period"] == "15s"
    assert settings.drain_seconds < 15
