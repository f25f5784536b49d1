"""An echo over HTTP/2 (RFC 8441), on asyncio and the h2 library: ``pip install h2``.

Each stream is a session of its own.
"""

import asyncio

import h2.config
import h2.connection
import h2.events
import h2.settings

from wsproto_sip import ConnectionType, RemoteProtocolError, Session, TransportAction
from wsproto_sip.events import AcceptConnection, BytesMessage, TextMessage
from wsproto_sip.extended_connect import ServerExtendedConnect


class Http2Server(asyncio.Protocol):
    """One HTTP/2 connection and the sessions on its streams."""

    def connection_made(self, transport):
        self.transport, self.loop = transport, asyncio.get_running_loop()
        self.sessions, self.timers, self.waiting = {}, {}, {}
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings.update(
            {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}
        )
        self.h2.initiate_connection()
        transport.write(self.h2.data_to_send())

    def data_received(self, data):
        for event in self.h2.receive_data(data):
            stream = getattr(event, "stream_id", None)
            if isinstance(event, h2.events.RequestReceived):
                self.open(stream, event.headers)
            elif isinstance(event, h2.events.DataReceived):
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                self.receive(stream, event.data)
            elif isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                self.receive(stream, None)
            elif isinstance(event, h2.events.WindowUpdated):
                for waiting in [stream] if stream else list(self.sessions):
                    self.pump(waiting, [])
        self.transport.write(self.h2.data_to_send())

    def connection_lost(self, exc):
        for stream in list(self.sessions):
            self.receive(stream, None)

    def open(self, stream, headers):
        """Answer a request: 200 opens a session on the stream."""
        handshake = ServerExtendedConnect()
        try:
            handshake.receive_request(headers)
        except RemoteProtocolError as exc:
            self.h2.send_headers(
                stream, handshake.reject(exc.event_hint), end_stream=True
            )
            return
        self.h2.send_headers(stream, handshake.accept(AcceptConnection()))
        self.sessions[stream] = Session.established(
            ConnectionType.SERVER, now=self.loop.time()
        )
        self.waiting[stream] = b""
        self.pump(stream, [])

    def receive(self, stream, data):
        if session := self.sessions.get(stream):
            self.pump(stream, session.receive(data, self.loop.time()))

    def wake_up(self, stream):
        self.pump(stream, self.sessions[stream].handle_timeout(self.loop.time()))
        self.transport.write(self.h2.data_to_send())

    def pump(self, stream, events):
        session = self.sessions.get(stream)
        if session is None:
            return
        for event in events:
            if isinstance(event, TextMessage | BytesMessage):
                session.send(event, self.loop.time())
        self.write(stream, session)
        session.transport_backlog(len(self.waiting[stream]), self.loop.time())
        action = session.transport_action
        if timer := self.timers.pop(stream, None):
            timer.cancel()
        if action is TransportAction.ABORT or (
            action is TransportAction.CLOSE and not self.waiting[stream]
        ):
            self.close(stream, action)
        elif (deadline := session.next_deadline()) is not None:
            self.timers[stream] = self.loop.call_at(deadline, self.wake_up, stream)

    def write(self, stream, session):
        """Send as much as the window of the stream takes."""
        self.waiting[stream] += session.data_to_send()
        try:
            while self.waiting[stream]:
                room = self.h2.local_flow_control_window(stream)
                size = min(room, self.h2.max_outbound_frame_size)
                if size == 0:
                    break
                self.h2.send_data(stream, self.waiting[stream][:size])
                self.waiting[stream] = self.waiting[stream][size:]
        except h2.exceptions.ProtocolError:
            # The stream is gone.
            self.waiting[stream] = b""

    def close(self, stream, action):
        del self.sessions[stream], self.waiting[stream]
        try:
            if action is TransportAction.CLOSE:
                self.h2.end_stream(stream)
            else:
                self.h2.reset_stream(stream)
        except h2.exceptions.ProtocolError:
            pass


async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Http2Server, "127.0.0.1", 8000)
    print("listening at", server.sockets[0].getsockname())
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
