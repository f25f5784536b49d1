from __future__ import annotations

import sys

import pytest

from wsproto_sip.sip.message.errors import SipValueError
from wsproto_sip.sip.message.limits import DEFAULT_LIMITS, SipLimits


def test_defaults() -> None:
    assert DEFAULT_LIMITS.bounds == (65536, 100, 4096, 71, 1024)
    assert SipLimits() == DEFAULT_LIMITS


def test_none_removes_a_bound() -> None:
    assert SipLimits(max_vias=None).bounds[3] == sys.maxsize
    assert "bounds" not in repr(SipLimits())


def test_negative_bound_is_refused() -> None:
    with pytest.raises(SipValueError, match="max_uri must not be negative: -1"):
        SipLimits(max_uri=-1)
