"""Debian's Kamailio as registrar and proxy on 127.0.0.1, with an edge in front of it.

Theory of operation: :func:`kamailio` runs a Kamailio with tests/data/kamailio/registrar.cfg for the
duration of a block, on a free port for UDP and TCP; it keeps its bindings in memory. It is ready
when it answers OPTIONS. :func:`in_front_of` configures an edge with it as the upstream.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.adapters._sip import HOST, free_port
from tests.sip._phones import lines
from wsproto_sip.sip.edge.config import EdgeConfig, EdgeMode, Upstream
from wsproto_sip.sip.registrar.domains import Domains

__all__ = [
    "DOMAIN",
    "Kamailio",
    "in_front_of",
    "kamailio",
    "needs_kamailio",
    "needs_kamailio_tls",
    "password",
    "running",
]

CONFIGURATION = Path(__file__).resolve().parents[1] / "data" / "kamailio" / "registrar.cfg"
#: The domain it is responsible for.
DOMAIN = "sip.test"
PROGRAM = shutil.which("kamailio")
#: How often it is polled until it is ready, 20 times a second.
_ATTEMPTS = 400

needs_kamailio = pytest.mark.skipif(
    PROGRAM is None or not list(Path("/usr/lib").glob("*/kamailio/modules/outbound.so")),
    reason="needs kamailio and its outbound module (Debian: kamailio, kamailio-outbound-modules)",
)

needs_kamailio_tls = pytest.mark.skipif(
    not list(Path("/usr/lib").glob("*/kamailio/modules/tls.so")),
    reason="needs the tls module of kamailio (Debian: kamailio-tls-modules)",
)


def password(user: str) -> str:
    """Return a user's password, for configurations with authentication."""
    return f"{user}-secret"


@dataclass(frozen=True)
class Kamailio:
    """A running Kamailio.

    Args:
        port: Its port, of UDP and TCP.
        log: Its log file.
        pid: Its process id, which is also its process group.
    """

    port: int
    log: Path
    pid: int

    def kill(self) -> None:
        """Kill it: it sends nothing more to any peer."""
        os.killpg(self.pid, signal.SIGKILL)


def in_front_of(
    core: Kamailio, transport: str = "udp", mode: EdgeMode = EdgeMode.OUTBOUND
) -> EdgeConfig:
    """Configure an edge in front of it, on a port of its own."""
    upstream = Upstream("kamailio", HOST, core.port, HOST, free_port(), transport)
    return EdgeConfig("edge.test", Domains((DOMAIN,)), mode=mode, upstreams=(upstream,))


@contextmanager
def kamailio(
    *,
    digest: bool = False,
    accept_no_length: bool = False,
    port: int | None = None,
    tls: tuple[int, Mapping[str, Path]] | None = None,
) -> Iterator[Kamailio]:
    """Run a Kamailio as registrar and proxy.

    Args:
        digest: Whether it authenticates users in REGISTER, INVITE and MESSAGE.
        accept_no_length: Whether a message on TCP may lack Content-Length (``tcp_accept_no_cl``);
            otherwise Kamailio closes the connection.
        port: Its port; a free one by default.
        tls: A port for TLS, and the files ``chain``, ``key`` and ``ca``; it requires certificates
            of that authority.
    """
    options = {"WITH_DIGEST": digest, "WITH_NO_LENGTH": accept_no_length}
    defined = [part for name, wanted in options.items() if wanted for part in ("-A", name)]
    if tls is not None:
        number, files = tls
        values = {"CERTIFICATE": files["chain"], "KEY": files["key"], "AUTHORITY": files["ca"]}
        defined += ["-A", "WITH_TLS", "-A", f"TLS_PORT={number}"]
        defined += [part for name, path in values.items() for part in ("-A", f'{name}="{path}"')]
    with running(CONFIGURATION, *defined, port=port) as core:
        yield core


@contextmanager
def running(configuration: Path, *more: str, port: int | None = None) -> Iterator[Kamailio]:
    """Run a Kamailio, and wait until it answers OPTIONS over UDP.

    Args:
        configuration: Its configuration, with placeholders HOST and PORT.
        more: Further options.
        port: Its port; a free one by default.
    """
    assert PROGRAM is not None
    port = free_port() if port is None else port
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
            yield Kamailio(port, log, process.pid)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll until it answers."""
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
            # It may also have exited.
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                break
    raise AssertionError(f"kamailio does not answer:\n{log.read_text(errors='replace')[-4000:]}")
