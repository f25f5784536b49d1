"""Addresses of this machine and of others."""

from __future__ import annotations

import pytest

from wsproto_sip.adapters._addresses import canonical, is_address, local_address


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_addresses_are_compared_by_value(address: str, form: str) -> None:
    assert canonical(address) == form


def test_names_are_not_addresses() -> None:
    assert is_address("192.0.2.1")
    assert is_address("::1")
    assert not is_address("localhost")
    with pytest.raises(ValueError, match="localhost"):
        canonical("localhost")


def test_local_address_is_on_the_route_to_the_peer() -> None:
    assert local_address("127.0.0.1", 9) == "127.0.0.1"
    with pytest.raises(OSError, match=r".+"):
        local_address("host.invalid", 9)
