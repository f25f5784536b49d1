"""The registrar: who can be reached where (RFC 3261 §10, RFC 3327, RFC 5626, RFC 5627).

Theory of operation: a REGISTER is read completely, its bindings are worked out on a copy of what
the store holds, and that replaces the old value at the end; whatever is wrong before leaves
everything as it was. A binding remembers the flow it came on and ends with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .address import NameAddr
from .domains import Domains
from .errors import SipParseError, SipValueError
from .gruu import TemporaryGruus, add_gruus, public_gruu, public_gruu_instance, wants_gruu
from .headers import parse_expires, parse_q
from .message import SipRequest, SipResponse
from .nat import fix_nated_register
from .outbound import Flow, instance_id, outbound_binding
from .path import copy_path
from .routing import Rejection
from .store import Binding, BindingStore, MemoryStore
from .uri import SipUri

if TYPE_CHECKING:
    from ..typing import Entropy
    from .transport import Source

__all__ = ["Registrar", "RegistrarConfig"]

#: What a binding costs beside its text, about.
_BINDING_COST = 1024
#: What a Contact of the 200 gets from us, whatever the client wrote there.
_OURS = ("expires", "received", "pub-gruu", "temp-gruu")


@dataclass(frozen=True, slots=True)
class RegistrarConfig:
    """How a registrar behaves.

    Args:
        domains: The domains of its users.
        outbound: Do Outbound and hand out GRUUs; without it bindings are ordinary ones, and the
            200 says with ``received`` where they came from.
        min_expires: The shortest time a binding may be asked for, in seconds.
        default_expires: What a binding gets that was asked for without a time.
        max_expires: The longest time.
        flow_timer: Seconds within which an Outbound client is to send a keep-alive (RFC 5626 §5.4).
        max_contacts: Bindings of one address; a REGISTER for more, or with more contacts in it, is
            refused with 503.
        max_binding_octets: What is kept of a Contact and the Path it came over; more is refused
            with 513.
        max_octets: Of all bindings, with 1 KiB for each beside its text; a REGISTER for more is
            refused with 503.
        max_aors: Addresses in all; the same.
        max_aors_per_flow: Addresses on one connection; the same.

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
    max_binding_octets: int = 8 * 1024
    max_octets: int = 256 * 1024 * 1024
    max_aors: int = 100_000
    max_aors_per_flow: int = 20

    def __post_init__(self) -> None:
        if not 0 < self.min_expires <= self.default_expires <= self.max_expires:
            raise ValueError("min_expires, default_expires and max_expires are not in order")


class _Refused(Exception):
    """A REGISTER is refused; inside this module only."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection)
        self.rejection = rejection


def _refused(status: int, detail: str, *headers: tuple[str, str]) -> _Refused:
    return _Refused(Rejection(status, detail, headers))


class Registrar:
    """Takes REGISTER requests and finds users.

    Args:
        config: How it behaves.
        store: Where the bindings are; in memory by default.
        is_known: Whether a user of that name exists: then one without a binding is unavailable
            (480) and not unknown (404), and nobody else can register.
        gruu_keys: Secrets of at least 16 octets for temporary GRUUs; a random one by default.
        entropy: Source of random octets.
    """

    def __init__(
        self,
        config: RegistrarConfig,
        store: BindingStore | None = None,
        *,
        is_known: Callable[[str], bool] | None = None,
        gruu_keys: Sequence[bytes] = (),
        entropy: Entropy = os.urandom,
    ) -> None:
        self.config = config
        self.store: BindingStore = MemoryStore() if store is None else store
        self._octets = 0
        self._is_known = is_known
        self._entropy = entropy
        self._gruus = TemporaryGruus(gruu_keys or [entropy(32)], entropy)

    # -- looking up --------------------------------------------------------------------------------

    def lookup(self, uri: SipUri, now: float) -> list[Binding] | Rejection:
        """Where a user or GRUU can be reached (RFC 3261 §16.5, RFC 5627 §5.1).

        Args:
            uri: A Request-URI.
            now: The time, in seconds.

        Returns:
            The bindings, the preferred and then the latest first, or else the refusal, which is 404
            for who is not there and 480 for who is not there now.
        """
        aor = self.config.domains.aor(uri)
        if aor is None:
            return Rejection(404, f"{uri!s:.100} is not in a domain of ours")
        key = str(aor)
        gruu = 0
        if "gr" in uri.params and (instance := public_gruu_instance(uri)) is None:
            gruu = self._gruus.open(uri) or 0
            key = self.store.with_gruu(gruu) or ""
            if not key:
                return Rejection(404, f"{uri!s:.100} is no GRUU, or no longer")
        else:
            instance = public_gruu_instance(uri)
        bindings = self._live(key, now)
        if gruu:
            found = [binding for binding in bindings if binding.gruu == gruu]
        elif instance is not None:
            found = [binding for binding in bindings if binding.instance == instance]
        else:
            found = bindings
        if found:
            return sorted(found, key=lambda binding: (-binding.q, -binding.updated))
        # A user who is there with another instance exists all the same.
        known = bool(bindings) or (
            self._is_known is not None and self._is_known(aor.username or "")
        )
        return Rejection(480 if known else 404, f"{uri!s:.100} has no binding")

    def _live(self, aor: str, now: float) -> list[Binding]:
        return [binding for binding in self.store.get(aor) if binding.expires_at > now]

    # -- REGISTER ----------------------------------------------------------------------------------

    def register(
        self,
        request: SipRequest,
        now: float,
        *,
        flow: Flow | None = None,
        source: Source | None = None,
        user: str | None = None,
    ) -> SipResponse:
        """Answer a REGISTER that ``validate_request`` has let pass.

        Args:
            request: The REGISTER.
            now: The time, in seconds.
            flow: The connection it came on.
            source: Where it came from.
            user: Who sent it, where that was proven: nobody else's bindings are touched then
                (403).

        Returns:
            200 with all bindings of the address, or the refusal, which is 400, 403, 404, 423 with
            Min-Expires, 439, 500 for a REGISTER that is out of order, 503 where there is no room,
            513 for a binding that is too large.
        """
        try:
            return self._register(request, now, flow, source, user)
        except _Refused as refused:
            return refused.rejection.response(request)
        except SipParseError as error:
            return request.make_response(error.status)
        except SipValueError:
            return request.make_response(400)

    def _register(
        self,
        request: SipRequest,
        now: float,
        flow: Flow | None,
        source: Source | None,
        user: str | None,
    ) -> SipResponse:
        aor = self.config.domains.aor(request.to.sip_uri)
        if aor is None:
            raise _refused(404, "To is not in a domain of ours")
        name = aor.username or ""
        if user is not None and user != name:
            raise _refused(403, f"{user!r:.100} may not register {name!r:.100}")
        if self._is_known is not None and not self._is_known(name):
            raise _refused(404, f"no such user: {name!r:.100}")
        key = str(aor)
        bindings = self._live(key, now)
        contacts = request.contacts
        # Each of them is compared with all others: what cannot be kept is not even looked at.
        if contacts is not None and len(contacts) > self.config.max_contacts:
            raise _refused(503, "too many contacts")
        used_outbound = False
        if contacts is None:
            if request.expires != 0:
                raise _refused(400, "Contact: * without Expires: 0")
            for binding in bindings:
                self._check_order(binding, request)
            bindings = []
        for contact in contacts or []:
            outbound = None
            if self.config.outbound:
                outcome = outbound_binding(request, contact)
                if isinstance(outcome, Rejection):
                    raise _Refused(outcome)
                outbound = outcome
            used_outbound |= outbound is not None
            new = self._binding(request, contact, now)
            new = replace(new, flow=flow, outbound=outbound)
            if source is not None:
                new = replace(new, received=fix_nated_register(request, source))
            bindings = self._merge(bindings, new, request, now)
        # All that may fail comes before the change.
        answer = self._accept(request, aor, bindings, now, outbound=used_outbound)
        if contacts is None or contacts:
            self._commit(key, bindings, flow)
        return answer

    def _binding(self, request: SipRequest, contact: NameAddr, now: float) -> Binding:
        """A Contact of a REGISTER as a binding."""
        if contact.sip_uri.headers is not None:
            raise _refused(400, "header fields in a Contact URI")
        expires = self._expires(request, contact)
        q = contact.params.get("q")
        size = len(str(contact)) + len(request.call_id) + sum(map(len, request.get_all("path")))
        if size > self.config.max_binding_octets:
            raise _refused(513, f"a binding of {size} octets")
        kept = contact
        for param in _OURS:
            kept = kept.without_param(param)
        return Binding(
            contact=kept,
            expires_at=now + expires,
            call_id=request.call_id,
            cseq=request.cseq.number,
            updated=now,
            q=1000 if q is None else parse_q(q),
            instance=instance_id(contact),
            path=tuple(request.paths),
            size=_BINDING_COST + size,
        )

    def _expires(self, request: SipRequest, contact: NameAddr) -> int:
        """For how long (RFC 3261 §10.3 step 7, §10.2.1.1)."""
        config = self.config
        text = contact.params.get("expires")
        if text is None:
            text = request.get("expires")
        try:
            seconds = config.default_expires if text is None else parse_expires(text)
        except SipParseError:
            # What cannot be read counts as if it was not there.
            seconds = config.default_expires
        if 0 < seconds < config.min_expires:
            raise _refused(423, "too brief", ("Min-Expires", str(config.min_expires)))
        return min(seconds, config.max_expires)

    def _merge(
        self, bindings: list[Binding], new: Binding, request: SipRequest, now: float
    ) -> list[Binding]:
        """The bindings with a new one in the place of the one it refreshes (RFC 5626 §6)."""
        others = []
        for old in bindings:
            if old.outbound != new.outbound or (
                new.outbound is None and old.contact.uri != new.contact.uri
            ):
                others.append(old)
            else:
                self._check_order(old, request)
        if new.expires_at <= now:
            return others
        if self.config.outbound and new.instance is not None and wants_gruu(request):
            new = replace(new, gruu=self._gruu_number(bindings, new))
        return [*others, new]

    @staticmethod
    def _check_order(binding: Binding, request: SipRequest) -> None:
        """Refuse a REGISTER that was overtaken by a later one (RFC 3261 §10.3 step 7)."""
        if binding.call_id == request.call_id and request.cseq.number <= binding.cseq:
            raise _refused(500, "REGISTER out of order")

    def _gruu_number(self, bindings: list[Binding], new: Binding) -> int:
        """The number in an instance's temporary GRUUs; another Call-ID ends the old ones (§5.1)."""
        for old in bindings:
            if old.gruu and (old.instance, old.call_id) == (new.instance, new.call_id):
                return old.gruu
        return int.from_bytes(self._entropy(8), "big") or 1

    def _commit(self, key: str, bindings: list[Binding], flow: Flow | None) -> None:
        config, store = self.config, self.store
        if bindings:
            if len(bindings) > config.max_contacts:
                raise _refused(503, "too many contacts")
            if not store.get(key) and len(store) >= config.max_aors:
                raise _refused(503, "too many users")
            if flow is not None:
                aors = store.with_flow(flow)
                if key not in aors and len(aors) >= config.max_aors_per_flow:
                    raise _refused(503, "too many users on one connection")
            if self._octets + self._growth(key, bindings) > config.max_octets:
                raise _refused(503, "too much in all")
        self._put(key, bindings)

    def _growth(self, aor: str, bindings: Sequence[Binding]) -> int:
        """Octets that the bindings of an address are more than those that are there."""
        before = sum([binding.size for binding in self.store.get(aor)])
        return sum([binding.size for binding in bindings]) - before

    def _put(self, aor: str, bindings: Sequence[Binding]) -> None:
        self._octets += self._growth(aor, bindings)
        self.store.put(aor, bindings)

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
        with_gruus = self.config.outbound and wants_gruu(request)
        for binding in bindings:
            # Rounded up: a client that refreshes in time must not find a binding it was promised
            # for another moment gone.
            left = -int(-(binding.expires_at - now) // 1)
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

    def flow_lost(self, flow: Flow) -> int:
        """Remove the bindings of a connection that has ended (RFC 5626 §6); returns how many."""
        removed = 0
        for aor in self.store.with_flow(flow):
            bindings = self.store.get(aor)
            kept = [binding for binding in bindings if binding.flow != flow]
            removed += len(bindings) - len(kept)
            self._put(aor, kept)
        return removed

    def next_deadline(self) -> float | None:
        """When :meth:`handle_timeout` has something to do; ``None`` for never."""
        return self.store.next_expiry()

    def handle_timeout(self, now: float) -> None:
        """Forget the bindings whose time is over; early calls do nothing."""
        for aor in self.store.due(now):
            self._put(aor, self._live(aor, now))
