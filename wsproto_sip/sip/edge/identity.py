"""The senders of requests: users of connections, passwords, and the addresses they may claim.

Theory of operation: the handshake may have authenticated the user of a connection. Then a request
must name that user. Otherwise a password proves the sender of a request, if one is required, and
the proof is remembered with the connection. A connection without either is a stranger's: it may
contact the users, in its own name, and little else.

Identity matters for requests that start something. Within a dialog, From may be any called party: a
group, a forwarded number, or what a server wrote into its Contact. There the connection is judged:
it must have a known user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...auth.outcome import Question
from ..message.uri import SipUri
from ..rules.identity import check_identity, claims
from ..rules.routing import Rejection
from .config import ChallengeScope

if TYPE_CHECKING:
    from ..message.message import SipRequest
    from ..message.uri import Uri
    from ..registrar.authentication import DigestAuthenticator
    from .config import EdgeConfig
    from .connections import EdgeConnection

__all__ = ["Identities"]


class Identities:
    """Decide whether requests come from the users they name.

    Args:
        config: The edge's configuration.
        authenticator: Checks credentials; ``None`` if none are required.
        serves: Tells whether requests to a URI are served; ``None`` if all may be.

    Attributes:
        authenticator: Checks credentials; may be replaced.
    """

    def __init__(
        self,
        config: EdgeConfig,
        authenticator: DigestAuthenticator | None,
        serves: Callable[[Uri], bool] | None = None,
    ) -> None:
        self.authenticator = authenticator
        self._serves = serves
        self._config = config
        self._domains = config.own_domains

    def check(self, request: SipRequest, connection: EdgeConnection) -> Rejection | None:
        """Check a request against the user of its connection (RFC 7118 appendix A)."""
        user = connection.peer.user
        if user is None or not self._config.check_identity:
            return None
        return check_identity(request, self._of(user, request.from_.uri))

    def _of(self, user: str, claimed: Uri) -> SipUri:
        """Return the user of a connection in the form of a claimed URI."""
        name, at, host = user.rpartition("@")
        if not at:
            name, host = user, self._domains.first
        if not isinstance(claimed, SipUri):
            return SipUri.make(host, name)
        identity = SipUri.make(host, name, scheme=claimed.scheme)
        if self._domains.has(identity) and self._domains.has(claimed):
            # A user is the same in all our domains.
            identity = SipUri.make(claimed.host, name, scheme=claimed.scheme)
        return identity

    def check_registered(self, request: SipRequest, connection: EdgeConnection) -> Rejection | None:
        """Check that the address in a REGISTER for the upstream belongs to its sender.

        An upstream that leaves authentication to the edge cannot check that.
        """
        target, user = request.to.uri, connection.peer.user
        if user is not None:
            expected = self._of(user, target).aor
            right = isinstance(target, SipUri) and target.aor == expected
        elif self.authenticator is not None and self._config.challenge is not ChallengeScope.NONE:
            # From names the user that answered the challenge.
            sender = request.from_.sip_uri
            aor = self._domains.aor(target) if isinstance(target, SipUri) else None
            right = aor is not None and aor == self._domains.aor(sender)
        else:
            return None
        return None if right else Rejection(403, f"{target!s:.100} is not the authenticated user")

    def registering(
        self, request: SipRequest, connection: EdgeConnection, now: float
    ) -> str | Rejection | Question[str | Rejection] | None:
        """Return the user that sent a REGISTER for our own registrar.

        Returns:
            The name; ``None`` if it need not be proven; the refusal, a challenge; or the question
            to answer first.
        """
        user = self._user_of(connection)
        if user is not None or self.authenticator is None:
            return user

        def proven(outcome: str | Rejection) -> str | Rejection:
            if isinstance(outcome, str):
                self._remember(connection, outcome)
            return outcome

        outcome = _check(self.authenticator, request, connection, now, proxy=False)
        return outcome.then(proven) if isinstance(outcome, Question) else proven(outcome)

    def _user_of(self, connection: EdgeConnection) -> str | None:
        """Return the name of a connection's user, if it is in our domains."""
        user = connection.peer.user
        if user is None:
            return None
        name, at, host = user.rpartition("@")
        if not at:
            return user
        aor = self._domains.aor(SipUri.make(host, name))
        # A user of another domain is not ours.
        return "" if aor is None else aor.username

    def authenticate(
        self, request: SipRequest, connection: EdgeConnection, now: float, *, in_dialog: bool
    ) -> Rejection | Question[Rejection | None] | None:
        """Ask for a password, if one is required and none was given yet (RFC 3261 §22.3).

        Within a dialog, any user authenticated on the connection is enough.
        """
        authenticator, challenge = self.authenticator, self._config.challenge
        if authenticator is None or connection.peer.user is not None:
            return None
        if challenge is ChallengeScope.NONE:
            return None
        if challenge is ChallengeScope.OWN and not self._is_own(request):
            return None
        if in_dialog and connection.proven:
            return None
        sender = request.from_.uri
        name = self._claimed(request)
        # An earlier proof on this connection is enough, unless each request needs a new one.
        if name in connection.proven and challenge is ChallengeScope.OWN:
            return check_identity(request, self._of(name, sender))

        def proven(outcome: str | Rejection) -> Rejection | None:
            if isinstance(outcome, Rejection):
                return outcome
            if not in_dialog and (refusal := check_identity(request, self._of(outcome, sender))):
                return refusal
            # A server elsewhere can make a client of its own send credentials for its own domain,
            # by passing on a challenge of ours.
            if self._serves is None or self._serves(request.uri):
                self._remember(connection, outcome)
            return None

        outcome = _check(authenticator, request, connection, now, proxy=True)
        return outcome.then(proven) if isinstance(outcome, Question) else proven(outcome)

    def take_credentials(self, request: SipRequest, *, upstream: bool) -> None:
        """Remove the credentials for this edge from a request that goes on (RFC 3261 §22.3).

        A client that has proven its user sends them nevertheless, and an ACK repeats those of its
        INVITE. With those that were not used yet, the callee could speak as the caller. A digest
        does not cover the name of its field, so Authorization is as good, which a callee can
        request with a challenge of this edge, and so can any server after the upstream.

        Args:
            request: The request as it goes on.
            upstream: Whether it goes to the upstream, which may have requested Authorization in the
                same realm, and Proxy-Authorization if this edge does not.
        """
        if self.authenticator is None:
            return
        self.authenticator.consume(request, "Authorization", only_answers=upstream)
        if not (upstream and self._config.challenge is ChallengeScope.NONE):
            self.authenticator.consume(request, "Proxy-Authorization")

    def _is_own(self, request: SipRequest) -> bool:
        """Return whether a request claims to come from one of our domains."""
        return any(isinstance(uri, SipUri) and self._domains.has(uri) for uri in claims(request))

    def _claimed(self, request: SipRequest) -> str | None:
        """Return the name of the user in our domains that a request claims as its sender.

        Returns:
            ``None`` if it claims nothing, and ``""`` if it claims something else.
        """
        claimed = claims(request)
        if not claimed:
            return None
        uri = claimed[0]
        aor = self._domains.aor(uri) if isinstance(uri, SipUri) else None
        return "" if aor is None else aor.username

    @property
    def asserts(self) -> bool:
        """Whether the upstream is told the senders of requests."""
        return self._config.assert_identity

    def write(self, request: SipRequest, connection: EdgeConnection, *, upstream: bool) -> None:
        """Tell the upstream the authenticated sender of a request (RFC 3325 §5).

        P-Preferred-Identity is only for the element that asserts the identity, and is removed after
        it (§9.2): it would reveal an anonymous caller to the callee.

        Args:
            request: The request as it goes on.
            connection: The connection it came from.
            upstream: Whether it goes to the upstream.
        """
        identity = self._asserted(request, connection) if upstream else None
        request.remove_header("p-preferred-identity")
        if identity is not None:
            request.add_header("P-Asserted-Identity", f"<{identity}>")

    def _asserted(self, request: SipRequest, connection: EdgeConnection) -> SipUri | None:
        """Return the address of record of a request's authenticated sender, or ``None``.

        Only the users of our own domains are asserted (RFC 3325 §1). This edge cannot vouch for an
        address in another domain, even if the source of its users has such names.
        """
        user = connection.peer.user
        if user is not None:
            identity = self._of(user, request.from_.uri).aor
            return identity if self._domains.has(identity) else None
        name = self.sender_of(request, connection)
        return None if name is None else SipUri.make(self._domains.first, name)

    def sender_of(self, request: SipRequest, connection: EdgeConnection) -> str | None:
        """Return the authenticated sender of a request; ``None`` for a stranger."""
        user = connection.peer.user
        if user is not None:
            return user
        name = self._claimed(request)
        if name is None and len(connection.proven) == 1:
            (name,) = connection.proven
        return name if name in connection.proven else None

    def _remember(self, connection: EdgeConnection, user: str) -> None:
        if len(connection.proven) < self._config.max_users_per_connection:
            connection.proven.add(user)

    @staticmethod
    def is_stranger(connection: EdgeConnection) -> bool:
        """Return whether a connection has no known user."""
        return connection.user is None

    def hides_users_from(self, connection: EdgeConnection) -> bool:
        """Return whether a connection must not learn which users exist."""
        return self.authenticator is not None and self.is_stranger(connection)


def _check(
    authenticator: DigestAuthenticator,
    request: SipRequest,
    connection: EdgeConnection,
    now: float,
    *,
    proxy: bool,
) -> str | Rejection | Question[str | Rejection]:
    return authenticator.check(
        request,
        now,
        proxy=proxy,
        address=connection.address,
        connection=connection.flow,
        proven=connection.proven,
        secure=connection.source.transport == "wss",
    )
