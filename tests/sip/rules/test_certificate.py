"""Matching certificates and domains in SIP."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_sip.sip.rules.certificate import names_domain


def certificate(*names: tuple[str, str], common: str | None = None) -> dict[str, Any]:
    """Return a certificate as ``getpeercert()`` returns it."""
    found: dict[str, Any] = {} if common is None else {"subject": ((("commonName", common),),)}
    return found | ({"subjectAltName": names} if names else {})


@pytest.mark.parametrize(
    ("shown", "domain", "right"),
    [
        (certificate(("DNS", "core.test")), "core.test", True),
        (certificate(("DNS", "CORE.test.")), "core.TEST", True),
        (certificate(("DNS", "a.test"), ("DNS", "core.test")), "core.test.", True),
        (certificate(("DNS", "other.test")), "core.test", False),
        # RFC 5922 §7.2: no wildcards, no suffixes.
        (certificate(("DNS", "*.test")), "core.test", False),
        (certificate(("DNS", "test")), "core.test", False),
        # §7.1: a sip URI takes precedence over DNS names.
        (certificate(("URI", "sip:core.test"), ("DNS", "host.test")), "core.test", True),
        (certificate(("URI", "sip:core.test"), ("DNS", "host.test")), "host.test", False),
        (certificate(("URI", "sip:alice@core.test")), "core.test", False),
        (certificate(("URI", "sips:core.test")), "core.test", False),
        (certificate(("URI", "https://core.test"), ("DNS", "host.test")), "host.test", True),
        (certificate(("URI", "https://core.test")), "core.test", False),
        # The Common Name is only used without the extension.
        (certificate(common="core.test"), "core.test", True),
        (certificate(("DNS", "host.test"), common="core.test"), "core.test", False),
        (certificate(("email", "a@b"), common="core.test"), "core.test", False),
        (certificate(("IP Address", "192.0.2.1")), "192.0.2.1", True),
        (certificate(("IP Address", "2001:DB8::1")), "[2001:db8:0::1]", True),
        (certificate(("IP Address", "192.0.2.1")), "192.0.2.2", False),
        (certificate(("DNS", "192.0.2.1"), common="192.0.2.1"), "192.0.2.1", False),
        ({"subject": ((("organizationName", "core.test"),),)}, "core.test", False),
        ({}, "core.test", False),
    ],
)
def test_names(shown: dict[str, Any], domain: str, right: bool) -> None:
    assert names_domain(shown, domain) is right
