"""An edge on an endpoint: bytes of WebSocket connections on one side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.sip._phones import UPSTREAM, lines
from wsproto_sip.auth.identity import Identity
from wsproto_sip.auth.outcome import LATER, Later
from wsproto_sip.events import BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto_sip.policy.decision import Continue, PolicyChain, RequestContext
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import Closed, Opened
from wsproto_sip.server.shares import Bound
from wsproto_sip.server.statistics import UpstreamStatistics
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.session import Session
from wsproto_sip.sip import SipRequest, SipResponse, parse_message
from wsproto_sip.sip.edge.actions import AskQuestion, HookFailed, SendToUpstream, UpstreamChanged
from wsproto_sip.sip.edge.application import EdgeApplication
from wsproto_sip.sip.edge.config import EdgeConfig, EdgeMode, Upstream
from wsproto_sip.sip.edge.edge import SipEdge
from wsproto_sip.sip.edge.hook import EdgeHook, HookRequest
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.registrar.registrar import Registrar, RegistrarConfig
from wsproto_sip.sip.registrar.store import Node
from wsproto_sip.states import ConnectionType
from wsproto_sip.typing import Address


def choose(context: RequestContext) -> Continue:
    """Speak what the client asks for first; the user stands in the target."""
    name = context.request.target.strip("/")
    identity = Identity(name, "test") if name else None
    return Continue(identity=identity, subprotocol=context.request.subprotocols[0])


class Server:
    """An endpoint with an edge, and what is left to do."""

    def __init__(
        self,
        *,
        upstream: Upstream | None = None,
        as_bytes: bool = False,
        hook: EdgeHook | None = None,
    ) -> None:
        session = SessionConfig()
        if as_bytes:
            session = replace(session, profiles=subprotocol_profiles(session))
        policies = PolicyChain([choose])
        self.endpoint = Endpoint(EndpointConfig(session=session, policies=policies), now=0.0)
        upstreams = () if upstream is None else (upstream,)
        config = EdgeConfig("edge.test", Domains(("sip.test",)), 8080, EdgeMode.ALIAS, upstreams)
        self.edge = SipEdge(config, hook=hook)
        self.application = EdgeApplication(self.endpoint, self.edge)
        self.left: list[object] = []
        self.browsers: dict[int, Browser] = {}
        self.now = 1.0

    def happened(self, cid: int, events: Sequence[Event]) -> None:
        for event in events:
            self.left += self.application.handle(cid, event, self.now)
        self.flush()

    def flush(self) -> None:
        for output in self.endpoint.take_output():
            browser = self.browsers[output.cid]
            browser.heard += browser.session.receive(output.data, self.now)


class Browser:
    """A WebSocket client."""

    def __init__(
        self,
        server: Server,
        user: str = "",
        *,
        subprotocol: str = "sip",
        peer: Address = ("192.0.2.1", 4000),
        secure: bool = False,
    ) -> None:
        self.server = server
        self.user = user
        self.session = Session(ConnectionType.CLIENT, now=server.now)
        self.heard: list[Event] = []
        self.cid = server.endpoint.accept(peer, server.now, secure=secure)
        server.browsers[self.cid] = self
        self.send(Request(host="sip.test", target=f"/{user}", subprotocols=[subprotocol]))
        self.heard.clear()

    def send(self, *events: Event) -> None:
        for event in events:
            self.session.send(event, self.server.now)
        octets = self.session.data_to_send()
        self.server.happened(
            self.cid, self.server.endpoint.receive(self.cid, octets, self.server.now)
        )

    def leave(self) -> None:
        events = self.server.endpoint.receive(self.cid, None, self.server.now)
        self.server.happened(self.cid, events)

    def messages(self) -> list[SipRequest | SipResponse]:
        """Return the messages heard, as SIP."""
        found = [
            event.data for event in self.heard if isinstance(event, TextMessage | BytesMessage)
        ]
        self.heard.clear()
        return [parse_message(data) for data in found]

    def request(self, method: str, uri: str, body: bytes = b"", *, to: str = "") -> str:
        contact = f"<sip:{self.user}@x{self.cid}.invalid;transport=ws>"
        fields = [
            ("Via", f"SIP/2.0/WS x{self.cid}.invalid;branch=z9hG4bK{method}"),
            ("Max-Forwards", "70"),
            ("From", f"<sip:{self.user}@sip.test>;tag=1"),
            ("To", f"<{to or uri}>"),
            ("Call-ID", f"{method}-{self.cid}"),
            ("CSeq", f"1 {method}"),
            ("Supported", "path"),
            ("Contact", contact),
        ]
        return lines(f"{method} {uri} SIP/2.0", *fields, body=body).decode("latin-1")

    def register(self) -> SipResponse:
        aor = f"sip:{self.user}@sip.test"
        self.send(TextMessage(self.request("REGISTER", "sip:sip.test", to=aor)))
        (response,) = self.messages()
        assert isinstance(response, SipResponse)
        return response


@pytest.mark.parametrize("as_bytes", [False, True])
def test_two_browsers(as_bytes: bool) -> None:
    server = Server(as_bytes=as_bytes)
    alice, bob = Browser(server, "alice"), Browser(server, "bob", peer=("192.0.2.2", 4001))
    assert (server.edge.connections, server.edge.knows(alice.cid)) == (2, True)
    answer = alice.register()
    assert answer.status == 200
    assert 'received="sip:192.0.2.1:4000;transport=ws"' in (answer.get("contact") or "")
    assert bob.register().status == 200
    alice.send(TextMessage(alice.request("MESSAGE", "sip:bob@sip.test", b"hello")))
    (message,) = bob.messages()
    assert isinstance(message, SipRequest)
    assert message.body == b"hello"
    bob.send(TextMessage(message.make_response(200).to_bytes().decode()))
    (response,) = alice.messages()
    assert isinstance(response, SipResponse)
    assert response.status == 200
    assert server.left == []


def test_text_stays_text_and_bytes_stay_bytes() -> None:
    server = Server()
    alice, bob = Browser(server, "alice"), Browser(server, "bob")
    bob.register()
    text = alice.request("MESSAGE", "sip:bob@sip.test")
    alice.send(BytesMessage(text.encode()))
    assert isinstance(bob.heard[0], TextMessage)
    bob.heard.clear()
    odd = lines(*split(text.replace("MESSAGE-", "other-")), body=b"\xff")
    alice.send(BytesMessage(odd))
    (heard,) = bob.heard
    assert isinstance(heard, BytesMessage)
    assert heard.data.endswith(b"\xff")


def split(text: str) -> tuple[str, *tuple[tuple[str, str], ...]]:
    start, *fields = text.partition("\r\n\r\n")[0].split("\r\n")
    pairs = [field.split(": ", 1) for field in fields if not field.startswith("Content-Length")]
    return (start, *[(name, value) for name, value in pairs])


def test_the_handshakes_user_is_the_connections() -> None:
    server = Server()
    alice = Browser(server, "alice")
    alice.user = "mallory"
    assert alice.register().status == 403


def test_keep_alives_and_pings() -> None:
    server = Server()
    alice = Browser(server, "alice")
    alice.send(TextMessage("\r\n\r\n"), Ping(b"x"))
    assert [event.data for event in alice.heard if isinstance(event, TextMessage)] == ["\r\n"]


def test_other_subprotocols_are_somebody_elses() -> None:
    server = Server()
    relay = Browser(server, "alice", subprotocol="msrp")
    assert server.edge.connections == 0
    relay.send(TextMessage("\r\n\r\n"))
    assert relay.messages() == []
    relay.leave()
    assert server.edge.dropped == 0


def test_a_connection_that_ends() -> None:
    server = Server()
    alice, bob = Browser(server, "alice"), Browser(server, "bob")
    bob.register()
    bob.leave()
    assert server.edge.connections == 1
    alice.send(TextMessage(alice.request("MESSAGE", "sip:bob@sip.test")))
    (response,) = alice.messages()
    assert isinstance(response, SipResponse)
    assert response.status == 404


def test_messages_received_with_the_end_are_delivered() -> None:
    server = Server()
    alice, bob = Browser(server, "alice"), Browser(server, "bob")
    bob.register()
    text = alice.request("MESSAGE", "sip:bob@sip.test")
    alice.send(TextMessage(text), CloseConnection(1000))
    (message,) = bob.messages()
    assert isinstance(message, SipRequest)
    # To a connection that is closing nothing more can be sent.
    bob.send(TextMessage(message.make_response(200).to_bytes().decode()))
    alice.leave()
    assert server.edge.connections == 1


def test_a_connection_that_was_gone_before_anybody_looked() -> None:
    server = Server()
    application = server.application
    assert application.handle(99, Opened(99, "sip", None, None), 1.0) == []
    assert application.handle(99, TextMessage("\r\n\r\n"), 1.0) == []
    assert server.edge.connections == 0
    # Its end is not reported either.
    alice = Browser(server, "alice")
    closed: list[Closed] = []
    server.endpoint.on_closed(closed.append)
    alice.leave()
    application.handle(alice.cid, closed[0], 1.0)
    assert server.edge.connections == 0


@pytest.mark.parametrize(
    ("peer", "secure", "source"),
    [
        (("192.0.2.1", 4000), True, "sip:192.0.2.1:4000;transport=ws"),
        (("192.0.2.1", None), False, "sip:192.0.2.1:1;transport=ws"),
        (("", None), False, "sip:127.0.0.1:1;transport=ws"),
        (("2001:db8::1", 4000), False, "sip:[2001:db8::1]:4000;transport=ws"),
    ],
)
def test_sources(peer: Address, secure: bool, source: str) -> None:
    server = Server()
    alice = Browser(server, "alice", peer=peer, secure=secure)
    assert f'received="{source}"' in (alice.register().get("contact") or "")


def test_with_an_upstream() -> None:
    server = Server(upstream=UPSTREAM)
    alice = Browser(server, "alice")
    alice.send(TextMessage(alice.request("MESSAGE", "sip:bob@sip.test")))
    (action,) = server.left
    assert isinstance(action, SendToUpstream)
    assert action.upstream == "core"
    message = parse_message(action.data)
    assert isinstance(message, SipRequest)
    deadline = server.application.next_deadline()
    assert deadline == 1.5
    assert server.application.handle_timeout(1.4) == []
    assert server.application.handle_timeout(1.5) == [action]
    answer = message.make_response(200).to_bytes()
    assert server.application.upstream_received(answer, 2.0) == []
    server.flush()
    (response,) = alice.messages()
    assert isinstance(response, SipResponse)
    assert response.status == 200
    assert server.application.next_deadline() is None


def test_an_upstream_that_is_not_there() -> None:
    server = Server(upstream=replace(UPSTREAM, transport="tcp"))
    alice = Browser(server, "alice")
    alice.send(TextMessage(alice.request("MESSAGE", "sip:bob@sip.test")))
    (action,) = server.left
    assert isinstance(action, SendToUpstream)
    # What the edge refuses is a statistic of the endpoint.
    server.application.edge._forwarder.transactions.refused[Bound.USER] = 3
    assert ("sip_transactions", "user", 3) in list(server.endpoint.statistics.refused())
    # Half a message is forgotten with its connection.
    application = server.application
    assert application.upstream_received(b"SIP/2.0 200", 1.0, link=action.link) == []
    application.upstream_lost(action.link)
    assert application.upstream_failed(1.0, reason="gone") == [
        UpstreamChanged("core", False, "gone")
    ]
    (probe,) = application.upstream_opened("core", 1.0)
    assert isinstance(probe, SendToUpstream)
    assert server.endpoint.statistics.upstreams["core"] == UpstreamStatistics(False, 1, 1)
    server.flush()
    (response,) = alice.messages()
    assert isinstance(response, SipResponse)
    assert response.status == 503


def test_nodes_do_not_count_as_failed_upstreams() -> None:
    registrar = Registrar(RegistrarConfig(Domains(("sip.test",))), node=Node("one", "1"))
    endpoint = Endpoint(EndpointConfig(), now=0.0)
    application = EdgeApplication(endpoint, SipEdge(EdgeConfig("edge.test"), registrar=registrar))
    place = ("192.0.2.2", 5070, "192.0.2.1", 5070)
    application.edge.use_nodes([Upstream("two", *place, "tcp", is_node=True)])
    assert application.upstream_failed(1.0, upstream="two") == []
    assert endpoint.statistics.upstream_failures == 0


def test_questions_and_failures_are_the_owners() -> None:
    def hook(request: HookRequest) -> Later:
        return LATER

    server = Server(hook=hook)
    alice = Browser(server, "alice")
    alice.send(TextMessage(alice.request("MESSAGE", "sip:bob@sip.test")))
    (asked,) = server.left
    assert isinstance(asked, AskQuestion)
    assert isinstance(asked.question, HookRequest)
    (failed,) = server.application.answer(asked.number, "yes", server.now)
    assert isinstance(failed, HookFailed)
    server.flush()
    (response,) = alice.messages()
    assert isinstance(response, SipResponse)
    assert response.status == 500
