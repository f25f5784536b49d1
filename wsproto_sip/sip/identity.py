"""Whether a request speaks for the user that its connection belongs to (RFC 7118 appendix A)."""

from __future__ import annotations

from .errors import SipParseError
from .message import SipRequest
from .routing import Rejection
from .uri import SipUri

__all__ = ["check_identity"]


def check_identity(request: SipRequest, identity: SipUri) -> Rejection | None:
    """Compare From and P-Preferred-Identity with the identity of the connection.

    Scheme and user have to agree, and the host without regard to case; ports and parameters say
    nothing about who it is.

    Args:
        request: From a client whose connection was authenticated.
        identity: The address of record that the authentication gave.

    Returns:
        ``None`` where both (if there) are that user, else the refusal: 403, or 400 for bad syntax.
    """
    try:
        claims = [request.from_, *request.addresses("p-preferred-identity")]
    except SipParseError as error:
        return Rejection(error.status, error.detail)
    expected = identity.aor
    for claim in claims:
        uri = claim.uri
        if not isinstance(uri, SipUri) or uri.aor != expected:
            return Rejection(403, f"{uri!s:.100} is not {expected!s:.100}")
    return None
