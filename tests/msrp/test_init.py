from __future__ import annotations

from wsproto_sip import msrp


def test_the_public_names() -> None:
    assert len(set(msrp.__all__)) == len(msrp.__all__)
    assert all(hasattr(msrp, name) for name in msrp.__all__)
