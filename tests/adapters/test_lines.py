"""Log records that are events with fields, and that all of them are."""

from __future__ import annotations

import ast
import logging
import re
from typing import TYPE_CHECKING, Final

import pytest

from tests._layers import ROOT, module_files
from wsproto_sip.adapters._lines import (
    LOGGERS,
    Line,
    address_text,
    known,
    report,
    report_failure,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE: Final = ROOT / "docs" / "howto" / "operating.md"
#: Functions that log an event, and which of their arguments is its name.
REPORTING: Final = {"report": 2, "report_failure": 1, "tell": 2}
#: Arguments of these that are not fields.
OPTIONS: Final = frozenset({"about"})


def test_line_is_one_line_for_any_values(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "wsproto_sip.server"):
        report("server", logging.INFO, "odd", text="a\nb\x1b", none=None, flag=True, number=1)
    [record] = caplog.records
    assert record.getMessage() == r'odd text="a\nb\u001b" flag=true number=1'


def test_unwanted_report_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "wsproto_sip.server"):
        report("server", logging.INFO, "odd")
    assert caplog.records == []


def test_line_knows_whom_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    report("sip", logging.WARNING, "odd", about="192.0.2.1", number=1)
    [record] = caplog.records
    assert isinstance(record.msg, Line)
    assert (record.msg.event, record.msg.fields) == ("odd", {"number": 1})
    assert (record.msg.about, record.name, record.levelname) == (
        "192.0.2.1",
        "wsproto_sip.sip",
        "WARNING",
    )


def test_failure_has_its_traceback_and_its_repetitions_count_together(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = ValueError("broken")
    report_failure("ws", "handler-failed", error, connection=1, none=None)
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "handler-failed connection=1")
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert isinstance(record.msg, Line)
    assert record.msg.about == "handler-failed"


def test_loggers_are_named_after_their_areas() -> None:
    assert {area: logger.name for area, logger in LOGGERS.items()} == {
        area: f"wsproto_sip.{area}"
        for area in ("ws", "sip", "msrp", "auth", "server", "management")
    }


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.1", 7), "192.0.2.1:7"),
        (("2001:db8::1", 7), "[2001:db8::1]:7"),
        (("", None), ""),
    ],
)
def test_addresses_are_formatted(address: tuple[str, int | None], text: str) -> None:
    assert address_text(address) == text


def test_fields_that_are_not_known_are_left_out() -> None:
    assert known({"a": None, "b": 0, "c": ""}) == {"b": 0, "c": ""}


# -- the whole package -----------------------------------------------------------------------------


def calls() -> Iterator[tuple[str, str, frozenset[str], str]]:
    """Yield area, event, fields and place of each event whose name is in the source."""
    for module, path in module_files().items():
        for node in ast.walk(ast.parse(path.read_bytes())):
            if not isinstance(node, ast.Call):
                continue
            function = node.func
            name = getattr(function, "id", getattr(function, "attr", ""))
            position = REPORTING.get(name)
            if position is None or len(node.args) <= position:
                continue
            area, event = node.args[0], node.args[position]
            if not (isinstance(area, ast.Constant) and area.value in LOGGERS):
                continue
            fields = {word.arg for word in node.keywords if word.arg is not None} - OPTIONS
            names = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
            for each in names:
                if isinstance(each, ast.Constant):
                    place = f"{module}:{node.lineno}"
                    yield str(area.value), str(each.value), frozenset(fields), place


def events_of_the_page() -> dict[tuple[str, str], str]:
    """Return the row of each event, by area and event."""
    found = {}
    area = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"\w[^|]*\(`(\w+)`\):", line)
        if heading is not None:
            area = heading[1]
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 4 and cells[0].strip("`") in LOGGERS:
            area, cells = cells[0].strip("`"), cells[1:]
        if len(cells) == 3 and area:
            for event in re.findall(r"`([a-z-]+)`", cells[0]):
                found[area, event] = line
    return found


def test_every_record_of_an_area_is_an_event() -> None:
    """The rest of the package has no logger of an area, and uses none as others are used."""
    areas = "|".join(LOGGERS)
    direct = re.compile(
        rf'getLogger\("wsproto_sip\.(?:{areas})"\)'
        r"|LOGGERS\[[^]]*\]\.(?:debug|info|warning|error|exception|critical|log)\("
    )
    found = [
        f"{module}: {match[0]}"
        for module, path in module_files().items()
        if module != "wsproto_sip.adapters._lines"
        for match in direct.finditer(path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_every_event_is_on_the_page_with_its_fields() -> None:
    rows = events_of_the_page()
    faults = []
    for area, event, fields, place in calls():
        row = rows.get((area, event))
        if row is None:
            faults.append(f"{place}: {area} {event}: not on the page")
            continue
        missing = [field for field in sorted(fields) if f"`{field}`" not in row]
        if missing and "the same" not in row:
            faults.append(f"{place}: {area} {event}: {', '.join(missing)}")
    assert faults == []
    assert len({(area, event) for area, event, *_ in calls()}) > 40
