"""The location store in Redis: what it does, with Debian's redis-server, and where it can be."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.adapters._sip import HOST, free_port
from tests.peers._redis import RedisServer, needs_redis, redis_server
from tests.peers._support import run
from wsproto_sip.adapters.asyncio.location import (
    EngineError,
    NodeEntry,
    Own,
    Population,
    Writing,
)
from wsproto_sip.adapters.asyncio.location_redis import RedisEngine, RedisPlace, RedisTls
from wsproto_sip.auth.outcome import Unavailable
from wsproto_sip.auth.used import FirstUse
from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.registrar.records import key_of, record_of
from wsproto_sip.sip.registrar.store import Binding, Conflict, Done, Found, Lookup, Node, Update

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator

ONE, TWO = Node("one", "1"), Node("two", "1")
ENTRY = NodeEntry("one", "1", HOST, 5070, extra={"a": "b"})
ALICE = "sip:alice@sip.test"


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    """Run a server for the tests that leave it as it is; each has keys of its own."""
    with redis_server() as server:
        yield server


@asynccontextmanager
async def engine(url: str, **options: Any) -> AsyncIterator[RedisEngine]:
    # The machine may have other work.
    made = RedisEngine(url, **({"timeout": 10.0} | options))
    try:
        yield made
    finally:
        await made.close()


def binding(name: str = "a", node: Node = ONE, **fields: Any) -> Binding:
    made = Binding(
        NameAddr.parse(f"<sip:{name}@x.invalid;transport=ws>"),
        time.time() + 100.0,
        f"call-{name}",
        1,
        time.time(),
        node=node,
        token="token",
    )
    return replace(made, **fields)


async def ask(made: RedisEngine, *questions: Lookup | Update, node: Node = ONE) -> list[Any]:
    return list(await made.perform(questions, node, 0.0))


# -- where it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://a", RedisPlace((("a", 6379),))),
        ("valkey://a:7/3", RedisPlace((("a", 7),), database=3)),
        ("rediss://[::1]:7/", RedisPlace((("::1", 7),), secure=True)),
        ("valkeys://:p%40s@a", RedisPlace((("a", 6379),), secure=True, password="p@s")),
        ("redis://u:p@a", RedisPlace((("a", 6379),), user="u", password="p")),
        (
            "redis+sentinel://a,b:7,[::1]/calls/2",
            RedisPlace(
                (("a", 26379), ("b", 7), ("::1", 26379)), "+sentinel", master="calls", database=2
            ),
        ),
        (
            "rediss+cluster://u:p@a,b:7",
            RedisPlace((("a", 6379), ("b", 7)), "+cluster", secure=True, user="u", password="p"),
        ),
        ("unix:///run/a%20b", RedisPlace((), "unix", path="/run/a b")),
        ("unix://:p@/run/a", RedisPlace((), "unix", password="p", path="/run/a")),
    ],
)
def test_places(url: str, place: RedisPlace) -> None:
    assert RedisPlace.parse(url) == place


@pytest.mark.parametrize(
    "url",
    [
        *("", "a", "http://a", "redis:a", "redis://", "redis://a:x", "redis://a:70000"),
        *("redis://a/x", "redis://a/1/2", "redis://a,b", "redis://a?db=1", "redis://a#1"),
        *("redis+sentinel://a", "redis+sentinel://a/b/c", "redis+sentinel://a/b/1/2"),
        *("redis+cluster://a/1", "redis+cluster://a,,b", "unix://a/b", "unix:a", "redis://[::1"),
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not of the form redis"):
        RedisPlace.parse(url)


def test_a_refused_url_is_not_shown() -> None:
    with pytest.raises(ValueError) as caught:
        RedisPlace.parse("redis://user:s3cret@a/b")
    assert "s3cret" not in str(caught.value)


@given(st.text())
def test_any_text_is_a_place_or_refused(text: str) -> None:
    try:
        place = RedisPlace.parse(f"redis://{text}")
    except ValueError:
        return
    assert place.hosts


def test_redis_py_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ImportError, match=r"wsproto-sip\[redis\]"):
        RedisEngine("redis://a")


# -- tokens ----------------------------------------------------------------------------------------


@needs_redis
def test_a_token_is_used_once(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="tokens:") as one:
            asked = [one.use(FirstUse("a", 60.0)) for _ in range(10)]
            assert sorted(await asyncio.gather(*asked)) == [False] * 9 + [True]
            assert await one.use(FirstUse("b", 60.0))
            left = redis.run("PTTL", "tokens:used:a")
            assert 0 < int(left[1:]) <= 60_000
            assert await one.use(FirstUse("c", 0.0001))
            with pytest.raises(EngineError, match="out of range"):
                await one.use(FirstUse("d", 1e18))

    run(scenario())


# -- bindings --------------------------------------------------------------------------------------


@needs_redis
def test_bindings_come_and_go(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="go:") as made:
            one, two = binding("a"), binding("b", TWO)
            assert await ask(made, Lookup(ALICE)) == [Found(ALICE)]
            (done,) = await ask(made, Update(ALICE, 0, (), (one,)))
            assert isinstance(done, Done)
            assert done.version > 0
            assert await ask(made, Lookup(ALICE)) == [Found(ALICE, (one,), done.version)]
            # Only on what it was worked out from.
            assert await ask(made, Update(ALICE, 0, (), (two,))) == [
                Conflict(Found(ALICE, (one,), done.version))
            ]
            (later,) = await ask(made, Update(ALICE, done.version, (), (two,)), node=TWO)
            assert later.version > done.version
            (found,) = await ask(made, Lookup(ALICE))
            assert (set(found.bindings), found.version) == ({one, two}, later.version)
            # One is dropped, and the other replaced.
            again = replace(two, cseq=2)
            (last,) = await ask(made, Update(ALICE, later.version, (one, two), (again,)))
            assert await ask(made, Lookup(ALICE)) == [Found(ALICE, (again,), last.version)]
            # What has no bindings any more keeps its version.
            (empty,) = await ask(made, Update(ALICE, last.version, (again,)))
            assert await ask(made, Lookup(ALICE)) == [Found(ALICE, (), empty.version)]

    run(scenario())


@needs_redis
def test_an_address_is_forgotten_after_its_last_binding(redis: RedisServer) -> None:
    async def left(made: RedisEngine) -> float:
        return float(await made.client.pttl("ends:{sip:alice@sip.test}")) / 1000

    async def scenario() -> None:
        async with engine(redis.url, prefix="ends:") as made:
            short, long = (
                binding(name, expires_at=time.time() + seconds)
                for name, seconds in (("a", 100.0), ("b", 1000.0))
            )
            (done,) = await ask(made, Update(ALICE, 0, (), (short,)))
            assert 100.0 < await left(made) < 106.0
            (done,) = await ask(made, Update(ALICE, done.version, (), (long,)))
            assert 1000.0 < await left(made) < 1006.0
            # A shorter one changes nothing, and neither does the end of the long one.
            (done,) = await ask(made, Update(ALICE, done.version, (short,), (replace(short, q=1),)))
            (done,) = await ask(made, Update(ALICE, done.version, (long,)))
            assert 990.0 < await left(made) < 1006.0
            # A change of nothing is there for as long as a lost one could come.
            (done,) = await ask(made, Update("sip:b@sip.test", 0))
            assert done.version > 0
            assert 50_000 < await made.client.pttl("ends:{sip:b@sip.test}") <= 60_000
            # The store's clock counts: it is ahead of the one of the binding.
            await made.perform([Update("sip:c@sip.test", 0, (), (short,))], ONE, 500.0)
            assert 600_000 < await made.client.pttl("ends:{sip:c@sip.test}") < 606_000

    run(scenario())


@needs_redis
def test_versions_increase_after_an_address_was_forgotten(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="version:") as made:
            versions: list[int] = []
            for _ in range(3):
                for base in (0, None):
                    known = versions[-1] if base is None else base
                    (done,) = await ask(made, Update(ALICE, known))
                    versions.append(done.version)
                await made.client.delete("version:{sip:alice@sip.test}")
            assert versions == sorted(set(versions))
            # Even if the server's clock was put back.
            await made.client.hset("version:{sip:alice@sip.test}", "version", 8 * 10**15)
            (done,) = await ask(made, Update(ALICE, 8 * 10**15))
            assert done.version == 8 * 10**15 + 1

    run(scenario())


@needs_redis
def test_two_nodes_change_one_address_at_once(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with (
            engine(redis.url, prefix="race:") as one,
            engine(redis.url, prefix="race:") as two,
        ):

            async def register(made: RedisEngine, node: Node) -> int:
                tries = 0
                for number in range(20):
                    base: Found = Found(ALICE)
                    while True:
                        tries += 1
                        wanted = binding(f"{node.name}{number}", node)
                        (answer,) = await ask(
                            made, Update(ALICE, base.version, (), (wanted,)), node=node
                        )
                        if isinstance(answer, Done):
                            break
                        base = answer.found
                return tries

            tries = await asyncio.gather(register(one, ONE), register(two, TWO))
            (found,) = await ask(one, Lookup(ALICE))
            assert len(found.bindings) == 40
            assert sum(tries) > 40

    run(scenario())


_NAMES = st.sampled_from("abc")
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["update", "stale", "lookup"]),
        st.sampled_from([ONE, TWO]),
        st.sampled_from(["sip:x@a.test", "sip:y}@a.test", "sip:{z@ä.test", ""]),
        st.lists(_NAMES, unique=True),
        st.lists(_NAMES, unique=True),
    ),
    max_size=12,
)


@needs_redis
@given(_STEPS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_it_does_what_a_store_in_memory_does(
    redis: RedisServer, steps: list[tuple[str, Node, str, list[str], list[str]]]
) -> None:
    async def scenario() -> None:
        model: dict[str, tuple[dict[str, Binding], int]] = {}
        prefix = f"model{time.monotonic_ns()}:"
        async with engine(redis.url, prefix=prefix) as made:
            for kind, node, aor, drops, puts in steps:
                held, version = model.get(aor, ({}, 0))
                (found,) = await ask(made, Lookup(aor), node=node)
                assert (found.aor, found.version) == (aor, version)
                assert set(found.bindings) == set(held.values())
                if kind == "lookup":
                    continue
                drop = tuple([held[name] for name in drops if name in held])
                put = tuple(
                    [binding(name, node) for name in puts if name in drops or name not in held]
                )
                base = version if kind == "update" else version + 1
                (answer,) = await ask(made, Update(aor, base, drop, put), node=node)
                if kind == "stale":
                    assert isinstance(answer, Conflict)
                    assert set(answer.found.bindings) == set(held.values())
                    continue
                assert isinstance(answer, Done)
                assert answer.version > version
                gone = {key_of(each) for each in drop}
                kept = {name: each for name, each in held.items() if key_of(each) not in gone}
                for each in put:
                    kept[str(each.uri.username)] = each
                model[aor] = kept, answer.version

    run(scenario())


@needs_redis
def test_temporary_gruus_lead_to_their_address(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="gruu:") as made:
            one = binding(gruu=77)
            (done, unknown) = await ask(made, Update(ALICE, 0, (), (one,)), Lookup("", 78))
            assert unknown == Found("")
            found = await ask(made, Lookup("", 77), Lookup(ALICE), Lookup("", 78))
            assert found == [Found(ALICE, (one,), done.version)] * 2 + [Found("")]
            assert 100_000 < await made.client.pttl("gruu:gruu:77") < 106_000

    run(scenario())


@needs_redis
def test_what_others_have_written_does_no_harm(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="odd:") as made:
            key = "odd:{sip:alice@sip.test}"
            one = binding()
            await made.client.hset(key, "0 sip:x", "later version")
            await made.client.hset(key, "0 sip:y", record_of(one) + " " * 70_000)
            assert await ask(made, Lookup(ALICE)) == [Found(ALICE)]
            await made.client.set("odd:{sip:b@sip.test}", "text")
            found = await ask(
                made, Lookup("sip:b@sip.test"), Update("sip:b@sip.test", 0), Lookup(ALICE)
            )
            assert [type(each) for each in found] == [Unavailable, Unavailable, Found]
            assert "WRONGTYPE" in found[0].reason
            await made.client.hset("odd:nodes", "three", f"{10**14} 1 later version")
            await made.client.hset("odd:nodes", "four", "later version")
            await made.client.hset("odd:nodes", "two", f"{10**14} 1 {ENTRY.to_text()}")
            population = await made.announce(ENTRY, Writing.TAKE, 15.0)
            assert population.others == {"two": replace(ENTRY, name="two")}
            await made.client.delete("odd:nodes")
            await made.client.set("odd:nodes", "text")
            with pytest.raises(EngineError, match="WRONGTYPE") as caught:
                await made.announce(ENTRY, Writing.LOOK, 15.0)
            assert caught.value.permanent

    run(scenario())


@needs_redis
def test_scripts_come_with_the_first_question(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="script:") as made:
            await made.client.script_flush()
            answers = await ask(made, Update("sip:a@x", 0), Lookup(ALICE), Update("sip:b@x", 0))
            assert [type(each) for each in answers] == [Done, Found, Done]

    run(scenario())


# -- nodes -----------------------------------------------------------------------------------------


@needs_redis
def test_nodes_have_entries_for_a_while(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(redis.url, prefix="nodes:") as made:
            two = NodeEntry("two", "1", HOST, 5071, "tls", draining=True)

            async def tell(entry: NodeEntry, writing: Writing, lifetime: float = 15.0) -> Any:
                return await made.announce(entry, writing, lifetime)

            before = time.time()
            found = await tell(ENTRY, Writing.LOOK)
            assert (found.others, found.own, found.server) == ({}, Own.ABSENT, "")
            assert before - 0.1 < found.clock < time.time() + 0.1
            assert (await tell(ENTRY, Writing.TAKE)).own is Own.ABSENT
            found = await tell(two, Writing.RENEW)
            assert (found.others, found.own) == ({"one": ENTRY}, Own.ABSENT)
            assert found.server == (await tell(two, Writing.RENEW)).server != ""
            assert (await tell(ENTRY, Writing.LOOK)).others == {"two": two}
            # Another run of the same node.
            again = replace(ENTRY, boot="2", draining=True)
            assert (await tell(again, Writing.LOOK)).own is Own.TAKEN
            assert (await tell(again, Writing.RENEW)).own is Own.TAKEN
            assert (await tell(again, Writing.LEAVE)).own is Own.TAKEN
            assert (await tell(two, Writing.LOOK)).others == {"one": ENTRY}
            assert (await tell(again, Writing.TAKE)).own is Own.TAKEN
            assert (await tell(two, Writing.LOOK)).others == {"one": again}
            assert (await tell(ENTRY, Writing.LOOK)).own is Own.TAKEN
            assert (await tell(again, Writing.LEAVE)).own is Own.PRESENT
            assert (await tell(two, Writing.LOOK)).others == {}
            # One that is not renewed is not seen any more, and removed by the next that writes.
            await tell(again, Writing.TAKE, 0.0)
            assert (await tell(two, Writing.LOOK)).others == {}
            assert await made.client.hlen("nodes:nodes") == 2
            assert (await tell(two, Writing.RENEW)).others == {}
            assert await made.client.hlen("nodes:nodes") == 1

    run(scenario())


# -- failures --------------------------------------------------------------------------------------


async def error_of(asked: Coroutine[Any, Any, object]) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await asked
    return caught.value


@needs_redis
def test_a_server_that_goes_and_comes_back() -> None:
    async def scenario() -> None:
        with redis_server() as server:
            async with engine(server.url) as made:
                first = await made.announce(ENTRY, Writing.TAKE, 15.0)
                server.kill()
                assert not (await error_of(ask(made, Lookup(ALICE)))).permanent
                assert not (await error_of(made.announce(ENTRY, Writing.RENEW, 15.0))).permanent
                await made.reset()
                server.start()
                second = await made.announce(ENTRY, Writing.RENEW, 15.0)
                assert second.own is Own.ABSENT
                assert second.server != first.server
                assert await ask(made, Lookup(ALICE)) == [Found(ALICE)]

    run(scenario())


@needs_redis
def test_a_server_that_hangs() -> None:
    async def scenario() -> None:
        with redis_server() as server:
            async with engine(server.url, timeout=1.0) as made:
                assert await ask(made, Lookup(ALICE)) == [Found(ALICE)]
                server.pause()
                assert not (await error_of(ask(made, Lookup(ALICE)))).permanent
                server.resume()
                await made.reset()
                assert await ask(made, Lookup("sip:b@x")) == [Found("sip:b@x")]

    run(scenario())


@needs_redis
def test_refusals() -> None:
    async def scenario() -> None:
        with redis_server("--requirepass", "right") as server:
            where = f"{HOST}:{server.port}"
            for url, options in (
                (f"redis://{where}", {}),
                (f"redis://:wrong@{where}", {}),
                (f"redis://:right@{where}", {"password": "wrong"}),
            ):
                async with engine(url, **options) as made:
                    error = await error_of(ask(made, Lookup(ALICE)))
                    assert error.permanent, error
            async with engine(f"redis://:wrong@{where}", password="right") as made:
                assert await ask(made, Lookup(ALICE)) == [Found(ALICE)]
                # A user that may not do what it has to.
                await made.client.acl_setuser(
                    "poor", enabled=True, passwords=["+x"], keys=["*"], commands=["+hgetall"]
                )
                await made.client.acl_setuser(
                    "rich",
                    enabled=True,
                    passwords=["+x"],
                    keys=["*"],
                    commands=[
                        *("+hgetall", "+eval", "+evalsha", "+hget", "+hset", "+hdel"),
                        *("+time", "+pttl", "+pexpireat"),
                    ],
                )
            async with engine(f"redis://poor:x@{where}") as made:
                assert (await error_of(made.announce(ENTRY, Writing.TAKE, 1.0))).permanent
            async with engine(f"redis://rich:x@{where}") as made:
                # Without INFO, another server cannot be told from this one.
                assert (await made.announce(ENTRY, Writing.TAKE, 1.0)).server == ""
                (done,) = await ask(made, Update(ALICE, 0, (), (binding(),)))
                assert isinstance(done, Done)

    run(scenario())


@needs_redis
def test_a_server_that_cannot_serve() -> None:
    async def scenario() -> None:
        with redis_server("--min-replicas-to-write", "0") as server:
            async with engine(server.url) as made:
                await made.announce(ENTRY, Writing.TAKE, 15.0)
                # A replica takes no changes: another one has to be looked for.
                await made.client.config_set("min-replicas-to-write", 1)
                error = await error_of(ask(made, Update(ALICE, 0, (), (binding(),))))
                assert ("NOREPLICAS" in str(error), error.permanent) == (True, False)
                await made.client.config_set("min-replicas-to-write", 0)
                await made.client.execute_command("REPLICAOF", HOST, str(free_port()))
                error = await error_of(ask(made, Update(ALICE, 0, (), (binding(),))))
                assert not error.permanent

    run(scenario())


@needs_redis
def test_info_may_be_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        with redis_server() as server:
            async with engine(server.url) as made:

                async def broken(*_: object) -> None:
                    raise OSError("reset")

                monkeypatch.setattr(made.client, "info", broken)
                error = await error_of(made.announce(ENTRY, Writing.TAKE, 15.0))
                assert (str(error), error.permanent) == ("reset", False)

    run(scenario())


# -- other places ----------------------------------------------------------------------------------


async def serves(made: RedisEngine) -> None:
    """Check that a store does all that it has to."""
    one = binding(gruu=5)
    assert (await made.announce(ENTRY, Writing.TAKE, 15.0)).server
    (done,) = await ask(made, Update(ALICE, 0, (), (one,)))
    others = [Lookup(f"sip:{number}@sip.test") for number in range(20)]
    found = await ask(made, Lookup(ALICE), Lookup("", 5), *others)
    assert found[:2] == [Found(ALICE, (one,), done.version)] * 2
    assert found[2:] == [Found(each.aor) for each in others]
    assert (await made.announce(ENTRY, Writing.LOOK, 15.0)).own is Own.PRESENT
    await made.reset()
    assert (await ask(made, Lookup(ALICE)))[0].bindings == (one,)


@needs_redis
def test_unix_socket(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "redis"
        with redis_server("--unixsocket", str(path)):
            async with engine(f"unix://{path}") as made:
                await serves(made)

    run(scenario())


@needs_redis
def test_databases_are_apart(redis: RedisServer) -> None:
    async def scenario() -> None:
        async with engine(f"{redis.url}/1") as one, engine(f"{redis.url}/2") as two:
            await serves(one)
            assert await ask(two, Lookup(ALICE)) == [Found(ALICE)]

    run(scenario())


@contextmanager
def secured(folder: Path) -> Iterator[tuple[RedisServer, dict[str, str]]]:
    """Run a server with TLS that asks for certificates of clients."""
    authority, stranger = trustme.CA(), trustme.CA()
    paths = {}
    for name, blob in (
        ("ca", authority.cert_pem),
        ("stranger", stranger.cert_pem),
        ("server", authority.issue_cert(HOST).private_key_and_cert_chain_pem),
        ("other", authority.issue_cert("other.example").private_key_and_cert_chain_pem),
        ("client", authority.issue_cert("node.example").private_key_and_cert_chain_pem),
    ):
        paths[name] = str(folder / name)
        blob.write_to_path(paths[name])
    port = free_port()
    arguments = ("--port", "0", "--tls-port", str(port), "--tls-ca-cert-file", paths["ca"])
    certificate = ("--tls-cert-file", paths["server"], "--tls-key-file", paths["server"])
    with redis_server(*arguments, *certificate, port=port) as server:
        yield server, paths


@needs_redis
def test_tls_with_certificates_of_both_sides(tmp_path: Path) -> None:
    async def scenario() -> None:
        with secured(tmp_path) as (server, paths):
            url = f"rediss://{HOST}:{server.port}"
            for tls in (
                RedisTls(paths["ca"], paths["client"]),
                RedisTls(paths["ca"], paths["client"], paths["client"]),
            ):
                async with engine(url, tls=tls, prefix=f"{len(tls)}:") as made:
                    await made.client.flushall()
                    await serves(made)
            for tls, permanent in (
                (RedisTls(paths["stranger"], paths["client"]), True),
                (RedisTls(), True),
                (RedisTls(paths["ca"]), False),
            ):
                async with engine(url, tls=tls) as made:
                    error = await error_of(ask(made, Lookup(ALICE)))
                    assert error.permanent is permanent, error

    run(scenario())


@contextmanager
def watched(*arguments: str) -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """Run a server, its replica and a Sentinel."""
    with (
        redis_server() as server,
        redis_server("--replicaof", HOST, str(server.port)) as replica,
        redis_server() as scratch,
    ):
        sentinel_port = free_port()
        path = Path(scratch.directory) / "sentinel.conf"
        path.write_text(
            f"port {sentinel_port}\nbind {HOST}\n"
            f"sentinel monitor calls {HOST} {server.port} 1\n"
            "sentinel down-after-milliseconds calls 300\nsentinel failover-timeout calls 3000\n"
        )
        sentinel = RedisServer(sentinel_port, (), scratch.directory)
        sentinel.start(str(path), "--sentinel")
        try:
            yield server, replica, sentinel
        finally:
            sentinel.kill()


@needs_redis
def test_sentinels_know_the_server() -> None:
    async def scenario() -> None:
        with watched() as (server, _, sentinel):
            url = f"redis+sentinel://{HOST}:{free_port()},{HOST}:{sentinel.port}/calls"
            async with engine(url) as made:
                first = await made.announce(ENTRY, Writing.TAKE, 15.0)
                await serves(made)
                await asyncio.to_thread(has_replica, server)
                server.kill()
                second = await announced_again(made)
                assert second.server != first.server
                assert second.own is Own.PRESENT
                assert len((await ask(made, Lookup(ALICE)))[0].bindings) == 1
            async with engine(f"redis+sentinel://{HOST}:{sentinel.port}/unknown") as made:
                assert not (await error_of(ask(made, Lookup(ALICE)))).permanent

    run(scenario())


async def announced_again(made: RedisEngine) -> Population:
    """Try until another server has taken over."""
    while True:
        await made.reset()
        try:
            return await made.announce(ENTRY, Writing.RENEW, 15.0)
        except EngineError as error:
            # Another attempt makes sense.
            if error.permanent:
                raise
        await asyncio.sleep(0.05)


def has_replica(server: RedisServer) -> None:
    """Wait until a server's replica has all that it has."""
    while "offset=0" in (said := server.run("INFO", "replication")) or "state=online" not in said:
        time.sleep(0.02)
    assert server.run("WAIT", "1", "5000") == ":1\r\n"


def is_cluster(server: RedisServer) -> None:
    """Wait until a server of a cluster knows the others."""
    while "cluster_state:ok" not in server.run("CLUSTER", "INFO"):
        time.sleep(0.02)


@needs_redis
def test_a_cluster() -> None:
    """Two servers with half of the addresses each, of which only one is named."""

    async def scenario() -> None:
        arguments = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        buses = [str(free_port()) for _ in range(2)]
        with (
            redis_server(*arguments, "--cluster-port", buses[0]) as one,
            redis_server(*arguments, "--cluster-port", buses[1]) as two,
        ):
            one.run("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
            two.run("CLUSTER", "ADDSLOTSRANGE", "8192", "16383")
            one.run("CLUSTER", "SET-CONFIG-EPOCH", "1")
            two.run("CLUSTER", "SET-CONFIG-EPOCH", "2")
            one.run("CLUSTER", "MEET", HOST, str(two.port), buses[1])
            for server in (one, two):
                await asyncio.to_thread(is_cluster, server)
            async with engine(f"redis+cluster://{HOST}:{one.port}") as made:
                await serves(made)
                population = await made.announce(ENTRY, Writing.RENEW, 15.0)
                assert population.server.count(",") == 1
                sizes = [int(server.run("DBSIZE").strip(":\r\n")) for server in (one, two)]
                assert sum(sizes) == 3
                two.kill()
                one.kill()
                assert not (await error_of(ask(made, Lookup(ALICE)))).permanent

    run(scenario())
