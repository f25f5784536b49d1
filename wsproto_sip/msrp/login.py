"""How a client gets a session from a relay (RFC 4976 §5.1).

Theory of operation: AUTH goes out without credentials, or with those for the last challenge; the
relay challenges, or says which times it grants, and AUTH goes out again, a few times at most.
Each answer of the relay gives the next AUTH, the session, or the reason why there is none.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from ..typing import Entropy
from .authentication import (
    AuthenticationError,
    Challenge,
    Credentials,
    Ha1,
    answer_challenge,
    verify_server,
)
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .message import MsrpRequest, MsrpResponse, new_transaction_id
from .uri import MsrpPath, MsrpUri, MsrpUriError, parse_path

__all__ = ["Granted", "RelayLogin"]

#: How often one login may send AUTH: without credentials, for another time, for a fresh nonce.
_MAX_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Granted:
    """The relay has given a session.

    Args:
        path: The URIs of the session, which stand before the client's own in its path.
        expires: Seconds it lasts; 0 where the relay has not told.
    """

    path: MsrpPath
    expires: int


class RelayLogin:
    """The AUTH requests of one client.

    Args:
        relay: The URI of the relay.
        local: The client's own URI.
        username: Who.
        password: The password, or what is derived from it.
        expires: Seconds to ask for; ``None`` leaves them to the relay.
        require_proof: Whether to refuse a relay that does not prove to know the password.
        timeout: Seconds to wait for an answer.
        limits: The bounds on the path the relay gives.
        entropy: Source of transaction ids and of the client's nonces.

    Attributes:
        deadline: When the AUTH under way has had no answer; ``None`` while none is.

    Raises:
        ValueError: The user name holds control characters.
    """

    def __init__(
        self,
        relay: MsrpUri,
        local: MsrpUri,
        username: str,
        password: str | Ha1,
        *,
        expires: int | None = None,
        require_proof: bool = False,
        timeout: float = 30.0,
        limits: MsrpLimits = DEFAULT_MSRP_LIMITS,
        entropy: Entropy = os.urandom,
    ) -> None:
        # Fails here rather than in the middle of a login.
        bytes(Credentials(username, "", "", "", "", "", ""))
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
        """Begin; what was under way is forgotten.

        Args:
            now: The time in seconds.

        Returns:
            The AUTH to send.
        """
        self._rounds = 0
        return self._next(now)

    def cancel(self) -> None:
        """Forget what is under way."""
        self._tid = b""
        self.deadline = None

    def awaits(self, response: MsrpResponse) -> bool:
        """Whether this is the response to the AUTH under way."""
        return response.transaction_id == self._tid

    def receive(self, response: MsrpResponse, now: float) -> Granted | bytes:
        """Take the response.

        Args:
            response: The response that was awaited.
            now: The time in seconds.

        Returns:
            The session, or the next AUTH to send.

        Raises:
            AuthenticationError: The relay cannot be satisfied, or does not satisfy us.
        """
        self.cancel()
        if response.code == 200:
            return self._granted(response)
        if self._rounds >= _MAX_ROUNDS:
            raise AuthenticationError(f"refused {self._rounds} times")
        if response.code == 401:
            challenge = Challenge.parse(response.header(b"www-authenticate") or b"")
            # With a nonce used before, the refusal can be about the nonce alone.
            if self._credentials is not None and self._nonce_count == 1 and not challenge.stale:
                self._challenge = None
                raise AuthenticationError("the credentials are refused")
            self._challenge = challenge
            self._nonce_count = 0
        elif response.code == 423:
            bound = response.header(b"min-expires") or response.header(b"max-expires")
            if bound is None:
                raise AuthenticationError("the time asked for is out of bounds that are not told")
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
                self._relay,
                nonce_count=self._nonce_count,
                entropy=self._entropy,
            )
            request.headers.append((b"Authorization", bytes(self._credentials)))
        self._tid = request.transaction_id
        self._rounds += 1
        self.deadline = now + self._timeout
        return request.to_bytes()

    def _granted(self, response: MsrpResponse) -> Granted:
        info = response.header(b"authentication-info")
        if self._credentials is None or info is None:
            if self._require_proof:
                raise AuthenticationError("the relay does not prove to know the password")
        elif not verify_server(self._credentials, self._password, info):
            raise AuthenticationError("the relay's proof is wrong")
        try:
            path = parse_path(response.header(b"use-path") or b"", limits=self._limits)
        except MsrpUriError as error:
            raise AuthenticationError(f"no session: {error}") from error
        return Granted(path, int(response.header(b"expires") or b"0"))
