"""GRUU: a URI that reaches one instance of a user from anywhere (RFC 5627).

JsSIP asks for both kinds with ``Supported: gruu`` and uses the one it receives as its Contact.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..message.address import NameAddr
from ..message.errors import SipValueError
from ..message.message import SipMessage
from ..message.uri import SipUri

if TYPE_CHECKING:
    from ...typing import Entropy

__all__ = ["TemporaryGruus", "add_gruus", "public_gruu", "public_gruu_instance", "wants_gruu"]

_PREFIX = "tgruu."
_SALT_SIZE = 6
_NUMBER_SIZE = 8
_MAC_SIZE = 10
_TOKEN_RE = re.compile(r"[A-Za-z0-9_\-]{32}")


def wants_gruu(message: SipMessage) -> bool:
    """Return whether the client that sent a REGISTER supports GRUUs.

    Raises:
        SipParseError: 400, for a bad Supported.
    """
    return "gruu" in message.tokens("supported")


def public_gruu(aor: SipUri, instance: str) -> SipUri:
    """Return the public GRUU of an instance: the AOR with it as the ``gr`` parameter (§3.1.1).

    Args:
        aor: The address of record.
        instance: The ``+sip.instance`` without angle brackets.

    Raises:
        SipValueError: The instance is empty.
    """
    return aor.aor.with_param("gr", instance)


def public_gruu_instance(uri: SipUri) -> str | None:
    """Return the instance that a public GRUU names, or ``None`` for any other URI."""
    return uri.params.get("gr") or None


@dataclass(frozen=True, slots=True)
class _Keys:
    cipher: bytes
    seal: bytes


class TemporaryGruus:
    """Make and open temporary GRUUs, which do not reveal their owner (RFC 5627 §3.1.2).

    A GRUU contains a number that the registrar gave to the pair of AOR and instance. It is
    enciphered with a fresh salt, so that two GRUUs of one instance cannot be linked, and
    authenticated, so that none can be forged. The registrar drops the number when the last binding
    ends.

    Args:
        keys: Secrets of at least 16 bytes; the first makes new GRUUs, all of them open.
        entropy: Source of random bytes, for the salt.

    Raises:
        SipValueError: ``keys`` is empty, or a key is too short.
    """

    __slots__ = ("_entropy", "_keys")

    def __init__(self, keys: Sequence[bytes], entropy: Entropy) -> None:
        if not keys or min([len(key) for key in keys]) < 16:
            raise SipValueError("temporary GRUUs need keys of at least 16 bytes")
        self._keys = [
            _Keys(
                hmac.new(bytes(key), b"wsproto-sip gruu cipher", hashlib.sha256).digest(),
                hmac.new(bytes(key), b"wsproto-sip gruu seal", hashlib.sha256).digest(),
            )
            for key in keys
        ]
        self._entropy = entropy

    def make(self, aor: SipUri, number: int) -> SipUri:
        """Return a new temporary GRUU in the domain of an AOR.

        Args:
            aor: The address of record; only its scheme and host are used.
            number: The registrar's number for the pair of AOR and instance, of at most 64 bits.

        Raises:
            SipValueError: The number is out of range.
        """
        try:
            plain = number.to_bytes(_NUMBER_SIZE, "big")
        except OverflowError:
            raise SipValueError(f"number of a GRUU must be 0 to 2**64 - 1: {number}") from None
        keys = self._keys[0]
        salt = self._entropy(_SALT_SIZE)
        sealed = salt + _cipher(keys, salt, plain)
        token = base64.urlsafe_b64encode(sealed + _mac(keys, sealed)).decode("ascii")
        uri = SipUri.make(aor.host.lower(), _PREFIX + token, scheme=aor.scheme)
        return uri.with_param("gr")

    def open(self, uri: SipUri) -> int | None:
        """Return the number of a temporary GRUU, or ``None`` for any other URI."""
        user = uri.user or ""
        token = user[len(_PREFIX) :]
        if (
            uri.params.get("gr") != ""
            or not user.startswith(_PREFIX)
            or not _TOKEN_RE.fullmatch(token)
        ):
            return None
        data = base64.urlsafe_b64decode(token)
        sealed, mac = data[:-_MAC_SIZE], data[-_MAC_SIZE:]
        number: int | None = None
        for keys in self._keys:
            if hmac.compare_digest(_mac(keys, sealed), mac):
                plain = _cipher(keys, sealed[:_SALT_SIZE], sealed[_SALT_SIZE:])
                number = int.from_bytes(plain, "big")
        return number


def _cipher(keys: _Keys, salt: bytes, data: bytes) -> bytes:
    """Apply the key stream selected by the salt: enciphers and deciphers."""
    stream = hmac.new(keys.cipher, salt, hashlib.sha256).digest()
    return bytes([a ^ b for a, b in zip(data, stream, strict=False)])


def _mac(keys: _Keys, data: bytes) -> bytes:
    return hmac.new(keys.seal, data, hashlib.sha256).digest()[:_MAC_SIZE]


def add_gruus(contact: NameAddr, public: SipUri, temporary: SipUri | None = None) -> NameAddr:
    """Add its GRUUs to a Contact of a registrar's 200 (§5.2).

    Args:
        contact: The Contact, including the ``+sip.instance`` it was registered with.
        public: The public GRUU.
        temporary: The temporary GRUU.
    """
    contact = contact.with_param("pub-gruu", str(public))
    return contact if temporary is None else contact.with_param("temp-gruu", str(temporary))
