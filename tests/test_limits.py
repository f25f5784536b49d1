from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.limits import STREAMING_LIMITS, Limits, bound

NAMES = [item.name for item in dataclasses.fields(Limits)]
OPTIONAL = [item.name for item in dataclasses.fields(Limits) if "None" in str(item.type)]


def test_defaults_that_hold_on_a_public_address() -> None:
    limits = Limits()
    assert limits.max_handshake_bytes == 16 * 1024
    assert limits.max_header_line == 8 * 1024
    assert limits.max_headers == 64
    assert limits.max_list_items == 32
    assert limits.max_message_size == 1024 * 1024
    assert limits.max_frame_size is None
    assert limits.max_fragments == 1024
    assert limits.max_inflate_ratio == 200
    assert limits.inflate_ratio_floor == 64 * 1024
    assert limits.max_inflated_per_read == 2 * 1024 * 1024


def test_streaming_bounds_no_message() -> None:
    differing = {
        name: getattr(STREAMING_LIMITS, name)
        for name in NAMES
        if getattr(STREAMING_LIMITS, name) != getattr(Limits(), name)
    }
    assert differing == {
        "max_message_size": None,
        "max_fragments": None,
        "inflate_ratio_floor": 1024 * 1024,
    }


def test_every_bound_is_documented() -> None:
    text = inspect.getdoc(Limits) or ""
    assert [name for name in NAMES if f"    {name}: " not in text] == []


@pytest.mark.parametrize("name", NAMES)
@given(value=st.integers(max_value=-1))
def test_a_negative_bound_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} must not be negative: {value}$"):
        dataclasses.replace(Limits(), **{name: value})


@pytest.mark.parametrize("name", NAMES)
@given(value=st.integers(min_value=1))
def test_any_other_bound_is_taken(name: str, value: int) -> None:
    assert getattr(dataclasses.replace(Limits(), **{name: value}), name) == value


NOT_ZERO = ["max_frames_per_call", "max_queued_messages"]


def test_nothing_at_all_is_a_bound_unless_nothing_would_ever_be_taken() -> None:
    for name in NAMES:
        if name in NOT_ZERO:
            with pytest.raises(ValueError, match=f"^{name} must be 1 or more$"):
                dataclasses.replace(Limits(), **{name: 0})
        else:
            assert getattr(dataclasses.replace(Limits(), **{name: 0}), name) == 0


def test_whatever_is_a_bound_can_be_switched_off() -> None:
    assert [name for name in NAMES if name not in OPTIONAL] == [
        "inflate_ratio_floor",
        "control_burst",
        "high_water",
    ]


@given(value=st.integers(min_value=0))
def test_a_bound_to_compare_with(value: int) -> None:
    assert bound(value) == value
    assert bound(None) > value


@pytest.mark.parametrize("name", OPTIONAL)
def test_none_switches_off(name: str) -> None:
    off: dict[str, Any] = {name: None}
    assert getattr(dataclasses.replace(Limits(), **off), name) is None


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_headers = 3  # type: ignore[misc]
    assert hash(Limits()) == hash(Limits())
    assert not hasattr(Limits(), "__dict__")
