"""The ends of a connection, on several libraries, for the machine that drives them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Frame, Opcode as TheirOpcode
from websockets.http11 import Request as TheirRequest
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri
from wsproto import ConnectionType as TheirType, WSConnection as TheirConnection, events as theirs
from wsproto.connection import ConnectionState as TheirState
from wsproto.extensions import PerMessageDeflate as TheirDeflate
from wsproto.utilities import LocalProtocolError as TheirError

from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.session.lifecycle import ConnectionClosed, TransportAction
from wsproto_sip.session.session import Session
from wsproto_sip.states import ConnectionState, ConnectionType
from wsproto_sip.utilities import LocalProtocolError

if TYPE_CHECKING:
    from wsproto_sip.session.config import SessionConfig


class Refused(Exception):
    """The library cannot send this now."""


class Party:
    """One end.

    Attributes:
        messages: The whole messages that were delivered to it.
    """

    def __init__(self, role: ConnectionType, deflate: bool) -> None:
        self.client = role is ConnectionType.CLIENT
        self.messages: list[str | bytes] = []
        # Whether the end continues to read a fragmented message after a control frame.
        self.takes_pieces = True
        self._pieces: list[Any] = []

    def begin(self) -> None:
        """Open the transport."""

    def feed(self, data: bytes | None) -> None:
        """Take bytes; None at the end."""
        raise NotImplementedError

    def take(self) -> tuple[bytes, TransportAction]:
        """Return the output and the actions after it."""
        raise NotImplementedError

    def say(self, data: str | bytes, first: bool, last: bool) -> None:
        """Send a message, or a piece of one.

        Raises:
            Refused: The library cannot send it.
        """
        raise NotImplementedError

    def ping(self, payload: bytes) -> None:
        """Send a Ping.

        Raises:
            Refused: The library cannot send it.
        """
        raise NotImplementedError

    def close(self, code: int, reason: str) -> None:
        """Start to close, if possible."""
        raise NotImplementedError

    def _hear(self, data: Any, last: bool) -> None:
        self._pieces.append(data)
        if last:
            joined = ("" if isinstance(data, str) else b"").join(self._pieces)
            self.messages.append(joined)
            self._pieces = []


class Wsproto(Party):
    """wsproto, with the few lines that every program around it needs."""

    def __init__(self, role: ConnectionType, deflate: bool) -> None:
        super().__init__(role, deflate)
        self._extensions: list[Any] = [TheirDeflate()] if deflate else []
        # After a control frame wsproto takes the rest of a compressed message for a plain one.
        self.takes_pieces = not deflate
        self._connection = TheirConnection(TheirType.CLIENT if self.client else TheirType.SERVER)
        self._out = b""
        self._action = TransportAction.NONE

    def begin(self) -> None:
        if self.client:
            self._send(theirs.Request(host="example.com", target="/", extensions=self._extensions))

    def _send(self, event: theirs.Event) -> None:
        try:
            self._out += self._connection.send(event)
        except TheirError as exc:
            raise Refused from exc

    def feed(self, data: bytes | None) -> None:
        if self._connection.state in (TheirState.CLOSED, TheirState.REMOTE_CLOSING):
            data = None
        if data is None:
            self._action = TransportAction.CLOSE
            return
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case theirs.Request():
                    self._send(theirs.AcceptConnection(extensions=self._extensions))
                case theirs.Message():
                    self._hear(event.data, event.message_finished)
                case theirs.Ping() if self._connection.state is TheirState.OPEN:
                    self._send(event.response())
                case theirs.CloseConnection():
                    if self._connection.state is TheirState.REMOTE_CLOSING:
                        self._send(event.response())
                    if not self.client:
                        self._action = TransportAction.CLOSE

    def take(self) -> tuple[bytes, TransportAction]:
        out, self._out = self._out, b""
        return out, self._action

    def say(self, data: str | bytes, first: bool, last: bool) -> None:
        kind: Any = theirs.TextMessage if isinstance(data, str) else theirs.BytesMessage
        self._send(kind(data=data, message_finished=last))

    def ping(self, payload: bytes) -> None:
        self._send(theirs.Ping(payload))

    def close(self, code: int, reason: str) -> None:
        if self._connection.state is TheirState.OPEN:
            self._send(theirs.CloseConnection(code, reason))


class Websockets(Party):
    """websockets without its input and output."""

    def __init__(self, role: ConnectionType, deflate: bool) -> None:
        super().__init__(role, deflate)
        self._protocol: ClientProtocol | ServerProtocol
        if self.client:
            self._protocol = ClientProtocol(
                parse_uri("ws://example.com/"),
                extensions=[ClientPerMessageDeflateFactory()] if deflate else None,
                max_size=None,
            )
        else:
            self._protocol = ServerProtocol(
                extensions=[ServerPerMessageDeflateFactory()] if deflate else None, max_size=None
            )

    def begin(self) -> None:
        if isinstance(self._protocol, ClientProtocol):
            self._protocol.send_request(self._protocol.connect())

    def feed(self, data: bytes | None) -> None:
        protocol = self._protocol
        if data is None:
            protocol.receive_eof()
            return
        protocol.receive_data(data)
        for event in protocol.events_received():
            if isinstance(event, TheirRequest):
                assert isinstance(protocol, ServerProtocol)
                protocol.send_response(protocol.accept(event))
            elif isinstance(event, Frame):
                self._frame(event)

    def _frame(self, frame: Frame) -> None:
        if frame.opcode is TheirOpcode.CONT:
            # Its frames are bytes; a message keeps the type it started with.
            self._hear(bytes(frame.data), frame.fin)
        elif frame.opcode in (TheirOpcode.TEXT, TheirOpcode.BINARY):
            self._is_text = frame.opcode is TheirOpcode.TEXT
            self._hear(bytes(frame.data), frame.fin)
        else:
            return
        if frame.fin and self._is_text:
            raw = self.messages.pop()
            assert isinstance(raw, bytes)
            self.messages.append(raw.decode())

    def take(self) -> tuple[bytes, TransportAction]:
        parts = self._protocol.data_to_send()
        # Empty input means the end.
        action = TransportAction.CLOSE if b"" in parts else TransportAction.NONE
        return b"".join(parts), action

    def say(self, data: str | bytes, first: bool, last: bool) -> None:
        raw = data.encode() if isinstance(data, str) else data
        try:
            if not first:
                self._protocol.send_continuation(raw, last)
            elif isinstance(data, str):
                self._protocol.send_text(raw, last)
            else:
                self._protocol.send_binary(raw, last)
        except InvalidState as exc:
            raise Refused from exc

    def ping(self, payload: bytes) -> None:
        try:
            self._protocol.send_ping(payload)
        except InvalidState as exc:
            raise Refused from exc

    def close(self, code: int, reason: str) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)


class Ours(Party):
    """A session, and all checks of it that are possible from outside.

    Args:
        role: Which end this is.
        deflate: Whether messages may be compressed.
        config: The session's configuration.
        seed: The seed of its random bytes.
    """

    def __init__(
        self, role: ConnectionType, deflate: bool, config: SessionConfig, seed: int
    ) -> None:
        super().__init__(role, deflate)
        self._deflate = deflate
        self._seed = seed
        self.config = config
        self.now = 0.0
        # The offset of its clock to the machine's.
        self.offset = 0.0
        self.session = self._make(config)
        self.frames = Frames(self.client, deflate)
        self.input: list[bytes] = []
        self.events: list[Event] = []
        self.end: ConnectionClosed | None = None
        self.opened: float | None = None
        self.closing: float | None = None
        self.last_fed = 0.0
        # When its wire last transported anything.
        self.moved = 0.0
        self.was_paused = False
        # The Ping to be answered, and when it was sent; the expected result.
        self.pinged: tuple[bytes, float] | None = None
        self.round_trip: float | None = None

    def _make(self, config: SessionConfig) -> Session:
        role = ConnectionType.CLIENT if self.client else ConnectionType.SERVER
        object.__setattr__(config, "entropy", random.Random(self._seed).randbytes)
        return Session(role, now=self.clock, config=config)

    @property
    def clock(self) -> float:
        """The time on this end's clock."""
        return self.now + self.offset

    def begin(self) -> None:
        self._request(self.session)

    def _request(self, session: Session) -> None:
        if self.client:
            extensions = [PerMessageDeflate()] if self._deflate else []
            session.send(Request(host="example.com", target="/", extensions=extensions), self.clock)

    def feed(self, data: bytes | None) -> None:
        if data and not self.session.closed:
            self.input.append(data)
            self.last_fed = self.now
        self.happened(self.session.receive(data, self.clock))

    def timeout(self) -> None:
        """Call the session at its deadline."""
        awaiting = self.session.keepalive.awaiting
        self.happened(self.session.handle_timeout(self.clock))
        if self.session.keepalive.awaiting and not awaiting:
            self.pinged = self.session.keepalive.payload, self.clock

    def happened(self, events: list[Event]) -> None:
        """Take events, and check their order."""
        for event in events:
            assert self.end is None, f"{event} after the end"
            if isinstance(event, ConnectionClosed):
                self.end = event
            else:
                # 3: one event closes, and it is the last one.
                assert not any(isinstance(e, CloseConnection) for e in self.events), event
                self.events.append(event)
            if isinstance(event, Request):
                extensions = [PerMessageDeflate()] if self._deflate else []
                self.session.send(AcceptConnection(extensions=list(extensions)), self.clock)
            elif isinstance(event, Message):
                data = event.data
                if type(event) is TextMessage and isinstance(data, bytes):
                    assert self.config.text_as_bytes
                    data = data.decode()
                assert isinstance(data, str) is (type(event) is TextMessage)
                self._hear(data, event.message_finished)
            elif isinstance(event, Pong) and self.pinged and event.payload == self.pinged[0]:
                # 44: only the same bytes answer.
                self.round_trip = self.clock - self.pinged[1]
                self.pinged = None

    def take(self) -> tuple[bytes, TransportAction]:
        out = self.session.data_to_send()
        self.frames.read(out)
        return out, self.session.transport_action

    def say(self, data: str | bytes, first: bool, last: bool) -> None:
        kind: Any = TextMessage if isinstance(data, str) else BytesMessage
        try:
            self.session.send(kind(data, message_finished=last), self.clock)
        except LocalProtocolError as exc:
            if self.session.state is ConnectionState.OPEN:
                raise
            raise Refused from exc

    def ping(self, payload: bytes) -> None:
        try:
            self.session.send(Ping(payload), self.clock)
        except LocalProtocolError as exc:
            if self.session.state is ConnectionState.OPEN:
                raise
            raise Refused from exc
        self.pinged = payload, self.clock

    def close(self, code: int, reason: str) -> None:
        self.session.close(code, reason, now=self.clock)

    def replay(self, config: SessionConfig) -> list[Event]:
        """Return the events for the same bytes in one piece.

        Args:
            config: The same configuration, without limits on work and rate.
        """
        session = self._make(config)
        self._request(session)
        events: list[Event] = []
        waiting = session.receive(b"".join(self.input), self.clock)
        while waiting:
            events += waiting
            if isinstance(waiting[0], Request):
                extensions = [PerMessageDeflate()] if self._deflate else []
                session.send(AcceptConnection(extensions=list(extensions)), self.clock)
            waiting = session.handle_timeout(self.clock)
        return events


class Frames:
    """Reads a session's output strictly, and counts.

    Args:
        client: Whether it is a client's output.
        deflate: Whether compression may have been negotiated.

    Attributes:
        written: Bytes in total.
        pongs: Where each Pong ends, and where the Pongs written together with it begin.
        closes: The bodies of the close frames.
    """

    def __init__(self, client: bool, deflate: bool) -> None:
        self._client = client
        self._deflate = deflate
        self._head = True
        self._inside = False
        self._keys: set[bytes] = set()
        self.written = 0
        self.pongs: list[tuple[int, int]] = []
        self.closes: list[bytes] = []

    def read(self, data: bytes) -> None:
        """Read whole frames, possibly after the head of the handshake."""
        start = self.written
        self.written += len(data)
        pos = 0
        if self._head and data:
            pos = data.index(b"\r\n\r\n") + 4
            self._head = False
            if not data.startswith((b"GET / HTTP/1.1", b"HTTP/1.1 101 ")):
                assert data.startswith(b"HTTP/1.1 ")
                assert b"\r\nConnection: close\r\n" in data
                return
        while pos < len(data):
            pos = self._frame(data, pos)
            if self._last_was_pong:
                self.pongs.append((start + pos, start))
        assert pos == len(data)

    def _frame(self, data: bytes, pos: int) -> int:
        first, second = data[pos : pos + 2]
        opcode, fin, rsv = first & 0x0F, first >> 7, first & 0x70
        pos += 2
        # 9: masked or not.
        assert second >> 7 == self._client
        size = second & 0x7F
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[pos : pos + width])
            pos += width
            # 6: lengths are in their shortest form.
            assert size > (125 if width == 2 else 0xFFFF)
        key = bytes(4)
        if self._client:
            key = data[pos : pos + 4]
            pos += 4
            # 10: fresh.
            assert key not in self._keys
            self._keys.add(key)
        payload = bytes(byte ^ key[n & 3] for n, byte in enumerate(data[pos : pos + size]))
        assert len(payload) == size
        # 8: the other side need not refuse anything.
        assert opcode in (0, 1, 2, 8, 9, 10)
        assert not rsv or (rsv == 0x40 and self._deflate and opcode in (1, 2))
        self._last_was_pong = opcode == 10
        if opcode >= 8:
            assert fin
            assert size <= 125
            if opcode == 8:
                self._close(payload)
        else:
            # 23: no data after a close frame.
            assert not self.closes
            assert (opcode == 0) is self._inside
            self._inside = not fin
        return pos + size

    def _close(self, body: bytes) -> None:
        # 23: at most one; 20, 21: with a valid code, and a complete reason.
        assert not self.closes
        self.closes.append(body)
        assert len(body) != 1
        if body:
            code = int.from_bytes(body[:2])
            assert 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999
            body[2:].decode()
