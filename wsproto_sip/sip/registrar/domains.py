"""The local domains, and addresses of record in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..._checks import check_fields
from ..message.uri import SipUri, host_key

__all__ = ["Domains"]


@dataclass(frozen=True, slots=True)
class Domains:
    """The domains that a registrar or an edge is responsible for.

    A user is the same in all of them: addresses of record have the first one.

    Args:
        names: Host names or addresses.
        any_host: Treat all other hosts except those under ``.invalid`` as one of them too, for
            tests in which the address of a page determines the domain.

    Raises:
        ValueError: The names are empty.
        TypeError: The names are not a tuple of text; a single name is not.
    """

    names: tuple[str, ...]
    any_host: bool = False
    _known: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.names:
            raise ValueError("a domain is needed")
        object.__setattr__(self, "_known", frozenset(map(host_key, self.names)))

    @property
    def first(self) -> str:
        """The domain of addresses of record."""
        return host_key(self.names[0])

    def has(self, uri: SipUri) -> bool:
        """Return whether a URI's host is one of them."""
        host = uri.host_key
        if host in self._known:
            return True
        return self.any_host and not host.endswith(".invalid")

    def aor(self, uri: SipUri) -> SipUri | None:
        """Return the address of record of a local user, or ``None``."""
        user = uri.username
        if not user or not self.has(uri):
            return None
        return SipUri.make(self.first, user)
