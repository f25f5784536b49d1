"""The contacts that a request goes to, and the response that is chosen (RFC 3261 §16.6, §16.7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..message.address import NameAddr
from ..message.message import SipResponse
from ..message.uri import SipUri
from ..registrar.store import Binding
from ..rules.outbound import Flow

__all__ = ["Target", "best_response", "fork_groups"]

#: Responses that let a client correct its request are preferred within their class.
_MENDABLE = (401, 407, 415, 420, 484)
#: Responses that say least about the user: a client was silent, or overloaded.
_LAST = (408, 503)


@dataclass(frozen=True, slots=True)
class Target:
    """One destination of a request.

    Args:
        flow: The connection; ``None`` for the upstream.
        uri: The new Request-URI; ``None`` keeps the present one.
        path: Values to prepend to Route.
        alternatives: Other flows of the same client, in case this one fails (RFC 5626 §7).
        node: The node that has the connection; ``None`` for a connection here, and the upstream.
    """

    flow: Flow | None
    uri: SipUri | None = None
    path: tuple[NameAddr, ...] = ()
    alternatives: tuple[Target, ...] = ()
    node: str | None = None

    @property
    def is_upstream(self) -> bool:
        """Whether it leads to an upstream, and not to a node of ours."""
        return self.flow is None and self.node is None


def fork_groups(
    bindings: Sequence[Binding], routes: Mapping[str, SipUri] | None = None
) -> list[list[Target]]:
    """Return the targets of a request for some bindings, in groups to be tried one after another.

    The bindings of a group are equally preferred and tried at the same time. Several of one client,
    by its instance, count once, whether it uses Outbound or not (RFC 5626 §7): the second is tried
    after the first has failed, so that no telephone rings twice.

    Args:
        bindings: The bindings, by preference and then the latest first.
        routes: The addresses of other nodes, by their names; bindings of any further node are
            passed over.
    """
    groups: dict[int, list[Target]] = {}
    clients: dict[str, tuple[int, int]] = {}
    for binding in bindings:
        target = _target(binding, routes or {})
        if target is None:
            continue
        if binding.instance is not None:
            known = clients.get(binding.instance)
            if known is not None:
                group = groups[known[0]]
                first = group[known[1]]
                group[known[1]] = replace(first, alternatives=(*first.alternatives, target))
                continue
            clients[binding.instance] = (binding.q, len(groups.get(binding.q, ())))
        groups.setdefault(binding.q, []).append(target)
    return list(groups.values())


def _target(binding: Binding, routes: Mapping[str, SipUri]) -> Target | None:
    if binding.flow is not None:
        return Target(binding.flow, binding.uri, binding.path)
    node = None if binding.node is None else binding.node.name
    route = routes.get(node or "")
    if route is None:
        return None
    # RFC 5626 §5.2: the token leads the node to the connection.
    way = SipUri(route.host, binding.token, route.port, route.params, route.scheme)
    return Target(None, binding.uri, (NameAddr(way), *binding.path), node=node)


def best_response(responses: Sequence[SipResponse]) -> SipResponse:
    """Return the response to send on after all branches have failed (RFC 3261 §16.7 steps 6 and 7).

    A 6xx takes precedence, then the lowest class; within the class, responses that help the client
    to correct its request. The challenges of all 401 and 407 responses are added to the chosen one.

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
