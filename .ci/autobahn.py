"""The Autobahn testsuite on every adapter, server and client: ``python .ci/autobahn.py``.

By default its 247 core cases run. With ``--all`` all 517 do: cases 9.* send large messages, cases
12.* and 13.* compressed ones, and they take long. All run in parts, and ``--folder`` keeps the
report of each, so that a part that has ended well is not run again. Each case and its closing must
be OK, except for three informational cases. NON-STRICT is not enough.

The suite runs on CPython 2.7 alone. One is looked for in ``PYTHON27``, as ``python2.7`` and among
pyenv's versions. The suite comes from PyPI, as ``REQUIREMENTS`` pins it and what it needs, into an
environment of its own: in ``--folder``, to be used again, or in a temporary one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.peers._autobahn_parties import CLIENTS, SERVERS  # noqa: E402 - the path comes first

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

HOST = "127.0.0.1"

#: The last release that makes environments for Python 2.7.
VIRTUALENV = "virtualenv==20.21.1"

#: What the suite needs besides: what pip for Python 2.7 finds, without wsaccel, which is in C and
#: only makes it faster.
REQUIREMENTS = """\
attrs==21.4.0
autobahn==0.10.9
autobahntestsuite==25.10.1
Automat==22.10.0
cffi==1.15.1
constantly==15.1.0
cryptography==3.3.2
enum34==1.1.10
hyperlink==21.0.0
idna==2.10
incremental==16.10.1
ipaddress==1.0.23
Jinja2==2.11.3
klein==17.10.0
linecache2==1.0.0
MarkupSafe==1.1.1
pyasn1==0.5.1
pyasn1-modules==0.3.0
pycparser==2.21
PyHamcrest==1.10.1
pyOpenSSL==19.1.0
service-identity==18.1.0
six==1.16.0
traceback2==1.4.0
Twisted==19.10.0
txaio==2.1.0
typing==3.10.0.0
ujson==2.0.3
unittest2==1.1.0
Werkzeug==1.0.1
zope.interface==4.6.0
"""

#: Run by Python 2.7, with the descriptor of a socket to listen on. On its own the suite listens on
#: all addresses, at a fixed port.
WSTEST = """
import socket, sys
from twisted.internet import reactor
descriptor = int(sys.argv.pop(1))
def listen(port, factory, *arguments, **options):
    return reactor.adoptStreamPort(descriptor, socket.AF_INET, factory)
reactor.listenTCP = listen
from autobahntestsuite.wstest import run
run()
"""


class Part(NamedTuple):
    """A part of the suite, which is run at once.

    Args:
        name: Of the folder of its reports.
        cases: The cases.
        excluded: Those of them that are left out.
        count: How many there are.
        large: Whether they need more than the default limits.
    """

    name: str
    cases: tuple[str, ...]
    excluded: tuple[str, ...]
    count: int
    large: bool = True


CORE = Part("core", ("*",), ("9.*", "12.*", "13.*"), 247, large=False)

PARTS = [
    CORE,
    Part("9", ("9.*",), (), 54),
    *(Part(f"12.{number}", (f"12.{number}.*",), (), 18) for number in range(1, 6)),
    *(Part(f"13.{number}", (f"13.{number}.*",), (), 18) for number in range(1, 8)),
]

#: The cases that are only reported, not judged.
INFORMATIONAL = frozenset(["7.1.6", "7.13.1", "7.13.2"])

EVERYTHING_OK = {
    False: Counter(OK=244, INFORMATIONAL=3),
    True: Counter(OK=514, INFORMATIONAL=3),
}


class Party(NamedTuple):
    """A program that is tested.

    Args:
        side: ``server`` or ``client``.
        name: The program's name in ``_autobahn_parties``.
    """

    side: str
    name: str

    def __str__(self) -> str:
        return f"{self.name}, {self.side}"


PARTIES = [
    *(Party("server", name) for name in SERVERS),
    *(Party("client", name) for name in CLIENTS),
]


class Outcome(NamedTuple):
    """The results of the suite for a party.

    Args:
        party: The party.
        counts: The number of cases by result.
        faults: A line for each case with an unexpected result.
        seconds: The duration.
    """

    party: Party
    counts: Counter[str]
    faults: list[str]
    seconds: float


# -- the suite ------------------------------------------------------------------------------------


def find_python27(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the command of a CPython 2.7; ``None`` if there is none."""
    candidates = [environment.get("PYTHON27"), shutil.which("python2.7", path=environment["PATH"])]
    if pyenv := shutil.which("pyenv", path=environment["PATH"]):
        answer = subprocess.run([pyenv, "root"], stdout=subprocess.PIPE, text=True, check=False)
        versions = Path(answer.stdout.strip(), "versions")
        candidates += map(str, sorted(versions.glob("2.7.*/bin/python2.7"), reverse=True))
    program = "import platform as p; print(p.python_implementation(), p.python_version()[:3])"
    for candidate in filter(None, candidates):
        # A command of pyenv's that no version is chosen for is there, but does not run.
        with_this = [candidate, "-c", program]
        try:
            found = subprocess.run(with_this, capture_output=True, text=True, check=False).stdout
        except OSError:
            continue
        if found.strip() == "('CPython', '2.7')":
            return candidate
    return None


def install(python27: str, folder: Path) -> str:
    """Install the suite, unless it is there already: the interpreter that has it."""
    interpreter = folder / "py27" / "bin" / "python"
    done = folder / "requirements.txt"
    if done.exists() and done.read_text(encoding="utf-8") == REQUIREMENTS:
        return str(interpreter)
    folder.mkdir(parents=True, exist_ok=True)
    tools, wanted = folder / "tools", folder / "wanted.txt"
    wanted.write_text(REQUIREMENTS, encoding="utf-8")
    pip = ["-W", "ignore", "-m", "pip", "install", "-qq"]
    for command in (
        [sys.executable, "-m", "venv", tools],
        [tools / "bin" / "python", *pip, VIRTUALENV],
        [tools / "bin" / "virtualenv", "-q", "--clear", "-p", python27, folder / "py27"],
        [interpreter, *pip, "--no-deps", "--no-python-version-warning", "-r", wanted],
    ):
        subprocess.run(command, check=True)
    wanted.rename(done)
    return str(interpreter)


def write_specification(folder: Path, part: Part, **more: object) -> Path:
    """Write the specification for the suite."""
    specification = {
        "outdir": str(folder),
        "cases": part.cases,
        "exclude-cases": part.excluded,
        "exclude-agent-cases": {},
        **more,
    }
    file = folder / "specification.json"
    file.write_text(json.dumps(specification), encoding="utf-8")
    return file


# -- running it -----------------------------------------------------------------------------------


@contextmanager
def running(command: Sequence[object], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Run a program for the duration of a block."""
    with subprocess.Popen(list(map(str, command)), cwd=ROOT, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def program(party: Party, large: bool, *arguments: object) -> list[object]:
    """Return the command that runs a party."""
    size = ["--large"] if large else []
    module = "tests.peers._autobahn_parties"
    return [sys.executable, "-m", module, *size, party.side, party.name, *arguments]


def read_port(server: subprocess.Popen[str]) -> int:
    """Read the port that a server reports: the last number in its first line."""
    assert server.stdout is not None
    return int(re.findall(r"\d+", server.stdout.readline())[-1])


def run_against_server(
    interpreter: str, party: Party, part: Part, folder: Path, limit: float
) -> None:
    """Have the suite connect to a server."""
    with (
        (folder / "party.log").open("w") as log,
        running(program(party, part.large), stdout=subprocess.PIPE, stderr=log) as server,
        (folder / "wstest.log").open("w") as output,
    ):
        servers = [{"url": f"ws://{HOST}:{read_port(server)}", "agent": party.name}]
        file = write_specification(folder, part, servers=servers)
        command = [interpreter, "-c", WSTEST, "-1", "-m", "fuzzingclient", "-s", file]
        with running(command, stdout=output, stderr=output) as suite:
            suite.wait(limit)


def run_against_client(
    interpreter: str, party: Party, part: Part, folder: Path, limit: float
) -> None:
    """Have a client connect to the suite."""
    with (
        (folder / "party.log").open("w") as log,
        (folder / "wstest.log").open("w") as output,
        socket.create_server((HOST, 0)) as listener,
    ):
        # The suite's event loop needs it. Clients may connect before the suite runs.
        listener.setblocking(False)
        descriptor = listener.fileno()
        uri = f"ws://{HOST}:{listener.getsockname()[1]}"
        file = write_specification(folder, part, url=uri)
        command = [interpreter, "-c", WSTEST, descriptor, "-m", "fuzzingserver", "-s", file]
        inherited: dict[str, Any] = {"stdout": output, "stderr": output, "pass_fds": [descriptor]}
        with (
            running([*command, "--webport", "0"], **inherited),
            running(
                program(party, part.large, uri, part.count, "agent"), stdout=log, stderr=log
            ) as client,
        ):
            client.wait(limit)


def judge(party: Party, folder: Path, seconds: float = 0.0) -> Outcome:
    """Read the suite's report."""
    (cases,) = json.loads((folder / "index.json").read_text(encoding="utf-8")).values()
    faults = []
    for case in sorted(cases, key=lambda name: [int(part) for part in name.split(".")]):
        behaviors = cases[case]["behavior"], cases[case]["behaviorClose"]
        if set(behaviors) != {"INFORMATIONAL" if case in INFORMATIONAL else "OK"}:
            report = json.loads((folder / cases[case]["reportfile"]).read_text(encoding="utf-8"))
            why = f"{report['result']} {report['resultClose']}"
            faults.append(f"{case} {' / '.join(behaviors)}: {why}")
    return Outcome(party, Counter(case["behavior"] for case in cases.values()), faults, seconds)


def run(
    interpreter: str, folder: Path, limit: float, party_and_part: tuple[Party, Part]
) -> Outcome:
    """Run a part on a party, unless the folder has a good report of it."""
    party, part = party_and_part
    place = folder / f"{party.side}-{party.name.replace(' ', '-')}" / part.name
    if (place / "index.json").exists():
        outcome = judge(party, place)
        if not outcome.faults and outcome.counts.total() == part.count:
            return outcome
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    begun = time.monotonic()
    step = run_against_server if party.side == "server" else run_against_client
    try:
        step(interpreter, party, part, place, limit)
        return judge(party, place, time.monotonic() - begun)
    except Exception as exc:
        logs = (place / name for name in ("party.log", "wstest.log"))
        ends = [log.read_text(errors="replace")[-2000:] for log in logs if log.exists()]
        return Outcome(party, Counter(), [repr(exc), *ends], time.monotonic() - begun)


def combine(party: Party, outcomes: Iterable[Outcome]) -> Outcome:
    """Return the outcome of a party from those of its parts."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    seconds = 0.0
    for outcome in outcomes:
        counts += outcome.counts
        faults += outcome.faults
        seconds += outcome.seconds
    return Outcome(party, counts, faults, seconds)


def main() -> int:
    """Run the suite; return 0 if every case on every party has the expected result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = ", ".join(f"'{party}'" for party in PARTIES)
    parser.add_argument("parties", nargs="*", metavar="PARTY", help=f"which of {names} (all)")
    parser.add_argument("--all", action="store_true", help="all 517 cases")
    parser.add_argument("--or-skip", action="store_true", help="0 where there is no CPython 2.7")
    parser.add_argument("--folder", type=Path, help="where the suite and its reports are kept")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="at once (%(default)s)")
    parser.add_argument(
        "--limit", type=float, default=7200, help="seconds for each part (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="a file to write the counts to")
    options = parser.parse_args()
    known = {str(party): party for party in PARTIES}
    if unknown := set(options.parties) - set(known):
        parser.error(f"not among {names}: {', '.join(sorted(unknown))}")
    python27 = find_python27()
    if python27 is None:
        print("skipped: no CPython 2.7 in PYTHON27, as python2.7 or among pyenv's versions")
        return 0 if options.or_skip else 2
    print("with", python27, flush=True)
    with TemporaryDirectory() as scratch:
        folder = options.folder.absolute() if options.folder else Path(scratch)
        interpreter = install(python27, folder)
        with ThreadPoolExecutor(options.jobs) as pool:
            parties = [known[name] for name in options.parties or known]
            parts = PARTS if options.all else [CORE]
            todo = partial(run, interpreter, folder / "reports", options.limit)
            ended = pool.map(todo, [(party, part) for party in parties for part in parts])
            outcomes = []
            for party in parties:
                outcome = combine(party, (next(ended) for _ in parts))
                outcomes.append(outcome)
                counts = ", ".join(f"{count} {kind}" for kind, count in outcome.counts.items())
                print(f"{outcome.party}: {counts} in {outcome.seconds:.0f} s", flush=True)
                for fault in outcome.faults:
                    print("  ", fault, flush=True)
    good = [o for o in outcomes if not o.faults and o.counts == EVERYTHING_OK[options.all]]
    if options.json:
        counted = {str(outcome.party): dict(sorted(outcome.counts.items())) for outcome in outcomes}
        options.json.write_text(json.dumps(counted, indent=2) + "\n", encoding="utf-8")
    print(f"{len(good)} of {len(outcomes)} as they should be")
    return 0 if good == outcomes else 1


if __name__ == "__main__":
    sys.exit(main())
