"""The client of README: it says hello to echo_server.py."""

import asyncio

from wsproto_sip.adapters.asyncio import connect


async def main():
    async with connect("ws://127.0.0.1:8000/") as connection:
        await connection.send("hello")
        print(await connection.recv())


asyncio.run(main())
