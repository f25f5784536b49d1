"""Telephones in pages of one Chromium, controlled by the tests.

Theory of operation: a Node program starts Chromium and bundles JsSIP and SIP.js into a page. It
takes commands and answers them, one at a time, in lines of JSON. A command that starts something is
answered at once; its outcome is an event of the library, which another command waits for.

The npm packages are listed in ``browser/package.json``. Tests download nothing; install them with::

    npm --prefix tests/peers/browser install --ignore-scripts --no-package-lock

The environment variable ``WSPROTO_SIP_NPM`` may name another directory with an installation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsproto_sip.sip import SipRequest, SipResponse, parse_message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = Path(__file__).with_name("browser") / "browser.mjs"
PACKAGE = PROGRAM.with_name("package.json")
#: The variable that names the directory with the npm packages.
VARIABLE = "WSPROTO_SIP_NPM"

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
NODE = shutil.which("node")
#: The command that installs the libraries, for the reason of a skip.
_COMMAND = "npm --prefix tests/peers/browser install --ignore-scripts --no-package-lock"

#: Seconds that the program may take to end; it needs almost none.
_PATIENCE = 60

#: The version in playwright-core.
_NODE_VERSION = 20

#: Options that playwright-core does not set itself.
_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-proxy-server",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    # ICE needs usable addresses, and some machines only have loopback.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--allow-loopback-in-peer-connection",
]


def missing() -> str | None:
    """Return what these tests need and this machine lacks, or ``None``."""
    if CHROMIUM is None:
        return "no chromium on the PATH"
    if NODE is None:
        return "no node on the PATH"
    done = subprocess.run([NODE, "--version"], check=True, capture_output=True, text=True)
    if int(done.stdout.lstrip("v").partition(".")[0]) < _NODE_VERSION:
        return f"node is older than {_NODE_VERSION}, which playwright-core needs"
    if not (installed() / "node_modules").is_dir():
        return f"the libraries are missing: {_COMMAND}"
    return None


def installed() -> Path:
    """Return the directory with the npm packages."""
    return Path(os.environ.get(VARIABLE, PROGRAM.parent))


class PhoneError(AssertionError):
    """A telephone has failed to execute a command."""


class Browser:
    """Chromium, controlled through the Node program.

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
        """Send a command, and return the answer.

        Raises:
            PhoneError: It failed; the text contains the events and SIP messages of the page.
        """
        assert self._process.stdin is not None
        print(
            json.dumps({"do": what, "page": page, **values}), file=self._process.stdin, flush=True
        )
        return self._answer()

    def phone(self, kind: str, user: str, **settings: Any) -> Phone:
        """Open a page with a telephone.

        Args:
            kind: ``jssip`` or ``sipjs``.
            user: The user of the telephone.
            settings: ``url``, ``domain``, ``password`` and ``outbound``.
        """
        self._pages += 1
        page = f"{user}-{self._pages}"
        self.do("open", page, kind=kind, settings={"user": user, **settings})
        return Phone(self, page, user)


class Phone:
    """A telephone in a page.

    Args:
        browser: The browser.
        page: The name of the page.
        user: The user of the telephone.
    """

    def __init__(self, browser: Browser, page: str, user: str) -> None:
        self._browser = browser
        self._page = page
        self.user = user
        #: The received SIP messages, updated by :meth:`read`.
        self.got: list[SipRequest | SipResponse] = []

    def tell(self, call: str, *arguments: Any) -> Any:
        """Call a method of the telephone, and return its result."""
        return self._browser.do("tell", self._page, call=call, arguments=arguments)

    def until(self, *events: str) -> dict[str, Any]:
        """Wait for the next event of one of these kinds."""
        told: dict[str, Any] = self.tell("until", *events)
        return told

    def read(self) -> None:
        """Move newly received messages into :attr:`got`."""
        for frame in self._browser.do("frames", self._page):
            if not frame["sent"] and frame["payload"].strip("\r\n"):
                assert frame["text"], frame
                self.got.append(parse_message(frame["payload"]))

    def request(self, method: str) -> SipRequest:
        """Return the last received request with a method."""
        self.read()
        found = [m for m in self.got if isinstance(m, SipRequest) and m.method == method]
        return found[-1]

    def hear(self, pattern: str) -> None:
        """Wait for a message that matches a JavaScript regular expression.

        For what the library has no event for. Messages that were read before do not count.
        """
        self._browser.do("hear", self._page, pattern=pattern)

    def hear_response(self, method: str, status: int) -> None:
        """Wait for a response with a status to a request with a method."""
        self.hear(rf"^SIP/2\.0 {status} [^]*\r\nCSeq: *[0-9]+ {method}\r\n")

    def responses(self, method: str) -> list[SipResponse]:
        """Return the received final responses to requests with a method, in order."""
        self.read()
        return [
            message
            for message in self.got
            if isinstance(message, SipResponse)
            and message.status >= 200
            and message.cseq.method == method
        ]

    def close(self) -> None:
        """Unregister, if registered, and close the page.

        A registrar after the edge would otherwise keep the binding.
        """
        try:
            self.tell("leave")
        finally:
            self.vanish()

    def vanish(self) -> None:
        """Close the page, and with it the connection."""
        self._browser.do("close", self._page)


@contextmanager
def browser(modules: Path, options: Sequence[str] = ()) -> Iterator[Browser]:
    """Start Chromium.

    Args:
        modules: The directory with the npm packages.
        options: Additional options for Chromium.
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
        # At the end of its input, the program closes Chromium and exits.
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
