"""The text form of the management commands, as in the module's guide for MI FIFOs (§6).

A request is a line ``:ws.dump:fifo_reply``, followed by one line for each parameter, and an empty
line. The reply goes to the FIFO of that name: a line with code and text, one line for each item of
the result, and an empty line. Any process that may write to the FIFO chooses that name, so it has
to be a plain one, which the adapter looks up in its own directory.

If a line of JSON takes the place of a request, it is a message for
:mod:`~wsproto_sip.server.management.jsonrpc`, as Kamailio's own ``kamctl`` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...utilities import RemoteProtocolError
from .commands import CommandError, Result

__all__ = [
    "FifoError",
    "FifoItem",
    "FifoMessage",
    "FifoParser",
    "FifoReply",
    "FifoRequest",
    "decode_reply",
    "encode_reply",
    "encode_request",
    "is_reply_name",
    "make_reply",
]

_REPLY_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9_.]{1,64}")
_FIRST_LINE = re.compile(r":([A-Za-z0-9_.]{1,64}):([A-Za-z0-9_-]{0,64})")
_STATUS_LINE = re.compile(r"([1-9][0-9]{2}) (.*)")
# A line of text: without control characters, line separators of terminals and other readers, and
# characters that UTF-8 cannot encode.
_LINE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]*")


def is_reply_name(name: str) -> bool:
    """Return whether a reply FIFO may have a name: at most 64 letters, digits, ``_`` and ``-``.

    This excludes separators, dots and hidden files.
    """
    return _REPLY_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class FifoRequest:
    """A request for a command.

    Args:
        name: Its name, such as ``ws.dump``.
        reply: The name of the FIFO to answer on; ``None`` if an answer is not wanted.
        params: Its parameters.
    """

    name: str
    reply: str | None = None
    params: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FifoError:
    """A malformed request; input up to the next empty line is dropped.

    Args:
        reason: What was wrong.
        reply: The name of the FIFO to answer on, if it is known.
    """

    reason: str
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class FifoMessage:
    """A line of JSON, which itself says where to answer.

    Args:
        data: The line.
    """

    data: bytes


FifoItem = FifoRequest | FifoMessage | FifoError
"""An item read from a FIFO."""


class FifoParser:
    """Parses the input of a FIFO.

    Args:
        max_line: The maximum length of a line in bytes.
        max_params: The maximum number of parameters of one request.
    """

    def __init__(self, *, max_line: int = 1024, max_params: int = 16) -> None:
        self._max_line = max_line
        self._max_params = max_params
        self._buffer = bytearray()
        self._name: str | None = None
        self._reply: str | None = None
        self._params: list[str] = []
        self._dropping = False
        self._overlong = False

    def feed(self, data: bytes) -> list[FifoItem]:
        """Take input.

        Args:
            data: Bytes in UTF-8, split anywhere. A line may end with CR LF too.

        Returns:
            The requests and messages that are complete now, and errors in place of invalid ones.
        """
        found: list[FifoItem] = []
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        for line in lines:
            if self._overlong:
                self._overlong = False
            else:
                self._take(bytes(line), found)
        if len(rest) > self._max_line:
            if not self._overlong:
                self._fail("line too long", found)
            self._overlong = True
            rest.clear()
        return found

    def close(self) -> list[FifoItem]:
        """Take the end of the input; the parser can then be used for new input.

        Returns:
            A message, whose line end is optional; an error if a request is unfinished.
        """
        begun = self._name is not None or bool(self._buffer)
        found: list[FifoItem] = []
        if begun and not self._is_message(self._buffer):
            self._fail("end of input in a request", found)
        elif begun:
            found.append(FifoMessage(bytes(self._buffer)))
        self._reset()
        self._buffer.clear()
        self._overlong = False
        return found

    def _is_message(self, line: bytes | bytearray) -> bool:
        return line.startswith((b"{", b"[")) and self._name is None and not self._dropping

    def _reset(self) -> None:
        self._name = self._reply = None
        self._params = []
        self._dropping = False

    def _fail(self, reason: str, found: list[FifoItem]) -> None:
        if not self._dropping:
            found.append(FifoError(reason, self._reply))
        self._reset()
        self._dropping = True

    def _take(self, raw: bytes, found: list[FifoItem]) -> None:
        if len(raw) > self._max_line:
            self._fail("line too long", found)
            return
        raw = raw.removesuffix(b"\r")
        if not raw:
            if self._name is not None:
                found.append(FifoRequest(self._name, self._reply, tuple(self._params)))
            self._reset()
            return
        if self._dropping:
            return
        if self._is_message(raw):
            found.append(FifoMessage(raw))
            return
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._fail("line is not UTF-8", found)
            return
        if self._name is None:
            match = _FIRST_LINE.fullmatch(line)
            if match is None:
                self._fail("no command and name of a reply FIFO", found)
                return
            self._name, self._reply = match[1], match[2] or None
        elif not _LINE.fullmatch(line):
            self._fail("parameter with a control character", found)
        elif len(self._params) == self._max_params:
            self._fail("too many parameters", found)
        else:
            self._params.append(line)


def encode_request(request: FifoRequest) -> bytes:
    """Write a request.

    Raises:
        ValueError: A name or a parameter cannot be written: it is empty or has a control character,
            or a reply FIFO's name is not plain.
    """
    if not _NAME.fullmatch(request.name):
        raise ValueError(f"not a command name: {request.name!r}")
    if request.reply is not None and not is_reply_name(request.reply):
        raise ValueError(f"not a plain name of a reply FIFO: {request.reply!r}")
    for param in request.params:
        if not param or not _LINE.fullmatch(param):
            raise ValueError(f"a parameter must not be empty or have control characters: {param!r}")
    lines = [f":{request.name}:{request.reply or ''}", *request.params, "", ""]
    return "\n".join(lines).encode("utf-8")


@dataclass(frozen=True, slots=True)
class FifoReply:
    """An answer.

    Args:
        code: Three digits: 200, or a fault's code.
        text: ``OK``, or a fault's text.
        lines: The lines of the result.
    """

    code: int
    text: str
    lines: tuple[str, ...] = ()


def make_reply(outcome: Result | CommandError | FifoError) -> FifoReply:
    """Make the answer for the outcome of a command, or for a malformed request."""
    if isinstance(outcome, CommandError):
        return FifoReply(outcome.code, outcome.text)
    if isinstance(outcome, FifoError):
        return FifoReply(400, f"Bad request: {outcome.reason}")
    return FifoReply(200, "OK", tuple(outcome.to_lines()))


def encode_reply(reply: FifoReply) -> bytes:
    """Write an answer.

    Raises:
        ValueError: The code does not have three digits, or a line is empty or has a control
            character.
    """
    if not 100 <= reply.code <= 999:
        raise ValueError(f"not a code of three digits: {reply.code!r}")
    if not _LINE.fullmatch(reply.text):
        raise ValueError(f"the text must not have control characters: {reply.text!r}")
    _check_lines(reply.lines)
    return "\n".join([f"{reply.code} {reply.text}", *reply.lines, "", ""]).encode("utf-8")


def _check_lines(lines: Sequence[str]) -> None:
    for line in lines:
        if not line or not _LINE.fullmatch(line):
            raise ValueError(f"a line must not be empty or have control characters: {line!r}")


def decode_reply(data: bytes, *, max_bytes: int = 65536) -> FifoReply:
    """Parse a whole answer.

    Args:
        data: The data read from the reply FIFO.
        max_bytes: The maximum size of an answer in bytes.

    Raises:
        RemoteProtocolError: The data is not exactly one complete answer, or too long.
    """
    if len(data) > max_bytes:
        raise RemoteProtocolError(f"an answer of more than {max_bytes} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("the answer is not UTF-8") from None
    status, *lines = text.split("\n")
    if lines[-2:] != ["", ""]:
        raise RemoteProtocolError("the answer does not end in an empty line")
    match = _STATUS_LINE.fullmatch(status)
    if match is None or not _LINE.fullmatch(match[2]):
        raise RemoteProtocolError("the answer does not start with a code and a text")
    try:
        _check_lines(lines[:-2])
    except ValueError as error:
        raise RemoteProtocolError(str(error)) from None
    return FifoReply(int(match[1]), match[2], tuple(lines[:-2]))
