"""Many connections over time: keep-alive, shards, draining."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import inf

import pytest

from tests.server._clients import Client, answer, closed, crowd, endpoint, pings, unbounded
from wsproto_sip.server.schedule import Schedule, keepalive_share
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.session.lifecycle import Cause, CheckTransport, TransportAction


class TestSchedule:
    def test_connection_is_due_at_its_latest_deadline_only(self) -> None:
        schedule = Schedule(1, now=0.0)
        schedule.set(1, 5.0)
        schedule.set(1, 7.0)
        assert schedule.next(None, 0.0) == 7.0
        assert schedule.take_due(6.0, None, 0.0, None) == []
        assert schedule.take_due(7.0, None, 0.0, None) == [1]
        assert schedule.next(None, 0.0) is None

    def test_forgotten_connection_is_never_due(self) -> None:
        schedule = Schedule(2, now=0.0)
        for cid in (1, 2):
            schedule.set(cid, 5.0)
            schedule.set_busy(cid)
            schedule.set_leaving(cid, 5.0)
            schedule.forget(cid)
        assert schedule.next(None, 0.0) is None
        assert schedule.take_busy() == {}
        assert schedule.take_due(9.0, None, 0.0, None) == []
        assert schedule.take_leaving(9.0) == []

    def test_places_in_the_interval_are_never_close_together(self) -> None:
        places = sorted(keepalive_share(cid) for cid in range(1, 1001))
        assert places[0] > 0
        assert places[-1] <= 1
        gaps = [b - a for a, b in pairwise(places)]
        assert min(gaps) > 0.0004
        assert max(gaps) < 0.002

    def test_drained_connections_leave_in_four_fifths_of_the_time(self) -> None:
        schedule = Schedule(1, now=0.0)
        schedule.drain(range(1, 5), 10.0, 20.0)
        assert schedule.drained_by == 20.0
        assert schedule.next(0, 0.0) == 10.0
        assert schedule.take_leaving(14.0) == [1, 2, 3]
        assert schedule.take_leaving(16.0) == [4]


class TestKeepalive:
    @pytest.mark.parametrize(
        ("count", "shards", "intervals"), [(1000, 1, 3), (1000, 7, 3), (10_000, 4, 1)]
    )
    def test_many_are_spread_over_the_interval_after_one_of_silence(
        self, count: int, shards: int, intervals: int
    ) -> None:
        server = unbounded(shards=shards, timer_interval=1.0)
        interval = 25
        crowd(server, count)
        visits: list[Counter[int]] = []
        for second in range(1, interval + 1):
            assert server.handle_timeout(float(second)) == []
            assert server.take_output() == []
        for second in range(interval + 1, (intervals + 1) * interval + 1):
            if second % interval == 1:
                visits.append(Counter())
            now = float(second)
            asked: dict[int, bytes] = {}
            for shard in range(shards):
                assert server.handle_timeout(now, shard) == []
                of_shard = pings(server.take_output())
                # A shard handles its own.
                assert {server.shard_of(cid) for cid in of_shard} == {shard}
                asked |= of_shard
            # Evenly: neither a burst nor a pause in any second.
            assert abs(len(asked) - count / interval) <= 3 * shards
            visits[-1].update(asked.keys())
            answer(server, asked, now)
        # Each once per interval, none twice.
        assert visits == [Counter(range(1, count + 1))] * intervals
        assert len(server) == count

    def test_phones_that_register_at_once_are_spread_too(self) -> None:
        server = unbounded()
        crowd(server, 1000)
        for cid in range(1, 1001):
            server.receive(cid, b"\x81\x81\0\0\0\0a", 0.5)
        per_second = []
        for second in range(1, 51):
            server.handle_timeout(second + 0.5)
            asked = pings(server.take_output())
            per_second.append(len(asked))
            answer(server, asked, second + 0.5)
        assert sum(per_second[:25]) == 0
        assert sum(per_second) == 1000
        assert max(per_second[25:]) <= 43
        assert min(per_second[25:]) >= 37

    def test_receiving_connection_is_postponed_without_being_touched(self) -> None:
        server = endpoint()
        Client(server)
        when = server.next_deadline()
        assert when is not None
        server.handle_timeout(when)
        answer(server, pings(server.take_output()), when)
        server.take_output()
        server.receive(1, b"\x81\x81\0\0\0\0a", when + 10)
        assert server.next_deadline() == when + 25
        assert server.handle_timeout(when + 25) == []
        assert not server._touched
        assert server.next_deadline() == when + 35

    def test_pass_costs_only_the_due_entries(self) -> None:
        server = unbounded()
        crowd(server, 200)
        looked_at: list[int] = []
        timers = server._schedule._shards[0]
        while (when := server.next_deadline()) is not None and when <= 50.0:
            before = dict(timers._when)
            server.handle_timeout(when)
            asked = pings(server.take_output())
            moved = [cid for cid, due in timers._when.items() if before[cid] != due]
            assert sorted(asked) == moved == sorted(moved)
            looked_at += moved
            answer(server, asked, when)
            server.take_output()
        assert sorted(looked_at) == list(range(1, 201))

    def test_early_and_repeated_calls_do_nothing(self) -> None:
        server = endpoint()
        Client(server)
        when = server.next_deadline()
        assert when is not None
        assert 25 < when <= 50
        for _ in range(3):
            assert server.handle_timeout(when - 0.01) == []
            assert server.take_output() == []
        server.handle_timeout(when)
        assert len(pings(server.take_output())) == 1
        server.handle_timeout(when)
        assert server.take_output() == []

    def test_silent_connection_ends(self) -> None:
        server = endpoint()
        client = Client(server)
        when = server.next_deadline()
        assert when is not None
        server.handle_timeout(when)
        server.take_output()
        assert server.next_deadline() == when + 20
        [ended] = closed(server.handle_timeout(when + 20))
        assert ended.closed.cause is Cause.KEEPALIVE
        assert (ended.address, ended.port, ended.cid) == ("192.0.2.1", 4000, client.cid)
        [output] = server.take_output()
        assert output.data[:4] == b"\x88\x16\x03\xf3"
        assert output.action is TransportAction.ABORT
        assert server.next_deadline() is None

    def test_check(self) -> None:
        keepalive = KeepaliveConfig(mechanism=Mechanism.CHECK)
        server = endpoint(session=SessionConfig(keepalive=keepalive))
        client = Client(server)
        assert server.handle_timeout(25.0) == []
        assert server.handle_timeout(50.0) == [(client.cid, CheckTransport())]

    def test_timer_interval(self) -> None:
        server = unbounded(timer_interval=5.0)
        crowd(server, 100)
        passes = []
        for number in range(5):
            when = server.next_deadline()
            assert when is not None
            assert server.handle_timeout(when - 0.001) == []
            assert server.take_output() == []
            server.handle_timeout(when)
            passes.append(when)
            asked = pings(server.take_output())
            answer(server, asked, when)
            # The first pass is when the first connection is due.
            assert 19 <= len(asked) <= 21 if number else len(asked) == 1
        assert [after - before for before, after in pairwise(passes)] == [5.0] * 4

    def test_max_due(self) -> None:
        server = unbounded(timer_interval=5.0, max_due=10)
        crowd(server, 25)
        seen: dict[int, bytes] = {}
        for expected in (10, 10, 5):
            # The remaining ones are handled at once, not in the next pass.
            when = server.next_deadline()
            assert when is not None
            assert when <= 50.0
            server.handle_timeout(50.0)
            asked = pings(server.take_output())
            assert len(asked) == expected
            seen |= asked
        assert len(seen) == 25
        assert server.next_deadline() == 70.0

    def test_max_due_none(self) -> None:
        server = unbounded(max_due=None)
        crowd(server, 1500)
        server.handle_timeout(50.0)
        assert len(pings(server.take_output())) == 1500

    def test_shards_have_deadlines_of_their_own(self) -> None:
        server = endpoint(shards=3)
        for now in (0.0, 1.0):
            server.accept(("192.0.2.1", 1), now)
        assert [server.shard_of(cid) for cid in (1, 2)] == [1, 2]
        assert [server.next_deadline(shard) for shard in range(3)] == [None, 10.0, 11.0]
        assert server.next_deadline() == 10.0
        assert server.handle_timeout(11.0, 0) == []
        assert server.handle_timeout(11.0, 2) == []
        # 408 for the second only; it still has the time of a closing handshake.
        assert [output.cid for output in server.take_output()] == [2]

    def test_remaining_work_belongs_to_every_shard(self) -> None:
        server = endpoint(shards=2)
        client = Client(server)
        raw = b"\x81\x81\0\0\0\0a" * 600
        given = len(server.receive(client.cid, raw, 1.0))
        assert given == 256
        for shard in (0, 1, None):
            assert server.next_deadline(shard) == -inf
        given += len(server.handle_timeout(1.0, 0))
        assert given == 512
        given += len(server.handle_timeout(1.0, 1))
        assert given == 600
        server.take_output()
        assert server.next_deadline() != -inf

    def test_deadline_is_known_before_the_output_is_taken(self) -> None:
        server = endpoint()
        client = Client(server)
        server.close(client.cid, now=1.0)
        assert server.next_deadline() == 6.0
        [ended] = closed(server.handle_timeout(6.0))
        assert ended.closed.cause is Cause.CLOSE_TIMEOUT
