"""The two errors of the SIP layer, and reason phrases (RFC 3261 §21 and its extensions)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import WsprotoSipError

if TYPE_CHECKING:
    from .message import SipResponse

__all__ = ["REASON_PHRASES", "SipParseError", "SipValueError", "reason_phrase"]

REASON_PHRASES = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    199: "Early Dialog Terminated",
    200: "OK",
    202: "Accepted",
    204: "No Notification",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    380: "Alternative Service",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    412: "Conditional Request Failed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    428: "Use Identity Header",
    429: "Provide Referrer Identity",
    430: "Flow Failed",
    433: "Anonymity Disallowed",
    436: "Bad Identity Info",
    437: "Unsupported Credential",
    438: "Invalid Identity Header",
    439: "First Hop Lacks Outbound Support",
    440: "Max-Breadth Exceeded",
    469: "Bad Info Package",
    470: "Consent Needed",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    489: "Bad Event",
    491: "Request Pending",
    493: "Undecipherable",
    494: "Security Agreement Required",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    580: "Precondition Failure",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
    607: "Unwanted",
    608: "Rejected",
}

_CLASSES = {
    1: "Session Progress",
    2: "OK",
    3: "Multiple Choices",
    4: "Bad Request",
    5: "Server Internal Error",
    6: "Decline",
}


def reason_phrase(status: int) -> str:
    """Return the usual reason phrase of a status code.

    Args:
        status: 100 to 699. An unregistered code gets the phrase of the first code of its class,
            because RFC 3261 §8.1.3.2 treats it as that code.

    Raises:
        SipValueError: The code is outside that range.
    """
    phrase = REASON_PHRASES.get(status)
    if phrase is not None:
        return phrase
    if not 100 <= status <= 699:
        raise SipValueError(f"SIP status must be 100 to 699: {status}")
    return _CLASSES[status // 100]


class SipValueError(WsprotoSipError, ValueError):
    """The caller's values do not make valid SIP. Nothing was changed."""


class SipParseError(WsprotoSipError, ValueError):
    """Received bytes are not valid SIP, or pass a limit.

    The connection stays usable: answer with :attr:`status` and continue with the next message.

    Args:
        status: The status code to answer a request with (400, 414, 505, 513 …).
        detail: What was wrong, for the log.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail
        #: The answer, ready to send, if the message was a request other than ACK from which Via,
        #: From, To, Call-ID and CSeq could be read; ``None`` if it cannot be answered.
        self.response: SipResponse | None = None
        #: In a stream: whether the framing is lost, so that the connection must be closed.
        self.fatal = False

    @property
    def reason(self) -> str:
        """The reason phrase that belongs to :attr:`status`."""
        return reason_phrase(self.status)

    def __str__(self) -> str:
        return f"{self.status} {self.reason}: {self.detail}"
