"""The aliases are used consistently."""

from __future__ import annotations

import os

from wsproto_sip.typing import BytesLike, Entropy, Headers, ParsedHeaders


def test_aliases() -> None:
    headers: Headers = [(b"Host", b"example.com")]
    assert Headers == list[tuple[bytes, bytes]]
    assert all(isinstance(part, bytes) for header in headers for part in header)
    parsed: ParsedHeaders = {"Host": "example.com"}.items()
    for fields in (headers, parsed):
        assert dict(fields)
    for data in (b"x", bytearray(b"x"), memoryview(b"x")):
        assert isinstance(data, BytesLike)
    assert not isinstance("x", BytesLike)
    entropy: Entropy = os.urandom
    assert len(entropy(4)) == 4
