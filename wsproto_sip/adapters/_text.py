"""Making text from peers safe to print."""

from __future__ import annotations

import json

__all__ = ["MAX_VALUE", "elided", "escape", "pair"]

#: Characters shown of one value, since peers choose many of them.
MAX_VALUE = 100


def escape(text: str) -> str:
    """Make text from a peer safe to print: unprintable characters become escape sequences.

    Args:
        text: Any text.

    Returns:
        One line that cannot move the cursor, change colours or reorder text.
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def elided(text: str, most: int = MAX_VALUE) -> str:
    """Return text shortened to a bounded length.

    Args:
        text: Any text.
        most: Maximum number of characters, including the ellipsis.
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def pair(name: str, value: object) -> str:
    """Return ``name=value``, with the value quoted if it would be ambiguous otherwise.

    Args:
        name: The name.
        value: Text, which is shortened and escaped, a number or a boolean.
    """
    if isinstance(value, bool):
        return f"{name}={str(value).lower()}"
    text = elided(str(value))
    if text.isprintable() and not set(text) & set(' "=') and text != "":
        return f"{name}={text}"
    return f"{name}={escape(json.dumps(text, ensure_ascii=False))}"
