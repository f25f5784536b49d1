"""The recording of a run against another relay, replayed against ours over sockets.

Theory of operation: the entries are processed in order. What a client sent is sent again, with the
sessions, nonces and transaction ids of our relay in place of the recorded ones; what it received
must then arrive, with the same content.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.msrp.recording import Entry, read_recording
from tests.peers._support import run
from wsproto_sip.auth import Challenge, Credentials, answer_challenge
from wsproto_sip.msrp import (
    MsrpChunk,
    MsrpRelayConfig,
    MsrpRequest,
    MsrpResponse,
    MsrpStreamParser,
    parse_chunk,
)

from .._msrp import HOST, serving

#: The recorded addresses of the relay and its peer; the peer keeps its name at another address.
CONFIG = MsrpRelayConfig("127.0.0.1", 28591, secure=False, peers={"bob": ("127.0.0.1", 28599)})
USERS = {name: f"{name}-secret" for name in ("alice", "carol", "dave", "eve")}


class Replay:
    """The clients, and the mapping of recorded ids."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self._clients: dict[str, ClientConnection] = {}
        self.bob: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._bob: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._from_bob = MsrpStreamParser()
        self._queue: list[bytes] = []
        #: Sessions of theirs and of ours.
        self._sessions: dict[bytes, bytes] = {}
        #: Our transaction ids by receiver and recorded id.
        self._tids: dict[tuple[str, bytes], bytes] = {}
        self._challenges: dict[str, Challenge] = {}

    async def _client(self, name: str) -> ClientConnection:
        if name not in self._clients:
            self._clients[name] = await self._stack.enter_async_context(
                connect(self._url, subprotocols=[Subprotocol("msrp")], proxy=None)
            )
        return self._clients[name]

    async def _peer(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._bob is None:
            self._bob = await self.bob.get()
            self._stack.callback(self._bob[1].close)
        return self._bob

    async def send(self, entry: Entry) -> None:
        chunk = self._ours(entry)
        if isinstance(chunk, MsrpResponse):
            chunk.transaction_id = self._tids[entry.who, chunk.transaction_id]
        authorization = chunk.header(b"authorization")
        if authorization is not None and entry.who in self._challenges:
            uri = chunk.to_path[-1]
            challenge, password = self._challenges[entry.who], USERS[entry.who]
            fresh = answer_challenge(challenge, entry.who, password, "AUTH", str(uri))
            recorded = Credentials.parse(authorization.decode())
            assert recorded is not None
            assert recorded.username == entry.who
            chunk.headers = [
                (name, str(fresh).encode() if name == b"Authorization" else value)
                for name, value in chunk.headers
            ]
        if entry.who == "bob":
            (await self._peer())[1].write(chunk.to_bytes())
        else:
            client = await self._client(entry.who)
            await client.send(chunk.to_bytes(), text=entry.kind == "text")

    def _ours(self, entry: Entry) -> MsrpChunk:
        data = entry.data
        for theirs, ours in self._sessions.items():
            data = data.replace(theirs, ours)
        return parse_chunk(data)

    async def _next(self, who: str) -> bytes:
        if who != "bob":
            message = await (await self._client(who)).recv()
            # Text or binary may differ from the recorded relay; texts are UTF-8 in any case.
            return message.encode() if isinstance(message, str) else message
        while not self._queue:
            self._queue += self._from_bob.receive(await (await self._peer())[0].read(65536))
        return self._queue.pop(0)

    async def expect(self, entry: Entry) -> None:
        theirs, ours = self._ours(entry), parse_chunk(await self._next(entry.who))
        if isinstance(theirs, MsrpRequest):
            # Our relay's requests have ids of their own.
            self._tids[entry.who, theirs.transaction_id] = ours.transaction_id
            theirs.transaction_id = ours.transaction_id
            assert ours == theirs
            return
        assert isinstance(ours, MsrpResponse)
        if theirs.code == 401:
            challenge = Challenge.parse((ours.header(b"www-authenticate") or b"").decode())
            assert challenge is not None
            self._challenges[entry.who] = challenge
        session = theirs.header(b"use-path")
        if session is not None:
            self._sessions[session] = ours.header(b"use-path") or b""
        for name in (b"expires", b"min-expires"):
            assert ours.header(name) == theirs.header(name)
        # The texts of status codes differ, and theirs repeat the Message-ID.
        assert replace(ours, headers=[], comment=b"") == replace(theirs, headers=[], comment=b"")


def test_recording_is_reproduced_over_sockets() -> None:
    async def scenario() -> None:
        checked = 0
        async with AsyncExitStack() as stack:
            bobs: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
            listener = await stack.enter_async_context(
                await asyncio.start_server(lambda *streams: bobs.put_nowait(streams), HOST, 0)
            )
            port = listener.sockets[0].getsockname()[1]
            relay = await stack.enter_async_context(
                serving(CONFIG, users=USERS, realm="sip.test", peers={"bob": (HOST, port)})
            )
            replay = Replay(relay.url, stack)
            replay.bob = bobs
            for entry in read_recording():
                # One client broke the grammar and was disconnected; here it would get an error.
                if entry.who != "mal":
                    await (replay.send if entry.to_server else replay.expect)(entry)
                    checked += not entry.to_server
            assert relay.relay.sessions == 2
        assert checked == 35

    run(scenario())
