"""The chat room of chat_server.py with a page for browsers, on one port.

Run it and open http://127.0.0.1:8000/ in two tabs.
"""

import asyncio
from pathlib import Path

from chat_server import Room

from wsproto_sip import SessionConfig
from wsproto_sip.adapters.asyncio import serve
from wsproto_sip.policy import OriginPolicy, PagePolicy, PolicyChain, Resource

FILES = Path(__file__).with_name("chat_page")
PAGE = PagePolicy(
    {
        "/": Resource("text/html; charset=utf-8", (FILES / "index.html").read_bytes()),
        "/chat.mjs": Resource("text/javascript", (FILES / "chat.mjs").read_bytes()),
        "/chat.css": Resource("text/css", (FILES / "chat.css").read_bytes()),
        "/icon.svg": Resource("image/svg+xml", (FILES / "icon.svg").read_bytes()),
    }
)
POLICIES = PolicyChain(
    [
        # Pages of this machine, and programs. On a public address, name your own page.
        OriginPolicy([], allow_loopback=True, allow_null=False, allow_missing=True),
        PAGE,
    ]
)


async def main():
    config = SessionConfig(plain_requests=True)
    async with serve(
        Room().join, "127.0.0.1", 8000, policies=POLICIES, config=config
    ) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
