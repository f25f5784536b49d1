"""What both commands print, and how addresses and errors look in it."""

from __future__ import annotations

import os
import ssl
import sys

__all__ = ["authority", "escape", "in_uri", "notice", "reason_of"]


def escape(text: str) -> str:
    """Makes text from a peer safe to print: what is not printable becomes an escape sequence.

    Args:
        text: Anything.

    Returns:
        One line that moves no cursor, changes no colour and reorders nothing.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def notice(text: str) -> None:
    """Prints a line about the connection, where it does not mix with the messages.

    Args:
        text: What happened; escaped here.
    """
    print("--", escape(text), file=sys.stderr, flush=True)


def authority(host: str, port: int, default_port: int | None = None) -> str:
    """Host and port as they stand in a URL.

    Args:
        host: A name or an address.
        port: The port.
        default_port: The port that needs no mention.
    """
    shown = f"[{host}]" if ":" in host else host
    return shown if port == default_port else f"{shown}:{port}"


def in_uri(host: str) -> str:
    """A host as it stands in a SIP or MSRP URI.

    Args:
        host: A name or an address; one of IPv6 with or without brackets.
    """
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def reason_of(error: OSError) -> str:
    """Why the operating system refused, without the call and the numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) or not error.errno:
        return str(error)
    # A resolver's numbers are negative and have their text with them.
    return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
