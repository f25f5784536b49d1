"""Path: the way from the registrar to the client (RFC 3327)."""

from __future__ import annotations

from collections.abc import Sequence

from ..message.address import NameAddr
from ..message.message import SipRequest
from ..message.transport import Source
from ..message.uri import SipUri
from .routing import Rejection

__all__ = ["add_path", "apply_path", "copy_path", "path_received", "require_path"]


def require_path(request: SipRequest) -> Rejection | None:
    """Refuse a REGISTER if its client does not support Path but the way back is needed.

    Args:
        request: The REGISTER.

    Returns:
        ``None``, or the refusal with 421.

    Raises:
        SipParseError: 400, for a bad Supported.
    """
    if "path" in request.tokens("supported"):
        return None
    return Rejection(421, "Path is not supported", (("Require", "path"),))


def add_path(request: SipRequest, uri: SipUri, *, received: Source | None = None) -> None:
    """Add this element to the way back of a REGISTER that goes on to a registrar (§5.2).

    Does nothing if the client does not send ``Supported: path``.

    Args:
        request: The REGISTER.
        uri: This element's address, perhaps with a flow token as its user part; ``lr`` is added.
        received: Where the client's REGISTER came from, for a registrar that stores it; written as
            the ``received`` parameter of the Path value.

    Raises:
        SipParseError: 400, for a bad Supported.
    """
    if "path" not in request.tokens("supported"):
        return
    value = NameAddr(uri.with_param("lr"))
    if received is not None:
        value = value.with_param("received", str(received.uri))
    request.insert_header("Path", value)


def apply_path(request: SipRequest, path: Sequence[NameAddr]) -> None:
    """Send a request along a binding's Path, by prepending its values to Route (§5.4).

    Args:
        request: A request to the binding.
        path: The values of ``SipMessage.paths``, topmost first.
    """
    for value in reversed(path):
        request.insert_header("Route", NameAddr(value.uri))


def copy_path(request: SipRequest) -> list[tuple[str, str]]:
    """Return the fields that a registrar copies from a REGISTER into its 200 (§5.3)."""
    return [("Path", value) for value in request.get_all("path")]


def path_received(path: NameAddr) -> SipUri | None:
    """Return the client's address in a Path value written by :func:`add_path`.

    Raises:
        SipParseError: 400 or 416, if it is not a SIP URI.
    """
    value = path.params.get("received")
    return None if value is None else SipUri.parse(value)
