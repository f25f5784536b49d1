"""Heads in their common spelling."""

from __future__ import annotations

import pytest

from wsproto_sip.sip.message._head import (
    HEAD_RE,
    LENGTH,
    METHOD,
    MORE,
    RARE,
    RARE_LETTERS,
    REASON,
    ROUTING,
    STATUS,
    URI,
    USUAL,
    VALUES,
)
from wsproto_sip.sip.message.headers import CANONICAL
from wsproto_sip.sip.rules.identity import TRUSTED_FIELDS

START = "INVITE sip:bob@sip.test SIP/2.0"
LINES = [
    "Via: SIP/2.0/WS x.invalid;branch=z9hG4bK1",
    "From: <sip:a@sip.test>;tag=1",
    "To: <sip:bob@sip.test>",
    "Call-ID: c",
    "CSeq: 1 INVITE",
]


def head(*more: str, start: str = START, lines: list[str] = LINES) -> str:
    return "\r\n".join([start, *lines, *more, "", ""])


def test_common_fields_are_captured() -> None:
    text = head(
        "Contact: <sip:a@x.invalid>",
        "Content-Length: 12",
        "Max-Forwards: 70",
        "Expires: 60",
        "Content-Type: application/sdp",
    )
    match = HEAD_RE.match(text + "body: no header\r\n\r\n")
    assert match is not None
    assert match.end() == len(text)
    assert match.group(METHOD, URI, STATUS) == ("INVITE", "sip:bob@sip.test", None)
    assert match.group(*ROUTING) == (
        *[line.partition(": ")[2] for line in LINES],
        "<sip:a@x.invalid>",
    )
    assert match[LENGTH] == "12"
    assert match[VALUES["Max-Forwards"]] == match[VALUES["max-forwards"]] == "70"
    assert match[VALUES["expires"]] == "60"
    assert match[VALUES["content-type"]] == "application/sdp"
    assert match.group(*MORE.values()) == (None,) * len(MORE)


def test_response_head_is_matched() -> None:
    match = HEAD_RE.match(head(start="SIP/2.0 486 Busy  Here"))
    assert match is not None
    assert match.group(METHOD, URI, STATUS, REASON) == (None, None, "486", "Busy  Here")
    assert HEAD_RE.match(head(start="SIP/2.0 200 "))


def test_first_of_repeated_fields_is_captured() -> None:
    more = ["Via: SIP/2.0/UDP y", "Via: SIP/2.0/UDP z", "Contact: <sip:a>", "Contact: <sip:b>"]
    match = HEAD_RE.match(head(*more))
    assert match is not None
    assert match[VALUES["via"]] == "SIP/2.0/WS x.invalid;branch=z9hG4bK1"
    assert match[VALUES["contact"]] == "<sip:a>"
    assert match[MORE["via"]] == match[MORE["contact"]] == ""


@pytest.mark.parametrize(
    "line",
    [
        "User-Agent: x",
        "Allow: ",
        "Supported:  path",
        "P-Asserted-Identity: <sip:a@b>",
        "Content-Disposition: session",
        "Event: presence",
        "Min-SE: 90",
        "Session-Expires: 90 ",
        "Record-Route: <sip:a;lr>",
        "X-Umlaut: \u00e4\udcff",
    ],
)
def test_other_fields_are_matched_without_capture(line: str) -> None:
    assert HEAD_RE.match(head(line))


@pytest.mark.parametrize("name", [name for name in CANONICAL if len(name) > 1] + [*TRUSTED_FIELDS])
def test_rare_fields_are_noted(name: str) -> None:
    canonical = name.lower()
    match = HEAD_RE.match(head(f"{name}: 1"))
    if canonical[0] in RARE_LETTERS and canonical not in USUAL:
        assert match is None or match[RARE] == ""
    elif match is not None:
        assert match[RARE] is None


def test_every_trusted_field_is_rare() -> None:
    assert all(name[0].lower() in RARE_LETTERS for name in TRUSTED_FIELDS)
    assert USUAL.isdisjoint(name.lower() for name in TRUSTED_FIELDS)


@pytest.mark.parametrize(
    "line",
    [
        # Another spelling of a field that may occur once, or of a captured one.
        *("from: x", "FROM: x", "f: x", "From:x", "From : x", "Cseq: 1 INVITE", "Call-Id: c"),
        *("v: x", "VIA: x", "m: <sip:a>", "l: 1", "content-length: 1", "Max-forwards: 1"),
        # A repeated field.
        *LINES[1:],
        # White space around the value, a fold, control characters, no value, no name, no colon.
        *("Contact:  <sip:a>", "Contact: <sip:a> ", "Contact: ", "Contact: <sip:a\t>"),
        *("Subject: x\r\n y", "Subject: a\nb", "Subject: a\rb", "Subject: \0", "Subject: \x1b"),
        *(": x", "Subject", " Subject: x", "Subject : x", "", "Sub ject: x", "Aa: x", "1: x"),
        *("Content-Length: x", "Content-Length: 1x", "Content-Length: -1"),
        "Content-Length: 1234567890",
    ],
)
def test_unusual_heads_do_not_match(line: str) -> None:
    match = HEAD_RE.match(head(line))
    # The first empty line ends the head.
    assert match is None or (line == "" and match.end() == len(head()))


@pytest.mark.parametrize("missing", range(5))
def test_head_without_a_required_field_does_not_match(missing: int) -> None:
    assert HEAD_RE.match(head())
    assert not HEAD_RE.match(head(lines=LINES[:missing] + LINES[missing + 1 :]))


@pytest.mark.parametrize(
    "start",
    [
        *("invite sip:b SIP/2.0", "INVITE  sip:b SIP/2.0", "INVITE sip:b  SIP/2.0", "INVITE sip:b"),
        *(
            "INVITE sip:b SIP/3.0",
            "INVITE sip:b sip/2.0",
            "INVITE sip:b\n SIP/2.0",
            " INVITE b SIP/2.0",
        ),
        *("SIP/2.0 20 OK", "SIP/2.0 700 No", "SIP/2.0 200", "SIP/2.0 200 O\nK", ""),
    ],
)
def test_start_lines(start: str) -> None:
    assert not HEAD_RE.match(head(start=start))
