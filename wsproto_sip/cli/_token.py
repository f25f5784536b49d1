"""The token for commands over HTTP: a secret in a file readable by one user only."""

from __future__ import annotations

import os
import re
import stat
from typing import Final

__all__ = ["read_token"]

#: The form of a Bearer token (RFC 6750 §2.1), and its required length.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{16,512}=*")


def read_token(path: str) -> str:
    """Read a token.

    Args:
        path: The file; white space around the token is ignored.

    Raises:
        OSError: The file cannot be read.
        ValueError: Other users may use the file, or it does not contain a token.
    """
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if os.name == "posix" and mode & 0o077:
            raise ValueError(f"other users may use it (mode {mode:04o}); chmod 600")
        text = file.read(2048).decode("latin-1").strip()
    if not _TOKEN.fullmatch(text):
        raise ValueError("not a token of 16 to 512 letters, digits and -._~+/")
    return text
