"""A node's use of a location store: with an engine in memory, which does what a test wants."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from tests.adapters._msrp import until
from tests.adapters._sip import CONFIG, HOST, EdgeServer, call, free_port, phone
from tests.peers._support import run
from tests.sip._location import Location
from wsproto_sip.adapters.asyncio import location as module
from wsproto_sip.adapters.asyncio.location import (
    EngineError,
    LocationService,
    NodeEntry,
    Own,
    Population,
    Writing,
)
from wsproto_sip.auth.outcome import Unavailable
from wsproto_sip.auth.used import FirstUse
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import (
    Conflict,
    Done,
    Found,
    Lookup,
    Node,
    NotAsked,
    Update,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

ALICE = "sip:alice@sip.test"
NODE = NodeEntry("one", "1", HOST, 5070)
OTHER = NodeEntry("two", "1", HOST, 5071)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a node do all the time what it does from time to time."""
    monkeypatch.setattr(module, "_LOOK", 0.001)
    monkeypatch.setattr(module, "_RENEWAL", 0.0)
    monkeypatch.setattr(module, "_SPREAD", 0.01)
    monkeypatch.setattr(module, "_PAUSES", (0.001, 0.002))


class Shared:
    """What engines of several nodes have in common.

    Attributes:
        location: The bindings.
        entries: The nodes.
        server: The server's run.
        ahead: By how much its clock is ahead.
        used: Tokens that were used.
    """

    def __init__(self) -> None:
        self.location = Location()
        self.entries: dict[str, NodeEntry] = {}
        self.server = "a"
        self.ahead = 0.0
        self.used: set[str] = set()


class Engine:
    """An engine in memory.

    Attributes:
        failure: What it raises, if anything.
        refusal: What it answers to each question, if anything.
        gate: Holds answers back while it is not set.
        batches: The numbers of questions that came together.
        writings: What was done with the own entry.
        resets: How often connections were closed.
    """

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.failure: Exception | None = None
        self.refusal: Unavailable | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[int] = []
        self.writings: list[Writing] = []
        self.resets = 0
        self.closed = False

    async def perform(
        self, questions: Sequence[Lookup | Update], reader: Node, ahead: float
    ) -> list[Found | Done | Conflict | Unavailable]:
        self.batches.append(len(questions))
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        if self.refusal is not None:
            return [self.refusal for _ in questions]
        return [self.shared.location.ask(reader, question) for question in questions]

    async def use(self, question: FirstUse) -> bool:
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        first = question.name not in self.shared.used
        self.shared.used.add(question.name)
        return first

    async def announce(self, entry: NodeEntry, writing: Writing, lifetime: float) -> Population:
        assert lifetime == 14.0
        self.writings.append(writing)
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        shared = self.shared
        known = shared.entries.get(entry.name)
        own = Own.ABSENT
        if known is not None:
            own = Own.PRESENT if known.boot == entry.boot else Own.TAKEN
        if writing is Writing.TAKE or (writing is Writing.RENEW and own is not Own.TAKEN):
            shared.entries[entry.name] = entry
        if writing is Writing.LEAVE and own is Own.PRESENT:
            del shared.entries[entry.name]
        others = {name: each for name, each in shared.entries.items() if name != entry.name}
        server = "" if writing is Writing.LOOK else shared.server
        return Population(others, 1000.0 + shared.ahead, own, server)

    async def reset(self) -> None:
        self.resets += 1

    async def close(self) -> None:
        self.closed = True


class Running:
    """A node.

    Attributes:
        engine: Its engine.
        service: Its location service.
        edge: Its server.
    """

    def __init__(self, engine: Engine, service: LocationService, edge: EdgeServer) -> None:
        self.engine = engine
        self.service = service
        self.edge = edge

    @property
    def registrar(self) -> Registrar:
        assert self.edge.edge.registrar is not None
        return self.edge.edge.registrar

    def loses(self, reason: str = "cut") -> None:
        """Have the store not answer from now on."""
        self.engine.failure = EngineError(reason)


@asynccontextmanager
async def node(
    shared: Shared, entry: NodeEntry = NODE, *, opens: bool = True, **options: Any
) -> AsyncIterator[Running]:
    """Run a node."""
    engine = Engine(shared)
    options = {"clock": lambda: 1000.0} | options
    service = LocationService(engine, entry, **options)
    registrar = Registrar(RegistrarConfig(Domains(("sip.test",)), min_expires=10), node=entry.node)
    given = {"resolve": service.resolver(), "pauses": (0.01, 0.02)}
    edge = EdgeServer(CONFIG, service=given, registrar=registrar)
    try:
        ((host, port),) = await edge.server.listen(HOST, 0)
        edge.url = f"ws://{host}:{port}/"
        if opens:
            await edge.service.listen_for_nodes(entry.host, entry.port)
            await service.open(edge.service)
        yield Running(engine, service, edge)
    finally:
        await service.close()
        await edge.service.close()
        await edge.server.close()


def scenario(play: Callable[[Shared, Running], Any], **options: Any) -> None:
    """Run one node."""

    async def played() -> None:
        shared = Shared()
        async with node(shared, replace(NODE, port=free_port()), **options) as running:
            await play(shared, running)
        assert running.engine.closed

    run(played())


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the names of the events in the log."""
    return [record.msg.event for record in caplog.records if isinstance(record.msg, module_line())]


def module_line() -> type[Any]:
    from wsproto_sip.adapters.reports import Line

    return Line


# -- entries ---------------------------------------------------------------------------------------


@given(
    st.builds(
        NodeEntry,
        st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=100),
        st.text("0123456789abcdef", min_size=1),
        st.sampled_from(["127.0.0.1", "[::1]", "node.example"]),
        st.integers(0, 65535),
        st.sampled_from(["tcp", "tls"]),
        st.booleans(),
        st.dictionaries(st.text(), st.text()),
    )
)
def test_an_entry_comes_back(entry: NodeEntry) -> None:
    assert NodeEntry.from_text(entry.name, entry.boot, entry.to_text()) == entry
    assert entry.node == Node(entry.name, entry.boot)


def test_unknown_fields_of_an_entry_are_ignored() -> None:
    text = json.dumps(json.loads(NODE.to_text()) | {"later": 1})
    assert NodeEntry.from_text("one", "1", text) == NODE


@pytest.mark.parametrize(
    "values",
    [
        *({"name": ""}, {"name": "ä"}, {"name": "x" * 101}, {"boot": ""}, {"boot": "1 2"}),
        *({"transport": "udp"}, {"host": "a b"}, {"port": 70000}),
    ],
)
def test_invalid_entries(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        replace(NODE, **values)


@given(st.text() | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
def test_other_texts_are_not_entries(text: str) -> None:
    with pytest.raises(ValueError):
        NodeEntry.from_text("one", "1", text)


# -- tokens ----------------------------------------------------------------------------------------


def test_tokens_are_used_at_one_node() -> None:
    async def scenario() -> None:
        shared = Shared()
        ask = FirstUse("a", 60.0)
        async with (
            node(shared, replace(NODE, port=free_port())) as one,
            node(shared, replace(OTHER, port=free_port())) as two,
        ):
            answers = [each.service.resolver() for each in (one, two, one)]
            assert [await answer(ask) for answer in answers] == [True, False, False]

    run(scenario())


def test_tokens_are_not_used_while_the_store_is_down() -> None:
    async def play(shared: Shared, running: Running) -> None:
        resolve = running.service.resolver()
        running.loses()
        assert await resolve(FirstUse("a", 60.0)) == Unavailable("the location store: cut", 5)
        # It is not asked again until it is reached.
        assert not running.service.up
        assert await resolve(FirstUse("a", 60.0)) == Unavailable("the location store: cut", 5)
        running.engine.failure = None
        await until(lambda: running.service.up)
        running.engine.gate.clear()
        silent = await resolve(FirstUse("a", 60.0))
        assert silent == Unavailable("the location store: no answer in time", 5)
        running.engine.gate.set()

    scenario(play, timeout=0.05)


# -- questions -------------------------------------------------------------------------------------


def test_questions_of_one_turn_go_together() -> None:
    async def play(shared: Shared, running: Running) -> None:
        service, engine = running.service, running.engine
        engine.gate.clear()
        asked = [asyncio.ensure_future(service.answer(Lookup(f"sip:{n}@x"))) for n in range(2000)]
        await until(lambda: len(engine.batches) == 4)
        # The others wait for their turn, and one that is given up is not sent.
        assert max(engine.batches) == 256
        assert service.waiting == 2000 - sum(engine.batches)
        for task in asked[-10:]:
            task.cancel()
        engine.gate.set()
        answers = await asyncio.gather(*asked[:-10])
        assert answers == [Found(f"sip:{n}@x") for n in range(1990)]
        assert service.counts == {("lookup", "found"): sum(engine.batches)}
        assert 1990 <= sum(engine.batches) < 2000
        assert (service.seconds.count, service.waiting) == (sum(engine.batches), 0)
        update = Update(ALICE, 0)
        done = await service.answer(update)
        assert isinstance(done, Done)
        assert isinstance(await service.answer(update), Conflict)
        assert service.counts["update", "done"] == service.counts["update", "conflict"] == 1

    scenario(play)


def test_what_is_asked_about_one_address_is_answered_in_its_order() -> None:
    async def play(shared: Shared, running: Running) -> None:
        service, engine = running.service, running.engine
        engine.gate.clear()
        first = asyncio.ensure_future(service.answer(Lookup(ALICE)))
        await until(lambda: engine.batches == [1])
        # These come in later turns of the loop; the first of them is given up.
        others = [asyncio.ensure_future(service.answer(Update(ALICE, 0))) for _ in range(3)]
        await until(lambda: service.waiting == 3)
        first.cancel()
        others[0].cancel()
        engine.gate.set()
        done, conflict = await asyncio.gather(*others[1:])
        assert isinstance(done, Done)
        assert isinstance(conflict, Conflict)
        assert conflict.found.version == done.version
        assert engine.batches == [1, 2]

    scenario(play)


def test_nothing_is_sent_for_those_who_have_given_up() -> None:
    async def play(shared: Shared, running: Running) -> None:
        asked = asyncio.ensure_future(running.service.answer(Lookup(ALICE)))
        await asyncio.sleep(0)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await asyncio.sleep(0)
        assert running.engine.batches == []

    scenario(play)


def test_so_many_questions_may_wait() -> None:
    async def play(shared: Shared, running: Running) -> None:
        asked = [asyncio.ensure_future(running.service.answer(Lookup(ALICE))) for _ in range(3)]
        *_, last = await asyncio.gather(*asked)
        assert isinstance(last, NotAsked)
        assert "too many questions" in last.reason
        assert running.service.counts == {("lookup", "found"): 2, ("lookup", "refused"): 1}

    scenario(play, max_waiting=2)


def test_other_questions_are_for_others() -> None:
    async def play(shared: Shared, running: Running) -> None:
        async def otherwise(question: object) -> object:
            return question

        assert await running.service.resolver(otherwise)("who") == "who"
        assert await running.service.resolver(otherwise)(Lookup(ALICE)) == Found(ALICE)
        assert isinstance(await running.service.resolver()("who"), Unavailable)

    scenario(play)


def test_questions_can_be_asked_without_a_task() -> None:
    async def play(shared: Shared, running: Running) -> None:
        resolve: Any = running.service.resolver()
        answers: asyncio.Queue[object] = asyncio.Queue()
        assert not resolve.ask("who", answers.put_nowait)
        assert resolve.ask(Lookup(ALICE), answers.put_nowait)
        assert await answers.get() == Found(ALICE)
        running.engine.gate.clear()
        assert resolve.ask(Lookup(ALICE), answers.put_nowait)
        await until(lambda: running.engine.batches == [1, 1])
        assert resolve.ask(Update(ALICE, 0), answers.put_nowait)
        # Others do not wait for this address.
        assert resolve.ask(Lookup("sip:bob@sip.test"), answers.put_nowait)
        await until(lambda: running.engine.batches == [1, 1, 1])
        running.loses()
        running.engine.gate.set()
        kinds = [type(await answers.get()) for _ in range(3)]
        assert sorted(kinds, key=str) == sorted([Unavailable, Unavailable, NotAsked], key=str)
        assert resolve.ask(Lookup(ALICE), answers.put_nowait)
        assert answers.empty()
        assert isinstance(await answers.get(), NotAsked)

    scenario(play)


def test_one_question_may_be_refused() -> None:
    async def play(shared: Shared, running: Running) -> None:
        running.engine.refusal = Unavailable("wrong type")
        assert await running.service.answer(Lookup(ALICE)) == Unavailable("wrong type")
        assert running.service.up
        assert running.service.counts == {("lookup", "failed"): 1}

    scenario(play)


def test_while_the_store_is_down_questions_are_refused_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(shared: Shared, running: Running) -> None:
        service, engine = running.service, running.engine
        engine.gate.clear()
        asked = [asyncio.ensure_future(service.answer(Update(ALICE, 0))) for _ in range(1025)]
        await until(lambda: engine.batches == [256])
        running.loses()
        engine.gate.set()
        answers = await asyncio.gather(*asked)
        # What was sent may have been done; what was not sent was not.
        assert [type(each) for each in answers] == [Unavailable] * 256 + [NotAsked] * 769
        assert not service.up
        asked_before = list(engine.batches)
        refused = await service.answer(Lookup(ALICE))
        assert isinstance(refused, NotAsked)
        assert (refused.reason, refused.retry_after) == ("the location store: cut", 5)
        assert engine.batches == asked_before
        assert events(caplog) == ["store-down"]
        running.loses("still cut")
        await until(lambda: engine.resets > 2)
        assert "still cut" in str(await service.answer(Lookup(ALICE)))
        engine.failure = None
        await until(lambda: service.up)
        assert await service.answer(Lookup(ALICE)) == Found(ALICE)
        assert events(caplog) == ["store-down", "store-up"]
        assert service.outages == 1

    with caplog.at_level(logging.WARNING):
        scenario(play)


def test_a_store_that_hangs_is_down() -> None:
    async def play(shared: Shared, running: Running) -> None:
        service, engine = running.service, running.engine
        engine.gate.clear()
        answer = await service.answer(Lookup(ALICE))
        assert isinstance(answer, Unavailable)
        assert not isinstance(answer, NotAsked)
        assert "no answer in time" in answer.reason
        assert service.outages == 1

    scenario(play, timeout=0.05)


def test_entries_that_cannot_be_read_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shared: Shared, running: Running) -> None:
        async def never(*_: object) -> Population:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(running.engine, "announce", never)
        await until(lambda: not running.service.up)
        assert "no answer in time" in str(await running.service.answer(Lookup(ALICE)))

    scenario(play, timeout=0.02)


def test_a_node_that_stops_answers_what_it_was_asked() -> None:
    async def play(shared: Shared, running: Running) -> None:
        running.engine.gate.clear()
        asked = [asyncio.ensure_future(running.service.answer(Lookup(ALICE))) for _ in range(1025)]
        await until(lambda: running.engine.batches == [256])
        given_up = asyncio.ensure_future(running.service.answer(Lookup(ALICE)))
        await asyncio.sleep(0)
        given_up.cancel()
        await running.service.close()
        answers = await asyncio.gather(*asked)
        assert [type(each) for each in answers] == [Unavailable] * 256 + [NotAsked] * 769
        assert "the node stops" in str(await running.service.answer(Lookup(ALICE)))

    scenario(play)


# -- nodes -----------------------------------------------------------------------------------------


def test_nodes_find_each_other_and_their_telephones(caplog: pytest.LogCaptureFixture) -> None:
    async def played() -> None:
        shared = Shared()
        first, second = (replace(NODE, port=free_port()), replace(OTHER, port=free_port()))
        told: list[list[str]] = []
        async with node(shared, first) as one, AsyncExitStack() as stack:
            one.service.on_others = lambda: told.append(sorted(one.service.others))
            two = await stack.enter_async_context(node(shared, second))
            assert two.service.others == {"one": first}
            await until(lambda: one.service.others == {"two": second})
            assert [each.name for each in one.edge.edge.upstreams] == ["two"]
            async with (
                phone(one.edge.url, "alice") as alice,
                phone(two.edge.url, "bob") as bob,
            ):
                here, _ = await call(alice, bob)
                here.send("BYE")
                bob.answer(await bob.request("BYE"), 200)
                await alice.response(200)
                # The other node is killed: its bindings no longer count, and are gone.
                del shared.entries["two"]
                two.engine.failure = EngineError("killed")
                await until(lambda: one.service.others == {})
                answer = await one.service.answer(Lookup(bob.aor))
                assert isinstance(answer, Found)
                assert (answer.bindings, len(answer.gone)) == ((), 1)
                conflict = await one.service.answer(Update(bob.aor, 7))
                assert isinstance(conflict, Conflict)
                assert conflict.found == answer
                alice.send("MESSAGE", bob.aor)
                assert (await alice.response()).status in (404, 480)
        assert told == [["two"], []]

    with caplog.at_level(logging.INFO):
        run(played())
    assert events(caplog).count("node-up") >= 2
    assert events(caplog).count("node-down") >= 1


def test_a_binding_of_an_unknown_run_is_worth_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may have been started, and have a client, since the last look."""
    monkeypatch.setattr(module, "_LOOK", 1000.0)

    async def played() -> None:
        shared = Shared()
        async with (
            node(shared, replace(NODE, port=free_port())) as one,
            node(shared, replace(OTHER, port=free_port())) as two,
            phone(two.edge.url, "bob") as bob,
        ):
            assert one.service.others == {}
            one.engine.writings.clear()
            lookups = [one.service.answer(Lookup(aor)) for aor in [bob.aor] * 3 + [ALICE]]
            *answers, last = await asyncio.gather(*lookups)
            for answer in answers:
                assert isinstance(answer, Found)
                assert (len(answer.bindings), answer.gone) == (1, ())
            assert last == Found(ALICE)
            # Those that came together have looked once.
            assert one.engine.writings == [Writing.LOOK]

    run(played())


def test_bindings_of_an_earlier_run_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 1000.0)

    async def played() -> None:
        shared = Shared()
        here = replace(NODE, port=free_port())
        async with node(shared, here) as one, phone(one.edge.url, "alice"):
            records = dict(shared.location.records)
        shared.location.records = records
        async with node(shared, replace(here, boot="2")) as again:
            again.engine.writings.clear()
            answer = await again.service.answer(Lookup(ALICE))
            assert isinstance(answer, Found)
            assert (answer.bindings, len(answer.gone)) == ((), 1)
            assert again.engine.writings == []
            async with phone(again.edge.url, "alice"):
                (binding,) = shared.location.bindings(ALICE)
                assert binding.node == Node("one", "2")

    run(played())


def test_dialogs_go_on_with_a_node_that_the_store_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may only be cut off from the store; the links tell if it is more."""

    async def played() -> None:
        shared = Shared()
        async with (
            node(shared, replace(NODE, port=free_port())) as one,
            node(shared, replace(OTHER, port=free_port())) as two,
            phone(one.edge.url, "alice") as alice,
            phone(two.edge.url, "bob") as bob,
        ):
            here, there = await call(alice, bob)
            two.loses()
            del shared.entries["two"]
            await until(lambda: one.service.others == {})
            there.send("INFO")
            alice.answer(await alice.request("INFO"), 200)
            await bob.response(200)
            here.send("BYE")
            bob.answer(await bob.request("BYE"), 200)
            await alice.response(200)
            monkeypatch.setattr(module, "_MEMORY", 0.0)
            two.engine.failure = None
            await until(lambda: one.service.others)
            assert one.service._departed == {}
            two.loses()
            del shared.entries["two"]
            await until(lambda: one.edge.edge.upstreams == [])

    run(played())


def test_a_node_may_connect_before_it_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 1000.0)

    async def play(shared: Shared, running: Running) -> None:
        service = running.service
        shared.entries["two"] = replace(OTHER, port=free_port())
        await service.meet()
        assert list(service.others) == ["two"]
        running.loses()
        await service.meet()
        assert not service.up
        asked = len(running.engine.writings)
        await service.meet()
        assert len(running.engine.writings) == asked

    scenario(play)


def test_looks_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 1000.0)

    async def play(shared: Shared, running: Running) -> None:
        service = running.service
        now = service._loop.time()
        running.engine.writings.clear()
        await asyncio.gather(*[service._look(Writing.LOOK, since=now) for _ in range(3)])
        assert running.engine.writings == [Writing.LOOK]

    scenario(play)


def test_nodes_that_do_not_fit_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def play(shared: Shared, running: Running) -> None:
        shared.entries["tls"] = NodeEntry("tls", "1", HOST, 1, "tls")
        shared.entries["far"] = NodeEntry("far", "1", "192.0.2.1", 1)
        before = len(running.engine.writings)
        await until(lambda: len(running.engine.writings) > before + 4)
        assert running.service.others == {}
        assert running.edge.edge.upstreams == []

    with caplog.at_level(logging.ERROR):
        scenario(play, admits=lambda entry: entry.host == HOST)
    assert events(caplog) == ["node-refused", "node-refused"]


def test_nodes_that_cannot_be_reached_are_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def play(shared: Shared, running: Running) -> None:
        shared.entries["two"] = NodeEntry("two", "1", "host.invalid", 1)
        await until(lambda: events(caplog).count("nodes-unreachable") > 1)
        shared.entries["two"] = NodeEntry("two", "2", HOST, 1)
        await until(lambda: [each.host for each in running.edge.edge.upstreams] == [HOST])

    with caplog.at_level(logging.WARNING):
        scenario(play, tls_name="nodes.example")


def test_the_later_one_of_two_with_a_name_has_it(caplog: pytest.LogCaptureFixture) -> None:
    async def play(shared: Shared, running: Running) -> None:
        service = running.service
        assert service.ready
        shared.entries["one"] = replace(NODE, boot="2")
        await until(lambda: not service.up)
        assert "another process is the node 'one'" in str(await service.answer(Lookup(ALICE)))
        await until(lambda: running.engine.resets > 2)
        assert shared.entries["one"].boot == "2"
        # When that one has gone, this one is the node again.
        del shared.entries["one"]
        await until(lambda: service.up)
        assert shared.entries["one"].boot == "1"

    with caplog.at_level(logging.WARNING):
        scenario(play)
    assert events(caplog) == ["store-down", "store-up", "store-renewed"]


def test_an_earlier_run_is_replaced_at_once() -> None:
    async def play(shared: Shared, running: Running) -> None:
        assert running.service.up
        assert shared.entries["one"].boot == "1"

    async def played() -> None:
        shared = Shared()
        shared.entries["one"] = replace(NODE, boot="0")
        async with node(shared, replace(NODE, port=free_port())) as running:
            await play(shared, running)

    run(played())


def test_ready_and_draining(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(shared: Shared, running: Running) -> None:
        service = running.service
        assert service.ready
        running.loses()
        await until(lambda: not service.up)
        # The others count on it for as long as its entry lasts.
        assert service.ready
        monkeypatch.setattr(module, "LIFETIME", 0.0)
        assert not service.ready
        monkeypatch.undo()
        await service.drain()
        assert not service.ready
        running.engine.failure = None
        await until(lambda: service.up)
        assert shared.entries["one"].draining

    scenario(play)


def test_draining_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOK", 1000.0)

    async def play(shared: Shared, running: Running) -> None:
        await running.service.drain()
        assert shared.entries["one"].draining
        running.loses()
        await running.service.drain()
        assert not running.service.up
        # It does not wait for the next look to begin with reaching the store again.
        await until(lambda: running.engine.resets)

    scenario(play)


def test_a_node_that_stops_takes_its_entry_away() -> None:
    async def played() -> None:
        shared = Shared()
        async with node(shared, replace(NODE, port=free_port())):
            assert list(shared.entries) == ["one"]
        assert shared.entries == {}
        # If the store does not answer, it does so after a while.
        async with node(shared, replace(NODE, port=free_port()), timeout=0.05) as running:
            await until(lambda: running.service.up)
            # Not from a loop that would notice.
            assert running.service._keeper is not None
            running.service._keeper.cancel()
            await asyncio.sleep(0)
            running.loses()
        assert list(shared.entries) == ["one"]

    run(played())


# -- what the store has lost -----------------------------------------------------------------------


@pytest.mark.parametrize("what", ["entry", "entry at a look", "server"])
def test_bindings_are_written_again(
    what: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if what == "entry at a look":
        monkeypatch.setattr(module, "_RENEWAL", 1000.0)

    async def play(shared: Shared, running: Running) -> None:
        async with phone(running.edge.url, "alice"), phone(running.edge.url, "bob"):
            held = {aor: dict(kept) for aor, (kept, _) in shared.location.records.items()}
            assert len(held) == 2
            shared.location.records.clear()
            if what == "server":
                shared.server = "b"
            else:
                shared.entries.clear()
            await until(lambda: len(shared.location.records) == 2)
            assert {aor: kept for aor, (kept, _) in shared.location.records.items()} == held
            await until(lambda: running.service.errands == 0)

    with caplog.at_level(logging.WARNING):
        scenario(play)
    assert events(caplog) == ["store-renewed"]


def test_an_outage_alone_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def play(shared: Shared, running: Running) -> None:
        async with phone(running.edge.url, "alice"):
            running.loses()
            await until(lambda: not running.service.up)
            running.engine.failure = None
            await until(lambda: running.service.up)
            assert running.service.errands == 0

    with caplog.at_level(logging.WARNING):
        scenario(play)
    assert events(caplog) == ["store-down", "store-up"]


# -- clocks ----------------------------------------------------------------------------------------


def test_clocks_that_differ(caplog: pytest.LogCaptureFixture) -> None:
    async def play(shared: Shared, running: Running) -> None:
        service, edge = running.service, running.edge
        assert abs(running.registrar.wall(edge.service.now()) - 1000.0) < 60.0
        assert abs(service.skew) < 1.0
        shared.ahead = 30.0
        await until(lambda: "clock-wrong" in events(caplog))
        assert 29.0 < service.skew < 31.0
        shared.ahead = 0.0
        await until(lambda: "clock-right" in events(caplog))

    with caplog.at_level(logging.WARNING):
        scenario(play)
    assert events(caplog) == ["clock-wrong", "clock-right"]


# -- the start -------------------------------------------------------------------------------------


def test_a_store_that_refuses_ends_the_start() -> None:
    async def play(shared: Shared, running: Running) -> None:
        service = running.service
        assert (service.up, service.ready, service.errands) == (False, False, 0)
        assert "not opened yet" in str(await service.answer(Lookup(ALICE)))
        running.engine.failure = EngineError("wrong password", permanent=True)
        with pytest.raises(EngineError, match="wrong password"):
            await service.open(running.edge.service)

    scenario(play, opens=False)


def test_a_store_that_is_not_there_yet_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async def play(shared: Shared, running: Running) -> None:
        service = running.service
        # The earlier run of this node cannot have left the store.
        shared.entries["one"] = replace(NODE, boot="0")
        running.loses()
        await service.open(running.edge.service)
        assert (service.up, service.ready) == (False, False)
        running.engine.failure = None
        await until(lambda: service.up)
        assert service.ready
        assert shared.entries["one"].boot == "1"

    with caplog.at_level(logging.WARNING):
        scenario(play, opens=False)
    assert events(caplog) == ["store-down", "store-up"]


def test_the_registrar_has_to_be_the_node() -> None:
    async def play(shared: Shared, running: Running) -> None:
        service = LocationService(running.engine, OTHER)
        with pytest.raises(ValueError, match="the registrar is not this node"):
            await service.open(running.edge.service)
        await service.close()

    scenario(play)
