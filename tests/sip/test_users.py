from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.digest import digest_ha1
from wsproto_sip.sip.users import Users, UsersError

MD5 = digest_ha1("bob", "sip.test", "builder")
SHA = digest_ha1("bob", "sip.test", "builder", "SHA-256")


def test_passwords_and_hashes() -> None:
    users = Users.parse(
        f"\ufeff# people\n\n \t\nalice:won:der\r\nbob:sip.test:{MD5.upper()}\n"
        f"bob:sip.test:{SHA}\nbob:else.test:{MD5}\n".encode()
    )
    assert len(users) == 2
    assert "alice" in users
    assert "bob" in users
    assert "carol" not in users
    assert 7 not in users
    assert users.ha1("alice", "r", "MD5") == hashlib.md5(b"alice:r:won:der").hexdigest()
    assert users.ha1("alice", "r", "SHA-256") == hashlib.sha256(b"alice:r:won:der").hexdigest()
    assert users.ha1("bob", "sip.test", "MD5") == MD5
    assert users.ha1("bob", "sip.test", "SHA-256") == SHA
    assert users.ha1("bob", "sip.test", "SHA-512-256") is None
    assert users.ha1("bob", "other.test", "MD5") is None
    assert users.ha1("carol", "sip.test", "MD5") is None


def test_a_password_may_stand_beside_hashes() -> None:
    users = Users.parse(f"bob:sip.test:{MD5}\nbob:other".encode())
    assert len(users) == 1
    assert users.ha1("bob", "sip.test", "MD5") == MD5
    assert users.ha1("bob", "r", "MD5") == digest_ha1("bob", "r", "other")


def test_from_a_dictionary() -> None:
    passwords = {"alice": "secret"}
    users = Users(passwords)
    passwords.clear()
    assert "alice" in users
    assert users.ha1("alice", "r", "MD5") == digest_ha1("alice", "r", "secret")
    assert len(Users()) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"alice", "line 1 is neither"),
        (b"\nalice:\n", "line 2 is neither"),
        (b":secret", "line 1 has no usable name"),
        (b"a b:secret", "line 1 has no usable name"),
        (b"a\x0b:secret", "line 1 has no usable name"),
        (b"#\n alice:secret", "line 2 has no usable name"),
        (b"a" * 256 + b":secret", "line 1 has no usable name"),
        (b"alice:secret\nalice:secret", "line 2 gives a user a second password"),
        (f"bob:r:{MD5}\nbob:r:{MD5}".encode(), "line 2 repeats"),
        (b"alice:\xff", "not UTF-8 at octet 6"),
    ],
)
def test_wrong_lines_are_named_and_their_secrets_are_not(content: bytes, message: str) -> None:
    with pytest.raises(UsersError) as caught:
        Users.parse(content)
    assert str(caught.value).startswith(message)
    assert "secret" not in str(caught.value)
    assert MD5 not in str(caught.value)


@given(st.binary(max_size=200))
def test_nothing_but_its_error_comes_out(data: bytes) -> None:
    try:
        users = Users.parse(data)
    except UsersError:
        return
    assert len(users) <= data.count(b"\n") + 1


@given(
    st.dictionaries(
        st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.from_regex(r"[ -~]{1,20}", fullmatch=True)
    )
)
def test_what_is_written_is_read(passwords: dict[str, str]) -> None:
    text = "\n".join([f"{name}:{password}" for name, password in passwords.items()])
    users = Users.parse(text.encode())
    assert len(users) == len(passwords)
    for name, password in passwords.items():
        assert users.ha1(name, "r", "MD5") == digest_ha1(name, "r", password)
