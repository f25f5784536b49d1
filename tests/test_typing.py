"""The aliases are what the rest of the package takes them for."""

from __future__ import annotations

import os

from wsproto_sip.typing import BytesLike, Entropy, Headers


def test_the_aliases() -> None:
    headers: Headers = [(b"Host", b"example.com")]
    assert Headers == list[tuple[bytes, bytes]]
    assert all(isinstance(part, bytes) for header in headers for part in header)
    for data in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert isinstance(data, BytesLike)
    assert not isinstance("x", BytesLike)
    entropy: Entropy = os.urandom
    assert len(entropy(4)) == 4
