"""The links between an edge and its upstream, on sockets of this machine."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers._support import run
from wsproto_sip.adapters import sip_upstream
from wsproto_sip.adapters.sip_upstream import UpstreamLinks
from wsproto_sip.sip.edge_config import DATAGRAMS, STREAM, Upstream

from ._msrp import until
from ._sip import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wsproto_sip.sip.transport import Source

#: Pauses that nobody notices, and that nobody sees the end of.
SHORT, LONG = (0.001, 0.001), (1000.0, 1000.0)


class Owner:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.received: list[tuple[int, bytes]] = []
        self.sources: list[Source] = []
        self.lost: list[int] = []
        self.failed = 0

    def link_received(self, link: int, data: bytes, source: Source) -> None:
        self.received.append((link, data))
        self.sources.append(source)

    def link_lost(self, link: int) -> None:
        self.lost.append(link)

    def link_failed(self) -> None:
        self.failed += 1


class Core:
    """An upstream."""

    def __init__(self) -> None:
        self.port = free_port()
        self.streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.streams.append((reader, writer))

        async with await asyncio.start_server(taken, HOST, self.port):
            try:
                yield
            finally:
                for _, writer in self.streams:
                    writer.close()

    async def stream(self, count: int = 1) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The so-manieth connection."""
        await until(lambda: len(self.streams) >= count)
        return self.streams[count - 1]


@asynccontextmanager
async def linked(
    transport: str,
    port: int,
    *,
    host: str = HOST,
    limit: int | None = 1300,
    local_host: str = HOST,
    **options: Any,
) -> AsyncIterator[tuple[UpstreamLinks, Owner]]:
    owner = Owner()
    upstream = Upstream("core", host, port, local_host, free_port(), transport, limit)
    links = UpstreamLinks(owner, upstream, **({"pauses": LONG} | options))
    before = asyncio.all_tasks()
    await links.open()
    try:
        yield links, owner
    finally:
        await links.close()
    assert asyncio.all_tasks() <= before


def own_port(links: UpstreamLinks) -> int:
    return links.upstream.local_port


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether nothing more comes, however that is told."""
    try:
        return not await reader.read(1)
    except ConnectionError:
        return True


# -- datagrams -------------------------------------------------------------------------------------


def udp_socket(port: int = 0) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind((HOST, port))
    opened.setblocking(False)
    return opened


@pytest.mark.parametrize("host", [HOST, "localhost"])
def test_datagrams_both_ways(host: str) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as core:
            port = core.getsockname()[1]
            async with linked("udp", port, host=host) as (links, owner):
                links.send(b"there", DATAGRAMS)
                data, address = await loop.sock_recvfrom(core, 100)
                assert (data, address) == (b"there", (HOST, own_port(links)))
                await loop.sock_sendto(core, b"back", address)
                await until(lambda: owner.received)
                assert owner.received == [(DATAGRAMS, b"back")]
                source = owner.sources[0]
                assert (source.host, source.port, source.transport) == (HOST, port, "udp")

    run(scenario())


def test_datagrams_of_others_are_dropped() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as core, udp_socket() as other:
            async with linked("udp", core.getsockname()[1]) as (links, owner):
                there = (HOST, own_port(links))
                await loop.sock_sendto(other, b"from elsewhere", there)
                await loop.sock_sendto(core, b"from the upstream", there)
                await until(lambda: owner.received)
                assert owner.received == [(DATAGRAMS, b"from the upstream")]

    run(scenario())


def test_a_name_is_looked_up_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What was known stays where the answer fails; what is new is used at once."""
    monkeypatch.setattr(sip_upstream, "_LOOK_UP", 0.0)
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as core, udp_socket() as other:
            async with linked("udp", core.getsockname()[1], host="localhost") as (links, _):
                links._host = "host.invalid"
                await until(lambda: "upstream core: " in caplog.text)
                links.send(b"one", DATAGRAMS)
                assert (await loop.sock_recv(core, 100)) == b"one"
                links.upstream = Upstream("core", HOST, other.getsockname()[1], HOST, 1)
                links._host = "localhost"
                await until(lambda: links._known == [(HOST, other.getsockname()[1])])
                links.send(b"two", DATAGRAMS)
                assert (await loop.sock_recv(other, 100)) == b"two"

    run(scenario())


# -- the connection to the upstream ----------------------------------------------------------------


def test_over_tcp_the_connection_is_there_from_the_beginning() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port) as (links, owner):
            reader, writer = await core.stream()
            await until(lambda: links._streams)
            links.send(b"there", STREAM)
            assert await reader.readexactly(5) == b"there"
            writer.write(b"back")
            await until(lambda: owner.received)
            assert owner.received == [(STREAM, b"back")]
            assert owner.sources[0].transport == "tcp"
            # There is no socket for datagrams.
            links.send(b"lost", DATAGRAMS)

    run(scenario())


def test_over_udp_the_connection_is_there_when_it_is_wanted() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("udp", core.port) as (links, owner):
            for data in (b"one", b"two"):
                links.send(data, STREAM)
            assert links._connecting is not None
            reader, _ = await core.stream()
            assert await reader.readexactly(6) == b"onetwo"
            assert len(core.streams) == 1
            # It is closed when it was used, and opened when it is wanted again.
            core.streams[0][1].close()
            await until(lambda: owner.lost)
            assert owner.lost == [STREAM]
            links.send(b"three", STREAM)
            reader, _ = await core.stream(2)
            assert await reader.readexactly(5) == b"three"

    run(scenario())


def test_the_connection_is_opened_again_by_itself() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, pauses=SHORT) as (links, owner):
            for number in range(1, 4):
                _, writer = await core.stream(number)
                await until(lambda: STREAM in links._streams)
                writer.close()
                await until(lambda: len(owner.lost) == len(core.streams))
            await core.stream(4)
            assert owner.failed == 0

    run(scenario())


def test_a_connection_that_ended_is_opened_at_once_when_it_is_wanted() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port) as (links, owner):
            _, writer = await core.stream()
            await until(lambda: STREAM in links._streams)
            writer.transport.abort()
            await until(lambda: owner.lost)
            assert links._resume is not None
            links.send(b"there", STREAM)
            reader, _ = await core.stream(2)
            assert await reader.readexactly(5) == b"there"

    run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_nobody_is_there(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with linked(transport, core.port) as (links, owner):
            links.send(b"lost", STREAM)
            await until(lambda: owner.failed)
            assert not links._waiting
            # In the pause it is not tried again.
            links.send(b"lost too", STREAM)
            assert links._connecting is None
            await until(lambda: owner.failed == 2)

    run(scenario())
    assert "upstream core: " in caplog.text


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_it_is_tried_again(transport: str) -> None:
    async def scenario() -> None:
        core = Core()
        async with linked(transport, core.port, pauses=SHORT) as (links, owner):
            links.send(b"lost", STREAM)
            await until(lambda: owner.failed)
            async with core.listening():
                await until(lambda: links._resume is None)
                links.send(b"", STREAM)
                await core.stream()
                await until(lambda: STREAM in links._streams)
                links.send(b"there", STREAM)
                reader, _ = core.streams[-1]
                assert await reader.readexactly(5) == b"there"
                assert links._failures == 0

    run(scenario())


def test_pauses_grow_to_a_bound() -> None:
    async def scenario() -> None:
        async with linked("udp", 9, pauses=(1.0, 6.0)) as (links, _):
            loop = asyncio.get_running_loop()
            for failures, longest in ((0, 1), (1, 2), (2, 4), (3, 6), (4, 6), (10**6, 6)):
                links._failures = failures
                links._pause()
                assert links._resume is not None
                pause = links._resume.when() - loop.time()
                assert longest / 2 - 0.5 <= pause <= longest
                links._resume.cancel()

    run(scenario())


def test_an_upstream_that_does_not_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, connect_timeout=0.0) as (_, owner):
            await until(lambda: owner.failed)

    run(scenario())
    assert "upstream core: no answer" in caplog.text


def test_what_waits_for_a_connection_is_bounded() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("udp", core.port, max_waiting=10) as (links, owner):
            for _ in range(3):
                links.send(b"four", STREAM)
            assert links._waiting == [b"four"] * 2
            await until(lambda: owner.failed)
            assert not links._waiting

    run(scenario())


def test_an_upstream_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with (
            core.listening(),
            linked("tcp", core.port, max_waiting=100_000) as (links, owner),
        ):
            reader, _ = await core.stream()
            await until(lambda: STREAM in links._streams)
            stream = links._streams[STREAM]
            while STREAM in links._streams:
                links.send(bytes(65536), STREAM)
            # A transport that is given up takes nothing more.
            stream.write(b"lost")
            await until(lambda: owner.failed)
            assert owner.lost == [STREAM]
            del reader

    run(scenario())
    assert "upstream core does not read" in caplog.text


def test_a_connection_that_is_out_of_step_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, pauses=SHORT) as (links, owner):
            reader, writer = await core.stream()
            await until(lambda: STREAM in links._streams)
            first = links._streams[STREAM]
            links.send(b"why", STREAM)
            links.reset(STREAM, "out of step")
            assert await reader.read() == b"why"
            # What still comes on it is nobody's.
            first.buffer_updated(1)
            writer.close()
            links.reset(99, "gone already")
            await core.stream(2)
            assert owner.lost == [STREAM]
            assert not owner.received

    run(scenario())
    assert "out of step" in caplog.text


def test_a_transport_that_does_not_go_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sip_upstream, "_LINGER", 0.0)

    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, max_waiting=10**8) as (links, _):
            await core.stream()
            await until(lambda: STREAM in links._streams)
            stream = links._streams[STREAM]
            # More than the sockets take.
            links.send(bytes(20 * 1024 * 1024), STREAM)
            links.reset(STREAM, "enough")
            await until(lambda: stream not in links._transports)

    run(scenario())


# -- connections of the upstream -------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_upstream_connects(transport: str) -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked(transport, core.port) as (links, owner):
            there = (HOST, own_port(links))
            (one, to_one), (two, to_two) = [await asyncio.open_connection(*there) for _ in "ab"]
            await until(lambda: {2, 3} <= set(links._streams))
            for number, writer in enumerate((to_one, to_two), 2):
                writer.write(b"%d" % number)
            await until(lambda: len(owner.received) == 2)
            assert sorted(owner.received) == [(2, b"2"), (3, b"3")]
            for link, reader in ((3, two), (2, one)):
                links.send(b"answer %d" % link, link)
                assert await reader.readexactly(8) == b"answer %d" % link
            to_one.close()
            await until(lambda: owner.lost)
            assert owner.lost == [2]
            # What is to be sent on it goes the other way.
            links.send(b"late", 2)
            reader, _ = await core.stream()
            assert await reader.readexactly(4) == b"late"
            links.reset(3, "enough")
            assert await two.read() == b""
            to_two.close()

    run(scenario())


def test_who_is_not_the_upstream_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        # Documentation's address: nobody here has it.
        async with linked("udp", 5060, host="192.0.2.1") as (links, owner):
            reader, writer = await asyncio.open_connection(HOST, own_port(links))
            assert await ended(reader)
            writer.close()
            assert not owner.lost

    run(scenario())
    assert "127.0.0.1 is not upstream core" in caplog.text


def test_the_upstream_s_connections_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        async with linked("udp", 9, max_connections=1) as (links, owner):
            there = (HOST, own_port(links))
            _, first = await asyncio.open_connection(*there)
            first.write(b"one")
            await until(lambda: owner.received)
            reader, second = await asyncio.open_connection(*there)
            assert await ended(reader)
            first.write(b"two")
            await until(lambda: owner.received[-1] == (2, b"two"))
            first.close()
            second.close()

    run(scenario())
    assert "too many connections" in caplog.text


def test_a_connection_that_is_reset_before_it_is_accepted() -> None:
    async def scenario() -> None:
        async with linked("udp", 9) as (links, owner):

            class Gone:
                def __getattr__(self, name: str) -> Any:
                    return lambda *arguments: self if arguments == ("socket",) else None

            stream = sip_upstream._Stream(links)
            stream.connection_made(Gone())  # type: ignore[arg-type]
            stream.buffer_updated(5)
            stream.connection_lost(None)
            assert not owner.received
            assert not owner.lost

    run(scenario())


# -- beginning and end -----------------------------------------------------------------------------


def test_without_large_requests_there_is_no_listener() -> None:
    async def scenario() -> None:
        async with linked("udp", 9, limit=None) as (links, _):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, own_port(links))

    run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_an_address_that_is_in_use(transport: str) -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            bind = taken.getsockname()[:2]
            with pytest.raises(OSError, match="in use"):
                async with linked(transport, 9, bind=bind):
                    pass

    run(scenario())


def test_a_name_that_nobody_knows() -> None:
    async def scenario() -> None:
        with pytest.raises(OSError, match=r".+"):
            async with linked("udp", 9, host="host.invalid"):
                pass

    run(scenario())


def test_by_which_address_it_is_reached() -> None:
    """What stands in messages need be no address of this machine."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as core:
            port, bind = core.getsockname()[1], (HOST, free_port())
            async with linked("udp", port, local_host="192.0.2.1", bind=bind) as (links, _):
                links.send(b"there", DATAGRAMS)
                assert await loop.sock_recvfrom(core, 100) == (b"there", bind)

    run(scenario())


def test_closed_is_closed() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening():
            async with linked("tcp", core.port) as (links, owner):
                await core.stream()
                await until(lambda: links._streams)
                _, writer = await asyncio.open_connection(HOST, own_port(links))
                writer.write(b"x")
                await until(lambda: owner.received)
            for link in (DATAGRAMS, STREAM, 2):
                links.send(b"lost", link)
            links._fail()
            assert not owner.lost
            assert not owner.failed
            writer.close()
            async with linked("tcp", core.port) as (links, _):
                # While it is being connected.
                pass

    run(scenario())
