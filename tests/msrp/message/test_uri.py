from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip.msrp.message.limits import MsrpLimits
from wsproto_sip.msrp.message.uri import MsrpUri, MsrpUriError, format_path, parse_path


def test_uri_and_its_parts() -> None:
    uri = MsrpUri.parse(b"msrps://al%20ice:pw@Relay.Example.ORG:2855/a/b+c=.;TCP;x=1;flag")
    assert (uri.scheme, uri.userinfo, uri.host, uri.port) == (
        "msrps",
        "al%20ice:pw",
        "Relay.Example.ORG",
        2855,
    )
    assert (uri.session_id, uri.transport, uri.parameters) == ("a/b+c=.", "tcp", ";x=1;flag")
    assert uri.secure
    assert uri.authority == ("relay.example.org", 2855)
    assert bytes(uri) == uri.raw
    assert str(uri) == "msrps://al%20ice:pw@Relay.Example.ORG:2855/a/b+c=.;TCP;x=1;flag"


def test_uri_without_optional_parts() -> None:
    uri = MsrpUri.parse(b"MSRP://a;ws")
    assert (uri.scheme, uri.userinfo, uri.host, uri.port, uri.session_id) == (
        "msrp",
        None,
        "a",
        None,
        None,
    )
    assert (uri.transport, uri.parameters, uri.secure) == ("ws", "", False)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"sip:a;tcp",
        b"msrp:a;tcp",
        b"msrp://a",
        b"msrp://a:1/s",
        b"msrp:///s;tcp",
        b"msrp://a:/s;tcp",
        b"msrp://a:0;tcp",
        b"msrp://a:65536;tcp",
        b"msrp://a:123456;tcp",
        b"msrp://a:\xd9\xa1;tcp",
        b"msrp://a/;tcp",
        b"msrp://a/s;",
        b"msrp://a/s;tcp;",
        b"msrp://a/s;tcp;=x",
        b"msrp://a/s;tcp;x=",
        b"msrp://a/s;t-p",
        b"msrp://u%2@a;tcp",
        b"msrp://u@v@a;tcp",
        b"msrp://[::1;tcp",
        b"msrp://[:::1]:1;tcp",
        b"msrp://[1.2.3.4]:1;tcp",
        b"msrp://-a;tcp",
        b"msrp://a b;tcp",
        b"msrp://a/s;tcp ",
        b" msrp://a/s;tcp",
        b"msrp://a/s;tcp\n",
        b"msrp://a/s;tcp\r\nX: y",
        b"msrp://a\x85/s;tcp",
        b"msrp://a/\xc3\xa9;tcp",
    ],
)
def test_malformed_uris_are_refused(data: bytes) -> None:
    with pytest.raises(MsrpUriError):
        MsrpUri.parse(data)


SAME = b"msrp://Host.example:2855/Session;tcp"


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (SAME, b"MSRP://hOST.EXAMPLE:2855/Session;TCP", True),
        (SAME, b"msrp://alice@Host.example:2855/Session;tcp", True),
        (SAME, b"msrp://Host.example:2855/Session;tcp;more=1", True),
        (SAME, b"msrps://Host.example:2855/Session;tcp", False),
        (SAME, b"msrp://Host.example.:2855/Session;tcp", False),
        (SAME, b"msrp://Host.example:2856/Session;tcp", False),
        (SAME, b"msrp://Host.example/Session;tcp", False),
        (SAME, b"msrp://Host.example:2855/session;tcp", False),
        (SAME, b"msrp://Host.example:2855;tcp", False),
        (SAME, b"msrp://Host.example:2855/Session;ws", False),
        (b"msrp://[::1]:1/s;tcp", b"msrp://[0:0::0001]:1/s;tcp", True),
        (b"msrp://[FE80::A]:1/s;tcp", b"msrp://[fe80::a]:1/s;tcp", True),
        (b"msrp://[::1]:1/s;tcp", b"msrp://[::2]:1/s;tcp", False),
        (b"msrp://10.0.0.1:1/s;tcp", b"msrp://10.0.0.1:01/s;tcp", True),
    ],
)
def test_comparison(left: bytes, right: bytes, equal: bool) -> None:
    one, other = MsrpUri.parse(left), MsrpUri.parse(right)
    assert (one == other) is equal
    assert (hash(one) == hash(other)) is equal
    assert len({one, other}) == (1 if equal else 2)


def test_uri_differs_from_other_types() -> None:
    assert MsrpUri.parse(SAME) != SAME


def test_build() -> None:
    uri = MsrpUri.build("[2001:db8::1]", 443, "s", secure=True, transport="ws", userinfo="bob")
    assert bytes(uri) == b"msrps://bob@[2001:db8::1]:443/s;ws"
    assert bytes(MsrpUri.build("a")) == b"msrp://a;tcp"


@pytest.mark.parametrize(
    ("host", "options"),
    [
        ("a:1", {}),
        ("a/x", {}),
        ("u@a", {}),
        ("a", {"port": 0}),
        ("a", {"port": 70000}),
        ("a", {"session_id": "s;ws"}),
        ("a", {"session_id": ""}),
        ("a", {"session_id": "s\r\n"}),
        ("a", {"userinfo": "u@v"}),
        ("a", {"userinfo": "u\udc80"}),
        ("é", {}),
    ],
)
def test_invalid_parts_are_refused(host: str, options: dict[str, object]) -> None:
    with pytest.raises(MsrpUriError):
        MsrpUri.build(host, **options)  # type: ignore[arg-type]


def test_paths() -> None:
    value = b"msrp://a:1/s;tcp msrp://b;ws"
    path = parse_path(value)
    assert path == (MsrpUri.build("a", 1, "s"), MsrpUri.build("b", transport="ws"))
    assert format_path(path) == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"msrp://a;tcp ",
        b" msrp://a;tcp",
        b"msrp://a;tcp  msrp://b;tcp",
        b"msrp://a;tcp\tmsrp://b;tcp",
        b"msrp://a;tcp\x0bmsrp://b;tcp",
        b"msrp://a;tcp\x1cmsrp://b;tcp",
        b"msrp://a;tcp,msrp://b;tcp",
    ],
)
def test_malformed_paths_are_refused(value: bytes) -> None:
    with pytest.raises(MsrpUriError):
        parse_path(value)


def test_path_sizes_are_limited() -> None:
    limits = MsrpLimits(max_path_uris=2, max_uri=12)
    assert len(parse_path(b"msrp://a;tcp msrp://b;tcp", limits=limits)) == 2
    with pytest.raises(MsrpUriError, match="more than 2 URIs in a path"):
        parse_path(b"msrp://a;tcp msrp://b;tcp msrp://c;tcp", limits=limits)
    with pytest.raises(MsrpUriError, match="a URI of 13 bytes is longer than 12"):
        parse_path(b"msrp://aa;tcp", limits=limits)


@given(st.binary(max_size=60) | st.from_regex(rb"\Amsrp://[ -~]{1,30};tcp\Z"))
@example(b"msrp://a;tcp")
def test_accepted_uri_keeps_its_bytes(data: bytes) -> None:
    try:
        uri = MsrpUri.parse(data)
    except MsrpUriError:
        return
    assert bytes(uri) == data
    assert data.isascii()
    assert not set(data) & set(b' \t\r\n"<>')


@given(
    host=st.from_regex(r"\A[a-z0-9][a-z0-9.-]{0,20}\Z"),
    port=st.none() | st.integers(1, 65535),
    session_id=st.none() | st.from_regex(r"\A[A-Za-z0-9._~+=/-]{1,20}\Z"),
    secure=st.booleans(),
    transport=st.sampled_from(["tcp", "ws", "x1"]),
    userinfo=st.none() | st.from_regex(r"\A[a-z0-9;:!]{0,10}\Z"),
)
def test_round_trip(
    host: str,
    port: int | None,
    session_id: str | None,
    secure: bool,
    transport: str,
    userinfo: str | None,
) -> None:
    uri = MsrpUri.build(
        host, port, session_id, secure=secure, transport=transport, userinfo=userinfo
    )
    again = MsrpUri.parse(bytes(uri))
    assert again == uri
    assert (again.host, again.port, again.session_id, again.secure) == (
        host,
        port,
        session_id,
        secure,
    )
    assert (again.transport, again.userinfo) == (transport, userinfo)
