from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.policy.proxy_protocol import ProxyHeader, ProxyHeaderParser
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError

SIGNATURE = b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack(">HH", 4711, 443)
V6 = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("::1").packed
V6 += struct.pack(">HH", 1, 65535)


def v2(command: int, family: int, body: bytes, *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", size) + body


def record(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def tls(client: int) -> bytes:
    return record(0x20, bytes([client, 0, 0, 0, 0]) + record(0x21, b"TLSv1.3"))


GOOD = [
    (
        b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n",
        ProxyHeader(1, "192.0.2.1", 4711, "198.51.100.2", 443),
    ),
    (
        b"PROXY TCP6 2001:DB8:0::1 ::1 0 65535\r\n",
        ProxyHeader(1, "2001:db8::1", 0, "::1", 65535),
    ),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(1)),
    (b"PROXY UNKNOWN ffff:f...f ffff:f...f 65535 65535\r\n", ProxyHeader(1)),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ProxyHeader(1)),
    (v2(0x21, 0x11, V4), ProxyHeader(2, "192.0.2.1", 4711, "198.51.100.2", 443)),
    (v2(0x21, 0x21, V6), ProxyHeader(2, "2001:db8::1", 1, "::1", 65535)),
    (
        v2(0x21, 0x11, V4 + record(4, b"") + tls(1) + record(1, b"h2")),
        ProxyHeader(2, "192.0.2.1", 4711, "198.51.100.2", 443, secure=True),
    ),
    (
        v2(0x21, 0x21, V6 + tls(0)),
        ProxyHeader(2, "2001:db8::1", 1, "::1", 65535, secure=False),
    ),
    (v2(0x21, 0x31, bytes(216) + tls(7)), ProxyHeader(2, secure=True)),
    (v2(0x21, 0x00, b""), ProxyHeader(2)),
    (v2(0x20, 0x00, b""), ProxyHeader(2)),
    (v2(0x20, 0x11, b"anything"), ProxyHeader(2)),
    (v2(0x21, 0x00, record(4, bytes(1021))), ProxyHeader(2)),
]


@pytest.mark.parametrize(("data", "header"), GOOD)
def test_headers(data: bytes, header: ProxyHeader) -> None:
    parser = ProxyHeaderParser()
    assert parser.trailing == b""
    assert parser.feed(data + b"GET / HTTP/1.1\r\n") == header
    assert parser.trailing == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize("family", [0x00, 0x11, 0x13, 0x41, 0xFF])
def test_family_of_a_local_connection_is_ignored(family: int) -> None:
    parser = ProxyHeaderParser()
    assert parser.feed(v2(0x20, family, b"abc") + b"GET") == ProxyHeader(2)
    assert parser.trailing == b"GET"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "not a PROXY protocol header"),
        (b"\r\n\r\nGET", "not a PROXY protocol header"),
        (b"proxy TCP4", "not a PROXY protocol header"),
        (b"PROXY\tTCP4", "not a PROXY protocol header"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\n", "malformed PROXY line"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 \r\n", "malformed PROXY line"),
        (b"PROXY TCP4  192.0.2.1 198.51.100.2 4711 443\r\n", "malformed PROXY line"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 04711 443\r\n", "malformed PROXY line"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n", "malformed PROXY line"),
        (b"PROXY TCP5 192.0.2.1 198.51.100.2 1 443\r\n", "malformed PROXY line"),
        (b"PROXY TCP4 192.0.2.1\x85198.51.100.2 1 443\r\n", "malformed PROXY line"),
        (b"PROXY UNKNOWN\r\r\n", "malformed PROXY line"),
        (b"PROXY UNKNOWNx\r\n", "malformed PROXY line"),
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n", "malformed port"),
        (b"PROXY TCP4 192.0.2.1 ::1 1 2\r\n", "malformed address"),
        (b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n", "malformed address"),
        (b"PROXY TCP4 192.0.2.256 1.2.3.4 1 2\r\n", "malformed address"),
        (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "the PROXY line is too long"),
        (b"PROXY " + b"x" * 10_000, "the PROXY line is too long"),
        (v2(0x11, 0x11, V4), "unknown version, command or family"),
        (v2(0x22, 0x11, V4), "unknown version, command or family"),
        (v2(0x21, 0x41, V4), "unknown version, command or family"),
        (v2(0x21, 0x13, V4), "unknown version, command or family"),
        (v2(0x21, 0x11, b"", length=1025), "the PROXY header is too long"),
        (v2(0x21, 0x11, V4[:-1]), "too short for its addresses"),
        (v2(0x21, 0x21, V6[:-1]), "too short for its addresses"),
        (v2(0x21, 0x31, bytes(215)), "too short for its addresses"),
        (v2(0x21, 0x11, V4 + b"\x04"), "malformed record"),
        (v2(0x21, 0x11, V4 + b"\x04\x00\x02x"), "malformed record"),
        (v2(0x21, 0x11, V4 + record(0x20, b"\x01\x00\x00\x00")), "malformed record"),
    ],
)
def test_malformed_headers_are_refused(data: bytes, reason: str) -> None:
    parser = ProxyHeaderParser()
    with pytest.raises(RemoteProtocolError, match=reason):
        parser.feed(data)
    assert parser.trailing == b""
    with pytest.raises(LocalProtocolError, match="is already complete"):
        parser.feed(b"")


def test_input_after_a_complete_header_is_refused() -> None:
    parser = ProxyHeaderParser()
    parser.feed(b"PROXY UNKNOWN\r\nabc")
    with pytest.raises(LocalProtocolError, match="is already complete"):
        parser.feed(b"def")
    assert parser.trailing == b"abc"


def test_version_that_is_not_accepted() -> None:
    with pytest.raises(RemoteProtocolError, match="not a PROXY protocol header"):
        ProxyHeaderParser(versions=[2]).feed(b"PROXY UNKNOWN\r\n")
    with pytest.raises(RemoteProtocolError, match="not a PROXY protocol header"):
        ProxyHeaderParser(versions=[1]).feed(v2(0x20, 0, b""))


@pytest.mark.parametrize("versions", [[], [3], [1, 2, 3]])
def test_versions_are_checked(versions: list[int]) -> None:
    with pytest.raises(ValueError, match="versions must be 1 or 2"):
        ProxyHeaderParser(versions=versions)


@given(st.sampled_from(GOOD), st.lists(st.integers(1, 40)), st.binary(max_size=20))
def test_any_split_gives_the_same(
    good: tuple[bytes, ProxyHeader], cuts: list[int], after: bytes
) -> None:
    data, header = good
    data += after
    parser = ProxyHeaderParser()
    assert parser.feed(b"") is None
    result = None
    position = 0
    for cut in [*cuts, len(data)]:
        result = parser.feed(data[position : position + cut])
        position += cut
        if result is not None:
            break
    assert result == header
    assert parser.trailing + data[position:] == after


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21"]),
    st.binary(max_size=64),
)
def test_any_bytes_give_a_header_or_the_documented_error(start: bytes, rest: bytes) -> None:
    parser = ProxyHeaderParser()
    try:
        header = parser.feed(start + rest)
    except RemoteProtocolError:
        return
    assert header is None or header.version in (1, 2)
