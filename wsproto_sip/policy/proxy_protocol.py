"""The PROXY protocol, versions 1 and 2: the client's address at the start of a connection.

A load balancer that forwards bytes, not requests, sends this header first. A peer that can write it
can claim any address, so it is read only from peers in a
:class:`~wsproto_sip.policy.forwarded.TrustedNetworks`, and from those always: the protocol's
specification (HAProxy, §2) forbids guessing whether it is present.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from ..utilities import LocalProtocolError, RemoteProtocolError

__all__ = ["ProxyHeader", "ProxyHeaderParser"]

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_HEAD_LENGTH = 16
_MAX_LINE = 107
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [\x20-\x7e]*)?|"
    rb"(TCP4|TCP6) ([0-9A-Fa-f.:]{2,45}) ([0-9A-Fa-f.:]{2,45})"
    rb" (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_TYPE_SSL = 0x20
_CLIENT_SSL = 0x01
_ADDRESS_LENGTHS = {0: 0, 1: 12, 2: 36, 3: 216}


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """The contents of the header.

    Args:
        version: 1 or 2.
        peer_address: The client's address; ``None`` if the header has none, because the proxy
            opened the connection itself (for a health check) or does not know. Use the transport's
            address then.
        peer_port: The client's port.
        local_address: The address that the client connected to.
        local_port: The port that the client connected to.
        secure: Whether the client's side is TLS; ``None`` if the header does not say.
    """

    version: int
    peer_address: str | None = None
    peer_port: int | None = None
    local_address: str | None = None
    local_port: int | None = None
    secure: bool | None = None


class ProxyHeaderParser:
    """Collects bytes until the header is complete.

    Args:
        versions: The versions to accept.
        max_length: The maximum length in bytes of a version 2 header after its first 16; a longer
            one is an error before it is read. Version 1 has at most 107 bytes in total.

    Raises:
        ValueError: ``versions`` is empty, or has a version other than 1 and 2.
    """

    def __init__(self, *, versions: Collection[int] = (1, 2), max_length: int = 1024) -> None:
        if not versions or not {1, 2}.issuperset(versions):
            raise ValueError(f"versions must be 1 or 2: {versions!r}")
        self._starts = [
            start for version, start in ((1, b"PROXY "), (2, _SIGNATURE)) if version in versions
        ]
        self._max_length = max_length
        self._buffer = bytearray()
        self._done = False

    @property
    def trailing(self) -> bytes:
        """The bytes after the header; empty until it is complete."""
        return bytes(self._buffer) if self._done else b""

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take bytes from the connection.

        Args:
            data: Bytes from the connection, split anywhere.

        Returns:
            The header once it is complete; the bytes after it are in :attr:`trailing`. ``None`` if
            more bytes are needed.

        Raises:
            RemoteProtocolError: The bytes are not such a header, or its version is not accepted.
            LocalProtocolError: The header was already complete, or invalid.
        """
        if self._done:
            raise LocalProtocolError("the PROXY header is already complete")
        buffer = self._buffer
        buffer += data
        try:
            if not any(start.startswith(buffer[: len(start)]) for start in self._starts):
                raise RemoteProtocolError("not a PROXY protocol header")
            if buffer.startswith(b"P"):
                return self._feed_line(buffer)
            return self._feed_binary(buffer)
        except RemoteProtocolError:
            self._done = True
            buffer.clear()
            raise

    def _feed_line(self, buffer: bytearray) -> ProxyHeader | None:
        end = buffer.find(b"\n", 0, _MAX_LINE) + 1
        if not end:
            if len(buffer) >= _MAX_LINE:
                raise RemoteProtocolError("the PROXY line is too long")
            return None
        match = _LINE.fullmatch(bytes(buffer[:end]))
        if match is None:
            raise RemoteProtocolError("malformed PROXY line")
        self._take(end)
        if match[1] is None:
            return ProxyHeader(1)
        family = ipaddress.IPv4Address if match[1] == b"TCP4" else ipaddress.IPv6Address
        source, destination = match[2].decode("ascii"), match[3].decode("ascii")
        try:
            peer, local = str(family(source)), str(family(destination))
        except ValueError:
            raise RemoteProtocolError("malformed address in the PROXY line") from None
        ports = int(match[4]), int(match[5])
        if max(ports) > 65535:
            raise RemoteProtocolError("malformed port in the PROXY line")
        return ProxyHeader(1, peer, ports[0], local, ports[1])

    def _feed_binary(self, buffer: bytearray) -> ProxyHeader | None:
        if len(buffer) < _HEAD_LENGTH:
            return None
        version, command = divmod(buffer[12], 16)
        family, transport = divmod(buffer[13], 16)
        length = int.from_bytes(buffer[14:16], "big")
        # §2.2: the family has no meaning if the proxy opened the connection itself.
        if version != 2 or command > 1 or (command and (family > 3 or transport > 2)):
            raise RemoteProtocolError("unknown version, command or family in the PROXY header")
        if length > self._max_length:
            raise RemoteProtocolError("the PROXY header is too long")
        end = _HEAD_LENGTH + length
        if len(buffer) < end:
            return None
        body = bytes(buffer[_HEAD_LENGTH:end])
        self._take(end)
        if command == 0:
            return ProxyHeader(2)
        size = _ADDRESS_LENGTHS[family]
        if length < size:
            raise RemoteProtocolError("the PROXY header is too short for its addresses")
        secure = _secure(body[size:])
        if family == 1:
            hosts = str(ipaddress.IPv4Address(body[:4])), str(ipaddress.IPv4Address(body[4:8]))
        elif family == 2:
            hosts = str(ipaddress.IPv6Address(body[:16])), str(ipaddress.IPv6Address(body[16:32]))
        else:
            return ProxyHeader(2, secure=secure)
        source, destination = body[size - 4 : size - 2], body[size - 2 : size]
        return ProxyHeader(
            2,
            hosts[0],
            int.from_bytes(source, "big"),
            hosts[1],
            int.from_bytes(destination, "big"),
            secure,
        )

    def _take(self, end: int) -> None:
        del self._buffer[:end]
        self._done = True


def _secure(records: bytes) -> bool | None:
    """Walk the records after the addresses; the one about TLS says how the client connected."""
    position = 0
    secure: bool | None = None
    while position < len(records):
        start = position + 3
        length = int.from_bytes(records[position + 1 : start], "big")
        if start + length > len(records):
            raise RemoteProtocolError("malformed record in the PROXY header")
        if records[position] == _TYPE_SSL:
            if length < 5:
                raise RemoteProtocolError("malformed record in the PROXY header")
            secure = bool(records[start] & _CLIENT_SSL)
        position = start + length
    return secure
