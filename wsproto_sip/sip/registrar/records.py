"""Bindings as text, for location stores outside this process.

Theory of operation: a record is one binding as a JSON object of plain ASCII, under a key that is
the same at all nodes. Times in a binding are those of its node's own clock. A record also says how
far the clock of the store was ahead of it, and a reader knows the same of its own clock, so that
nodes with clocks that differ agree on when a binding ends and on which of two is the later one.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final

from ...errors import WsprotoSipError
from ..message.address import NameAddr
from ..message.uri import SipUri
from ..rules.outbound import Flow, OutboundBinding
from .store import Binding, Node

__all__ = ["RecordError", "binding_of", "key_of", "record_of"]

#: The record as text. Every REGISTER writes one, and an encoder of objects takes twice as long.
_RECORD: Final = (
    '{"contact":%s,"expires":%r,"updated":%r,"ahead":%r,"call-id":%s,"cseq":%d,"q":%d,'
    '"instance":%s,"outbound":%s,"path":[%s],"received":%s,"gruu":%d,"size":%d,'
    '"node":%s,"boot":%s,"token":%s,"flow":%s}'
)


class RecordError(WsprotoSipError, ValueError):
    """A text is not the record of a binding."""


def key_of(binding: Binding) -> str:
    """Return the key of a binding among the records of its address.

    Args:
        binding: The binding.
    """
    outbound = binding.outbound
    # A reg-id is never 0 (RFC 5626 §4.2).
    return f"0 {binding.uri}" if outbound is None else f"{outbound.reg_id} {outbound.instance}"


def record_of(binding: Binding, ahead: float = 0.0) -> str:
    """Return the record of a binding.

    Args:
        binding: The binding, which has a node.
        ahead: Seconds by which the store's clock is ahead of the one in the binding.

    Raises:
        ValueError: It has no node.
    """
    node, outbound, flow = binding.node, binding.outbound, binding.flow
    if node is None:
        raise ValueError("only bindings of nodes have records")
    return _RECORD % (
        _quoted(str(binding.contact)),
        binding.expires_at,
        binding.updated,
        ahead,
        _quoted(binding.call_id),
        binding.cseq,
        binding.q,
        "null" if binding.instance is None else _quoted(binding.instance),
        "null" if outbound is None else f"[{_quoted(outbound.instance)},{outbound.reg_id}]",
        ",".join([_quoted(str(each)) for each in binding.path]),
        "null" if binding.received is None else _quoted(str(binding.received)),
        binding.gruu,
        binding.size,
        _quoted(node.name),
        _quoted(node.boot),
        _quoted(binding.token),
        "null" if flow is None else f"[{flow.cid},{flow.generation}]",
    )


def binding_of(text: str, reader: Node, ahead: float = 0.0) -> Binding:
    """Return the binding of a record.

    Args:
        text: The record.
        reader: The node that reads it. Only its own bindings have a flow.
        ahead: Seconds by which the store's clock is ahead of the reader's.

    Raises:
        RecordError: The text is not a record.
    """
    try:
        values: dict[str, Any] = json.loads(text)
        node = Node(str(values["node"]), str(values["boot"]))
        own = node == reader
        # Its own times have to come back exactly as they were written.
        shift = 0.0 if own else float(values["ahead"]) - ahead
        instance, outbound = values["instance"], values["outbound"]
        received, flow = values["received"], values["flow"]
        contact = NameAddr.parse(values["contact"])
        # Raises for another scheme, which a registrar accepts no contact of.
        contact.sip_uri  # noqa: B018
        return Binding(
            contact,
            float(values["expires"]) + shift,
            str(values["call-id"]),
            int(values["cseq"]),
            float(values["updated"]) + shift,
            int(values["q"]),
            None if instance is None else str(instance),
            None if outbound is None else OutboundBinding(str(outbound[0]), int(outbound[1])),
            tuple([NameAddr.parse(each) for each in values["path"]]),
            Flow(int(flow[0]), int(flow[1])) if own and flow is not None else None,
            None if received is None else SipUri.parse(received),
            int(values["gruu"]),
            int(values["size"]),
            node,
            str(values["token"]),
        )
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as exc:
        raise RecordError(f"not the record of a binding: {exc!s:.200}") from None
