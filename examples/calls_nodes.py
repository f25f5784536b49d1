"""A SIP server in a program of its own that is one node of several.

Users are registered at the node to which they are connected, and call each other across
nodes. Run it with two names, two ports for clients and two for the other node:

    export REDIS=redis://127.0.0.1:6379
    python calls_nodes.py one 8000 5060 FILE
    python calls_nodes.py two 8080 5070 FILE

FILE has 32 random bytes, the same for all nodes: head -c 32 /dev/urandom > FILE
"""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from wsproto_sip import SessionConfig
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.location import LocationService, NodeEntry
from wsproto_sip.adapters.asyncio.location_redis import RedisEngine
from wsproto_sip.adapters.asyncio.sip import SipService
from wsproto_sip.policy import PolicyChain, SubprotocolPolicy
from wsproto_sip.server import Endpoint, EndpointConfig, subprotocol_profiles
from wsproto_sip.sip import (
    ChallengeScope,
    DigestAuthenticator,
    Domains,
    EdgeApplication,
    EdgeConfig,
    Registrar,
    RegistrarConfig,
    SipEdge,
)

DOMAIN = "phone.example"
USERS = {"alice": "wonderland", "bob": "builder"}


async def main(name, port, node_port, keys):
    session = SessionConfig()
    endpoint = Endpoint(
        EndpointConfig(
            session=replace(session, profiles=subprotocol_profiles(session)),
            policies=PolicyChain([SubprotocolPolicy(["sip"])]),
        ),
        now=asyncio.get_running_loop().time(),
    )

    def handle(cid, event):
        service.handle(cid, event)

    server = EndpointServer(endpoint, handle)
    # The boot names this run: bindings of an earlier one lead nowhere.
    entry = NodeEntry(name, os.urandom(8).hex(), "127.0.0.1", node_port)
    location = LocationService(RedisEngine(os.environ["REDIS"]), entry)
    domains = Domains((DOMAIN,))
    edge = SipEdge(
        EdgeConfig("127.0.0.1", domains, challenge=ChallengeScope.ALL),
        registrar=Registrar(RegistrarConfig(domains), node=entry.node, gruu_keys=keys),
        authenticator=DigestAuthenticator(DOMAIN, USERS, domains=domains),
        flow_keys=keys,
    )
    application = EdgeApplication(endpoint, edge)
    service = SipService(server, application, resolve=location.resolver())
    await service.open()
    await service.listen_for_nodes(entry.host, entry.port)
    await location.open(service)
    print("listening at", *await server.listen("127.0.0.1", port))
    try:
        await asyncio.Event().wait()
    finally:
        # The others prefer other nodes from now on; clients register elsewhere.
        await location.drain()
        server.stop_listening()
        await server.drain(5)
        await location.close()
        await service.close()
        await server.close()


if __name__ == "__main__":
    name, port, node_port, file = sys.argv[1:]
    asyncio.run(main(name, int(port), int(node_port), [Path(file).read_bytes()]))
