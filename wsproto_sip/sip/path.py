"""Path: the way from the registrar to the client (RFC 3327)."""

from __future__ import annotations

from collections.abc import Sequence

from .address import NameAddr
from .message import SipRequest
from .routing import Rejection
from .transport import Source
from .uri import SipUri

__all__ = ["add_path", "apply_path", "copy_path", "path_received"]


def add_path(
    request: SipRequest,
    uri: SipUri,
    *,
    received: Source | None = None,
    required: bool = False,
) -> Rejection | None:
    """Put this element into the way back of a REGISTER that goes on to a registrar (§5.2).

    Args:
        request: The REGISTER.
        uri: This element's address, with a flow token as its user part, say; ``lr`` is added.
        received: Where the client's REGISTER came from, for a registrar that keeps it: written
            as the ``received`` parameter of the Path value.
        required: The way back is needed (Outbound): refuse a client that does not support Path.

    Returns:
        ``None``, or the refusal with 421. Without ``required``, a REGISTER whose client does not
        say ``Supported: path`` goes on without a Path of this element.

    Raises:
        SipParseError: 400, for a bad Supported.
    """
    if "path" not in request.tokens("supported"):
        if required:
            return Rejection(421, "Path is not supported", (("Require", "path"),))
        return None
    value = NameAddr(uri.with_param("lr"))
    if received is not None:
        value = value.with_param("received", str(received.uri))
    request.insert_header("Path", value)
    return None


def apply_path(request: SipRequest, path: Sequence[NameAddr]) -> None:
    """Send a request along a binding's Path: its values go before every Route (§5.4).

    Args:
        request: A request to the binding.
        path: The values as ``SipMessage.paths`` gave them, first one on top.
    """
    for value in reversed(path):
        request.insert_header("Route", NameAddr(value.uri))


def copy_path(request: SipRequest) -> list[tuple[str, str]]:
    """The fields that a registrar copies from a REGISTER into its 200 (§5.3)."""
    return [("Path", value) for value in request.get_all("path")]


def path_received(path: NameAddr) -> SipUri | None:
    """The client's address that a Path value carries, as :func:`add_path` wrote it.

    Raises:
        SipParseError: 400 or 416, where it is no SIP URI.
    """
    value = path.params.get("received")
    return None if value is None else SipUri.parse(value)
