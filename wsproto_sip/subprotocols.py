"""Choose the sub-protocol of a connection (RFC 6455 §1.9, §4.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MSRP", "SIP", "select_subprotocol"]

#: RFC 7118 §4.1. Sub-protocol names are compared byte by byte.
SIP: Final = "sip"

#: RFC 7977 §4.1.
MSRP: Final = "msrp"


def select_subprotocol(
    offered: Iterable[str], supported: Sequence[str], *, prefer_server: bool = False
) -> str | None:
    """Choose the sub-protocol of a connection.

    Args:
        offered: The client's offers, in its order of preference.
        supported: The server's sub-protocols, in its order of preference.
        prefer_server: Whether the server's order decides, as in Kamailio, instead of the client's.

    Returns:
        A sub-protocol in both lists, or ``None``.
    """
    offers = list(offered)
    first, second = (supported, offers) if prefer_server else (offers, supported)
    return next((name for name in first if name in second), None)
