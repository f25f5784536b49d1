"""Commands through a FIFO and a Unix socket, with files of this machine."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from time import mktime, strptime
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers._support import run
from wsproto_sip.adapters.asyncio import management
from wsproto_sip.adapters.asyncio.management import (
    FifoChannel,
    SocketChannel,
    StreamChannel,
    executor,
)
from wsproto_sip.server.management.commands import (
    Command,
    CommandError,
    CommandTable,
    DisableCommand,
    EmptyResult,
    EnableCommand,
    Execute,
    FactsResult,
    Fault,
    Params,
    Result,
    StatisticsCommand,
)

from .._endpoint import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")

Executed = list[Command]
EMFILE = OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def recording(executed: Executed) -> Execute:
    """Record commands instead of executing them."""

    def execute(command: Command) -> Result:
        executed.append(command)
        if isinstance(command, EnableCommand):
            raise CommandError(Fault.SENDING_FAILED, "a detail")
        if isinstance(command, StatisticsCommand):
            return FactsResult({f"n{number}": number for number in range(9000)})
        if command == DisableCommand():
            return EmptyResult()
        raise RuntimeError("out of order")

    return CommandTable().executing(execute)


def assert_gone(path: Path) -> None:
    assert not path.exists()


# -- the FIFO -------------------------------------------------------------------------------------


@asynccontextmanager
async def fifo(path: Path, executed: Executed | None = None) -> AsyncIterator[FifoChannel]:
    channel = FifoChannel(path, recording([] if executed is None else executed))
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()
    assert_gone(path)


def write(path: Path, data: bytes) -> None:
    """Open, write and close, as a shell does."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, data)
    os.close(fd)


async def ask(path: Path, data: bytes, end: bytes = b"\n\n") -> str:
    """Ask, and read the answer to its end."""
    reply = "reply"
    own = path.with_name(reply)
    os.mkfifo(own, 0o600)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    file = os.fdopen(os.open(own, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    try:
        write(path, data)
        return (await reader.readuntil(end)).decode()
    finally:
        transport.close()
        own.unlink()


def test_text_form_of_the_guide(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, executed = tmp_path / "fifo", Executed()
        async with fifo(path, executed) as channel:
            assert channel.name == str(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for _ in range(3):
                # The writer closes each time, which ends the input.
                assert await ask(path, b":ws.disable:reply\n\n") == "200 OK\n\n"
            answer = await ask(path, b":ws.enable:reply\n\n")
            assert answer == "500 Error sending frame\n\n"
            answer = await ask(path, b":ws.nothing:reply\n\n")
            assert answer == "500 Unknown command\n\n"
        assert executed == [DisableCommand()] * 3 + [EnableCommand()]

    run(scenario())


def test_json_rpc_line_by_line(tmp_path: Path) -> None:
    def call(method: str, **members: object) -> str:
        return json.dumps({"jsonrpc": "2.0", "method": method, "id": 7} | members)

    async def scenario() -> None:
        path, executed = tmp_path / "fifo", Executed()
        async with fifo(path, executed):
            # No answer is requested, or no FIFO for it is named.
            write(path, f"{call('ws.disable')}\n{{\n[]\n".encode())
            write(path, b'{"jsonrpc":"2.0","method":"ws.disable","reply_name":"reply"}\n')
            # With or without the end of the line.
            answer = await ask(path, call("ws.disable", reply_name="reply").encode(), b"7}")
            assert json.loads(answer) == {"jsonrpc": "2.0", "result": {}, "id": 7}
            answer = await ask(path, call("ws.enable", reply_name="reply").encode() + b"\n", b"7}")
            assert json.loads(answer)["error"]["message"] == "Error sending frame"
            batch = f"[{call('ws.disable')}, {call('ws.enable', reply_name='reply')}]\n"
            answer = await ask(path, batch.encode(), b"]")
            assert [set(reply) - {"jsonrpc", "id"} for reply in json.loads(answer)] == [
                {"result"},
                {"error"},
            ]
        assert executed == [DisableCommand()] * 3 + [EnableCommand()] + [
            DisableCommand(),
            EnableCommand(),
        ]

    run(scenario())


def test_answer_larger_than_the_pipe_is_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fifo(tmp_path / "fifo"):
            answer = await ask(tmp_path / "fifo", b":ws.statistics:reply\n\n")
            assert len(answer) > 65536
            assert answer.endswith("\nn8999: 8999\n\n")

    run(scenario())


def test_invalid_request_does_not_affect_others(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, executed = tmp_path / "fifo", Executed()
        async with fifo(path, executed):
            write(path, b":ws.disable:\n\n:ws.disable:\n\n")
            answer = await ask(path, b"ws.disable\n\n:ws.enable:reply\n\n")
            assert answer == "500 Error sending frame\n\n"
            # An unfinished request ends with its writer, and does not affect the next one.
            answer = await ask(path, b":ws.disable:reply\n")
            assert answer == "400 Bad request: end of input in a request\n\n"
            assert await ask(path, b":ws.disable:reply\n\n") == "200 OK\n\n"
        assert [type(command).__name__ for command in executed] == [
            "DisableCommand",
            "DisableCommand",
            "EnableCommand",
            "DisableCommand",
        ]

    run(scenario())


def test_spurious_readiness_is_ignored(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "fifo"
        async with fifo(path) as channel:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            # As if another reader had taken the data.
            channel._readable()
            os.close(fd)
            assert await ask(path, b":ws.disable:reply\n\n") == "200 OK\n\n"

    run(scenario())


@pytest.mark.parametrize("there", ["nothing", "a file", "a link", "the FIFO itself"])
def test_answers_only_go_to_fifos(
    tmp_path: Path, there: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(management, "REPLY_SECONDS", 0.1)
    path = tmp_path / "fifo"
    name = "fifo" if there == "the FIFO itself" else "reply"
    reply, elsewhere = tmp_path / "reply", tmp_path / "elsewhere"
    if there == "a file":
        reply.write_text("mine")
    elif there == "a link":
        os.mkfifo(elsewhere)
        reply.symlink_to(elsewhere)

    async def scenario() -> None:
        async with fifo(path) as channel:
            write(path, f":ws.disable:{name}\n\n".encode())
            while not caplog.messages:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            assert channel._replies == set() or there != "the FIFO itself"

    with caplog.at_level(logging.WARNING):
        run(scenario())
    [text] = caplog.messages
    assert text.startswith(f"no-answer fifo={name} reason=")
    if there == "a file":
        assert reply.read_text() == "mine"
    assert not reply.exists() or there != "nothing"


def test_unread_answer_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(management, "REPLY_SECONDS", 0.1)
    monkeypatch.setattr(management, "MAX_CLIENTS", 1)
    os.mkfifo(tmp_path / "reply")

    async def scenario() -> None:
        async with fifo(tmp_path / "fifo") as channel:
            write(tmp_path / "fifo", b":ws.disable:reply\n\n:ws.disable:second\n\n")
            while not channel._replies:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            await asyncio.gather(*channel._replies)

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert caplog.messages == [
        'no-answer fifo=second reason="too many answers wait"',
        'no-answer fifo=reply reason="it has no reader"',
    ]


def test_pending_answer_does_not_delay_close(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reply")

    async def scenario() -> None:
        async with fifo(tmp_path / "fifo") as channel:
            write(tmp_path / "fifo", b":ws.disable:reply\n\n")
            while not channel._replies:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)

    run(scenario())


def test_existing_fifo_is_reused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)

    async def scenario() -> None:
        async with fifo(tmp_path / "fifo"):
            assert await ask(tmp_path / "fifo", b":ws.disable:reply\n\n") == "200 OK\n\n"

    run(scenario())


@pytest.mark.parametrize("there", ["a file", "a link", "readable", "in use"])
def test_unsuitable_fifo_is_refused(tmp_path: Path, there: str) -> None:
    path = tmp_path / "fifo"
    if there == "a file":
        path.write_text("mine")
    elif there == "a link":
        os.mkfifo(tmp_path / "other", 0o600)
        path.symlink_to(tmp_path / "other")
    elif there == "readable":
        os.mkfifo(path)
        path.chmod(0o622)

    async def scenario() -> None:
        if there == "in use":
            async with fifo(path):
                with pytest.raises(OSError, match="in use"):
                    await FifoChannel(path, recording([])).open()
        else:
            channel = FifoChannel(path, recording([]))
            with pytest.raises(OSError):
                await channel.open()
            await channel.close()
            assert path.exists()

    run(scenario())


def test_world_writable_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)

    async def scenario() -> None:
        for channel in (
            FifoChannel(tmp_path / "fifo", recording([])),
            SocketChannel(tmp_path / "socket", recording([])),
        ):
            with pytest.raises(PermissionError, match="others may write"):
                await channel.open()
            await channel.close()

    try:
        run(scenario())
    finally:
        tmp_path.chmod(0o700)


def test_removed_fifo_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "fifo"

    async def scenario() -> None:
        channel = FifoChannel(path, recording([]))
        await channel.open()
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        path.unlink()
        os.close(fd)
        while channel._fd >= 0:  # noqa: ASYNC110  # turns of the loop
            await asyncio.sleep(0)
        await channel.close()

    run(scenario())
    [text] = caplog.messages
    assert text.startswith(f"fifo-gone fifo={path}"[:100])


def test_fifo_survives_a_lack_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, opened, failures = tmp_path / "fifo", os.open, [EMFILE] * 3
    executed: Executed = []

    def scarce(name: Path, flags: int, *rest: int) -> int:
        # Of the channel: for reading, and for answers.
        if failures and flags & os.O_NOFOLLOW:
            raise failures.pop()
        return opened(name, flags, *rest)

    async def scenario() -> None:
        async with fifo(path, executed) as channel:
            monkeypatch.setattr(os, "open", scarce)
            write(path, b":ws.disable:\n\n")
            while channel._pause is None:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            # Requests are kept meanwhile, and answered when descriptors are available.
            assert failures
            os.mkfifo(tmp_path / "reply", 0o600)
            reply = opened(tmp_path / "reply", os.O_RDONLY | os.O_NONBLOCK)
            write(path, b":ws.disable:reply\n\n")
            while len(executed) < 2:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            failures.append(EMFILE)
            while channel._replies or channel._pause is not None:  # noqa: ASYNC110
                await asyncio.sleep(0)
            assert os.read(reply, 100).startswith(b"200 OK")
            os.close(reply)
            failures.append(EMFILE)
            write(path, b":ws.disable:\n\n")
            while channel._pause is None:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)
            # It is closed during a pause.

    run(scenario())
    assert len(executed) == 3
    [text] = caplog.messages
    assert text.startswith('accept-failed reason="Too many open files"')


# -- the socket -----------------------------------------------------------------------------------


@asynccontextmanager
async def unix_socket(path: Path, executed: Executed | None = None) -> AsyncIterator[SocketChannel]:
    channel = SocketChannel(path, recording([] if executed is None else executed))
    await channel.open()
    try:
        yield channel
    finally:
        await channel.close()
    assert_gone(path)


async def talk(path: Path, data: bytes) -> list[Any]:
    """Send data, and return all answers."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(data)
        writer.write_eof()
        return [json.loads(line) for line in (await reader.read()).splitlines()]
    finally:
        writer.close()


CALL = b'{"jsonrpc":"2.0","method":"ws.disable","id":%d}'


def test_one_message_per_line(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, executed = tmp_path / "socket", Executed()
        async with unix_socket(path, executed) as channel:
            assert channel.name == str(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            answers = await talk(
                path,
                CALL % 1 + b"\r\n\n" + b"[" + CALL % 2 + b"," + CALL % 3 + b"]\n"
                b'{"jsonrpc":"2.0","method":"ws.disable"}\nnonsense\n'
                b'{"jsonrpc":"2.0","method":"ws.enable","id":4}',
            )
        reply = {"jsonrpc": "2.0", "result": {}}
        error = {"code": 500, "message": "Error sending frame", "data": "a detail"}
        assert answers == [
            reply | {"id": 1},
            [reply | {"id": 2}, reply | {"id": 3}],
            answers[2],
            {"jsonrpc": "2.0", "error": error, "id": 4},
        ]
        assert answers[2]["error"]["code"] == -32700
        assert executed == [DisableCommand()] * 4 + [EnableCommand()]

    run(scenario())


def test_commands_that_may_concern_others_are_awaited(tmp_path: Path) -> None:
    asked: list[str] = []

    async def anywhere(name: str, params: Params) -> Result:
        await asyncio.sleep(0)
        asked.append(name)
        if name == "ws.enable":
            raise CommandError(Fault.SENDING_FAILED, "a detail")
        return FactsResult({"here": 1})

    async def scenario() -> None:
        path = tmp_path / "socket"
        channel = SocketChannel(path, recording([]), anywhere)
        await channel.open()
        try:
            [answers] = await talk(
                path, b"[" + CALL % 1 + b',7,{"jsonrpc":"2.0","method":"ws.enable","id":2}]'
            )
        finally:
            await channel.close()
        assert answers[0] == {"jsonrpc": "2.0", "result": {"here": 1}, "id": 1}
        assert [answers[1]["error"]["code"], answers[2]["error"]["code"]] == [-32600, 500]

    run(scenario())
    assert asked == ["ws.disable", "ws.enable"]


def test_oversized_line_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            writer.write(b" " * (2 * management.MAX_MESSAGE))
            answer = json.loads(await reader.readline())
            assert answer["error"]["data"] == "more than 65536 bytes"
            # It is closed with most of the line unread, which may look like a reset.
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_silent_client_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(management, "CLIENT_SECONDS", 0.05)

    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            assert await reader.read() == b""
            writer.close()

    with caplog.at_level(logging.INFO):
        run(scenario())
    assert caplog.messages == ['client-gone reason="it took too long"']


def test_failing_command_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            call = b'{"jsonrpc":"2.0","method":"ws.ping","params":[1],"id":1}\n'
            assert await talk(tmp_path / "socket", call) == []
            assert len(await talk(tmp_path / "socket", CALL % 1 + b"\n")) == 1

    run(scenario())
    assert caplog.messages == ["command-failed"]
    assert caplog.records[0].exc_info is not None


def test_clients_are_bounded_and_those_that_wait_make_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Clients that hold all places and stay silent do not lock others out."""
    monkeypatch.setattr(management, "MAX_CLIENTS", 3)

    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket") as channel:
            used = await asyncio.open_unix_connection(tmp_path / "socket")
            idle = [await asyncio.open_unix_connection(tmp_path / "socket") for _ in range(2)]
            for number in range(4):
                # Answered after the idle ones have come.
                used[1].write(CALL % number + b"\n")
                await used[0].readline()
                new = await asyncio.open_unix_connection(tmp_path / "socket")
                new[1].write(CALL % number + b"\n")
                assert await new[0].readline()
                idle.append(new)
            for reader, _ in idle[:4]:
                assert await reader.read() == b""
            assert len(channel._turns) == len(channel._tasks) == 3
            await channel.close()
            for reader, writer in (used, *idle):
                assert await reader.read() == b""
                writer.close()

    run(scenario())
    assert caplog.messages == ['client-dropped reason="too many clients; it was idle longest"']


def test_client_that_was_dropped_is_answered_no_more() -> None:
    """Its answer comes in the turn in which it is dropped: its place is not taken again."""

    async def scenario() -> None:
        channel = StreamChannel()
        channel.answered()
        assert not channel._turns

    run(scenario())


def test_socket_survives_a_lack_of_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept, failures = socket.socket.accept, [EMFILE] * 3

    def scarce(listener: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return accept(listener)

    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            monkeypatch.setattr(socket.socket, "accept", scarce)
            assert len(await talk(tmp_path / "socket", CALL % 1 + b"\n")) == 1

    run(scenario())
    assert not failures
    assert caplog.messages == ['accept-failed reason="Too many open files" failures=1']


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))

    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            assert len(await talk(tmp_path / "socket", CALL % 1 + b"\n")) == 1

    run(scenario())


@pytest.mark.parametrize("there", ["a file", "in use", "no directory", "a long name"])
def test_unsuitable_socket_path_is_refused(tmp_path: Path, there: str) -> None:
    path = tmp_path / ("n" * 200 if there == "a long name" else "socket")
    if there == "a file":
        path.write_text("mine")
    elif there == "no directory":
        path = tmp_path / "nowhere" / "socket"

    async def scenario() -> None:
        channel = SocketChannel(path, recording([]))
        if there == "in use":
            async with unix_socket(path):
                with pytest.raises(OSError, match="in use"):
                    await channel.open()
                await channel.close()
                assert path.exists()
        else:
            with pytest.raises(OSError):
                await channel.open()
            await channel.close()
            assert path.exists() == (there == "a file")

    run(scenario())


# -- the endpoint they manage ---------------------------------------------------------------------


def test_uptime_contains_dates() -> None:
    async def scenario() -> None:
        async with serving() as running:
            result = executor(running.server)("core.uptime", ())
            assert isinstance(result, FactsResult)
            assert list(result.values) == ["now", "up_since", "uptime"]
            now, since, seconds = result.values.values()
            form = "%a %b %d %H:%M:%S %Y"
            passed = mktime(strptime(str(now), form)) - mktime(strptime(str(since), form))
            assert abs(passed - int(seconds)) <= 1

    run(scenario())


def test_check_may_refuse_a_command() -> None:
    def check(command: Command) -> None:
        if isinstance(command, DisableCommand):
            raise CommandError(Fault.DISABLED, "not by this one")

    async def scenario() -> None:
        async with serving() as running:
            execute = executor(running.server, check=check)
            with pytest.raises(CommandError, match="not by this one"):
                execute("ws.disable", ())
            assert running.endpoint.enabled
            assert execute("ws.enable", ()) == EmptyResult()

    run(scenario())


def test_commands_take_effect_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving() as running:
            execute = executor(running.server)
            assert execute("ws.disable", ()) == EmptyResult()
            assert not running.endpoint.enabled
            channel = SocketChannel(tmp_path / "socket", execute)
            await channel.open()
            call = b'{"jsonrpc":"2.0","method":"ws.enable","id":1}\n'
            assert len(await talk(tmp_path / "socket", call)) == 1
            assert running.endpoint.enabled
            call = b'{"jsonrpc":"2.0","method":"ws.close","params":[9],"id":1}\n'
            [answer] = await talk(tmp_path / "socket", call)
            assert answer["error"] == {"code": 500, "message": "Unknown connection ID"}
            await channel.close()

    run(scenario())
