"""SIP over WebSocket (RFC 7118): messages, routing rules, a registrar and an edge."""

from __future__ import annotations

from .edge.actions import (
    AskQuestion,
    EdgeAction,
    HookFailed,
    ResetUpstream,
    SendToConnection,
    SendToUpstream,
)
from .edge.application import EdgeApplication
from .edge.config import ChallengeScope, EdgeConfig, EdgeMode, Upstream
from .edge.connections import Peer
from .edge.edge import SipEdge
from .edge.hook import EdgeHook, HookRequest, Proceed, Refuse, Verdict
from .message.address import NameAddr
from .message.errors import SipParseError, SipValueError
from .message.headers import CSeq
from .message.limits import SipLimits
from .message.message import SipMessage, SipRequest, SipResponse
from .message.params import Params
from .message.parser import parse_message
from .message.stream import KeepAlive, SipStreamParser
from .message.transport import Source
from .message.uri import AbsoluteUri, SipUri, TelUri, Uri, parse_uri
from .message.via import Via
from .registrar.authentication import DigestAuthenticator
from .registrar.bearer import BearerQuestion, BearerVerifier
from .registrar.domains import Domains
from .registrar.registrar import Registrar, RegistrarConfig
from .registrar.store import Binding, MemoryStore, Node
from .rules.alias import AliasResult, add_contact_alias, handle_ruri_alias
from .rules.gruu import TemporaryGruus
from .rules.nat import NatTest, fix_nated_contact, fix_nated_register, force_rport, nat_uac_test
from .rules.outbound import Flow, FlowTokens
from .rules.path import add_path
from .rules.routing import Rejection, loose_route, pop_via, push_via, record_route, validate_request

__all__ = [
    "AbsoluteUri",
    "AliasResult",
    "AskQuestion",
    "BearerQuestion",
    "BearerVerifier",
    "Binding",
    "CSeq",
    "ChallengeScope",
    "DigestAuthenticator",
    "Domains",
    "EdgeAction",
    "EdgeApplication",
    "EdgeConfig",
    "EdgeHook",
    "EdgeMode",
    "Flow",
    "FlowTokens",
    "HookFailed",
    "HookRequest",
    "KeepAlive",
    "MemoryStore",
    "NameAddr",
    "NatTest",
    "Node",
    "Params",
    "Peer",
    "Proceed",
    "Refuse",
    "Registrar",
    "RegistrarConfig",
    "Rejection",
    "ResetUpstream",
    "SendToConnection",
    "SendToUpstream",
    "SipEdge",
    "SipLimits",
    "SipMessage",
    "SipParseError",
    "SipRequest",
    "SipResponse",
    "SipStreamParser",
    "SipUri",
    "SipValueError",
    "Source",
    "TelUri",
    "TemporaryGruus",
    "Upstream",
    "Uri",
    "Verdict",
    "Via",
    "add_contact_alias",
    "add_path",
    "fix_nated_contact",
    "fix_nated_register",
    "force_rport",
    "handle_ruri_alias",
    "loose_route",
    "nat_uac_test",
    "parse_message",
    "parse_uri",
    "pop_via",
    "push_via",
    "record_route",
    "validate_request",
]
