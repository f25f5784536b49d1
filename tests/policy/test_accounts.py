"""The file of users."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.policy.accounts import basic_verifier, digest_lookup, parse_accounts
from wsproto_sip.policy.decision import Identity
from wsproto_sip.policy.digest import Algorithm, digest_ha1

REALM = "the realm"
SHA = digest_ha1(Algorithm.SHA_256, "bob", REALM, "b:secret")
MD5 = digest_ha1(Algorithm.MD5, "bob", REALM, "b:secret")


def test_a_file() -> None:
    text = f"\ufeff# users\n\nalice:pass:word \r\nbob:{REALM}:{SHA}\n"
    text += f"bob:{REALM}:{MD5.upper()}\ncarol:\n"
    accounts = parse_accounts(text, REALM)
    assert list(accounts) == ["alice", "bob", "carol"]
    assert accounts["alice"].password == "pass:word "
    assert accounts["bob"].password is None
    assert accounts["bob"].ha1 == {Algorithm.SHA_256: SHA, Algorithm.MD5: MD5}
    assert accounts["carol"].password == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("alice", "neither user:password nor user:realm:HA1"),
        (":secret", "neither user:password nor user:realm:HA1"),
        ("a\x85b:secret", "neither user:password nor user:realm:HA1"),
        ("alice:$2y$05$abc", "a hashed password; only user:realm:HA1 can stand in its place"),
        ("alice:$apr1$abc", "a hashed password; only user:realm:HA1 can stand in its place"),
        ("alice:{SHA}abc=", "a hashed password; only user:realm:HA1 can stand in its place"),
        (f"bob:other:{SHA}", "the hash is for realm 'other', not 'the realm'"),
        ("known:again", "known is there already"),
        (f"known:{REALM}:{SHA}", "known is there already"),
        (f"hashed:{REALM}:{SHA}", "hashed is there already"),
        ("hashed:password", "hashed is there already"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(line: str, message: str) -> None:
    text = f"known:secret\nhashed:{REALM}:{SHA}\n{line}\n"
    with pytest.raises(ValueError) as caught:
        parse_accounts(text, REALM)
    assert str(caught.value) == f"line 3: {message}"


def test_basic() -> None:
    accounts = parse_accounts(f"alice:secret\nbob:{REALM}:{MD5}\n", REALM)
    verify = basic_verifier(accounts, REALM)
    assert verify("alice", "secret") == Identity("alice", "basic")
    assert verify("bob", "b:secret") == Identity("bob", "basic")
    for name, password in (("alice", "Secret"), ("bob", MD5), ("bob", ""), ("eve", "secret")):
        assert verify(name, password) is None


def test_digest() -> None:
    lookup = digest_lookup(parse_accounts(f"alice:secret\nbob:{REALM}:{SHA}\n", REALM))
    alice, bob = lookup("alice"), lookup("bob")
    assert alice is not None
    assert bob is not None
    assert (alice.identity, alice.password) == (Identity("alice", "digest"), "secret")
    assert (bob.password, bob.ha1) == (None, {Algorithm.SHA_256: SHA})
    assert lookup("eve") is None


@given(st.text(max_size=80))
def test_any_text_gives_accounts_or_the_documented_error(text: str) -> None:
    try:
        accounts = parse_accounts(text, REALM)
    except ValueError as error:
        told = str(error)
    else:
        told = f"line {len(accounts)}"
    assert told.startswith("line ")
    assert int(told.split(" ")[1].rstrip(":")) <= text.count("\n") + 1
