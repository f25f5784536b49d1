from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.management.commands import (
    Command,
    CommandError,
    CommandTable,
    ConnectCommand,
    ConnectResult,
    DumpCommand,
    DumpResult,
    EmptyResult,
    Fault,
    Params,
    PingCommand,
    Result,
)
from wsproto_sip.server.management.jsonrpc import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    RpcBatch,
    RpcCall,
    RpcError,
    RpcReply,
    answer,
    decode_calls,
    decode_replies,
    encode_calls,
    encode_replies,
)
from wsproto_sip.utilities import RemoteProtocolError


def message(**members: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


@pytest.mark.parametrize(
    ("data", "call"),
    [
        (message(method="ws.dump", id=1), RpcCall("ws.dump", [], 1)),
        (message(method="ws.dump", params=["x"], id="a"), RpcCall("ws.dump", ["x"], "a")),
        (message(method="m", params={"id": 3}, id=1.5), RpcCall("m", {"id": 3}, 1.5)),
        (message(method="m", id=None), RpcCall("m", [], None)),
        (
            message(method="m", id=1, params=['"[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{']),
            RpcCall("m", ['"[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{[{'], 1),
        ),
        (
            message(method="m", id=1, params=[[]] * 40 + [{}] * 40),
            RpcCall("m", [[]] * 40 + [{}] * 40, 1),
        ),
        (message(method="m"), RpcCall("m", [], None, notification=True)),
        (message(method="m", id=1, extra={"a": [1]}), RpcCall("m", [], 1)),
        (
            message(method="m", id=1, reply_name="kamailio_jsonrpc_reply-1"),
            RpcCall("m", [], 1, reply_name="kamailio_jsonrpc_reply-1"),
        ),
        (b' \t\r\n{"jsonrpc":"2.0","method":"\\u0000","id":0}\n', RpcCall("\0", [], 0)),
    ],
)
def test_calls(data: bytes, call: RpcCall) -> None:
    assert decode_calls(data) == RpcBatch((call,))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode byte 0xff"),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0"}', "BOM"),
        ('{"a":1}'.encode("utf-16-le"), "Expecting"),
        (b"\x0b{}", "Expecting value"),
        (b"\xc2\xa0{}", "Expecting value"),
        (b"{}{}", "Extra data"),
        (b'{"a":1,"a":2}', "a repeated member"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "too large"),
        (b"1." + b"1" * 100, "too many digits"),
        (b"1" * 21, "too many digits"),
        (b"[" * 33 + b"]" * 33, "nested more than 32 deep"),
        (b"[" * 60_000, "nested more than 32 deep"),
        (b'{"a":' * 10_000, "nested more than 32 deep"),
        (b" " * 65_537, "more than 65536 bytes"),
    ],
)
def test_invalid_json_is_a_parse_error(data: bytes, reason: str) -> None:
    (error,) = decode_calls(data).items
    assert isinstance(error, RpcError)
    assert (error.code, error.message, error.id) == (PARSE_ERROR, "Parse error", None)
    assert reason in error.data
    reply = json.loads(answer(RpcBatch((error,)), execute))
    assert reply == {
        "jsonrpc": "2.0",
        "error": {"code": -32700, "message": "Parse error", "data": error.data},
        "id": None,
    }


@pytest.mark.parametrize(
    ("data", "reason", "id_"),
    [
        (b"1", "not an object", None),
        (b'"x"', "not an object", None),
        (b"[]", "a batch of 0, not 1 to 3", None),
        (b"[" * 32 + b"]" * 32, "not an object", None),
        (b"[1,2,3,4]", "a batch of 4, not 1 to 3", None),
        (b"{}", "jsonrpc is not 2.0", None),
        (b'{"jsonrpc":2.0,"id":7,"method":"m"}', "jsonrpc is not 2.0", 7),
        (message(id=7), "method is not text", 7),
        (message(id="x", method=1), "method is not text", "x"),
        (message(id=7, method="m", params="x"), "params is not an array or an object", 7),
        (message(id=7, method="m", params=None), "params is not an array or an object", 7),
        (message(id=True, method="m"), "id is not text, a number or null", None),
        (message(id=[1], method="m"), "id is not text, a number or null", None),
        (message(id=7, method="m", reply_name="../x"), "reply_name is not a plain name", 7),
        (message(id=7, method="m", reply_name=7), "reply_name is not a plain name", 7),
    ],
)
def test_invalid_call_is_an_invalid_request(data: bytes, reason: str, id_: object) -> None:
    (error,) = decode_calls(data, max_batch=3).items
    assert error == RpcError(INVALID_REQUEST, "Invalid Request", reason, id_)  # type: ignore[arg-type]


def executed(command: Command) -> Result:
    match command:
        case DumpCommand():
            return DumpResult(())
        case ConnectCommand():
            return ConnectResult(9)
        case PingCommand(id=1):
            return EmptyResult()
        case _:
            raise CommandError(Fault.UNKNOWN_CONNECTION)


COMMANDS = CommandTable()
execute = COMMANDS.executing(executed)


def test_answers_have_the_codes_and_texts_of_the_module() -> None:
    def ask(**members: object) -> object:
        return json.loads(answer(decode_calls(message(**members)), execute))

    assert ask(method="ws.dump", id=1) == {
        "jsonrpc": "2.0",
        "result": {"connections": [], "info": {"wscounter": 0, "truncated": "no"}},
        "id": 1,
    }
    assert ask(method="ws.ping", params=[1], id="\u2028") == {
        "jsonrpc": "2.0",
        "result": {},
        "id": "\u2028",
    }
    assert ask(method="ws.ping", params=[2], id=None) == {
        "jsonrpc": "2.0",
        "error": {"code": 500, "message": "Unknown connection ID"},
        "id": None,
    }
    assert ask(method="ws.ping", id=1) == {
        "jsonrpc": "2.0",
        "error": {"code": 500, "message": "Invalid Parameters", "data": "id is missing"},
        "id": 1,
    }
    assert ask(method="ws.dump", params=["x"], id=1) == {
        "jsonrpc": "2.0",
        "error": {"code": 400, "message": "Bad display order parameter"},
        "id": 1,
    }
    assert ask(method="ws.none", id=1) == {
        "jsonrpc": "2.0",
        "error": {"code": METHOD_NOT_FOUND, "message": "Method not found"},
        "id": 1,
    }


def test_notifications_are_executed_and_not_answered() -> None:
    executed: list[Command] = []

    def note(command: Command) -> Result:
        executed.append(command)
        return EmptyResult()

    noting = COMMANDS.executing(note)
    assert answer(decode_calls(message(method="ws.ping", params=[3])), noting) == b""
    assert answer(decode_calls(message(method="ws.ping")), noting) == b""
    assert executed == [PingCommand(3)]


def test_batches() -> None:
    data = b"[%s]" % b",".join(
        [
            message(method="ws.ping", params=[1], id="a"),
            message(method="ws.ping", params=[1]),
            b"1",
            message(method="ws.ping", params=[2], id="b"),
        ]
    )
    batch = decode_calls(data)
    assert batch.batch
    replies = answer(batch, execute)
    assert b"\n" not in replies
    assert json.loads(replies) == [
        {"jsonrpc": "2.0", "result": {}, "id": "a"},
        {
            "jsonrpc": "2.0",
            "error": {"code": -32600, "message": "Invalid Request", "data": "not an object"},
            "id": None,
        },
        {"jsonrpc": "2.0", "error": {"code": 500, "message": "Unknown connection ID"}, "id": "b"},
    ]
    one = decode_calls(b"[%s]" % message(method="ws.ping", params=[1], id=1))
    assert json.loads(answer(one, execute)) == [{"jsonrpc": "2.0", "result": {}, "id": 1}]
    silent = decode_calls(b"[%s]" % message(method="ws.ping", params=[1]))
    assert answer(silent, execute) == b""


def test_other_exceptions_of_the_executor_pass_through() -> None:
    def broken(name: str, params: Params) -> Result:
        raise RuntimeError("broken")

    batch = decode_calls(message(method="ws.enable", id=1))
    with pytest.raises(RuntimeError, match="broken"):
        answer(batch, broken)
    internal = RpcError(INTERNAL_ERROR, "Internal error")
    assert json.loads(encode_replies(batch, [internal])) == {
        "jsonrpc": "2.0",
        "error": {"code": -32603, "message": "Internal error"},
        "id": 1,
    }


@pytest.mark.parametrize("count", [0, 2])
def test_every_call_has_an_outcome(count: int) -> None:
    batch = decode_calls(message(method="ws.enable", id=1))
    with pytest.raises(ValueError, match="the numbers of outcomes and calls differ"):
        encode_replies(batch, [EmptyResult()] * count)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
IDS = st.none() | st.integers(-(2**53), 2**53) | st.text()
CALLS = st.builds(
    RpcCall,
    st.text(),
    st.lists(JSON, max_size=3) | st.dictionaries(st.text(), JSON, min_size=1, max_size=3),
    IDS,
    reply_name=st.none() | st.just("fifo_reply"),
) | st.builds(RpcCall, st.text(), st.just([]), notification=st.just(True))


@given(st.lists(CALLS, min_size=1, max_size=4), st.booleans())
def test_calls_survive_the_round_trip(calls: list[RpcCall], batch: bool) -> None:
    sent = calls if batch else calls[:1]
    assert decode_calls(encode_calls(sent, batch=batch)) == RpcBatch(tuple(sent), batch)


def test_invalid_calls_are_not_written() -> None:
    call = RpcCall("m", [], 1)
    with pytest.raises(ValueError, match="one call, or a batch"):
        encode_calls([call, call])
    with pytest.raises(ValueError, match="one call, or a batch"):
        encode_calls([], batch=True)
    with pytest.raises(ValueError, match="an id must be text, a number or None: True"):
        encode_calls([RpcCall("m", [], True)])
    with pytest.raises(ValueError, match="parameters that JSON cannot represent"):
        encode_calls([RpcCall("m", [b"x"], 1)])
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_calls([RpcCall("m", [float("nan")], 1)])


@given(st.lists(JSON, max_size=3))
def test_results_survive_the_round_trip(results: list[object]) -> None:
    data = json.dumps(
        [{"jsonrpc": "2.0", "result": result, "id": n} for n, result in enumerate(results)]
    ).encode()
    assert decode_replies(data) == [RpcReply(n, result) for n, result in enumerate(results)]


def test_replies() -> None:
    assert decode_replies(b"") == []
    assert decode_replies(message(result={}, id=1)) == [RpcReply(1, {})]
    assert decode_replies(message(error={"code": 500, "message": "x"}, id="a")) == [
        RpcReply("a", None, RpcError(500, "x", "", "a"))
    ]
    detailed = message(error={"code": 500, "message": "x", "data": "why"}, id=None)
    assert decode_replies(detailed) == [RpcReply(None, None, RpcError(500, "x", "why"))]
    other = message(error={"code": 500, "message": "x", "data": {"a": 1}}, id=None)
    assert decode_replies(other) == [RpcReply(None, None, RpcError(500, "x", '{"a": 1}'))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"x", "the answer is not JSON"),
        (b"1", "not JSON-RPC 2.0"),
        (b"[1]", "not JSON-RPC 2.0"),
        (b'{"jsonrpc":"1.0","result":1,"id":1}', "not JSON-RPC 2.0"),
        (message(id=1), "not exactly one of result and error"),
        (message(id=1, result=1, error={}), "not exactly one of result and error"),
        (message(id=[], result=1), "not exactly one of result and error"),
        (message(id=1, error=1), "error is not an object"),
        (message(id=1, error={}), "no code and message"),
        (message(id=1, error={"code": True, "message": ""}), "no code and message"),
        (message(id=1, error={"code": 1, "message": 1}), "no code and message"),
        (b" " * 201, "more than 200 bytes"),
    ],
)
def test_bad_replies(data: bytes, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        decode_replies(data, max_bytes=200)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_get_an_answer(data: bytes) -> None:
    reply = answer(decode_calls(data), execute)
    parsed = decode_replies(reply)
    assert all(item.error is not None and item.error.code < -32000 for item in parsed)
    assert parsed
