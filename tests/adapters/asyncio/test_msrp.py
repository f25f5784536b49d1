"""The relay on asyncio: WebSocket clients and TCP peers on sockets of this machine."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.peers._support import run
from wsproto_sip.auth import LATER, Account, Identity
from wsproto_sip.events import Ping
from wsproto_sip.msrp import (
    Authenticated,
    MessageDelivered,
    MessageFailed,
    MessageReceived,
    MsrpRelayConfig,
    MsrpUri,
    RelayNode,
)
from wsproto_sip.policy import TrustedNetworks

from .._msrp import CONFIG, HOST, USERS, Client, PeerNode, RelayServer, client, serving, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def free_port() -> int:
    """Return a port of 127.0.0.1 without a listener."""
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        port: int = taken.getsockname()[1]
        return port


def config(port: int, host: str = HOST) -> MsrpRelayConfig:
    return replace(CONFIG, peers={"bob": (host, port)})


async def ready(talker: Client) -> Client:
    await talker.until(Authenticated)
    return talker


@asynccontextmanager
async def answering(port: int, **options: Any) -> AsyncIterator[PeerNode]:
    """Run a peer that listens for one connection."""
    node = PeerNode(HOST, port, **options)
    async with await asyncio.start_server(node.attach, HOST, port):
        try:
            yield node
        finally:
            await node.stop()


@asynccontextmanager
async def calling(relay: RelayServer, own_port: int, **options: Any) -> AsyncIterator[PeerNode]:
    """Run a peer that connects to the relay."""
    ((host, port),) = await relay.service.listen(HOST, 0)
    node = PeerNode(HOST, own_port, **options)
    node.attach(*await asyncio.open_connection(host, port))
    try:
        yield node
    finally:
        await node.stop()


def introduce(alice: Client, bob: PeerNode) -> None:
    alice.session.connect((bob.session.local,))
    bob.session.connect(alice.session.path)


async def exchange(alice: Client, bob: PeerNode) -> None:
    """Send a file both ways at the same time, with success reports."""
    introduce(alice, bob)
    body = random.Random(4975).randbytes(5 * 1024 * 1024)
    there = alice.send(body, b"application/octet-stream", success_report=True)
    back = bob.send(body[::-1], b"application/octet-stream", success_report=True)
    await alice.until(MessageDelivered)
    await bob.until(MessageDelivered)
    assert await bob.until(MessageReceived) == MessageReceived(
        there, b"application/octet-stream", body
    )
    assert await alice.until(MessageReceived) == MessageReceived(
        back, b"application/octet-stream", body[::-1]
    )


def test_files_both_ways_over_an_outgoing_connection() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            answering(port, chunk_size=8192) as bob,
            serving(config(port)) as relay,
            client(relay.url, "alice", chunk_size=8192) as alice,
        ):
            await ready(alice)
            await exchange(alice, bob)
            assert relay.relay.transactions == 0

    run(scenario())


def test_files_both_ways_over_an_incoming_connection() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            serving(config(port)) as relay,
            # The relay splits chunks that are too large for a WebSocket message.
            calling(relay, port, chunk_size=300_000) as bob,
            client(relay.url, "alice", chunk_size=8192) as alice,
        ):
            await ready(alice)
            await exchange(alice, bob)
            assert relay.relay.transactions == 0

    run(scenario())


def test_unknown_peer_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.msrp")

    async def scenario() -> None:
        # An address for documentation, which no host has.
        async with serving(config(2855, "192.0.2.1")) as relay:
            ((host, port),) = await relay.service.listen(HOST, 0)
            reader, writer = await asyncio.open_connection(host, port)
            with pytest.raises(ConnectionError):
                await _end_of(reader)
            writer.close()
            assert relay.relay.connections == 0

    run(scenario())
    assert 'link-refused address=127.0.0.1 reason="it is not a peer"' in caplog.text


async def _end_of(reader: asyncio.StreamReader) -> None:
    """Read to the end, which may be a reset."""
    await reader.read()
    raise ConnectionResetError


def test_peers_with_one_address_are_refused() -> None:
    async def scenario() -> None:
        peers = {"bob": (HOST, 2855), "dan": (HOST, 2856)}
        async with serving(replace(CONFIG, peers=peers)) as relay:
            with pytest.raises(ValueError, match="bob and dan have the same address"):
                await relay.service.listen(HOST, 0)

    run(scenario())


def test_connections_of_a_peer_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.msrp")

    async def scenario() -> None:
        async with serving(config(2855), max_links=1) as relay, calling(relay, 2855) as bob:
            address = bob.writer.get_extra_info("peername")
            reader, writer = await asyncio.open_connection(*address)
            with pytest.raises(ConnectionError):
                await _end_of(reader)
            writer.close()
            assert relay.relay.connections == 1

    run(scenario())
    assert "too many connections" in caplog.text


def test_outgoing_connection_above_the_bound_is_dropped() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            answering(port) as bob,
            serving(config(port), max_links=0) as relay,
            client(relay.url, "alice") as alice,
        ):
            await ready(alice)
            introduce(alice, bob)
            message = alice.send(b"hello")
            failed = await alice.until(MessageFailed)
            assert (failed.message_id, failed.status) == (message, 408)

    run(scenario())


@pytest.mark.parametrize("host", [HOST, "host.invalid", "x" * 70 + ".invalid"])
def test_unreachable_peer_is_reported(host: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.msrp")

    async def scenario() -> None:
        port = free_port()
        async with serving(config(port, host)) as relay, client(relay.url, "alice") as alice:
            await ready(alice)
            alice.session.connect((MsrpUri.build(host, port, "bobs"),))
            message = alice.send(b"hello")
            failed = await alice.until(MessageFailed)
            assert (failed.message_id, failed.status) == (message, 408)

    run(scenario())
    assert "link-down relay=bob reason=" in caplog.text


def test_silent_peer_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.msrp")

    async def scenario() -> None:
        async with (
            serving(config(2855), service={"connect_timeout": 0.0}) as relay,
            client(relay.url, "alice") as alice,
        ):
            await ready(alice)
            alice.session.connect((MsrpUri.build(HOST, 2855, "bobs"),))
            alice.send(b"hello")
            assert (await alice.until(MessageFailed)).status == 408

    run(scenario())
    assert 'link-down relay=bob reason="no answer"' in caplog.text


def test_closed_connection_to_a_peer_is_reopened() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            answering(port) as bob,
            serving(config(port)) as relay,
            client(relay.url, "alice") as alice,
        ):
            await ready(alice)
            introduce(alice, bob)
            alice.send(b"one")
            await bob.until(MessageReceived)
            bob.writer.write_eof()
            first = bob.writer
            # It ends its side, and the relay does the same.
            await bob.until_ended()
            await until(lambda: relay.relay.connections == 1)
            alice.send(b"two")
            await bob.until(MessageReceived, lambda event: event.body == b"two")
            assert bob.writer is not first

    run(scenario())


def test_unframeable_stream_is_closed() -> None:
    async def scenario() -> None:
        async with serving(config(2855)) as relay, calling(relay, 2855) as bob:
            bob.writer.write(b"GET / HTTP/1.1\r\n\r\n")
            await bob.until_ended()
            assert relay.relay.connections == 0

    run(scenario())


def test_slow_client_holds_back_a_peer() -> None:
    """No connection is closed: everything arrives when the client reads again."""

    async def scenario() -> None:
        port = free_port()
        async with (
            serving(config(port)) as relay,
            calling(relay, port, chunk_size=16384) as bob,
            client(relay.url, "alice") as alice,
        ):
            await ready(alice)
            introduce(alice, bob)
            alice.reads.clear()
            body = random.Random(1).randbytes(12 * 1024 * 1024)
            # Without reports, only the connection itself holds it back.
            sent = bob.send(body, b"application/octet-stream", failure_report=False)
            await until(lambda: not relay.application.wanted(-1))
            alice.reads.set()
            received = await alice.until(MessageReceived)
            assert (received.message_id, received.body) == (sent, body)
            assert relay.application.wanted(-1)

    run(scenario())


def test_slow_peer_holds_back_clients() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            answering(port) as bob,
            serving(config(port)) as relay,
            client(relay.url, "alice", chunk_size=16384) as alice,
        ):
            await ready(alice)
            introduce(alice, bob)
            bob.reads.clear()
            body = random.Random(1).randbytes(12 * 1024 * 1024)
            sent = alice.send(body, b"application/octet-stream", failure_report=False)
            await until(lambda: any(entry.session.paused for entry in relay.endpoint.registry))
            bob.reads.set()
            received = await bob.until(MessageReceived)
            assert (received.message_id, received.body) == (sent, body)

    run(scenario())


def test_peer_that_reads_no_answers_is_not_read() -> None:
    """The cost of its requests, whose answers it does not read, is bounded, and nothing is lost."""

    async def scenario() -> None:
        async with serving(config(2855)) as relay:
            address = (await relay.service.listen(HOST, 0))[0]
            reader, writer = await asyncio.open_connection(*address, limit=4096)
            request = b"MSRP abcd SEND\r\nTo-Path: msrp://r;tcp\r\nFrom-Path: msrp://b;tcp\r\n"
            request += b"-------abcd$\r\n"
            answer = b"MSRP abcd 481 Session-does-not-exist\r\n"
            answer += b"To-Path: msrp://b;tcp\r\nFrom-Path: msrp://r;tcp\r\n-------abcd$\r\n"
            count = 200_000
            writer.write(request * count)
            await until(lambda: relay.relay.connections and not relay.application.wanted(-1))
            (link,) = relay.service._transports
            assert link.transport.get_write_buffer_size() < 512 * 1024
            assert await reader.readexactly(len(answer) * count) == answer * count
            assert relay.application.wanted(-1)
            writer.close()
            await writer.wait_closed()

    # It takes a while when coverage is measured on a busy machine.
    run(scenario(), bound=240.0)


def test_timer_reports_missing_responses() -> None:
    """The service's timer reports requests without a response."""

    async def scenario() -> None:
        async with (
            serving(replace(CONFIG, transaction_timeout=0.0)) as relay,
            client(relay.url, "alice") as alice,
            client(relay.url, "carol") as carol,
        ):
            await ready(alice)
            await ready(carol)
            alice.session.connect(carol.session.path)
            carol.reads.clear()
            alice.send(b"hello")
            assert (await alice.until(MessageFailed)).status == 408

    run(scenario())


def test_earlier_deadline_replaces_a_later_one() -> None:
    async def scenario() -> None:
        short = replace(CONFIG, authentication_timeout=1000.0, transaction_timeout=0.0)
        async with (
            serving(short) as relay,
            client(relay.url, "alice", authenticate=False),
            client(relay.url, "alice") as alice,
            client(relay.url, "carol") as carol,
        ):
            await ready(alice)
            await ready(carol)
            alice.session.connect(carol.session.path)
            carol.reads.clear()
            alice.send(b"hello")
            assert (await alice.until(MessageFailed)).status == 408
            # Too early, which only looks for the next deadline.
            relay.service.wake()

    run(scenario())


def test_events_of_other_connections_are_not_handled() -> None:
    async def scenario() -> None:
        async with serving() as relay:
            assert not relay.service.handle(7, Ping())
            # Nothing is due, either.
            relay.service.wake()

    run(scenario())


def test_close_ends_pending_work() -> None:
    async def scenario() -> None:
        port = free_port()
        async with (
            answering(port) as bob,
            serving(config(port)) as relay,
            client(relay.url, "alice") as alice,
        ):
            await ready(alice)
            introduce(alice, bob)
            alice.send(b"hello")
            await bob.until(MessageReceived)
            await relay.service.close()
            await bob.until_ended()
            # Events that still come cause neither connections nor a timer.
            before = relay.application.relay.journal.relayed["SEND"]
            alice.send(b"hello again")
            await until(lambda: relay.application.relay.journal.relayed["SEND"] > before)
            assert relay.service._timer is None
            assert not relay.service._tasks
            # Closing again is harmless.
            await relay.service.close()

    run(scenario())


def test_close_cancels_a_pending_connection() -> None:
    async def scenario() -> None:
        async with serving(config(2855)) as relay, client(relay.url, "alice") as alice:
            await ready(alice)
            alice.session.connect((MsrpUri.build(HOST, 2855, "bobs"),))
            relay.application.take_connects = lambda: ["bob"]  # type: ignore[method-assign]
            relay.service.settle()
            relay.application.take_connects = list  # type: ignore[method-assign]
            await relay.service.close()

    run(scenario())


def test_lingering_transport_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsproto_sip.adapters.asyncio.transport._LINGER", 0.0)

    async def scenario() -> None:
        async with (
            serving(config(2855), stall_timeout=0.0) as relay,
            calling(relay, 2855) as bob,
            client(relay.url, "alice", chunk_size=16384) as alice,
        ):
            await ready(alice)
            introduce(alice, bob)
            bob.reads.clear()
            bob.send(b"that it is there")
            await alice.until(MessageReceived)
            # More than the sockets take. No peer listens to pass it on to.
            alice.send(bytes(15 * 1024 * 1024), failure_report=False)
            await until(lambda: relay.relay.connections == 1)
            bob.reads.set()
            await bob.until_ended()

    run(scenario())


def test_users_come_from_resolve() -> None:
    async def find(question: object) -> Account:
        await asyncio.sleep(0)
        return Account(Identity("alice"), USERS["alice"])

    async def scenario() -> None:
        async with (
            serving(users=lambda name: LATER, service={"resolve": find}) as relay,
            client(relay.url, "alice") as alice,
        ):
            await ready(alice)
            assert relay.relay.sessions == 1

    run(scenario())


# -- nodes -----------------------------------------------------------------------------------------

LOOPBACK = TrustedNetworks(["127.0.0.0/8"])
AUTHORITY = trustme.CA()


def node_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts for connections that a node opens and accepts."""
    certificate = AUTHORITY.issue_cert("nodes.test")
    connecting = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    # The service has its own rules for names.
    connecting.check_hostname = False
    accepting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    accepting.verify_mode = ssl.CERT_REQUIRED
    for context in (connecting, accepting):
        certificate.configure_cert(context)
        AUTHORITY.configure_trust(context)
    return connecting, accepting


class Nodes:
    """Two relays that serve the same users.

    Args:
        relays: The relays by name.
    """

    def __init__(self, relays: dict[str, RelayServer]) -> None:
        self.relays = relays
        self.nodes = {name: RelayNode(f"{name}.relay.example", "1") for name in relays}
        self.addresses: dict[str, tuple[str, int]] = {}

    def introduce(self, name: str, *others: str) -> None:
        """Tell a node which others run."""
        nodes = {other: self.nodes[other] for other in others}
        self.relays[name].service.use_nodes(nodes, self.addresses)


@asynccontextmanager
async def two_nodes(
    *, accepts: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Nodes]:
    """Run two nodes that know each other."""
    shared = frozenset({(CONFIG.host, CONFIG.port)})
    one, two = (
        replace(CONFIG, host=f"{name}.relay.example", aliases=shared) for name in ("n1", "n2")
    )
    async with serving(one, **options) as first, serving(two, **options) as second:
        nodes = Nodes({"n1": first, "n2": second})
        for name, relay in nodes.relays.items():
            accepted = {"networks": LOOPBACK} if accepts is None else accepts
            (nodes.addresses[name],) = await relay.service.listen_for_nodes(HOST, 0, **accepted)
        nodes.introduce("n1", "n2")
        nodes.introduce("n2", "n1")
        yield nodes


async def exchange_between(nodes: Nodes, size: int) -> None:
    """Send a file both ways between clients of two nodes."""
    urls = [relay.url for relay in nodes.relays.values()]
    async with client(urls[0], "alice") as alice, client(urls[1], "carol") as carol:
        await ready(alice)
        await ready(carol)
        assert [str(talker.session.path[0].host) for talker in (alice, carol)] == [
            "n1.relay.example",
            "n2.relay.example",
        ]
        alice.session.connect(carol.session.path)
        carol.session.connect(alice.session.path)
        body = random.Random(4976).randbytes(size)
        alice.send(body, b"application/octet-stream", success_report=True)
        carol.send(body[::-1], b"application/octet-stream", success_report=True)
        await alice.until(MessageDelivered)
        await carol.until(MessageDelivered)
        assert (await carol.until(MessageReceived)).body == body
        assert (await alice.until(MessageReceived)).body == body[::-1]
        for relay in nodes.relays.values():
            assert relay.relay.transactions == 0
            # A client, and a link in each direction.
            assert relay.relay.connections == 3


def test_files_both_ways_between_two_nodes() -> None:
    async def scenario() -> None:
        async with two_nodes() as nodes:
            await exchange_between(nodes, 2 * 1024 * 1024)

    run(scenario())


def test_nodes_show_certificates() -> None:
    async def scenario() -> None:
        connecting, accepting = node_contexts()
        service = {"node_tls": connecting, "node_tls_name": "nodes.test"}
        async with two_nodes(accepts={"tls": accepting}, service=service) as nodes:
            await exchange_between(nodes, 100_000)
            for relay in nodes.relays.values():
                relay.service.use_node_tls(*node_contexts())
            nodes.introduce("n1")
            nodes.introduce("n1", "n2")
            await exchange_between(nodes, 100_000)
            # Without a certificate, a connection is not one of a node.
            stranger = ssl.create_default_context()
            AUTHORITY.configure_trust(stranger)
            reader, writer = await asyncio.open_connection(
                *nodes.addresses["n1"], ssl=stranger, server_hostname="nodes.test"
            )
            # A connection that is accepted would stay open.
            with suppress(OSError):
                assert await reader.read() == b""
            writer.close()

    run(scenario())


@pytest.mark.parametrize("checks", [True, False])
def test_nodes_are_verified(caplog: pytest.LogCaptureFixture, checks: bool) -> None:
    caplog.set_level(logging.INFO, "wsproto_sip.msrp")

    async def scenario() -> None:
        connecting, accepting = node_contexts()
        connecting.check_hostname = checks
        service = {"node_tls": connecting, "node_tls_name": "other.test"}
        async with (
            two_nodes(accepts={"tls": accepting}, service=service) as nodes,
            client(nodes.relays["n1"].url, "alice") as alice,
        ):
            await ready(alice)
            alice.session.connect((MsrpUri.parse(b"msrp://n2.relay.example:2855/s;tcp"),))
            alice.send(b"hello")
            assert (await alice.until(MessageFailed)).status == 408

    run(scenario())
    assert (
        "certificate verify failed" if checks else "it has no certificate of other"
    ) in caplog.text


def test_certificate_of_a_node_names_it(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        connecting, accepting = node_contexts()
        service = {"node_tls": connecting, "node_tls_name": "other.test"}
        async with two_nodes(accepts={"tls": accepting}, service=service) as nodes:
            reader, writer = await asyncio.open_connection(
                *nodes.addresses["n1"], ssl=connecting, server_hostname="other.test"
            )
            with pytest.raises(ConnectionError):
                await _end_of(reader)
            writer.close()
            assert nodes.relays["n1"].relay.connections == 0

    run(scenario())
    assert 'link-refused address=127.0.0.1 reason="it has no certificate of a node"' in caplog.text


def test_node_has_to_be_in_a_network(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        accepts = {"networks": TrustedNetworks(["192.0.2.0/24"])}
        async with two_nodes(accepts=accepts) as nodes:
            reader, writer = await asyncio.open_connection(*nodes.addresses["n1"])
            with pytest.raises(ConnectionError):
                await _end_of(reader)
            writer.close()
            assert nodes.relays["n1"].relay.connections == 0

    run(scenario())
    assert 'link-refused address=127.0.0.1 reason="it is not in a network' in caplog.text


def test_connections_of_nodes_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with two_nodes(max_node_links=0) as nodes:
            reader, writer = await asyncio.open_connection(*nodes.addresses["n1"])
            with pytest.raises(ConnectionError):
                await _end_of(reader)
            writer.close()

    run(scenario())
    assert 'link-refused address=127.0.0.1 reason="too many connections"' in caplog.text


@pytest.mark.parametrize("verifies", [ssl.CERT_NONE, ssl.CERT_OPTIONAL, None])
def test_nodes_have_to_be_told_from_others(verifies: ssl.VerifyMode | None) -> None:
    async def scenario() -> None:
        context = None
        if verifies is not None:
            _, context = node_contexts()
            context.verify_mode = verifies
        async with serving() as relay:
            with pytest.raises(ValueError, match="need networks, or tls with certificates"):
                await relay.service.listen_for_nodes(HOST, 0, tls=context)

    run(scenario())


def test_node_that_leaves_ends_what_it_had() -> None:
    async def scenario() -> None:
        async with (
            two_nodes() as nodes,
            client(nodes.relays["n1"].url, "alice") as alice,
            client(nodes.relays["n2"].url, "carol") as carol,
        ):
            await ready(alice)
            await ready(carol)
            alice.session.connect(carol.session.path)
            carol.session.connect(alice.session.path)
            alice.send(b"one", success_report=True)
            await alice.until(MessageDelivered)
            nodes.introduce("n1")
            message = alice.send(b"two")
            failed = await alice.until(MessageFailed)
            assert (failed.message_id, failed.status) == (message, 481)
            # It is left with its client, and the link on which the report went.
            await until(lambda: nodes.relays["n2"].relay.connections == 2)
            carol.send(b"three", success_report=False)
            assert (await alice.until(MessageReceived)).body == b"three"

    run(scenario())


def test_node_that_leaves_before_it_is_connected_to() -> None:
    async def scenario() -> None:
        async with two_nodes() as nodes:
            relay = nodes.relays["n1"]
            relay.application.take_connects = lambda: ["node:n2"]  # type: ignore[method-assign]
            relay.service.settle()
            relay.application.take_connects = list  # type: ignore[method-assign]
            nodes.introduce("n1")
            # Its task ends without a connection.
            await asyncio.gather(*relay.service._tasks)
            assert relay.relay.connections == 0

    run(scenario())
