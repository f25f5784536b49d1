"""Lines about refused shares."""

from __future__ import annotations

import logging

import pytest

from wsproto_sip.cli.serve.refusals import RefusalLog
from wsproto_sip.server.shares import Bound
from wsproto_sip.server.statistics import Statistics


def test_a_flood_is_a_line_for_each_share_and_bound(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "wsproto_sip.server")
    counts = {("sip_transactions", Bound.ADDRESS): 20_000, ("unfinished_bytes", Bound.ALL): 1}
    statistics = Statistics()
    statistics.refusals.append(lambda: counts)
    log = RefusalLog(statistics)
    log.tell()
    log.tell()
    counts["unfinished_bytes", Bound.ALL] += 2
    log.tell()
    assert caplog.messages == [
        "share-refused share=sip_transactions bound=address count=20000",
        "share-refused share=unfinished_bytes bound=all count=1",
        "share-refused share=unfinished_bytes bound=all count=2",
    ]
