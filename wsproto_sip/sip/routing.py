"""What a proxy does to a request on its way and to the response on its way back (RFC 3261 §16)."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .address import NameAddr
from .errors import SipParseError
from .message import SipRequest, SipResponse
from .nat import force_rport
from .transport import Source, default_port
from .uri import SipUri, Uri, bracketed
from .via import MAGIC_COOKIE, Via

__all__ = [
    "LooseRoute",
    "Rejection",
    "add_received",
    "branch_for",
    "decrement_max_forwards",
    "is_loop",
    "loose_route",
    "pop_via",
    "prepare_next_hop",
    "push_via",
    "record_route",
    "response_address",
    "validate_request",
]

_DEFAULT_MAX_FORWARDS = 70
_SCHEMES = ("sip", "sips")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a request cannot go on, and the response that says so.

    Args:
        status: The status code.
        detail: What was wrong, for the log.
        headers: Fields that the response needs (Unsupported, Accept …).
    """

    status: int
    detail: str
    headers: tuple[tuple[str, str], ...] = ()

    def response(self, request: SipRequest) -> SipResponse:
        """The response to that request."""
        return request.make_response(self.status, headers=self.headers)


def validate_request(
    request: SipRequest,
    *,
    schemes: Collection[str] = _SCHEMES,
    extensions: Collection[str] = (),
    as_server: bool = False,
) -> Rejection | None:
    """Check what an element has to check before it handles a request (RFC 3261 §8.2.2, §16.3).

    Args:
        request: As parsed; the values that routing needs are read here for the first time.
        schemes: The schemes of Request-URIs that can be routed.
        extensions: The option tags that are supported, in lower case.
        as_server: The request ends here (a registrar): Require counts too, not Proxy-Require alone.

    Returns:
        ``None`` where all is well, else the refusal: 400 for bad syntax, a CSeq of another method
        or headers in the Request-URI, 416 for the scheme, 420 for an extension, 483 where
        Max-Forwards is used up.
    """
    try:
        # Reading is the check: each of these raises what is wrong with its header.
        vias, routes, contacts = request.vias, request.routes, request.contacts
        sender, target, call_id = request.from_, request.to, request.call_id
        cseq, hops, uri = request.cseq, request.max_forwards, request.uri
        required = request.tokens("proxy-require")
        if as_server and request.method not in ("ACK", "CANCEL"):
            required += request.tokens("require")
    except SipParseError as error:
        return Rejection(error.status, error.detail)
    del vias, routes, contacts, sender, target, call_id
    if cseq.method != request.method:
        return Rejection(400, f"CSeq of {cseq.method} in a {request.method}")
    if uri.scheme not in schemes:
        return Rejection(416, f"Request-URI of scheme {uri.scheme}")
    if isinstance(uri, SipUri) and uri.headers is not None:
        return Rejection(400, "header fields in the Request-URI")
    # A server's own OPTIONS may be answered with the hops used up; everything else ends here.
    if hops == 0 and not as_server:
        return Rejection(483, "no hops left")
    unsupported = [tag for tag in required if tag not in extensions]
    if unsupported:
        return Rejection(420, "extension required", (("Unsupported", ", ".join(unsupported)),))
    return None


def decrement_max_forwards(request: SipRequest, default: int = _DEFAULT_MAX_FORWARDS) -> bool:
    """Count one hop (RFC 3261 §16.6 step 3).

    Args:
        request: It gets Max-Forwards with ``default`` if it has none.
        default: What RFC 3261 recommends.

    Returns:
        False, with nothing changed, where no hop is left, which is answered with 483.

    Raises:
        SipParseError: 400, for a bad Max-Forwards.
    """
    hops = request.max_forwards
    if hops == 0:
        return False
    request.replace_header("Max-Forwards", default if hops is None else hops - 1)
    return True


# -- Via -------------------------------------------------------------------------------------------


def add_received(request: SipRequest, source: Source) -> None:
    """Note in the topmost Via where the request came from (RFC 3261 §18.2.1, RFC 3581 §4).

    With an empty ``rport`` both port and address are written; without it the address, and only
    where it differs. What the sender wrote into ``received`` itself is overwritten or removed.
    ``force_rport`` does it for those who did not ask.

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
    """Put an own Via on top (RFC 3261 §16.6 step 8)."""
    request.insert_header("Via", via)


def pop_via(response: SipResponse, is_own: Callable[[Via], bool]) -> Via | None:
    """Take the own Via from the top of a response (RFC 3261 §16.7 step 3).

    Args:
        response: From further on.
        is_own: Whether a Via is one that was pushed here, by its sent-by.

    Returns:
        The Via whose branch names the transaction; ``None``, with nothing changed, where the
        topmost is somebody else's (§18.1.2: drop the response) or the only one.

    Raises:
        SipParseError: 400, for a bad Via.
    """
    vias = response.vias
    if len(vias) < 2 or not is_own(vias[0]):
        return None
    response.remove_first("Via")
    return vias[0]


def response_address(via: Via) -> tuple[str, int]:
    """Where a response to that Via goes on an unreliable transport (RFC 3581 §4, RFC 3261 §18.2.2).

    It was written by whoever sent the request, unless :func:`add_received` was applied: use it to
    look up a configured upstream, never to reach an address for a WebSocket client.

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
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:size]


def _loop_part(request: SipRequest, key: bytes) -> str:
    """What two passes of one request share if nothing changed that decides its way (RFC 5393 §4.2).

    The method is left out (CANCEL and ACK follow their INVITE), and so are Via and Max-Forwards,
    which change on every pass, and the tag of To, which an ACK has and its INVITE has not.
    """
    parts = [request.uri_text, request.from_.tag or "", request.call_id, str(request.cseq.number)]
    for name in ("route", "proxy-require", "proxy-authorization"):
        parts += [name, *request.get_all(name)]
    return _digest(key, parts, 16)


def branch_for(request: SipRequest, key: bytes, target: str = "") -> str:
    """The branch of one's own Via for a request as it came in (RFC 3261 §16.6 step 8, §16.11).

    It is the same for every retransmission, and for the CANCEL and the ACK that follow an INVITE,
    so that a proxy needs no state to tell; its second half tells loops from spirals.

    Args:
        request: Before it is edited.
        key: A secret of this element; branches of others cannot be made with it.
        target: What tells the branches of a fork from each other.

    Raises:
        SipParseError: 400, for a bad Via, From, Call-ID or CSeq.
    """
    via = request.via
    parts = [via.host.lower(), str(via.port), via.branch or "", target]
    if not (via.branch or "").startswith(MAGIC_COOKIE):
        # From before RFC 3261: the branch alone names no transaction (§17.2.3).
        parts += [request.call_id, str(request.cseq.number), request.from_.tag or ""]
    return f"{MAGIC_COOKIE}{_digest(key, parts, 20)}.{_loop_part(request, key)}"


def is_loop(request: SipRequest, key: bytes, is_own: Callable[[Via], bool]) -> bool:
    """Whether the request came through here before and would take the same way again (§16.3).

    To be answered with 482. A request that comes back changed is a spiral, and goes on.

    Args:
        request: Before it is edited.
        key: As for :func:`branch_for`.
        is_own: Whether a Via is one of this element, by its sent-by.

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
    """Ask for the dialog's later requests to come this way (RFC 3261 §16.6 step 4).

    Args:
        request: One that can make a dialog.
        incoming: This element's address on the side the request came from.
        outgoing: Its address on the side the request goes to, where that is another one: then
            two values are written, both marked ``;r2=on``, so that each side can reach its own
            (RFC 5658).
    """
    values = [incoming] if outgoing is None or outgoing == incoming else [outgoing, incoming]
    for uri in reversed(values):
        if len(values) == 2:
            uri = uri.with_param("r2", "on")
        request.insert_header("Record-Route", NameAddr(uri.with_param("lr")))


@dataclass(frozen=True, slots=True)
class LooseRoute:
    """The outcome of :func:`loose_route`.

    Args:
        own: The URIs of this element that were taken out: their user part may be a flow token.
            Empty where the request was not routed here by Route.
        next_hop: Where to send the request: the next Route or, without one, the Request-URI.
    """

    own: tuple[SipUri, ...]
    next_hop: Uri

    @property
    def followed(self) -> bool:
        """Whether a route of this element was followed."""
        return bool(self.own)


def loose_route(request: SipRequest, is_own: Callable[[SipUri], bool]) -> LooseRoute:
    """Follow the Route header (RFC 3261 §16.4): take this element's own routes from its top.

    A predecessor that routes strictly (RFC 2543) has put this element's URI in the Request-URI and
    the target at the end of Route; that is put right first.

    Args:
        request: As it came in.
        is_own: Whether a URI is this element: host and port, and transport where that matters.

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
        # Two of one's own are one passage: the pair that record_route wrote.
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
    """Put the request in the form the next hop understands (RFC 3261 §16.6 step 6).

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
