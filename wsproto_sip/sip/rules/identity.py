"""Rules for the identity that a client may claim (RFC 7118 appendix A, RFC 3325).

A client may only claim to be the user that its connection belongs to, and must not write the header
fields in which trusted proxies tell each other the identities they verified.
"""

from __future__ import annotations

import re
from typing import Final

from ..message.errors import SipParseError
from ..message.message import SipMessage, SipRequest
from ..message.uri import SipUri, Uri
from .routing import Rejection

__all__ = [
    "TRUSTED_FIELDS",
    "check_identity",
    "claims",
    "is_anonymous",
    "strip_trusted_fields",
    "unkept_privacy",
    "withhold_identity",
]

_PRIVACY_RE: Final = re.compile(r"[!%'*+\-.`~0-9a-z_]+")
#: Values that are honoured here (RFC 3325 §9.3), request nothing, or qualify the others.
_KEPT: Final = frozenset(("id", "none", "critical"))

#: Header fields that only a trusted element may write, and the specifications that say so.
TRUSTED_FIELDS: Final = {
    "Diversion": "RFC 5806",
    "History-Info": "RFC 7044",
    "P-Asserted-Identity": "RFC 3325",
    "P-Asserted-Service": "RFC 6050",
    "P-Associated-URI": "RFC 7315",
    "P-Called-Party-ID": "RFC 7315",
    "P-Charge-Info": "RFC 8496",
    "P-Charging-Function-Addresses": "RFC 7315",
    "P-Charging-Vector": "RFC 7315",
    "P-DCS-Billing-Info": "RFC 5503",
    "P-DCS-LAES": "RFC 5503",
    "P-DCS-OSPS": "RFC 5503",
    "P-DCS-Redirect": "RFC 5503",
    "P-DCS-Trace-Party-ID": "RFC 5503",
    "P-Media-Authorization": "RFC 3313",
    "P-Private-Network-Indication": "RFC 7316",
    "P-Profile-Key": "RFC 5002",
    "P-Served-User": "RFC 5502",
    "P-User-Database": "RFC 4457",
    "P-Visited-Network-ID": "RFC 7315",
    "Path": "RFC 3327",
    # Older than RFC 3325, but still trusted in practice.
    "Remote-Party-ID": "draft-ietf-sip-privacy",
    "Service-Route": "RFC 3608",
}
_TRUSTED: Final = frozenset(name.lower() for name in TRUSTED_FIELDS)


def strip_trusted_fields(message: SipMessage) -> None:
    """Remove the header fields that only a trusted element may write.

    Args:
        message: A request or response from a client.
    """
    names = message.rare_names
    if not _TRUSTED.isdisjoint(names):
        for name in _TRUSTED.intersection(names):
            message.remove_header(name)


def is_anonymous(uri: Uri) -> bool:
    """Return whether a From URI asks for anonymity (RFC 3323 §4.1.1.3)."""
    return isinstance(uri, SipUri) and uri.host_key == "anonymous.invalid"


def claims(request: SipRequest) -> list[Uri]:
    """Return the claimed identities: P-Preferred-Identity, and From unless it is anonymous.

    Raises:
        SipParseError: 400, for bad syntax.
    """
    found = [value.uri for value in request.addresses("p-preferred-identity")]
    sender = request.from_.uri
    return found if is_anonymous(sender) else [*found, sender]


def withhold_identity(message: SipMessage) -> None:
    """Remove P-Asserted-Identity from a message if its sender asks for privacy (RFC 3325 §7).

    Args:
        message: A request or response for a client, with the identity that a trusted element
            asserted.
    """
    if "id" in _privacy(message):
        message.remove_header("p-asserted-identity")


def _privacy(message: SipMessage) -> list[str]:
    """Return the requested kinds of privacy (RFC 3323 §4.2), in lower case."""
    fields = message.get_all("privacy")
    return [word for field in fields for word in _PRIVACY_RE.findall(field.lower())]


def unkept_privacy(request: SipRequest) -> list[str]:
    """Return the kinds of privacy that a request insists on and this side does not provide.

    Args:
        request: A request for a client.

    Returns:
        Nothing, unless the request marks its privacy as ``critical`` (RFC 3323 §5).
    """
    asked = _privacy(request) if "privacy" in request else []
    if "critical" not in asked:
        return []
    return [word for word in dict.fromkeys(asked) if word not in _KEPT]


def check_identity(request: SipRequest, identity: SipUri) -> Rejection | None:
    """Compare From and P-Preferred-Identity with the identity of the connection.

    Scheme and user must match, and the host without regard to case. Ports and parameters do not
    identify a user and are ignored.

    Args:
        request: A request from an authenticated client.
        identity: The address of record of the authenticated user.

    Returns:
        ``None`` if the claimed identities match, otherwise the refusal: 403, or 400 for bad syntax.
        An anonymous From claims nothing.
    """
    try:
        claimed = claims(request)
    except SipParseError as error:
        return Rejection(error.status, error.detail)
    expected = identity.aor
    for uri in claimed:
        if not isinstance(uri, SipUri) or uri.aor != expected:
            return Rejection(403, f"{uri!s:.100} is not {expected!s:.100}")
    return None
