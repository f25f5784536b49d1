"""Many clients at several nodes, calling each other while nodes are killed and started again.

``WSPROTO_SIP_CROWD`` sets the number of clients: 2,000 for the whole of it, by default as many as
two cores serve within a minute. ``WSPROTO_SIP_STORM`` sets how many there are when one node of
three dies for good.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

from tests.peers._nodes import population
from tests.peers._redis import needs_redis, redis_server
from tests.peers._support import run
from tests.sip._phones import SDP, Dialog, Speaker
from wsproto_sip.adapters.asyncio import connect
from wsproto_sip.adapters.backoff import Backoff
from wsproto_sip.errors import WsprotoSipError
from wsproto_sip.sip import SipRequest, SipResponse, parse_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from pathlib import Path

    from tests.cli._service import Service
    from tests.peers._nodes import NodeProcess
    from wsproto_sip.adapters.asyncio import Connection

pytestmark = needs_redis

CLIENTS = int(os.environ.get("WSPROTO_SIP_CROWD", "120"))
STORM = int(os.environ.get("WSPROTO_SIP_STORM", "300"))
#: Clients that open a connection and register at a time. They all share one process here, in which
#: thousands at once would wait for each other, and give up.
NEWCOMERS = 50
#: Calls at a time, and nodes that are killed one after the other.
CALLERS = 10
ROUNDS = 2
#: Seconds in which a caller has to hear something final, and in which clients have to be back.
PATIENCE = 20.0
RETURN = 60.0 + max(CLIENTS, STORM) / 10
#: What a caller may hear while a node is dying: the callee cannot be reached, or the store.
REFUSALS = (480, 503)

#: All clients come from one address, and are strangers.
WIDE = (
    *("--max-per-address", "10000", "--max-handshakes-per-address", "10000"),
    *("--max-handshakes", "10000", "--sip-rate", "1000000", "--sip-transactions", "1000000"),
    *("--sip-callee-rate", "1000000,reserve=0", "--sip-callee-transactions", "1000000,reserve=0"),
    *("--sip-pending-bytes", "1000000000", "--drain-seconds", "1"),
)


class Member(Speaker):
    """A client that comes back to another node when it has lost its connection."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        super().__init__(f"user{number}", number, outbound=f"urn:uuid:{number}")
        self._crowd = crowd
        self._connection: Connection | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._answers: dict[str, asyncio.Queue[SipResponse]] = {}
        #: How often it has registered anew; odd while it is registered.
        self.life = 0
        #: The node that it has last chosen.
        self.url = ""
        #: How long it waits before it returns, as the documentation wants it.
        self._backoff = Backoff()

    @property
    def registered(self) -> bool:
        return self.life % 2 == 1

    async def live(self) -> None:
        """Connect, register and serve calls, again and again."""
        while True:
            with suppress(OSError, TimeoutError, WsprotoSipError):
                async with AsyncExitStack() as stack:
                    reading = await self._come(stack)
                    try:
                        if self.registered:
                            await reading
                    finally:
                        reading.cancel()
                        if self.registered:
                            self.life += 1
            self._crowd.changed.set()
            # Those of a dead node do not all come at once.
            await asyncio.sleep(self._backoff.failed(asyncio.get_running_loop().time()))

    async def _come(self, stack: AsyncExitStack) -> asyncio.Future[None]:
        """Connect and register; return what reads the connection."""
        async with self._crowd.newcomers:
            self._crowd.tries += 1
            self.url = self._crowd.url()
            connecting = connect(self.url, subprotocols=["sip"])
            self._connection = connection = await stack.enter_async_context(connecting)
            reading = asyncio.ensure_future(self._read(connection))
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._register(reading)
            return reading

    async def _register(self, reading: asyncio.Future[None]) -> None:
        request = self.make(
            "REGISTER",
            f"sip:{self.domain}",
            *self.registration(expires=300),
            to=f"<{self.aor}>",
        )
        answers = self.expect(request)
        self.say(request)
        heard = asyncio.ensure_future(answers.get())
        waited: list[asyncio.Future[Any]] = [heard, reading]
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if heard.done() and heard.result().status == 200:
            self.life += 1
            self._backoff = Backoff()
            self._crowd.changed.set()
        heard.cancel()

    async def _read(self, connection: Connection) -> None:
        async for data in connection:
            message = parse_message(data)
            if isinstance(message, SipResponse):
                answers = self._answers.get(message.call_id)
                if answers is not None and message.status != 100:
                    answers.put_nowait(message)
            elif message.method == "INVITE":
                self._crowd.delivered[self.user, message.call_id] += 1
                self.answer(message, 200, ("Content-Type", "application/sdp"), body=SDP)
            elif message.method != "ACK":
                self.answer(message, 200)

    def say(self, data: str | bytes | SipRequest | SipResponse) -> None:
        """Send a message, if it is connected."""
        if self._connection is not None:
            text = data.to_bytes() if isinstance(data, SipRequest | SipResponse) else data
            task = asyncio.ensure_future(self._send(self._connection, text))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _send(connection: Connection, message: str | bytes) -> None:
        with suppress(OSError, WsprotoSipError):
            await connection.send(message)

    def expect(self, request: SipRequest) -> asyncio.Queue[SipResponse]:
        """Return where the responses of a call will be."""
        return self._answers.setdefault(request.call_id, asyncio.Queue())

    async def call(self, callee: Member) -> int | None:
        """Call, and hang up; return the final status, or ``None`` for silence."""
        invite = self.make("INVITE", callee.aor, ("Content-Type", "application/sdp"), body=SDP)
        answers = self.expect(invite)
        try:
            self.say(invite)
            async with asyncio.timeout(PATIENCE):
                while (final := await answers.get()).status < 200:
                    pass
            if final.status >= 300:
                self.follow("ACK", invite, to=str(final.to))
                return final.status
            dialog = Dialog(self, invite, final, caller=True)
            dialog.send("ACK")
            dialog.send("BYE")
            async with asyncio.timeout(PATIENCE):
                bye = await answers.get()
            assert bye.cseq.method == "BYE", bye
            return bye.status
        except TimeoutError:
            return None
        finally:
            del self._answers[invite.call_id]


@dataclass
class Made:
    """A call between two clients.

    Args:
        status: The final status; ``None`` for silence.
        lived: Whether both had their connections and registrations from its beginning to its end.
    """

    status: int | None
    lived: bool


class Crowd:
    """The clients of several nodes.

    Args:
        nodes: The nodes.
        size: The number of clients.
    """

    def __init__(self, nodes: Sequence[NodeProcess | Service], size: int) -> None:
        self.random = random.Random(1)
        self.changed = asyncio.Event()
        self.alive = list(nodes)
        self._turns = count()
        self.newcomers = asyncio.Semaphore(NEWCOMERS)
        #: How often a client has tried to connect.
        self.tries = 0
        #: How often each INVITE came to each user.
        self.delivered: Counter[tuple[str, str]] = Counter()
        self.calls: list[Made] = []
        self.members = [Member(self, number) for number in range(1, size + 1)]

    def url(self) -> str:
        """Return a node, as a balancer does that knows which ones live."""
        return self.alive[next(self._turns) % len(self.alive)].url

    @property
    def lives(self) -> dict[Member, int]:
        """How often each client has registered anew."""
        return {member: member.life for member in self.members}

    @asynccontextmanager
    async def living(self) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Let all clients live; yield their tasks, to which a test may add others."""
        tasks = [asyncio.create_task(member.live()) for member in self.members]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def gathered(self, bound: float, *, anew: Mapping[Member, int] | None = None) -> None:
        """Wait until all clients are registered.

        Args:
            bound: Seconds until that has failed.
            anew: The earlier :attr:`lives` of those that have to have registered again since.
        """
        async with asyncio.timeout(bound):
            while not all(member.registered for member in self.members) or any(
                member.life == life for member, life in (anew or {}).items()
            ):
                self.changed.clear()
                await self.changed.wait()

    async def keep_calling(self) -> None:
        """Call between random pairs."""
        while True:
            caller, callee = self.random.sample(self.members, 2)
            if not (caller.registered and callee.registered):
                await asyncio.sleep(0.01)
                continue
            before = caller.life, callee.life
            status = await caller.call(callee)
            self.calls.append(Made(status, (caller.life, callee.life) == before))


def test_calls_between_living_clients_while_nodes_die(tmp_path: Path) -> None:
    async def scenario() -> Crowd:
        crowd = Crowd(nodes, CLIENTS)
        async with crowd.living() as tasks:
            await crowd.gathered(RETURN * 4)
            tasks += [asyncio.create_task(crowd.keep_calling()) for _ in range(CALLERS)]
            for turn in range(ROUNDS):
                node = nodes[turn % len(nodes)]
                crowd.alive.remove(node)
                if turn % 2:
                    await asyncio.to_thread(node.stop)
                else:
                    await asyncio.to_thread(node.kill)
                await asyncio.to_thread(node.start)
                # The storm of those that return.
                await crowd.gathered(RETURN)
                crowd.alive.append(node)
                calls = len(crowd.calls)
                while len(crowd.calls) < calls + CALLERS:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        return crowd

    names = ("one", "two", "three", "four")
    with redis_server() as redis, population(redis, tmp_path, *names, extra=WIDE) as nodes:
        crowd = run(scenario(), 3600)
    lived = Counter(made.status for made in crowd.calls if made.lived)
    print(f"{CLIENTS} clients, {crowd.tries} connections tried")
    print(f"{len(crowd.calls)} calls, between living clients: {dict(lived)}")
    wrong = {status: number for status, number in lived.items() if status not in (200, *REFUSALS)}
    assert not wrong, lived
    assert lived[200] > sum(lived.values()) * 0.9
    assert max(crowd.delivered.values()) == 1


def test_clients_of_a_dead_node_return_to_the_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        crowd = Crowd(nodes, STORM)
        async with crowd.living():
            await crowd.gathered(RETURN * 4)
            before, dead = crowd.lives, nodes[0]
            lost = [member for member in crowd.members if member.url == dead.url]
            assert len(lost) > STORM / 4
            crowd.alive.remove(dead)
            await asyncio.to_thread(dead.kill)
            await crowd.gathered(RETURN * 4, anew={each: before[each] for each in lost})
            # Those of the other nodes have noticed nothing.
            changed = [member.life - before[member] for member in crowd.members]
            assert Counter(changed) == {0: STORM - len(lost), 2: len(lost)}
            # Each one is registered once, at a node that runs, and can be called.
            for member in crowd.members:
                held = redis.run("HVALS", f"ws:{{{member.aor}}}")
                assert (held.count('"node":'), held.count('"node":"one"')) == (1, 0)
            callers = [member for member in crowd.members if member not in lost][:CALLERS]
            for start in range(0, len(lost), CALLERS):
                pairs = zip(callers, lost[start : start + CALLERS], strict=False)
                made = await asyncio.gather(*[caller.call(callee) for caller, callee in pairs])
                assert set(made) == {200}
            print(f"{len(lost)} of {STORM} clients returned; {crowd.tries} connections tried")
        assert max(crowd.delivered.values()) == 1

    names = ("one", "two", "three")
    with redis_server() as redis, population(redis, tmp_path, *names, extra=WIDE) as nodes:
        run(scenario(), 3600)
