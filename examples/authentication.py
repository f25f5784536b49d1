"""Users by a token, in a cookie or in the query, and pages of one origin alone.

wsproto-sip connect 'ws://127.0.0.1:8000/?token=a1b2c3'
"""

import asyncio

from wsproto_sip.adapters.asyncio import serve
from wsproto_sip.auth import Identity
from wsproto_sip.policy import (
    OriginPolicy,
    PolicyChain,
    TokenPlace,
    TokenPolicy,
    TokenSource,
)

#: What a login elsewhere has given out. The page shows how to ask a database.
TOKENS = {"a1b2c3": "alice", "d4e5f6": "bob"}


def verify(question):
    """Return whose a token is, or None."""
    name = TOKENS.get(question.token)
    return None if name is None else Identity(name)


POLICIES = PolicyChain(
    [
        OriginPolicy(["https://app.example"], allow_null=False, allow_missing=True),
        TokenPolicy(
            [
                TokenSource(TokenPlace.COOKIE, "session"),
                TokenSource(TokenPlace.QUERY, "token"),
            ],
            verify,
        ),
    ]
)


async def greet(connection):
    await connection.send(f"hello, {connection.identity.name}")
    async for message in connection:
        await connection.send(message)


async def main():
    async with serve(greet, "127.0.0.1", 8000, policies=POLICIES) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
