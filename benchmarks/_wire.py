"""The input of the benchmarks: messages of exact sizes, as the bytes a client would send.

The SIP messages are INVITEs written here, each with a different branch, tag, Call-ID and sequence
number, so that compression with a kept window finds exactly what it would find in real traffic.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

TEXT = 0x1
BINARY = 0x2
CONTINUATION = 0x0
FIN = 0x80
RSV1 = 0x40

READ_SIZE = 64 * 1024

Message = str | bytes


@dataclass(frozen=True, slots=True)
class Workload:
    """A stream of messages and how it arrives.

    Args:
        key: Short name for the command line.
        title: Row of the tables.
        messages: The messages.
        reads: The bytes of the masked frames, split as the socket would return them.
        deflate: Whether permessage-deflate was negotiated (windows of 15 bits, takeover).
    """

    key: str
    title: str
    messages: Sequence[Message]
    reads: Sequence[bytes]
    deflate: bool = False


def invite(number: int, size: int) -> str:
    """Return an INVITE as a browser sends it over WebSocket (RFC 7118).

    Args:
        number: Makes the message different from the others.
        size: The total size in bytes; the certificate's fingerprint fills the rest.

    Raises:
        ValueError: The size is too small.
    """
    token = f"{(number * 2654435761) & 0xFFFFFFFF:08x}"
    head = (
        "INVITE sip:bob@example.org SIP/2.0\r\n"
        f"Via: SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK{token}{number:06d}\r\n"
        "Max-Forwards: 70\r\n"
        f"From: <sip:alice@example.org>;tag={token}\r\n"
        "To: <sip:bob@example.org>\r\n"
        f"Call-ID: {number:06d}{token[::-1]}\r\n"
        f"CSeq: {number % 10000 + 1:05d} INVITE\r\n"
        "Contact: <sip:alice@df7jal23ls0d.invalid;transport=ws;ob>\r\n"
        "Supported: outbound, path\r\n"
        "Content-Type: application/sdp\r\n"
    )
    body = (
        f"v=0\r\no=- {number:010d} 1 IN IP4 192.0.2.7\r\ns=-\r\nt=0 0\r\n"
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 192.0.2.7\r\n"
        "a=fingerprint:sha-256 "
    )
    room = size - len(head) - len("Content-Length: 000\r\n\r\n") - len(body) - len("\r\n")
    if room < 0:
        raise ValueError(f"an INVITE does not fit into {size} bytes")
    body += ("7B:3F:A1:09:C4:5E:" * (room // 18 + 1))[:room] + "\r\n"
    return f"{head}Content-Length: {len(body):03d}\r\n\r\n{body}"


def plain_text(number: int, size: int) -> str:
    """Return ASCII text of ``size`` characters that depends on the number."""
    return f"{number:08d} ".ljust(size, "the quick brown fox "[number % 20])[:size]


def foreign_text(number: int, size: int) -> str:
    """Return text of ``size`` bytes in UTF-8, mostly of characters of two, three and four bytes."""
    piece = f"{number:04d} Grüße über Örtchen, Привет мир, 你好世界, こんにちは, 🌍🎉 "
    raw = len(piece.encode())
    text = piece * (size // raw)
    return text + "." * (size - len(text.encode()))


def binary(number: int, size: int) -> bytes:
    """Return pseudo-random bytes, the same in every run."""
    return random.Random(number).randbytes(size)


def masked(payload: bytes, key: bytes) -> bytes:
    """Return the payload masked with the key (RFC 6455 §5.3)."""
    size = len(payload)
    stream = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(stream)).to_bytes(size)


def client_frame(first_byte: int, payload: bytes, keys: random.Random) -> bytes:
    """Return one masked frame (RFC 6455 §5.2).

    Args:
        first_byte: FIN, reserved bits and opcode.
        payload: The unmasked payload.
        keys: The source of masking keys.
    """
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", first_byte, 0x80 | size)
    elif size < 65536:
        head = struct.pack("!BBH", first_byte, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first_byte, 0x80 | 127, size)
    key = keys.randbytes(4)
    return head + key + masked(payload, key)


def client_frames(
    messages: Iterable[Message], *, fragment: int | None = None, deflate: bool = False
) -> list[bytes]:
    """Return the frames a client sends for the messages.

    Args:
        messages: Text or bytes.
        fragment: Bytes in each frame of a message; ``None`` for one frame per message.
        deflate: Whether to compress messages with a window kept between them (RFC 7692).
    """
    keys = random.Random(20)
    compressor = zlib.compressobj(wbits=-15) if deflate else None
    frames = []
    for message in messages:
        opcode, payload = (
            (TEXT, message.encode()) if isinstance(message, str) else (BINARY, message)
        )
        if compressor is not None:
            payload = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
            payload = payload.removesuffix(b"\x00\x00\xff\xff")
            opcode |= RSV1
        pieces = list(chunks(payload, fragment)) if fragment else [payload]
        for number, piece in enumerate(pieces):
            first = opcode if number == 0 else CONTINUATION
            if number == len(pieces) - 1:
                first |= FIN
            frames.append(client_frame(first, piece, keys))
    return frames


def chunks(data: bytes, size: int) -> Iterator[bytes]:
    """Yield the bytes in pieces of ``size``, the last one shorter."""
    return (data[start : start + size] for start in range(0, len(data), size))


def workloads(scale: float = 1.0) -> list[Workload]:
    """Return every workload.

    Args:
        scale: The fraction of the messages to make; there are always a few.
    """

    def count(full: int) -> range:
        return range(max(3, round(full * scale)))

    def reads(frames: Iterable[bytes]) -> list[bytes]:
        return list(chunks(b"".join(frames), READ_SIZE))

    short = [plain_text(number, 20) for number in count(4000)]
    mixed = [plain_text(number, 8 + number * 37 % 89) for number in count(3000)]
    medium = [plain_text(number, 125) for number in count(2000)]
    sip590 = [invite(number, 590) for number in count(1600)]
    sip800 = [invite(number, 800) for number in count(1200)]
    blocks = [binary(number, 4096) for number in count(400)]
    large = [binary(number, 65536) for number in count(32)]
    huge = [binary(number, 1 << 20) for number in count(3)]
    foreign = [foreign_text(number, 65536) for number in count(24)]
    pieces = [plain_text(number, 1024) for number in count(60)]
    dribbled = [plain_text(number, 125) for number in count(60)]
    short_frames, sip590_frames = client_frames(short), client_frames(sip590)
    return [
        Workload("text-20", "20 B text", short, reads(short_frames)),
        Workload("text-20-each", "20 B text, one frame per read", short, short_frames),
        Workload("text-mixed", "8 to 96 B text", mixed, reads(client_frames(mixed))),
        Workload("text-125", "125 B text", medium, reads(client_frames(medium))),
        Workload("sip-590", "590 B SIP text", sip590, reads(sip590_frames)),
        Workload("sip-590-each", "590 B SIP, one frame per read", sip590, sip590_frames),
        Workload("sip-800-each", "800 B SIP, one frame per read", sip800, client_frames(sip800)),
        Workload("binary-4k", "4 KiB binary", blocks, reads(client_frames(blocks))),
        Workload("binary-64k", "64 KiB binary", large, reads(client_frames(large))),
        Workload("binary-1m", "1 MiB binary", huge, reads(client_frames(huge))),
        Workload("foreign-64k", "64 KiB non-ASCII text", foreign, reads(client_frames(foreign))),
        Workload(
            "fragments-16",
            "1 KiB in 16 B fragments",
            pieces,
            reads(client_frames(pieces, fragment=16)),
        ),
        Workload(
            "byte-by-byte",
            "125 B delivered byte by byte",
            dribbled,
            list(chunks(b"".join(client_frames(dribbled)), 1)),
        ),
        Workload(
            "deflate-800",
            "800 B deflate, context takeover",
            sip800,
            reads(client_frames(sip800, deflate=True)),
            deflate=True,
        ),
    ]
