"""Output shared by the commands, and the form of addresses and errors in it."""

from __future__ import annotations

import os
import re
import ssl
import sys
from typing import TYPE_CHECKING, Final

from ..adapters._text import MAX_VALUE, elided, escape, pair

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MAX_VALUE",
    "authority",
    "did_you_mean",
    "elided",
    "escape",
    "in_uri",
    "notice",
    "pair",
    "reason_of",
]

#: What Python puts around OpenSSL's texts: library and name, and a line of its own source.
_OPENSSL: Final = re.compile(r"^\[[^\]]*\] | \(_ssl\.c:[0-9]+\)$")


def notice(text: str) -> None:
    """Print a line about the connection, separate from the messages.

    Args:
        text: The text; escaped here.
    """
    print("--", escape(text), file=sys.stderr, flush=True)


def authority(host: str, port: int, default_port: int | None = None) -> str:
    """Return host and port as written in a URL.

    Args:
        host: A name or an address.
        port: The port.
        default_port: The port to omit.
    """
    shown = f"[{host}]" if ":" in host else host
    return shown if port == default_port else f"{shown}:{port}"


def in_uri(host: str) -> str:
    """Return a host as written in a SIP or MSRP URI.

    Args:
        host: A name or an address; one of IPv6 with or without brackets.
    """
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def reason_of(error: OSError) -> str:
    """Return the reason of an error of the operating system, without call and numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        text = _OPENSSL.sub("", str(error.args[-1]))
        # All that OpenSSL says of a file without the lines of a certificate or of a key.
        return "not a certificate with its private key, in PEM" if text == "PEM lib" else text
    if not error.errno:
        return str(error)
    # A resolver's error numbers are negative, and come with their text.
    return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean …?`` for the most similar known word, or nothing.

    Args:
        word: The unknown word.
        known: The known words.
    """
    from difflib import get_close_matches  # noqa: PLC0415  # only for mistakes

    near = get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""
