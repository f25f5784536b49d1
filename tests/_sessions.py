"""Open sessions, and a pipe between two of them."""

from __future__ import annotations

from collections.abc import Sequence

from wsproto_sip.events import AcceptConnection, Event, Request
from wsproto_sip.extensions import Extension
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.lifecycle import ConnectionClosed
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionType

REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Protocol: sip\r\n\r\n"
)


DEFAULT = SessionConfig()


def server(now: float = 0.0, *, subprotocol: str | None = None, **options: object) -> Session:
    """Return an open server session."""
    config = SessionConfig(**options) if options else DEFAULT  # type: ignore[arg-type]
    session = Session(ConnectionType.SERVER, now=now, config=config)
    session.receive(REQUEST, now)
    session.send(AcceptConnection(subprotocol=subprotocol), now)
    session.data_to_send()
    return session


def pair(
    now: float = 0.0,
    server_config: SessionConfig | None = None,
    client_config: SessionConfig | None = None,
    *,
    offers: Sequence[Extension] = (),
    supported: Sequence[Extension] = (),
) -> tuple[Session, Session]:
    """Return a client's and a server's session, open."""
    client = Session(ConnectionType.CLIENT, now=now, config=client_config or SessionConfig())
    answerer = Session(ConnectionType.SERVER, now=now, config=server_config or SessionConfig())
    client.send(Request(host="example.com", target="/", extensions=list(offers)), now)
    answerer.receive(client.data_to_send(), now)
    answerer.send(AcceptConnection(extensions=list(supported)), now)
    client.receive(answerer.data_to_send(), now)
    return client, answerer


def carry(sender: Session, receiver: Session, now: float) -> list[Event]:
    """Pass one end's bytes to the other."""
    return receiver.receive(sender.data_to_send(), now)


def frame(first: int, payload: bytes = b"") -> bytes:
    """Return a client's frame, masked with four zeros."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0xFE)) + size.to_bytes(2)
    else:
        head = bytes((first, 0xFF)) + size.to_bytes(8)
    return head + bytes(4) + payload


TEXT, BINARY, CLOSE, PING, PONG = 0x81, 0x82, 0x88, 0x89, 0x8A
#: A close frame.
NORMAL = frame(CLOSE, b"\x03\xe8bye")


def closed(events: Sequence[Event]) -> ConnectionClosed:
    """Return the one ``ConnectionClosed``, which is the last event."""
    [event] = [event for event in events if isinstance(event, ConnectionClosed)]
    assert events[-1] is event
    return event


def fixed_entropy(count: int) -> bytes:
    """Return predictable bytes instead of random ones."""
    return b"r" * count


def established(now: float = 0.0, **options: object) -> Session:
    """Return an open server session without a handshake before it."""
    config = SessionConfig(**options)  # type: ignore[arg-type]
    return Session.established(ConnectionType.SERVER, now=now, config=config)


def run(session: Session, until: float) -> list[Event]:
    """Call a session at its deadlines, and only then, up to a time."""
    events: list[Event] = []
    while (when := session.next_deadline()) is not None and when <= until:
        events += session.handle_timeout(max(when, session._now))
    return events
