from __future__ import annotations

from dataclasses import fields

import pytest

from wsproto_sip.msrp.message.limits import DEFAULT_MSRP_LIMITS, MsrpLimits


def test_defaults_are_those_of_the_page_of_limits() -> None:
    assert MsrpLimits() == DEFAULT_MSRP_LIMITS
    assert DEFAULT_MSRP_LIMITS.max_chunk_size == 65536
    assert DEFAULT_MSRP_LIMITS.max_first_line == 256
    assert DEFAULT_MSRP_LIMITS.max_headers == 32
    assert DEFAULT_MSRP_LIMITS.max_path_uris == 8


@pytest.mark.parametrize("name", [item.name for item in fields(MsrpLimits)])
def test_limits_must_be_positive(name: str) -> None:
    assert getattr(MsrpLimits(**{name: 1}), name) == 1
    with pytest.raises(ValueError, match=f"^{name} must be positive: 0$"):
        MsrpLimits(**{name: 0})
