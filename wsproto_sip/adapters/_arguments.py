"""Checking and converting what callers pass to the adapters.

Theory of operation: a wrong argument is reported where it was passed, by the name that the caller
used, and not later by the first code that trips over it.
"""

from __future__ import annotations

import inspect
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from math import inf
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from ..limits import bound
from ..session.config import SessionConfig
from ..utilities import check_header_fields

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..extensions import Extension
    from ..typing import Headers

__all__ = [
    "HeaderFields",
    "adapted",
    "check_arguments",
    "check_options",
    "header_fields",
    "make_extensions",
    "no_extensions",
    "protocol_names",
]

#: Header fields as callers write them: a mapping, or pairs; names and values as bytes or text.
HeaderFields = Mapping[bytes, bytes] | Mapping[str, str] | Iterable[tuple[bytes | str, bytes | str]]

_FUNCTION: Final = (Callable, "a function")
_PERHAPS_FUNCTION: Final = (Callable, NoneType), "a function or None"
_CONTEXT: Final = (ssl.SSLContext, NoneType), "an ssl.SSLContext or None"
_TEXT: Final = (str, NoneType), "text or None"
_INTEGER: Final = int, "an integer"
_SECONDS: Final = (int, float), "a number of seconds"
_PERHAPS_SECONDS: Final = (int, float, NoneType), "a number of seconds or None"

#: What arguments may be, in types and in words: one name means the same everywhere.
_ARGUMENTS: Final[dict[str, tuple[Any, str]]] = {
    "backlog": ((int, NoneType), "an integer"),
    "drain": _SECONDS,
    "extensions": (Callable, "a function that makes the extensions of one connection"),
    "family": _INTEGER,
    "flags": _INTEGER,
    "handler": _FUNCTION,
    "happy_eyeballs_delay": _PERHAPS_SECONDS,
    "host": _TEXT,
    "local_addr": ((tuple, NoneType), "a pair of address and port, or None"),
    "max_connections": _INTEGER,
    "max_redirects": _INTEGER,
    "on_control": _PERHAPS_FUNCTION,
    "on_wire": _PERHAPS_FUNCTION,
    "port": ((int, NoneType), "an integer from 0 to 65535, or None"),
    "process_request": _PERHAPS_FUNCTION,
    "proxy": ((str, bool, NoneType), "a URI, True, False or None"),
    "proxy_ssl": _CONTEXT,
    "resolve": _PERHAPS_FUNCTION,
    "server_hostname": _TEXT,
    "sock": ((socket.socket, NoneType), "a socket or None"),
    "ssl": _CONTEXT,
    "ssl_handshake_timeout": _PERHAPS_SECONDS,
    "ssl_shutdown_timeout": _PERHAPS_SECONDS,
    "unix": _TEXT,
}


def check_arguments(**arguments: object) -> None:
    """Check the types of arguments that mean the same in all adapters.

    Args:
        arguments: The arguments, by the names that callers know them by.

    Raises:
        TypeError: One is of another type.
        ValueError: A port is not one.
    """
    for name, value in arguments.items():
        kinds, allowed = _ARGUMENTS[name]
        # True is not a number here, nor a TLS context.
        if not isinstance(value, kinds) or (type(value) is bool and name != "proxy"):
            # The URI of a proxy may have a password in it.
            shown = type(value).__name__ if name == "proxy" else f"{value!r:.100}"
            raise TypeError(f"{name} must be {allowed}, not {shown}")
        if name == "port" and isinstance(value, int) and not 0 <= value <= 65535:
            raise ValueError(f"{name} must be {allowed}, not {value!r:.100}")


def header_fields(headers: HeaderFields) -> Headers:
    """Return header fields as bytes.

    Args:
        headers: A mapping or pairs; text has to be ASCII.

    Raises:
        TypeError: It is neither.
        LocalProtocolError: A name or a value cannot be sent.
    """
    given: object = headers
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"headers must be a mapping or pairs, not {type(given).__name__}")
    fields = list(given.items() if isinstance(given, Mapping) else given)
    for field in fields:
        if not isinstance(field, tuple | list) or len(field) != 2:
            raise TypeError(f"headers: {field!r} is not a pair of name and value")
    return check_header_fields(fields)


def protocol_names(subprotocols: Sequence[str]) -> list[str]:
    """Return the sub-protocols of a program as a new list.

    Args:
        subprotocols: Their names.

    Raises:
        TypeError: It is a single name, which would be read as a list of letters, or they are not
            names.
    """
    given: object = subprotocols
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"subprotocols must be a sequence of names: [{given!r:.100}]")
    names = list(subprotocols)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"subprotocols: {name!r:.100} is not text")
    return names


def no_extensions() -> Sequence[Extension]:
    """Return the extensions that a connection may use by default: none."""
    return ()


def make_extensions(extensions: Callable[[], Sequence[Extension]]) -> list[Extension]:
    """Return the extensions that one connection may use.

    Args:
        extensions: The function that makes them.

    Raises:
        TypeError: It does not return several, as the class of an extension would not.
    """
    made: object = extensions()
    if not isinstance(made, Iterable):
        raise TypeError(f"extensions must return a sequence of extensions, not {made!r:.100}")
    return list(made)


def adapted(config: SessionConfig) -> SessionConfig:
    """Return a configuration fit for an adapter in which senders and readers wait.

    The adapter pauses the session when nothing is received, and one call returns at most as many
    messages as the queue holds. Output needs no hard bound, because senders wait above
    ``high_water``; a single message may then be longer than any such bound.

    Args:
        config: The configuration.

    Raises:
        TypeError: It is not a configuration.
    """
    if not isinstance(config, SessionConfig):
        raise TypeError(f"config must be a SessionConfig, not {type(config).__name__}")
    limits = config.limits
    frames = min(bound(limits.max_frames_per_call), bound(limits.max_queued_messages))
    most = None if frames == inf else int(frames)
    return replace(
        config,
        auto_pause=False,
        limits=replace(limits, max_outgoing=None, max_frames_per_call=most),
        profiles={name: adapted(profile) for name, profile in config.profiles.items()},
    )


def check_options(
    function: Callable[..., object], options: Mapping[str, Any], caller: str | None = None
) -> None:
    """Check that a function takes arguments of these names, before it is called later.

    Args:
        function: The function.
        options: The keyword arguments for it.
        caller: The name of the function that was called with them; that of the former by default.

    Raises:
        TypeError: It does not take one of them.
    """
    known = inspect.signature(function).parameters
    for name in options:
        if name not in known:
            called = caller or function.__name__
            raise TypeError(f"{called}() got an unexpected keyword argument {name!r}")
