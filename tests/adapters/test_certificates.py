"""Certificates selected by the name that a client sends, in TLS handshakes without a socket."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, strategies as st

from wsproto_sip.adapters._tls import client_context
from wsproto_sip.adapters.certificates import _names_in, certificate_context, server_names

AUTHORITY = trustme.CA()
CLIENT = client_context()
AUTHORITY.configure_trust(CLIENT)


def issued(scratch: Path, *names: str, common_name: str | None = None) -> tuple[str, str]:
    """Write a certificate and its key, and return the files."""
    made = AUTHORITY.issue_cert(*names, common_name=common_name)
    chain, key = scratch / f"{names or common_name}.pem", scratch / f"{names or common_name}.key"
    for blob in made.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    made.private_key_pem.write_to_path(str(key))
    return str(chain), str(key)


def shown(server: ssl.SSLContext, name: str | None, client: ssl.SSLContext = CLIENT) -> list[str]:
    """Return the names in the certificate that a server presents for a name."""
    context = client
    if name is None:
        context = client_context()
        AUTHORITY.configure_trust(context)
        context.check_hostname = False
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = context.wrap_bio(down, up, server_hostname=name)
    far = server.wrap_bio(up, down, server_side=True)
    for _ in range(4):
        for side in (near, far):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert far.version() is not None
    found: Any = near.getpeercert()
    return [value for kind, value in found["subjectAltName"] if kind == "DNS"]


def test_name_selects_the_certificate(tmp_path: Path) -> None:
    server = certificate_context(
        [
            issued(tmp_path, "first.test", "shared.test"),
            issued(tmp_path, "second.test", "shared.test"),
            issued(tmp_path, "*.wild.test", "wild.test"),
        ]
    )
    for name, expected in (
        ("first.test", "first.test"),
        ("second.test", "second.test"),
        ("SECOND.test", "second.test"),
        ("shared.test", "first.test"),
        ("wild.test", "*.wild.test"),
        ("a.wild.test", "*.wild.test"),
    ):
        assert expected in shown(server, name)
    assert "first.test" in shown(server, None)


def test_wildcard_matches_one_label(tmp_path: Path) -> None:
    first, wild = issued(tmp_path, "first.test"), issued(tmp_path, "*.wild.test")
    server = certificate_context([first, wild])
    for name in ("a.b.wild.test", "other.test", "wild.test", "test"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"not valid for|mismatch"):
            shown(server, name)


def test_single_certificate_is_used_for_all_names(tmp_path: Path) -> None:
    chain, key = issued(tmp_path, "only.test")
    both = tmp_path / "both.pem"
    both.write_text(Path(key).read_text() + Path(chain).read_text())
    server = certificate_context([(both, None)])
    assert shown(server, "only.test") == ["only.test"]
    assert server.sni_callback is None
    # The first certificate need not contain a name.
    nameless = issued(tmp_path, common_name="nameless")
    assert certificate_context([nameless, (both, None)]) is not None
    with pytest.raises(ValueError, match="the certificate contains no DNS name"):
        certificate_context([(both, None), nameless])


def test_every_context_is_made_by_make(tmp_path: Path) -> None:
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        AUTHORITY.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        made.append(context)
        return context

    server = certificate_context(
        [issued(tmp_path, "first.test"), issued(tmp_path, "second.test")], make=make
    )
    assert len(made) == 2
    assert made[0] is server
    client = client_context()
    AUTHORITY.configure_trust(client)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate|handshake"):
        shown(server, "second.test", client)
    AUTHORITY.issue_cert("client.test").configure_cert(client)
    assert shown(server, "second.test", client) == ["second.test"]


def test_names_come_from_the_first_certificate(tmp_path: Path) -> None:
    chain, key = issued(tmp_path, "B.test", "a.test", "192.0.2.1", "*.c.test")
    assert server_names(chain) == ["b.test", "a.test", "*.c.test"]
    with pytest.raises(ValueError, match="the file contains no certificate"):
        server_names(key)
    with pytest.raises(OSError, match="No such file"):
        server_names(tmp_path / "nowhere")


def test_invalid_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="certificates must not be empty"):
        certificate_context([])
    (chain, _), (_, other) = issued(tmp_path, "a.test"), issued(tmp_path, "b.test")
    with pytest.raises(ssl.SSLError, match=r"(?i)mismatch"):
        certificate_context([(chain, other)])


def test_unreadable_certificate_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [issued(tmp_path, "a.test"), issued(tmp_path, "b.test")]
    monkeypatch.setattr(ssl, "PEM_cert_to_DER_cert", lambda text: b"\x30")
    with pytest.raises(ValueError, match=r"a.test.*pem: not DER"):
        certificate_context(pairs)


DER = ssl.PEM_cert_to_DER_cert(AUTHORITY.issue_cert("a.test").cert_chain_pems[0].bytes().decode())


@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_any_bytes_give_names_or_an_error(where: int, value: int) -> None:
    assert _names_in(DER) == ["a.test"]
    for data in (DER[:where], DER[:where] + bytes([value]) + DER[where + 1 :]):
        try:
            found = _names_in(data)
        except ValueError:
            found = []
        assert len(found) <= 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x05\x30",
        b"\x30\x80",
        b"\x30\x85\x01\x01\x01\x01\x01",
        b"\x30\x82\x01",
        b"\x1f\x01\x00",
        b"\x02\x01\x00",
        b"\x30\x02\x02\x00",
    ],
)
def test_invalid_der_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not DER|not a certificate"):
        _names_in(data)
