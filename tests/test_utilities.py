from __future__ import annotations

import base64
import os
import string
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip.events import RejectConnection
from wsproto_sip.utilities import (
    ACCEPT_GUID,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    check_header_fields,
    generate_accept_token,
    generate_nonce,
    is_extension,
    is_host,
    is_token,
    is_valid_key,
    normed_header_dict,
    received_fields,
    split_comma_header,
    target_authority,
)

TCHARS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
TOKENS = st.text(TCHARS, min_size=1, max_size=8)
# Long enough that anything slower than linear time would not finish within the test run.
LONG = 200_000


# -- errors ----------------------------------------------------------------------------------------


def test_errors() -> None:
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
    assert str(RemoteProtocolError("what was wrong")) == "what was wrong"
    assert RemoteProtocolError("x").event_hint is None
    hint = RejectConnection(404)
    assert RemoteProtocolError("x", event_hint=hint).event_hint is hint
    assert RemoteProtocolError("x", hint).event_hint is hint


# -- keys ------------------------------------------------------------------------------------------


def test_example_of_the_rfc() -> None:
    # RFC 6455 §1.3.
    assert ACCEPT_GUID == b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    assert generate_accept_token(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@given(st.binary(max_size=40))
def test_accept_tokens_are_those_of_wsproto(key: bytes) -> None:
    from wsproto.utilities import generate_accept_token as theirs

    assert generate_accept_token(key) == theirs(key)


@given(st.binary(min_size=16, max_size=16))
def test_nonce_is_its_sixteen_bytes_in_base64(raw: bytes) -> None:
    asked = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return raw

    nonce = generate_nonce(entropy)
    assert asked == [16]
    assert base64.b64decode(nonce, validate=True) == raw
    assert is_valid_key(nonce)


def test_nonces_differ() -> None:
    assert len({generate_nonce() for _ in range(50)}) == 50


@pytest.mark.parametrize("count", [0, 15, 17])
def test_source_returning_the_wrong_number_of_bytes_is_an_error(count: int) -> None:
    with pytest.raises(ValueError, match=rf"^entropy returned {count} bytes, not 16$"):
        generate_nonce(lambda _: os.urandom(count))


def decodes_to_sixteen(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16 and len(key) == 24
    except ValueError:
        return False


@given(
    st.binary(max_size=20).map(base64.b64encode)
    | st.text(string.ascii_letters + string.digits + "+/=-_ \n\x0b", max_size=26).map(str.encode)
    | st.binary(max_size=26)
)
@example(b"dGhlIHNhbXBsZSBub25jZQ==")
@example(b"dGhlIHNhbXBsZSBub25jZQ==\n")
@example(b" dGhlIHNhbXBsZSBub25jZQ==")
@example(b"dGhlIHNhbXBsZSBub25jZQ")
@example(b"dGhlIHNhbXBsZSBub25jZQ== ")
@example(b"dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==")
@example(b"dGhlIHNhbXBsZSBub25jZR==")  # unused bits set: valid in RFC 6455's grammar
@example(b"========================")
@example(b"")
def test_keys_decode_to_sixteen_bytes(key: bytes) -> None:
    assert is_valid_key(key) == decodes_to_sixteen(key)


# -- syntax ----------------------------------------------------------------------------------------


@given(st.binary(max_size=6) | TOKENS.map(str.encode))
@example(b"")
@example(b"sip\n")
def test_tokens(value: bytes) -> None:
    assert is_token(value) == (value != b"" and all(chr(byte) in TCHARS for byte in value))


WHITE = st.text(" \t", max_size=2)


@st.composite
def well_formed_extensions(draw: st.DrawFn) -> str:
    text = draw(TOKENS)
    for name in draw(st.lists(TOKENS, max_size=4)):
        text += draw(WHITE) + ";" + draw(WHITE) + name
        match draw(st.integers(0, 2)):
            case 1:
                text += draw(WHITE) + "=" + draw(WHITE) + draw(TOKENS)
            case 2:
                quoted = "".join(draw(st.sampled_from(["", "\\"])) + c for c in draw(TOKENS))
                text += f'="{quoted}"'
    return text


@given(well_formed_extensions())
def test_extensions_follow_the_grammar(text: str) -> None:
    assert is_extension(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "a;",
        "a;;b",
        "a; b=",
        "a; =c",
        "a b",
        "a; b c",
        "a; b=c=d",
        'a; b=""',
        'a; b="c',
        'a; b=c"',
        'a; b="c d"',
        'a; b="c,d"',
        'a; b="c\\"d"',
        'a; b="c\\',
        "a, b",
        " a",
        "a ",
        "a\n",
        "a;\x0bb",
        "a;\x0cb",
        "a;\x1cb",
        "a;\x85b",
        "a;\xa0b",
        "a; b=\xb2",
        "ä",
        "a; b\r\n c",
    ],
)
def test_malformed_extensions_are_refused(text: str) -> None:
    assert not is_extension(text.encode("latin-1"))


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "example.com:8080",
        "example.com:",
        "a_b-c.d~e",
        "127.0.0.1:80",
        "[::1]",
        "[2001:db8::1]:443",
        "[::ffff:127.0.0.1]",
        "a%2Eb",
        "xn--exmple-cua.com",
    ],
)
def test_hosts(host: str) -> None:
    assert is_host(host.encode())


@pytest.mark.parametrize(
    "host",
    [
        "",
        ":80",
        "a:b",
        "a:80:80",
        "a:8\xb2",
        "a, b",
        ", a",
        "a, ",
        "a b",
        "a/b",
        "a?b",
        "a#b",
        "u@a",
        "a%2",
        "a%zz",
        "[::1",
        "::1",
        "[]",
        "[fe80::1%25eth0]",
        "a\n",
        "a\r\nb",
        "a\x00",
        "a\x85",
        "ä.example",
    ],
)
def test_invalid_hosts_are_refused(host: str) -> None:
    assert not is_host(host.encode("latin-1"))


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("/", None),
        ("/chat?room=1&b=%20", None),
        ("//example.com/", None),
        ('/a"<>{}|\\^`', None),
        ("http://example.com", "example.com"),
        ("https://example.com:1/", "example.com:1"),
        ("ws://example.com?a", "example.com"),
        ("WSS://u@example.com/a?b", "u@example.com"),
    ],
)
def test_targets(target: str, authority: str | None) -> None:
    expected = None if authority is None else authority.encode()
    assert target_authority(target.encode()) == expected


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "a",
        "example.com:80",
        "?a",
        "/#a",
        "/a#",
        "/ a",
        "/a ",
        "/\t",
        "/a\n",
        "/a\r\nb: c",
        "/\x00",
        "/\x7f",
        "/\x85",
        "/ä",
        "ftp://example.com/",
        "http:/example.com",
        "http://",
        "http:///a",
        "http://?a",
        "http://example.com#a",
        "http://exa mple.com/",
        "http://ä/",
    ],
)
def test_invalid_targets_are_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"^not a path or an absolute URI"):
        target_authority(target.encode("latin-1"))


def test_long_target_is_truncated_in_the_error() -> None:
    with pytest.raises(ValueError, match=r"^not a path") as raised:
        target_authority(b"x" * 10_000)
    assert len(str(raised.value)) < 200


# -- header fields ---------------------------------------------------------------------------------


def test_fields_are_joined_in_order() -> None:
    fields = normed_header_dict(
        [(b"A", b"1"), (b"b", b"\xff"), (b"a", b""), (b"C", b""), (b"a", b"2")]
    )
    assert fields == {b"a": b"1, , 2", b"b": b"\xff", b"c": b""}
    assert list(fields) == [b"a", b"b", b"c"]
    assert normed_header_dict([]) == {}


NAMES = TOKENS.map(str.encode)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=5)), max_size=8))
def test_joining_loses_nothing(headers: list[tuple[bytes, bytes]]) -> None:
    fields = normed_header_dict(headers)
    for wanted in {name.lower() for name, _ in headers}:
        values = [value for name, value in headers if name.lower() == wanted]
        assert fields.pop(wanted) == b", ".join(values)
    assert fields == {}


def test_received_fields_may_be_text() -> None:
    fields: list[tuple[bytes | str, bytes | str]] = [
        ("Host", "a"),
        (b"X", "J\xe9r\xf4me"),
        ("y", b"\xff"),
    ]
    assert received_fields(fields) == [(b"Host", b"a"), (b"X", b"J\xe9r\xf4me"), (b"y", b"\xff")]
    assert received_fields({"Host": "a"}.items()) == [(b"Host", b"a")]
    for wrong in ("\u0100", "\ud800", "x" * 1000 + "\u0100"):
        for field in (("x", wrong), (wrong, "x")):
            with pytest.raises(RemoteProtocolError, match="outside Latin-1") as caught:
                received_fields([field])
            assert len(str(caught.value)) < 200


@given(st.lists(TOKENS), st.sampled_from([",", ", ", " ,\t", ",,", " , , "]))
def test_lists_of_tokens(tokens: list[str], comma: str) -> None:
    assert split_comma_header(comma.join(tokens).encode()) == tokens
    assert split_comma_header((comma + comma.join(tokens) + comma).encode()) == tokens


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (b"", []),
        (b" \t,, ,", []),
        (b'a; b="c,d", e', ['a; b="c,d"', "e"]),
        (b'a; b="c\\",d", e', ['a; b="c\\",d"', "e"]),
        (b'a; b="c\\\\", e', ['a; b="c\\\\"', "e"]),
        (b'"a", "b"', ['"a"', '"b"']),
        (b'a, "b, c', ["a", '"b, c']),
        (b'a, "b\\', ["a", '"b\\']),
        (b'a, "', ["a", '"']),
        (b'"",""', ['""', '""']),
        # Only space and tab are white space, and only the comma separates.
        (b"a\x0b,\x0cb\x1c,\x1d\x1ec", ["a\x0b", "\x0cb\x1c", "\x1d\x1ec"]),
        (b"a\nb;c", ["a\nb;c"]),
    ],
)
def test_lists(value: bytes, items: list[str]) -> None:
    assert split_comma_header(value) == items


@given(st.binary(max_size=30))
@example(b"upgrade\x85")
@example(b"\xa0upgrade")
def test_any_text_is_split_or_refused(value: bytes) -> None:
    if value.isascii():
        items = split_comma_header(value)
        assert all(item and item == item.strip(" \t") for item in items)
        if b'"' not in value:
            assert items == [
                item for item in [x.strip(" \t") for x in value.decode().split(",")] if item
            ]
    else:
        with pytest.raises(RemoteProtocolError, match="outside ASCII"):
            split_comma_header(value)


@given(st.lists(st.tuples(NAMES, st.from_regex(rb"\A([!-~]([\t -~]*[!-~])?)?\Z")), max_size=5))
def test_fields_that_may_be_sent(headers: list[tuple[bytes, bytes]]) -> None:
    checked = check_header_fields(headers)
    assert checked == headers
    assert checked is not headers


@given(st.binary(max_size=8))
@example(b"\xff\x80 \t\xa0")
def test_values_that_may_be_sent(value: bytes) -> None:
    bad = value != value.strip(b" \t") or any((c < 32 and c != 9) or c == 127 for c in value)
    if bad:
        with pytest.raises(LocalProtocolError, match=r"^Name has a value that cannot be sent$"):
            check_header_fields([(b"Name", value)])
    else:
        assert check_header_fields([(b"Name", value)]) == [(b"Name", value)]


@pytest.mark.parametrize(
    "name", [b"", b" a", b"a ", b"a b", b"a:", b":status", b"a\r\nb", b"a\x00", b"\xe4", b"a\n"]
)
def test_names_that_may_not_be_sent(name: bytes) -> None:
    with pytest.raises(LocalProtocolError, match=r"^not a header field's name"):
        check_header_fields([(b"ok", b"ok"), (name, b"x")])


@pytest.mark.parametrize("name", [b"upgrade", b"Upgrade", b"UPGRADE"])
def test_reserved_names(name: bytes) -> None:
    assert check_header_fields([(name, b"x")]) == [(name, b"x")]
    with pytest.raises(LocalProtocolError, match=r"^(?i:upgrade) is set by the handshake$"):
        check_header_fields([(name, b"x")], {b"upgrade"})


@pytest.mark.parametrize("field", [("A", "b"), (b"A", "b"), ("A", b"b")])
def test_fields_may_be_text_in_ascii(field: tuple[object, object]) -> None:
    assert check_header_fields([field]) == [(b"A", b"b")]
    with pytest.raises(LocalProtocolError, match="set by the handshake"):
        check_header_fields([field], {b"a"})
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        check_header_fields([(field[0], "b\r\nc: d")])


@pytest.mark.parametrize("field", [("\xe4", "b"), (b"a", "\xe4"), (b"a", None), (1, b"b")])
def test_fields_are_bytes(field: tuple[object, object]) -> None:
    with pytest.raises(LocalProtocolError, match="must be bytes"):
        check_header_fields([field])


# -- cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    [
        ",",
        ", ",
        " ",
        "\t",
        '"',
        '\\"',
        '"\\',
        "a",
        "a,",
        "a ",
        'a="',
        ";",
        "; ",
        "a;",
        "a; b=",
        "%",
        "a%41",
    ],
)
@pytest.mark.parametrize("end", ["", "\x00", '"', "\\"])
def test_patterns_take_linear_time(unit: str, end: str) -> None:
    value = (unit * (LONG // len(unit)) + end).encode()
    quoted = b'a; b="' + value
    split_comma_header(value)
    split_comma_header(quoted)
    for raw in (value, quoted, b"a" + value, b"a; b" + value):
        is_token(raw)
        is_extension(raw)
        is_host(raw)
        is_valid_key(raw)
    with pytest.raises(ValueError, match=r"^not a path"):
        target_authority(b"http://" + value + b"\x00")
    with pytest.raises(LocalProtocolError, match=r"^a has a value"):
        check_header_fields([(b"a", b"x" + value + b"\x00")])
    normed_header_dict([(b"a", b"x")] * 100)


@pytest.mark.parametrize("headers", [{"a": "b"}, "ab", b"ab", None, 5])
def test_header_fields_that_are_not_pairs_are_a_type_error(headers: Any) -> None:
    for check in (check_header_fields, received_fields):
        with pytest.raises(TypeError, match="header fields must be pairs of a name and a value: "):
            check(headers)


@pytest.mark.parametrize("field", ["ab", b"ab", ("a",), ("a", "b", "c"), None])
def test_field_that_is_not_a_pair_is_a_type_error(field: Any) -> None:
    for check in (check_header_fields, received_fields):
        with pytest.raises(TypeError, match="not a pair of a header field's name and value: "):
            check([("x", "y"), field])
