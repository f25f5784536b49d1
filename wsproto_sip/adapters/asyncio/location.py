"""A node of several on asyncio: the location store that they share, and the other nodes.

Theory of operation: a registrar that is a node asks for the bindings of users in data
(:mod:`~wsproto_sip.sip.registrar.store`). :class:`LocationService` has these questions answered by
an :class:`Engine`, a database that all nodes reach. Questions that wait in one turn of the loop go
together. While the database does not answer, questions are refused at once, and one task tries to
reach it again, at growing intervals.

Each node has an entry in the database, with its address and the identifier of its run. The entry
lasts 14 s, and is renewed every 5 s. A binding counts as long as the entry of its node's run does,
so that nothing of a dead node has to be cleaned up. A node reads the entries of the others every
second, and also when it meets a binding of a run that it does not know.

The nodes own their bindings: a database that has lost some of them gets them again from memory. It
has if it lacks the entry of the node, or if it is another server than before.

Clocks may differ. A node counts time from its start, and records say how far the database's clock
was ahead of that, so that neither a wrong clock nor one that is set does any harm.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from ...auth.outcome import Unavailable
from ...auth.used import FirstUse
from ...errors import WsprotoSipError
from ...server.histogram import Histogram
from ...sip.edge.config import Upstream
from ...sip.message.uri import SipUri
from ...sip.registrar.store import Conflict, Done, Found, Lookup, Node, NotAsked, Update
from ..backoff import Backoff
from ..reports import report
from .answers import answer_to

if TYPE_CHECKING:
    from ...sip.registrar.registrar import Registrar
    from ...typing import Entropy
    from .answers import Resolve
    from .sip import SipService

__all__ = [
    "Engine",
    "EngineError",
    "LocationService",
    "NodeEntry",
    "Own",
    "Population",
    "Writing",
]

_Answer = Found | Done | Conflict | Unavailable

#: The buckets of the histogram of answer times, in seconds.
_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)
#: Seconds between two looks at the entries of the other nodes.
_LOOK: Final = 1.0
#: Seconds between two renewals of the own entry, and how long it lasts without one: with a look,
#: a node that has died silently is noticed within 15 s.
_RENEWAL: Final = 5.0
LIFETIME: Final = 14.0
#: The random part of these intervals, so that nodes that were started together spread.
_JITTER: Final = 0.2
#: Seconds for which links with a node stay that is gone from the store.
_MEMORY: Final = 300.0
#: Seconds over which bindings are written again.
_SPREAD: Final = 10.0
#: Seconds by which the clocks of the store and this machine may differ without a warning.
MARGIN: Final = 5.0
#: The first and the longest pause between two attempts to reach the store, in seconds.
_PAUSES: Final = (0.25, 4.0)
#: Questions that are performed together, and batches that are performed at the same time, each of
#: them about other addresses.
_BATCH: Final = 256
_BATCHES: Final = 4
_RETRY_AFTER: Final = 5


class EngineError(WsprotoSipError):
    """A location store cannot be reached, or refuses to serve.

    Args:
        reason: The reason.
        permanent: Whether another attempt makes no sense: a wrong password, for example.
    """

    def __init__(self, reason: str, *, permanent: bool = False) -> None:
        super().__init__(reason)
        self.permanent = permanent


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """What nodes tell each other about themselves.

    Args:
        name: The name, unique among the nodes.
        boot: Identifier of its run, unique among runs.
        host: The host at which the others reach it, an IPv6 address in brackets.
        port: The port.
        transport: ``tcp`` or ``tls``.
        draining: Whether it is about to stop, so that others are preferred to it.
        extra: Further facts, by name, for programs.

    Raises:
        ValueError: Name, boot or transport is not valid.
        SipValueError: Host and port are not valid in a URI.
    """

    name: str
    boot: str
    host: str
    port: int
    transport: str = "tcp"
    draining: bool = False
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Node(self.name, self.boot)
        if not (self.name.isascii() and self.name.isprintable()) or len(self.name) > 100:
            raise ValueError("the name of a node has 1 to 100 printable ASCII characters")
        if " " in self.boot or self.transport not in ("tcp", "tls"):
            raise ValueError("not the boot or transport of a node")
        SipUri.make(self.host, port=self.port)

    @property
    def node(self) -> Node:
        """The node in bindings."""
        return Node(self.name, self.boot)

    def to_text(self) -> str:
        """Return the entry as JSON, without its name and boot."""
        return json.dumps(
            {
                "host": self.host,
                "port": self.port,
                "transport": self.transport,
                "draining": self.draining,
                "extra": dict(self.extra),
            }
        )

    @classmethod
    def from_text(cls, name: str, boot: str, text: str) -> NodeEntry:
        """Return the entry of a text.

        Args:
            name: The name.
            boot: The boot.
            text: As :meth:`to_text` returns it; unknown fields are ignored.

        Raises:
            ValueError: The text is not an entry.
        """
        try:
            values = json.loads(text)
            extra = {str(key): str(value) for key, value in values.get("extra", {}).items()}
            host, port = str(values["host"]), int(values["port"])
            return cls(name, boot, host, port, values["transport"], bool(values["draining"]), extra)
        except (LookupError, TypeError, AttributeError, RecursionError, ArithmeticError) as exc:
            raise ValueError(f"not the entry of a node: {exc!s:.200}") from None


class Writing(Enum):
    """What to do with the entry of this node, when the others are read."""

    #: Write it, whichever run has the name.
    TAKE = "take"
    #: Write it, unless another run has the name.
    RENEW = "renew"
    #: Leave it alone.
    LOOK = "look"
    #: Remove it, unless another run has the name.
    LEAVE = "leave"


class Own(Enum):
    """The entry under this node's name, before anything was done."""

    ABSENT = "absent"
    PRESENT = "present"
    #: Another run has the name.
    TAKEN = "taken"


@dataclass(frozen=True, slots=True)
class Population:
    """The nodes in a location store.

    Args:
        others: The other nodes, by name.
        clock: The store's time, in seconds of the wall clock.
        own: What was there of this node.
        server: Identifier of the server and its run, if the own entry was written; it changes when
            the store may have lost its last changes.
    """

    others: Mapping[str, NodeEntry]
    clock: float
    own: Own
    server: str = ""


class Engine(Protocol):
    """A database that holds a location store.

    Methods may be called concurrently. They may take any time; the caller cancels what takes too
    long, and calls :meth:`reset` afterwards.
    """

    async def perform(
        self, questions: Sequence[Lookup | Update], reader: Node, ahead: float
    ) -> list[_Answer]:
        """Answer questions, in as few round trips as possible.

        :mod:`wsproto_sip.sip.registrar.store` describes what a store does. Here the answers have
        the bindings of all nodes in ``bindings``, whether they run or not. An address has to be
        forgotten some time after its last binding has expired, and not within ``MARGIN``.

        Args:
            questions: The questions.
            reader: This node; bindings of others have no flow.
            ahead: Seconds by which the store's clock is ahead of the one in bindings of this node.

        Returns:
            The answers, in order; :class:`~wsproto_sip.auth.outcome.Unavailable` for a question
            that cannot be answered although others can.

        Raises:
            EngineError: The database cannot be reached, or refuses to serve.
        """
        ...

    async def use(self, question: FirstUse) -> bool:
        """Remember that a token was used, and return whether it was not yet.

        Args:
            question: The token, and for how long to remember it.

        Raises:
            EngineError: As for :meth:`perform`.
        """
        ...

    async def announce(self, entry: NodeEntry, writing: Writing, lifetime: float) -> Population:
        """Read the entries of all nodes, and write that of this node.

        Args:
            entry: The entry.
            writing: What to do with it.
            lifetime: Seconds until it is gone.

        Raises:
            EngineError: As for :meth:`perform`.
        """
        ...

    async def reset(self) -> None:
        """Close all connections; the next call opens others."""
        ...

    async def close(self) -> None:
        """Close everything."""
        ...


@dataclass(slots=True, eq=False)
class _Waiting:
    """A question that waits for its answer.

    Args:
        question: The question.
        settle: Takes the answer.
        began: When it came.
        future: What the answer is for, if that can be given up.
    """

    question: Lookup | Update
    settle: Callable[[_Answer], object]
    began: float
    future: asyncio.Future[_Answer] | None = None


class LocationService:
    """A node's use of the location store; made inside the event loop.

    ``resolve=service.resolver(...)`` has a :class:`~wsproto_sip.adapters.asyncio.sip.SipService`
    ask it, and :meth:`open` begins its work.

    Args:
        engine: The database.
        entry: This node.
        timeout: Seconds that the database may take to answer.
        max_waiting: Questions that may wait to be sent; further ones are refused.
        admits: Whether another node is one of ours, as far as its address tells.
        tls_name: The domain in the certificates of all nodes; by default the host of each.
        clock: Returns the time of this machine's clock, in seconds.
        entropy: Source of random bytes.

    Attributes:
        engine: The database.
        entry: This node; changes are told to the others with its next renewal.
        others: The other nodes that run, by name.
        ahead: Seconds by which the store's clock is ahead of the registrar's.
        skew: Seconds by which the store's clock is ahead of this machine's.
        counts: The number of questions, by kind, ``"lookup"`` or ``"update"``, and result:
            ``"found"``, ``"done"``, ``"conflict"``, ``"failed"`` for a question without an answer,
            and ``"refused"`` for one that was not sent.
        seconds: The times that answers took.
        outages: How often the store has stopped answering.
        on_others: Called after the other nodes, or their entries, have changed.
    """

    def __init__(
        self,
        engine: Engine,
        entry: NodeEntry,
        *,
        timeout: float = 2.0,
        max_waiting: int = 10_000,
        admits: Callable[[NodeEntry], bool] | None = None,
        tls_name: str | None = None,
        clock: Callable[[], float] = time.time,
        entropy: Entropy = os.urandom,
    ) -> None:
        self.entry = entry
        self.others: Mapping[str, NodeEntry] = {}
        self.ahead = self.skew = 0.0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds = Histogram(_BOUNDS)
        self.outages = 0
        self.on_others: Callable[[], object] | None = None
        self.engine = engine
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._admits = admits
        self._tls_name = tls_name
        self._clock = clock
        self._entropy = entropy
        self._loop = asyncio.get_running_loop()
        self._sip: SipService | None = None
        #: Why the store is not asked; empty while it is.
        self._down = "not opened yet"
        self._down_since = self._loop.time()
        self._backoff = self._new_backoff()
        #: Which server has answered last.
        self._server = ""
        self._skewed = False
        #: When the entry was last known to be there, has to be renewed, and when the others were
        #: last read.
        self._announced = self._looked = -inf
        self._renewal = 0.0
        self._looking = asyncio.Lock()
        self._used: tuple[Upstream, ...] = ()
        #: Nodes that are gone from the store, and when they are forgotten.
        self._departed: dict[str, tuple[NodeEntry, float]] = {}
        #: Nodes whose entry cannot be used, so that each is logged once.
        self._strange: set[tuple[str, str]] = set()
        #: Questions that wait to be sent, the batches that are under way, and the addresses that
        #: these are about.
        self._waiting: deque[_Waiting] = deque()
        self._batches: set[asyncio.Task[None]] = set()
        self._asked: set[str] = set()
        self._flushing = False
        self._keeper: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def _new_backoff(self) -> Backoff:
        first, longest = _PAUSES
        return Backoff(first=first, longest=longest, entropy=self._entropy)

    # -- state -------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        """Whether questions are sent to the store."""
        return not self._down

    @property
    def waiting(self) -> int:
        """The number of questions that wait to be sent."""
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether the other nodes count on this one: its entry is in the store, and is its own."""
        recently = self._loop.time() - self._announced < LIFETIME
        return recently and not self.entry.draining

    @property
    def errands(self) -> int:
        """The number of addresses on which the store may have to be changed."""
        return 0 if self._sip is None else len(self._registrar.errands)

    @property
    def _registrar(self) -> Registrar:
        registrar = None if self._sip is None else self._sip.application.edge.registrar
        if registrar is None or registrar.node != self.entry.node:
            raise ValueError("the registrar is not this node")
        return registrar

    # -- beginning and end -------------------------------------------------------------------------

    async def open(self, sip: SipService) -> None:
        """Enter this node, and begin to answer questions.

        A store that cannot be reached is tried again from then on.

        Args:
            sip: The service whose registrar is this node.

        Raises:
            EngineError: The store refuses to serve, and another attempt makes no sense.
            ValueError: The registrar of the service is not this node.
        """
        self._sip = sip
        self._registrar.epoch = self._clock() - sip.now()
        try:
            await self._look(Writing.TAKE)
        except EngineError as exc:
            if exc.permanent:
                raise
            self._down = ""
            self._lose(str(exc))
        self._keeper = self._loop.create_task(self._keep())

    async def meet(self) -> None:
        """Look for nodes that have just been started, because one may have connected."""
        if self.up:
            try:
                await self._look(Writing.LOOK, since=self._loop.time())
            except EngineError as exc:
                self._lose(str(exc))

    async def drain(self) -> None:
        """Tell the other nodes that this one is about to stop."""
        self.entry = replace(self.entry, draining=True)
        if self.up:
            try:
                await self._look(Writing.RENEW)
            except EngineError as exc:
                self._lose(str(exc))

    async def close(self) -> None:
        """Take this node's entry away, so that its bindings no longer count, and stop."""
        up, self._down = self.up, "the node stops"
        self._refuse_waiting(self._down)
        running = [self._keeper, *self._batches]
        tasks = [task for task in running if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if up:
            try:
                async with asyncio.timeout(self._timeout):
                    await self.engine.announce(self.entry, Writing.LEAVE, LIFETIME)
            except (EngineError, TimeoutError) as exc:
                report("sip", logging.INFO, "store-down", reason=str(exc))
        await self.engine.close()

    # -- questions ---------------------------------------------------------------------------------

    def resolver(self, otherwise: Resolve | None = None) -> Resolve:
        """Return an answer to all questions of a SIP service.

        Args:
            otherwise: Answers those that are not for the store.
        """
        return _Resolver(self, otherwise)

    async def answer(self, question: Lookup | Update) -> _Answer:
        """Answer a question.

        Args:
            question: The question.

        Returns:
            The answer that the question describes; an
            :class:`~wsproto_sip.auth.outcome.Unavailable` if there is none, which is a
            :class:`~wsproto_sip.sip.registrar.store.NotAsked` if the question was not sent.
        """
        future: asyncio.Future[_Answer] = self._loop.create_future()
        self.ask(question, partial(_settle, future), future)
        return await future

    def ask(
        self,
        question: Lookup | Update,
        settle: Callable[[_Answer], object],
        future: asyncio.Future[_Answer] | None = None,
    ) -> None:
        """Have a question answered.

        Args:
            question: The question.
            settle: Called with what :meth:`answer` returns, in a later turn of the loop.
            future: What it is for: a question is not sent if that is done.
        """
        reason = self._down
        if not reason and len(self._waiting) >= self._max_waiting:
            reason = "too many questions wait"
        if reason:
            self._loop.call_soon(settle, self._refused(question, reason))
            return
        self._waiting.append(_Waiting(question, settle, self._loop.time(), future))
        if not self._flushing:
            # Whatever else this turn of the loop asks goes with it.
            self._flushing = True
            self._loop.call_soon(self._flush)

    async def use_token(self, question: FirstUse) -> bool | Unavailable:
        """Use a token that is good for one use.

        Args:
            question: The question, whose answer is returned.
        """
        reason = self._down
        if not reason:
            try:
                async with asyncio.timeout(self._timeout):
                    return await self.engine.use(question)
            except (EngineError, TimeoutError) as exc:
                reason = str(exc) or "no answer in time"
                self._lose(reason)
        return Unavailable(f"the location store: {reason}", _RETRY_AFTER)

    def _refused(self, question: Lookup | Update, reason: str) -> NotAsked:
        self.counts[_kind(question), "refused"] += 1
        return NotAsked(f"the location store: {reason}", _RETRY_AFTER)

    def _flush(self) -> None:
        """Send the questions that wait, as far as may be."""
        self._flushing = False
        while self._waiting and len(self._batches) < _BATCHES:
            batch = self._next_batch()
            if not batch:
                return
            # One by a GRUU has no address yet.
            addresses = {item.question.aor for item in batch} - {""}
            self._asked |= addresses
            task = self._loop.create_task(self._perform(batch))
            self._batches.add(task)
            task.add_done_callback(partial(self._performed, addresses))

    def _next_batch(self) -> list[_Waiting]:
        """Take questions that can be sent together.

        What is asked about one address is answered in its order: a change that is not known of here
        yet must not be mistaken for one that has ended.
        """
        batch: list[_Waiting] = []
        later: list[_Waiting] = []
        waiting, asked = self._waiting, self._asked
        while waiting and len(batch) < _BATCH:
            item = waiting.popleft()
            if item.future is not None and item.future.done():
                continue
            (later if item.question.aor in asked else batch).append(item)
        waiting.extendleft(reversed(later))
        return batch

    def _performed(self, addresses: set[str], task: asyncio.Task[None]) -> None:
        self._batches.discard(task)
        self._asked -= addresses
        self._flush()

    async def _perform(self, batch: Sequence[_Waiting]) -> None:
        """Have a batch of questions answered."""
        answers: Sequence[_Answer]
        try:
            async with asyncio.timeout(self._timeout):
                questions = [item.question for item in batch]
                answers = await self.engine.perform(questions, self.entry.node, self.ahead)
                if any(self._names_stranger(_found(answer)) for answer in answers):
                    # Its entry is older than its bindings: it is there now, or the node is dead.
                    await self._look(Writing.LOOK, since=self._loop.time())
        except (EngineError, TimeoutError) as exc:
            reason = str(exc) or "no answer in time"
            self._lose(reason)
            answers = [Unavailable(f"the location store: {reason}", _RETRY_AFTER)] * len(batch)
        except asyncio.CancelledError:
            answers = [Unavailable("the node stops")] * len(batch)
        now = self._loop.time()
        for item, answer in zip(batch, answers, strict=True):
            self.counts[_kind(item.question), _result(answer)] += 1
            self.seconds.add(max(now - item.began, 0.0))
            self._loop.call_soon(item.settle, self._judged(answer))

    def _names_stranger(self, found: Found | None) -> bool:
        nodes = [] if found is None else [each.node for each in found.bindings]
        return any(
            node is not None and node.name != self.entry.name and not self._runs(node)
            for node in nodes
        )

    def _runs(self, node: Node) -> bool:
        if node.name == self.entry.name:
            return node.boot == self.entry.boot
        other = self.others.get(node.name)
        return other is not None and other.boot == node.boot

    def _judged(self, answer: _Answer) -> _Answer:
        """Tell the bindings of nodes that do not run from the others."""
        if isinstance(answer, Conflict):
            return Conflict(self._told_apart(answer.found))
        return self._told_apart(answer) if isinstance(answer, Found) else answer

    def _told_apart(self, found: Found) -> Found:
        runs = [each.node is not None and self._runs(each.node) for each in found.bindings]
        if all(runs):
            return found
        pairs = list(zip(found.bindings, runs, strict=True))
        return replace(
            found,
            bindings=tuple([each for each, running in pairs if running]),
            gone=tuple([each for each, running in pairs if not running]),
        )

    # -- the store ---------------------------------------------------------------------------------

    def _lose(self, reason: str) -> None:
        """Stop asking the store."""
        if self._down:
            self._down = reason
            return
        self._down, self._down_since = reason, self._loop.time()
        self.outages += 1
        self._backoff = self._new_backoff()
        self._changed.set()
        report("sip", logging.WARNING, "store-down", reason=reason)
        self._refuse_waiting(reason)

    def _refuse_waiting(self, reason: str) -> None:
        waiting, self._waiting = self._waiting, deque()
        for item in waiting:
            if item.future is None or not item.future.done():
                self._loop.call_soon(item.settle, self._refused(item.question, reason))

    async def _keep(self) -> None:
        """Renew the entry, read the others, and reach the store again."""
        while True:
            writing = Writing.LOOK
            if self._down:
                await asyncio.sleep(self._backoff.failed(self._loop.time(), at_least=0.05))
                await self.engine.reset()
                # Until this run has entered itself, an earlier one may be there.
                writing = Writing.TAKE if self._announced == -inf else Writing.RENEW
            else:
                self._changed.clear()
                try:
                    async with asyncio.timeout(self._spread(_LOOK)):
                        await self._changed.wait()
                    continue
                except TimeoutError:
                    pass
                if self._loop.time() >= self._renewal:
                    writing = Writing.RENEW
            try:
                await self._look(writing)
            except EngineError as exc:
                self._lose(str(exc))

    def _spread(self, seconds: float) -> float:
        share = int.from_bytes(self._entropy(2), "big") / 0x1_0000
        return seconds * (1 - _JITTER * share)

    async def _look(self, writing: Writing, *, since: float = inf) -> None:
        """Read the entries of all nodes.

        Args:
            writing: What to do with the own entry.
            since: Whether a look that began at or after that time will do.

        Raises:
            EngineError: The store cannot be reached.
        """
        async with self._looking:
            if self._looked >= since:
                return
            began = self._loop.time()
            population = await self._announce(writing)
            if population.own is Own.ABSENT and writing is Writing.LOOK:
                # It has expired, or the store has lost it.
                population = await self._announce(Writing.RENEW)
                population = replace(population, own=Own.ABSENT)
            self._looked = began
            await self._learn(population, writing)

    async def _announce(self, writing: Writing) -> Population:
        began = self._loop.time()
        try:
            async with asyncio.timeout(self._timeout):
                found = await self.engine.announce(self.entry, writing, LIFETIME)
        except TimeoutError:
            raise EngineError("no answer in time") from None
        now = self._loop.time()
        half = (now - began) / 2
        if writing is not Writing.LOOK:
            self._renewal = now + self._spread(_RENEWAL)
        sip = self._sip
        assert sip is not None  # noqa: S101 - it is opened
        self.ahead = found.clock - (self._registrar.wall(sip.now()) - half)
        self.skew = found.clock - (self._clock() - half)
        self._watch_clock()
        return found

    def _watch_clock(self) -> None:
        skewed = abs(self.skew) > MARGIN
        if skewed is not self._skewed:
            self._skewed = skewed
            event = "clock-wrong" if skewed else "clock-right"
            report("sip", logging.WARNING, event, store_ahead_seconds=round(self.skew, 3))

    async def _learn(self, population: Population, writing: Writing) -> None:
        """Draw the conclusions from the entries of all nodes."""
        others = {name: each for name, each in population.others.items() if self._is_ours(each)}
        came = [each for name, each in others.items() if not self._runs(each.node)]
        went = [name for name in self.others if name not in others]
        changed = others != self.others
        # A binding counts from when its node can be reached.
        await self._use(self._with_departed(others))
        self.others = others
        for each in came:
            place = f"{each.host}:{each.port}"
            report("sip", logging.INFO, "node-up", node=each.name, address=place)
        for name in went:
            report("sip", logging.WARNING, "node-down", node=name)
        if changed and self.on_others is not None:
            self.on_others()
        if population.own is Own.TAKEN and writing is not Writing.TAKE:
            self._lose(f"another process is the node {self.entry.name!r}")
            return
        first = self._announced == -inf
        self._announced = self._loop.time()
        server, self._server = self._server, population.server or self._server
        moved = "" not in (server, self._server) and server != self._server
        if self._down:
            if self.outages:
                down = round(self._loop.time() - self._down_since, 3)
                report("sip", logging.WARNING, "store-up", seconds=down)
            self._down = ""
        if (population.own is Own.ABSENT or moved) and not first:
            self._write_again("another server" if moved else "the entry of this node was missing")

    def _with_departed(self, others: Mapping[str, NodeEntry]) -> Mapping[str, NodeEntry]:
        """Return the other nodes, and those that may only be cut off from the store.

        Dialogs with their clients go on. Those that do not run cannot be reached, which is known
        from the links.
        """
        now = self._loop.time()
        for name, each in self.others.items():
            if name not in others:
                self._departed[name] = each, now + _MEMORY
        for name, (_, until) in list(self._departed.items()):
            if name in others or until <= now:
                del self._departed[name]
        return {**others, **{name: each for name, (each, _) in self._departed.items()}}

    def _write_again(self, reason: str) -> None:
        """Write all bindings again, which the store may have lost."""
        sip, registrar = self._sip, self._registrar
        assert sip is not None  # noqa: S101 - it is opened
        report("sip", logging.WARNING, "store-renewed", reason=reason, bindings=registrar.bindings)
        registrar.renew(sip.now(), _SPREAD)
        sip.wake()

    def _is_ours(self, entry: NodeEntry) -> bool:
        """Return whether another node can be used; log once if not."""
        reason = ""
        if entry.transport != self.entry.transport:
            reason = f"it is reached over {entry.transport}, and this node over another transport"
        elif self._admits is not None and not self._admits(entry):
            reason = "its address is not in a network of nodes"
        if reason and (entry.name, reason) not in self._strange:
            self._strange.add((entry.name, reason))
            report("sip", logging.ERROR, "node-refused", node=entry.name, reason=reason)
        return not reason

    async def _use(self, others: Mapping[str, NodeEntry]) -> None:
        """Have links with the other nodes."""
        entry = self.entry
        nodes = tuple(
            Upstream(
                other.name,
                other.host,
                other.port,
                entry.host,
                entry.port,
                other.transport,
                # Clients of a node that is about to stop are called at others, if they are there.
                priority=int(other.draining),
                tls_name=self._tls_name,
                is_node=True,
            )
            for other in others.values()
        )
        sip = self._sip
        if sip is None or nodes == self._used:
            return
        try:
            await sip.use_nodes(nodes)
        except OSError as exc:
            # They are tried again at the next look.
            report("sip", logging.WARNING, "nodes-unreachable", reason=str(exc))
        else:
            self._used = nodes


class _Resolver:
    """Answers the questions of a SIP service: its ``resolve``.

    Args:
        service: Answers those for the location store.
        otherwise: Answers others.
    """

    def __init__(self, service: LocationService, otherwise: Resolve | None) -> None:
        self._service = service
        self._otherwise = otherwise

    async def __call__(self, question: object) -> object:
        """Answer a question."""
        if isinstance(question, Lookup | Update):
            return await self._service.answer(question)
        if isinstance(question, FirstUse):
            return await self._service.use_token(question)
        return await answer_to(self._otherwise, question)

    def ask(self, question: object, settle: Callable[[object], object]) -> bool:
        """Have a question for the location store answered without a task of its own.

        Args:
            question: The question.
            settle: Called with the answer, in a later turn of the loop.

        Returns:
            Whether it is one.
        """
        if not isinstance(question, Lookup | Update):
            return False
        self._service.ask(question, settle)
        return True


def _settle(future: asyncio.Future[_Answer], answer: _Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _kind(question: Lookup | Update) -> str:
    return "lookup" if isinstance(question, Lookup) else "update"


def _found(answer: _Answer) -> Found | None:
    if isinstance(answer, Conflict):
        return answer.found
    return answer if isinstance(answer, Found) else None


def _result(answer: _Answer) -> str:
    if isinstance(answer, Unavailable):
        return "failed"
    return type(answer).__name__.lower()
