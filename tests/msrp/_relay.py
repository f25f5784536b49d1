"""A relay, its clients and the time, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from wsproto_sip.msrp.authentication import Challenge, DigestServer, answer_challenge, verify_server
from wsproto_sip.msrp.message import (
    Continuation,
    MsrpChunk,
    MsrpRequest,
    MsrpResponse,
    parse_chunk,
)
from wsproto_sip.msrp.relay import MsrpRelay
from wsproto_sip.msrp.relay_config import (
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayAction,
    SendChunk,
)
from wsproto_sip.msrp.uri import MsrpPath, MsrpUri, parse_path

USERS = {"alice": "a-secret", "carol": "c-secret"}
CONFIG = MsrpRelayConfig(
    "relay.example",
    2855,
    aliases=frozenset({("ws.relay.example", 443), ("127.0.0.1", 28591)}),
    peers={"bob": ("10.1.1.1", 2855)},
)
BOB = MsrpUri.parse(b"msrp://10.1.1.1:2855/bobs;tcp")
RELAY = MsrpUri.parse(b"msrps://relay.example:2855;ws")


@dataclass
class World:
    """A relay, the time, and what it has asked for."""

    config: MsrpRelayConfig = CONFIG
    now: float = 1000.0
    relay: MsrpRelay = field(init=False)
    sent: list[tuple[int | str, MsrpChunk]] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    serial: int = 0

    def __post_init__(self) -> None:
        self.relay = MsrpRelay(self.config, DigestServer("relay.example", USERS))

    def do(self, actions: list[RelayAction]) -> None:
        for action in actions:
            match action:
                case SendChunk(connection_id, data):
                    self.sent.append((connection_id, parse_chunk(data)))
                case ForwardToPeer(peer, data):
                    self.sent.append((peer, parse_chunk(data)))
                case DropConnection(connection_id, reason):
                    self.dropped.append((connection_id, reason))

    def take(self) -> list[tuple[int | str, MsrpChunk]]:
        taken, self.sent = self.sent, []
        return taken

    def give(self, connection_id: int, chunk: MsrpChunk) -> list[tuple[int | str, MsrpChunk]]:
        self.do(self.relay.receive(connection_id, chunk.to_bytes(), self.now))
        return self.take()

    def wait(self, seconds: float) -> list[tuple[int | str, MsrpChunk]]:
        self.now += seconds
        self.do(self.relay.handle_timeout(self.now))
        return self.take()

    def tid(self) -> bytes:
        self.serial += 1
        return b"t%05d" % self.serial

    def client(self, connection_id: int, user: str, *, expires: int | None = None) -> Client:
        self.do(self.relay.connection_made(connection_id, self.now))
        client = Client(self, connection_id, user)
        answer = client.authenticate(expires=expires)
        assert answer.code == 200
        return client


@dataclass
class Client:
    """One connection, and what its client knows."""

    world: World
    id: int
    user: str
    session: MsrpUri = RELAY
    nonces: int = 0

    @property
    def uri(self) -> MsrpUri:
        return MsrpUri.parse(b"msrp://%d.invalid:1/%b;ws" % (self.id, self.user.encode()))

    def auth(
        self,
        *,
        to: MsrpPath = (RELAY,),
        expires: int | None = None,
        credentials: bytes | None = None,
    ) -> MsrpResponse:
        request = MsrpRequest(self.world.tid(), b"AUTH", to, (self.uri,))
        if expires is not None:
            request.headers.append((b"Expires", b"%d" % expires))
        if credentials is not None:
            request.headers.append((b"Authorization", credentials))
        ((to_whom, answer),) = self.world.give(self.id, request)
        assert to_whom == self.id
        assert isinstance(answer, MsrpResponse)
        assert answer.transaction_id == request.transaction_id
        assert (answer.to_path, answer.from_path) == ((self.uri,), to[:1])
        return answer

    def authenticate(
        self, *, expires: int | None = None, password: str | None = None
    ) -> MsrpResponse:
        challenged = self.auth(expires=expires)
        assert challenged.code == 401
        challenge = Challenge.parse(challenged.header(b"WWW-Authenticate") or b"")
        secret = USERS[self.user] if password is None else password
        credentials = answer_challenge(challenge, self.user, secret, RELAY)
        answer = self.auth(expires=expires, credentials=bytes(credentials))
        if answer.code == 200:
            info = answer.header(b"Authentication-Info") or b""
            assert verify_server(credentials, secret, info)
            (self.session,) = parse_path(answer.header(b"Use-Path") or b"")
        return answer

    def to(self, *path: MsrpUri) -> MsrpPath:
        return (self.session, *path)

    def request(
        self,
        to: MsrpPath,
        *,
        method: bytes = b"SEND",
        headers: tuple[tuple[bytes, bytes], ...] = (),
        body: bytes | None = b"hello",
        from_path: MsrpPath | None = None,
        message_id: bytes | None = b"msg1",
        flag: Continuation = Continuation.COMPLETE,
    ) -> MsrpRequest:
        lines = [] if message_id is None else [(b"Message-ID", message_id)]
        lines += headers
        if body is not None:
            lines.append((b"Content-Type", b"text/plain"))
        return MsrpRequest(
            self.world.tid(), method, to, from_path or (self.uri,), lines, body, flag
        )


def only(sent: list[tuple[int | str, MsrpChunk]], to: int | str) -> MsrpChunk:
    ((to_whom, chunk),) = sent
    assert to_whom == to
    return chunk


def code_of(sent: list[tuple[int | str, MsrpChunk]], to: int | str) -> int:
    chunk = only(sent, to)
    assert isinstance(chunk, MsrpResponse)
    return chunk.code


def forwarded(sent: list[tuple[int | str, MsrpChunk]], to: int | str) -> MsrpRequest:
    """The request that was sent on, after the answer to the previous hop."""
    chunk = only(sent[-1:], to)
    assert isinstance(chunk, MsrpRequest)
    return chunk


def status_of(report: MsrpChunk) -> bytes | None:
    assert isinstance(report, MsrpRequest)
    assert report.method == b"REPORT"
    return report.header(b"Status")
