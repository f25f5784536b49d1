"""Which users are ours: domains, and addresses of record in them."""

from __future__ import annotations

from dataclasses import dataclass, field

from .uri import SipUri

__all__ = ["Domains"]


@dataclass(frozen=True, slots=True)
class Domains:
    """The domains that a registrar or an edge is responsible for.

    A user is the same in all of them: addresses of record are written with the first one.

    Args:
        names: Host names or addresses.
        any_host: Take every other host for one of them too, but those under ``.invalid``: for
            trying things out, where the address of a page decides the domain.

    Raises:
        ValueError: There is no name.
    """

    names: tuple[str, ...]
    any_host: bool = False
    _known: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.names:
            raise ValueError("a domain is needed")
        object.__setattr__(self, "_known", frozenset([name.lower() for name in self.names]))

    @property
    def first(self) -> str:
        """The one that is written."""
        return self.names[0].lower()

    def has(self, uri: SipUri) -> bool:
        """Whether a URI's host is one of them."""
        host = uri.host.lower()
        if host in self._known:
            return True
        return self.any_host and not host.rstrip(".").endswith(".invalid")

    def aor(self, uri: SipUri) -> SipUri | None:
        """The address of record of one of our users; ``None`` for anybody else."""
        user = uri.username
        if not user or not self.has(uri):
            return None
        return SipUri.make(self.first, user)
