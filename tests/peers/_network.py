"""A network of the tests' own, in which packets can be dropped.

Theory of operation: for the duration of a block, this thread is in a network namespace that has
nothing but a loopback interface. The processes and threads that it starts are in it as well.
nftables drops packets, so that neither side is told: that is what a cut cable looks like.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Network", "needs_network", "own_network"]

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=20)


class Network:
    """A network whose packets can be dropped."""

    def drop(self, *conditions: str) -> None:
        """Drop packets from now on.

        Args:
            conditions: Which ones: an expression of nft for each kind.
        """
        for condition in conditions:
            _run("nft", f"add rule ip tests packets {condition} drop")

    def mend(self) -> None:
        """Drop nothing any more."""
        _run("nft", "flush chain ip tests packets")


@contextmanager
def own_network() -> Iterator[Network]:
    """Enter a network for the duration of a block."""
    library = ctypes.CDLL(None, use_errno=True)
    before = os.open(_OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if library.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            _run("ip", "link", "set", "lo", "up")
            _run("nft", "add table ip tests")
            _run("nft", "add chain ip tests packets { type filter hook input priority 0; }")
            yield Network()
        finally:
            if library.setns(before, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(before)


def _is_possible() -> bool:
    if (
        not hasattr(os, "geteuid")
        or os.geteuid()
        or not (shutil.which("nft") and shutil.which("ip"))
    ):
        return False
    try:
        with own_network():
            return True
    except (OSError, AttributeError, subprocess.SubprocessError):
        # A container may not have the right to.
        return False


needs_network = pytest.mark.skipif(
    not _is_possible(), reason="needs root, ip and nft (Debian: iproute2, nftables)"
)
