"""Clients of an endpoint, without sockets."""

from __future__ import annotations

from collections.abc import Sequence

from wsproto_sip.events import Event, Request
from wsproto_sip.lifecycle import TransportAction
from wsproto_sip.policy.decision import Policy, PolicyChain
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.endpoint_config import EndpointConfig
from wsproto_sip.session import Session
from wsproto_sip.states import ConnectionType


def endpoint(*policies: Policy, now: float = 0.0, **options: object) -> Endpoint:
    """An endpoint with policies."""
    config = EndpointConfig(policies=PolicyChain(policies), **options)  # type: ignore[arg-type]
    return Endpoint(config, now=now)


class Client:
    """A client, and the connection it has to an endpoint.

    Attributes:
        session: Its session.
        cid: The endpoint's id of its connection.
        received: What its session gave.
        given: What the endpoint gave for its connection, outside of timeouts.
        action: What the endpoint last wanted done with the transport.
    """

    def __init__(
        self,
        server: Endpoint,
        now: float = 0.0,
        *,
        peer: tuple[str, int | None] = ("192.0.2.1", 4000),
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
        secure: bool = False,
        shake_hands: bool = True,
    ) -> None:
        self.server = server
        self.session = Session(ConnectionType.CLIENT, now=now)
        self.cid = server.accept(peer, now, secure=secure, local=("198.51.100.1", 8080))
        self.received: list[Event] = []
        self.given: list[Event] = []
        self.action = TransportAction.NONE
        self.gone = False
        if shake_hands:
            self.session.send(
                Request(
                    host="example.com",
                    target="/",
                    subprotocols=list(subprotocols),
                    extra_headers=list(headers),
                ),
                now,
            )
            self.exchange(now)

    def exchange(self, now: float) -> None:
        """Carries octets both ways until there are none; obeys the endpoint."""
        while True:
            octets = self.session.data_to_send()
            if octets and not self.gone:
                self.given += self.server.receive(self.cid, octets, now)
            before = len(self.received)
            for output in self.server.take_output():
                if output.cid == self.cid:
                    self.action = output.action
                    self.received += self.session.receive(output.data, now)
            if not octets and len(self.received) == before:
                break
        if self.action is not TransportAction.NONE and not self.gone:
            self.hang_up(now)

    def hang_up(self, now: float) -> None:
        """Ends the transport, for both ends."""
        self.gone = True
        self.given += self.server.receive(self.cid, None, now)
        self.received += self.session.receive(None, now)
        self.server.take_output()

    def send(self, event: Event, now: float) -> None:
        """Sends an event and carries what follows."""
        self.session.send(event, now)
        self.exchange(now)
