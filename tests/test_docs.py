"""What the pages show is what happens, and what their tables say is what there is."""

from __future__ import annotations

import ast
import asyncio
import doctest
import importlib.util
import re
from dataclasses import fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wsproto_sip import (
    Cause,
    ConnectionClosed,
    ConnectionState,
    ConnectionType,
    KeepaliveConfig,
    Limits,
    Session,
    SessionConfig,
)
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Pong,
    Request,
    TextMessage,
)
from wsproto_sip.lifecycle import TRANSITIONS, Step

DOCS = Path(__file__).resolve().parent.parent / "docs"
SESSION = (DOCS / "session.md").read_text(encoding="utf-8")


def load_drawings() -> Any:
    spec = importlib.util.spec_from_file_location("drawings", DOCS / "drawings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


drawings = load_drawings()

# -- the example of an adapter --------------------------------------------------------------------


def adapter() -> type[asyncio.Protocol]:
    """The class that the page on sessions shows."""
    [code] = re.findall(r"^```python\n(.*?)^```$", SESSION, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(code, "session.md", "exec"), names)
    kind: type[asyncio.Protocol] = names["Echo"]
    return kind


class Client:
    """A client's session on asyncio's streams."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.session = Session(ConnectionType.CLIENT, now=0.0)
        self.events: list[Event] = []

    def send(self, *events: Event) -> None:
        for event in events:
            self.session.send(event, 0.0)
        self.writer.write(self.session.data_to_send())

    async def until(self, count: int) -> list[Event]:
        """Reads until so many events have come, and takes them."""
        while len(self.events) < count:
            assert not self.session.closed, self.events
            data = await self.reader.read(100_000)
            self.events += self.session.receive(data or None, 0.0)
            while self.session.has_work:
                self.events += self.session.handle_timeout(0.0)
            self.writer.write(self.session.data_to_send())
        taken, self.events = self.events[:count], self.events[count:]
        return taken


async def echo(client: Client) -> None:
    client.send(Request(host="localhost", target="/"))
    assert await client.until(1) == [AcceptConnection()]
    messages: list[Event] = [TextMessage("grüße"), BytesMessage(bytes(300_000))]
    client.send(*messages)
    assert await client.until(2) == messages
    # More than a session takes in one call.
    many: list[Event] = [TextMessage(str(number)) for number in range(1000)]
    client.send(*many)
    assert await client.until(1000) == many
    client.session.keepalive.ping(b"?", 0.0)
    client.writer.write(b"\x89\x81\0\0\0\0?")
    assert await client.until(1) == [Pong(b"?")]
    assert client.session.round_trip_time == 0.0
    client.send(TextMessage("last"), CloseConnection(1000, "bye"))
    bye = CloseConnection(1000, "bye")
    assert await client.until(3) == [
        TextMessage("last"),
        bye,
        ConnectionClosed(1000, "bye", Cause.LOCAL, bye, bye),
    ]


async def break_the_protocol(client: Client) -> None:
    client.send(Request(host="localhost", target="/"))
    await client.until(1)
    client.writer.write(b"\x81\x81\0\0\0\0a\x83")
    error = CloseConnection(1002, "unknown opcode 0x3")
    # What came in front of it in the same read is not answered any more (RFC 6455 §7.1.7).
    assert await client.until(2) == [
        error,
        ConnectionClosed(1002, "unknown opcode 0x3", Cause.REMOTE, error, error),
    ]
    assert client.session.state is ConnectionState.CLOSED


async def be_no_client(client: Client) -> None:
    client.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    answer = await client.reader.read()
    assert answer.startswith(b"HTTP/1.1 426 Upgrade Required\r\n")


async def go_away(client: Client) -> None:
    client.send(Request(host="localhost", target="/"))
    await client.until(1)
    client.writer.write_eof()
    assert await client.reader.read() == b""


@pytest.mark.parametrize("conversation", [echo, break_the_protocol, be_no_client, go_away])
def test_the_adapter_works(conversation: Any) -> None:
    kind = adapter()
    ended: list[ConnectionClosed] = []

    class Watched(kind):  # type: ignore[misc, valid-type]
        def pump(self, events: list[Event]) -> None:
            ended.extend(event for event in events if isinstance(event, ConnectionClosed))
            super().pump(events)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    lost = asyncio.Event()

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Watched, "127.0.0.1", 0)
        client = Client(*await asyncio.open_connection(*server.sockets[0].getsockname()))
        await conversation(client)
        client.writer.close()
        await client.writer.wait_closed()
        await lost.wait()
        server.close()
        await server.wait_closed()

    asyncio.run(asyncio.wait_for(run(), 60))
    assert len(ended) == 1


def test_the_adapter_is_as_short_as_it_is_said_to_be() -> None:
    [code] = re.findall(r"^```python\n(.*?)^```$", SESSION, re.MULTILINE | re.DOTALL)
    [echo] = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    assert echo.end_lineno is not None
    lines = code.splitlines()[echo.lineno - 1 : echo.end_lineno]
    assert len([line for line in lines if line.strip()]) <= 45


def test_the_page_names_what_there_is() -> None:
    for name in re.findall(r"(?<![\w.])session\.(\w+)", SESSION):
        assert hasattr(Session, name), name
    for name in re.findall(r"\{(?:class|mod)\}`~?(wsproto_sip[\w.]+)`", SESSION):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


# -- the page for authors of frameworks ------------------------------------------------------------


def test_the_page_on_integrating_does_what_it_shows() -> None:
    text = (DOCS / "integrating.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # One program from the first to the last.
    test = doctest.DocTestParser().get_doctest(
        "\n".join(examples), {}, "integrating", "integrating.md", 0
    )
    assert len(test.examples) > 80
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)


# -- tables and the drawing -----------------------------------------------------------------------


def test_the_table_of_states_has_every_way() -> None:
    head, *rows = drawings.transition_rows()
    assert head[1:] == [step.value for step in Step]
    found = {
        (ConnectionState[row[0].strip("`")], step): ConnectionState[cell.strip("`")]
        for row in rows
        for step, cell in zip(Step, row[1:], strict=True)
        if cell
    }
    assert found == TRANSITIONS
    assert [row[0].strip("`") for row in rows][:1] == ["CONNECTING"]


def test_the_drawing_has_every_state_and_every_way() -> None:
    root = ElementTree.fromstring(drawings.state_diagram())
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{svg}rect")) == len(ConnectionState)
    texts = [element.text for element in root.findall(f"{svg}text")]
    for state in ConnectionState:
        assert texts.count(state.name) == 1
    # The words of each step as often as it is taken, but those of the end, which all states share.
    for step in Step:
        taken = [way for state, way in TRANSITIONS if way is step]
        for line in step.value.split(", ") if step is not Step.END else [step.value]:
            assert texts.count(line) == (1 if step is Step.END else len(taken))
    arrows = [path for path in root.findall(f"{svg}path") if path.get("marker-end")]
    assert len(arrows) == len([way for _, way in TRANSITIONS if way is not Step.END]) + 1
    # Nothing lies on anything else.
    assert len(set(drawings.places().values())) == len(ConnectionState)


@pytest.mark.parametrize("kind", [Limits, SessionConfig, KeepaliveConfig])
def test_a_table_has_every_field_its_default_and_its_meaning(kind: type[Any]) -> None:
    _, *rows = drawings.field_rows(kind)
    assert [row[0].strip("`") for row in rows] == [item.name for item in fields(kind)]
    assert all(len(row) == 3 and row[2].endswith(".") for row in rows)
    assert "|" not in "".join(cell for row in rows for cell in row)


def test_defaults_are_written_as_one_would_write_them() -> None:
    written = {row[0]: row[1] for row in drawings.field_rows(SessionConfig)}
    assert written["`limits`"] == "`Limits()`"
    assert written["`entropy`"] == "`urandom`"
    assert written["`open_timeout`"] == "`10.0`"
    assert written["`profiles`"] == "`{}`"
    assert written["`idle_timeout`"] == "`None`"
    assert written["`auto_pong`"] == "`True`"
    assert {row[0]: row[1] for row in drawings.field_rows(Limits)}["`max_outgoing`"] == (
        "`1,048,576`"
    )


def test_every_bound_says_what_passing_it_does() -> None:
    texts = {row[0].strip("`"): row[2] for row in drawings.field_rows(Limits)[1:]}
    effects = {
        "431": ["max_handshake_bytes", "max_header_line", "max_headers"],
        "400": ["max_list_items"],
        "1009": ["max_message_size", "max_frame_size", "max_fragments", "max_inflate_ratio"],
        "1008": ["max_control_rate", "max_outgoing"],
        "pauses": ["max_inflated_per_read"],
        "the rest is continued": ["max_frames_per_call"],
        "stops reading": ["max_queued_messages"],
        "writable": ["high_water"],
    }
    for effect, names in effects.items():
        for name in names:
            assert effect in texts[name], name


def test_a_table_in_markdown() -> None:
    assert drawings.markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert drawings.arguments("nothing here") == {}
