"""A thousand calls: log and metrics say what the clients have counted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import urlopen

from tests.adapters._sip import SocketPhone, call, phone
from tests.peers._support import run
from tests.sip._phones import SDP

from .._service import launched

if TYPE_CHECKING:
    from pathlib import Path

PAIRS, CALLS = 10, 100

#: What becomes of ten calls.
OUTCOMES = (
    *("answered", "answered", "answered", "answered"),
    *("ended by callee", "ended by callee"),
    *("busy", "declined", "cancelled", "cancelled"),
)
STATUSES = {"busy": 486, "declined": 603, "cancelled": 487}


@dataclass
class Counts:
    """What the clients have counted."""

    registered: int = 0
    nobody: int = 0
    messages: int = 0
    sent: int = 0
    received: int = 0
    #: The outcome of each call, by its Call-ID.
    calls: dict[str, str] = field(default_factory=dict)


async def refused(one: SocketPhone, other: SocketPhone, outcome: str) -> str:
    """Make a call that is not answered; returns its Call-ID."""
    invite = one.send("INVITE", other.aor, body=SDP)
    incoming = await other.request("INVITE")
    other.answer(incoming, 180)
    await one.response(180)
    status = STATUSES[outcome]
    if outcome == "cancelled":
        one.follow("CANCEL", invite)
        other.answer(await other.request("CANCEL"), 200)
        assert (await one.response(200)).cseq.method == "CANCEL"
    other.answer(incoming, status)
    await other.request("ACK")
    response = await one.response(status)
    one.follow("ACK", invite, to=str(response.to))
    return invite.call_id


async def answered(one: SocketPhone, other: SocketPhone, outcome: str) -> str:
    """Make a call that is answered, and end it; returns its Call-ID."""
    here, there = await call(one, other)
    side, caller, callee = (here, one, other) if outcome == "answered" else (there, other, one)
    bye = side.send("BYE")
    callee.answer(await callee.request("BYE"), 200)
    await caller.response(200)
    return bye.call_id


async def calls_of(one: SocketPhone, other: SocketPhone, counts: Counts) -> None:
    """Make the calls of a pair, one after the other, and count what becomes of them."""
    for number in range(CALLS):
        outcome = OUTCOMES[number % len(OUTCOMES)]
        make = refused if outcome in STATUSES else answered
        counts.calls[await make(one, other, outcome)] = outcome
        if number % 10 == 9:
            one.send("INVITE", "sip:nobody@sip.test", body=SDP)
            await one.response(404)
            counts.nobody += 1
            one.send("MESSAGE", other.aor, body=b"hello")
            other.answer(await other.request("MESSAGE"), 200)
            await one.response(200)
            counts.messages += 1


async def load(url: str) -> Counts:
    counts = Counts()
    async with AsyncExitStack() as stack:
        phones = [
            await stack.enter_async_context(phone(url, f"user{number}"))
            for number in range(2 * PAIRS)
        ]
        counts.registered = len(phones)
        await asyncio.gather(
            *[calls_of(phones[at], phones[at + 1], counts) for at in range(0, len(phones), 2)]
        )
        # What was said last needs no answer.
        for made in phones:
            made.send("OPTIONS", "sip:sip.test")
            await made.response()
        counts.sent = sum(made.sent for made in phones)
        counts.received = sum(made.received for made in phones)
    return counts


def test_log_and_metrics_agree_with_the_clients(tmp_path: Path) -> None:
    log = tmp_path / "log"
    shares = ("--sip-rate", "--sip-transactions", "--sip-callee-rate", "--sip-callee-transactions")
    with launched(
        *("--log-file", str(log), "--log-format", "json", "--log-level", "sip=debug"),
        *("--log-repeats", "0", "--ctl-http", "0", "--no-page"),
        *[word for name in shares for word in (name, "1000000,reserve=1")],
    ) as service:
        counts = run(load(service.url))
        where = urlsplit(service.places["--url"])
        with urlopen(f"http://{where.netloc}/metrics") as answer:
            shown = answer.read().decode().splitlines()
        service.stop()
    metrics = {
        name: float(value)
        for name, _, value in (line.rpartition(" ") for line in shown if not line.startswith("#"))
    }
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    logged = Counter((line["area"], line["event"]) for line in lines)
    outcomes = Counter(counts.calls.values())
    assert sum(outcomes.values()) == PAIRS * CALLS == 1000

    # Each call, by its Call-ID.
    told: defaultdict[str, list[tuple[str, int | None]]] = defaultdict(list)
    for line in lines:
        if line["event"].startswith("call-"):
            told[line["call_id"]].append((line["event"], line.get("status")))
    begun = ("call-started", None)
    assert told == {
        call_id: [begun, ("call-failed", STATUSES[outcome])]
        if outcome in STATUSES
        else [begun, ("call-answered", 200), ("call-ended", 200)]
        for call_id, outcome in counts.calls.items()
    }

    failed = sum(outcomes[name] for name in STATUSES)
    talked = outcomes["answered"] + outcomes["ended by callee"]
    for event, number in (
        ("started", 1000),
        ("answered", talked),
        ("failed", failed),
        ("ended", talked),
    ):
        assert logged["sip", f"call-{event}"] == number
        assert metrics[f'sip_calls_total{{event="{event}"}}'] == number
    for status, number in (
        ("2xx", talked),
        ("4xx", outcomes["busy"] + outcomes["cancelled"]),
        ("6xx", outcomes["declined"]),
    ):
        name = f'sip_final_responses_total{{method="INVITE",status="{status}"}}'
        assert metrics[name] == number
    assert logged["sip", "refused"] == counts.nobody
    assert metrics['sip_refused_requests_total{status="404"}'] == counts.nobody
    relayed = Counter(line["method"] for line in lines if line["event"] == "relayed")
    assert relayed["MESSAGE"] == counts.messages
    assert metrics['sip_final_responses_total{method="MESSAGE",status="2xx"}'] == counts.messages
    opened = counts.registered
    assert logged["sip", "registered"] == logged["sip", "unregistered"] == opened
    assert logged["ws", "opened"] == logged["ws", "closed"] == opened
    assert metrics["sip_registrations_added_total"] == opened
    assert metrics["ws_sip_successful_handshakes_total"] == opened
    assert metrics["sip_answered_calls"] == metrics["sip_registrations"] == 0
    assert metrics["sip_call_setup_seconds_count"] == talked
    assert metrics["sip_call_duration_seconds_count"] == talked

    # Every message that a client has sent or received.
    closed = [line for line in lines if line["event"] == "closed"]
    assert sum(line["received_messages"] for line in closed) == counts.sent
    assert sum(line["sent_messages"] for line in closed) == counts.received
    assert metrics["ws_message_size_bytes_count"] == counts.sent
    assert metrics["ws_sip_transmitted_frames_total"] == counts.received
    assert not any(line["event"] in ("repeated", "output-dropped") for line in lines)
