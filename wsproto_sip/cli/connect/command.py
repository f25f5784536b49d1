"""The arguments of ``wsproto-sip connect``, and how it opens its connection.

Theory of operation: the connection is one of :mod:`~wsproto_sip.adapters.asyncio`, with its
proxies, redirects, credentials and deadlines. Once it is open, a
:class:`~wsproto_sip.cli.connect.conversation.Conversation` takes over.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from ...adapters._tls import client_context
from ...adapters.asyncio import ConnectionClosedError, HandshakeRejected, ProxyError, connect
from ...extensions import PerMessageDeflate
from ...limits import Limits
from ...session.config import SessionConfig
from ...uri import WebSocketURI
from ...utilities import LocalProtocolError
from .._text import authority, escape, reason_of
from .conversation import Conversation
from .credentials import ask_password, read_credentials, split_credentials
from .output import JsonOutput, Output, TextOutput
from .wire import Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from .prompt import Prompt

__all__ = ["EXIT_CODES", "add_arguments", "parse_header", "parse_resolve"]

#: The meaning of the exit codes.
EXIT_CODES: Final = {
    0: "the server closed with 1000, 1001 or without a code",
    1: "the server closed with another code",
    2: "an argument is invalid",
    3: "no connection was made: a name, a port, a certificate, a proxy, or a timeout",
    4: "the server refused the handshake, or does not speak WebSocket",
    5: "the connection was lost, or ended without the server's close frame",
    130: "interrupted before the connection was closed cleanly",
}
_WRONG_ARGUMENT: Final = 2
_NO_CONNECTION: Final = 3
_REJECTED: Final = 4
_INTERRUPTED: Final = 130

#: RFC 9110 §5.1, §5.5: a name, and a value without control characters.
_HEADER: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
#: RFC 6455 §4.1: the form of a sub-protocol's name.
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Header fields that the handshake writes itself (RFC 6455 §4.1).
_OWN_HEADERS: Final = re.compile(
    r"host|connection|upgrade|content-length|transfer-encoding"
    r"|sec-websocket-(key|version|accept|extensions|protocol)",
    re.IGNORECASE,
)
_RESOLVE: Final = re.compile(r"(\[[^\]]+\]|[^:\[\]]+):([0-9]{1,5}):(.+)")
#: One message per read: each is shown before the next read, also after this side has closed.
_LIMITS: Final = Limits(max_queued_messages=None, max_queued_bytes=None)


def parse_header(text: str) -> tuple[bytes, bytes]:
    """Parse a header field.

    Args:
        text: ``Name: value``.

    Raises:
        ValueError: It is not a header field, or one that the handshake writes itself.
    """
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ValueError("not of the form 'Name: value'")
    name, value = match.groups()
    if _OWN_HEADERS.fullmatch(name):
        raise ValueError(f"{name} is set by the handshake")
    return name.encode("ascii"), value.strip(" \t").encode("utf-8", "surrogateescape")


def parse_resolve(text: str) -> tuple[str, int, str]:
    """Parse ``HOST:PORT:ADDRESS``.

    Args:
        text: The name and port of a URL, and the IP address to connect to instead of looking the
            name up; IPv6 with or without brackets.

    Raises:
        ValueError: The form is invalid, or the last part is not an IP address.
    """
    match = _RESOLVE.fullmatch(text)
    if match is None:
        raise ValueError("not of the form HOST:PORT:ADDRESS")
    host, port, address = match.groups()
    # Parse the name like the one of the URL.
    uri = WebSocketURI.parse(f"ws://{host}:{port}/")
    return uri.host, uri.port, str(ip_address(address.removeprefix("[").removesuffix("]")))


_EXAMPLES: Final = """\
Examples:
  wsproto-sip connect wss://example.com/chat
  printf 'hello\\n' | wsproto-sip connect ws://127.0.0.1:8080/
  wsproto-sip connect --subprotocol sip --auth alice --show wss://example.com/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``connect`` to its parser."""
    parser.usage = "%(prog)s [OPTION ...] URL"
    parser.description = (
        "Connect to a WebSocket server. Send each line of standard input as a message, and print "
        "the messages of the server."
    )
    codes = [f"  {code:<4} {why}" for code, why in EXIT_CODES.items()]
    parser.epilog = "\n".join([_EXAMPLES, "", "Exit codes:", *codes])
    add = parser.add_argument
    add("url", metavar="URL", help="URL to connect to, ws://host:port/path or wss://…")
    add("--subprotocol", action="append", default=[], metavar="NAME", help="offer a sub-protocol")
    add("--origin", metavar="ORIGIN", help="send this Origin, like a page in a browser")
    add("--header", action="append", default=[], metavar="'NAME: VALUE'", help="add a header field")
    credentials = parser.add_mutually_exclusive_group()
    credentials.add_argument(
        "--auth",
        metavar="USER[:PASSWORD]",
        help="log in with Digest or Basic, as the server requests; without a password, use "
        "WSPROTO_SIP_PASSWORD from the environment or ask for it",
    )
    credentials.add_argument(
        "--auth-file",
        metavar="FILE",
        help="the same, with USER:PASSWORD from a file readable by this user only",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--cafile", metavar="FILE", help="trust the certificates in this file, for wss"
    )
    trust.add_argument(
        "--insecure", action="store_true", help="do not verify certificates, for tests only"
    )
    add("--cert", metavar="FILE", help="present this client certificate chain (PEM)")
    add("--key", metavar="FILE", help="private key of --cert, unless it is in the same file")
    add(
        "--resolve",
        action="append",
        default=[],
        metavar="HOST:PORT:ADDRESS",
        help="connect to this address if the URL has this host and port",
    )
    add(
        "--proxy",
        metavar="URI",
        help="use this proxy, or none; by default the environment's",
    )
    add(
        "--max-redirects",
        type=_count,
        default=5,
        metavar="N",
        help="maximum number of redirects to follow (default: %(default)s)",
    )
    add(
        "--open-timeout",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="time to open the connection (default: %(default)s)",
    )
    add(
        "--wait",
        type=_seconds,
        default=0.5,
        metavar="SECONDS",
        help="close this long after the end of input and the last message (default: %(default)s)",
    )
    add(
        "--commands",
        action=argparse.BooleanOptionalAction,
        help="treat lines that start with / as commands (/help lists them); by default if input is "
        "a terminal",
    )
    add(
        "--history",
        metavar="FILE",
        help="keep the history of the prompt in this file; by default only for one run",
    )
    add(
        "--show",
        action="store_true",
        help="show the handshake and frames on standard error, including credentials",
    )
    add("--json", action="store_true", help="print all events as JSON, one object per line")
    parser.set_defaults(run=_run)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds of at least 0")
    return seconds


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer between 0 and 9999")
    return int(text)


class _WrongArgument(Exception):
    """An invalid argument."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """The parsed arguments.

    Args:
        uri: The URI to connect to.
        address: The address to connect to instead of the URI's host.
        headers: Header fields.
        tls: The TLS context.
    """

    uri: WebSocketURI
    address: str | None
    headers: list[tuple[bytes, bytes]]
    tls: ssl.SSLContext


def _plan(arguments: argparse.Namespace) -> _Plan:
    """Check and convert the arguments.

    Raises:
        _WrongArgument: One of them is invalid.
    """
    try:
        uri = WebSocketURI.parse(arguments.url)
    except ValueError as exc:
        raise _WrongArgument(f"{arguments.url!r} is not a WebSocket URI: {exc}") from None
    headers = []
    for text in arguments.header:
        try:
            headers.append(parse_header(text))
        except ValueError as exc:
            raise _WrongArgument(f"--header {text!r}: {exc}") from None
    if arguments.origin is not None:
        try:
            headers.append(parse_header(f"Origin: {arguments.origin}"))
        except ValueError:
            raise _WrongArgument(f"--origin {arguments.origin!r}: not a field value") from None
    for name in arguments.subprotocol:
        if not _TOKEN.fullmatch(name):
            raise _WrongArgument(f"--subprotocol {name!r}: not a token of RFC 9110")
    address = None
    for text in arguments.resolve:
        try:
            host, port, found = parse_resolve(text)
        except ValueError as exc:
            raise _WrongArgument(f"--resolve {text!r}: {exc}") from None
        if (host, port) == (uri.host, uri.port):
            address = found
    return _Plan(uri, address, headers, _tls(arguments))


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext:
    try:
        context = client_context(cafile=arguments.cafile, verify=not arguments.insecure)
    except OSError as exc:
        raise _WrongArgument(f"--cafile {arguments.cafile!r}: {reason_of(exc)}") from None
    if arguments.cert is None:
        if arguments.key is not None:
            raise _WrongArgument("--key: requires --cert")
        return context
    try:
        context.load_cert_chain(arguments.cert, arguments.key)
    except OSError as exc:
        raise _WrongArgument(f"--cert {arguments.cert!r}: {reason_of(exc)}") from None
    return context


def _credentials(arguments: argparse.Namespace) -> tuple[str, str] | None:
    """Read the credentials, or ask for them."""
    if arguments.auth_file is not None:
        try:
            return read_credentials(arguments.auth_file)
        except OSError as exc:
            raise _WrongArgument(f"--auth-file {arguments.auth_file!r}: {reason_of(exc)}") from None
        except ValueError as exc:
            raise _WrongArgument(f"--auth-file {arguments.auth_file!r}: {exc}") from None
    if arguments.auth is None:
        return None
    try:
        user, password = split_credentials(arguments.auth)
        return user, ask_password(user) if password is None else password
    except ValueError as exc:
        raise _WrongArgument(f"--auth: {exc}") from None


def _run(arguments: argparse.Namespace) -> int:
    try:
        plan = _plan(arguments)
        # Last, so that the user is not asked before another error is reported.
        credentials = _credentials(arguments)
    except _WrongArgument as exc:
        return _complain(str(exc))
    output: Output = JsonOutput() if arguments.json else TextOutput()
    return asyncio.run(_connect(plan, credentials, arguments, output))


def _complain(text: str) -> int:
    print("wsproto-sip:", escape(text), file=sys.stderr)
    return _WRONG_ARGUMENT


def _make_prompt(history: str | None, interrupt: Callable[[], object]) -> Prompt | None:
    """Make a prompt, if there is a terminal and ``prompt_toolkit``."""
    terminal = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    if not terminal or os.environ.get("TERM", "dumb") == "dumb":
        return None
    try:
        from .prompt import Prompt  # noqa: PLC0415 - prompt_toolkit is an extra
    except ImportError:
        return None
    return Prompt(history, interrupt)


async def _connect(
    plan: _Plan,
    credentials: tuple[str, str] | None,
    arguments: argparse.Namespace,
    output: Output,
) -> int:
    commands = arguments.commands
    if commands is None:
        commands = sys.stdin is not None and sys.stdin.isatty()
    conversation = Conversation(output, wait=arguments.wait, commands=commands)
    try:
        conversation.prompt = _make_prompt(arguments.history, conversation.interrupt)
    except OSError as exc:
        return _complain(f"--history {arguments.history!r}: {reason_of(exc)}")
    where = authority(plan.uri.host, plan.uri.port)

    def failed(reason: str, code: int = _NO_CONNECTION) -> int:
        output.failed(reason)
        return code

    with conversation.interruptible():
        try:
            connection = await connect(
                arguments.url,
                headers=plan.headers,
                subprotocols=arguments.subprotocol,
                extensions=lambda: [PerMessageDeflate()],
                config=SessionConfig(limits=_LIMITS, open_timeout=arguments.open_timeout or None),
                ssl=plan.tls,
                max_redirects=arguments.max_redirects,
                proxy={None: True, "none": None}.get(arguments.proxy, arguments.proxy),
                host=plan.address,
                credentials=credentials,
                on_control=conversation.control,
                on_wire=Wire(output.wire) if arguments.show else None,
            )
        except HandshakeRejected as rejection:
            output.rejected(rejection)
            return _REJECTED
        except ConnectionClosedError as exc:
            reason = exc.reason or "no answer"
            return failed(f"this is not a WebSocket handshake: {reason}", _REJECTED)
        except TimeoutError:
            return failed(f"cannot connect to {where}: no answer")
        except ProxyError as exc:
            return failed(f"cannot connect to {where}: {exc}")
        except OSError as exc:
            return failed(f"cannot connect to {where}: {reason_of(exc)}")
        except (LocalProtocolError, ValueError, ModuleNotFoundError) as exc:
            # After OSError: an error of certificate verification is a ValueError, too.
            return _complain(str(exc))
        except asyncio.CancelledError:
            if not conversation.interrupted:
                raise
            return _INTERRUPTED
        try:
            return await conversation.talk(connection)
        except asyncio.CancelledError:
            if not conversation.interrupted:
                raise
            return _INTERRUPTED
        finally:
            connection.abort()
