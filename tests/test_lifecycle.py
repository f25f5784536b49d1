"""The states of a session and the ways between them."""

from __future__ import annotations

import pytest

from wsproto_sip.events import CloseConnection, Event
from wsproto_sip.lifecycle import (
    TRANSITIONS,
    Cause,
    CheckTransport,
    ConnectionClosed,
    Step,
    TransportAction,
)
from wsproto_sip.states import ConnectionState

# RFC 6455 §4 and §7.1, as a drawing: a state, what happens, the next state.
DRAWING = """
CONNECTING      ACCEPT         OPEN
CONNECTING      REJECT         REJECTING
OPEN            SEND_CLOSE     LOCAL_CLOSING
OPEN            RECEIVE_CLOSE  REMOTE_CLOSING
LOCAL_CLOSING   RECEIVE_CLOSE  CLOSED
REMOTE_CLOSING  SEND_CLOSE     CLOSED
CONNECTING      END            CLOSED
REJECTING       END            CLOSED
OPEN            END            CLOSED
LOCAL_CLOSING   END            CLOSED
REMOTE_CLOSING  END            CLOSED
CLOSED          END            CLOSED
"""


def test_the_ways_are_these_and_no_others() -> None:
    drawn = {
        (ConnectionState[state], Step[step]): ConnectionState[following]
        for state, step, following in map(str.split, DRAWING.strip().splitlines())
    }
    assert dict(TRANSITIONS) == drawn


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[ConnectionState.CLOSED, Step.ACCEPT] = ConnectionState.OPEN  # type: ignore[index]


def test_every_state_is_reached_and_left_for_the_end_alone() -> None:
    reached = {ConnectionState.CONNECTING}
    while (
        more := {after for (state, _), after in TRANSITIONS.items() if state in reached} - reached
    ):
        reached |= more
    assert reached == set(ConnectionState)
    assert {state for state, step in TRANSITIONS if step is Step.END} == set(ConnectionState)
    # Nothing goes back: each way leads to a state that the table's own order has further on.
    order = [
        ConnectionState.CONNECTING,
        ConnectionState.REJECTING,
        ConnectionState.OPEN,
        ConnectionState.LOCAL_CLOSING,
        ConnectionState.REMOTE_CLOSING,
        ConnectionState.CLOSED,
    ]
    for (state, _), after in TRANSITIONS.items():
        assert order.index(state) < order.index(after) or state is after is ConnectionState.CLOSED


@pytest.mark.parametrize("names", [Cause, Step, TransportAction])
def test_every_name_has_a_text_of_its_own(names: type[Cause | Step | TransportAction]) -> None:
    texts = [member.value for member in names]
    assert len(set(texts)) == len(texts)
    assert all(text and text.isprintable() for text in texts)


def test_the_causes() -> None:
    assert [cause.value for cause in Cause] == [
        "remote",
        "local",
        "end of input",
        "protocol error",
        "limit",
        "keep-alive",
        "idle",
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
