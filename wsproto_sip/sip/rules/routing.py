"""How a proxy changes a request on its way and the response on its way back (RFC 3261 §16)."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..message._syntax import parse_uint
from ..message.address import NameAddr
from ..message.errors import SipParseError
from ..message.message import SipRequest, SipResponse
from ..message.transport import Source, default_port
from ..message.uri import SipUri, Uri, bracketed
from ..message.via import MAGIC_COOKIE, Via
from .nat import force_rport

__all__ = [
    "LooseRoute",
    "Rejection",
    "add_received",
    "branch_for",
    "decrement_max_forwards",
    "is_loop",
    "loose_route",
    "max_breadth",
    "pop_via",
    "prepare_next_hop",
    "push_via",
    "record_route",
    "response_address",
    "restore_response",
    "simplify_vias",
    "validate_request",
]

_DEFAULT_MAX_FORWARDS = 70
#: Recommended by RFC 5393.
_DEFAULT_MAX_BREADTH = 60
_SCHEMES = ("sip", "sips")
_ODD_VIA = re.compile(r'\\|=[^;,"]*=')
#: First letters of other protocols' messages that some servers, Kamailio for one, accept on a SIP
#: port: MSRP (RFC 4975) and HEP. On a stream such a message ends by the rules of that protocol.
_OTHER_PROTOCOLS = ("MSRP", "HEP3")


@dataclass(frozen=True, slots=True)
class Rejection:
    """The reason to refuse a request, and the response for it.

    Args:
        status: The status code.
        detail: What was wrong, for the log.
        headers: Fields for the response (Unsupported, Accept …).
        reason: The reason phrase; the usual one if empty.
    """

    status: int
    detail: str
    headers: tuple[tuple[str, str], ...] = ()
    reason: str = ""

    def response(self, request: SipRequest) -> SipResponse:
        """Build the response to a request."""
        return request.make_response(self.status, self.reason or None, headers=self.headers)


def validate_request(
    request: SipRequest,
    *,
    schemes: Collection[str] = _SCHEMES,
    extensions: Collection[str] = (),
    as_server: bool = False,
) -> Rejection | None:
    """Check what an element must check before it handles a request (RFC 3261 §8.2.2, §16.3).

    Args:
        request: As parsed; this parses the values that routing needs.
        schemes: The schemes of Request-URIs that can be routed.
        extensions: The supported option tags, in lower case.
        as_server: Whether the request ends here (a registrar): then Require counts too, and not
            only Proxy-Require.

    Returns:
        ``None`` for a valid request, otherwise the refusal: 400 for bad syntax, a CSeq of another
        method or headers in the Request-URI, 416 for the scheme, 420 for an extension, 483 if
        Max-Forwards is 0, 501 for a method that begins like a message of another protocol.
    """
    method, rare = request.method, request.rare_names
    required: list[str] = []
    try:
        # Parsing is the check: each of these raises if its header is malformed.
        vias, contacts = request.vias, request.contacts
        sender, target, call_id = request.from_, request.to, request.call_id
        cseq, hops, uri = request.cseq, request.max_forwards, request.uri
        if rare:
            routes = request.routes
            del routes
            required = request.tokens("proxy-require")
            if as_server and method not in ("ACK", "CANCEL"):
                required += request.tokens("require")
    except SipParseError as error:
        return Rejection(error.status, error.detail)
    del vias, contacts, sender, target, call_id
    if cseq.method != method:
        return Rejection(400, f"CSeq of {cseq.method} in a {method}")
    if method.startswith(_OTHER_PROTOCOLS):
        return Rejection(501, f"a method of another protocol: {method:.100}")
    if uri.scheme not in schemes:
        return Rejection(416, f"Request-URI of scheme {uri.scheme}")
    if isinstance(uri, SipUri) and uri.headers is not None:
        return Rejection(400, "header fields in the Request-URI")
    # A server may answer an OPTIONS without hops left; nothing else gets further.
    if hops == 0 and not as_server:
        return Rejection(483, "no hops left")
    unsupported = [tag for tag in required if tag not in extensions]
    if unsupported:
        return Rejection(420, "extension required", (("Unsupported", ", ".join(unsupported)),))
    return None


def decrement_max_forwards(request: SipRequest, default: int = _DEFAULT_MAX_FORWARDS) -> bool:
    """Count one hop (RFC 3261 §16.6 step 3).

    Args:
        request: Gets a Max-Forwards of ``default`` if it has none.
        default: RFC 3261 recommends 70.

    Returns:
        False, with nothing changed, if no hop is left: answer with 483.

    Raises:
        SipParseError: 400, for a bad Max-Forwards.
    """
    hops = request.max_forwards
    if hops == 0:
        return False
    request.replace_header("Max-Forwards", default if hops is None else hops - 1)
    return True


def max_breadth(request: SipRequest) -> int:
    """Return how many branches of a request may be pending at the same time (RFC 5393 §5.3.3).

    Raises:
        SipParseError: 400, for a bad Max-Breadth.
    """
    text = request.get("max-breadth")
    return _DEFAULT_MAX_BREADTH if text is None else parse_uint(text, 2**31 - 1, "Max-Breadth")


# -- Via -------------------------------------------------------------------------------------------


def add_received(request: SipRequest, source: Source) -> None:
    """Record in the topmost Via where the request came from (RFC 3261 §18.2.1, RFC 3581 §4).

    With an empty ``rport``, both port and address are written; otherwise only the address, if it
    differs. A ``received`` written by the sender is overwritten or removed. ``force_rport`` does
    the same for senders that did not ask for it.

    Raises:
        SipParseError: 400, for a bad Via.
    """
    via = request.via
    if "rport" in via.params:
        force_rport(request, source)
    elif via.address.lower() != source.host:
        request.replace_first("Via", via.with_param("received", bracketed(source.host)))
    elif "received" in via.params:
        request.replace_first("Via", via.without_param("received"))


def push_via(request: SipRequest, via: Via) -> None:
    """Add this element's Via on top (RFC 3261 §16.6 step 8)."""
    request.insert_header("Via", via)


def simplify_vias(request: SipRequest) -> None:
    """Remove the parameters of Vias that some parsers, Kamailio's for one, cannot read.

    These contain a quoted pair, or an ``=`` within a value, which RFC 3261 §25.1 does not allow but
    clients send. Only for elements that restore the Vias in responses from their own memory.

    Raises:
        SipParseError: 400, for a bad Via.
    """
    if not any(_ODD_VIA.search(text) for text in request.get_all("via")):
        return
    vias = request.vias
    request.remove_header("via")
    for via in vias:
        odd = _ODD_VIA.search(str(via))
        request.add_header("Via", Via(via.transport, via.host, via.port) if odd else via)


def pop_via(response: SipResponse, is_own: Callable[[Via], bool]) -> Via | None:
    """Remove this element's Via from the top of a response (RFC 3261 §16.7 step 3).

    Args:
        response: A response from the next hop.
        is_own: Tells by its sent-by whether a Via was pushed here.

    Returns:
        The Via whose branch names the transaction; ``None``, with nothing changed, if the topmost
        is not this element's (§18.1.2: drop the response) or is the only one.

    Raises:
        SipParseError: 400, for a bad Via.
    """
    vias = response.vias
    if len(vias) < 2 or not is_own(vias[0]):
        return None
    response.remove_first("Via")
    return vias[0]


def restore_response(response: SipResponse, request: SipRequest) -> None:
    """Restore what a response must repeat of its request (RFC 3261 §8.2.6.2).

    A response is matched by our branch and the method of CSeq alone (§17.1.3). The other side could
    thus answer for another dialog of the sender by its Call-ID and tags. Names and URIs in From and
    To may differ, since proxies that rewrite them do not always restore them.

    Args:
        response: A response, with or without our Via.
        request: Its request, as it came here.
    """
    response.remove_header("via")
    for value in reversed(request.get_all("via")):
        response.insert_header("Via", value)
    if response.get("call-id") != request.call_id:
        response.replace_header("Call-ID", request.call_id)
    if response.cseq != request.cseq:
        response.replace_header("CSeq", request.cseq)
    for name in ("From", "To"):
        text = request.get(name) or ""
        if response.get(name) != text and not _has_same_tag(response, request, name):
            response.replace_header(name, text)


def _has_same_tag(response: SipResponse, request: SipRequest, name: str) -> bool:
    """Return whether From or To of a response has the tag of its request.

    A request outside of a dialog has none in To, and the response adds its own.
    """
    if name == "To":
        tag = request.to.tag
        if tag is None:
            return True
    else:
        tag = request.from_.tag
    try:
        return (response.to if name == "To" else response.from_).tag == tag
    except SipParseError:
        return False


def response_address(via: Via) -> tuple[str, int]:
    """Return where a response to that Via goes over UDP (RFC 3581 §4, RFC 3261 §18.2.2).

    The sender of the request wrote it, unless :func:`add_received` was applied: use it to look up a
    configured upstream, never to dial an address for a WebSocket client.

    Returns:
        Host (without brackets) and port.

    Raises:
        SipParseError: 400, for a bad rport.
    """
    received = via.received
    port = default_port(via.transport) if via.port is None else via.port
    if received is None:
        return via.params.get("maddr") or via.address, port
    rport = via.rport
    return received, port if rport is None else rport


# -- loops -----------------------------------------------------------------------------------------


def _digest(key: bytes, parts: list[str], size: int) -> str:
    text = "\0".join(parts).encode("utf-8", "surrogateescape")
    return hmac.digest(key, text, "sha256").hex()[:size]


def _loop_part(request: SipRequest, key: bytes) -> str:
    """Return a digest of all that decides a request's way (RFC 5393 §4.2): equal in a loop.

    The digest excludes the method (CANCEL and ACK follow their INVITE), Via and Max-Forwards, which
    change at every hop, and the tag of To, which an ACK has and its INVITE lacks.
    """
    parts = [request.uri_text, request.from_.tag or "", request.call_id, str(request.cseq.number)]
    rare = request.rare_names
    for name in ("route", "proxy-require", "proxy-authorization"):
        parts += [name, *request.get_all(name)] if name in rare else [name]
    return _digest(key, parts, 16)


def branch_for(request: SipRequest, key: bytes, target: str = "") -> str:
    """Return this element's branch for a received request (RFC 3261 §16.6 step 8, §16.11).

    It is the same for every retransmission, and for the CANCEL and the ACK that follow an INVITE,
    so that a proxy can match them without state. Its second half tells loops from spirals.

    Args:
        request: Before it is edited.
        key: A secret of this element; others cannot forge its branches.
        target: Distinguishes the branches of a fork.

    Raises:
        SipParseError: 400, for a bad Via, From, Call-ID or CSeq.
    """
    via = request.via
    parts = [via.host.lower(), str(via.port), via.branch or "", target]
    if not (via.branch or "").startswith(MAGIC_COOKIE):
        # Older than RFC 3261: the branch alone does not identify a transaction (§17.2.3).
        parts += [request.call_id, str(request.cseq.number), request.from_.tag or ""]
    return f"{MAGIC_COOKIE}{_digest(key, parts, 20)}.{_loop_part(request, key)}"


def is_loop(request: SipRequest, key: bytes, is_own: Callable[[Via], bool]) -> bool:
    """Return whether the request came through here before and would take the same way (§16.3).

    Answer a loop with 482. A request that comes back changed is a spiral, and goes on.

    Args:
        request: Before it is edited.
        key: As for :func:`branch_for`.
        is_own: Tells by its sent-by whether a Via is this element's.

    Raises:
        SipParseError: 400, for a bad Via, From, Call-ID or CSeq.
    """
    own = [via.branch or "" for via in request.vias if is_own(via)]
    if not own:
        return False
    ending = "." + _loop_part(request, key)
    return any(hmac.compare_digest(branch[-17:].encode(), ending.encode()) for branch in own)


# -- Record-Route and Route ------------------------------------------------------------------------


def record_route(request: SipRequest, incoming: SipUri, outgoing: SipUri | None = None) -> None:
    """Ask for later requests of the dialog to come this way (RFC 3261 §16.6 step 4).

    Args:
        request: A request that can establish a dialog.
        incoming: This element's address on the side the request came from.
        outgoing: Its address on the side the request goes to, if that is another one. Two values
            are then written, both marked ``;r2=on``, so that each side can reach its own
            (RFC 5658).
    """
    marks: dict[str, str | None] = {"lr": None}
    values = [incoming]
    if outgoing is not None and outgoing != incoming:
        marks = {"r2": "on", "lr": None}
        values = [incoming, outgoing]
    for uri in values:
        marked = uri.with_params(uri.params.with_written(marks))
        request.insert_header("Record-Route", NameAddr(marked))


@dataclass(frozen=True, slots=True)
class LooseRoute:
    """The outcome of :func:`loose_route`.

    Args:
        own: The URIs of this element that were removed; their user part may be a flow token. Empty
            if the request was not routed here by Route.
        next_hop: Where to send the request: the next Route or, without one, the Request-URI.
    """

    own: tuple[SipUri, ...]
    next_hop: Uri

    @property
    def followed(self) -> bool:
        """Whether a route of this element was followed."""
        return bool(self.own)


def loose_route(request: SipRequest, is_own: Callable[[SipUri], bool]) -> LooseRoute:
    """Follow the Route header (RFC 3261 §16.4): remove this element's routes from its top.

    A strict router (RFC 2543) as the previous hop has put this element's URI into the Request-URI
    and the target at the end of Route; that is undone first.

    Args:
        request: The request as received.
        is_own: Tells whether a URI is this element's: host and port, and transport if that matters.

    Raises:
        SipParseError: 400, for a bad Route or Request-URI.
    """
    own: list[SipUri] = []
    routes = request.routes
    uri = request.uri
    if routes and isinstance(uri, SipUri) and "lr" in uri.params and is_own(uri):
        own.append(uri)
        uri = request.uri = routes.pop().uri
        _set_routes(request, routes)
    while routes:
        top = routes[0].uri
        # Two own values are one passage: the pair written by record_route.
        if len(own) == 2 or not isinstance(top, SipUri) or not is_own(top):
            break
        if own and "r2" not in top.params:
            break
        own.append(top)
        request.remove_first("Route")
        del routes[0]
    return LooseRoute(tuple(own), routes[0].uri if routes else uri)


def _set_routes(request: SipRequest, routes: list[NameAddr]) -> None:
    if routes:
        request.replace_header("Route", ", ".join([str(route) for route in routes]))
    else:
        request.remove_header("Route")


def prepare_next_hop(request: SipRequest) -> Uri:
    """Rewrite the request in the form that the next hop expects (RFC 3261 §16.6 step 6).

    If the topmost Route is a strict router (no ``lr``), it becomes the Request-URI, and the
    Request-URI the last Route.

    Returns:
        Where to send the request.

    Raises:
        SipParseError: 400, for a bad Route or Request-URI.
    """
    routes = request.routes
    if not routes:
        return request.uri
    top = routes[0].uri
    if isinstance(top, SipUri) and "lr" not in top.params:
        _set_routes(request, [*routes[1:], NameAddr(request.uri)])
        request.uri = top
    return top
