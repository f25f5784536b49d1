from __future__ import annotations

import pytest

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Reject, RequestContext
from wsproto_sip.policy.enabled import EnabledPolicy

REQUEST = Request(host="example.com", target="/")


def test_enabled_passes() -> None:
    assert EnabledPolicy()(RequestContext(REQUEST)) == Continue()


def test_disabled_is_503() -> None:
    disabled = RequestContext(REQUEST, enabled=False)
    assert EnabledPolicy()(disabled) == Reject(503, "new connections are disabled")


@pytest.mark.parametrize("seconds", [0, 30])
def test_retry_after(seconds: int) -> None:
    decision = EnabledPolicy(retry_after=seconds)(RequestContext(REQUEST, enabled=False))
    assert isinstance(decision, Reject)
    assert list(decision.headers) == [(b"retry-after", str(seconds).encode())]


def test_retry_after_is_not_negative() -> None:
    with pytest.raises(ValueError, match="retry_after must not be negative: -1"):
        EnabledPolicy(retry_after=-1)
