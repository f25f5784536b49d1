"""Debian's Kamailio as registrar and proxy on 127.0.0.1, and an edge in front of it.

Theory of operation: :func:`kamailio` runs a Kamailio with tests/data/kamailio/registrar.cfg for the
time of a block, on a free port of UDP and TCP; it keeps its bindings in memory. It is there when it
answers OPTIONS. :func:`in_front_of` is the configuration of an edge whose upstream it is.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.adapters._sip import HOST, free_port
from tests.sip._phones import lines
from wsproto_sip.sip.domains import Domains
from wsproto_sip.sip.edge_config import EdgeConfig, EdgeMode, Upstream

__all__ = ["DOMAIN", "Kamailio", "in_front_of", "kamailio", "needs_kamailio", "password", "running"]

CONFIGURATION = Path(__file__).resolve().parents[1] / "data" / "kamailio" / "registrar.cfg"
#: What it is responsible for.
DOMAIN = "sip.test"
PROGRAM = shutil.which("kamailio")
#: How often it is asked whether it is there, 20 times a second.
_ATTEMPTS = 400

needs_kamailio = pytest.mark.skipif(
    PROGRAM is None or not list(Path("/usr/lib").glob("*/kamailio/modules/outbound.so")),
    reason="needs kamailio and its outbound module (Debian: kamailio, kamailio-outbound-modules)",
)


def password(user: str) -> str:
    """A user's password, where it asks for one."""
    return f"{user}-secret"


@dataclass(frozen=True)
class Kamailio:
    """One that runs.

    Args:
        port: Its port, of UDP and TCP.
        log: The file that it writes to.
    """

    port: int
    log: Path


def in_front_of(
    core: Kamailio, transport: str = "udp", mode: EdgeMode = EdgeMode.OUTBOUND
) -> EdgeConfig:
    """How an edge in front of it is configured; it has a port of its own."""
    upstream = Upstream("kamailio", HOST, core.port, HOST, free_port(), transport)
    return EdgeConfig("edge.test", Domains((DOMAIN,)), mode=mode, upstream=upstream)


@contextmanager
def kamailio(*, digest: bool = False) -> Iterator[Kamailio]:
    """Runs one as registrar and proxy.

    Args:
        digest: Whether it asks users for their passwords, in REGISTER, INVITE and MESSAGE.
    """
    with running(CONFIGURATION, *(["-A", "WITH_DIGEST"] if digest else [])) as core:
        yield core


@contextmanager
def running(configuration: Path, *more: str) -> Iterator[Kamailio]:
    """Runs one that answers OPTIONS over UDP.

    Args:
        configuration: Its configuration, which takes HOST and PORT.
        more: Further options.
    """
    assert PROGRAM is not None
    port = free_port()
    options = ["-A", f"HOST={HOST}", "-A", f"PORT={port}", *more]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        log = Path(scratch, "log")
        command = [PROGRAM, "-DD", "-E", "-f", str(configuration), "-Y", scratch, *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-m", "32", "-M", "4"],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            _wait_for(port, process, log)
            yield Kamailio(port, log)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Asks until it answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind((HOST, 0))
        asking.connect((HOST, port))
        question = lines(
            f"OPTIONS sip:{HOST}:{port} SIP/2.0",
            ("Via", f"SIP/2.0/UDP {HOST}:{asking.getsockname()[1]};rport;branch=z9hG4bKup"),
            ("Max-Forwards", "5"),
            ("From", "<sip:test@sip.test>;tag=1"),
            ("To", f"<sip:{HOST}:{port}>"),
            ("Call-ID", "up"),
            ("CSeq", "1 OPTIONS"),
        )
        asking.settimeout(0.05)
        for _ in range(_ATTEMPTS):
            with suppress(ConnectionRefusedError, TimeoutError):
                asking.send(question)
                asking.recv(65536)
                return
            # It may also have ended.
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                break
    raise AssertionError(f"kamailio does not answer:\n{log.read_text(errors='replace')[-4000:]}")
