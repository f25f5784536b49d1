"""The entry point of a target's own file: passes it to atheris."""

from __future__ import annotations

import sys

__all__ = ["fuzz"]


def fuzz(name: str) -> None:
    """Fuzz a target until it breaks or its time is over; never return.

    Args:
        name: One of the names in ``targets.TARGETS``.
    """
    import atheris  # noqa: PLC0415 - only where it is installed

    # This package and h11, whose coverage guides the search. Instrumenting the standard library too
    # takes longer than a short run.
    with atheris.instrument_imports(include=["wsproto_sip", "h11"]):
        from .targets import TARGETS  # noqa: PLC0415 - instrumented as it is imported

    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
