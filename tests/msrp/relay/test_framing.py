"""The relay's output on a peer's stream, as other framers read it."""

from __future__ import annotations

import re
from collections.abc import Callable

from hypothesis import given, strategies as st

from tests.msrp._relay import BOB, Client, World, code_of, forwarded
from wsproto_sip.msrp.relay.config import ForwardToPeer

#: A body with a chunk and a SIP request, which Kamailio reads on the same port.
INNER = (
    b"MSRP inner SEND\r\nTo-Path: msrp://bob.test:1/b;tcp\r\nFrom-Path: msrp://x:1/x;tcp\r\n"
    b"Message-ID: inner\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nno\r\n"
    b"-------inner$\r\n"
    b"OPTIONS sip:bob SIP/2.0\r\nContent-Length: 0\r\n\r\n"
)


def _first_line(stream: bytes) -> bytes:
    match = re.match(rb"MSRP (\S+) [^\r\n]*\r\n", stream)
    assert match is not None, f"no chunk: {stream[:300]!r}"
    return match[1]


def by_end_line(stream: bytes) -> list[bytes]:
    """Split a stream as RFC 4975 §7.3.1 says: the first end-line with the chunk's id ends it."""
    chunks = []
    while stream:
        end = re.search(rb"\r\n-------%b[$+#]\r\n" % re.escape(_first_line(stream)), stream)
        assert end is not None, f"no end: {stream[:300]!r}"
        chunks.append(stream[: end.end()])
        stream = stream[end.end() :]
    return chunks


def by_content_length(stream: bytes) -> list[bytes]:
    """Split a stream as Kamailio does: by Content-Length, if there is such a field."""
    chunks = []
    while stream:
        head, blank, _ = stream.partition(b"\r\n\r\n")
        length = re.search(rb"\n[ \t]*(?:content[-_]length|l)[ \t]*:[ \t]*([0-9]+)", head.lower())
        if length is not None:
            size = len(head) + len(blank) + int(length[1])
        else:
            size = len(by_end_line(stream)[0])
        chunks.append(stream[:size])
        stream = stream[size:]
    return chunks


def by_range(stream: bytes) -> list[bytes]:
    """Split a stream as FreeSWITCH does: by the size in Byte-Range, unless it is open."""
    chunks = []
    while stream:
        tid = _first_line(stream)
        head, blank, rest = stream.partition(b"\r\n\r\n")
        held = re.search(rb"\nByte-Range: ([0-9]+)-([0-9]+)/", head, re.IGNORECASE)
        if held is None or b"\r\n-------" + tid in head:
            size = len(by_end_line(stream)[0])
        else:
            body = int(held[2]) - int(held[1]) + 1
            assert rest[body:].startswith(b"\r\n-------" + tid), "no end-line after the body"
            size = len(head) + len(blank) + body + len(tid) + 12
        chunks.append(stream[:size])
        stream = stream[size:]
    return chunks


FRAMERS: list[Callable[[bytes], list[bytes]]] = [by_end_line, by_content_length, by_range]

_fields = st.lists(
    st.sampled_from(
        [
            (b"Content-Length", b"0"),
            (b"Content_Length", b"3"),
            (b"l", b"0"),
            (b"X-Other", b"Content-Length: 0"),
        ]
    ),
    max_size=2,
    unique=True,
)
_ranges = st.sampled_from([None, b"1-2/2", b"1-5/5", b"1-300/300", b"7-*/*", b"1-0/0"])
_bodies = st.one_of(st.none(), st.just(b""), st.just(b"hello"), st.just(INNER), st.binary())


def chunk(
    alice: Client, fields: list[tuple[bytes, bytes]], held: bytes | None, body: bytes | None
) -> bytes:
    """Return a client's chunk, including ones that to_bytes would refuse."""
    lines = b"".join([b"%b: %b\r\n" % field for field in fields])
    if held is not None:
        lines += b"Byte-Range: %b\r\n" % held
    request = alice.request(alice.to(BOB), body=body)
    return request.to_bytes().replace(b"Message-ID:", lines + b"Message-ID:", 1)


@given(st.lists(st.tuples(_fields, _ranges, _bodies), min_size=1, max_size=5))
def test_every_framer_sees_the_chunks_of_clients(
    said: list[tuple[list[tuple[bytes, bytes]], bytes | None, bytes | None]],
) -> None:
    world = World()
    alice = world.client(1, "alice")
    stream = b""
    expected = 0
    for fields, held, body in said:
        actions = world.relay.receive(1, chunk(alice, fields, held, body), world.now)
        stream += b"".join(item.data for item in actions if isinstance(item, ForwardToPeer))
        expected += all(name == b"X-Other" for name, _ in fields)
    chunks = by_end_line(stream)
    assert len(chunks) == expected
    for framer in FRAMERS:
        assert framer(stream) == chunks


def test_chunk_with_a_length_is_refused_and_the_connection_continues() -> None:
    """Kamailio would answer the SIP request in the body."""
    world = World()
    alice = world.client(1, "alice")
    world.do(world.relay.receive(1, chunk(alice, [(b"l", b"0")], None, INNER), world.now))
    assert code_of(world.take(), 1) == 400
    assert forwarded(world.give(1, alice.request(alice.to(BOB), body=INNER)), "bob").body == INNER
