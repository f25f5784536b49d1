"""The examples of docs/howto/msrp.md run, and its names exist."""

from __future__ import annotations

import asyncio
import doctest
import re
import ssl
from pathlib import Path
from typing import Any

import trustme

from tests.adapters._msrp import HOST, client
from wsproto_sip.cli.serve.settings import Settings, option_name
from wsproto_sip.msrp import Authenticated, MsrpLimits, MsrpRelayConfig, MsrpUri

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "msrp.md"
TEXT = PAGE.read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def test_client_on_the_page_runs() -> None:
    # The blocks build on each other.
    test = doctest.DocTestParser().get_doctest("\n".join(blocks("pycon")), {}, "page", PAGE.name, 0)
    assert len(test.examples) > 10
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.failed == 0, "".join(report)


def test_relay_on_the_page_runs() -> None:
    [code] = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), names)
    authority = trustme.CA()
    serving, calling = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert(HOST).configure_cert(serving)
    authority.configure_trust(calling)

    async def scenario() -> None:
        places: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        kind = names["EndpointServer"]

        class Server(kind):  # type: ignore[misc, valid-type]
            async def listen(self, *arguments: Any, **options: Any) -> Any:
                found = await super().listen(*arguments, **options)
                places.set_result(found[0][1])
                return found

        names["EndpointServer"] = Server
        config = MsrpRelayConfig("chat.example.com", 443)
        relay = asyncio.ensure_future(
            names["relay"](config, {"alice": "her password"}, HOST, 0, serving)
        )
        url = f"wss://{HOST}:{await places}/"
        uri = MsrpUri.parse(b"msrps://chat.example.com:443;ws")
        async with client(url, "alice", "her password", relay=uri, tls=calling) as alice:
            await alice.until(Authenticated)
        relay.cancel()
        await asyncio.gather(relay, return_exceptions=True)
        assert relay.cancelled()

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_options_on_the_page_exist() -> None:
    named = set(re.findall(r"--([a-z][a-z\-]+)", TEXT))
    assert len(named) > 10
    assert named <= {option_name(name) for name in Settings.__dataclass_fields__}


def test_numbers_on_the_page_are_the_defaults() -> None:
    limits, config = MsrpLimits(), MsrpRelayConfig("a", 1)
    assert config.authentication_timeout == config.transaction_timeout == 30.0
    for row in (
        f"size of a chunk | {limits.max_chunk_size // 1024} KiB",
        f"sessions of a connection | {limits.max_sessions_per_connection} |",
        f"unanswered chunks of a connection | {limits.max_transactions_per_connection:,} |",
        f"unanswered chunks in all | {limits.max_transactions:,} ",
        f"wrong passwords of a connection | {limits.max_authentication_failures} |",
        f"malformed chunks of a connection | {limits.max_malformed} |",
        f"time without a session | {config.authentication_timeout:.0f} seconds",
        f"size of a message, in the client | {limits.max_message_size >> 20} MiB",
    ):
        assert f"| {row}" in TEXT, row
