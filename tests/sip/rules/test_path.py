from __future__ import annotations

import pytest

from wsproto_sip.sip.message.address import NameAddr
from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.message.transport import Source
from wsproto_sip.sip.message.uri import SipUri
from wsproto_sip.sip.rules.path import add_path, apply_path, copy_path, path_received, require_path

EDGE = SipUri.parse("sip:token@edge.test")


def register(supported: str | None = "path, outbound") -> SipRequest:
    headers = [("Path", "<sip:first;lr>")]
    if supported is not None:
        headers.append(("Supported", supported))
    return SipRequest("REGISTER", "sip:sip.test", headers)


def test_path_is_added_on_top() -> None:
    message = register()
    add_path(message, EDGE.with_param("ob"))
    assert message.values("path") == ["<sip:token@edge.test;ob;lr>", "<sip:first;lr>"]


def test_add_path_writes_received() -> None:
    message = register("gruu, PATH")
    assert require_path(message) is None
    add_path(message, EDGE, received=Source("192.0.2.1", 7, "ws"))
    assert message.values("path")[0] == (
        '<sip:token@edge.test;lr>;received="sip:192.0.2.1:7;transport=ws"'
    )
    received = path_received(message.paths[0])
    assert str(received) == "sip:192.0.2.1:7;transport=ws"
    assert path_received(message.paths[1]) is None


def test_client_without_path_support_is_refused() -> None:
    message = register(None)
    before = message.to_bytes()
    add_path(message, EDGE)
    rejection = require_path(message)
    assert rejection is not None
    assert (rejection.status, rejection.headers) == (421, (("Require", "path"),))
    assert message.to_bytes() == before


@pytest.mark.parametrize("value", ["x", '"tel:+1"', '"sip:a b"'])
def test_malformed_received_is_refused(value: str) -> None:
    with pytest.raises(SipParseError):
        path_received(NameAddr.parse(f"<sip:a>;received={value}"))


def test_apply_path_prepends_routes() -> None:
    message = SipRequest("INVITE", "sip:a@x.invalid", [("Route", "<sip:last;lr>")])
    apply_path(message, [NameAddr.parse("<sip:one;lr>;received=x"), NameAddr.parse("<sip:two;lr>")])
    assert message.values("route") == ["<sip:one;lr>", "<sip:two;lr>", "<sip:last;lr>"]


def test_copy_path_returns_all_values() -> None:
    message = register()
    message.add_header("Path", "<sip:second;lr>, <sip:third>")
    assert copy_path(message) == [
        ("Path", "<sip:first;lr>"),
        ("Path", "<sip:second;lr>, <sip:third>"),
    ]
