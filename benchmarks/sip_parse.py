"""What reading, editing and writing an INVITE of 800 octets costs, beside PyPI's sipmessage.

Run from the root of the repository::

    python -m benchmarks.sip_parse
    python -m benchmarks.sip_parse --smoke
    python -m benchmarks.sip_parse --markdown

Theory of operation: both libraries read the same octets again and again, taking turns. The six
fields are those that route a request: Via, From, To, Call-ID, CSeq and Contact, as text or as the
library's own types. The last row but one pushes a Via, puts a parameter into the URI of the
Contact, inserts a Record-Route and writes the message. The last row has sipmessage do nothing but
its parsing, which takes no header apart, while this package also gets the six fields as text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks._harness import DeliveryError, Goal, Results, Turn, take_turns
from wsproto_sip.sip import NameAddr, SipUri, Via, parse_message

try:
    import sipmessage
except ImportError:
    sipmessage = None  # type: ignore[assignment]

OURS, PEER = "wsproto_sip.sip", "sipmessage"
NAMES = ("Via", "From", "To", "Call-ID", "CSeq", "Contact")
ROWS = ("parse", "six as text", "six typed", "edit and write", "six against parse")
GOALS = [
    Goal("six typed", OURS, PEER, 0.25),
    Goal("edit and write", OURS, PEER, 0.6),
    Goal("six against parse", OURS, PEER, 0.25),
]
BODY = (
    "v=0\r\no=- 2578110624900441536 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"
    "m=audio 52850 RTP/AVP 0\r\nc=IN IP4 192.0.2.2\r\na=sendrecv\r\na=mid:0\r\na=rtcp-mux\r\n"
)


def invite() -> bytes:
    """A browser's INVITE with a short body, padded to 800 octets."""
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
    """Read it."""
    return len(parse_message(data).body)


def our_text(data: bytes) -> int:
    """Read it and look at six fields."""
    message = parse_message(data)
    get = message.get
    for name in NAMES:
        get(name)
    return len(message.body)


def our_types(data: bytes) -> int:
    """Read it and take six fields apart."""
    message = parse_message(data)
    _ = (message.via, message.from_, message.to, message.call_id, message.cseq, message.contacts)
    return len(message.body)


OUR_VIA = Via.parse("SIP/2.0/WS edge.test;branch=z9hG4bKabc")
OUR_ROUTE = NameAddr(SipUri.parse("sip:edge.test;transport=ws;lr"))


def our_edit(data: bytes) -> int:
    """Read it, edit three headers, and write it."""
    message = parse_message(data)
    message.insert_header("Via", OUR_VIA)
    message.insert_header("Record-Route", OUR_ROUTE)
    contacts = message.contacts or []
    uri = contacts[0].sip_uri.with_param("alias", "127.0.0.1~57374~5")
    message.set_contacts([contacts[0].with_uri(uri)])
    return len(message.to_bytes())


def peer_candidates() -> dict[str, Callable[[bytes], int]]:
    """The same four, with sipmessage."""
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
    """Microseconds a message for each candidate, one figure a round."""
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


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 when both gave the same."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sip_parse", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds (default: 9)")
    parser.add_argument("--smoke", action="store_true", help="everything once, a few times")
    parser.add_argument("--json", type=Path, help="write every round's figure to this file")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be 1 or more")
    count, rounds = (20, 1) if options.smoke else (2000, options.rounds)
    ours = dict(zip(ROWS, (our_parse, our_text, our_types, our_edit, our_text), strict=True))
    results = Results("SIP: an INVITE of 800 octets", {OURS: "this package"}, [OURS])
    peers: dict[str, Callable[[bytes], int]] = {}
    if sipmessage is None:
        results.missing.append(f"{PEER} is not installed")
    else:
        results.candidates[PEER] = sipmessage.__version__
        peers = peer_candidates()
    for row in ROWS:
        candidates = {OURS: ours[row]} | ({PEER: peers[row]} if peers else {})
        results.samples[row] = measure(row, candidates, count, rounds)
    goals = [] if options.smoke else GOALS
    print(results.render(goals, markdown=options.markdown))
    if options.json is not None:
        results.write_json(options.json, goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
