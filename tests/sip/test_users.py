from __future__ import annotations

import hashlib

from wsproto_sip.policy.accounts import parse_accounts
from wsproto_sip.sip.digest import digest_ha1
from wsproto_sip.sip.users import Users

MD5 = digest_ha1("bob", "sip.test", "builder")
SHA = digest_ha1("bob", "sip.test", "builder", "SHA-256")


def test_passwords() -> None:
    passwords = {"alice": "won:der"}
    users = Users(passwords)
    passwords.clear()
    assert len(users) == 1
    assert "alice" in users
    assert "carol" not in users
    assert 7 not in users
    assert users.ha1("alice", "r", "MD5") == hashlib.md5(b"alice:r:won:der").hexdigest()
    assert users.ha1("alice", "r", "SHA-256") == hashlib.sha256(b"alice:r:won:der").hexdigest()
    assert users.ha1("carol", "r", "MD5") is None
    assert len(Users()) == 0


def test_a_file_of_users() -> None:
    text = f"alice:wonderland\nbob:sip.test:{MD5}\nbob:sip.test:{SHA}\n"
    users = Users(parse_accounts(text, "sip.test"), "sip.test")
    assert len(users) == 2
    assert users.ha1("alice", "sip.test", "MD5") == digest_ha1("alice", "sip.test", "wonderland")
    assert users.ha1("bob", "sip.test", "MD5") == MD5
    assert users.ha1("bob", "sip.test", "SHA-256") == SHA
    assert users.ha1("bob", "sip.test", "SHA-512-256") is None
    assert users.ha1("bob", "other.test", "MD5") is None
    only_md5 = Users(parse_accounts(f"bob:sip.test:{MD5}\n", "sip.test"), "sip.test")
    assert only_md5.ha1("bob", "sip.test", "SHA-256") is None
