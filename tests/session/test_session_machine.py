"""A session with another one, of this package and of others, over an unreliable transport.

Theory of operation: two ends and two wires between them. Rules make the ends talk, move bytes in
pieces, cut the wires, let time pass or set a clock back. The invariants are checked after each
rule; comments have their numbers: 1-4 any split gives the same, every event has its input and comes
before the end, nothing is raised; 5-15 everything sent is delivered, in valid frames, within the
limits; 20-24 how it ends; 41-45 pauses, keep-alive and clocks.
"""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

pytest.importorskip("websockets")
pytest.importorskip("wsproto")

from tests._parties import Ours, Party, Refused, Websockets, Wsproto
from wsproto_sip.events import CloseConnection, Message, Ping, Pong
from wsproto_sip.limits import Limits, bound
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import Cause, TransportAction
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wsproto_sip.session.session import Session

CLIENT, SERVER = ConnectionType.CLIENT, ConnectionType.SERVER

#: The maximum size of a message in bytes.
MOST = 1000
#: The maximum number of frames of a message.
FRAMES = 6

ENDS = st.sampled_from([0, 1])
DATA = st.one_of(
    st.text(max_size=20),
    st.binary(max_size=20),
    st.sampled_from([MOST - 1, MOST, MOST + 1]).map(lambda size: "x" * size),
    st.sampled_from([130, MOST, MOST + 1]).map(bytes),
    st.just("ü" * (MOST // 2)),
)
CODES = st.sampled_from([1000, 1001, 1003, 1008, 1011, 3000, 4999])
CONFIGS = st.builds(
    SessionConfig,
    limits=st.builds(
        Limits,
        max_message_size=st.just(MOST),
        max_fragments=st.just(FRAMES),
        max_frames_per_call=st.sampled_from([1, 3, 256]),
        max_queued_messages=st.sampled_from([1, 16]),
        max_control_rate=st.just(5),
        control_burst=st.just(20),
        max_outgoing=st.sampled_from([3000, 100_000]),
        high_water=st.just(1000),
    ),
    send_timeout=st.sampled_from([None, 20.0]),
    idle_timeout=st.sampled_from([None, None, 30.0]),
    max_age=st.sampled_from([None, None, 100.0]),
    pause_timeout=st.sampled_from([None, 40.0]),
    keepalive=st.builds(
        KeepaliveConfig,
        st.sampled_from([Mechanism.PING, Mechanism.PING, Mechanism.PING, Mechanism.NONE]),
        interval=st.sampled_from([5, 25]),
        answer_timeout=st.sampled_from([3, 20]),
    ),
    auto_pause=st.booleans(),
    whole_messages=st.booleans(),
    text_as_bytes=st.booleans(),
)


class Wire:
    """One direction of a transport."""

    def __init__(self) -> None:
        self.raw = bytearray()
        self.taken = 0
        # The writer has closed it; the reader knows.
        self.finished = False
        self.told = False


class SessionMachine(RuleBasedStateMachine):
    """Two ends, of which the first is ours."""

    role: ClassVar[ConnectionType] = SERVER
    other: ClassVar[type[Party]] = Ours

    @initialize(configs=st.tuples(CONFIGS, CONFIGS), deflate=st.booleans(), seed=st.integers(0, 99))
    def begin(self, configs: tuple[SessionConfig, SessionConfig], deflate: bool, seed: int) -> None:
        self.now = 0.0
        self.wires = (Wire(), Wire())
        # What each end sent, in whole messages; the type of the message it has started.
        self.said: tuple[list[str | bytes], list[str | bytes]] = ([], [])
        self.unfinished: list[str | bytes | None] = [None, None]
        self.gone = [False, False]
        opposite = SERVER if self.role is CLIENT else CLIENT
        first = Ours(self.role, deflate, configs[0], seed)
        second = (
            Ours(opposite, deflate, configs[1], seed + 100)
            if self.other is Ours
            else self.other(opposite, deflate)
        )
        self.ends: tuple[Party, Party] = (first, second)
        for end in self.ends:
            end.begin()
        # An opening handshake most of the time.
        if seed % 5:
            for number in (0, 1) * 2:
                self._write(number)
                self._carry(number, 10_000)

    def sessions(self) -> Iterator[tuple[int, Ours]]:
        for number, end in enumerate(self.ends):
            if isinstance(end, Ours):
                yield number, end

    # -- the transport -----------------------------------------------------------------------------

    def _write(self, number: int) -> None:
        end, wire = self.ends[number], self.wires[number]
        data, action = end.take()
        if wire.finished:
            return
        wire.raw += data
        self._tell_backlog(number)
        if action is TransportAction.ABORT:
            self._cut()
        elif action is TransportAction.CLOSE:
            wire.finished = True
            self._settle(number)

    def _tell_backlog(self, number: int) -> None:
        end = self.ends[number]
        if isinstance(end, Ours):
            keepalive = end.session.keepalive
            held = keepalive.held
            end.session.transport_backlog(len(self.wires[number].raw), end.clock)
            if held and not keepalive.held and end.pinged is not None:
                # Its time starts when it has left.
                end.pinged = end.pinged[0], end.clock
            end.moved = self.now

    def _carry(self, number: int, count: int) -> None:
        wire, reader = self.wires[number], self.ends[1 - number]
        if isinstance(reader, Ours) and reader.session.has_work:
            # In the order in which an adapter does it.
            reader.timeout()
            return
        data = bytes(wire.raw[:count])
        if data:
            del wire.raw[:count]
            wire.taken += len(data)
            self._tell_backlog(number)
            if not self.gone[1 - number]:
                reader.feed(data)
        self._settle(number)

    def _settle(self, number: int) -> None:
        """End a wire that is empty."""
        wire = self.wires[number]
        if wire.finished and not wire.raw and not wire.told:
            wire.told = True
            self._lose(1 - number)
            self._lose(number)

    def _lose(self, number: int) -> None:
        """Report to an end that its transport is gone."""
        if not self.gone[number]:
            self.gone[number] = True
            self.ends[number].feed(None)

    def _cut(self) -> None:
        for number, wire in enumerate(self.wires):
            wire.raw.clear()
            wire.finished = wire.told = True
            self._lose(number)

    # -- rules -------------------------------------------------------------------------------------

    @rule(number=ENDS, data=DATA)
    def say(self, number: int, data: str | bytes) -> None:
        if self.unfinished[number] is not None:
            return
        try:
            self.ends[number].say(data, True, True)
        except Refused:
            return
        self.said[number].append(data)

    @rule(number=ENDS, data=DATA)
    def say_at_once(self, number: int, data: str | bytes) -> None:
        end, wire = self.ends[number], self.wires[number]
        if self.unfinished[number] is not None or not isinstance(end, Ours):
            return
        try:
            raw = end.session.send_message(data, end.clock)
        except LocalProtocolError:
            return
        self.said[number].append(data)
        end.frames.read(raw)
        if not wire.finished:
            wire.raw += raw
        self._write(number)

    @rule(number=ENDS, text=st.text(max_size=5), as_text=st.booleans(), last=st.booleans())
    def say_piece(self, number: int, text: str, as_text: bool, last: bool) -> None:
        before = self.unfinished[number]
        last |= not self.ends[1 - number].takes_pieces
        if before is not None:
            as_text = isinstance(before, str)
        data: str | bytes = text if as_text else text.encode()
        try:
            self.ends[number].say(data, before is None, last)
        except Refused:
            return
        whole = data if before is None else before + data  # type: ignore[operator]
        self.unfinished[number] = None if last else whole
        if last:
            self.said[number].append(whole)

    @rule(number=ENDS, payload=st.binary(max_size=125))
    def ping(self, number: int, payload: bytes) -> None:
        with suppress(Refused):
            self.ends[number].ping(payload)

    @rule(number=ENDS, code=CODES, reason=st.text(max_size=40))
    @precondition(lambda self: self.now > 5)
    def close(self, number: int, code: int, reason: str) -> None:
        reason = reason.encode()[:100].decode(errors="ignore")
        self.ends[number].close(code, reason)

    @rule(number=ENDS)
    def write(self, number: int) -> None:
        self._write(number)

    @rule(number=ENDS, count=st.integers(1, 12))
    def carry_a_bit(self, number: int, count: int) -> None:
        self._carry(number, count)

    @rule(number=ENDS)
    def carry(self, number: int) -> None:
        self._write(number)
        self._carry(number, 100_000)

    @rule(number=ENDS)
    def pause(self, number: int) -> None:
        end = self.ends[number]
        if isinstance(end, Ours):
            end.session.pause(end.clock)

    @rule(number=ENDS)
    def resume(self, number: int) -> None:
        end = self.ends[number]
        if isinstance(end, Ours):
            end.happened(end.session.resume(end.clock))

    @rule(seconds=st.sampled_from([0.0, 0.125, 1.0, 3.0, 10.0, 50.0]))
    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        for _ in range(1000):
            due = []
            for number, end in self.sessions():
                when = end.session.next_deadline()
                if when is not None and when - end.offset <= until:
                    due.append((max(when - end.offset, self.now), number))
            if not due:
                break
            now, number = min(due)
            self._set_time(now)
            [session] = [session for place, session in self.sessions() if place == number]
            session.timeout()
            self._write(number)
        else:
            raise AssertionError("time stands still")
        self._set_time(until)

    def _set_time(self, now: float) -> None:
        self.now = now
        for _, end in self.sessions():
            end.now = now

    @rule(number=ENDS, seconds=st.sampled_from([0.25, 7.0, 2.0**20]))
    def set_clock_back(self, number: int, seconds: float) -> None:
        """45: setting the clock back moves every deadline, and nothing else."""
        end = self.ends[number]
        if isinstance(end, Ours):
            end.timeout()
            while end.session.has_work:
                end.timeout()
            before = end.session.next_deadline()
            end.offset -= seconds
            end.timeout()
            if end.pinged is not None:
                end.pinged = (end.pinged[0], end.pinged[1] - seconds)
            after = end.session.next_deadline()
            if before is None:
                assert after is None
            else:
                assert after == pytest.approx(before - seconds, abs=1e-6)

    @rule()
    @precondition(lambda self: self.now > 10)
    def cut(self) -> None:
        self._cut()

    @rule(number=ENDS)
    def nothing(self, number: int) -> None:
        """2: early, repeated or refused calls change nothing either."""
        end = self.ends[number]
        if not isinstance(end, Ours) or end.session.has_work:
            return
        session = end.session
        before = (
            session.state,
            session.next_deadline(),
            session.transport_action,
            session._output._frames,
        )
        assert session.receive(b"", end.clock) == []
        assert session.handle_timeout(end.clock) == []
        for code in (999, 1004, 5000):
            if session.state is ConnectionState.OPEN:
                with pytest.raises(LocalProtocolError):
                    session.close(code, now=end.clock)
        with pytest.raises(LocalProtocolError):
            session.send(Ping(bytes(126)), end.clock)
        after = (
            session.state,
            session.next_deadline(),
            session.transport_action,
            session._output._frames,
        )
        assert after == before

    def _shown(self, session: Session) -> tuple[object, ...]:
        output = session._output._frames
        return session.state, session.next_deadline(), session.transport_action, output

    # -- what holds --------------------------------------------------------------------------------

    @invariant()
    def what_is_delivered_was_sent(self) -> None:
        """5, 13, 14."""
        for number, end in enumerate(self.ends):
            said = self.said[1 - number]
            assert end.messages == said[: len(end.messages)]
            if isinstance(end, Ours):
                assert all(size(data) <= MOST for data in end.messages)

    @invariant()
    def the_states_follow_their_deadlines(self) -> None:
        for number, end in self.sessions():
            session, config, wire = end.session, end.config, self.wires[number]
            end.was_paused |= session.paused
            if session.state is ConnectionState.OPEN and end.opened is None:
                end.opened = self.now
            if session.state is ConnectionState.CONNECTING:
                assert self.now <= 10 + 1e-6
            elif session.state is not ConnectionState.OPEN and end.closing is None:
                end.closing = self.now
            # 24
            if end.closing is not None and end.end is None:
                assert self.now <= end.closing + 5 + 1e-6
            # 43, 45: a silent peer is detected, whatever is written meanwhile, unless it continues
            # to read the bytes before a Ping.
            keepalive = config.keepalive
            if (
                end.opened is not None
                and session.state is ConnectionState.OPEN
                and keepalive.mechanism is Mechanism.PING
                and not end.was_paused
            ):
                pinged_by = max(end.last_fed, end.opened) + keepalive.interval
                allowed = max(keepalive.answer_timeout, config.send_timeout or 0)
                assert self.now <= max(pinged_by, end.moved) + allowed + 1e-6
                if not wire.raw:
                    assert self.now <= max(pinged_by, end.moved) + keepalive.answer_timeout + 1e-6
            if end.end is not None and end.end.cause is Cause.KEEPALIVE and not end.events[-1:]:
                assert self.now - end.last_fed >= keepalive.answer_timeout - 1e-6
            # 44
            assert session.round_trip_time == pytest.approx(end.round_trip, abs=1e-6)
            assert (end.end is not None) is session.closed

    @invariant()
    def little_is_kept(self) -> None:
        for number, end in self.sessions():
            session, wire = end.session, self.wires[number]
            # 11: beyond the parser's part of an unfinished frame.
            if not session.paused and session.state is not ConnectionState.CONNECTING:
                assert session._input == b""
            # 41: between here and there are at most one read's worth of Pongs, written without
            # other output, and no others. Output to a cut wire is lost.
            if not wire.finished:
                assert len({batch for place, batch in end.frames.pongs if place > wire.taken}) <= 1
            line = session.describe(end.clock)
            assert len(line) <= 200
            assert line.isprintable()

    @invariant()
    def queues_are_bounded(self) -> None:
        """42."""
        for _, end in self.sessions():
            most = bound(end.config.limits.max_queued_messages)
            if end.config.auto_pause:
                session = end.session
                assert session._delivered <= most
                if not session.closed:
                    assert session.paused or session._delivered < most

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        for _, end in self.sessions():
            end.happened(end.session.resume(end.clock))
            assert not end.session.paused or end.config.auto_pause
        for _ in range(20):
            for number in (0, 1):
                self._rest(number)
        for number, either in enumerate(self.ends):
            either.close(1000, "")
            self._rest(number)
            self._rest(1 - number)
        for _, end in self.sessions():
            end.happened(end.session.resume(end.clock))
        self.wait(30.0)
        for number, end in self.sessions():
            self._ended(number, end)

    def _rest(self, number: int) -> None:
        self._write(number)
        self._carry(number, 100_000)
        other = self.ends[1 - number]
        if isinstance(other, Ours):
            other.happened(other.session.resume(other.clock))
        self.wait(0.0)

    def _ended(self, number: int, end: Ours) -> None:
        closed = end.end
        assert closed is not None
        assert closed.cause in Cause
        assert (closed.close_sent is not None) is bool(end.frames.closes)
        if closed.close_rcvd is None:
            assert closed.code == 1006
        else:
            assert closed.code == closed.close_rcvd.code
            # Everything sent before it has arrived.
            assert end.messages == self.said[1 - number]
        # 1: in one piece it would have been the same.
        unbounded = dataclasses.replace(
            end.config.limits, max_control_rate=None, max_frames_per_call=None
        )
        config = dataclasses.replace(
            end.config, limits=unbounded, auto_pause=False, whole_messages=True
        )
        kinds = (Message, Ping, Pong, CloseConnection)
        seen = [e for e in end.events if isinstance(e, kinds)]
        if seen and isinstance(seen[-1], CloseConnection) and seen[-1].code == 1008:
            # Our error, or the peer's report of it; what matters is the input before it.
            seen.pop()
        if end.config.whole_messages:
            assert end.replay(config)[1 : 1 + len(seen)] == seen


def size(data: str | bytes) -> int:
    return len(data.encode() if isinstance(data, str) else data)


@pytest.mark.parametrize(
    ("role", "other"),
    [
        (SERVER, Ours),
        (SERVER, Wsproto),
        (CLIENT, Wsproto),
        (SERVER, Websockets),
        (CLIENT, Websockets),
    ],
    ids=["ours", "wsproto client", "wsproto server", "websockets client", "websockets server"],
)
def test_two_ends(role: ConnectionType, other: type[Party]) -> None:
    machine = type("Machine", (SessionMachine,), {"role": role, "other": other})

    def make() -> Any:
        return machine()

    # A function, because Hypothesis would parse a class's source, which CPython 3.11 cannot always.
    run_state_machine_as_test(
        cast("type[RuleBasedStateMachine]", make),
        settings=settings(
            max_examples=120 if other is Ours else 50,
            stateful_step_count=40,
            suppress_health_check=list(HealthCheck),
        ),
    )
