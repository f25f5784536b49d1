"""What SIP costs: parsing, editing and writing an INVITE, and an edge as a whole.

Run from the root of the repository::

    python -m benchmarks.sip
    python -m benchmarks.sip --smoke
    python -m benchmarks.sip --markdown

Theory of operation: in the first part this package and PyPI's sipmessage parse the same INVITE of
800 bytes again and again, taking turns. The six fields are those that route a request: Via, From,
To, Call-ID, CSeq and Contact, as text, one by one, or as the library's own types. ``edit and
write`` pushes a Via, puts a parameter into the URI of the Contact, inserts a Record-Route and
writes the message. In ``six at once`` this package parses the message and returns the texts of the
six together, while sipmessage only parses the message, without its header fields.

The second part is the edge. In memory, bytes of WebSocket connections go into an endpoint and come
out of it: an OPTIONS to the edge and its 200, a REGISTER that refreshes a binding, and a call that
is refused: INVITE, 100, INVITE to the other client, 486, ACK to it, 486, ACK. The Python calls of
one, those of the benchmark included, do not depend on the machine. Over loopback the edge runs in a
separate process on one core, and so does Kamailio if it is installed, with the same client: four
connections, each with sixteen outstanding OPTIONS. ``CPU`` is the CPU time of the server's threads
for one, ``wall`` the elapsed time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._harness import (
    DeliveryError,
    Goal,
    Results,
    Turn,
    markdown_table,
    plain_table,
    take_turns,
)
from benchmarks._loopback import Wire, frame_of
from benchmarks._sip_servers import Server, edge_application, edge_server, kamailio_server, serve
from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.events import Message, Request
from wsproto_sip.sip import NameAddr, SipUri, Via, parse_message

try:
    import sipmessage
except ImportError:
    sipmessage = None  # type: ignore[assignment]

OURS, PEER = "wsproto_sip.sip", "sipmessage"
NAMES = ("Via", "From", "To", "Call-ID", "CSeq", "Contact")
ROWS = ("parse", "six as text", "six typed", "edit and write", "six at once / parse")
GOALS = [
    Goal("six at once / parse", OURS, PEER, 0.25),
    Goal("edit and write", OURS, PEER, 0.6),
]
#: The most Python calls that one may take in memory.
CALLS = {"OPTIONS and 200": 250, "a refused call": 1000}
#: The CPU time of an OPTIONS over loopback, divided by Kamailio's.
AT_MOST = 1.8
BODY = (
    "v=0\r\no=- 2578110624900441536 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    "m=audio 52850 RTP/AVP 0\r\nc=IN IP4 192.0.2.2\r\na=sendrecv\r\na=mid:0\r\na=rtcp-mux\r\n"
)


def invite() -> bytes:
    """Return a browser's INVITE with a short body, padded to 800 bytes."""
    head = (
        "INVITE sip:bob@sip.test SIP/2.0\r\n"
        "Via: SIP/2.0/WS m4u1tanqulmj.invalid;branch=z9hG4bK6535686\r\n"
        "Max-Forwards: 69\r\n"
        "To: <sip:bob@sip.test>\r\n"
        "From: <sip:alice@sip.test>;tag=5a073sk1bk\r\n"
        "Call-ID: 79nvt8oj7l2a3c1k1ovh\r\n"
        "CSeq: 2791 INVITE\r\n"
        "Contact: <sip:3m0t8l6b@m4u1tanqulmj.invalid;transport=ws;ob>\r\n"
        "Content-Type: application/sdp\r\n"
        "Session-Expires: 90\r\n"
        "Allow: INVITE,ACK,CANCEL,BYE,UPDATE,MESSAGE,OPTIONS,REFER,INFO,NOTIFY,SUBSCRIBE\r\n"
        "Supported: timer,gruu,ice,replaces,outbound\r\n"
        "User-Agent: harness JsSIP/3.13.8\r\n"
        "Content-Length: {size}\r\n\r\n"
    )
    padding = 800 - len(head.format(size=100)) - len(BODY) - 4
    body = f"{BODY}a={'x' * padding}\r\n"
    return (head.format(size=len(body)) + body).encode()


def our_parse(data: bytes) -> int:
    """Parse it."""
    return len(parse_message(data).body)


def our_text(data: bytes) -> int:
    """Parse it and read six fields."""
    message = parse_message(data)
    get = message.get
    for name in NAMES:
        get(name)
    return len(message.body)


def our_routing(data: bytes) -> int:
    """Parse it and read the six at once."""
    message = parse_message(data)
    _ = message.routing_texts
    return len(message.body)


def our_types(data: bytes) -> int:
    """Parse it and parse six fields."""
    message = parse_message(data)
    _ = (message.via, message.from_, message.to, message.call_id, message.cseq, message.contacts)
    return len(message.body)


OUR_VIA = Via.parse("SIP/2.0/WS edge.test;branch=z9hG4bKabc")
OUR_ROUTE = NameAddr(SipUri.parse("sip:edge.test;transport=ws;lr"))


def our_edit(data: bytes) -> int:
    """Parse it, edit three headers, and write it."""
    message = parse_message(data)
    message.insert_header("Via", OUR_VIA)
    message.insert_header("Record-Route", OUR_ROUTE)
    contacts = message.contacts or []
    uri = contacts[0].sip_uri.with_param("alias", "127.0.0.1~57374~5")
    message.set_contacts([contacts[0].with_uri(uri)])
    return len(message.to_bytes())


def peer_candidates() -> dict[str, Callable[[bytes], int]]:
    """Return the same four candidates with sipmessage."""
    import dataclasses

    parse = sipmessage.Message.parse
    own_via = sipmessage.Via.parse(str(OUR_VIA))
    own_route = sipmessage.Address.parse(str(OUR_ROUTE))

    def plain(data: bytes) -> int:
        return len(parse(data).body)

    def text(data: bytes) -> int:
        message = parse(data)
        get = message.headers.get
        for name in NAMES:
            get(name)
        return len(message.body)

    def types(data: bytes) -> int:
        message = parse(data)
        _ = (
            *(message.via, message.from_address, message.to_address),
            *(message.call_id, message.cseq, message.contact),
        )
        return len(message.body)

    def edit(data: bytes) -> int:
        message = parse(data)
        message.via = [own_via, *message.via]
        message.record_route = [own_route]
        contact = message.contact[0]
        changed = contact.uri.parameters.replace(alias="127.0.0.1~57374~5")
        uri = dataclasses.replace(contact.uri, parameters=changed)
        message.contact = [dataclasses.replace(contact, uri=uri)]
        return len(bytes(message))

    return dict(zip(ROWS, (plain, text, types, edit, plain), strict=True))


def measure(
    row: str, candidates: dict[str, Callable[[bytes], int]], count: int, rounds: int
) -> dict[str, list[float]]:
    """Measure the microseconds per message for each candidate, one figure per round."""
    data = invite()
    sizes = {name: call(data) for name, call in candidates.items()}
    if len(set(sizes.values())) != 1:
        raise DeliveryError(f"{row}: {sizes}")

    def prepare(call: Callable[[bytes], int]) -> Callable[[], int]:
        messages = [data] * count

        def run() -> int:
            total = 0
            for message in messages:
                total += call(message)
            return total

        return run

    return take_turns(
        [Turn(name, lambda call=call: prepare(call)) for name, call in candidates.items()],  # type: ignore[misc]
        expected=next(iter(sizes.values())) * count,
        operations=count,
        rounds=rounds,
    )


# -- the edge in memory ----------------------------------------------------------------------------


def options(number: int, host: str) -> bytes:
    """Return an OPTIONS to the edge, as a WebSocket frame."""
    message = (
        f"OPTIONS sip:{host} SIP/2.0\r\n"
        f"Via: SIP/2.0/WS m4u1tanqulmj.invalid;branch=z9hG4bK{number:07}\r\n"
        "Max-Forwards: 69\r\n"
        f"To: <sip:{host}>\r\n"
        "From: <sip:alice@edge.test>;tag=5a073sk1bk\r\n"
        "Call-ID: 79nvt8oj7l2a3c1k1ovh\r\n"
        f"CSeq: {number} OPTIONS\r\n"
        "Accept: application/sdp\r\n"
        "User-Agent: harness JsSIP/3.13.8\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    return frame_of(message.encode())


def register(number: int) -> bytes:
    """Return a REGISTER of bob with one contact, as a WebSocket frame."""
    message = (
        "REGISTER sip:edge.test SIP/2.0\r\n"
        f"Via: SIP/2.0/WS b.invalid;branch=z9hG4bK{number:07}\r\n"
        "Max-Forwards: 69\r\n"
        "To: <sip:bob@edge.test>\r\n"
        "From: <sip:bob@edge.test>;tag=b\r\n"
        "Call-ID: r\r\n"
        f"CSeq: {number} REGISTER\r\n"
        "Contact: <sip:bob@b.invalid;transport=ws>\r\n"
        "Expires: 600\r\n"
        "Content-Length: 0\r\n\r\n"
    )
    return frame_of(message.encode())


class InMemory:
    """An edge on an endpoint, and its WebSocket clients."""

    def __init__(self) -> None:
        self.application = edge_application(0.0)
        self.clients: dict[int, WSConnection] = {}

    def connect(self) -> int:
        """Connect one more client and return its number."""
        client = WSConnection(ConnectionType.CLIENT)
        cid = self.application.endpoint.accept(("127.0.0.1", 40000 + len(self.clients)), 0.0)
        self.clients[cid] = client
        opening = Request(host="edge.test", target="/", subprotocols=["sip"])
        self.feed(cid, client.send(opening))
        self.heard()
        return cid

    def feed(self, cid: int, data: bytes) -> None:
        """Pass in a client's bytes."""
        application = self.application
        for event in application.endpoint.receive(cid, data, 0.0):
            application.handle(cid, event, 0.0)

    def heard(self) -> list[tuple[int, bytes]]:
        """Return the messages that the clients have got since the last call."""
        messages = []
        for output in self.application.endpoint.take_output():
            client = self.clients[output.cid]
            client.receive_data(output.data)
            for event in client.events():
                if isinstance(event, Message):
                    data = event.data
                    raw = data.encode() if isinstance(data, str) else bytes(data)
                    messages.append((output.cid, raw))
        return messages


def options_in_memory(count: int) -> Callable[[], int]:
    """Prepare OPTIONS and 200; the output is counted and examined once."""
    return answered_in_memory([options(number, "edge.test") for number in range(count + 1)])


def registers_in_memory(count: int) -> Callable[[], int]:
    """Prepare REGISTERs that refresh a binding, and their 200."""
    return answered_in_memory([register(number) for number in range(1, count + 2)])


def answered_in_memory(frames: Sequence[bytes]) -> Callable[[], int]:
    """Prepare requests of one client; the answer to the first one is examined, others counted."""
    edge = InMemory()
    cid = edge.connect()
    edge.feed(cid, frames[0])
    ((_, answer),) = edge.heard()
    if not answer.startswith(b"SIP/2.0 200 "):
        raise DeliveryError(answer.decode())
    endpoint = edge.application.endpoint

    def run() -> int:
        answers = 0
        for frame in frames[1:]:
            edge.feed(cid, frame)
            answers += len(endpoint.take_output())
        return answers

    return run


def calls_in_memory(count: int) -> Callable[[], int]:
    """Prepare refused calls; the called client's messages are made within the clock."""
    edge = InMemory()
    alice, bob = edge.connect(), edge.connect()
    edge.feed(bob, register(1))
    ((_, answer),) = edge.heard()
    if not answer.startswith(b"SIP/2.0 200 "):
        raise DeliveryError(answer.decode())
    template = invite().replace(b"@sip.test", b"@edge.test")
    invites = [
        frame_of(template.replace(b"z9hG4bK6535686", b"z9hG4bK%07d" % number)).replace(
            b"79nvt8oj7l2a", b"79nvt%07d" % number
        )
        for number in range(count)
    ]
    take = edge.application.endpoint.take_output

    def run() -> int:
        refused = 0
        for number, frame in enumerate(invites):
            edge.feed(alice, frame)
            (sent,) = [output.data for output in take() if output.cid == bob]
            head = sent[4:].partition(b"\r\n\r\n")[0]
            fields = [
                line
                for line in head.split(b"\r\n")
                if line.startswith((b"Via:", b"From:", b"To:", b"Call-ID:", b"CSeq:"))
            ]
            answer = b"\r\n".join([b"SIP/2.0 486 Busy Here", *fields, b"", b""])
            edge.feed(
                bob,
                frame_of(
                    answer.replace(b"To: <sip:bob@edge.test>", b"To: <sip:bob@edge.test>;tag=t")
                ),
            )
            refused += sum(b"486 Busy Here" in output.data for output in take())
            ack = (
                "ACK sip:bob@edge.test SIP/2.0\r\n"
                f"Via: SIP/2.0/WS m4u1tanqulmj.invalid;branch=z9hG4bK{number:07}\r\n"
                "Max-Forwards: 69\r\nTo: <sip:bob@edge.test>;tag=t\r\n"
                "From: <sip:alice@edge.test>;tag=5a073sk1bk\r\n"
                f"Call-ID: 79nvt{number:07}3c1k1ovh\r\nCSeq: 2791 ACK\r\n\r\n"
            )
            edge.feed(alice, frame_of(ack.encode()))
        return refused

    return run


# -- over loopback ---------------------------------------------------------------------------------

WIRES, WINDOW = 4, 16


def loopback(server: Server, rounds: int, turns: int) -> tuple[float, float]:
    """Measure the microseconds of an OPTIONS over loopback: the server's CPU time, and wall time.

    Raises:
        DeliveryError: An answer was not 200.
    """
    port, used = server
    wires = [Wire(port, "sip") for _ in range(WIRES)]
    readers = [wire.messages() for wire in wires]
    figures = []
    number = 0
    for _ in range(rounds):
        batches = []
        for _ in range(turns * WIRES):
            batches.append(b"".join(options(number + at, "edge.test") for at in range(WINDOW)))
            number += WINDOW
        cpu, clock = used(), time.perf_counter_ns()
        answers = 0
        for turn in range(turns):
            for at, wire in enumerate(wires):
                wire.sock.sendall(batches[turn * WIRES + at])
            for reader in readers:
                got = 0
                while got < WINDOW:
                    for message in next(reader):
                        got += 1
                        answers += message.startswith(b"SIP/2.0 200 ")
        clock = time.perf_counter_ns() - clock
        count = turns * WIRES * WINDOW
        if answers != count:
            raise DeliveryError(f"{answers} of {count} OPTIONS were answered with 200")
        figures.append(((used() - cpu) / count / 1000, clock / count / 1000))
    for wire in wires:
        wire.sock.close()
    return (
        statistics.median([cpu for cpu, _ in figures]),
        statistics.median([wall for _, wall in figures]),
    )


def python_calls(run: Callable[[], int]) -> int:
    """Return how many Python calls a function takes."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def verdict(measured: float, goal: float) -> str:
    """Say whether a goal is reached."""
    return "reached" if measured <= goal else "NOT REACHED"


def edge_tables(rounds: int, count: int, turns: int, missing: list[str]) -> list[list[list[str]]]:
    """Return the tables of the edge."""
    memory = [["in memory", "µs", "per second", "Python calls", "at most", ""]]
    for what, prepare in (
        ("OPTIONS and 200", options_in_memory),
        ("REGISTER and 200", registers_in_memory),
        ("a refused call", calls_in_memory),
    ):
        samples = take_turns(
            [Turn(OURS, lambda prepare=prepare: prepare(count))],  # type: ignore[misc]
            expected=count,
            operations=count,
            rounds=rounds,
        )[OURS]
        figure = statistics.median(samples)
        calls = python_calls(prepare(20)) / 20
        goal = CALLS.get(what)
        judged = ["", ""] if goal is None else [f"{goal}", verdict(calls, goal)]
        memory.append([what, f"{figure:.1f}", f"{1e6 / figure:.0f}", f"{calls:.0f}", *judged])
    outside = [["OPTIONS over loopback", "µs CPU", "per second of CPU", "µs wall"]]
    used: dict[str, float] = {}
    servers = {OURS: edge_server, "kamailio": kamailio_server}
    for name, start in servers.items():
        try:
            with start() as server:
                cpu, wall = loopback(server, rounds, turns)
        except LookupError as error:
            missing.append(str(error))
        else:
            used[name] = cpu
            outside.append([name, f"{cpu:.1f}", f"{1e6 / cpu:.0f}", f"{wall:.1f}"])
    tables = [memory, outside]
    if len(used) == 2:
        ratio = used[OURS] / used["kamailio"]
        row = [f"{OURS} / kamailio", f"{ratio:.2f}", f"{AT_MOST}", verdict(ratio, AT_MOST)]
        tables.append([["CPU of an OPTIONS over loopback", "measured", "at most", ""], row])
    return tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if both gave the same results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sip", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="everything once, a few times")
    parser.add_argument("--json", type=Path, help="write every round's figure to this file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.serve:
        serve()
        return 0
    if chosen.rounds < 1:
        parser.error("--rounds must be 1 or more")
    count, rounds = (20, 1) if chosen.smoke else (2000, chosen.rounds)
    ours = dict(zip(ROWS, (our_parse, our_text, our_types, our_edit, our_routing), strict=True))
    results = Results("SIP: an INVITE of 800 bytes", {OURS: "this package"}, [OURS])
    peers: dict[str, Callable[[bytes], int]] = {}
    if sipmessage is None:
        results.missing.append(f"{PEER} is not installed")
    else:
        results.candidates[PEER] = sipmessage.__version__
        peers = peer_candidates()
    for row in ROWS:
        candidates = {OURS: ours[row]} | ({PEER: peers[row]} if peers else {})
        results.samples[row] = measure(row, candidates, count, rounds)
    goals = [] if chosen.smoke else GOALS
    try:
        tables = edge_tables(
            rounds, *((20, 1) if chosen.smoke else (1000, 50)), missing=results.missing
        )
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    print(results.render(goals, markdown=chosen.markdown))
    for table in tables:
        print("", markdown_table(table) if chosen.markdown else plain_table(table), sep="\n")
    if chosen.json is not None:
        results.write_json(chosen.json, goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
