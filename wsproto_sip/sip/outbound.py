"""SIP Outbound: requests find the connection on which the client registered (RFC 5626)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ._syntax import parse_uint
from .address import NameAddr
from .errors import SipParseError, SipValueError
from .message import SipRequest
from .routing import Rejection
from .uri import SipUri

__all__ = [
    "Flow",
    "FlowTokens",
    "OutboundBinding",
    "flow_deadline",
    "flow_timer",
    "instance_id",
    "outbound_binding",
    "reg_id",
    "resolve_flow",
    "uses_outbound",
]

_MIN_KEY = 16
_ID_SIZE = 8
_GENERATION_SIZE = 4
#: 144 bits, so that the whole is a multiple of three octets and Base64 has no spare bits: there
#: is exactly one text for a token.
_MAC_SIZE = 18
_TOKEN_SIZE = _ID_SIZE + _GENERATION_SIZE + _MAC_SIZE
_TOKEN_RE = re.compile(r"[A-Za-z0-9_\-]{40}")
_MAX_REG_ID = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Flow:
    """What a flow token names.

    Args:
        connection: The connection's id.
        generation: Which of the connections that had this id.
    """

    connection: int
    generation: int


class FlowTokens:
    """Makes and checks flow tokens (RFC 5626 §5.2): a connection's name under a seal.

    A token is 40 characters that need no escape in a user part. It says nothing to its reader
    beyond the numbers, and cannot be made or changed without the key. It dies with its
    connection: the caller looks the flow up, and ids with their generation are not used again.

    Args:
        keys: Secrets of at least 16 octets; the first seals, all of them open.

    Raises:
        SipValueError: There is none, or one is too short.
    """

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self.replace(keys)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Use other keys from now on.

        Args:
            keys: As at the beginning.

        Raises:
            SipValueError: There is none, or one is too short.
        """
        if not keys:
            raise SipValueError("flow tokens need a key")
        self._keys = [self._derived(key) for key in keys]

    @staticmethod
    def _derived(key: bytes) -> bytes:
        if len(key) < _MIN_KEY:
            raise SipValueError(f"a key needs at least {_MIN_KEY} octets")
        return hmac.new(bytes(key), b"wsproto-sip flow token", hashlib.sha256).digest()

    def rotate(self, key: bytes, *, keep: int = 1) -> None:
        """Seal with a new key from now on, and open with it and the latest ``keep`` old ones.

        Raises:
            SipValueError: The key is too short or ``keep`` negative.
        """
        if keep < 0:
            raise SipValueError("keep must not be negative")
        self._keys = [self._derived(key), *self._keys[:keep]]

    def make(self, flow: Flow) -> str:
        """The token of a flow, for the user part of Path and Record-Route.

        Raises:
            SipValueError: The id has more than 64 bits or the generation more than 32.
        """
        return self._seal(self._keys[0], self._pack(flow))

    @staticmethod
    def _pack(flow: Flow) -> bytes:
        try:
            return flow.connection.to_bytes(_ID_SIZE, "big") + flow.generation.to_bytes(
                _GENERATION_SIZE, "big"
            )
        except OverflowError:
            raise SipValueError(f"a flow's numbers are out of range: {flow}") from None

    @staticmethod
    def _seal(key: bytes, name: bytes) -> str:
        mac = hmac.new(key, name, hashlib.sha256).digest()[:_MAC_SIZE]
        return base64.urlsafe_b64encode(name + mac).decode("ascii")

    def open(self, token: str) -> Flow | None:
        """The flow of a token; ``None`` for anything that was not made with one of the keys.

        The comparison takes the same time whichever character is wrong.
        """
        if not _TOKEN_RE.fullmatch(token):
            return None
        name = base64.urlsafe_b64decode(token)[: _ID_SIZE + _GENERATION_SIZE]
        genuine = False
        for key in self._keys:
            genuine |= hmac.compare_digest(self._seal(key, name), token)
        if not genuine:
            return None
        return Flow(int.from_bytes(name[:_ID_SIZE], "big"), int.from_bytes(name[_ID_SIZE:], "big"))


def resolve_flow(
    tokens: FlowTokens, uri: SipUri, is_alive: Callable[[Flow], bool]
) -> Flow | Rejection | None:
    """The flow that an own Route or Path URI leads to (RFC 5626 §5.3).

    Args:
        tokens: The tokens of this element.
        uri: One of this element's own URIs, taken out of Route.
        is_alive: Whether the connection of a flow still exists.

    Returns:
        The flow; a refusal with 403 for a token that is not genuine and 430 for a flow that is
        gone; ``None`` where the URI has no user part, hence no token.
    """
    token = uri.user
    if token is None:
        return None
    flow = tokens.open(token)
    if flow is None:
        return Rejection(403, "flow token is not genuine")
    if not is_alive(flow):
        return Rejection(430, "the flow is gone")
    return flow


def instance_id(contact: NameAddr) -> str | None:
    """The ``+sip.instance`` of a Contact, without its angle brackets (RFC 5626 §4.1).

    Raises:
        SipParseError: 400, where the brackets are missing.
    """
    value = contact.params.get("+sip.instance")
    if value is None:
        return None
    if len(value) < 3 or value[0] != "<" or value[-1] != ">":
        raise SipParseError(400, f"bad +sip.instance: {value!r:.100}")
    return value[1:-1]


def reg_id(contact: NameAddr) -> int | None:
    """The ``reg-id`` of a Contact, 1 to 2³¹ - 1 (RFC 5626 §4.2).

    Raises:
        SipParseError: 400, for anything else.
    """
    value = contact.params.get("reg-id")
    if value is None:
        return None
    number = parse_uint(value, _MAX_REG_ID, "reg-id")
    if number == 0:
        raise SipParseError(400, "reg-id is 0")
    return number


def uses_outbound(request: SipRequest) -> bool:
    """Whether an edge puts a flow token into the Path or Record-Route of this request.

    That is so for a REGISTER with a ``reg-id``; for another request whose first Contact says
    ``;ob``, if the client supports Outbound and this is its first hop (RFC 5626 §5.1).

    Raises:
        SipParseError: 400, for a bad Contact, Via or Supported.
    """
    contacts = request.contacts
    if not contacts:
        return False
    if request.method == "REGISTER":
        return any(reg_id(contact) is not None for contact in contacts)
    if len(request.vias) > 1:
        return False
    uri = contacts[0].uri
    return isinstance(uri, SipUri) and "ob" in uri.params


@dataclass(frozen=True, slots=True)
class OutboundBinding:
    """By what a registrar tells a binding made over Outbound: beside the AOR, the pair of these.

    Args:
        instance: The client, a URN as a rule.
        reg_id: Which of its flows.
    """

    instance: str
    reg_id: int


def outbound_binding(request: SipRequest, contact: NameAddr) -> OutboundBinding | Rejection | None:
    """How a registrar treats a Contact of a REGISTER (RFC 5626 §6).

    Args:
        request: The REGISTER as the registrar sees it.
        contact: One of its contacts.

    Returns:
        The Outbound binding; ``None`` where Outbound is not asked for and the binding is an
        ordinary one; a refusal with 439 where the client's first hop does not do Outbound, and
        with 400 for a reg-id without an instance, or several contacts with one.

    Raises:
        SipParseError: 400, for bad syntax.
    """
    number = reg_id(contact)
    if number is None or "outbound" not in request.tokens("supported"):
        return None
    instance = instance_id(contact)
    if instance is None:
        return Rejection(400, "reg-id without +sip.instance")
    contacts = request.contacts or []
    if sum([reg_id(other) is not None for other in contacts]) > 1:
        return Rejection(400, "more than one Contact with a reg-id")
    if len(request.vias) > 1:
        # The client's first hop is the one that wrote the last Path value.
        paths = request.paths
        first_hop = paths[-1].uri if paths else None
        if not isinstance(first_hop, SipUri) or "ob" not in first_hop.params:
            return Rejection(439, "the first hop does not do Outbound")
    return OutboundBinding(instance, number)


def flow_timer(request_text: str) -> int:
    """Read a Flow-Timer header: within how many seconds the server expects a keep-alive.

    Raises:
        SipParseError: 400, for something else than a number of seconds.
    """
    return parse_uint(request_text, 2**31 - 1, "Flow-Timer")


def flow_deadline(last: float, timer: int, grace: float = 10.0) -> float:
    """When a flow on which nothing came counts as failed (RFC 5626 §5.4).

    Args:
        last: When something was last received, seconds of any monotonic clock.
        timer: The Flow-Timer that the client was given.
        grace: What the client's packet may need beyond it.
    """
    return last + timer + grace
