"""Settings for all tests."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# A deadline per example would be a stop-watch, and machines differ. Continuous integration draws
# the same examples every time; a run by hand looks for new ones.
settings.register_profile(
    "wsproto_sip", deadline=None, database=None, derandomize="CI" in os.environ, print_blob=True
)
# For a thorough test of a change: pytest --hypothesis-profile=thorough tests/test_parser.py
settings.register_profile("thorough", deadline=None, database=None, max_examples=2000)
# For code that was thoroughly tested already: another Python, or a measurement of coverage.
settings.register_profile(
    "brief",
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    max_examples=20,
    stateful_step_count=30,
)
settings.load_profile("wsproto_sip")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach servers on this machine without the proxies of the environment."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what a test does to the loggers of the package, for the tests that follow."""
    loggers = [
        logger
        for name, logger in logging.root.manager.loggerDict.items()
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "wsproto_sip"
    ]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


@pytest.fixture(autouse=True)
def _assertions_of_handlers(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail if an assertion failed in a handler, whose exceptions a server only logs."""
    yield
    for record in caplog.get_records("call"):
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, AssertionError | pytest.fail.Exception):
            raise error
