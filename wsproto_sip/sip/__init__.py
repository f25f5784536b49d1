"""SIP for a WebSocket edge: messages, headers and routing (RFC 3261, RFC 7118), without IO."""

from __future__ import annotations

from .address import NameAddr
from .alias import (
    AliasResult,
    AliasTarget,
    add_contact_alias,
    format_alias,
    handle_ruri_alias,
    parse_alias,
    set_contact_alias,
)
from .digest import (
    DIGEST_ALGORITHMS,
    DigestChallenge,
    DigestCredentials,
    digest_ha1,
    digest_response,
    parse_credentials,
    verify_digest,
)
from .errors import SipParseError, SipValueError, reason_phrase
from .gruu import TemporaryGruus, add_gruus, public_gruu, public_gruu_instance, wants_gruu
from .headers import CSeq, parse_contacts, parse_expires, parse_q, parse_tokens
from .identity import check_identity
from .limits import SipLimits
from .message import SipMessage, SipRequest, SipResponse
from .nat import (
    NatTest,
    fix_nated_contact,
    fix_nated_register,
    force_rport,
    is_private,
    nat_uac_test,
)
from .outbound import (
    Flow,
    FlowTokens,
    OutboundBinding,
    flow_deadline,
    flow_timer,
    instance_id,
    outbound_binding,
    reg_id,
    resolve_flow,
    uses_outbound,
)
from .params import Params, UriParams
from .parser import parse_message
from .path import add_path, apply_path, copy_path, path_received
from .routing import (
    LooseRoute,
    Rejection,
    add_received,
    branch_for,
    decrement_max_forwards,
    is_loop,
    loose_route,
    pop_via,
    prepare_next_hop,
    push_via,
    record_route,
    response_address,
    validate_request,
)
from .stream import KeepAlive, SipStreamParser, StreamItem, is_keepalive
from .transport import TRANSPORT_NUMBERS, Source, default_port
from .uri import AbsoluteUri, SipUri, TelUri, Uri, parse_uri
from .via import Via

__all__ = [
    "DIGEST_ALGORITHMS",
    "TRANSPORT_NUMBERS",
    "AbsoluteUri",
    "AliasResult",
    "AliasTarget",
    "CSeq",
    "DigestChallenge",
    "DigestCredentials",
    "Flow",
    "FlowTokens",
    "KeepAlive",
    "LooseRoute",
    "NameAddr",
    "NatTest",
    "OutboundBinding",
    "Params",
    "Rejection",
    "SipLimits",
    "SipMessage",
    "SipParseError",
    "SipRequest",
    "SipResponse",
    "SipStreamParser",
    "SipUri",
    "SipValueError",
    "Source",
    "StreamItem",
    "TelUri",
    "TemporaryGruus",
    "Uri",
    "UriParams",
    "Via",
    "add_contact_alias",
    "add_gruus",
    "add_path",
    "add_received",
    "apply_path",
    "branch_for",
    "check_identity",
    "copy_path",
    "decrement_max_forwards",
    "default_port",
    "digest_ha1",
    "digest_response",
    "fix_nated_contact",
    "fix_nated_register",
    "flow_deadline",
    "flow_timer",
    "force_rport",
    "format_alias",
    "handle_ruri_alias",
    "instance_id",
    "is_keepalive",
    "is_loop",
    "is_private",
    "loose_route",
    "nat_uac_test",
    "outbound_binding",
    "parse_alias",
    "parse_contacts",
    "parse_credentials",
    "parse_expires",
    "parse_message",
    "parse_q",
    "parse_tokens",
    "parse_uri",
    "path_received",
    "pop_via",
    "prepare_next_hop",
    "public_gruu",
    "public_gruu_instance",
    "push_via",
    "reason_phrase",
    "record_route",
    "reg_id",
    "resolve_flow",
    "response_address",
    "set_contact_alias",
    "uses_outbound",
    "validate_request",
    "verify_digest",
    "wants_gruu",
]
