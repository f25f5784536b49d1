"""The page of ``wsproto-sip serve``: when it is there, and what it is made of."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wsproto_sip
from wsproto_sip.cli.serve.page import page_policy, page_url, telephone
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import policies, served_page
from wsproto_sip.cli.serve.users import UserSources
from wsproto_sip.events import Request
from wsproto_sip.policy.decision import (
    Accept,
    Outcome,
    PolicyChain,
    Reject,
    RequestContext,
    Respond,
)

FILES = Path(wsproto_sip.__file__).parent / "cli" / "serve" / "static"
PUBLIC = {"host": "192.0.2.1", "page": True}


def fetch(target: str, **fields: Any) -> str | None:
    policy = page_policy(replace(Settings(), **fields))
    assert policy is not None
    answer = policy(RequestContext(Request("localhost", target), upgrade=False))
    return answer.body.decode() if isinstance(answer, Respond) else None


@pytest.mark.parametrize(
    ("fields", "there"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"page": False}, False),
        ({"host": "192.0.2.1"}, False),
        ({"host": "192.0.2.1", "page": True}, True),
        ({"trusted_proxy": ("127.0.0.1",)}, False),
        ({"subprotocol": ("none",)}, False),
    ],
)
def test_off_unless_asked_for_where_others_come(fields: dict[str, Any], there: bool) -> None:
    assert (page_policy(replace(Settings(), **fields)) is not None) is there


def test_a_page_needs_sip() -> None:
    with pytest.raises(SettingsError, match="--page: sip is not among --subprotocol"):
        page_policy(Settings(page=True, subprotocol=("msrp",)))


@pytest.mark.parametrize(
    ("fields", "host", "secure", "there"),
    [
        ({}, "127.0.0.1:8080", False, True),
        ({}, "localhost:8080", False, True),
        # A name that was rebound to this machine.
        ({}, "attacker.test:8080", False, False),
        ({"origin": ("missing",)}, "127.0.0.1:8080", False, False),
        ({"origin": ("https://app.test", "loopback")}, "[::1]:8080", False, True),
        ({**PUBLIC, "origin": ("https://phone.test",)}, "phone.test", True, True),
        ({**PUBLIC, "origin": ("https://phone.test",)}, "PHONE.test:443", True, True),
        ({**PUBLIC, "origin": ("https://phone.test",)}, "phone.test", False, False),
        ({**PUBLIC, "origin": ("https://phone.test",)}, "phone.test:8443", True, False),
        ({**PUBLIC, "origin": ("https://phone.test",)}, "192.0.2.1", True, False),
        ({**PUBLIC, "origin": ("any",)}, "anything.test", False, True),
        ({"allowed_host": ("phone.test",), "origin": ("any",)}, "phone.test", False, True),
        ({"allowed_host": ("phone.test",), "origin": ("any",)}, "other.test", False, False),
    ],
)
def test_a_page_is_there_where_its_own_origin_may_connect(
    fields: dict[str, Any], host: str, secure: bool, there: bool
) -> None:
    """And its connection then passes the same policies; where there is no page, it would not."""
    chain = PolicyChain(policies(replace(Settings(), **fields)))

    def ask(*, upgrade: bool) -> Outcome:
        scheme, port = ("https", ":443") if secure else ("http", ":80")
        origin = f"{scheme}://{host.lower().removesuffix(port)}".encode()
        request = Request(host, "/", extra_headers=[(b"origin", origin)], subprotocols=["sip"])
        return chain.decide(RequestContext(request, secure=secure, upgrade=upgrade))

    page = ask(upgrade=False)
    assert isinstance(page, Reject)
    assert page.status == (200 if there else 404)
    assert isinstance(ask(upgrade=True), Accept) is there


@pytest.mark.parametrize(
    ("fields", "candidates", "url"),
    [
        ({}, ["ws://127.0.0.1:8080/"], "http://127.0.0.1:8080/"),
        ({}, ["unix:/run/x", "ws://192.0.2.1/", "ws://[::1]:8080/"], "http://[::1]:8080/"),
        ({"page": False}, ["ws://127.0.0.1:8080/"], None),
        ({"origin": ("missing",)}, ["ws://127.0.0.1:8080/"], None),
        (
            {**PUBLIC, "origin": ("https://phone.test",)},
            ["wss://192.0.2.1:443/", "missing", "https://phone.test"],
            "https://phone.test/",
        ),
    ],
)
def test_a_page_is_announced_where_it_works(
    fields: dict[str, Any], candidates: list[str], url: str | None
) -> None:
    assert page_url(served_page(replace(Settings(), **fields)), candidates) == url


def test_every_file_and_no_other() -> None:
    names = {file.name for file in FILES.iterdir()}
    assert "index.html" in names
    for name in names - {"index.html"}:
        assert fetch(f"/{name}") == (FILES / name).read_text(encoding="utf-8")
    assert fetch("/") == (FILES / "index.html").read_text(encoding="utf-8")
    assert fetch("/index.html") is None
    assert fetch("/__init__.py") is None


def test_what_it_loads_is_there() -> None:
    """And nothing comes from elsewhere, nor stands where the content security policy forbids it."""
    texts = {file.name: file.read_text(encoding="utf-8") for file in FILES.iterdir()}
    text = "".join(texts.values())
    loaded = re.findall(r'(?:src|href)="([^"#]+)"|from "\./([^"]+)"', text)
    wanted = {first or second for first, second in loaded}
    assert wanted == texts.keys() - {"index.html"}
    assert all(fetch(f"/{name}") for name in wanted)
    elsewhere = re.findall(r"https?://[^\s\"'`]+", text.replace("http://www.w3.org/2000/svg", ""))
    assert elsewhere == []
    for inline in ("<style", " style=", "<script>", " onclick=", "javascript:", "innerHTML"):
        assert inline not in text, inline


def test_what_the_server_tells_it() -> None:
    page = fetch("/", path=("/rooms/*", '/"ws"'), sip_domain=("a.test", "b.test")) or ""
    assert '<body data-path="/&quot;ws&quot;" data-domain="a.test">' in page
    assert '<body data-path="/" data-domain="">' in (fetch("/", path=("/*",)) or "")


def test_programs_of_their_own_can_serve_the_telephone() -> None:
    files = telephone("/sip?a&b", "phone.example")
    assert b'<body data-path="/sip?a&amp;b" data-domain="phone.example">' in files["/"].body
    assert set(files) == {"/", *[f"/{file.name}" for file in FILES.iterdir()]} - {"/index.html"}


def test_password_is_asked_for_at_the_page(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n")
    settings = Settings(auth_file=str(users), auth_scheme=("basic",))
    chain = PolicyChain(policies(settings))

    def ask(*headers: tuple[bytes, bytes], target: str = "/", upgrade: bool = False) -> Outcome:
        request = Request("localhost", target, extra_headers=list(headers), subprotocols=["sip"])
        return chain.decide(RequestContext(request, upgrade=upgrade))

    password = (b"authorization", b"Basic YWxpY2U6c2VjcmV0")
    for upgrade in (False, True):
        asked = ask(upgrade=upgrade)
        assert isinstance(asked, Reject)
        assert asked.status == 401
        assert (b"www-authenticate", b'Basic realm="wsproto-sip", charset="UTF-8"') in asked.headers
    for target in ("/", "/page.css"):
        page = ask(password, target=target)
        assert isinstance(page, Respond)
        assert page.status == 200
    assert isinstance(ask(password, upgrade=True), Accept)
    # Without the page there is nothing to log in to.
    chain = PolicyChain(policies(replace(settings, page=False)))
    assert not isinstance(ask(password), Respond)


def test_no_page_where_only_tokens_open_the_door(tmp_path: Path) -> None:
    """A browser has none of them when it asks for a page."""
    key = tmp_path / "key"
    key.write_text("a secret of 32 bytes and no less\n")
    settings = Settings(jwt_key=(str(key),), jwt_algorithm=("HS256",), token_query="token")

    async def users() -> UserSources:
        return UserSources(settings, lambda: 0.0)

    sources = asyncio.run(users())
    assert served_page(settings, sources) is None
    assert served_page(settings) is not None
    with pytest.raises(SettingsError, match="--page: its visitors cannot log in"):
        served_page(replace(settings, page=True), sources)
