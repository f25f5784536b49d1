"""The page of ``wsproto-sip serve``: when it is there, and what it is made of."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import wsproto_sip
from wsproto_sip.cli.page import page_policy
from wsproto_sip.cli.settings import Settings, SettingsError
from wsproto_sip.events import Request
from wsproto_sip.policy.decision import RequestContext, Respond

FILES = Path(wsproto_sip.__file__).parent / "cli" / "page"


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


def test_every_file_and_no_other() -> None:
    names = {file.name for file in FILES.iterdir()}
    assert "index.html" in names
    for name in names - {"index.html"}:
        assert fetch(f"/{name}") == (FILES / name).read_text(encoding="utf-8")
    assert fetch("/") == (FILES / "index.html").read_text(encoding="utf-8")
    assert fetch("/index.html") is None
    assert fetch("/__init__.py") is None


def test_what_it_loads_is_there() -> None:
    """And nothing comes from elsewhere."""
    text = "".join(file.read_text(encoding="utf-8") for file in FILES.iterdir())
    loaded = re.findall(r'(?:src|href)="([^"]+)"|from "\./([^"]+)"', text)
    wanted = {first or second for first, second in loaded} - {"data:,"}
    assert wanted == {"page.css", "page.js", "sip.js", "digest.js"}
    assert all(fetch(f"/{name}") for name in wanted)
    assert "http:" not in text
    assert "https://" not in text


def test_what_the_server_tells_it() -> None:
    page = fetch("/", path=("/rooms/*", '/"ws"'), sip_domain=("a.test", "b.test")) or ""
    assert '<body data-path="/&quot;ws&quot;" data-domain="a.test">' in page
    assert '<body data-path="/" data-domain="">' in (fetch("/", path=("/*",)) or "")
