"""The fuzz targets: plain functions of one input, without a fuzzer.

A target raises if the library breaks a promise: with an undocumented exception, if two ways through
the same input disagree, or if output is not parsed back to what was written. The first bytes of an
input choose roles, options and how the rest is split into reads, so that a fuzzer finds those
combinations too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from wsproto_sip import (
    ConnectionClosed,
    ConnectionState,
    ConnectionType,
    KeepaliveConfig,
    Limits,
    LocalProtocolError,
    RemoteProtocolError,
    Session,
    SessionConfig,
    WSConnection,
)
from wsproto_sip.auth.digest import (
    Challenge,
    Credentials,
    DigestError,
    answer_challenge,
    digest_ha1,
    verify_response,
)
from wsproto_sip.connection import Connection
from wsproto_sip.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.msrp.message.chunk import MsrpParseError, MsrpRequest, parse_chunk
from wsproto_sip.msrp.message.stream import ChunkPart, MsrpStreamParser
from wsproto_sip.server.management.kamailio import ModParams
from wsproto_sip.server.management.kamailio_cfg import ModParamError, read_kamailio_cfg
from wsproto_sip.sip.message.errors import SipParseError
from wsproto_sip.sip.message.message import SipRequest, SipResponse
from wsproto_sip.sip.message.parser import parse_message
from wsproto_sip.sip.message.stream import SipStreamParser

from . import msrp_relay as relays, sip_edge as edges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wsproto_sip.events import Event

__all__ = ["TARGETS"]

#: Limits that a short input can exceed.
_SMALL: Final = Limits(max_message_size=1024, max_handshake_bytes=2048, max_headers=16)


def _reads(data: bytes, size: int) -> Iterator[bytes]:
    """Split an input into reads of one size."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def handshake(data: bytes) -> None:
    """Parse both halves of an opening handshake; only RemoteProtocolError may be raised."""
    if len(data) < 2:
        return
    choice, size, rest = data[0], data[1] + 1, data[2:]
    role = ConnectionType.CLIENT if choice & 1 else ConnectionType.SERVER
    connection = WSConnection(role, limits=_SMALL, entropy=bytes)
    if role is ConnectionType.CLIENT:
        extensions = [PerMessageDeflate()] if choice & 2 else []
        connection.send(Request(host="h", target="/", extensions=extensions, subprotocols=["sip"]))
    try:
        for read in _reads(rest, size):
            connection.receive_data(read)
            for event in connection.events():
                if isinstance(event, Request):
                    _answer(connection, choice)
        connection.receive_data(None)
        list(connection.events())
    except RemoteProtocolError as error:
        if error.event_hint is not None and connection.state is ConnectionState.CONNECTING:
            connection.send(error.event_hint)


def _answer(connection: WSConnection, choice: int) -> None:
    answer: Event = AcceptConnection()
    if choice & 4:
        answer = RejectConnection(status_code=403)
    elif choice & 8:
        answer = AcceptConnection(extensions=[PerMessageDeflate()])
    connection.send(answer)


def frames(data: bytes) -> None:
    """Parse frames split in two ways; the events must be the same."""
    if len(data) < 2:
        return
    choice, size, rest = data[0], data[1] + 1, data[2:]
    role = ConnectionType.CLIENT if choice & 1 else ConnectionType.SERVER
    outcomes = []
    for step in (size, max(len(rest), 1)):
        extensions: list[Extension] = []
        if choice & 2:
            deflate = PerMessageDeflate()
            deflate.finalize("permessage-deflate")
            extensions = [deflate]
        connection = Connection(role, extensions, whole_messages=True, limits=_SMALL)
        events: list[Event] = []
        for read in _reads(rest, step):
            connection.receive_data(read)
            events += connection.events()
        if choice & 2:
            # zlib returns nothing for a truncated piece, so that a message that is wrong twice, as
            # text and as compressed data, may be refused for either: with 1007 both times.
            events = [
                CloseConnection(event.code) if isinstance(event, CloseConnection) else event
                for event in events
            ]
        outcomes.append((events, connection.state))
    assert outcomes[0] == outcomes[1], "the split changed the events"
    closing = [event for event in outcomes[0][0] if isinstance(event, CloseConnection)]
    assert len(closing) <= 1, "a connection closed twice"


_CONFIG: Final = SessionConfig(
    limits=_SMALL, keepalive=KeepaliveConfig(interval=5.0, answer_timeout=2.0)
)


def session(data: bytes) -> None:
    """Drive a session: each byte is an action, some take bytes that follow it."""
    if not data:
        return
    role = ConnectionType.CLIENT if data[0] & 1 else ConnectionType.SERVER
    now = 0.0
    subject = Session(role, now=now, config=_CONFIG)
    if role is ConnectionType.CLIENT:
        subject.send(Request(host="h", target="/"), now)
    ends = 0
    position = 1
    while position < len(data):
        action, position = data[position], position + 1
        events: list[Event] = []
        kind = action & 7
        if kind < 3:
            length = action >> 3
            events = subject.receive(data[position : position + length] or None, now)
            position += length
        elif kind == 3:
            now += (action >> 3) / 4
            events = subject.handle_timeout(now)
        elif kind == 4:
            subject.data_to_send()
        elif kind == 5:
            subject.pause(now) if action & 8 else events.extend(subject.resume(now))
        else:
            try:
                subject.send(_SENDABLE[(action >> 3) % len(_SENDABLE)], now)
            except LocalProtocolError:
                pass
        ends += sum(isinstance(event, ConnectionClosed) for event in events)
        deadline = subject.next_deadline()
        assert deadline is None or deadline == deadline, "a deadline that is not a number"
    while subject.has_work and not ends:
        subject.resume(now)
        ends += sum(isinstance(event, ConnectionClosed) for event in subject.handle_timeout(now))
        now += 1.0
        assert now < 10_000, "a session that never becomes idle"
    assert ends <= 1, "a session ended twice"


_SENDABLE: Final[tuple[Event, ...]] = (
    AcceptConnection(),
    RejectConnection(status_code=403),
    TextMessage("text"),
    BytesMessage(b"\0\xff"),
    Ping(b"p"),
    CloseConnection(1000, "bye"),
    CloseConnection(4000),
)


def sip_message(data: bytes) -> None:
    """Parse a SIP message; written again it must be the same message."""
    try:
        message = parse_message(data)
    except SipParseError:
        return
    if not isinstance(message, SipRequest | SipResponse):
        return
    written = bytes(message)
    assert bytes(parse_message(written)) == written, "a message does not read back"
    parser = SipStreamParser()
    parser.receive(data)


def sip_edge(data: bytes) -> None:
    """Let hostile and honest parties act as the bytes say; see :mod:`fuzz.sip_edge`."""
    edges.drive(data)


def msrp_relay(data: bytes) -> None:
    """Let clients of a relay act as the bytes say; see :mod:`fuzz.msrp_relay`."""
    relays.drive(data)


def msrp_chunk(data: bytes) -> None:
    """Parse an MSRP chunk, on its own and from a stream."""
    try:
        chunk = parse_chunk(data)
    except MsrpParseError as error:
        error.response()
    else:
        try:
            written = chunk.to_bytes()
        except LocalProtocolError:
            # What resembles the end-line is received, and never sent.
            assert isinstance(chunk, MsrpRequest)
            assert b"-------" + chunk.transaction_id in (chunk.body or b""), chunk
        else:
            assert parse_chunk(written) == chunk, "a chunk does not read back"
    parser = MsrpStreamParser(cut=True)
    try:
        for read in _reads(data, 7):
            for item in parser.receive(read):
                assert isinstance(item, bytes | ChunkPart)
    except MsrpParseError:
        pass


def kamailio_cfg(data: bytes) -> None:
    """Read a kamailio.cfg; an invalid one must raise ModParamError."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        # Each file that it includes is this one.
        ModParams.from_config(
            read_kamailio_cfg(text, open_file=lambda name, by: (name, text), max_length=65536)
        )
    except ModParamError:
        pass


def digest_header(data: bytes) -> None:
    """Parse a challenge and credentials; written again they must be the same."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        challenge = Challenge.parse(text)
    except DigestError:
        challenge = None
    if challenge is not None:
        assert Challenge.parse(str(challenge)) == challenge, "a challenge does not read back"
        answer = answer_challenge(challenge, "alice", "secret", "GET", "/", entropy=bytes)
        assert Credentials.parse(str(answer)) == answer, "an answer does not read back"
        ha1 = digest_ha1("alice", challenge.realm, "secret", challenge.algorithm)
        assert verify_response(answer, ha1, "GET"), "an answer is not the right one"
    try:
        credentials = Credentials.parse(text)
    except DigestError:
        return
    if credentials is not None:
        assert Credentials.parse(str(credentials)) == credentials, "credentials do not read back"
        verify_response(credentials, "0" * 32, "REGISTER")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "handshake": handshake,
    "frames": frames,
    "session": session,
    "sip_message": sip_message,
    "sip_edge": sip_edge,
    "msrp_relay": msrp_relay,
    "msrp_chunk": msrp_chunk,
    "kamailio_cfg": kamailio_cfg,
    "digest_header": digest_header,
}
