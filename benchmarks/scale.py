"""What several nodes cost, and what one pays for being one of them.

Run from the root of the repository; Redis or Valkey has to be installed::

    python -m benchmarks.scale
    python -m benchmarks.scale --smoke
    python -m benchmarks.scale --only memory --before DIRECTORY

Theory of operation: nodes are ``wsproto-sip serve`` processes at free ports of this machine, with
one Redis. Costs are CPU time of their processes, since wall time includes other programs; the cost
of Redis is stated separately. Latencies and times to the right answer have to be wall time, so a
busy machine makes them longer.

- ``memory``: a REGISTER that refreshes, and a refused call, on an edge in memory, here and in
  another tree of this project, in turns.
- ``register``: the same REGISTER at a server without a store and at a node, over loopback, in
  turns.
- ``latency``: how long an INVITE takes from one client to the other: at one server, at one node,
  from node to node, and with a store that answers after 1, 5 and 50 ms.
- ``nodes``: a REGISTER and a MESSAGE between random clients at 1, 2 and 4 nodes, and what an idle
  node uses. A MESSAGE to another node is handled by two.
- ``failure``: the time from the end of a node to the first answer that says so: after ``kill -9``,
  where TCP tells, and of a node that is stopped and keeps its connections.
- ``size``: bytes of a connection and of a registration, at a server, a node and Redis; and of a
  request that waits for the store's answer, in an edge without sockets.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from signal import SIGKILL, SIGSTOP

from benchmarks._harness import DeliveryError, Figure, middle, render_figures, write_figures
from benchmarks._nodes import DOMAIN, Delay, Node as Server, Phone, Redis, node, nodes, redis
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import Source
from wsproto_sip.sip.edge.actions import AskQuestion
from wsproto_sip.sip.edge.config import EdgeConfig
from wsproto_sip.sip.edge.connections import Peer
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import Node

#: Run in each tree: prints the nanoseconds of a REGISTER and of a call, as its arguments say.
_IN_MEMORY = """
import gc, sys, time
from benchmarks.sip import InMemory, calls_in_memory
from benchmarks._loopback import frame_of
count = int(sys.argv[1])
edge = InMemory()
cid = edge.connect()
frames = [frame_of((
    "REGISTER sip:edge.test SIP/2.0\\r\\nVia: SIP/2.0/WS b.invalid;branch=z9hG4bK%d\\r\\n"
    "Max-Forwards: 69\\r\\nTo: <sip:bob@edge.test>\\r\\nFrom: <sip:bob@edge.test>;tag=b\\r\\n"
    "Call-ID: r\\r\\nCSeq: %d REGISTER\\r\\nContact: <sip:bob@b.invalid;transport=ws>\\r\\n"
    "Expires: 600\\r\\nContent-Length: 0\\r\\n\\r\\n" % (number, number)).encode())
    for number in range(1, count + 1)]
endpoint = edge.application.endpoint
def registers():
    answers = 0
    for frame in frames:
        edge.feed(cid, frame)
        answers += sum(b"SIP/2.0 200 " in output.data for output in endpoint.take_output())
    return answers
for run in (registers, calls_in_memory(count)):
    gc.collect(); gc.disable()
    start = time.process_time_ns()
    done = run()
    print((time.process_time_ns() - start) / count)
    gc.enable()
    assert done == count, done
"""


def _in_memory(tree: Path, count: int) -> list[float]:
    """Return the microseconds of a REGISTER and of a call in a tree."""
    done = subprocess.run(
        [sys.executable, "-c", _IN_MEMORY, str(count)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DeliveryError(f"{tree}: {done.stderr[-500:]}")
    return [float(line) / 1000 for line in done.stdout.split()]


def memory(before: Path | None, rounds: int, count: int) -> Iterator[Figure]:
    """Measure the edge in memory, here and in another tree."""
    here = Path(__file__).resolve().parent.parent
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(_in_memory(here, count))
        if before is not None:
            theirs.append(_in_memory(before, count))
    for at, what in enumerate(("REGISTER", "a refused call")):
        yield middle(f"{what} in memory", "µs", [each[at] for each in ours])
        if before is not None:
            yield middle(f"{what} in memory before", "µs", [each[at] for each in theirs])
            ratios = [mine[at] / its[at] for mine, its in zip(ours, theirs, strict=True)]
            yield middle(f"{what} in memory: now to before", "", ratios, 1.05)


# -- servers ---------------------------------------------------------------------------------------


@contextmanager
def phones(places: Sequence[Server], count: int, name: str = "user") -> Iterator[list[Phone]]:
    """Connect as many clients to each node, one node after the other, and register them."""
    with ExitStack() as stack:
        found = [
            stack.enter_context(Phone(places[number * len(places) // count], f"{name}{number}"))
            for number in range(count)
        ]
        for phone in found:
            phone.register()
        yield found


def refresh(clients: Sequence[Phone], times: int) -> int:
    """Refresh the registrations of clients; return how many that were."""
    for _ in range(times):
        for client in clients:
            client.ask_to_register()
        for client in clients:
            if (status := client.final()) != 200:
                raise DeliveryError(f"REGISTER got {status}")
    return times * len(clients)


def chat(clients: Sequence[Phone], times: int, rng: random.Random) -> int:
    """Send messages between random pairs of clients, half of them at once."""
    done = 0
    for _ in range(times):
        order = rng.sample(clients, len(clients))
        pairs = list(zip(order[::2], order[1::2], strict=False))
        for caller, callee in pairs:
            caller.send("MESSAGE", callee.user)
        for _, callee in pairs:
            callee.answer(callee.request("MESSAGE"), 200)
        for caller, _ in pairs:
            if (status := caller.final()) != 200:
                raise DeliveryError(f"MESSAGE got {status}")
        done += len(pairs)
    return done


def spent(programs: Sequence[Server | Redis], work: Callable[[], int]) -> float:
    """Return the microseconds of CPU time that some programs use for one operation of some work."""
    before = sum(program.cpu() for program in programs)
    count = work()
    return (sum(program.cpu() for program in programs) - before) / count / 1000


def register(rounds: int, count: int) -> Iterator[Figure]:
    """Measure a REGISTER without a store and at a node."""
    times = max(count // 16, 1)
    plain, shared, behind = [], [], []
    with (
        redis() as store,
        node() as alone,
        nodes(store.url, ["one"]) as (one,),
        phones([alone], 16) as here,
        phones([one], 16) as there,
    ):
        refresh(here, times), refresh(there, times)
        for _ in range(rounds):
            plain.append(spent([alone], lambda: refresh(here, times)))
            used = store.cpu()
            shared.append(spent([one], lambda: refresh(there, times)))
            behind.append((store.cpu() - used) / times / 16 / 1000)
    yield middle("REGISTER, without a store", "µs CPU", plain)
    yield middle("REGISTER, node", "µs CPU", shared)
    yield middle("REGISTER, Redis itself", "µs CPU", behind)
    ratios = [mine / its for mine, its in zip(shared, plain, strict=True)]
    yield middle("REGISTER: node to without a store", "", ratios, 1.5)


def ring(caller: Phone, callee: Phone) -> float:
    """Return the milliseconds until an INVITE arrives; it is refused then."""
    start = time.perf_counter()
    caller.send("INVITE", callee.user, "Contact: <sip:caller@caller.invalid;transport=ws>")
    request = callee.request("INVITE")
    taken = (time.perf_counter() - start) * 1000
    callee.answer(request, 486)
    if (status := caller.final()) != 486:
        raise DeliveryError(f"INVITE got {status}")
    return taken


def latency(count: int, delays: Sequence[float]) -> Iterator[Figure]:
    """Measure how long an INVITE takes."""

    def measured(what: str, caller: Phone, callee: Phone) -> Figure:
        ring(caller, callee)
        return middle(f"INVITE, {what}", "ms", [ring(caller, callee) for _ in range(count)])

    with node() as alone, phones([alone], 2) as (alice, bob):
        yield measured("one server", alice, bob)
    with redis() as store:
        way = Delay(store.port, 0.0)
        try:
            with (
                nodes(f"redis://127.0.0.1:{way.port}", ["one", "two"]) as (one, two),
                phones([one, one, two], 3) as (alice, bob, carol),
            ):
                yield measured("one node", alice, bob)
                yield measured("node to node", alice, carol)
                for delay in delays:
                    way.seconds = delay
                    what = f"node to node, store at {delay * 1000:g} ms"
                    yield measured(what, alice, carol)
        finally:
            way.close()


def several(rounds: int, count: int, sizes: Sequence[int], idle: float) -> Iterator[Figure]:
    """Measure nodes together: a REGISTER, a MESSAGE, and nothing."""
    rng = random.Random(5626)
    # As many clients at each node, so that as many questions go to the store together.
    times = max(count // 32, 1)
    costs: dict[int, tuple[float, float]] = {}
    with redis() as store:
        for size in sizes:
            names = [f"node{number}of{size}" for number in range(size)]
            with nodes(store.url, names) as places, phones(places, 32 * size) as clients:
                refresh(clients, times), chat(clients, times, rng)
                registers, messages = [], []
                for _ in range(rounds):
                    registers.append(spent(places, partial(refresh, clients, times)))
                    messages.append(spent(places, partial(chat, clients, 2 * times, rng)))
                before = sum(place.cpu() for place in places)
                time.sleep(idle)
                rest = (sum(place.cpu() for place in places) - before) / size / idle / 1e7
            label = "1 node" if size == 1 else f"{size} nodes"
            yield middle(f"REGISTER, {label}", "µs CPU", registers)
            yield middle(f"MESSAGE between random clients, {label}", "µs CPU", messages)
            yield Figure(f"an idle node of {size}", "% of a core", rest)
            costs[size] = statistics.median(registers), statistics.median(messages)
    alone = costs[sizes[0]]
    for size in sizes[1:]:
        more = [1 - one / each for one, each in zip(alone, costs[size], strict=True)]
        yield Figure(f"share of coordination in a REGISTER, {size} nodes", "%", 100 * more[0], 15)
        # RFC 5626 clients register every few minutes, and people write or call now and then.
        mixed = [12 * registers + messages for registers, messages in (alone, costs[size])]
        what = f"the same with a MESSAGE for every 12 REGISTERs, {size} nodes"
        yield Figure(what, "%", 100 * (1 - mixed[0] / mixed[1]), 15)
        yield Figure(f"share of the second node in a MESSAGE, {size} nodes", "%", 100 * more[1])


def until_told(caller: Phone, user: str) -> tuple[float, int]:
    """Return the seconds until a message to a user is answered, and the status."""
    start = time.perf_counter()
    while (taken := time.perf_counter() - start) < 60:
        caller.send("MESSAGE", user)
        status = caller.final_within(0.2)
        if status in (404, 480):
            return time.perf_counter() - start, status
    raise DeliveryError(f"no answer in {taken:.0f} s")


def failure(*, stopped: bool) -> Iterator[Figure]:
    """Measure how soon the end of a node is noticed."""
    with redis() as store:
        for number, goal in ((SIGKILL, 1.0), *([(SIGSTOP, 15.0)] if stopped else [])):
            with (
                nodes(store.url, ["one", "two"]) as (one, two),
                phones([one, two], 2) as (alice, bob),
            ):
                two.end(number)
                taken, status = until_told(alice, bob.user)
            what = "kill -9" if number == SIGKILL else "a silent stop"
            yield Figure(f"from {what} to the first {status}", "s", taken, goal)


def size(count: int) -> Iterator[Figure]:
    """Measure the bytes of a connection and of a registration."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # For the sockets here, and, since it is inherited, for those of the servers.
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(limit, 2 * count + 100), most), most))

    def measured(place: Server, store: Redis | None) -> list[float]:
        with ExitStack() as stack:
            # Costs that are paid once.
            stack.enter_context(phones([place], max(count // 10, 2), "first"))
            before = place.memory()
            idle = [stack.enter_context(Phone(place, f"user{number}")) for number in range(count)]
            connected, kept = place.memory(), 0 if store is None else store.memory()
            for phone in idle:
                phone.register()
            after = place.memory()
            stored = 0 if store is None else store.memory() - kept
        return [(connected - before) / count, (after - connected) / count, stored / count]

    with node() as alone:
        connection, binding, _ = measured(alone, None)
    yield Figure("connection, idle", "bytes", connection)
    yield Figure("registration, without a store", "bytes", binding)
    with redis() as store, nodes(store.url, ["one"]) as (one,):
        _, binding, stored = measured(one, store)
    yield Figure("registration, node", "bytes", binding)
    yield Figure("registration, Redis", "bytes", stored)


def parked(count: int) -> Iterator[Figure]:
    """Measure the bytes of a MESSAGE that waits for the answer of the store."""
    many = ShareConfig(1_000_000, reserve=0)
    config = EdgeConfig(
        DOMAIN,
        transactions=many,
        pending_bytes=ShareConfig(1_000_000_000, reserve=0),
        requests_per_second=many,
        callee_requests_per_second=many,
        callee_transactions=many,
    )
    registrar = Registrar(RegistrarConfig(Domains((DOMAIN,))), node=Node("one", "1"))
    edge = SipEdge(config, registrar=registrar)
    size = 0
    requests = []
    for cid in range(1, count + 1):
        edge.connection_opened(cid, Peer(Source("127.0.0.1", cid, "ws"), None, "127.0.0.1"))
        requests.append(
            f"MESSAGE sip:bob{cid}@{DOMAIN} SIP/2.0\r\n"
            f"Via: SIP/2.0/WS b.invalid;branch=z9hG4bK{cid}\r\nMax-Forwards: 69\r\n"
            f"To: <sip:bob{cid}@{DOMAIN}>\r\nFrom: <sip:alice{cid}@{DOMAIN}>;tag=a\r\n"
            f"Call-ID: call{cid}\r\nCSeq: 1 MESSAGE\r\nContent-Length: 0\r\n\r\n"
        )
        size += len(requests[-1])
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        asked = [edge.receive(cid, request, 0.0) for cid, request in enumerate(requests, 1)]
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    waiting = sum(isinstance(action, AskQuestion) for actions in asked for action in actions)
    if waiting != count:
        raise DeliveryError(f"{waiting} of {count} requests wait")
    what = f"a request of {size // count} bytes that waits for the store"
    yield Figure(what, "bytes", (after - before) / count)


PARTS = ("memory", "register", "latency", "nodes", "failure", "size")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if everything was delivered."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds (default: 7)")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; may be repeated")
    parser.add_argument("--before", type=Path, help="another tree, to compare memory with")
    parser.add_argument("--smoke", action="store_true", help="everything once, a few times")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    chosen = parser.parse_args(arguments)
    if chosen.rounds < 1:
        parser.error("--rounds must be 1 or more")
    smoke, rounds = chosen.smoke, 1 if chosen.smoke else chosen.rounds
    count = 32 if smoke else 1600
    work: dict[str, Callable[[], Iterator[Figure]]] = {
        "memory": lambda: memory(chosen.before, rounds, 20 if smoke else 2000),
        "register": lambda: register(rounds, count),
        "latency": lambda: latency(*((2, (0.005,)) if smoke else (50, (0.001, 0.005, 0.05)))),
        "nodes": lambda: several(
            rounds, count, (1, 2) if smoke else (1, 2, 4), 0.2 if smoke else 10.0
        ),
        "failure": lambda: failure(stopped=not smoke),
        "size": lambda: chain(size(10 if smoke else 4000), parked(10 if smoke else 1000)),
    }
    figures: list[Figure] = []
    try:
        for part in chosen.only or PARTS:
            figures += work[part]()
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    except LookupError as error:
        print(f"not measured: {error}")
    if smoke:
        for figure in figures:
            figure.goal = None
    print(render_figures("several nodes", figures, markdown=chosen.markdown))
    if chosen.json is not None:
        write_figures(chosen.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
