"""Requests with answers over one connection, each with an id; answers in any order."""

import asyncio
import itertools
import json

from wsproto_sip.adapters.asyncio import connect, serve


class Caller:
    """Sends requests over a connection and matches the answers.

    Args:
        connection: An open connection; only this object receives from it.
    """

    def __init__(self, connection):
        self.connection = connection
        self.ids, self.waiting = itertools.count(1), {}

    async def run(self):
        """Receive answers until the connection ends; run this in a task."""
        try:
            async for message in self.connection:
                answer = json.loads(message)
                # The caller may have given up.
                if waiting := self.waiting.pop(answer["id"], None):
                    waiting.set_result(answer["result"])
        finally:
            for waiting in self.waiting.values():
                waiting.cancel()

    async def call(self, method, **arguments):
        """Send a request and return the result of its answer."""
        number = next(self.ids)
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            request = {"id": number, "method": method, **arguments}
            await self.connection.send(json.dumps(request))
            return await answer
        finally:
            self.waiting.pop(number, None)


async def answer(connection, request):
    if request["method"] == "sleep":
        await asyncio.sleep(request["seconds"])
    result = f"{request['method']} done"
    await connection.send(json.dumps({"id": request["id"], "result": result}))


async def handle(connection):
    """Answer each request in a task of its own, so that a slow one delays no other."""
    async with asyncio.TaskGroup() as group:
        async for message in connection:
            group.create_task(answer(connection, json.loads(message)))


async def main():
    async with serve(handle, "127.0.0.1", 0) as server:
        host, port = server.addresses[0]
        async with (
            connect(f"ws://{host}:{port}/") as connection,
            asyncio.TaskGroup() as group,
        ):
            caller = Caller(connection)
            receiving = group.create_task(caller.run())
            slow = group.create_task(caller.call("sleep", seconds=0.1))
            print(await caller.call("ping"))
            print(await slow)
            receiving.cancel()


if __name__ == "__main__":
    asyncio.run(main())
