from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip import negotiation as module
from wsproto_sip.events import AcceptConnection, Request
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.limits import Limits
from wsproto_sip.negotiation import (
    RESERVED,
    TAKEN_FROM_ANSWER,
    TAKEN_FROM_REQUEST,
    WEBSOCKET_VERSION,
    client_extensions_handshake,
    read_answer,
    read_host,
    read_list,
    read_offers,
    server_extensions_handshake,
    write_answer,
    write_host,
    write_offers,
    write_target,
)
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from wsproto_sip.typing import Headers

LIMITS = Limits()


class Fake(Extension):
    """Answers as told, and records its arguments."""

    def __init__(
        self,
        name: str,
        *,
        offers: bool | str = True,
        answers: list[bool | str | None] | None = None,
        broken: bool = False,
    ) -> None:
        self.name = name
        self.offers = offers
        self.answers = answers or []
        self.broken = broken
        self.asked: list[str] = []

    def offer(self) -> bool | str:
        return self.offers

    def accept(self, offer: str) -> bool | str | None:
        self.asked.append(offer)
        return self.answers.pop(0)

    def finalize(self, offer: str) -> None:
        self.asked.append(offer)
        if self.broken:
            raise RemoteProtocolError("not what was offered")


def test_results_are_cached_with_bounds() -> None:
    read, encode = module._read_items, module._encode
    name = b"sec-websocket-protocol"
    for number in range(300):
        value = b"flood%d" % number
        assert read_list({name: value}, name, LIMITS) == [value.decode()]
        server_extensions_handshake([f"f{number}"], [Fake(f"f{number}", answers=[True])])
    for cache in (read, encode):
        info = cache.cache_info()
        assert info.maxsize is not None
        assert info.currsize == info.maxsize <= 64
    # Longer values and other bytes-like ones never enter it.
    misses = read.cache_info().misses, encode.cache_info().misses
    for long in (257, 100_000):
        text = "a" * long
        assert read_list({name: text.encode()}, name, LIMITS) == [text]
        assert server_extensions_handshake([text], [Fake(text, answers=[True])]) == text.encode()
    other: Any = bytearray(b"sip, msrp")
    assert read_list({name: other}, name, LIMITS) == ["sip", "msrp"]
    assert (read.cache_info().misses, encode.cache_info().misses) == misses


def test_tokens_of_users_are_not_cached() -> None:
    """Scripts in browsers pass them as sub-protocols."""
    module._read_items.cache_clear()
    name = b"sec-websocket-protocol"
    for token in (b"Zm9ydHktdHdvIGlzIG5vdA", b"5e884898da28047151d0e56f8dc62927"):
        for subprotocols in (token, b"sip,%b" % token):
            read_offers({name: subprotocols}, LIMITS)
    assert module._read_items.cache_info().currsize == 0
    # Other names are not longer.
    for subprotocols in (b"sip", b"msrp", b"graphql-transport-ws"):
        read_offers({name: subprotocols}, LIMITS)
    assert module._read_items.cache_info().currsize == 3


def test_cached_results_belong_to_the_caller() -> None:
    fields = {b"sec-websocket-protocol": b"sip", b"sec-websocket-extensions": b"a; b=1"}
    for _ in range(2):
        extensions, subprotocols = read_offers(fields, LIMITS)
        assert (extensions, subprotocols) == (["a; b=1"], ["sip"])
        extensions.clear()
        subprotocols.append("x")


def test_cached_result_is_of_the_same_field_check_and_limit() -> None:
    value = b"a; b, c"
    fields = {b"sec-websocket-protocol": value, b"sec-websocket-extensions": value}
    for _ in range(2):
        assert read_list(fields, b"sec-websocket-protocol", LIMITS) == ["a; b", "c"]
        with pytest.raises(RemoteProtocolError, match=r"^not a sub-protocol: 'a; b'$"):
            read_offers(fields, LIMITS)
        del fields[b"sec-websocket-protocol"]
        assert read_offers(fields, LIMITS) == (["a; b", "c"], [])
        with pytest.raises(RemoteProtocolError, match=r"^more than 1 items in sec-websocket-ext"):
            read_offers(fields, Limits(max_list_items=1))
        fields[b"sec-websocket-protocol"] = value


def test_public_names() -> None:
    assert WEBSOCKET_VERSION == b"13"
    for names in (RESERVED, TAKEN_FROM_ANSWER, TAKEN_FROM_REQUEST):
        assert all(name == name.lower() for name in names)
    assert RESERVED > TAKEN_FROM_ANSWER
    assert RESERVED > TAKEN_FROM_REQUEST


# -- lists -----------------------------------------------------------------------------------------


def test_list() -> None:
    fields = {b"a": b"x, y ,,z"}
    assert read_list(fields, b"a", LIMITS) == ["x", "y", "z"]
    assert read_list(fields, b"b", LIMITS) == []


@pytest.mark.parametrize("value", [b"", b" ", b",", b" ,\t,"])
def test_empty_list(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^a is empty$"):
        read_list({b"a": value}, b"a", LIMITS)


def test_number_of_items_is_limited_including_empty_ones() -> None:
    limits = Limits(max_list_items=3)
    assert read_list({b"a": b"x,,y"}, b"a", limits) == ["x", "y"]
    for value in (b"x,y,z,", b",,,", b"w,x,y,z"):
        with pytest.raises(RemoteProtocolError, match=r"^more than 3 items in a$"):
            read_list({b"a": value}, b"a", limits)


@pytest.mark.parametrize("byte", [0x80, 0x85, 0xA0, 0xFF])
def test_list_outside_ascii(byte: int) -> None:
    with pytest.raises(RemoteProtocolError, match="outside ASCII"):
        read_list({b"a": b"x, " + bytes([byte])}, b"a", LIMITS)


# -- what a client offers --------------------------------------------------------------------------


def offers(
    subprotocols: bytes | None = None, extensions: bytes | None = None
) -> tuple[list[str], list[str]]:
    fields = {b"host": b"a"}
    if subprotocols is not None:
        fields[b"sec-websocket-protocol"] = subprotocols
    if extensions is not None:
        fields[b"sec-websocket-extensions"] = extensions
    return read_offers(fields, LIMITS)


def test_offers() -> None:
    assert offers() == ([], [])
    assert offers(b"sip, msrp", b'a; b=c , a,\td;e="f"') == (
        ["a; b=c", "a", 'd;e="f"'],
        ["sip", "msrp"],
    )


@pytest.mark.parametrize(
    "value", [b"a b", b"a;b", b'"a"', b"a/b", b"a\x0b", b"a\x1c, b", b"a=", b"a@b", b"{a}"]
)
def test_subprotocol_is_a_token(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^not a sub-protocol: "):
        offers(subprotocols=value)


def test_subprotocols_must_be_unique() -> None:
    # RFC 6455 §4.1. The comparison is case-sensitive.
    assert offers(b"sip, SIP")[1] == ["sip", "SIP"]
    with pytest.raises(RemoteProtocolError, match=r"^a sub-protocol is offered twice$"):
        offers(b"sip, msrp, sip")


@pytest.mark.parametrize("value", [b"a;", b"a; b=", b'a; b="c,d"', b"a, b c", b"=", b"a, ;b"])
def test_extension_follows_the_grammar(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^malformed extension: "):
        offers(extensions=value)


@pytest.mark.parametrize("value", [b"", b"\xff", b"," * 32])
def test_malformed_lists_are_refused(value: bytes) -> None:
    for arguments in ((value, None), (None, value)):
        with pytest.raises(RemoteProtocolError):
            offers(*arguments)


def test_peer_input_is_truncated_in_the_error() -> None:
    for arguments in ((b"@" * 5000, None), (None, b"@" * 5000)):
        with pytest.raises(RemoteProtocolError) as raised:
            offers(*arguments)
        assert len(str(raised.value)) < 200
        assert raised.value.event_hint is None


def written(**arguments: Any) -> tuple[Headers, list[Extension]]:
    return write_offers(Request("example.com", "/", **arguments))


def test_only_the_version_is_written_without_offers() -> None:
    assert written() == ([(b"Sec-WebSocket-Version", b"13")], [])


def test_writing_offers() -> None:
    first, second, third, fourth = (
        Fake("a"),
        Fake("b", offers="c; d=1"),
        Fake("e", offers=False),
        Fake("f", offers=""),
    )
    fields, offered = written(
        subprotocols=["sip", "msrp"],
        extensions=[first, second, third, fourth],
        extra_headers=[(b"Origin", b"http://a"), (b"Cookie", b"\xff")],
    )
    assert fields == [
        (b"Sec-WebSocket-Version", b"13"),
        (b"Sec-WebSocket-Protocol", b"sip, msrp"),
        (b"Sec-WebSocket-Extensions", b"a, b; c; d=1, f"),
        (b"Origin", b"http://a"),
        (b"Cookie", b"\xff"),
    ]
    assert offered == [first, second, fourth]


@pytest.mark.parametrize("name", ["", "a b", "a,b", "ä", "a\r\nb: c", "sip\x00", "\xb2", "\u212a"])
def test_invalid_subprotocols_cannot_be_offered(name: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^not a sub-protocol: "):
        written(subprotocols=["sip", name])


def test_subprotocol_cannot_be_offered_twice() -> None:
    with pytest.raises(LocalProtocolError, match=r"^a sub-protocol is offered twice$"):
        written(subprotocols=["sip", "msrp", "sip"])


@pytest.mark.parametrize("offer", ["a\r\nb: c", "a, b", ";", "ä", 'a="', "a="])
def test_malformed_offer_of_an_extension_is_refused(offer: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^an extension wrote a malformed header: "):
        written(extensions=[Fake("x", offers=offer)])
    with pytest.raises(LocalProtocolError, match=r"^an extension wrote a malformed header: "):
        written(extensions=[Fake(f"x y {offer}", offers=True)])


def test_received_offers_cannot_be_sent() -> None:
    with pytest.raises(LocalProtocolError, match=r"^a client offers Extension objects"):
        written(extensions=["permessage-deflate"])


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_fields_of_the_handshake_are_reserved(name: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="is set by the handshake"):
        written(extra_headers=[(name.title(), b"x")])
    with pytest.raises(LocalProtocolError, match="is set by the handshake"):
        write_answer(AcceptConnection(extra_headers=[(name.title(), b"x")]), [], [])


def test_other_reserved_fields() -> None:
    request = Request("a", "/", extra_headers=[(b"Upgrade", b"x")])
    assert write_offers(request, frozenset([b"x"]))[0][1:] == [(b"Upgrade", b"x")]
    accept = AcceptConnection(extra_headers=[(b"Upgrade", b"x")])
    assert write_answer(accept, [], [], frozenset([b"x"]))[0] == [(b"Upgrade", b"x")]


# -- what a server accepts -------------------------------------------------------------------------


def test_first_accepted_offer_counts() -> None:
    first = Fake("a", answers=[None, False, "x=1", "never asked"])
    second = Fake("b", answers=[True])
    third = Fake("c", answers=[""])
    fourth = Fake("d")
    fields, agreed = write_answer(
        AcceptConnection(extensions=[third, first, second, fourth]),
        ["a; x=3", "a;x=2", "unknown", "b", "a ; x=1", "a", "c;y"],
        [],
    )
    assert fields == [(b"Sec-WebSocket-Extensions", b"b, a; x=1, c")]
    assert agreed == [second, first, third]
    assert first.asked == ["a; x=3", "a;x=2", "a ; x=1"]
    assert second.asked == ["b"]
    assert third.asked == ["c;y"]
    assert fourth.asked == []


def test_two_configurations_of_one_extension() -> None:
    first, second = Fake("a", answers=[None, None]), Fake("a", answers=[None, True])
    assert server_extensions_handshake(["a; x", "a; y"], [first, second]) == b"a"
    assert first.asked == ["a; x", "a; y"]
    assert second.asked == ["a; x", "a; y"]


def test_nothing_accepted() -> None:
    assert server_extensions_handshake([], []) is None
    assert server_extensions_handshake(["a"], [Fake("b")]) is None
    assert server_extensions_handshake(["a"], [Fake("a", answers=[None])]) is None
    # Names are compared exactly and as a whole.
    assert server_extensions_handshake(["A", "aa", "", ";a", "\xa0a"], [Fake("a")]) is None


@pytest.mark.parametrize("answer", ["a\r\nb: c", "a, b", "ä", ";"])
def test_malformed_answer_of_an_extension_is_refused(answer: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^an extension wrote a malformed header: "):
        server_extensions_handshake(["a"], [Fake("a", answers=[answer])])


@pytest.mark.parametrize("offers", [[], ["a"], ["b"]])
def test_no_field_names_extensions_if_none_is_agreed(offers: list[str]) -> None:
    accept = AcceptConnection(extensions=[Fake("a", answers=[None])])
    assert write_answer(accept, offers, []) == ([], [])


def test_subprotocol_must_have_been_offered() -> None:
    accept = AcceptConnection(subprotocol="msrp", extra_headers=[(b"Date", b"x")])
    fields, agreed = write_answer(accept, [], ("sip", "msrp"))
    assert fields == [(b"Sec-WebSocket-Protocol", b"msrp"), (b"Date", b"x")]
    assert agreed == []
    for offered in ((), ("sip",), ("MSRP", "msrp2", "msr")):
        with pytest.raises(LocalProtocolError, match=r"^sub-protocol was not offered: 'msrp'$"):
            write_answer(accept, [], offered)


def test_nothing_is_negotiated_when_the_answer_is_refused() -> None:
    extension = Fake("a", answers=[True])
    for accept in (
        AcceptConnection(subprotocol="sip", extensions=[extension]),
        AcceptConnection(extensions=[extension], extra_headers=[(b"a", b"\r\n")]),
    ):
        with pytest.raises(LocalProtocolError):
            write_answer(accept, ["a"], [])
    assert extension.asked == []


# -- what the client makes of it -------------------------------------------------------------------


def answer(
    fields: dict[bytes, bytes],
    offered: list[Extension] | None = None,
    subprotocols: tuple[str, ...] = (),
) -> tuple[str | None, list[Extension]]:
    return read_answer(fields, offered or [], subprotocols, LIMITS)


def test_answer() -> None:
    first, second, third = Fake("a"), Fake("b"), Fake("c")
    fields = {b"sec-websocket-protocol": b"msrp", b"sec-websocket-extensions": b"b; x=1, a"}
    assert answer(fields, [first, second, third], ("sip", "msrp")) == ("msrp", [second, first])
    assert first.asked == ["a"]
    assert second.asked == ["b; x=1"]
    assert third.asked == []
    assert answer({}) == (None, [])


@pytest.mark.parametrize(
    "value",
    [b"", b"SIP", b"sip, msrp", b"sip,msrp", b"sip2", b"si", b"sip\x1c", b"\xff", b"sip\xa0"],
)
def test_subprotocol_that_was_not_offered(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^sub-protocol was not offered: "):
        answer({b"sec-websocket-protocol": value}, [], ("sip", "msrp"))


@pytest.mark.parametrize("value", [b"b", b"a, a", b"A", b"a; x, a; y", b"aa"])
def test_unoffered_or_repeated_extension_is_refused(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not offered, or"):
        answer({b"sec-websocket-extensions": value}, [Fake("a")])


@pytest.mark.parametrize("value", [b"", b"a;", b"a; b=", b"\xff", b"," * 40])
def test_answer_that_is_malformed(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        answer({b"sec-websocket-extensions": value}, [Fake("a")])


def test_parameters_that_the_extension_refuses() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^not what was offered$"):
        client_extensions_handshake(["a; x"], [Fake("a", broken=True)])


def test_server_input_is_truncated_in_the_error() -> None:
    for name in (b"sec-websocket-protocol", b"sec-websocket-extensions"):
        with pytest.raises(RemoteProtocolError) as raised:
            answer({name: b"a" * 5000})
        assert len(str(raised.value)) < 200


def test_two_sides_of_permessage_deflate_agree() -> None:
    client, server = PerMessageDeflate(), PerMessageDeflate()
    fields, _ = written(extensions=[client])
    extensions, _ = read_offers({name.lower(): value for name, value in fields}, LIMITS)
    response, agreed = write_answer(AcceptConnection(extensions=[server]), extensions, [])
    assert agreed == [server]
    assert server.enabled()
    assert not client.enabled()
    assert answer({name.lower(): value for name, value in response}, [client]) == (None, [client])
    assert client.enabled()


# -- hosts and targets -----------------------------------------------------------------------------


def test_hosts() -> None:
    assert read_host(b"example.com:80") == "example.com:80"
    assert write_host("example.com:80") == b"example.com:80"
    assert write_host("[::1]:80") == b"[::1]:80"


@pytest.mark.parametrize(
    ("host", "raw"),
    [
        ("芝士汉堡", b"xn--7ks3rz39bh7u"),
        ("Exämple.COM:8080", b"xn--exmple-cua.com:8080"),
        ("ex\uff0eämple:", b"ex.xn--mple-koa:"),
    ],
)
def test_hosts_outside_ascii_are_encoded(host: str, raw: bytes) -> None:
    assert write_host(host) == raw


@pytest.mark.parametrize("value", [None, b"", b"a, b", b"a b", b"\xff", b"a\x85", b"u@a"])
def test_invalid_hosts_are_refused(value: bytes | None) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^one valid Host field is required, not "):
        read_host(value)


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a\r\nb: c", "a\x00", "u@a", "a/", "ä:x", "ä:80\r\nb: c", "ä:80:80", "ä:\u0661"],
)
def test_invalid_hosts_cannot_be_sent(host: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^not a host: "):
        write_host(host)


@pytest.mark.parametrize(
    "host", ["ä b", "ä\r\nb: c", "\u2488com", "ä@a", "ä/", "[ä]", "\ud800", "ä" * 100, "\u2044"]
)
def test_names_that_cannot_be_encoded(host: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^host .* cannot be sent: ") as caught:
        write_host(host)
    assert len(str(caught.value)) < 400


def test_targets() -> None:
    assert write_target("/") == b"/"
    assert write_target("/chat?a=%C3%A4") == b"/chat?a=%C3%A4"


@pytest.mark.parametrize(
    "target",
    ["", "chat", "*", "http://a/", "/a#b", "/ä", "/a b", "/a HTTP/1.1\r\nb: c", "/\x00", "\u2044"],
)
def test_invalid_targets_cannot_be_sent(target: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^not an ASCII path that starts with a slash: "):
        write_target(target)


@given(st.text(max_size=8))
def test_written_fields_are_read_back(text: str) -> None:
    for write in (write_host, write_target):
        try:
            raw = write(text)
        except LocalProtocolError:
            continue
        assert raw.decode("ascii") == text or (write is write_host and not text.isascii())
        assert not set(raw) & set(b"\r\n\x00 ")


# -- invariant 40: only space and tab are space, only the comma separates --------------------------

LOOKALIKES = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0"]


@pytest.mark.parametrize("byte", LOOKALIKES)
@pytest.mark.parametrize("place", ["sip{}", "{}sip", "sip{}msrp", "sip,{}msrp", "{}"])
def test_lookalikes_of_space(byte: str, place: str) -> None:
    value = place.format(byte).encode("latin-1")
    with pytest.raises(RemoteProtocolError):
        offers(subprotocols=value)
    with pytest.raises(RemoteProtocolError):
        offers(extensions=value)
    with pytest.raises(RemoteProtocolError):
        answer({b"sec-websocket-protocol": value}, [], ("sip", "msrp"))
    with pytest.raises(RemoteProtocolError):
        answer({b"sec-websocket-extensions": value}, [Fake("sip"), Fake("msrp")])


def test_request_that_is_not_text_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="a host must be text: b'x'"):
        write_host(b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a target must be text: b'/'"):
        write_target(b"/")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"sub-protocols must be several names: \['sip'\]"):
        write_offers(Request("x", "/", subprotocols="sip"))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a sub-protocol must be text: b'sip'"):
        write_offers(Request("x", "/", subprotocols=[b"sip"]))  # type: ignore[list-item]
