"""The checks of .ci/run that need no other programs, one session each: ``nox -l`` lists them."""

from __future__ import annotations

import nox

nox.options.sessions = ["lint", "types", "tests-3.11"]


@nox.session(python=["3.11", "3.12", "3.13", "3.14"])
def tests(session: nox.Session) -> None:
    """Run the tests; foreign programs that are missing are skipped and named."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, over package, tests and fuzz targets."""
    session.install("-e", ".[dev,bench]")
    session.run("mypy", "--strict", "wsproto_sip", "tests", "fuzz")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a broken reference is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-q", "-W", "-n", "-b", "html", "docs", "docs/_build")


@nox.session
def fuzz(session: nox.Session) -> None:
    """Run every fuzz target for a while: ``nox -s fuzz -- --seconds 60``."""
    session.install("-e", ".[fuzz]")
    session.run("python", "-m", "fuzz.run", *session.posargs)
