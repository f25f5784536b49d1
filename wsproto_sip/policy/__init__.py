"""Admission: whether a handshake is let in, as checks from a request to a decision.

Each module holds one subject; :mod:`~wsproto_sip.policy.decision` holds what they share and the
chain that runs them in order. Nothing here reads a clock, a socket or a database: the time and the
counts come in with the :class:`RequestContext`, and a question that takes I/O to answer is handed
out as a deferred decision.
"""

from __future__ import annotations

from .decision import (
    Accept,
    Continue,
    Deferred,
    Identity,
    Pending,
    Policy,
    PolicyChain,
    Reject,
    RequestContext,
)

__all__ = [
    "Accept",
    "Continue",
    "Deferred",
    "Identity",
    "Pending",
    "Policy",
    "PolicyChain",
    "Reject",
    "RequestContext",
]
