"""Which contacts a request goes to, and whose response counts (RFC 3261 §16.6, §16.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from .address import NameAddr
from .message import SipResponse
from .outbound import Flow
from .store import Binding
from .uri import SipUri

__all__ = ["Target", "best_response", "fork_groups"]

#: The responses by which a client can mend its request are worth more than others of their class.
_MENDABLE = (401, 407, 415, 420, 484)
#: What says least about the user: a client was silent, or had no room.
_LAST = (408, 503)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes.

    Args:
        flow: The connection; ``None`` for the upstream.
        uri: The new Request-URI; ``None`` leaves the one there is.
        path: What goes before every Route.
        alternatives: Other flows of the same client, for when this one fails (RFC 5626 §7).
    """

    flow: Flow | None
    uri: SipUri | None = None
    path: tuple[NameAddr, ...] = ()
    alternatives: tuple[Target, ...] = ()


def fork_groups(bindings: Sequence[Binding]) -> list[list[Target]]:
    """The targets of a request for some bindings: one group is tried after the other.

    The bindings of a group are equally preferred and tried at the same time. Several flows of one
    client count once: the second is tried when the first has failed, so that no telephone rings
    twice.

    Args:
        bindings: The preferred and then the latest first.
    """
    groups: dict[int, list[Target]] = {}
    clients: dict[str, tuple[int, int]] = {}
    for binding in bindings:
        if binding.flow is None:
            continue
        target = Target(binding.flow, binding.uri, binding.path)
        if binding.outbound is not None:
            known = clients.get(binding.outbound.instance)
            if known is not None:
                group = groups[known[0]]
                first = group[known[1]]
                group[known[1]] = replace(first, alternatives=(*first.alternatives, target))
                continue
            clients[binding.outbound.instance] = (binding.q, len(groups.get(binding.q, ())))
        groups.setdefault(binding.q, []).append(target)
    return list(groups.values())


def best_response(responses: Sequence[SipResponse]) -> SipResponse:
    """The response that is sent on when all have failed (RFC 3261 §16.7 steps 6 and 7).

    A 6xx goes before all others, then the lowest class; within the class what helps the client to
    do better. The challenges of all 401 and 407 responses go with the one that is chosen.

    Args:
        responses: One or more final responses, none of them 2xx.
    """

    def rank(response: SipResponse) -> tuple[int, bool, bool]:
        kind = response.status // 100
        return (
            0 if kind == 6 else kind,
            response.status not in _MENDABLE,
            response.status in _LAST,
        )

    best = min(responses, key=rank)
    if best.status not in (401, 407):
        return best
    chosen = best.copy()
    for response in responses:
        if response is not best and response.status in (401, 407):
            for name in ("WWW-Authenticate", "Proxy-Authenticate"):
                for value in response.get_all(name):
                    chosen.add_header(name, value)
    return chosen
