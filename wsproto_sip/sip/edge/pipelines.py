"""The steps that handle a request: one list for clients, one for upstreams.

Theory of operation: a request makes its :class:`Passage` through the steps of :data:`FROM_CLIENT`
or :data:`FROM_UPSTREAM`. Each step inspects it, edits it, or ends its passage: with the refusal to
send, or with :data:`DONE`. Steps for other methods let a request pass. A step that needs an
external answer returns a question; the conclusion from the answer then replaces the result of the
step, and the request continues from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from ...auth.outcome import LATER, Question, Unavailable
from ...errors import WsprotoSipError
from ...server.shares import Bound, Party
from ..message.errors import SipParseError, SipValueError
from ..message.uri import SipUri
from ..registrar.registrar import Asked
from ..registrar.store import Found, Lookup
from ..rules.identity import unkept_privacy
from ..rules.nat import force_rport
from ..rules.options import quick_response
from ..rules.path import require_path
from ..rules.routing import (
    Rejection,
    add_received,
    decrement_max_forwards,
    is_loop,
    validate_request,
)
from .config import DATAGRAMS
from .hook import HookRequest, apply_verdict
from .transactions import Key, key_of

if TYPE_CHECKING:
    from ...server.shares import Pace
    from ..message.message import SipRequest, SipResponse
    from ..message.transport import Source
    from ..message.uri import SipUri
    from ..registrar.registrar import Registrar
    from ..rules.outbound import Flow
    from .callees import CalleeClaim, Callees
    from .connections import EdgeConnection
    from .forking import Target
    from .forwarding import Forwarder
    from .hook import EdgeHook
    from .identity import Identities
    from .outbox import Outbox
    from .parking import Parking
    from .router import EdgeRouter

__all__ = [
    "DONE",
    "FROM_CLIENT",
    "FROM_UPSTREAM",
    "UNNAMED",
    "Done",
    "HookError",
    "Outcome",
    "Passage",
    "Rooms",
    "Step",
    "conclude",
    "handle",
    "resume",
]

#: The party whose share the requests of the upstream count towards.
_UPSTREAM: Final = Party.trusted("upstream")
#: The refusal that replaces an exception.
_UNSENT: Final = Rejection(500, "not sent")
#: What stands for the name of a transaction until it is computed.
UNNAMED: Final[Key] = None, "", None, "", "", 0, ""
_EXTENSIONS = ("gruu", "outbound", "path")
#: Event packages whose state a server keeps, and those whose state clients keep themselves.
_SERVED: Final = frozenset(["presence", "presence.winfo", "message-summary", "reg"])
_RELAYED: Final = ("Allow-Events", "conference, dialog, refer")
#: The header fields of the answer to an OPTIONS to the edge itself.
_ABILITIES = (
    ("Accept", "*/*"),
    ("Allow", "ACK, BYE, CANCEL, INFO, INVITE, MESSAGE, NOTIFY, OPTIONS, REFER, REGISTER, UPDATE"),
    ("Supported", "outbound, path, gruu"),
)
_ABILITY_LINES: Final = "".join([f"{name}: {value}\r\n" for name, value in _ABILITIES])


class HookError(WsprotoSipError):
    """The program's own code has failed: the hook, or a source of answers.

    Args:
        error: The exception.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Done(Enum):
    """See :data:`DONE`."""

    DONE = 1


#: The request needs no further step.
DONE: Final = Done.DONE
#: The result of a step: continue, done, a refusal, or a question to answer first.
Outcome = Rejection | Done | Question["Outcome"] | None


@dataclass(slots=True)
class Rooms:
    """The parts of an edge that the steps use.

    Args:
        router: Decides where requests go.
        forwarder: Sends them on.
        outbox: Takes our own answers.
        identities: Knows the senders of requests.
        registrar: Locates users; ``None`` with an upstream.
        pace: Counts new requests.
        parking: Holds the requests that wait for an answer.
        callees: Counts the requests of strangers to each callee.
        key: A secret for branch parameters.
        hook: Decides about requests, if the program has one.
    """

    router: EdgeRouter
    forwarder: Forwarder
    outbox: Outbox
    identities: Identities
    registrar: Registrar | None
    pace: Pace
    parking: Parking[Passage]
    callees: Callees
    key: bytes
    hook: EdgeHook | None = None


@dataclass(slots=True)
class Passage:
    """A request on its way through the edge.

    Args:
        request: The request, edited on its way.
        now: The time, in seconds.
        connection: The client's connection; ``None`` for the upstream.
        source: The exact source of an upstream's request, if known.
        sender: The upstream that has sent it, and the link.
    """

    request: SipRequest
    now: float
    connection: EdgeConnection | None = None
    source: Source | None = None
    sender: tuple[str, int] = ("", DATAGRAMS)
    #: The time of its arrival, and its next step.
    came: float = field(init=False)
    position: int = 0
    #: Its flow; ``None`` for the upstream.
    origin: Flow | None = field(init=False)
    method: str = field(init=False)
    #: Whether it is an OPTIONS to the edge itself.
    for_edge: bool = False
    #: The name of its transaction, :data:`UNNAMED` at first; the base of its branch parameters.
    key: Key = UNNAMED
    base: str = field(init=False)
    #: Our routes that it came along, and whether they belong to a dialog.
    own: list[SipUri] = field(default_factory=list)
    in_dialog: bool = False
    #: The authenticated sender of a REGISTER for our own registrar.
    registrant: str | None = None
    #: Its targets, in groups to be tried one after another.
    groups: list[list[Target]] = field(init=False)
    #: Whether its sender has received 100.
    trying: bool = False
    #: Claims to release with its final response.
    waiting: list[CalleeClaim] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.origin = None if self.connection is None else self.connection.flow
        self.method = self.request.method
        self.came = self.now

    @property
    def party(self) -> Party:
        """The party whose share it counts towards."""
        return _UPSTREAM if self.connection is None else self.connection.party


#: One step of a pipeline.
Step = Callable[[Rooms, Passage], Outcome]


def handle(rooms: Rooms, passage: Passage) -> Rejection | Question[Outcome] | None:
    """Run a request through the steps for its origin, or through the remaining ones.

    Args:
        rooms: The parts of the edge.
        passage: The request.

    Returns:
        The refusal, or the question to answer first; ``None`` if it was handled.

    Raises:
        SipParseError: Its syntax is bad.
        SipValueError: It cannot be written.
    """
    steps = FROM_UPSTREAM if passage.connection is None else FROM_CLIENT
    for position in range(passage.position, len(steps)):
        outcome = steps[position](rooms, passage)
        if outcome is not None:
            passage.position = position + 1
            return None if isinstance(outcome, Done) else outcome
    return None


def conclude(question: Question[Outcome], answer: object) -> Outcome:
    """Draw the conclusion from an answer.

    Args:
        question: The question of a step.
        answer: Its answer.

    Raises:
        SipParseError: The request's syntax is bad.
        SipValueError: The request cannot be written.
        HookError: The answer is invalid, or the hook has failed.
    """
    try:
        return question.conclude(answer)
    except (SipParseError, SipValueError, HookError):
        raise
    except Exception as error:
        raise HookError(error) from error


def resume(
    rooms: Rooms, passage: Passage, outcome: Outcome
) -> Rejection | Question[Outcome] | None:
    """Continue with a request whose question was answered.

    Args:
        rooms: The parts of the edge.
        passage: The request.
        outcome: The conclusion of its step.

    Returns:
        The same as :func:`handle`, which also lists the exceptions.
    """
    if outcome is None:
        return handle(rooms, passage)
    return None if isinstance(outcome, Done) else outcome


# -- reading ---------------------------------------------------------------------------------------


def check_syntax(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a request with bad syntax or unsupported extensions (RFC 3261 §16.3)."""
    request, registrar = passage.request, rooms.registrar
    passage.for_edge = passage.method == "OPTIONS" and rooms.router.names_edge(request)
    return validate_request(
        request,
        schemes=("sip", "sips", "tel") if registrar is None else ("sip", "sips"),
        extensions=_EXTENSIONS,
        as_server=passage.for_edge or (passage.method == "REGISTER" and registrar is not None),
    )


def note_source(_rooms: Rooms, passage: Passage) -> Outcome:
    """Write the source of a request into Via; for clients even if it was not requested."""
    if passage.connection is not None:
        force_rport(passage.request, passage.connection.source)
    elif passage.source is not None:
        # RFC 3261 §18.2.1.
        add_received(passage.request, passage.source)
    return None


def keep_pace(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a new request of a client that has exceeded its share."""
    return None if passage.method in ("ACK", "CANCEL") else _count(rooms, passage)


def _count(rooms: Rooms, passage: Passage) -> Rejection | None:
    connection = passage.connection
    if connection is None:
        return None
    bound = rooms.pace.admit(connection.party, passage.now)
    if bound is None:
        return None
    return Rejection(
        503, f"too many requests per second (bound: {bound.value})", (("Retry-After", "1"),)
    )


# -- the sender ------------------------------------------------------------------------------------


def check_identity(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse requests that start something and name another user than the connection's."""
    connection = passage.connection
    if connection is None or passage.in_dialog:
        return None
    return rooms.identities.check(passage.request, connection)


def authenticate(rooms: Rooms, passage: Passage) -> Outcome:
    """Ask for a password, if one is required and none was given yet."""
    connection = passage.connection
    if connection is None:
        return None
    return rooms.identities.authenticate(
        passage.request, connection, passage.now, in_dialog=passage.in_dialog
    )


def check_registered(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a REGISTER for the upstream whose user is not its sender."""
    connection = passage.connection
    if connection is None or passage.method != "REGISTER":
        return None
    return rooms.identities.check_registered(passage.request, connection)


def refuse_stranger(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse strangers what others pay for: numbers, other domains, and routes of their choice.

    The upstream trusts the edge, and would relay all of them. Route and target within a dialog
    come from the parties of the dialog, whose existence is proven by our token.
    """
    connection, request = passage.connection, passage.request
    if rooms.registrar is not None or connection is None:
        return None
    if not rooms.identities.is_stranger(connection):
        return None
    if request.uri.scheme == "tel":
        return Rejection(403, "a stranger's request for a telephone number")
    if rooms.router.has_dialog(request, passage.own, connection):
        return None
    for route in request.routes:
        if rooms.router.upstream_named(route.uri) is None:
            return Rejection(403, f"a stranger's route to {route.uri!s:.100}")
    if not rooms.router.is_for_strangers(request.uri):
        return Rejection(403, f"a stranger's request for {request.uri!s:.100}")
    return None


# -- requests that end here
# -------------------------------------------------------------------------


def answer_ping(rooms: Rooms, passage: Passage) -> Outcome:
    """Answer an ordinary OPTIONS of a client to the edge itself, as all steps would.

    Others, and those that may have to be refused, take the steps.
    """
    request, connection, identities = passage.request, passage.connection, rooms.identities
    if passage.method != "OPTIONS" or connection is None or not rooms.router.names_edge(request):
        return None
    if identities.authenticator is not None and connection.peer.user is None:
        return None
    text = quick_response(request, connection.source, _ABILITY_LINES)
    if text is None or identities.check(request, connection) is not None:
        return None
    if excess := _count(rooms, passage):
        note_source(rooms, passage)
        return excess
    rooms.outbox.send_text(connection.flow, text)
    return DONE


def answer_options(rooms: Rooms, passage: Passage) -> Outcome:
    """Answer an OPTIONS to the edge itself (RFC 3261 §11.2), which needs no transaction."""
    if not passage.for_edge:
        return None

    def answer(outcome: Outcome) -> Outcome:
        if outcome is not None:
            return outcome
        response = passage.request.make_response(200, headers=_ABILITIES)
        rooms.outbox.send(passage.origin, response)
        return DONE

    outcome = check_identity(rooms, passage) or authenticate(rooms, passage)
    return outcome.then(answer) if isinstance(outcome, Question) else answer(outcome)


def take_ack(rooms: Rooms, passage: Passage) -> Outcome:
    """Absorb an ACK to our refusal, and send on an ACK to a 2xx along the dialog's route."""
    if passage.method != "ACK":
        return None
    if rooms.forwarder.absorbs_ack(passage.key, passage.now):
        return DONE
    # One ACK per 2xx is covered by the admission of the call; others count as new requests.
    if not rooms.forwarder.expects_ack(passage.key) and (excess := _count(rooms, passage)):
        return excess
    request = passage.request
    own = passage.own = rooms.router.follow(request)
    if not own:
        return Rejection(481, "an ACK that leads nowhere")
    if refusal := refuse_stranger(rooms, passage):
        return refusal
    groups = rooms.router.destination(request, own, passage.origin, passage.now)
    if isinstance(groups, Rejection):
        return groups
    if isinstance(groups, Lookup):
        # It belongs to a dialog, whose routes lead to its connection or to no place any more.
        return Rejection(481, "an ACK for a connection that no longer exists")
    passage.groups = groups
    take_credentials(rooms, passage)
    decrement_max_forwards(request)
    target = groups[0][0]
    if target.uri is not None:
        request.uri = target.uri
    rooms.forwarder.forward_ack(request, target, passage.origin, passage.now)
    return DONE


def take_cancel(rooms: Rooms, passage: Passage) -> Outcome:
    """Cancel the INVITE of a CANCEL (RFC 3261 §16.10)."""
    if passage.method != "CANCEL":
        return None
    request = passage.request
    waiting = rooms.parking.cancel(passage.key)
    if waiting is None and not rooms.forwarder.cancel(
        passage.key, request.get("reason"), passage.now
    ):
        return Rejection(481, "no INVITE to cancel")
    rooms.outbox.send(passage.origin, request.make_response(200))
    if waiting is not None:
        # It was not sent on yet.
        rooms.outbox.send(passage.origin, waiting.passage.request.make_response(487))
    return DONE


def absorb_repeated(rooms: Rooms, passage: Passage) -> Outcome:
    """Absorb a retransmission, answering it again if necessary."""
    there = rooms.parking.repeated(passage.key) or rooms.forwarder.repeated(passage.key)
    return DONE if there else None


def check_registrar(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a REGISTER for another registrar than ours, if there is one (RFC 3261 §10.3 step 1).

    It comes before the password, since a digest covers the Request-URI and not To: a registrar
    elsewhere could otherwise use here what it has made a client send there.
    """
    if rooms.registrar is None or passage.method != "REGISTER":
        return None
    uri = passage.request.uri
    if rooms.router.is_for_registrar(uri):
        return None
    # RFC 3261 §21.4.5.
    return Rejection(404, f"{uri!s:.100} is not in a domain of ours")


def prove_registrant(rooms: Rooms, passage: Passage) -> Outcome:
    """Authenticate the sender of a REGISTER for our registrar, if there is one."""
    connection = passage.connection
    if rooms.registrar is None or connection is None or passage.method != "REGISTER":
        return None

    def note(user: str | Rejection | None) -> Outcome:
        if isinstance(user, Rejection):
            return user
        passage.registrant = user
        return None

    user = rooms.identities.registering(passage.request, connection, passage.now)
    return user.then(note) if isinstance(user, Question) else note(user)


def consult_for_registrar(rooms: Rooms, passage: Passage) -> Outcome:
    """Call the hook for a REGISTER for our registrar, where it ends."""
    ends_here = rooms.registrar is not None and passage.method == "REGISTER"
    return consult(rooms, passage) if ends_here else None


def register(rooms: Rooms, passage: Passage) -> Outcome:
    """Pass a REGISTER to our registrar, if there is one."""
    registrar, connection = rooms.registrar, passage.connection
    if registrar is None or connection is None or passage.method != "REGISTER":
        return None
    request, now, user = passage.request, passage.now, passage.registrant
    flow, source = connection.flow, connection.alias
    journal = rooms.forwarder.journal

    def refused(refusal: Rejection) -> None:
        journal.refuse(request, refusal.status, refusal.detail, flow.cid)

    def end(outcome: SipResponse | Asked) -> Outcome:
        if not isinstance(outcome, Asked):
            rooms.outbox.send(flow, outcome)
            return DONE

        def go_on(answer: object) -> Outcome:
            alive = rooms.outbox.reaches(flow)
            return end(registrar.proceed(outcome, answer, passage.now, alive=alive))

        return Question(outcome.question, go_on)

    token = "" if registrar.node is None else rooms.router.token_of(connection)
    return end(
        registrar.plan(
            request, now, flow=flow, source=source, user=user, token=token, refused=refused
        )
    )


def refuse_register(_rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a REGISTER from the upstream, which is a registrar itself."""
    return Rejection(403, "a REGISTER from the upstream") if passage.method == "REGISTER" else None


# -- requests that go on ---------------------------------------------------------------------------


def name_transaction(_rooms: Rooms, passage: Passage) -> Outcome:
    """Compute the name of the transaction."""
    passage.key = key_of(passage.request, passage.origin)
    return None


def refuse_loop(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a request that came through here before and would take the same way again."""
    if is_loop(passage.request, rooms.key, rooms.router.is_own_via):
        return Rejection(482, "the request came through here before")
    return None


def name_branches(rooms: Rooms, passage: Passage) -> Outcome:
    """Compute the base of the branch parameters, before the request is edited."""
    passage.base = rooms.forwarder.base_for(passage.request, passage.origin)
    return None


def check_path(_rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a REGISTER for the upstream if its client cannot receive calls without Path.

    The Path itself is written when the upstream for the request is known.
    """
    if passage.connection is None or passage.method != "REGISTER":
        return None
    return require_path(passage.request)


def follow_routes(rooms: Rooms, passage: Passage) -> Outcome:
    """Remove our own routes, and determine whether they belong to a dialog."""
    router, connection = rooms.router, passage.connection
    passage.own = router.follow(passage.request)
    if connection is not None:
        passage.in_dialog = router.is_in_dialog(passage.request, passage.own, connection)
    return None


def consult(rooms: Rooms, passage: Passage) -> Outcome:
    """Call the program's hook, if there is one, for a verdict on the request."""
    if rooms.hook is None or (passage.connection is None and rooms.registrar is not None):
        # The node that it came from has asked.
        return None
    connection, request = passage.connection, passage.request
    user = None
    if connection is not None:
        user = passage.registrant or rooms.identities.sender_of(request, connection)
    asked = HookRequest(
        request.copy(),
        user,
        None if connection is None else connection.flow.cid,
        "" if connection is None else connection.address,
        connection is not None and connection.source.transport == "wss",
        passage.in_dialog,
        passage.now,
    )

    def apply(verdict: object) -> Outcome:
        # An error of the program's own code must not be taken for a bad request.
        try:
            return apply_verdict(verdict, request, in_dialog=passage.in_dialog)
        except Exception as error:
            raise HookError(error) from error

    try:
        verdict = rooms.hook(asked)
    except Exception as error:
        raise HookError(error) from error
    return Question(asked, apply) if verdict is LATER else apply(verdict)


def refuse_state(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a request for state that a server keeps, because this one keeps none (RFC 3903, 6665).

    An upstream answers such requests itself, and a hook may know where to send them. Requests to a
    client's own address ask for the state of that client.
    """
    request = passage.request
    if rooms.registrar is None or rooms.hook is not None or passage.connection is None:
        return None
    if passage.in_dialog or not rooms.router.names_user(request.uri):
        return None
    if passage.method == "PUBLISH":
        # RFC 3261 §21.4.6.
        return Rejection(405, "no event state is kept here", (_ABILITIES[1],))
    event = (request.get("event") or "").partition(";")[0].strip().lower()
    if passage.method == "SUBSCRIBE" and event in _SERVED:
        # RFC 6665 §4.2.1.1.
        return Rejection(489, f"{event} is not kept here", (_RELAYED,))
    return None


def write_alias(rooms: Rooms, passage: Passage) -> Outcome:
    """Write the alias of the client into Contact, in alias mode; otherwise a Path carries it."""
    if passage.method == "REGISTER":
        return None
    if not rooms.router.alias_contact(passage.request, passage.origin):
        return Rejection(400, "no alias can be written into Contact")
    return None


def find_targets(rooms: Rooms, passage: Passage) -> Outcome:
    """Decide where the request goes, with the answer of the location store if there is one."""
    return _find_targets(rooms, passage, None)


def _find_targets(rooms: Rooms, passage: Passage, found: Found | None) -> Outcome:
    request, now = passage.request, passage.now
    groups = rooms.router.destination(request, passage.own, passage.origin, now, found)
    if isinstance(groups, Rejection):
        return _discreet(rooms, passage, groups)
    if isinstance(groups, Lookup):
        return _look_up(rooms, passage, groups)
    if passage.method == "REGISTER" and not groups[0][0].is_upstream:
        # The route of a dialog leads to a client. Its 200 would count as the upstream's: the sender
        # would be registered without a password, and own the GRUUs in that response.
        return Rejection(403, "a REGISTER that leads to a client")
    passage.groups = groups
    return None


def _look_up(rooms: Rooms, passage: Passage, question: Lookup) -> Outcome:
    """Ask the location store, after sending 100 to a caller, since it may take time."""
    if passage.method == "INVITE":
        passage.trying = True
        rooms.outbox.send(passage.origin, passage.request.make_response(100))

    def go_on(answer: object) -> Outcome:
        if isinstance(answer, Unavailable):
            # RFC 3261 §21.4.18.
            return Rejection(480, answer.reason, (("Retry-After", str(answer.retry_after)),))
        if not isinstance(answer, Found):
            raise TypeError(f"not an answer to Lookup: {answer!r:.100}")
        return _find_targets(rooms, passage, answer)

    return Question(question, go_on)


def take_credentials(rooms: Rooms, passage: Passage) -> Outcome:
    """Remove the credentials that are for this edge, whether they were needed or not."""
    upstream = passage.groups[0][0].is_upstream
    rooms.identities.take_credentials(passage.request, upstream=upstream)
    return None


def keep_privacy(_rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse critical privacy that neither side provides (RFC 3323 §5).

    The upstream may provide it; towards a client, this edge is the last element that could.
    """
    if passage.groups[0][0].is_upstream:
        return None
    missing = unkept_privacy(passage.request)
    if not missing:
        return None
    # The reason phrase must name it.
    reason = f"Privacy Not Provided: {', '.join(missing)}"
    return Rejection(500, "critical privacy that is not provided", reason=reason)


def _discreet(rooms: Rooms, passage: Passage, refusal: Rejection) -> Rejection:
    """Hide from strangers which users exist: answer 480 instead of 404 (RFC 3261 §21.4.18)."""
    connection = passage.connection
    hidden = connection is not None and rooms.identities.hides_users_from(connection)
    return replace(refusal, status=480) if hidden and refusal.status == 404 else refusal


def spare_callee(rooms: Rooms, passage: Passage) -> Outcome:
    """Refuse a stranger that exceeds the bounds on requests to a callee.

    The callee is unavailable for more (RFC 3261 §21.4.18), not this server.
    """
    connection, now = passage.connection, passage.now
    if connection is None or not rooms.identities.is_stranger(connection):
        return None
    party = connection.party
    for callee in rooms.router.callees(passage.request, passage.groups):
        bound = rooms.callees.admit((callee, passage.in_dialog), party, now)
        if bound is None and not passage.in_dialog:
            claim = rooms.callees.claim(callee, party)
            if isinstance(claim, Bound):
                bound = claim
            else:
                passage.waiting.append(claim)
        if bound is not None:
            _release(passage)
            detail = f"too many requests of strangers (bound: {bound.value})"
            return Rejection(480, detail, (("Retry-After", "5"),))
    return None


def _release(passage: Passage) -> None:
    for claim in passage.waiting:
        claim.release()


def write_identity(rooms: Rooms, passage: Passage) -> Outcome:
    """Tell the upstream the sender of the request, if configured, and clients nothing."""
    connection = passage.connection
    upstream = passage.groups[0][0].is_upstream
    if connection is not None and (rooms.identities.asserts or not upstream):
        rooms.identities.write(passage.request, connection, upstream=upstream)
    return None


def forward(rooms: Rooms, passage: Passage) -> Outcome:
    """Send the request on, with one hop less."""
    decrement_max_forwards(passage.request)
    refusal: Rejection | None = _UNSENT
    try:
        refusal = rooms.forwarder.start(
            passage.request,
            passage.key,
            passage.base,
            passage.groups,
            passage.party,
            passage.now,
            waiting=tuple(passage.waiting),
            trying=passage.trying,
        )
    finally:
        if refusal is not None:
            _release(passage)
    return refusal


#: A request from a client.
FROM_CLIENT: Final[tuple[Step, ...]] = (
    answer_ping,
    check_syntax,
    note_source,
    keep_pace,
    answer_options,
    name_transaction,
    take_ack,
    take_cancel,
    absorb_repeated,
    refuse_loop,
    name_branches,
    follow_routes,
    check_identity,
    check_registrar,
    prove_registrant,
    consult_for_registrar,
    register,
    check_path,
    authenticate,
    check_registered,
    refuse_stranger,
    consult,
    refuse_state,
    write_alias,
    find_targets,
    take_credentials,
    keep_privacy,
    write_identity,
    spare_callee,
    forward,
)
#: A request from the upstream.
FROM_UPSTREAM: Final[tuple[Step, ...]] = (
    check_syntax,
    note_source,
    answer_options,
    name_transaction,
    take_ack,
    take_cancel,
    absorb_repeated,
    refuse_loop,
    name_branches,
    refuse_register,
    follow_routes,
    consult,
    find_targets,
    take_credentials,
    keep_privacy,
    forward,
)
