"""What every test runs under."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# A deadline per example is a stop-watch, and machines differ. A continuous integration run draws
# the same examples every time; a run by hand looks for new ones.
settings.register_profile(
    "wsproto_sip", deadline=None, database=None, derandomize="CI" in os.environ, print_blob=True
)
# For a long look at what was changed: pytest --hypothesis-profile=thorough tests/test_parser.py
settings.register_profile("thorough", deadline=None, database=None, max_examples=2000)
settings.load_profile("wsproto_sip")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What listens on this machine is reached without the proxies of its environment."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
