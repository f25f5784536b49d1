"""A room in several processes: what one member says is heard by all, through Redis.

Each process subscribes once, and gives what it hears to its own connections. Run it
twice, and connect to both:

    python broadcast_nodes.py redis://127.0.0.1:6379 8000
    python broadcast_nodes.py redis://127.0.0.1:6379 8080
    wsproto-sip connect ws://127.0.0.1:8000/
    wsproto-sip connect ws://127.0.0.1:8080/
"""

import asyncio
import random
import sys
from contextlib import suppress

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from wsproto_sip import PreparedMessage
from wsproto_sip.adapters.asyncio import ConnectionClosedError, serve
from wsproto_sip.events import TextMessage

TOPIC = "room"
#: Messages that may wait for one member. A slower member is sent away.
BACKLOG = 100


class Room:
    """The members at this process, each with a queue and a task."""

    def __init__(self, redis):
        self.redis = redis
        self.queues = {}

    async def join(self, connection):
        """Handle one connection; ``serve`` calls this for each."""
        queue = self.queues[connection] = asyncio.Queue(BACKLOG)
        writer = asyncio.create_task(self.write(connection, queue))
        try:
            async for message in connection:
                if isinstance(message, str):
                    await self.publish(message)
        except RedisError:
            connection.begin_close(1013, "try again later")
        finally:
            del self.queues[connection]
            writer.cancel()

    async def publish(self, text):
        """Tell the members at all processes, this one included."""
        await self.redis.publish(TOPIC, text)

    async def listen(self, said=lambda: None):
        """Hand on what is published; subscribe again after Redis was away."""
        while True:
            with suppress(RedisError):
                async with self.redis.pubsub() as subscription:
                    await subscription.subscribe(TOPIC)
                    async for message in subscription.listen():
                        if message["type"] == "subscribe":
                            said()
                        elif message["type"] == "message":
                            self.say(message["data"])
            # At random, so that not all processes come back at once.
            await asyncio.sleep(random.uniform(0.1, 1))  # noqa: S311

    def say(self, data):
        """Give a message to the members here: one frame, made once."""
        message = PreparedMessage(TextMessage(data.decode()))
        for connection, queue in self.queues.items():
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                connection.begin_close(1008, "too slow")

    async def write(self, connection, queue):
        with suppress(ConnectionClosedError):
            while True:
                await connection.send(await queue.get())


async def main(url, port):
    # A connection from before Redis was away fails once.
    async with Redis.from_url(url, retry=Retry(NoBackoff(), 1)) as redis:
        room = Room(redis)
        subscribed = asyncio.Event()
        listening = asyncio.create_task(room.listen(subscribed.set))
        await subscribed.wait()
        async with serve(room.join, "127.0.0.1", port) as server:
            print("listening at", *server.addresses)
            await listening


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
