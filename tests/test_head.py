from __future__ import annotations

import dataclasses
import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip._head import HeadReader, read_ordinary_request, refusal
from wsproto_sip.events import RejectConnection
from wsproto_sip.limits import Limits
from wsproto_sip.utilities import RemoteProtocolError, normed_header_dict, target_authority

if TYPE_CHECKING:
    from collections.abc import Callable

LIMITS = Limits()
SMALL = Limits(max_handshake_bytes=60, max_header_line=20, max_headers=3)
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def status_of(error: RemoteProtocolError) -> int:
    assert isinstance(error.event_hint, RejectConnection)
    return error.event_hint.status_code


def feed(reader: HeadReader, *pieces: bytes) -> tuple[bytes, bytes] | int | None:
    """Return the result; for an error, the status."""
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
def test_head_and_the_bytes_after_it(head: bytes, rest: bytes) -> None:
    assert read(head + rest) == (head, rest)


@given(st.data())
def test_any_split_of_the_input_gives_the_same(data: st.DataObject) -> None:
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
def test_any_input_gives_a_head_or_a_refusal(stream: bytes, cut: int) -> None:
    found = feed(HeadReader(SMALL), stream[:cut], stream[cut:])
    assert found == read(stream, SMALL)
    if isinstance(found, tuple):
        head, rest = found
        assert stream.removeprefix(b"\r\n") == head + rest
        assert head.endswith((b"\n\n", b"\n\r\n"))
        # h11 searches for the same end.
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


@pytest.mark.parametrize("byte", range(256))
def test_request_begins_with_a_token(byte: int) -> None:
    token = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    found = read(bytes([byte]))
    assert found == (None if byte in token or byte == 13 else 400)


def test_response_begins_with_its_version() -> None:
    whole = b"HTTP/1.1 101 X\r\n\r\n"
    assert read(whole, start=b"HTTP/") == (whole, b"")
    assert feed(HeadReader(LIMITS, b"HTTP/"), b"H", b"TT", whole[3:]) == (whole, b"")
    assert read(b"\r\n" + whole, start=b"HTTP/") == 400
    for length in range(1, 6):
        assert read(whole[: length - 1] + b"x", start=b"HTTP/") == 400
    assert read(b"", start=b"HTTP/") is None


def test_error_shows_the_beginning_of_the_input() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^not HTTP: b'\\x16\\x03\\x01") as raised:
        HeadReader(LIMITS).feed(b"\x16\x03\x01" + b"x" * 100)
    assert len(str(raised.value)) < 100


# -- limits ----------------------------------------------------------------------------------------


def head_of(length: int) -> bytes:
    """Return a head of a given size, in lines of at most eleven bytes."""
    head = b"G\r\n"
    while length - len(head) - 2 > 14:
        head += b"a: bbbbbb\r\n"
    left = length - len(head) - 2
    return head + b"a" * (left - 2) + b"\r\n\r\n"


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize("length", [59, 60, 61, 62, 300])
def test_total_length_is_limited(length: int, step: int) -> None:
    head = head_of(length)
    assert len(head) == length
    limits = dataclasses.replace(SMALL, max_headers=100)
    pieces = [head[at : at + step] for at in range(0, length, step)]
    expected = (head, b"") if length <= 60 else 431
    assert feed(HeadReader(limits), *pieces) == expected


def test_head_is_refused_as_soon_as_it_is_too_long() -> None:
    reader = HeadReader(Limits(max_handshake_bytes=60))
    assert reader.feed(b"a" * 60) is None
    assert bool(reader)
    with pytest.raises(RemoteProtocolError, match=r"^the head is longer than 60 bytes$"):
        reader.feed(b"a")


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize(("length", "fits"), [(18, True), (19, True), (20, False), (21, False)])
@pytest.mark.parametrize("place", [b"%b\r\n\r\n", b"G\r\n%b\r\n\r\n", b"G\r\n%b\r\nb: c\r\n\r\n"])
def test_length_of_a_line_is_limited(place: bytes, length: int, fits: bool, step: int) -> None:
    # The CR belongs to the line.
    head = place % (b"a" * length)
    pieces = [head[at : at + step] for at in range(0, len(head), step)]
    found = feed(HeadReader(SMALL), *pieces)
    assert found == ((head, b"") if fits else 431)


def test_line_is_refused_before_its_end() -> None:
    reader = HeadReader(SMALL)
    assert reader.feed(b"G\r\nshort: x\r\n" + b"a" * 20) is None
    with pytest.raises(RemoteProtocolError, match=r"^a line is longer than 20 bytes$"):
        reader.feed(b"a")


@pytest.mark.parametrize(("count", "fits"), [(0, True), (3, True), (4, False), (5, False)])
def test_header_fields(count: int, fits: bool) -> None:
    head = b"G\r\n" + b"a: b\r\n" * count + b"\r\n"
    assert read(head, SMALL) == ((head, b"") if fits else 431)


def test_limits_can_be_disabled() -> None:
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
    with pytest.raises(RemoteProtocolError, match=r"^the head is longer than 50 bytes$"):
        reader.feed(b"\n")


@given(st.lists(st.integers(0, 80), max_size=4), st.sampled_from([bytes, bytearray]))
@example([28, 29], bytearray)
def test_any_split_of_heads_that_follow_each_other(places: list[int], form: type) -> None:
    """A head that came in pieces does not change how the next one is read."""
    heads = [
        b"HTTP/1.1 103 \r\nLink: </a>\r\n\r\n",
        b"HTTP/1.1 100 \r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
    ]
    stream = b"".join(heads)
    reader = HeadReader(LIMITS, b"HTTP/")
    found = []
    for start, stop in pairwise(sorted({0, *places, len(stream)})):
        result = reader.feed(form(stream[start:stop]))
        while result is not None:
            found.append(result[0])
            result = reader.feed(result[1]) if result[1] else None
    assert found == heads


def test_bytes_are_looked_at_once() -> None:
    # One byte at a time: a quadratic search would not finish.
    limits = Limits(max_handshake_bytes=1 << 17, max_header_line=1 << 17)
    reader = HeadReader(limits)
    for _ in range((1 << 17) - 4):
        assert reader.feed(b"a") is None
    found = reader.feed(b"\r\n\r\n")
    assert found is not None
    assert len(found[0]) == 1 << 17


# -- ordinary requests -----------------------------------------------------------------------------

#: Requests of browsers, and of some other clients.
ORDINARY = {
    "Chromium": (
        b"GET /chat?x=1 HTTP/1.1\r\nHost: example.com:8080\r\nConnection: Upgrade\r\n"
        b"Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux "
        b"x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36\r\n"
        b"Upgrade: websocket\r\nOrigin: http://example.com\r\nSec-WebSocket-Version: 13\r\n"
        b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-US,en;q=0.9\r\n"
        b"Cookie: a=b; c=d\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"Sec-WebSocket-Protocol: sip, msrp\r\n\r\n"
    ),
    "Firefox": (
        b"GET / HTTP/1.1\r\nHost: example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; "
        b"rv:145.0) Gecko/20100101 Firefox/145.0\r\nAccept: */*\r\n"
        b"Accept-Language: de,en-US;q=0.7,en;q=0.3\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
        b"Sec-WebSocket-Version: 13\r\nOrigin: null\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-Fetch-Dest: empty\r\nSec-Fetch-Mode: websocket\r\nSec-Fetch-Site: cross-site\r\n"
        b"Pragma: no-cache\r\nCache-Control: no-cache\r\nUpgrade: websocket\r\n\r\n"
    ),
    "websockets": (
        b"GET /a%20b;c=d?e=f&g=h HTTP/1.1\r\nHost: [::1]:8080\r\nUpgrade: websocket\r\n"
        b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"User-Agent: Python/3.13 websockets/15.0.1\r\n\r\n"
    ),
}


def read_by_h11(head: bytes) -> tuple[bytes, bytes, bytes, list[tuple[bytes, bytes]]] | None:
    """Return method, version, target and header fields; ``None`` if h11 refuses the request."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 30)
    connection.receive_data(head)
    try:
        request = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    assert isinstance(request, h11.Request)
    return request.method, request.http_version, request.target, list(request.headers)


def read_ordinary_as_h11_does(head: bytes) -> bool:
    """Return whether the request was taken for an ordinary one; h11 has to agree then."""
    found = read_ordinary_request(head)
    if found is None:
        return False
    target, headers, fields = found
    assert read_by_h11(head) == (b"GET", b"1.1", target, headers)
    assert fields == dict(headers) == normed_header_dict(headers)
    assert target_authority(target) is None
    return True


@pytest.mark.parametrize("client", ORDINARY)
def test_heads_of_usual_clients_are_ordinary(client: str) -> None:
    assert read_ordinary_as_h11_does(ORDINARY[client])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"GET /", b"HEAD /"),
        (b"GET /", b"POST /"),
        (b"GET /", b"GET  /"),
        (b"GET /", b"GET http://example.com/"),
        (b"GET /", b"GET *"),
        (b"GET /", b"GET /\xff"),
        (b"GET /", b"GET /#"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1", b"HTTP/2.0"),
        (b"HTTP/1.1", b"http/1.1"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1 \r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\n folded\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nHost: again\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nContent-Length: 0\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nTransfer-Encoding: chunked\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nA: b\r\na: b\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nno colon\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\n: no name\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nwhite space: before\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\nwhite-space : before\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\n white-space: before\r\n"),
        (b"HTTP/1.1\r\n", b"HTTP/1.1\r\numl\xc3\xa4ut: in the name\r\n"),
        (b"Host: ", b"Host:"),
        (b"Host: ", b"Host:  "),
        (b"Host: ", b"Host:\t"),
        (b"Host: ", b"Not-Host: "),
        (b"\r\n\r\n", b" \r\n\r\n"),
        (b"\r\n\r\n", b"\t\r\n\r\n"),
        (b"\r\n\r\n", b"\n\r\n"),
        (b"\r\n\r\n", b"\r\n\n"),
        (b"\r\n\r\n", b"\r\nA: \r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA:\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA: b\r\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA: b\rc\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA: b\x00c\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA: b\x7fc\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA: b\tc\r\n\r\n"),
        (b"\r\n\r\n", b"\r\nA: \xc3\xa4\r\n\r\n"),
        (b"\r\n\r\n", b"\r\n folded\r\n\r\n"),
    ],
)
def test_odd_requests_are_left_to_h11(old: bytes, new: bytes) -> None:
    head = ORDINARY["Chromium"].replace(old, new, 1)
    assert old in ORDINARY["Chromium"]
    assert read_ordinary_request(head) is None


SEPARATORS = [b" ", b":", b": ", b"\r", b"\n", b"\r\n", b"\t", b",", b"\x00", b"\x7f", b"\xff"]
NAMES = [b"Host", b"host", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"a", b"\xc4"]


@given(st.data())
def test_fast_reader_never_disagrees_with_h11(data: st.DataObject) -> None:
    head = data.draw(st.sampled_from(sorted(ORDINARY.values())))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(head)))
        cut = data.draw(st.integers(0, 3))
        piece = data.draw(
            st.lists(st.sampled_from([*SEPARATORS, *NAMES]), max_size=3).map(b"".join)
            | st.binary(max_size=4)
        )
        head = head[:at] + piece + head[at + cut :]
    # A head must have a blank line at its end, and no other.
    whole = read(head)
    if isinstance(whole, tuple):
        read_ordinary_as_h11_does(whole[0])


@given(
    st.sampled_from([b"GET", b"HEAD", b"get"]),
    st.sampled_from([b"/", b"/a?b#c", b"*", b"http://a/", b"/\x80", b"/ ", b"/\t"]),
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.sampled_from([b": ", b":", b":  ", b" : ", b":\t"]),
            st.sampled_from([b"", b"a", b"0", b"chunked", b"a b", b"a ", b"\xc3\xa4", b"\x01"])
            | st.text("a ,\t\r", max_size=4).map(str.encode),
            st.sampled_from([b"\r\n", b"\n", b"\r\r\n", b"\r\n "]),
        ),
        max_size=5,
    ),
)
def test_built_heads_are_read_as_h11_reads_them(
    method: bytes, target: bytes, lines: list[tuple[bytes, bytes, bytes, bytes]]
) -> None:
    fields = b"".join(b"".join(line) for line in [(b"Host", b": ", b"a", b"\r\n"), *lines])
    whole = read(b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, fields))
    if isinstance(whole, tuple):
        read_ordinary_as_h11_does(whole[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda n: b"GET /" + b"a" * n,
        lambda n: b"GET / HTTP/1.1\r\n" + b"a" * n,
        lambda n: b"GET / HTTP/1.1\r\na: " + b"b" * n,
        lambda n: b"GET / HTTP/1.1\r\na: b" + b" " * n,
        lambda n: b"GET / HTTP/1.1\r\na: b" + b" b" * (n // 2),
        lambda n: b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * (n // 6),
        lambda n: b"GET / HTTP/1.1" + b"\r\n" * (n // 2),
        lambda n: b"GET / HTTP/1.1" + b"\na: b" * (n // 5),
        lambda n: b"GET / HTTP/1.1\r\n" + b"a: b \r\n" * (n // 7),
    ],
    ids=range(9),
)
def test_time_is_linear_in_the_length(make: Callable[[int], bytes]) -> None:
    def seconds(size: int) -> float:
        head = make(size) + b"\r\n\r\n"
        best = math.inf
        for _ in range(3):
            start = time.process_time()
            read_ordinary_request(head)
            best = min(best, time.process_time() - start)
        return best

    # 64 times as much: anything quadratic would take 4096 times as long.
    assert seconds(1 << 20) < 640 * max(seconds(1 << 14), 1e-5)
