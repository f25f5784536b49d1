"""The Digest scheme of HTTP authentication (RFC 7616), with SHA-256 and MD5 and qop=auth."""

from __future__ import annotations

from collections.abc import Sequence

from ..auth.accounts import Users
from ..auth.digest import Algorithm, Credentials
from ..auth.identity import Identity
from ..auth.nonces import Nonces
from ..auth.outcome import Denied, Question
from ..auth.throttle import Throttle
from ..auth.timed import TimedAccounts
from ..auth.verifier import DigestVerifier, Proven
from .authentication import Judgement, Malformed
from .decision import RequestContext

__all__ = ["Digest"]


class Digest:
    """The Digest scheme.

    Args:
        realm: The realm that the client shows its user, and part of the stored hashes; printable
            ASCII.
        users: Passwords or accounts by name; or a function that takes a name and returns its
            :class:`~wsproto_sip.auth.accounts.Account`, ``None`` for no account, or
            :data:`~wsproto_sip.auth.outcome.LATER` to be asked again through an
            :class:`~wsproto_sip.auth.verifier.AccountQuestion`.
        algorithms: The hashes to accept, the preferred one first; a challenge is made for each one
            that every user of a mapping has a password or a hash for.
        timed: Credentials that expire, accepted in addition to those of the users.
        nonces: The store of nonces; by default one with the defaults of
            :class:`~wsproto_sip.auth.nonces.Nonces`.
        throttle: Slows guessing down; by default a separate one with default settings.

    Raises:
        ValueError: The realm cannot be quoted as it is, or ``algorithms`` is empty.
    """

    name = "digest"

    def __init__(
        self,
        realm: str,
        users: Users,
        *,
        algorithms: Sequence[Algorithm] = (Algorithm.SHA_256, Algorithm.MD5),
        timed: TimedAccounts | None = None,
        nonces: Nonces | None = None,
        throttle: Throttle | None = None,
    ) -> None:
        self._verifier = DigestVerifier(
            realm,
            users,
            algorithms=algorithms,
            timed=timed,
            nonces=nonces,
            throttle=throttle,
        )

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """Return one challenge for each hash (RFC 7616 §3.3)."""
        made = self._verifier.challenges(context.now, stale=stale, utf8=True)
        return [str(challenge).encode("ascii") for challenge in made]

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        """Check the credentials (RFC 7616 §3.4), and the nonce last."""
        try:
            given = Credentials.parse("Digest " + credentials.decode("utf-8"))
        except ValueError as exc:
            return Malformed(f"malformed Digest credentials: {exc}")
        if given is None:
            return Denied("an algorithm or qop that was not offered, or a hashed user name")
        if given.uri != context.request.target:
            return Malformed("Digest credentials for another target")
        outcome = self._verifier.check(
            given, context.method, context.now, address=context.peer_address
        )
        if isinstance(outcome, Question):
            return outcome.then(_identity)
        return _identity(outcome)


def _identity(outcome: Proven | Denied) -> Identity | Denied:
    return outcome.identity if isinstance(outcome, Proven) else outcome
