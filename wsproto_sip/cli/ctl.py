"""``wsproto-sip ctl``: send a command to a running server and show the answer.

Theory of operation: over a Unix socket or HTTP the command is a JSON-RPC call; over a FIFO it has
the text form of the module's guide. An answer in text is converted to the form of JSON, so that all
three show the same. The server knows its commands: names are not checked here.
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
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from ..errors import WsprotoSipError
from ..server.management.jsonrpc import RpcCall, decode_replies, encode_calls
from ..server.management.mi_fifo import FifoRequest, decode_reply, encode_request
from ..utilities import RemoteProtocolError
from ._tables import CONNECTION, table
from ._text import did_you_mean, escape, reason_of
from ._token import read_token
from ._top import run_top

__all__ = ["Refused", "add_arguments", "over_fifo", "over_http", "over_socket"]

#: Bytes of the longest answer.
_MAX_ANSWER: Final = 1024 * 1024

_FACT = re.compile(r"([a-zA-Z_0-9.]+): (.*)")
#: Default interval of ``top`` and of --watch, in seconds.
_INTERVAL: Final = 2.0

#: What a server says of a command that it does not have.
_UNKNOWN: Final = ("-32601 Method not found", "500 Unknown command")

#: What to do where a channel cannot be used, by the option of ``ctl`` and the kind of error.
_MISSING: Final = {
    "socket": "serve creates it with --ctl-socket PATH",
    "url": "serve listens there with --ctl-http PORT",
    "fifo": "serve creates it with --fifo PATH",
}
_UNUSED: Final = _MISSING | {
    "socket": "serve listens there with --ctl-socket PATH",
    "fifo": "serve reads it with --fifo PATH",
}
_FORBIDDEN: Final = (
    "it is for the user that runs the server; run ctl as that user, or use --url with the "
    "server's --ctl-http and --ctl-http-token"
)

#: Commands whose result is a list.
_LISTS: Final = frozenset(["stats.get_statistics", "system.listMethods"])


class Refused(WsprotoSipError):
    """The server did not execute the command.

    Args:
        text: The code and text of the refusal.
    """


def _call(name: str, params: Sequence[str]) -> bytes:
    return encode_calls([RpcCall(name, list(params), id=1)])


def _result(data: bytes) -> Any:
    replies = decode_replies(data, max_bytes=_MAX_ANSWER)
    if len(replies) != 1:
        raise RemoteProtocolError(f"{len(replies)} answers instead of one")
    reply = replies[0]
    error = reply.error
    if error is not None:
        raise Refused(f"{error.code} {error.message}" + (f": {error.data}" if error.data else ""))
    return reply.result


def over_socket(path: str, name: str, params: Sequence[str], seconds: float) -> Any:
    """Send a command through a Unix socket.

    Args:
        path: The socket.
        name: The command.
        params: Its parameters.
        seconds: Time for the answer.

    Returns:
        The result, in its JSON form.

    Raises:
        Refused: The server refuses the command.
        OSError: The server cannot be reached, or takes too long.
        RemoteProtocolError: The answer is invalid.
    """
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(seconds)
        sock.connect(path)
        sock.sendall(_call(name, params) + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n") and len(answer) <= _MAX_ANSWER:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            data = sock.recv(65536)
            if not data:
                break
            answer += data
    return _result(bytes(answer))


def over_http(
    url: str, name: str, params: Sequence[str], seconds: float, *, token: str | None = None
) -> Any:
    """Send a command over HTTP.

    Args:
        url: The URL of the server's --ctl-http.
        name: The command.
        params: Its parameters.
        seconds: How long the server may take between two bytes.
        token: The token that the server requires; ``None`` for none.

    Returns:
        The result, in its JSON form.

    Raises:
        Refused: The server refuses the command.
        OSError: The server cannot be reached, or takes too long.
        RemoteProtocolError: The answer is invalid.
        ValueError: The URL is invalid.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"not http://HOST:PORT/: {url!r}")
    fields = {"Content-Type": "application/json", "Connection": "close"}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=seconds)
    try:
        connection.request(
            "POST",
            parts.path or "/",
            _call(name, params),
            fields,
        )
        response = connection.getresponse()
        body = response.read(_MAX_ANSWER + 1)
    except http.client.HTTPException as exc:
        raise RemoteProtocolError(f"not HTTP: {exc!r}") from None
    finally:
        connection.close()
    if response.status != 200:
        status = f"{response.status} {response.reason}".rstrip(" ")
        detail = body[:200].decode("utf-8", "replace").rstrip("\n")
        advice = ""
        if response.status == HTTPStatus.UNAUTHORIZED:
            advice = "; --token-file names the file of the server's --ctl-http-token"
            if token is not None:
                advice = "; the token is not that of the server's --ctl-http-token"
        raise Refused(status + (f": {detail}" if detail else "") + advice)
    return _result(body)


def over_fifo(path: str, name: str, params: Sequence[str], seconds: float) -> Any:
    """Send a command through a FIFO; the answer arrives through another one next to it.

    Args:
        path: The FIFO.
        name: The command.
        params: Its parameters.
        seconds: Time for the answer.

    Returns:
        The result, in its JSON form.

    Raises:
        Refused: The server refuses the command.
        OSError: The FIFO has no reader, or the answer takes too long.
        RemoteProtocolError: The answer is invalid.
        ValueError: A parameter is empty or contains a control character.
    """
    own = f"ctl_{os.getpid()}_{secrets.token_hex(8)}"
    request = encode_request(FifoRequest(name, own, tuple(params)))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the FIFO has no reader") from None
        raise
    reply_path = Path(path).with_name(own)
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a FIFO")
        os.mkfifo(reply_path, 0o600)
        reader = os.open(reply_path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fd, request)
            data = _read_reply(reader, time.monotonic() + seconds)
        finally:
            os.close(reader)
    finally:
        os.close(fd)
        with suppress(FileNotFoundError):
            reply_path.unlink()
    reply = decode_reply(data, max_bytes=_MAX_ANSWER)
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
            data = os.read(reader, 65536)
            if not data:
                break
            answer += data
    return bytes(answer)


def _from_lines(name: str, lines: Sequence[str]) -> Any:
    """Convert the text form to the form of JSON."""
    if name in _LISTS:
        return list(lines)
    if len(lines) == 1 and lines[0].startswith(("{", "[")):
        with suppress(ValueError):
            return json.loads(lines[0])
    facts: dict[str, Any] = {}
    connections = []
    for line in lines:
        match = _FACT.fullmatch(line)
        if CONNECTION.fullmatch(line) or match is None:
            connections.append(line)
        else:
            facts[match[1]] = _number(match[2])
    if name == "ws.dump":
        return {"connections": connections, "info": facts}
    # A line without a name is a value by itself.
    return _number(connections[0]) if connections else facts


def _number(text: str) -> object:
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    return float(text) if re.fullmatch(r"[0-9]+\.[0-9]+(e[+-]?[0-9]+)?", text) else text


_EPILOG: Final = """\
Parameters:
  ws.dump [id_hash|used_desc|used_asc] [NAME=VALUE ...]
      NAME is offset, limit, after, subprotocol, address, identity or state
  ws.close ID [CODE [REASON]]
  ws.ping ID
  ws.pong ID

If the server has a --store, NODE/ID is a connection of another node. To ask all nodes,
write all as the first parameter of ws.dump, ul.dump, ul.lookup, ul.rm, ws.statistics,
ws.disable, ws.enable, drain, reload, core.uptime, core.version or top.

Examples:
  wsproto-sip ctl --socket /run/wsproto-sip/ctl core.help
  wsproto-sip ctl --socket /run/wsproto-sip/ctl ws.dump used_desc limit=20
  wsproto-sip ctl --url http://127.0.0.1:8090/ ws.close 17 1001 'see you later'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ctl`` to its parser."""
    parser.description = (
        "Send a command to a running server and show the answer. The exit code is 1 if "
        "the server refused the command, and 2 if the server cannot be reached."
    )
    parser.usage = (
        "%(prog)s (--socket PATH | --url URL | --fifo PATH) [OPTION ...] COMMAND [PARAMETER ...]"
    )
    parser.epilog = _EPILOG
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--socket", metavar="PATH", help="path of the server's --ctl-socket")
    where.add_argument("--url", metavar="URL", help="URL of the server's --ctl-http")
    where.add_argument("--fifo", metavar="PATH", help="path of the server's --fifo")
    parser.add_argument(
        "--token-file", metavar="FILE", help="file of the server's --ctl-http-token, with --url"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=_INTERVAL,
        metavar="SECONDS",
        help=f"repeat the command every SECONDS (default: {_INTERVAL:g}) until Ctrl-C",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="time for the answer (default: %(default)s)",
    )
    parser.add_argument(
        "name",
        metavar="COMMAND",
        help="command of the server, listed by core.help; or top, a live view of the server",
    )
    # Without a default, it would be reported as missing together with COMMAND.
    parser.add_argument(
        "params", metavar="PARAMETER", nargs="*", default=[], help="parameter of the command"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    ways: dict[str, Callable[[str, str, Sequence[str], float], Any]] = {
        "socket": over_socket,
        "url": over_http,
        "fifo": over_fifo,
    }
    option = next(name for name in ways if getattr(arguments, name) is not None)
    where, way = getattr(arguments, option), ways[option]
    name, params = arguments.name, arguments.params
    try:
        for duration in ("timeout", "watch"):
            seconds = getattr(arguments, duration)
            if seconds is not None and not 0 < seconds < 86400:
                raise ValueError(f"--{duration}: {seconds} is not a number of seconds above 0")
        if arguments.token_file is not None:
            if way is not over_http:
                raise ValueError("--token-file: requires --url")
            way = partial(over_http, token=_token_in(arguments.token_file))

        def ask(name: str, params: Sequence[str]) -> Any:
            return way(str(where), name, params, arguments.timeout)

        if name == "top":
            if params not in ([], ["all"]):
                raise ValueError("top takes no parameter but all")
            interval = arguments.watch or _INTERVAL
            return run_top(ask, interval, Refused, everywhere=bool(params))
        while True:
            _show(name, ask(name, params), as_json=arguments.json, again=bool(arguments.watch))
            if arguments.watch is None:
                return 0
            time.sleep(arguments.watch)
    except Refused as exc:
        return _fail(f"{exc}{_meant(name, ask) if str(exc) in _UNKNOWN else ''}", 1)
    except RemoteProtocolError as exc:
        return _fail(str(exc), 1)
    except OSError as exc:
        own = exc.strerror if exc.errno in (errno.ECONNREFUSED, errno.EINVAL) else None
        return _fail(f"{where}: {own or reason_of(exc)}{_advice(option, where, exc)}", 2)
    except ValueError as exc:
        return _fail(str(exc), 2)


def _advice(option: str, where: str, error: OSError) -> str:
    """Return what to do about a channel that cannot be used."""
    if isinstance(error, FileNotFoundError):
        first = f"{where}.0"
        if Path(first).exists():
            return f"; with --processes, each process has its own, the first one {first}"
        return f"; {_MISSING[option]}"
    if isinstance(error, ConnectionRefusedError):
        return f"; {_UNUSED[option]}"
    return f"; {_FORBIDDEN}" if isinstance(error, PermissionError) else ""


def _meant(name: str, ask: Callable[[str, Sequence[str]], Any]) -> str:
    """Return what the server has instead of a command that it does not know."""
    known: list[str] = []
    with suppress(Refused, RemoteProtocolError, OSError):
        known = [str(method) for method in ask("system.listMethods", ())]
    return did_you_mean(name, known) or "; core.help lists the commands"


def _show(name: str, result: Any, *, as_json: bool, again: bool) -> None:
    """Print a result; on a terminal it is fitted, and replaces the previous one."""
    width = None
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        if again:
            print("\x1b[H\x1b[J", end="")
    lines = [json.dumps(result)] if as_json else table(name, result, width)
    for line in lines:
        print(line)
    if again:
        # For a program that reads the pipe.
        if width is None and not as_json:
            print()
        sys.stdout.flush()


def _token_in(path: str) -> str:
    try:
        return read_token(path)
    except OSError as exc:
        advice = "it has the token of the server's --ctl-http-token"
        raise ValueError(f"--token-file: {path}: {reason_of(exc)}; {advice}") from None
    except ValueError as exc:
        raise ValueError(f"--token-file: {path}: {exc}") from None


def _fail(text: str, code: int) -> int:
    print("wsproto-sip:", escape(text), file=sys.stderr)
    return code
