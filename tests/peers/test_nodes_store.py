"""Two ``serve`` processes and a Redis that fails them, or one of them that fails the other."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from tests.adapters._sip import HOST, EdgeServer, SocketPhone, call, free_port, phone
from tests.cli._service import Service, launched
from tests.peers._redis import RedisServer, needs_redis, redis_server, way_to
from tests.peers._support import run
from tests.sip._phones import Dialog
from wsproto_sip.adapters.asyncio.location import LocationService, NodeEntry
from wsproto_sip.adapters.asyncio.location_redis import RedisEngine
from wsproto_sip.sip import SipRequest, SipResponse
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import Found, Lookup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

pytestmark = needs_redis

DOMAIN = "sip.test"
#: Seconds that stop a scenario that hangs; processes start slowly on a busy machine.
HANGS = 300.0
#: Seconds in which a node that is not renewed is gone.
LIFETIME = 15.0


@contextmanager
def nodes(
    store: str, folder: Path, *names: str, extra: tuple[str, ...] = ()
) -> Iterator[list[Service]]:
    """Run nodes that share a store.

    Args:
        store: Its URL; or, with a place for a name, those of the nodes.
        folder: Where they have files.
        names: Their names.
        extra: Further options.
    """
    keys = folder / "keys"
    keys.write_text("ab" * 32 + "\n")
    keys.chmod(0o600)
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                launched(
                    *("--store", store, "--sip-flow-keys", str(keys)),
                    *("--node-name", name, "--node-listen", f"{HOST}:0"),
                    *("--sip-domain", DOMAIN, "--drain-seconds", "0", *extra),
                )
            )
            for name in names
        ]


async def refused(phone: SocketPhone, method: str, uri: str, seconds: float) -> SipResponse:
    """Send a request, and return its refusal, which has to come in time."""
    async with asyncio.timeout(seconds):
        phone.send(method, uri)
        answer = await phone.response()
    assert answer.status >= 300, answer
    return answer


async def talk(here: Dialog[SocketPhone], there: Dialog[SocketPhone]) -> None:
    """Send a request within a dialog each way."""
    for side, other in ((here, there), (there, here)):
        side.send("INFO")
        other.phone.answer(await other.phone.request("INFO"), 200)
        await side.phone.response(200)


async def hang_up(here: Dialog[SocketPhone], there: Dialog[SocketPhone]) -> None:
    """End a call."""
    here.send("BYE")
    there.phone.answer(await there.phone.request("BYE"), 200)
    await here.phone.response(200)


async def calls(one: SocketPhone, other: SocketPhone) -> None:
    """Call, talk and hang up."""
    here, there = await call(one, other)
    await talk(here, there)
    await hang_up(here, there)


async def reached(one: SocketPhone, other: SocketPhone, seconds: float) -> None:
    """Send messages until one arrives.

    Raises:
        TimeoutError: None has arrived in time.
    """
    async with asyncio.timeout(seconds):
        while True:
            one.send("MESSAGE", other.aor)
            waiting = {
                asyncio.ensure_future(one.response()),
                asyncio.ensure_future(other.message()),
            }
            done, rest = await asyncio.wait(
                waiting, timeout=1.0, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                # It went where the other was until a moment ago: the news of a registration at one
                # node reaches the next one after the response.
                for each in rest:
                    each.cancel()
                continue
            (first,) = [each.result() for each in done]
            if isinstance(first, SipRequest):
                other.answer(first, 200)
                (answer,) = [await each for each in rest]
                assert isinstance(answer, SipResponse)
                assert answer.status == 200
                return
            for each in rest:
                each.cancel()
            assert first.status in (404, 430, 480, 503), first
            await asyncio.sleep(0.1)


def test_nodes_over_tls_with_certificates(tmp_path: Path) -> None:
    authority = trustme.CA()
    paths = {name: str(tmp_path / name) for name in ("ca", "cert")}
    authority.cert_pem.write_to_path(paths["ca"])
    authority.issue_cert("nodes.example").private_key_and_cert_chain_pem.write_to_path(
        paths["cert"]
    )
    tls = (
        *("--node-tls-cert", paths["cert"], "--node-tls-ca", paths["ca"]),
        *("--node-tls-name", "nodes.example"),
    )

    async def scenario(one: str, two: str) -> None:
        async with phone(one, "alice") as alice, phone(two, "bob") as bob:
            await reached(alice, bob, 10.0)
            await calls(bob, alice)

    with redis_server() as redis, nodes(redis.url, tmp_path, "one", "two", extra=tls) as (one, two):
        run(scenario(one.url, two.url), HANGS)
        for service in (one, two):
            (line,) = [line for line in service.announced if line.startswith("Node ")]
            assert "with certificates" in line
            # A program of the same machine has no certificate.
            host, port = line.partition(";")[0].split()[-1].split(":")
            with socket.create_connection((host, int(port)), 10) as sock:
                sock.sendall(b"OPTIONS sip:x SIP/2.0\r\n\r\n")
                assert not sock.recv(1000).startswith(b"SIP/2.0")


def test_one_user_registers_at_both_nodes_at_once(tmp_path: Path) -> None:
    async def scenario(urls: list[str]) -> None:
        async with AsyncExitStack() as stack:
            phones = [
                await stack.enter_async_context(
                    phone(urls[number % 2], "alice", number=number + 1, registers=False)
                )
                for number in range(8)
            ]
            answers = await asyncio.gather(*[each.register() for each in phones])
            assert sorted(answer.status for answer in answers) == [200] * 3 + [503] * 5
            # All that were let in are there, and ring.
            bob = await stack.enter_async_context(phone(urls[0], "bob"))
            admitted = [each for each, a in zip(phones, answers, strict=True) if a.status == 200]
            invite = bob.send("INVITE", "sip:alice@sip.test", body=b"v=0\r\n")
            for each in admitted:
                each.answer(await each.request("INVITE"), 180)
            for _ in admitted:
                await bob.response(180)
            bob.follow("CANCEL", invite)
            for each in admitted:
                each.answer(await each.request("CANCEL"), 200)

    limits = ("--sip-max-contacts", "3")
    with redis_server() as redis, nodes(redis.url, tmp_path, "a", "b", extra=limits) as both:
        run(scenario([service.url for service in both]), HANGS)


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_the_store_is_down_for_a_while(tmp_path: Path, how: str) -> None:
    async def scenario(redis: RedisServer, one: str, two: str) -> None:
        async with (
            phone(one, "alice") as alice,
            phone(two, "bob") as bob,
            phone(one, "carol", registers=False) as carol,
        ):
            here, there = await call(alice, bob)
            redis.kill() if how == "killed" else redis.pause()
            # A call that is under way needs no store.
            await talk(here, there)
            for _ in range(2):
                answer = await carol.register()
                assert (answer.status, answer.get("retry-after")) == (503, "5")
                answer = await refused(carol, "INVITE", alice.aor, 3.0)
                assert answer.status == 480
                assert answer.get("retry-after") is not None
                carol.send("ACK", alice.aor, contact=False, cseq=1)
            # By now both know, so that the answer comes at once.
            await refused(alice, "MESSAGE", bob.aor, 0.5)
            await talk(there, here)
            if how == "killed":
                # Nothing is left of what was in it.
                redis.start()
            else:
                redis.resume()
            await reached(alice, bob, 20.0)
            await reached(bob, alice, 20.0)
            assert (await carol.register()).status == 200
            await talk(here, there)
            await hang_up(there, here)

    with redis_server() as redis, nodes(redis.url, tmp_path, "one", "two") as (one, two):
        run(scenario(redis, one.url, two.url), HANGS)
        logs = ["\n".join(service.stop()[1]) for service in (one, two)]
        # The other one may not have asked meanwhile.
        assert "store-down" in logs[0]
        assert "store-up" in logs[0]
        for log in logs:
            assert ("store-renewed" in log) is (how == "killed")
            assert "Traceback" not in log


def test_the_store_has_lost_its_last_changes(tmp_path: Path) -> None:
    async def scenario(redis: RedisServer, one: str, two: str) -> None:
        async with phone(one, "alice") as alice, phone(two, "bob") as bob:
            await calls(alice, bob)
            redis.run("DEL", f"ws:{{{bob.aor}}}")
            assert (await refused(alice, "MESSAGE", bob.aor, 2.0)).status in (404, 480)
            # The next refresh brings it back, and so does a look of the node that has it.
            assert (await bob.register()).status == 200
            await calls(alice, bob)
            redis.run("DEL", f"ws:{{{bob.aor}}}")
            bob.send("MESSAGE", bob.aor)
            bob.answer(await bob.request("MESSAGE"), 200)
            await bob.response(200)
            await reached(alice, bob, 5.0)

    with redis_server() as redis, nodes(redis.url, tmp_path, "one", "two") as (one, two):
        run(scenario(redis, one.url, two.url), HANGS)


def test_a_slow_store(tmp_path: Path) -> None:
    """It answers after 200 ms: order holds, and callers hear 100 at once."""

    async def scenario(redis: RedisServer) -> None:
        with (
            way_to(redis.port) as way,
            nodes(f"redis://{HOST}:{way.port}", tmp_path, "one", "two") as (one, two),
        ):
            async with phone(one.url, "alice") as alice, phone(two.url, "bob") as bob:
                way.delay = 0.2
                loop = asyncio.get_running_loop()
                began = loop.time()
                invite = alice.send("INVITE", bob.aor, body=b"v=0\r\n")
                await alice.response(100)
                assert loop.time() - began < 0.2
                incoming = await bob.request("INVITE")
                assert loop.time() - began >= 0.2
                bob.answer(incoming, 180)
                await alice.response(180)
                # It is given up while it rings, and another one while it waits.
                alice.follow("CANCEL", invite)
                bob.answer(await bob.request("CANCEL"), 200)
                bob.answer(incoming, 487)
                await bob.request("ACK")
                statuses = sorted([(await alice.response()).status for _ in range(2)])
                assert statuses == [200, 487]
                alice.follow("ACK", invite)
                invite = alice.send("INVITE", bob.aor, body=b"v=0\r\n")
                await alice.response(100)
                alice.follow("CANCEL", invite)
                statuses = sorted([(await alice.response()).status for _ in range(2)])
                assert statuses == [200, 487]
                alice.follow("ACK", invite)
                # What one client sends arrives in its order.
                for number in range(10):
                    alice.send("MESSAGE", bob.aor, body=str(number).encode())
                for number in range(10):
                    message = await bob.request("MESSAGE")
                    assert message.body == str(number).encode()
                    bob.answer(message, 200)
                for _ in range(10):
                    await alice.response(200)
                # A client that is gone before its registration is granted has none.
                async with phone(one.url, "carol", registers=False) as carol:
                    carol.send(
                        "REGISTER",
                        f"sip:{DOMAIN}",
                        *carol.registration(expires=300),
                        to=f"<{carol.aor}>",
                    )
                    await carol.hang_up()
                way.delay = 0.0
                async with asyncio.timeout(10.0):
                    await asyncio.to_thread(is_gone, redis, carol)
                assert (await refused(alice, "MESSAGE", carol.aor, 2.0)).status in (404, 480)

    with redis_server() as redis:
        run(scenario(redis), HANGS)


def test_calls_end_while_the_store_is_asked(tmp_path: Path) -> None:
    """A BYE waits for its turn, or for nothing, while a request before it waits for an answer."""

    async def scenario(redis: RedisServer) -> None:
        with (
            way_to(redis.port) as way,
            nodes(f"redis://{HOST}:{way.port}", tmp_path, "one", "two") as (one, two),
        ):
            async with (
                phone(one.url, "alice") as alice,
                phone(two.url, "bob") as bob,
                phone(two.url, "carol") as carol,
            ):
                # From the side that asks: both arrive, in their order.
                here, _ = await call(alice, bob)
                way.delay = 0.2
                alice.send("MESSAGE", bob.aor)
                here.send("BYE")
                for method in ("MESSAGE", "BYE"):
                    bob.answer(await bob.request(method), 200)
                    assert (await alice.response(200)).cseq.method == method
                way.delay = 0.0
                _, theirs = await call(alice, bob)
                ours, _ = await call(alice, bob)
                way.cut = True
                invite = alice.send("INVITE", carol.aor, body=b"v=0\r\n")
                await alice.response(100)
                ours.send("BYE")
                # From the other side: at once.
                theirs.send("BYE")
                alice.answer(await alice.request("BYE"), 200)
                await bob.response(200)
                # From the side that asks, when the answer has not come.
                refusal = await alice.response()
                assert (refusal.status, refusal.cseq.method) == (480, "INVITE")
                alice.follow("ACK", invite, to=str(refusal.to))
                bob.answer(await bob.request("BYE"), 200)
                assert (await alice.response(200)).cseq.method == "BYE"

    with redis_server() as redis:
        run(scenario(redis), HANGS)


def test_a_nonce_of_one_node_is_answered_with_a_fresh_one_at_another(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:word\n")
    users.chmod(0o600)

    async def scenario(one: str, two: str) -> None:
        options: dict[str, Any] = {"password": "word", "registers": False}
        async with phone(one, "alice", **options) as there, phone(two, "alice", **options) as here:
            uri = f"sip:{DOMAIN}"

            async def registered(
                at: SocketPhone, challenge: SipResponse | None, cseq: int
            ) -> SipResponse:
                proof = [] if challenge is None else [at.credentials(challenge, "REGISTER", uri)]
                fields = at.registration(*proof, expires=300)
                at.send("REGISTER", uri, *fields, to=f"<{at.aor}>", cseq=cseq)
                return await at.response()

            first = await registered(there, None, 1)
            assert first.status == 401
            assert "stale" not in str(first.get("www-authenticate"))
            stale = await registered(here, first, 1)
            assert stale.status == 401
            # The password was right, so that its user is not asked again (RFC 7616 §3.3).
            assert "stale=true" in str(stale.get("www-authenticate"))
            assert (await registered(here, stale, 2)).status == 200
            # Where it came from, it is still good.
            assert (await registered(there, first, 2)).status == 200

    flags = ("--sip-users", str(users))
    with redis_server() as redis, nodes(redis.url, tmp_path, "a", "b", extra=flags) as (one, two):
        run(scenario(one.url, two.url), HANGS)


def test_a_node_is_cut_off_from_the_store_alone(tmp_path: Path) -> None:
    async def scenario(redis: RedisServer) -> None:
        ready = ("--ready", "/r")
        with (
            way_to(redis.port) as way,
            nodes(f"redis://{HOST}:{way.port}", tmp_path, "cut", extra=ready) as (one,),
            nodes(redis.url, tmp_path, "well") as (two,),
        ):
            async with phone(one.url, "alice") as alice, phone(two.url, "bob") as bob:
                here, there = await call(bob, alice)
                assert status(one.address, "/r") == 200
                way.cut = True
                # Its own clients are told, and those of others still reach them for a while.
                answer = await refused(alice, "MESSAGE", "sip:other@sip.test", 3.0)
                assert answer.status in (480, 503)
                await reached(bob, alice, 2.0)
                # Then it is gone, for the others and for a balancer; calls go on.
                await lost(bob, alice, LIFETIME + 5.0)
                await asyncio.to_thread(not_ready, one)
                await talk(here, there)
                way.cut = False
                await reached(bob, alice, 20.0)
                assert status(one.address, "/r") == 200
                await reached(alice, bob, 5.0)
                await hang_up(here, there)

    with redis_server() as redis:
        run(scenario(redis), HANGS)


def is_gone(redis: RedisServer, phone: SocketPhone) -> None:
    """Wait until a telephone's binding is not in the store."""
    while phone.contact in redis.run("HGETALL", f"ws:{{{phone.aor}}}"):
        time.sleep(0.05)


def not_ready(service: Service) -> None:
    """Wait until a node is not ready."""
    while status(service.address, "/r") == 200:
        time.sleep(0.1)


async def lost(one: SocketPhone, other: SocketPhone, seconds: float) -> None:
    """Send messages until one is refused.

    Raises:
        TimeoutError: All have arrived.
    """
    async with asyncio.timeout(seconds):
        while await refused_or_answered(one, other) == 200:
            # The next one a little later.
            await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.5))])


async def refused_or_answered(one: SocketPhone, other: SocketPhone) -> int:
    """Send a message, which the other answers if it comes; return the status."""
    one.send("MESSAGE", other.aor)
    answered = asyncio.ensure_future(one.response())
    came = asyncio.ensure_future(other.message())
    await asyncio.wait({answered, came}, return_when=asyncio.FIRST_COMPLETED)
    if came.done():
        request = came.result()
        assert isinstance(request, SipRequest)
        other.answer(request, 200)
    else:
        came.cancel()
    return (await answered).status


def status(address: tuple[str, int], path: str) -> int:
    """Return the status of a plain request."""
    with socket.create_connection(address, 10) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        with sock.makefile("rb") as stream:
            return int(stream.readline().split()[1])


def test_a_node_is_killed(tmp_path: Path) -> None:
    """A call goes to the binding that is left, and to the node when it has come back."""

    async def scenario(redis: RedisServer, one: str, two: Service) -> None:
        async with (
            phone(one, "alice") as alice,
            phone(one, "bob", q=";q=0.5") as desk,
            phone(two.url, "bob", q=";q=1.0") as mobile,
            phone(two.url, "carol") as carol,
        ):
            await reached(alice, carol, 5.0)
            two.process.send_signal(signal.SIGKILL)
            two.process.wait(10)
            # Its entry is still there: the end of the connection tells, and the next one is tried.
            here, there = await call(alice, desk)
            await hang_up(here, there)
            assert (await refused(alice, "MESSAGE", carol.aor, 3.0)).status == 480
            assert mobile is not desk
            with nodes(redis.url, tmp_path, "two") as (again,):
                # Another run: what the earlier one had is void at once.
                assert (await refused(alice, "MESSAGE", carol.aor, 3.0)).status in (404, 480)
                async with phone(again.url, "carol") as back:
                    await reached(alice, back, 5.0)
                    await calls(back, alice)

    with redis_server() as redis, nodes(redis.url, tmp_path, "one", "two") as (one, two):
        run(scenario(redis, one.url, two), HANGS)


@asynccontextmanager
async def mobile(url: str, connection: int) -> AsyncIterator[SocketPhone]:
    """Run a telephone that is the same one on each of its connections."""
    options: dict[str, Any] = {"number": 900, "outbound": "urn:uuid:1"}
    async with phone(url, "bob", registers=False, **options) as made:
        made.calls = count(100 * connection)
        assert (await made.register()).status == 200
        yield made


def test_a_client_moves_to_another_node(tmp_path: Path) -> None:
    async def scenario(redis: RedisServer, one: str, two: str) -> None:
        async with phone(two, "alice") as alice, AsyncExitStack() as stack:
            before = await stack.enter_async_context(mobile(one, 1))
            await reached(alice, before, 5.0)
            # Its old connection has not ended yet, as far as that node knows.
            async with mobile(two, 2) as after:
                await reached(alice, after, 5.0)
                held = redis.run("HKEYS", "ws:{sip:bob@sip.test}")
                assert held.count("urn:uuid:1") == 1
                # Its late end is not that of the new one.
                await stack.aclose()
                await before.hang_up()
                await reached(alice, after, 5.0)
                async with phone(one, "carol") as carol:
                    await calls(carol, after)
                assert "urn:uuid:1" in redis.run("HKEYS", "ws:{sip:bob@sip.test}")
                # And back.
                async with mobile(one, 3) as again:
                    await reached(alice, again, 5.0)

    with redis_server() as redis, nodes(redis.url, tmp_path, "one", "two") as (one, two):
        run(scenario(redis, one.url, two.url), HANGS)


def test_forged_routes_lead_nowhere(tmp_path: Path) -> None:
    """A client writes what only nodes write: addresses, tokens, and a whole message of theirs."""

    async def scenario(redis: RedisServer, one: str, two: str) -> None:
        async with phone(one, "alice") as alice, phone(two, "bob") as bob:
            here, there = await call(alice, bob)
            routes = list(here.route)
            record = redis.run("HVALS", f"ws:{{{bob.aor}}}")
            token = record.partition('"token":"')[2].partition('"')[0]
            place = redis.run("HGET", "ws:nodes", "two")
            port = place.partition('"port": ')[2].partition(",")[0]
            assert token
            assert port.isdigit()
            other = ("A" if token[30] != "A" else "B").join((token[:30], token[31:]))
            for user in ("", f"{other}@", f"{token[:20]}{'A' * (len(token) - 20)}@", "x@"):
                for target in (bob.contact, bob.aor, alice.aor):
                    forged = ("Route", f"<sip:{user}{HOST}:{port};transport=tcp;lr>")
                    alice.send("MESSAGE", target, forged)
                    answer = await alice.response()
                    assert answer.status == 403, (user, answer)
            # Routes of a call are for that call. The own node's own one leads nowhere further.
            statuses = []
            for route in routes:
                alice.send("MESSAGE", bob.contact, ("Route", route))
                statuses.append((await alice.response()).status)
            assert statuses == [403, 404, 403, 403]
            # Somewhere else, where no node is.
            for place in (f"{HOST}:{free_port()}", "192.0.2.1:5070", f"{HOST}:{redis.port}"):
                alice.send("MESSAGE", bob.contact, ("Route", f"<sip:{place};transport=tcp;lr>"))
                assert (await alice.response()).status == 403
            # Nothing of all this has arrived.
            await talk(here, there)
            await hang_up(there, here)

    with redis_server() as redis, nodes(redis.url, tmp_path, "one", "two") as (one, two):
        run(scenario(redis, one.url, two.url), HANGS)


def test_programs_other_than_nodes_are_not_heard(tmp_path: Path) -> None:
    """Nodes have addresses of their own here, and others are not taken for one."""

    async def scenario(redis: RedisServer) -> None:
        keys = tmp_path / "keys"
        keys.write_text("ab" * 32 + "\n")
        ports = [free_port() for _ in range(2)]
        shared = ("--store", redis.url, "--sip-flow-keys", str(keys), "--sip-domain", DOMAIN)
        network = ("--node-network", "127.0.0.2/31")
        with (
            launched(*shared, *network, "--node-listen", f"127.0.0.2:{ports[0]}") as one,
            launched(*shared, *network, "--node-listen", f"127.0.0.3:{ports[1]}") as two,
        ):
            async with phone(one.url, "alice") as alice, phone(two.url, "bob") as bob:
                await reached(alice, bob, 10.0)
                # A replayed message of a node, from an address that is none's.
                reader, writer = await asyncio.open_connection("127.0.0.3", ports[1])
                record = redis.run("HVALS", f"ws:{{{bob.aor}}}")
                token = record.partition('"token":"')[2].partition('"')[0]
                fields = [
                    ("Via", f"SIP/2.0/TCP 127.0.0.2:{ports[0]};branch=z9hG4bKx"),
                    ("Route", f"<sip:{token}@127.0.0.3:{ports[1]};transport=tcp;lr>"),
                    ("From", "<sip:alice@sip.test>;tag=1"),
                    ("To", f"<{bob.aor}>"),
                    ("Call-ID", "x"),
                    ("CSeq", "1 MESSAGE"),
                ]
                replayed = SipRequest("MESSAGE", bob.contact, fields)
                writer.write(replayed.to_bytes())
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
                writer.close()
                # The same through the front door.
                alice.say(replayed)
                answer = await alice.response()
                assert answer.status == 403, answer
                await calls(alice, bob)

    with redis_server() as redis:
        run(scenario(redis), HANGS)


def test_clocks_of_nodes_that_differ_by_a_minute(tmp_path: Path) -> None:
    """A client goes from a node that is ahead to one that is late, and back: it is where it is."""

    async def scenario(redis: RedisServer) -> None:
        async with (
            skewed(redis, "ahead", 30.0) as ahead,
            skewed(redis, "late", -30.0) as late,
            phone(late.url, "alice") as alice,
            AsyncExitStack() as stack,
        ):
            places = ((ahead, "ahead"), (late, "late"), (ahead, "ahead"))
            # No connection has ended, as far as its node knows.
            for number, (edge, name) in enumerate(places):
                bob = await stack.enter_async_context(mobile(edge.url, number + 1))
                await reached(alice, bob, 5.0)
                held = redis.run("HVALS", "ws:{sip:bob@sip.test}")
                assert held.count(f'"node":"{name}"') == held.count('"node":') == 1
                # It lasts as long as it was granted, for those with another clock, too.
                found = await late.ask(Lookup("sip:bob@sip.test"))
                (binding,) = found.bindings
                assert late.edge.registrar is not None
                left = binding.expires_at - late.edge.registrar.wall(late.service.now())
                assert 290.0 < left < 301.0

    with redis_server() as redis:
        run(scenario(redis), HANGS)


class Skewed(EdgeServer):
    """A node whose clock is wrong, in this process."""

    location: LocationService

    async def ask(self, question: Lookup) -> Found:
        """Ask the store as the node does."""
        found = await self.location.answer(question)
        assert isinstance(found, Found)
        return found


@asynccontextmanager
async def skewed(redis: RedisServer, name: str, by: float) -> AsyncIterator[Skewed]:
    """Run a node whose clock is wrong."""
    entry = NodeEntry(name, "1", HOST, free_port())
    location = LocationService(RedisEngine(redis.url), entry, clock=lambda: time.time() + by)
    registrar = Registrar(RegistrarConfig(Domains((DOMAIN,))), node=entry.node)
    edge = Skewed(service={"resolve": location.resolver()}, registrar=registrar)
    edge.location = location
    try:
        ((host, port),) = await edge.server.listen(HOST, 0)
        edge.url = f"ws://{host}:{port}/"
        await edge.service.listen_for_nodes(entry.host, entry.port, introduce=location.meet)
        await location.open(edge.service)
        yield edge
    finally:
        await location.close()
        await edge.service.close()
        await edge.server.close()
