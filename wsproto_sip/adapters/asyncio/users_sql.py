"""Users in a database, queried with SQL, on asyncio.

Theory of operation: databases are queried through their plain interface (DB-API, PEP 249), which
blocks. A few threads do that, each with a connection of its own that is opened when it is first
needed and again after an error. A thread that waits for a database prevents neither closing the
source nor the end of the program. If its question is given up, another thread takes its place, with
a connection of its own: the network may have lost the old one without telling.

SQLite needs nothing else; other databases are reached through SQLAlchemy, which knows their drivers
(``pip install "wsproto-sip[sql]"``).

The query is the operator's. Its parameters are ``:username``, the name in the credentials,
``:name``, the user that it stands for, and ``:realm``. It returns one row, or none for an unknown
user. These columns are used, by name: ``password``; ``ha1``, the MD5 of
``username:realm:password``; ``ha1_sha256``, the SHA-256 of the same; and ``name``, if the user's
differs from the requested one. A query that returns none of the first three is a fault of the
source; a user for whom they hold nothing that could be compared with credentials
(:class:`~wsproto_sip.auth.accounts.UnusableAccount`) is refused like an unknown one. A database may
take ``Alice`` for ``alice``; then the user has the name in the column ``username``, so that one
account is one user.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, urlsplit

from ...auth.accounts import Account, UnusableAccount, account_from
from ...auth.digest import Algorithm
from ...auth.identity import folded_name

if TYPE_CHECKING:
    from ...auth.verifier import AccountQuestion

__all__ = ["DEFAULT_QUERY", "SqlUsers"]

DEFAULT_QUERY: Final = "SELECT * FROM users WHERE username = :name"
"""The default query."""

_Job = tuple[Mapping[str, str], "Future[list[dict[str, Any]]]"]
_HASHES: Final = {"ha1": Algorithm.MD5, "ha1_sha256": Algorithm.SHA_256}
#: The columns that may hold what credentials are compared with.
_SECRETS: Final = frozenset(["password", *_HASHES])
#: Seconds that SQLite waits for another program's lock.
_BUSY: Final = 2.0
#: Threads that may wait for a database in vain, for each that queries it.
_MOST_STUCK: Final = 3
#: Questions that may wait for a thread.
_MOST_JOBS: Final = 1024


class _Connection(Protocol):
    """One connection to a database."""

    def rows(self, query: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
        """Run the query, and return at most two rows, as mappings by column name."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class _Sqlite:
    """A read-only connection to SQLite."""

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(
            f"file:{quote(path)}?mode=ro",
            uri=True,
            timeout=_BUSY,
            isolation_level=None,
        )

    def rows(self, query: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
        cursor = self._connection.execute(query, values)
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchmany(2)]

    def close(self) -> None:
        self._connection.close()


class _Alchemy:
    """A connection of SQLAlchemy."""

    def __init__(self, engine: Any, text: Callable[[str], Any]) -> None:
        self._connection = engine.connect()
        self._text = text

    def rows(self, query: str, values: Mapping[str, str]) -> list[dict[str, Any]]:
        statement = self._text(query)
        wanted = {name: values[name] for name in statement._bindparams}
        try:
            return [dict(row) for row in self._connection.execute(statement, wanted).mappings()][:2]
        finally:
            # An open transaction would keep seeing the old state of the database.
            self._connection.rollback()

    def close(self) -> None:
        self._connection.close()


class _Worker(threading.Thread):
    """A thread that runs one query after another on its connection.

    It is a daemon: with the threads of an executor, a hanging database would delay the end of the
    program.

    Args:
        source: The source it works for.
    """

    def __init__(self, source: SqlUsers) -> None:
        super().__init__(name="wsproto-sip-sql", daemon=True)
        self._source = source
        self._connection: _Connection | None = None
        #: The query that it runs.
        self.current: Future[list[dict[str, Any]]] | None = None
        #: Whether another thread has taken its place.
        self.replaced = False
        #: Resolved when the thread has ended.
        self.ended: Future[None] = Future()

    def run(self) -> None:
        """Run queries until there are no more, or until this thread was replaced."""
        while not self.replaced and (job := self._source._jobs.get()) is not None:
            values, future = job
            self.current = future
            # It was cancelled if it waited too long.
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._rows(values))
                except Exception as exc:
                    future.set_exception(exc)
        if self._connection is not None:
            self._connection.close()
        self._source._stuck.discard(self)
        self.ended.set_result(None)

    def _rows(self, values: Mapping[str, str]) -> list[dict[str, Any]]:
        if self._connection is None:
            self._connection = self._source._connect()
        try:
            return self._connection.rows(self._source._query, values)
        except Exception:
            # The next query opens a new connection.
            connection, self._connection = self._connection, None
            connection.close()
            raise


class SqlUsers:
    """A source of accounts in a database.

    Args:
        url: ``sqlite:///relative.db`` or ``sqlite:////absolute.db``; or the URL of another database
            in the form of SQLAlchemy, such as ``postgresql+psycopg://user@host/name``.
        query: The query.
        threads: Maximum number of concurrent queries.

    Raises:
        ImportError: SQLAlchemy is needed, but not installed.
        ValueError: The URL is invalid, or the number is not positive.
    """

    def __init__(self, url: str, query: str = DEFAULT_QUERY, *, threads: int = 4) -> None:
        if threads < 1:
            raise ValueError(f"threads must be positive: {threads!r}")
        self._connect = _connector(url)
        self._query = query
        self._most = threads
        self._workers: list[_Worker] = []
        #: Threads that were replaced, and still wait for their answer.
        self._stuck: set[_Worker] = set()
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()

    async def account(self, question: AccountQuestion) -> Account | None:
        """Look up an account.

        Raises:
            OSError: The database does not answer.
            ValueError: The query returned several rows, no column with a secret, or an invalid
                name.
            UnusableAccount: What is stored about the user cannot be compared with credentials.
            Exception: An exception of the database's driver.
        """
        values = {
            "username": question.username,
            "name": question.name,
            "realm": question.realm,
        }
        if self._jobs.qsize() >= _MOST_JOBS:
            raise OSError("the database does not answer")
        future: Future[list[dict[str, Any]]] = Future()
        self._jobs.put((values, future))
        if len(self._workers) < self._most:
            worker = _Worker(self)
            self._workers.append(worker)
            worker.start()
        try:
            rows = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._replace(future)
            raise
        if len(rows) > 1:
            raise ValueError("the query returned more than one row")
        return _account(rows[0], question.name) if rows else None

    def _replace(self, future: Future[list[dict[str, Any]]]) -> None:
        """Let another thread take the place of the one that still runs a query, if there is one."""
        for worker in self._workers:
            if worker.current is future and len(self._stuck) < _MOST_STUCK * self._most:
                self._workers.remove(worker)
                self._stuck.add(worker)
                worker.replaced = True
                break

    def check(self) -> None:
        """Run the query for an empty name, to check the database and the query.

        Raises:
            Exception: An exception of the database's driver.
        """
        connection = self._connect()
        try:
            connection.rows(self._query, dict.fromkeys(("username", "name", "realm"), ""))
        finally:
            connection.close()

    async def close(self, *, patience: float = 2.0) -> None:
        """Close all connections, after pending queries have been answered.

        Args:
            patience: Seconds to wait for that. Threads that are still waiting end after their
                answer.
        """
        workers, self._workers = [*self._workers, *self._stuck], []
        for _ in workers:
            self._jobs.put(None)
        if workers:
            ends = [asyncio.wrap_future(worker.ended) for worker in workers]
            await asyncio.wait(ends, timeout=patience)


def _connector(url: str) -> Callable[[], _Connection]:
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        path = url.removeprefix("sqlite:///")
        if path == url or not path:
            raise ValueError(f"not sqlite:///FILE: {url!r:.200}")
        return lambda: _Sqlite(path)
    if not scheme:
        raise ValueError(f"not the URL of a database: {url!r:.200}")
    try:
        import sqlalchemy  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ImportError(
            'databases other than SQLite need SQLAlchemy: pip install "wsproto-sip[sql]"'
        ) from exc
    try:
        # Each worker has one connection, which ends when it is closed.
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError) as exc:
        raise ValueError(f"not the URL of a database: {exc}") from None
    return lambda: _Alchemy(engine, sqlalchemy.text)


def _account(row: Mapping[str, Any], asked: str) -> Account:
    if _SECRETS.isdisjoint(row):
        raise ValueError("the row has no column password, ha1 or ha1_sha256")
    name = _text(row.get("name") or _stored(row.get("username"), asked))
    try:
        password = None if row.get("password") is None else _text(row["password"])
        # Columns of a fixed width (CHAR) end with spaces.
        ha1 = {
            algorithm: _text(row[column]).rstrip(" ")
            for column, algorithm in _HASHES.items()
            if row.get(column)
        }
    except UnicodeDecodeError:
        raise UnusableAccount("the stored secret is not UTF-8") from None
    return account_from(name, password, ha1)


def _stored(username: object, asked: str) -> str:
    """Return the form in which the database has a name, if it has another form of this one."""
    stored = "" if username is None else _text(username).rstrip(" ")
    return stored if folded_name(stored) == folded_name(asked) else asked


def _text(value: object) -> str:
    """Return the text of a column, which may hold bytes."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).decode()
    return str(value)
