"""JSON Web Tokens as credentials, in the handshake and in SIP (RFC 8898, RFC 7519).

Theory of operation: a token names its user in a claim, and is signed with a known key. The allowed
algorithms are those of the configuration and never what a token claims, so that neither an unsigned
token nor one signed with a public key as the secret is accepted. Checking needs no I/O. It needs
PyJWT (``pip install "wsproto-sip[jwt]"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from ..auth.identity import Identity, is_username

if TYPE_CHECKING:
    from ..policy.token import TokenQuestion
    from ..sip.registrar.bearer import BearerQuestion

__all__ = ["ALGORITHMS", "JwtVerifier"]

ALGORITHMS: Final = (
    "EdDSA",
    "ES256",
    "ES384",
    "ES512",
    "HS256",
    "HS384",
    "HS512",
    "PS256",
    "PS384",
    "PS512",
    "RS256",
    "RS384",
    "RS512",
)
"""The algorithms that tokens may be signed with."""

#: Minimum size of a secret in bytes; a shorter one could be guessed from one token (RFC 7518 §3.2).
_LEAST: Final = 32


class JwtVerifier:
    """Verify tokens that are signed with one of its keys.

    It is the ``verify`` of :class:`~wsproto_sip.policy.token.TokenPolicy` and of
    :class:`~wsproto_sip.sip.registrar.bearer.BearerVerifier`.

    Args:
        keys: Public keys as PEM, or secrets; several during a change of keys.
        algorithms: The allowed algorithms, of :data:`ALGORITHMS`. Those with secrets (HS…) and
            those with public keys cannot be combined.
        audience: The required audience (``aud``); ``None`` for tokens without one.
        issuer: The required issuer (``iss``); ``None`` for any.
        claim: The claim that names the user.
        leeway: Seconds by which clocks may differ.

    Raises:
        ImportError: PyJWT is not installed.
        ValueError: ``keys`` is empty, a key is unusable, or the algorithms cannot be combined.
    """

    def __init__(
        self,
        keys: Sequence[str | bytes],
        *,
        algorithms: Sequence[str],
        audience: str | None = None,
        issuer: str | None = None,
        claim: str = "sub",
        leeway: float = 10.0,
    ) -> None:
        try:
            import jwt  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ImportError('tokens need PyJWT: pip install "wsproto-sip[jwt]"') from exc
        unknown = [name for name in algorithms if name not in ALGORITHMS]
        if unknown or not algorithms:
            raise ValueError(f"algorithms must be among {', '.join(ALGORITHMS)}: {unknown!r}")
        secret = {name.startswith("HS") for name in algorithms}
        if len(secret) > 1:
            raise ValueError("algorithms with secrets and with public keys cannot be combined")
        self._jwt: Any = jwt
        self._algorithms = list(algorithms)
        self._keys: list[Any] = []
        for key in keys:
            if secret == {True} and len(key) < _LEAST:
                raise ValueError(f"a secret must have at least {_LEAST} bytes")
            try:
                method = jwt.get_algorithm_by_name(algorithms[0])
                self._keys.append(method.prepare_key(key))
            except (jwt.InvalidKeyError, ValueError, TypeError, NotImplementedError) as exc:
                raise ValueError(f"a key that cannot be used: {exc}") from None
        if not self._keys:
            raise ValueError("keys must not be empty")
        self._audience = audience
        self._issuer = issuer
        self._claim = claim
        self._leeway = leeway

    def __call__(self, question: TokenQuestion | BearerQuestion) -> Identity | None:
        """Return the identity in a token; ``None`` for an invalid token.

        Args:
            question: The question with the token.
        """
        for key in self._keys:
            try:
                claims: dict[str, Any] = self._jwt.decode(
                    question.token,
                    key,
                    algorithms=self._algorithms,
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=self._leeway,
                    options={"require": ["exp"]},
                )
            except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError):
                # Of deeply nested JSON, before PyJWT 2.15.
                continue
            name = claims.get(self._claim)
            if isinstance(name, str) and is_username(name):
                return Identity(name, "token", claims)
        return None
