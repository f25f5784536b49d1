"""Digest authentication: challenges, credentials and the computation (RFC 3261 §22, RFC 8760).

Pure functions: nonces, their age and the users are the caller's.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ._syntax import LWS, QUOTED, TOKEN, check_text, check_token, quote, unquote
from .errors import SipParseError, SipValueError

__all__ = [
    "DIGEST_ALGORITHMS",
    "DigestChallenge",
    "DigestCredentials",
    "digest_ha1",
    "digest_response",
    "parse_credentials",
    "verify_digest",
]

#: The algorithms by their names in the headers, the strongest first (RFC 8760 §2.6).
DIGEST_ALGORITHMS = {"SHA-512-256": "sha512_256", "SHA-256": "sha256", "MD5": "md5"}

_ITEM = rf"{TOKEN}{LWS}={LWS}(?:{QUOTED}|{TOKEN})"
_DIGEST_RE = re.compile(rf"Digest[ \t]++({_ITEM}(?:{LWS},{LWS}{_ITEM})*+){LWS}", re.I | re.ASCII)
_ITEM_RE = re.compile(rf"({TOKEN}){LWS}={LWS}({QUOTED}|{TOKEN})")
_NC_RE = re.compile(r"[0-9A-Fa-f]{8}")
_SCHEME_RE = re.compile(rf"({TOKEN})(?:[ \t]|$)")
_REQUIRED = ("username", "realm", "nonce", "uri", "response")


@dataclass(frozen=True, slots=True)
class DigestChallenge:
    """What a 401 or 407 asks for: one WWW-Authenticate or Proxy-Authenticate field.

    Args:
        realm: The protection domain.
        nonce: The server's nonce.
        algorithm: A key of :data:`DIGEST_ALGORITHMS`.
        qop: Whether ``qop="auth"`` is asked for; without it there is no protection from replay.
        stale: Whether the credentials were good but for the age of their nonce.
        opaque: What the client sends back as it is.

    Raises:
        SipValueError: An unknown algorithm, or text with a line break or NUL.
    """

    realm: str
    nonce: str
    algorithm: str = "MD5"
    qop: bool = True
    stale: bool = False
    opaque: str | None = None

    def __post_init__(self) -> None:
        _hash_name(self.algorithm)
        for text in (self.realm, self.nonce, self.opaque or ""):
            check_text(text, "challenge")

    @classmethod
    def parse(cls, text: str) -> DigestChallenge | None:
        """Read a field; ``None`` for another scheme or algorithm, which is to be passed over.

        Raises:
            SipParseError: 400, for bad syntax or a field without realm or nonce.
        """
        items = _parse_items(text)
        if items is None:
            return None
        algorithm = _algorithm(items)
        if algorithm is None:
            return None
        if "realm" not in items or "nonce" not in items:
            raise SipParseError(400, "challenge without realm or nonce")
        qops = [qop.strip(" \t").lower() for qop in items.get("qop", "").split(",")]
        if "qop" in items and "auth" not in qops:
            return None
        return cls(
            items["realm"],
            items["nonce"],
            algorithm,
            "qop" in items,
            items.get("stale", "").lower() == "true",
            items.get("opaque"),
        )

    def __str__(self) -> str:
        text = f"Digest realm={quote(self.realm)}, nonce={quote(self.nonce)}"
        text += f", algorithm={self.algorithm}"
        if self.qop:
            text += ', qop="auth"'
        if self.opaque is not None:
            text += f", opaque={quote(self.opaque)}"
        if self.stale:
            text += ", stale=true"
        return text


@dataclass(frozen=True, slots=True)
class DigestCredentials:
    """What a client proves: one Authorization or Proxy-Authorization field.

    Args:
        username: The user.
        realm: The protection domain.
        nonce: The server's nonce.
        uri: The digest-uri, as the client wrote it.
        response: The proof, hexadecimal.
        algorithm: A key of :data:`DIGEST_ALGORITHMS`.
        qop: ``"auth"``, or ``None`` for the old form without nonce count.
        nc: The nonce count, eight hexadecimal digits.
        cnonce: The client's nonce.
        opaque: What the server had sent.

    Raises:
        SipValueError: A text with a line break or NUL, or a count that is none.
    """

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    algorithm: str = "MD5"
    qop: str | None = None
    nc: str | None = None
    cnonce: str | None = None
    opaque: str | None = None

    def __post_init__(self) -> None:
        _hash_name(self.algorithm)
        for text in (self.username, self.realm, self.nonce, self.uri, self.response):
            check_text(text, "credentials")
        check_text((self.cnonce or "") + (self.opaque or ""), "credentials")
        if self.qop not in (None, "auth"):
            raise SipValueError(f"qop is neither auth nor none: {self.qop!r:.100}")
        if self.qop is None:
            return
        if self.nc is None or not _NC_RE.fullmatch(self.nc) or self.cnonce is None:
            raise SipValueError("qop=auth needs cnonce and a nonce count of eight digits")

    @classmethod
    def parse(cls, text: str) -> DigestCredentials | None:
        """Read a field; ``None`` for another scheme, algorithm or qop.

        Raises:
            SipParseError: 400, for bad syntax or a field that lacks something.
        """
        items = _parse_items(text)
        if items is None:
            return None
        missing = [name for name in _REQUIRED if name not in items]
        if missing:
            raise SipParseError(400, f"credentials without {', '.join(missing)}")
        algorithm = _algorithm(items)
        qop = items.get("qop")
        if algorithm is None or (qop is not None and qop.lower() != "auth"):
            return None
        try:
            return cls(
                username=items["username"],
                realm=items["realm"],
                nonce=items["nonce"],
                uri=items["uri"],
                response=items["response"],
                algorithm=algorithm,
                qop=None if qop is None else "auth",
                nc=items.get("nc"),
                cnonce=items.get("cnonce"),
                opaque=items.get("opaque"),
            )
        except SipValueError as error:
            raise SipParseError(400, str(error)) from None

    @property
    def count(self) -> int | None:
        """The nonce count, to be above the last one seen with this nonce; ``None`` without qop."""
        return None if self.qop is None or self.nc is None else int(self.nc, 16)

    def __str__(self) -> str:
        text = f"Digest username={quote(self.username)}, realm={quote(self.realm)}"
        text += f", nonce={quote(self.nonce)}, uri={quote(self.uri)}"
        text += f", response={quote(self.response)}, algorithm={self.algorithm}"
        if self.qop is not None:
            text += f", qop=auth, nc={self.nc}, cnonce={quote(self.cnonce or '')}"
        if self.opaque is not None:
            text += f", opaque={quote(self.opaque)}"
        return text


def _parse_items(text: str) -> Mapping[str, str] | None:
    text = text.strip(" \t")
    match = _DIGEST_RE.fullmatch(text)
    if match is None:
        scheme = _SCHEME_RE.match(text)
        if scheme is not None and scheme[1].lower() != "digest":
            return None
        raise SipParseError(400, "bad Digest field")
    items: dict[str, str] = {}
    for name, value in _ITEM_RE.findall(match[1]):
        if name.lower() in items:
            raise SipParseError(400, f"{name} is there twice")
        items[name.lower()] = unquote(value)
    return items


def _algorithm(items: Mapping[str, str]) -> str | None:
    name = items.get("algorithm", "MD5").upper()
    return name if name in DIGEST_ALGORITHMS else None


def _hash_name(algorithm: str) -> str:
    name = DIGEST_ALGORITHMS.get(algorithm)
    if name is None:
        raise SipValueError(f"unknown digest algorithm: {algorithm!r:.100}")
    return name


def _hash(algorithm: str, *parts: str) -> str:
    text = ":".join(parts).encode("utf-8", "surrogateescape")
    # MD5 protects nothing here; clients that know nothing else still have to be let in.
    return hashlib.new(_hash_name(algorithm), text, usedforsecurity=False).hexdigest()


def digest_ha1(username: str, realm: str, password: str, algorithm: str = "MD5") -> str:
    """What a server keeps in place of a password (RFC 2617 §3.2.2.2).

    Raises:
        SipValueError: An unknown algorithm.
    """
    return _hash(algorithm, username, realm, password)


def digest_response(
    ha1: str,
    method: str,
    uri: str,
    nonce: str,
    *,
    algorithm: str = "MD5",
    nc: str | None = None,
    cnonce: str | None = None,
) -> str:
    """The proof that a client sends (RFC 2617 §3.2.2.1).

    Args:
        ha1: From :func:`digest_ha1`, of the same algorithm.
        method: The request's method.
        uri: The digest-uri.
        nonce: The server's nonce.
        algorithm: A key of :data:`DIGEST_ALGORITHMS`.
        nc: The nonce count, eight hexadecimal digits; ``None`` for the form without qop.
        cnonce: The client's nonce, with a count.

    Raises:
        SipValueError: An unknown algorithm, or a count without a client nonce.
    """
    ha2 = _hash(algorithm, check_token(method, "method"), uri)
    if nc is None:
        return _hash(algorithm, ha1, nonce, ha2)
    if cnonce is None:
        raise SipValueError("a nonce count needs a client nonce")
    return _hash(algorithm, ha1, nonce, nc, cnonce, "auth", ha2)


def verify_digest(credentials: DigestCredentials, ha1: str, method: str) -> bool:
    """Whether the credentials prove the password; compared in constant time.

    Realm, nonce, nonce count and digest-uri are the caller's to check against what it sent.

    Args:
        credentials: From the request.
        ha1: From :func:`digest_ha1`, of the credentials' realm and algorithm. For an unknown
            user pass one of a random password, so that the answer takes as long.
        method: The request's method.
    """
    expected = digest_response(
        ha1,
        method,
        credentials.uri,
        credentials.nonce,
        algorithm=credentials.algorithm,
        nc=credentials.nc if credentials.qop else None,
        cnonce=credentials.cnonce,
    )
    given = credentials.response.lower().encode("utf-8", "surrogateescape")
    return hmac.compare_digest(expected.encode("ascii"), given)


def parse_credentials(fields: list[str], realm: str) -> DigestCredentials | None:
    """The credentials for a realm among a request's fields; ``None`` where there are none.

    Args:
        fields: All Authorization, or all Proxy-Authorization, fields.
        realm: The realm that was challenged.

    Raises:
        SipParseError: 400, for bad syntax.
    """
    for text in fields:
        credentials = DigestCredentials.parse(text)
        if credentials is not None and credentials.realm == realm:
            return credentials
    return None
