"""The connections that we open."""

from __future__ import annotations

import pytest

from wsproto_sip.events import (
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    TextMessage,
)
from wsproto_sip.server.dialling import Dialling, Target
from wsproto_sip.server.events import (
    Connect,
)
from wsproto_sip.session.prepared import PreparedMessage
from wsproto_sip.uri import WebSocketURI
from wsproto_sip.utilities import LocalProtocolError

TARGET = Target(WebSocketURI.parse("ws://example.com/"))


class TestQueue:
    def queued(
        self, *events: Event | PreparedMessage, max_bytes: int = 100, max_messages: int = 10
    ) -> Dialling:
        dialling = Dialling()
        dialling.add(1, TARGET)
        for event in events:
            dialling.queue(1, event, max_messages=max_messages, max_bytes=max_bytes)
        return dialling

    def test_messages_wait_in_order(self) -> None:
        dialling = self.queued(
            TextMessage("é"),
            BytesMessage(b"\xff"),
            PreparedMessage(TextMessage("x")),
            TextMessage(b"y"),  # type: ignore[arg-type]
        )
        assert 1 in dialling
        assert dialling.open(1) == [
            TextMessage("é"),
            BytesMessage(b"\xff"),
            TextMessage("x"),
            TextMessage(b"y"),  # type: ignore[arg-type]
        ]
        assert 1 not in dialling
        assert dialling.open(1) == []

    def test_buffer_of_a_queued_message_may_be_reused(self) -> None:
        buffer = bytearray(b"first")
        dialling = self.queued(BytesMessage(memoryview(buffer)))  # type: ignore[arg-type]
        buffer[:] = b"other"
        assert dialling.open(1) == [BytesMessage(b"first")]

    def test_number_of_messages_is_bounded(self) -> None:
        dialling = self.queued(BytesMessage(b""), BytesMessage(b""), max_messages=2)
        with pytest.raises(LocalProtocolError, match="too many"):
            dialling.queue(1, BytesMessage(b""), max_messages=2, max_bytes=100)
        assert len(dialling.open(1)) == 2

    def test_bytes_of_messages_are_bounded(self) -> None:
        # In UTF-8, not characters.
        dialling = self.queued(TextMessage("éé"), max_bytes=5)
        with pytest.raises(LocalProtocolError, match="too many"):
            dialling.queue(1, TextMessage("é"), max_messages=10, max_bytes=5)
        dialling.queue(1, TextMessage("e"), max_messages=10, max_bytes=5)
        assert dialling.open(1) == [TextMessage("éé"), TextMessage("e")]

    @pytest.mark.parametrize(
        "event", [Ping(), CloseConnection(1000), TextMessage("a", message_finished=False)]
    )
    def test_only_whole_messages_are_queued(self, event: Event) -> None:
        with pytest.raises(LocalProtocolError, match="only whole messages can wait"):
            self.queued(event)

    def test_text_that_cannot_be_encoded_is_refused_at_once(self) -> None:
        for text in ("\ud800", b"\xff"):
            with pytest.raises(LocalProtocolError, match="text cannot be sent"):
                self.queued(TextMessage(text))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            self.queued(BytesMessage(5))  # type: ignore[arg-type]

    def test_connection_of_a_client_takes_no_messages(self) -> None:
        with pytest.raises(LocalProtocolError, match="connection 2 is not open"):
            self.queued().queue(2, TextMessage("a"), max_messages=1, max_bytes=1)


class TestTargets:
    def test_latest_connection_to_a_target_is_found(self) -> None:
        dialling = Dialling()
        assert dialling.find(TARGET) is None
        dialling.add(1, TARGET)
        dialling.add(2, TARGET)
        assert dialling.find(TARGET) == 2
        dialling.forget(1)
        assert dialling.find(TARGET) == 2
        dialling.forget(2)
        assert dialling.find(TARGET) is None

    def test_open_connection_is_found_until_it_is_forgotten(self) -> None:
        dialling = Dialling()
        dialling.add(1, TARGET)
        dialling.open(1)
        assert dialling.find(TARGET) == 1
        dialling.forget(1)
        assert dialling.find(TARGET) is None

    def test_transport_is_not_wanted_for_a_connection_that_has_ended(self) -> None:
        dialling = Dialling()
        dialling.add(1, Target(WebSocketURI.parse("wss://[2001:db8::1]/")))
        dialling.add(2, TARGET)
        dialling.forget(2)
        dialling.forget(3)
        assert dialling.take_connects() == [Connect(1, "2001:db8::1", 443, "2001:db8::1")]
        assert dialling.take_connects() == []

    def test_only_a_connection_that_is_being_opened_waits_for_a_transport(self) -> None:
        dialling = Dialling()
        dialling.add(1, TARGET)
        assert dialling.target(1) is TARGET
        dialling.open(1)
        for cid in (1, 2):
            with pytest.raises(LocalProtocolError, match=f"{cid} is not waiting for a transport"):
                dialling.target(cid)
