"""Making text from peers safe to print."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters._text import MAX_VALUE, elided, escape, pair


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain \xfc", "plain \xfc"),
        ("a\x1b[31m\r\n\u202eb", "a\\x1b[31m\\r\\n\\u202eb"),
        ("\udcff", "\\udcff"),
    ],
)
def test_escaped_text_is_printable(text: str, shown: str) -> None:
    assert escape(text) == shown


def test_long_text_is_shortened() -> None:
    assert elided("x" * MAX_VALUE) == "x" * MAX_VALUE
    assert elided("x" * (MAX_VALUE + 1)) == "x" * (MAX_VALUE - 1) + "…"
    assert elided("abcd", 3) == "ab…"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "n=plain"),
        ("", 'n=""'),
        ("a b", 'n="a b"'),
        ('"=', 'n="\\"="'),
        ("\x1b", 'n="\\u001b"'),
        (True, "n=true"),
        (1.5, "n=1.5"),
        ("x" * 101, f"n={'x' * 99}…"),
    ],
)
def test_pairs_are_quoted_if_ambiguous(value: object, shown: str) -> None:
    assert pair("n", value) == shown


@given(st.text(max_size=300))
def test_pair_is_one_bounded_line(text: str) -> None:
    shown = pair("n", text)
    assert len(shown.splitlines()) == 1
    assert shown.isprintable()
    assert len(shown) <= 12 * MAX_VALUE
