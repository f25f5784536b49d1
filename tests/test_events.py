from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, strategies as st

from wsproto_sip import events
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    PlainRequest,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

REQUIRED: dict[type[Event], dict[str, object]] = {
    Request: {"host": "example.com", "target": "/"},
    PlainRequest: {"request": Request("example.com", "/"), "method": "GET"},
    AcceptConnection: {},
    RejectConnection: {},
    RejectData: {"data": b"x"},
    CloseConnection: {"code": 1000},
    Message: {"data": "x"},
    TextMessage: {"data": "x"},
    BytesMessage: {"data": b"x"},
    Ping: {},
    Pong: {},
}


def test_all_lists_exactly_the_events() -> None:
    assert {getattr(events, name) for name in events.__all__} == {Event, *REQUIRED}


def test_defaults_of_the_handshake() -> None:
    request = Request("example.com", "/chat")
    assert (request.host, request.target) == ("example.com", "/chat")
    assert (request.extensions, request.extra_headers, request.subprotocols) == ([], [], [])
    accept = AcceptConnection()
    assert (accept.subprotocol, accept.extensions, accept.extra_headers) == (None, [], [])
    reject = RejectConnection()
    assert (reject.status_code, reject.headers, reject.has_body) == (400, [], False)
    assert RejectData(b"x").body_finished


def test_lists_are_not_shared_between_events() -> None:
    first = Request("example.com", "/")
    first.subprotocols.append("sip")
    first.extra_headers.append((b"a", b"b"))
    assert Request("example.com", "/") == Request("example.com", "/", [], [], [])
    accept = AcceptConnection()
    accept.extra_headers.append((b"a", b"b"))
    assert AcceptConnection().extra_headers == []
    reject = RejectConnection()
    reject.headers.append((b"a", b"b"))
    assert RejectConnection().headers == []


@pytest.mark.parametrize("kind", [TextMessage, BytesMessage])
def test_messages_are_whole_by_default(kind: type[TextMessage | BytesMessage]) -> None:
    message = kind(data="x")  # type: ignore[arg-type]
    assert message.frame_finished
    assert message.message_finished
    assert isinstance(message, Message)


def test_text_and_bytes_messages_differ() -> None:
    empty: list[Event] = [TextMessage(""), BytesMessage(b"")]
    assert empty[0] != empty[1]
    assert TextMessage("a") != Message("a")
    assert TextMessage("a") == TextMessage("a")


@given(code=st.integers(), reason=st.none() | st.text())
def test_close_is_answered_with_its_code_and_reason(code: int, reason: str | None) -> None:
    close = CloseConnection(code, reason)
    assert close.response() == close
    assert close.response() is not close
    assert type(close.response()) is CloseConnection


@given(payload=st.binary(max_size=125))
def test_ping_is_answered_with_its_payload(payload: bytes) -> None:
    assert Ping(payload).response() == Pong(payload)
    assert type(Ping(payload).response()) is Pong


def test_ping_without_a_payload() -> None:
    assert Ping().payload == b""
    assert Ping().response() == Pong() == Pong(b"")


@pytest.mark.parametrize("event", [Ping(b"a"), Pong(b"a"), CloseConnection(1000, "a")])
def test_small_events_hash_by_value(event: Event) -> None:
    assert {event: 1}[dataclasses.replace(event)] == 1  # type: ignore[type-var]
    assert len({TextMessage("a"), TextMessage("a"), BytesMessage(b"a")}) == 2


@pytest.mark.parametrize("kind", REQUIRED)
def test_events_are_slotted(kind: type[Event]) -> None:
    event = kind(**REQUIRED[kind])
    assert isinstance(event, Event)
    assert not hasattr(event, "__dict__")
    with pytest.raises(AttributeError):
        event.anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [kind for kind in REQUIRED if kind is not PlainRequest])
def test_wsproto_has_the_same_events(kind: type[Event]) -> None:
    import wsproto.events

    theirs = getattr(wsproto.events, kind.__name__)
    # Message is abstract in name only there, too.
    mine = kind(**REQUIRED[kind])
    assert dataclasses.asdict(mine) == dataclasses.asdict(  # type: ignore[call-overload]
        theirs(**REQUIRED[kind])
    )
    # In the same order, for programs that pass arguments by position.
    assert [item.name for item in dataclasses.fields(kind)] == [  # type: ignore[arg-type]
        item.name for item in dataclasses.fields(theirs)
    ]
