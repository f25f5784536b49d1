"""The Digest scheme of HTTP authentication (RFC 7616), with SHA-256 and MD5 and qop=auth.

Theory of operation: a nonce carries the time it was made and a keyed hash over that, so the
challenges that are handed out cost no memory. Only a nonce that was used with the right password
is remembered, with its highest count, and so many of them at most; when one has to be forgotten,
everything made up to then counts as too old. Either way a captured request cannot be used again.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import os
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from .authentication import Denied, Judgement, Malformed, Question, check_realm, is_username
from .decision import Identity, Later, RequestContext

if TYPE_CHECKING:
    from ..typing import Entropy

__all__ = [
    "Account",
    "Algorithm",
    "Digest",
    "DigestQuestion",
    "Nonces",
    "account_lookup",
    "digest_ha1",
    "digest_response",
    "parse_parameters",
]

_PARAMETER = re.compile(
    r"([!#$%&'*+\-.^_`|~0-9A-Za-z]++)[ \t]*+=[ \t]*+"
    r'(?:"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e\x80-\U0010ffff])*+)"'
    r"|([!#$%&'*+\-.^_`|~0-9A-Za-z]++))[ \t]*+(?:,[ \t,]*+|\Z)"
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_COUNT = re.compile(r"[0-9a-f]{8}")
_EXTENDED = re.compile(r"[Uu][Tt][Ff]-8'[A-Za-z]*'((?:[A-Za-z0-9!#$&+\-.^_`|~]|%[0-9A-Fa-f]{2})*)")
_NONCE = re.compile(r"[0-9a-f]{64}")
_MAX_PARAMETERS = 32


class Algorithm(Enum):
    """The hashes of RFC 7616 §6.1 that browsers know; MD5 is for clients that know nothing else."""

    SHA_256 = "SHA-256"
    MD5 = "MD5"

    def hash(self, *parts: str) -> str:
        """The hash of the parts, joined by colons, in lower-case hexadecimal."""
        data = ":".join(parts).encode("utf-8", "surrogatepass")
        if self is Algorithm.SHA_256:
            return hashlib.sha256(data).hexdigest()
        return hashlib.md5(data, usedforsecurity=False).hexdigest()


def digest_ha1(algorithm: Algorithm, username: str, realm: str, password: str) -> str:
    """What a server may store in place of the password (RFC 7616 §3.4.2)."""
    return algorithm.hash(username, realm, password)


def digest_response(
    algorithm: Algorithm, ha1: str, *, method: str, uri: str, nonce: str, nc: str, cnonce: str
) -> str:
    """The response to a challenge with qop=auth (RFC 7616 §3.4.1).

    Args:
        algorithm: The hash.
        ha1: The result of :func:`digest_ha1` for the same hash.
        method: The HTTP method.
        uri: The request target as the client wrote it into its credentials.
        nonce: The challenge's nonce.
        nc: The count, eight hexadecimal digits.
        cnonce: The client's nonce.
    """
    ha2 = algorithm.hash(method, uri)
    return algorithm.hash(ha1, nonce, nc, cnonce, "auth", ha2)


@dataclass(frozen=True, slots=True)
class Account:
    """What the server knows of a user.

    Args:
        identity: Who the connection is for, once the password has proven right.
        password: The password; ``None`` where only hashes are stored.
        ha1: The results of :func:`digest_ha1`, by hash; they go before the password.
    """

    identity: Identity
    password: str | None = field(default=None, repr=False)
    ha1: Mapping[Algorithm, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class DigestQuestion:
    """Which account is this? The answer is an :class:`Account`, or ``None`` for no account.

    Args:
        username: The user's name.
        realm: The realm that was asked for.
    """

    username: str
    realm: str


class Nonces:
    """Nonces that expire and cannot be used twice, in bounded memory.

    Args:
        lifetime: Seconds for which one may be used.
        capacity: How many used ones are remembered.
        secret: The key; a random one if not given. Servers that share a key, and a clock, accept
            each other's nonces, but do not see each other's counts.
        entropy: Where random octets come from.

    Raises:
        ValueError: The lifetime or the capacity is not positive, or the key has less than 16
            octets.
    """

    def __init__(
        self,
        *,
        lifetime: float = 300.0,
        capacity: int = 10_000,
        secret: bytes | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        if not lifetime > 0:
            raise ValueError(f"lifetime must be positive: {lifetime!r}")
        if capacity < 1:
            raise ValueError(f"capacity must be positive: {capacity!r}")
        if secret is not None and len(secret) < 16:
            raise ValueError("secret must have at least 16 octets")
        self._lifetime = lifetime
        self._capacity = capacity
        self._secret = entropy(32) if secret is None else secret
        self._entropy = entropy
        self._counts: dict[str, int] = {}
        self._ages: list[tuple[float, str]] = []
        self._forgotten = float("-inf")

    def __len__(self) -> int:
        return len(self._counts)

    def _seal(self, head: bytes) -> bytes:
        return hmac.digest(self._secret, head, "sha256")[:16]

    def make(self, now: float) -> str:
        """Make a nonce: 64 lower-case hexadecimal digits.

        Args:
            now: The time, in seconds.
        """
        head = struct.pack(">d", now) + self._entropy(8)
        return (head + self._seal(head)).hex()

    def use(self, nonce: str, count: int, now: float) -> bool:
        """Use a nonce once, after the response over it has proven right.

        Args:
            nonce: The nonce as the client repeated it.
            count: The client's count; each use takes a higher one.
            now: The time, in seconds.

        Returns:
            Whether it is one of ours, not too old, and the count has not been used.
        """
        if not _NONCE.fullmatch(nonce):
            return False
        raw = bytes.fromhex(nonce)
        if not hmac.compare_digest(self._seal(raw[:16]), raw[16:]):
            return False
        made: float = struct.unpack(">d", raw[:8])[0]
        if not 0 <= now - made <= self._lifetime:
            return False
        while self._ages and self._ages[0][0] + self._lifetime < now:
            del self._counts[heapq.heappop(self._ages)[1]]
        known = self._counts.get(nonce)
        if known is None:
            if made <= self._forgotten:
                return False
            heapq.heappush(self._ages, (made, nonce))
        elif count <= known:
            return False
        self._counts[nonce] = count
        if len(self._counts) > self._capacity:
            self._forgotten, oldest = heapq.heappop(self._ages)
            del self._counts[oldest]
        return True


def parse_parameters(credentials: bytes) -> dict[str, str]:
    """Parse a list of authentication parameters (RFC 9110 §11.2).

    Args:
        credentials: What stands behind the scheme's name, in UTF-8.

    Returns:
        The values by name in lower case, quotes and escapes removed.

    Raises:
        ValueError: It is not UTF-8, not such a list, holds more than 32 parameters, or one twice.
    """
    text = credentials.decode("utf-8")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise ValueError(f"no parameter at character {position}")
        position = match.end()
        name, quoted, token = match.groups()
        name = name.lower()
        if name in parameters:
            raise ValueError(f"parameter {name} twice")
        if len(parameters) == _MAX_PARAMETERS:
            raise ValueError("too many parameters")
        parameters[name] = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
    return parameters


class Digest:
    """The Digest scheme.

    Args:
        realm: What the client shows its user, and part of the stored hashes; printable ASCII.
        lookup: Takes a name and returns its :class:`Account`, ``None`` for no account, or
            :data:`~wsproto_sip.policy.decision.LATER` to be asked again through a
            :class:`DigestQuestion`. :func:`account_lookup` makes one.
        algorithms: The hashes to accept, the preferred one first; a challenge is made for each.
        nonces: Where nonces come from; the defaults of :class:`Nonces` if not given.

    Raises:
        ValueError: The realm cannot be quoted as it is, or there are no algorithms.
    """

    name = "digest"

    def __init__(
        self,
        realm: str,
        lookup: Callable[[str], Account | Later | None],
        *,
        algorithms: Sequence[Algorithm] = (Algorithm.SHA_256, Algorithm.MD5),
        nonces: Nonces | None = None,
    ) -> None:
        if not algorithms:
            raise ValueError("at least one algorithm is needed")
        self._realm = check_realm(realm)
        self._lookup = lookup
        self._algorithms = tuple(algorithms)
        self._nonces = Nonces() if nonces is None else nonces

    def challenges(self, context: RequestContext, *, stale: bool) -> list[bytes]:
        """One challenge for each hash (RFC 7616 §3.3)."""
        suffix = ", stale=true" if stale else ""
        return [
            f'Digest realm="{self._realm}", qop="auth", algorithm={algorithm.value}, '
            f'nonce="{self._nonces.make(context.now)}", charset=UTF-8{suffix}'.encode("ascii")
            for algorithm in self._algorithms
        ]

    def judge(self, credentials: bytes, context: RequestContext) -> Judgement:
        """Check the credentials (RFC 7616 §3.4), the nonce last."""
        try:
            given = parse_parameters(credentials)
            username = _username(given)
            response, uri = given["response"], given["uri"]
            realm, nonce, nc, cnonce = given["realm"], given["nonce"], given["nc"], given["cnonce"]
            qop = given["qop"]
        except KeyError as error:
            return Malformed(f"Digest credentials without {error.args[0]}")
        except ValueError as error:
            return Malformed(f"malformed Digest credentials: {error}")
        if uri != context.request.target:
            return Malformed("Digest credentials for another target")
        if qop != "auth" or not _COUNT.fullmatch(nc):
            return Malformed("malformed Digest credentials: qop or nc")
        by_name = {algorithm.value.lower(): algorithm for algorithm in self._algorithms}
        algorithm = by_name.get(given.get("algorithm", "MD5").lower())
        if algorithm is None:
            return Denied("Digest algorithm is not offered")
        if realm != self._realm:
            return Denied("Digest credentials for another realm")
        if given.get("userhash", "false").lower() != "false":
            return Denied("hashed user names are not offered")

        def conclude(answer: object) -> Identity | Denied:
            if answer is not None and not isinstance(answer, Account):
                raise TypeError(f"an Account or None is needed, not {type(answer).__name__}")
            ha1 = None if answer is None else self._ha1(answer, algorithm, username)
            expected = digest_response(
                algorithm,
                ha1 or algorithm.hash("nobody"),
                method=context.method,
                uri=uri,
                nonce=nonce,
                nc=nc,
                cnonce=cnonce,
            )
            right = hmac.compare_digest(
                expected.encode("ascii"), response.encode("utf-8", "surrogatepass")
            )
            if answer is None or ha1 is None or not right:
                return Denied("wrong name or password")
            if not self._nonces.use(nonce, int(nc, 16), context.now):
                return Denied("nonce is too old, used before, or not ours", stale=True)
            return answer.identity

        account = self._lookup(username)
        if isinstance(account, Later):
            return Question(DigestQuestion(username, self._realm), conclude)
        return conclude(account)

    def _ha1(self, account: Account, algorithm: Algorithm, username: str) -> str | None:
        stored = account.ha1.get(algorithm)
        if stored is None and account.password is not None:
            return digest_ha1(algorithm, username, self._realm, account.password)
        return stored


def _username(given: Mapping[str, str]) -> str:
    """The user's name, plain or in the extended notation (RFC 7616 §3.4, RFC 8187)."""
    if "username*" not in given:
        username = given["username"]
    elif "username" in given:
        raise ValueError("username and username*")
    else:
        match = _EXTENDED.fullmatch(given["username*"])
        if match is None:
            raise ValueError("username* is not in UTF-8")
        username = unquote_to_bytes(match[1]).decode("utf-8")
    if not is_username(username):
        raise ValueError("not a user's name")
    return username


def account_lookup(passwords: Mapping[str, str]) -> Callable[[str], Account | None]:
    """Make the ``lookup`` of :class:`Digest` from names and their passwords.

    Args:
        passwords: The password of each name. It is read at each call, so changes take effect.
    """

    def lookup(username: str) -> Account | None:
        password = passwords.get(username)
        if password is None:
            return None
        return Account(Identity(username, "digest"), password)

    return lookup
