from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.limits import SipLimits
from wsproto_sip.sip.message.stream import KeepAlive, SipStreamParser, StreamItem, is_keepalive

HEAD = (
    b"OPTIONS sip:c@d SIP/2.0\r\nVia: SIP/2.0/TCP x;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n"
    b"To: <sip:c@d>\r\nCall-ID: x\r\nCSeq: 1 OPTIONS\r\n"
)
ONE = HEAD + b"Content-Length: 4\r\n\r\nbody"
TWO = HEAD + b"l :\r\n 0\r\n\r\n"
BAD = HEAD + b"X\r\nContent-Length: 2\r\n\r\nxx"


def shown(items: list[StreamItem]) -> list[object]:
    out: list[object] = []
    for item in items:
        if isinstance(item, SipParseError):
            out.append((item.status, item.detail, item.fatal))
        else:
            out.append(item if isinstance(item, KeepAlive) else item.to_bytes())
    return out


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\r\n", KeepAlive.PONG),
        ("\r\n", KeepAlive.PONG),
        (b"\r\n\r\n", KeepAlive.PING),
        ("\r\n\r\n", KeepAlive.PING),
        (b"", None),
        ("\n", None),
        (b"\r\n\r\n\r\n", None),
        ("\ud800", None),
    ],
)
def test_keepalives(data: bytes | str, kind: KeepAlive | None) -> None:
    assert KeepAlive.of(data) is kind
    assert is_keepalive(data) is (kind is not None)


STREAM = ONE + b"\r\n\r\n" + TWO + b"\r\n" + BAD + ONE
EXPECTED = [ONE, KeepAlive.PING, TWO, (400, "header field without a colon: 'X'", False), ONE]


def test_messages_in_one_read_are_separated() -> None:
    parser = SipStreamParser()
    items = parser.receive(STREAM)
    assert shown(items) == EXPECTED
    error = items[3]
    assert isinstance(error, SipParseError)
    assert error.response is not None
    assert not parser.closed


@given(st.lists(st.integers(0, len(STREAM))))
def test_any_chunking_gives_the_same_items(cuts: list[int]) -> None:
    parser = SipStreamParser()
    items: list[StreamItem] = []
    edges = [0, *sorted(cuts), len(STREAM)]
    for start, end in pairwise(edges):
        items += parser.receive(STREAM[start:end])
    assert shown(items) == EXPECTED


def test_byte_by_byte() -> None:
    parser = SipStreamParser()
    items = [item for byte in STREAM for item in parser.receive(bytes([byte]))]
    assert shown(items) == EXPECTED


def test_expected_pong_is_reported_at_once() -> None:
    parser = SipStreamParser()
    assert parser.receive(b"\r\n") == []
    assert parser.receive(b"\r\n") == [KeepAlive.PING]
    parser.expect_pong()
    assert parser.receive(b"\r") == []
    assert parser.receive(b"\n") == [KeepAlive.PONG]
    assert parser.receive(b"\r\n\r\n") == [KeepAlive.PING]


def fatal(data: bytes, limits: SipLimits | None = None) -> SipParseError:
    parser = SipStreamParser(limits=limits or SipLimits())
    items = parser.receive(ONE + data)
    assert shown(items[:1]) == [ONE]
    assert len(items) == 2
    error = items[1]
    assert isinstance(error, SipParseError)
    assert error.fatal
    assert parser.closed
    assert parser.receive(ONE) == []
    return error


def test_lost_framing() -> None:
    assert fatal(b"\rx").detail == "a CR without LF between messages"
    error = fatal(HEAD + b"\r\n" + ONE)
    assert error.detail == "0 Content-Length fields in a stream"
    assert error.response is not None
    assert error.response.status == 400
    assert fatal(HEAD + b"l: 0\r\nContent-Length: 4\r\n\r\n").status == 400
    assert fatal(HEAD + b"l: -1\r\n\r\n").status == 400
    assert fatal(HEAD + b"l: \xb2\r\n\r\n").status == 400


def test_limits() -> None:
    limits = SipLimits(max_message_size=len(ONE))
    assert fatal(HEAD + b"Content-Length: 5\r\n\r\n", limits).status == 513
    assert fatal(HEAD + b"Content-Length: %d\r\n\r\n" % (len(ONE) + 1), limits).status == 413
    error = fatal(b"x" * (len(ONE) + 1), limits)
    assert (error.status, error.response) == (513, None)
    parser = SipStreamParser(limits=limits)
    assert parser.receive(b"x" * len(ONE)) == []
    assert len(parser.receive(b"x")) == 1


@given(st.lists(st.binary(max_size=20)))
def test_any_bytes_give_items_or_one_fatal_error(chunks: list[bytes]) -> None:
    parser = SipStreamParser(limits=SipLimits(max_message_size=30))
    for chunk in chunks:
        for item in parser.receive(chunk):
            assert isinstance(item, (KeepAlive, SipParseError))
