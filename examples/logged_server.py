"""A log of connections: one line when each opens, one when it ends, with its id.

Set LEVEL=DEBUG in the environment for asyncio's warnings about slow callbacks too.
"""

import asyncio
import itertools
import logging
import os

from wsproto_sip.adapters.asyncio import serve

LOGGER = logging.getLogger("example")
NUMBERS = itertools.count(1)


class About(logging.LoggerAdapter):
    """Puts the number of the connection in front of each line."""

    def process(self, text, options):
        return f"[{self.extra['number']}] {text}", options


def logged(handler):
    """Return a handler that logs the connection, and passes the log on."""

    async def handle(connection):
        log = About(LOGGER, {"number": next(NUMBERS)})
        host, port = connection.peer
        path = connection.request.target.partition("?")[0]
        log.info("opened by %s:%s for %s", host, port, path)
        try:
            await handler(connection, log)
            connection.begin_close()
        except Exception:
            # wsproto_sip.asyncio logs the traceback when it is raised again.
            connection.begin_close(1011)
            raise
        finally:
            event = await connection.wait_closed()
            log.info("closed with %d (%s)", event.code, event.cause.value)

    return handle


async def echo(connection, log):
    async for message in connection:
        log.debug("received %d characters or bytes", len(message))
        await connection.send(message)


async def main():
    level = os.environ.get("LEVEL", "INFO")
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.get_running_loop().set_debug(level == "DEBUG")
    async with serve(logged(echo), "127.0.0.1", 8000) as server:
        print("listening at", *server.addresses)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
