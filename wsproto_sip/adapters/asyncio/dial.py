"""Connecting a socket to a name, on any asyncio loop (RFC 8305).

Theory of operation: the addresses of a name are tried in turn, alternating the families, each when
the one before has failed or had its time; the first that answers wins. ``create_connection()`` does
that too, but not on uvloop, and a cancelled attempt may leave a socket open. Here, the sockets of
abandoned attempts are always closed.
"""

from __future__ import annotations

import asyncio
import socket
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ATTEMPT_DELAY", "dial"]

#: Seconds that RFC 8305 §5 recommends between attempts to connect.
ATTEMPT_DELAY: Final = 0.25

#: A result of ``getaddrinfo()``.
_Info = tuple[int, int, int, str, Any]


async def dial(
    host: str,
    port: int,
    *,
    delay: float | None,
    family: int = 0,
    flags: int = 0,
    local_addr: tuple[str, int] | None = None,
) -> socket.socket:
    """Connect to a name.

    Args:
        host: A name or an address.
        port: The port.
        delay: Seconds before the next address is tried in parallel; ``None`` to wait for the
            result of each.
        family: The family of the addresses; 0 for any.
        flags: Flags for ``getaddrinfo()``.
        local_addr: The address and port to connect from.

    Raises:
        OSError: No address answered; if the errors differ, the message contains all of them.
    """
    loop = asyncio.get_running_loop()
    infos = await _look_up(host, port, family, flags)
    local = await _look_up(*local_addr, family, flags) if local_addr else None
    waiting = _alternating(infos)
    attempts: set[asyncio.Task[socket.socket]] = set()
    errors: list[OSError] = []
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(loop.create_task(_attempt(waiting.pop(0), local)))
            done, _ = await asyncio.wait(
                attempts,
                timeout=delay if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for attempt in done:
                attempts.discard(attempt)
                try:
                    return attempt.result()
                except OSError as error:
                    errors.append(error)
        raise _combined(host, port, errors)
    finally:
        errors.clear()
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_discard)


def _discard(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


async def _look_up(host: str, port: int, family: int, flags: int) -> list[_Info]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
    return list(found)


def _alternating(infos: Iterable[_Info]) -> list[_Info]:
    """Sort addresses in the order of RFC 8305 §4: families in turn, the first one first."""
    families: dict[int, list[_Info]] = {}
    for info in infos:
        families.setdefault(info[0], []).append(info)
    turns = chain.from_iterable(zip_longest(*families.values()))
    return [info for info in turns if info is not None]


async def _attempt(info: _Info, local: list[_Info] | None) -> socket.socket:
    family, kind, protocol, _, address = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if local is not None:
            here = next((place[4] for place in local if place[0] == family), None)
            if here is None:
                raise OSError("local_addr has no address of the remote address's family")
            sock.bind(here)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _combined(host: str, port: int, errors: list[OSError]) -> OSError:
    if len({(type(error), error.errno) for error in errors}) == 1:
        return errors[0]
    return OSError(f"no address of {host}:{port} answered: {'; '.join(map(str, errors))}")
