from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip._head import HeadReader, refusal
from wsproto_sip.events import RejectConnection
from wsproto_sip.limits import Limits
from wsproto_sip.utilities import RemoteProtocolError

LIMITS = Limits()
SMALL = Limits(max_handshake_bytes=60, max_header_line=20, max_headers=3)
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def status_of(error: RemoteProtocolError) -> int:
    assert isinstance(error.event_hint, RejectConnection)
    return error.event_hint.status_code


def feed(reader: HeadReader, *pieces: bytes) -> tuple[bytes, bytes] | int | None:
    """What comes out; for an error the status."""
    rest: list[bytes] = []
    try:
        for at, piece in enumerate(pieces):
            found = reader.feed(piece)
            if found is not None:
                rest = [found[1], *pieces[at + 1 :]]
                return found[0], b"".join(rest)
    except RemoteProtocolError as error:
        return status_of(error)
    return None


def read(
    data: bytes, limits: Limits = LIMITS, start: bytes = b""
) -> tuple[bytes, bytes] | int | None:
    return feed(HeadReader(limits, start), data)


def test_refusal() -> None:
    error = refusal("what", 405, [(b"Allow", b"GET")])
    assert str(error) == "what"
    assert error.event_hint == RejectConnection(405, [(b"Allow", b"GET")])
    assert refusal("what").event_hint == RejectConnection(400, [], has_body=False)


@pytest.mark.parametrize("rest", [b"", b"\x81\x80abcd", b"\r\n\r\n", b"GET "])
@pytest.mark.parametrize("head", [HEAD, HEAD.replace(b"\r", b""), b"G\n\n", b"G\r\n\n", b"G\n\r\n"])
def test_a_head_and_what_is_behind_it(head: bytes, rest: bytes) -> None:
    assert read(head + rest) == (head, rest)


@given(st.data())
def test_any_division_gives_the_same(data: st.DataObject) -> None:
    stream = data.draw(
        st.sampled_from(
            [
                HEAD + b"rest",
                b"\r\n" + HEAD,
                b"\r\n\r\n" + HEAD,
                b"\rG",
                b"GET /" + b"a" * 15 + b"\r\n\r\n",
                b"GET /" + b"a" * 16 + b"\r\n\r\n",
                b"GET /" + b"a" * 14 + b"\n\n",
                b"G\r\n" + b"a: b\r\n" * 3 + b"\r\n",
                b"G\r\n" + b"a: b\r\n" * 4 + b"\r\n",
                b"G\r\n" + (b"a" * 15 + b"\r\n") * 3 + b"aa\r\n\r\n",
                b"G\r\n" + (b"a" * 15 + b"\r\n") * 3 + b"a\r\n\r\n\r\n",
                b"\x16\x03\x01",
            ]
        )
    )
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=8)))
    edges = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(edges)]
    assert feed(HeadReader(SMALL), *pieces) == read(stream, SMALL)


@given(st.binary(max_size=80), st.integers(0, 80))
@example(HEAD, 0)
def test_anything_gives_a_head_or_a_refusal(stream: bytes, cut: int) -> None:
    found = feed(HeadReader(SMALL), stream[:cut], stream[cut:])
    assert found == read(stream, SMALL)
    if isinstance(found, tuple):
        head, rest = found
        assert stream.removeprefix(b"\r\n") == head + rest
        assert head.endswith((b"\n\n", b"\n\r\n"))
        # h11 looks for the same end.
        assert head.replace(b"\r\n", b"\n").index(b"\n\n") == len(head.replace(b"\r\n", b"\n")) - 2
    elif found is not None:
        assert found in (400, 431)


# -- how it begins ---------------------------------------------------------------------------------


def test_one_empty_line_before_a_request() -> None:
    # RFC 9112 §2.2.
    assert read(b"\r\n" + HEAD) == (HEAD, b"")
    assert feed(HeadReader(LIMITS), b"\r", b"\n", HEAD) == (HEAD, b"")
    assert feed(HeadReader(LIMITS), b"", b"\r\n", b"", HEAD) == (HEAD, b"")
    assert read(b"\r\n\r\n" + HEAD) == 400
    assert feed(HeadReader(LIMITS), b"\r\n", b"\r") == 400
    assert read(b"\n" + HEAD) == 400
    assert read(b"\rGET") == 400
    assert read(b"\r") is None


@pytest.mark.parametrize("octet", range(256))
def test_a_request_begins_with_a_token(octet: int) -> None:
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    found = read(bytes([octet]))
    assert found == (None if octet in token or octet == 13 else 400)


def test_a_response_begins_with_its_version() -> None:
    whole = b"HTTP/1.1 101 X\r\n\r\n"
    assert read(whole, start=b"HTTP/") == (whole, b"")
    assert feed(HeadReader(LIMITS, b"HTTP/"), b"H", b"TT", whole[3:]) == (whole, b"")
    assert read(b"\r\n" + whole, start=b"HTTP/") == 400
    for length in range(1, 6):
        assert read(whole[: length - 1] + b"x", start=b"HTTP/") == 400
    assert read(b"", start=b"HTTP/") is None


def test_the_error_shows_how_it_began() -> None:
    with pytest.raises(
        RemoteProtocolError, match=r"^this is not HTTP: b'\\x16\\x03\\x01"
    ) as raised:
        HeadReader(LIMITS).feed(b"\x16\x03\x01" + b"x" * 100)
    assert len(str(raised.value)) < 100


# -- limits ----------------------------------------------------------------------------------------


def head_of(length: int) -> bytes:
    """A head of so many octets, in lines of eleven at most."""
    head = b"G\r\n"
    while length - len(head) - 2 > 14:
        head += b"a: bbbbbb\r\n"
    left = length - len(head) - 2
    return head + b"a" * (left - 2) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("length", [59, 60, 61, 62, 300])
def test_octets_in_all(length: int, step: int) -> None:
    head = head_of(length)
    assert len(head) == length
    limits = dataclasses.replace(SMALL, max_headers=100)
    pieces = [head[at : at + step] for at in range(0, length, step)]
    expected = (head, b"") if length <= 60 else 431
    assert feed(HeadReader(limits), *pieces) == expected


def test_it_is_refused_as_soon_as_it_is_too_long() -> None:
    reader = HeadReader(Limits(max_handshake_bytes=60))
    assert reader.feed(b"a" * 60) is None
    assert bool(reader)
    with pytest.raises(RemoteProtocolError, match=r"^the head is longer than 60 octets$"):
        reader.feed(b"a")


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(("length", "fits"), [(18, True), (19, True), (20, False), (21, False)])
@pytest.mark.parametrize("place", [b"%b\r\n\r\n", b"G\r\n%b\r\n\r\n", b"G\r\n%b\r\nb: c\r\n\r\n"])
def test_octets_in_a_line(place: bytes, length: int, fits: bool, step: int) -> None:
    # The CR belongs to the line.
    head = place % (b"a" * length)
    pieces = [head[at : at + step] for at in range(0, len(head), step)]
    found = feed(HeadReader(SMALL), *pieces)
    assert found == ((head, b"") if fits else 431)


def test_a_line_is_refused_before_its_end() -> None:
    reader = HeadReader(SMALL)
    assert reader.feed(b"G\r\nshort: x\r\n" + b"a" * 20) is None
    with pytest.raises(RemoteProtocolError, match=r"^a line is longer than 20 octets$"):
        reader.feed(b"a")


@pytest.mark.parametrize(("count", "fits"), [(0, True), (3, True), (4, False), (5, False)])
def test_header_fields(count: int, fits: bool) -> None:
    head = b"G\r\n" + b"a: b\r\n" * count + b"\r\n"
    assert read(head, SMALL) == ((head, b"") if fits else 431)


def test_without_bounds() -> None:
    head = b"G\r\n" + b"a: b\r\n" * 1000 + b"c: " + b"d" * 100_000 + b"\r\n\r\n"
    none = Limits(max_handshake_bytes=None, max_header_line=None, max_headers=None)
    assert read(head, none) == (head, b"")
    reader = HeadReader(none)
    assert feed(reader, head[:-1]) is None
    assert feed(reader, head[-1:]) == (head, b"")


def test_interim_heads_count_together() -> None:
    reader = HeadReader(Limits(max_handshake_bytes=50), b"HTTP/")
    head = b"HTTP/1.1 100 \r\n\r\n"
    assert len(head) == 17
    assert reader.feed(head + head + b"H") == (head, head + b"H")
    assert not reader
    assert reader.feed(head + b"H") == (head, b"H")
    assert reader.feed(b"HTTP/1.1 200 \r\n\r") is None
    with pytest.raises(RemoteProtocolError, match=r"^the head is longer than 50 octets$"):
        reader.feed(b"\n")


def test_octets_are_looked_at_once() -> None:
    # One octet at a time: quadratic searching would not come back.
    limits = Limits(max_handshake_bytes=1 << 17, max_header_line=1 << 17)
    reader = HeadReader(limits)
    for _ in range((1 << 17) - 4):
        assert reader.feed(b"a") is None
    found = reader.feed(b"\r\n\r\n")
    assert found is not None
    assert len(found[0]) == 1 << 17
