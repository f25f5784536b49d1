"""Users' calls while one address floods ``wsproto-sip serve`` with INVITEs.

``python -m benchmarks.flood`` starts the server with its defaults and three users. From 127.0.0.9 a
hundred unauthenticated connections send 10,100 INVITEs to carol, who does not answer, as fast as
they can. At the same time alice calls bob a hundred times, both with their passwords; a call counts
if it is set up and ended within ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.sip._phones import SDP, Dialog, Speaker
from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.events import AcceptConnection, Request, TextMessage
from wsproto_sip.sip import SipRequest, SipResponse, parse_message

USERS = {"alice": "wonderland", "bob": "builder", "carol": "lighthouse"}
#: Seconds: a client gives an INVITE up after 64 T1 (RFC 3261 §17.1.1.2).
PATIENCE = 32.0


class Client(Speaker):
    """A client with a socket."""

    async def open(self, port: int, address: str) -> None:
        """Connect from an address of this machine."""
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", port, local_addr=(address, 0)
        )
        self.connection = WSConnection(ConnectionType.CLIENT)
        self.heard: asyncio.Queue[SipRequest | SipResponse] = asyncio.Queue()
        self.statuses: Counter[int] = Counter()
        opening = Request(host="127.0.0.1", target="/", subprotocols=["sip"])
        self.writer.write(self.connection.send(opening))
        self.opened = asyncio.Event()
        self.task = asyncio.create_task(self._read())
        await asyncio.wait_for(self.opened.wait(), PATIENCE)

    async def _read(self) -> None:
        text = ""
        while data := await self.reader.read(65536):
            self.connection.receive_data(data)
            for event in self.connection.events():
                if isinstance(event, AcceptConnection):
                    self.opened.set()
                elif isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        self._take(parse_message(text))
                        text = ""

    def _take(self, message: SipRequest | SipResponse) -> None:
        if isinstance(message, SipResponse):
            self.statuses[message.status] += 1
        self.heard.put_nowait(message)

    def say(self, data: str | bytes | SipRequest | SipResponse) -> None:
        """Send a message."""
        assert isinstance(data, SipRequest | SipResponse)
        text = data.to_websocket()
        assert isinstance(text, str)
        self.writer.write(self.connection.send(TextMessage(text)))

    async def next(self, call_id: str | None) -> SipRequest | SipResponse:
        """Wait for a message of a call, any but 100 and 180; others are dropped."""
        while True:
            message = await self.heard.get()
            if call_id not in (None, message.call_id):
                continue
            if not (isinstance(message, SipResponse) and message.status < 200):
                return message

    async def response(self, status: int, call_id: str | None = None) -> SipResponse:
        """Wait for a response with that status."""
        message = await self.next(call_id)
        if not isinstance(message, SipResponse) or message.status != status:
            raise ConnectionError(f"{message.start_line}, and not {status}")
        return message

    async def request(self, method: str, call_id: str | None) -> SipRequest:
        """Wait for a request with that method."""
        message = await self.next(call_id)
        if not isinstance(message, SipRequest) or message.method != method:
            raise ConnectionError(f"{message.start_line}, and not {method}")
        return message

    async def register(self) -> None:
        """Register with the password."""
        fields = self.registration(expires=600)
        to = f"<{self.aor}>"
        self.send("REGISTER", "sip:sip.test", *fields, to=to)
        challenge = await self.response(401)
        proof = self.credentials(challenge, "REGISTER", "sip:sip.test")
        self.send("REGISTER", "sip:sip.test", proof, *fields, to=to, cseq=2)
        await self.response(200)


async def call(caller: Client, callee: Client) -> None:
    """Set up and end one call."""
    invite = caller.send("INVITE", callee.aor, body=SDP)
    this = invite.call_id
    incoming = await callee.request("INVITE", this)
    callee.answer(incoming, 200, ("Content-Type", "application/sdp"), body=SDP)
    accepted = await caller.response(200, this)
    dialog = Dialog(caller, invite, accepted, caller=True)
    dialog.send("ACK")
    await callee.request("ACK", this)
    dialog.send("BYE")
    callee.answer(await callee.request("BYE", this), 200)
    await caller.response(200, this)


async def attack(attackers: list[Client], each: int) -> None:
    """Send all INVITEs, one round after the other."""
    for _ in range(each):
        for attacker in attackers:
            attacker.send("INVITE", "sip:carol@sip.test")
        await asyncio.sleep(0)
    await asyncio.gather(*[attacker.writer.drain() for attacker in attackers])


async def run(port: int, calls: int, each: int) -> int:
    """Run the whole scenario; return how many calls succeeded."""
    alice, bob, carol = (Client(name, n, password=USERS[name]) for n, name in enumerate(USERS, 1))
    for client in (alice, bob, carol):
        await client.open(port, "127.0.0.1")
        await client.register()
    attackers = [Client("eve", 100 + n, domain="elsewhere.test") for n in range(100)]
    for attacker in attackers:
        await attacker.open(port, "127.0.0.9")
    begun = time.perf_counter()
    flood = asyncio.create_task(attack(attackers, each))
    done, slowest = 0, 0.0
    for _ in range(calls):
        before = time.perf_counter()
        try:
            await asyncio.wait_for(call(alice, bob), PATIENCE)
            done += 1
        except (TimeoutError, ConnectionError) as exc:
            print("a call failed:", repr(exc))
            for client in (alice, bob):
                while not client.heard.empty():
                    print(client.user, "has heard", client.heard.get_nowait().start_line)
        slowest = max(slowest, time.perf_counter() - before)
    await flood
    during = time.perf_counter() - begun
    await asyncio.sleep(1.0)
    statuses: Counter[int] = Counter()
    for attacker in attackers:
        statuses.update(attacker.statuses)
    sent = each * len(attackers)
    print(f"{sent:,} INVITEs of 127.0.0.9: {statuses[503]:,} answered with 503")
    print(f"{done} of {calls} calls set up in {during:.1f} s, the slowest in {slowest:.2f} s")
    for client in (alice, bob, carol, *attackers):
        client.task.cancel()
        client.writer.close()
    return done


async def serve(users: str, calls: int, each: int) -> int:
    """Start the server, and flood it."""
    words = ["serve", "--port", "0", "--sip-domain", "sip.test", "--sip-users", users]
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wsproto_sip", *words, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        line = (await server.stdout.readline()).decode()
        match = re.search(r":([0-9]+)/", line)
        assert match is not None, line
        return await run(int(match[1]), calls, each)
    finally:
        server.terminate()
        await server.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if all calls were set up."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--calls", type=int, default=100, help="of alice (100)")
    parser.add_argument("--each", type=int, default=101, help="INVITEs of each connection (101)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder, "users")
        users.write_text("".join(f"{name}:{word}\n" for name, word in USERS.items()))
        done = asyncio.run(serve(str(users), options.calls, options.each))
    return int(done != options.calls)


if __name__ == "__main__":
    sys.exit(main())
