"""Bindings, and their stores: in memory, or an external location store.

Theory of operation: a registrar alone keeps all bindings in a :class:`MemoryStore`. Several
registrars that serve one population share a location store, each being a node of it. A node keeps
in memory the bindings of its own connections; those of all nodes are at the location store, which
is asked in data, without I/O: a :class:`Lookup` is answered with :class:`Found`, an
:class:`Update` with :class:`Done` or :class:`Conflict`, and both with
:class:`~wsproto_sip.auth.outcome.Unavailable`.

A change names single bindings, so that two nodes that register two clients of one user lose
neither. It also names the version that it was worked out from. A location store does it in one step
or not at all (RFC 3261 §10.3 step 7), and only while the address of record has that version. So
the rules for the order of REGISTERs and for how many bindings there may be hold across nodes, and
are written in one place, the registrar.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from ...auth.outcome import Unavailable
from ...timers import TimerQueue
from ..message.address import NameAddr
from ..message.uri import SipUri
from ..rules.outbound import Flow, OutboundBinding

_Key = TypeVar("_Key", str, Flow)

__all__ = [
    "Binding",
    "Conflict",
    "Done",
    "Found",
    "Lookup",
    "MemoryStore",
    "Node",
    "NotAsked",
    "Update",
    "contact_name",
]


def contact_name(uri: SipUri) -> str:
    """Return the lookup key of a Contact: its user, host and port, without its parameters."""
    return f"{uri.username}@{uri.host.lower()}:{uri.port}"


@dataclass(frozen=True, slots=True)
class Node:
    """A registrar among those that share a location store.

    Args:
        name: Its name, unique among the nodes.
        boot: Identifier of its run, unique among runs. The connections of an earlier run
            are gone, and so are its bindings.

    Raises:
        ValueError: Either is empty.
    """

    name: str
    boot: str

    def __post_init__(self) -> None:
        if not self.name or not self.boot:
            raise ValueError("a node needs a name and a boot")


@dataclass(frozen=True, slots=True)
class Binding:
    """A binding: one way to reach a user.

    Args:
        contact: The Contact as registered, without the registrar's own parameters.
        expires_at: The end, in seconds of the wall clock (see :meth:`Registrar.wall`).
        call_id: Call-ID of the REGISTER that created or last refreshed it.
        cseq: CSeq of that REGISTER.
        updated: Time of that REGISTER, by the wall clock.
        q: Preference, in thousandths.
        instance: The ``+sip.instance``, without brackets.
        outbound: The key of an Outbound binding; ``None`` for an ordinary one.
        path: The Path, topmost first.
        flow: The connection of the REGISTER; ``None`` if that is at another node.
        received: Source of the REGISTER, for the ``received`` parameter.
        gruu: The number in its temporary GRUUs; 0 for none.
        size: Its share of the bound on bytes.
        node: The node of that connection; ``None`` with a single registrar.
        token: What that node knows the connection by: a flow token of its own.
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
    node: Node | None = None
    token: str = ""

    @property
    def uri(self) -> SipUri:
        """Return the target of requests for the user."""
        return self.contact.sip_uri

    @property
    def name(self) -> OutboundBinding | SipUri:
        """Return its key among the bindings of its address (RFC 5626 §6, RFC 3261 §10.3)."""
        return self.contact.sip_uri if self.outbound is None else self.outbound


@dataclass(frozen=True, slots=True)
class Found:
    """The bindings of an address of record in a location store.

    Args:
        aor: The address; empty for an unknown temporary GRUU.
        bindings: The bindings of running nodes, possibly including expired ones.
        version: Version of the address; versions increase. 0 is that of an address that
            the store knows nothing of. One whose last binding was dropped keeps its version for as
            long as that binding would have lasted: otherwise a node could not tell that it was
            dropped from that it was lost.
        gone: The bindings of nodes that do not run or were restarted. They are unusable, and the
            next change drops them.
    """

    aor: str
    bindings: tuple[Binding, ...] = ()
    version: int = 0
    gone: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Lookup:
    """Find the bindings of an address of record; the answer is :class:`Found`.

    Args:
        aor: The address; empty to find it by a temporary GRUU.
        gruu: The number in the GRUU; 0 for none.
    """

    aor: str
    gruu: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """Change single bindings of an address of record, atomically.

    The answer is :class:`Done`, or :class:`Conflict` if the address has another version. A change
    of nothing changes the version all the same.

    Args:
        aor: The address.
        version: The version on which the change is based.
        drop: The bindings to remove. A replacement is in ``put`` while the
            other is here.
        put: The bindings to add.
    """

    aor: str
    version: int
    drop: tuple[Binding, ...] = ()
    put: tuple[Binding, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """An update was done.

    Args:
        version: The new version of the address; not 0.
    """

    version: int


@dataclass(frozen=True, slots=True)
class Conflict:
    """An update was not done, because the address has another version than its base.

    Args:
        found: The current bindings of the address.
    """

    found: Found


class NotAsked(Unavailable):
    """A question was not sent, so its change was certainly not done."""

    __slots__ = ()


class MemoryStore:
    """Bindings in memory: they end with the process, as the connections do."""

    def __init__(self) -> None:
        self._bindings: dict[str, tuple[Binding, ...]] = {}
        self._versions: dict[str, int] = {}
        self._last = 0
        self._by_flow: dict[Flow, dict[str, int]] = {}
        self._by_contact: dict[str, dict[str, int]] = {}
        self._by_gruu: dict[int, tuple[str, int]] = {}
        self._expiry: TimerQueue[str] = TimerQueue()

    def __len__(self) -> int:
        """Return the number of addresses of record with bindings."""
        return len(self._bindings)

    def get(self, aor: str) -> tuple[Binding, ...]:
        """Return the bindings of an address, possibly including expired ones."""
        return self._bindings.get(aor, ())

    def version(self, aor: str) -> int:
        """Return the version of an address; 0 if it has no bindings."""
        return self._versions.get(aor, 0)

    def page(self, offset: int, limit: int) -> list[str]:
        """Return some of the addresses with bindings, longest unchanged first."""
        return list(islice(self._bindings, offset, offset + limit))

    def change(self, aor: str, drop: Iterable[Binding], put: Iterable[Binding]) -> int:
        """Change single bindings of an address.

        Args:
            aor: The address.
            drop: The bindings to remove, as returned by :meth:`get`.
            put: The bindings to add, after the others.

        Returns:
            The new version of the address.
        """
        before = self._bindings.pop(aor, ())
        gone = {id(binding): binding for binding in drop}
        for old in gone.values():
            self._leave(aor, old)
        came = tuple(put)
        for new in came:
            self._enter(aor, new)
        kept = (*[binding for binding in before if id(binding) not in gone], *came)
        self._expiry.set(aor, min([binding.expires_at for binding in kept], default=None))
        if not kept:
            self._versions.pop(aor, None)
            return 0
        self._bindings[aor] = kept
        # A shared counter, so that an address that comes back never has an old version.
        self._last += 1
        self._versions[aor] = self._last
        return self._last

    def _enter(self, aor: str, binding: Binding) -> None:
        _count(self._by_contact, contact_name(binding.uri), aor)
        if binding.flow is not None:
            _count(self._by_flow, binding.flow, aor)
        if binding.gruu:
            # All bindings of an instance have the same number.
            _, known = self._by_gruu.get(binding.gruu, ("", 0))
            self._by_gruu[binding.gruu] = aor, known + 1

    def _leave(self, aor: str, binding: Binding) -> None:
        _uncount(self._by_contact, contact_name(binding.uri), aor)
        if binding.flow is not None:
            _uncount(self._by_flow, binding.flow, aor)
        if binding.gruu:
            _, known = self._by_gruu.pop(binding.gruu)
            if known > 1:
                self._by_gruu[binding.gruu] = aor, known - 1

    def with_flow(self, flow: Flow) -> list[str]:
        """Return the addresses that have a binding on a flow."""
        return list(self._by_flow.get(flow, ()))

    def with_contact(self, name: str) -> list[str]:
        """Return the addresses that have a binding whose Contact has this :func:`contact_name`."""
        return list(self._by_contact.get(name, ()))

    def with_gruu(self, number: int) -> str | None:
        """Return the address that has a binding with a temporary GRUU's number."""
        found = self._by_gruu.get(number)
        return None if found is None else found[0]

    def due(self, now: float) -> list[str]:
        """Return the addresses that have an expired binding; report each once per binding."""
        return self._expiry.pop_due(now)

    def next_expiry(self) -> float | None:
        """Return the time at which to call :meth:`due`, or ``None``."""
        return self._expiry.next()


def _count(index: dict[_Key, dict[str, int]], key: _Key, aor: str) -> None:
    aors = index.get(key)
    if aors is None:
        index[key] = {aor: 1}
    else:
        aors[aor] = aors.get(aor, 0) + 1


def _uncount(index: dict[_Key, dict[str, int]], key: _Key, aor: str) -> None:
    aors = index[key]
    left = aors.pop(aor) - 1
    if left:
        aors[aor] = left
    elif not aors:
        del index[key]
