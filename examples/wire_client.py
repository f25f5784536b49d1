"""Every byte of a connection on standard error, sent and received, for debugging.

python wire_client.py ws://127.0.0.1:8000/ hello
"""

import asyncio
import sys

from wsproto_sip.adapters.asyncio import connect


def show(connection, data, sent):
    """Print one write or one read; credentials are in there too."""
    print("->" if sent else "<-", data[:1000], file=sys.stderr)


async def main(uri, message):
    async with connect(uri, on_wire=show) as connection:
        await connection.send(message)
        print(await connection.recv())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
