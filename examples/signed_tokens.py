"""Users who have logged in at a web application, by signed tokens (JWT).

The web application makes a token with token_for(); this server knows the same secret
and nothing else of the application. Needs: pip install 'wsproto-sip[jwt]'
"""

import asyncio
import secrets
import time

import jwt

from wsproto_sip.adapters.asyncio import serve
from wsproto_sip.adapters.jwt import JwtVerifier
from wsproto_sip.policy import (
    OriginPolicy,
    PolicyChain,
    TokenPlace,
    TokenPolicy,
    TokenSource,
)

#: Shared by both; at least 32 bytes.
SECRET = secrets.token_bytes(32)


def token_for(user, secret=SECRET, seconds=30):
    """Make a token in the web application, for a page that is about to connect."""
    claims = {"sub": user, "aud": "websocket", "exp": time.time() + seconds}
    return jwt.encode(claims, secret, algorithm="HS256")


POLICIES = PolicyChain(
    [
        OriginPolicy(["https://app.example"], allow_null=False, allow_missing=True),
        TokenPolicy(
            [TokenSource(TokenPlace.QUERY, "token")],
            JwtVerifier([SECRET], algorithms=["HS256"], audience="websocket"),
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
        print(f"wsproto-sip connect 'ws://127.0.0.1:8000/?token={token_for('alice')}'")
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
