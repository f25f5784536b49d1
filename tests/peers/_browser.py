"""Telephones in pages of one Chromium, as the tests see them.

Theory of operation: a Node program starts Chromium and bundles JsSIP and SIP.js into a page; it
takes commands and answers them, one at a time, in lines of JSON. A command that starts something
is answered at once, and what comes of it is an event of the library that another command waits
for.

What is needed from npm stands in ``browser/package.json``. It is installed into a temporary
directory, unless the environment variable ``WSPROTO_SIP_NPM`` names one where that has been done::

    mkdir DIRECTORY && cp tests/peers/browser/package.json DIRECTORY
    npm --prefix DIRECTORY install --ignore-scripts --no-package-lock
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.sip import SipRequest, SipResponse, parse_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = Path(__file__).with_name("browser") / "browser.mjs"
PACKAGE = PROGRAM.with_name("package.json")
#: Names the directory that npm has installed in.
VARIABLE = "WSPROTO_SIP_NPM"

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NODE, NPM = shutil.which("node"), shutil.which("npm")

#: Seconds that the program may take to end; it takes none of that.
_PATIENCE = 60

#: As playwright-core has it.
_NODE_VERSION = 20

#: What playwright-core does not say by itself.
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-proxy-server",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # ICE needs addresses that this machine can use, and on some there is only the loopback one.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--allow-loopback-in-peer-connection",
]


def missing() -> str | None:
    """What these tests need and this machine does not have; ``None`` for nothing."""
    if CHROMIUM is None:
        return "no chromium on the PATH"
    if NODE is None:
        return "no node on the PATH"
    done = subprocess.run([NODE, "--version"], check=True, capture_output=True, text=True)
    if int(done.stdout.lstrip("v").partition(".")[0]) < _NODE_VERSION:
        return f"node is older than {_NODE_VERSION}, which playwright-core needs"
    if NPM is None and VARIABLE not in os.environ:
        return f"no npm on the PATH, and no directory in {VARIABLE}"
    return None


def installed(directory: Path) -> Path:
    """Where npm has installed what is needed; skips where it cannot.

    Args:
        directory: An empty one, where it does so now if that has not been done before.
    """
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    assert NPM is not None
    shutil.copy(PACKAGE, directory)
    done = subprocess.run(
        [NPM, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"],
        check=False,
        capture_output=True,
        text=True,
        cwd=directory,
    )
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {PACKAGE.name}: {done.stderr.strip()[-500:]}")
    return directory


class PhoneError(AssertionError):
    """A telephone has not done what it was told to."""


class Browser:
    """Chromium, through the Node program.

    Args:
        process: The program.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._pages = 0
        #: Chromium's version.
        self.version: str = self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise PhoneError("the browser is gone")
        answer = json.loads(line)
        if "error" in answer:
            raise PhoneError(answer["error"])
        return answer["value"]

    def do(self, what: str, page: str, **values: Any) -> Any:
        """Gives a command, and returns the answer.

        Raises:
            PhoneError: It has failed; the text has the events and SIP messages of the page.
        """
        assert self._process.stdin is not None
        print(
            json.dumps({"do": what, "page": page, **values}), file=self._process.stdin, flush=True
        )
        return self._answer()

    def phone(self, kind: str, user: str, **settings: Any) -> Phone:
        """Opens a page with a telephone.

        Args:
            kind: ``jssip`` or ``sipjs``.
            user: Whose it is.
            settings: ``url``, ``domain``, ``password`` and ``outbound``.
        """
        self._pages += 1
        page = f"{user}-{self._pages}"
        self.do("open", page, kind=kind, settings={"user": user, **settings})
        return Phone(self, page, user)


class Phone:
    """A telephone in a page.

    Args:
        browser: Where.
        page: What the page is called.
        user: Whose it is.
    """

    def __init__(self, browser: Browser, page: str, user: str) -> None:
        self._browser = browser
        self._page = page
        self.user = user
        #: The SIP messages that it has got, with :meth:`read`.
        self.got: list[SipRequest | SipResponse] = []

    def tell(self, call: str, *arguments: Any) -> Any:
        """Calls a method of the telephone, and returns what it gives."""
        return self._browser.do("tell", self._page, call=call, arguments=arguments)

    def until(self, *events: str) -> dict[str, Any]:
        """The next event of one of these kinds that was not asked for yet."""
        told: dict[str, Any] = self.tell("until", *events)
        return told

    def read(self) -> None:
        """Takes what has come over the connection since the last time into :attr:`got`."""
        for frame in self._browser.do("frames", self._page):
            if not frame["sent"] and frame["payload"].strip("\r\n"):
                assert frame["text"], frame
                self.got.append(parse_message(frame["payload"]))

    def request(self, method: str) -> SipRequest:
        """The last request with a method that has come."""
        self.read()
        found = [m for m in self.got if isinstance(m, SipRequest) and m.method == method]
        return found[-1]

    def hear(self, pattern: str) -> None:
        """Waits until a message has come that JavaScript's regular expression matches.

        That is for what the library has no event for. One that was read before does not count.
        """
        self._browser.do("hear", self._page, pattern=pattern)

    def hear_response(self, method: str, status: int) -> None:
        """Waits likewise for a response of a status to a request with a method."""
        self.hear(rf"^SIP/2\.0 {status} [^]*\r\nCSeq: *[0-9]+ {method}\r\n")

    def responses(self, method: str) -> list[SipResponse]:
        """The final responses to requests with a method that have come, in their order."""
        self.read()
        return [
            message
            for message in self.got
            if isinstance(message, SipResponse)
            and message.status >= 200
            and message.cseq.method == method
        ]

    def close(self) -> None:
        """Unregisters, if it is registered, and closes the page.

        A registrar behind the edge keeps the bindings of those who only go away.
        """
        try:
            self.tell("leave")
        finally:
            self.vanish()

    def vanish(self) -> None:
        """Closes the page, and with it the connection."""
        self._browser.do("close", self._page)


@contextmanager
def browser(modules: Path, options: Sequence[str] = ()) -> Iterator[Browser]:
    """Starts Chromium.

    Args:
        modules: The directory that npm has installed in.
        options: Chromium's, besides the usual ones.
    """
    assert NODE is not None
    assert CHROMIUM is not None
    process = subprocess.Popen(
        [NODE, str(PROGRAM), str(modules), CHROMIUM, *_OPTIONS, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Browser(process)
    finally:
        # At the end of its input it closes Chromium and ends.
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
