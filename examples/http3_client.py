"""A client over HTTP/3 (RFC 9220), on asyncio and aioquic: ``pip install aioquic``.

It says hello to http3_server.py, prints the echo, and closes:

    python http3_client.py ca.pem
"""

import asyncio
import sys

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection, Setting
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamReset

from wsproto_sip import ConnectionClosed, ConnectionType, Session, TransportAction
from wsproto_sip.events import AcceptConnection, Request, TextMessage
from wsproto_sip.extended_connect import ClientExtendedConnect


class Http3Client(QuicConnectionProtocol):
    """One QUIC connection with one WebSocket on it."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.loop = asyncio.get_running_loop()
        self.http = H3Connection(self._quic)
        self.settings = self.loop.create_future()
        self.answer = self.loop.create_future()
        self.events = asyncio.Queue()
        self.stream = self.session = self.timer = None
        self.ended = False

    async def open(self, authority, path):
        """Open the WebSocket; RFC 9220 asks for the server's SETTINGS first."""
        settings = await self.settings
        if not settings.get(Setting.ENABLE_CONNECT_PROTOCOL):
            raise ConnectionError("the server does not support extended CONNECT")
        self.handshake = ClientExtendedConnect()
        self.stream = self._quic.get_next_available_stream_id()
        request = self.handshake.request_headers(Request(authority, path), secure=True)
        self.http.send_headers(self.stream, request)
        self.transmit()
        if not isinstance(answer := await self.answer, AcceptConnection):
            raise ConnectionError(f"the server answered {answer.status_code}")

    def send(self, event):
        self.session.send(event, self.loop.time())
        self.pump([])

    def quic_event_received(self, event):
        for received in self.http.handle_event(event):
            if isinstance(received, HeadersReceived) and self.session is None:
                self.take_answer(self.handshake.receive_response(received.headers))
            elif isinstance(received, DataReceived):
                self.receive(received.data)
            if getattr(received, "stream_ended", False):
                self.receive(None)
        if self.http.received_settings is not None and not self.settings.done():
            self.settings.set_result(self.http.received_settings)
        if isinstance(event, ConnectionTerminated | StreamReset):
            self.lose()

    def take_answer(self, answer):
        if isinstance(answer, AcceptConnection):
            now = self.loop.time()
            self.session = Session.established(ConnectionType.CLIENT, now=now)
            self.pump([])
        if answer is not None:  # not an interim response
            self.answer.set_result(answer)

    def receive(self, data):
        if self.session is not None and not self.ended:
            self.pump(self.session.receive(data, self.loop.time()))

    def wake_up(self):
        self.pump(self.session.handle_timeout(self.loop.time()))

    def pump(self, events):
        for event in events:
            self.events.put_nowait(event)
        if data := self.session.data_to_send():
            self.http.send_data(self.stream, data, end_stream=False)
        if self.timer:
            self.timer.cancel()
        if self.session.transport_action is TransportAction.CLOSE:
            # The server has ended its side; this ends ours.
            self.ended = True
            self.http.send_data(self.stream, b"", end_stream=True)
        elif self.session.transport_action is TransportAction.ABORT:
            self.ended = True
            self._quic.reset_stream(self.stream, ErrorCode.H3_REQUEST_CANCELLED)
        elif (deadline := self.session.next_deadline()) is not None:
            self.timer = self.loop.call_at(deadline, self.wake_up)
        self.transmit()

    def lose(self):
        """Report the end of a stream that can no longer be written to."""
        for future in (self.settings, self.answer):
            if not future.done():
                future.set_exception(ConnectionError("the connection was lost"))
                future.exception()  # the program may not wait for it
        if self.session is not None and not self.ended:
            self.ended = True
            self.timer.cancel()
            for event in self.session.receive(None, self.loop.time()):
                self.events.put_nowait(event)


async def main(cafile, host="127.0.0.1", port=8443):
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, cafile=cafile)
    async with connect(
        host, port, configuration=configuration, create_protocol=Http3Client
    ) as client:
        await client.open(f"{host}:{port}", "/chat")
        client.send(TextMessage("hello"))
        print((await client.events.get()).data)
        client.session.close(1000, "bye", now=client.loop.time())
        client.pump([])
        while not isinstance(event := await client.events.get(), ConnectionClosed):
            pass
        print("closed with", int(event.code), event.reason)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
