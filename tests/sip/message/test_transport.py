from __future__ import annotations

import pytest

from wsproto_sip.sip.message.errors import SipValueError
from wsproto_sip.sip.message.transport import (
    TRANSPORT_NAMES,
    TRANSPORT_NUMBERS,
    Source,
    default_port,
)


def test_numbers() -> None:
    assert [TRANSPORT_NAMES[number] for number in range(1, 7)] == [
        *("udp", "tcp", "tls", "sctp", "ws", "wss"),
    ]
    assert TRANSPORT_NUMBERS["wss"] == 6


@pytest.mark.parametrize(
    ("transport", "port"),
    [("UDP", 5060), ("tcp", 5060), ("tls", 5061), ("ws", 80), ("WSS", 443), ("new", 5060)],
)
def test_ports(transport: str, port: int) -> None:
    assert default_port(transport) == port


def test_source() -> None:
    source = Source("192.0.2.1", 51020, "wss")
    assert source.is_websocket
    assert str(source.uri) == "sip:192.0.2.1:51020;transport=ws"
    other = Source("2001:DB8::0:1%eth0", 5060, "udp")
    assert other.host == "2001:db8::1"
    assert not other.is_websocket
    assert str(other.uri) == "sip:[2001:db8::1]:5060;transport=udp"
    assert Source("2001:db8::1", 5060, "udp") == other


@pytest.mark.parametrize(
    ("host", "port", "transport"),
    [
        ("example.com", 1, "ws"),
        ("[::1]", 1, "ws"),
        ("1.2.3.4\r\n", 1, "ws"),
        ("1.2.3.4", -1, "ws"),
        ("1.2.3.4", 65536, "ws"),
        ("1.2.3.4", 1, "WS"),
        ("1.2.3.4", 1, "http"),
    ],
)
def test_invalid_source_is_refused(host: str, port: int, transport: str) -> None:
    with pytest.raises(SipValueError):
        Source(host, port, transport)
