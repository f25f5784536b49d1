"""What an endpoint tells and wants."""

from __future__ import annotations

import dataclasses

import pytest

from wsproto_sip.events import Event
from wsproto_sip.lifecycle import Cause, ConnectionClosed, TransportAction
from wsproto_sip.server.endpoint_events import (
    AdmissionPending,
    CapacityError,
    Closed,
    Connect,
    Opened,
    Output,
    UnknownConnectionError,
    Writable,
)


def test_what_happens_on_a_connection_is_an_event() -> None:
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


def test_what_is_wanted_of_transports_does_not_change() -> None:
    output, connect = Output(1, b"x", TransportAction.CLOSE), Connect(1, "a", 443, True)
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.cid = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        connect.cid = 2  # type: ignore[misc]


def test_errors() -> None:
    error = UnknownConnectionError(7)
    assert (str(error), error.cid) == ("unknown connection: 7", 7)
    assert isinstance(error, LookupError)
    assert not issubclass(CapacityError, LookupError)
