from __future__ import annotations

import pytest
from hypothesis import example, given, strategies as st

from wsproto_sip.msrp.message.chunk import Continuation
from wsproto_sip.msrp.message.chunking import (
    DEFAULT_CHUNK_SIZE,
    MessageSplitter,
    Piece,
    Reassembled,
    Reassembler,
    ReassemblyError,
    reported_range,
)
from wsproto_sip.msrp.message.fields import ByteRange
from wsproto_sip.msrp.message.limits import MsrpLimits
from wsproto_sip.utilities import LocalProtocolError

COMPLETE, MORE, ABORT = Continuation.COMPLETE, Continuation.MORE, Continuation.ABORT


def pieces_of(splitter: MessageSplitter) -> list[Piece]:
    found = []
    while not splitter.finished:
        found.append(splitter.next_piece())
    return found


def take(
    reassembler: Reassembler,
    where: bytes | None,
    data: bytes,
    flag: Continuation = MORE,
    message_id: bytes = b"m",
) -> Reassembled:
    byte_range = None if where is None else ByteRange.parse(where)
    return reassembler.receive(message_id, byte_range, data, flag)


# -- splitting -----------------------------------------------------------------------------------


def test_pieces() -> None:
    splitter = MessageSplitter(b"abcdefg", chunk_size=3)
    assert splitter.total == 7
    assert pieces_of(splitter) == [
        Piece(ByteRange(1, 3, 7), b"abc", MORE),
        Piece(ByteRange(4, 6, 7), b"def", MORE),
        Piece(ByteRange(7, 7, 7), b"g", COMPLETE),
    ]
    assert splitter.finished
    assert splitter.position == 7


def test_empty_message_is_one_piece() -> None:
    assert pieces_of(MessageSplitter(b"")) == [Piece(ByteRange(1, 0, 0), b"", COMPLETE)]


def test_message_of_exactly_one_piece() -> None:
    body = b"x" * DEFAULT_CHUNK_SIZE
    assert pieces_of(MessageSplitter(body)) == [Piece(ByteRange(1, 2048, 2048), body, COMPLETE)]
    assert len(pieces_of(MessageSplitter(body + b"y"))) == 2


def test_chunk_size() -> None:
    with pytest.raises(ValueError, match="chunk_size must be positive: 0"):
        MessageSplitter(b"", chunk_size=0)


def test_abort() -> None:
    splitter = MessageSplitter(b"abcd", chunk_size=2)
    splitter.next_piece()
    assert splitter.abort() == Piece(ByteRange(3, 2, 4), b"", ABORT)
    with pytest.raises(LocalProtocolError, match="finished"):
        splitter.next_piece()
    assert splitter.abort() is None
    fresh = MessageSplitter(b"abcd")
    assert fresh.abort() is None
    assert fresh.finished
    done = MessageSplitter(b"abcd")
    pieces_of(done)
    assert done.abort() is None


# -- putting together ----------------------------------------------------------------------------


def test_in_order() -> None:
    reassembler = Reassembler()
    assert take(reassembler, b"1-3/7", b"abc") == Reassembled(3, 7)
    assert take(reassembler, b"4-6/7", b"def") == Reassembled(6, 7)
    assert reassembler.buffered == 6 + 128
    assert take(reassembler, b"7-7/7", b"g", COMPLETE) == Reassembled(7, 7, b"abcdefg")
    assert (len(reassembler), reassembler.buffered) == (0, 0)


def test_last_byte_may_come_first() -> None:
    reassembler = Reassembler()
    assert take(reassembler, b"7-*/*", b"g", COMPLETE) == Reassembled(1, 7)
    assert take(reassembler, b"4-*/*", b"def") == Reassembled(4, 7)
    assert take(reassembler, b"1-*/*", b"abc") == Reassembled(7, 7, b"abcdefg")


def test_unknown_totals() -> None:
    reassembler = Reassembler()
    assert take(reassembler, b"1-*/*", b"abc") == Reassembled(3, None)
    assert take(reassembler, b"4-*/*", b"", COMPLETE) == Reassembled(3, 3, b"abc")


def test_missing_range_means_the_whole_message() -> None:
    assert take(Reassembler(), None, b"abc", COMPLETE) == Reassembled(3, 3, b"abc")


@pytest.mark.parametrize("where", [b"1-0/0", b"1-*/*", b"1-*/0"])
def test_empty_messages(where: bytes) -> None:
    assert take(Reassembler(), where, b"", COMPLETE) == Reassembled(0, 0, b"")


def test_message_is_complete_only_with_its_end() -> None:
    reassembler = Reassembler()
    assert take(reassembler, b"1-3/3", b"abc") == Reassembled(3, 3)
    assert take(reassembler, b"4-3/3", b"", COMPLETE) == Reassembled(3, 3, b"abc")


def test_interrupted_chunk_may_be_shorter_than_announced() -> None:
    reassembler = Reassembler()
    assert take(reassembler, b"1-6/6", b"ab") == Reassembled(2, 6)
    assert take(reassembler, b"3-6/6", b"cdef", COMPLETE).body == b"abcdef"


@pytest.mark.parametrize(
    ("chunks", "body"),
    [
        # The later one covers, lies inside, overlaps on the left, on the right, over many.
        ([(1, b"aaaa"), (1, b"bbbb")], b"bbbbzz"),
        ([(1, b"aaaa"), (2, b"bb")], b"abbazz"),
        ([(3, b"aa"), (1, b"bbb")], b"bbbazz"),
        ([(1, b"aaa"), (3, b"bb")], b"aabbzz"),
        ([(1, b"a"), (3, b"a"), (1, b"bbbb")], b"bbbbzz"),
        ([(1, b"ab"), (4, b"d"), (2, b"xyz")], b"axyzzz"),
        ([(2, b"a"), (4, b"c"), (1, b"xxxx")], b"xxxxzz"),
    ],
)
def test_last_overlap_wins(chunks: list[tuple[int, bytes]], body: bytes) -> None:
    reassembler = Reassembler()
    for start, data in chunks:
        assert take(reassembler, b"%d-*/*" % start, data).body is None
    assert take(reassembler, b"5-6/6", b"zz", COMPLETE) == Reassembled(6, 6, body)


def test_abort_drops_the_message() -> None:
    reassembler = Reassembler()
    take(reassembler, b"1-*/9", b"abc")
    assert take(reassembler, b"4-*/9", b"d", ABORT) == Reassembled(3, 9, None, True)
    assert (len(reassembler), reassembler.buffered) == (0, 0)
    assert take(reassembler, b"1-*/*", b"x", ABORT) == Reassembled(0, None, None, True)


def test_discarded_messages_are_dropped() -> None:
    reassembler = Reassembler()
    take(reassembler, b"1-*/*", b"abc", message_id=b"a")
    take(reassembler, b"1-*/*", b"abcd", message_id=b"b")
    reassembler.discard(b"none")
    reassembler.discard(b"a")
    assert (len(reassembler), reassembler.buffered) == (1, 4 + 128)
    reassembler.clear()
    assert (len(reassembler), reassembler.buffered) == (0, 0)


@pytest.mark.parametrize(
    ("chunks", "message"),
    [
        ([(b"1-2/9", b"abc", MORE)], "3 bytes in a range that ends at 2"),
        ([(b"1-4/4", b"abc", COMPLETE)], "3 bytes in a range that ends at 4"),
        ([(b"1-*/4", b"abc", COMPLETE)], "a message of 3 and of 4 bytes"),
        ([(b"1-*/4", b"a", MORE), (b"2-*/5", b"b", MORE)], "a message of 4 and of 5 bytes"),
        ([(b"2-*/*", b"b", COMPLETE), (b"4-*/*", b"d", COMPLETE)], "a message of 2 and of 4"),
        ([(b"1-*/2", b"abc", MORE)], "beyond the message's total of 2"),
        ([(b"5-*/*", b"e", MORE), (b"1-*/*", b"a", COMPLETE)], "beyond the message's total of 1"),
        ([(b"5-*/*", b"e", MORE), (b"1-1/4", b"a", MORE)], "beyond the message's total of 4"),
    ],
)
def test_contradictions(chunks: list[tuple[bytes, bytes, Continuation]], message: str) -> None:
    reassembler = Reassembler()
    for where, data, flag in chunks[:-1]:
        take(reassembler, where, data, flag)
    with pytest.raises(ReassemblyError, match=message) as caught:
        take(reassembler, *chunks[-1])
    assert caught.value.status == 400
    assert (len(reassembler), reassembler.buffered) == (0, 0)


def refused(reassembler: Reassembler, where: bytes, data: bytes, message_id: bytes = b"m") -> str:
    with pytest.raises(ReassemblyError) as caught:
        take(reassembler, where, data, message_id=message_id)
    assert caught.value.status == 413
    return str(caught.value)


def test_message_size_is_limited() -> None:
    reassembler = Reassembler(limits=MsrpLimits(max_message_size=4))
    assert take(reassembler, b"1-4/4", b"abcd", COMPLETE).body == b"abcd"
    text = "a message of more than 4 bytes"
    assert refused(reassembler, b"1-*/*", b"abcde") == text
    assert refused(reassembler, b"5-*/*", b"a") == text
    assert refused(reassembler, b"1-*/5", b"a") == text
    assert refused(reassembler, b"9223372036854775807-*/*", b"a") == text


def test_number_of_pieces_is_limited() -> None:
    reassembler = Reassembler(limits=MsrpLimits(max_pieces=2))
    take(reassembler, b"1-*/*", b"a")
    take(reassembler, b"3-*/*", b"c")
    take(reassembler, b"4-*/*", b"d")
    assert refused(reassembler, b"6-*/*", b"f") == "a message in more than 2 pieces"


def test_number_of_messages_is_limited() -> None:
    reassembler = Reassembler(limits=MsrpLimits(max_messages=1))
    take(reassembler, b"1-*/*", b"a")
    assert refused(reassembler, b"1-*/*", b"a", b"n") == "more than 1 incomplete messages"
    assert take(reassembler, b"1-*/*", b"a", COMPLETE, b"n").body == b"a"
    assert take(reassembler, b"2-*/*", b"b", COMPLETE).body == b"ab"


def test_total_size_is_limited() -> None:
    reassembler = Reassembler(limits=MsrpLimits(max_buffered=2 * 128 + 6))
    take(reassembler, b"1-*/*", b"aaa")
    take(reassembler, b"1-*/*", b"bbb", message_id=b"n")
    assert refused(reassembler, b"4-*/*", b"a") == "more than 262 bytes in incomplete messages"
    assert (len(reassembler), reassembler.buffered) == (1, 131)


def test_distant_chunk_costs_only_its_size() -> None:
    reassembler = Reassembler()
    take(reassembler, b"16000000-*/*", b"x")
    assert reassembler.buffered == 129


@pytest.mark.parametrize(
    ("claimed", "size", "last", "reported"),
    [
        (None, 5, True, b"1-5/5"),
        (None, 5, False, b"1-5/*"),
        (b"1-*/*", 0, True, b"1-0/0"),
        (b"4-*/*", 5, True, b"4-8/8"),
        (b"4-9/20", 5, False, b"4-8/20"),
        (b"4-*/20", 30, False, b"4-*/20"),
        (b"9223372036854775807-*/*", 9, False, b"9223372036854775807-*/*"),
    ],
)
def test_report_has_the_actual_range(
    claimed: bytes | None, size: int, last: bool, reported: bytes
) -> None:
    assert bytes(reported_range(claimed, size, last)) == reported


# -- properties ----------------------------------------------------------------------------------


@given(st.binary(max_size=60), st.integers(1, 70), st.randoms(use_true_random=False))
def test_any_chunking_in_any_order(body: bytes, size: int, random: object) -> None:
    pieces = pieces_of(MessageSplitter(body, chunk_size=size))
    assert b"".join(piece.data for piece in pieces) == body
    assert all(len(piece.data) <= size for piece in pieces)
    assert [piece.continuation for piece in pieces] == [MORE] * (len(pieces) - 1) + [COMPLETE]
    random.shuffle(pieces)  # type: ignore[attr-defined]
    reassembler = Reassembler()
    results = [
        reassembler.receive(b"m", piece.byte_range, piece.data, piece.continuation)
        for piece in pieces
    ]
    assert [result.body for result in results] == [None] * (len(pieces) - 1) + [body]
    assert reassembler.buffered == 0


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=2),
    st.integers(1, 10),
    st.lists(st.booleans(), max_size=80),
)
def test_any_interleaving_of_two_messages(
    bodies: list[bytes], size: int, turns: list[bool]
) -> None:
    splitters = [MessageSplitter(body, chunk_size=size) for body in bodies]
    reassembler = Reassembler()
    found: dict[int, bytes] = {}
    for turn in [*turns, *[False] * 40, *[True] * 40]:
        if not splitters[turn].finished:
            piece = splitters[turn].next_piece()
            result = reassembler.receive(
                b"%d" % turn, piece.byte_range, piece.data, piece.continuation
            )
            if result.body is not None:
                found[turn] = result.body
    assert found == {0: bodies[0], 1: bodies[1]}


@given(
    st.lists(st.tuples(st.integers(0, 30), st.binary(min_size=1, max_size=8)), max_size=30),
)
@example([(0, b"abcd"), (1, b"x"), (0, b"yy"), (6, b"z"), (2, b"qqqqqqqq")])
def test_overlaps_against_a_flat_buffer(chunks: list[tuple[int, bytes]]) -> None:
    reassembler = Reassembler()
    model: dict[int, int] = {}
    for start, data in chunks:
        model.update(enumerate(data, start))
        result = take(reassembler, b"%d-*/*" % (start + 1), data)
        assert result == Reassembled(len(model), None)
        assert len(model) <= reassembler.buffered <= len(model) * 129
    # Fill the holes and end the message.
    total = max(model, default=-1) + 1
    for hole in range(total):
        if hole not in model:
            model[hole] = 0
            take(reassembler, b"%d-*/*" % (hole + 1), b"\0")
    result = take(reassembler, b"%d-*/*" % (total + 1), b"", COMPLETE)
    assert result.body == bytes(model[at] for at in range(total))
