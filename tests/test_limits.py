from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.limits import STREAMING_LIMITS, Limits, bound

NAMES = [item.name for item in dataclasses.fields(Limits)]
OPTIONAL = [item.name for item in dataclasses.fields(Limits) if "None" in str(item.type)]


def test_defaults_are_those_documented() -> None:
    limits = Limits()
    assert limits.max_handshake_bytes == 16 * 1024
    assert limits.max_header_line == 16 * 1024
    assert limits.max_headers == 64
    assert limits.max_list_items == 32
    assert limits.max_message_size == 1024 * 1024
    assert limits.max_frame_size is None
    assert limits.max_fragments == 1024
    assert limits.max_inflate_ratio is None
    assert limits.inflate_ratio_floor == 1024 * 1024
    assert limits.max_inflated_per_read == 2 * 1024 * 1024


def test_streaming_limits_have_no_message_size() -> None:
    differing = {
        name: getattr(STREAMING_LIMITS, name)
        for name in NAMES
        if getattr(STREAMING_LIMITS, name) != getattr(Limits(), name)
    }
    assert differing == {
        "max_message_size": None,
        "max_fragments": None,
        "max_inflate_ratio": 200,
    }


def test_every_bound_is_documented() -> None:
    text = inspect.getdoc(Limits) or ""
    assert [name for name in NAMES if f"    {name}: " not in text] == []


@pytest.mark.parametrize("name", NAMES)
@given(value=st.integers(max_value=-1))
def test_negative_bound_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} must not be negative: {value}$"):
        dataclasses.replace(Limits(), **{name: value})


@pytest.mark.parametrize("name", NAMES)
@given(value=st.integers(min_value=1))
def test_other_limits_are_accepted(name: str, value: int) -> None:
    assert getattr(dataclasses.replace(Limits(), **{name: value}), name) == value


NOT_ZERO = ["max_frames_per_call", "max_queued_messages"]


def test_zero_is_allowed_unless_it_would_block_everything() -> None:
    for name in NAMES:
        if name in NOT_ZERO:
            with pytest.raises(ValueError, match=f"^{name} must be 1 or more$"):
                dataclasses.replace(Limits(), **{name: 0})
        else:
            assert getattr(dataclasses.replace(Limits(), **{name: 0}), name) == 0


def test_every_limit_can_be_disabled() -> None:
    assert [name for name in NAMES if name not in OPTIONAL] == [
        "inflate_ratio_floor",
        "control_burst",
        "high_water",
    ]


@given(value=st.integers(min_value=0))
def test_bound_gives_a_comparable_number(value: int) -> None:
    assert bound(value) == value
    assert bound(None) > value


@pytest.mark.parametrize("name", OPTIONAL)
def test_bound_of_none_is_infinite(name: str) -> None:
    off: dict[str, Any] = {name: None}
    assert getattr(dataclasses.replace(Limits(), **off), name) is None


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_headers = 3  # type: ignore[misc]
    assert hash(Limits()) == hash(Limits())
    assert not hasattr(Limits(), "__dict__")


@pytest.mark.parametrize("value", ["5", 1.5, ()])
def test_bound_that_is_not_an_integer_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^max_headers must be an integer or None: "):
        Limits(max_headers=value)
