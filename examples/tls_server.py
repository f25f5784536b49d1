"""wss with a certificate that can be renewed: SIGHUP reads the files again.

python tls_server.py fullchain.pem privkey.pem
"""

import asyncio
import signal
import ssl
import sys

from wsproto_sip.adapters.asyncio import serve


async def echo(connection):
    async for message in connection:
        await connection.send(message)


async def main(chain, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def load():
        # Open connections keep what they agreed on; new ones see the new certificate.
        context.load_cert_chain(chain, key)

    load()
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, load)
    async with serve(echo, "127.0.0.1", 8443, ssl=context) as server:
        print("listening at", *server.addresses, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
