"""An echo over HTTP/3 (RFC 9220), on asyncio and aioquic: ``pip install aioquic``.

python http3_server.py fullchain.pem privkey.pem
"""

import asyncio
import sys
from functools import partial

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    StopSendingReceived,
    StreamReset,
)

from wsproto_sip import ConnectionType, RemoteProtocolError, Session, TransportAction
from wsproto_sip.events import AcceptConnection, BytesMessage, TextMessage
from wsproto_sip.extended_connect import ServerExtendedConnect


class Http3Server(QuicConnectionProtocol):
    """One QUIC connection and the sessions on its streams."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loop = asyncio.get_running_loop()
        self.http, self.sessions, self.timers = None, {}, {}

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            # Its SETTINGS tell the client that extended CONNECT is supported.
            self.http = H3Connection(self._quic)
        elif isinstance(event, StreamReset | StopSendingReceived):
            self.lose(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            for stream in list(self.sessions):
                self.lose(stream)
        for received in self.http.handle_event(event) if self.http else ():
            if isinstance(received, HeadersReceived):
                self.open(received.stream_id, received.headers)
            elif isinstance(received, DataReceived):
                self.receive(received.stream_id, received.data)
            if getattr(received, "stream_ended", False):
                self.receive(received.stream_id, None)

    def open(self, stream, headers):
        """Answer a request: 200 opens a session on the stream."""
        if stream in self.sessions:
            return  # trailers
        handshake = ServerExtendedConnect()
        try:
            handshake.receive_request(headers)
        except RemoteProtocolError as exc:
            answer = handshake.reject(exc.event_hint)
            self.http.send_headers(stream, answer, end_stream=True)
            return
        self.http.send_headers(stream, handshake.accept(AcceptConnection()))
        now = self.loop.time()
        self.sessions[stream] = Session.established(ConnectionType.SERVER, now=now)
        self.pump(stream, [])

    def receive(self, stream, data):
        if session := self.sessions.get(stream):
            self.pump(stream, session.receive(data, self.loop.time()))

    def wake_up(self, stream):
        self.pump(stream, self.sessions[stream].handle_timeout(self.loop.time()))
        self.transmit()

    def pump(self, stream, events):
        session = self.sessions[stream]
        for event in events:
            if isinstance(event, TextMessage | BytesMessage):
                session.send(event, self.loop.time())
        if data := session.data_to_send():
            self.http.send_data(stream, data, end_stream=False)
        if timer := self.timers.pop(stream, None):
            timer.cancel()
        if session.transport_action is TransportAction.CLOSE:
            del self.sessions[stream]
            self.http.send_data(stream, b"", end_stream=True)
        elif session.transport_action is TransportAction.ABORT:
            del self.sessions[stream]
            self._quic.reset_stream(stream, ErrorCode.H3_REQUEST_CANCELLED)
        elif (deadline := session.next_deadline()) is not None:
            self.timers[stream] = self.loop.call_at(deadline, self.wake_up, stream)

    def lose(self, stream):
        """Forget a stream that can no longer be written to."""
        if session := self.sessions.pop(stream, None):
            # The last event of a session is ConnectionClosed.
            session.receive(None, self.loop.time())
            if timer := self.timers.pop(stream, None):
                timer.cancel()


async def main(chain, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(chain, key)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        partial(QuicServer, configuration=configuration, create_protocol=Http3Server),
        local_addr=("127.0.0.1", 8443),
    )
    print("listening at", transport.get_extra_info("sockname"))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
