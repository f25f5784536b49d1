"""The receiving side of a connection, pure and on the kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests._wire import BINARY, CLOSE, CONTINUATION, TEXT, close_payload, frame
from wsproto_sip._inbox import Inbox
from wsproto_sip._parser import FrameParser
from wsproto_sip.events import BytesMessage, CloseConnection, TextMessage
from wsproto_sip.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator


def pure(base: type = Inbox, parser: type[FrameParser] = FrameParser, **options: Any) -> Any:
    """Return an inbox whose backlog is a list."""

    class Listing(base):  # type: ignore[misc]
        _backlog: list[Any] | None

        def _queue(self, events: list[Any]) -> None:
            self._backlog = [*(self._backlog or ()), *events]
            self._pending = self._drain()

        def _drain(self) -> Iterator[Any]:
            while self._backlog:
                yield self._backlog.pop(0)
            self._backlog, self._pending = None, iter(())

    return Listing(parser(False, Limits(), whole_messages=True, **options))


def on_the_kernel(**options: Any) -> Any:
    reason = "librt is missing: pip install 'wsproto-sip[compiled]'"
    pytest.importorskip("librt.strings", reason=reason)
    from wsproto_sip._compiled import KernelParser
    from wsproto_sip._kernel import KernelInbox

    return pure(KernelInbox, KernelParser, **options)


both = pytest.mark.parametrize("make", [pure, on_the_kernel])


@both
def test_each_read_has_its_events(make: Any) -> None:
    inbox = make()
    inbox.receive_data(frame(TEXT, b"a") + frame(BINARY, b"b"))
    assert list(inbox.events()) == [TextMessage("a"), BytesMessage(b"b")]
    assert list(inbox.events()) == []
    inbox.receive_data(bytearray(frame(TEXT, b"c")))
    assert list(inbox.events()) == [TextMessage("c")]


@both
def test_single_bytes_become_a_message(make: Any) -> None:
    inbox = make()
    for octet in frame(TEXT, b"hello", key=b"\x01\x02\x03\x04"):
        assert list(inbox.events()) == []
        inbox.receive_data(bytes((octet,)))
    assert list(inbox.events()) == [TextMessage("hello")]


@both
@pytest.mark.parametrize(
    "form", [bytearray, memoryview, lambda octet: memoryview(bytearray(octet))]
)
def test_single_bytes_of_any_kind_become_a_message(make: Any, form: Any) -> None:
    inbox = make()
    for index, octet in enumerate(frame(TEXT, b"hello", key=b"\x01\x02\x03\x04")):
        piece = bytes((octet,))
        inbox.receive_data(piece if index % 2 else form(piece))
    assert list(inbox.events()) == [TextMessage("hello")]


@both
@pytest.mark.parametrize("wrong", ["h", 104, ["h"], [104]])
def test_wrong_kind_of_byte_is_refused_and_changes_nothing(make: Any, wrong: Any) -> None:
    inbox = make()
    stream = frame(TEXT, b"hello", key=b"\x01\x02\x03\x04")
    inbox.receive_data(stream[:2])
    for octet in stream[2:]:
        with pytest.raises(TypeError):
            inbox.receive_data(wrong)
        inbox.receive_data(bytes((octet,)))
    assert list(inbox.events()) == [TextMessage("hello")]


@both
def test_single_byte_that_may_be_wrong_is_looked_at(make: Any) -> None:
    inbox = make()
    stream = frame(TEXT, b"a\xc3\xa4b", key=bytes(4))
    for octet in stream:
        inbox.receive_data(bytes((octet,)))
    assert list(inbox.events()) == [TextMessage("a\xe4b")]


@both
def test_single_bytes_continue_what_came_with_a_message(make: Any) -> None:
    inbox = make()
    stream = frame(TEXT, b"hello", key=b"\x01\x02\x03\x04")
    for _ in range(2):
        inbox.receive_data(frame(TEXT, b"a") + stream[:3])
        assert list(inbox.events()) == [TextMessage("a")]
        for octet in stream[3:]:
            assert list(inbox.events()) == []
            inbox.receive_data(bytes((octet,)))
        assert list(inbox.events()) == [TextMessage("hello")]


@both
def test_single_byte_that_is_wrong_fails_at_once(make: Any) -> None:
    """It could be the next byte of ASCII, for which the key has another highest bit."""
    inbox = make()
    for octet in frame(TEXT, b"hello world", key=b"\x00\x80\x00\x80")[:6]:
        inbox.receive_data(bytes((octet,)))
    inbox.receive_data(b"\xff")
    [event] = inbox.events()
    assert isinstance(event, CloseConnection)
    assert event.code == 1007


@both
@pytest.mark.parametrize("singly", [0, 2])
def test_single_bytes_after_the_end_of_input_are_ignored(make: Any, singly: int) -> None:
    inbox = make()
    stream = frame(TEXT, b"hello")
    inbox.receive_data(frame(BINARY, b"a") + stream[:3])
    for octet in stream[3 : 3 + singly]:
        inbox.receive_data(bytes((octet,)))
    assert list(inbox.events()) == [BytesMessage(b"a")]
    inbox.receive_data(None)
    held = inbox._parser.held
    for octet in stream[3 + singly :]:
        inbox.receive_data(bytes((octet,)))
    assert list(inbox.events()) == []
    assert inbox._parser.held == held


@both
def test_events_left_unread_come_first(make: Any) -> None:
    inbox = make()
    inbox.receive_data(frame(TEXT, b"a") + frame(TEXT, b"b"))
    assert next(inbox.events()) == TextMessage("a")
    inbox.receive_data(frame(TEXT, b"c"))
    inbox.receive_data(frame(TEXT, b"d"))
    assert [event.data for event in inbox.events()] == ["b", "c", "d"]


@both
def test_pause_waits_in_the_backlog(make: Any) -> None:
    inbox = make(max_frames=1)
    inbox.receive_data(frame(TEXT, b"a") * 2)
    inbox.receive_data(b"")
    assert inbox._backlog == [TextMessage("a")] * 2


@both
def test_pause_without_events_is_noted(make: Any) -> None:
    inbox = make(max_frames=1)
    first = frame(TEXT, b"a", fin=False)
    inbox.receive_data(first + frame(TEXT, b"")[:1])
    assert inbox._backlog == []


@both
def test_close_frame_waits_in_the_backlog(make: Any) -> None:
    inbox = make()
    inbox.receive_data(frame(CLOSE, close_payload(1000)))
    assert inbox._backlog == [CloseConnection(1000, "")]
    inbox.receive_data(frame(TEXT, b"late"))
    assert inbox._backlog == [CloseConnection(1000, "")]


@both
def test_input_after_its_end_is_ignored(make: Any) -> None:
    inbox = make()
    inbox.receive_data(None)
    assert inbox._backlog == []
    inbox.receive_data(frame(TEXT, b"late"))
    assert list(inbox.events()) == []


@both
def test_other_types_are_refused_after_the_end(make: Any) -> None:
    inbox = make()
    inbox.receive_data(None)
    with pytest.raises(TypeError):
        inbox.receive_data("text")


class Odd(bytes):
    """Bytes with a length and items of their own."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, item: Any) -> Any:
        return 0

    def __add__(self, other: Any) -> bytes:
        return b""


@both
def test_subclass_of_bytes_is_taken_as_its_bytes(make: Any) -> None:
    inbox = make(max_frames=2)
    stream = frame(TEXT, b"abc", fin=False) + frame(CONTINUATION, b"def") + frame(TEXT, b"ghi")
    for piece in (stream[:3], stream[3:8], stream[8:]):
        inbox.receive_data(Odd(piece))
    inbox.receive_data(Odd())
    assert list(inbox.events()) == [TextMessage("abcdef"), TextMessage("ghi")]


@both
def test_other_types_change_nothing(make: Any) -> None:
    inbox = make()
    stream = frame(TEXT, b"abc")
    inbox.receive_data(stream[:7])
    with pytest.raises(TypeError):
        inbox.receive_data("text")
    inbox.receive_data(stream[7:])
    assert list(inbox.events()) == [TextMessage("abc")]
