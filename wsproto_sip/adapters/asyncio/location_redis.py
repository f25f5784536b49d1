"""The location store in Redis or Valkey, on asyncio (``pip install "wsproto-sip[redis]"``).

Theory of operation: an address of record is one hash, ``ws:{AOR}``. Its field ``version`` has the
version of the address, and each other field a binding
(:mod:`~wsproto_sip.sip.registrar.records`). A lookup is one ``HGETALL``, an update one script,
which compares the version and changes single bindings. Versions are the server's time in
microseconds: they increase even after an address was forgotten. The server forgets an address a few
seconds after its last binding has expired. ``ws:gruu:N`` leads from the number in a temporary GRUU
to the address. ``ws:used:DIGEST`` stands for a token that was used.

The nodes are one hash, ``ws:nodes``. Its script reads all entries, drops those that have not been
renewed, and writes that of the node that asks.

The braces are a hash tag: in a cluster, a script finds all of an address at one server.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from ...auth.outcome import Unavailable
from ...sip.registrar.records import RecordError, binding_of, key_of, record_of
from ...sip.registrar.store import Conflict, Done, Found, Lookup, Node, Update
from .location import MARGIN, EngineError, NodeEntry, Own, Population, Writing

if TYPE_CHECKING:
    from ...auth.used import FirstUse
    from ...sip.registrar.store import Binding

__all__ = ["RedisEngine", "RedisPlace", "RedisTls"]

_Answer = Found | Done | Conflict | Unavailable

#: Seconds for opening a connection, and for one answer.
_TIMEOUT: Final = 2.0
#: Connections for questions, the entries of nodes, and programs.
_CONNECTIONS: Final = 16
#: Bytes of one record, above which it is not one of ours.
_MAX_RECORD: Final = 64 * 1024
_VERSION: Final = b"version"
#: Refusals that hold for all questions, and that redis-py has no class for.
_FOR_ALL: Final = ("MISCONF", "NOREPLICAS", "NOAUTH")
_RETRY_AFTER: Final = 5

#: Keys: the address. Arguments: the version, the end of what was changed in milliseconds, the
#: number of fields to delete, these fields, and pairs of fields and values. Returns the new
#: version, or what is there instead of the expected one.
_UPDATE: Final = """\
local key = KEYS[1]
local known = redis.call('HGET', key, 'version') or '0'
if known ~= ARGV[1] then
  return redis.call('HGETALL', key)
end
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local version = string.format('%.0f', math.max(now[1] * 1000000 + now[2], tonumber(known) + 1))
local drops = tonumber(ARGV[3])
if drops > 0 then
  redis.call('HDEL', key, unpack(ARGV, 4, 3 + drops))
end
redis.call('HSET', key, 'version', version, unpack(ARGV, 4 + drops))
-- At least as long as a lost update may be on its way.
local last = math.max(tonumber(ARGV[2]), ms + 60000)
if last - ms > redis.call('PTTL', key) then
  redis.call('PEXPIREAT', key, string.format('%.0f', last))
end
return version
"""

#: Keys: the nodes. Arguments: name, boot and text of an entry, its lifetime in milliseconds, and
#: what to do with it. Returns seconds and microseconds, what was there of it, and the other nodes.
_NODES: Final = """\
local key, name, boot, writing = KEYS[1], ARGV[1], ARGV[2], ARGV[5]
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
local found = {now[1], now[2], 'absent'}
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  local last, whose = string.match(all[i + 1], '^(%d+) ([^ ]+) ')
  if not last or tonumber(last) <= ms then
    if writing ~= 'look' then
      redis.call('HDEL', key, all[i])
    end
  elseif all[i] == name then
    found[3] = whose == boot and 'present' or 'taken'
  else
    found[#found + 1] = all[i]
    found[#found + 1] = all[i + 1]
  end
end
if writing == 'take' or (writing == 'renew' and found[3] ~= 'taken') then
  local value = string.format('%.0f', ms + ARGV[4]) .. ' ' .. boot .. ' ' .. ARGV[3]
  redis.call('HSET', key, name, value)
elseif writing == 'leave' and found[3] == 'present' then
  redis.call('HDEL', key, name)
end
return found
"""

_SCHEMES: Final = {
    f"{name}{kind}": (secure, kind)
    for name, secure in (("redis", False), ("rediss", True), ("valkey", False), ("valkeys", True))
    for kind in ("", "+sentinel", "+cluster")
} | {"unix": (False, "unix")}
_FORMS: Final = (
    "redis[s]://[USER[:PASSWORD]@]HOST[:PORT][/DB], redis[s]+sentinel://HOST[:PORT],…/NAME[/DB], "
    "redis[s]+cluster://HOST[:PORT],… or unix://PATH"
)


@dataclass(frozen=True, slots=True)
class RedisPlace:
    """Where a location store is.

    Args:
        hosts: Hosts and ports: of the server, of Sentinels, or of some servers of a cluster.
        kind: Empty for a server, ``+sentinel``, ``+cluster`` or ``unix``.
        secure: Whether it is reached over TLS.
        user: The user; ``None`` for the default one.
        password: The password.
        master: What Sentinels call the servers.
        database: The number of the database.
        path: The path of a Unix socket.
    """

    hosts: tuple[tuple[str, int], ...]
    kind: str = ""
    secure: bool = False
    user: str | None = None
    password: str | None = None
    master: str = ""
    database: int = 0
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> RedisPlace:
        """Parse a URL.

        Args:
            url: ``redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]``,
                ``redis+sentinel://HOST[:PORT],…/NAME[/DB]``, ``redis+cluster://HOST[:PORT],…``, the
                same with ``rediss`` for TLS, or ``unix://PATH``. ``valkey`` and ``valkeys`` mean
                the same.

        Raises:
            ValueError: It has another form.
        """
        try:
            # Some versions of urlsplit() refuse an IPv6 address that is not the first host.
            scheme, separator, rest = url.partition("://")
            secure, kind = _SCHEMES[scheme.lower()]
            if not separator or "?" in rest or "#" in rest:
                raise ValueError("a query")
            netloc, slash, path = rest.partition("/")
            path = slash + path
            login, _, where = netloc.rpartition("@")
            user, _, password = login.partition(":")
            words = unquote(path).strip("/").split("/") if path.strip("/") else []
            login_fields = (unquote(user) or None, unquote(password) or None)
            if kind == "unix":
                if where or not path:
                    raise ValueError("a host")
                return cls((), kind, False, *login_fields, path=unquote(path))
            default = 26379 if kind == "+sentinel" else 6379
            hosts = tuple([_host_of(word, default) for word in where.split(",")])
            master = words.pop(0) if kind == "+sentinel" else ""
            number = words.pop() if words and kind != "+cluster" else "0"
            if words or (len(hosts) > 1 and not kind) or not number.isdecimal():
                raise ValueError("a path")
            return cls(hosts, kind, secure, *login_fields, master, int(number))
        except (ValueError, LookupError):
            # The URL is not shown, because it may contain a password.
            raise ValueError(f"not of the form {_FORMS}") from None


def _host_of(word: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{word}")
    if not parts.hostname or parts.path:
        raise ValueError("not a host")
    return parts.hostname, default if parts.port is None else parts.port


class RedisTls(NamedTuple):
    """How a store is reached over TLS.

    Args:
        ca: File of CA certificates (PEM); ``None`` for those of the system.
        cert: File of this side's certificate chain; ``None`` for none.
        key: File of its private key, unless it is in the same file.
    """

    ca: str | None = None
    cert: str | None = None
    key: str | None = None


class RedisEngine:
    """A location store in Redis or Valkey; made inside the event loop.

    Args:
        url: Where it is; see :meth:`RedisPlace.parse`.
        password: The password, if it is not in the URL.
        sentinel_password: The password of Sentinels, if they have one.
        tls: Certificates.
        prefix: What all keys begin with.
        timeout: Seconds for opening a connection, and for an answer.

    Raises:
        ImportError: redis-py is not installed.
        ValueError: The URL has another form.

    Attributes:
        client: The client of redis-py.
        failures: The exceptions of redis-py.
        prefix: What all keys begin with.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: RedisTls | None = None,
        prefix: str = "ws:",
        timeout: float = _TIMEOUT,
    ) -> None:
        try:
            import redis.asyncio  # noqa: PLC0415 - an extra
            import redis.backoff  # noqa: PLC0415
            from redis.asyncio.retry import Retry  # noqa: PLC0415
        except ImportError as exc:
            raise ImportError(
                'a store in Redis needs redis-py: pip install "wsproto-sip[redis]"'
            ) from exc
        self.prefix = prefix
        self._place = place = RedisPlace.parse(url)
        self._redis: Any = redis
        known = redis.exceptions
        # The exceptions of redis-py, and the answers of a server that apply to all questions.
        self.failures = (redis.RedisError, known.RedisClusterException, OSError)
        self._for_all = (
            *(known.ReadOnlyError, known.ClusterDownError, known.OutOfMemoryError),
            known.NoPermissionError,
        )
        self._refusals = (
            *(known.AuthenticationError, known.AuthorizationError, known.NoPermissionError),
            *(known.AuthenticationWrongNumberOfArgsError, ssl.SSLCertVerificationError),
        )
        self._sentinels: list[Any] = []
        options: dict[str, Any] = {
            "username": place.user,
            "password": place.password if password is None else password,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "socket_keepalive": True,
            # RESP2 is understood by all servers, and tells of nothing but what was asked.
            "protocol": 2,
            # The caller decides when to try again. One that is repeated blindly is done twice.
            "retry": Retry(redis.backoff.NoBackoff(), 0),
        }
        secure: dict[str, Any] = {}
        if place.secure:
            given = RedisTls() if tls is None else tls
            secure = {
                "ssl": True,
                "ssl_ca_certs": given.ca,
                "ssl_certfile": given.cert,
                "ssl_keyfile": given.key or given.cert,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            }
        self.client: Any = self._make_client(options | secure, secure, sentinel_password)
        self._scripts = {
            text: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for text in (_UPDATE, _NODES)
        }

    def _make_client(
        self, options: dict[str, Any], secure: dict[str, Any], sentinel_password: str | None
    ) -> Any:
        redis, place = self._redis.asyncio, self._place
        if place.kind == "+cluster":
            nodes = [redis.cluster.ClusterNode(*each) for each in place.hosts]
            return redis.RedisCluster(startup_nodes=nodes, max_connections=_CONNECTIONS, **options)
        options |= {"db": place.database, "max_connections": _CONNECTIONS}
        if place.kind == "unix":
            return redis.Redis(unix_socket_path=place.path, **options)
        if place.kind == "+sentinel":
            kept = ("socket_timeout", "socket_connect_timeout", "protocol", "retry")
            own = {name: options[name] for name in kept} | secure
            sentinel = redis.Sentinel(
                place.hosts, sentinel_kwargs=own | {"password": sentinel_password}, **options
            )
            self._sentinels = sentinel.sentinels
            return sentinel.master_for(place.master)
        host, port = place.hosts[0]
        return redis.Redis(host=host, port=port, **options)

    # -- questions ---------------------------------------------------------------------------------

    async def perform(
        self, questions: Sequence[Lookup | Update], reader: Node, ahead: float
    ) -> list[_Answer]:
        """Answer questions in one round trip, or two if one of them names a GRUU."""
        calls = [self._call(question, ahead) for question in questions]
        written = [self._gruu_call(each, ahead) for each in _with_gruus(questions)]
        # What leads to an address is there before its bindings are.
        results = (await self._run([*written, *calls]))[len(written) :]
        answers: list[_Answer] = []
        again: list[int] = []
        for index, (question, result) in enumerate(zip(questions, results, strict=True)):
            if isinstance(question, Lookup) and question.gruu and isinstance(result, bytes):
                again.append(index)
            answers.append(self._answer(question, result, reader, ahead))
        if again:
            aors = [_text(results[index]) for index in again]
            found = await self._run([self._call(Lookup(aor), ahead) for aor in aors])
            for index, aor, result in zip(again, aors, found, strict=True):
                answers[index] = self._answer(Lookup(aor), result, reader, ahead)
        return answers

    def _call(self, question: Lookup | Update, ahead: float) -> list[Any]:
        """Return the command that answers a question."""
        if isinstance(question, Lookup):
            if question.gruu:
                return ["GET", self._gruu_key(question.gruu)]
            return ["HGETALL", self._key(question.aor)]
        drop, put = question.drop, question.put
        last = max([each.expires_at for each in (*drop, *put)], default=0.0)
        return [
            _UPDATE,
            self._key(question.aor),
            question.version,
            _milliseconds(last + ahead + MARGIN),
            len(drop),
            *[_bytes(key_of(each)) for each in drop],
            *[part for each in put for part in (_bytes(key_of(each)), record_of(each, ahead))],
        ]

    def _gruu_call(self, of: tuple[str, Binding], ahead: float) -> list[Any]:
        aor, binding = of
        last = _milliseconds(binding.expires_at + ahead + MARGIN)
        return ["SET", self._gruu_key(binding.gruu), _bytes(aor), "PXAT", last]

    def _key(self, aor: str) -> bytes:
        return b"%b{%b}" % (self.prefix.encode(), _bytes(aor))

    def _gruu_key(self, number: int) -> str:
        return f"{self.prefix}gruu:{number}"

    def _answer(
        self, question: Lookup | Update, result: Any, reader: Node, ahead: float
    ) -> _Answer:
        """Return the answer in the result of a command."""
        if isinstance(result, Exception):
            return Unavailable(f"the location store: {result!s:.200}", _RETRY_AFTER)
        if isinstance(question, Lookup):
            if question.gruu:
                return Found("")
            return _found(question.aor, result, reader, ahead)
        if isinstance(result, bytes):
            return Done(int(result))
        pairs = dict(zip(result[::2], result[1::2], strict=True))
        return Conflict(_found(question.aor, pairs, reader, ahead))

    async def use(self, question: FirstUse) -> bool:
        """Remember that a token was used, and return whether it was not yet."""
        key, last = f"{self.prefix}used:{question.name}", _milliseconds(question.seconds)
        (result,) = await self._run([["SET", key, "", "NX", "PX", max(last, 1)]])
        if isinstance(result, Exception):
            raise EngineError(str(result))
        return bool(result)

    # -- nodes -------------------------------------------------------------------------------------

    async def announce(self, entry: NodeEntry, writing: Writing, lifetime: float) -> Population:
        """Read the entries of all nodes, and write that of this node."""
        call = [
            *(_NODES, f"{self.prefix}nodes", entry.name, entry.boot, entry.to_text()),
            *(_milliseconds(lifetime), writing.value),
        ]
        (result,) = await self._run([call])
        if isinstance(result, Exception):
            raise EngineError(str(result), permanent=True)
        seconds, micros, own, *pairs = result
        others = {}
        for name, value in zip(pairs[::2], pairs[1::2], strict=True):
            _, boot, text = _text(value).split(" ", 2)
            try:
                others[_text(name)] = NodeEntry.from_text(_text(name), boot, text)
            except ValueError:
                # Another version may write what this one does not understand.
                continue
        server = await self._server_run() if writing is not Writing.LOOK else ""
        clock = int(seconds) + int(micros) / 1_000_000
        return Population(others, clock, Own(_text(own)), server)

    async def _server_run(self) -> str:
        """Return the identifiers of the servers' runs."""
        options = {}
        if self._place.kind == "+cluster":
            options = {"target_nodes": self._redis.RedisCluster.PRIMARIES}
        try:
            found = await self.client.info("server", **options)
        except self._redis.ResponseError:
            # A proxy in front of the servers may not have it.
            return ""
        except self.failures as exc:
            raise self._engine_error(exc) from exc
        servers = found.values() if options else [found]
        return ",".join(sorted(str(each.get("run_id", "")) for each in servers))

    # -- commands ----------------------------------------------------------------------------------

    async def _run(self, calls: Sequence[list[Any]]) -> list[Any]:
        """Run commands and scripts in one pipeline.

        Returns:
            The results; exceptions for commands that the server has refused.

        Raises:
            EngineError: The server cannot be reached, or refuses everything.
        """
        refused = self._redis.ResponseError
        try:
            pipe = self.client.pipeline(transaction=False)
            for call in calls:
                pipe.execute_command(*self._by_hash(call))
            results: list[Any] = await pipe.execute(raise_on_error=False)
            unknown = self._redis.exceptions.NoScriptError
            lacking = [i for i, each in enumerate(results) if isinstance(each, unknown)]
            if lacking:
                # A server that was started meanwhile gets the script with the command.
                texts = [["EVAL", calls[i][0], 1, *calls[i][1:]] for i in lacking]
                # One after the other: what is asked about one address is answered in its order.
                for index, text in zip(lacking, texts, strict=True):
                    try:
                        results[index] = await self.client.execute_command(*text)
                    except refused as exc:
                        results[index] = exc
        except self.failures as exc:
            raise self._engine_error(exc) from exc
        for each in results:
            for_one = isinstance(each, refused) and not (
                isinstance(each, self._for_all) or str(each).startswith(_FOR_ALL)
            )
            if isinstance(each, Exception) and not for_one:
                raise self._engine_error(each) from each
        return results

    def _engine_error(self, exc: Exception) -> EngineError:
        """Return the error that stands for one of redis-py."""
        permanent = False
        cause: BaseException | None = exc
        while cause is not None:
            permanent |= isinstance(cause, self._refusals) or str(cause).startswith("NOAUTH")
            cause = cause.__cause__ or cause.__context__
        return EngineError(str(exc) or "no answer", permanent=permanent)

    def _by_hash(self, call: list[Any]) -> list[Any]:
        digest = self._scripts.get(call[0])
        return call if digest is None else ["EVALSHA", digest, 1, *call[1:]]

    async def reset(self) -> None:
        """Close all connections; the next command opens others."""
        if self._place.kind == "+cluster":
            # It looks for the servers again, too.
            await self.client.aclose()
        else:
            await self.client.connection_pool.disconnect(inuse_connections=True)

    async def close(self) -> None:
        """Close all connections."""
        await self.client.aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()


def _with_gruus(questions: Sequence[Lookup | Update]) -> list[tuple[str, Binding]]:
    return [
        (question.aor, each)
        for question in questions
        if isinstance(question, Update)
        for each in question.put
        if each.gruu
    ]


def _found(aor: str, fields: dict[bytes, bytes], reader: Node, ahead: float) -> Found:
    """Return the bindings in the fields of an address."""
    bindings = []
    for name, value in fields.items():
        if name == _VERSION or len(value) > _MAX_RECORD:
            continue
        try:
            bindings.append(binding_of(_text(value), reader, ahead))
        except RecordError:
            # Another version may write what this one does not understand.
            continue
    return Found(aor, tuple(bindings), int(fields.get(_VERSION, b"0")))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _milliseconds(seconds: float) -> int:
    return int(seconds * 1000)
