"""A test of chat_server.py: a server and two clients in one process, on a free port."""

import asyncio

from chat_server import Room

from wsproto_sip.adapters.asyncio import connect, serve


def test_members_hear_each_other():
    async def scenario():
        async with serve(Room().join, "127.0.0.1", 0) as server:
            host, port = server.addresses[0]
            async with connect(f"ws://{host}:{port}/alice") as alice:
                assert await alice.recv() == "alice is here"
                async with connect(f"ws://{host}:{port}/bob") as bob:
                    assert await bob.recv() == "bob is here"
                    assert await alice.recv() == "bob is here"
                    await bob.send("hello")
                    assert await alice.recv() == "bob: hello"
                    assert await bob.recv() == "bob: hello"
                assert await alice.recv() == "bob has left"

    asyncio.run(scenario())
