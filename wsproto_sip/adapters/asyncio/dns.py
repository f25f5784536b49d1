"""DNS look-ups on asyncio, with dnspython.

Install it with the extra ``dns``: ``pip install wsproto-sip[dns]``. It is imported for the first
question.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Protocol

from ...sip.rules.location import Answer, Naptr, Srv, locate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...sip.rules.location import Location, Question

__all__ = ["DnsResolver", "Resolver", "find"]

#: Seconds for which the absence of records is cached; the answer does not say how long.
_NEGATIVE_TTL: Final = 60.0
#: Seconds that all questions about one domain may take.
_ALL_QUESTIONS: Final = 15.0


class Resolver(Protocol):
    """A resolver of questions."""

    async def ask(self, question: Question) -> Answer:
        """Answer a question.

        Args:
            question: The question.

        Raises:
            OSError: No answer can be obtained now.
        """
        ...


class DnsResolver:
    """Ask the name servers of this machine.

    Args:
        timeout: Seconds for one question.
        nameservers: Addresses and ports of other name servers to ask instead.

    Raises:
        ImportError: dnspython is not installed.
    """

    def __init__(
        self, *, timeout: float = 5.0, nameservers: Sequence[tuple[str, int]] = ()
    ) -> None:
        try:
            import dns.asyncresolver  # noqa: PLC0415 - an extra
            import dns.nameserver  # noqa: PLC0415
        except ImportError as exc:
            text = "NAPTR and SRV records need dnspython: pip install wsproto-sip[dns]"
            raise ImportError(text) from exc
        self._resolver = dns.asyncresolver.Resolver(configure=not nameservers)
        if nameservers:
            self._resolver.nameservers = [
                dns.nameserver.Do53Nameserver(address, port) for address, port in nameservers
            ]
        self._resolver.lifetime = timeout

    async def ask(self, question: Question) -> Answer:
        """Answer a question.

        Args:
            question: The question.

        Raises:
            OSError: No name server has an answer.
        """
        import dns.exception  # noqa: PLC0415
        import dns.resolver  # noqa: PLC0415

        try:
            # Names of upstreams are absolute; a search list could lead elsewhere.
            answer = await self._resolver.resolve(
                question.name, question.kind, raise_on_no_answer=False, search=False
            )
        except dns.resolver.NXDOMAIN:
            return Answer((), _NEGATIVE_TTL)
        except dns.exception.DNSException as exc:
            raise OSError(f"{question.kind} of {question.name}: {exc}") from None
        if answer.rrset is None:
            return Answer((), _NEGATIVE_TTL)
        return Answer([_record(question.kind, item) for item in answer], float(answer.rrset.ttl))


def _record(kind: str, record: Any) -> Naptr | Srv | str:
    if kind == "NAPTR":
        return Naptr(
            record.order,
            record.preference,
            record.flags.decode("ascii", "replace"),
            record.service.decode("ascii", "replace"),
            record.replacement.to_text(),
        )
    if kind == "SRV":
        return Srv(record.priority, record.weight, record.port, record.target.to_text())
    return str(record.address)


async def find(
    resolver: Resolver,
    host: str,
    port: int | None = None,
    transport: str | None = None,
    *,
    kinds: Sequence[str] = ("A", "AAAA"),
) -> Location:
    """Find the servers of a SIP domain (RFC 3263).

    Args:
        resolver: Answers the questions.
        host: The domain.
        port: The port, if one is given.
        transport: ``udp``, ``tcp`` or ``tls``, if one is given.
        kinds: ``A``, ``AAAA`` or both, the preferred one first.

    Raises:
        OSError: A question is not answered, or the domain has no servers.
    """
    search = locate(host, port, transport, kinds=kinds)
    async with asyncio.timeout(_ALL_QUESTIONS):
        try:
            question = next(search)
            while True:
                question = search.send(await resolver.ask(question))
        except StopIteration as end:
            location: Location = end.value
    if not location.servers:
        raise OSError(f"no server of {host} is known")
    return location
