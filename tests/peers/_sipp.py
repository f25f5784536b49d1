"""sipp as the party that is called, or that calls, and telephones that call it.

Theory of operation: sipp counts its calls itself. It ends when it has had as many as it was told,
with the exit code 0 if each of them went as its scenario in tests/data/sipp says.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.adapters._sip import HOST, SocketPhone, free_port
from tests.sip._phones import SDP, Dialog, lines

__all__ = [
    "CALLED",
    "answered",
    "call_out",
    "called_party",
    "calling_party",
    "needs_sipp",
    "register_at",
]

SIPP = shutil.which("sipp")
SCENARIOS = Path(__file__).resolve().parents[1] / "data" / "sipp"
#: The user that the telephones call.
CALLED = "sip:called@sip.test"
#: Calls that sipp makes in a second, and has at a time.
RATE, AT_A_TIME = 50, 10

needs_sipp = pytest.mark.skipif(
    SIPP is None or not Path("/proc/net/udp").is_file(),
    reason="needs sipp (Debian: sip-tester) and /proc",
)


def _wait_until_bound(port: int) -> None:
    """Wait until a program has bound a UDP port: before that, the kernel refuses packets."""
    bound = f":{port:04X} "
    while bound not in Path("/proc/net/udp").read_text(encoding="ascii"):
        time.sleep(0.01)


@asynccontextmanager
async def _running(
    scenario: str, calls: int, scratch: Path, *arguments: str, port: int | None = None
) -> AsyncIterator[int]:
    """Run a sipp that expects a number of complete calls, and yield its port."""
    assert SIPP is not None
    port = free_port() if port is None else port
    process = await asyncio.create_subprocess_exec(
        *(SIPP, "-sf", str(SCENARIOS / f"{scenario}.xml"), "-i", HOST, "-p", str(port)),
        *("-m", str(calls), "-nostdin", "-timeout", "100s", "-timeout_error"),
        *arguments,
        cwd=scratch,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await asyncio.to_thread(_wait_until_bound, port)
        yield port
        said, _ = await process.communicate()
        # It has counted as many calls as the other side.
        assert process.returncode == 0, said.decode(errors="replace")[-3000:]
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@asynccontextmanager
async def called_party(
    calls: int, scratch: Path, scenario: str = "is_hung_up_on", *, port: int | None = None
) -> AsyncIterator[int]:
    """Run a sipp that expects a number of calls, by a scenario, and yield its port."""
    async with _running(scenario, calls, scratch, port=port) as bound:
        yield bound


@asynccontextmanager
async def calling_party(
    calls: int, scratch: Path, core: int, users: Sequence[str]
) -> AsyncIterator[None]:
    """Run a sipp that calls users in turn by the server on a port, and hangs up."""
    names = scratch / "users.csv"
    names.write_text("SEQUENTIAL\n" + "".join(f"{user};\n" for user in users), encoding="ascii")
    more = ("-inf", str(names), "-r", str(RATE), "-l", str(AT_A_TIME), f"{HOST}:{core}")
    async with _running("calls", calls, scratch, *more):
        yield


def register_at(port: int, contact_port: int) -> None:
    """Register the called party at a server, over UDP."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.bind((HOST, 0))
        asking.settimeout(10)
        own = asking.getsockname()[1]
        register = lines(
            "REGISTER sip:sip.test SIP/2.0",
            ("Via", f"SIP/2.0/UDP {HOST}:{own};rport;branch=z9hG4bKcalled{own}"),
            ("Max-Forwards", "5"),
            ("From", f"<{CALLED}>;tag=1"),
            ("To", f"<{CALLED}>"),
            ("Contact", f"<sip:called@{HOST}:{contact_port}>;expires=600"),
            ("Call-ID", f"called-{own}"),
            ("CSeq", "1 REGISTER"),
        )
        asking.sendto(register, (HOST, port))
        assert asking.recv(65536).startswith(b"SIP/2.0 200 ")


async def answered(alice: SocketPhone, body: bytes = SDP) -> Dialog[SocketPhone]:
    """Call the called party, until it has answered."""
    invite = alice.send("INVITE", CALLED, ("Content-Type", "application/sdp"), body=body)
    ok = await alice.response()
    while ok.status == 180:
        ok = await alice.response()
    # A 180 is sent once, and over UDP it may get lost.
    assert ok.status == 200, ok
    assert ok.body.startswith(b"v=0")
    dialog = Dialog(alice, invite, ok, caller=True)
    dialog.send("ACK")
    return dialog


async def call_out(alice: SocketPhone, body: bytes = SDP) -> None:
    """Make a complete call to the called party."""
    dialog = await answered(alice, body)
    for method in ("INFO", "BYE"):
        dialog.send(method)
        await alice.response(200)
