from __future__ import annotations

from typing import Any

import pytest

from wsproto_sip.auth import Algorithm, Challenge, Credentials, Proven, Secret, digest_ha1
from wsproto_sip.msrp.authentication import AuthenticationError, DigestServer
from wsproto_sip.msrp.client.login import Granted, RelayLogin
from wsproto_sip.msrp.message.chunk import MsrpRequest, parse_chunk
from wsproto_sip.msrp.message.uri import MsrpUri

RELAY = MsrpUri.parse(b"msrps://relay.example:2855;ws")
LOCAL = MsrpUri.parse(b"msrps://alice.invalid:1/a;ws")
MINE = MsrpUri.parse(b"msrps://relay.example:2855/mine;tcp")
SERVER = DigestServer("relay", {"alice": "secret"})


def login(**options: Any) -> RelayLogin:
    return RelayLogin(RELAY, LOCAL, "alice", "secret", **options)


def read(data: Granted | bytes) -> MsrpRequest:
    assert isinstance(data, bytes)
    request = parse_chunk(data)
    assert isinstance(request, MsrpRequest)
    assert (request.method, request.to_path, request.from_path) == (b"AUTH", (RELAY,), (LOCAL,))
    return request


def answer(
    client: RelayLogin,
    request: MsrpRequest,
    code: int,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Granted | bytes:
    response = request.response(code, None, headers or [])
    assert client.awaits(response)
    return client.receive(response, 0.0)


def challenged(client: RelayLogin, request: MsrpRequest, *, stale: bool = False) -> MsrpRequest:
    challenge = str(SERVER.challenges(0.0, stale=stale)[0]).encode()
    return read(answer(client, request, 401, [(b"WWW-Authenticate", challenge)]))


def proof(request: MsrpRequest) -> bytes:
    verdict = SERVER.check(request.header(b"Authorization") or b"", RELAY, 0.0)
    assert isinstance(verdict, Proven)
    return verdict.info.encode()


def count_of(request: MsrpRequest) -> str | None:
    credentials = Credentials.parse((request.header(b"Authorization") or b"").decode())
    assert credentials is not None
    return credentials.nc


GRANTED = [(b"Use-Path", MINE.raw), (b"Expires", b"100")]


def test_login() -> None:
    client = login(expires=100)
    assert client.deadline is None
    first = read(client.start(5.0))
    assert client.deadline == 35.0
    assert first.header(b"Authorization") is None
    assert first.header(b"Expires") == b"100"
    second = challenged(client, first)
    assert not client.awaits(first.response(200))
    info = (b"Authentication-Info", proof(second))
    assert answer(client, second, 200, [info, *GRANTED]) == Granted((MINE,), 100)
    assert client.deadline is None
    assert not client.awaits(second.response(200))


def test_relay_without_a_challenge_is_accepted() -> None:
    client = login()
    first = read(client.start(0.0))
    assert first.headers == []
    assert answer(client, first, 200, GRANTED[:1]) == Granted((MINE,), 0)


def test_nonce_is_used_again() -> None:
    client = login()
    request = challenged(client, read(client.start(0.0)))
    assert count_of(request) == "00000001"
    answer(client, request, 200, GRANTED)
    again = read(client.start(0.0))
    assert count_of(again) == "00000002"
    # A relay that refuses it gets a fresh one, once.
    fresh = challenged(client, again)
    assert count_of(fresh) == "00000001"
    challenge = str(SERVER.challenges(0.0)[0]).encode()
    with pytest.raises(AuthenticationError, match="the credentials were refused"):
        answer(client, fresh, 401, [(b"WWW-Authenticate", challenge)])
    assert read(client.start(0.0)).header(b"Authorization") is None


def test_stale_nonce_is_replaced() -> None:
    client = login()
    request = challenged(client, read(client.start(0.0)))
    assert count_of(challenged(client, request, stale=True)) == "00000001"


@pytest.mark.parametrize("name", [b"Min-Expires", b"Max-Expires"])
def test_relay_may_ask_for_another_lifetime(name: bytes) -> None:
    client = login(expires=1)
    again = read(answer(client, read(client.start(0.0)), 423, [(name, b"60")]))
    assert again.header(b"Expires") == b"60"


def test_number_of_rounds_is_limited() -> None:
    client = login(expires=1)
    request = read(client.start(0.0))
    for _ in range(3):
        request = read(answer(client, request, 423, [(b"Min-Expires", b"60")]))
    with pytest.raises(AuthenticationError, match="refused 4 times"):
        answer(client, request, 423, [(b"Min-Expires", b"60")])
    assert client.deadline is None


@pytest.mark.parametrize(
    ("code", "headers", "reason"),
    [
        (423, [], "the relay refuses the requested lifetime, but names no limits"),
        (403, [], "Action-not-allowed"),
        (401, [], "the relay offers no supported Digest challenge: []"),
        (
            401,
            [(b"WWW-Authenticate", b"Digest realm=r, nonce=n")],
            "the relay offers no supported Digest challenge: [b'Digest realm=r, nonce=n']",
        ),
        (
            401,
            [(b"WWW-Authenticate", b"Digest x")],
            "malformed challenge: malformed parameter: 'x'",
        ),
        (200, [], "no session: not an MSRP URI: b''"),
        (200, [(b"Use-Path", b"nonsense")], "no session: not an MSRP URI: b'nonsense'"),
    ],
)
def test_failures(code: int, headers: list[tuple[bytes, bytes]], reason: str) -> None:
    client = login()
    request = read(client.start(0.0))
    with pytest.raises(AuthenticationError) as caught:
        answer(client, request, code, headers)
    assert str(caught.value) == reason


def test_relay_has_to_prove_itself_where_that_is_required() -> None:
    reason = "the relay does not prove knowledge of the password"
    client = login(require_proof=True)
    first = read(client.start(0.0))
    with pytest.raises(AuthenticationError, match=reason):
        answer(client, first, 200, GRANTED)
    second = challenged(client, read(client.start(0.0)))
    with pytest.raises(AuthenticationError, match=reason):
        answer(client, second, 200, GRANTED)
    third = read(client.start(0.0))
    info = (b"Authentication-Info", proof(third))
    assert answer(client, third, 200, [info, *GRANTED]) == Granted((MINE,), 100)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        (b'qop=auth, rspauth="00000000000000000000000000000000"', "the relay's proof is wrong"),
        (b"x", "malformed parameter"),
    ],
)
def test_wrong_proof_is_never_taken(info: bytes, reason: str) -> None:
    client = login()
    request = challenged(client, read(client.start(0.0)))
    with pytest.raises(AuthenticationError, match=reason):
        answer(client, request, 200, [(b"Authentication-Info", info), *GRANTED])


def test_cancelled_login_awaits_nothing() -> None:
    client = login()
    request = read(client.start(0.0))
    client.cancel()
    assert client.deadline is None
    assert not client.awaits(request.response(200))


def test_user_names() -> None:
    with pytest.raises(ValueError, match="not a valid user name"):
        RelayLogin(RELAY, LOCAL, "a\x00b", "secret")


def test_first_supported_challenge_is_answered() -> None:
    ha1 = digest_ha1("alice", "relay", "secret")
    both = [Challenge("relay", "n", algorithm) for algorithm in (Algorithm.SHA_256, Algorithm.MD5)]
    headers = [(b"Date", b"today"), *[(b"WWW-Authenticate", str(item).encode()) for item in both]]
    secrets: dict[Algorithm, Secret] = {
        Algorithm.SHA_256: "secret",
        Algorithm.MD5: {Algorithm.MD5: ha1},
    }
    for algorithm, secret in secrets.items():
        client = RelayLogin(RELAY, LOCAL, "alice", secret)
        request = read(answer(client, read(client.start(0.0)), 401, headers))
        credentials = Credentials.parse((request.header(b"Authorization") or b"").decode())
        assert credentials is not None
        assert credentials.algorithm is algorithm
