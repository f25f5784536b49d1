"""The configuration of a session."""

from __future__ import annotations

import dataclasses
import inspect
import os
from typing import Any

import pytest

from wsproto_sip.limits import Limits
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig

NAMES = [item.name for item in dataclasses.fields(SessionConfig)]
TIMES = [
    "open_timeout",
    "close_timeout",
    "send_timeout",
    "idle_timeout",
    "max_age",
    "pause_timeout",
]


def test_defaults() -> None:
    assert dataclasses.asdict(SessionConfig()) == {
        "limits": dataclasses.asdict(Limits()),
        "open_timeout": 10.0,
        "close_timeout": 5.0,
        "send_timeout": 20.0,
        "idle_timeout": None,
        "max_age": None,
        "pause_timeout": 300.0,
        "keepalive": dataclasses.asdict(KeepaliveConfig()),
        "auto_pong": True,
        "auto_close": True,
        "whole_messages": True,
        "text_as_bytes": False,
        "auto_pause": False,
        "plain_requests": False,
        "entropy": os.urandom,
        "profiles": {},
    }


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [0, -1.5, float("nan")])
def test_invalid_time_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be above 0 seconds: {value}$"):
        SessionConfig(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [None, 0.001, 1e9])
def test_other_times_are_accepted(name: str, value: float | None) -> None:
    assert getattr(SessionConfig(**{name: value}), name) == value  # type: ignore[arg-type]


def test_every_option_is_documented() -> None:
    text = inspect.getdoc(SessionConfig) or ""
    assert [name for name in NAMES if f"    {name}: " not in text] == []


def test_values_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SessionConfig().auto_pong = False  # type: ignore[misc]
    assert not hasattr(SessionConfig(), "__dict__")
    assert SessionConfig().profiles is not SessionConfig().profiles


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"limits": {}}, "limits must be Limits: {}"),
        ({"keepalive": 5}, "keepalive must be KeepaliveConfig: 5"),
        (
            {"profiles": {"a": SessionConfig(), "sip": {}}},
            r"profiles must be Mapping.*SessionConfig.*",
        ),
        ({"open_timeout": "5"}, "open_timeout must be a number or None: '5'"),
    ],
)
def test_values_of_another_type_are_named(options: dict[str, Any], why: str) -> None:
    with pytest.raises(TypeError, match=f"^{why}$"):
        SessionConfig(**options)
