"""JsSIP and SIP.js in headless Chromium, and ``wsproto-sip serve`` between them.

Theory of operation: one Chromium serves the whole module. For every configuration of the server and
every pair of libraries, two pages contain a telephone each; a test sends them commands and waits
for the events of the library that must follow. RTP goes from page to page; the SIP messages that a
page received are read from its WebSocket with Chromium's own tools.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from wsproto_sip.sip import SipRequest, SipUri

from ._browser import Browser, Phone, browser, installed, missing
from ._kamailio import DOMAIN, kamailio, needs_kamailio, password
from ._support import HOST

pytest.importorskip("trustme")
pytest.importorskip("websockets")

import trustme

from tests.cli._service import launched

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

#: The libraries, and the users that use them.
PAIRS = {("jssip", "jssip"): ("alice", "bob"), ("jssip", "sipjs"): ("carol", "dave")}
USERS = {user: password(user) for user in ("alice", "bob", "carol", "dave", "erin", "frank")}
#: The pairs of calling and called library.
CALLS = [*PAIRS, ("sipjs", "jssip")]
TEXT = "Grüße, Привет, 你好 🌍\r\nund eine zweite Zeile"


@dataclass(frozen=True)
class Setup:
    """A configuration of the server.

    Args:
        mode: ``outbound`` or ``alias``.
        scheme: ``ws`` or ``wss``.
        digest: Whether users have passwords.
        core: How Kamailio, as registrar and proxy, is reached from the edge: ``udp`` or ``tcp``;
            ``None`` if the edge is the registrar itself.
    """

    mode: str
    scheme: str
    digest: bool
    core: str | None = None

    def __str__(self) -> str:
        words = [self.mode, self.scheme, "digest" if self.digest else "open"]
        return "-".join(words if self.core is None else [*words, "kamailio", self.core])


SETUPS = [Setup(*each) for each in product(["outbound", "alias"], ["ws", "wss"], [True, False])]
#: Every way to reach Kamailio, or four of them if WSPROTO_SIP_FRONTS is "few".
FRONTS = [
    pytest.param(Setup(*each), marks=needs_kamailio)
    for each in (
        (
            ("outbound", "ws", True, "udp"),
            ("outbound", "wss", False, "tcp"),
            ("alias", "ws", False, "tcp"),
            ("alias", "wss", True, "udp"),
        )
        if os.environ.get("WSPROTO_SIP_FRONTS") == "few"
        else product(["outbound", "alias"], ["ws", "wss"], [True, False], ["udp", "tcp"])
    )
]


class Certificate:
    """A certificate that only the browser of the test trusts."""

    def __init__(self, directory: Path) -> None:
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
        from cryptography.x509 import load_pem_x509_certificate

        issued = trustme.CA().issue_cert("127.0.0.1")
        self.chain, self.key = directory / "chain.pem", directory / "key.pem"
        issued.private_key_pem.write_to_path(self.key)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.chain, append=True)
        leaf = load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
        public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = base64.b64encode(hashlib.sha256(public).digest()).decode()
        #: The option that makes Chromium accept this key, and no other untrusted one.
        self.option = f"--ignore-certificate-errors-spki-list={digest}"


class Server:
    """``wsproto-sip serve``, which can be restarted on the same port.

    Args:
        setup: Its configuration.
        certificate: Its certificate, for wss.
        users: The file of users.
    """

    def __init__(self, setup: Setup, certificate: Certificate, users: Path) -> None:
        self.setup = setup
        options = ["--sip-mode", setup.mode, "--sip-domain", DOMAIN, "--drain-seconds", "0.5"]
        if setup.scheme == "wss":
            options += ["--tls-cert", str(certificate.chain), "--tls-key", str(certificate.key)]
        self._below = ExitStack()
        if setup.core is not None:
            core = self._below.enter_context(kamailio(digest=setup.digest))
            options += ["--upstream", f"sip:{HOST}:{core.port};transport={setup.core}"]
        elif setup.digest:
            options += ["--sip-users", str(users), "--sip-challenge"]
        self._options = options
        self._stack = ExitStack()
        self.start("0")

    def start(self, port: str) -> None:
        """Start it on a port."""
        self._service = self._stack.enter_context(launched("--port", port, *self._options))

    def stop(self, number: signal.Signals) -> None:
        """Stop it."""
        self._service.stop(number)
        self._stack.close()

    def close(self) -> None:
        """Stop it, and its upstream."""
        with self._below:
            self.stop(signal.SIGTERM)

    @property
    def url(self) -> str:
        """Return its URL."""
        return self._service.url


def open_phone(
    browser: Browser, server: Server, kind: str, user: str, password: str | None = None
) -> Phone:
    """Open a connected telephone configured for the server.

    Args:
        browser: The browser.
        server: The server to connect to.
        kind: The library.
        user: The user of the telephone.
        password: A password other than the correct one.
    """
    setup = server.setup
    phone = browser.phone(
        kind,
        user,
        url=server.url,
        domain=DOMAIN,
        password=(password or USERS[user]) if setup.digest else None,
        outbound=setup.mode == "outbound",
    )
    phone.tell("connect")
    return phone


class Pair:
    """Two registered telephones, replaced if a test leaves them in another state.

    Args:
        browser: The browser.
        server: The server they register with.
        kinds: Their libraries.
    """

    def __init__(self, browser: Browser, server: Server, kinds: tuple[str, str]) -> None:
        self._browser = browser
        self.server = server
        self.kinds = kinds
        self._phones: list[Phone] = []

    def phones(self) -> list[Phone]:
        """Return both of them, registered."""
        if not self._phones:
            for kind, user in zip(self.kinds, PAIRS[self.kinds], strict=True):
                phone = open_phone(self._browser, self.server, kind, user)
                self._phones.append(phone)
                assert phone.tell("register")["status"] == 200
        return self._phones

    def close(self) -> None:
        """Close the pages."""
        phones, self._phones = self._phones, []
        for phone in phones:
            phone.close()

    def tidy(self) -> None:
        """Close the telephones unless they are in their initial state."""
        if not all(phone.tell("isIdle") for phone in self._phones):
            self.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def chromium(certificate: Certificate) -> Iterator[Browser]:
    with browser(installed(), [certificate.option]) as started:
        yield started


@pytest.fixture(scope="module", params=[*SETUPS, *FRONTS], ids=str)
def server(
    request: pytest.FixtureRequest,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    users = tmp_path_factory.mktemp("users") / "users"
    users.write_text("".join(f"{user}:{password}\n" for user, password in USERS.items()))
    running = Server(request.param, certificate, users)
    yield running
    running.close()


@pytest.fixture(scope="module")
def pairs(chromium: Browser, server: Server) -> Iterator[dict[tuple[str, str], Pair]]:
    both = {kinds: Pair(chromium, server, kinds) for kinds in PAIRS}
    yield both
    for pair in both.values():
        pair.close()


@pytest.fixture(autouse=True)
def _tidy(pairs: dict[tuple[str, str], Pair]) -> Iterator[None]:
    yield
    for pair in pairs.values():
        pair.tidy()


@pytest.fixture(params=PAIRS, ids="+".join)
def pair(request: pytest.FixtureRequest, pairs: dict[tuple[str, str], Pair]) -> Pair:
    return pairs[request.param]


@pytest.fixture(params=CALLS, ids=">".join)
def phones(request: pytest.FixtureRequest, pairs: dict[tuple[str, str], Pair]) -> list[Phone]:
    """Return the calling telephone and the called one."""
    pair = pairs[min(request.param, request.param[::-1])]
    both = pair.phones()
    return both if request.param == pair.kinds else both[::-1]


@pytest.fixture
def setup(server: Server) -> Setup:
    return server.setup


def ring(caller: Phone, called: Phone) -> None:
    """Call, and wait until both ends ring."""
    caller.tell("call", called.user)
    assert called.until("incoming")["from"] == f"sip:{caller.user}@{DOMAIN}"
    assert caller.until("ringing", "failed") == {"event": "ringing", "status": 180}


def talk(caller: Phone, called: Phone) -> None:
    """Call, and answer."""
    ring(caller, called)
    called.tell("answer")
    for phone in (caller, called):
        assert phone.until("confirmed", "failed")["event"] == "confirmed"


def offer(offering: Phone, answering: Phone, call: str, event: str) -> None:
    """Start or end holding a call, and wait until the answer is acknowledged.

    A large INVITE goes to Kamailio over TCP and an ACK over UDP, so that the next INVITE may
    arrive first; JsSIP would refuse it.
    """
    answering.read()
    offering.tell(call)
    answering.until(event)
    answering.hear("^ACK ")


def check_mode(invite: SipRequest, setup: Setup) -> None:
    """Check that a received request says how its dialog is to be routed."""
    routes = [address.uri for address in invite.record_routes]
    users = [uri.user is not None for uri in routes if isinstance(uri, SipUri)]
    assert invite.contacts is not None
    [contact] = [address.uri for address in invite.contacts]
    assert isinstance(contact, SipUri)
    alias = contact.params.get("alias")
    if setup.mode == "outbound":
        # A flow token for each side, at each end of the elements between them.
        assert (users[0], users[-1], users.count(True)) == (True, True, 2)
        assert alias is None
        assert "seal" not in contact.params
    else:
        assert not any(users)
        assert alias is not None
        transport = 6 if setup.scheme == "wss" else 5
        assert re.fullmatch(rf"127\.0\.0\.1~[0-9]+~{transport}", alias)
        assert len(contact.params.get("seal") or "") == 40


def test_registration(pair: Pair, setup: Setup) -> None:
    for phone in pair.phones():
        responses = phone.responses("REGISTER")
        statuses = [response.status for response in responses]
        assert statuses == ([401, 200] if setup.digest else [200])
        required = responses[-1].get("require") or ""
        # A registrar after the edge decides this itself.
        assert setup.core is not None or ("outbound" in required) == (setup.mode == "outbound")


def test_wrong_password(chromium: Browser, server: Server, setup: Setup) -> None:
    kind = "jssip" if setup.scheme == "ws" else "sipjs"
    phone = open_phone(chromium, server, kind, "frank", "not it")
    try:
        assert phone.tell("register")["status"] == (401 if setup.digest else 200)
    finally:
        phone.close()


def test_message(phones: list[Phone]) -> None:
    sender, receiver = phones
    assert sender.tell("message", receiver.user, TEXT)["status"] == 200
    assert receiver.until("message") == {
        "event": "message",
        "from": f"sip:{sender.user}@{DOMAIN}",
        "type": "text/plain",
        "text": TEXT,
    }


def test_options(phones: list[Phone]) -> None:
    asking, asked = phones
    answer = asking.tell("options", asked.user)
    assert answer["status"] == 200
    assert "INVITE" in answer["allow"]


def test_options_of_the_server(phones: list[Phone]) -> None:
    answer = phones[0].tell("options", None)
    assert answer["status"] == 200
    assert "MESSAGE" in answer["allow"]


def test_call(phones: list[Phone], setup: Setup) -> None:
    """Media both ways, hold and resume from each side, DTMF both ways, BYE from the caller."""
    caller, called = phones
    talk(caller, called)
    for phone in phones:
        counted = phone.tell("media")
        assert counted["received"] > 0
        assert counted["sent"] > 0
    check_mode(called.request("INVITE"), setup)
    for holding, held in ((caller, called), (called, caller)):
        offer(holding, held, "hold", "held")
        assert (holding.tell("direction"), held.tell("direction")) == ("sendonly", "recvonly")
        offer(holding, held, "resume", "resumed")
        assert (holding.tell("direction"), held.tell("direction")) == ("sendrecv", "sendrecv")
    for phone in phones:
        counted = phone.tell("media")
        more = phone.tell("media", counted["received"], counted["sent"])
        assert more["received"] > counted["received"]
        assert more["sent"] > counted["sent"]
    for sending, receiving, tone in ((caller, called, "5"), (called, caller, "#")):
        assert sending.tell("tone", tone)["status"] == 200
        assert receiving.until("tone") == {"event": "tone", "tone": tone}
    caller.tell("hangUp")
    assert [phone.until("ended")["by"] for phone in phones] == ["local", "remote"]


def test_update(pairs: dict[tuple[str, str], Pair]) -> None:
    """Refreshes a long call of JsSIP; SIP.js does not use it."""
    caller, called = pairs["jssip", "jssip"].phones()
    talk(caller, called)
    for offering, answering in ((caller, called), (called, caller)):
        offering.tell("update")
        answering.until("updated")
    caller.tell("hangUp")
    for phone in (caller, called):
        phone.until("ended")


def test_called_side_hangs_up(phones: list[Phone]) -> None:
    caller, called = phones
    talk(caller, called)
    called.tell("hangUp")
    assert [phone.until("ended")["by"] for phone in phones] == ["remote", "local"]


def test_cancel(phones: list[Phone]) -> None:
    caller, called = phones
    ring(caller, called)
    caller.tell("cancel")
    caller.until("failed")
    assert called.until("failed")["by"] == "remote"
    caller.hear_response("INVITE", 487)


def test_busy(phones: list[Phone]) -> None:
    caller, called = phones
    ring(caller, called)
    called.tell("reject", 486)
    assert [phone.until("failed")["by"] for phone in phones] == ["remote", "local"]
    assert caller.responses("INVITE")[-1].status == 486


def test_fork_stops_ringing_after_an_answer(
    chromium: Browser, server: Server, pairs: dict[tuple[str, str], Pair]
) -> None:
    """A user with two telephones: both ring, and one stops when the other answers."""
    caller, _ = pairs["jssip", "sipjs"].phones()
    both: list[Phone] = []
    try:
        for kind in ("jssip", "sipjs"):
            both.append(open_phone(chromium, server, kind, "erin"))
            assert both[-1].tell("register")["status"] == 200
        caller.tell("call", "erin")
        for phone in both:
            phone.until("incoming")
            assert caller.until("ringing", "failed")["event"] == "ringing"
        answering, other = both
        answering.tell("answer")
        assert other.until("failed")["by"] == "remote"
        assert "cause=200" in (other.request("CANCEL").get("reason") or "")
        for phone in (caller, answering):
            assert phone.until("confirmed", "failed")["event"] == "confirmed"
        caller.tell("hangUp")
        for phone in (caller, answering):
            phone.until("ended")
    finally:
        for phone in both:
            phone.close()


def test_unknown_user_is_not_found(phones: list[Phone]) -> None:
    caller, _ = phones
    caller.tell("call", "nobody")
    failed = caller.until("failed", "ringing")
    assert (failed["event"], failed["by"], failed["status"]) == ("failed", "remote", 404)


def test_unregistered_user_is_unavailable(phones: list[Phone], setup: Setup) -> None:
    """An unregistered user cannot be called until registered again."""
    caller, called = phones
    # With its own Contact, or, if the registrar is ours, also with * for all of a user's.
    everything = setup.scheme == "wss" and setup.core is None
    assert called.tell("unregister", everything)["status"] == 200
    caller.tell("call", called.user)
    failed = caller.until("failed", "ringing")
    # The edge only knows unregistered users if it has the list of users.
    known = setup.digest and setup.core is None
    assert (failed["event"], failed["status"]) == ("failed", 480 if known else 404)
    assert called.tell("register")["status"] == 200
    ring(caller, called)
    caller.tell("cancel")
    for phone in phones:
        phone.until("failed")


def test_user_with_a_closed_page_is_unavailable(
    chromium: Browser, server: Server, setup: Setup, pairs: dict[tuple[str, str], Pair]
) -> None:
    """A user whose page was closed without notice is soon reported as unreachable."""
    caller, _ = pairs["jssip", "jssip"].phones()
    kind = "sipjs" if setup.scheme == "ws" else "jssip"
    phone = open_phone(chromium, server, kind, "frank")
    assert phone.tell("register")["status"] == 200
    phone.vanish()
    caller.tell("call", "frank")
    failed = caller.until("failed", "ringing")
    # The server may notice before the call or after it; the upstream keeps the binding.
    assert (failed["event"], failed["status"]) in [
        ("failed", 404),
        ("failed", 480),
        ("failed", 430),
    ]


def test_keepalive(pairs: dict[tuple[str, str], Pair]) -> None:
    """The keep-alive of SIP.js; JsSIP does not send any."""
    phone = pairs["jssip", "sipjs"].phones()[1]
    phone.read()
    phone.tell("keepAlive")
    phone.hear("^\r\n$")


def test_clients_register_again_after_a_restart(
    pairs: dict[tuple[str, str], Pair], server: Server, setup: Setup
) -> None:
    """Both libraries connect and register again, and reach each other."""
    everyone = [phone for pair in pairs.values() for phone in pair.phones()]
    port = str(urlsplit(server.url).port)
    server.stop(signal.SIGTERM if setup.scheme == "ws" else signal.SIGKILL)
    for phone in everyone:
        phone.until("disconnected")
    server.start(port)
    for phone in everyone:
        assert phone.until("registered")["status"] == 200
    for pair in pairs.values():
        sender, receiver = pair.phones()
        assert sender.tell("message", receiver.user, TEXT)["status"] == 200
        assert receiver.until("message")["text"] == TEXT
