"""The states of a connection and the transitions between them."""

from __future__ import annotations

import pytest

from wsproto_sip.states import TRANSITIONS, ConnectionState, ConnectionType, Step

# RFC 6455 §4 and §7.1, as a drawing: a state, an event, the next state.
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


def test_public_names() -> None:
    assert [role.name for role in ConnectionType] == ["CLIENT", "SERVER"]
    assert [state.name for state in ConnectionState] == [
        "CONNECTING",
        "OPEN",
        "REMOTE_CLOSING",
        "LOCAL_CLOSING",
        "CLOSED",
        "REJECTING",
    ]


def test_wsproto_has_the_same_names_and_values() -> None:
    import wsproto.connection

    for ours, theirs in (
        (ConnectionType, wsproto.connection.ConnectionType),
        (ConnectionState, wsproto.connection.ConnectionState),
    ):
        assert {item.name: item.value for item in ours} == {
            item.name: item.value for item in theirs
        }


def test_transitions_are_exactly_these() -> None:
    drawn = {
        (ConnectionState[state], Step[step]): ConnectionState[following]
        for state, step, following in map(str.split, DRAWING.strip().splitlines())
    }
    assert dict(TRANSITIONS) == drawn


def test_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[ConnectionState.CLOSED, Step.ACCEPT] = ConnectionState.OPEN  # type: ignore[index]


def test_every_state_is_reachable_and_can_end() -> None:
    reached = {ConnectionState.CONNECTING}
    while (
        more := {after for (state, _), after in TRANSITIONS.items() if state in reached} - reached
    ):
        reached |= more
    assert reached == set(ConnectionState)
    assert {state for state, step in TRANSITIONS if step is Step.END} == set(ConnectionState)
    # Nothing goes back: each transition leads to a state that comes later in the table.
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


def test_every_step_has_a_text_of_its_own() -> None:
    texts = [step.value for step in Step]
    assert len(set(texts)) == len(texts)
    assert all(text and text.isprintable() for text in texts)
