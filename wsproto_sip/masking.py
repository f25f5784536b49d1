"""Plug in another XOR function to mask frames (RFC 6455 §5.3).

Every frame of a client is masked: its payload is XORed with a key of four bytes. The standard
library has nothing that does this quickly, so for payloads of 800 bytes and more it is most of the
cost of receiving. A compiled function takes a twentieth of the time, and many programs have one
installed already::

    from websockets.speedups import apply_mask
    from wsproto_sip import masking

    masking.use(apply_mask)

Theory of operation: the function is set for the whole process. It also replaces the tables that
unmask short payloads, and is called once for each frame, or for each piece of a frame that arrives.
The compiled engine unmasks payloads and pieces of less than 4 KiB itself, which is faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ._masking import plug_in

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["use"]

# Sizes that a function has to mask correctly before it is used: every remainder, and sizes around
# those at which compiled functions change their step.
_SIZES: Final = (*range(70), 127, 128, 129, 255, 256, 257, 767)
_PAYLOAD: Final = bytes(range(256)) * 3
_KEY: Final = b"\x01\x80\xfe\x37"
_MASKED: Final = bytes(octet ^ _KEY[i % 4] for i, octet in enumerate(_PAYLOAD))


def use(function: Callable[[bytes, bytes], bytes] | None) -> None:
    """Mask and unmask with another function.

    Call it when the program starts: existing connections may keep using the previous function.

    Args:
        function: Takes a payload and a key of four bytes, and returns the payload with each byte
            XORed with the byte of the key at its position modulo four, as ``bytes``. ``None``
            restores the package's own implementation.

    Raises:
        ValueError: The function masks incorrectly. It is not used.
        TypeError: The function does not return ``bytes``. It is not used.
    """
    if function is not None:
        for size in _SIZES:
            masked = function(_PAYLOAD[:size], _KEY)
            if not isinstance(masked, bytes):
                raise TypeError(f"the function must return bytes, not {type(masked).__name__}")
            if masked != _MASKED[:size]:
                raise ValueError(f"the function masks a payload of {size} bytes incorrectly")
    plug_in(function)
