"""Tokens signed with real keys."""

from __future__ import annotations

import base64
import hmac
import json
import sys
import time
from typing import Any

import pytest

from wsproto_sip.adapters.jwt import JwtVerifier
from wsproto_sip.auth import Identity
from wsproto_sip.sip.registrar.bearer import BearerQuestion

jwt = pytest.importorskip("jwt", reason="PyJWT is not installed")
ec = pytest.importorskip(
    "cryptography.hazmat.primitives.asymmetric.ec", reason="cryptography is not installed"
)
serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")

SECRET = "s" * 32


def key_pair() -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


PRIVATE, PUBLIC = key_pair()


def claims(**changes: Any) -> dict[str, Any]:
    made = {"sub": "alice", "aud": "sip", "iss": "https://login.test", "exp": time.time() + 60}
    made |= changes
    return {name: value for name, value in made.items() if value is not None}


def token(key: str = PRIVATE, algorithm: str = "ES256", **changes: Any) -> BearerQuestion:
    return BearerQuestion(jwt.encode(claims(**changes), key, algorithm))


def verifier(**options: Any) -> JwtVerifier:
    defaults: dict[str, Any] = {"keys": [PUBLIC], "algorithms": ["ES256"], "audience": "sip"}
    return JwtVerifier(**(defaults | {"issuer": "https://login.test"} | options))


def test_token_names_its_user() -> None:
    found = verifier()(token())
    assert found is not None
    assert (found.name, found.method) == ("alice", "token")
    assert found.attributes["iss"] == "https://login.test"
    other = verifier(claim="preferred_username")(token(preferred_username="bob"))
    assert other is not None
    assert other.name == "bob"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": time.time() + 3600},
        {"aud": "others"},
        {"aud": None},
        {"iss": "https://evil.test"},
        {"iss": None},
        {"sub": None},
        {"sub": "a\nb"},
    ],
)
def test_token_with_invalid_claims_is_refused(changes: dict[str, Any]) -> None:
    assert verifier()(token(**changes)) is None


@pytest.mark.parametrize("part", [0, 1])
def test_deeply_nested_token_is_refused(part: int) -> None:
    parts = [b'{"alg":"ES256"}', b"{}", b"{}"]
    parts[part] = b"[" * 2900
    encoded = [base64.urlsafe_b64encode(item).rstrip(b"=").decode() for item in parts]
    assert verifier()(BearerQuestion(".".join(encoded))) is None


def test_only_configured_algorithms_are_accepted() -> None:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    unsigned = f"{part({'alg': 'none'})}.{part(claims())}."
    assert verifier()(BearerQuestion(unsigned)) is None
    # The public key used as a secret.
    head = f"{part({'alg': 'HS256'})}.{part(claims())}"
    seal = base64.urlsafe_b64encode(hmac.digest(PUBLIC.encode(), head.encode(), "sha256"))
    assert verifier()(BearerQuestion(f"{head}.{seal.rstrip(b'=').decode()}")) is None
    for text in ("", "x", "a.b.c"):
        assert verifier()(BearerQuestion(text)) is None


def test_several_keys_are_tried() -> None:
    private, public = key_pair()
    both = verifier(keys=[public, PUBLIC])
    assert both(token()) is not None
    assert both(token(private)) is not None
    assert verifier()(token(private)) is None


def test_secret_may_sign_tokens() -> None:
    shared = verifier(keys=[SECRET], algorithms=["HS256"])
    found = shared(token(SECRET, "HS256"))
    assert isinstance(found, Identity)
    assert shared(token("x" * 32, "HS256")) is None


def test_token_with_an_audience_needs_the_setting() -> None:
    anyone = verifier(audience=None, issuer=None)
    assert anyone(token(aud=None, iss=None)) is not None
    assert anyone(token()) is None


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"algorithms": []}, "algorithms must be among"),
        ({"algorithms": ["none"]}, "algorithms must be among"),
        ({"algorithms": ["HS256", "ES256"]}, "cannot be combined"),
        ({"keys": []}, "keys must not be empty"),
        ({"keys": ["nonsense"]}, "a key that cannot be used"),
        ({"keys": ["short"], "algorithms": ["HS256"]}, "at least 32 bytes"),
        ({"keys": [PUBLIC], "algorithms": ["HS256"]}, "a key that cannot be used"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        verifier(**options)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ImportError, match=r"wsproto-sip\[jwt\]"):
        verifier()
