"""Attacks on the connection that an edge shares among its clients, in front of Debian's Kamailio.

Each attack is one WebSocket message with another message as its body, written so that Kamailio
would find its end too early. Kamailio would then place the hidden call in the edge's name, or close
the connection and so disconnect all other clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.adapters._sip import EdgeServer, SocketPhone, call, phone, serving
from tests.peers._support import run
from wsproto_sip.sip.edge.config import STREAM

from ._kamailio import DOMAIN, Kamailio, in_front_of, kamailio, needs_kamailio

pytestmark = needs_kamailio

#: It is sent over TCP in any case.
LARGE = b"x" * 2000
NOBODY = f"sip:nobody@{DOMAIN}"
#: Fields that end a message early for some parser, or none, where a length is expected.
FIELDS = {
    "no length": (),
    "continuation": ("Subject: x\r\n Content-Length: 0",),
    "compact continuation": ("Subject: x\r\n\tl: 0",),
    "underscore": ("Content_Length: 0",),
    "right length last": ("Subject: x\r\n Content-Length: 0", "Content-Length: {size}"),
    "another protocol": ("Expect: 100-continue", "Transfer-Encoding: chunked"),
}


@pytest.fixture(scope="module", params=[False, True], ids=["default", "tcp_accept_no_cl"])
def core(request: pytest.FixtureRequest) -> Iterator[Kamailio]:
    with kamailio(accept_no_length=request.param) as running:
        yield running


@pytest.fixture(params=["udp", "tcp"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def attacked(
    core: Kamailio, transport: str
) -> AsyncIterator[tuple[SocketPhone, SocketPhone, SocketPhone]]:
    """Yield mallory, and check that two users can call each other before and after the attack."""
    async with (
        asyncio.timeout(30),
        serving(in_front_of(core, transport)) as running,
        phone(running.url, "alice") as alice,
        phone(running.url, "bob") as bob,
        phone(running.url, "mallory", registers=False) as mallory,
    ):
        await call(alice, bob, body=LARGE)
        before = _stream(running)
        yield alice, bob, mallory
        # The attack has placed no call: bob receives only alice's. It has disconnected no client:
        # they share a connection that is still the same.
        await call(alice, bob, body=LARGE)
        assert _stream(running) is before
        for one in (alice, bob):
            assert (await one.register(expires=0)).status == 200
            assert one._heard.empty()


def _stream(running: EdgeServer) -> object:
    assert running.service._links is not None
    return running.service._links._servers["kamailio"]._streams[STREAM]


def hidden(to: SocketPhone) -> bytes:
    """Return a call in the name of another user, large enough to be sent over TCP."""
    return (
        f"INVITE {to.aor} SIP/2.0\r\n"
        f"Via: SIP/2.0/TCP 127.0.0.1:1;branch=z9hG4bKhidden{to.cid}\r\n"
        "Max-Forwards: 70\r\n"
        f"From: <sip:president@{DOMAIN}>;tag=1\r\n"
        f"To: <{to.aor}>\r\n"
        f"P-Asserted-Identity: <sip:president@{DOMAIN}>\r\n"
        "Contact: <sip:president@127.0.0.1:1>\r\n"
        f"Subject: {'x' * 1500}\r\n"
        f"Call-ID: hidden-{to.cid}\r\n"
        "CSeq: 1 INVITE\r\n"
        "Content-Length: 0\r\n\r\n"
    ).encode()


def with_fields(text: str, fields: tuple[str, ...], body: bytes) -> bytes:
    """Return a message with other fields instead of its Content-Length."""
    head = text.partition("Content-Length: ")[0]
    lines = [field.format(size=len(body)) + "\r\n" for field in fields]
    return f"{head}{''.join(lines)}\r\n".encode() + body


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_request_cannot_hide_another(
    core: Kamailio, transport: str, fields: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        async with attacked(core, transport) as (_, bob, mallory):
            request = mallory.make("MESSAGE", NOBODY).to_bytes().decode()
            mallory.say(with_fields(request, fields, hidden(bob)))
            await mallory.response(404)

    run(scenario())


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_ack_cannot_hide_a_request(core: Kamailio, transport: str, fields: tuple[str, ...]) -> None:
    """An ACK is never challenged or answered."""

    async def scenario() -> None:
        async with attacked(core, transport) as (_, bob, mallory):
            route = ("Route", "<sip:edge.test:8080;lr>")
            request = mallory.make("ACK", NOBODY, route, to=f"<{NOBODY}>;tag=1")
            mallory.say(with_fields(request.to_bytes().decode(), fields, hidden(bob)))
            assert (await mallory.ask("MESSAGE", NOBODY)).status == 404

    run(scenario())


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_response_cannot_hide_a_request(
    core: Kamailio, transport: str, fields: tuple[str, ...]
) -> None:
    async def scenario() -> None:
        async with attacked(core, transport) as (alice, bob, _):
            alice.send("MESSAGE", bob.aor, body=LARGE)
            response = (await bob.request("MESSAGE")).make_response(200, to_tag="t")
            body = hidden(alice)
            bob.say(with_fields(response.to_bytes().decode(), fields, body))
            assert (await alice.response(200)).body == body

    run(scenario())


def test_request_that_begins_like_msrp_is_refused(core: Kamailio, transport: str) -> None:
    """Kamailio reads MSRP on the same port, and would find the end of a chunk in a header field."""

    async def scenario() -> None:
        async with attacked(core, transport) as (_, bob, mallory):
            request = mallory.make("MSRP", NOBODY, body=hidden(bob)).to_bytes().decode()
            line, _, rest = request.partition("\r\n")
            mallory.say(f"{line}\r\n-------{NOBODY}$\r\n{rest}")
            await mallory.response(501)

    run(scenario())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (";branch=", ';x="a\\"b";branch='),
        (";branch=", ";x=y=z;branch="),
        (";branch=z9hG4bK", ";branch=z9=hG4bK"),
        ("Max-Forwards:", "Max-Forwards*:"),
        ("Max-Forwards:", "Max-Forwards%:"),
    ],
)
def test_message_that_kamailio_cannot_parse_drops_no_client(
    core: Kamailio, transport: str, old: str, new: str
) -> None:
    async def scenario() -> None:
        async with attacked(core, transport) as (_, _, mallory):
            text = mallory.make("MESSAGE", NOBODY, body=LARGE).to_bytes().decode()
            assert old in text
            mallory.say(text.replace(old, new, 1))
            await mallory.response(404)

    run(scenario())
