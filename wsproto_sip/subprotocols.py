"""Sub-protocols: which one a connection speaks (RFC 6455 §1.9, §4.2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MSRP", "SIP", "select_subprotocol"]

#: RFC 7118 §4.1. Tokens of sub-protocols are compared octet by octet.
SIP: Final = "sip"

#: RFC 7977 §4.1.
MSRP: Final = "msrp"


def select_subprotocol(
    offered: Iterable[str], supported: Sequence[str], *, prefer_server: bool = False
) -> str | None:
    """Chooses the sub-protocol of a connection.

    Args:
        offered: What the client offers, in its order of preference.
        supported: What the server speaks, in its own.
        prefer_server: Whether the server's order decides (Kamailio's does) instead of the
            client's.

    Returns:
        One that is in both, or None where there is none.
    """
    offers = list(offered)
    first, second = (supported, offers) if prefer_server else (offers, supported)
    return next((name for name in first if name in second), None)
