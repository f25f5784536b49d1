"""A proxy of deploy/ in front of a server, each a process of its own."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme

from tests.cli._service import HANGS, launched

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli._service import Service

ROOT = Path(__file__).resolve().parent.parent.parent
DEPLOY = ROOT / "deploy"
SCALE_OUT = ROOT / "docs" / "howto" / "scale-out.md"
#: Another address of this machine, to tell clients apart from the proxy.
CLIENT = "127.0.0.2"


def program(name: str) -> str:
    """Return the path of a program, or a skip that names it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def certificate(folder: Path) -> ssl.SSLContext:
    """Make the files of a certificate; return how clients trust it."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "sip.example.com")
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def adapted(path: Path, **changes: str) -> str:
    """Return a configuration of deploy/ for this machine; every replaced text must be there."""
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def block(start: str) -> str:
    """Return the block of the page on several nodes that starts with these words."""
    found = re.search(
        rf"```text\n({re.escape(start)}.*?)```", SCALE_OUT.read_text(encoding="utf-8"), re.DOTALL
    )
    assert found is not None, start
    return found[1]


@contextmanager
def server(folder: Path, header: str) -> Iterator[Service]:
    """Yield the server of deploy/serve.toml, as an echo."""
    text = adapted(
        DEPLOY / "serve.toml",
        **{
            "/run/wsproto-sip/ws": str(folder / "ws"),
            "/run/wsproto-sip/ctl": str(folder / "ctl"),
            '"x-forwarded-for"': f'"{header}"',
            '"https://phone.example.com"': '"missing"',
            'subprotocol = ["sip"]': 'subprotocol = ["none"]',
        },
    )
    text = "\n".join(line for line in text.splitlines() if not line.startswith("sip-"))
    text += '\nready = "/ready"\n'
    (folder / "serve.toml").write_text(text, encoding="utf-8")
    with launched("--config", str(folder / "serve.toml"), port=False) as service:
        yield service


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[str]]:
    """Yield a proxy, once it listens."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            end = time.monotonic() + HANGS
            while True:
                with suppress(ConnectionRefusedError):
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < end
                # Nothing tells when it listens.
                time.sleep(0.02)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(HANGS)
            except subprocess.TimeoutExpired:
                process.kill()
