"""A relay, its clients and the time, in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from wsproto_sip.auth import (
    LATER,
    Account,
    Challenge,
    Identity,
    Users,
    answer_challenge,
    verify_server,
)
from wsproto_sip.msrp.authentication import DigestServer
from wsproto_sip.msrp.message.chunk import (
    Continuation,
    MsrpChunk,
    MsrpRequest,
    MsrpResponse,
    parse_chunk,
)
from wsproto_sip.msrp.message.uri import MsrpPath, MsrpUri, parse_path
from wsproto_sip.msrp.relay.config import (
    AskQuestion,
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayAction,
    SendChunk,
)
from wsproto_sip.msrp.relay.relay import MsrpRelay

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
    """A relay, the time, and the relay's actions."""

    config: MsrpRelayConfig = CONFIG
    now: float = 1000.0
    relay: MsrpRelay = field(init=False)
    sent: list[tuple[int | str, MsrpChunk]] = field(default_factory=list)
    dropped: list[tuple[int, str]] = field(default_factory=list)
    serial: int = 0
    users: Users = field(default_factory=lambda: USERS)
    questions: dict[int, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.relay = MsrpRelay(self.config, DigestServer("relay.example", self.users))

    def do(self, actions: list[RelayAction]) -> None:
        for action in actions:
            match action:
                case SendChunk(cid, data):
                    self.sent.append((cid, parse_chunk(data)))
                case ForwardToPeer(peer, data):
                    self.sent.append((peer, parse_chunk(data)))
                case DropConnection(cid, reason):
                    self.dropped.append((cid, reason))
                case AskQuestion(number, question):
                    self.questions[number] = question

    def answer(self, answer: object, number: int | None = None) -> list[tuple[int, MsrpResponse]]:
        """Answer a question, by default the earliest."""
        number = min(self.questions) if number is None else number
        del self.questions[number]
        self.do(self.relay.answer(number, answer, self.now))
        return self.responses()

    def responses(self) -> list[tuple[int, MsrpResponse]]:
        """Take the output, which must consist of responses to clients."""
        return [
            (cid, chunk)
            for cid, chunk in self.take()
            if isinstance(cid, int) and isinstance(chunk, MsrpResponse)
        ]

    def take(self) -> list[tuple[int | str, MsrpChunk]]:
        taken, self.sent = self.sent, []
        return taken

    def give(self, cid: int, chunk: MsrpChunk) -> list[tuple[int | str, MsrpChunk]]:
        self.do(self.relay.receive(cid, chunk.to_bytes(), self.now))
        return self.take()

    def wait(self, seconds: float) -> list[tuple[int | str, MsrpChunk]]:
        self.now += seconds
        self.do(self.relay.handle_timeout(self.now))
        return self.take()

    def tid(self) -> bytes:
        self.serial += 1
        return b"t%05d" % self.serial

    def client(self, cid: int, user: str, *, expires: int | None = None) -> Client:
        self.do(self.relay.connection_opened(cid, self.now))
        client = Client(self, cid, user)
        answer = client.authenticate(expires=expires)
        assert answer.code == 200
        return client


def challenge_of(response: MsrpResponse) -> Challenge:
    challenge = Challenge.parse((response.header(b"WWW-Authenticate") or b"").decode())
    assert challenge is not None
    return challenge


def credentials_for(challenge: Challenge, user: str, password: str) -> bytes:
    return str(answer_challenge(challenge, user, password, "AUTH", str(RELAY))).encode()


@dataclass
class Client:
    """One connection, and the state of its client."""

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
        challenge = challenge_of(challenged)
        secret = USERS[self.user] if password is None else password
        credentials = answer_challenge(challenge, self.user, secret, "AUTH", str(RELAY))
        answer = self.auth(expires=expires, credentials=str(credentials).encode())
        if answer.code == 200:
            info = answer.header(b"Authentication-Info") or b""
            assert verify_server(credentials, secret, info.decode())
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
    """Return the forwarded request, after the answer to the previous hop."""
    chunk = only(sent[-1:], to)
    assert isinstance(chunk, MsrpRequest)
    return chunk


def status_of(report: MsrpChunk) -> bytes | None:
    assert isinstance(report, MsrpRequest)
    assert report.method == b"REPORT"
    return report.header(b"Status")


# -- accounts from elsewhere -----------------------------------------------------------------------

LATE_ALICE = Account(Identity("alice"), "a-secret")


def late_world(**options: object) -> World:
    """Return a relay with accounts stored elsewhere, and a connection."""
    config = replace(CONFIG, **options)  # type: ignore[arg-type]
    world = World(config, users=lambda name: LATER)
    world.do(world.relay.connection_opened(1, world.now))
    return world


def log_in(world: World, cid: int = 1, password: str = "a-secret", nonce: str = "") -> bytes:
    """Send an AUTH with credentials, which has to wait; return its transaction id."""
    client = Client(world, cid, "alice")
    request = MsrpRequest(world.tid(), b"AUTH", (RELAY,), (client.uri,))
    server = world.relay.authenticator
    assert server is not None
    challenge = server.challenges(world.now)[0]
    request.headers.append((b"Authorization", credentials_for(challenge, "alice", password)))
    assert world.give(cid, request) == []
    return request.transaction_id


def fates(answers: list[tuple[int, MsrpResponse]]) -> list[tuple[bytes, int]]:
    return [(response.transaction_id, response.code) for _, response in answers]
