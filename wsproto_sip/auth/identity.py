"""The identity of a connection, and rules for names and realms."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Identity", "check_realm", "folded_name", "is_username", "same_secret"]

_REALM = re.compile(r"[\x20\x21\x23-\x5b\x5d-\x7e]*")
# No control characters (RFC 7617 §2), no separators that would break a log line, and no surrogates,
# which cannot be written in UTF-8.
_USERNAME = re.compile("[^\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\ud800-\\udfff]{1,255}")


@dataclass(frozen=True, slots=True)
class Identity:
    """The authenticated identity of a connection.

    It stays with the connection; SIP and MSRP compare the addresses in messages with it.

    Args:
        name: The user, account or subject.
        method: How it was proven: ``"basic"``, ``"digest"``, ``"token"`` or a name chosen by the
            caller.
        attributes: Anything else that the caller wants to keep with the connection. Not part of the
            hash.
    """

    name: str
    method: str = ""
    attributes: Mapping[str, object] = field(default_factory=dict, hash=False)


def is_username(text: str) -> bool:
    """Return whether a text can be a user's name.

    It has 1 to 255 characters, none of which is a control character or a surrogate.
    """
    return _USERNAME.fullmatch(text) is not None


def folded_name(name: str) -> str:
    """Return a form of a name that is the same for all names that a database may take for equal.

    Collations of databases ignore case, accents, compatibility forms and spaces at the end.

    Args:
        name: The name.
    """
    if name.isascii():
        return name.lower().rstrip(" ")
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    base = "".join([char for char in decomposed if not unicodedata.combining(char)])
    return base.casefold().rstrip(" ")


def check_realm(realm: str) -> str:
    """Check that a realm can be quoted as it is, and return it.

    Raises:
        ValueError: The realm contains a quote, a backslash, or anything but printable ASCII.
    """
    if not _REALM.fullmatch(realm):
        raise ValueError(f"realm is not printable ASCII without quotes and backslashes: {realm!r}")
    return realm


def same_secret(one: str, other: str) -> bool:
    """Compare two secrets in a time that depends on neither their contents nor their lengths."""
    return hmac.compare_digest(
        hashlib.sha256(one.encode("utf-8", "surrogatepass")).digest(),
        hashlib.sha256(other.encode("utf-8", "surrogatepass")).digest(),
    )
