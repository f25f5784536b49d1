"""Digest authentication on the wire: challenges, credentials and the computation.

Theory of operation: HTTP, SIP and MSRP use the same two header field values, a challenge from the
server and credentials from the client (RFC 7616, RFC 3261 §22 with RFC 8760, RFC 4976 §9.1), and
compute the same response from them. Everything here is a pure function of its arguments;
:mod:`~wsproto_sip.auth.verifier` compares credentials with accounts, and
:mod:`~wsproto_sip.auth.nonces` remembers which nonces were used.

Only ``qop=auth`` and the form without ``qop`` (RFC 2617 §3.2.2.1) are supported. Other schemes,
``auth-int`` and ``MD5-sess`` are ignored: the parsers return ``None`` for them, since the next
header field may offer something that is supported.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import unquote_to_bytes

from ..errors import WsprotoSipError
from ..typing import Entropy
from .identity import is_username

__all__ = [
    "Algorithm",
    "Challenge",
    "Credentials",
    "DigestError",
    "Secret",
    "answer_challenge",
    "digest_ha1",
    "digest_response",
    "server_proof",
    "verify_response",
    "verify_server",
]

_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # noqa: S105 - a grammar rule
_SCHEME: Final = re.compile(rf"[ \t]*({_TOKEN})(?:[ \t]+|\Z)")
# Each alternative starts with a different character, so that matching is linear.
_PARAMETER: Final = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?:,[ \t,]*|\Z)', re.DOTALL
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
#: SIP keeps bytes that were not UTF-8 as surrogates; other surrogates cannot be written.
_UNWRITABLE: Final = re.compile(r"[\ud800-\udc7f\udd00-\udfff]")
_COUNT: Final = re.compile(r"[0-9A-Fa-f]{8}")
_EXTENDED: Final = re.compile(
    r"[Uu][Tt][Ff]-8'[A-Za-z]*'((?:[A-Za-z0-9!#$&+\-.^_`|~]|%[0-9A-Fa-f]{2})*)"
)
_MAX_PARAMETERS: Final = 32
_REQUIRED: Final = ("realm", "nonce", "uri", "response")


class DigestError(WsprotoSipError, ValueError):
    """A header field of Digest authentication is malformed."""


class Algorithm(Enum):
    """The hashes of RFC 7616 §6.1, the strongest first.

    MD5 is for clients that support nothing else, which includes most SIP and MSRP clients.
    """

    SHA_512_256 = "SHA-512-256"
    SHA_256 = "SHA-256"
    MD5 = "MD5"

    def hash(self, *parts: str) -> str:
        """Hash the parts, joined by colons; the result is lower-case hexadecimal."""
        data = ":".join(parts).encode("utf-8", "surrogateescape")
        if self is Algorithm.MD5:
            # The protocol demands this hash; nothing else here relies on it.
            return hashlib.md5(data, usedforsecurity=False).hexdigest()
        if self is Algorithm.SHA_256:
            return hashlib.sha256(data).hexdigest()
        return hashlib.new("sha512_256", data).hexdigest()


Secret = str | Mapping[Algorithm, str]
"""A client's secret: its password, or the results of :func:`digest_ha1` by hash."""


def digest_ha1(
    username: str, realm: str, password: str, algorithm: Algorithm = Algorithm.MD5
) -> str:
    """Compute the hash that may be stored instead of a password (RFC 7616 §3.4.2).

    Args:
        username: The user.
        realm: The realm that the password belongs to.
        password: The password.
        algorithm: The hash.
    """
    return algorithm.hash(username, realm, password)


def digest_response(
    ha1: str,
    method: str,
    uri: str,
    nonce: str,
    *,
    algorithm: Algorithm = Algorithm.MD5,
    nc: str | None = None,
    cnonce: str | None = None,
) -> str:
    """Compute the response to a challenge (RFC 7616 §3.4.1, RFC 2617 §3.2.2.1).

    Args:
        ha1: The result of :func:`digest_ha1` for the same hash.
        method: The request's method; empty for the proof of a server (RFC 7616 §3.5).
        uri: The URI as the client wrote it in its credentials.
        nonce: The challenge's nonce.
        algorithm: The hash.
        nc: The nonce count, eight hexadecimal digits; ``None`` for the form without ``qop``.
        cnonce: The client's nonce, required with a count.

    Raises:
        ValueError: There is a count but no client nonce.
    """
    ha2 = algorithm.hash(method, uri)
    if nc is None:
        return algorithm.hash(ha1, nonce, ha2)
    if cnonce is None:
        raise ValueError("a nonce count requires a client nonce")
    return algorithm.hash(ha1, nonce, nc, cnonce, "auth", ha2)


def _check_text(*texts: str | None) -> None:
    for text in texts:
        if text is None:
            continue
        if _CONTROL.search(text):
            raise ValueError(f"control characters cannot be quoted: {text!r:.100}")
        if _UNWRITABLE.search(text):
            raise ValueError(f"surrogates cannot be written in UTF-8: {text!r:.100}")


def _quote(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parameters(text: str, scheme: str = "") -> dict[str, str] | None:
    """Parse a list of authentication parameters (RFC 9110 §11.2), names in lower case.

    Args:
        text: The header field's value.
        scheme: The scheme's name that must come first, in lower case; empty for none.

    Returns:
        The values by name, unquoted; ``None`` for another scheme.

    Raises:
        DigestError: The text is malformed, or repeats a parameter.
    """
    position = 0
    if scheme:
        match = _SCHEME.match(text)
        if match is None:
            raise DigestError(f"missing authentication scheme: {text!r:.80}")
        if match[1].lower() != scheme:
            return None
        position = match.end()
    found: dict[str, str] = {}
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None:
            raise DigestError(f"malformed parameter: {text[position : position + 80]!r}")
        position = match.end()
        name, quoted, token = match.groups()
        name = name.lower()
        if name in found:
            raise DigestError(f"parameter {name:.80} is repeated")
        if len(found) == _MAX_PARAMETERS:
            raise DigestError("too many parameters")
        value = token if quoted is None else _ESCAPED.sub(r"\1", quoted)
        if _CONTROL.search(value):
            raise DigestError(f"parameter {name:.80} contains control characters")
        found[name] = value
    return found


def _algorithm(parameters: Mapping[str, str]) -> Algorithm | None:
    """Return the named hash, MD5 by default (RFC 7616 §3.3); ``None`` if it is unknown."""
    try:
        return Algorithm(parameters.get("algorithm", "MD5").upper())
    except ValueError:
        return None


def _require(parameters: Mapping[str, str], *names: str) -> None:
    missing = [name for name in names if name not in parameters]
    if missing:
        raise DigestError(f"{', '.join(missing)} missing")


@dataclass(frozen=True, slots=True)
class Challenge:
    """A server's challenge: the value of one WWW-Authenticate or Proxy-Authenticate field.

    Args:
        realm: The realm of the password.
        nonce: The server's nonce.
        algorithm: The hash.
        qop: Whether ``qop="auth"`` is required; without it replay is possible.
        stale: Whether the credentials were right but their nonce too old, so that the client may
            answer without asking its user (RFC 7616 §3.3).
        opaque: A value that the client returns unchanged.
        utf8: Whether to announce that names and passwords are in UTF-8 (RFC 7616 §4), for HTTP.

    Raises:
        ValueError: A text contains control characters or cannot be written in UTF-8.
    """

    realm: str
    nonce: str
    algorithm: Algorithm = Algorithm.MD5
    qop: bool = True
    stale: bool = False
    opaque: str | None = None
    utf8: bool = False

    def __post_init__(self) -> None:
        _check_text(self.realm, self.nonce, self.opaque)

    @classmethod
    def parse(cls, text: str) -> Challenge | None:
        """Parse a header field's value.

        Args:
            text: The value, including the scheme.

        Returns:
            The challenge; ``None`` for another scheme, algorithm or ``qop``.

        Raises:
            DigestError: The value is malformed, or lacks the realm or the nonce.
        """
        found = _parameters(text, "digest")
        if found is None:
            return None
        algorithm = _algorithm(found)
        if algorithm is None:
            return None
        _require(found, "realm", "nonce")
        qops = [qop.strip(" \t").lower() for qop in found.get("qop", "").split(",")]
        if "qop" in found and "auth" not in qops:
            return None
        return cls(
            realm=found["realm"],
            nonce=found["nonce"],
            algorithm=algorithm,
            qop="qop" in found,
            stale=found.get("stale", "").lower() == "true",
            opaque=found.get("opaque"),
            utf8=found.get("charset", "").lower() == "utf-8",
        )

    def __str__(self) -> str:
        text = f"Digest realm={_quote(self.realm)}, nonce={_quote(self.nonce)}"
        text += f", algorithm={self.algorithm.value}"
        if self.qop:
            text += ', qop="auth"'
        if self.utf8:
            text += ", charset=UTF-8"
        if self.opaque is not None:
            text += f", opaque={_quote(self.opaque)}"
        if self.stale:
            text += ", stale=true"
        return text


@dataclass(frozen=True, slots=True)
class Credentials:
    """A client's answer: the value of one Authorization or Proxy-Authorization field.

    Args:
        username: The user.
        realm: The challenge's realm.
        nonce: The challenge's nonce.
        uri: The URI of the request, as the client wrote it.
        response: The result of :func:`digest_response`, hexadecimal.
        algorithm: The hash.
        nc: The nonce count, eight hexadecimal digits; ``None`` for the form without ``qop``.
        cnonce: The client's nonce, required with a count.
        opaque: The challenge's opaque value.

    Raises:
        ValueError: The user's name is not valid, a text contains control characters or cannot be
            written in UTF-8, or the count is malformed or lacks a client nonce.
    """

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: Algorithm = Algorithm.MD5
    nc: str | None = None
    cnonce: str | None = None
    opaque: str | None = None

    def __post_init__(self) -> None:
        if not is_username(self.username):
            raise ValueError(f"not a valid user name: {self.username!r:.100}")
        _check_text(self.username, self.realm, self.nonce, self.uri, self.response)
        _check_text(self.cnonce, self.opaque)
        if self.nc is None:
            return
        if not _COUNT.fullmatch(self.nc):
            raise ValueError(f"nc must be eight hexadecimal digits: {self.nc!r:.100}")
        if self.cnonce is None:
            raise ValueError("cnonce missing")

    @classmethod
    def parse(cls, text: str) -> Credentials | None:
        """Parse a header field's value.

        Args:
            text: The value, including the scheme.

        Returns:
            The credentials; ``None`` for another scheme, algorithm or ``qop``, and for hashed
            user names (RFC 7616 §3.4.4).

        Raises:
            DigestError: The value is malformed, or lacks a required parameter.
        """
        found = _parameters(text, "digest")
        if found is None:
            return None
        username = _username(found)
        _require(found, *_REQUIRED)
        algorithm, qop = _algorithm(found), found.get("qop")
        if algorithm is None or (qop is not None and qop.lower() != "auth"):
            return None
        if found.get("userhash", "false").lower() != "false":
            return None
        if qop is not None:
            _require(found, "nc", "cnonce")
        try:
            return cls(
                username=username,
                realm=found["realm"],
                nonce=found["nonce"],
                uri=found["uri"],
                response=found["response"],
                algorithm=algorithm,
                nc=None if qop is None else found["nc"],
                cnonce=found.get("cnonce"),
                opaque=found.get("opaque"),
            )
        except ValueError as exc:
            raise DigestError(str(exc)) from None

    @property
    def count(self) -> int | None:
        """How often the client has used the nonce; ``None`` for the form without ``qop``."""
        return None if self.nc is None else int(self.nc, 16)

    def __str__(self) -> str:
        text = f"Digest username={_quote(self.username)}, realm={_quote(self.realm)}"
        text += f", nonce={_quote(self.nonce)}, uri={_quote(self.uri)}"
        text += f", response={_quote(self.response)}, algorithm={self.algorithm.value}"
        if self.nc is not None:
            text += f", qop=auth, nc={self.nc}"
        if self.cnonce is not None:
            text += f", cnonce={_quote(self.cnonce)}"
        if self.opaque is not None:
            text += f", opaque={_quote(self.opaque)}"
        return text


def _username(found: Mapping[str, str]) -> str:
    """Return the user's name, plain or in the extended notation (RFC 7616 §3.4, RFC 8187)."""
    if "username*" not in found:
        _require(found, "username")
        return found["username"]
    if "username" in found:
        raise DigestError("username and username* cannot be used together")
    match = _EXTENDED.fullmatch(found["username*"])
    if match is None:
        raise DigestError("username* is not in UTF-8")
    try:
        return unquote_to_bytes(match[1]).decode("utf-8")
    except UnicodeDecodeError:
        raise DigestError("username* is not in UTF-8") from None


def _ha1_of(secret: Secret, username: str, realm: str, algorithm: Algorithm) -> str:
    if isinstance(secret, str):
        return digest_ha1(username, realm, secret, algorithm)
    try:
        return secret[algorithm]
    except KeyError:
        raise ValueError(f"the password's {algorithm.value} hash is unknown") from None


def answer_challenge(
    challenge: Challenge,
    username: str,
    secret: Secret,
    method: str,
    uri: str,
    *,
    count: int = 1,
    entropy: Entropy = os.urandom,
) -> Credentials:
    """Answer a challenge as a client (RFC 7616 §3.4).

    Args:
        challenge: The server's challenge.
        username: The user.
        secret: The password, or the results of :func:`digest_ha1` by hash.
        method: The request's method.
        uri: The request's URI, as it is written in the credentials.
        count: How often the nonce has been used, including this time.
        entropy: Source of the client's nonce.

    Raises:
        ValueError: The user's name is not valid, or the challenge's hash is not among the given
            ones.
    """
    algorithm = challenge.algorithm
    ha1 = _ha1_of(secret, username, challenge.realm, algorithm)
    nc = cnonce = None
    if challenge.qop:
        nc, cnonce = f"{count:08x}", entropy(12).hex()
    response = digest_response(
        ha1, method, uri, challenge.nonce, algorithm=algorithm, nc=nc, cnonce=cnonce
    )
    return Credentials(
        username,
        challenge.realm,
        challenge.nonce,
        uri,
        response,
        algorithm,
        nc,
        cnonce,
        challenge.opaque,
    )


def _expected(credentials: Credentials, ha1: str, method: str) -> str:
    return digest_response(
        ha1,
        method,
        credentials.uri,
        credentials.nonce,
        algorithm=credentials.algorithm,
        nc=credentials.nc,
        cnonce=credentials.cnonce,
    )


def _same(expected: str, given: str) -> bool:
    """Compare two hexadecimal hashes in constant time, ignoring case."""
    return hmac.compare_digest(
        expected.encode("ascii"), given.lower().encode("utf-8", "surrogateescape")
    )


def verify_response(credentials: Credentials, ha1: str, method: str) -> bool:
    """Check that credentials prove a password; the comparison takes constant time.

    The caller must compare the realm, the nonce, its count and the URI with the request.

    Args:
        credentials: The credentials from the request.
        ha1: The result of :func:`digest_ha1` for the realm and the hash of the credentials. For an
            unknown user, pass that of a random password, so that the check takes as long.
        method: The request's method.
    """
    return _same(_expected(credentials, ha1, method), credentials.response)


def server_proof(credentials: Credentials, ha1: str) -> str:
    """Make an Authentication-Info that proves knowledge of the password (RFC 7616 §3.5).

    Args:
        credentials: The client's credentials, with a count.
        ha1: The result of :func:`digest_ha1` for them.
    """
    proof = _expected(credentials, ha1, "")
    cnonce = _quote(credentials.cnonce or "")
    return f'qop=auth, rspauth="{proof}", cnonce={cnonce}, nc={credentials.nc}'


def verify_server(credentials: Credentials, secret: Secret, info: str) -> bool:
    """Check that an Authentication-Info proves that the server knows the password.

    Args:
        credentials: The client's credentials.
        secret: The password, or the results of :func:`digest_ha1` by hash.
        info: The header field's value.

    Raises:
        DigestError: The value is malformed, or lacks ``rspauth``.
    """
    found = _parameters(info) or {}
    _require(found, "rspauth")
    ha1 = _ha1_of(secret, credentials.username, credentials.realm, credentials.algorithm)
    nc, cnonce = credentials.nc or "", credentials.cnonce or ""
    return (
        _same(_expected(credentials, ha1, ""), found["rspauth"])
        and found.get("nc", nc).lower() == nc.lower()
        and found.get("cnonce", cnonce) == cnonce
    )
