"""wsproto's own test suite, run on this package: ``python .ci/wsproto_suite.py``.

Programs written for wsproto run with their imports changed, and its tests are such programs. They
do not belong to this project: they come out of wsproto's source distribution, pinned by its hash,
and stay in a temporary directory. ``DIFFERENCES`` lists each of their statements that fails
here, with the row of ``docs/howto/from-wsproto.md`` that explains it. Exactly those must fail.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tarfile
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.peers._alias_server import install  # noqa: E402 - the path comes first

if TYPE_CHECKING:
    from collections.abc import Generator

PAGE = ROOT / "docs" / "howto" / "from-wsproto.md"

REQUIREMENT = (
    "wsproto==1.3.2 --hash=sha256:b86885dcf294e15204919950f666e06ffc6c7c114ca900b060d6e16293528294"
)

#: All about ``Buffer``, ``MessageDecoder``, ``FrameDecoder``, ``FrameProtocol`` and the maskers,
#: which wsproto does not document.
LEFT_OUT = "test_frame_protocol.py"


class Difference(NamedTuple):
    """A statement in wsproto's tests that fails here, and why.

    Args:
        file: The file that it is in.
        tests: The names of the tests, as a pattern.
        statement: What it begins with.
        count: How many tests fail there, with their parameters.
        row: What the first cell of the page's row about it begins with.
    """

    file: str
    tests: str
    statement: str
    count: int
    row: str


_WORDS = "the texts of errors"
_PRIVATE = "names that wsproto does not document"

DIFFERENCES = (
    Difference("test_client.py", "*", "assert str(excinfo.value) ==", 8, _WORDS),
    Difference("test_server.py", "*", "assert str(excinfo.value) ==", 7, _WORDS),
    Difference(
        "test_client.py",
        "test_broken_handshake",
        "assert client.state is not ConnectionState.CONNECTING",
        1,
        "an interim response",
    ),
    # h11's server sends nothing at the end of this body, which an empty read stands for.
    Difference(
        "test_client.py", "test_handshake_rejection", "assert events ==", 1, '`receive_data(b"")`'
    ),
    Difference(
        "test_client.py",
        "test_handshake_rejection_with_body",
        "assert events ==",
        1,
        "the body of a rejection is received",
    ),
    Difference(
        "test_server.py",
        "test_handshake_rejection*",
        "assert events ==",
        2,
        "a rejection is sent",
    ),
    Difference(
        "test_connection.py",
        "test_closure*",
        "with pytest.raises(LocalProtocolError):",
        4,
        "data after the peer's close frame",
    ),
    Difference(
        "test_connection.py",
        "test_receive_data_when_closed",
        "with pytest.raises(LocalProtocolError):",
        1,
        "data after the peer's close frame",
    ),
    Difference(
        "test_handshake.py",
        "test_host_encoding",
        "assert request.host ==",
        1,
        "the host of a received request",
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_offer?params6?",
        'assert "client_max_window_bits=%d" % bits in param_string',
        1,
        "permessage-deflate without arguments",
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_accept?params?]",
        "assert ext.client_max_window_bits == bits",
        2,
        "permessage-deflate without arguments",
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_accept?params?]",
        "assert ext.server_max_window_bits == bits",
        1,
        "permessage-deflate without arguments",
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_accept_ignores_rubbish",
        "assert ext.enabled()",
        1,
        "an unknown, repeated or malformed parameter of permessage-deflate",
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_finalize_ignores_rubbish",
        "ext.finalize(",
        1,
        "a server answers an offer of permessage-deflate",
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_inbound_bad_zlib_decoder_end_state",
        "ext._decompressor =",
        1,
        _PRIVATE,
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_decompressor_reset*",
        "assert ext._decompressor is not None",
        4,
        _PRIVATE,
    ),
    Difference(
        "test_permessage_deflate.py",
        "test_compressor_reset*",
        "assert ext._compressor is not None",
        4,
        _PRIVATE,
    ),
)


class Role:
    """A stand-in for ``FrameProtocol``: the hooks of an extension only ask for its role."""

    def __init__(self, client: bool, extensions: list[object]) -> None:
        self.client = client
        self.extensions = extensions


class Failure(NamedTuple):
    """A failed test: its file, its name, and the statement in it that failed."""

    file: str
    test: str
    statement: str

    def is_meant(self, difference: Difference) -> bool:
        """Return whether a documented difference explains this failure."""
        return (
            self.file == difference.file
            and fnmatchcase(self.test, difference.tests)
            and self.statement.startswith(difference.statement)
        )


class Judge:
    """A pytest plugin that records which tests pass and where the others fail."""

    def __init__(self) -> None:
        self.passed = 0
        self.failures: list[Failure] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Generator[None, Any, Any]:
        """Record the result of a phase of a test."""
        report = yield
        if call.excinfo is not None:
            entries = [at for at in call.excinfo.traceback if Path(at.path) == item.path]
            statement = str(entries[-1].statement).strip() if entries else repr(call.excinfo.value)
            self.failures.append(Failure(item.path.name, item.name, statement.split("\n")[0]))
        elif report.when == "call":
            self.passed += 1
        return report


def fetch(folder: Path) -> Path:
    """Download wsproto's source distribution from PyPI."""
    requirements = folder / "requirements.txt"
    requirements.write_text(REQUIREMENT, encoding="utf-8")
    options = ["--quiet", "--no-deps", "--no-binary=:all:", "--require-hashes", "--dest", folder]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", requirements]
    subprocess.run(command, check=True)
    (found,) = folder.glob("*.tar.gz")
    return found


def unpack(sdist: Path, folder: Path) -> None:
    """Take the files of the test suite out of a source distribution."""
    folder.mkdir()
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            _, *parts = Path(member.name).parts
            if len(parts) == 2 and parts[0] == "tests" and (file := archive.extractfile(member)):
                (folder / parts[1]).write_bytes(file.read())


def run(folder: Path) -> Judge:
    """Run the suite with this package in wsproto's place."""
    install()
    sys.modules["wsproto.frame_protocol"].FrameProtocol = Role  # type: ignore[attr-defined]
    judge = Judge()
    options = ["-q", "-c", "/dev/null", "--rootdir", str(folder.parent), "--tb=no", "--no-summary"]
    options += ["--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    pytest.main([*options, f"--ignore={folder / LEFT_OUT}", str(folder)], plugins=[judge])
    return judge


def main() -> int:
    """Run the suite; return 0 if exactly the documented differences fail."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sdist", type=Path, help="the source distribution, if it is here already")
    options = parser.parse_args()
    with TemporaryDirectory() as scratch:
        sdist = options.sdist or fetch(Path(scratch))
        unpack(sdist, Path(scratch, "wsproto_tests"))
        judge = run(Path(scratch, "wsproto_tests"))
    problems = []
    page = PAGE.read_text(encoding="utf-8")
    met: Counter[Difference] = Counter()
    for failure in judge.failures:
        meant = [difference for difference in DIFFERENCES if failure.is_meant(difference)]
        met.update(meant)
        if len(meant) != 1:
            problems.append(f"{failure.file}::{failure.test} fails at {failure.statement!r}")
    for difference in DIFFERENCES:
        if met[difference] != difference.count:
            problems.append(f"{met[difference]} instead of {difference.count}: {difference}")
        if f"\n| {difference.row}" not in page:
            problems.append(f"the page has no row that begins with {difference.row!r}")
    print(f"{judge.passed} tests passed, {len(judge.failures)} failed, {LEFT_OUT} was left out")
    for row in dict.fromkeys(difference.row for difference in DIFFERENCES):
        count = sum(met[difference] for difference in DIFFERENCES if difference.row == row)
        print(f"{count:>4}  {row}")
    for problem in problems:
        print(problem)
    return 1 if problems or not judge.passed else 0


if __name__ == "__main__":
    sys.exit(main())
