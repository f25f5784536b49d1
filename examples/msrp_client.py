"""An MSRP client: two users of one relay, and a message between them.

The arguments are the URL of the server, the URI of the relay, which prints it at its
start, and names and passwords of two users. Paths are told by SIP usually; here both
ends are at hand.
"""

import asyncio
import sys

from wsproto_sip.adapters.asyncio import connect
from wsproto_sip.msrp import Authenticated, MessageReceived, MsrpSession, MsrpUri


class Client:
    """A session of MSRP on a WebSocket connection."""

    def __init__(self, connection, relay, name, password):
        self.connection, self.loop = connection, asyncio.get_running_loop()
        self.session = MsrpSession(relay, name, password)
        self.events = asyncio.Queue()

    def now(self):
        return self.loop.time()

    async def flush(self):
        """Send what the session has to say."""
        while chunks := self.session.data_to_send(self.now()):
            for chunk in chunks:
                await self.connection.send(chunk)

    async def run(self):
        """Receive until the connection ends, and keep the deadlines of the session."""
        while True:
            due = self.session.next_deadline()
            try:
                async with asyncio.timeout_at(due):
                    message = await self.connection.recv()
            except TimeoutError:
                events = self.session.handle_timeout(self.now())
            else:
                data = message.encode() if isinstance(message, str) else message
                events = self.session.receive(data, self.now())
            for event in events:
                self.events.put_nowait(event)
            await self.flush()

    async def until(self, kind):
        """Wait for an event of a kind."""
        while not isinstance(event := await self.events.get(), kind):
            pass
        return event

    async def authenticate(self):
        self.session.authenticate(self.now())
        await self.flush()
        await self.until(Authenticated)


async def main(uri, relay, *users):
    relay = MsrpUri.parse(relay.encode())
    async with (
        connect(uri, subprotocols=["msrp"]) as first,
        connect(uri, subprotocols=["msrp"]) as second,
    ):
        alice, bob = Client(first, relay, *users[:2]), Client(second, relay, *users[2:])
        tasks = [asyncio.create_task(client.run()) for client in (alice, bob)]
        await alice.authenticate()
        await bob.authenticate()
        alice.session.connect(bob.session.path)
        bob.session.connect(alice.session.path)
        alice.session.send(b"hello", b"text/plain")
        await alice.flush()
        received = await bob.until(MessageReceived)
        print(received.content_type.decode(), received.body.decode())
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
