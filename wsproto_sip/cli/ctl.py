"""``wsproto-sip ctl``: gives a running server a command and shows the answer.

Theory of operation: over a Unix socket and HTTP the command is a JSON-RPC call, over a FIFO it is
the text form of the module's guide, whose answer is brought into the form that JSON has, so that
what is shown is the same over all three.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import json
import os
import re
import secrets
import selectors
import socket
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..server.codecs.jsonrpc import RpcCall, decode_replies, encode_calls
from ..server.codecs.mi_fifo import FifoRequest, decode_reply, encode_request
from ..server.commands import COMMAND_NAMES
from ..utilities import RemoteProtocolError
from ._text import escape, reason_of

__all__ = ["Refused", "add_command", "over_fifo", "over_http", "over_socket", "table"]

#: Octets of the longest answer.
_MAX_ANSWER: Final = 1024 * 1024

_LINE = re.compile(
    r"(\d+): (\S+) -> (\S+) \(state: (\w+)(, awaiting Pong)?,  last used (\d+)s ago, "
    r"sub-protocol: (\S+)\)"
)
_HEADINGS = ("ID", "PEER", "LOCAL", "STATE", "IDLE", "SUB-PROTOCOL")
_FACT = re.compile(r"([a-z_0-9]+): (.*)")


class Refused(Exception):
    """The server did not execute the command.

    Args:
        text: Its code and words.
    """


def _call(name: str, params: Sequence[str]) -> bytes:
    return encode_calls([RpcCall(name, list(params), id=1)])


def _result(octets: bytes) -> Any:
    replies = decode_replies(octets, max_octets=_MAX_ANSWER)
    if len(replies) != 1:
        raise RemoteProtocolError(f"{len(replies)} answers, not one")
    reply = replies[0]
    error = reply.error
    if error is not None:
        raise Refused(f"{error.code} {error.message}" + (f": {error.data}" if error.data else ""))
    return reply.result


def over_socket(path: str, name: str, params: Sequence[str], seconds: float) -> Any:
    """Gives a command through a Unix socket.

    Args:
        path: The socket.
        name: The command.
        params: Its parameters.
        seconds: How long the answer may take.

    Returns:
        The result as JSON has it.

    Raises:
        Refused: The server refuses the command.
        OSError: The server cannot be reached, or takes too long.
        RemoteProtocolError: What came is no answer.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        sock.connect(path)
        sock.sendall(_call(name, params) + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) <= _MAX_ANSWER:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            octets = sock.recv(65536)
            if not octets:
                break
            answer += octets
    return _result(bytes(answer))


def over_http(url: str, name: str, params: Sequence[str], seconds: float) -> Any:
    """Gives a command over HTTP.

    Args:
        url: Where.
        name: The command.
        params: Its parameters.
        seconds: How long the server may be silent.

    Returns:
        The result as JSON has it.

    Raises:
        Refused: The server refuses the command.
        OSError: The server cannot be reached, or takes too long.
        RemoteProtocolError: What came is no answer.
        ValueError: That is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"not http://HOST:PORT/: {url!r}")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=seconds)
    try:
        connection.request(
            "POST",
            parts.path or "/",
            _call(name, params),
            {"Content-Type": "application/json", "Connection": "close"},
        )
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER + 1)
    except http.client.HTTPException as exc:
        raise RemoteProtocolError(f"not HTTP: {exc!r}") from None
    finally:
        connection.close()
    if response.status != 200:
        detail = body[:200].decode("utf-8", "replace").rstrip("\n")
        raise Refused(f"{response.status} {response.reason}" + (f": {detail}" if detail else ""))
    return _result(body)


def over_fifo(path: str, name: str, params: Sequence[str], seconds: float) -> Any:
    """Gives a command through a FIFO; the answer comes through another beside it.

    Args:
        path: The FIFO.
        name: The command.
        params: Its parameters.
        seconds: How long the answer may take.

    Returns:
        The result as JSON has it.

    Raises:
        Refused: The server refuses the command.
        OSError: Nobody reads the FIFO, or it takes too long.
        RemoteProtocolError: What came is no answer.
        ValueError: A parameter is empty or has a control character.
    """
    own = f"ctl_{os.getpid()}_{secrets.token_hex(8)}"
    request = encode_request(FifoRequest(name, own, tuple(params)))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody reads it") from None
        raise
    reply_path = Path(path).with_name(own)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is no FIFO")
        os.mkfifo(reply_path, 0o600)
        reader = os.open(reply_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, request)
            octets = _read_reply(reader, time.monotonic() + seconds)
        finally:
            os.close(reader)
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            reply_path.unlink()
    reply = decode_reply(octets, max_octets=_MAX_ANSWER)
    if reply.code != 200:
        raise Refused(f"{reply.code} {reply.text}")
    return _from_lines(name, reply.lines)


def _read_reply(reader: int, deadline: float) -> bytes:
    answer = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while not answer.endswith(b"\n\n") and len(answer) <= _MAX_ANSWER:
            if not selector.select(max(deadline - time.monotonic(), 0)):
                raise TimeoutError(errno.ETIMEDOUT, "no answer")
            octets = os.read(reader, 65536)
            if not octets:
                break
            answer += octets
    return bytes(answer)


def _from_lines(name: str, lines: Sequence[str]) -> Any:
    """Brings the text form into the one that JSON has."""
    facts: dict[str, Any] = {}
    connections = []
    for line in lines:
        match = _FACT.fullmatch(line)
        if _LINE.fullmatch(line) or match is None:
            connections.append(line)
        else:
            facts[match[1]] = _number(match[2])
    return {"connections": connections, "info": facts} if name == "ws.dump" else facts


def _number(text: str) -> object:
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[0-9]+\.[0-9]+(e[+-]?[0-9]+)?", text) else text


def table(name: str, result: Any) -> list[str]:
    """The lines that show a result.

    Args:
        name: The command.
        result: The result as JSON has it.
    """
    if name != "ws.dump" or not isinstance(result, dict):
        facts = result if isinstance(result, dict) else {"result": result}
        width = max(map(len, facts), default=0)
        return [escape(f"{key:{width}}  {value}") for key, value in facts.items()]
    rows = [_HEADINGS]
    for line in result.get("connections", ()):
        match = _LINE.fullmatch(line)
        if match is None:
            rows.append((escape(str(line)), "", "", "", "", ""))
            continue
        cid, peer, local, state, awaiting, idle, protocol = match.groups()
        rows.append(
            (cid, peer, local, state + (" (ping)" if awaiting else ""), f"{idle}s", protocol)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    info = result.get("info", {})
    if info.get("truncated") == "yes":
        lines.append(f"There are more: offset={info.get('next')}")
    return [escape(line.rstrip(" ")) for line in lines]


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds ``ctl`` to the command line."""
    parser = commands.add_parser(
        "ctl",
        help="gives a running server a command",
        description="Gives a running server a command and shows the answer. Exit code 1 tells "
        "that it was refused, 2 that there is no server or no such command.",
        epilog="ws.dump [id_hash|used_desc|used_asc] takes name=value too: offset, limit, "
        "after, sub_protocol, address, identity, state. ws.close, ws.ping and ws.pong take an ID, "
        "ws.close a code and a reason behind it.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH", help="the server's --ctl-socket")
    where.add_argument("--url", metavar="URL", help="of the server's --ctl-http")
    where.add_argument("--fifo", metavar="PATH", help="the server's --fifo")
    parser.add_argument("--json", action="store_true", help="shows the result as JSON")
    parser.add_argument(
        "--timeout", type=float, default=5.0, metavar="SECONDS", help="for the answer (%(default)s)"
    )
    parser.add_argument(
        "name", metavar="COMMAND", choices=COMMAND_NAMES, help=", ".join(COMMAND_NAMES)
    )
    parser.add_argument("params", metavar="PARAMETER", nargs="*")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    ways: list[tuple[str | None, Callable[[str, str, Sequence[str], float], Any]]] = [
        (arguments.socket, over_socket),
        (arguments.url, over_http),
        (arguments.fifo, over_fifo),
    ]
    where, ask = next((where, ask) for where, ask in ways if where is not None)
    name, params, timeout = arguments.name, arguments.params, arguments.timeout
    try:
        if not 0 < timeout < 86400:
            raise ValueError(f"--timeout: {timeout} is no number of seconds above 0")
        result = ask(str(where), name, params, timeout)
    except (Refused, RemoteProtocolError) as exc:
        return _fail(str(exc), 1)
    except OSError as exc:
        own = exc.strerror if exc.errno in (errno.ECONNREFUSED, errno.EINVAL) else None
        return _fail(f"{where}: {own or reason_of(exc)}", 2)
    except ValueError as exc:
        return _fail(str(exc), 2)
    lines = [json.dumps(result)] if arguments.json else table(name, result)
    for line in lines:
        print(line)
    return 0


def _fail(text: str, code: int) -> int:
    print("wsproto-sip:", escape(text), file=sys.stderr)
    return code
