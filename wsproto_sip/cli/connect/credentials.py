"""A user and a password for ``connect``: from an option, a file, the environment or a terminal."""

from __future__ import annotations

import getpass
import os
import stat
import warnings
from typing import Final

__all__ = ["PASSWORD_VARIABLE", "ask_password", "read_credentials", "split_credentials"]

#: The environment variable for the password.
PASSWORD_VARIABLE: Final = "WSPROTO_SIP_PASSWORD"  # noqa: S105 - its name

_MAX_FILE: Final = 4096


def split_credentials(text: str) -> tuple[str, str | None]:
    """Parse ``USER[:PASSWORD]``.

    Args:
        text: The user, and the password after the first colon.

    Returns:
        The user, and the password or ``None``.

    Raises:
        ValueError: The user is empty.
    """
    user, colon, password = text.partition(":")
    if not user:
        raise ValueError("not of the form USER[:PASSWORD]")
    return user, password if colon else None


def read_credentials(path: str) -> tuple[str, str]:
    """Read ``USER:PASSWORD`` from the first line of a file.

    Args:
        path: The file, which must be readable by its user only.

    Raises:
        OSError: The file cannot be read.
        ValueError: Other users may use it, or its first line has an invalid form.
    """
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if os.name == "posix" and mode & 0o077:
            raise ValueError(f"other users may use it (mode {mode:04o}); chmod 600")
        line = file.readline(_MAX_FILE)
    try:
        user, password = split_credentials(line.decode("utf-8").rstrip("\r\n"))
    except ValueError:
        password = None
    if password is None:
        raise ValueError("its first line is not of the form USER:PASSWORD")
    return user, password


def ask_password(user: str) -> str:
    """Return the password of a user: from the environment, or typed without echo.

    Args:
        user: The name of the user.

    Raises:
        ValueError: No terminal is available to ask for it.
    """
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is not None:
        return password
    try:
        with warnings.catch_warnings():
            # Without a terminal it would be read from standard input, with echo.
            warnings.simplefilter("error", getpass.GetPassWarning)
            return getpass.getpass(f"Password of {user}: ")
    except (getpass.GetPassWarning, EOFError):
        raise ValueError(
            f"no password, and no terminal to ask for it; it can be in {PASSWORD_VARIABLE}"
        ) from None
