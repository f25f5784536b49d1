from __future__ import annotations

from typing import get_args

import pytest

from wsproto_sip.msrp import session_events
from wsproto_sip.msrp.session_events import MessageFailed, MsrpEvent, SendProgress


def test_events_are_values() -> None:
    assert SendProgress(b"m", 1, 2) == SendProgress(b"m", 1, 2)
    assert len({MessageFailed(b"m", 413), MessageFailed(b"m", 413, b"")}) == 1
    with pytest.raises(AttributeError):
        SendProgress(b"m", 1, 2).total = 3  # type: ignore[misc]


def test_all_of_them_are_told_of() -> None:
    named = {getattr(session_events, name) for name in session_events.__all__}
    assert set(get_args(MsrpEvent)) == named - {MsrpEvent}
