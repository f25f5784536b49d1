"""The file of users."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.accounts import (
    Account,
    UnusableAccount,
    account_from,
    account_lookup,
    common_algorithms,
    parse_accounts,
    password_verifier,
)
from wsproto_sip.auth.digest import Algorithm, digest_ha1
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER, Later

REALM = "the realm"
SHA = digest_ha1("bob", REALM, "b:secret", Algorithm.SHA_256)
MD5 = digest_ha1("bob", REALM, "b:secret")


def test_file_is_parsed() -> None:
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
        ("alice", "not user:password or user:realm:HA1"),
        (":secret", "not user:password or user:realm:HA1"),
        ("a\x85b:secret", "not user:password or user:realm:HA1"),
        ("alice:$2y$05$abc", "a hashed password: of hashes, only HA1 can be used"),
        ("alice:$apr1$abc", "a hashed password: of hashes, only HA1 can be used"),
        ("alice:{SHA}abc=", "a hashed password: of hashes, only HA1 can be used"),
        (f"alice:{REALM}:$2y$05$abc", "after the realm, not the 32 or 64 digits of a hash"),
        (f"alice:{REALM}:{MD5[1:]}", "after the realm, not the 32 or 64 digits of a hash"),
        (f"bob:other:{SHA}", "the hash is for realm 'other', not 'the realm'"),
        ("known:again", "duplicate user: known"),
        (f"known:{REALM}:{SHA}", "duplicate user: known"),
        (f"hashed:{REALM}:{SHA}", "duplicate user: hashed"),
        ("hashed:password", "duplicate user: hashed"),
    ],
)
def test_error_names_the_line(line: str, message: str) -> None:
    text = f"known:secret\nhashed:{REALM}:{SHA}\n{line}\n"
    with pytest.raises(ValueError) as caught:
        parse_accounts(text, REALM)
    assert str(caught.value) == f"line 3: {message}"


@pytest.mark.parametrize("value", ["", "none", "x" * 32, MD5.upper(), f"{MD5} ", SHA])
def test_hash_that_everyone_could_know_makes_no_account(value: str) -> None:
    with pytest.raises(ValueError, match="not the 32 digits of MD5"):
        Account(Identity("bob"), None, {Algorithm.MD5: value})


def test_account_of_a_source() -> None:
    assert account_from("bob", "builder") == Account(Identity("bob"), "builder")
    hashes = {Algorithm.MD5: MD5.upper(), Algorithm.SHA_256: SHA}
    assert account_from("bob", None, hashes) == Account(
        Identity("bob"), None, {**hashes, Algorithm.MD5: MD5}
    )
    with pytest.raises(ValueError, match="not a user name") as caught:
        account_from("a\nb", "x")
    assert not isinstance(caught.value, UnusableAccount)


@pytest.mark.parametrize(
    ("password", "ha1", "reason"),
    [
        (None, None, "no password and no hash is stored"),
        (None, {}, "no password and no hash is stored"),
        ("", {Algorithm.MD5: MD5}, "the password is empty"),
        ("$2y$05$abc", None, "a hashed password"),
        ("secret", {Algorithm.MD5: "*"}, "not the 32 digits of MD5"),
        (None, {Algorithm.SHA_256: MD5}, "not the 64 digits of SHA-256"),
    ],
)
def test_stored_secret_that_matches_nothing_makes_the_account_unusable(
    password: str | None, ha1: dict[Algorithm, str] | None, reason: str
) -> None:
    with pytest.raises(UnusableAccount, match=reason):
        account_from("bob", password, ha1)


def test_basic() -> None:
    accounts = parse_accounts(f"alice:secret\nbob:{REALM}:{MD5}\n", REALM)
    verify = password_verifier(accounts, REALM)
    assert verify("alice", "secret") == Identity("alice", "basic")
    assert verify("bob", "b:secret") == Identity("bob", "basic")
    for name, password in (("alice", "Secret"), ("bob", MD5), ("bob", ""), ("eve", "secret")):
        assert verify(name, password) is None


def test_method_of_an_account_is_kept_if_it_has_one() -> None:
    staff = Account(Identity("alice@example.com", "directory"), "secret")
    verify = password_verifier({"alice": staff, "bob": "builder"})
    assert verify("alice", "secret") == Identity("alice@example.com", "directory")
    assert verify("bob", "builder") == Identity("bob", "basic")


def test_lookups_see_the_current_users() -> None:
    account = Account(Identity("bob"), ha1={Algorithm.SHA_256: SHA})
    users: dict[str, str | Account] = {"alice": "secret", "bob": account}
    lookup = account_lookup(users)
    assert lookup("alice") == Account(Identity("alice"), "secret")
    assert lookup("bob") is account
    assert lookup("eve") is None
    users["eve"] = ""
    assert lookup("eve") == Account(Identity("eve"), "")
    assert account_lookup(lookup) is lookup


def test_password_is_compared_once_the_account_is_known() -> None:
    known: dict[str, Account | Later | None] = {"alice": Account(Identity("alice"), "secret")}
    verify = password_verifier(lambda name: known.get(name, LATER))
    assert verify("alice", "secret") == Identity("alice", "basic")
    assert verify("alice", "wrong") is None
    assert verify("bob", "builder") is LATER
    known["bob"] = None
    assert verify("bob", "builder") is None


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


def test_common_algorithms_are_those_of_every_user() -> None:
    both = (Algorithm.SHA_256, Algorithm.MD5)
    users: dict[str, str | Account] = {"alice": "secret", "carol": Account(Identity("carol"), "x")}
    assert common_algorithms(users, both) == both
    users["bob"] = Account(Identity("bob"), ha1={Algorithm.SHA_256: SHA, Algorithm.MD5: MD5})
    assert common_algorithms(users, both[::-1]) == both[::-1]
    users["dave"] = Account(Identity("dave"), ha1={Algorithm.SHA_256: SHA})
    assert common_algorithms(users, both) == (Algorithm.SHA_256,)
    users["eve"] = Account(Identity("eve"), ha1={Algorithm.MD5: MD5})
    assert common_algorithms(users, both) == ()
    # This user cannot authenticate anyway.
    assert common_algorithms({"frank": Account(Identity("frank"))}, both) == both
