"""Run the command line as ``python -m wsproto_sip``."""

from __future__ import annotations

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
