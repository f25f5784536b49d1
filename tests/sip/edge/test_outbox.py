"""What an edge has to send."""

from __future__ import annotations

from tests.sip._phones import UPSTREAM
from wsproto_sip.sip import Flow, SipResponse, Source
from wsproto_sip.sip.edge.actions import SendToConnection, SendToUpstream
from wsproto_sip.sip.edge.config import STREAM, EdgeConfig
from wsproto_sip.sip.edge.connections import Connections, Peer
from wsproto_sip.sip.edge.outbox import Outbox
from wsproto_sip.sip.message.stream import KeepAlive

OK = SipResponse(200)


def test_messages_are_taken_in_their_order() -> None:
    connections = Connections()
    flow = connections.add(7, Peer(Source("192.0.2.1", 4000, "ws"))).flow
    outbox = Outbox(EdgeConfig("edge.test", upstreams=(UPSTREAM,)), connections)
    outbox.send(None, OK)
    outbox.send(flow, OK)
    outbox.add(SendToConnection(7, "\r\n"))
    outbox.link = STREAM
    outbox.send(None, OK)
    assert outbox.take() == [
        SendToUpstream(UPSTREAM.name, OK.to_stream()),
        SendToConnection(7, OK.to_websocket()),
        SendToConnection(7, "\r\n"),
        SendToUpstream(UPSTREAM.name, OK.to_stream(), STREAM),
    ]
    assert outbox.take() == []


def test_text_is_sent_on_flows_that_exist() -> None:
    connections = Connections()
    flow = connections.add(7, Peer(Source("192.0.2.1", 4000, "ws"))).flow
    outbox = Outbox(EdgeConfig("edge.test"), connections)
    outbox.send_text(flow, "text")
    outbox.send_text(Flow(7, flow.generation + 1), "text")
    connections.remove(7)
    outbox.send_text(flow, "text")
    assert outbox.take() == [SendToConnection(7, "text")]


def test_message_without_a_length_is_written_with_it() -> None:
    outbox = Outbox(EdgeConfig("edge.test", upstreams=(UPSTREAM,)), Connections())
    response = SipResponse(200, body=b"body")
    response.remove_header("Content-Length")
    written = SendToUpstream(
        UPSTREAM.name, b"SIP/2.0 200 OK\r\nContent-Length: 4\r\n\r\nbody", STREAM
    )
    assert outbox.write(response, UPSTREAM.name, STREAM) == written
    assert outbox.take() == []
    outbox.add(written)
    outbox.add(outbox.write(KeepAlive.PONG, UPSTREAM.name, STREAM))
    assert outbox.take() == [written, SendToUpstream(UPSTREAM.name, b"\r\n", STREAM)]


def test_nothing_is_sent_where_nothing_is() -> None:
    connections = Connections()
    flow = connections.add(7, Peer(Source("192.0.2.1", 4000, "ws"))).flow
    outbox = Outbox(EdgeConfig("edge.test"), connections)
    assert outbox.reaches(flow)
    assert outbox.reaches(None)
    connections.remove(7)
    assert not outbox.reaches(flow)
    assert not outbox.reaches(Flow(8, 1))
    outbox.send(flow, OK)
    assert outbox.take() == []
