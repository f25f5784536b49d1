"""The links between an edge and its upstream, on sockets of this machine."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.peers._support import run
from wsproto_sip.adapters.asyncio import sip_upstream
from wsproto_sip.adapters.asyncio.sip_upstream import UpstreamLinks
from wsproto_sip.sip.edge.config import DATAGRAMS, STREAM, Upstream

from .._msrp import until
from .._sip import HOST, free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wsproto_sip.sip.message.transport import Source

#: Pauses that are negligible, and pauses that never end in a test.
SHORT, LONG = (0.001, 0.001), (1000.0, 1000.0)


class Owner:
    """Records the events of links."""

    def __init__(self) -> None:
        self.received: list[tuple[int, bytes]] = []
        self.sources: list[Source] = []
        self.lost: list[int] = []
        #: The upstreams that sent something, were connected to, and cannot be reached.
        self.names: list[str] = []
        self.opened: list[str] = []
        self.failures: list[tuple[str, str]] = []
        self.failed = self.refused = 0

    def link_received(self, upstream: str, link: int, data: bytes, source: Source) -> None:
        self.names.append(upstream)
        self.received.append((link, data))
        self.sources.append(source)

    def link_opened(self, upstream: str) -> None:
        self.opened.append(upstream)

    def link_lost(self, upstream: str, link: int) -> None:
        self.lost.append(link)

    def link_failed(self, upstream: str, link: int, reason: str) -> None:
        self.failures.append((upstream, reason))
        self.failed += link == STREAM
        self.refused += link == DATAGRAMS


class Linked:
    """The links of one upstream."""

    def __init__(self, links: UpstreamLinks, name: str = "core") -> None:
        self.links = links
        self.name = name

    @property
    def server(self) -> sip_upstream._Server:
        return self.links._servers[self.name]

    @property
    def side(self) -> sip_upstream._Side:
        return self.server.side

    def send(self, data: bytes, link: int) -> None:
        self.links.send(self.name, data, link)

    def reset(self, link: int, reason: str) -> None:
        self.links.reset(self.name, link, reason)


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
        """Return the n-th connection."""
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
    bind: tuple[str, int] | None = None,
    **options: Any,
) -> AsyncIterator[tuple[Linked, Owner]]:
    owner = Owner()
    upstream = Upstream("core", host, port, local_host, free_port(), transport, limit)
    if bind is not None:
        options["bind"] = {upstream.local: bind}
    links = UpstreamLinks(owner, [upstream], **({"pauses": LONG} | options))
    before = asyncio.all_tasks()
    await links.open()
    try:
        yield Linked(links), owner
    finally:
        await links.close()
    assert asyncio.all_tasks() <= before


def own_port(links: Linked) -> int:
    return links.server.upstream.local_port


async def ended(reader: asyncio.StreamReader) -> bool:
    """Return whether nothing more arrives, however the end is reported."""
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


def test_datagrams_from_other_sources_are_dropped() -> None:
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


def test_name_is_resolved_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Known addresses stay if the answer fails; new ones are used at once."""
    monkeypatch.setattr(sip_upstream, "_LOOK_UP", 0.0)
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as core, udp_socket() as other:
            async with linked("udp", core.getsockname()[1], host="localhost") as (links, _):
                links.server._host = "host.invalid"
                await until(lambda: "link-not-found upstream=core" in caplog.text)
                links.send(b"one", DATAGRAMS)
                assert (await loop.sock_recv(core, 100)) == b"one"
                links.server.upstream = Upstream("core", HOST, other.getsockname()[1], HOST, 1)
                links.server._host = "localhost"
                await until(lambda: links.server.known == [(HOST, other.getsockname()[1])])
                links.send(b"two", DATAGRAMS)
                assert (await loop.sock_recv(other, 100)) == b"two"

    run(scenario())


# -- the connection to the upstream ----------------------------------------------------------------


def test_tcp_connection_is_opened_at_start() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port) as (links, owner):
            reader, writer = await core.stream()
            await until(lambda: links.server._streams)
            links.send(b"there", STREAM)
            assert await reader.readexactly(5) == b"there"
            writer.write(b"back")
            await until(lambda: owner.received)
            assert owner.received == [(STREAM, b"back")]
            assert owner.sources[0].transport == "tcp"
            # It has no socket for datagrams.
            links.send(b"lost", DATAGRAMS)

    run(scenario())


def test_udp_upstream_gets_a_connection_on_demand() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("udp", core.port) as (links, owner):
            for data in (b"one", b"two"):
                links.send(data, STREAM)
            assert links.server._connecting is not None
            reader, _ = await core.stream()
            assert await reader.readexactly(6) == b"onetwo"
            assert len(core.streams) == 1
            # It is closed after use, and opened again on demand.
            core.streams[0][1].close()
            await until(lambda: owner.lost)
            assert owner.lost == [STREAM]
            links.send(b"three", STREAM)
            reader, _ = await core.stream(2)
            assert await reader.readexactly(5) == b"three"

    run(scenario())


def test_lost_connection_is_reopened() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, pauses=SHORT) as (links, owner):
            for number in range(1, 4):
                _, writer = await core.stream(number)
                await until(lambda: STREAM in links.server._streams)
                writer.close()
                await until(lambda: len(owner.lost) == len(core.streams))
            await core.stream(4)
            assert owner.failed == 0

    run(scenario())


def test_ended_connection_is_reopened_at_once_on_demand() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port) as (links, owner):
            _, writer = await core.stream()
            await until(lambda: STREAM in links.server._streams)
            writer.transport.abort()
            await until(lambda: owner.lost)
            assert links.server._resume is not None
            links.send(b"there", STREAM)
            reader, _ = await core.stream(2)
            assert await reader.readexactly(5) == b"there"

    run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_refused_connection_is_reported(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with linked(transport, core.port) as (links, owner):
            links.send(b"lost", STREAM)
            await until(lambda: owner.failed)
            assert not links.server._waiting
            # No attempt is made during the pause.
            links.send(b"lost too", STREAM)
            assert links.server._connecting is None
            await until(lambda: owner.failed == 2)

    run(scenario())
    problems = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert len(problems) == 1
    assert problems[0].startswith("link-down upstream=core reason=")


@pytest.mark.skipif(sys.platform != "linux", reason="others tell nothing of it")
@pytest.mark.parametrize("host", [HOST, "[::1]"])
def test_icmp_errors_are_reported(host: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        address = host.strip("[]")
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(kind, socket.SOCK_DGRAM) as core:
            core.bind((address, 0))
            port = core.getsockname()[1]
        owner = Owner()
        upstream = Upstream("core", host, port, host, free_port(), datagram_limit=None)
        opened = UpstreamLinks(owner, [upstream])
        await opened.open()
        links = Linked(opened)
        for number in range(1, 4):
            links.send(b"lost", DATAGRAMS)
            await until(lambda: owner.refused >= number)  # noqa: B023 - awaited at once
        # All errors were read, so that the socket is not ready because of them.
        assert links.side._sock is not None
        with pytest.raises(BlockingIOError):
            links.side._sock.recvmsg(0, 0, socket.MSG_ERRQUEUE)
        with socket.socket(kind, socket.SOCK_DGRAM) as core:
            core.bind((address, port))
            core.setblocking(False)
            core.sendto(b"here again", links.side._sock.getsockname())
            await until(lambda: owner.received)
        links.side.datagram_error(ValueError("of another kind"))
        links.links.closed = True
        links.server._datagrams_failed("lost")
        await opened.close()
        assert owner.failed == 0

    run(scenario())
    problems = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(" reason=")[0] for line in problems] == [
        "link-down upstream=core",
        "link-up upstream=core",
    ]


def test_icmp_errors_are_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sip_upstream, "_HEEDS_ICMP", False)

    async def scenario() -> None:
        async with linked("udp", free_port()) as (links, owner):
            # Other errors do not concern the upstream.
            for other in (ValueError("of another kind"), OSError(errno.EIO, "input/output")):
                links.side.datagram_error(other)
            links.side.datagram_error(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
            await until(lambda: owner.refused)

    run(scenario())


def test_datagram_port_in_use_is_reported() -> None:
    async def scenario() -> None:
        with udp_socket() as taken:
            upstream = Upstream("core", HOST, 9, HOST, taken.getsockname()[1])
            with pytest.raises(OSError, match="in use"):
                await UpstreamLinks(Owner(), [upstream]).open()

    run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_failed_connection_is_retried(transport: str, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        core = Core()
        async with linked(transport, core.port, pauses=SHORT) as (links, owner):
            links.send(b"lost", STREAM)
            await until(lambda: owner.failed)
            async with core.listening():
                await until(lambda: links.server._resume is None)
                links.send(b"", STREAM)
                await core.stream()
                await until(lambda: STREAM in links.server._streams)
                links.send(b"there", STREAM)
                reader, _ = core.streams[-1]
                assert await reader.readexactly(5) == b"there"
                assert links.server._failures == 0

    run(scenario())
    assert caplog.records[-1].message == "link-up upstream=core"


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_upstream_that_connects_is_connected_to_without_a_pause(transport: str) -> None:
    async def scenario() -> None:
        core = Core()
        # A pause is longer than the test.
        async with linked(transport, core.port) as (links, owner):
            links.send(b"lost", STREAM)
            await until(lambda: owner.failed)
            assert links.server._resume is not None
            async with core.listening():
                _, writer = await asyncio.open_connection(HOST, own_port(links))
                await until(lambda: links.server._streams)
                links.send(b"there", STREAM)
                reader, _ = await core.stream()
                assert await reader.readexactly(5) == b"there"
                writer.close()

    run(scenario())


def test_pauses_grow_up_to_a_maximum() -> None:
    async def scenario() -> None:
        async with linked("udp", 9, pauses=(1.0, 6.0)) as (links, _):
            loop = asyncio.get_running_loop()
            for failures, longest in ((0, 1), (1, 2), (2, 4), (3, 6), (4, 6), (10**6, 6)):
                links.server._failures = failures
                links.server._pause()
                assert links.server._resume is not None
                pause = links.server._resume.when() - loop.time()
                assert longest / 2 - 0.5 <= pause <= longest
                links.server._resume.cancel()

    run(scenario())


def test_silent_upstream_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, connect_timeout=0.0) as (_, owner):
            await until(lambda: owner.failed)

    run(scenario())
    assert 'link-down upstream=core reason="no answer"' in caplog.text


def test_waiting_messages_are_bounded() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("udp", core.port, max_waiting=10) as (links, owner):
            for _ in range(3):
                links.send(b"four", STREAM)
            assert links.server._waiting == [b"four"] * 2
            await until(lambda: owner.failed)
            assert not links.server._waiting

    run(scenario())


def test_upstream_that_does_not_read_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with (
            core.listening(),
            linked("tcp", core.port, max_waiting=100_000) as (links, owner),
        ):
            reader, _ = await core.stream()
            await until(lambda: STREAM in links.server._streams)
            stream = links.server._streams[STREAM]
            while STREAM in links.server._streams:
                links.send(bytes(65536), STREAM)
            # A dropped transport takes nothing more.
            stream.write(b"lost")
            await until(lambda: owner.failed)
            assert owner.lost == [STREAM]
            del reader

    run(scenario())
    assert 'link-closed upstream=core reason="it does not read"' in caplog.text


def test_reset_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, pauses=SHORT) as (links, owner):
            reader, writer = await core.stream()
            await until(lambda: STREAM in links.server._streams)
            first = links.server._streams[STREAM]
            links.send(b"why", STREAM)
            links.reset(STREAM, "out of step")
            assert await reader.read() == b"why"
            # Later input on it is ignored.
            first.buffer_updated(1)
            writer.close()
            links.reset(99, "gone already")
            await core.stream(2)
            assert owner.lost == [STREAM]
            assert not owner.received

    run(scenario())
    assert "out of step" in caplog.text


def test_lingering_transport_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_sip.adapters.asyncio.transport._LINGER", 0.0)

    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked("tcp", core.port, max_waiting=10**8) as (links, _):
            await core.stream()
            await until(lambda: STREAM in links.server._streams)
            stream = links.server._streams[STREAM]
            # More than the sockets take.
            links.send(bytes(20 * 1024 * 1024), STREAM)
            links.reset(STREAM, "enough")
            await until(lambda: stream not in links.links._transports)

    run(scenario())


# -- connections of the upstream -------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_connection_from_the_upstream_is_used(transport: str) -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening(), linked(transport, core.port) as (links, owner):
            there = (HOST, own_port(links))
            (one, to_one), (two, to_two) = [await asyncio.open_connection(*there) for _ in "ab"]
            await until(lambda: {2, 3} <= set(links.server._streams))
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
            # Messages for it are sent on our own connection instead.
            links.send(b"late", 2)
            reader, _ = await core.stream()
            assert await reader.readexactly(4) == b"late"
            links.reset(3, "enough")
            assert await two.read() == b""
            to_two.close()

    run(scenario())


def test_connection_from_another_address_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        # An address for documentation, which no host has.
        async with linked("udp", 5060, host="192.0.2.1") as (links, owner):
            reader, writer = await asyncio.open_connection(HOST, own_port(links))
            assert await ended(reader)
            writer.close()
            assert not owner.lost

    run(scenario())
    assert 'link-refused address=127.0.0.1 reason="not an upstream' in caplog.text


def test_connections_from_the_upstream_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
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


def test_connection_reset_before_accept_is_dropped() -> None:
    async def scenario() -> None:
        async with linked("udp", 9) as (links, owner):

            class Gone:
                def __getattr__(self, name: str) -> Any:
                    return lambda *arguments: self if arguments == ("socket",) else None

            stream = sip_upstream._Stream(links.links, links.side, "tcp")
            stream.connection_made(Gone())  # type: ignore[arg-type]
            stream.buffer_updated(5)
            stream.connection_lost(None)
            assert not owner.received
            assert not owner.lost

    run(scenario())


# -- beginning and end -----------------------------------------------------------------------------


def test_listener_is_omitted_without_large_requests() -> None:
    async def scenario() -> None:
        async with linked("udp", 9, limit=None) as (links, _):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, own_port(links))

    run(scenario())


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_address_in_use_is_reported(transport: str) -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            bind = taken.getsockname()[:2]
            with pytest.raises(OSError, match="in use"):
                async with linked(transport, 9, bind=bind):
                    pass

    run(scenario())


def test_unknown_name_is_reported() -> None:
    async def scenario() -> None:
        with pytest.raises(OSError, match=r".+"):
            async with linked("udp", 9, host="host.invalid"):
                pass

    run(scenario())


def test_bind_maps_the_local_address() -> None:
    """The address in messages need not be an address of this machine."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as core:
            port, bind = core.getsockname()[1], (HOST, free_port())
            async with linked("udp", port, local_host="192.0.2.1", bind=bind) as (links, _):
                links.send(b"there", DATAGRAMS)
                assert await loop.sock_recvfrom(core, 100) == (b"there", bind)

    run(scenario())


def test_nothing_happens_after_close() -> None:
    async def scenario() -> None:
        core = Core()
        async with core.listening():
            async with linked("tcp", core.port) as (links, owner):
                await core.stream()
                await until(lambda: links.server._streams)
                _, writer = await asyncio.open_connection(HOST, own_port(links))
                writer.write(b"x")
                await until(lambda: owner.received)
            for link in (DATAGRAMS, STREAM, 2):
                links.send(b"lost", link)
            # A pending look-up does not start another one.
            await links.server._look_up_again()
            assert links.server._look_up_timer is None
            links.server._drop_stream("lost")
            assert not owner.lost
            assert not owner.failed
            writer.close()
            async with linked("tcp", core.port) as (links, _):
                # While it is being connected.
                pass

    run(scenario())


# -- several upstreams -----------------------------------------------------------------------------


@asynccontextmanager
async def several(
    *upstreams: Upstream, **options: Any
) -> AsyncIterator[tuple[UpstreamLinks, Owner]]:
    owner = Owner()
    links = UpstreamLinks(owner, upstreams, **({"pauses": LONG} | options))
    await links.open()
    try:
        yield links, owner
    finally:
        await links.close()


def named(name: str, port: int, local_port: int, transport: str = "udp", **more: Any) -> Upstream:
    return Upstream(name, HOST, port, HOST, local_port, transport, **more)


def test_upstreams_share_a_port_and_are_distinguished() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        with udp_socket() as one, udp_socket() as other:
            local = free_port()
            upstreams = [
                named(name, sock.getsockname()[1], local)
                for name, sock in (("one", one), ("other", other))
            ]
            async with several(*upstreams) as (links, owner):
                for name, sock in (("other", other), ("one", one)):
                    links.send(name, name.encode(), DATAGRAMS)
                    data, address = await loop.sock_recvfrom(sock, 100)
                    assert (data, address) == (name.encode(), (HOST, local))
                    await loop.sock_sendto(sock, b"back", address)
                    await until(lambda: owner.names[-1:] == [name])  # noqa: B023 - awaited at once
                links.send("unknown", b"", DATAGRAMS)
                links.reset("unknown", STREAM, "")

    run(scenario())


@pytest.mark.skipif(sys.platform != "linux", reason="others tell nothing of it")
def test_icmp_errors_are_attributed_to_the_upstream() -> None:
    async def scenario() -> None:
        with udp_socket() as one:
            local = free_port()
            upstreams = [
                named("there", one.getsockname()[1], local),
                named("gone", free_port(), local),
            ]
            async with several(*upstreams) as (links, owner):
                for name in ("there", "gone"):
                    links.send(name, b"x", DATAGRAMS)
                await until(lambda: owner.failures)
                assert [name for name, _ in owner.failures] == ["gone"]
                assert "refused" in owner.failures[0][1]

    run(scenario())


def test_incoming_connection_is_attributed_by_address() -> None:
    async def scenario() -> None:
        local = free_port()
        upstreams = [
            replace(named("elsewhere", 5060, local), host="192.0.2.1"),
            named("here", 5060, local),
        ]
        async with several(*upstreams) as (_, owner):
            _, writer = await asyncio.open_connection(HOST, local)
            writer.write(b"x")
            await until(lambda: owner.received)
            assert (owner.names, owner.received) == (["here"], [(STREAM + 1, b"x")])
            writer.close()

    run(scenario())


def test_unknown_name_does_not_affect_other_upstreams(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        with udp_socket() as sock:
            local = free_port()
            unknown = replace(named("unknown", 5060, local), host="host.invalid")
            async with several(unknown, named("one", sock.getsockname()[1], local)) as (
                links,
                owner,
            ):
                links.send("unknown", b"", DATAGRAMS)
                await until(lambda: owner.failures)
                assert owner.failures == [("unknown", "its name cannot be resolved")]

    run(scenario())
    assert "link-not-found upstream=unknown reason=" in caplog.text


def test_upstreams_can_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed upstreams keep their links for a while, for pending calls."""
    timers: list[tuple[float, Any, Any]] = []

    async def scenario() -> None:
        core, next_core = Core(), Core()
        local = free_port()
        one = named("one", core.port, local, "tcp")
        two = named("two", next_core.port, free_port(), "tcp")
        async with core.listening(), next_core.listening(), several(one) as (links, owner):
            await until(lambda: owner.opened == ["one"])
            later = links.loop.call_later
            monkeypatch.setattr(
                links.loop,
                "call_later",
                lambda delay, call, *rest, **more: (
                    timers.append((delay, call, rest))
                    if delay == sip_upstream._RETIREMENT
                    else later(delay, call, *rest, **more)
                ),
            )
            await links.use([two])
            await until(lambda: owner.opened == ["one", "two"])
            links.send("one", b"late", STREAM)
            reader, _ = await core.stream()
            assert await reader.readexactly(4) == b"late"
            # It is added again in that time, and removed again.
            await links.use([one, two])
            _, retire, servers = timers.pop()
            retire(*servers)
            assert owner.lost == []
            await links.use([two])
            await links.use([two])
            _, retire, servers = timers.pop()
            assert not timers
            retire(*servers)
            assert await ended(reader)
            links.send("one", b"lost", STREAM)
            assert owner.lost == [STREAM]
            assert owner.opened == ["one", "two"]
            await links.use([one, two])
            await links.use([two])
        # Nothing remains to be done after closing.
        retire(*timers.pop()[2])

    run(scenario())


def test_an_upstream_may_move() -> None:
    """It has the same name, and is somewhere else: its old links end at once."""

    async def scenario() -> None:
        before, after = Core(), Core()
        one = named("one", before.port, free_port(), "tcp")
        async with before.listening(), after.listening(), several(one) as (links, owner):
            await until(lambda: owner.opened == ["one"])
            reader, _ = await before.stream()
            await links.use([replace(one, port=after.port)])
            assert owner.lost == [STREAM]
            assert await ended(reader)
            await until(lambda: owner.opened == ["one", "one"])
            links.send("one", b"here", STREAM)
            there, _ = await after.stream()
            assert await there.readexactly(4) == b"here"
            assert len(next(iter(links._sides.values()))._servers) == 1

    run(scenario())


def test_a_side_listens_before_it_has_upstreams() -> None:
    async def scenario() -> None:
        port, secure = free_port(), free_port()
        async with several() as (links, _):
            await links.listen((HOST, port), secure=False)
            # Without a certificate there is nothing to listen with.
            await links.listen((HOST, secure), secure=True)
            _, writer = await asyncio.open_connection(HOST, port)
            writer.close()
            with pytest.raises(OSError):
                await asyncio.open_connection(HOST, secure)

    run(scenario())


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="needs TCP_USER_TIMEOUT (Linux)"
)
@pytest.mark.parametrize("is_node", [False, True])
def test_silent_connection_is_given_up_by_tcp(is_node: bool) -> None:
    async def scenario() -> None:
        core, owner = Core(), Owner()
        upstream = Upstream("core", HOST, core.port, HOST, free_port(), "tcp", is_node=is_node)
        links = UpstreamLinks(owner, [upstream])
        async with core.listening():
            await links.open()
            try:
                await core.stream()
                _, writer = await asyncio.open_connection(HOST, upstream.local_port)
                server = links._servers["core"]
                await until(lambda: len(server._streams) == 2)
                for stream in server._streams.values():
                    sock = stream.transport.get_extra_info("socket")
                    silence = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                    assert silence == (10_000 if is_node else 20_000)
                writer.close()
            finally:
                await links.close()

    run(scenario())


def test_node_out_of_reach_is_named_until_it_is_back(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        core, owner = Core(), Owner()
        node = Upstream("two", HOST, core.port, HOST, free_port(), "tcp", is_node=True)
        links = UpstreamLinks(owner, [node], pauses=(0.0, 0.0))
        await links.open()
        try:
            await until(lambda: owner.failed)
            assert links.out_of_reach == {"two"}
            async with core.listening():
                await core.stream()
                await until(lambda: not links.out_of_reach)
        finally:
            await links.close()

    run(scenario())
    told = [record.message.partition(" reason=")[0] for record in caplog.records]
    assert (told[0], told[-1]) == ("link-down node=two", "link-up node=two")


@pytest.mark.parametrize("found", [True, False])
def test_a_stranger_may_be_introduced(found: bool) -> None:
    """It has connected before its upstream was known; what it sends meanwhile is kept."""

    async def scenario() -> None:
        known = named("known", free_port(), free_port(), "tcp")
        may = asyncio.Event()
        async with several() as (links, owner):

            async def introduce() -> None:
                await may.wait()
                if found:
                    await links.use([known])

            links.introduce = introduce
            await links.listen(known.local, secure=False)
            reader, writer = await asyncio.open_connection(HOST, known.local_port)
            writer.write(b"early")
            await until(lambda: links.strangers)
            may.set()
            if found:
                await until(lambda: owner.received)
                assert (owner.names, owner.received) == (["known"], [(STREAM + 1, b"early")])
            else:
                assert await ended(reader)
                assert owner.received == []
            assert links.strangers == 0
            writer.close()

    run(scenario())


def test_so_many_strangers_wait_to_be_introduced() -> None:
    async def scenario() -> None:
        local = free_port()
        async with several(max_connections=0) as (links, _):

            async def introduce() -> None:
                raise AssertionError

            links.introduce = introduce
            await links.listen((HOST, local), secure=False)
            reader, writer = await asyncio.open_connection(HOST, local)
            assert await ended(reader)
            writer.close()

    run(scenario())


def test_a_stranger_may_be_gone_before_it_is_introduced() -> None:
    async def scenario() -> None:
        known = named("known", free_port(), free_port(), "tcp")
        may = asyncio.Event()
        async with several() as (links, owner):

            async def introduce() -> None:
                await may.wait()
                await links.use([known])

            links.introduce = introduce
            await links.listen(known.local, secure=False)
            _, writer = await asyncio.open_connection(HOST, known.local_port)
            await until(lambda: links.strangers)
            (stream,) = links._transports
            stream.transport.abort()
            may.set()
            await until(lambda: links.strangers == 0)
            writer.close()
            assert owner.received == []

    run(scenario())


def test_retired_upstream_leaves_no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sip_upstream, "_RETIREMENT", 0.0)

    async def scenario() -> None:
        one = replace(named("one", free_port(), free_port(), "tcp"), host="localhost")
        two = named("two", free_port(), one.local_port)
        async with several(one, two) as (links, owner):
            await until(lambda: owner.failures)
            await links.use([two])
            await until(lambda: "one" not in links._servers)
            assert next(iter(links._sides.values()))._servers == [links._servers["two"]]

    run(scenario())


# -- over TLS --------------------------------------------------------------------------------------

AUTHORITY = trustme.CA()


def client_context(*, trusts: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    trusts.configure_trust(context)
    AUTHORITY.issue_cert("edge.test").configure_cert(context)
    return context


def server_context(
    name: str, *, asks: bool = True, issuer: trustme.CA = AUTHORITY
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name).configure_cert(context)
    if asks:
        AUTHORITY.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


@asynccontextmanager
async def tls_core(context: ssl.SSLContext) -> AsyncIterator[tuple[Core, list[Any]]]:
    """Run an upstream over TLS, and yield the certificates that it has seen."""
    core, seen = Core(), []

    async def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peercert"))
        core.streams.append((reader, writer))

    async with await asyncio.start_server(taken, HOST, core.port, ssl=context):
        try:
            yield core, seen
        finally:
            for _, writer in core.streams:
                writer.transport.abort()


def test_both_sides_present_certificates() -> None:
    async def scenario() -> None:
        async with tls_core(server_context("core.test")) as (core, seen):
            upstream = named("core", core.port, free_port(), "tls", tls_name="core.test")
            async with several(upstream, client_tls=client_context()) as (links, owner):
                await until(lambda: owner.opened)
                links.send("core", b"there", STREAM)
                reader, writer = await core.stream()
                assert await reader.readexactly(5) == b"there"
                assert ("DNS", "edge.test") in seen[0]["subjectAltName"]
                writer.write(b"back")
                await until(lambda: owner.received)
                assert owner.sources[0].transport == "tls"
                # Without a certificate, no listener is opened.
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection(HOST, upstream.local_port)

    run(scenario())


@pytest.mark.parametrize(
    ("context", "client", "reason"),
    [
        (server_context("other.test"), client_context(), "the certificate is not for the upstream"),
        (
            server_context("core.test", issuer=trustme.CA()),
            client_context(),
            "certificate verify failed",
        ),
    ],
)
def test_upstream_with_a_wrong_certificate_is_refused(
    context: ssl.SSLContext, client: ssl.SSLContext, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with tls_core(context) as (core, _):
            upstream = named("core", core.port, free_port(), "tls", tls_name="core.test")
            async with several(upstream, client_tls=client) as (links, owner):
                links.send("core", b"secret", STREAM)
                await until(lambda: owner.failures)
                assert not owner.opened
                assert reason in owner.failures[0][1]
            for reader, _ in core.streams:
                assert await ended(reader)

    run(scenario())
    assert "link-down upstream=core reason=" in caplog.text


@pytest.mark.parametrize(
    ("name", "accepted"), [("core.test", True), (None, True), ("mallory.test", False)]
)
def test_upstream_connects_over_tls_with_its_own_certificate_or_none(
    name: str | None, accepted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.sip")

    async def scenario() -> None:
        upstream = named("core", free_port(), free_port(), "tls", tls_name="core.test")
        options = {"client_tls": client_context(), "server_tls": server_context("edge.test")}
        async with several(upstream, **options) as (_, owner):
            context = ssl.create_default_context()
            AUTHORITY.configure_trust(context)
            if name is not None:
                AUTHORITY.issue_cert(name).configure_cert(context)
            reader, writer = await asyncio.open_connection(
                HOST, upstream.local_port, ssl=context, server_hostname="edge.test"
            )
            if accepted:
                writer.write(b"x")
                await until(lambda: owner.received)
            else:
                assert await ended(reader)
                assert not owner.received
            writer.transport.abort()

    run(scenario())
    refused = 'address=127.0.0.1 reason="the certificate is not for the upstream"'
    assert (refused in caplog.text) is not accepted


def test_certificates_may_be_exchanged() -> None:
    """A new authority for the upstream, and a new certificate for the connections it opens."""
    other = trustme.CA()

    async def scenario() -> None:
        async with tls_core(server_context("core.test", issuer=other)) as (core, _):
            upstream = named("core", core.port, free_port(), "tls", tls_name="wrong.test")
            options: dict[str, Any] = {"client_tls": client_context(), "pauses": (0.01, 0.02)}
            options["server_tls"] = server_context("old.test")
            async with several(upstream, **options) as (links, owner):
                links.send("core", b"secret", STREAM)
                await until(lambda: owner.failures)
                client, server = client_context(trusts=other), server_context("new.test")
                links.use_tls(client, server)
                links.use_tls(client, None)
                # The same upstream, whose certificate is for another name.
                await links.use([replace(upstream, tls_name="core.test")])
                await until(lambda: owner.opened)
                context = ssl.create_default_context()
                AUTHORITY.configure_trust(context)
                _, writer = await asyncio.open_connection(
                    HOST, upstream.local_port, ssl=context, server_hostname="new.test"
                )
                writer.transport.abort()

    run(scenario())


def test_tls_needs_a_context() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="client_tls"):
            UpstreamLinks(Owner(), [named("core", 5061, 5081, "tls")])

    run(scenario())
