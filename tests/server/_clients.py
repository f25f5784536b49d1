"""Clients of an endpoint, without sockets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests._sessions import REQUEST
from wsproto_sip.events import Event, Request
from wsproto_sip.policy.decision import Policy, PolicyChain
from wsproto_sip.server.config import EndpointConfig
from wsproto_sip.server.endpoint import Endpoint
from wsproto_sip.server.events import Closed, Output
from wsproto_sip.session.lifecycle import TransportAction
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType


def endpoint(*policies: Policy, now: float = 0.0, **options: object) -> Endpoint:
    """Return an endpoint with policies."""
    config = EndpointConfig(policies=PolicyChain(policies), **options)  # type: ignore[arg-type]
    return Endpoint(config, now=now)


class Client:
    """A client, and the connection it has to an endpoint.

    Attributes:
        session: Its session.
        cid: The endpoint's id of its connection.
        received: The events of its session.
        given: The endpoint's events for its connection, except those of timeouts.
        action: The last action that the endpoint requested.
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
        """Carry bytes in both directions until none are left; obey the endpoint."""
        while True:
            raw = self.session.data_to_send()
            if raw and not self.gone:
                self.given += self.server.receive(self.cid, raw, now)
            before = len(self.received)
            for output in self.server.take_output():
                if output.cid == self.cid:
                    self.action = output.action
                    self.received += self.session.receive(output.data, now)
            if not raw and len(self.received) == before:
                break
        if self.action is not TransportAction.NONE and not self.gone:
            self.hang_up(now)

    def hang_up(self, now: float) -> None:
        """End the transport for both ends."""
        self.gone = True
        self.given += self.server.receive(self.cid, None, now)
        self.received += self.session.receive(None, now)
        self.server.take_output()

    def send(self, event: Event, now: float) -> None:
        """Send an event and carry the resulting bytes."""
        self.session.send(event, now)
        self.exchange(now)


def only(events: list[Event], kind: type[Event]) -> Event:
    [event] = [event for event in events if isinstance(event, kind)]
    return event


def crowd(server: Endpoint, count: int, now: float = 0.0) -> None:
    """Open connections, all at the same time."""
    for number in range(count):
        cid = server.accept((f"192.0.2.{number % 256}", number), now)
        server.receive(cid, REQUEST, now)
    server.take_output()


def unbounded(**options: object) -> Endpoint:
    """Return an endpoint that accepts any number of connections."""
    options = {
        "max_connections": None,
        "max_per_address": None,
        "max_handshaking": None,
        "max_handshaking_per_address": None,
        **options,
    }
    return Endpoint(EndpointConfig(**options), now=0.0)  # type: ignore[arg-type]


def pings(outputs: Iterable[Output]) -> dict[int, bytes]:
    """Return the payloads of Pings by connection; fail on anything else."""
    found: dict[int, bytes] = {}
    for output in outputs:
        assert output.data[:2] == b"\x89\x08"
        assert len(output.data) == 10
        assert output.action is TransportAction.NONE
        found[output.cid] = output.data[2:]
    return found


PONG_HEAD = b"\x8a\x88\0\0\0\0"


def answer(server: Endpoint, asked: dict[int, bytes], now: float) -> None:
    for cid, payload in asked.items():
        server.receive(cid, PONG_HEAD + payload, now)


def closed(happened: Iterable[tuple[int, Event]]) -> list[Closed]:
    return [event for _, event in happened if isinstance(event, Closed)]
