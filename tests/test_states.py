from __future__ import annotations

from wsproto_sip.states import ConnectionState, ConnectionType


def test_names() -> None:
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
