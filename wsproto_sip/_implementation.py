"""Choose between the compiled engine, if it was built, and the pure one.

The choice is made once, when the package is imported. ``WSPROTO_SIP_PURE=1`` in the environment
forces the pure engine, to compare the two or to find out whether a fault is in the compiled one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from ._inbox import Inbox
from ._masking import set_default
from ._parser import FrameParser

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["INBOX", "NAME", "PARSER", "choose"]


def choose(environment: Mapping[str, str]) -> tuple[str, type[FrameParser], Any]:
    """Choose the engine, and make it mask the frames we send too.

    Args:
        environment: The process's environment variables.

    Returns:
        ``"compiled"`` or ``"pure"``, the class that parses frames, and the base of connections.
    """
    if environment.get("WSPROTO_SIP_PURE", "0") in ("", "0"):
        try:
            from . import _kernel  # noqa: PLC0415 - it may be missing
        except ImportError:
            # Not compiled, or librt, the library that compiled code needs, is missing.
            pass
        else:
            if not _kernel.__file__.endswith(".py"):
                from ._compiled import KernelParser  # noqa: PLC0415 - of use with it alone

                set_default(_kernel.mask, _kernel.masked_frame)
                return "compiled", KernelParser, _kernel.KernelInbox
    set_default(None)
    return "pure", FrameParser, Inbox


_chosen = choose(os.environ)
#: ``"compiled"`` or ``"pure"``.
NAME: Final = _chosen[0]
#: The class that parses frames.
PARSER: Final = _chosen[1]
#: The class from which connections inherit how they receive.
INBOX: Final = _chosen[2]
