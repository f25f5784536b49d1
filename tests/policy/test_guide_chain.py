"""The checks of the guide's example 1.1 as a chain, in front of a real handshake."""

from __future__ import annotations

import pytest

from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.auth import Algorithm, Challenge, account_lookup, answer_challenge
from wsproto_sip.auth.identity import Identity
from wsproto_sip.events import Request
from wsproto_sip.policy.authentication import AuthenticationPolicy
from wsproto_sip.policy.cors import CorsMode, CorsPolicy
from wsproto_sip.policy.decision import Accept, PolicyChain, Reject, RequestContext
from wsproto_sip.policy.digest import Digest
from wsproto_sip.policy.enabled import EnabledPolicy
from wsproto_sip.policy.host import HostPolicy, LocalPortPolicy
from wsproto_sip.policy.origin import OriginPolicy
from wsproto_sip.policy.subprotocol import SubprotocolPolicy
from wsproto_sip.policy.target import TargetPolicy

CHAIN = PolicyChain(
    [
        EnabledPolicy(),
        LocalPortPolicy([80, 443]),
        TargetPolicy(["/"]),
        HostPolicy(["sip.example.com"]),
        OriginPolicy(
            ["http://communicator.example.com", "https://communicator.example.com"],
            allow_null=False,
            allow_missing=False,
        ),
        AuthenticationPolicy([Digest("sip", account_lookup({"alice": "secret"}))]),
        SubprotocolPolicy(["sip", "msrp"], server_preference=True),
        CorsPolicy(CorsMode.ECHO),
    ]
)


def handshake(
    authorization: str = "",
    *,
    target: str = "/",
    host: str = "sip.example.com",
    origin: str = "https://communicator.example.com",
    protocols: str = "msrp, sip",
    port: int = 443,
    enabled: bool = True,
) -> tuple[bytes, Accept | Reject]:
    """Pass one request through a server's handshake and the chain; return response and outcome."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        f"Origin: {origin}",
        f"Sec-WebSocket-Protocol: {protocols}",
    ]
    if authorization:
        lines.append(f"Authorization: {authorization}")
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data("\r\n".join([*lines, "", ""]).encode())
    (request,) = server.events()
    assert isinstance(request, Request)
    context = RequestContext(request, local_port=port, secure=True, enabled=enabled)
    outcome = CHAIN.decide(context)
    if isinstance(outcome, Accept):
        return server.send(outcome.event()), outcome
    assert isinstance(outcome, Reject)
    return b"".join(server.send(event) for event in outcome.events()), outcome


def respond(challenge: bytes) -> str:
    nonce = challenge.partition(b'nonce="')[2].partition(b'"')[0].decode()
    asked = Challenge("sip", nonce, Algorithm.SHA_256)
    return str(answer_challenge(asked, "alice", "secret", "GET", "/"))


def test_client_that_answers_the_challenge_is_admitted() -> None:
    response, refused = handshake()
    assert isinstance(refused, Reject)
    assert response.startswith(b"HTTP/1.1 401 ")
    assert response.count(b"\r\nwww-authenticate: Digest ") == 2
    response, accepted = handshake(respond(response))
    assert isinstance(accepted, Accept)
    assert accepted.identity == Identity("alice", "digest")
    head = response.lower()
    assert head.startswith(b"http/1.1 101 ")
    assert b"\r\nsec-websocket-protocol: sip\r\n" in head
    assert b"\r\naccess-control-allow-origin: https://communicator.example.com\r\n" in head


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"enabled": False, "port": 5060}, 503),
        ({"port": 5060}, 403),
        ({"target": "/other"}, 404),
        ({"host": "example.com"}, 403),
        ({"origin": "https://communicator.example.com.evil.org"}, 403),
        ({"origin": "null"}, 403),
        ({"authorization": "Digest x"}, 400),
    ],
)
def test_refusals_are_whole_responses_that_close(change: dict[str, object], status: int) -> None:
    response, outcome = handshake(**change)  # type: ignore[arg-type]
    assert isinstance(outcome, Reject)
    assert outcome.status == status
    head, end, body = response.lower().partition(b"\r\n\r\n")
    assert head.startswith(b"http/1.1 %d " % status)
    assert b"\r\nconnection: close" in head
    assert (end, body) == (b"\r\n\r\n", b"")


def test_enabled_sub_protocols_are_named_if_none_matches() -> None:
    challenge, _ = handshake(protocols="chat")
    response, outcome = handshake(respond(challenge), protocols="chat")
    assert isinstance(outcome, Reject)
    assert outcome.status == 400
    assert b"\r\nsec-websocket-protocol: sip, msrp\r\n" in response
    assert b"\r\nsec-websocket-version: 13\r\n" in response
