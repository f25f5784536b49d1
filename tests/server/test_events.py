"""The events and instructions of an endpoint."""

from __future__ import annotations

import dataclasses

import pytest

from wsproto_sip.events import Event
from wsproto_sip.server.events import (
    AdmissionPending,
    Answer,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    Traffic,
    UnknownConnectionError,
    Writable,
)
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed, TransportAction


def test_connection_events_are_events() -> None:
    ended = ConnectionClosed(1006, "", Cause.END_OF_INPUT)
    for event in (
        Opened(1, "sip", None, None),
        AdmissionPending(1, "who?"),
        Writable(1),
        Closed(1, "192.0.2.1", 4000, "sip", None, None, ended, True),
    ):
        assert isinstance(event, Event)
        assert event.cid == 1
        assert not hasattr(event, "__dict__")


def test_instructions_are_immutable() -> None:
    output, connect = Output(1, b"x", TransportAction.CLOSE), Connect(1, "a", 443, "a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.cid = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        connect.cid = 2  # type: ignore[misc]


def test_closed_has_no_traffic_and_no_answer_by_default() -> None:
    closed = Closed(1, "", None, None, None, None, ConnectionClosed(1000, "", Cause.LOCAL), True)
    assert (closed.answer, closed.traffic) == (None, Traffic(0, 0, 0, 0, 0.0))
    assert Answer(403, "no", None, ("", None)).status == 403


def test_errors() -> None:
    error = UnknownConnectionError(7)
    assert (str(error), error.cid) == ("unknown connection: 7", 7)
    assert isinstance(error, LookupError)
    assert not issubclass(CapacityError, LookupError)
