"""Finding out which upstreams are in service, from OPTIONS and from other requests.

Theory of operation: while there is a choice, or while an upstream is dead, it is sent OPTIONS from
time to time. Any answer but 503 is a sign of life, whatever its status: a proxy that refuses
OPTIONS is alive. The fate of other requests counts as well. An INVITE without any response is a
failure, because the next hop answers with 100 at once. Other requests may be waiting for an element
further away, so that their silence is only a reason to probe at once (RFC 4320 §4). A change is
reported as an action.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from ..message.message import SipRequest, SipResponse
from ..message.uri import SipUri
from .actions import UpstreamChanged
from .transactions import Resend
from .upstreams import Health, Sign, Upstreams

if TYPE_CHECKING:
    from ...typing import Entropy
    from .config import EdgeConfig, Upstream
    from .outbox import Outbox
    from .router import EdgeRouter

__all__ = ["Prober"]

_MAX_FORWARDS: Final = "70"


@dataclass(slots=True)
class _Probe:
    """A pending OPTIONS.

    Args:
        branch: The branch parameter of its Via.
        deadline: The time at which it fails.
        resend: Its retransmission; ``None`` on a reliable transport.
    """

    branch: str
    deadline: float
    resend: Resend | None

    def next(self) -> float:
        """Return the time of the next action."""
        return self.deadline if self.resend is None else min(self.deadline, self.resend.at)


class Prober:
    """Monitor the upstreams of an edge.

    Args:
        config: The edge's configuration.
        upstreams: Its upstreams.
        router: Writes Via.
        outbox: Takes messages and reports.
        entropy: Source of random bytes.
    """

    def __init__(
        self,
        config: EdgeConfig,
        upstreams: Upstreams,
        router: EdgeRouter,
        outbox: Outbox,
        entropy: Entropy,
    ) -> None:
        self._config = config
        self._probing = config.probing
        self._upstreams = upstreams
        self._router = router
        self._outbox = outbox
        self._entropy = entropy
        #: The time of each upstream's next probe, and the pending probes, both by name.
        self._next: dict[str, float] = {}
        self._open: dict[str, _Probe] = {}
        self._due: float | None = None
        self.upstreams_changed()

    def upstreams_changed(self) -> None:
        """Update the upstreams, and probe new ones at once."""
        names = {upstream.name for upstream in self._upstreams}
        self._next = {name: when for name, when in self._next.items() if name in names}
        self._open = {name: probe for name, probe in self._open.items() if name in names}
        for upstream in self._upstreams:
            name = upstream.name
            if name not in self._next and name not in self._open and self._is_watched(name):
                self._next[name] = -inf
        self._arm()

    # -- signs -------------------------------------------------------------------------------------

    def heard(self, name: str, now: float) -> None:
        """Record that an upstream has answered a request."""
        self._sign(name, Sign.ANSWER, now, "it answers")

    def unreachable(self, name: str, now: float, reason: str) -> None:
        """Record that an upstream is unreachable.

        Args:
            name: The upstream.
            now: The time, in seconds.
            reason: The reason reported by the network.
        """
        self._sign(name, Sign.UNREACHABLE, now, reason)

    def silent(self, name: str, method: str, now: float) -> None:
        """Record that an upstream has not answered a request in time.

        Args:
            name: The upstream.
            method: The method of the request.
            now: The time, in seconds.
        """
        if method == "INVITE":
            self._sign(name, Sign.FAILURE, now, "it does not answer INVITE")
        self.hurry(name, now)

    def hurry(self, name: str, now: float) -> None:
        """Probe a known upstream at once, unless a probe is pending."""
        upstream = self._upstreams.get(name)
        if upstream is not None and not upstream.is_node and name not in self._open:
            self._probe(upstream, now)
            self._arm()

    def _sign(self, name: str, sign: Sign, now: float, reason: str) -> None:
        upstream = self._upstreams.get(name)
        if upstream is not None and upstream.is_node:
            # The location store says which nodes run, and without probes a dead one would stay so.
            return
        in_service = self._upstreams.sign(name, sign, now)
        if in_service is None:
            return
        self._outbox.add(UpstreamChanged(name, in_service, reason))
        if not in_service and name not in self._open:
            self._schedule(name, now)
            self._arm()

    # -- probes ------------------------------------------------------------------------------------

    def response(self, response: SipResponse, now: float) -> bool:
        """Process a response to a probe.

        Args:
            response: A response from an upstream.
            now: The time, in seconds.

        Returns:
            Whether it answers a probe.

        Raises:
            SipParseError: Its syntax is bad.
        """
        if not self._open or response.cseq.method != "OPTIONS":
            return False
        branch = response.via.branch
        name = next((name for name, probe in self._open.items() if probe.branch == branch), None)
        if name is None:
            return False
        if response.status >= 200:
            del self._open[name]
            if response.status == 503:
                self._sign(name, Sign.FAILURE, now, "503 to OPTIONS")
            else:
                self._sign(name, Sign.ANSWER, now, f"{response.status} to OPTIONS")
            self._schedule(name, now)
            self._arm()
        return True

    def next_deadline(self) -> float | None:
        """Return when to call :meth:`handle_timeout`; ``None`` for never."""
        return self._due

    def handle_timeout(self, now: float) -> None:
        """Handle passed deadlines; early calls do nothing."""
        if self._due is None or self._due > now:
            return
        for name, probe in list(self._open.items()):
            if probe.deadline <= now:
                del self._open[name]
                self._sign(name, Sign.FAILURE, now, "no answer to OPTIONS")
                self._schedule(name, now)
            elif probe.resend is not None and probe.resend.at <= now:
                self._outbox.add(probe.resend.again(now))
        for name, when in list(self._next.items()):
            upstream = self._upstreams.get(name)
            if when <= now and upstream is not None:
                self._probe(upstream, now)
        self._arm()

    def _is_watched(self, name: str) -> bool:
        upstream = self._upstreams.get(name)
        if upstream is None or upstream.is_node:
            # Which nodes run is known from the location store.
            return False
        return len(self._upstreams) > 1 or self._upstreams.health(name) is Health.DEAD

    def _schedule(self, name: str, now: float) -> None:
        """Set the time of the next probe, if the upstream is monitored."""
        if self._is_watched(name):
            chance = int.from_bytes(self._entropy(4), "big") / 2**32
            interval = self._probing.interval * (1 - self._probing.jitter * chance)
            self._next[name] = now + interval

    def _arm(self) -> None:
        times = [*self._next.values(), *[probe.next() for probe in self._open.values()]]
        self._due = min(times, default=None)

    def _probe(self, upstream: Upstream, now: float) -> None:
        config, name = self._config, upstream.name
        self._next.pop(name, None)
        branch = f"z9hG4bK{self._entropy(12).hex()}"
        action = self._outbox.write(self._options(upstream, branch), name, upstream.link)
        resend = None
        if not upstream.reliable:
            resend = Resend(action, now + config.t1, config.t1, config.t2)
        self._open[name] = _Probe(branch, now + self._probing.timeout, resend)
        self._outbox.add(action)

    def _options(self, upstream: Upstream, branch: str) -> SipRequest:
        uri = SipUri.make(upstream.host, port=upstream.port)
        if upstream.reliable:
            uri = uri.with_param("transport", upstream.transport)
        via = self._router.via(None, branch, upstream=upstream.name)
        token = self._entropy(12).hex()
        fields = [
            ("Via", str(via)),
            ("Max-Forwards", _MAX_FORWARDS),
            ("From", f"<{SipUri.make(upstream.local_host, port=upstream.local_port)}>;tag={token}"),
            ("To", f"<{uri}>"),
            ("Call-ID", branch),
            ("CSeq", "1 OPTIONS"),
        ]
        return SipRequest("OPTIONS", uri, fields)
