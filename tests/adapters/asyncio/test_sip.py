"""The SIP edge on asyncio: telephones on sockets of this machine."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.peers._support import run
from tests.sip._location import Location
from wsproto_sip.adapters.asyncio.answers import Answers
from wsproto_sip.auth import LATER, Account, AccountCache, AccountQuestion, Identity, Later
from wsproto_sip.events import Ping
from wsproto_sip.server.events import Closed
from wsproto_sip.sip.edge.actions import UpstreamChanged
from wsproto_sip.sip.edge.config import STREAM, EdgeMode, Probing, Upstream
from wsproto_sip.sip.edge.hook import HookRequest, Proceed, Refuse, Verdict
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import Node

from .._endpoint import CLIENT_TLS, SERVER_TLS
from .._msrp import until
from .._sip import CONFIG, HOST, Core, call, free_port, phone, serving

MODES = list(EdgeMode)


@pytest.mark.parametrize("mode", MODES)
def test_two_telephones_message_and_call_each_other(mode: EdgeMode) -> None:
    async def scenario() -> None:
        async with (
            serving(replace(CONFIG, mode=mode)) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            for one, other in ((alice, bob), (bob, alice)):
                one.send("MESSAGE", other.aor, body="Grüße".encode())
                message = await other.request("MESSAGE")
                assert message.body == "Grüße".encode()
                other.answer(message, 200)
                await one.response(200)
            here, there = await call(alice, bob)
            for side, other in ((here, bob), (there, alice)):
                side.send("INFO", body=b"5")
                other.answer(await other.request("INFO"), 200)
                await (alice if other is bob else bob).response(200)
            there.send("BYE")
            alice.answer(await alice.request("BYE"), 200)
            await bob.response(200)

    run(scenario())


def test_wss_is_served() -> None:
    async def scenario() -> None:
        async with (
            serving(tls=SERVER_TLS) as running,
            phone(running.url, "alice", tls=CLIENT_TLS) as alice,
            phone(running.url, "bob", tls=CLIENT_TLS) as bob,
        ):
            await call(alice, bob)

    run(scenario())


def test_closed_connection_is_forgotten() -> None:
    async def scenario() -> None:
        async with serving() as running, phone(running.url, "alice") as alice:
            async with phone(running.url, "bob") as bob:
                alice.send("INVITE", bob.aor)
                await bob.request("INVITE")
                await bob.hang_up()
                await alice.response(480)
            assert (await alice.ask("MESSAGE", bob.aor)).status == 404

    run(scenario())


def test_timer_ends_an_unanswered_call() -> None:
    """The service's timer ends an unanswered call."""

    async def scenario() -> None:
        short = replace(CONFIG, t1=0.001, t2=0.001, t4=0.001, ring_timeout=0.1)
        async with (
            serving(short) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            alice.send("INVITE", bob.aor)
            invite = await bob.request("INVITE")
            await alice.response(408)
            # Too early, which only looks for the next deadline.
            running.service.wake()
            bob.answer(invite, 486)
            await bob.request("ACK")
            await until(lambda: not running.edge.transactions)

    run(scenario())


def test_events_of_other_connections_are_not_handled() -> None:
    async def scenario() -> None:
        async with serving() as running:
            assert not running.service.handle(7, Ping())
            async with connect(
                running.url, subprotocols=[Subprotocol("msrp")], proxy=None
            ) as websocket:
                await websocket.send("MESSAGE sip:bob@sip.test SIP/2.0\r\n\r\n")
            await until(lambda: any(type(event) is Closed for event in running.passed_over))
            running.passed_over.clear()
            async with phone(running.url, "alice") as alice:
                alice.say("\r\n\r\n")
                assert await alice.text() == "\r\n"
            await until(lambda: not running.edge.connections)
            assert not running.passed_over

    run(scenario())


# -- with an upstream ------------------------------------------------------------------------------


def test_upstream_over_udp() -> None:
    async def scenario() -> None:
        core = Core("udp")
        async with (
            core.datagrams() as send,
            serving(core.config) as running,
            phone(running.url, "alice") as alice,
        ):
            register = core.requests[0]
            assert register.method == "REGISTER"
            path = register.paths[0].sip_uri
            assert (path.host, path.port) == (HOST, core.upstream.local_port)
            assert "lr" in path.params
            assert "ob" in path.params
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)
            assert core.requests[-1].body == b"there"
            # Bytes after the body of a datagram are ignored.
            send(core.request(alice, "UDP", body=b"back") + b"!")
            message = await alice.request("MESSAGE")
            assert message.body == b"back"
            alice.answer(message, 202)
            await until(lambda: core.responses)
            assert (core.responses[0].status, core.responses[0].via.rport) == (202, core.port)

    run(scenario())


def test_upstream_over_tcp() -> None:
    """Its requests are answered on the connection they arrived on."""

    async def scenario() -> None:
        core = Core("tcp")
        async with (
            await asyncio.start_server(core.attach, HOST, core.port),
            serving(core.config) as running,
            phone(running.url, "alice") as alice,
        ):
            there = HOST, core.upstream.local_port
            reader, writer = await asyncio.open_connection(*there)
            for part in (request := core.request(alice, "TCP"))[:90], request[90:]:
                writer.write(part)
            message = await alice.request("MESSAGE")
            alice.answer(message, 202)
            assert (await reader.readuntil(b"\r\n")) == b"SIP/2.0 202 Accepted\r\n"
            # Unframeable input ends that connection only.
            writer.write(b"OPTIONS sip:x SIP/2.0\r\n\r\n")
            await reader.read()
            writer.close()
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)

    run(scenario())


def test_large_request_uses_tcp() -> None:
    """It is sent over TCP, or as a datagram if TCP is refused."""

    async def scenario() -> None:
        core = Core("udp")
        async with (
            core.datagrams(),
            serving(core.config, service={"pauses": (1000.0, 1000.0)}) as running,
            phone(running.url, "alice") as alice,
        ):
            for via in ("TCP", "UDP", "UDP"):
                listener = None
                if via == "TCP":
                    listener = await asyncio.start_server(core.attach, HOST, core.port)
                alice.send("MESSAGE", "sip:core@sip.test", body=bytes(2000))
                await alice.response(200)
                message = core.requests[-1]
                assert (message.via.transport, len(message.body)) == (via, 2000)
                if listener is not None:
                    listener.close()
                    links = running.service._links
                    assert links is not None
                    links.reset("core", STREAM, "the core is tired")

    run(scenario())


def test_unreachable_upstream_is_reported() -> None:
    async def scenario() -> None:
        core = Core("tcp")
        async with (
            serving(core.config) as running,
            phone(running.url, "alice", registers=False) as alice,
        ):
            assert (await alice.register()).status == 503
            assert running.service.application.endpoint.statistics.upstream_failures
            # Nothing waits for it any more.
            await until(lambda: not running.edge.transactions)
            running.service.settle()

    run(scenario())


def test_close_can_be_repeated() -> None:
    async def scenario() -> None:
        async with serving() as running, phone(running.url, "alice"):
            await running.service.close()
        async with serving() as running:
            # No timer was ever set.
            running.service.wake()

    run(scenario())


def test_requests_fail_over_when_an_upstream_dies(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        first, second = Core("tcp"), Core("udp")
        one = replace(first.upstream, name="one", local_port=second.upstream.local_port)
        two = replace(second.upstream, name="two", priority=1)
        listener = await asyncio.start_server(first.attach, HOST, first.port)
        async with (
            second.datagrams(),
            serving(replace(CONFIG, upstreams=(one, two))) as running,
            phone(running.url, "alice") as alice,
        ):
            states = running.application.endpoint.statistics.upstreams
            assert [request.method for request in first.requests].count("REGISTER") == 1
            listener.close()
            links = running.service._links
            assert links is not None
            links.reset("one", STREAM, "it is killed")
            for number in range(3):
                alice.send("MESSAGE", "sip:core@sip.test", body=b"%d" % number)
                await alice.response(200)
            await until(lambda: not states["one"].in_service)
            bodies = [request.body for request in second.requests if request.body]
            assert bodies == [b"0", b"1", b"2"]
            assert states["two"].requests == 3

    run(scenario())
    assert "upstream-down upstream=one reason=" in caplog.text


def test_upstream_changes_are_reported_to_the_callback(caplog: pytest.LogCaptureFixture) -> None:
    changes: list[UpstreamChanged] = []

    async def scenario() -> None:
        core = Core("udp")
        async with (
            serving(replace(CONFIG, upstreams=(core.upstream,))) as running,
            phone(running.url, "alice", registers=False) as alice,
        ):
            running.service.on_upstream = changes.append
            alice.send("MESSAGE", "sip:core@sip.test", body=b"hello")
            await alice.response(503)
            await until(lambda: bool(changes))

    run(scenario())
    assert [(change.in_service, change.upstream) for change in changes] == [(False, "core")]
    assert "out of service" not in caplog.text


def test_upstreams_can_be_replaced_while_in_use() -> None:
    async def scenario() -> None:
        first, second = Core("udp"), Core("udp")
        two = replace(second.upstream, name="two")
        async with (
            first.datagrams(),
            second.datagrams(),
            serving(first.config) as running,
            phone(running.url, "alice") as alice,
        ):
            await running.service.use_upstreams([two])
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)
            assert second.requests[-1].body == b"there"
            with pytest.raises(ValueError, match="the same name"):
                await running.service.use_upstreams([two, two])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        async with serving() as running:
            with pytest.raises(ValueError, match="from its beginning to its end"):
                await running.service.use_upstreams([two])
            # Without upstreams a certificate is not needed.
            running.service.use_tls(context, None)
        async with first.datagrams(), serving(first.config) as running:
            running.service.use_tls(context, None)
            assert running.service._links is not None
            assert running.service._links.client_tls is context

    run(scenario())


class AtOnce:
    """Answers questions with or without a task of their own."""

    def __init__(
        self, resolve: Callable[[object], Awaitable[object]], answer: Callable[[object], object]
    ) -> None:
        self._resolve = resolve
        self._answer = answer

    async def __call__(self, question: object) -> object:
        return await self._resolve(question)

    def ask(self, question: object, settle: Callable[[object], object]) -> bool:
        """Answer in the next turn of the loop."""
        asyncio.get_running_loop().call_soon(settle, self._answer(question))
        return True


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_two_nodes_call_each_other(transport: str) -> None:
    """Each has one telephone; a store answers both, and the node that stays misses the other."""

    async def scenario() -> None:
        location = Location()
        names = ("one", "two")
        ports = {name: free_port() for name in names}
        registrars = {
            name: Registrar(RegistrarConfig(Domains(("sip.test",))), node=Node(name, "1"))
            for name in names
        }

        def options(name: str) -> dict[str, Any]:
            async def resolve(question: object) -> object:
                return location.ask(Node(name, "1"), question)

            tls = {"client_tls": CLIENT_TLS, "server_tls": SERVER_TLS}
            at_once = AtOnce(resolve, partial(location.ask, Node(name, "1")))
            given = at_once if transport == "tls" else resolve
            service = {"resolve": given, "pauses": (0.01, 0.02)}
            return {"service": service | tls, "registrar": registrars[name]}

        def others(name: str) -> list[Upstream]:
            other = names[name == "one"]
            at = (HOST, ports[other], HOST, ports[name])
            return [Upstream(other, *at, transport, tls_name="localhost", is_node=True)]

        async with (
            serving(CONFIG, **options("two")) as two,
            AsyncExitStack() as stack,
        ):
            # It ends first, since it goes on trying to reach the other one.
            one = await stack.enter_async_context(serving(CONFIG, **options("one")))
            with pytest.raises(ValueError, match="not another node"):
                await one.service.use_nodes([replace(others("one")[0], name="one")])
            for name, running in (("one", one), ("two", two)):
                await running.service.use_nodes(others(name))
                # It may be told again.
                await running.service.use_nodes(others(name))
            # The first one has tried before the second one listened.
            link = one.service._links
            assert link is not None
            await until(lambda: STREAM in link._servers["two"]._streams)
            alice = await stack.enter_async_context(phone(one.url, "alice"))
            bob = await stack.enter_async_context(phone(two.url, "bob"))
            for caller, callee in ((alice, bob), (bob, alice)):
                here, there = await call(caller, callee)
                for side, other in ((here, callee), (there, caller)):
                    side.send("INFO", body=b"5")
                    other.answer(await other.request("INFO"), 200)
                    await (caller if other is callee else callee).response(200)
                there.send("BYE")
                caller.answer(await caller.request("BYE"), 200)
                await callee.response(200)
            alice.send("INVITE", bob.aor)
            bob.answer(await bob.request("INVITE"), 180)
            await alice.response(180)
            # The node ends without a word to the store.
            await two.service.close()
            await alice.response(480)
            await bob.hang_up()
            await until(lambda: one.service.out_of_reach == {"two"})
            await one.service.use_nodes([])
            assert one.edge.upstreams == []
            assert one.service.out_of_reach == frozenset()

    run(scenario())


def test_the_place_for_nodes_may_be_taken() -> None:
    async def scenario() -> None:
        registrar = Registrar(RegistrarConfig(Domains(("sip.test",))), node=Node("one", "1"))
        with socket.socket() as taken:
            taken.bind((HOST, 0))
            taken.listen()
            place = (HOST, free_port(), HOST, taken.getsockname()[1])
            async with serving(CONFIG, registrar=registrar) as running:
                with pytest.raises(OSError, match="in use"):
                    await running.service.use_nodes([Upstream("two", *place, "tcp", is_node=True)])
                assert running.edge.upstreams == []
                with pytest.raises(OSError, match="in use"):
                    await running.service.listen_for_nodes(HOST, place[3])

    run(scenario())


def test_a_node_listens_before_it_knows_others() -> None:
    async def scenario() -> None:
        registrar = Registrar(RegistrarConfig(Domains(("sip.test",))), node=Node("one", "1"))
        place = (HOST, free_port(), HOST, free_port())
        async with serving(CONFIG, registrar=registrar) as running:
            for _ in range(2):
                await running.service.listen_for_nodes(HOST, place[3])
                reader, writer = await asyncio.open_connection(HOST, place[3])
                # It is from a machine that has no node yet.
                assert await reader.read() == b""
                writer.close()
            await running.service.use_nodes([Upstream("two", *place, "tcp", is_node=True)])
            _, writer = await asyncio.open_connection(HOST, place[3])
            links = running.service._links
            assert links is not None
            await until(lambda: links._servers["two"]._streams)
            writer.close()
            await running.service.use_nodes([])

    run(scenario())


class Silent:
    """An upstream that takes everything and never says a word.

    Args:
        transport: Of the SIP upstream that it is.
    """

    def __init__(self, transport: str) -> None:
        self.core = Core(transport)
        self.upstream = self.core.upstream
        if transport == "tls":
            self.upstream = replace(self.upstream, tls_name="core.test")
        self.heard = 0

    @asynccontextmanager
    async def there(self) -> AsyncIterator[None]:
        silent, loop = self, asyncio.get_running_loop()

        class Listening(asyncio.Protocol, asyncio.DatagramProtocol):
            def data_received(self, data: bytes) -> None:
                silent.heard += 1

            def datagram_received(self, data: bytes, addr: object) -> None:
                silent.heard += 1

        if self.upstream.transport == "udp":
            transport, _ = await loop.create_datagram_endpoint(Listening, (HOST, self.core.port))
            try:
                yield
            finally:
                transport.close()
        else:
            async with await loop.create_server(Listening, HOST, self.core.port):
                yield


@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_requests_go_over_when_an_upstream_hangs(transport: str) -> None:
    """It accepts, and answers nothing: not the TLS handshake, where there is one."""

    async def scenario() -> None:
        silent, second = Silent(transport), Core("udp")
        one = replace(silent.upstream, name="one")
        two = replace(second.upstream, name="two", priority=1)
        config = replace(
            CONFIG,
            upstreams=(one, two),
            failover_timeout=0.5,
            probing=Probing(0.5, timeout=0.4),
        )
        service = {"client_tls": ssl.create_default_context()} if transport == "tls" else {}
        async with (
            silent.there(),
            second.datagrams(),
            serving(config, service=service) as running,
            phone(running.url, "alice", registers=False) as alice,
            phone(running.url, "bob", registers=False) as bob,
        ):
            loop = asyncio.get_running_loop()
            began = loop.time()
            waiting = asyncio.ensure_future(alice.register())
            invite = bob.send("INVITE", "sip:core@sip.test", body=b"x")
            # A request that is for no upstream waits for none.
            bob.send("OPTIONS", "sip:edge.test:8080")
            first = [await bob.response(), await bob.response()]
            assert (await waiting).status == 200
            assert loop.time() - began < 5
            assert sorted(str(answer.cseq.method) for answer in first) == ["INVITE", "OPTIONS"]
            assert all(answer.status == 200 for answer in first)
            assert first[0].cseq.method == "OPTIONS"
            bob.follow("ACK", invite, to=str(first[1].to))
            assert silent.heard
            # From now on, it is passed over.
            states = running.application.endpoint.statistics.upstreams
            await until(lambda: not states["one"].in_service)
            before = states["one"].requests
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)
            assert states["one"].requests == before

    run(scenario())


def test_returning_upstream_is_in_service_once_connected() -> None:
    async def scenario() -> None:
        core = Core("tcp")
        async with (
            serving(core.config, service={"pauses": (0.001, 0.001)}) as running,
            phone(running.url, "alice", registers=False) as alice,
        ):
            state = running.application.endpoint.statistics.upstreams["core"]
            await until(lambda: not state.in_service)
            server = await asyncio.start_server(core.attach, HOST, core.port)
            await until(lambda: state.in_service)
            assert (await alice.register()).status == 200
        # Not before: it would wait for the edge's connection from Python 3.12 on.
        server.close()
        await server.wait_closed()

    run(scenario())


# -- deferred questions ----------------------------------------------------------------------------


class Database:
    """Knows one user."""

    async def account(self, question: AccountQuestion) -> Account | None:
        await asyncio.sleep(0)
        known = question.name == "alice"
        return Account(Identity("alice"), "wonderland") if known else None


def test_users_come_from_resolve() -> None:
    async def scenario() -> None:
        cache = AccountCache(asyncio.get_running_loop().time)
        answers = Answers(Database(), cache=cache)
        authenticator = DigestAuthenticator("sip.test", cache)
        async with serving(authenticator=authenticator, service={"resolve": answers}) as running:
            async with phone(running.url, "alice", password="wonderland") as alice:
                assert len(cache) == 1
                answer = await alice.register()
                assert answer.status == 200
            async with phone(running.url, "bob", password="x", registers=False) as bob:
                assert (await bob.register()).status == 401
            assert len(cache) == 2

    run(scenario())


def test_hook_may_decide_later(caplog: pytest.LogCaptureFixture) -> None:
    def late(request: HookRequest) -> Later:
        return LATER

    async def decide(request: HookRequest) -> Verdict:
        await asyncio.sleep(0)
        if request.request.method == "MESSAGE":
            return Proceed(add=[("X-Seen", "1")])
        if request.request.method == "INFO":
            raise RuntimeError("broken")
        return Refuse(403) if request.request.method == "OPTIONS" else None

    async def scenario() -> None:
        async with (
            serving(hook=late, service={"hook": decide}) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            alice.send("MESSAGE", bob.aor)
            message = await bob.request("MESSAGE")
            assert message.get("x-seen") == "1"
            alice.send("OPTIONS", bob.aor)
            await alice.response(403)
            alice.send("INFO", bob.aor)
            await alice.response(500)

    run(scenario())
    assert "hook-failed method=INFO" in caplog.text
    assert "RuntimeError: broken" in caplog.text


def test_answers_of_one_turn_go_out_together() -> None:
    """Also if the service is closed before they do; an answer that comes later is dropped."""

    async def scenario() -> None:
        gates = {"MESSAGE": asyncio.Event(), "INFO": asyncio.Event()}
        asked: list[str] = []

        async def decide(request: HookRequest) -> Verdict:
            method = request.request.method
            if method in gates:
                asked.append(method)
                await gates[method].wait()
                return Refuse(403)
            return None

        async with (
            serving(hook=lambda request: LATER, service={"hook": decide}) as running,
            phone(running.url, "alice") as alice,
            phone(running.url, "bob") as bob,
        ):
            alice.send("MESSAGE", bob.aor)
            bob.send("MESSAGE", alice.aor)
            await until(lambda: len(asked) == 2)
            service = running.service
            gates["MESSAGE"].set()
            await asyncio.sleep(0)
            assert service._settling
            await service.close()
            for one in (alice, bob):
                await one.response(403)
            assert service._timer is None
            alice.send("INFO", bob.aor)
            await until(lambda: len(asked) == 3)
            # Events that still come are answered, without a timer.
            assert service._timer is None
            gates["INFO"].set()
            await asyncio.sleep(0)
            assert not service._settling

    run(scenario())
