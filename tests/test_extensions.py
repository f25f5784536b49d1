from __future__ import annotations

import random
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip import extensions as module
from wsproto_sip.extensions import (
    SUPPORTED_EXTENSIONS,
    Extension,
    InflateError,
    PerMessageDeflate,
    deflate_message,
)
from wsproto_sip.frame_protocol import CloseReason, Opcode, RsvBits
from wsproto_sip.limits import Limits
from wsproto_sip.utilities import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Sequence

NO_BITS = RsvBits(False, False, False)
RSV1 = RsvBits(True, False, False)
TEXT = b"REGISTER sip:example.com SIP/2.0\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n\r\n" * 3


class Role:
    def __init__(self, client: bool) -> None:
        self.client = client


SERVER, CLIENT = Role(False), Role(True)


def offered(text: str) -> str:
    return f"permessage-deflate; {text}" if text else "permessage-deflate"


def settled(extension: PerMessageDeflate) -> tuple[bool, int, bool, int]:
    return (
        extension.client_no_context_takeover,
        extension.client_max_window_bits,
        extension.server_no_context_takeover,
        extension.server_max_window_bits,
    )


def pair(**parameters: Any) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    """Return a client and a server after negotiation."""
    client, server = PerMessageDeflate(**parameters), PerMessageDeflate()
    answer = server.accept(offered(client.offer()))
    assert answer is not None
    client.finalize(offered(answer))
    return client, server


# -- the base --------------------------------------------------------------------------------------


def test_base_class_does_nothing() -> None:
    class Silent(Extension):
        name = "x-silent"

    extension = Silent()
    assert extension.enabled() is False
    assert extension.offer() is False
    assert extension.accept("x-silent") is None
    extension.finalize("x-silent")
    assert extension.frame_inbound_header(SERVER, Opcode.TEXT, RSV1, 3) == NO_BITS
    assert extension.frame_inbound_payload_data(SERVER, b"abc") == b"abc"
    assert extension.frame_inbound_complete(SERVER, True) is None
    assert extension.frame_outbound(SERVER, Opcode.TEXT, RSV1, b"abc", True) == (RSV1, b"abc")


def test_supported_extensions() -> None:
    assert dict(SUPPORTED_EXTENSIONS) == {"permessage-deflate": PerMessageDeflate}
    assert issubclass(PerMessageDeflate, Extension)


# -- the constructor -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"client_max_window_bits": 7}, "must be 8 to 15, not 7"),
        ({"client_max_window_bits": 16}, "must be 8 to 15, not 16"),
        ({"server_max_window_bits": 0}, "must be 8 to 15, not 0"),
        ({"server_max_window_bits": "12"}, "must be 8 to 15, not '12'"),
        ({"default_window_bits": 16}, "must be 8 to 15, not 16"),
        ({"mem_level": 0}, "mem_level must be 1 to 9, not 0"),
        ({"mem_level": 10}, "mem_level must be 1 to 9, not 10"),
        ({"level": -1}, "level must be 0 to 9, not -1"),
        ({"level": 10}, "level must be 0 to 9, not 10"),
        ({"min_size": -1}, "min_size must not be negative: -1"),
    ],
)
def test_bad_arguments_are_refused(parameters: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        PerMessageDeflate(**parameters)


def test_properties_before_the_negotiation() -> None:
    assert settled(PerMessageDeflate()) == (False, 15, False, 15)
    extension = PerMessageDeflate(True, 9, True, 10)
    assert settled(extension) == (True, 9, True, 10)
    extension.client_max_window_bits = 8
    extension.server_max_window_bits = 15
    assert settled(extension) == (True, 8, True, 15)
    assert not extension.enabled()
    assert extension.standalone_window_bits is None
    for bits in (7, 16):
        with pytest.raises(ValueError):
            extension.client_max_window_bits = bits
        with pytest.raises(ValueError):
            extension.server_max_window_bits = bits
    assert settled(extension) == (True, 8, True, 15)


def test_repr() -> None:
    assert (
        repr(PerMessageDeflate(client_max_window_bits=10))
        == "<PerMessageDeflate client_max_window_bits=10; server_max_window_bits=15>"
    )
    assert repr(PerMessageDeflate(True, None, True, None)) == (
        "<PerMessageDeflate client_max_window_bits=15; server_max_window_bits=15; "
        "client_no_context_takeover; server_no_context_takeover>"
    )


# -- negotiation -----------------------------------------------------------------------------------

CN, SN = "client_no_context_takeover", "server_no_context_takeover"
CB, SB = "client_max_window_bits", "server_max_window_bits"


@pytest.mark.parametrize(
    ("parameters", "offer"),
    [
        # As browsers do.
        ({}, CB),
        ({"default_window_bits": 15}, CB),
        ({CB: 15}, f"{CB}=15"),
        ({CB: 8}, f"{CB}=8"),
        ({CB: 15, SB: 15}, f"{CB}=15; {SB}=15"),
        ({CB: 10, SB: 11}, f"{CB}=10; {SB}=11"),
        ({CN: True, SN: True}, f"{CB}; {CN}; {SN}"),
    ],
)
def test_offers(parameters: dict[str, Any], offer: str) -> None:
    assert PerMessageDeflate(**parameters).offer() == offer


#: The server's settings, the offer, its answer, and the resulting parameters.
ACCEPTED: list[tuple[dict[str, Any], str, str, tuple[bool, int, bool, int]]] = [
    # Windows by default.
    ({}, "", f"{SB}=12", (False, 15, False, 12)),
    ({}, CB, f"{CB}=12; {SB}=12", (False, 12, False, 12)),
    ({}, f"{CB}=15", f"{CB}=12; {SB}=12", (False, 12, False, 12)),
    ({}, f"{CB}=10", f"{CB}=10; {SB}=12", (False, 10, False, 12)),
    ({}, f"{CB}=8; {SB}=8", f"{CB}=8; {SB}=8", (False, 8, False, 8)),
    ({}, f"{SB}=15", f"{SB}=12", (False, 15, False, 12)),
    ({}, f"{SB}=9", f"{SB}=9", (False, 15, False, 9)),
    ({"default_window_bits": 9}, CB, f"{CB}=9; {SB}=9", (False, 9, False, 9)),
    ({"default_window_bits": 15}, "", "", (False, 15, False, 15)),
    ({"default_window_bits": 15}, CB, f"{CB}=15", (False, 15, False, 15)),
    ({"default_window_bits": 15}, f"{SB}=15", f"{SB}=15", (False, 15, False, 15)),
    # Windows requested by the settings.
    ({CB: 15, SB: 15}, "", "", (False, 15, False, 15)),
    ({CB: 15, SB: 15}, f"{CB}=13; {SB}=14", f"{CB}=13; {SB}=14", (False, 13, False, 14)),
    ({CB: 10, SB: 11}, "", f"{SB}=11", (False, 15, False, 11)),
    ({CB: 10, SB: 11}, f"{CB}; {SB}=15", f"{CB}=10; {SB}=11", (False, 10, False, 11)),
    ({CB: 10, SB: 11}, f"{SB}=10; {CB}=9", f"{CB}=9; {SB}=10", (False, 9, False, 10)),
    # Context takeover.
    ({}, CN, f"{CN}; {SB}=12", (True, 15, False, 12)),
    ({}, SN, f"{SN}; {SB}=12", (False, 15, True, 12)),
    ({CN: True, SN: True}, "", f"{CN}; {SN}; {SB}=12", (True, 15, True, 12)),
    ({CN: True, SN: True}, f"{SN}; {CN}", f"{CN}; {SN}; {SB}=12", (True, 15, True, 12)),
    # RFC 6455 §9.1: space around separators, values as quoted strings.
    ({}, f" \t{CN} \t; \t {CB} \t= \t10 \t", f"{CN}; {CB}=10; {SB}=12", (True, 10, False, 12)),
    ({}, f'{CB}="10"', f"{CB}=10; {SB}=12", (False, 10, False, 12)),
    ({}, f'{SB}="1\\1"', f"{SB}=11", (False, 15, False, 11)),
]


@pytest.mark.parametrize(("parameters", "offer", "answer", "result"), ACCEPTED)
def test_accepted(
    parameters: dict[str, Any], offer: str, answer: str, result: tuple[bool, int, bool, int]
) -> None:
    server = PerMessageDeflate(**parameters)
    assert server.accept(offered(offer)) == answer
    assert server.enabled()
    assert settled(server) == result


#: Parameters that neither an offer nor a response may have.
MALFORMED = [
    f"{CB}=abc",
    f"{CB}=",
    f"{SB}=",
    SB,
    f"{CB}=7",
    f"{CB}=16",
    f"{SB}=7",
    f"{SB}=16",
    f"{SB}=0",
    f"{CB}=-9",
    f"{CB}=+9",
    f"{CB}=09",
    f"{CB}=010",
    f"{CB}=1_0",
    f"{CB}=10.0",
    f"{CB}=0x0f",
    f"{CB}=\uff11\uff12",
    f"{CB}=\u0661\u0662",
    f"{CB}=1 0",
    f"{CB}==10",
    f"{CB}=10=10",
    f'{CB}="10',
    f'{CB}=10"',
    f'{CB}=""',
    f'{CB}="10""',
    f'{CB}="10\\"',
    f'{CB}=" 10"',
    f"{CB}='10'",
    f"{CB}=10\x0b",
    f"{CB}=\xa010",
    f"{CB}\x0c=10",
    f"\x85{CB}=10",
    f"{CB}=10\n",
    f"{CN}=",
    f"{CN}=1",
    f"{SN}=true",
    f'{SN}=""',
    f"{CN}; {CN}",
    f"{SN}; {SN}",
    f"{CB}=10; {CB}=10",
    f"{SB}=10; {SB}=11",
    "unknown",
    f"{CB}=10; unknown=1",
    "Client_No_Context_Takeover",
    f"{CN}s",
    ";",
    f"{CN};",
    f"; {CN}",
    "=",
    "=10",
    f"{CN}, permessage-deflate",
    ";" * 10_000,
    f"{CB}" + "=" * 10_000,
    " " * 10_000 + "x",
    f'{CB}="' + "\\" * 10_001,
    f'{CB}="' + "\\1" * 10_000 + '"',
    f"{CN}; " * 10_000,
]


@pytest.mark.parametrize("text", MALFORMED)
def test_malformed_parameters(text: str) -> None:
    server = PerMessageDeflate(True, 11, False, 10)
    assert server.accept("permessage-deflate;" + text) is None
    assert not server.enabled()
    assert settled(server) == (True, 11, False, 10)
    # Another offer may follow, and the first leaves no trace (RFC 7692 §5).
    assert server.accept("permessage-deflate") == f"{CN}; {SB}=10"

    client = PerMessageDeflate()
    with pytest.raises(RemoteProtocolError, match=r"^bad answer to permessage-deflate: ") as caught:
        client.finalize("permessage-deflate;" + text)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isascii()
    assert not client.enabled()
    assert settled(client) == (False, 15, False, 15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "permessage-deflat",
        "permessage-deflates",
        "Permessage-Deflate",
        "x; client",
        "\x85",
    ],
)
def test_other_extensions(text: str) -> None:
    assert PerMessageDeflate().accept(text) is None
    with pytest.raises(RemoteProtocolError, match="is not permessage-deflate"):
        PerMessageDeflate().finalize(text)


#: The client's settings, the answer, and the resulting parameters or the error.
ANSWERS: list[tuple[dict[str, Any], str, tuple[bool, int, bool, int] | str]] = [
    ({}, "", (False, 15, False, 15)),
    ({}, f"{CB}=12", (False, 12, False, 15)),
    ({}, f"{CB}=15", (False, 15, False, 15)),
    ({}, f"{CB}=9; {SB}=10", (False, 9, False, 10)),
    ({}, f"{CB}=8; {SB}=8", (False, 8, False, 8)),
    ({}, f"{CN}; {SN}", (True, 15, True, 15)),
    ({}, f'{SB}="15"', (False, 15, False, 15)),
    ({}, CB, f"{CB} has no value"),
    ({CB: 15}, "", (False, 15, False, 15)),
    ({CB: 15}, f"{CB}=15", (False, 15, False, 15)),
    # The promise in the offer is kept, whatever a server answers (RFC 7692 §7.1.2.2).
    ({CB: 10}, "", (False, 10, False, 15)),
    ({CB: 10}, f"{CB}=10", (False, 10, False, 15)),
    ({CB: 10}, f"{CB}=15", (False, 10, False, 15)),
    ({CB: 10}, f"{CB}=9", (False, 9, False, 15)),
    ({SB: 10}, f"{SB}=10", (False, 15, False, 10)),
    ({SB: 10}, f"{SB}=9", (False, 15, False, 9)),
    ({SB: 10}, f"{SB}=11", f"{SB} is 11 where 10 was offered"),
    ({SB: 10}, "", f"{SB} is 15 where 10 was offered"),
    ({SB: 15}, "", (False, 15, False, 15)),
    ({SN: True}, SN, (False, 15, True, 15)),
    ({SN: True}, "", f"{SN} is missing"),
    ({CN: True}, "", (True, 15, False, 15)),
    ({CN: True}, CN, (True, 15, False, 15)),
]


@pytest.mark.parametrize(("parameters", "answer", "result"), ANSWERS)
def test_answers(
    parameters: dict[str, Any], answer: str, result: tuple[bool, int, bool, int] | str
) -> None:
    client = PerMessageDeflate(**parameters)
    client.offer()
    before = settled(client)
    if isinstance(result, str):
        with pytest.raises(RemoteProtocolError) as caught:
            client.finalize(offered(answer))
        assert str(caught.value) == f"bad answer to permessage-deflate: {result}"
        assert not client.enabled()
        assert settled(client) == before
    else:
        client.finalize(offered(answer))
        assert client.enabled()
        assert settled(client) == result


#: The settings of an object without an offer, the parameters negotiated by others, and the result.
OVERHEARD: list[tuple[dict[str, Any], str, tuple[bool, int, bool, int]]] = [
    ({}, "", (False, 15, False, 15)),
    ({}, f"{CN}; {SN}; {CB}=9; {SB}=10", (True, 9, True, 10)),
    # Without a promise, a peer may use everything that RFC 7692 allows.
    ({CB: 10, SB: 10}, "", (False, 15, False, 15)),
    ({CB: 10, SB: 10}, f"{CB}=11; {SB}=12", (False, 11, False, 12)),
    ({SN: True}, "", (False, 15, True, 15)),
]


@pytest.mark.parametrize(("parameters", "answer", "result"), OVERHEARD)
def test_finalize_applies_the_negotiation_of_others(
    parameters: dict[str, Any], answer: str, result: tuple[bool, int, bool, int]
) -> None:
    extension = PerMessageDeflate(**parameters)
    extension.finalize(offered(answer))
    assert settled(extension) == result


def window_of(extension: PerMessageDeflate) -> int:
    """Return how far back its compressed output refers, as a power of two."""
    noise = random.Random(3).randbytes(1 << 15)
    for bits in range(15, 7, -1):
        distance = (1 << bits) - 300
        extension.compress(noise[:distance], True)
        if len(extension.compress(noise[:200], True)) < 100:
            return bits
    return 0


@pytest.mark.parametrize(
    ("parameters", "answer", "window"),
    [
        # Our own compression may stay below the negotiated window.
        ({}, "", 12),
        ({}, f"{CB}=15", 12),
        ({}, f"{CB}=10", 10),
        ({"default_window_bits": 14}, "", 14),
        ({CB: 15}, "", 15),
        ({CB: 11}, f"{CB}=15", 11),
        ({CB: 15}, f"{CB}=9", 9),
    ],
)
def test_window_of_a_client(parameters: dict[str, Any], answer: str, window: int) -> None:
    client = PerMessageDeflate(**parameters)
    client.offer()
    client.finalize(offered(answer))
    assert window_of(client) == window


def test_cached_answers_differ_by_what_each_server_wants() -> None:
    offer = offered("client_max_window_bits")
    # An equal number of another type is an answer of its own, which cannot be used.
    module._answer.cache_clear()
    odd: Any = 12.0
    with pytest.raises(TypeError):
        PerMessageDeflate(default_window_bits=odd).accept(offer)
    for _ in range(2):
        for bits in (9, 12):
            extension = PerMessageDeflate(default_window_bits=bits)
            assert extension.accept(offer) == (
                f"client_max_window_bits={bits}; server_max_window_bits={bits}"
            )
            assert settled(extension) == (False, bits, False, bits)
        strict = PerMessageDeflate(True, 10, True, 11)
        assert strict.accept(offer) == (
            "client_no_context_takeover; server_no_context_takeover; "
            "client_max_window_bits=10; server_max_window_bits=11"
        )
        assert settled(strict) == (True, 10, True, 11)


def test_cache_of_answers_is_bounded() -> None:
    for number in range(300):
        PerMessageDeflate().accept(offered(f"unknown{number}"))
    info = module._answer.cache_info()
    assert info.maxsize is not None
    assert info.currsize == info.maxsize <= 64
    # A longer offer is answered without it.
    long = offered(" " * 300 + "client_max_window_bits=9")
    answer = PerMessageDeflate().accept(long)
    assert answer == "client_max_window_bits=9; server_max_window_bits=12"
    assert module._answer.cache_info().misses == info.misses


def test_one_object_serves_one_connection() -> None:
    client, server = pair()
    assert server.accept("permessage-deflate") is None
    assert settled(server) == settled(client) == (False, 12, False, 12)
    for subject in (client, server):
        with pytest.raises(LocalProtocolError, match="make a new one"):
            subject.offer()
        with pytest.raises(RemoteProtocolError, match="twice"):
            subject.finalize("permessage-deflate")
    assert settled(server) == settled(client) == (False, 12, False, 12)


WINDOWS = st.none() | st.integers(8, 15)
SETTINGS = st.fixed_dictionaries(
    {CN: st.booleans(), CB: WINDOWS, SN: st.booleans(), SB: WINDOWS},
    optional={"default_window_bits": st.integers(8, 15)},
)


@given(SETTINGS, SETTINGS, st.booleans(), st.lists(st.binary(max_size=300), max_size=4))
def test_both_sides_compute_the_same(
    ours: dict[str, Any], theirs: dict[str, Any], swapped: bool, messages: list[bytes]
) -> None:
    client, server = PerMessageDeflate(**ours), PerMessageDeflate(**theirs)
    answer = server.accept(offered(client.offer()))
    assert answer is not None
    client.finalize(offered(answer))
    assert settled(client) == settled(server)
    if swapped:
        # The end that uses it decides, not the negotiation.
        client, server = server, client
        client.set_role(True)
        server.set_role(False)
    for flag in (CN, SN):
        assert getattr(client, flag) == (ours[flag] or theirs[flag])
    for parameters in (ours, theirs):
        assert client.client_max_window_bits <= (parameters[CB] or 15)
        assert client.server_max_window_bits <= (parameters[SB] or 15)
    for sender, receiver in ((client, server), (server, client)):
        for message in messages:
            payload = sender.compress(message, True)
            assert receiver.decompress(payload, True, len(message)) == message
    for extension, side in ((client, "client"), (server, "server")):
        bits = getattr(extension, f"{side}_max_window_bits")
        wish = theirs if (extension is client) == swapped else ours
        own = wish[f"{side}_max_window_bits"] or extension.default_window_bits
        resets = getattr(extension, f"{side}_no_context_takeover")
        assert extension.standalone_window_bits == (min(bits, own) if resets else None)


def understood(text: str, response: bool) -> bool:
    """Return whether RFC 7692 §7.1 allows the parameters.

    Decided in another way than by the parser: remove the allowed ones, one by one.
    """
    left = text.replace("\t", " ").split(";")
    if left.pop(0).strip(" ") != "permessage-deflate":
        return False
    numbers = {f"{quote}{bits}{quote}" for bits in range(8, 16) for quote in ("", '"')}
    allowed: dict[str, set[str | None]] = {
        CN: {None},
        SN: {None},
        CB: {None, *numbers},
        SB: {*numbers},
    }
    if response:
        allowed[CB] = {*numbers}
    for item in left:
        name, *values = (part.strip(" ") for part in item.split("="))
        value = values[0] if values else None
        if len(values) > 1 or value not in allowed.pop(name, set()):
            return False
    return True


@given(
    st.lists(
        st.sampled_from(
            [CN, SN, CB, SB, "=", ";", " ", "\t", '"', "8", "9", "10", "15", "16", "0", "x", "\x0b"]
        ),
        max_size=12,
    ).map("".join)
    | st.lists(
        st.sampled_from([CN, SN, CB, f"{CB}=10", f"{SB}=9", f"{SB}=x", f' {CB} = "15"', "y"]),
        max_size=4,
    ).map(";".join)
    | st.text(max_size=30)
)
@example(CN)
@example(f"{CB};{SB}=9")
def test_negotiation_gives_a_result_or_the_documented_error(text: str) -> None:
    """Any text is accepted or declined, by the grammar alone."""
    text = "permessage-deflate;" + text
    server = PerMessageDeflate()
    answer = server.accept(text)
    assert (answer is not None) == understood(text, response=False)
    assert server.enabled() == (answer is not None)
    if answer is not None:
        assert understood(offered(answer), response=True)

    client = PerMessageDeflate(client_max_window_bits=15)
    try:
        client.finalize(text)
    except RemoteProtocolError:
        assert not understood(text, response=True)
        assert settled(client) == (False, 15, False, 15)
    else:
        assert understood(text, response=True)


# -- messages --------------------------------------------------------------------------------------


def test_outbound_marks_the_first_frame() -> None:
    client, server = pair()
    payloads = []
    for index, piece in enumerate((b"ab", b"", b"c" * 50)):
        bit, payload = client.outbound(piece, first=index == 0, fin=index == 2)
        assert bit == (0x40 if index == 0 else 0)
        payloads.append(payload)
    assert server.decompress(b"".join(payloads), True, 52) == b"ab" + b"c" * 50
    bit, payload = server.outbound(b"", first=True, fin=True)
    assert (bit, payload) == (0x40, b"\x00")


def test_small_messages_are_sent_uncompressed() -> None:
    client = PerMessageDeflate(min_size=10)
    client.finalize("permessage-deflate")
    assert client.outbound(b"123456789", first=True, fin=True) == (0, b"123456789")
    assert client.outbound(b"", first=True, fin=True) == (0, b"")
    bit, payload = client.outbound(b"1234567890", first=True, fin=True)
    assert bit == 0x40
    assert payload != b"1234567890"
    # In pieces the size is unknown at the first one.
    assert client.outbound(b"1", first=True, fin=False)[0] == 0x40
    bit, payload = client.outbound(b"2", first=False, fin=True)
    assert bit == 0
    assert payload != b"2"


def test_level_and_mem_level_have_an_effect() -> None:
    data = TEXT * 100
    sizes = []
    for level in (0, 1, 9):
        extension = PerMessageDeflate(level=level)
        extension.accept("permessage-deflate")
        sizes.append(len(extension.compress(data, True)))
    assert sizes[0] > len(data) > sizes[1] > sizes[2]
    dense = random.Random(1).randbytes(100_000)
    small, large = PerMessageDeflate(mem_level=1), PerMessageDeflate(mem_level=9)
    assert len(small.compress(dense, True)) > len(large.compress(dense, True))


def test_messages_for_many_connections() -> None:
    payload = deflate_message(TEXT, 12)
    for window in (12, 15):
        client, server = (
            PerMessageDeflate(server_no_context_takeover=True),
            PerMessageDeflate(server_max_window_bits=window),
        )
        client.finalize(offered(server.accept(offered(client.offer())) or ""))
        assert server.standalone_window_bits == window
        assert client.standalone_window_bits is None
        for _ in range(2):
            assert client.decompress(server.compress(b"its own", True), True, None) == b"its own"
            assert client.decompress(payload, True, None) == TEXT


def test_limits_reach_the_inflater() -> None:
    client, server = pair()
    payload = client.compress(bytes(1000), True)
    server.set_limits(Limits(max_inflate_ratio=2, inflate_ratio_floor=999))
    assert (server.max_ratio, server.ratio_floor) == (2, 999)
    with pytest.raises(InflateError) as caught:
        server.decompress(payload, True, None)
    assert caught.value.code is CloseReason.MESSAGE_TOO_BIG


# -- the hooks -------------------------------------------------------------------------------------


def receive(
    extension: PerMessageDeflate, role: Role, frames: Sequence[tuple[Opcode, RsvBits, bytes, bool]]
) -> list[bytes | CloseReason]:
    """Run frames through the hooks, with payloads in two pieces, up to the first refusal."""
    results: list[bytes | CloseReason] = []
    for opcode, rsv, data, fin in frames:
        header = extension.frame_inbound_header(role, opcode, rsv, len(data))
        if isinstance(header, CloseReason):
            return [*results, header]
        assert not any(bit and not used for bit, used in zip(rsv, header, strict=True))
        output = b""
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            part = extension.frame_inbound_payload_data(role, piece)
            if isinstance(part, CloseReason):
                return [*results, part]
            output += part
        rest = extension.frame_inbound_complete(role, fin)
        if isinstance(rest, CloseReason):
            return [*results, rest]
        results.append(output + (rest or b""))
    return results


@pytest.mark.parametrize("client_sends", [True, False])
def test_hooks_carry_messages_in_both_directions(client_sends: bool) -> None:
    client, server = pair()
    sender, receiver = (client, server) if client_sends else (server, client)
    here, there = (CLIENT, SERVER) if client_sends else (SERVER, CLIENT)
    frames = []
    for opcode, data, fin in (
        (Opcode.TEXT, TEXT, True),
        (Opcode.BINARY, TEXT[:99], False),
        (Opcode.PING, b"ping", True),
        (Opcode.CONTINUATION, TEXT[99:], True),
        (Opcode.CLOSE, b"", True),
    ):
        rsv, payload = sender.frame_outbound(here, opcode, NO_BITS, data, fin)
        assert rsv == (RSV1 if opcode in (Opcode.TEXT, Opcode.BINARY) else NO_BITS)
        frames.append((opcode, rsv, payload, fin))
    assert frames[2][2] == b"ping"
    results = receive(receiver, there, frames)
    assert results[0] == TEXT
    assert results[1] + results[3] == TEXT  # type: ignore[operator]
    assert (results[2], results[4]) == (b"ping", b"")


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_hooks_take_the_direction_from_the_connection(client: bool) -> None:
    """One answer, finalized on both sides of a proxy; each has its own peer."""
    answer = offered(f"{CN}; {SB}=9")
    peer, side = PerMessageDeflate(), PerMessageDeflate()
    here, there = (CLIENT, SERVER) if client else (SERVER, CLIENT)
    for extension, role in ((peer, there), (side, here)):
        extension.finalize(answer)
        extension.set_role(not role.client)
    noise = random.Random(5).randbytes(700)
    for message in (TEXT, noise, TEXT, noise):
        rsv, payload = peer.frame_outbound(there, Opcode.TEXT, NO_BITS, message, True)
        assert receive(side, here, [(Opcode.TEXT, rsv, payload, True)]) == [message]
        rsv, payload = side.frame_outbound(here, Opcode.TEXT, NO_BITS, message, True)
        assert receive(peer, there, [(Opcode.TEXT, rsv, payload, True)]) == [message]
    assert side.standalone_window_bits == (12 if client else None)


def test_hooks_keep_bits_of_other_extensions() -> None:
    client, _ = pair()
    rsv, _ = client.frame_outbound(CLIENT, Opcode.TEXT, RsvBits(False, True, True), TEXT, True)
    assert rsv == RsvBits(True, True, True)


def test_hooks_pass_uncompressed_messages() -> None:
    _, server = pair()
    frames = [
        (Opcode.TEXT, NO_BITS, b"plain", False),
        (Opcode.PONG, NO_BITS, b"pong", True),
        (Opcode.CONTINUATION, NO_BITS, b" text", True),
        (Opcode.BINARY, RSV1, deflate_message(TEXT, 12), True),
        (Opcode.TEXT, NO_BITS, b"plain", True),
    ]
    assert receive(server, SERVER, frames) == [b"plain", b"pong", b" text", TEXT, b"plain"]


@pytest.mark.parametrize("opcode", [Opcode.CONTINUATION, Opcode.CLOSE, Opcode.PING, Opcode.PONG])
@pytest.mark.parametrize("begun", [RSV1, NO_BITS, None])
def test_hooks_refuse_rsv1_elsewhere(opcode: Opcode, begun: RsvBits | None) -> None:
    _, server = pair()
    if begun is not None:
        assert receive(server, SERVER, [(Opcode.TEXT, begun, b"\x00", False)])
    result = server.frame_inbound_header(SERVER, opcode, RSV1, 0)
    assert result is CloseReason.PROTOCOL_ERROR


def test_hooks_allow_no_other_bits() -> None:
    _, server = pair()
    rsv = RsvBits(True, True, True)
    assert server.frame_inbound_header(SERVER, Opcode.TEXT, rsv, 0) == RSV1
    # RSV1 would have been refused here, so allowing it has no effect; wsproto does.
    assert server.frame_inbound_header(SERVER, Opcode.PING, NO_BITS, 0) == RSV1


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x06", CloseReason.INVALID_FRAME_PAYLOAD_DATA),
        (b"\x00\x09\x00\xf6\xff", CloseReason.INVALID_FRAME_PAYLOAD_DATA),
        (deflate_message(bytes(1001), 12), CloseReason.MESSAGE_TOO_BIG),
    ],
)
def test_hooks_refuse_invalid_compressed_data(payload: bytes, code: CloseReason) -> None:
    _, server = pair()
    server.set_limits(Limits(max_message_size=1000))
    frame = (Opcode.BINARY, RSV1, payload, True)
    assert receive(server, SERVER, [frame]) == [code]
    assert receive(server, SERVER, [frame]) == [code]


def test_hooks_limit_the_whole_message() -> None:
    for size in (1000, 1001):
        client, server = pair()
        server.set_limits(Limits(max_message_size=1000))
        frames = []
        pieces = [bytes(600), bytes(size - 600)]
        for opcode, piece, fin in (
            (Opcode.TEXT, pieces[0], False),
            (Opcode.CONTINUATION, pieces[1], True),
        ):
            rsv, payload = client.frame_outbound(CLIENT, opcode, NO_BITS, piece, fin)
            frames.append((opcode, rsv, payload, fin))
        results = receive(server, SERVER, frames)
        if size == 1000:
            assert b"".join(r for r in results if isinstance(r, bytes)) == bytes(1000)
        else:
            assert results[-1] is CloseReason.MESSAGE_TOO_BIG
    client, server = pair()
    server.set_limits(Limits(max_message_size=None))
    rsv, payload = client.frame_outbound(CLIENT, Opcode.TEXT, NO_BITS, bytes(9_000), True)
    assert receive(server, SERVER, [(Opcode.TEXT, rsv, payload, True)]) == [bytes(9_000)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(Opcode),
            st.tuples(*[st.booleans()] * 3),
            st.binary(max_size=30),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_hooks_never_raise(
    frames: list[tuple[Opcode, tuple[bool, bool, bool], bytes, bool]],
) -> None:
    _, server = pair()
    for opcode, bits, data, fin in frames:
        header = server.frame_inbound_header(SERVER, opcode, RsvBits(*bits), len(data))
        assert isinstance(header, RsvBits) == (not bits[0] or opcode in (1, 2))
        piece = server.frame_inbound_payload_data(SERVER, data)
        assert isinstance(piece, bytes | CloseReason)
        end = server.frame_inbound_complete(SERVER, fin)
        assert end is None or isinstance(end, bytes | CloseReason)


# -- other libraries -------------------------------------------------------------------------------

#: Settings of either side for the combinations below.
CROSSINGS: list[dict[str, Any]] = [
    {},
    {CN: True, SN: True},
    {CB: 9, SB: 10},
    {CB: 15, SB: 15, CN: True},
    {SB: 9, SN: True},
]
MESSAGES = [TEXT, TEXT[::-1], b"", b"", TEXT, random.Random(2).randbytes(3000), TEXT * 20]


def websockets_modules() -> tuple[Any, Any, Any]:
    reason = "needs the websockets library"
    deflate = pytest.importorskip("websockets.extensions.permessage_deflate", reason=reason)
    frames = pytest.importorskip("websockets.frames", reason=reason)
    headers = pytest.importorskip("websockets.headers", reason=reason)
    return deflate, frames, headers


def exchange_with_websockets(ours: PerMessageDeflate, theirs: Any, frames: Any) -> None:
    for message in MESSAGES:
        frame = theirs.encode(frames.Frame(frames.Opcode.BINARY, message))
        assert frame.rsv1
        assert ours.decompress(bytes(frame.data), True, len(message)) == message
        bit, payload = ours.outbound(message, first=True, fin=True)
        frame = frames.Frame(frames.Opcode.BINARY, payload, rsv1=bool(bit))
        assert theirs.decode(frame, max_size=len(message)).data == message


@pytest.mark.parametrize("theirs", CROSSINGS)
@pytest.mark.parametrize("ours", CROSSINGS)
def test_websockets_as_the_client(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    deflate, frames, headers = websockets_modules()
    factory = deflate.ClientPerMessageDeflateFactory(**theirs)
    server = PerMessageDeflate(**ours)
    offer = headers.build_extension([("permessage-deflate", factory.get_request_params())])
    answer = server.accept(offer)
    assert answer is not None
    [(_, parameters)] = headers.parse_extension(offered(answer))
    client = factory.process_response_params(parameters, [])
    assert settled(server) == (
        client.local_no_context_takeover,
        client.local_max_window_bits,
        client.remote_no_context_takeover,
        client.remote_max_window_bits,
    )
    exchange_with_websockets(server, client, frames)


@pytest.mark.parametrize("theirs", CROSSINGS)
@pytest.mark.parametrize("ours", CROSSINGS)
def test_websockets_as_the_server(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    deflate, frames, headers = websockets_modules()
    client = PerMessageDeflate(**ours)
    [(_, parameters)] = headers.parse_extension(offered(client.offer()))
    factory = deflate.ServerPerMessageDeflateFactory(**theirs)
    answer, server = factory.process_request_params(parameters, [])
    client.finalize(headers.build_extension([("permessage-deflate", answer)]))
    assert settled(client) == (
        server.remote_no_context_takeover,
        server.remote_max_window_bits,
        server.local_no_context_takeover,
        server.local_max_window_bits,
    )
    exchange_with_websockets(client, server, frames)


def exchange_with_wsproto(ours: PerMessageDeflate, theirs: Any, wsproto: Any, client: bool) -> None:
    """Through the hooks of both sides; wsproto asks its connection for the role."""
    here, there = (CLIENT, SERVER) if client else (SERVER, CLIENT)
    text, plain = wsproto.Opcode.BINARY, wsproto.RsvBits(False, False, False)
    for message in MESSAGES:
        rsv, payload = theirs.frame_outbound(there, text, plain, message, True)
        frame = (Opcode.BINARY, RsvBits(*rsv), payload, True)
        assert receive(ours, here, [frame]) == [message]
        rsv, payload = ours.frame_outbound(here, Opcode.BINARY, NO_BITS, message, True)
        theirs.frame_inbound_header(there, text, wsproto.RsvBits(*rsv), len(payload))
        output = theirs.frame_inbound_payload_data(there, payload)
        assert output + (theirs.frame_inbound_complete(there, True) or b"") == message


@pytest.mark.parametrize("theirs", CROSSINGS)
@pytest.mark.parametrize("ours", CROSSINGS)
def test_wsproto_on_the_other_side(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    reason = "needs wsproto"
    extensions = pytest.importorskip("wsproto.extensions", reason=reason)
    frame_protocol = pytest.importorskip("wsproto.frame_protocol", reason=reason)
    client, server = extensions.PerMessageDeflate(**theirs), PerMessageDeflate(**ours)
    answer = server.accept(offered(client.offer()))
    assert answer is not None
    client.finalize(offered(answer))
    assert settled(client) == settled(server)
    exchange_with_wsproto(server, client, frame_protocol, client=False)

    # Its server neither announces a window that was not offered nor limits its own, so the client
    # has to leave it the choice.
    ours = {name: value for name, value in ours.items() if name != SB}
    client, server = PerMessageDeflate(**ours), extensions.PerMessageDeflate(**theirs)
    client.finalize(offered(server.accept(offered(client.offer()))))
    assert client.client_no_context_takeover == server.client_no_context_takeover
    assert client.server_no_context_takeover == server.server_no_context_takeover
    assert client.client_max_window_bits == server.client_max_window_bits
    assert client.server_max_window_bits == 15
    exchange_with_wsproto(client, server, frame_protocol, client=True)


def test_peers_inflate_a_window_of_8() -> None:
    client, server = pair(client_max_window_bits=8, server_max_window_bits=8)
    for sender in (client, server):
        inflater = zlib.decompressobj(wbits=-8)
        for message in MESSAGES:
            payload = sender.compress(message, True)
            assert inflater.decompress(payload + b"\x00\x00\xff\xff") == message
