"""The registrar: bindings of users to contacts (RFC 3261 §10, RFC 3327, RFC 5626, RFC 5627).

Theory of operation: a REGISTER is read completely. What it does to the bindings there are is then
worked out, and done at the end, all of it at once; whatever is wrong before leaves everything as it
was. A binding remembers the flow it came on and ends with it.

A registrar that is a node of several asks the location store that they share, in questions that its
caller has answered::

    plan --> Asked --> proceed --> Asked (a conflict, or a second look) --> ... --> SipResponse

It works out a change from what it knows of the address of record, which is right most of the time,
and works it out anew if the store says that it was not. What goes away without a REGISTER, and what
a lost answer leaves open, are errands: :mod:`~wsproto_sip.sip.registrar.errands`. In memory there
is what came on connections of its own; the store has the same, sooner or later.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf
from typing import TYPE_CHECKING, Final

from ..._checks import check_fields
from ...auth.outcome import Unavailable
from ...server.shares import Bound, Claim, Party, ShareConfig, Shares
from ..message.address import NameAddr
from ..message.errors import SipParseError, SipValueError
from ..message.headers import parse_expires, parse_q
from ..message.message import SipRequest, SipResponse
from ..message.uri import SipUri
from ..rules.gruu import TemporaryGruus, add_gruus, public_gruu, public_gruu_instance, wants_gruu
from ..rules.nat import fix_nated_register
from ..rules.outbound import Flow, instance_id, outbound_binding
from ..rules.path import copy_path
from ..rules.routing import Rejection
from .domains import Domains
from .errands import Errands
from .store import (
    Binding,
    Conflict,
    Done,
    Found,
    Lookup,
    MemoryStore,
    Node,
    NotAsked,
    Update,
    contact_name,
)

if TYPE_CHECKING:
    from ...typing import Entropy
    from ..message.transport import Source

__all__ = [
    "Asked",
    "BindingChange",
    "Change",
    "Registrar",
    "RegistrarConfig",
    "Removal",
    "Requested",
]

#: Approximate cost of a binding in addition to its text.
_BINDING_COST = 1024
_BINDING_BYTES: Final = ShareConfig(256 * 1024 * 1024)
#: Parameters of a Contact in the 200 that replace the client's.
_OURS = ("expires", "received", "pub-gruu", "temp-gruu")
#: Maximum number of attempts at a change because another node was faster.
_MAX_TRIES: Final = 8


@dataclass(frozen=True, slots=True)
class RegistrarConfig:
    """Configuration of a registrar.

    Args:
        domains: The domains of its users.
        outbound: Support Outbound and GRUUs; without it bindings are ordinary ones, and the
            ``received`` parameter of the 200 has their source.
        min_expires: Minimum lifetime of a binding, in seconds.
        default_expires: Lifetime of a binding without an Expires.
        max_expires: Maximum lifetime.
        flow_timer: Seconds within which an Outbound client must send a keep-alive (RFC 5626 §5.4).
        max_contacts: Maximum number of bindings per address. A REGISTER for more replaces the
            oldest one of the same client, by its ``+sip.instance``; otherwise, or with more
            contacts in it, it is refused with 503.
        max_binding_bytes: Maximum size of a Contact and its Path; more is refused
            with 513.
        binding_bytes: Maximum size of all bindings, with 1 KiB for each in addition to its text, in
            shares of addresses, and of users that are known; a REGISTER for more is refused with
            503.
        max_aors: Maximum number of addresses; also 503.
        max_aors_per_flow: Maximum number of addresses on one connection; also 503.

    Raises:
        ValueError: The times are not in order.
    """

    domains: Domains
    outbound: bool = True
    min_expires: int = 60
    default_expires: int = 600
    max_expires: int = 7200
    flow_timer: int = 120
    max_contacts: int = 10
    max_binding_bytes: int = 8 * 1024
    binding_bytes: ShareConfig = _BINDING_BYTES
    max_aors: int = 100_000
    max_aors_per_flow: int = 20

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.min_expires <= self.default_expires <= self.max_expires:
            raise ValueError("min_expires, default_expires and max_expires are not in order")


class Change(Enum):
    """A change of a binding."""

    ADDED = "added"
    REFRESHED = "refreshed"
    REMOVED = "removed"


class Removal(Enum):
    """The reason for removing a binding; the values appear in log lines and metrics."""

    #: The client removed or replaced it.
    REQUEST = "request"
    #: It was not refreshed in time.
    EXPIRED = "expired"
    #: Its connection ended.
    CONNECTION = "connection"
    #: An administrator removed it.
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True, slots=True)
class BindingChange:
    """A binding was changed.

    Args:
        aor: Its address of record.
        binding: The binding after the change; if removed, before it.
        change: The kind of change.
        cause: The reason for removing it.
        expires: Its remaining lifetime, in seconds.
    """

    aor: str
    binding: Binding
    change: Change
    cause: Removal
    expires: float


class _Refused(Exception):
    """A REGISTER is refused; used only inside this module."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection)
        self.rejection = rejection


@dataclass(slots=True, eq=False)
class Requested:
    """A parsed REGISTER.

    Args:
        request: The request.
        aor: Its address of record.
        contacts: The requested bindings; ``None`` to remove all.
        outbound: Whether one of them is an Outbound binding.
        flow: Its connection.
        party: The party whose share its bindings use.
        refused: Called with its refusal.
    """

    request: SipRequest
    aor: SipUri
    contacts: list[Binding] | None
    outbound: bool
    flow: Flow | None
    party: Party
    refused: Callable[[Rejection], object] | None
    key: str = field(init=False)
    #: Number of attempts.
    tries: int = 0

    def __post_init__(self) -> None:
        self.key = str(self.aor)


@dataclass(slots=True, eq=False)
class _Change:
    """The result of a REGISTER if its update is done.

    Args:
        after: The bindings afterwards.
        response: The 200 to send.
        claim: Its claim to a share.
    """

    after: list[Binding]
    response: SipResponse
    claim: Claim | None


@dataclass(slots=True, eq=False)
class Asked:
    """A REGISTER that waits for an answer; see :meth:`Registrar.plan`.

    Args:
        requested: The REGISTER.
        question: The question.
        change: The result if the question is an update and is done.
    """

    requested: Requested
    question: Lookup | Update
    change: _Change | None = None


def _party(flow: Flow | None, source: Source | None, user: str | None) -> Party:
    """Return the party whose share a binding uses."""
    if user is not None:
        return Party.user(user, flow)
    return Party.stranger("" if source is None else source.host, flow)


def _refused(status: int, detail: str, *headers: tuple[str, str]) -> _Refused:
    return _Refused(Rejection(status, detail, headers))


class Registrar:
    """Processes REGISTER requests and finds users.

    Args:
        config: The configuration.
        node: This node's entry among those that share a location store; ``None`` for a single
            registrar, which has all bindings in memory.
        is_known: Whether a user exists; then one without a binding is unavailable (480) instead of
            unknown (404), and unknown users cannot register.
        gruu_keys: Secrets of at least 16 bytes for temporary GRUUs; a random one by default.
        entropy: Source of random bytes.

    Attributes:
        store: The bindings in memory: all of them, or those of this node's connections.
        node: This node.
        epoch: Seconds to add to the caller's time to get the wall clock's. With a shared location
            store, the caller keeps it current.
        errands: Changes to make in the location store without a REGISTER.
        observer: Called with each change of a binding, and the time; it must not raise, nor call
            the registrar.
        bindings: Number of bindings in memory.
        added: Number of bindings added.
        refreshed: Number of refreshes.
        removed: Number of bindings removed, by reason.
    """

    def __init__(
        self,
        config: RegistrarConfig,
        *,
        node: Node | None = None,
        is_known: Callable[[str], bool] | None = None,
        gruu_keys: Sequence[bytes] = (),
        entropy: Entropy = os.urandom,
    ) -> None:
        self.config = config
        self.store = MemoryStore()
        self.node = node
        self.epoch = 0.0
        self.errands = Errands(self)
        #: What the location store has, as far as it is known: of the addresses in memory, and of
        #: those that errands are about.
        self._views: dict[str, Found] = {}
        #: Addresses of which the location store may have lost bindings.
        self._renewed: set[str] = set()
        self._shares = Shares(config.binding_bytes)
        #: The claims of the bindings of an address of record.
        self._claims: dict[str, list[Claim]] = {}
        self._is_known = is_known
        self._entropy = entropy
        self.observer: Callable[[BindingChange, float], object] | None = None
        self.bindings = self.added = self.refreshed = 0
        self.removed: Counter[Removal] = Counter()
        self._gruus = TemporaryGruus(gruu_keys or [entropy(32)], entropy)

    @property
    def refused(self) -> Counter[Bound]:
        """Number of registrations refused for the size of bindings, by the bound exceeded."""
        return self._shares.refused

    # -- looking up --------------------------------------------------------------------------------

    def wall(self, now: float) -> float:
        """Return the time of the wall clock, which bindings use."""
        return now + self.epoch

    def lookup(self, uri: SipUri, now: float) -> list[Binding] | Rejection:
        """Find where a user or GRUU can be reached (RFC 3261 §16.5, RFC 5627 §5.1).

        On a node of several, only the bindings in memory are found.

        Args:
            uri: A Request-URI.
            now: The time, in seconds.

        Returns:
            The bindings, ordered by preference and then latest first, or the rejection, which is
            404 for unknown users and 480 for unavailable ones.
        """
        question = self.plan_lookup(uri)
        if isinstance(question, Rejection):
            return question
        key = question.aor
        if question.gruu and not (key := self.store.with_gruu(question.gruu) or ""):
            return _no_gruu(uri)
        return self._choose(uri, question.gruu, self._live(key, now))

    def plan_lookup(self, uri: SipUri) -> Lookup | Rejection:
        """Return the question to answer before :meth:`choose`.

        Args:
            uri: A Request-URI.

        Returns:
            The question, or 404 for a URI that is certainly not local.
        """
        aor = self.config.domains.aor(uri)
        if aor is None:
            return Rejection(404, f"{uri!s:.100} is not in a domain of ours")
        if "gr" not in uri.params or public_gruu_instance(uri) is not None:
            return Lookup(str(aor))
        gruu = self._gruus.open(uri) or 0
        return Lookup("", gruu) if gruu else _no_gruu(uri)

    def choose(
        self, uri: SipUri, question: Lookup, found: Found, now: float
    ) -> list[Binding] | Rejection:
        """Find where a user or GRUU can be reached, with the answer of a location store.

        Args:
            uri: The Request-URI.
            question: From :meth:`plan_lookup`.
            found: Its answer.
            now: The time, in seconds.

        Returns:
            As :meth:`lookup`.
        """
        if not found.aor:
            return _no_gruu(uri)
        self._learn(found, now)
        return self._choose(uri, question.gruu, self._current(found, now))

    def _choose(self, uri: SipUri, gruu: int, bindings: list[Binding]) -> list[Binding] | Rejection:
        instance = None if gruu else public_gruu_instance(uri)
        if gruu:
            found = [binding for binding in bindings if binding.gruu == gruu]
        elif instance is not None:
            found = [binding for binding in bindings if binding.instance == instance]
        else:
            found = bindings
        if found:
            return _preferred(found)
        # A user with another instance still exists.
        known = bool(bindings)
        if not known and self._is_known is not None:
            aor = self.config.domains.aor(uri)
            known = self._is_known("" if aor is None else aor.username or "")
        return Rejection(480 if known else 404, f"{uri!s:.100} has no binding")

    def lookup_contact(self, uri: SipUri, now: float) -> list[Binding] | Rejection:
        """Find the client that has a Request-URI as its Contact.

        Args:
            uri: A Request-URI; its parameters are ignored.
            now: The time, in seconds.

        Returns:
            The bindings with that Contact, ordered by preference and then latest first; or the
            rejection, which is 404 for no binding and 485 if users on several connections have that
            Contact, because any user can register another one's Contact.
        """
        name = contact_name(uri)
        found = {
            aor: [each for each in self._live(aor, now) if contact_name(each.uri) == name]
            for aor in self.store.with_contact(name)
        }
        bindings = [binding for of_user in found.values() for binding in of_user]
        if not bindings:
            return Rejection(404, f"{uri!s:.100} is not a registered Contact")
        users = [of_user for of_user in found.values() if of_user]
        if len(users) > 1 and len({binding.flow for binding in bindings}) > 1:
            return Rejection(485, f"{uri!s:.100} is the Contact of several")
        return _preferred(users[0])

    def _live(self, aor: str, now: float) -> list[Binding]:
        wall = now + self.epoch
        return [binding for binding in self.store.get(aor) if binding.expires_at > wall]

    def _current(self, found: Found, now: float) -> list[Binding]:
        """Return the bindings of an address: this node's from memory, and those of other nodes.

        Of two versions of a binding, the later one counts: its client has moved.
        """
        wall = now + self.epoch
        # What the store has in our name and memory has not, has ended or was never granted.
        current = {
            each.name: each
            for each in found.bindings
            if each.node != self.node and each.expires_at > wall
        }
        for own in self._live(found.aor, now):
            other = current.get(own.name)
            if other is None or other.updated <= own.updated:
                current[own.name] = own
        return list(current.values())

    def bindings_of(self, aor: str, now: float) -> list[Binding]:
        """Return the bindings of an address of record in order of preference.

        Args:
            aor: The address, as :meth:`MemoryStore.page` of the store returns it.
            now: The time, in seconds.
        """
        return _preferred(self._live(aor, now))

    def remove(self, aor: str, now: float) -> int:
        """Remove all bindings of an address of record in memory, for an administrator.

        Args:
            aor: The address.
            now: The time, in seconds.

        Returns:
            Number of removed bindings.
        """
        before = self.store.get(aor)
        if before:
            self._change(aor, before, (), now, Removal.ADMINISTRATOR)
            self._note(aor)
        return len(before)

    # -- REGISTER ----------------------------------------------------------------------------------

    def register(
        self,
        request: SipRequest,
        now: float,
        *,
        flow: Flow | None = None,
        source: Source | None = None,
        user: str | None = None,
        refused: Callable[[Rejection], object] | None = None,
    ) -> SipResponse:
        """Answer a REGISTER accepted by ``validate_request``, for a single registrar.

        Args:
            request: The REGISTER.
            now: The time, in seconds.
            flow: Its connection.
            source: Its source.
            user: The authenticated user; other users' bindings cannot be changed
                (403).
            refused: Called with the rejection, which has more details than the response.

        Returns:
            200 with all bindings of the address, or the refusal, which is 400, 403, 404, 423 with
            Min-Expires, 439, 500 for a REGISTER that is out of order, 503 where there is no room,
            513 for a binding that is too large.

        Raises:
            ValueError: This is a node of several; :meth:`plan` is for them as well.
        """
        answer = self.plan(request, now, flow=flow, source=source, user=user, refused=refused)
        if isinstance(answer, Asked):
            raise ValueError("a node has to ask the location store")
        return answer

    def plan(
        self,
        request: SipRequest,
        now: float,
        *,
        flow: Flow | None = None,
        source: Source | None = None,
        user: str | None = None,
        token: str = "",
        refused: Callable[[Rejection], object] | None = None,
    ) -> SipResponse | Asked:
        """Answer a REGISTER, or return the question to ask first.

        Args:
            request: The REGISTER, accepted by ``validate_request``.
            now: The time, in seconds.
            flow: As for :meth:`register`.
            source: As for :meth:`register`.
            user: As for :meth:`register`.
            token: This node's token of the connection, for other nodes.
            refused: As for :meth:`register`.

        Returns:
            The response, as of :meth:`register`; or the question for the location store. Its answer
            goes to :meth:`proceed`, whatever becomes of the request meanwhile.
        """
        try:
            requested = self._read(request, now, flow, source, user, token, refused)
            if self.node is None:
                bindings = self._live(requested.key, now)
                after, answer = self._decide(requested, bindings, now)
                self._commit(requested, after, now)
                return answer
            if requested.contacts is not None and not requested.contacts:
                # Nothing is changed, so no conflict would reveal an outdated view.
                return Asked(requested, Lookup(requested.key))
            return self._attempt(requested, self._view(requested.key), now, guess=True)
        except (_Refused, SipParseError, SipValueError) as exc:
            return _refuse(request, exc, refused)

    def proceed(
        self, asked: Asked, answer: object, now: float, *, alive: bool = True
    ) -> SipResponse | Asked:
        """Continue a REGISTER after the answer to its question.

        Args:
            asked: The result of :meth:`plan`.
            answer: The answer, as documented by the question, or an
                :class:`~wsproto_sip.auth.outcome.Unavailable`.
            now: The time, in seconds.
            alive: Whether the connection of the REGISTER still exists.

        Returns:
            As :meth:`plan`. Without a connection there is nothing more to ask; what was granted
            all the same is dropped by an errand.

        Raises:
            TypeError: The answer has another form.
        """
        requested = asked.requested
        try:
            return self._proceed(asked, answer, now, alive)
        except (_Refused, SipParseError, SipValueError) as exc:
            self.forget(requested.key)
            return _refuse(requested.request, exc, requested.refused)

    def _proceed(
        self, asked: Asked, answer: object, now: float, alive: bool
    ) -> SipResponse | Asked:
        requested, question, change = asked.requested, asked.question, asked.change
        key = requested.key
        if change is not None and isinstance(question, Update):
            if isinstance(answer, Done) and alive:
                return self._granted(requested, question, change, answer, now)
            if change.claim is not None:
                change.claim.release()
            if not isinstance(answer, Conflict | NotAsked):
                # It is done, or may still be done.
                self.errands.note(key, uncertain=True)
            found = answer.found if isinstance(answer, Conflict) else None
        else:
            found = answer if isinstance(answer, Found) else None
        if isinstance(answer, Unavailable):
            raise _refused(503, answer.reason, ("Retry-After", str(answer.retry_after)))
        if not alive:
            raise _refused(503, "the connection has ended")
        if found is None:
            raise TypeError(f"not an answer to {type(question).__name__}: {answer!r:.100}")
        self._learn(found, now)
        self._views.setdefault(key, found)
        return self._attempt(requested, found, now)

    def _attempt(
        self, requested: Requested, found: Found, now: float, *, guess: bool = False
    ) -> SipResponse | Asked:
        """Determine the changes of a REGISTER.

        Args:
            requested: The REGISTER.
            found: The contents of the location store.
            now: The time, in seconds.
            guess: Whether the contents may have changed meanwhile, and so must not cause a
                refusal.
        """
        requested.tries += 1
        if requested.tries > _MAX_TRIES:
            raise _refused(503, "other nodes were faster every time", ("Retry-After", "1"))
        try:
            after, response = self._decide(requested, self._current(found, now), now)
            if requested.contacts is not None and not requested.contacts:
                self.forget(requested.key)
                return response
            claim = self._reserve(requested, after)
        except _Refused:
            if not guess:
                raise
            return Asked(requested, Lookup(requested.key))
        return Asked(requested, _update(found, after), _Change(after, response, claim))

    def _granted(
        self, requested: Requested, update: Update, change: _Change, done: Done, now: float
    ) -> SipResponse:
        """Apply a change done by the location store."""
        key = requested.key
        # Memory may have changed meanwhile: what the update does not name stays as it is now.
        gone, later = list(self.store.get(key)), set[object]()
        dropped = {id(each) for each in update.drop}
        if not all(id(each) in dropped for each in gone):
            gone, later = self._told_apart(gone, update)
        came = [
            each
            for each in update.put
            if each.node == self.node and not (later and each.name in later)
        ]
        self._change(key, gone, came, now, Removal.REQUEST, change.claim)
        known = self._view(key).version
        overtaken = known not in (0, update.version)
        if known < done.version:
            self._views[key] = Found(key, tuple(change.after), done.version)
        # What has ended meanwhile is in what the store was told.
        here = {id(each) for each in self.store.get(key)}
        ended = any(each.node == self.node and id(each) not in here for each in change.after)
        if ended or overtaken:
            self.errands.note(key, uncertain=overtaken)
        self.forget(key)
        return change.response

    def _told_apart(
        self, held: Sequence[Binding], update: Update
    ) -> tuple[list[Binding], set[object]]:
        """Return which bindings in memory an update removes, and the names that are newer here."""
        touched = {each.name: -inf for each in (*update.drop, *update.put)}
        touched |= {each.name: each.updated for each in update.put if each.node == self.node}
        gone: list[Binding] = []
        later: set[object] = set()
        for each in held:
            if (when := touched.get(each.name)) is not None:
                if when != -inf and each.updated > when:
                    # Answers arrived out of order.
                    later.add(each.name)
                else:
                    gone.append(each)
        return gone, later

    def _learn(self, found: Found, now: float) -> None:
        """Compare the location store's contents with the known ones."""
        aor = found.aor
        view = self._views.get(aor)
        if view is None:
            return
        if found.version < view.version:
            # It has lost the last changes, or answers have overtaken each other.
            self.errands.note(aor, uncertain=True)
            return
        self._views[aor] = found
        if found.version == view.version:
            # Other nodes may have gone meanwhile.
            return
        there = {each.name: each for each in found.bindings}
        gone, lost = [], []
        for own in self.store.get(aor):
            other = there.get(own.name)
            if other is not None and other.node == self.node:
                continue
            if aor in self._renewed if other is None else other.updated < own.updated:
                lost.append(own)
            else:
                # The client has moved to another node, or was removed there.
                gone.append(own)
        if lost:
            self.errands.note(aor, uncertain=True)
        if gone:
            self._change(aor, gone, (), now, Removal.REQUEST)
            self.forget(aor)

    def _view(self, aor: str) -> Found:
        return self._views.get(aor) or Found(aor)

    def forget(self, aor: str) -> bool:
        """Forget the view of the location store for an address.

        Returns:
            Whether that is so; not of one that has bindings in memory or an errand.
        """
        if self.store.get(aor) or aor in self.errands:
            return False
        self._views.pop(aor, None)
        self._renewed.discard(aor)
        return True

    def _note(self, aor: str) -> None:
        """Schedule errands for ended bindings."""
        if self.node is not None:
            self.errands.note(aor)

    # -- errands -----------------------------------------------------------------------------------

    def reconcile(self, aor: str, now: float, *, write: bool = False) -> Update | None:
        """Return the update that makes the location store agree with memory on an address.

        Args:
            aor: The address.
            now: The time, in seconds.
            write: Whether it has to be a change even of nothing: then what was asked earlier and
                was lost on its way can no longer be done.

        Returns:
            The update; ``None`` if they agree as far as is known.
        """
        found = self._view(aor)
        after = self._current(found, now)
        kept = {id(each) for each in after}
        # The client has moved to another node.
        lost = [each for each in self._live(aor, now) if id(each) not in kept]
        if lost:
            self._change(aor, lost, (), now, Removal.REQUEST)
        update = _update(found, after)
        if update.drop or update.put or write:
            return update
        self.forget(aor)
        return None

    def reconciled(self, update: Update, answer: Done | Conflict, now: float) -> None:
        """Record the result of an errand's update.

        Args:
            update: From :meth:`reconcile`.
            answer: Its answer.
            now: The time, in seconds.
        """
        if isinstance(answer, Conflict):
            self._learn(answer.found, now)
            self._views[update.aor] = answer.found
            return
        self._renewed.discard(update.aor)
        before = self._view(update.aor).bindings
        kept = [each for each in before if each not in update.drop]
        self._views[update.aor] = Found(update.aor, (*kept, *update.put), answer.version)

    def renew(self, now: float, spread: float = 0.0) -> None:
        """Write the bindings in memory to the location store again, which may have lost them.

        Args:
            now: The time, in seconds.
            spread: Seconds over which to do it.
        """
        if self.node is None:
            return
        aors = self.store.page(0, len(self.store))
        self._renewed.update(aors)
        for index, aor in enumerate(aors):
            when = now + spread * index / len(aors) if spread else None
            self.errands.note(aor, uncertain=True, when=when)

    # -- deciding ----------------------------------------------------------------------------------

    def _read(
        self,
        request: SipRequest,
        now: float,
        flow: Flow | None,
        source: Source | None,
        user: str | None,
        token: str,
        refused: Callable[[Rejection], object] | None,
    ) -> Requested:
        """Parse a REGISTER, and refuse errors that do not depend on existing bindings."""
        to = request.to.uri
        if not isinstance(to, SipUri):
            # RFC 4475 §3.3.4, RFC 3261 §10.2: an address of record is a SIP or SIPS URI.
            raise _refused(400, f"To of scheme {to.scheme}")
        aor = self.config.domains.aor(to)
        if aor is None:
            raise _refused(404, "To is not in a domain of ours")
        name = aor.username or ""
        if user is not None and user != name:
            raise _refused(403, f"{user!r:.100} may not register {name!r:.100}")
        if self._is_known is not None and not self._is_known(name):
            raise _refused(404, f"no such user: {name!r:.100}")
        contacts = request.contacts
        # Each of them is compared with all others: what cannot be kept is not even looked at.
        if contacts is not None and len(contacts) > self.config.max_contacts:
            raise _refused(503, "too many contacts")
        if contacts is None and request.expires != 0:
            raise _refused(400, "Contact: * without Expires: 0")
        received = None
        if source is not None and contacts:
            received = fix_nated_register(request, source)
        bindings: list[Binding] = []
        used_outbound = False
        for contact in contacts or []:
            if self._leads_back(contact.sip_uri, to, aor):
                raise _refused(403, f"{contact.uri!s:.100} leads back to the registrar")
            outbound = None
            if self.config.outbound:
                outcome = outbound_binding(request, contact)
                if isinstance(outcome, Rejection):
                    raise _Refused(outcome)
                outbound = outcome
            used_outbound |= outbound is not None
            new = self._binding(request, contact, now)
            new = replace(new, flow=flow, outbound=outbound, received=received, token=token)
            bindings.append(new)
        party = _party(flow, source, user)
        wanted = None if contacts is None else bindings
        return Requested(request, aor, wanted, used_outbound, flow, party, refused)

    def _decide(
        self, requested: Requested, bindings: list[Binding], now: float
    ) -> tuple[list[Binding], SipResponse]:
        """Determine the bindings after a REGISTER from those before, and its 200."""
        request, contacts = requested.request, requested.contacts
        if contacts is None:
            for binding in bindings:
                self._check_order(binding, request)
            bindings = []
        for new in contacts or []:
            bindings = self._merge(bindings, new, request, now)
        if contacts:
            if len(bindings) > self.config.max_contacts:
                bindings = self._make_room(bindings)
            if len(bindings) > self.config.max_contacts:
                raise _refused(503, "too many contacts")
        # Everything that can fail comes before the change.
        answer = self._accept(request, requested.aor, bindings, now, outbound=requested.outbound)
        return bindings, answer

    def _leads_back(self, uri: SipUri, to: SipUri, aor: SipUri) -> bool:
        """Return whether a Contact is its own address of record, or a local GRUU.

        A request for the address would loop (RFC 5627 §5.1).
        """
        domains = self.config.domains
        if "gr" in uri.params:
            return domains.aor(uri) == aor or self._gruus.open(uri) is not None
        if uri != uri.aor:
            return False
        return uri.aor == to.aor if domains.any_host else domains.aor(uri) == aor

    def _binding(self, request: SipRequest, contact: NameAddr, now: float) -> Binding:
        """Convert a Contact of a REGISTER to a binding."""
        if contact.sip_uri.headers is not None:
            raise _refused(400, "header fields in a Contact URI")
        expires = self._expires(request, contact)
        q = contact.params.get("q")
        size = len(str(contact)) + len(request.call_id) + sum(map(len, request.get_all("path")))
        if size > self.config.max_binding_bytes:
            raise _refused(513, f"a binding of {size} bytes")
        kept = contact
        for param in _OURS:
            kept = kept.without_param(param)
        return Binding(
            contact=kept,
            expires_at=now + self.epoch + expires,
            call_id=request.call_id,
            cseq=request.cseq.number,
            updated=now + self.epoch,
            q=1000 if q is None else parse_q(q),
            instance=instance_id(contact),
            path=tuple(request.paths),
            size=_BINDING_COST + size,
            node=self.node,
        )

    def _expires(self, request: SipRequest, contact: NameAddr) -> int:
        """Return the lifetime of a binding (RFC 3261 §10.3 step 7, §10.2.1.1)."""
        config = self.config
        text = contact.params.get("expires")
        if text is None:
            text = request.get("expires")
        try:
            seconds = config.default_expires if text is None else parse_expires(text)
        except SipParseError:
            # An invalid value is ignored.
            seconds = config.default_expires
        if 0 < seconds < config.min_expires:
            raise _refused(423, "too brief", ("Min-Expires", str(config.min_expires)))
        return min(seconds, config.max_expires)

    def _merge(
        self, bindings: list[Binding], new: Binding, request: SipRequest, now: float
    ) -> list[Binding]:
        """Return the bindings with a new one replacing those it refreshes."""
        others = []
        for old in bindings:
            if _is_refreshed(old, new):
                self._check_order(old, request)
            else:
                others.append(old)
        if new.expires_at <= now + self.epoch:
            return others
        if self.config.outbound and new.instance is not None and wants_gruu(request):
            new = replace(new, gruu=self._gruu_number(bindings, new))
        return [*others, new]

    def _make_room(self, bindings: list[Binding]) -> list[Binding]:
        """Drop the oldest bindings of the registering client if there are too many.

        A client that reconnects without a reg-id leaves an old binding each time, until its
        connection is found dead. The last of the bindings is the new one.
        """
        instance = bindings[-1].instance
        outdated = [
            each for each in bindings[:-1] if instance is not None and each.instance == instance
        ]
        excess = len(bindings) - self.config.max_contacts
        gone = sorted(outdated, key=lambda binding: binding.updated)[:excess]
        return [binding for binding in bindings if binding not in gone]

    @staticmethod
    def _check_order(binding: Binding, request: SipRequest) -> None:
        """Refuse a REGISTER that is out of order (RFC 3261 §10.3 step 7)."""
        if binding.call_id == request.call_id and request.cseq.number <= binding.cseq:
            raise _refused(500, "REGISTER out of order")

    def _gruu_number(self, bindings: list[Binding], new: Binding) -> int:
        """Return the number in an instance's temporary GRUUs; a new Call-ID ends the old (§5.1)."""
        for old in bindings:
            if old.gruu and (old.instance, old.call_id) == (new.instance, new.call_id):
                return old.gruu
        return int.from_bytes(self._entropy(8), "big") or 1

    def _commit(self, requested: Requested, after: list[Binding], now: float) -> None:
        """Apply a REGISTER in memory, where all bindings are."""
        contacts = requested.contacts
        if contacts is not None and not contacts:
            return
        claim = self._reserve(requested, after)
        kept = {id(each) for each in after}
        before = self.store.get(requested.key)
        known = {id(each) for each in before}
        gone = [each for each in before if id(each) not in kept]
        came = [each for each in after if id(each) not in known]
        self._change(requested.key, gone, came, now, Removal.REQUEST, claim)

    def _reserve(self, requested: Requested, after: list[Binding]) -> Claim | None:
        """Refuse a REGISTER that exceeds a bound, and claim its share."""
        config, store, key, flow = self.config, self.store, requested.key, requested.flow
        own = after
        if self.node is not None:
            own = [each for each in after if each.node == self.node]
        if not own:
            return None
        before = store.get(key)
        if not before and len(store) >= config.max_aors:
            raise _refused(503, "too many users")
        if flow is not None:
            aors = store.with_flow(flow)
            if key not in aors and len(aors) >= config.max_aors_per_flow:
                raise _refused(503, "too many users on one connection")
        growth = _size(own) - _size(before)
        if growth <= 0:
            return None
        claim = self._shares.claim(requested.party, growth)
        if isinstance(claim, Bound):
            raise _refused(503, f"too much in all, as for {claim.value}")
        return claim

    def _change(
        self,
        aor: str,
        gone: Sequence[Binding],
        came: Sequence[Binding],
        now: float,
        cause: Removal,
        claim: Claim | None = None,
    ) -> None:
        """Change bindings in memory.

        Args:
            aor: Their address of record.
            gone: The bindings to remove.
            came: The bindings to add.
            now: The time, in seconds.
            cause: The reason for removals.
            claim: The claim, if larger than before.
        """
        self.store.change(aor, gone, came)
        claims = self._claims.get(aor, [])
        if claim is not None:
            claims.append(claim)
            self._claims[aor] = claims
        over = _size(gone) - _size(came)
        if not came and not self.store.get(aor):
            for held in claims:
                held.release()
            claims.clear()
        while over > 0 and claims:
            given = claims[-1].reduce(over)
            over -= given
            if not given:
                claims.pop()
        if not claims:
            self._claims.pop(aor, None)
        self._note_changes(aor, gone, came, now, cause)

    def _note_changes(
        self,
        aor: str,
        gone: Sequence[Binding],
        came: Sequence[Binding],
        now: float,
        cause: Removal,
    ) -> None:
        """Count the changes, and notify the observer."""
        self.bindings += len(came) - len(gone)
        old = {binding.name: binding for binding in gone}
        changes = []
        for binding in came:
            known = old.pop(binding.name, None)
            if known is None:
                self.added += 1
            else:
                self.refreshed += 1
            changes.append((binding, Change.ADDED if known is None else Change.REFRESHED))
        self.removed[cause] += len(old)
        changes += [(binding, Change.REMOVED) for binding in old.values()]
        if self.observer is not None:
            wall = now + self.epoch
            for binding, change in changes:
                expires = binding.expires_at - wall
                self.observer(BindingChange(aor, binding, change, cause, expires), now)

    def _accept(
        self,
        request: SipRequest,
        aor: SipUri,
        bindings: list[Binding],
        now: float,
        *,
        outbound: bool,
    ) -> SipResponse:
        fields: list[tuple[str, NameAddr | str]] = []
        wall = now + self.epoch
        with_gruus = self.config.outbound and wants_gruu(request)
        for binding in bindings:
            # Rounded up: a client that refreshes in time must not find a binding it was promised
            # for another moment gone.
            left = -int(-(binding.expires_at - wall) // 1)
            contact = binding.contact.with_param("expires", str(left))
            if not self.config.outbound and binding.received is not None:
                contact = contact.with_param("received", str(binding.received))
            if with_gruus and binding.gruu and binding.instance is not None:
                contact = add_gruus(
                    contact,
                    public_gruu(aor, binding.instance),
                    self._gruus.make(aor, binding.gruu),
                )
            fields.append(("Contact", contact))
        if "path" in request.tokens("supported"):
            fields += copy_path(request)
        fields.append(("Supported", "outbound, path, gruu" if self.config.outbound else "path"))
        if outbound:
            fields += [("Require", "outbound"), ("Flow-Timer", str(self.config.flow_timer))]
        return request.make_response(200, headers=fields)

    # -- ends --------------------------------------------------------------------------------------

    def flow_lost(self, flow: Flow, now: float) -> int:
        """Remove the bindings of an ended connection (RFC 5626 §6).

        Args:
            flow: The connection.
            now: The time, in seconds.

        Returns:
            Number of removed bindings.
        """
        removed = 0
        for aor in self.store.with_flow(flow):
            gone = [binding for binding in self.store.get(aor) if binding.flow == flow]
            removed += len(gone)
            self._change(aor, gone, (), now, Removal.CONNECTION)
            self._note(aor)
        return removed

    def next_deadline(self) -> float | None:
        """Return the time at which to call :meth:`handle_timeout`, or ``None``."""
        expiry = self.store.next_expiry()
        return None if expiry is None else expiry - self.epoch

    def handle_timeout(self, now: float) -> None:
        """Drop expired bindings; early calls do nothing.

        A location store forgets them by itself.
        """
        wall = now + self.epoch
        for aor in self.store.due(wall):
            gone = [binding for binding in self.store.get(aor) if binding.expires_at <= wall]
            self._change(aor, gone, (), now, Removal.EXPIRED)
            self.forget(aor)


def _no_gruu(uri: SipUri) -> Rejection:
    return Rejection(404, f"{uri!s:.100} is not a GRUU of ours, or no longer one")


def _refuse(
    request: SipRequest, error: Exception, refused: Callable[[Rejection], object] | None
) -> SipResponse:
    """Return the response to a refused REGISTER."""
    if isinstance(error, _Refused):
        rejection = error.rejection
    elif isinstance(error, SipParseError):
        rejection = Rejection(error.status, error.detail)
    else:
        rejection = Rejection(400, str(error))
    if refused is not None:
        refused(rejection)
    return rejection.response(request)


def _is_refreshed(old: Binding, new: Binding) -> bool:
    """Return whether a new binding takes the place of an old one.

    Flows of Outbound are told apart by instance and reg-id (RFC 5626 §6), and other bindings by
    Contact (RFC 3261 §10.3 step 7). A client can change from one to the other. On the same
    connection it is the same client, which would otherwise get each call twice, and the rest of its
    calls after it has unregistered.
    """
    if old.outbound is not None and new.outbound is not None:
        return old.outbound == new.outbound
    if old.contact.uri != new.contact.uri:
        return False
    return old.outbound == new.outbound or (new.flow is not None and old.flow == new.flow)


def _update(found: Found, after: Sequence[Binding]) -> Update:
    """Return the update from a location store's bindings to those afterwards."""
    drop = (*[each for each in found.bindings if not _is_among(each, after)], *found.gone)
    put = tuple([each for each in after if not _is_among(each, found.bindings)])
    return Update(found.aor, found.version, drop, put)


def _is_among(binding: Binding, others: Sequence[Binding]) -> bool:
    # URIs take the longest to compare; a binding that was refreshed differs in its time.
    return any(
        binding is other or (binding.updated == other.updated and binding == other)
        for other in others
    )


def _size(bindings: Sequence[Binding]) -> int:
    return sum([binding.size for binding in bindings])


def _preferred(bindings: Sequence[Binding]) -> list[Binding]:
    """Return bindings ordered by preference and then latest first."""
    return sorted(bindings, key=lambda binding: (-binding.q, -binding.updated))
