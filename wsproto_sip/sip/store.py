"""Bindings, and where a registrar keeps them.

Theory of operation: a store holds, for each address of record, all its bindings as one value that
is replaced as a whole, so a REGISTER is either done or not done at all (RFC 3261 §10.3 step 7).
Beside that it can find an address by a flow, by a temporary GRUU's number and by expiry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..timers import TimerQueue
from .address import NameAddr
from .outbound import Flow, OutboundBinding
from .uri import SipUri

__all__ = ["Binding", "BindingStore", "MemoryStore"]


@dataclass(frozen=True, slots=True)
class Binding:
    """One way to reach a user.

    Args:
        contact: The Contact as registered, without the parameters that are the registrar's.
        expires_at: When it ends, seconds of the caller's clock.
        call_id: Of the REGISTER that made it or last refreshed it.
        cseq: Of the same.
        updated: When that was.
        q: Its preference, in thousandths.
        instance: The ``+sip.instance``, without brackets.
        outbound: What tells an Outbound binding; ``None`` for an ordinary one.
        path: The Path, topmost first.
        flow: The connection it came on.
        received: Where it came from, for the ``received`` parameter.
        gruu: The number in its temporary GRUUs; 0 for none.
        size: Octets it counts for among all.
    """

    contact: NameAddr
    expires_at: float
    call_id: str
    cseq: int
    updated: float
    q: int = 1000
    instance: str | None = None
    outbound: OutboundBinding | None = None
    path: tuple[NameAddr, ...] = ()
    flow: Flow | None = None
    received: SipUri | None = None
    gruu: int = 0
    size: int = 0

    @property
    def uri(self) -> SipUri:
        """Where requests for the user go."""
        return self.contact.sip_uri


class BindingStore(Protocol):
    """What a registrar needs of the place where bindings are kept."""

    def __len__(self) -> int:
        """How many addresses of record have bindings."""
        ...

    def get(self, aor: str) -> tuple[Binding, ...]:
        """The bindings of an address, expired ones perhaps among them."""
        ...

    def put(self, aor: str, bindings: Iterable[Binding]) -> None:
        """Replace the bindings of an address; none forgets it."""
        ...

    def with_flow(self, flow: Flow) -> Sequence[str]:
        """The addresses that have a binding on a flow."""
        ...

    def with_gruu(self, number: int) -> str | None:
        """The address that has a binding with a temporary GRUU's number."""
        ...

    def due(self, now: float) -> Sequence[str]:
        """The addresses that have an expired binding; each is told once for that binding."""
        ...

    def next_expiry(self) -> float | None:
        """When :meth:`due` has something to tell; ``None`` where nothing expires."""
        ...


class MemoryStore:
    """Bindings in memory: they end with the process, as the connections do."""

    def __init__(self) -> None:
        self._bindings: dict[str, tuple[Binding, ...]] = {}
        self._by_flow: dict[Flow, dict[str, None]] = {}
        self._by_gruu: dict[int, str] = {}
        self._expiry: TimerQueue[str] = TimerQueue()

    def __len__(self) -> int:
        """How many addresses of record have bindings."""
        return len(self._bindings)

    def get(self, aor: str) -> tuple[Binding, ...]:
        """The bindings of an address, expired ones perhaps among them."""
        return self._bindings.get(aor, ())

    def put(self, aor: str, bindings: Iterable[Binding]) -> None:
        """Replace the bindings of an address; none forgets it."""
        for old in self._bindings.pop(aor, ()):
            self._by_gruu.pop(old.gruu, None)
            aors = None if old.flow is None else self._by_flow.get(old.flow)
            if old.flow is not None and aors is not None:
                aors.pop(aor, None)
                if not aors:
                    del self._by_flow[old.flow]
        kept = tuple(bindings)
        if kept:
            self._bindings[aor] = kept
        for new in kept:
            if new.flow is not None:
                self._by_flow.setdefault(new.flow, {})[aor] = None
            if new.gruu:
                self._by_gruu[new.gruu] = aor
        self._expiry.set(aor, min([binding.expires_at for binding in kept], default=None))

    def with_flow(self, flow: Flow) -> list[str]:
        """The addresses that have a binding on a flow."""
        return list(self._by_flow.get(flow, ()))

    def with_gruu(self, number: int) -> str | None:
        """The address that has a binding with a temporary GRUU's number."""
        return self._by_gruu.get(number)

    def due(self, now: float) -> list[str]:
        """The addresses that have an expired binding; each is told once for that binding."""
        return self._expiry.pop_due(now)

    def next_expiry(self) -> float | None:
        """When :meth:`due` has something to tell; ``None`` where nothing expires."""
        return self._expiry.next()
