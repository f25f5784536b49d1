"""Commands through a FIFO and a Unix socket, with files of this machine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import stat
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers._support import run
from wsproto_sip.adapters import management
from wsproto_sip.adapters.management import FifoChannel, SocketChannel, executor
from wsproto_sip.server.commands import (
    Command,
    CommandError,
    DisableCommand,
    EmptyResult,
    EnableCommand,
    Fault,
    Result,
    StatisticsCommand,
    StatisticsResult,
)

from ._endpoint import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")

Executed = list[Command]


def recording(executed: Executed) -> Callable[[Command], Result]:
    """Executes nothing and keeps everything."""

    def execute(command: Command) -> Result:
        executed.append(command)
        if isinstance(command, EnableCommand):
            raise CommandError(Fault.SENDING_FAILED, "a detail")
        if isinstance(command, StatisticsCommand):
            return StatisticsResult({f"n{number}": number for number in range(9000)})
        if command == DisableCommand():
            return EmptyResult()
        raise RuntimeError("out of order")

    return execute


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


def write(path: Path, octets: bytes) -> None:
    """What a shell does: it opens, writes and closes."""
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, octets)
    os.close(fd)


async def ask(path: Path, octets: bytes, end: bytes = b"\n\n") -> str:
    """Asks, and reads the answer to its end."""
    reply = "reply"
    own = path.with_name(reply)
    os.mkfifo(own, 0o600)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    file = os.fdopen(os.open(own, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0)
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    try:
        write(path, octets)
        return (await reader.readuntil(end)).decode()
    finally:
        transport.close()
        own.unlink()


def test_the_guide_s_form(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, executed = tmp_path / "fifo", Executed()
        async with fifo(path, executed) as channel:
            assert channel.name == str(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            for _ in range(3):
                # The writer goes each time, and with it the end of input comes.
                assert await ask(path, b":ws.disable:reply\n\n") == "200 OK\n\n"
            answer = await ask(path, b":ws.enable:reply\n\n")
            assert answer == "500 Error sending frame\n\n"
            answer = await ask(path, b":ws.nothing:reply\n\n")
            assert answer == "500 Unknown command\n\n"
        assert executed == [DisableCommand()] * 3 + [EnableCommand()]

    run(scenario())


def test_json_in_lines(tmp_path: Path) -> None:
    def call(method: str, **members: object) -> str:
        return json.dumps({"jsonrpc": "2.0", "method": method, "id": 7} | members)

    async def scenario() -> None:
        path, executed = tmp_path / "fifo", Executed()
        async with fifo(path, executed):
            # No answer is asked for, or there is nowhere to write it to.
            write(path, f"{call('ws.disable')}\n{{\n[]\n".encode())
            write(path, b'{"jsonrpc":"2.0","method":"ws.disable","reply_name":"reply"}\n')
            # With the end of the line or without.
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


def test_an_answer_longer_than_a_pipe_holds(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with fifo(tmp_path / "fifo"):
            answer = await ask(tmp_path / "fifo", b":ws.statistics:reply\n\n")
            assert len(answer) > 65536
            assert answer.endswith("\nn8999: 8999\n\n")

    run(scenario())


def test_several_requests_and_one_that_is_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        path, executed = tmp_path / "fifo", Executed()
        async with fifo(path, executed):
            write(path, b":ws.disable:\n\n:ws.disable:\n\n")
            answer = await ask(path, b"ws.disable\n\n:ws.enable:reply\n\n")
            assert answer == "500 Error sending frame\n\n"
            # What was begun ends with its writer, and does not take the next one along.
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


def test_a_writer_that_has_nothing_to_say_yet(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "fifo"
        async with fifo(path) as channel:
            fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
            # As when somebody else has taken what there was to read.
            channel._readable()
            os.close(fd)
            assert await ask(path, b":ws.disable:reply\n\n") == "200 OK\n\n"

    run(scenario())


@pytest.mark.parametrize("there", ["nothing", "a file", "a link", "the FIFO itself"])
def test_answers_go_to_fifos_alone(
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
    assert text.startswith(f"no answer to the FIFO {name}")
    if there == "a file":
        assert reply.read_text() == "mine"
    assert not reply.exists() or there != "nothing"


def test_an_answer_that_nobody_fetches(
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
        "no answer to the FIFO second",
        "no answer to the FIFO reply: nobody reads it",
    ]


def test_an_answer_on_its_way_does_not_hold_up_the_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "reply")

    async def scenario() -> None:
        async with fifo(tmp_path / "fifo") as channel:
            write(tmp_path / "fifo", b":ws.disable:reply\n\n")
            while not channel._replies:  # noqa: ASYNC110  # turns of the loop
                await asyncio.sleep(0)

    run(scenario())


def test_a_fifo_that_is_left_over_is_used_again(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)

    async def scenario() -> None:
        async with fifo(tmp_path / "fifo"):
            assert await ask(tmp_path / "fifo", b":ws.disable:reply\n\n") == "200 OK\n\n"

    run(scenario())


@pytest.mark.parametrize("there", ["a file", "a link", "readable", "in use"])
def test_a_fifo_that_cannot_be_used(tmp_path: Path, there: str) -> None:
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


def test_a_directory_of_everybody_s(tmp_path: Path) -> None:
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


def test_a_fifo_that_is_taken_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    assert text.startswith(f"the FIFO {path} is gone: ")


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


async def talk(path: Path, octets: bytes) -> list[Any]:
    """Says something and takes all answers."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(octets)
        writer.write_eof()
        return [json.loads(line) for line in (await reader.read()).splitlines()]
    finally:
        writer.close()


CALL = b'{"jsonrpc":"2.0","method":"ws.disable","id":%d}'


def test_a_message_a_line(tmp_path: Path) -> None:
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


def test_a_line_without_an_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            writer.write(b" " * (2 * management.MAX_MESSAGE))
            answer = json.loads(await reader.readline())
            assert answer["error"]["data"] == "more than 65536 octets"
            # It is closed with most of the line unread, which may look like a reset.
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()

    run(scenario())


def test_a_client_that_says_nothing(
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
    assert caplog.messages == ["a client has gone: it took too long"]


def test_a_command_that_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            call = b'{"jsonrpc":"2.0","method":"ws.ping","params":[1],"id":1}\n'
            assert await talk(tmp_path / "socket", call) == []
            assert len(await talk(tmp_path / "socket", CALL % 1 + b"\n")) == 1

    run(scenario())
    assert caplog.messages == ["a command failed"]


def test_clients_are_bounded_and_dropped_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(management, "MAX_CLIENTS", 1)

    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket") as channel:
            first = await asyncio.open_unix_connection(tmp_path / "socket")
            first[1].write(CALL % 1 + b"\n")
            await first[0].readline()
            second = await asyncio.open_unix_connection(tmp_path / "socket")
            assert await second[0].read() == b""
            await channel.close()
            assert await first[0].read() == b""
            for _, writer in (first, second):
                writer.close()

    run(scenario())
    assert caplog.messages == ["too many clients"]


def test_a_socket_that_is_left_over_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))

    async def scenario() -> None:
        async with unix_socket(tmp_path / "socket"):
            assert len(await talk(tmp_path / "socket", CALL % 1 + b"\n")) == 1

    run(scenario())


@pytest.mark.parametrize("there", ["a file", "in use", "no directory", "a long name"])
def test_a_socket_that_cannot_be_made(tmp_path: Path, there: str) -> None:
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


# -- the endpoint behind them ---------------------------------------------------------------------


def test_commands_take_effect_at_once(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with serving() as running:
            execute = executor(running.server)
            assert execute(DisableCommand()) == EmptyResult()
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
