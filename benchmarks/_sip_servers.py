"""Servers that answer OPTIONS over loopback: this package's edge, and Kamailio.

Theory of operation: each runs in separate processes, all on one core, and answers OPTIONS to itself
with 200. Their CPU time is taken from the scheduler's statistics of all their threads (Linux).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks._harness import DeliveryError
from benchmarks._loopback import HOST
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.sip import SipService
from wsproto_sip.policy.decision import PolicyChain
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.sip.edge.application import EdgeApplication
from wsproto_sip.sip.edge.config import EdgeConfig
from wsproto_sip.sip.edge.edge import SipEdge

__all__ = ["Server", "cpu_time", "edge_application", "edge_server", "kamailio_server", "serve"]

#: The port of a server, and a function that returns its CPU time so far in nanoseconds.
Server = tuple[int, Callable[[], int]]

_KAMAILIO = """#!KAMAILIO
debug=0
log_stderror=yes
fork=yes
children=1
tcp_children=1
listen=tcp:{host}:{port}
auto_aliases=no
alias="edge.test"
dns=no
rev_dns=no
tcp_accept_no_cl=yes
tcp_connection_lifetime=600

loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "maxfwd.so"
loadmodule "nathelper.so"
loadmodule "xhttp.so"
loadmodule "websocket.so"

request_route {{
    if (!mf_process_maxfwd_header("20")) {{
        sl_send_reply("483", "Too Many Hops");
        exit;
    }}
    force_rport();
    if (is_method("OPTIONS") && uri == myself && $rU == $null) {{
        sl_send_reply("200", "OK");
        exit;
    }}
    sl_send_reply("404", "Not Found");
}}

event_route[xhttp:request] {{
    set_reply_close();
    set_reply_no_connect();
    ws_handle_handshake();
}}
"""


def edge_application(now: float) -> EdgeApplication:
    """Return an endpoint for SIP with an edge."""
    session = SessionConfig()
    config = EndpointConfig(
        session=replace(session, profiles=subprotocol_profiles(session)),
        policies=PolicyChain([SubprotocolPolicy(["sip"])]),
    )
    # All clients have one address here, and send as fast as they are answered.
    many = ShareConfig(1_000_000)
    edge = SipEdge(
        EdgeConfig(
            "edge.test",
            requests_per_second=many,
            callee_requests_per_second=many,
            callee_transactions=many,
        )
    )
    return EdgeApplication(Endpoint(config, now=now), edge)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    application = edge_application(loop.time())
    server = EndpointServer(application.endpoint, lambda *event: service.handle(*event))  # noqa: PLW0108
    service = SipService(server, application)
    await service.open()
    ((_, port),) = await server.listen(HOST, 0)
    print(port, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    await service.close()
    await server.close()


def serve() -> None:
    """Run the edge's process: print its port, and end with its input."""
    asyncio.run(_serve())


def _one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def cpu_time(group: int) -> int:
    """Return the CPU time of all threads of a process group in nanoseconds."""
    total = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # A process may end while it is examined.
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[2]) == group:
                for schedule in stat.parent.glob("task/*/schedstat"):
                    total += int(schedule.read_text().split()[0])
    return total


@contextmanager
def edge_server() -> Iterator[Server]:
    """Run this package's edge on asyncio."""
    command = [sys.executable, "-m", "benchmarks.sip", "--serve"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_one_core,  # noqa: PLW1509
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), lambda: cpu_time(process.pid)
        finally:
            process.stdin.close()


@contextmanager
def kamailio_server() -> Iterator[Server]:
    """Run Kamailio with its websocket module.

    Raises:
        LookupError: Kamailio is not installed.
        DeliveryError: Kamailio does not start.
    """
    program = shutil.which("kamailio")
    modules = list(Path("/usr/lib").glob("*/kamailio/modules/websocket.so"))
    if program is None or not modules:
        raise LookupError("kamailio and its websocket module are not installed")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        configuration = Path(scratch, "kamailio.cfg")
        configuration.write_text(_KAMAILIO.format(host=HOST, port=port))
        process = subprocess.Popen(
            [program, "-DD", "-E", "-f", str(configuration), "-Y", scratch, "-m", "64", "-M", "8"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_one_core,  # noqa: PLW1509
        )
        try:
            _wait_for(port, process)
            yield port, lambda: cpu_time(process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with suppress(OSError), socket.create_connection((HOST, port)):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise DeliveryError("kamailio does not start")
