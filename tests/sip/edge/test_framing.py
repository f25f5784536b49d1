"""What an edge writes to its upstream's stream, as framers that are not ours read it.

A WebSocket message ends with its frame, a message on a stream by its Content-Length. Where the two
disagree, the upstream reads a part of a client's message as a message of the edge's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.sip._phones import UPSTREAM, Phone, World
from wsproto_sip.sip import SipRequest, SipResponse, parse_message
from wsproto_sip.sip.edge.actions import EdgeAction, SendToUpstream
from wsproto_sip.sip.edge.config import DATAGRAMS, STREAM, Upstream

#: A request for the body of another one: what an attacker wants the upstream to read.
INNER = (
    b"INVITE sip:victim@sip.test SIP/2.0\r\n"
    b"Via: SIP/2.0/TCP 192.0.2.66:5060;branch=z9hG4bKinner\r\n"
    b"Max-Forwards: 70\r\n"
    b"From: <sip:president@sip.test>;tag=1\r\n"
    b"To: <sip:victim@sip.test>\r\n"
    b"P-Asserted-Identity: <sip:president@sip.test>\r\n"
    b"Call-ID: inner\r\n"
    b"CSeq: 1 INVITE\r\n"
    b"Content-Length: 0\r\n\r\n"
)

# -- foreign framers -------------------------------------------------------------------------------


def strict_framer(stream: bytes) -> list[bytes]:
    """Cut a stream as RFC 3261 §18.3 says: one Content-Length, folds joined (§7.3.1)."""
    messages = []
    while stream := re.sub(rb"\A(?:\r\n)+", b"", stream):
        head, end, _ = stream.partition(b"\r\n\r\n")
        assert end, f"no end of the header in {stream[:300]!r}"
        _, *fields = re.sub(rb"\r\n[ \t]+", b" ", head).split(b"\r\n")
        pairs = [field.partition(b":")[::2] for field in fields]
        lengths = [v for k, v in pairs if k.strip(b" \t").lower() in (b"content-length", b"l")]
        assert len(lengths) == 1, f"{len(lengths)} lengths in {head!r}"
        size = len(head) + 4 + int(lengths[0])
        assert len(stream) >= size, "a message without an end"
        messages.append(stream[:size])
        stream = stream[size:]
    return messages


def loose_framer(stream: bytes, *, which: int) -> list[bytes]:
    """Cut a stream as loosely as a C program may.

    Lines may end with LF, white space before a name counts for nothing, ``_`` stands for ``-``, the
    start line is a line as any other, and a message without a length has no body.

    Args:
        stream: The stream.
        which: Which of several lengths counts: 0 for the first (as in Kamailio), -1 for the last.
    """
    messages = []
    while stream := stream.lstrip(b"\r\n"):
        match = re.search(rb"\n\r?\n", stream)
        assert match is not None, f"no end of the header in {stream[:300]!r}"
        lengths = re.findall(
            rb"^[ \t]*(?:content[-_]length|l)[ \t]*:[ \t]*([0-9]+)",
            stream[: match.end()],
            re.IGNORECASE | re.MULTILINE,
        )
        size = match.end() + (int(lengths[which]) if lengths else 0)
        messages.append(stream[:size])
        stream = stream[size:]
    return messages


FRAMERS: list[Callable[[bytes], list[bytes]]] = [
    strict_framer,
    lambda stream: loose_framer(stream, which=0),
    lambda stream: loose_framer(stream, which=-1),
]


def test_the_framers_disagree_about_an_attack() -> None:
    """They are worth asking: what a client sends without a length is cut differently."""
    first, rest = INNER.split(b"\r\n", 1)
    folded = first + b"\r\nSubject: x\r\n Content-Length: 0\r\n" + rest
    folded = folded.replace(b"\r\nContent-Length: 0\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n12345")
    assert strict_framer(folded) == [folded]
    assert FRAMERS[2](folded) == [folded]
    with pytest.raises(AssertionError, match="no end of the header"):
        FRAMERS[1](folded)
    none = INNER.replace(b"Content-Length: 0\r\n", b"")
    assert FRAMERS[1](none + INNER) == [none, INNER]
    with pytest.raises(AssertionError, match="0 lengths"):
        strict_framer(none)


# -- the edge --------------------------------------------------------------------------------------


class Wire(World):
    """A world that keeps what goes to the upstream."""

    def __init__(self, upstream: Upstream) -> None:
        super().__init__(upstream=upstream)
        self.sent: dict[int, list[bytes]] = {}

    def do(self, actions: Sequence[EdgeAction]) -> None:
        for action in actions:
            if isinstance(action, SendToUpstream):
                self.sent.setdefault(action.link, []).append(action.data)
        super().do(actions)

    def bodies(self) -> list[bytes]:
        """Return the bodies that the upstream's framers find; all agree on what was sent."""
        found = []
        for link, sent in self.sent.items():
            messages = [data for data in sent if data.strip(b"\r\n")]
            if link != DATAGRAMS:
                for framer in FRAMERS:
                    assert framer(b"".join(sent)) == messages
            found += [message.partition(b"\r\n\r\n")[2] for message in messages]
        return found

    def registered(self, link: int = STREAM) -> tuple[Phone, str]:
        """Return a client, and the route on which the upstream reaches it."""
        phone = self.phone("alice", registers=False)
        phone.send("REGISTER", "sip:sip.test", ("Supported", "path"), contact=False)
        register = self.upstream_request()
        self.from_upstream(register.make_response(200), link=link)
        phone.response(200)
        (path,) = register.paths
        return phone, f"<{path.uri}>"


TCP = replace(UPSTREAM, transport="tcp")
#: Everything is too large for a datagram.
LARGE = replace(UPSTREAM, datagram_limit=1)

_LENGTHS = ["", "Content-Length: {0}\r\n", "l:{0}\r\n", "Content-Length :\r\n\t0{0} \r\n"]
_FIELDS = [
    "Subject: x\r\n Content-Length: 0\r\n",
    "Subject: x\r\n\tl: 5\r\n",
    "Content_Length: 0\r\n",
    "content_LENGTH: 7\r\n",
    "X-Content-Length: 0\r\n",
    "Content-Length-X: 0\r\n",
    "Subject: Content-Length: 0\r\n",
    "-------sip: $\r\n",
    "Expect: 100-continue\r\n",
    "Transfer-Encoding: chunked\r\n",
]
_bodies = st.one_of(
    st.just(INNER),
    st.just(b""),
    st.just(b"\r\n\r\n" + INNER),
    st.just(b"Content-Length: 3\r\n\r\n" + INNER + INNER),
    st.binary(max_size=40),
)
_heads = st.tuples(
    st.sampled_from(["", "Content-Type: message/sipfrag\r\n"]),
    st.lists(st.sampled_from(_FIELDS), max_size=3).map("".join),
    st.sampled_from(_LENGTHS),
    st.booleans(),
)


def said(message: SipRequest | SipResponse, body: bytes, head: tuple[str, str, str, bool]) -> bytes:
    """Return a client's message: a body, and fields that mislead a parser about its end."""
    kind, odd, length, early = head
    start, _, fields = message.to_bytes().decode().partition("\r\n")
    fields = fields.partition("Content-Length: ")[0]
    length = length.format(len(body))
    ours = length + odd if early else odd + length
    text = f"{start}\r\n{ours}{fields}{kind}" if early else f"{start}\r\n{fields}{kind}{ours}"
    return f"{text}\r\n".encode() + body


@given(
    upstream=st.sampled_from([TCP, LARGE]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["INVITE", "MESSAGE", "ACK", "X-OTHER", "answer", "again", "wait"]),
            _bodies,
            _heads,
        ),
        min_size=1,
        max_size=8,
    ),
)
def test_every_framer_of_the_stream_sees_the_messages_that_clients_sent(
    upstream: Upstream, steps: list[tuple[str, bytes, tuple[str, str, str, bool]]]
) -> None:
    world = Wire(upstream)
    alice, route = world.registered()
    expected: list[bytes] = []
    inward = 0
    last = b""
    for what, body, head in steps:
        match what:
            case "wait":
                world.wait(1.0)
            case "again":
                if last:
                    # A retransmission is answered with what was sent before.
                    world.from_upstream(last, link=STREAM)
            case "answer":
                inward += 1
                request = SipRequest(
                    "MESSAGE",
                    alice.contact,
                    [
                        ("Via", f"SIP/2.0/TCP 192.0.2.200:5060;branch=z9hG4bK{inward}"),
                        ("Route", route),
                        ("From", "<sip:bob@sip.test>;tag=1"),
                        ("To", "<sip:alice@sip.test>"),
                        ("Call-ID", "inward"),
                        ("CSeq", f"{inward} MESSAGE"),
                    ],
                )
                last = request.to_bytes()
                alice.heard.clear()
                world.from_upstream(last, link=STREAM)
                answer = alice.request("MESSAGE").make_response(200, to_tag="t")
                alice.say(said(answer, body, head))
                expected.append(body)
            case "ACK":
                fields = ("Route", route), ("Route", "<sip:192.0.2.200;lr>")
                # A route of its own and a further one: it goes to the upstream.
                request = alice.make("ACK", "sip:bob@192.0.2.9", *fields, to="<sip:b@a>;tag=2")
                alice.say(said(request, body, head))
                expected.append(body)
            case _:
                alice.say(said(alice.make(what, "sip:bob@sip.test"), body, head))
                expected.append(body)
    world.wait(40.0)
    found = world.bodies()
    # The REGISTER, retransmissions, CANCELs and refusals of the edge's own have no body.
    assert sorted(filter(None, set(found))) == sorted(filter(None, set(expected)))
    for body in expected:
        assert found.count(body) >= expected.count(body)


def test_request_without_a_length_is_one_message_to_the_upstream() -> None:
    world = Wire(TCP)
    mallory = world.phone("mallory", registers=False)
    text = said(mallory.make("MESSAGE", "sip:bob@sip.test"), INNER, ("", "", "", False))
    assert b"Content-Length" not in text.partition(b"\r\n\r\n")[0]
    mallory.say(text)
    (message,) = strict_framer(b"".join(world.sent[STREAM]))
    assert parse_message(message).body == INNER


def test_response_without_a_length_is_one_message_to_the_upstream() -> None:
    world = Wire(TCP)
    alice, route = world.registered()
    request = SipRequest(
        "OPTIONS",
        alice.contact,
        [
            ("Via", "SIP/2.0/TCP 192.0.2.200:5060;branch=z9hG4bK1"),
            ("Route", route),
            ("From", "<sip:bob@sip.test>;tag=1"),
            ("To", "<sip:alice@sip.test>"),
            ("Call-ID", "inward"),
            ("CSeq", "1 OPTIONS"),
        ],
    )
    # On a connection that the upstream has opened.
    world.from_upstream(request, link=STREAM + 1)
    answer = alice.request("OPTIONS").make_response(200, to_tag="t")
    alice.say(said(answer, INNER, ("", "", "", False)))
    (message,) = strict_framer(b"".join(world.sent[STREAM + 1]))
    assert parse_message(message).body == INNER


@pytest.mark.parametrize(
    ("length", "more", "body"),
    [
        ("Content-Length: 5\r\n", b"", b"hello"),
        ("Content-Length: 5\r\n", b"\r\n" + INNER, b"hello"),
        ("", b" " + INNER, b"hello " + INNER),
        ("Content-Length: 6\r\n", b"", None),
        ("Content-Length: 0\r\n Content-Length: 5\r\n", b"", None),
        ("Content-Length: 5\r\nl: 0\r\n", INNER, None),
    ],
    ids=["exact", "longer than its length", "none", "shorter", "folded", "two"],
)
def test_datagram_is_one_message_or_none(length: str, more: bytes, body: bytes | None) -> None:
    """RFC 3261 §18.3: what follows the body is dropped, and a body that is too short an error."""
    world = Wire(UPSTREAM)
    alice, route = world.registered(DATAGRAMS)
    request = SipRequest(
        "MESSAGE",
        alice.contact,
        [
            ("Via", "SIP/2.0/UDP 192.0.2.200:5060;branch=z9hG4bK1"),
            ("Route", route),
            ("From", "<sip:bob@sip.test>;tag=1"),
            ("To", "<sip:alice@sip.test>"),
            ("Call-ID", "inward"),
            ("CSeq", "1 MESSAGE"),
        ],
    )
    head = request.to_bytes().decode().partition("Content-Length")[0]
    world.from_upstream(f"{head}{length}\r\n".encode() + b"hello" + more)
    if body is None:
        assert alice.heard == []
        assert world.upstream_response().status == 400
    else:
        assert alice.request("MESSAGE").body == body
    assert world.quiet()
