"""Digest authentication of AUTH requests, both sides (RFC 4976 §5.1, §9.1; RFC 2617).

Theory of operation: a nonce carries the time it was made and a keyed digest over it, so that a
challenge costs the server no memory; only a nonce that has been used with right credentials is
remembered, with the highest count seen, so that no credentials are taken twice. Where more nonces
are in use than may be remembered, the oldest become stale, together with all that are older still.

Only ``qop=auth`` is spoken: without it there is neither a count against replay nor a proof that
the server knows the password (RFC 4976 §9.1).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import math
import os
import re
import struct
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from ..typing import Entropy
from ..utilities import RemoteProtocolError
from .limits import DEFAULT_MSRP_LIMITS, MsrpLimits
from .uri import MsrpUri, MsrpUriError

__all__ = [
    "Accepted",
    "AuthenticationError",
    "Challenge",
    "Credentials",
    "DigestServer",
    "Ha1",
    "Refused",
    "answer_challenge",
    "verify_server",
]

_PARAMETER = re.compile(
    rb"[ \t]*([A-Za-z0-9\-]+)[ \t]*=[ \t]*"
    rb'(?:"((?:[^"\\]|\\.)*)"|([!#$%&\'*+\-.^_`|~0-9A-Za-z]+))[ \t]*(,|\Z)',
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_HEX_128 = re.compile(r"[0-9a-f]{32}")
_HEX_32 = re.compile(r"[0-9a-fA-F]{8}")
_UNQUOTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

#: Time as a double, random octets, and the first half of an HMAC-SHA-256 over both.
_NONCE_HEAD = 8 + 8
_NONCE_SIZE = _NONCE_HEAD + 16


class AuthenticationError(RemoteProtocolError):
    """An authentication header field that is malformed, or asks for what is not supported."""


@dataclass(frozen=True, slots=True)
class Ha1:
    """What a server may keep instead of a password: ``MD5(username:realm:password)``.

    Args:
        value: 32 lower-case hexadecimal digits.

    Raises:
        ValueError: They are not.
    """

    value: str

    def __post_init__(self) -> None:
        if _HEX_128.fullmatch(self.value) is None:
            raise ValueError("HA1 is 32 lower-case hexadecimal digits")

    @classmethod
    def of(cls, username: str, realm: str, password: str) -> Ha1:
        """Compute it (RFC 2617 §3.2.2.2)."""
        return cls(_md5(username, realm, password))


def _md5(*parts: str) -> str:
    return hashlib.md5(":".join(parts).encode("utf-8"), usedforsecurity=False).hexdigest()


def _digest(ha1: Ha1, nonce: str, nc: str, cnonce: str, a2: str) -> str:
    """RFC 2617 §3.2.2.1 with ``qop=auth``; ``a2`` is ``AUTH:uri``, or ``:uri`` from a server."""
    return _md5(ha1.value, nonce, nc, cnonce, "auth", _md5(a2))


def _same(left: str, right: str) -> bool:
    return hmac.compare_digest(left.encode("utf-8"), right.encode("utf-8"))


def _quote(value: str) -> str:
    if _UNQUOTABLE.search(value) is not None:
        raise ValueError(f"control characters cannot be quoted: {value!r}")
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _parameters(value: bytes, scheme: bytes = b"") -> dict[str, str]:
    """Read ``name=value`` pairs with commas between, names in lower case.

    Args:
        value: The header field's value.
        scheme: What must stand before them, with a space behind.

    Raises:
        AuthenticationError: They are malformed, a name stands twice, or it is not UTF-8.
    """
    position = 0
    if scheme:
        position = len(scheme) + 1
        if value[:position].lower() != scheme.lower() + b" ":
            raise AuthenticationError(f"no {scheme.decode('ascii')} authentication")
    found: dict[str, str] = {}
    while True:
        match = _PARAMETER.match(value, position)
        if match is None:
            raise AuthenticationError(f"malformed parameter: {value[position : position + 80]!r}")
        name = match[1].decode("ascii").lower()
        if name in found:
            raise AuthenticationError(f"{name} stands twice")
        try:
            if match[2] is None:
                found[name] = match[3].decode("ascii")
            else:
                found[name] = _ESCAPE.sub(r"\1", match[2].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise AuthenticationError(f"{name} is not UTF-8") from error
        if _UNQUOTABLE.search(found[name]) is not None:
            raise AuthenticationError(f"{name} holds control characters")
        position = match.end()
        if not match[4]:
            return found


def _required(parameters: dict[str, str], name: str) -> str:
    try:
        return parameters[name]
    except KeyError:
        raise AuthenticationError(f"{name} is missing") from None


def _check_algorithm(parameters: dict[str, str]) -> None:
    algorithm = parameters.get("algorithm", "MD5")
    if algorithm.lower() != "md5":
        raise AuthenticationError(f"algorithm {algorithm!r} is not supported")


@dataclass(frozen=True, slots=True)
class Challenge:
    """The value of a WWW-Authenticate header field.

    Args:
        realm: What the password is for.
        nonce: The server's nonce.
        opaque: What the client has to send back, if anything.
        stale: Whether the credentials were right and only the nonce too old.
    """

    realm: str
    nonce: str
    opaque: str | None = None
    stale: bool = False

    @classmethod
    def parse(cls, value: bytes) -> Challenge:
        """Read one.

        Raises:
            AuthenticationError: It is malformed, no digest, or offers no ``qop=auth`` with MD5.
        """
        parameters = _parameters(value, b"Digest")
        _check_algorithm(parameters)
        offered = _required(parameters, "qop").lower().replace(" ", "").split(",")
        if "auth" not in offered:
            raise AuthenticationError("the server does not offer qop=auth (RFC 4976 §9.1)")
        return cls(
            _required(parameters, "realm"),
            _required(parameters, "nonce"),
            parameters.get("opaque"),
            parameters.get("stale", "").lower() == "true",
        )

    def __bytes__(self) -> bytes:
        text = f'Digest realm={_quote(self.realm)}, nonce={_quote(self.nonce)}, qop="auth"'
        if self.opaque is not None:
            text += f", opaque={_quote(self.opaque)}"
        if self.stale:
            text += ", stale=true"
        return text.encode("utf-8")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The value of an Authorization header field.

    Args:
        username: Who.
        realm: As challenged.
        nonce: As challenged.
        uri: The URI the request is for: the last one of its To-Path.
        response: The digest, 32 hexadecimal digits.
        nc: The nonce count, 8 hexadecimal digits.
        cnonce: The client's nonce.
        opaque: As challenged.
    """

    username: str
    realm: str
    nonce: str
    uri: str
    response: str
    nc: str
    cnonce: str
    opaque: str | None = None

    @classmethod
    def parse(cls, value: bytes) -> Credentials:
        """Read them.

        Raises:
            AuthenticationError: They are malformed, no digest, or not for ``qop=auth`` with MD5.
        """
        parameters = _parameters(value, b"Digest")
        _check_algorithm(parameters)
        if _required(parameters, "qop") != "auth":
            raise AuthenticationError("only qop=auth is accepted (RFC 4976 §9.1)")
        nc = _required(parameters, "nc")
        if _HEX_32.fullmatch(nc) is None:
            raise AuthenticationError(f"nc is 8 hexadecimal digits, not {nc[:80]!r}")
        return cls(
            username=_required(parameters, "username"),
            realm=_required(parameters, "realm"),
            nonce=_required(parameters, "nonce"),
            uri=_required(parameters, "uri"),
            response=_required(parameters, "response"),
            nc=nc,
            cnonce=_required(parameters, "cnonce"),
            opaque=parameters.get("opaque"),
        )

    def __bytes__(self) -> bytes:
        text = (
            f"Digest username={_quote(self.username)}, realm={_quote(self.realm)}, "
            f"nonce={_quote(self.nonce)}, uri={_quote(self.uri)}, "
            f"response={_quote(self.response)}, qop=auth, cnonce={_quote(self.cnonce)}, "
            f"nc={self.nc}"
        )
        if self.opaque is not None:
            text += f", opaque={_quote(self.opaque)}"
        return text.encode("utf-8")


def answer_challenge(
    challenge: Challenge,
    username: str,
    password: str | Ha1,
    uri: MsrpUri,
    *,
    nonce_count: int = 1,
    entropy: Entropy = os.urandom,
) -> Credentials:
    """Compute a client's credentials for an AUTH request (RFC 4976 §5.1).

    Args:
        challenge: What the server asked.
        username: Who.
        password: The password, or what is derived from it.
        uri: The last URI of the request's To-Path.
        nonce_count: How often this nonce has been used, this time included.
        entropy: Source of the client's nonce.
    """
    ha1 = password if isinstance(password, Ha1) else Ha1.of(username, challenge.realm, password)
    cnonce = entropy(12).hex()
    nc = f"{nonce_count:08x}"
    return Credentials(
        username,
        challenge.realm,
        challenge.nonce,
        str(uri),
        _digest(ha1, challenge.nonce, nc, cnonce, f"AUTH:{uri}"),
        nc,
        cnonce,
        challenge.opaque,
    )


def verify_server(credentials: Credentials, password: str | Ha1, info: bytes) -> bool:
    """Whether an Authentication-Info proves that the server knows the password (RFC 2617 §3.2.3).

    Args:
        credentials: What the client sent.
        password: The password, or what is derived from it.
        info: The header field's value.

    Raises:
        AuthenticationError: The value is malformed, or lacks ``rspauth``.
    """
    parameters = _parameters(info)
    given = _required(parameters, "rspauth")
    ha1 = (
        password
        if isinstance(password, Ha1)
        else Ha1.of(credentials.username, credentials.realm, password)
    )
    nc, cnonce = credentials.nc, credentials.cnonce
    proof = _digest(ha1, credentials.nonce, nc, cnonce, f":{credentials.uri}")
    return (
        _same(proof, given.lower())
        and parameters.get("nc", nc).lower() == nc.lower()
        and parameters.get("cnonce", cnonce) == cnonce
    )


@dataclass(frozen=True, slots=True)
class Accepted:
    """The credentials are right.

    Args:
        username: Whose they are.
        info: The value for Authentication-Info in the 200.
    """

    username: str
    info: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    """The credentials are not accepted.

    Args:
        reason: Why, for a log; not for the client.
        stale: Whether they are right but for the age or the count of their nonce.
    """

    reason: str
    stale: bool = False


class DigestServer:
    """Checks credentials.

    Args:
        realm: What the passwords are for.
        users: User names with their passwords, or with what is derived from them. It is looked up
            at each check, so it may change.
        nonce_lifetime: Seconds for which a nonce is good.
        limits: ``max_used_nonces`` counts here.
        entropy: Source of the key and of the nonces.
    """

    __slots__ = (
        "_dummy",
        "_entropy",
        "_horizon",
        "_key",
        "_lifetime",
        "_limits",
        "_realm",
        "_used",
        "_users",
    )

    def __init__(
        self,
        realm: str,
        users: Mapping[str, str | Ha1],
        *,
        nonce_lifetime: float = 300.0,
        limits: MsrpLimits = DEFAULT_MSRP_LIMITS,
        entropy: Entropy = os.urandom,
    ) -> None:
        _quote(realm)
        self._realm = realm
        self._users = users
        self._lifetime = nonce_lifetime
        self._limits = limits
        self._entropy = entropy
        self._key = entropy(32)
        self._dummy = entropy(16).hex()
        #: Used nonces: when they were made, and the highest count seen; by first use.
        self._used: OrderedDict[str, tuple[float, int]] = OrderedDict()
        #: Nonces made at this time or before are stale, whatever their age.
        self._horizon = -math.inf

    def challenge(self, now: float, *, stale: bool = False) -> Challenge:
        """Make a fresh challenge.

        Args:
            now: The time in seconds.
            stale: Whether the credentials it answers were right but for their nonce.
        """
        head = struct.pack(">d", now) + self._entropy(8)
        nonce = base64.urlsafe_b64encode(head + self._seal(head)).decode("ascii")
        return Challenge(self._realm, nonce, stale=stale)

    def check(self, authorization: bytes, uri: MsrpUri, now: float) -> Accepted | Refused:
        """Check the value of an Authorization header field.

        Args:
            authorization: The value.
            uri: The last URI of the request's To-Path.
            now: The time in seconds.
        """
        try:
            credentials = Credentials.parse(authorization)
        except AuthenticationError as error:
            return Refused(str(error))
        if credentials.realm != self._realm:
            return Refused("another realm")
        made = self._made(credentials.nonce)
        if made is None:
            return Refused("no nonce of ours")
        # The same work whoever it is, so that the time does not tell which users there are.
        known = self._users.get(credentials.username)
        password = known if isinstance(known, str) else self._dummy
        derived = Ha1.of(credentials.username, self._realm, password)
        secret = known if isinstance(known, Ha1) else derived
        nonce, nc, cnonce = credentials.nonce, credentials.nc, credentials.cnonce
        expected = _digest(secret, nonce, nc, cnonce, f"AUTH:{credentials.uri}")
        if not _same(expected, credentials.response.lower()) or known is None:
            return Refused("unknown user or wrong password")
        try:
            same = MsrpUri.parse(credentials.uri.encode("utf-8")) == uri
        except MsrpUriError:
            same = False
        if not same:
            return Refused("credentials for another URI")
        if not self._use(nonce, made, int(nc, 16), now):
            return Refused("an old nonce, or a count used before", stale=True)
        proof = _digest(secret, nonce, nc, cnonce, f":{credentials.uri}")
        info = f'qop=auth, rspauth="{proof}", cnonce={_quote(cnonce)}, nc={nc}'
        return Accepted(credentials.username, info.encode("utf-8"))

    def _seal(self, head: bytes) -> bytes:
        return hmac.digest(self._key, head, "sha256")[:16]

    def _made(self, nonce: str) -> float | None:
        """When we made this nonce; ``None`` where we did not."""
        try:
            octets = base64.b64decode(nonce.encode("utf-8"), altchars=b"-_", validate=True)
        except binascii.Error:
            return None
        head = octets[:_NONCE_HEAD]
        if len(octets) != _NONCE_SIZE or not hmac.compare_digest(
            self._seal(head), octets[_NONCE_HEAD:]
        ):
            return None
        (made,) = struct.unpack(">d", head[:8])
        return float(made)

    def _use(self, nonce: str, made: float, count: int, now: float) -> bool:
        """Take a count of a nonce, once and in rising order (RFC 2617 §3.2.2)."""
        if made <= self._horizon or not 0 <= now - made <= self._lifetime:
            return False
        used = self._used
        highest = used.get(nonce, (made, 0))[1]
        if count <= highest:
            return False
        used[nonce] = (made, count)
        # The first used is about the oldest; the horizon covers it whether it is or not.
        while (
            len(used) > self._limits.max_used_nonces
            or now - next(iter(used.values()))[0] > self._lifetime
        ):
            _, (forgotten, _) = used.popitem(last=False)
            self._horizon = max(self._horizon, forgotten)
        return True
