from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, strategies as st

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
    """Answers as it is told, and remembers what it was asked."""

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


def test_names() -> None:
    assert WEBSOCKET_VERSION == b"13"
    for names in (RESERVED, TAKEN_FROM_ANSWER, TAKEN_FROM_REQUEST):
        assert all(name == name.lower() for name in names)
    assert RESERVED > TAKEN_FROM_ANSWER
    assert RESERVED > TAKEN_FROM_REQUEST


# -- lists -----------------------------------------------------------------------------------------


def test_a_list() -> None:
    fields = {b"a": b"x, y ,,z"}
    assert read_list(fields, b"a", LIMITS) == ["x", "y", "z"]
    assert read_list(fields, b"b", LIMITS) == []


@pytest.mark.parametrize("value", [b"", b" ", b",", b" ,\t,"])
def test_an_empty_list(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^a is empty$"):
        read_list({b"a": value}, b"a", LIMITS)


def test_the_number_of_items_is_bounded_empty_ones_included() -> None:
    limits = Limits(max_list_items=3)
    assert read_list({b"a": b"x,,y"}, b"a", limits) == ["x", "y"]
    for value in (b"x,y,z,", b",,,", b"w,x,y,z"):
        with pytest.raises(RemoteProtocolError, match=r"^more than 3 items in a$"):
            read_list({b"a": value}, b"a", limits)


@pytest.mark.parametrize("octet", [0x80, 0x85, 0xA0, 0xFF])
def test_a_list_outside_ascii(octet: int) -> None:
    with pytest.raises(RemoteProtocolError, match="outside ASCII"):
        read_list({b"a": b"x, " + bytes([octet])}, b"a", LIMITS)


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
def test_a_subprotocol_is_a_token(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^not a sub-protocol: "):
        offers(subprotocols=value)


def test_subprotocols_differ() -> None:
    # RFC 6455 §4.1. They are compared with regard to case.
    assert offers(b"sip, SIP")[1] == ["sip", "SIP"]
    with pytest.raises(RemoteProtocolError, match=r"^a sub-protocol is offered twice$"):
        offers(b"sip, msrp, sip")


@pytest.mark.parametrize("value", [b"a;", b"a; b=", b'a; b="c,d"', b"a, b c", b"=", b"a, ;b"])
def test_an_extension_follows_the_grammar(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^malformed extension: "):
        offers(extensions=value)


@pytest.mark.parametrize("value", [b"", b"\xff", b"," * 32])
def test_lists_that_are_no_lists(value: bytes) -> None:
    for arguments in ((value, None), (None, value)):
        with pytest.raises(RemoteProtocolError):
            offers(*arguments)


def test_what_the_peer_wrote_is_cut_in_the_error() -> None:
    for arguments in ((b"@" * 5000, None), (None, b"@" * 5000)):
        with pytest.raises(RemoteProtocolError) as raised:
            offers(*arguments)
        assert len(str(raised.value)) < 200
        assert raised.value.event_hint is None


def written(**arguments: Any) -> tuple[Headers, list[Extension]]:
    return write_offers(Request("example.com", "/", **arguments))


def test_writing_nothing_but_the_version() -> None:
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
def test_subprotocols_that_cannot_be_offered(name: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^not a sub-protocol: "):
        written(subprotocols=["sip", name])


def test_a_subprotocol_cannot_be_offered_twice() -> None:
    with pytest.raises(LocalProtocolError, match=r"^a sub-protocol is offered twice$"):
        written(subprotocols=["sip", "msrp", "sip"])


@pytest.mark.parametrize("offer", ["a\r\nb: c", "a, b", ";", "ä", 'a="', "a="])
def test_extensions_that_write_badly(offer: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^an extension wrote a malformed header: "):
        written(extensions=[Fake("x", offers=offer)])
    with pytest.raises(LocalProtocolError, match=r"^an extension wrote a malformed header: "):
        written(extensions=[Fake(f"x y {offer}", offers=True)])


def test_offers_that_were_received_cannot_be_sent_on() -> None:
    with pytest.raises(LocalProtocolError, match=r"^a client offers Extension objects"):
        written(extensions=["permessage-deflate"])


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_the_handshake_writes_its_own_fields(name: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="is the handshake's own to set"):
        written(extra_headers=[(name.title(), b"x")])
    with pytest.raises(LocalProtocolError, match="is the handshake's own to set"):
        write_answer(AcceptConnection(extra_headers=[(name.title(), b"x")]), [], [])


def test_other_reserved_fields() -> None:
    request = Request("a", "/", extra_headers=[(b"Upgrade", b"x")])
    assert write_offers(request, frozenset([b"x"]))[0][1:] == [(b"Upgrade", b"x")]
    accept = AcceptConnection(extra_headers=[(b"Upgrade", b"x")])
    assert write_answer(accept, [], [], frozenset([b"x"]))[0] == [(b"Upgrade", b"x")]


# -- what a server accepts -------------------------------------------------------------------------


def test_the_first_offer_that_is_accepted_counts() -> None:
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
    # Names are compared as they are, and the whole of them.
    assert server_extensions_handshake(["A", "aa", "", ";a", "\xa0a"], [Fake("a")]) is None


@pytest.mark.parametrize("answer", ["a\r\nb: c", "a, b", "ä", ";"])
def test_an_extension_that_answers_badly(answer: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^an extension wrote a malformed header: "):
        server_extensions_handshake(["a"], [Fake("a", answers=[answer])])


def test_the_subprotocol_is_one_that_was_offered() -> None:
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


def test_an_answer() -> None:
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
def test_a_subprotocol_that_was_not_offered(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^sub-protocol was not offered: "):
        answer({b"sec-websocket-protocol": value}, [], ("sip", "msrp"))


@pytest.mark.parametrize("value", [b"b", b"a, a", b"A", b"a; x, a; y", b"aa"])
def test_an_extension_that_was_not_offered_or_twice(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not offered, or twice"):
        answer({b"sec-websocket-extensions": value}, [Fake("a")])


@pytest.mark.parametrize("value", [b"", b"a;", b"a; b=", b"\xff", b"," * 40])
def test_an_answer_that_is_malformed(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        answer({b"sec-websocket-extensions": value}, [Fake("a")])


def test_parameters_that_the_extension_refuses() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^not what was offered$"):
        client_extensions_handshake(["a; x"], [Fake("a", broken=True)])


def test_what_the_server_wrote_is_cut_in_the_error() -> None:
    for name in (b"sec-websocket-protocol", b"sec-websocket-extensions"):
        with pytest.raises(RemoteProtocolError) as raised:
            answer({name: b"a" * 5000})
        assert len(str(raised.value)) < 200


def test_the_two_sides_of_permessage_deflate_agree() -> None:
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


@pytest.mark.parametrize("value", [None, b"", b"a, b", b"a b", b"\xff", b"a\x85", b"u@a"])
def test_hosts_that_are_none(value: bytes | None) -> None:
    with pytest.raises(RemoteProtocolError, match=r"^one Host with a host's name is needed, not "):
        read_host(value)


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a\r\nb: c", "exämple.com", "\u2488com", "a\x00", "ex\uff0eample", "u@a", "a/"],
)
def test_hosts_that_cannot_be_sent(host: str) -> None:
    with pytest.raises(LocalProtocolError, match=r"^not a host in ASCII: "):
        write_host(host)


def test_targets() -> None:
    assert write_target("/") == b"/"
    assert write_target("/chat?a=%C3%A4") == b"/chat?a=%C3%A4"


@pytest.mark.parametrize(
    "target",
    ["", "chat", "*", "http://a/", "/a#b", "/ä", "/a b", "/a HTTP/1.1\r\nb: c", "/\x00", "\u2044"],
)
def test_targets_that_cannot_be_sent(target: str) -> None:
    with pytest.raises(
        LocalProtocolError, match=r"^not a path in ASCII that starts with a slash: "
    ):
        write_target(target)


@given(st.text(max_size=8))
def test_whatever_is_written_is_what_was_meant(text: str) -> None:
    for write in (write_host, write_target):
        try:
            octets = write(text)
        except LocalProtocolError:
            continue
        assert octets.decode("ascii") == text
        assert not set(octets) & set(b"\r\n\x00 ")


# -- invariant 40: only space and tab are space, only the comma separates --------------------------

LOOKALIKES = ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x1f", "\x85", "\xa0"]


@pytest.mark.parametrize("octet", LOOKALIKES)
@pytest.mark.parametrize("place", ["sip{}", "{}sip", "sip{}msrp", "sip,{}msrp", "{}"])
def test_lookalikes_of_space(octet: str, place: str) -> None:
    value = place.format(octet).encode("latin-1")
    with pytest.raises(RemoteProtocolError):
        offers(subprotocols=value)
    with pytest.raises(RemoteProtocolError):
        offers(extensions=value)
    with pytest.raises(RemoteProtocolError):
        answer({b"sec-websocket-protocol": value}, [], ("sip", "msrp"))
    with pytest.raises(RemoteProtocolError):
        answer({b"sec-websocket-extensions": value}, [Fake("sip"), Fake("msrp")])
