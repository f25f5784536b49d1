"""The report of the end of a session."""

from __future__ import annotations

import pytest

from wsproto_sip.events import CloseConnection, Event
from wsproto_sip.session.lifecycle import Cause, CheckTransport, ConnectionClosed, TransportAction


@pytest.mark.parametrize("names", [Cause, TransportAction])
def test_every_name_has_a_text_of_its_own(names: type[Cause | TransportAction]) -> None:
    texts = [member.value for member in names]
    assert len(set(texts)) == len(texts)
    assert all(text and text.isprintable() for text in texts)


def test_causes() -> None:
    assert [cause.value for cause in Cause] == [
        "remote",
        "local",
        "end of input",
        "protocol error",
        "limit",
        "keep-alive",
        "idle",
        "pause",
        "age",
        "send timeout",
        "open timeout",
        "close timeout",
        "rejection",
        "TLS",
        "administrator",
        "shutdown",
    ]


def test_events_are_values() -> None:
    event = ConnectionClosed(1006, "gone", Cause.END_OF_INPUT)
    assert isinstance(event, Event)
    assert event == ConnectionClosed(1006, "gone", Cause.END_OF_INPUT, None, None)
    assert event != ConnectionClosed(
        1006, "gone", Cause.END_OF_INPUT, close_sent=CloseConnection(1000)
    )
    assert CheckTransport() == CheckTransport()
    assert isinstance(CheckTransport(), Event)
    assert not hasattr(event, "__dict__")
