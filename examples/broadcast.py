"""The time, once a second, to every connection: one frame, made once.

A connection whose queue is full misses a message instead of delaying the others.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime

from wsproto_sip import PreparedMessage
from wsproto_sip.adapters.asyncio import ConnectionClosedError, serve
from wsproto_sip.events import TextMessage


class Channel:
    """What subscribers get."""

    def __init__(self, backlog=16):
        self.queues, self.backlog = set(), backlog

    def publish(self, text):
        """Give a message to every subscriber; return how many had no room for it."""
        message = PreparedMessage(TextMessage(text))
        full = 0
        for queue in self.queues:
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                full += 1
        return full

    async def subscribe(self, connection):
        """Handle one connection; ``serve`` calls this for each."""
        queue = asyncio.Queue(self.backlog)
        self.queues.add(queue)
        writer = asyncio.create_task(self.write(connection, queue))
        try:
            await connection.wait_closed()
        finally:
            self.queues.remove(queue)
            writer.cancel()

    async def write(self, connection, queue):
        with suppress(ConnectionClosedError):
            while True:
                await connection.send(await queue.get())


async def main():
    channel = Channel()
    async with serve(channel.subscribe, "127.0.0.1", 8000) as server:
        print("listening at", *server.addresses)
        while True:
            channel.publish(datetime.now(UTC).isoformat(timespec="seconds"))
            await asyncio.sleep(1)


if __name__ == "__main__":
    asyncio.run(main())
