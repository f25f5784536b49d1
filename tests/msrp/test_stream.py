from __future__ import annotations

from itertools import pairwise

from hypothesis import given, strategies as st

from tests.msrp.recording import read_recording
from tests.msrp.strategies import requests, responses
from wsproto_sip.msrp.limits import MsrpLimits
from wsproto_sip.msrp.message import MsrpRequest, MsrpResponse
from wsproto_sip.msrp.stream import MsrpStreamParser

HEAD = b"To-Path: msrp://r/s;tcp\r\nFrom-Path: msrp://a/b;ws\r\n"


def send(rest: bytes) -> bytes:
    return b"MSRP abcd SEND\r\n" + HEAD + rest


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = [0, *sorted(at % (len(data) + 1) for at in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(marks)]


@given(st.lists(requests() | responses(), max_size=5), st.lists(st.integers(0), max_size=10))
def test_any_cutting_of_a_stream_gives_its_chunks(
    chunks: list[MsrpRequest | MsrpResponse], cuts: list[int]
) -> None:
    expected = [chunk.to_bytes() for chunk in chunks]
    parser = MsrpStreamParser()
    found: list[bytes] = []
    for piece in cut(b"".join(expected), cuts):
        found += parser.receive(piece)
    assert found == expected
    assert parser.error is None


def test_a_stream_octet_by_octet() -> None:
    body = b"\r\n-------abcd\r\n-------abcd#x\r\n-------abcdd$\r\n"
    one = send(b"Content-Type: a/b\r\n\r\n" + body + b"\r\n-------abcd+\r\n")
    two = send(b"-------abcd$\r\n")
    parser = MsrpStreamParser()
    found = [chunk for at in one + two for chunk in parser.receive(bytes([at]))]
    assert found == [one, two]


def failure(parser: MsrpStreamParser) -> int | None:
    return None if parser.error is None else parser.error.status


def test_a_stream_that_is_not_msrp() -> None:
    for junk in (b"GET / HTTP/1.1\r\n", b"x" * 256):
        parser = MsrpStreamParser()
        assert parser.receive(junk[:10]) == []
        assert failure(parser) is None
        assert parser.receive(junk[10:]) == []
        assert failure(parser) == 400
        assert parser.receive(send(b"-------abcd$\r\n")) == []


def test_chunks_before_an_error_come_out() -> None:
    good = send(b"-------abcd$\r\n")
    parser = MsrpStreamParser()
    assert parser.receive(good + b"\r\n" + good) == [good]
    assert failure(parser) == 400


def test_a_stream_chunk_has_a_bound() -> None:
    good = send(b"-------abcd$\r\n")
    parser = MsrpStreamParser(limits=MsrpLimits(max_chunk_size=len(good)))
    assert parser.receive(good * 3) == [good] * 3
    parser = MsrpStreamParser(limits=MsrpLimits(max_chunk_size=len(good) - 1))
    assert parser.receive(good) == []
    assert failure(parser) == 413
    parser = MsrpStreamParser(limits=MsrpLimits(max_chunk_size=100))
    assert parser.receive(send(b"A: %b\r\n" % (b"x" * 100))) == []
    assert failure(parser) == 413


def test_the_recording_as_a_stream() -> None:
    chunks = [entry.data for entry in read_recording() if b"wrongtid" not in entry.data]
    assert MsrpStreamParser().receive(b"".join(chunks)) == chunks


def test_waiting_for_the_end_looks_at_no_octet_again() -> None:
    parser = MsrpStreamParser()
    parser.receive(send(b"Content-Type: a/b\r\n\r\n"))
    for _ in range(100):
        parser.receive(b"-------abc" * 50)
        assert parser._searched == len(parser._buffer) - len(b"\r\n-------abcd$\r\n") + 1
