"""The management commands of a SIP edge: registrations, and pending requests.

Names, forms and texts of ``ul.dump``, ``ul.lookup``, ``ul.rm`` and ``tm.list`` follow Kamailio's
``usrloc`` and ``tm`` modules where they show the same data; ``ws.upstreams`` is named
in the same style.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...server.management.commands import (
    ApplicationFault,
    CommandError,
    EmptyResult,
    FactsResult,
    Fault,
    Parameters,
    Result,
    TreeResult,
)

if TYPE_CHECKING:
    from ...server.management.commands import CommandTable
    from ..registrar.registrar import Registrar
    from ..registrar.store import Binding
    from .edge import SipEdge
    from .transactions import Transaction

__all__ = ["add_sip_commands"]

#: What Kamailio calls the table of bindings; commands may name it before the address.
_TABLE: Final = "location"

_NOT_FOUND: Final = ApplicationFault(500, "AOR not found in location table")
_NOT_REMOVED: Final = ApplicationFault(500, "Failed to delete AOR")
_NO_TABLE: Final = ApplicationFault(500, "Domain table not found")

#: Characters of one text of a message.
_MAX_TEXT: Final = 256

#: Transactions that are listed unless told otherwise, and at most.
_DEFAULT_TRANSACTIONS: Final = 100
_MAX_TRANSACTIONS: Final = 1000


def add_sip_commands(commands: CommandTable, edge: SipEdge) -> None:
    """Add the commands of an edge to those of its endpoint.

    Args:
        commands: The endpoint's commands.
        edge: The edge; ``ul.*`` are added if it is the registrar, ``ws.upstreams`` if it has
            upstreams.

    Raises:
        ValueError: They were already added.
    """
    registrar = edge.registrar
    if registrar is not None:
        bindings = _Bindings(registrar)
        commands.add(
            "ul.dump",
            "Show registrations, 50 addresses by default: [brief] [NAME=VALUE ...]",
            bindings.dump,
            positional=("form",),
            options=("offset", "limit"),
        )
        commands.add(
            "ul.lookup",
            "Show the registrations of an address: [location] AOR",
            bindings.lookup,
            positional=("table", "aor"),
        )
        commands.add(
            "ul.rm",
            "Remove the registrations of an address: [location] AOR",
            bindings.remove,
            positional=("table", "aor"),
        )

    if edge.upstreams:
        commands.add(
            "ws.upstreams",
            "Show the SIP upstreams and whether they are in service",
            lambda parameters, now: _upstreams(edge),
        )

    def transactions(parameters: Parameters, now: float) -> Result:
        offset, limit = parameters.page(_DEFAULT_TRANSACTIONS, _MAX_TRANSACTIONS)
        return TreeResult([_transaction(found) for found in edge.transactions_page(offset, limit)])

    commands.add(
        "tm.list",
        "List pending SIP requests, 100 by default: [NAME=VALUE ...]",
        transactions,
        options=("offset", "limit"),
    )


def _upstreams(edge: SipEdge) -> Result:
    """Return the state of each upstream, by its name."""
    values: dict[str, int | float | str] = {}
    for name, counts in edge.upstream_statistics.items():
        state = "in service" if counts.in_service else "out of service"
        values[name] = f"{state}, {counts.requests} requests, {counts.failures} failures"
    return FactsResult(values)


class _Bindings:
    """The commands about bindings."""

    def __init__(self, registrar: Registrar) -> None:
        self._registrar = registrar

    def dump(self, parameters: Parameters, now: float) -> Result:
        form = parameters.text("form")
        if form not in (None, "brief"):
            raise CommandError(Fault.INVALID_PARAMETERS, "the form must be brief")
        offset, limit = parameters.page()
        store = self._registrar.store
        found = store.page(offset, limit + 1)
        shown: list[object] = []
        for aor in found[:limit]:
            if form == "brief":
                shown.append({"AoR": aor})
            else:
                shown.append({"Info": {"AoR": aor, "Contacts": self._contacts(aor, now)}})
        statistics: dict[str, object] = {
            "Records": len(store),
            "Truncated": "yes" if len(found) > limit else "no",
        }
        if len(found) > limit:
            statistics["Next"] = offset + limit
        domain = {"Domain": _TABLE, "AoRs": shown, "Stats": statistics}
        return TreeResult({"Domains": [{"Domain": domain}]})

    def lookup(self, parameters: Parameters, now: float) -> Result:
        aor = self._aor(parameters)
        contacts = self._contacts(aor, now)
        if not contacts:
            raise CommandError(_NOT_FOUND)
        return TreeResult({"AoR": aor, "Contacts": contacts})

    def remove(self, parameters: Parameters, now: float) -> Result:
        if not self._registrar.remove(self._aor(parameters), now):
            raise CommandError(_NOT_REMOVED)
        return EmptyResult()

    def _contacts(self, aor: str, now: float) -> list[object]:
        wall = self._registrar.wall(now)
        return [
            {"Contact": _contact(binding, wall)}
            for binding in self._registrar.bindings_of(aor, now)
        ]

    def _aor(self, parameters: Parameters) -> str:
        """Return the address that a command names, with the scheme as in the store."""
        table, aor = parameters.required("table"), parameters.text("aor")
        if aor is None:
            # The table may be omitted.
            table, aor = _TABLE, table
        if table != _TABLE:
            raise CommandError(_NO_TABLE)
        return aor if aor.lower().startswith(("sip:", "sips:")) else f"sip:{aor}"


def _contact(binding: Binding, wall: float) -> dict[str, object]:
    """Return the fields of a binding, under Kamailio's names.

    Args:
        binding: The binding.
        wall: The time of the wall clock.
    """
    outbound = binding.outbound
    return {
        "Address": str(binding.uri),
        "Expires": max(int(binding.expires_at - wall), 0),
        "Q": binding.q / 1000,
        "Call-ID": binding.call_id,
        "CSeq": binding.cseq,
        "Received": "" if binding.received is None else str(binding.received),
        "Path": ", ".join(map(str, binding.path)),
        "Instance": binding.instance or "",
        "Reg-Id": 0 if outbound is None else outbound.reg_id,
        "Tcpconn-Id": -1 if binding.flow is None else binding.flow.cid,
        "Age": max(int(wall - binding.updated), 0),
    }


def _transaction(transaction: Transaction) -> dict[str, object]:
    """Return the fields of a transaction, under Kamailio's names if it has one."""
    request = transaction.request
    origin = transaction.origin
    return {
        "tlabel": transaction.serial,
        "method": request.method,
        "uri": request.start_line.split(" ")[1][:_MAX_TEXT],
        **{
            key: (request.get(name) or "")[:_MAX_TEXT]
            for key, name in (
                *(("from", "From"), ("to", "To")),
                *(("callid", "Call-ID"), ("cseq", "CSeq")),
            )
        },
        "state": transaction.state.name.lower(),
        "outgoings": len(transaction.branches),
        "connection": None if origin is None else origin.cid,
    }
