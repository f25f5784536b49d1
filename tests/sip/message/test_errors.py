from __future__ import annotations

import pytest

from wsproto_sip.sip.message.errors import SipParseError, SipValueError, reason_phrase


@pytest.mark.parametrize(
    ("status", "phrase"),
    [(200, "OK"), (430, "Flow Failed"), (699, "Decline"), (299, "OK"), (499, "Bad Request")],
)
def test_known_and_unknown_codes_have_phrases(status: int, phrase: str) -> None:
    assert reason_phrase(status) == phrase


@pytest.mark.parametrize("status", [99, 700, -1])
def test_status_out_of_range_is_refused(status: int) -> None:
    with pytest.raises(SipValueError, match="SIP status must be 100 to 699"):
        reason_phrase(status)


def test_parse_error_tells_status_and_reason() -> None:
    error = SipParseError(414, "too long a URI")
    assert (error.status, error.reason, error.detail) == (
        414,
        "Request-URI Too Long",
        "too long a URI",
    )
    assert error.response is None
    assert not error.fatal
    assert str(error) == "414 Request-URI Too Long: too long a URI"
    assert isinstance(error, ValueError)
