"""What waits for a connection that is still being opened."""

from __future__ import annotations

import pytest

from wsproto_sip.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto_sip.prepared import PreparedMessage
from wsproto_sip.server.outgoing import Outgoing
from wsproto_sip.server.target import Target
from wsproto_sip.utilities import LocalProtocolError

TARGET = Target.parse("ws://example.com/")


def outgoing(*events: Event | PreparedMessage, octets: int = 100, messages: int = 10) -> Outgoing:
    waiting = Outgoing(TARGET)
    for event in events:
        waiting.add(event, max_messages=messages, max_octets=octets)
    return waiting


def test_messages_wait_in_order() -> None:
    waiting = outgoing(
        TextMessage("é"),
        BytesMessage(b"\xff"),
        PreparedMessage(TextMessage("x")),
        TextMessage(b"y"),  # type: ignore[arg-type]
    )
    assert waiting.target is TARGET
    assert waiting.queue == [
        TextMessage("é"),
        BytesMessage(b"\xff"),
        TextMessage("x"),
        TextMessage(b"y"),  # type: ignore[arg-type]
    ]
    # Octets, not characters.
    assert waiting.size == 5


def test_a_buffer_may_be_used_again() -> None:
    buffer = bytearray(b"first")
    waiting = outgoing(BytesMessage(memoryview(buffer)))  # type: ignore[arg-type]
    buffer[:] = b"other"
    assert waiting.queue == [BytesMessage(b"first")]


def test_the_number_of_messages_is_bounded() -> None:
    waiting = outgoing(BytesMessage(b""), BytesMessage(b""), messages=2)
    with pytest.raises(LocalProtocolError, match="too much"):
        waiting.add(BytesMessage(b""), max_messages=2, max_octets=100)
    assert len(waiting.queue) == 2


def test_their_octets_are_bounded() -> None:
    waiting = outgoing(TextMessage("éé"), octets=5)
    with pytest.raises(LocalProtocolError, match="too much"):
        waiting.add(TextMessage("é"), max_messages=10, max_octets=5)
    waiting.add(TextMessage("e"), max_messages=10, max_octets=5)
    assert waiting.size == 5


@pytest.mark.parametrize(
    "event", [Ping(), CloseConnection(1000), TextMessage("a", message_finished=False)]
)
def test_nothing_but_whole_messages_waits(event: Event) -> None:
    with pytest.raises(LocalProtocolError, match="only whole messages can wait"):
        outgoing(event)


def test_text_that_is_none() -> None:
    for text in ("\ud800", b"\xff"):
        with pytest.raises(LocalProtocolError, match="text cannot be sent"):
            outgoing(TextMessage(text))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        outgoing(BytesMessage(5))  # type: ignore[arg-type]
