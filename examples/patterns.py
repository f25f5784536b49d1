"""Patterns of a handler: routes, sending while receiving, workers, a stop on SIGTERM.

Try it: wsproto-sip connect ws://127.0.0.1:8000/clock
"""

import asyncio
import signal

from wsproto_sip.adapters.asyncio import serve
from wsproto_sip.policy import PolicyChain, TargetPolicy


async def echo(connection):
    """Receive until the client closes."""
    async for message in connection:
        await connection.send(message)


async def clock(connection):
    """Send while receiving: the client may change the interval at any time."""
    interval = 1.0

    async def tick():
        count = 0
        while True:
            await connection.send(f"tick {count}")
            count += 1
            await asyncio.sleep(interval)

    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(tick())
        async for message in connection:
            interval = float(message)
        # The client has closed: end the other task.
        ticking.cancel()


async def work(connection, workers=4):
    """Let several tasks work on the messages of one client, and send as they finish."""
    queue = asyncio.Queue(maxsize=workers)

    async def worker():
        while (message := await queue.get()) is not None:
            await asyncio.sleep(float(message))  # slow work
            await connection.send(f"done: {message}")

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(worker())
        async for message in connection:
            # A full queue stops the reading, and in the end the client.
            await queue.put(message)
        for _ in range(workers):
            await queue.put(None)


ROUTES = {"/echo": echo, "/clock": clock, "/work": work}
#: Other paths get 404 before a connection is made.
POLICIES = PolicyChain([TargetPolicy(ROUTES)])


async def route(connection):
    path = connection.request.target.partition("?")[0]
    await ROUTES[path](connection)


async def main():
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serve(route, "127.0.0.1", 8000, policies=POLICIES) as server:
        print("listening at", *server.addresses)
        await stop.wait()
    # Every client has been closed with 1001, and every handler has returned.


if __name__ == "__main__":
    asyncio.run(main())
