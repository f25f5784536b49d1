"""SIP Outbound: requests reach the connection on which the client registered (RFC 5626)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..message._syntax import parse_uint
from ..message.address import NameAddr
from ..message.errors import SipParseError, SipValueError
from ..message.message import SipRequest
from ..message.uri import SipUri
from .routing import Rejection

__all__ = [
    "Flow",
    "FlowTokens",
    "OutboundBinding",
    "flow_deadline",
    "flow_timer",
    "instance_id",
    "node_id",
    "outbound_binding",
    "reg_id",
    "resolve_flow",
    "uses_outbound",
]

_MIN_KEY = 16
_ID_SIZE = 8
_GENERATION_SIZE = 4
#: 144 bits make the token a multiple of three bytes, so that Base64 has no spare bits and each
#: token has exactly one text.
_MAC_SIZE = 18
_NAME_SIZE = _ID_SIZE + _GENERATION_SIZE
_TOKEN_RE = re.compile(r"[A-Za-z0-9_\-]+")
#: What a token of a node begins with: the node, and which of its runs.
_NODE_SIZE = 4
_BOOT_SIZE = 4
#: Each of the two MACs of a route token has 120 bits, for the same reason.
_ROUTE_MAC_SIZE = 15
_MAX_REG_ID = 2**31 - 1
_ZERO = re.compile("0+")


class Flow(NamedTuple):
    """The connection that a flow token names.

    Args:
        cid: The connection.
        generation: Counts the connections that have used this id.
    """

    cid: int
    generation: int


#: The flow of a token of an earlier run: there is no such connection.
_ENDED = Flow(-1, 0)


class FlowTokens:
    """Make and check flow tokens (RFC 5626 §5.2): authenticated names of connections.

    A token is 40 characters that need no escape in a user part. It reveals only its two numbers,
    and cannot be made or changed without the key. It expires with its connection: the caller looks
    the flow up, and a pair of id and generation is never used again.

    A token for the route of a dialog is 56 characters and has two MACs instead of one. The first
    covers the Call-ID, and authenticates where the dialog's requests go. The second also covers the
    caller's claims about the dialog and its side in it.

    The tokens of a node of several, version 2, also name the node and its run, and are 52 and 68
    characters. Those of other nodes are not opened, even if all have the same keys; those of an
    earlier run name a flow that does not exist.

    Args:
        keys: Secrets of at least 16 bytes; the first makes new tokens, all of them open.
        node: From :func:`node_id`; empty unless this is a node of several.

    Attributes:
        changes: How often the keys were set: a token that was made before may be out of date.

    Raises:
        SipValueError: ``keys`` is empty, or a key is too short.
    """

    __slots__ = ("_keys", "_length", "_mac_size", "_name_size", "_node", "_route_length", "changes")

    def __init__(self, keys: Sequence[bytes], node: bytes = b"") -> None:
        self._node = node
        self.changes = 0
        self._name_size = len(node) + _NAME_SIZE
        # The last MAC fills the bytes up to a multiple of three.
        self._mac_size = _MAC_SIZE + -(self._name_size + _MAC_SIZE) % 3
        claim_size = _ROUTE_MAC_SIZE + -(self._name_size + 2 * _ROUTE_MAC_SIZE) % 3
        self._length = (self._name_size + self._mac_size) // 3 * 4
        self._route_length = (self._name_size + _ROUTE_MAC_SIZE + claim_size) // 3 * 4
        self.replace(keys)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Use other keys from now on.

        Args:
            keys: See the class.

        Raises:
            SipValueError: ``keys`` is empty, or a key is too short.
        """
        if not keys:
            raise SipValueError("flow tokens need a key")
        self._keys = [self._derived(key) for key in keys]
        self.changes += 1

    @staticmethod
    def _derived(key: bytes) -> bytes:
        if len(key) < _MIN_KEY:
            raise SipValueError(f"a key needs at least {_MIN_KEY} bytes")
        return hmac.digest(bytes(key), b"wsproto-sip flow token", "sha256")

    def rotate(self, key: bytes, *, keep: int = 1) -> None:
        """Make tokens with a new key from now on, and keep opening those of ``keep`` earlier keys.

        Raises:
            SipValueError: The key is too short or ``keep`` is negative.
        """
        if keep < 0:
            raise SipValueError(f"keep must not be negative: {keep!r}")
        self._keys = [self._derived(key), *self._keys[:keep]]
        self.changes += 1

    def make(self, flow: Flow) -> str:
        """Return the token of a flow, for the user part of Path.

        Raises:
            SipValueError: The id has more than 64 bits or the generation more than 32.
        """
        return self._seal(self._keys[0], self._pack(flow))

    def _pack(self, flow: Flow) -> bytes:
        try:
            return b"%b%b%b" % (
                self._node,
                flow.cid.to_bytes(_ID_SIZE, "big"),
                flow.generation.to_bytes(_GENERATION_SIZE, "big"),
            )
        except OverflowError:
            raise SipValueError(f"a flow's numbers are out of range: {flow}") from None

    def _seal(self, key: bytes, name: bytes) -> str:
        mac = hmac.digest(key, name, "sha256")[: self._mac_size]
        return base64.urlsafe_b64encode(name + mac).decode("ascii")

    def open(self, token: str) -> Flow | None:
        """Return the flow of a token, or ``None`` unless it was made with one of the keys.

        The comparison takes the same time whichever character is wrong.
        """
        if len(token) != self._length or not _TOKEN_RE.fullmatch(token):
            return None
        name = base64.urlsafe_b64decode(token)[: self._name_size]
        genuine = False
        for key in self._keys:
            genuine |= hmac.compare_digest(self._seal(key, name), token)
        return self._unpack(name) if genuine else None

    def _unpack(self, name: bytes) -> Flow | None:
        node, flow = name[:-_NAME_SIZE], name[-_NAME_SIZE:]
        if node != self._node:
            return _ENDED if node[:_NODE_SIZE] == self._node[:_NODE_SIZE] else None
        return Flow(int.from_bytes(flow[:_ID_SIZE], "big"), int.from_bytes(flow[_ID_SIZE:], "big"))

    def node_of(self, token: str) -> bytes | None:
        """Return which node a token names, as it stands there and without a proof.

        Args:
            token: The user part of a Route, say.

        Returns:
            What :func:`node_id` begins with; ``None`` for anything that has not the length of this
            node's own tokens, and for those that name this node.
        """
        if not self._node or len(token) not in (self._length, self._route_length):
            return None
        if not _TOKEN_RE.fullmatch(token):
            return None
        node = base64.urlsafe_b64decode(token)[:_NODE_SIZE]
        return None if node == self._node[:_NODE_SIZE] else node

    def is_for_path(self, token: str) -> bool:
        """Return whether a token looks like one of :meth:`make`, of any node.

        Args:
            token: The user part of a Route, say.
        """
        return len(token) == self._length and _TOKEN_RE.fullmatch(token) is not None

    def make_route(self, flow: Flow, call_id: str, *claims: str) -> str:
        """Return the token of a flow for the routes of one dialog.

        Args:
            flow: The flow.
            call_id: The Call-ID of the dialog.
            claims: Claims that :meth:`proves` will check.

        Raises:
            SipValueError: As for :meth:`make`.
        """
        name, key = self._pack(flow), self._keys[0]
        size = self._route_length // 4 * 3 - self._name_size - _ROUTE_MAC_SIZE
        route, claim = _route_macs(key, name, call_id, claims, size)
        return base64.urlsafe_b64encode(name + route + claim).decode("ascii")

    def open_route(self, token: str, call_id: str) -> Flow | None:
        """Return the flow of a route token, or ``None`` for another dialog's or a forged one.

        Args:
            token: The token.
            call_id: The Call-ID of the request that came along the route.
        """
        return self._open_route(token, call_id, None)

    def proves(self, token: str, call_id: str, *claims: str) -> bool:
        """Return whether a route token was made with the same Call-ID and claims.

        Args:
            token: The token.
            call_id: The Call-ID of the request that came along the route.
            claims: The claims to check.
        """
        return self._open_route(token, call_id, claims) is not None

    def _open_route(self, token: str, call_id: str, claims: Sequence[str] | None) -> Flow | None:
        if len(token) != self._route_length or not _TOKEN_RE.fullmatch(token):
            return None
        data = base64.urlsafe_b64decode(token)
        size = self._name_size
        name, route = data[:size], data[size : size + _ROUTE_MAC_SIZE]
        claim = data[size + _ROUTE_MAC_SIZE :]
        genuine = False
        for key in self._keys:
            expected = _route_macs(key, name, call_id, claims or (), len(claim))
            right = hmac.compare_digest(expected[0], route)
            if claims is not None:
                right &= hmac.compare_digest(expected[1], claim)
            genuine |= right
        return self._unpack(name) if genuine else None


def node_id(name: str, boot: str) -> bytes:
    """Return what the tokens of a node begin with.

    Args:
        name: The node, by which the first half can be told from that of other nodes.
        boot: Which of its runs.
    """
    return _digest(name)[:_NODE_SIZE] + _digest(boot)[:_BOOT_SIZE]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _route_macs(
    key: bytes, name: bytes, call_id: str, claims: Sequence[str], claim_size: int
) -> tuple[bytes, bytes]:
    """Return the two MACs of a route token: over the Call-ID, and over the claims too."""
    # Each text is prefixed with its length, so that different lists never give the same bytes.
    texts = [text.encode("utf-8", "surrogateescape") for text in (call_id, *claims)]
    parts = [b"%d:%b" % (len(text), text) for text in texts]
    return (
        hmac.digest(key, b"route " + name + parts[0], "sha256")[:_ROUTE_MAC_SIZE],
        hmac.digest(key, b"claim " + name + b"".join(parts), "sha256")[:claim_size],
    )


def resolve_flow(
    open_token: Callable[[str], Flow | None], uri: SipUri, is_alive: Callable[[Flow], bool]
) -> Flow | Rejection | None:
    """Return the flow that one of this element's Route or Path URIs leads to (RFC 5626 §5.3).

    Args:
        open_token: Opens a token, such as :meth:`FlowTokens.open`.
        uri: One of this element's own URIs, taken from Route.
        is_alive: Whether the connection of a flow still exists.

    Returns:
        The flow, or a refusal: 403 for a forged token and 430 for a flow that no longer exists.
        ``None`` if the URI has no user part, hence no token.
    """
    token = uri.user
    if token is None:
        return None
    flow = open_token(token)
    if flow is None:
        return Rejection(403, "flow token is forged")
    if not is_alive(flow):
        return Rejection(430, "the flow no longer exists")
    return flow


def instance_id(contact: NameAddr) -> str | None:
    """Return the ``+sip.instance`` of a Contact, without its angle brackets (RFC 5626 §4.1).

    Raises:
        SipParseError: 400, if the brackets are missing.
    """
    value = contact.params.get("+sip.instance")
    if value is None:
        return None
    if len(value) < 3 or value[0] != "<" or value[-1] != ">":
        raise SipParseError(400, f"bad +sip.instance: {value!r:.100}")
    return value[1:-1]


def reg_id(contact: NameAddr) -> int | None:
    """Return the ``reg-id`` of a Contact, 1 to 2³¹ - 1 (RFC 5626 §4.2).

    Raises:
        SipParseError: 400, for anything else.
    """
    value = contact.params.get("reg-id")
    if value is None:
        return None
    number = parse_uint(value, _MAX_REG_ID, "reg-id")
    if number == 0:
        raise SipParseError(400, "reg-id must not be 0")
    return number


def uses_outbound(request: SipRequest) -> bool:
    """Return whether an edge puts a flow token into the Path or Record-Route of a request.

    True for a REGISTER with a ``reg-id``, and for another request on its first hop whose first
    Contact has ``;ob``, which a client that supports Outbound writes (RFC 5626 §5.1).

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
    """The key of an Outbound binding within an AOR.

    Args:
        instance: The client, usually a URN.
        reg_id: The client's number of the flow.
    """

    instance: str
    reg_id: int


def outbound_binding(request: SipRequest, contact: NameAddr) -> OutboundBinding | Rejection | None:
    """Decide how a registrar treats a Contact of a REGISTER (RFC 5626 §6).

    Args:
        request: The REGISTER as received by the registrar.
        contact: One of its contacts.

    Returns:
        The Outbound binding, or ``None`` for an ordinary binding without Outbound, as for a reg-id
        without an instance. A refusal with 439 if the client's first hop does not support Outbound,
        and with 400 for several contacts with a reg-id, apart from those to be removed.

    Raises:
        SipParseError: 400, for bad syntax.
    """
    number = reg_id(contact)
    if number is None or "outbound" not in request.tokens("supported"):
        return None
    instance = instance_id(contact)
    if instance is None:
        return None
    others = [other for other in request.contacts or [] if reg_id(other) is not None]
    if len(others) > 1 and sum([not _is_removed(request, other) for other in others]) > 1:
        return Rejection(400, "more than one Contact with a reg-id")
    if len(request.vias) > 1:
        # The client's first hop is the one that wrote the last Path value.
        paths = request.paths
        first_hop = paths[-1].uri if paths else None
        if not isinstance(first_hop, SipUri) or "ob" not in first_hop.params:
            return Rejection(439, "the first hop does not support Outbound")
    return OutboundBinding(instance, number)


def _is_removed(request: SipRequest, contact: NameAddr) -> bool:
    """Return whether a REGISTER removes a Contact (RFC 3261 §10.2.2)."""
    text = contact.params.get("expires")
    if text is None:
        text = request.get("expires") or ""
    return _ZERO.fullmatch(text) is not None


def flow_timer(request_text: str) -> int:
    """Parse a Flow-Timer header: the seconds within which the server expects a keep-alive.

    Raises:
        SipParseError: 400, if it is not a number of seconds.
    """
    return parse_uint(request_text, 2**31 - 1, "Flow-Timer")


def flow_deadline(last: float, timer: int, grace: float = 10.0) -> float:
    """Return when a silent flow counts as failed (RFC 5626 §5.4).

    Args:
        last: Time of the last received packet, in seconds of any monotonic clock.
        timer: The Flow-Timer that was sent to the client.
        grace: Seconds that the client's packet may be late.
    """
    return last + timer + grace
