"""One message for many connections."""

from __future__ import annotations

import pytest

from wsproto_sip._masking import KeySource
from wsproto_sip.connection import Connection, ConnectionType
from wsproto_sip.events import BytesMessage, TextMessage
from wsproto_sip.extensions import Extension, PerMessageDeflate
from wsproto_sip.frame_protocol import FrameEncoder
from wsproto_sip.session.prepared import PreparedMessage
from wsproto_sip.utilities import LocalProtocolError

TEXT = TextMessage("one for all, " * 20)


def agreed(offer: str) -> tuple[PerMessageDeflate, PerMessageDeflate]:
    """Return a server's and a client's end of a negotiation."""
    server, client = PerMessageDeflate(), PerMessageDeflate()
    client.offer()
    answer = server.accept(offer)
    assert isinstance(answer, str)
    client.finalize(f"permessage-deflate; {answer}" if answer else "permessage-deflate")
    return server, client


def encoder(deflate: PerMessageDeflate | None = None, *, client: bool = False) -> FrameEncoder:
    return FrameEncoder(client, KeySource(), deflate)


def test_piece_cannot_be_prepared() -> None:
    with pytest.raises(ValueError, match="whole message"):
        PreparedMessage(TextMessage("a", message_finished=False))


def test_without_extensions_there_is_one_frame() -> None:
    prepared = PreparedMessage(BytesMessage(b"abc"))
    frame = prepared.frame(encoder())
    assert frame == b"\x82\x03abc"
    assert prepared.frame(encoder()) is frame


def test_client_masks_each_by_itself() -> None:
    prepared = PreparedMessage(TEXT)
    one, other = prepared.frame(encoder(client=True)), prepared.frame(encoder(client=True))
    assert one != other
    for frame in (one, other):
        connection = Connection(ConnectionType.SERVER, whole_messages=True)
        connection.receive_data(frame)
        assert list(connection.events()) == [TEXT]


def test_compressed_without_context_it_is_shared_by_window() -> None:
    prepared = PreparedMessage(TEXT)
    offer = "permessage-deflate; server_no_context_takeover; server_max_window_bits="
    frames = []
    for bits in (10, 10, 12):
        server, client = agreed(f"{offer}{bits}")
        frame = prepared.frame(encoder(server))
        frames.append(frame)
        assert len(frame) < len(TEXT.data)
        extensions: list[Extension] = [client]
        connection = Connection(ConnectionType.CLIENT, extensions, whole_messages=True)
        connection.receive_data(frame)
        assert list(connection.events()) == [TEXT]
    assert frames[0] is frames[1]
    assert frames[0] is not frames[2]


def test_compressed_with_context_each_has_its_own() -> None:
    prepared = PreparedMessage(TEXT)
    server, _ = agreed("permessage-deflate")
    sender = encoder(server)
    first, second = prepared.frame(sender), prepared.frame(sender)
    assert len(second) < len(first)


def test_not_inside_a_fragmented_message() -> None:
    sender = encoder()
    sender.text("a", fin=False)
    for message in (BytesMessage(b"b"), TextMessage("b")):
        with pytest.raises(LocalProtocolError, match="inside another"):
            PreparedMessage(message).frame(sender)
