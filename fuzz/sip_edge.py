"""An edge with hostile and honest parties, driven by steps of small numbers, and its invariants.

A :class:`World` has one edge: with its own registrar or with upstreams, by flow tokens or aliases,
with users or open to everyone. Its parties are browsers (of users, of strangers, and connections
opened with an identity) and the upstreams. In each step one of them sends or loses something, or
time passes; :data:`STEPS` lists them with the range of each argument, so that Hypothesis and a
fuzzer that only has bytes drive the same steps.

Each message of a party has its own mark. After each step a reader that shares no code with the
library reads everything the edge has sent, and compares it with the parties' messages and with the
values that the edge has issued. The numbers are those of the list of SIP invariants; a
:class:`~fuzz.invariants.BrokenInvariant` names the violated one.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from wsproto_sip.auth import Challenge, Identity, answer_challenge
from wsproto_sip.sip import Source, parse_message
from wsproto_sip.sip.edge.actions import (
    EdgeAction,
    HookFailed,
    ResetUpstream,
    SendToConnection,
    SendToUpstream,
)
from wsproto_sip.sip.edge.config import (
    DATAGRAMS,
    STREAM,
    ChallengeScope,
    EdgeConfig,
    EdgeMode,
    Probing,
    Upstream,
)
from wsproto_sip.sip.edge.connections import Peer
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator
from wsproto_sip.sip.registrar.bearer import BearerQuestion, BearerVerifier
from wsproto_sip.sip.registrar.domains import Domains

from .invariants import Invariants

__all__ = ["INVARIANTS", "STEPS", "World", "drive"]

INVARIANTS: Final = Invariants(
    {
        52: "One WebSocket message is one SIP message; trailing bytes are refused.",
        53: "Content-Length, if there, equals the body; duplicates are refused.",
        54: "parse, serialise, parse is a fixed point; untouched headers stay byte for byte.",
        55: "Inserting Via, Record-Route, alias or received never yields a new line or parameter "
        "from hostile input.",
        56: "An alias resolves to a live connection or is refused.",
        57: "Any changed character of a flow token is refused; a token dies with its connection.",
        62: "A response goes to the connection of its transaction, never to an address written in "
        "the message.",
        63: "On a stream every message that goes out carries Content-Length equal to its body: a "
        "foreign framer of the whole stream sees the messages that were sent and no other.",
        # Not in the list, but visible to the same harness.
        0: "No client speaks as a user that it has not proven to be, and nothing stays at the end.",
        1: "Credentials for the edge reach no other party: no client, and an upstream only with "
        "a token that it may have requested. Passwords go nowhere.",
    }
)

hold = INVARIANTS.hold


# -- a reader of our own ---------------------------------------------------------------------------

_COMPACT: Final = {
    b"v": b"via",
    b"f": b"from",
    b"t": b"to",
    b"i": b"call-id",
    b"m": b"contact",
    b"l": b"content-length",
    b"k": b"supported",
    b"c": b"content-type",
    b"s": b"subject",
}


@dataclass
class Read:
    """The parts of a message, parsed independently of the library."""

    start: bytes
    #: Name in lower case, value without outer white space, and the original line.
    fields: list[tuple[bytes, bytes, bytes]]
    body: bytes

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of a field, with lists split at commas."""
        found: list[bytes] = []
        for key, value, _ in self.fields:
            if key == name:
                found += split(value, b",")
        return found

    def one(self, name: bytes) -> bytes:
        """Return the first value of a field as it is, or nothing."""
        return next((value for key, value, _ in self.fields if key == name), b"")

    @property
    def is_request(self) -> bool:
        return not self.start.startswith(b"SIP/2.0 ")

    @property
    def method(self) -> bytes:
        return self.start.split(b" ", 1)[0] if self.is_request else self.one(b"cseq").split()[-1]

    @property
    def uri(self) -> bytes:
        return [*self.start.split(b" "), b""][1]

    @property
    def status(self) -> int:
        return int(self.start.split(b" ")[1])

    @property
    def name(self) -> tuple[bytes, bytes, bytes]:
        """Return what identifies a transaction, whichever side began it."""
        vias = self.all(b"via")
        branch = branch_of(vias[0]) if vias else b""
        cseq = b" ".join(self.one(b"cseq").split()).upper()
        return self.one(b"call-id"), cseq, branch


def read(data: bytes) -> Read | None:
    """Parse a message; return ``None`` without a head."""
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return None
    start, *lines = head.split(b"\r\n")
    fields: list[tuple[bytes, bytes, bytes]] = []
    for line in lines:
        if line[:1] in (b" ", b"\t") and fields:
            key, value, raw = fields[-1]
            fields[-1] = key, (value + b" " + line.strip(b" \t")).strip(b" "), raw + b"\r\n" + line
            continue
        key, _, value = line.partition(b":")
        key = key.strip(b" \t").lower()
        fields.append((_COMPACT.get(key, key), value.strip(b" \t"), line))
    return Read(start, fields, body)


def split(value: bytes, at: bytes) -> list[bytes]:
    """Split a value at a character outside quotes and angle brackets."""
    parts, quoted, deep, piece = [], False, False, b""
    index = 0
    while index < len(value):
        char = value[index : index + 1]
        if quoted and char == b"\\":
            piece += value[index : index + 2]
            index += 2
            continue
        if char == b'"':
            quoted = not quoted
        elif not quoted and char in b"<>":
            deep = char == b"<"
        if char == at and not quoted and not deep:
            parts.append(piece.strip())
            piece = b""
        else:
            piece += char
        index += 1
    return [*parts, piece.strip()]


def params(value: bytes) -> dict[bytes, bytes]:
    """Return the parameters after the first semicolon, with names in lower case."""
    found = {}
    for part in split(value, b";")[1:]:
        name, _, text = part.partition(b"=")
        found[name.strip().lower()] = text.strip()
    return found


def branch_of(via: bytes) -> bytes:
    return params(via).get(b"branch", b"")


def sent_by(via: bytes) -> bytes:
    return re.sub(rb"\s*(/|:)\s*|\s+(?=\s)", rb"\1", split(via, b";")[0]).lower()


def uri_in(value: bytes) -> bytes:
    """Return the URI of a name-addr or addr-spec."""
    match = re.search(rb"<([^>]*)>", value)
    return match[1] if match else value.split(b";")[0].strip()


def user_of(uri: bytes) -> tuple[bytes, bytes]:
    """Return user and host of a SIP URI; two empty strings for other URIs."""
    match = re.match(rb"(?i)sips?:(?:([^@;?]*?)(?::[^@]*)?@)?(\[[^]]*\]|[^:;?]*)", uri)
    return ((match[1] or b""), match[2].lower()) if match else (b"", b"")


def well_framed(data: bytes) -> bool:
    """Return whether one message, on its own, has at most one length, and the right one."""
    message = read(data)
    if message is None:
        return False
    lengths = message.all(b"content-length")
    return not lengths or (
        len(lengths) == 1
        and re.fullmatch(rb"[0-9]+", lengths[0]) is not None
        and int(lengths[0]) == len(message.body)
    )


def strict_framer(stream: bytes) -> list[bytes]:
    """Split a stream as RFC 3261 §18.3 says."""
    messages = []
    while stream := re.sub(rb"\A(?:\r\n)+", b"", stream):
        message = read(stream)
        hold(63, message, stream)
        assert message is not None
        lengths = message.all(b"content-length")
        hold(63, len(lengths) == 1 and lengths[0].isdigit(), stream[:500])
        size = len(stream) - len(message.body) + int(lengths[0])
        hold(63, len(stream) >= size, "a message without an end")
        messages.append(stream[:size])
        stream = stream[size:]
    return messages


def loose_framer(stream: bytes, which: int) -> list[bytes]:
    """Split a stream as loosely as C programs may: LF ends lines, one of several lengths counts."""
    messages = []
    while stream := stream.lstrip(b"\r\n"):
        match = re.search(rb"\n\r?\n", stream)
        hold(63, match, stream[:500])
        assert match is not None
        lengths = re.findall(
            rb"^[ \t]*(?:content[-_]length|l)[ \t]*:[ \t]*([0-9]+)",
            stream[: match.end()],
            re.IGNORECASE | re.MULTILINE,
        )
        size = match.end() + (int(lengths[which]) if lengths else 0)
        messages.append(stream[:size])
        stream = stream[size:]
    return messages


# -- what the edge may write -----------------------------------------------------------------------

HOST: Final = "edge.test"
DOMAIN: Final = "sip.test"
USERS: Final = {"alice": "wonderland", "bob": "builder", "carol": "lighthouse"}
UPSTREAMS: Final = (
    Upstream("a", "192.0.2.200", 5060, "192.0.2.100", 5080),
    Upstream("b", "192.0.2.201", 5060, "192.0.2.100", 5080, transport="tcp"),
)

_TOKEN: Final = rb"(?:[A-Za-z0-9_-]{56}|[A-Za-z0-9_-]{40})"
_PLACE: Final = rb"(?:edge\.test:8080|192\.0\.2\.100:5080)"
#: The only forms in which the edge's own values may occur.
OWN_VIA: Final = re.compile(
    rb"SIP/2\.0/(?:WSS?|UDP|TCP) " + _PLACE + rb"(?:;rport)?;branch=z9hG4bK[0-9A-Za-z.\-]+"
    rb"(?:;rport)?"
)
OWN_ROUTE: Final = re.compile(
    rb"<sips?:(?:("
    + _TOKEN
    + rb")@)?"
    + _PLACE
    + rb"((?:;(?:transport=(?:ws|tcp|udp)|r2=on|lr|ob|seal="
    rb"(" + _TOKEN + rb")))*)>(?:;received=\"[^\"\\\r\n]*\")?"
)
#: Fields that an edge edits; all others stay unchanged. The challenges of several callees are put
#: together.
_EDITED: Final = frozenset(
    b"via route record-route path contact max-forwards max-breadth content-length authorization "
    b"proxy-authorization p-preferred-identity p-asserted-identity content_length "
    b"www-authenticate proxy-authenticate".split()
)
#: Fields that clients may not set.
_TRUSTED: Final = frozenset(b"p-asserted-identity diversion history-info path".split())
#: Fields that a response repeats from its request; the edge restores them (RFC 3261 §8.2.6.2).
_REPEATED: Final = frozenset(b"from to call-id cseq".split())
_CREDENTIALS: Final = (b"authorization", b"proxy-authorization")
#: What makes credentials usable: the digest, or the token.
_PROOF: Final = re.compile(rb'response="([0-9a-f]{32,64})"|Bearer ([!-~]+)')
_PLAIN_NAME: Final = re.compile(rb"[a-z0-9._-]+")
#: The users in credentials.
_NAMED: Final = re.compile(rb'username="([a-z]+)"|Bearer ([a-z]+)~')
_SIGHT: Final = re.compile(rb"(?<![A-Za-z0-9_-])" + _TOKEN + rb"(?![A-Za-z0-9_-])")

# -- what parties say ------------------------------------------------------------------------------

METHODS: Final = ("INVITE", "MESSAGE", "OPTIONS", "SUBSCRIBE", "REFER", "NOTIFY", "X-OTHER", "BYE")
STATUSES: Final = (100, 180, 183, 200, 200, 202, 302, 404, 430, 486, 503, 603, 401, 407)
INNER: Final = (
    b"INVITE sip:victim@sip.test SIP/2.0\r\nVia: SIP/2.0/TCP 203.0.113.66;branch=z9hG4bKinner\r\n"
    b"From: <sip:alice@sip.test>;tag=1\r\nTo: <sip:bob@sip.test>\r\nCall-ID: inner\r\n"
    b"CSeq: 1 INVITE\r\nP-Asserted-Identity: <sip:alice@sip.test>\r\nContent-Length: 0\r\n\r\n"
)
BODIES: Final = (b"", b"v=0\r\n", INNER, b"\r\n\r\n" + INNER, b"\x00\xff\r\n", b"a" * 1400)
#: Lengths of a body: right, missing, or wrong.
LENGTHS: Final = (
    "Content-Length: {0}\r\n",
    "",
    "l: {0}\r\n",
    "Content-Length :\r\n\t0{0} \r\n",
    "Content-Length: {1}\r\n",
    "Content-Length: {0}\r\nl: {0}\r\n",
    "Content-Length: {0}, {0}\r\n",
    "Content-Length: +{0}\r\n",
    "Content-Length: 0\r\nContent-Length: {0}\r\n",
)
ODD: Final = (
    "",
    "Subject: x\r\n Content-Length: 0\r\n",
    "Subject: \r\n a \r\n\t b \r\n",
    "P-Asserted-Identity: <sip:alice@sip.test>\r\n",
    "Path: <sip:203.0.113.9;lr>\r\n",
    "Record-Route: <sip:203.0.113.9;lr>\r\n",
    "Record-Route: <sip:edge.test:8080;transport=ws;lr>\r\n",
    'Record-Route: <sip:evil;lr>;x="a,b;c\\"", <sip:192.0.2.200;lr>\r\n',
    "Via: SIP/2.0/UDP 203.0.113.9:5060;branch=z9hG4bKevil;received=203.0.113.8\r\n",
    "Via: SIP/2.0/WS edge.test:8080;branch=z9hG4bKevil\r\n",
    "Via: SIP/2.0/UDP 192.0.2.100:5080;rport;branch=z9hG4bKevil, SIP/2.0/TCP b;branch=z9hG4bK1\r\n",
    "Max-Breadth: 1\r\n",
    "Max-Breadth: 0\r\n",
    "Privacy: id\r\n",
    "P-Preferred-Identity: <sip:alice@sip.test>\r\n",
    "Subject: \u00e9\u2028\x85\r\n",
    "Content_Length: 0\r\n",
    "C~ntact: <sip:x@203.0.113.9>\r\n",
    "Subject:\r\n",
    "X-A: \x01\r\n",
    "X-A: a\rb\r\n",
    "X-A: a\nVia: SIP/2.0/WS evil;branch=z9hG4bK0\r\n",
    "X-A: a\0b\r\n",
)
#: The text after the branch in a party's own Via.
VIA_ENDS: Final = (
    "",
    ";rport",
    ";received=203.0.113.9;rport=9",
    ";maddr=203.0.113.9;ttl=1",
    ';x="a;b,c"',
    ';x="\\"";rport',
    ";rport=1;rport=2",
    ";x=a\rb",
    ';received="203.0.113.9\r\n ;y"',
    ";alias;ALIAS=1",
)
TIMES: Final = (0.0, 0.3, 1.0, 5.0, 33.0, 61.0, 190.0)


@dataclass(eq=False)
class Party:
    """A browser's connection, or an upstream."""

    label: str
    cid: int = 0
    user: str = ""
    login: str | None = None
    secure: bool = False
    upstream: str | None = None
    live: bool = True
    #: The users that it has authenticated as, to the edge or to the upstream.
    proven: set[bytes] = field(default_factory=set)
    #: The transactions that it has started, by name.
    asked: dict[tuple[bytes, bytes, bytes], Read] = field(default_factory=dict)
    #: The edge's branches on requests that it was sent.
    got: set[bytes] = field(default_factory=set)
    #: The Contacts that it has registered, without parameters.
    contacts: set[bytes] = field(default_factory=set)
    #: Call-IDs of its calls.
    calls: set[bytes] = field(default_factory=set)
    inbox: list[Read] = field(default_factory=list)
    answers: list[Read] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    #: Registered addresses, and their latest expiry.
    bound: dict[bytes, float] = field(default_factory=dict)
    challenge: Read | None = None

    @property
    def contact(self) -> str:
        if self.upstream is not None:
            return "sip:core@192.0.2.200"
        return f"sip:{self.user}@x{self.cid}.invalid;transport=ws"


@dataclass
class Said:
    """A message with a mark, and its sender."""

    party: Party
    message: Read
    framed: bool

    @property
    def complete(self) -> bool:
        """Return whether it has the fields that an answer needs."""
        return all(map(self.message.one, (b"via", b"from", b"to", b"call-id", b"cseq")))


class World:
    """An edge with its surroundings.

    Args:
        mode: 0 for flow tokens, 1 for aliases.
        core: 0 for its own registrar, 1 for upstreams.
        users: 0 for none, 1 for users that are challenged for their own names, 2 for all.
    """

    def __init__(self, mode: int = 0, core: int = 0, users: int = 0) -> None:
        self.alias = bool(mode)
        self.core = bool(core)
        numbers = count(1)

        def entropy(size: int) -> bytes:
            return next(numbers).to_bytes(size, "big")

        self.users = bool(users)
        authenticator = None
        if users:
            bearer = BearerVerifier(DOMAIN, self._verified)
            authenticator = DigestAuthenticator(DOMAIN, USERS, bearer=bearer, entropy=entropy)
        self.edge = SipEdge(
            EdgeConfig(
                HOST,
                Domains((DOMAIN,)),
                8080,
                EdgeMode.ALIAS if mode else EdgeMode.OUTBOUND,
                upstreams=UPSTREAMS if core else (),
                # Often enough to occur, without dominating the steps.
                probing=Probing(interval=60.0),
                challenge=ChallengeScope.ALL if users == 2 else ChallengeScope.OWN,
            ),
            authenticator=authenticator,
            entropy=entropy,
        )
        self.now = 1000.0
        self.numbers = count(1)
        self.parties: dict[int, Party] = {}
        self.ups = [Party("upstream " + u.name, upstream=u.name) for u in UPSTREAMS] if core else []
        #: All messages sent, by mark.
        self.said: dict[bytes, list[Said]] = defaultdict(list)
        #: The tokens that the edge has issued, with their connections and calls.
        self.tokens: dict[bytes, Party] = {}
        self.token_calls: dict[bytes, set[bytes]] = defaultdict(set)
        self.flows: dict[bytes, Party] = {}
        self.token_list: list[bytes] = []
        self.streams: dict[tuple[str, int], bytes] = defaultdict(bytes)
        self.stream_messages: dict[tuple[str, int], list[bytes]] = defaultdict(list)
        #: The proofs in credentials for the edge, unless they were sent damaged.
        self.proofs: set[bytes] = set()
        self.gruus: dict[bytes, set[Party]] = defaultdict(set)
        self.cut: dict[str, bytes] = {}
        self.step_said: Said | None = None
        self.step_party: Party | None = None
        self.raw = False
        self.replies: list[Read] = []
        #: What occurred, so that a test can check that the steps reach something.
        self.seen: dict[str, int] = defaultdict(int)
        for who in (0, 1, 3):
            self.connect(who, 0, 0)
            self.register(who, 9, 4, 0, 0)
            if self.core:
                self.answer(len(self.parties) + who % 2, 0, 3, 0, 0, 0)

    # -- parties -----------------------------------------------------------------------------------

    KINDS: Final = (
        ("alice", None),
        ("bob", None),
        ("carol", "carol"),
        ("eve", None),
        ("alice", None),
        ("mallory", None),
    )

    def connect(self, who: int, cid: int, address: int) -> None:
        """Connect a browser, under a number that another one may have had."""
        user, login = self.KINDS[who % len(self.KINDS)]
        number = 1 + cid % 6
        while number in self.parties:
            number += 1
        if number > 8:
            return
        party = Party(f"{user} {number}", number, user, login, secure=bool(address & 1))
        if login:
            party.proven.add(login.encode())
        self.parties[number] = party
        # Two with the same address and port are possible through a proxy that hides ports.
        source = Source(
            f"192.0.2.{1 + address % 3}",
            0 if address & 4 else 4000 + number,
            "wss" if party.secure else "ws",
        )
        self.edge.connection_opened(number, Peer(source, login))

    def lose(self, who: int) -> None:
        """Lose a browser's connection."""
        party = self._party(who)
        if party is None:
            return
        del self.parties[party.cid]
        party.live = False
        self._do(self.edge.connection_closed(party.cid, self.now))

    def _party(self, who: int) -> Party | None:
        numbers = sorted(self.parties)
        return self.parties[numbers[who % len(numbers)]] if numbers else None

    # -- sending -----------------------------------------------------------------------------------

    def _mark(self) -> str:
        return f"X-Mark: m{next(self.numbers)}q\r\n"

    def _say(
        self, party: Party, data: bytes, *, link: int | None = None, raw: bool = False
    ) -> None:
        """Let a party send a message, and check the result."""
        party.sent.append(data)
        message = read(data)
        framed = party.upstream is not None or well_framed(data)
        said = None
        if message is not None:
            said = Said(party, message, framed)
            # Damage may have taken the mark away.
            self.said[message.one(b"x-mark")].append(said)
            if message.is_request:
                party.asked[message.name] = message
                if message.start.upper().startswith((b"CANCEL ", b"ACK ")):
                    invite = message.name[1].rpartition(b" ")[0] + b" INVITE"
                    party.asked.setdefault((message.name[0], invite, message.name[2]), message)
                party.calls.add(message.one(b"call-id"))
        self.step_said, self.step_party, self.raw = said, party, raw
        self.replies = []
        if party.upstream is None:
            try:
                payload: str | bytes = data.decode() if len(data) & 1 else data
            except UnicodeDecodeError:
                payload = data
            self._do(self.edge.receive(party.cid, payload, self.now))
            if message is not None and message.is_request:
                self._note_registration(party, message)
        else:
            self._do(
                self.edge.upstream_received(
                    data,
                    self.now,
                    upstream=party.upstream,
                    link=link,
                    source=Source("192.0.2.200", 5060, "udp"),
                )
            )
        self.step_said = self.step_party = None

    def _request(
        self,
        party: Party,
        method: str,
        uri: str,
        *,
        sender: str = "",
        to: str = "",
        routes: Sequence[str] = (),
        call_id: str = "",
        cseq: int = 1,
        branch: str = "",
        odd: int = 0,
        via: int = 0,
        length: int = 0,
        body: int = 0,
        extra: str = "",
        hops: int = 70,
    ) -> bytes:
        number = next(self.numbers)
        transport = "UDP" if party.upstream else "WSS" if party.secure else "WS"
        host = "192.0.2.200" if party.upstream else f"x{party.cid}.invalid"
        content = BODIES[body % len(BODIES)]
        head = (
            f"{method} {uri} SIP/2.0\r\n"
            f"Via: SIP/2.0/{transport} {host};branch={branch or f'z9hG4bK{number}'}"
            f"{_pick(VIA_ENDS, via)}\r\n"
        )
        head += "".join(f"Route: {route}\r\n" for route in routes)
        head += self._mark()
        sender = sender or f"<sip:{party.user}@{DOMAIN}>"
        tag = "" if ";tag=" in sender else f";tag=f{number}"
        head += f"Max-Forwards: {hops}\r\nFrom: {sender}{tag}\r\n"
        head += f"To: {to or f'<{uri}>'}\r\nCall-ID: {call_id or f'c{number}'}\r\n"
        head += f"CSeq: {cseq} {method}\r\n{extra}{_pick(ODD, odd)}"
        if method in ("INVITE", "SUBSCRIBE", "REFER", "NOTIFY"):
            head += f"Contact: <{party.contact};ob>\r\n"
        head += _pick(LENGTHS, length).format(len(content), len(content) + 1)
        return (head + "\r\n").encode("utf-8", "surrogateescape") + content

    # -- steps -------------------------------------------------------------------------------------

    def register(self, who: int, name: int, expires: int, proof: int, odd: int) -> None:
        """Register a browser: itself or another user, with or without a password."""
        party = self._party(who)
        if party is None:
            return
        user = (*USERS, party.user)[min(name, 3)]
        seconds = (300, 60, 0, 300)[expires % 4]
        instance = f';reg-id=1;+sip.instance="<urn:x:{party.cid}>"' if expires & 4 else ""
        extra = (
            f"Contact: <{party.contact}>{instance};expires={seconds}\r\n"
            "Supported: path, outbound, gruu\r\n"
        )
        aor = f"sip:{user}@{DOMAIN}"
        uri = f"sip:{DOMAIN}"
        for attempt in range(2):
            proven = self._credentials(party, "REGISTER", uri, user, proof)
            data = self._request(
                party,
                "REGISTER",
                uri,
                sender=f"<{aor}>",
                to=f"<{aor}>",
                extra=extra + proven,
                odd=odd if attempt else 0,
                cseq=attempt + 1,
            )
            self._say(party, data)
            if not any(
                reply.status in (401, 407) for reply in self.replies if not reply.is_request
            ):
                break

    def _note_registration(self, party: Party, request: Read) -> None:
        """Record which names lead to a browser from now on, and until when."""
        if self.core or request.method != b"REGISTER":
            return
        for reply in self.replies:
            if reply.status != 200 or reply.method != b"REGISTER":
                continue
            self.seen["registered"] += 1
            user, host = user_of(uri_in(request.one(b"to")))
            aor = b"sip:%b@%b" % (user, host)
            for contact in request.all(b"contact"):
                text = params(contact).get(b"expires", b"")
                seconds = int(text) if text.isdigit() and not self.raw else 7200
                # With damage, it may be another client's.
                party.contacts.add(uri_in(contact).split(b";")[0])
                if seconds:
                    party.bound[aor] = max(party.bound.get(aor, 0), self.now + seconds)
                elif not any(party.contact.encode() in value for value in reply.all(b"contact")):
                    party.bound.pop(aor, None)
            for contact in reply.all(b"contact"):
                for name in (b"pub-gruu", b"temp-gruu"):
                    gruu = params(contact).get(name, b"").strip(b'"')
                    if gruu and b"urn:x:%d>" % party.cid in contact:
                        self.gruus[gruu].add(party)

    @staticmethod
    def _verified(question: BearerQuestion) -> Identity | None:
        """Return the user of a token."""
        user, _, number = question.token.partition("~")
        return Identity(user, "token") if user in USERS and number.isdigit() else None

    def _credentials(self, party: Party, method: str, uri: str, user: str, proof: int) -> str:
        """Return credentials for the last challenge: right, wrong, another user's, or none."""
        line = self._answered(party, method, uri, user, proof)
        self.proofs |= _proofs(line.encode())
        return line

    def _answered(self, party: Party, method: str, uri: str, user: str, proof: int) -> str:
        if party.challenge is None or proof % 4 == 3:
            return ""
        proxy = party.challenge.status == 407
        text = party.challenge.one(b"proxy-authenticate" if proxy else b"www-authenticate")
        challenge = Challenge.parse(text.decode()) if text else None
        if challenge is None:
            return ""
        # Only its user knows a password.
        known = party.user == user and user in USERS
        password = USERS[user] if known and proof % 4 != 1 else "guess"
        if known and proof % 4 != 1:
            party.proven.add(user.encode())
        field_name = "Proxy-Authorization" if proxy else "Authorization"
        if known and proof % 4 == 2 and party.secure:
            return f"{field_name}: Bearer {user}~{next(self.numbers)}\r\n"
        return f"{field_name}: {answer_challenge(challenge, user, password, method, uri)}\r\n"

    def ask(
        self,
        who: int,
        method: int,
        callee: int,
        sender: int,
        route: int,
        odd: int,
        via: int,
        frame: int,
    ) -> None:
        """Send a browser's request outside of a dialog."""
        party = self._party(who)
        if party is None:
            return
        word = METHODS[method % len(METHODS)]
        uri = self._target(callee)
        name = (party.user, party.user, "alice", "bob")[sender % 4]
        host = DOMAIN if sender < 8 else ("elsewhere.test", "anonymous.invalid")[sender % 2]
        body, length = frame % len(BODIES), frame // len(BODIES)
        login = name if sender & 4 else party.user
        for attempt in range(2):
            data = self._request(
                party,
                word,
                uri,
                sender=f"<sip:{name}@{host}>",
                routes=self._routes(route),
                odd=odd,
                via=via,
                length=length,
                body=body,
                cseq=attempt + 1,
                extra=self._credentials(party, word, uri, login, sender),
            )
            self._say(party, data)
            if not any(reply.status == 407 for reply in self.replies):
                break

    def _target(self, callee: int) -> str:
        """Return a Request-URI."""
        kind, index = callee % 16 % 12, callee // 16
        party = self._party(index)
        if kind < 4 or kind > 7 or party is None:
            return f"sip:{(*USERS, 'eve')[kind % 4]}@{DOMAIN}"
        if kind == 4:
            return party.contact
        if kind == 5:
            gruus = sorted(self.gruus)
            return gruus[index % len(gruus)].decode() if gruus else f"sip:{HOST}:8080"
        if kind == 6:
            seals = [token for token in self.token_list if len(token) == 40]
            seal = seals[index % len(seals)].decode() if seals else "A" * 40
            if index & 1:
                seal = self._changed(seal)
            return f"{party.contact};alias=192.0.2.{1 + index % 3}~{4000 + party.cid}~5;seal={seal}"
        return ("tel:+15551234", "sip:b@elsewhere.test", f"sip:{HOST}:8080", "sip:192.0.2.200")[
            index % 4
        ]

    def _changed(self, token: str) -> str:
        """Return a token with one character changed, each one in turn."""
        # The last of a route's two seals identifies the dialog, not the destination.
        at = next(self.numbers) * 7 % (36 if len(token) == 56 else 40)
        char = "A" if token[at] != "A" else "B"
        return token[:at] + char + token[at + 1 :]

    def _routes(self, route: int) -> list[str]:
        """Return routes chosen by a client: none, foreign, forged, stolen, changed."""
        kind, index = route % 16, route // 16
        if kind == 3:
            return ["<sip:203.0.113.9;lr>"]
        if kind == 4:
            return [f"<sip:{HOST}:8080;transport=ws;lr>"]
        if kind not in (5, 6, 7):
            return []
        token = self.token_list[-1 - index % len(self.token_list)] if self.token_list else b"A" * 40
        text = token.decode()
        if kind == 5:
            text = self._changed(text)
        own = f"<sip:{text}@{HOST}:8080;transport=ws;lr>"
        if kind == 6:
            own = f"<sip:{HOST}:8080;transport=ws;seal={text};lr>"
        return [own] if index & 1 else [own, "<sip:192.0.2.200;lr>"]

    def answer(self, who: int, which: int, status: int, frame: int, odd: int, forged: int) -> None:
        """Answer a request that the party was sent, or one that another party was sent."""
        everybody = [p for p in (*self.parties.values(), *self.ups) if p.inbox]
        if not everybody:
            return
        party = everybody[who % len(everybody)]
        victim = everybody[(who + 1) % len(everybody)] if forged == 5 else party
        request = victim.inbox[-1 - which % len(victim.inbox)]
        code = STATUSES[status % len(STATUSES)]
        vias = [b"Via: " + via + b"\r\n" for via in request.all(b"via")]
        if forged == 1:
            vias = [*vias[:1], b"Via: SIP/2.0/UDP 203.0.113.9;branch=z9hG4bKelse\r\n"]
        elif forged == 2:
            vias = vias[:1]
        elif forged == 3:
            vias = vias[1:] or vias
        elif forged == 4:
            vias[0] = vias[0].replace(b"branch=z9hG4bK", b"branch=z9hG4bK1")
        to = request.one(b"to")
        tag = b"" if b";tag=" in to else b";tag=t%d" % (party.cid or 99)
        content = BODIES[frame % len(BODIES)]
        head = b"SIP/2.0 %d Whatever\r\n" % code + b"".join(vias) + self._mark().encode()
        head += b"From: %b\r\nTo: %b%b\r\n" % (request.one(b"from"), to, tag)
        head += b"Call-ID: %b\r\nCSeq: %b\r\n" % (request.one(b"call-id"), request.one(b"cseq"))
        for value in request.all(b"record-route"):
            head += b"Record-Route: " + value + b"\r\n"
        if code < 300 and party.upstream is None:
            head += b"Contact: <%b>\r\n" % party.contact.encode()
        if party.upstream and request.method == b"REGISTER":
            head += b"".join(b"Contact: %b\r\n" % c for c in request.all(b"contact"))
        head += _pick(ODD, odd).encode()
        if code in (401, 407):
            head += self._challenge(code, forged)
        length = 0 if party.upstream else frame // len(BODIES)
        said = _pick(LENGTHS, length).format(len(content), len(content) + 1)
        data = head + said.encode() + b"\r\n" + content
        if party.upstream and request.method == b"REGISTER" and 200 <= code < 300:
            for other in self.parties.values():
                if any(other.contact.encode() in c for c in request.all(b"contact")):
                    other.proven.add(b"*")
        self._say(party, data, link=self._link(party))

    def _challenge(self, code: int, which: int) -> bytes:
        """Return a challenge that the edge has sent to a browser, as the sender's own."""
        names = (b"www-authenticate", b"proxy-authenticate")
        told = [p.challenge for p in self.parties.values() if p.challenge is not None]
        texts = [reply.one(name) for reply in told for name in names if reply.one(name)]
        if not texts:
            return b""
        name = b"WWW-Authenticate" if code == 401 else b"Proxy-Authenticate"
        return name + b": " + texts[which % len(texts)] + b"\r\n"

    def _link(self, party: Party) -> int | None:
        return None if party.upstream is None else (STREAM if party.upstream == "b" else DATAGRAMS)

    def follow(self, who: int, which: int, method: int, changed: int, frame: int) -> None:
        """Continue a dialog of a browser: with the routes it was given, or changed ones."""
        able = [p for p in self.parties.values() if p.answers or p.inbox]
        if not able:
            return
        party = able[who % len(able)]
        told = [m for m in party.answers if m.all(b"record-route") and 100 < m.status < 300]
        asked = [m for m in party.inbox if m.all(b"record-route")]
        if which & 1 and asked:
            source = asked[-1 - which // 2 % len(asked)]
            routes, contact = source.all(b"record-route"), source.all(b"contact")
            sender, to = source.one(b"to"), source.one(b"from")
            if b";tag=" not in sender:
                sender += b";tag=t%d" % party.cid
        elif told:
            source = told[-1 - which // 2 % len(told)]
            routes, contact = source.all(b"record-route")[::-1], source.all(b"contact")
            sender, to = source.one(b"from"), source.one(b"to")
        else:
            return
        texts = [route.decode("utf-8", "surrogateescape") for route in routes]
        if changed == 1:
            texts = [
                _SIGHT.sub(lambda match: self._changed(match[0].decode()).encode(), route).decode(
                    "utf-8", "surrogateescape"
                )
                for route in routes
            ]
        elif changed == 2:
            texts.append("<sip:203.0.113.9;lr>")
        call_id = source.one(b"call-id").decode("utf-8", "surrogateescape")
        if changed == 3:
            call_id = "other-" + call_id
        target = uri_in(contact[0]).decode("utf-8", "surrogateescape") if contact else "sip:x"
        word = ("ACK", "BYE", "INVITE", "INFO", "MESSAGE", "REFER")[method % 6]
        number = int(source.one(b"cseq").split()[0]) + (word != "ACK")
        data = self._request(
            party,
            word,
            target,
            sender=sender.decode("utf-8", "surrogateescape"),
            to=to.decode("utf-8", "surrogateescape"),
            routes=texts,
            call_id=call_id,
            cseq=number,
            body=frame,
            length=frame // len(BODIES),
        )
        self._say(party, data)

    def cancel(self, who: int, which: int, whose: int) -> None:
        """Cancel a request of the browser, or of another one."""
        party, other = self._party(who), self._party(who + whose)
        if party is None or other is None:
            return
        invites = [data for data in other.sent if data.startswith(b"INVITE ")]
        if not invites:
            return
        invite = read(invites[-1 - which % len(invites)])
        if invite is None:
            return
        lines = [
            raw for key, _, raw in invite.fields if key in (b"via", b"from", b"to", b"call-id")
        ]
        number = invite.one(b"cseq").split()[:1]
        data = b"\r\n".join(
            [
                b"CANCEL " + invite.uri + b" SIP/2.0",
                *lines[:1],
                *[raw for raw in lines[1:] if not raw.lower().startswith(b"via")],
                b"CSeq: %b CANCEL" % (number[0] if number else b"1"),
                b"Max-Forwards: 70",
                b"",
                b"",
            ]
        )
        self._say(party, data)

    def again(self, who: int, which: int) -> None:
        """Send a message again from its sender, as after a lost answer."""
        everybody = [*self.parties.values(), *self.ups]
        if not everybody:
            return
        party = everybody[who % len(everybody)]
        if party.sent:
            data = party.sent[-1 - which % len(party.sent)]
            self._say(party, data, link=self._link(party), raw=True)

    def damage(self, who: int, which: int, at: int, how: int, byte: int) -> None:
        """Send a party's message from a browser, with one thing changed."""
        party, other = self._party(who), self._party(who + how // 5)
        if party is None or other is None or not other.sent:
            return
        data = other.sent[-1 - which % len(other.sent)]
        # It is distinguished from its original; and it may start a transaction of its own.
        data = re.sub(rb"X-Mark: m[0-9]+q", self._mark().strip().encode(), data, count=1)
        if how < 10:
            fresh = b"branch=z9hG4bK%d" % next(self.numbers)
            data = re.sub(rb"branch=z9hG4bK[0-9]+", fresh, data, count=1)
        at %= len(data) + 1
        kind = how % 5
        if kind == 0:
            data = data[:at] + bytes([byte]) + data[at + 1 :]
        elif kind == 1:
            data = (
                data[:at]
                + (b"\r", b"\n", b"\r\n", b"\0", b"\r\n ", b",", b'"')[byte % 7]
                + data[at:]
            )
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            data += data if byte & 1 else INNER
        else:
            data = data[:at] + data[at + 1 + byte % 40 :]
        # A client that sends credentials in another field, or for another realm, gives them away.
        self.proofs -= _proofs(other.sent[-1 - which % len(other.sent)])
        # They prove their user again: a token does, and a digest that was not needed.
        for match in _NAMED.finditer(data):
            party.proven.add(match[1] or match[2])
        self._say(party, data, raw=True)

    def call_in(self, up: int, method: int, token: int, alias: int, odd: int, frame: int) -> None:
        """Send an upstream's request to a browser, with a token it has seen, or a changed one."""
        if not self.ups:
            return
        party = self.ups[up % len(self.ups)]
        word = ("INVITE", "MESSAGE", "NOTIFY", "OPTIONS", "BYE", "REGISTER")[method % 6]
        paths = [t for t in self.token_list if len(t) == 40] or [b"A" * 40]
        text = paths[-1 - token % len(paths)].decode()
        owner = self.tokens.get(text.encode())
        if alias % 4 == 3:
            text = self._changed(text)
        uri = owner.contact if owner else "sip:x@x.invalid"
        # It passes on what it was sent, to a client of the edge again.
        given = [
            line.decode("utf-8", "surrogateescape") + "\r\n"
            for request in party.inbox[-3:]
            for key, _, line in request.fields
            if key in _CREDENTIALS
        ]
        data = self._request(
            party,
            word,
            uri,
            extra="".join(given),
            sender="<sip:dave@elsewhere.test>",
            to="<sip:alice@sip.test>",
            routes=[f"<sip:{text}@192.0.2.100:5080;lr>"],
            odd=odd,
            body=frame,
            length=0,
        )
        # Every message on a stream needs a length, and it must be the right one.
        message = read(data)
        if party.upstream == "b" and (message is None or len(message.all(b"content-length")) != 1):
            return
        self._say(party, data, link=self._link(party))

    def link(self, up: int, what: int) -> None:
        """Change the state of the link to an upstream."""
        if not self.ups:
            return
        name = UPSTREAMS[up % 2].name
        if what == 0:
            link = STREAM if what & 1 else UPSTREAMS[up % 2].link
            self._do(self.edge.upstream_failed(self.now, upstream=name, link=link))
        elif what == 1:
            self.edge.upstream_lost(STREAM, upstream=name)
        elif what == 2:
            self._do(self.edge.upstream_opened(name, self.now))
        else:
            self._do(
                self.edge.upstream_received(
                    (b"\r\n\r\n", b"\0", b"SIP/2.0 200\r\n\r\n")[what % 3], self.now, upstream=name
                )
            )

    def wait(self, time: int) -> None:
        """Let time pass, up to and including every deadline."""
        end = self.now + TIMES[time % len(TIMES)]
        for _ in range(10_000):
            when = self.edge.next_deadline()
            if when is None or when > end:
                break
            self.now = max(self.now, when)
            self._do(self.edge.handle_timeout(self.now))
        else:
            hold(0, False, "deadlines without end")
        self.now = end
        self._do(self.edge.handle_timeout(end))

    def finish(self) -> None:
        """Disconnect all parties: nothing may remain. Then split the streams again, as a whole."""
        for key, stream in self.streams.items():
            hold(63, strict_framer(stream) == self.stream_messages[key], "another message")
        while self.parties:
            self.lose(0)
        for _ in range(2):
            self.wait(TIMES.index(61.0))
        hold(0, not self.edge.transactions and not self.edge.waiting, "transactions")
        hold(0, not self.edge.connections, "connections")

    # -- what the edge does ------------------------------------------------------------------------

    def _do(self, actions: Sequence[EdgeAction]) -> None:
        for action in actions:
            if isinstance(action, SendToConnection):
                hold(56, action.cid in self.parties, f"sent to {action.cid}, which is not there")
                data = action.data
                octets = data.encode() if isinstance(data, str) else data
                self._delivered(self.parties[action.cid], octets)
            elif isinstance(action, SendToUpstream):
                party = next(up for up in self.ups if up.upstream == action.upstream)
                if action.link != DATAGRAMS and action.data.strip(b"\r\n"):
                    key = action.upstream, action.link
                    self.streams[key] += action.data
                    self.stream_messages[key].append(action.data)
                    hold(63, strict_framer(action.data) == [action.data], action.data)
                    for which in (0, -1):
                        hold(63, loose_framer(action.data, which) == [action.data], action.data)
                self._delivered(party, action.data)
            elif isinstance(action, ResetUpstream):
                self.edge.upstream_lost(action.link, upstream=action.upstream)
            else:
                hold(0, not isinstance(action, HookFailed), action)

    def _delivered(self, party: Party, data: bytes) -> None:
        """Check one message of the edge against everything known."""
        if not data.strip(b"\r\n"):
            return
        message = read(data)
        hold(52, message is not None and well_framed(data), data)
        assert message is not None
        hold(53, len(message.all(b"content-length")) <= 1, data)
        # An unreadable message is answered to its sender, as far as that could be read.
        answers_nonsense = (
            party is self.step_party
            and not message.is_request
            and message.status >= 400
            and (self.raw or not (self.step_said and self.step_said.complete))
        )
        if not answers_nonsense:
            self._reads_back(data)
        head = data[: len(data) - len(message.body)]
        hold(55, not re.search(rb"\r(?!\n)|(?<!\r)\n|\0", head), data)
        self._note_tokens(message)
        self._keeps_credentials(party, message, data)
        # What the edge itself says has neither.
        if (mark := message.one(b"x-mark")) or message.body:
            said = self.said.get(mark)
            hold(52, said, ("a message from nowhere", data))
            assert said is not None
            self._derived(party, message, said)
        if message.is_request:
            hold(55, OWN_VIA.fullmatch(message.all(b"via")[0]), data)
            party.got.add(branch_of(message.all(b"via")[0]))
            party.calls.add(message.one(b"call-id"))
            if message.method not in (b"ACK", b"CANCEL"):
                party.inbox.append(message)
                self.seen["delivered to " + ("upstream" if party.upstream else "client")] += 1
            return
        self.replies.append(message)
        party.answers.append(message)
        self.seen[f"status {message.status}"] += 1
        if message.status in (401, 407):
            party.challenge = message
        hold(62, answers_nonsense or message.name in party.asked, (party.label, data))

    def _keeps_credentials(self, party: Party, message: Read, data: bytes) -> None:
        """Check that no credentials for the edge are in what it sends, and no password."""
        hold(1, not any(password.encode() in data for password in USERS.values()), data)
        for key, value, line in message.fields:
            if key in _CREDENTIALS:
                self.seen["credentials to " + ("upstream" if party.upstream else "client")] += 1
                # A digest tells whose challenge it answers, and a token does not.
                token = b"Bearer " in line
                requested = party.upstream is not None and key == b"authorization" and token
                hold(1, requested or not (_proofs(line) & self.proofs), (party.label, value))

    @staticmethod
    def _reads_back(data: bytes) -> None:
        try:
            parsed = parse_message(data)
            hold(54, bytes(parsed) == data, data)
            hold(54, bytes(parse_message(bytes(parsed))) == data, data)
        except SipParseError as error:
            hold(54, False, (error, data))

    def _note_tokens(self, message: Read) -> None:
        """Record the tokens that the edge issues; each belongs to one connection for ever."""
        values = [
            value for name in (b"record-route", b"path", b"contact") for value in message.all(name)
        ]
        for value in values:
            for match in _SIGHT.finditer(value):
                token = match[0]
                if token in self.tokens:
                    continue
                flow = base64.urlsafe_b64decode(token)[:12]
                cid = int.from_bytes(flow[:8], "big")
                owner = self.flows.get(flow) or self.parties.get(cid)
                if owner is None or cid > 8:
                    # A client's own text, which leads nowhere.
                    continue
                known = self.flows.setdefault(flow, owner)
                self.tokens[token] = known
                self.token_calls[token].add(message.one(b"call-id"))
                self.token_list.append(token)

    def _derived(self, party: Party, message: Read, candidates: list[Said]) -> None:
        """Compare a forwarded message with the original."""
        original = next(
            (
                said
                for said in reversed(candidates)
                if said.message.is_request == message.is_request
                and said.message.body == message.body
                and _untouched(said.message, party) == _untouched(message, party)
                and _repeats(said.message, message, party)
            ),
            None,
        )
        hold(54, original, ("changed on its way", message, candidates[-1].message))
        assert original is not None
        hold(53, original.framed, ("went on with a wrong length", original.message))
        came = original.message
        sender = original.party
        if sender.upstream is None:
            for name in _TRUSTED - {b"path"}:
                hold(0, not message.all(name), ("a field of trusted elements", name))
        before = came.all(b"record-route")
        after = message.all(b"record-route")
        added = after[: len(after) - len(before)]
        hold(55, len(added) <= 2 and after[len(added) :] == before, (before, after))
        hold(55, all(map(OWN_ROUTE.fullmatch, added)), added)
        for path in message.all(b"path"):
            own = OWN_ROUTE.fullmatch(path) is not None
            hold(55, own or (sender.upstream and path in came.all(b"path")), path)
        self._contacts(came, message)
        if message.is_request:
            self._request_went_on(party, message, original)
        else:
            vias = came.all(b"via")
            # Upstreams answer for each other.
            asked = [up.got for up in self.ups] if sender.upstream else [sender.got]
            branch = branch_of(vias[0]) if vias else b""
            hold(62, any(branch in got for got in asked), ("not asked", came))

    @staticmethod
    def _contacts(came: Read, message: Read) -> None:
        before, after = came.all(b"contact"), message.all(b"contact")
        hold(55, len(before) == len(after), (before, after))
        for old, new in zip(before, after, strict=True):
            more = set(params(uri_in(new))) - set(params(uri_in(old)))
            hold(55, more <= {b"alias", b"seal"}, (old, new))

    def _request_went_on(self, party: Party, message: Read, original: Said) -> None:
        came, sender = original.message, original.party
        old, new = came.all(b"via"), message.all(b"via")[1:]
        hold(55, len(old) == len(new), (old, new))
        for index, (was, now) in enumerate(zip(old, new, strict=True)):
            # To the upstream an odd Via is only an address.
            same = branch_of(now) == branch_of(was) or (party.upstream and not params(now))
            hold(55, sent_by(was) == sent_by(now) and same, (was, now))
            more = set(params(now)) - set(params(was))
            hold(55, more <= ({b"received", b"rport"} if not index else set()), (was, now))
        if party.upstream is None:
            self._may_reach(party, came, sender)
        self._may_speak(came, sender)

    def _may_reach(self, party: Party, came: Read, sender: Party) -> None:
        """Check a delivery against everything that may lead to a connection."""
        call_id = came.one(b"call-id")
        for value in [*came.all(b"route"), came.uri]:
            for match in _SIGHT.finditer(value):
                token = match[0]
                if self.tokens.get(token) is party and party.live:
                    own_path = sender.upstream is not None or sender is party or self.alias
                    if call_id in self.token_calls[token] if len(token) == 56 else own_path:
                        self.seen["reached by token"] += 1
                        return
        uri = came.uri.split(b";")[0]
        if not self.core:
            user, host = user_of(came.uri)
            aor = b"sip:%b@%b" % (user, host)
            if party.bound.get(aor, 0) > self.now - 1:
                self.seen["reached by name"] += 1
                return
            if uri in party.contacts and any(when > self.now - 1 for when in party.bound.values()):
                self.seen["reached by contact"] += 1
                return
        if any(party in owners for gruu, owners in self.gruus.items() if gruu in came.uri):
            return
        if b";gr" in came.uri:
            return
        number = 56 if self.alias and b"alias" in came.uri else 57
        hold(number, False, ("nothing leads there", party.label, sender.label, came))

    def _may_speak(self, came: Read, sender: Party) -> None:
        """Compare a client's From with its proven users."""
        if sender.upstream or not self.users or came.method == b"ACK":
            return
        user, host = user_of(uri_in(came.one(b"from")))
        if host != DOMAIN.encode() or user in sender.proven:
            return
        hold(0, came.one(b"call-id") in sender.calls and came.all(b"route"), came)


def _pick(choices: Sequence[str], index: int) -> str:
    """Return a choice, the first one for most numbers: more is valid than not."""
    return choices[index] if index < len(choices) else choices[0]


def _proofs(data: bytes) -> set[bytes]:
    """Return what makes credentials usable, of all those in some bytes."""
    return {digest or token for digest, token in _PROOF.findall(data)}


def _untouched(message: Read, party: Party) -> list[bytes]:
    """Return the lines that are not edited; a fold is a space, as a stream requires (§7.3.1).

    Fields that Kamailio cannot read, because of their names, do not reach an upstream.
    """
    edited = _EDITED | _TRUSTED | (frozenset() if message.is_request else _REPEATED)
    return [
        _unfolded(raw)
        for key, _, raw in message.fields
        if key not in edited and (party.upstream is None or _PLAIN_NAME.fullmatch(key))
    ]


def _unfolded(raw: bytes) -> bytes:
    if b"\r" not in raw:
        return raw
    name, _, value = raw.partition(b":")
    return name + b": " + re.sub(rb"\r\n[ \t]+", b" ", value).strip(b" \t")


def _repeats(came: Read, message: Read, party: Party) -> bool:
    """Return whether each field that a response repeats is as it came, or as in the request."""
    asked = party.asked.get(message.name)
    if message.is_request or asked is None:
        return True
    both = [
        {key: b" ".join(value.split()) for key, value, _ in each.fields if key in _REPEATED}
        for each in (came, asked)
    ]
    return all(
        b" ".join(value.split()) in [known.get(key) for known in both]
        for key, value, _ in message.fields
        if key in _REPEATED
    )


#: The steps, with the exclusive upper bound of each argument.
STEPS: Final[dict[str, dict[str, int]]] = {
    "connect": {"who": 6, "cid": 6, "address": 8},
    "lose": {"who": 8},
    "register": {"who": 8, "name": 12, "expires": 8, "proof": 4, "odd": 3 * len(ODD)},
    "ask": {
        "who": 8,
        "method": len(METHODS),
        "callee": 128,
        "sender": 12,
        "route": 128,
        "odd": 3 * len(ODD),
        "via": 3 * len(VIA_ENDS),
        "frame": 3 * len(BODIES) * len(LENGTHS),
    },
    "answer": {
        "who": 8,
        "which": 4,
        "status": len(STATUSES),
        "frame": 3 * len(BODIES) * len(LENGTHS),
        "odd": 3 * len(ODD),
        "forged": 16,
    },
    "follow": {"who": 8, "which": 8, "method": 6, "changed": 4, "frame": 2 * len(BODIES)},
    "cancel": {"who": 8, "which": 3, "whose": 2},
    "again": {"who": 8, "which": 6},
    "damage": {"who": 8, "which": 6, "at": 1024, "how": 15, "byte": 256},
    "call_in": {
        "up": 2,
        "method": 6,
        "token": 8,
        "alias": 4,
        "odd": 3 * len(ODD),
        "frame": len(BODIES),
    },
    "link": {"up": 2, "what": 6},
    "wait": {"time": len(TIMES)},
}


def drive(data: bytes) -> World:
    """Take the steps that bytes describe, and finish; raise on a violated invariant.

    Args:
        data: The kind of world, then each step and its arguments, a byte each (two for bounds above
            256). Missing arguments are 0.

    Returns:
        The world at its end.
    """
    left = iter(data)

    def number(below: int) -> int:
        value = next(left, 0)
        if below > 256:
            value = value << 8 | next(left, 0)
        return value % below

    kind = next(left, 0)
    world = World(kind & 1, kind >> 1 & 1, (kind >> 2) % 3)
    names = list(STEPS)
    while (step := next(left, None)) is not None:
        name = names[step % len(names)]
        arguments = {key: number(below) for key, below in STEPS[name].items()}
        getattr(world, name)(**arguments)
    world.finish()
    return world
