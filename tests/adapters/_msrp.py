"""A relay on a real server, and clients for it, on 127.0.0.1.

Theory of operation: :class:`RelayServer` has the same parts as ``wsproto-sip serve`` has for MSRP,
in this process. :class:`Client` is the client half on the websockets library: one task reads, and
one writes the output of the session. :class:`PeerNode` is an MSRP peer over TCP that does not
authenticate.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.msrp import MsrpService
from wsproto_sip.auth import Users
from wsproto_sip.msrp import (
    DigestServer,
    MsrpApplication,
    MsrpEvent,
    MsrpRelay,
    MsrpRelayConfig,
    MsrpSession,
    MsrpSessionState,
    MsrpStreamParser,
    MsrpUri,
)
from wsproto_sip.policy.decision import PolicyChain
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.session.config import SessionConfig

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

    from wsproto_sip.events import Event

HOST = "127.0.0.1"
USERS = {"alice": "a-secret", "carol": "c-secret"}
#: The relay's name; it is never resolved.
RELAY = MsrpUri.parse(b"msrp://relay.example:2855;ws")
CONFIG = MsrpRelayConfig("relay.example", 2855, secure=False)

E = TypeVar("E")


async def until(condition: Callable[[], object]) -> None:
    """Let the loop run until a condition holds."""
    while not condition():  # noqa: ASYNC110  # polled on purpose
        await asyncio.sleep(0)


class RelayServer:
    """Endpoint, relay and service in one.

    Args:
        config: The configuration of the relay.
        users: The users and their passwords.
        realm: The realm of the passwords.
        peers: The addresses of the peers, if they differ from those in their URIs.
        profile: Changes to the profile of MSRP sessions.
        service: Options of the service.
        application: Options of the application.
    """

    def __init__(
        self,
        config: MsrpRelayConfig = CONFIG,
        *,
        users: Users = USERS,
        realm: str = "relay.example",
        peers: Mapping[str, tuple[str, int]] | None = None,
        profile: dict[str, Any] | None = None,
        service: dict[str, Any] | None = None,
        **application: Any,
    ) -> None:
        session = SessionConfig()
        profiles = subprotocol_profiles(session)
        if profile:
            profiles["msrp"] = replace(profiles["msrp"], **profile)
        loop = asyncio.get_running_loop()
        self.endpoint = Endpoint(
            EndpointConfig(
                session=replace(session, profiles=profiles),
                policies=PolicyChain([SubprotocolPolicy(["sip", "msrp"])]),
            ),
            now=loop.time(),
        )
        self.relay = MsrpRelay(config, DigestServer(realm, users))
        options = {"allow_insecure": True, **application}
        self.application = MsrpApplication(self.endpoint, self.relay, **options)
        self.server = EndpointServer(self.endpoint, self._handle)
        self.service = MsrpService(
            self.server, self.application, peers or config.peers, **(service or {})
        )
        self.passed_over: list[Event] = []
        self.url = ""

    def _handle(self, cid: int, event: Event) -> None:
        if not self.service.handle(cid, event):
            self.passed_over.append(event)


@asynccontextmanager
async def serving(*arguments: Any, **options: Any) -> AsyncIterator[RelayServer]:
    """Run a relay on a free port."""
    relay = RelayServer(*arguments, **options)
    ((host, port),) = await relay.server.listen(HOST, 0)
    relay.url = f"ws://{host}:{port}/"
    try:
        yield relay
    finally:
        await relay.service.close()
        await relay.server.close()


class Talker:
    """A session whose bytes a subclass moves.

    Args:
        session: The session.
    """

    def __init__(self, session: MsrpSession) -> None:
        self.session = session
        self.events: list[MsrpEvent] = []
        self._news = asyncio.Condition()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        #: Whether input is read.
        self.reads = asyncio.Event()
        self.reads.set()
        self._ended = asyncio.Event()

    async def until_ended(self) -> None:
        """Wait for the end of the connection."""
        await self._ended.wait()

    def start(self, *coroutines: Any) -> None:
        self._tasks += [asyncio.ensure_future(coroutine) for coroutine in coroutines]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def receive(self, data: bytes) -> None:
        """Process a chunk."""
        await self.happened(self.session.receive(data, self.now()))

    async def happened(self, events: list[MsrpEvent]) -> None:
        if events:
            self.events += events
            async with self._news:
                self._news.notify_all()
        self._wake.set()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def wake(self) -> None:
        """Make the writer look for output of the session."""
        self._wake.set()

    def send(self, body: bytes, *arguments: Any, **options: Any) -> bytes:
        message_id = self.session.send(body, *arguments, **options)
        self.wake()
        return message_id

    async def output(self) -> list[bytes]:
        """Wait for the next chunks to write."""
        while not (chunks := self.session.data_to_send(self.now())):
            self._wake.clear()
            await self._wake.wait()
        return chunks

    async def until(self, kind: type[E], wanted: Callable[[E], bool] = lambda event: True) -> E:
        """Wait for the first matching event of a kind."""

        def found() -> E | None:
            for event in self.events:
                if isinstance(event, kind) and wanted(event):
                    return event
            return None

        async with self._news:
            await self._news.wait_for(lambda: found() is not None)
        event = found()
        assert event is not None
        return event


class Client(Talker):
    """A client over WebSocket."""

    websocket: ClientConnection

    async def _read(self) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                await self.reads.wait()
                message = await self.websocket.recv()
                await self.receive(message.encode() if isinstance(message, str) else message)
        self._ended.set()
        await self.happened(self.session.connection_closed())

    async def _write(self) -> None:
        with suppress(websockets.ConnectionClosed):
            while True:
                for chunk in await self.output():
                    await self.websocket.send(chunk, text=False)


@asynccontextmanager
async def client(
    url: str,
    user: str,
    password: str | None = None,
    *,
    relay: MsrpUri = RELAY,
    authenticate: bool = True,
    tls: ssl.SSLContext | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Run a client that has sent its AUTH."""
    talker = Client(MsrpSession(relay, user, password or USERS[user], **options))
    msrp = Subprotocol("msrp")
    async with connect(url, subprotocols=[msrp], ssl=tls, proxy=None, max_queue=1) as websocket:
        talker.websocket = websocket
        talker.start(talker._read(), talker._write())
        if authenticate:
            talker.session.authenticate(talker.now())
            talker.wake()
        try:
            yield talker
        finally:
            talker.reads.set()
            await talker.stop()


class PeerNode(Talker):
    """A peer over TCP.

    Args:
        host: The host in its URI.
        port: The port in its URI.
    """

    def __init__(self, host: str, port: int, **options: Any) -> None:
        session = MsrpSession(RELAY, "-", "-", **options)
        # It is reached directly and needs no relay of its own.
        session.local = MsrpUri.build(host, port, "bobs-session")
        session.state = MsrpSessionState.READY
        super().__init__(session)
        self.parser = MsrpStreamParser()
        self._writers: list[asyncio.StreamWriter] = []

    def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Use a connection from now on."""
        self.reader, self.writer = reader, writer
        self._writers.append(writer)
        self.start(self._read(), self._write())

    async def stop(self) -> None:
        await super().stop()
        for writer in self._writers:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _read(self) -> None:
        with suppress(ConnectionError):
            while data := await self.reader.read(65536):
                for chunk in self.parser.receive(data):
                    await self.receive(chunk)
                await self.reads.wait()
        self._ended.set()

    async def _write(self) -> None:
        with suppress(ConnectionError):
            while True:
                self.writer.write(b"".join(await self.output()))
                await self.writer.drain()
