"""The text form of the management commands that the module's guide shows for MI FIFOs (§6).

A request is a line ``:ws.dump:fifo_reply``, then the parameters a line each, then an empty line.
The reply goes to the FIFO of that name: a line with code and text, then what there is to tell a
line each, then an empty line. Anybody who may write to the FIFO chooses that name, so it can only
be a plain one, which the adapter looks up in a directory of its own.

Where a request could begin, a line of JSON is a message for
:mod:`~wsproto_sip.server.codecs.jsonrpc`: that is what Kamailio's own ``kamctl`` writes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...utilities import RemoteProtocolError
from ..commands import CommandError, Result

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
# A line of text: no control characters, nothing that a terminal or another reader of lines would
# take for the end of one, nothing that UTF-8 cannot carry.
_LINE = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]*")


def is_reply_name(name: str) -> bool:
    """Whether a name may be that of a reply FIFO: letters, digits, ``_`` and ``-``, 64 at most.

    So no separators, no dots, and nothing hidden.
    """
    return _REPLY_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class FifoRequest:
    """A command.

    Args:
        name: Its name, ``ws.dump``.
        reply: The name of the FIFO to answer on; ``None`` if no answer is wanted.
        params: Its parameters.
    """

    name: str
    reply: str | None = None
    params: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FifoError:
    """A request that cannot be understood; what comes up to the next empty line is dropped.

    Args:
        reason: What was wrong.
        reply: The name of the FIFO to answer on, where it is known.
    """

    reason: str
    reply: str | None = None


@dataclass(frozen=True, slots=True)
class FifoMessage:
    """A line of JSON; who answers it knows where to.

    Args:
        data: The line.
    """

    data: bytes


FifoItem = FifoRequest | FifoMessage | FifoError
"""What stands in a FIFO."""


class FifoParser:
    """Takes what is written to a FIFO, cut anywhere.

    Args:
        max_line: Octets in one line.
        max_params: Parameters of one request.
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
        """Take octets in.

        Args:
            data: Octets in UTF-8. A line may end in CR LF too.

        Returns:
            The requests and messages that are complete now, and errors in place of what is none.
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
        """Take the end of the input; the parser can be used for new input then.

        Returns:
            A message, which needs no end of its line; an error if a request was begun and not
            ended.
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

    def _take(self, octets: bytes, found: list[FifoItem]) -> None:
        if len(octets) > self._max_line:
            self._fail("line too long", found)
            return
        octets = octets.removesuffix(b"\r")
        if not octets:
            if self._name is not None:
                found.append(FifoRequest(self._name, self._reply, tuple(self._params)))
            self._reset()
            return
        if self._dropping:
            return
        if self._is_message(octets):
            found.append(FifoMessage(octets))
            return
        try:
            line = octets.decode("utf-8")
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
        ValueError: A name or a parameter cannot be written: empty, a control character in it, or
            a reply FIFO's name that is not plain.
    """
    if not _NAME.fullmatch(request.name):
        raise ValueError(f"not a command's name: {request.name!r}")
    if request.reply is not None and not is_reply_name(request.reply):
        raise ValueError(f"not a plain name of a reply FIFO: {request.reply!r}")
    for param in request.params:
        if not param or not _LINE.fullmatch(param):
            raise ValueError(f"empty, or has a control character: parameter {param!r}")
    lines = [f":{request.name}:{request.reply or ''}", *request.params, "", ""]
    return "\n".join(lines).encode("utf-8")


@dataclass(frozen=True, slots=True)
class FifoReply:
    """An answer.

    Args:
        code: Three digits: 200, or a fault's code.
        text: ``OK``, or a fault's text.
        lines: What there is to tell.
    """

    code: int
    text: str
    lines: tuple[str, ...] = ()


def make_reply(outcome: Result | CommandError | FifoError) -> FifoReply:
    """The answer that tells the outcome of a command, or why it could not be read."""
    if isinstance(outcome, CommandError):
        return FifoReply(outcome.code, outcome.text)
    if isinstance(outcome, FifoError):
        return FifoReply(400, f"Bad request: {outcome.reason}")
    return FifoReply(200, "OK", tuple(outcome.to_lines()))


def encode_reply(reply: FifoReply) -> bytes:
    """Write an answer.

    Raises:
        ValueError: The code has not three digits, or a line is empty or has a control character.
    """
    if not 100 <= reply.code <= 999:
        raise ValueError(f"not a code of three digits: {reply.code!r}")
    if not _LINE.fullmatch(reply.text):
        raise ValueError(f"has a control character: text {reply.text!r}")
    _check_lines(reply.lines)
    return "\n".join([f"{reply.code} {reply.text}", *reply.lines, "", ""]).encode("utf-8")


def _check_lines(lines: Sequence[str]) -> None:
    for line in lines:
        if not line or not _LINE.fullmatch(line):
            raise ValueError(f"empty, or has a control character: line {line!r}")


def decode_reply(data: bytes, *, max_octets: int = 65536) -> FifoReply:
    """Read a whole answer.

    Args:
        data: What was read from the reply FIFO.
        max_octets: Octets an answer may have.

    Raises:
        RemoteProtocolError: It is no answer, not all of one, more than one, or too long.
    """
    if len(data) > max_octets:
        raise RemoteProtocolError(f"an answer of more than {max_octets} octets")
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
