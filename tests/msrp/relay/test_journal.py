"""The counters and events of a relay."""

from __future__ import annotations

from wsproto_sip.msrp.relay.journal import (
    Authorized,
    Dropped,
    Failed,
    Refused,
    Relayed,
    RelayEvent,
    RelayJournal,
)


def everything(journal: RelayJournal) -> None:
    journal.authorize("alice", 1, 900, refreshed=False)
    journal.authorize("alice", 1, 900, refreshed=True)
    journal.refuse(b"AUTH", 401, "", 2)
    journal.refuse(b"ODD\xff", 501, "what", 2)
    journal.relay(b"SEND", 300, 1)
    journal.relay(b"ODD", 300, 1)
    journal.fail(408, 1)
    journal.drop(2, "enough")


def test_every_event_is_reported() -> None:
    journal, events = RelayJournal(), list[RelayEvent]()
    journal.observer = events.append
    everything(journal)
    assert events == [
        Authorized("alice", 1, 900, False),
        Authorized("alice", 1, 900, True),
        Refused("AUTH", 401, "", 2),
        Refused("ODD\ufffd", 501, "what", 2),
        Relayed("SEND", 300, 1),
        Relayed("ODD", 300, 1),
        Failed(408, 1),
        Dropped(2, "enough"),
    ]


def test_events_are_counted_without_an_observer() -> None:
    journal = RelayJournal()
    everything(journal)
    assert (journal.authorized, journal.refreshed, journal.dropped) == (1, 1, 1)
    assert journal.refused == {("AUTH", 401): 1, ("other", 501): 1}
    assert journal.relayed == {"SEND": 1, "other": 1}
    assert journal.failed == {408: 1}
    assert (journal.sizes.count, journal.sizes.total) == (2, 600)
