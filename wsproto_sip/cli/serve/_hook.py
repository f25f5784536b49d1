"""The process of a hook: calls ``module:function`` with each event that comes as a line of JSON.

Run as ``python -m wsproto_sip.cli.serve._hook module:function``. Each line is answered: ``ok``, or
``failed`` and why.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable

__all__ = ["main"]


def _load(name: str) -> Callable[[dict[str, object]], object]:
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"{name} cannot be called")
    function: Callable[[dict[str, object]], object] = found
    return function


def main(name: str) -> int:
    """Serve until the input ends.

    Args:
        name: ``module:function``.
    """
    # What the function prints is not an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    try:
        function = _load(name)
    except Exception as exc:
        print(f"{type(exc).__name__}: {exc}".replace("\n", " "), file=answers)
        return 1
    print("ok", file=answers)
    for line in sys.stdin:
        try:
            function(json.loads(line))
        except Exception as exc:
            print("failed", f"{type(exc).__name__}: {exc}".replace("\n", " "), file=answers)
        else:
            print("ok", file=answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
