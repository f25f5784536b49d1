"""What a parser does with a frame by its first byte, and what extensions do to it."""

from __future__ import annotations

import pytest

from tests._wire import BINARY, CONTINUATION, TEXT
from tests.test_frame_protocol import Padding, Shift
from wsproto_sip._frames import (
    KIND_BINARY,
    KIND_OCTETS,
    KIND_OTHER,
    KIND_TEXT,
    KINDS_BETWEEN,
    KINDS_INSIDE,
    KINDS_INSIDE_DEFLATE,
    KINDS_NONE,
    inbound_header,
    inbound_payload,
    too_big,
)
from wsproto_sip.frame_protocol import CloseReason, Opcode, ParseFailed, RsvBits


def test_failure_is_a_protocol_error_by_default() -> None:
    failure = ParseFailed("what was wrong")
    assert str(failure) == "what was wrong"
    assert failure.code == 1002
    assert ParseFailed("", CloseReason.POLICY_VIOLATION).code == 1008
    failure = too_big("2 bytes where 1 may be")
    assert str(failure) == "2 bytes where 1 may be"
    assert failure.code == 1009


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
def test_kinds_of_frames_between_messages(deflate: bool, as_bytes: bool) -> None:
    text = KIND_OCTETS if as_bytes else KIND_TEXT
    kinds = KINDS_BETWEEN[deflate, as_bytes]
    for first in range(256):
        fin, rsv, opcode = first >= 0x80, first >> 4 & 7, first & 15
        kind = 0
        if opcode in (TEXT, BINARY):
            if rsv == 0:
                kind = KIND_OTHER if not fin else text if opcode == TEXT else KIND_BINARY
            elif rsv == 4 and deflate:
                kind = KIND_OTHER
        assert kinds[first] == kind


def test_kinds_of_frames_inside_messages() -> None:
    for first in range(256):
        kind = KIND_OTHER if first & 0x7F == CONTINUATION else 0
        assert KINDS_INSIDE[first] == KINDS_INSIDE_DEFLATE[first] == kind
        assert KINDS_NONE[first] == 0


class Role:
    client = True


def test_headers_pass_every_extension() -> None:
    proto = Role()
    chain = [Shift(0, 1, 0), Shift(2, 1, 0)]
    for rsv in range(8):
        first = 0x82 | rsv << 4
        if rsv & 2:
            with pytest.raises(ParseFailed, match="reserved bit set that was not negotiated"):
                inbound_header(chain, proto, Opcode.BINARY, first, 7)
        else:
            inbound_header(chain, proto, Opcode.BINARY, first, 7)
    expected = [
        (proto, Opcode.BINARY, RsvBits(bool(rsv & 4), bool(rsv & 2), bool(rsv & 1)), 7)
        for rsv in range(8)
    ]
    assert [extension.seen for extension in chain] == [expected, expected]


def test_payloads_pass_every_extension_in_order() -> None:
    chain = [Shift(0, 1, 1), Shift(1, 3, 0)]
    proto = Role()
    assert inbound_payload(chain, proto, b"\x01", False, True) == b"\x06"
    assert [extension.seen for extension in chain] == [[], []]
    # Bytes that one adds at the end of a frame pass through the next.
    assert inbound_payload(chain, proto, b"\x01", True, False) == b"\x06"
    assert inbound_payload(chain, proto, b"\x01", True, True) == b"\x06" + b"c!"
    assert [extension.seen for extension in chain] == [[(proto, False), (proto, True)]] * 2


@pytest.mark.parametrize(("where", "code"), [("header", 1008), ("data", 1003), ("end", 1011)])
def test_extensions_may_refuse(where: str, code: int) -> None:
    chain = [Padding(where)]

    def receive() -> None:
        inbound_header(chain, Role(), Opcode.TEXT, 0x81, 1)
        inbound_payload(chain, Role(), b"x", True, True)

    with pytest.raises(ParseFailed, match="refused by extension x-padding") as caught:
        receive()
    assert caught.value.code == code
