"""The target ``frames`` as a program of its own, as OSS-Fuzz builds them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fuzz.entry import fuzz

if __name__ == "__main__":
    fuzz("frames")
