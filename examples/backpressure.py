"""A server that reads as fast as it works, and sends as fast as its clients read.

Whatever a client sends is numbered, slowly, and sent back. At most four messages wait
here; then reading stops, the buffers of the network fill, and the client's own
``send()`` waits.
"""

import asyncio

from wsproto_sip import Limits, SessionConfig
from wsproto_sip.adapters.asyncio import serve

CONFIG = SessionConfig(
    send_timeout=10.0,  # a client that reads nothing for so long is dropped
    limits=Limits(
        max_queued_messages=4, max_queued_bytes=64 * 1024, high_water=32 * 1024
    ),
)


async def number(connection):
    count = 0
    async for message in connection:
        count += 1
        await asyncio.sleep(0.01)  # the work
        await connection.send(f"{count}: {message}")


async def main():
    async with serve(number, "127.0.0.1", 8000, config=CONFIG) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
