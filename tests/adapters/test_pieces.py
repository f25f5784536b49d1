"""The queue of pieces, case by case; with a driver around it, in ``test_driver``."""

from __future__ import annotations

import asyncio
import gc

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters._pieces import (
    AsyncPieceIterator,
    PieceIterator,
    PieceQueue,
    PieceReceiver,
)


def test_pieces_are_returned_as_they_arrived() -> None:
    queue = PieceQueue()
    assert not queue
    assert queue.put(b"x" * 512, False) == 562
    assert queue.put(b"y", True) == 51
    assert (len(queue), queue.size, queue.messages) == (2, 613, 1)
    assert queue.take() == (b"x" * 512, False)
    assert queue.take() == (b"y", True)
    assert queue.take() is None
    assert (len(queue), queue.size, queue.messages) == (0, 0, 0)


def test_short_pieces_are_joined_within_a_message_only() -> None:
    queue = PieceQueue()
    assert [queue.put("a", False), queue.put("b", False), queue.put("c", True)] == [51, 1, 1]
    queue.put("d", True)
    assert [queue.take(), queue.take()] == [("abc", True), ("d", True)]


def test_empty_piece_only_counts_if_it_ends_a_message() -> None:
    queue = PieceQueue()
    assert queue.put("", False) == 0
    assert queue.put("", True) == 50
    queue.put("x" * 600, False)
    assert queue.put("", True) == 0
    assert [queue.take(), queue.take()] == [("", True), ("x" * 600, True)]


@given(
    st.lists(st.tuples(st.binary(max_size=5), st.booleans()), max_size=40),
    st.lists(st.integers(0, 3)),
)
def test_pieces_are_taken_in_order_for_any_interleaving(
    pieces: list[tuple[bytes, bool]], takes: list[int]
) -> None:
    queue = PieceQueue()
    taken: list[tuple[bytes, bool]] = []
    for number, piece in enumerate(pieces):
        queue.put(*piece)
        for _ in range(takes[number] if number < len(takes) else 0):
            taken += [found for found in [queue.take()] if found is not None]  # type: ignore[misc]
        assert queue.size == sum(len(data) + 50 for data, _ in queue._queue)
        assert queue.messages == sum(finished for _, finished in queue._queue)
    while (found := queue.take()) is not None:
        taken.append(found)  # type: ignore[arg-type]

    def messages(parts: list[tuple[bytes, bool]]) -> list[bytes]:
        found = [b""]
        for data, finished in parts:
            found[-1] += data
            if finished:
                found.append(b"")
        return found

    assert messages(taken) == messages(pieces)


@pytest.mark.parametrize("kind", [str, bytes])
def test_tiny_pieces_are_stored_as_one(kind: type[str] | type[bytes]) -> None:
    queue = PieceQueue()
    letter = "x" if kind is str else b"x"
    for _ in range(2000):
        assert queue.join(letter, False) is None
    assert len(queue._parts) < 10
    assert queue.join(letter, True) == letter * 2001
    assert queue.take_parts() is None


def test_rest_of_a_message_is_skipped_without_its_iterator() -> None:
    for way in ("dropped", "closed"):
        queue = PieceQueue()
        receiver = PieceReceiver()
        queue.claim(receiver)
        assert queue.give(receiver, "a", False) == "a"
        queue.claim(receiver)
        for other in (None, PieceReceiver()):
            with pytest.raises(RuntimeError, match="received in pieces; close its iterator first"):
                queue.claim(other)
        if way == "dropped":
            del receiver
            gc.collect()
        else:
            receiver.close()
        queue.put("b" * 600, False)
        queue.put("c", True)
        queue.put("d", True)
        queue.claim(None)
        assert queue.take() == ("d", True)
        # Also if the rest has not arrived yet.
        queue.give(PieceReceiver(), "e", False)
        gc.collect()
        queue.claim(None)
        assert queue.take() is None
        queue.put("f" * 600, False)
        assert queue.take() is None
        queue.put("g", True)
        queue.put("h", True)
        assert queue.take() == ("h", True)


def test_empty_message_yields_one_empty_piece() -> None:
    queue = PieceQueue()
    empty, other = PieceReceiver(), PieceReceiver()
    assert queue.give(empty, b"", True) == b""
    assert empty.over
    assert queue.give(other, b"a", False) == b"a"
    assert not other.over
    assert queue.give(other, b"", True) is None
    assert other.over
    queue.claim(None)


class Connection:
    """A connection with two pieces."""

    def __init__(self) -> None:
        self.pieces = ["a", "b"]
        self.asked: list[float | None] = []

    def _recv_piece(self, receiver: PieceReceiver, timeout: float | None = None) -> str | None:
        self.asked.append(timeout)
        return self.pieces.pop(0) if self.pieces else None


class AsyncConnection(Connection):
    async def _recv_piece(self, receiver: PieceReceiver) -> str | None:  # type: ignore[override]
        return super()._recv_piece(receiver)


def test_iterators_end_with_the_message_or_when_they_are_closed() -> None:
    connection = Connection()
    assert list(PieceIterator(connection._recv_piece, 2.0)) == ["a", "b"]
    assert connection.asked == [2.0, 2.0, 2.0]
    closed = PieceIterator(Connection()._recv_piece, None)
    closed.close()
    assert list(closed) == []

    async def scenario() -> None:
        assert [piece async for piece in AsyncPieceIterator(AsyncConnection()._recv_piece)] == [
            "a",
            "b",
        ]
        closed = AsyncPieceIterator(AsyncConnection()._recv_piece)
        assert await anext(closed) == "a"
        await closed.aclose()
        assert [piece async for piece in closed] == []

    asyncio.run(scenario())
