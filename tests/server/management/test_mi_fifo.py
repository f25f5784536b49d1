from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.management.commands import (
    CommandError,
    ConnectResult,
    EmptyResult,
    FactsResult,
    Fault,
)
from wsproto_sip.server.management.mi_fifo import (
    FifoError,
    FifoMessage,
    FifoParser,
    FifoReply,
    FifoRequest,
    decode_reply,
    encode_reply,
    encode_request,
    is_reply_name,
    make_reply,
)
from wsproto_sip.utilities import RemoteProtocolError


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        (b":ws.dump:fifo_reply\nused_asc\n\n", FifoRequest("ws.dump", "fifo_reply", ("used_asc",))),
        (b":ws.close:fifo_reply\n1\n\n", FifoRequest("ws.close", "fifo_reply", ("1",))),
        (b":ws.ping:fifo_reply\n1\n\n", FifoRequest("ws.ping", "fifo_reply", ("1",))),
        (b":ws.pong:fifo_reply\n1\n\n", FifoRequest("ws.pong", "fifo_reply", ("1",))),
        (b":ws.disable:fifo_reply\n\n", FifoRequest("ws.disable", "fifo_reply")),
        (b":ws.enable:fifo_reply\n\n", FifoRequest("ws.enable", "fifo_reply")),
        (b":ws.enable:\n\n", FifoRequest("ws.enable")),
        (b":ws.dump:a-B_9\r\nused_asc\r\n\r\n", FifoRequest("ws.dump", "a-B_9", ("used_asc",))),
        (
            ":ws.close:r\n1\n4000\nSo sagt's der Wärter\n\n".encode(),
            FifoRequest("ws.close", "r", ("1", "4000", "So sagt's der Wärter")),
        ),
    ],
)
def test_requests_of_the_guide(data: bytes, request_: FifoRequest) -> None:
    assert FifoParser().feed(data) == [request_]
    assert FifoParser().feed(b"\n\n" + data + b"\n" + data) == [request_, request_]


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"ws.dump\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump\n", FifoError("no command and name of a reply FIFO")),
        (b"::r\n", FifoError("no command and name of a reply FIFO")),
        (b" :ws.dump:r\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:r \n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:../etc/passwd\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:/tmp/x\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:.hidden\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:a\\b\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:a\x00\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:\xc3\xa4\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:" + b"r" * 65 + b"\n", FifoError("no command and name of a reply FIFO")),
        (b":ws.dump:r\n\xff\n", FifoError("line is not UTF-8", "r")),
        (b":ws.dump:r\na\x0bb\n", FifoError("parameter with a control character", "r")),
        (b":ws.dump:r\na\rb\n", FifoError("parameter with a control character", "r")),
        (b":ws.dump:r\na\xc2\x85b\n", FifoError("parameter with a control character", "r")),
        (b":ws.dump:r\na\xe2\x80\xa8b\n", FifoError("parameter with a control character", "r")),
        (b":ws.dump:r\n" + b"x\n" * 5, FifoError("too many parameters", "r")),
        (b":ws.dump:r\n" + b"x" * 101 + b"\n", FifoError("line too long", "r")),
        (b":ws.dump:r\n" + b"x" * 100 + b"\r\n", FifoError("line too long", "r")),
        (b":ws.dump:r\n" + b"x" * 1000 + b"\n", FifoError("line too long", "r")),
    ],
)
def test_bad_requests_are_dropped_up_to_the_empty_line(data: bytes, error: FifoError) -> None:
    parser = FifoParser(max_line=100, max_params=4)
    tail = b":ws.ping:evil\n\xff\n" + b"y" * 300 + b"\n1\n\n:ws.enable:q\n\n"
    assert parser.feed(data + tail) == [error, FifoRequest("ws.enable", "q")]
    dribbled = [item for byte in data + tail for item in parser.feed(bytes([byte]))]
    assert dribbled == [error, FifoRequest("ws.enable", "q")]


def test_longest_line_and_the_most_parameters() -> None:
    parser = FifoParser(max_line=100, max_params=4)
    params = ("x" * 100,) * 4
    request = FifoRequest("ws.dump", None, params)
    assert parser.feed(encode_request(request)) == [request]


def test_endless_line_takes_no_memory() -> None:
    parser = FifoParser(max_line=100)
    assert parser.feed(b"x" * 1000) == [FifoError("line too long")]
    for _ in range(100):
        assert parser.feed(b"x" * 1000) == []
        assert not parser._buffer
    assert parser.feed(b"\n\n:ws.enable:\n\n") == [FifoRequest("ws.enable")]


@pytest.mark.parametrize(
    ("data", "reply"), [(b":ws.dump:r\n", "r"), (b":ws.dump:r\nx\nid", "r"), (b":ws.du", None)]
)
def test_end_of_input_in_a_request_is_an_error(data: bytes, reply: str | None) -> None:
    parser = FifoParser()
    assert parser.feed(data) == []
    assert parser.close() == [FifoError("end of input in a request", reply)]
    assert parser.feed(b":ws.enable:\n\n") == [FifoRequest("ws.enable")]
    assert parser.close() == []


def test_lines_of_json() -> None:
    parser = FifoParser(max_line=100)
    line = b'{"jsonrpc": "2.0", "method": "ws.dump"}'
    assert parser.feed(line + b"\r\n[]\n:ws.close:r\n{7}\n\n" + line + b"\n") == [
        FifoMessage(line),
        FifoMessage(b"[]"),
        # In a request a line is a parameter, whatever it contains.
        FifoRequest("ws.close", "r", ("{7}",)),
        FifoMessage(line),
    ]
    assert parser.feed(b"bad\n" + line + b"\n\n") == [
        FifoError("no command and name of a reply FIFO")
    ]
    assert parser.feed(b"{" + b" " * 100 + b"}\n\n") == [FifoError("line too long")]


def test_line_of_json_may_end_with_its_writer() -> None:
    parser = FifoParser()
    assert parser.feed(b"{\xff") == []
    assert parser.close() == [FifoMessage(b"{\xff")]
    assert parser.close() == []
    parser.feed(b":ws.close:r\n{7}")
    assert parser.close() == [FifoError("end of input in a request", "r")]


def test_end_of_input_while_dropping_is_silent() -> None:
    parser = FifoParser(max_line=10)
    assert parser.feed(b"bad\nworse") == [FifoError("no command and name of a reply FIFO")]
    assert parser.close() == []
    assert parser.feed(b"x" * 11) == [FifoError("line too long")]
    assert parser.close() == []
    assert parser.feed(b":ws.ping:\n1\n\n") == [FifoRequest("ws.ping", None, ("1",))]


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=20)
REQUESTS = st.builds(
    FifoRequest,
    st.from_regex(r"[A-Za-z0-9_.]{1,20}", fullmatch=True),
    st.none() | st.from_regex(r"[A-Za-z0-9_-]{1,20}", fullmatch=True),
    st.lists(TEXT, max_size=5).map(tuple),
)


@given(st.lists(REQUESTS, max_size=4), st.lists(st.integers(1, 30), max_size=20))
def test_requests_survive_the_round_trip_in_any_pieces(
    requests: list[FifoRequest], cuts: list[int]
) -> None:
    data = b"".join(encode_request(request) for request in requests)
    parser = FifoParser()
    found: list[object] = []
    for cut in cuts:
        found += parser.feed(data[:cut])
        data = data[cut:]
    found += parser.feed(data)
    assert found == requests
    assert parser.close() == []


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"\n", b":a:b\n", b"x" * 40])))
def test_any_bytes_give_the_same_in_any_pieces(pieces: list[bytes]) -> None:
    one, other = FifoParser(max_line=32, max_params=2), FifoParser(max_line=32, max_params=2)
    found = [item for piece in pieces for item in one.feed(piece)]
    found += one.close()
    whole = other.feed(b"".join(pieces))
    whole += other.close()
    assert found == whole


@pytest.mark.parametrize(
    "request_",
    [
        FifoRequest("", "r"),
        FifoRequest("a:b", "r"),
        FifoRequest("a\nb", "r"),
        FifoRequest("ws.dump", ""),
        FifoRequest("ws.dump", "../x"),
        FifoRequest("ws.dump", "a.b"),
        FifoRequest("ws.dump", "r", ("",)),
        FifoRequest("ws.dump", "r", ("a\nb",)),
        FifoRequest("ws.dump", "r", ("\ud800",)),
    ],
)
def test_invalid_requests_are_not_written(request_: FifoRequest) -> None:
    with pytest.raises(ValueError, match=r"name|control character"):
        encode_request(request_)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a.b", "a/b", "/a", "a\\b", "a b", "a\n", "\xe4", "a" * 65, "\x00"]
)
def test_names_that_are_not_plain(name: str) -> None:
    assert not is_reply_name(name)
    assert is_reply_name("fifo_reply-1")


def test_replies() -> None:
    assert encode_reply(make_reply(EmptyResult())) == b"200 OK\n\n"
    assert encode_reply(make_reply(ConnectResult(3))) == b"200 OK\nid: 3\n\n"
    assert encode_reply(make_reply(FactsResult({"a": 1, "b": 2}))) == b"200 OK\na: 1\nb: 2\n\n"
    unknown = CommandError(Fault.UNKNOWN_CONNECTION, "not shown")
    assert encode_reply(make_reply(unknown)) == b"500 Unknown connection ID\n\n"
    order = CommandError(Fault.BAD_ORDER)
    assert encode_reply(make_reply(order)) == b"400 Bad display order parameter\n\n"
    bad = FifoError("line too long", "r")
    assert encode_reply(make_reply(bad)) == b"400 Bad request: line too long\n\n"


@pytest.mark.parametrize(
    "reply",
    [
        FifoReply(99, "x"),
        FifoReply(1000, "x"),
        FifoReply(200, "a\nb"),
        FifoReply(200, "OK", ("",)),
        FifoReply(200, "OK", ("a\nb",)),
    ],
)
def test_invalid_replies_are_not_written(reply: FifoReply) -> None:
    with pytest.raises(ValueError, match=r"code|control character"):
        encode_reply(reply)


@given(st.builds(FifoReply, st.integers(100, 999), TEXT | st.just(""), st.lists(TEXT).map(tuple)))
def test_replies_survive_the_round_trip(reply: FifoReply) -> None:
    assert decode_reply(encode_reply(reply)) == reply


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not end in an empty line"),
        (b"200 OK", "does not end in an empty line"),
        (b"200 OK\n", "does not end in an empty line"),
        (b"\n\n", "does not start with a code"),
        (b"OK\n\n", "does not start with a code"),
        (b"2000 OK\n\n", "does not start with a code"),
        (b"200 O\x07K\n\n", "does not start with a code"),
        (b"\xd9\xa2\xd9\xa0\xd9\xa0 OK\n\n", "does not start with a code"),
        (b"200 OK\n\n200 OK\n\n", "must not be empty or have control characters"),
        (b"200 OK\na\tb\n\n", "must not be empty or have control characters"),
        (b"200 \xff\n\n", "not UTF-8"),
        (b"200 " + b"x" * 100 + b"\n\n", "more than 100 bytes"),
    ],
)
def test_bad_replies(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode_reply(data, max_bytes=100)
