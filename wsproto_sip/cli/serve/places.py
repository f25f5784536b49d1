"""The places where ``wsproto-sip serve`` listens, and their form in ``--listen``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from ...uri import WebSocketURI
from .._text import authority

__all__ = ["WILDCARDS", "WORDS", "Place", "is_loopback"]

#: Addresses that stand for all addresses of a machine.
WILDCARDS: Final = frozenset(["0.0.0.0", "::"])  # noqa: S104  # compared with, not bound to

#: The forms that :meth:`Place.parse` accepts, for error messages.
WORDS: Final = "ws://HOST:PORT, wss://HOST:PORT, [wss+]unix:PATH or [wss+]systemd[:NAME]"

_FREE: Final = re.compile(r"(wss?://.+):0/?")
_OTHER: Final = re.compile(r"(ws\+|wss\+)?(unix|systemd)(?::([^\0]{1,100}))?")


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can connect to an address.

    Args:
        host: A name or an address.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Place:
    """A place to listen at: an address, the path of a Unix socket, or inherited sockets.

    Args:
        secure: Whether connections there begin with TLS.
        host: The name or address; ``None`` for another kind of place.
        port: The port of an address.
        unix: The path of a Unix socket.
        inherited: The name of sockets passed by systemd; empty for all of them.
    """

    secure: bool = False
    host: str | None = None
    port: int = 0
    unix: str | None = None
    inherited: str | None = None

    @classmethod
    def parse(cls, word: str) -> Place:
        """Parse a value of ``--listen``.

        Args:
            word: One of :data:`WORDS`.

        Raises:
            ValueError: It has another form.
        """
        match = _OTHER.fullmatch(word)
        if match is not None:
            secure, rest = match[1] == "wss+", match[3]
            if match[2] == "systemd":
                return cls(secure, inherited=rest or "")
            if rest is None or not rest.startswith("/"):
                raise ValueError(f"{word!r} has no absolute path")
            return cls(secure, unix=rest)
        free = _FREE.fullmatch(word)
        if not word.startswith(("ws://", "wss://")):
            raise ValueError(f"{word!r} is not {WORDS}")
        # No URI names port 0, which stands for a free one.
        uri = WebSocketURI.parse(word if free is None else f"{free[1]}:1")
        if uri.target != "/" or uri.credentials is not None:
            raise ValueError(f"{word!r} is not {WORDS}")
        return cls(uri.secure, uri.host, uri.port if free is None else 0)

    @property
    def loopback(self) -> bool:
        """Whether only programs on this machine can connect to it.

        Never of a Unix socket, which a proxy serves the world through, nor of inherited sockets.
        """
        return self.host is not None and is_loopback(self.host)

    def __str__(self) -> str:
        """Return the place as messages name it."""
        if self.host is not None:
            return authority(self.host, self.port)
        return f"unix:{self.unix}" if self.unix is not None else f"systemd:{self.inherited}"
