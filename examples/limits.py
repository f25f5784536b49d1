"""A server for small JSON messages, with bounds to match.

Each bound has a default that holds on a public address; lower those whose use you know.
"""

import asyncio
import json

from wsproto_sip import KeepaliveConfig, Limits, SessionConfig
from wsproto_sip.adapters.asyncio import serve
from wsproto_sip.policy import CapacityPolicy, PolicyChain

CONFIG = SessionConfig(
    limits=Limits(
        max_message_size=4096,  # larger: 1009
        max_frame_size=4096,  # larger: 1009, at the header
        max_fragments=8,  # more: 1009
        max_queued_messages=8,  # more: nothing is read until some were received
    ),
    open_timeout=5.0,  # for the whole opening handshake
    keepalive=KeepaliveConfig(interval=20.0, answer_timeout=10.0),  # no Pong: 1011
    max_age=86_400.0,  # then the client connects again
)


async def add(connection):
    async for message in connection:
        try:
            numbers = json.loads(message)
            await connection.send(json.dumps(sum(numbers)))
        except (ValueError, TypeError):
            await connection.close(1007, "not a list of numbers")


async def main():
    policies = PolicyChain([CapacityPolicy(max_connections=1000, max_per_address=20)])
    async with serve(
        add, "127.0.0.1", 8000, policies=policies, config=CONFIG
    ) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
