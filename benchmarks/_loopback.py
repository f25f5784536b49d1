"""A client on a plain socket for the benchmarks over loopback, as cheap as possible."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from benchmarks._harness import DeliveryError
from wsproto_sip import ConnectionType, WSConnection
from wsproto_sip.events import AcceptConnection, Request

HOST = "127.0.0.1"


def frame_of(payload: bytes) -> bytes:
    """Return a client's binary message, masked with zeros."""
    size = len(payload)
    length = bytes([0xFE]) + size.to_bytes(2, "big") if size > 125 else bytes([0x80 | size])
    if size > 65535:
        length = bytes([0xFF]) + size.to_bytes(8, "big")
    return b"\x82" + length + bytes(4) + payload


class Wire:
    """One client's connection.

    Args:
        port: The server's port.
        subprotocol: The sub-protocol.
        target: The request target.
    """

    def __init__(self, port: int, subprotocol: str, target: str = "/") -> None:
        self.sock = socket.create_connection((HOST, port))
        self._buffer = bytearray()
        opening = WSConnection(ConnectionType.CLIENT)
        request = Request(host=HOST, target=target, subprotocols=[subprotocol])
        self.sock.sendall(opening.send(request))
        while True:
            opening.receive_data(self.sock.recv(65536))
            for event in opening.events():
                assert isinstance(event, AcceptConnection)
                return

    def messages(self) -> Iterator[list[bytes]]:
        """Yield the whole messages of each read."""
        buffer = self._buffer
        while True:
            found = []
            at = 0
            while len(buffer) - at >= 4:
                size, start = buffer[at + 1], at + 2
                if size == 126:
                    size, start = int.from_bytes(buffer[at + 2 : at + 4], "big"), at + 4
                if len(buffer) < start + size:
                    break
                # A Ping may be among them, which need not be answered so soon.
                if buffer[at] & 0x08 == 0:
                    found.append(bytes(buffer[start : start + size]))
                at = start + size
            del buffer[:at]
            if found:
                yield found
            data = self.sock.recv(262144)
            if not data:
                raise DeliveryError("the server has ended the connection")
            buffer += data
