from __future__ import annotations

from typing import get_args

import pytest

from wsproto_sip.msrp.client import events as session_events
from wsproto_sip.msrp.client.events import MessageFailed, MsrpEvent, SendProgress


def test_events_are_values() -> None:
    assert SendProgress(b"m", 1, 2) == SendProgress(b"m", 1, 2)
    assert len({MessageFailed(b"m", 413), MessageFailed(b"m", 413, b"")}) == 1
    with pytest.raises(AttributeError):
        SendProgress(b"m", 1, 2).total = 3  # type: ignore[misc]


def test_every_event_is_in_the_union() -> None:
    named = {getattr(session_events, name) for name in session_events.__all__}
    assert set(get_args(MsrpEvent)) == named - {MsrpEvent}
