"""Tests of a server without sockets and without waiting: time is an argument."""

from wsproto_sip import Cause, ConnectionClosed, ConnectionType, Session
from wsproto_sip.events import AcceptConnection, Request, TextMessage


class Shouting:
    """The application under test: it answers in capital letters."""

    def __init__(self, now):
        self.session = Session(ConnectionType.SERVER, now=now)

    def receive(self, data, now):
        self.handle(self.session.receive(data, now), now)

    def wake_up(self, now):
        self.handle(self.session.handle_timeout(now), now)

    def handle(self, events, now):
        for event in events:
            if isinstance(event, Request):
                self.session.send(AcceptConnection(), now)
            elif isinstance(event, TextMessage):
                self.session.send(TextMessage(event.data.upper()), now)


def connected():
    """Return the application and a client connected to it, at time 0."""
    server, client = Shouting(0.0), Session(ConnectionType.CLIENT, now=0.0)
    client.send(Request(host="example.com", target="/"), 0.0)
    server.receive(client.data_to_send(), 0.0)
    assert client.receive(server.session.data_to_send(), 0.0) == [AcceptConnection()]
    return server, client


def test_answers_are_in_capital_letters():
    server, client = connected()
    client.send(TextMessage("hello"), 1.0)
    for byte in client.data_to_send():  # however the network divides it
        server.receive(bytes([byte]), 1.0)
    assert client.receive(server.session.data_to_send(), 1.0) == [TextMessage("HELLO")]


def test_client_that_is_gone_is_noticed():
    server, _ = connected()
    while (now := server.session.next_deadline()) is not None:
        server.wake_up(now)
        server.session.data_to_send()
    assert server.session.closed
    assert now is None


def test_end_says_why():
    server, client = connected()
    client.close(1000, "bye", now=2.0)
    events = server.session.receive(client.data_to_send(), 2.0)
    events += client.receive(server.session.data_to_send(), 2.0)
    events += client.receive(None, 2.0)
    [end] = [event for event in events if isinstance(event, ConnectionClosed)]
    assert (end.code, end.reason, end.cause) == (1000, "bye", Cause.LOCAL)
