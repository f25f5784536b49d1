"""Health checks and a page of its own on the port of the WebSocket connections.

curl http://127.0.0.1:8000/health
curl http://127.0.0.1:8000/version
"""

import asyncio

from wsproto_sip import SessionConfig
from wsproto_sip.adapters.asyncio import serve
from wsproto_sip.policy import HealthPolicy, PolicyChain, Respond

POLICIES = PolicyChain([HealthPolicy(alive="/health", ready="/ready")])


async def answer(connection):
    """Answer plain requests; those that nothing answers get 426."""
    if not connection.upgrade and connection.request.target == "/version":
        return Respond(200, headers=[(b"Content-Type", b"text/plain")], body=b"1.0\n")
    return None


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    config = SessionConfig(plain_requests=True)
    async with serve(
        echo,
        "127.0.0.1",
        8000,
        policies=POLICIES,
        process_request=answer,
        config=config,
    ) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
