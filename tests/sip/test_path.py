from __future__ import annotations

import pytest

from wsproto_sip.sip.address import NameAddr
from wsproto_sip.sip.errors import SipParseError
from wsproto_sip.sip.message import SipRequest
from wsproto_sip.sip.path import add_path, apply_path, copy_path, path_received
from wsproto_sip.sip.transport import Source
from wsproto_sip.sip.uri import SipUri

EDGE = SipUri.parse("sip:token@edge.test")


def register(supported: str | None = "path, outbound") -> SipRequest:
    headers = [("Path", "<sip:first;lr>")]
    if supported is not None:
        headers.append(("Supported", supported))
    return SipRequest("REGISTER", "sip:sip.test", headers)


def test_added() -> None:
    message = register()
    assert add_path(message, EDGE.with_param("ob")) is None
    assert message.values("path") == ["<sip:token@edge.test;ob;lr>", "<sip:first;lr>"]


def test_received() -> None:
    message = register("gruu, PATH")
    assert add_path(message, EDGE, received=Source("192.0.2.1", 7, "ws"), required=True) is None
    assert message.values("path")[0] == (
        '<sip:token@edge.test;lr>;received="sip:192.0.2.1:7;transport=ws"'
    )
    received = path_received(message.paths[0])
    assert str(received) == "sip:192.0.2.1:7;transport=ws"
    assert path_received(message.paths[1]) is None


def test_not_supported() -> None:
    message = register(None)
    before = message.to_bytes()
    assert add_path(message, EDGE) is None
    rejection = add_path(message, EDGE, required=True)
    assert rejection is not None
    assert (rejection.status, rejection.headers) == (421, (("Require", "path"),))
    assert message.to_bytes() == before


@pytest.mark.parametrize("value", ["x", '"tel:+1"', '"sip:a b"'])
def test_bad_received(value: str) -> None:
    with pytest.raises(SipParseError):
        path_received(NameAddr.parse(f"<sip:a>;received={value}"))


def test_applied() -> None:
    message = SipRequest("INVITE", "sip:a@x.invalid", [("Route", "<sip:last;lr>")])
    apply_path(message, [NameAddr.parse("<sip:one;lr>;received=x"), NameAddr.parse("<sip:two;lr>")])
    assert message.values("route") == ["<sip:one;lr>", "<sip:two;lr>", "<sip:last;lr>"]


def test_copied() -> None:
    message = register()
    message.add_header("Path", "<sip:second;lr>, <sip:third>")
    assert copy_path(message) == [
        ("Path", "<sip:first;lr>"),
        ("Path", "<sip:second;lr>, <sip:third>"),
    ]
