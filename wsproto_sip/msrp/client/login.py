"""Get a session from a relay as a client (RFC 4976 §5.1).

Theory of operation: AUTH is sent without credentials, or with those for the last challenge. The
relay challenges, or says which lifetimes it grants, and AUTH is sent again, a few times at most.
Each answer of the relay leads to the next AUTH, to the session, or to the reason for its refusal.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ...auth.digest import (
    Challenge,
    Credentials,
    Secret,
    answer_challenge,
    verify_server,
)
from ...typing import Entropy
from ..authentication import AuthenticationError
from ..message.chunk import MsrpRequest, MsrpResponse, new_transaction_id
from ..message.limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from ..message.uri import MsrpPath, MsrpUri, MsrpUriError, parse_path

__all__ = ["Granted", "RelayLogin"]

#: How often one login may send AUTH: without credentials, for another lifetime, for a fresh nonce.
_MAX_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Granted:
    """The relay has granted a session.

    Args:
        path: The session's URIs, which precede the client's own in its path.
        expires: Its lifetime in seconds; 0 if the relay has not given it.
    """

    path: MsrpPath
    expires: int


class RelayLogin:
    """The AUTH requests of one client.

    Args:
        relay: The URI of the relay.
        local: The client's own URI.
        username: The user's name.
        password: The password, or the results of :func:`~wsproto_sip.auth.digest.digest_ha1`.
        expires: The lifetime to request in seconds; ``None`` leaves it to the relay.
        require_proof: Whether to refuse a relay that does not prove knowledge of the password.
        timeout: Seconds to wait for an answer.
        limits: The limits of the path that the relay gives.
        entropy: Source of transaction ids and of the client's nonces.

    Attributes:
        deadline: When the current AUTH times out; ``None`` without one.

    Raises:
        ValueError: The user's name is not valid.
    """

    def __init__(
        self,
        relay: MsrpUri,
        local: MsrpUri,
        username: str,
        password: Secret,
        *,
        expires: int | None = None,
        require_proof: bool = False,
        timeout: float = 30.0,
        limits: MsrpLimits = DEFAULT_MSRP_LIMITS,
        entropy: Entropy = os.urandom,
    ) -> None:
        # Fail here rather than in the middle of a login.
        Credentials(username, "", "", "", "")
        self._relay = relay
        self._local = local
        self._username = username
        self._password = password
        self._expires = expires
        self._require_proof = require_proof
        self._timeout = timeout
        self._limits = limits
        self._entropy = entropy
        self._challenge: Challenge | None = None
        self._nonce_count = 0
        self._credentials: Credentials | None = None
        self._tid = b""
        self._rounds = 0
        self.deadline: float | None = None

    def start(self, now: float) -> bytes:
        """Start a login, abandoning the current one.

        Args:
            now: The time in seconds.

        Returns:
            The AUTH to send.
        """
        self._rounds = 0
        return self._next(now)

    def cancel(self) -> None:
        """Abandon the current login."""
        self._tid = b""
        self.deadline = None

    def awaits(self, response: MsrpResponse) -> bool:
        """Return whether this is the response to the current AUTH."""
        return response.transaction_id == self._tid

    def receive(self, response: MsrpResponse, now: float) -> Granted | bytes:
        """Take the response.

        Args:
            response: The awaited response.
            now: The time in seconds.

        Returns:
            The session, or the next AUTH to send.

        Raises:
            AuthenticationError: The relay refuses us, or we refuse it.
        """
        self.cancel()
        if response.code == 200:
            return self._granted(response)
        if self._rounds >= _MAX_ROUNDS:
            raise AuthenticationError(f"refused {self._rounds} times")
        if response.code == 401:
            challenge = _challenge_of(response, self._password)
            # If the nonce was used before, the refusal may be about the nonce alone.
            if self._credentials is not None and self._nonce_count == 1 and not challenge.stale:
                self._challenge = None
                raise AuthenticationError("the credentials were refused")
            self._challenge = challenge
            self._nonce_count = 0
        elif response.code == 423:
            bound = response.header(b"min-expires") or response.header(b"max-expires")
            if bound is None:
                raise AuthenticationError(
                    "the relay refuses the requested lifetime, but names no limits"
                )
            self._expires = int(bound)
        else:
            raise AuthenticationError((response.comment or b"").decode("utf-8", "replace"))
        return self._next(now)

    def _next(self, now: float) -> bytes:
        request = MsrpRequest(
            new_transaction_id(entropy=self._entropy), b"AUTH", (self._relay,), (self._local,)
        )
        if self._expires is not None:
            request.headers.append((b"Expires", b"%d" % self._expires))
        self._credentials = None
        if self._challenge is not None:
            self._nonce_count += 1
            self._credentials = answer_challenge(
                self._challenge,
                self._username,
                self._password,
                "AUTH",
                str(self._relay),
                count=self._nonce_count,
                entropy=self._entropy,
            )
            request.headers.append((b"Authorization", str(self._credentials).encode("utf-8")))
        self._tid = request.transaction_id
        self._rounds += 1
        self.deadline = now + self._timeout
        return request.to_bytes()

    def _granted(self, response: MsrpResponse) -> Granted:
        info = response.header(b"authentication-info")
        if self._credentials is None or info is None:
            if self._require_proof:
                raise AuthenticationError("the relay does not prove knowledge of the password")
        elif not _proves(self._credentials, self._password, info):
            raise AuthenticationError("the relay's proof is wrong")
        try:
            path = parse_path(response.header(b"use-path") or b"", limits=self._limits)
        except MsrpUriError as error:
            raise AuthenticationError(f"no session: {error}") from error
        return Granted(path, int(response.header(b"expires") or b"0"))


def _challenge_of(response: MsrpResponse, secret: Secret) -> Challenge:
    """Return the first challenge of a 401 that can be answered.

    The challenge must offer ``qop=auth``, since without it the relay cannot prove itself (§9.1).

    Raises:
        AuthenticationError: No challenge offers it, or one before it is malformed.
    """
    texts = [value for name, value in response.headers if name.lower() == b"www-authenticate"]
    for text in texts:
        try:
            challenge = Challenge.parse(text.decode("utf-8"))
        except ValueError as exc:
            raise AuthenticationError(f"malformed challenge: {exc}") from exc
        if challenge is None or not challenge.qop:
            continue
        if isinstance(secret, str) or challenge.algorithm in secret:
            return challenge
    raise AuthenticationError(f"the relay offers no supported Digest challenge: {texts!r:.200}")


def _proves(credentials: Credentials, secret: Secret, info: bytes) -> bool:
    try:
        return verify_server(credentials, secret, info.decode("utf-8"))
    except ValueError as exc:
        raise AuthenticationError(f"malformed Authentication-Info: {exc}") from exc
