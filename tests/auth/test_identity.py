from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.identity import (
    check_realm,
    folded_name,
    is_username,
    same_secret,
)


@pytest.mark.parametrize("realm", ['"', "\\", "\r\n", "\x7f", "\xe4", "\u2028"])
def test_realms_that_need_quoting_are_refused(realm: str) -> None:
    with pytest.raises(ValueError, match="not printable ASCII"):
        check_realm(f"a{realm}b")


def test_realms_that_need_none_pass() -> None:
    assert check_realm("") == ""
    assert check_realm("sip calls, all of them!") == "sip calls, all of them!"


def test_usernames() -> None:
    assert is_username("a" * 255)
    assert is_username("alice@example.com")
    assert not is_username("")
    assert not is_username("a" * 256)
    assert not is_username("a\x9bb")
    assert not is_username("a\ud800")


@pytest.mark.parametrize("name", ["jose", "JOSE", "Jose  ", "jos\xe9", "JOSE\u0301", "\uff2aose"])
def test_forms_that_a_database_takes_for_equal_are_folded(name: str) -> None:
    assert folded_name(name) == "jose"


def test_other_names_are_not_folded() -> None:
    assert (
        len({folded_name(name) for name in ("jose", "josef", "jo se", " jose", "\u0458ose")}) == 5
    )


@given(st.text(), st.text())
def test_equal_secrets_compare_equal(one: str, other: str) -> None:
    assert same_secret(one, one)
    assert same_secret(one, other) is (one == other)
