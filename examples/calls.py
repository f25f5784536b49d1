"""A SIP server in a program of its own, with a page to call from.

Run it and open http://127.0.0.1:8080/ in two tabs. Sign in as alice in one (password
wonderland) and as bob in the other (password builder).
"""

import asyncio
from dataclasses import replace

from wsproto_sip import SessionConfig
from wsproto_sip.adapters.asyncio.endpoint import EndpointServer
from wsproto_sip.adapters.asyncio.sip import SipService
from wsproto_sip.cli.serve.page import telephone
from wsproto_sip.policy import OriginPolicy, PagePolicy, PolicyChain, SubprotocolPolicy
from wsproto_sip.server import Endpoint, EndpointConfig, subprotocol_profiles
from wsproto_sip.sip import (
    ChallengeScope,
    DigestAuthenticator,
    Domains,
    EdgeApplication,
    EdgeConfig,
    Proceed,
    Refuse,
    Registrar,
    RegistrarConfig,
    SipEdge,
)

DOMAIN = "phone.example"
USERS = {"alice": "wonderland", "bob": "builder", "carol": "singer"}


def decide(asked):
    """Decide about each request that has passed every check: the hook of the edge."""
    request = asked.request
    if request.method == "REGISTER" or asked.in_dialog:
        return None
    called = request.uri.username if request.uri.scheme == "sip" else None
    if called == "operator":
        return Proceed(f"sip:bob@{DOMAIN}")
    if called == "carol" and request.method == "INVITE":
        return Refuse(486, "carol does not take calls")
    return None


async def main():
    # Pages of other sites may not connect. The page itself answers plain GET requests.
    origins = OriginPolicy(
        [], allow_null=False, allow_missing=False, allow_loopback=True
    )
    page = PagePolicy(telephone(domain=DOMAIN), admission=[origins])
    session = SessionConfig(plain_requests=True)
    endpoint = Endpoint(
        EndpointConfig(
            session=replace(session, profiles=subprotocol_profiles(session)),
            policies=PolicyChain([page, origins, SubprotocolPolicy(["sip"])]),
        ),
        now=asyncio.get_running_loop().time(),
    )

    def handle(cid, event):
        service.handle(cid, event)

    server = EndpointServer(endpoint, handle)
    domains = Domains((DOMAIN,))
    edge = SipEdge(
        EdgeConfig("127.0.0.1", domains, challenge=ChallengeScope.ALL),
        registrar=Registrar(RegistrarConfig(domains)),
        authenticator=DigestAuthenticator(DOMAIN, USERS, domains=domains),
        hook=decide,
    )
    service = SipService(server, EdgeApplication(endpoint, edge))
    await service.open()
    print("listening at", *await server.listen("127.0.0.1", 8080))
    try:
        await asyncio.Event().wait()
    finally:
        server.stop_listening()
        await server.drain(5)
        await service.close()
        await server.close()


if __name__ == "__main__":
    asyncio.run(main())
