"""An echo server on the standard library's ``selectors``: one thread, no event loop."""

import contextlib
import selectors
import socket
import time

from wsproto_sip import ConnectionType, LocalProtocolError, Session, TransportAction
from wsproto_sip.events import AcceptConnection, BytesMessage, Request, TextMessage

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Peer:
    """A socket and its session."""

    def __init__(self, selector, sock):
        self.selector, self.sock, self.waiting = selector, sock, b""
        self.session = Session(ConnectionType.SERVER, now=time.monotonic())
        self.selector.register(sock, READ, self)

    def on_ready(self, mask):
        events = []
        if mask & READ:
            try:
                data = self.sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            events = self.session.receive(data or None, time.monotonic())
        self.pump(events)

    def pump(self, events):
        """Answer events, then do what the session wants: write, read on, close."""
        session, now = self.session, time.monotonic()
        for event in events:
            # The session may have ended after this event.
            with contextlib.suppress(LocalProtocolError):
                if isinstance(event, Request):
                    session.send(AcceptConnection(), now)
                elif isinstance(event, TextMessage | BytesMessage):
                    session.send(event, now)
        self.waiting += session.data_to_send()
        try:
            self.waiting = (
                self.waiting[self.sock.send(self.waiting) :] if self.waiting else b""
            )
        except BlockingIOError:
            pass
        except OSError:
            self.waiting = b""
            session.receive(None, now)
        session.transport_backlog(len(self.waiting), now)
        action = session.transport_action
        if action is TransportAction.ABORT or (
            action is TransportAction.CLOSE and not self.waiting
        ):
            self.selector.unregister(self.sock)
            self.sock.close()
            return
        # A peer that does not read is not read from. A session with work left goes on
        # at once.
        reads = session.writable and not session.has_work
        wanted = (READ if reads else 0) | (WRITE if self.waiting else 0)
        self.selector.modify(self.sock, wanted or WRITE, self)


def serve(listener):
    """Serve for ever."""
    selector = selectors.DefaultSelector()
    listener.setblocking(False)
    selector.register(listener, READ)
    while True:
        peers = [
            key.data for key in selector.get_map().values() if key.data is not None
        ]
        deadlines = [peer.session.next_deadline() for peer in peers]
        due = min((when for when in deadlines if when is not None), default=None)
        timeout = None if due is None else max(0.0, due - time.monotonic())
        for key, mask in selector.select(timeout):
            if key.data is None:
                sock, _ = listener.accept()
                sock.setblocking(False)
                Peer(selector, sock)
            else:
                key.data.on_ready(mask)
        now = time.monotonic()
        for peer in peers:
            deadline = peer.session.next_deadline()
            if peer.sock.fileno() >= 0 and deadline is not None and deadline <= now:
                peer.pump(peer.session.handle_timeout(now))


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 8000)) as listening:
        print("listening at", listening.getsockname(), flush=True)
        serve(listening)
