"""A SIP edge on a real server, and telephones for it, on 127.0.0.1.

Theory of operation: :class:`EdgeServer` has the same parts as ``wsproto-sip serve`` has for SIP, in
this process. :class:`SocketPhone` is a telephone on the websockets library: one task reads, one
writes, and a test waits for what it receives.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.sip._phones import SDP, Dialog, Speaker
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.sip import SipService
from wsproto_sip.policy.decision import PolicyChain
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.sip import SipRequest, SipResponse, parse_message
from wsproto_sip.sip.edge.application import EdgeApplication
from wsproto_sip.sip.edge.config import EdgeConfig, Upstream
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.message.stream import SipStreamParser
from wsproto_sip.sip.registrar.domains import Domains

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from wsproto_sip.events import Event

HOST = "127.0.0.1"
CONFIG = EdgeConfig("edge.test", Domains(("sip.test",)), 8080)

_numbers = count(1)


def free_port() -> int:
    """Return a port of 127.0.0.1 that is free for TCP and UDP."""
    while True:
        with (
            socket.socket() as stream,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        ):
            stream.bind((HOST, 0))
            port: int = stream.getsockname()[1]
            with suppress(OSError):
                datagrams.bind((HOST, port))
                return port


class EdgeServer:
    """Endpoint, edge and service in one.

    Args:
        config: The configuration of the edge.
        service: Options of the service.
        edge: Options of the edge.
    """

    def __init__(
        self, config: EdgeConfig = CONFIG, *, service: dict[str, Any] | None = None, **edge: Any
    ) -> None:
        session = SessionConfig()
        loop = asyncio.get_running_loop()
        self.endpoint = Endpoint(
            EndpointConfig(
                session=SessionConfig(profiles=subprotocol_profiles(session)),
                policies=PolicyChain([SubprotocolPolicy(["sip", "msrp"])]),
            ),
            now=loop.time(),
        )
        self.edge = SipEdge(config, **edge)
        self.application = EdgeApplication(self.endpoint, self.edge)
        self.server = EndpointServer(self.endpoint, self._handle)
        self.service = SipService(self.server, self.application, **(service or {}))
        self.passed_over: list[Event] = []
        self.url = ""

    def _handle(self, cid: int, event: Event) -> None:
        if not self.service.handle(cid, event):
            self.passed_over.append(event)


@asynccontextmanager
async def serving(
    *arguments: Any, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[EdgeServer]:
    """Run an edge on a free port."""
    before = asyncio.all_tasks()
    running = EdgeServer(*arguments, **options)
    try:
        await running.service.open()
        ((host, port),) = await running.server.listen(HOST, 0, tls=tls)
        running.url = f"{'ws' if tls is None else 'wss'}://{host}:{port}/"
        yield running
    finally:
        await running.service.close()
        await running.server.close()
    for _ in range(10):
        # Turns of the loop in which other parts of the test can end.
        await asyncio.sleep(0)
    assert asyncio.all_tasks() <= before | {asyncio.current_task()}


class Core:
    """A registrar and proxy with one user, who calls back each caller."""

    def __init__(self, transport: str) -> None:
        self.port = free_port()
        self.upstream = Upstream("core", HOST, self.port, HOST, free_port(), transport)
        self.config = replace(CONFIG, upstreams=(self.upstream,))
        self.requests: list[SipRequest] = []
        self.responses: list[SipResponse] = []
        self.path = ""

    def answer(self, data: bytes, send: Callable[[bytes], None]) -> None:
        message = parse_message(data)
        if isinstance(message, SipResponse):
            self.responses.append(message)
            return
        self.requests.append(message)
        if message.method == "REGISTER":
            self.path = str(message.paths[0])
            send(message.make_response(200, headers=[("Contact", "<sip:x>")]).to_bytes())
        elif message.method != "ACK":
            send(message.make_response(200).to_bytes())

    def request(self, phone: SocketPhone, transport: str, *, body: bytes = b"") -> bytes:
        fields = [
            ("Via", f"SIP/2.0/{transport} {HOST}:{self.port};rport;branch=z9hG4bKcore"),
            ("Route", self.path),
            ("From", "<sip:core@sip.test>;tag=1"),
            ("To", f"<{phone.aor}>"),
            ("Call-ID", "core"),
            ("CSeq", "1 MESSAGE"),
        ]
        return SipRequest("MESSAGE", phone.contact, fields, body).to_bytes()

    @asynccontextmanager
    async def datagrams(self) -> AsyncIterator[Callable[[bytes], None]]:
        """Serve UDP; the yielded function sends a message to the edge."""
        core, there = self, (self.upstream.local_host, self.upstream.local_port)

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                assert addr == there
                core.answer(data, send)

        def send(data: bytes) -> None:
            transport.sendto(data, there)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Protocol, (HOST, self.port))
        try:
            yield send
        finally:
            transport.close()

    async def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use a connection."""
        stream = SipStreamParser()
        while data := await reader.read(65536):
            for item in stream.receive(data):
                assert isinstance(item, SipRequest | SipResponse)
                self.answer(item.to_bytes(), writer.write)
        writer.close()


class SocketPhone(Speaker):
    """A browser on a WebSocket."""

    def __init__(
        self, websocket: ClientConnection, user: str, *, number: int | None = None, **options: Any
    ) -> None:
        super().__init__(user, next(_numbers) if number is None else number, **options)
        self._websocket = websocket
        #: Messages that went each way.
        self.sent = self.received = 0
        self._heard: asyncio.Queue[SipRequest | SipResponse | str] = asyncio.Queue()
        self._accepted: set[str | bytes] = set()
        self._said: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._tasks = [
            asyncio.ensure_future(self._read()),
            asyncio.ensure_future(self._write()),
        ]

    async def ended(self) -> int | None:
        """Wait until the connection has ended; return the code."""
        await self._websocket.wait_closed()
        return self._websocket.close_code

    async def _read(self) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                data = await self._websocket.recv()
                self.received += 1
                if isinstance(data, str) and not data.strip("\r\n"):
                    self._heard.put_nowait(data)
                    continue
                message = parse_message(data)
                if (
                    isinstance(message, SipResponse)
                    and message.cseq.method == "INVITE"
                    and 200 <= message.status < 300
                ):
                    # Over UDP, it comes again until the ACK has arrived, through all proxies.
                    if data in self._accepted:
                        continue
                    self._accepted.add(data)
                self._heard.put_nowait(message)

    async def _write(self) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                await self._websocket.send(await self._said.get())
                self.sent += 1

    async def stop(self) -> None:
        """Stop reading and writing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def hang_up(self) -> None:
        """Close the connection."""
        await self._websocket.close()

    def say(self, data: str | bytes | SipRequest | SipResponse) -> None:
        """Send a message."""
        if isinstance(data, SipRequest | SipResponse):
            data = data.to_websocket()
        self._said.put_nowait(data)

    async def message(self) -> SipRequest | SipResponse:
        """Return the next SIP message."""
        message = await self._heard.get()
        assert not isinstance(message, str), message
        return message

    async def text(self) -> str:
        """Return the next received text that is not a SIP message."""
        message = await self._heard.get()
        assert isinstance(message, str), message
        return message

    async def request(self, method: str) -> SipRequest:
        """Return the next received message, which must be a request with that method."""
        message = await self._heard.get()
        assert isinstance(message, SipRequest), message
        assert message.method == method, message
        return message

    async def response(self, status: int | None = None) -> SipResponse:
        """Return the next received response with that status; skip 100 unless it is expected."""
        while True:
            message = await self._heard.get()
            assert isinstance(message, SipResponse), message
            if message.status != 100 or status == 100:
                assert status is None or message.status == status, message
                return message

    async def ask(
        self, method: str, uri: str, *fields: tuple[str, str], **options: Any
    ) -> SipResponse:
        """Send a request and wait for its response, authenticating if challenged."""
        self.send(method, uri, *fields, **options)
        response = await self.response()
        if response.status in (401, 407) and self.password is not None:
            proof = self.credentials(response, method, uri)
            self.send(method, uri, proof, *fields, **(options | {"cseq": 2}))
            response = await self.response()
        return response

    async def register(self, *fields: tuple[str, str], expires: int = 300) -> SipResponse:
        """Register, or unregister."""
        return await self.ask(
            "REGISTER",
            f"sip:{self.domain}",
            *self.registration(*fields, expires=expires),
            to=f"<{self.aor}>",
        )


@asynccontextmanager
async def phone(
    url: str,
    user: str,
    *,
    tls: ssl.SSLContext | None = None,
    registers: bool = True,
    **options: Any,
) -> AsyncIterator[SocketPhone]:
    """Run a telephone, registered by default."""
    transport = url.partition(":")[0]
    subprotocols = [Subprotocol("sip")]
    async with connect(url, subprotocols=subprotocols, ssl=tls, proxy=None) as websocket:
        made = SocketPhone(websocket, user, transport=transport, **options)
        try:
            if registers:
                answer = await made.register()
                assert answer.status == 200, answer
            yield made
        finally:
            await made.stop()


async def call(
    caller: SocketPhone, callee: SocketPhone, *, body: bytes = SDP
) -> tuple[Dialog[SocketPhone], Dialog[SocketPhone]]:
    """Set up a call, and return both sides."""
    invite = caller.send("INVITE", callee.aor, ("Content-Type", "application/sdp"), body=body)
    incoming = await callee.request("INVITE")
    assert incoming.body == body
    callee.answer(incoming, 180)
    accepted = callee.answer(incoming, 200, ("Content-Type", "application/sdp"), body=body)
    assert (await caller.response(180)).to.tag == f"t{callee.cid}"
    ok = await caller.response(200)
    assert ok.body == body
    here = Dialog(caller, invite, ok, caller=True)
    there = Dialog(callee, incoming, accepted, caller=False)
    here.send("ACK")
    await callee.request("ACK")
    return here, there
