"""SIP in datagrams."""

from __future__ import annotations

import pytest

from tests.sip._phones import lines
from wsproto_sip.sip import SipParseError, parse_message
from wsproto_sip.sip.message.datagram import parse_datagram
from wsproto_sip.sip.message.limits import SipLimits

FIELDS = [
    ("Via", "SIP/2.0/UDP 192.0.2.200;branch=z9hG4bKu"),
    ("From", "<sip:a@core.test>;tag=1"),
    ("To", "<sip:alice@sip.test>"),
    ("Call-ID", "u"),
    ("CSeq", "1 MESSAGE"),
]
WHOLE = lines("MESSAGE sip:alice@sip.test SIP/2.0", *FIELDS, body=b"hello")


def test_datagram_is_one_message() -> None:
    assert parse_datagram(WHOLE).to_bytes() == WHOLE


@pytest.mark.parametrize("name", [b"Content-Length", b"l", b"CONTENT-LENGTH \t"])
@pytest.mark.parametrize("more", [b"!", b"\r\n\r\n", b"\0" * 100])
def test_bytes_after_the_body_are_dropped(name: bytes, more: bytes) -> None:
    data = WHOLE.replace(b"Content-Length", name)
    message = parse_datagram(data + more)
    assert message.body == b"hello"
    assert message.to_bytes() == data
    with pytest.raises(SipParseError):
        parse_message(data + more)


def test_message_without_length_ends_with_the_datagram() -> None:
    data = WHOLE.replace(b"Content-Length: 5\r\n", b"")
    assert parse_datagram(data + b" you").body == b"hello you"


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:-1],
        WHOLE.replace(b": 5", b": 6"),
        WHOLE.replace(b": 5", b": -5"),
        WHOLE.replace(b": 5", b": 5 5"),
        WHOLE.replace(b": 5", b": 123456"),
        WHOLE.replace(b"Call-ID", b"l: 1\r\nCall-ID"),
        WHOLE.replace(b"\r\n\r\n", b"\r\n"),
        b"",
    ],
)
def test_invalid_datagram_is_refused(data: bytes) -> None:
    with pytest.raises(SipParseError) as caught:
        parse_datagram(data)
    assert caught.value.status == 400


def test_limits_apply() -> None:
    with pytest.raises(SipParseError) as caught:
        parse_datagram(WHOLE, limits=SipLimits(max_message_size=100))
    assert caught.value.status == 513
