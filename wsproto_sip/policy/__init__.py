"""Admission: policies that accept or reject a handshake.

Each module covers one subject; :mod:`~wsproto_sip.policy.decision` has the shared types and the
chain that runs policies in order. Policies do not read a clock, a socket or a database: the time
and the counts are in the :class:`RequestContext`, and a question that needs I/O to answer is
returned as a deferred decision.
"""

from __future__ import annotations

from ..auth.identity import Identity
from .authentication import AuthenticationPolicy, Basic
from .capacity import CapacityPolicy
from .cors import CorsMode, CorsPolicy
from .decision import (
    Accept,
    Continue,
    Decision,
    Deferred,
    Outcome,
    Pending,
    Policy,
    PolicyChain,
    Reject,
    RequestContext,
    Respond,
)
from .digest import Digest
from .enabled import EnabledPolicy
from .forwarded import ForwardedHeader, ForwardedPolicy, TrustedNetworks
from .health import HealthPolicy
from .host import HostPolicy, LocalPortPolicy
from .origin import ANY_ORIGIN, OriginPolicy
from .page import PagePolicy, Resource
from .proxy_protocol import ProxyHeader, ProxyHeaderParser
from .subprotocol import SubprotocolPolicy
from .target import TargetPolicy
from .token import Bearer, TokenPlace, TokenPolicy, TokenQuestion, TokenSource

__all__ = [
    "ANY_ORIGIN",
    "Accept",
    "AuthenticationPolicy",
    "Basic",
    "Bearer",
    "CapacityPolicy",
    "Continue",
    "CorsMode",
    "CorsPolicy",
    "Decision",
    "Deferred",
    "Digest",
    "EnabledPolicy",
    "ForwardedHeader",
    "ForwardedPolicy",
    "HealthPolicy",
    "HostPolicy",
    "Identity",
    "LocalPortPolicy",
    "OriginPolicy",
    "Outcome",
    "PagePolicy",
    "Pending",
    "Policy",
    "PolicyChain",
    "ProxyHeader",
    "ProxyHeaderParser",
    "Reject",
    "RequestContext",
    "Resource",
    "Respond",
    "SubprotocolPolicy",
    "TargetPolicy",
    "TokenPlace",
    "TokenPolicy",
    "TokenQuestion",
    "TokenSource",
    "TrustedNetworks",
]
