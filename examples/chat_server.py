"""A chat room: what one member says goes to all. The path is the member's name.

Run it, then connect from two other terminals:

    python chat_server.py
    wsproto-sip connect ws://127.0.0.1:8000/alice
    wsproto-sip connect ws://127.0.0.1:8000/bob
"""

import asyncio
from contextlib import suppress

from wsproto_sip.adapters.asyncio import ConnectionClosedError, serve

#: Messages that may wait for one member. A slower member is sent away.
BACKLOG = 100


class Room:
    """The members, each with a queue and a task: a slow one delays no other."""

    def __init__(self):
        self.queues = {}

    async def join(self, connection):
        """Handle one connection; ``serve`` calls this for each."""
        name = connection.request.target.strip("/") or "anonymous"
        queue = self.queues[connection] = asyncio.Queue(BACKLOG)
        writer = asyncio.create_task(self.write(connection, queue))
        self.say(f"{name} is here")
        try:
            async for message in connection:
                if isinstance(message, str):
                    self.say(f"{name}: {message}")
        finally:
            del self.queues[connection]
            writer.cancel()
            self.say(f"{name} has left")

    def say(self, text):
        """Give a line to every member, without waiting for any."""
        for connection, queue in self.queues.items():
            try:
                queue.put_nowait(text)
            except asyncio.QueueFull:
                connection.begin_close(1008, "too slow")

    async def write(self, connection, queue):
        with suppress(ConnectionClosedError):
            while True:
                await connection.send(await queue.get())


async def main():
    async with serve(Room().join, "127.0.0.1", 8000) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
