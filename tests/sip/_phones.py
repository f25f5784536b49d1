"""Telephones on an edge, without sockets: what they say and what they hear."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Generic, TypeVar

from wsproto_sip.auth import Challenge, answer_challenge
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import (
    SipRequest,
    SipResponse,
    Source,
    parse_message,
)
from wsproto_sip.sip.edge.actions import (
    AskQuestion,
    EdgeAction,
    HookFailed,
    ResetUpstream,
    SendToConnection,
    SendToUpstream,
    UpstreamChanged,
)
from wsproto_sip.sip.edge.config import EdgeConfig, EdgeMode, Upstream
from wsproto_sip.sip.edge.connections import Peer
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.registrar.domains import Domains

MODES = list(EdgeMode)
UPSTREAM = Upstream("core", "192.0.2.200", 5060, "192.0.2.100", 5080)
CORE = Source("192.0.2.200", 5060, "udp")
SDP = b"v=0\r\no=- 1 1 IN IP4 192.0.2.2\r\n"


def entropy() -> Callable[[int], bytes]:
    """Return bytes that differ per call but are the same in each run."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def lines(start: str, *fields: tuple[str, str], body: bytes = b"") -> bytes:
    """Return a message as bytes."""
    head = [start, *[f"{name}: {value}" for name, value in fields]]
    head += [f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


class World:
    """An edge, its telephones, its upstream and the time."""

    def __init__(self, mode: EdgeMode = EdgeMode.OUTBOUND, **options: object) -> None:
        settings: dict[str, object] = {"host": "edge.test", "port": 8080, "mode": mode}
        settings["domains"] = Domains(("sip.test",))
        if isinstance(upstream := options.pop("upstream", None), Upstream):
            settings["upstreams"] = (upstream,)
        # Time stands still in most tests, whose phones are strangers where there are no passwords.
        for name in ("callee_requests_per_second", "callee_transactions"):
            settings[name] = ShareConfig(1_000_000, reserve=0)
        edge_options = {
            name: options.pop(name)
            for name in ("registrar", "authenticator", "hook", "flow_keys")
            if name in options
        }
        config = EdgeConfig(**(settings | options))  # type: ignore[arg-type]
        self.edge = SipEdge(config, entropy=entropy(), **edge_options)  # type: ignore[arg-type]
        self.now = 1000.0
        self.phones: dict[int, Phone] = {}
        self.upstream: list[SipRequest | SipResponse | bytes] = []
        #: On which link each of them went.
        self.links: list[int] = []
        #: All that was sent to upstreams, with their names.
        self.all_sent: list[tuple[str, SipRequest | SipResponse | bytes]] = []
        self.changes: list[UpstreamChanged] = []
        self.resets: list[ResetUpstream] = []
        #: Unanswered questions, by number.
        self.questions: dict[int, object] = {}
        self.failures: list[HookFailed] = []
        self.numbers = count(1)

    def do(self, actions: Sequence[EdgeAction]) -> None:
        """Carry out what the edge wants."""
        for action in actions:
            match action:
                case SendToConnection():
                    self.phones[action.cid].hear(action.data)
                case SendToUpstream():
                    blank = not action.data.strip(b"\r\n")
                    message = action.data if blank else parse_message(action.data)
                    self.links.append(action.link)
                    self.upstream.append(message)
                    self.all_sent.append((action.upstream, message))
                case ResetUpstream():
                    self.resets.append(action)
                    self.edge.upstream_lost(action.link, upstream=action.upstream)
                case UpstreamChanged():
                    self.changes.append(action)
                case AskQuestion():
                    self.questions[action.number] = action.question
                case HookFailed():
                    self.failures.append(action)

    def answer(self, answer: object, number: int | None = None) -> None:
        """Answer a question, the earliest if none is named."""
        number = min(self.questions) if number is None else number
        del self.questions[number]
        self.do(self.edge.answer(number, answer, self.now))

    def from_upstream(
        self,
        message: SipRequest | SipResponse | bytes,
        *,
        upstream: str | None = None,
        link: int | None = None,
        source: Source | None = CORE,
    ) -> None:
        """Send something from an upstream."""
        data = message if isinstance(message, bytes) else message.to_bytes()
        self.do(
            self.edge.upstream_received(data, self.now, upstream=upstream, link=link, source=source)
        )

    def upstream_request(self) -> SipRequest:
        """Return the next message to the upstream, a request."""
        message = self.upstream.pop(0)
        assert isinstance(message, SipRequest), message
        return message

    def upstream_response(self) -> SipResponse:
        """Return the next message to the upstream, a response."""
        message = self.upstream.pop(0)
        assert isinstance(message, SipResponse), message
        return message

    def wait(self, seconds: float) -> None:
        """Let time pass, every deadline in its turn."""
        end = self.now + seconds
        while (when := self.edge.next_deadline()) is not None and when <= end:
            self.now = max(self.now, when)
            self.do(self.edge.handle_timeout(self.now))
        self.now = end
        self.do(self.edge.handle_timeout(self.now))

    def phone(self, user: str, **options: object) -> Phone:
        """Return a telephone with its own connection."""
        return Phone(self, user, **options)  # type: ignore[arg-type]

    def quiet(self) -> bool:
        """Return whether everything that was sent was taken."""
        return not self.upstream and not any(phone.heard for phone in self.phones.values())


class Speaker:
    """The messages of a browser: SIP over one connection, from a host that does not resolve.

    Args:
        user: Its user.
        number: Tells it from others.
        domain: The user's domain.
        transport: ``ws`` or ``wss``.
        password: For challenges.
        q: The parameter of its Contact, with the semicolon.
        outbound: Its instance, to register with a reg-id.
    """

    def __init__(
        self,
        user: str,
        number: int,
        *,
        domain: str = "sip.test",
        transport: str = "ws",
        password: str | None = None,
        q: str = "",
        outbound: str | None = None,
    ) -> None:
        self.user = user
        self.cid = number
        self.domain = domain
        self.password = password
        #: The name in credentials, where it is another one.
        self.login = ""
        self.contact = f"sip:{user}{number}@x{number}.invalid;transport=ws"
        self.params = q
        if outbound is not None:
            self.params += f';reg-id={number};+sip.instance="<{outbound}>"'
        self.transport = transport
        self.calls = count(1)

    @property
    def aor(self) -> str:
        """Where it is called."""
        return f"sip:{self.user}@{self.domain}"

    def say(self, data: str | bytes | SipRequest | SipResponse) -> None:
        """Send a message."""
        raise NotImplementedError

    def make(
        self,
        method: str,
        uri: str,
        *fields: tuple[str, str],
        body: bytes = b"",
        cseq: int = 1,
        to: str | None = None,
        sender: str | None = None,
        call_id: str | None = None,
        contact: bool = True,
        hops: int = 70,
    ) -> SipRequest:
        """Make a request outside of a dialog."""
        number = next(self.calls)
        headers = [
            ("Via", f"SIP/2.0/{self.transport.upper()} x{self.cid}.invalid;branch=z9hG4bK{number}"),
            ("Max-Forwards", str(hops)),
            ("From", sender or f"<sip:{self.user}@{self.domain}>;tag=f{self.cid}-{number}"),
            ("To", to or f"<{uri}>"),
            ("Call-ID", call_id or f"call-{self.cid}-{number}"),
            ("CSeq", f"{cseq} {method}"),
            *fields,
        ]
        if contact and method in ("INVITE", "SUBSCRIBE", "REFER"):
            headers.append(("Contact", f"<{self.contact};ob>"))
        return SipRequest(method, uri, headers, body)

    def send(
        self, method: str, uri: str, *fields: tuple[str, str], **options: object
    ) -> SipRequest:
        """Send a request outside of a dialog; returns it."""
        request = self.make(method, uri, *fields, **options)  # type: ignore[arg-type]
        self.say(request)
        return request

    def follow(self, method: str, invite: SipRequest, *, to: str | None = None) -> SipRequest:
        """Send the CANCEL of an INVITE, or the ACK of its refusal; returns it."""
        fields = [
            ("Via", str(invite.via)),
            ("Max-Forwards", "70"),
            ("From", str(invite.from_)),
            ("To", to or str(invite.to)),
            ("Call-ID", invite.call_id),
            ("CSeq", f"{invite.cseq.number} {method}"),
        ]
        request = SipRequest(method, invite.uri, fields)
        self.say(request)
        return request

    def credentials(self, response: SipResponse, method: str, uri: str) -> tuple[str, str]:
        """Return the field that answers a challenge."""
        proxy = response.status == 407
        text = response.get("proxy-authenticate" if proxy else "www-authenticate")
        challenge = Challenge.parse(text or "")
        assert challenge is not None
        field = answer_challenge(
            challenge, self.login or self.user, self.password or "", method, uri
        )
        return ("Proxy-Authorization" if proxy else "Authorization", str(field))

    def registration(self, *fields: tuple[str, str], expires: int) -> list[tuple[str, str]]:
        """Return the fields of a REGISTER."""
        return [
            ("Contact", f"<{self.contact}>{self.params};expires={expires}"),
            ("Supported", "path, outbound, gruu"),
            *fields,
        ]

    def answer(
        self, request: SipRequest, status: int, *fields: tuple[str, str], body: bytes = b""
    ) -> SipResponse:
        """Answer a request."""
        headers = list(fields)
        if request.method in ("INVITE", "SUBSCRIBE") and 100 < status < 300:
            headers.append(("Contact", f"<{self.contact}>"))
        tag = f"t{self.cid}"
        response = request.make_response(status, to_tag=tag, headers=headers, body=body)
        self.say(response)
        return response


class Phone(Speaker):
    """A browser on an edge."""

    def __init__(
        self,
        world: World,
        user: str,
        *,
        peer: Peer | None = None,
        transport: str = "ws",
        login: str | None = None,
        registers: bool = True,
        source: Source | None = None,
        **options: object,
    ) -> None:
        number = next(world.numbers)
        super().__init__(user, number, transport=transport, **options)  # type: ignore[arg-type]
        self.world = world
        self.source = source or Source("192.0.2.1", 4000 + self.cid, transport)
        self.heard: list[SipRequest | SipResponse | str] = []
        world.phones[self.cid] = self
        world.edge.connection_opened(self.cid, peer or Peer(self.source, login))
        if registers:
            assert self.register().status == 200

    # -- sending -----------------------------------------------------------------------------------

    def say(self, data: str | bytes | SipRequest | SipResponse) -> None:
        """Send a message."""
        if isinstance(data, SipRequest | SipResponse):
            data = data.to_websocket()
        self.world.do(self.world.edge.receive(self.cid, data, self.world.now))

    def hang_up(self) -> None:
        """Lose the connection."""
        del self.world.phones[self.cid]
        self.world.do(self.world.edge.connection_closed(self.cid, self.world.now))

    def ask(
        self, method: str, uri: str, *fields: tuple[str, str], **options: object
    ) -> SipResponse:
        """Send a request that is answered at once, with the password if that is asked for."""
        self.send(method, uri, *fields, **options)
        response = self.response()
        if response.status in (401, 407) and self.password is not None:
            proof = self.credentials(response, method, uri)
            self.send(method, uri, proof, *fields, **(options | {"cseq": 2}))
            response = self.response()
        return response

    def register(self, *fields: tuple[str, str], expires: int = 300) -> SipResponse:
        """Register, or unregister."""
        return self.ask(
            "REGISTER",
            "sip:sip.test",
            *self.registration(*fields, expires=expires),
            to=f"<{self.aor}>",
        )

    # -- hearing -----------------------------------------------------------------------------------

    def hear(self, data: str | bytes) -> None:
        """Something has come."""
        blank = isinstance(data, str) and not data.strip("\r\n")
        self.heard.append(data if blank and isinstance(data, str) else parse_message(data))

    def request(self, method: str) -> SipRequest:
        """Return the next message heard, a request of that method."""
        message = self.heard.pop(0)
        assert isinstance(message, SipRequest), message
        assert message.method == method
        return message

    def response(self, status: int | None = None) -> SipResponse:
        """Return the next message heard, a response of that status."""
        message = self.heard.pop(0)
        assert isinstance(message, SipResponse), message
        assert status is None or message.status == status, message
        return message


S = TypeVar("S", bound=Speaker)


class Dialog(Generic[S]):
    """One side of a call: its route, target and tags."""

    def __init__(self, phone: S, invite: SipRequest, ok: SipResponse, *, caller: bool) -> None:
        self.phone = phone
        self.call_id = invite.call_id
        self.cseq = invite.cseq.number if caller else 100
        routes = ok.record_routes
        if caller:
            self.local, self.remote = str(invite.from_), str(ok.to)
            self.route = [str(route) for route in reversed(routes)]
            contacts = ok.contacts
        else:
            self.local, self.remote = str(ok.to), str(invite.from_)
            self.route = [str(route) for route in routes]
            contacts = invite.contacts
        assert contacts
        self.target = str(contacts[0].uri)

    def send(self, method: str, *fields: tuple[str, str], body: bytes = b"") -> SipRequest:
        """Send a request within the dialog."""
        if method != "ACK":
            self.cseq += 1
        return self.phone.send(
            method,
            self.target,
            *[("Route", route) for route in self.route],
            *fields,
            body=body,
            cseq=self.cseq,
            to=self.remote,
            sender=self.local,
            call_id=self.call_id,
        )


def call(
    caller: Phone, callee: Phone, uri: str | None = None, *, to: str | None = None
) -> tuple[Dialog[Phone], Dialog[Phone]]:
    """Set a call up; returns both sides."""
    caller.send("INVITE", uri or f"sip:{callee.user}@sip.test", to=to, body=SDP)
    caller.response(100)
    incoming = callee.request("INVITE")
    assert incoming.body == SDP
    callee.answer(incoming, 180)
    callee.answer(incoming, 200, ("Content-Type", "application/sdp"), body=SDP)
    ringing = caller.response(180)
    assert ringing.to.tag == f"t{callee.cid}"
    accepted = caller.response(200)
    theirs = incoming.make_response(200, to_tag=f"t{callee.cid}")
    outgoing = parse_message(accepted.to_bytes())
    assert isinstance(outgoing, SipResponse)
    invite = SipRequest(
        "INVITE",
        incoming.uri,
        [
            ("Via", "SIP/2.0/WS x.invalid;branch=z9hG4bKx"),
            ("From", str(outgoing.from_)),
            ("To", str(incoming.to)),
            ("Call-ID", outgoing.call_id),
            ("CSeq", str(outgoing.cseq)),
            *[("Contact", str(contact)) for contact in incoming.contacts or []],
        ],
    )
    here = Dialog(caller, invite, accepted, caller=True)
    there = Dialog(callee, invite, theirs, caller=False)
    here.send("ACK")
    callee.request("ACK")
    return here, there
