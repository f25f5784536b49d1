"""The examples of the pages run, and their tables are complete."""

from __future__ import annotations

import ast
import asyncio
import builtins
import doctest
import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields
from inspect import signature
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import trustme

from tests._fences import PAGES, Fence, commands, fences
from tests._layers import LAYERS
from wsproto_sip import (
    Cause,
    CloseReason,
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
from wsproto_sip.sip.edge.pipelines import FROM_CLIENT, FROM_UPSTREAM
from wsproto_sip.sip.edge.transactions import (
    BRANCH_STEPS,
    TRANSACTION_STEPS,
    State,
    Step as SipStep,
)
from wsproto_sip.states import TRANSITIONS, Step

DOCS = Path(__file__).resolve().parent.parent / "docs"
SESSION = (DOCS / "howto" / "session.md").read_text(encoding="utf-8")


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
    """Return the class that the page on sessions shows."""
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
        """Read until that many events have arrived, and take them."""
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
    # More than a session processes in one call.
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
    # Input before it in the same read is answered first.
    assert await client.until(3) == [
        TextMessage("a"),
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
def test_adapter_on_the_page_works(conversation: Any) -> None:
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


def test_adapter_on_the_page_is_as_short_as_claimed() -> None:
    [code] = re.findall(r"^```python\n(.*?)^```$", SESSION, re.MULTILINE | re.DOTALL)
    [echo] = [node for node in ast.parse(code).body if isinstance(node, ast.ClassDef)]
    assert echo.end_lineno is not None
    lines = code.splitlines()[echo.lineno - 1 : echo.end_lineno]
    assert len([line for line in lines if line.strip()]) <= 45


def test_names_on_the_session_page_exist() -> None:
    for name in re.findall(r"(?<![\w.])session\.(\w+)", SESSION):
        assert hasattr(Session, name), name
    for name in re.findall(r"\{(?:class|mod)\}`~?(wsproto_sip[\w.]+)`", SESSION):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)


# -- the page for authors of frameworks ------------------------------------------------------------


def test_page_on_integrating_runs() -> None:
    text = (DOCS / "howto" / "integrating.md").read_text(encoding="utf-8")
    examples = re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # One program from beginning to end.
    test = doctest.DocTestParser().get_doctest(
        "\n".join(examples), {}, "integrating", "integrating.md", 0
    )
    assert len(test.examples) > 80
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)


# -- tables and the drawing -----------------------------------------------------------------------


def test_state_table_has_every_transition() -> None:
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


def test_state_drawing_has_every_state_and_transition() -> None:
    root = ElementTree.fromstring(drawings.state_diagram())
    svg = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{svg}rect")) == len(ConnectionState)
    texts = [element.text for element in root.findall(f"{svg}text")]
    for state in ConnectionState:
        assert texts.count(state.name) == 1
    # The words of each step as often as it occurs, except for the end, which all states share.
    for step in Step:
        taken = [way for state, way in TRANSITIONS if way is step]
        for line in step.value.split(", ") if step is not Step.END else [step.value]:
            assert texts.count(line) == (1 if step is Step.END else len(taken))
    arrows = [path for path in root.findall(f"{svg}path") if path.get("marker-end")]
    assert len(arrows) == len([way for _, way in TRANSITIONS if way is not Step.END]) + 1
    # Elements do not overlap.
    assert len(set(drawings.places().values())) == len(ConnectionState)


@pytest.mark.parametrize("table", [BRANCH_STEPS, TRANSACTION_STEPS])
def test_transaction_tables_have_every_transition(
    table: dict[tuple[State, SipStep], State],
) -> None:
    head, *rows = drawings.sip_rows(table)
    assert head[1:] == [step.value for step in SipStep]
    found = {
        (State(row[0]), step): State(cell)
        for row in rows
        for step, cell in zip(SipStep, row[1:], strict=True)
        if cell
    }
    assert found == table
    assert len(rows) == len({*table.values(), *(state for state, _ in table)})


@pytest.mark.parametrize("steps", [FROM_CLIENT, FROM_UPSTREAM])
def test_pipeline_tables_are_in_order(steps: tuple[Callable[..., object], ...]) -> None:
    rows = drawings.pipeline_rows(steps)[1:]
    assert [row[1].strip("`") for row in rows] == [step.__name__ for step in steps]
    assert all(row[2].endswith(".") for row in rows)


def shown_fields() -> list[type[Any]]:
    """Return the dataclasses whose fields the pages show."""
    names = [fence.language.partition(" ")[2] for fence in fences() if "{fields}" in fence.language]
    places = [name.rpartition(".") for name in dict.fromkeys(names)]
    return [getattr(importlib.import_module(module), name) for module, _, name in places]


@pytest.mark.parametrize("kind", shown_fields())
def test_field_tables_are_complete(kind: type[Any]) -> None:
    _, *rows = drawings.field_rows(kind)
    assert [row[0].strip("`") for row in rows] == [item.name for item in fields(kind) if item.init]
    assert all(len(row) == 3 and row[2].endswith(".") for row in rows)
    assert "|" not in "".join(cell for row in rows for cell in row)


def test_defaults_are_written_as_source() -> None:
    written = {row[0]: row[1] for row in drawings.field_rows(SessionConfig)}
    assert written["`limits`"] == "`Limits()`"
    assert written["`entropy`"] == "`urandom`"
    assert written["`open_timeout`"] == "`10.0`"
    assert written["`profiles`"] == "`{}`"
    assert written["`idle_timeout`"] == "`None`"
    assert written["`auto_pong`"] == "`True`"
    assert "{class}`~wsproto_sip.events.PlainRequest`" in "".join(
        row[2] for row in drawings.field_rows(SessionConfig)
    )
    keepalive = {row[0]: row[1] for row in drawings.field_rows(KeepaliveConfig)}
    assert keepalive["`mechanism`"] == "`Mechanism.PING`"
    assert {row[0]: row[1] for row in drawings.field_rows(Limits)}["`max_outgoing`"] == (
        "`1,048,576`"
    )


def test_every_limit_says_what_exceeding_it_does() -> None:
    texts = {row[0].strip("`"): row[2] for row in drawings.field_rows(Limits)[1:]}
    effects = {
        "431": ["max_handshake_bytes", "max_header_line", "max_headers"],
        "400": ["max_list_items"],
        "1009": ["max_message_size", "max_frame_size", "max_fragments", "max_inflate_ratio"],
        "1008": ["max_paused_bytes", "max_control_rate", "max_outgoing"],
        "pauses": ["max_inflated_per_read"],
        "continues in the next call": ["max_frames_per_call"],
        "stops reading": ["max_queued_messages"],
        "writable": ["high_water"],
    }
    for effect, names in effects.items():
        for name in names:
            assert effect in texts[name], name


def test_table_in_markdown() -> None:
    assert drawings.markdown([["a", "b"], ["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert drawings.arguments("nothing here") == {}


@pytest.mark.parametrize("way", ["ECHO", "SIP_REQUEST"])
def test_way_of_a_message_names_rooms_that_exist(way: str) -> None:
    rooms = getattr(drawings, way)
    for room in rooms:
        if room is not None:
            importlib.import_module(f"wsproto_sip.{room[0]}")
    root = ElementTree.fromstring(drawings.way_diagram("title", rooms))
    assert len(root.findall("{*}rect")) == len(rooms)


def test_layers_are_described_room_by_room() -> None:
    _, *rows = drawings.layer_rows()
    assert [row[1] for row in rows if not row[2]] == []
    assert [row[0] for row in rows if row[0]] == list(LAYERS)


# -- the public face ------------------------------------------------------------------------------

#: Where programs import from, besides wsproto's names: the face of each package, and the adapters
#: of an endpoint, each of which needs more than the others.
FACES = {
    "wsproto_sip",
    "wsproto_sip.auth",
    "wsproto_sip.policy",
    "wsproto_sip.server",
    "wsproto_sip.server.management",
    "wsproto_sip.session",
    "wsproto_sip.sip",
    "wsproto_sip.msrp",
    "wsproto_sip.extended_connect",
    "wsproto_sip.masking",
    "wsproto_sip.uri",
    "wsproto_sip.adapters.asyncio",
    "wsproto_sip.adapters.asyncio.answers",
    "wsproto_sip.adapters.asyncio.endpoint",
    "wsproto_sip.adapters.asyncio.management",
    "wsproto_sip.adapters.asyncio.msrp",
    "wsproto_sip.adapters.asyncio.sip",
    "wsproto_sip.adapters.blocking",
    "wsproto_sip.adapters.trio",
    "wsproto_sip.adapters.uvicorn",
    "wsproto_sip.cli.serve.page",
}
WSPROTO = {
    f"wsproto_sip.{name}"
    for name in (
        "connection",
        "events",
        "extensions",
        "frame_protocol",
        "handshake",
        "typing",
        "utilities",
    )
}


@pytest.mark.parametrize(
    "page",
    [*sorted(DOCS.rglob("*.md")), DOCS.parent / "README.md"],
    ids=lambda page: page.relative_to(DOCS.parent).as_posix(),
)
def test_pages_import_only_public_names(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    imported = re.findall(
        r"^(?:>>> |\.\.\. )?[ \t]*from (wsproto_sip[\w.]*) import",
        text,
        re.MULTILINE,
    )
    assert set(imported) <= FACES | WSPROTO


@pytest.mark.parametrize("face", sorted(FACES - {"wsproto_sip.masking"}))
def test_packages_export_the_names_on_their_page(face: str) -> None:
    module = importlib.import_module(face)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


#: What the adapters have in common, under equal names, and what differs only in what it awaits.
TWINS = {"ConnectOptions", "Connection", "Reconnecting", "Server", "connect", "reconnect", "serve"}


def test_public_name_means_one_thing() -> None:
    meanings: dict[str, set[int]] = {}
    for face in FACES:
        module = importlib.import_module(face)
        for name in getattr(module, "__all__", ()):
            meanings.setdefault(name, set()).add(id(getattr(module, name)))
    assert {name for name, found in meanings.items() if len(found) > 1} == TWINS


def test_man_page_is_made_from_the_options_as_they_are() -> None:
    from wsproto_sip.cli.manual import page

    made = (Path(__file__).resolve().parent.parent / "deploy" / "man" / "wsproto-sip.1").read_text(
        encoding="utf-8"
    )
    assert made == page(), "run: wsproto-sip manual > deploy/man/wsproto-sip.1"


# -- the pages as a whole --------------------------------------------------------------------------

ROOT = DOCS.parent
EXAMPLES = ROOT / "examples"


def names_of(fence: Fence) -> str:
    return str(fence)


def test_every_page_is_in_the_sidebar_once() -> None:
    listed = []
    for fence in fences():
        if fence.language == "{toctree}":
            entries = [line for line in fence.text.splitlines() if line and line[0] != ":"]
            listed += [(fence.page.parent / f"{entry}.md").resolve() for entry in entries]
    pages = {page for page in DOCS.rglob("*.md") if "figures" not in page.parts}
    assert sorted(listed) == sorted(pages - {DOCS / "index.md"})


def test_sidebar_is_by_purpose() -> None:
    captions = re.findall(
        r"^:caption: (.*)$", (DOCS / "index.md").read_text(encoding="utf-8"), re.M
    )
    purposes = list(dict.fromkeys(caption.partition(":")[0] for caption in captions))
    assert purposes == ["Tutorial", "How-to", "Reference", "Explanation", "Project"]


def test_links_between_pages_resolve() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:\s]+\.md)(?:#[^)]*)?\)", text):
            assert (page.parent / target).is_file(), f"{page.relative_to(ROOT)}: {target}"
    for module in (ROOT / "wsproto_sip").rglob("*.py"):
        for target in re.findall(r":doc:`[^`]*?/([^`>]+)>?`", module.read_text(encoding="utf-8")):
            assert (DOCS / f"{target}.md").is_file(), f"{module.relative_to(ROOT)}: {target}"


@pytest.mark.parametrize(
    "fence", [fence for fence in fences() if fence.language == "python"], ids=names_of
)
def test_programs_have_their_imports(fence: Fence) -> None:
    tree = ast.parse(fence.text)
    known = set(dir(builtins)) | {"__file__", "__name__"}
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else known).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            known.add(node.name)
        elif isinstance(node, ast.arg):
            known.add(node.arg)
        elif isinstance(node, ast.alias):
            known.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            known.add(node.name or "")
    assert used - known == set()


def test_arguments_of_docstrings_have_names() -> None:
    named = re.compile(r"    (\*{0,2}\w+(, )?)+( \([^)]*\))?:")
    for path in (ROOT / "wsproto_sip").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = ast.get_docstring(node) or ""
                section = re.search(r"^Args:\n((?:    .*\n?)+)", text, re.MULTILINE)
                for line in section[1].splitlines() if section else ():
                    told = line.startswith("     ") or named.match(line)
                    assert told, f"{path.relative_to(ROOT)}:{node.lineno}: {line}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if "examples/" in page.read_text(encoding="utf-8")], ids=str
)
def test_pages_include_examples_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name, start in re.findall(
        r"\{literalinclude\} \S*examples/(\S+)\n:language: python\n:start-at: (.*)$", text, re.M
    ):
        assert start in (EXAMPLES / name).read_text(encoding="utf-8"), name
    assert text.count("literalinclude") <= text.count(":start-")


#: Programs that commands of the pages begin with, besides Python's and our own.
PROGRAMS = frozenset(
    (
        *(
            "bash",
            "certbot",
            "cp",
            "curl",
            "export",
            "install",
            "mkdir",
            "npm",
            "openssl",
            "printf",
            "redis-server",
        ),
        *("mypy", "ruff", "sphinx-build", "systemctl", "systemd-sysusers", "uvicorn", "watchfiles"),
    )
)


@pytest.mark.parametrize(
    ("fence", "words"),
    [(fence, words) for fence, words in commands() if words[0] == "wsproto-sip"],
    ids=lambda value: str(value) if isinstance(value, Fence) else value[1],
)
def test_commands_of_the_pages_start(
    fence: Fence,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from wsproto_sip.cli import main
    from wsproto_sip.cli._commands import parser_of

    monkeypatch.chdir(tmp_path)
    certificate = trustme.CA().issue_cert("192.0.2.1")
    for name in ("chain.pem", "fullchain.pem"):
        certificate.cert_chain_pems[0].write_to_path(tmp_path / name)
    for name in ("key.pem", "privkey.pem"):
        certificate.private_key_pem.write_to_path(tmp_path / name)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "users").write_text("alice:wonderland\n")
    (tmp_path / "users").chmod(0o600)
    (tmp_path / "flow-keys").write_text("ab" * 32 + "\n")
    (tmp_path / "flow-keys").chmod(0o600)
    arguments = [word for word in words[1:] if word != "…"]
    # The file that the page installs in /etc, with its paths in here.
    settings = (ROOT / "deploy" / "serve.toml").read_text(encoding="utf-8")
    for place in ("/etc/wsproto-sip", "/run/wsproto-sip"):
        settings = settings.replace(place, str(tmp_path))
        arguments = [word.replace(place, str(tmp_path)) for word in arguments]
    (tmp_path / "serve.toml").write_text(settings)
    parser_of(arguments[0]).parse_args(arguments[1:])
    if arguments[0] == "serve" and "…" not in words:
        code = main([*arguments, *(["--check-config"] * ("--check-config" not in words))])
        # An address of the pages is not one of this machine; all else was looked at before.
        assert code == 0 or "Cannot assign requested address" in capsys.readouterr().err


def test_names_in_other_commands_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = set(project["optional-dependencies"])
    examples = {path.name for path in EXAMPLES.glob("*.py")}
    for fence, words in commands():
        match words:
            case ["python" | "python3", "-m", module, *rest]:
                assert importlib.util.find_spec(module) is not None, fence
                for place in rest if module == "pytest" else ():
                    assert place in examples or (ROOT / place).exists(), fence
            case ["python", program, *_]:
                assert program in examples or (ROOT / program).is_file(), fence
            case ["pip", "install", *rest]:
                named = ",".join(re.findall(r"\[(.*)\]", " ".join(rest)))
                assert set(filter(None, named.split(","))) <= extras, fence
            case ["wsproto-sip", *_]:
                pass
            case [program, *_]:
                assert program in PROGRAMS, fence


def test_differences_from_wsproto_are_rows_of_the_page() -> None:
    # CI runs wsproto's suite, and finds its differences by how their rows begin.
    path = ROOT / ".ci" / "wsproto_suite.py"
    spec = importlib.util.spec_from_file_location("wsproto_suite", path)
    assert spec is not None
    assert spec.loader is not None
    suite = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(suite)
    page = (DOCS / "howto" / "from-wsproto.md").read_text(encoding="utf-8")
    assert [item.row for item in suite.DIFFERENCES if f"\n| {item.row}" not in page] == []
    assert len(suite.DIFFERENCES) > 10


# -- tables that are made --------------------------------------------------------------------------


def test_picture_of_the_layers_is_up_to_date() -> None:
    drawn = drawings.LAYERS_PICTURE.read_text(encoding="utf-8")
    assert drawn == drawings.layers_diagram(), "run: python docs/drawings.py"
    assert len(ElementTree.fromstring(drawn).findall("{*}rect")) == len(LAYERS) + 1


def test_table_of_errors_is_the_tree() -> None:
    from wsproto_sip import errors

    assert errors.__doc__ is not None
    told = set(re.findall(r"[├└]── (\w+)", errors.__doc__))
    _, *rows = drawings.error_rows()
    shown = {match[1] for row in rows if (match := re.search(r"(\w+)`$", row[0]))}
    # Those of the command line leave no call of the library.
    assert shown == told - {"EventHookError", "Mistake", "Refused", "SettingsError"}
    assert all(row[2].endswith(".") for row in rows)


@pytest.mark.parametrize("command", ["serve", "connect", "ctl"])
def test_page_of_the_command_line_has_every_option(command: str) -> None:
    from wsproto_sip.cli._commands import options_of, parser_of

    shown = [
        fence.language.removeprefix(f"{{options}} {command} ")
        for fence in fences()
        if fence.language.startswith(f"{{options}} {command} ")
    ]
    assert shown == drawings.option_groups(command)
    rows = [row for title in shown for row in drawings.option_rows(command, title)]
    options = {name for action in options_of(parser_of(command)) for name in action.option_strings}
    listed = [word for names, _ in rows for word in names.split() if word.startswith("-")]
    assert len(listed) == len(set(listed))
    assert {name.rstrip(",") for name in listed} == options - {"-h", "--help"}
    assert all(text for _, text in rows)


def test_options_on_the_page_say_what_a_reader_needs() -> None:
    rows = dict(drawings.option_rows("serve", "listening"))
    assert rows["--port N"] == "port to listen on, 0 for a free one (default: 8080) †"
    assert rows["--tls-cert FILE"].endswith("by default the first; may be repeated")
    rows = dict(drawings.option_rows("serve", "limits"))
    assert rows["--deflate, --no-deflate"].endswith("never on sip and msrp (default: on)")
    assert dict(drawings.option_rows("ctl", "options"))["--watch [SECONDS]"].endswith("Ctrl-C")
    rows = dict(drawings.option_rows("connect", "options"))
    assert rows["--max-redirects N"] == "maximum number of redirects to follow (default: 5)"


def test_table_of_metrics_has_each_once() -> None:
    _, *rows = drawings.metric_rows()
    names = [row[0] for row in rows]
    assert len(set(names)) == len(names) > 50
    assert all(row[1] in ("counter", "gauge", "histogram") and row[2] for row in rows)


def table_under(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the table under a heading, without its head."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def parameters_of(module: Any, function: str) -> set[str]:
    """Return the names that a function of an adapter takes, those of its options included."""
    names = set(signature(getattr(module, function)).parameters)
    options = {"connect": "ConnectOptions", "serve": "ServeOptions"}[function]
    home = sys.modules[getattr(module, function).__module__]
    return names | set(getattr(getattr(home, options, None), "__annotations__", {}))


@pytest.mark.parametrize("heading", ["Clients", "Servers", "Connections"])
def test_features_by_adapter_are_those_of_the_signatures(heading: str) -> None:
    from wsproto_sip.adapters import asyncio as on_asyncio, blocking, trio
    from wsproto_sip.adapters.uvicorn import websocket_protocol

    columns = {"asyncio": on_asyncio, "threads": blocking, "trio": trio}
    head, *rows = table_under("reference/features.md", heading)
    assert set(columns) <= set(head)
    for row in rows:
        cells = dict(zip(head[2:], row[2:], strict=True))
        for name in re.findall(r"`(\w+)[()=]*`", row[1]):
            for column, module in columns.items():
                connection = module.Connection
                if name == "timeout":
                    found = name in signature(connection.recv).parameters
                elif name == "reconnect":
                    found = hasattr(module, name)
                elif heading == "Connections":
                    found = hasattr(connection, name)
                else:
                    function = {"Clients": "connect", "Servers": "serve"}[heading]
                    found = name in parameters_of(module, function)
                assert cells[column] == ("yes" if found else "no"), (name, column)
            if "uvicorn" in cells:
                found = name in signature(websocket_protocol).parameters
                assert (cells["uvicorn"] == "yes") is found, name


def test_every_parameter_of_the_adapters_is_a_feature() -> None:
    from wsproto_sip.adapters import asyncio as on_asyncio

    # Fine tuning is left to the reference.
    fine = {"backlog", "flags", "reuse_address", "happy_eyeballs_delay", "handler", "uri"}
    for heading, function in (("Clients", "connect"), ("Servers", "serve")):
        told = " ".join(row[1] for row in table_under("reference/features.md", heading))
        for name in parameters_of(on_asyncio, function) - fine:
            assert name.startswith("ssl_") or f"`{name}`" in told, name


def test_environment_variables_are_listed() -> None:
    page = (DOCS / "reference" / "environment.md").read_text(encoding="utf-8")
    found: set[str] = set()
    for path in (ROOT / "wsproto_sip").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found |= set(
            re.findall(r"""(?:environ|environment)\b(?:\.\w+)?[\[(](?:\w+, )?"([A-Z_]+)\"""", text)
        )
        found |= set(re.findall(r"""(?:LISTEN|NOTIFY|WATCHDOG|WSPROTO_SIP)_[A-Z]+""", text))
    assert len(found) > 8
    assert [name for name in sorted(found) if f"`{name}`" not in page] == []


@pytest.mark.parametrize(
    "page", ["howto/compression.md", "howto/session.md", "explanation/keepalive.md"]
)
def test_examples_of_a_page_run(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    examples = re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("".join(examples), {}, page, page, 0)
    assert test.examples
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)


def test_table_of_causes_has_every_member() -> None:
    _, *rows = drawings.enum_rows(Cause)
    assert [row[0].strip("`") for row in rows] == [cause.name for cause in Cause]


def test_page_of_close_codes_has_each() -> None:
    text = (DOCS / "reference" / "close-codes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d{4}) \| `(\w+)` \|", text, re.MULTILINE)
    assert [(int(code), name) for code, name in rows] == [
        (int(reason), reason.name) for reason in CloseReason
    ]


def test_page_on_sans_io_runs() -> None:
    text = (DOCS / "explanation" / "sans-io.md").read_text(encoding="utf-8")
    [example] = re.findall(r"^```pycon\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest(example, {}, "sans-io", "sans-io.md", 0)
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)
