from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.msrp.recording import read_recording
from tests.msrp.strategies import idents, paths, requests, responses
from wsproto_sip.msrp.message.chunk import (
    Continuation,
    MsrpParseError,
    MsrpRequest,
    MsrpResponse,
    accept_send,
    acceptance,
    forward_chunk,
    new_transaction_id,
    parse_chunk,
    path_lines,
    split_chunk,
    with_open_range,
)
from wsproto_sip.msrp.message.fields import REASONS, ByteRange, FailureReport
from wsproto_sip.msrp.message.limits import MsrpLimits
from wsproto_sip.msrp.message.uri import MsrpPath, parse_path
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError

TO = parse_path(b"msrp://relay:2855/s1;tcp msrp://bob.invalid:1/b;ws")
FROM = parse_path(b"msrp://alice.invalid:1/a;ws")
HEAD = b"To-Path: msrp://r/s;tcp\r\nFrom-Path: msrp://a/b;ws\r\n"


def send(rest: bytes, *, first: bytes = b"MSRP abcd SEND\r\n") -> bytes:
    return first + HEAD + rest


def request(data: bytes, limits: MsrpLimits | None = None) -> MsrpRequest:
    chunk = parse_chunk(data) if limits is None else parse_chunk(data, limits=limits)
    assert isinstance(chunk, MsrpRequest)
    return chunk


# -- reading -----------------------------------------------------------------------------------


def test_send() -> None:
    data = (
        b"MSRP d93kswow SEND\r\n"
        b"To-Path: msrp://relay:2855/s1;tcp msrp://bob.invalid:1/b;ws\r\n"
        b"From-Path: msrp://alice.invalid:1/a;ws\r\n"
        b"Message-ID: 12339sdqwer\r\n"
        b"Byte-Range: 1-16/16\r\n"
        b"Success-Report: yes\r\n"
        b"X-Other:  kept \xff as is\r\n"
        b"Content-Type: text/plain\r\n"
        b"\r\n"
        b"Hi, I'm Alice!\r\n"
        b"\r\n"
        b"-------d93kswow$\r\n"
    )
    chunk = request(data)
    assert chunk == MsrpRequest(
        b"d93kswow",
        b"SEND",
        TO,
        FROM,
        [
            (b"Message-ID", b"12339sdqwer"),
            (b"Byte-Range", b"1-16/16"),
            (b"Success-Report", b"yes"),
            (b"X-Other", b" kept \xff as is"),
            (b"Content-Type", b"text/plain"),
        ],
        b"Hi, I'm Alice!\r\n",
    )
    assert chunk.message_id == b"12339sdqwer"
    assert chunk.byte_range == ByteRange(1, 16, 16)
    assert chunk.content_type == b"text/plain"
    assert chunk.success_report
    assert chunk.failure_report is FailureReport.YES
    assert chunk.header(b"x-OTHER") == b" kept \xff as is"
    assert chunk.to_bytes() == data


def test_request_without_fields() -> None:
    chunk = request(send(b"-------abcd$\r\n"))
    assert chunk.headers == []
    assert chunk.body is None
    assert (chunk.message_id, chunk.byte_range, chunk.content_type) == (None, None, None)
    assert not chunk.success_report


def test_empty_body_is_a_body() -> None:
    chunk = request(send(b"Content-Type: text/plain\r\n\r\n\r\n-------abcd$\r\n"))
    assert chunk.body == b""
    assert chunk.to_bytes() == send(b"Content-Type: text/plain\r\n\r\n\r\n-------abcd$\r\n")


@pytest.mark.parametrize("flag", list(Continuation))
def test_flags(flag: Continuation) -> None:
    chunk = request(send(b"-------abcd%b\r\n" % flag.value))
    assert chunk.continuation is flag
    assert chunk.to_bytes().endswith(b"-------abcd%b\r\n" % flag.value)


@pytest.mark.parametrize("value", ["yes", "no", "partial"])
def test_failure_report(value: str) -> None:
    chunk = request(send(b"Failure-Report: %b\r\n-------abcd$\r\n" % value.encode()))
    assert chunk.failure_report is FailureReport[value.upper()]


@pytest.mark.parametrize(
    ("line", "code", "comment"),
    [
        (b"200 OK", 200, b"OK"),
        (b"200", 200, None),
        (b"413 ", 413, b""),
        (b"400 \xc3\xa9 two words", 400, b"\xc3\xa9 two words"),
    ],
)
def test_response(line: bytes, code: int, comment: bytes | None) -> None:
    data = send(b"Message-ID: 1234\r\n-------abcd$\r\n", first=b"MSRP abcd %b\r\n" % line)
    chunk = parse_chunk(data)
    assert isinstance(chunk, MsrpResponse)
    assert (chunk.code, chunk.comment) == (code, comment)
    assert chunk.message_id == b"1234"
    assert chunk.to_bytes() == data


def test_only_its_own_end_line_ends_a_chunk() -> None:
    body = (
        b"-------abcde$\r\n-------abc$\r\n-------abcd\r\n-------abcd*\r\n"
        b"-------abcd$\n-------abcd$ \r\nx-------abcd$\r\n------abcd$\r\n\r\n-------ABCD$"
    )
    data = send(b"Content-Type: a/b\r\n\r\n" + body + b"\r\n-------abcd+\r\n")
    assert request(data).body == body


def test_path_names_in_any_case_are_written_in_the_usual_one() -> None:
    data = send(b"-------abcd$\r\n").replace(b"To-Path", b"to-path").replace(b"From-P", b"FROM-p")
    assert request(data).to_bytes() == send(b"-------abcd$\r\n")


@pytest.mark.parametrize("tid", [b"abcd", b"0" * 32, b"a.-+%=x"])
def test_transaction_ids(tid: bytes) -> None:
    assert request(b"MSRP %b SEND\r\n%b-------%b$\r\n" % (tid, HEAD, tid)).transaction_id == tid


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"MSRP abc SEND\r\n",
        b"MSRP .abcd SEND\r\n",
        b"MSRP %b SEND\r\n" % (b"0" * 33),
        b"MSRP abcd send\r\n",
        b"MSRP abcd  SEND\r\n",
        b"MSRP abcd SEND \r\n",
        b"MSRP abcd SEND\n",
        b"MSRP abcd\tSEND\r\n",
        b"msrp abcd SEND\r\n",
        b" MSRP abcd SEND\r\n",
        b"\r\nMSRP abcd SEND\r\n",
        b"MSRP ab\xc3\xa9d SEND\r\n",
        b"MSRP abcd 20 OK\r\n",
        b"MSRP abcd 2000 OK\r\n",
        b"MSRP abcd 099 OK\r\n",
        b"MSRP abcd \xd9\xa2\xd9\xa0\xd9\xa0\r\n",
        b"MSRP abcd 200 OK\x00\r\n",
        b"MSRP abcd 200 O\rK\r\n",
    ],
)
def test_missing_first_line_is_malformed(first: bytes) -> None:
    with pytest.raises(MsrpParseError, match="first line") as caught:
        parse_chunk(send(b"-------abcd$\r\n", first=first))
    assert (caught.value.status, caught.value.request) == (400, None)
    assert caught.value.response() is None
    assert isinstance(caught.value, RemoteProtocolError)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"MSRP abcd SEND\r\n-------abcd$\r\n", "To-Path does not follow"),
        (b"MSRP abcd SEND\r\nFrom-Path: msrp://a;ws\r\n", "To-Path does not follow"),
        (b"MSRP abcd SEND\r\nTo-Path: msrp://a;ws\r\nX: y\r\n", "From-Path does not follow"),
        (b"MSRP abcd SEND\r\nTo-Path: x\r\nFrom-Path: msrp://a;ws\r\n", "not an MSRP URI"),
        (b"MSRP abcd SEND\r\nTo-Path: msrp://a;ws\r\nFrom-Path: x\r\n", "not an MSRP URI"),
    ],
)
def test_request_without_paths_cannot_be_answered(data: bytes, message: str) -> None:
    with pytest.raises(MsrpParseError, match=message) as caught:
        parse_chunk(data)
    assert caught.value.request is None


MALFORMED = [
    (b"", "end-line of the transaction is missing"),
    (b"-------abce$\r\n", "end-line of the transaction is missing"),
    (b"-------abcd$", "end-line of the transaction is missing"),
    (b"-------abcd$\r\n\r\n", "bytes after the end-line"),
    (b"-------abcd$\r\nMSRP abcd SEND\r\n", "bytes after the end-line"),
    (b"\r\n-------abcd$\r\n", "an empty line without a body"),
    (b"Content-Type: a/b\r\n\r\n-------abcd$\r\n", "an empty line without a body"),
    (b"\r\nbody\r\n-------abcd$\r\n", "a body needs Content-Type"),
    (b"X: y\r\n\r\nbody\r\n-------abcd$\r\n", "a body needs Content-Type"),
    (b"Content-Type: a/b\r\nX: y\r\n\r\nb\r\n-------abcd$\r\n", "a body needs Content-Type"),
    (b"Content-Type: a/b\r\n-------abcd$\r\n", "Content-Type without a body"),
    (b"X: y\r\n folded\r\n-------abcd$\r\n", "malformed header line: b' folded"),
    (b"X:y\r\n-------abcd$\r\n", "malformed header line"),
    (b"X : y\r\n-------abcd$\r\n", "malformed header line"),
    (b": y\r\n-------abcd$\r\n", "malformed header line"),
    (b"1X: y\r\n-------abcd$\r\n", "malformed header line"),
    (b"X: a\nY: b\r\n-------abcd$\r\n", "malformed header line"),
    (b"X: \x00\r\n-------abcd$\r\n", "malformed header line"),
    (b"To-path: msrp://a;ws\r\n-------abcd$\r\n", "To-path is repeated"),
    (b"From-Path: msrp://a;ws\r\n-------abcd$\r\n", "From-Path is repeated"),
    (b"Message-ID: 1234\r\nmessage-id: 1234\r\n-------abcd$\r\n", "message-id is repeated"),
    (b"Message-ID: 123\r\n-------abcd$\r\n", "malformed Message-ID"),
    (b"Success-Report: maybe\r\n-------abcd$\r\n", "malformed Success-Report"),
    (b"Failure-Report: partly\r\n-------abcd$\r\n", "malformed Failure-Report"),
    (b"Status: 01 200 OK\r\n-------abcd$\r\n", "malformed Status"),
    (b"Expires: -1\r\n-------abcd$\r\n", "malformed Expires"),
    (b"Expires: \xb2\r\n-------abcd$\r\n", "malformed Expires"),
    (b"Byte-Range: 1-2\r\n-------abcd$\r\n", "malformed Byte-Range: b'1-2'"),
    (b"Byte-Range: 0-2/2\r\n-------abcd$\r\n", "a range cannot start at 0"),
]


@pytest.mark.parametrize(("rest", "message"), MALFORMED)
def test_malformed_request_can_be_answered(rest: bytes, message: str) -> None:
    with pytest.raises(MsrpParseError, match=message) as caught:
        parse_chunk(send(rest))
    error = caught.value
    assert error.status == 400
    assert error.request is not None
    answer = error.response()
    assert answer is not None
    assert answer.to_bytes() == (
        b"MSRP abcd 400 Unintelligible\r\n"
        b"To-Path: msrp://a/b;ws\r\nFrom-Path: msrp://r/s;tcp\r\n-------abcd$\r\n"
    )


@pytest.mark.parametrize(("rest", "message"), MALFORMED)
@pytest.mark.parametrize("first", [b"MSRP abcd REPORT\r\n", b"MSRP abcd 200 OK\r\n"])
def test_malformed_report_or_response_is_not_answered(
    first: bytes, rest: bytes, message: str
) -> None:
    with pytest.raises(MsrpParseError, match=message) as caught:
        parse_chunk(send(rest, first=first))
    assert caught.value.response() is None


def test_response_has_no_body() -> None:
    data = send(b"Content-Type: a/b\r\n\r\nx\r\n-------abcd$\r\n", first=b"MSRP abcd 200\r\n")
    with pytest.raises(MsrpParseError, match="a response with a body"):
        parse_chunk(data)


def test_sizes_are_limited() -> None:
    data = send(b"A: b\r\nC: d\r\n-------abcd$\r\n")
    exact = MsrpLimits(
        max_chunk_size=len(data),
        max_first_line=len(b"MSRP abcd SEND\r\n"),
        max_headers=2,
        max_header_line=len(b"From-Path: msrp://a/b;ws\r\n"),
        max_path_uris=1,
    )
    assert request(data, exact).headers == [(b"A", b"b"), (b"C", b"d")]
    cases: list[tuple[MsrpLimits, int, str, bool]] = [
        (MsrpLimits(max_chunk_size=len(data) - 1), 413, "a chunk of", True),
        (MsrpLimits(max_first_line=len(b"MSRP abcd SEND\r\n") - 1), 400, "first line", False),
        (MsrpLimits(max_headers=1), 400, "more than 1 header fields", True),
        (MsrpLimits(max_header_line=20), 400, "To-Path does not follow", False),
        (MsrpLimits(max_header_line=25), 400, "From-Path does not follow", False),
        (MsrpLimits(max_uri=12), 400, "a URI of", False),
    ]
    for limits, status, message, answerable in cases:
        with pytest.raises(MsrpParseError, match=message) as caught:
            parse_chunk(data, limits=limits)
        assert caught.value.status == status
        assert (caught.value.request is not None) is answerable
    long = send(b"A: %b\r\n-------abcd$\r\n" % (b"x" * 40))
    with pytest.raises(MsrpParseError, match="malformed header line"):
        parse_chunk(long, limits=MsrpLimits(max_header_line=30))


@pytest.mark.parametrize("entry", read_recording(), ids=lambda e: f"{e.who}-{e.data[5:15]!r}")
def test_recording_is_serialised_byte_for_byte(entry: object) -> None:
    data: bytes = entry.data  # type: ignore[attr-defined]
    if b"wrongtid" in data:
        with pytest.raises(MsrpParseError) as caught:
            parse_chunk(data)
        assert caught.value.request is not None
        assert caught.value.request.transaction_id == b"abcd1234"
    else:
        assert parse_chunk(data).to_bytes() == data


def test_recording_is_parsed_completely() -> None:
    entries = read_recording()
    assert len(entries) == 71
    assert {entry.kind for entry in entries} == {"text", "binary", "tcp"}


# -- writing -------------------------------------------------------------------------------------


def test_responses() -> None:
    path = parse_path(b"msrp://hop:1/h;tcp msrp://alice.invalid:1/a;ws")
    one = MsrpRequest(b"abcd", b"SEND", TO, path)
    assert one.response(200) == MsrpResponse(b"abcd", 200, path[:1], TO[:1], [], b"OK")
    other = MsrpRequest(b"abcd", b"AUTH", TO, path)
    assert other.response(423, b"so", [(b"Min-Expires", b"60")]) == MsrpResponse(
        b"abcd", 423, path, TO[:1], [(b"Min-Expires", b"60")], b"so"
    )
    assert one.response(299).comment is None
    assert set(REASONS) == {200, 400, 401, 403, 408, 413, 415, 423, 481, 501, 506}


def test_413_is_answered_with_413() -> None:
    error = MsrpParseError(413, "too much", MsrpRequest(b"abcd", b"SEND", TO, FROM))
    answer = error.response()
    assert answer is not None
    assert answer.code == 413


Change = Callable[[MsrpRequest], None]


def _set(**values: object) -> Change:
    def change(chunk: MsrpRequest) -> None:
        for name, value in values.items():
            setattr(chunk, name, value)

    return change


TYPED = [(b"Content-Type", b"a/b")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(transaction_id=b"abc"), "transaction id"),
        (_set(transaction_id=b"abcd\r\n"), "transaction id"),
        (_set(method=b"send"), "method"),
        (_set(method=b"SEND\r\nX: y"), "method"),
        (_set(to_path=()), "needs To-Path"),
        (_set(from_path=()), "needs To-Path"),
        (_set(headers=[(b"X", b"a\r\nY: b")]), "header field"),
        (_set(headers=[(b"X", b"a\n")]), "header field"),
        (_set(headers=[(b"X\r\nY", b"a")]), "header field"),
        (_set(headers=[(b"X: Y", b"a")]), "header field"),
        (_set(headers=[(b"", b"a")]), "header field"),
        (_set(body=b"x"), "needs Content-Type"),
        (_set(body=b"x", headers=[*TYPED, (b"X", b"y")]), "needs Content-Type"),
        (_set(headers=TYPED), "without a body"),
        (_set(headers=TYPED, body=b"x\r\n-------abcd$\r\ny"), "contains the end-line"),
        (_set(headers=TYPED, body=b"-------abcd$"), "contains the end-line"),
    ],
)
def test_unparsable_chunks_are_not_written(change: Change, message: str) -> None:
    chunk = MsrpRequest(b"abcd", b"SEND", TO, FROM)
    chunk.to_bytes()
    change(chunk)
    with pytest.raises(LocalProtocolError, match=message):
        chunk.to_bytes()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"code": 99}, "status code"),
        ({"code": 1000}, "status code"),
        ({"comment": b"a\r\nX: y"}, "comment"),
        ({"headers": TYPED}, "no Content-Type"),
        ({"transaction_id": b"a"}, "transaction id"),
    ],
)
def test_response_is_checked_too(values: dict[str, object], message: str) -> None:
    chunk = MsrpResponse(b"abcd", 200, TO, FROM)
    chunk.to_bytes()
    for name, value in values.items():
        setattr(chunk, name, value)
    with pytest.raises(LocalProtocolError, match=message):
        chunk.to_bytes()


def test_fresh_transaction_ids() -> None:
    ids = {new_transaction_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(tid) == 20 for tid in ids)


def test_fresh_transaction_id_does_not_occur_in_the_body() -> None:
    raw = iter([b"\x01" * 10, b"\x02" * 10])
    body = b"x\r\n-------" + b"01" * 10
    assert new_transaction_id(body, entropy=lambda _: next(raw)) == b"02" * 10
    with pytest.raises(ValueError, match="entropy"):
        new_transaction_id(body, entropy=lambda n: b"\x01" * n)


# -- properties ----------------------------------------------------------------------------------


@given(requests() | responses())
def test_round_trip(chunk: MsrpRequest | MsrpResponse) -> None:
    data = chunk.to_bytes()
    again = parse_chunk(data)
    assert again == chunk
    assert again.to_bytes() == data


@given(st.binary(max_size=200))
def test_noise_raises_only_the_documented_exception(data: bytes) -> None:
    for prefix in (b"", b"MSRP abcd SEND\r\n", send(b""), send(b"Content-Type: a/b\r\n\r\n")):
        try:
            chunk = parse_chunk(prefix + data)
        except MsrpParseError as error:
            answer = error.response()
            assert answer is None or parse_chunk(answer.to_bytes()) == answer
        else:
            assert parse_chunk(chunk.to_bytes()) == chunk


@given(requests(), st.data())
def test_changed_byte_never_changes_the_framing(chunk: MsrpRequest, data: st.DataObject) -> None:
    raw = bytearray(chunk.to_bytes())
    where = data.draw(st.integers(0, len(raw) - 1))
    raw[where] = data.draw(st.integers(0, 255))
    try:
        read = parse_chunk(bytes(raw))
    except MsrpParseError:
        return
    assert len(read.to_bytes()) == len(raw)


@given(requests(), idents, paths, paths)
def test_forwarding_changes_the_first_line_and_the_paths_alone(
    chunk: MsrpRequest, tid: bytes, to_path: MsrpPath, from_path: MsrpPath
) -> None:
    read, fields, rest = split_chunk(chunk.to_bytes())
    assert read == chunk
    assert isinstance(read, MsrpRequest)
    if tid in rest:
        return
    expected = replace(chunk, transaction_id=tid, to_path=to_path, from_path=from_path)
    lines, flag = path_lines(to_path, from_path), chunk.continuation.value
    assert forward_chunk(chunk.method, tid, lines, rest, flag) == expected.to_bytes()
    known = {name.lower(): value for name, value in chunk.headers if not name.startswith(b"X-")}
    assert fields == known


@given(requests())
def test_accepting_answer_equals_the_general_one(chunk: MsrpRequest) -> None:
    chunk.method = b"SEND"
    said = acceptance(chunk.from_path[0], chunk.to_path[0])
    assert accept_send(chunk.transaction_id, said) == chunk.response(200).to_bytes()


@pytest.mark.parametrize("name", [b"Content-Length", b"content_length", b"l"])
def test_chunk_with_a_length_is_neither_parsed_nor_written(name: bytes) -> None:
    field = b"%b: 0\r\n" % name
    with pytest.raises(MsrpParseError, match="MSRP has no length field") as caught:
        parse_chunk(send(field + b"-------abcd$\r\n"))
    assert caught.value.status == 400
    with pytest.raises(LocalProtocolError, match="malformed header field"):
        MsrpRequest(b"abcd", b"SEND", TO, FROM, [(name, b"0")]).to_bytes()


def test_range_is_opened_only_in_the_header() -> None:
    assert with_open_range(b"Byte-Range: 1-5/5\r\n") == b"Byte-Range: 1-*/5\r\n"
    fields = b"X: Byte-Range: 1-5/5\r\nbyte-range: 7-9/*\r\nContent-Type: a/b\r\n\r\n"
    body = b"Byte-Range: 1-5/5\r\n"
    assert with_open_range(fields + body) == fields.replace(b"7-9", b"7-*") + body


def test_literals_are_case_insensitive() -> None:
    chunk = request(send(b"success-report: YES\r\nFAILURE-REPORT: Partial\r\n-------abcd$\r\n"))
    assert chunk.success_report
    assert chunk.failure_report is FailureReport.PARTIAL
