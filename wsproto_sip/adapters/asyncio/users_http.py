"""Users known to another service, queried over HTTP, on asyncio.

Theory of operation: each question is one ``POST`` with a JSON object, and so is its answer. An
account is requested with

    ``{"question": "account", "username": "alice@sip.test", "name": "alice", "realm": "calls"}``

and the answer is ``{"password": "…"}`` or ``{"ha1": {"MD5": "…", "SHA-256": "…"}}``, with a
``name`` if the user's differs from the requested one. A token is sent as

    ``{"question": "token", "token": "…"}``

and the answer is ``{"name": "alice"}``. ``null``, ``{}`` and the status 404 mean that the user is
unknown or the token invalid. An empty password, ``null`` in its place, and a malformed hash make
the account unusable (:class:`~wsproto_sip.auth.accounts.UnusableAccount`): the user is refused like
an unknown one. Anything else is a failure, including redirects: what was sent to one service is not
for another.

Connections are kept open and reused, up to a maximum. One that the service has closed meanwhile is
replaced once. One that was idle for a while is not used again: a firewall may have forgotten it
without telling, and nothing would be answered on it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import h11

from ...auth.accounts import Account, account_from
from ...auth.digest import Algorithm
from ...auth.identity import Identity, is_username
from .._tls import client_context

if TYPE_CHECKING:
    import ssl

    from ...auth.verifier import AccountQuestion

__all__ = ["HttpUsers"]

#: Bytes of an answer, and of its head.
_MAX_BODY: Final = 64 * 1024
_MAX_HEAD: Final = 16 * 1024
#: Seconds for which an idle connection is used again.
_MOST_IDLE: Final = 15.0
#: Header fields that callers must not set.
_OWN_FIELDS: Final = frozenset(
    ["connection", "content-length", "content-type", "host", "transfer-encoding"]
)


class _Link:
    """One connection to the service."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        #: Whether any part of an answer has arrived.
        self.answered = False
        #: Since when it is idle.
        self.idle_since = 0.0

    async def ask(self, request: h11.Request, body: bytes) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its answer."""
        self.answered = False
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            self.writer.write(self.http.send(part) or b"")
        await self.writer.drain()
        status, parts, size = 0, [], 0
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA:
                data = await self.reader.read(_MAX_BODY)
                self.answered |= bool(data)
                self.http.receive_data(data)
            elif isinstance(event, h11.InformationalResponse):
                continue
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                size += len(event.data)
                if size > _MAX_BODY:
                    raise ValueError(f"an answer of more than {_MAX_BODY} bytes")
            else:
                # The end of the message; the end of the connection raises before.
                return status, b"".join(parts)

    def reusable(self) -> bool:
        """Prepare for the next request, and return whether that is possible."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        return True


class HttpUsers:
    """A source of accounts and tokens that is queried over HTTP.

    Args:
        url: The ``http`` or ``https`` URL that questions are posted to.
        token: A Bearer token for the service, if it requires one.
        headers: Further header fields for the service, for example with an API key.
        tls: The TLS context for ``https``; by default one with the system's certificates.
        max_connections: Maximum number of connections; further questions wait.

    Raises:
        ValueError: The URL, the token or a header field is invalid, or the maximum is not
            positive.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        tls: ssl.SSLContext | None = None,
        max_connections: int = 8,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(f"not an http or https URL without a user: {url!r:.200}")
        if max_connections < 1:
            raise ValueError(f"max_connections must be positive: {max_connections!r}")
        secure = parts.scheme == "https"
        self._host = parts.hostname
        self._port = parts.port or (443 if secure else 80)
        self._tls = (tls or client_context()) if secure else None
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = [("Host", parts.netloc), ("Content-Type", "application/json")]
        if token is not None:
            self._headers.append(("Authorization", f"Bearer {token}"))
        for name, value in headers:
            if name.lower() in _OWN_FIELDS:
                raise ValueError(f"a header field that cannot be set: {name}")
            self._headers.append((name, value))
        try:
            self._request(b"")
        except (h11.LocalProtocolError, UnicodeEncodeError) as exc:
            raise ValueError(f"not valid in a request: {exc}") from None
        self._idle: list[_Link] = []
        self._room = asyncio.Semaphore(max_connections)

    async def account(self, question: AccountQuestion) -> Account | None:
        """Ask for an account.

        Raises:
            OSError: The service cannot be reached.
            ValueError: Its answer is invalid.
            UnusableAccount: What it has about the user cannot be compared with credentials.
        """
        found = await self._ask(
            question="account",
            username=question.username,
            name=question.name,
            realm=question.realm,
        )
        return None if not found else _account(found, question.name)

    async def identity(self, token: str) -> Identity | None:
        """Ask for the identity in a token; raises the same errors as :meth:`account`."""
        found = await self._ask(question="token", token=token)
        return None if not found else Identity(_name(found, ""), "token")

    async def close(self, *, patience: float = 2.0) -> None:
        """Close the idle connections.

        Args:
            patience: Seconds that the service may take to end its side of TLS.
        """
        idle, self._idle = self._idle, []
        for link in idle:
            link.writer.close()
        if idle:
            ends = [asyncio.ensure_future(link.writer.wait_closed()) for link in idle]
            _, pending = await asyncio.wait(ends, timeout=patience)
            for link in idle if pending else ():
                link.writer.transport.abort()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _ask(self, **question: str) -> dict[str, Any]:
        """Ask, and return the answer; an empty one for an unknown user or token."""
        body = json.dumps(question).encode("ascii")
        async with self._room:
            status, answer = await self._exchange(body)
        if status == 404:
            return {}
        if status != 200:
            raise ValueError(f"the service has answered with status {status}")
        found = json.loads(answer)
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise ValueError("the answer of the service is not an object")
        return found

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        while True:
            idle = self._take_idle()
            kept = idle is not None
            link = idle or await self._connect()
            try:
                answer = await link.ask(self._request(body), body)
            except BaseException as exc:
                link.writer.close()
                # The service may have closed it while it was idle.
                stale = isinstance(exc, OSError | h11.RemoteProtocolError) and not link.answered
                if kept and stale:
                    continue
                if isinstance(exc, h11.RemoteProtocolError):
                    raise ValueError(f"the service does not speak HTTP: {exc}") from exc
                raise
            if link.reusable():
                link.idle_since = asyncio.get_running_loop().time()
                self._idle.append(link)
            else:
                link.writer.close()
            return answer

    def _take_idle(self) -> _Link | None:
        """Return the connection that was idle for the shortest time, unless that is too long."""
        recent = asyncio.get_running_loop().time() - _MOST_IDLE
        while self._idle:
            link = self._idle.pop()
            if link.idle_since >= recent:
                return link
            link.writer.close()
        return None

    async def _connect(self) -> _Link:
        return _Link(*await asyncio.open_connection(self._host, self._port, ssl=self._tls))

    def _request(self, body: bytes) -> h11.Request:
        headers = [*self._headers, ("Content-Length", str(len(body)))]
        return h11.Request(method="POST", target=self._target, headers=headers)


def _name(found: dict[str, Any], default: str) -> str:
    name = found.get("name", default)
    if not isinstance(name, str) or not is_username(name):
        raise ValueError("the name in the answer of the service is not a user name")
    return name


def _account(found: dict[str, Any], name: str) -> Account:
    password, hashes = found.get("password"), found.get("ha1", {})
    named = "password" in found or "ha1" in found
    if not (named and isinstance(password, str | None) and isinstance(hashes, dict)):
        raise ValueError("the answer of the service has no password or ha1")
    # The service does not have a hash that is null.
    ha1 = {Algorithm(key): str(value) for key, value in hashes.items() if value is not None}
    return account_from(_name(found, name), password, ha1)
