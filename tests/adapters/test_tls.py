"""The TLS contexts that the adapters make by default."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

import pytest
import trustme

import wsproto_sip
from wsproto_sip.adapters._tls import client_context, server_context


@pytest.mark.parametrize("make", [client_context, server_context])
@pytest.mark.parametrize(
    ("policy", "minimum"),
    [
        (ssl.TLSVersion.MINIMUM_SUPPORTED, ssl.TLSVersion.TLSv1_2),
        (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
        (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3),
    ],
)
def test_minimum_version_is_at_least_tls_1_2(
    make: object, policy: ssl.TLSVersion, minimum: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ssl.create_default_context

    def as_the_system_has_it(*arguments: object, **options: object) -> ssl.SSLContext:
        context = original(*arguments, **options)  # type: ignore[arg-type]
        context.minimum_version = policy
        return context

    monkeypatch.setattr(ssl, "create_default_context", as_the_system_has_it)
    assert make().minimum_version is minimum  # type: ignore[operator]


def test_clients_verify_certificates_and_names(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(ca))
    context = client_context(ca)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1
    with pytest.raises(OSError):
        client_context(tmp_path / "missing.pem")


def test_clients_do_not_verify_on_request() -> None:
    context = client_context(verify=False)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_servers_do_not_request_certificates() -> None:
    assert server_context().verify_mode is ssl.CERT_NONE


def test_other_modules_make_no_contexts() -> None:
    package = Path(wsproto_sip.__file__).parent
    making = re.compile(r"create_default_context|SSLContext\(")
    found = [path.name for path in package.rglob("*.py") if making.search(path.read_text("utf-8"))]
    assert found == ["_tls.py"]
