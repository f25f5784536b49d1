from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from tests.msrp.recording import read_recording
from tests.msrp.strategies import requests, responses
from wsproto_sip.msrp.message.chunk import Continuation, MsrpRequest, MsrpResponse, parse_chunk
from wsproto_sip.msrp.message.fields import ByteRange
from wsproto_sip.msrp.message.limits import MsrpLimits
from wsproto_sip.msrp.message.stream import ChunkPart, MsrpStreamParser
from wsproto_sip.msrp.message.uri import parse_path

HEAD = b"To-Path: msrp://r/s;tcp\r\nFrom-Path: msrp://a/b;ws\r\n"


def send(rest: bytes) -> bytes:
    return b"MSRP abcd SEND\r\n" + HEAD + rest


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


@given(st.lists(requests() | responses(), max_size=5), st.lists(st.integers(0), max_size=10))
def test_any_split_of_a_stream_gives_its_chunks(
    chunks: list[MsrpRequest | MsrpResponse], cuts: list[int]
) -> None:
    expected = [chunk.to_bytes() for chunk in chunks]
    parser = MsrpStreamParser()
    found: list[bytes] = []
    for piece in cut(b"".join(expected), cuts):
        found += parser.receive(piece)
    assert found == expected
    assert parser.error is None


def test_stream_byte_by_byte() -> None:
    body = b"\r\n-------abcd\r\n-------abcd#x\r\n-------abcdd$\r\n"
    one = send(b"Content-Type: a/b\r\n\r\n" + body + b"\r\n-------abcd+\r\n")
    two = send(b"-------abcd$\r\n")
    parser = MsrpStreamParser()
    found = [chunk for at in one + two for chunk in parser.receive(bytes([at]))]
    assert found == [one, two]


def failure(parser: MsrpStreamParser) -> int | None:
    return None if parser.error is None else parser.error.status


def test_stream_that_is_not_msrp() -> None:
    for junk in (b"GET / HTTP/1.1\r\n", b"x" * 256):
        parser = MsrpStreamParser()
        assert parser.receive(junk[:10]) == []
        assert failure(parser) is None
        assert parser.receive(junk[10:]) == []
        assert failure(parser) == 400
        assert parser.receive(send(b"-------abcd$\r\n")) == []


def test_chunks_before_an_error_are_delivered() -> None:
    good = send(b"-------abcd$\r\n")
    parser = MsrpStreamParser()
    assert parser.receive(good + b"\r\n" + good) == [good]
    assert failure(parser) == 400


def test_chunk_size_is_limited() -> None:
    good = send(b"-------abcd$\r\n")
    parser = MsrpStreamParser(limits=MsrpLimits(max_chunk_size=len(good)))
    assert parser.receive(good * 3) == [good] * 3
    parser = MsrpStreamParser(limits=MsrpLimits(max_chunk_size=len(good) - 1))
    assert parser.receive(good) == []
    assert failure(parser) == 413
    parser = MsrpStreamParser(limits=MsrpLimits(max_chunk_size=100))
    assert parser.receive(send(b"A: %b\r\n" % (b"x" * 100))) == []
    assert failure(parser) == 413


def test_recording_as_a_stream() -> None:
    chunks = [entry.data for entry in read_recording() if b"wrongtid" not in entry.data]
    assert MsrpStreamParser().receive(b"".join(chunks)) == chunks


def test_search_for_the_end_is_linear() -> None:
    parser = MsrpStreamParser()
    parser.receive(send(b"Content-Type: a/b\r\n\r\n"))
    for _ in range(100):
        parser.receive(b"-------abc" * 50)
        assert parser._searched == len(parser._buffer) - len(b"\r\n-------abcd$\r\n") + 1


# -- chunks that are too large, cut into parts ----------------------------------------------------

SMALL = MsrpLimits(max_chunk_size=400)
LARGE_HEAD = b"Message-ID: 12345678\r\n"


def parts(data: list[bytes], limits: MsrpLimits = SMALL) -> tuple[list[MsrpRequest], list[bool]]:
    """Return the parts, and which of them are not to be answered."""
    parser = MsrpStreamParser(limits=limits, cut=True)
    found = [chunk for piece in data for chunk in parser.receive(piece)]
    assert parser.error is None
    chunks = [parse_chunk(chunk, limits=limits) for chunk in found]
    assert all(isinstance(chunk, MsrpRequest) for chunk in chunks)
    return chunks, [isinstance(chunk, ChunkPart) for chunk in found]  # type: ignore[return-value]


@given(
    st.binary(max_size=50),
    st.integers(0, 2000),
    st.sampled_from(Continuation),
    st.sampled_from(["none", "whole", "unknown", "later"]),
    st.lists(st.integers(0), max_size=10),
)
def test_large_chunk_in_parts(
    pattern: bytes, size: int, flag: Continuation, said: str, cuts: list[int]
) -> None:
    body = (pattern or b"x") * size
    body = body[:size]
    ranges = {
        "none": None,
        "whole": ByteRange(1, size, size),
        "unknown": ByteRange(1, None, None),
        "later": ByteRange(1001, 1000 + size, 5000),
    }
    headers = [(b"Message-ID", b"12345678"), (b"X-Other", b"stays")]
    where = ranges[said]
    if where is not None:
        headers.insert(0, (b"Byte-Range", bytes(where)))
    headers.append((b"Content-Type", b"a/b"))
    path = parse_path(b"msrp://r/s;tcp")
    chunk = MsrpRequest(b"abcd", b"SEND", path, path, headers, body, flag)
    following = MsrpRequest(b"ijklmnop", b"SEND", path, path, [(b"Message-ID", b"87654321")])
    found, unanswered = parts(cut(chunk.to_bytes() + following.to_bytes(), cuts))
    assert found.pop() == following
    assert not unanswered.pop()
    assert b"".join(part.body or b"" for part in found) == body
    assert [part.continuation for part in found] == [Continuation.MORE] * (len(found) - 1) + [flag]
    assert unanswered == [True] * (len(found) - 1) + [False]
    if len(chunk.to_bytes()) <= SMALL.max_chunk_size:
        assert found == [chunk]
        return
    assert len(found) > 1
    at = 1001 if said == "later" else 1
    for part in found:
        assert (part.to_path, part.from_path, part.transaction_id) == (path, path, b"abcd")
        # To leave room for a relay's transaction id.
        forwarded = replace(part, transaction_id=b"0" * 20).to_bytes()
        assert len(forwarded) <= SMALL.max_chunk_size
        assert part.headers[:-2] == [(b"Message-ID", b"12345678"), (b"X-Other", b"stays")]
        held = part.byte_range
        assert held is not None
        assert (held.start, held.end) == (at, at + len(part.body or b"") - 1)
        assert held.total == (None if where is None else where.total)
        at += len(part.body or b"")


def test_parts_are_delivered_as_soon_as_they_arrive() -> None:
    """The parser holds at most the size of one chunk, however large the chunk is."""
    parser = MsrpStreamParser(limits=SMALL, cut=True)
    head = send(LARGE_HEAD + b"Content-Type: a/b\r\n\r\n")
    assert parser.receive(head) == []
    count = 0
    for _ in range(1000):
        count += len(parser.receive(b"y" * 100))
        assert len(parser._buffer) <= SMALL.max_chunk_size + 100
    assert count > 300
    (last,) = parser.receive(b"\r\n-------abcd$\r\n")
    chunk = parse_chunk(last)
    assert chunk.byte_range is not None
    assert chunk.byte_range.end == 100_000
    assert type(last) is bytes


def test_partial_end_line_is_not_split() -> None:
    body = (b"\r\n-------abcd" * 100)[:-3] + b"-------abcdd$\r\n" * 20
    data = send(LARGE_HEAD + b"Content-Type: a/b\r\n\r\n") + body + b"\r\n-------abcd$\r\n"
    for step in (1, 7, 4096):
        parser = MsrpStreamParser(limits=SMALL, cut=True)
        found = [
            chunk
            for at in range(0, len(data), step)
            for chunk in parser.receive(data[at : at + step])
        ]
        assert parser.error is None
        assert b"".join(_body_of(chunk) for chunk in found) == body


def _body_of(chunk: bytes) -> bytes:
    """Return the text between the head and the last end-line, valid or not."""
    return chunk.partition(b"\r\n\r\n")[2][: -len(b"\r\n-------abcd$\r\n")]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        # A method that is not split.
        (b"MSRP abcd AUTH\r\n" + HEAD + b"Content-Type: a/b\r\n\r\n" + b"x" * 400, 413),
        # A response.
        (b"MSRP abcd 200 OK\r\n" + HEAD + b"\r\n" + b"x" * 400, 413),
        # An endless head, one that leaves no room, and one that is malformed.
        (send(b"X-Long: " + b"x" * 400), 413),
        (send(b"X-Long: " + b"x" * 250 + b"\r\nContent-Type: a/b\r\n\r\n" + b"x" * 400), 413),
        (send(b"X-No-Colon\r\nContent-Type: a/b\r\n\r\n" + b"x" * 400), 413),
        # More than the whole message.
        (send(b"Byte-Range: 1-9/9\r\nContent-Type: a/b\r\n\r\n" + b"x" * 600), 400),
    ],
)
def test_other_chunks_are_not_split(data: bytes, status: int) -> None:
    parser = MsrpStreamParser(limits=SMALL, cut=True)
    assert parser.receive(data) == []
    assert failure(parser) == status
    assert parser.receive(send(b"-------abcd$\r\n")) == []
