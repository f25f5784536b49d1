"""The server of README: it sends every message back."""

import asyncio

from wsproto_sip.adapters.asyncio import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main():
    async with serve(echo, "127.0.0.1", 8000) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


asyncio.run(main())
