"""The management commands as JSON-RPC 2.0, for HTTP bodies, FIFOs and Unix sockets.

A message is one object or one batch. Written messages do not contain line breaks, so that on a
stream a message can be a line. Errors of the commands keep the module's codes and texts, as in
Kamailio's JSON-RPC; those of JSON-RPC keep theirs.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeGuard

from ...utilities import RemoteProtocolError
from .commands import CommandError, Execute, Fault, Result
from .mi_fifo import is_reply_name

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "RpcBatch",
    "RpcCall",
    "RpcError",
    "RpcId",
    "RpcReply",
    "answer",
    "decode_calls",
    "decode_replies",
    "encode_calls",
    "encode_replies",
]

#: JSON-RPC 2.0 §5.1.
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603

#: The id of a call: text, a number, or null.
RpcId = str | int | float | None


@dataclass(frozen=True, slots=True)
class RpcCall:
    """A call of a command.

    Args:
        method: Its name.
        params: Its parameters, by position or by name.
        id: The id for the answer.
        notification: Whether no answer is requested; it has no id then.
        reply_name: The plain name of the FIFO to answer on, for messages from a FIFO (Kamailio's
            ``reply_name``).
    """

    method: str
    params: Sequence[object] | Mapping[str, object] = ()
    id: RpcId = None
    notification: bool = False
    reply_name: str | None = None


@dataclass(frozen=True, slots=True)
class RpcError:
    """An error in an answer; or, among calls, the answer to an invalid call.

    Args:
        code: The code.
        message: The text.
        data: More about it, for people.
        id: The call's id, if it is known.
    """

    code: int
    message: str
    data: str = ""
    id: RpcId = None


@dataclass(frozen=True, slots=True)
class RpcBatch:
    """A message with calls.

    Args:
        items: The calls, and errors in place of invalid ones.
        batch: Whether the message was a batch, so that the answer has to be one too.
    """

    items: tuple[RpcCall | RpcError, ...]
    batch: bool = False


@dataclass(frozen=True, slots=True)
class RpcReply:
    """An answer.

    Args:
        id: The call's id.
        result: The result, unless there is an error.
        error: The error.
    """

    id: RpcId
    result: object = None
    error: RpcError | None = None


# Brackets that open or end a level of nesting, and strings, which may contain the same characters.
_find_brackets = re.compile(rb'"(?:[^"\\]+|\\.)*"?|[\[{]|[\]}]', re.DOTALL).finditer
_MAX_DEPTH = 32


def _is_deep(data: bytes) -> bool:
    """Return whether JSON is nested too deeply for a recursive parser."""
    depth = 0
    for match in _find_brackets(data):
        byte = match[0]
        if byte in b"[{":
            depth += 1
            if depth > _MAX_DEPTH:
                return True
        elif byte in b"]}":
            depth -= 1
    return False


def _integer(text: str) -> int:
    # Parsing decimal numbers takes quadratic time.
    if len(text) > 20:
        raise ValueError("a number with too many digits")
    return int(text)


def _float(text: str) -> float:
    value = float(text) if len(text) <= 40 else math.inf
    if not math.isfinite(value):
        raise ValueError("a number that is too large or has too many digits")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not JSON")


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a repeated member")
    return members


def _load(data: bytes, max_bytes: int) -> object:
    """Parse JSON (RFC 8259).

    Raises:
        ValueError: It is too long, not UTF-8, not JSON, nested too deeply, or has repeated members
            or numbers of absurd size.
    """
    if len(data) > max_bytes:
        raise ValueError(f"more than {max_bytes} bytes")
    if _is_deep(data):
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    return json.loads(
        data.decode("utf-8"),
        parse_int=_integer,
        parse_float=_float,
        parse_constant=_no_constant,
        object_pairs_hook=_members,
    )


def _is_id(value: object) -> TypeGuard[RpcId]:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")


def decode_calls(data: bytes, *, max_bytes: int = 65536, max_batch: int = 100) -> RpcBatch:
    """Parse a message with calls. Errors in it become answers.

    Args:
        data: The message, in UTF-8.
        max_bytes: The maximum size of a message in bytes.
        max_batch: The maximum number of calls in a batch.
    """
    try:
        message = _load(data, max_bytes)
    except ValueError as error:
        return RpcBatch((RpcError(PARSE_ERROR, "Parse error", str(error)[:200]),))
    if not isinstance(message, list):
        return RpcBatch((_call(message),))
    if not 1 <= len(message) <= max_batch:
        return RpcBatch((_invalid(f"a batch of {len(message)}, not 1 to {max_batch}"),))
    return RpcBatch(tuple(_call(item) for item in message), batch=True)


def _invalid(reason: str, id_: RpcId = None) -> RpcError:
    return RpcError(INVALID_REQUEST, "Invalid Request", reason, id_)


def _call(item: object) -> RpcCall | RpcError:
    if not isinstance(item, dict):
        return _invalid("not an object")
    id_ = item.get("id")
    if not _is_id(id_):
        return _invalid("id is not text, a number or null")
    if item.get("jsonrpc") != "2.0":
        return _invalid("jsonrpc is not 2.0", id_)
    method = item.get("method")
    if not isinstance(method, str):
        return _invalid("method is not text", id_)
    params = item.get("params", [])
    if not isinstance(params, list | dict):
        return _invalid("params is not an array or an object", id_)
    reply_name = item.get("reply_name")
    if reply_name is not None and not (isinstance(reply_name, str) and is_reply_name(reply_name)):
        return _invalid("reply_name is not a plain name", id_)
    return RpcCall(method, params, id_, "id" not in item, reply_name)


def _error_object(error: CommandError | RpcError) -> dict[str, object]:
    if isinstance(error, RpcError):
        members: dict[str, object] = {"code": error.code, "message": error.message}
        detail = error.data
    else:
        members = {"code": error.code, "message": error.text}
        if error.fault is Fault.UNKNOWN_COMMAND:
            members = {"code": METHOD_NOT_FOUND, "message": "Method not found"}
        detail = error.detail
    return members | ({"data": detail} if detail else {})


def encode_replies(batch: RpcBatch, outcomes: Sequence[Result | CommandError | RpcError]) -> bytes:
    """Write the answer to a message.

    Args:
        batch: The result of :func:`decode_calls` for the message.
        outcomes: The outcomes of its calls, in order; items that are errors have none.

    Returns:
        The answer; empty if all calls were notifications.

    Raises:
        ValueError: The number of outcomes differs from the number of calls.
    """
    replies: list[object] = []
    remaining = iter(outcomes)
    if len(outcomes) != sum(isinstance(item, RpcCall) for item in batch.items):
        raise ValueError("the numbers of outcomes and calls differ")
    for item in batch.items:
        outcome = item if isinstance(item, RpcError) else next(remaining)
        if isinstance(item, RpcCall) and item.notification:
            continue
        reply: dict[str, object] = {"jsonrpc": "2.0"}
        if isinstance(outcome, CommandError | RpcError):
            reply["error"] = _error_object(outcome)
        else:
            reply["result"] = outcome.to_json()
        reply["id"] = item.id
        replies.append(reply)
    if not replies:
        return b""
    return _dump(replies if batch.batch else replies[0])


def answer(batch: RpcBatch, execute: Execute) -> bytes:
    """Execute the calls of a message one after the other, and write the answer.

    Args:
        batch: The result of :func:`decode_calls` for the message.
        execute: Executes a command by name; exceptions other than
            :class:`~wsproto_sip.server.management.commands.CommandError` are passed through.

    Returns:
        The same as :func:`encode_replies`.
    """
    outcomes: list[Result | CommandError] = []
    for item in batch.items:
        if isinstance(item, RpcCall):
            try:
                outcomes.append(execute(item.method, item.params))
            except CommandError as error:
                outcomes.append(error)
    return encode_replies(batch, outcomes)


def encode_calls(calls: Sequence[RpcCall], *, batch: bool = False) -> bytes:
    """Write a message with calls.

    Args:
        calls: The calls; a single one unless it is a batch.
        batch: Whether to write a batch.

    Raises:
        ValueError: ``calls`` is empty, or has several outside a batch, or a call has parameters
            that JSON cannot represent or an invalid id.
    """
    if not calls or (len(calls) > 1 and not batch):
        raise ValueError("a message must be one call, or a batch of at least one")
    messages: list[object] = []
    for call in calls:
        if not _is_id(call.id):
            raise ValueError(f"an id must be text, a number or None: {call.id!r}")
        params = call.params
        message: dict[str, object] = {"jsonrpc": "2.0", "method": call.method}
        if params:
            message["params"] = dict(params) if isinstance(params, Mapping) else list(params)
        if call.reply_name is not None:
            message["reply_name"] = call.reply_name
        if not call.notification:
            message["id"] = call.id
        messages.append(message)
    try:
        return _dump(messages if batch else messages[0])
    except (TypeError, RecursionError) as error:
        raise ValueError(f"parameters that JSON cannot represent: {error}") from None


def decode_replies(data: bytes, *, max_bytes: int = 1024 * 1024) -> list[RpcReply]:
    """Parse an answer.

    Args:
        data: The answer, in UTF-8; empty if there were only notifications.
        max_bytes: The maximum size of an answer in bytes.

    Returns:
        One reply, or those of a batch in the order received.

    Raises:
        RemoteProtocolError: The data is not an answer.
    """
    if not data:
        return []
    try:
        message = _load(data, max_bytes)
    except ValueError as error:
        raise RemoteProtocolError(f"the answer is not JSON: {error}") from None
    return [_reply(item) for item in (message if isinstance(message, list) else [message])]


def _reply(item: object) -> RpcReply:
    if not isinstance(item, dict) or item.get("jsonrpc") != "2.0":
        raise RemoteProtocolError("the answer is not JSON-RPC 2.0")
    id_ = item.get("id")
    if not _is_id(id_) or ("result" in item) is ("error" in item):
        raise RemoteProtocolError("the answer has no id, or not exactly one of result and error")
    if "result" in item:
        return RpcReply(id_, item["result"])
    error = item["error"]
    if not isinstance(error, dict):
        raise RemoteProtocolError("the answer's error is not an object")
    code, message, detail = error.get("code"), error.get("message"), error.get("data", "")
    if isinstance(code, bool) or not isinstance(code, int) or not isinstance(message, str):
        raise RemoteProtocolError("the answer's error has no code and message")
    text = detail if isinstance(detail, str) else json.dumps(detail)
    return RpcReply(id_, None, RpcError(code, message, text, id_))
