"""Frames as they are encoded, and tables about their headers."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests._wire import (
    BINARY,
    BROKEN_TEXT,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    Model,
    Seen,
    close_payload,
    frame,
    masked,
    texts,
)
from wsproto_sip import frame_protocol
from wsproto_sip._masking import KeySource
from wsproto_sip.events import BytesMessage, CloseConnection, Message, TextMessage
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.frame_protocol import (
    LOCAL_ONLY_CLOSE_REASONS,
    MAX_CONTROL_PAYLOAD,
    MAX_REASON_BYTES,
    CloseReason,
    FrameEncoder,
    Opcode,
    ParseFailed,
    RsvBits,
    encode_frame,
    is_close_code,
    parse_close,
)
from wsproto_sip.utilities import LocalProtocolError

both_roles = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
EDGES = [0, 1, 125, 126, 127, 511, 512, 65535, 65536]


def encoder(client: bool = False, **options: Any) -> FrameEncoder:
    """Return an encoder with a constant masking key."""
    return FrameEncoder(client, KeySource(lambda _: KEY), **options)


def key(client: bool) -> bytes | None:
    return KEY if client else None


# -- names -----------------------------------------------------------------------------------------


def test_opcodes() -> None:
    assert {opcode.name: opcode.value for opcode in Opcode} == {
        "CONTINUATION": CONTINUATION,
        "TEXT": TEXT,
        "BINARY": BINARY,
        "CLOSE": CLOSE,
        "PING": PING,
        "PONG": PONG,
    }
    assert [opcode for opcode in Opcode if opcode.iscontrol()] == [CLOSE, PING, PONG]


def test_close_codes_of_the_registry() -> None:
    assert list(CloseReason) == [*range(1000, 1004), *range(1005, 1016)]
    assert LOCAL_ONLY_CLOSE_REASONS == (1005, 1006, 1015)
    assert [code for code in range(70000) if is_close_code(code)] == [
        *range(1000, 1004),
        *range(1007, 1015),
        *range(3000, 5000),
    ]
    assert not is_close_code(-1)


def test_sizes() -> None:
    assert MAX_CONTROL_PAYLOAD == 125
    assert MAX_REASON_BYTES == 123


# -- single frames ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", EDGES)
def test_length_is_encoded_in_its_shortest_form(size: int) -> None:
    payload = bytes(i * 13 & 0xFF for i in range(size))
    for first in (0x01, 0x82, 0xC0, 0x8A):
        fin, rsv, opcode = first >= 0x80, first >> 4 & 7, first & 15
        plain = encode_frame(first, payload)
        assert plain == frame(opcode, payload, fin=fin, rsv=rsv, key=None)
        with_key = encode_frame(first, payload, KEY)
        assert with_key == frame(opcode, payload, fin=fin, rsv=rsv)
        assert type(plain) is type(with_key) is bytes


@pytest.mark.parametrize("compiled", [False, True])
def test_masked_frame_is_joined_by_the_compiled_engine_if_in_use(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def join(head: bytes, payload: bytes, key: bytes) -> bytes:
        assert type(payload) is bytes
        return head + masked(payload, key)

    monkeypatch.setattr(frame_protocol, "joining", [join] if compiled else [])
    assert encode_frame(0x81, b"hello", KEY) == frame(TEXT, b"hello")


@pytest.mark.parametrize("size", EDGES)
@both_roles
def test_messages_in_one_frame(client: bool, size: int) -> None:
    text = ("äöü" * size).encode()[:size].decode(errors="ignore").ljust(size, "x")[:size]
    raw = text.encode()
    expected = frame(TEXT, raw, key=key(client))
    one = encoder(client)
    assert one.client is client
    assert one.text(text) == expected
    for kind in (bytes, bytearray, memoryview):
        assert one.text(kind(raw)) == expected
        assert one.binary(kind(raw)) == frame(BINARY, raw, key=key(client))
    assert one.message(TextMessage(text)) == expected
    # By the class if it decides, otherwise by the data.
    assert one.message(TextMessage(raw)) == expected  # type: ignore[arg-type]
    assert one.message(Message(data=text)) == expected
    assert one.message(BytesMessage(raw)) == frame(BINARY, raw, key=key(client))
    assert one.message(Message(data=raw)) == frame(BINARY, raw, key=key(client))


@both_roles
@given(data=st.data())
def test_written_frames_are_parsed_back(client: bool, data: st.DataObject) -> None:
    one = FrameEncoder(client, KeySource())
    reader = Model(client=not client)
    expected: list[Seen] = []
    for _ in range(data.draw(st.integers(0, 6))):
        opcode = data.draw(st.sampled_from([TEXT, BINARY, PING, PONG]))
        if opcode in (PING, PONG):
            payload = data.draw(st.binary(max_size=125))
            reader.feed(one.control(Opcode(opcode), payload))
            expected.append(("ping" if opcode == PING else "pong", payload))
            continue
        kinds = st.text(max_size=50) if opcode == TEXT else st.binary(max_size=50)
        pieces: list[Any] = data.draw(st.lists(kinds, min_size=1, max_size=4))
        for number, piece in enumerate(pieces):
            fin = number == len(pieces) - 1
            write: Any = one.text if opcode == TEXT else one.binary
            reader.feed(write(piece, fin))
            if not fin and data.draw(st.booleans()):
                reader.feed(one.control(Opcode.PING, memoryview(b"between")))
                expected.append(("text" if opcode == TEXT else "binary", piece, True, fin))
                expected.append(("ping", b"between"))
            else:
                expected.append(("text" if opcode == TEXT else "binary", piece, True, fin))
    assert reader.seen == expected
    reader.feed(one.close(1000, "ende"))
    assert reader.seen[-1] == ("close", 1000, "ende")


@both_roles
def test_frames_of_a_message(client: bool) -> None:
    for opcode in (TEXT, BINARY):
        one = encoder(client)
        write: Any = one.text if opcode == TEXT else one.binary
        assert write(b"a", False) == frame(opcode, b"a", fin=False, key=key(client))
        assert write(b"", False) == frame(CONTINUATION, b"", fin=False, key=key(client))
        assert one.control(Opcode.PONG, b"p") == frame(PONG, b"p", key=key(client))
        assert write(b"b" * 200, False) == frame(
            CONTINUATION, b"b" * 200, fin=False, key=key(client)
        )
        assert write(b"c") == frame(CONTINUATION, b"c", key=key(client))
        assert write(b"d") == frame(opcode, b"d", key=key(client))


def test_message_cannot_change_its_type() -> None:
    one = encoder()
    one.text("a", False)
    with pytest.raises(LocalProtocolError, match="cannot change between text and binary"):
        one.binary(b"b")
    assert one.text("c") == frame(CONTINUATION, b"c", key=None)
    one.binary(b"a", False)
    with pytest.raises(LocalProtocolError, match="cannot change between text and binary"):
        one.text("b", False)
    assert one.binary(b"c") == frame(CONTINUATION, b"c", key=None)


@both_roles
@pytest.mark.parametrize("wrong", [*BROKEN_TEXT, "\ud800", "ab\udfff"], ids=ascii)
def test_unencodable_text_changes_nothing(wrong: str | bytes, client: bool) -> None:
    one = encoder(client)
    one.text("a", False)
    for fin in (False, True):
        with pytest.raises(LocalProtocolError, match="text cannot be sent: "):
            one.text(wrong, fin)
    assert one.text("c") == frame(CONTINUATION, b"c", key=key(client))


@pytest.mark.parametrize("wrong", [None, 5, [65], ["a"], object()])
def test_other_types_raise_type_error(wrong: Any) -> None:
    one = encoder()
    for call in (
        one.text,
        one.binary,
        lambda data: one.control(Opcode.PING, data),
        lambda data: one.message(BytesMessage(data)),
        lambda data: one.message(TextMessage(data)),
    ):
        with pytest.raises(TypeError):
            call(wrong)
    with pytest.raises(TypeError):
        one.binary("text")  # type: ignore[arg-type]
    assert one.text("x") == frame(TEXT, b"x", key=None)


@both_roles
def test_control_frames(client: bool) -> None:
    one = encoder(client)
    for opcode in (Opcode.PING, Opcode.PONG):
        for size in (0, 1, 125):
            payload = bytes(range(size))
            for kind in (bytes, bytearray, memoryview):
                assert one.control(opcode, kind(payload)) == frame(opcode, payload, key=key(client))
        with pytest.raises(LocalProtocolError, match="at most 125 bytes, not 126"):
            one.control(opcode, bytes(126))


# -- closing ---------------------------------------------------------------------------------------


@both_roles
@pytest.mark.parametrize("code", [1000, 1003, 1007, 1011, 1014, 3000, 4999])
def test_close_frames(code: int, client: bool) -> None:
    one = encoder(client)
    for reason in (None, "", "Grüße"):
        raw = (reason or "").encode()
        assert one.close(code, reason) == frame(CLOSE, close_payload(code, raw), key=key(client))


@pytest.mark.parametrize("code", [None, CloseReason.NO_STATUS_RCVD])
def test_close_frames_without_a_code(code: int | None) -> None:
    for reason in (None, ""):
        assert encoder().close(code, reason) == frame(CLOSE, key=None)
    with pytest.raises(LocalProtocolError, match="reason without a code"):
        encoder().close(code, "why")


@pytest.mark.parametrize("code", [-1, 0, 1, 999, 1004, 1016, 2999, 5000, 65536, 99999])
def test_close_codes_that_may_not_be_sent(code: int) -> None:
    with pytest.raises(LocalProtocolError, match=f"close code {code} may not be sent"):
        encoder().close(code, None)


@both_roles
@pytest.mark.parametrize("code", [1005, 1006, 1015, *LOCAL_ONLY_CLOSE_REASONS[1:]])
@pytest.mark.parametrize("reason", [None, "", "connection lost"])
def test_codes_that_only_report_an_end_are_sent_as_1000(
    code: int, reason: str | None, client: bool
) -> None:
    raw = encoder(client).close(code, reason)
    payload = close_payload(1000, (reason or "").encode())
    assert raw == frame(CLOSE, payload, key=key(client))


def test_close_reason_that_cannot_be_encoded() -> None:
    with pytest.raises(LocalProtocolError, match="close reason cannot be sent: "):
        encoder().close(1000, "\ud800")


@pytest.mark.parametrize("character", ["x", "ü", "漢", "🙂"])
@pytest.mark.parametrize("shift", range(4))
def test_long_reason_is_cut_between_characters(character: str, shift: int) -> None:
    reason = "-" * shift + character * 130
    payload = encoder().close(1000, reason)[4:]
    text = payload.decode()
    assert reason.startswith(text)
    assert 123 - len(character.encode()) < len(payload) <= 123


@given(reason=texts)
def test_any_reason_is_sent_up_to_the_limit(reason: bytes) -> None:
    text = reason.decode()
    sent = encoder().close(4000, text)[4:].decode()
    assert text.startswith(sent)
    assert sent == text or len(text[: len(sent) + 1].encode()) > 123


@given(code=st.integers(0, 65535), reason=texts)
def test_reading_a_close_frame(code: int, reason: bytes) -> None:
    if is_close_code(code):
        event = parse_close(close_payload(code, reason))
        assert event == CloseConnection(code, reason.decode())
        assert isinstance(event.code, CloseReason) == (code < 3000)
    else:
        with pytest.raises(ParseFailed, match=f"close code {code} may not be sent in a frame"):
            parse_close(close_payload(code, reason))


def test_malformed_close_frames_are_refused() -> None:
    event = parse_close(b"")
    assert event == CloseConnection(1005, "")
    assert event.code is CloseReason.NO_STATUS_RCVD
    with pytest.raises(ParseFailed, match="body of one byte"):
        parse_close(b"\x03")
    for broken in BROKEN_TEXT:
        with pytest.raises(UnicodeDecodeError):
            parse_close(close_payload(1000, b"a" + broken))


# -- extensions ------------------------------------------------------------------------------------


def deflate(offer: str = "permessage-deflate", **options: Any) -> PerMessageDeflate:
    extension = PerMessageDeflate(**options)
    assert extension.accept(offer) is not None
    return extension


@both_roles
def test_compressed_messages(client: bool) -> None:
    one = encoder(client, deflate=deflate())
    reader = Model(client=not client, deflate=True)
    written = one.text("hello " * 50)
    assert written[0] == 0xC1
    assert len(written) < 50
    reader.feed(written)
    # RSV1 is set on the first frame only, and a control frame in between changes nothing.
    parts = [one.binary(b"one", False), one.control(Opcode.PING, b"p"), one.binary(b"two", False)]
    parts += [one.binary(b"")]
    assert [part[0] for part in parts] == [0x42, 0x89, 0x00, 0x80]
    reader.feed(b"".join(parts) + one.binary(b"") + one.text("x"))
    assert [what for what in reader.seen if what[0] == "ping"] == [("ping", b"p")]
    found = [what[1] for what in reader.seen if what[0] == "binary"]
    assert b"".join(found) == b"onetwo"  # type: ignore[arg-type]
    assert reader.seen[0] == ("text", "hello " * 50, True, True)
    assert reader.seen[-2:] == [("binary", b"", True, True), ("text", "x", True, True)]


def test_short_messages_need_not_be_compressed() -> None:
    one = encoder(deflate=deflate(min_size=10))
    assert one.text("short") == frame(TEXT, b"short", key=None)
    assert one.text("long enough")[0] == 0xC1
    # The size of a message in pieces is unknown.
    assert one.text("x", False)[0] == 0x41
    assert one.text("y")[0] == 0x80


class Shift(Extension):
    """Maps every byte to ``byte * factor + offset``, and sets one reserved bit."""

    name = "x-shift"

    def __init__(self, bit: int, factor: int, offset: int) -> None:
        self.bit = bit
        self.factor = factor
        self.offset = offset
        self.seen: list[tuple[object, ...]] = []

    def _shift(self, data: bytes) -> bytes:
        return bytes(byte * self.factor + self.offset & 0xFF for byte in data)

    def frame_inbound_header(
        self, proto: object, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        self.seen.append((proto, opcode, rsv, payload_length))
        return RsvBits(*(number == self.bit for number in range(3)))

    def frame_inbound_payload_data(self, proto: object, data: bytes) -> bytes:
        return self._shift(data)

    def frame_inbound_complete(self, proto: object, fin: bool) -> bytes | None:
        self.seen.append((proto, fin))
        return b"!" if fin else None

    def frame_outbound(
        self, proto: object, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        assert type(opcode) is Opcode
        self.seen.append((proto, opcode, rsv, fin))
        bits = list(rsv)
        bits[self.bit] = True
        return RsvBits(*bits), self._shift(data)


@both_roles
def test_extensions_change_frames_in_the_order_of_the_handshake(client: bool) -> None:
    first, second = Shift(1, 1, 1), Shift(2, 3, 0)
    one = encoder(client, extensions=[first, second])
    changed = bytes((byte + 1) * 3 & 0xFF for byte in b"abc")
    code = bytes((byte + 1) * 3 & 0xFF for byte in close_payload(1000, b"bye"))
    assert one.text("abc", False) == frame(TEXT, changed, fin=False, rsv=3, key=key(client))
    assert one.control(Opcode.PING, b"abc") == frame(PING, changed, rsv=3, key=key(client))
    assert one.text(b"abc") == frame(CONTINUATION, changed, rsv=3, key=key(client))
    assert one.close(1000, "bye") == frame(CLOSE, code, rsv=3, key=key(client))
    assert one.close(None, None) == frame(CLOSE, b"", rsv=3, key=key(client))
    none, bit = RsvBits(False, False, False), RsvBits(False, True, False)
    opcodes = [Opcode.TEXT, Opcode.PING, Opcode.CONTINUATION, Opcode.CLOSE, Opcode.CLOSE]
    fins = [False, True, True, True, True]
    for extension, rsv in ((first, none), (second, bit)):
        assert extension.seen == [
            (one, *what, rsv, fin) for *what, fin in zip(opcodes, fins, strict=True)
        ]


class Padding(Extension):
    """Extends every payload, and refuses when told to."""

    name = "x-padding"

    def __init__(self, refused: str = "") -> None:
        self.refused = refused

    def frame_inbound_header(
        self, proto: object, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        return CloseReason.POLICY_VIOLATION if self.refused == "header" else rsv

    def frame_inbound_payload_data(self, proto: object, data: bytes) -> bytes | CloseReason:
        return CloseReason.UNSUPPORTED_DATA if self.refused == "data" else data

    def frame_inbound_complete(self, proto: object, fin: bool) -> bytes | CloseReason | None:
        return CloseReason.INTERNAL_ERROR if self.refused == "end" else b"+"

    def frame_outbound(
        self, proto: object, opcode: Opcode, rsv: RsvBits, data: bytes, fin: bool
    ) -> tuple[RsvBits, bytes]:
        return rsv, data + b"+"


def test_control_frame_that_an_extension_makes_too_long() -> None:
    one = encoder(extensions=[Padding()])
    assert len(one.control(Opcode.PING, bytes(124))) == 127
    with pytest.raises(LocalProtocolError, match="at most 125 bytes, not 126"):
        one.control(Opcode.PING, bytes(125))


# -- frames for many -------------------------------------------------------------------------------


def test_sharing_tells_which_connections_send_the_same_frame() -> None:
    assert encoder().sharing() == 0
    assert encoder(client=True).sharing() is None
    assert encoder(extensions=[Padding()]).sharing() is None
    assert encoder(deflate=deflate()).sharing() is None
    alone = deflate("permessage-deflate; server_no_context_takeover; server_max_window_bits=10")
    one = encoder(deflate=alone)
    assert one.sharing() == 10
    one.text("begun", False)
    with pytest.raises(LocalProtocolError, match="cannot be sent inside another"):
        one.sharing()
    one.text("ended")
    assert one.sharing() == 10
    inflater = zlib.decompressobj(-10)
    assert inflater.decompress(one.text("alone")[2:] + b"\0\0\xff\xff") == b"alone"


def test_close_reason_must_be_text() -> None:
    with pytest.raises(TypeError):
        FrameEncoder(False, KeySource()).close(1000, b"octets")  # type: ignore[arg-type]


@pytest.mark.parametrize("code", ["1000", 1000.0, b"", object()])
def test_close_code_that_is_not_an_integer_is_a_type_error(code: Any) -> None:
    with pytest.raises(TypeError, match="a close code must be an integer or None: "):
        encoder().close(code, None)


@pytest.mark.parametrize("reason", [b"bye", 5, ["bye"]])
def test_close_reason_that_is_not_text_is_a_type_error(reason: Any) -> None:
    with pytest.raises(TypeError, match="a close reason must be text or None: "):
        encoder().close(1000, reason)
