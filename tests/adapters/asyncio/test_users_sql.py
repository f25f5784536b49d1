"""Users in a real SQLite file, and through SQLAlchemy."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.peers._support import run
from wsproto_sip.adapters.asyncio import users_sql
from wsproto_sip.adapters.asyncio.users_sql import DEFAULT_QUERY, SqlUsers
from wsproto_sip.auth import Account, AccountQuestion, Algorithm, Identity, UnusableAccount

HASHES = {Algorithm.MD5: "ab" * 16, Algorithm.SHA_256: "cd" * 32}


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "users 100%.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE users (username, password, ha1, ha1_sha256, name)")
        connection.executemany(
            "INSERT INTO users VALUES (?, ?, ?, ?, ?)",
            [
                ("alice", "wonderland", None, None, None),
                ("bob", None, "AB" * 16, "cd" * 32, "robert"),
                ("carol", b"caf\xc3\xa9", None, None, None),
                ("dave", None, b"ab" * 16 + b"  ", None, None),
                ("nothing", None, None, None, None),
                ("locked", "", None, None, None),
                ("starred", None, "*", None, None),
                ("crypted", "$2y$05$abc", None, None, None),
                ("latin", None, b"\xe9" * 32, None, None),
                ("odd", "x", None, None, "a\nb"),
                ("twice", "1", None, None, None),
                ("twice", "2", None, None, None),
            ],
        )
    connection.close()
    return path


def asked(name: str, username: str = "") -> AccountQuestion:
    return AccountQuestion(username or name, "calls", name)


def urls(path: Path) -> list[str]:
    """Return URLs of the file: for SQLite alone and, like another database, for SQLAlchemy."""
    return [f"sqlite:///{path}", f"sqlite+pysqlite:///{path}"]


@pytest.mark.parametrize("number", [0, 1])
def test_accounts_are_found_by_their_columns(database: Path, number: int) -> None:
    if number:
        pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")

    async def scenario() -> None:
        users = SqlUsers(urls(database)[number], threads=2)
        users.check()
        try:
            found = await asyncio.gather(*[users.account(asked("alice")) for _ in range(8)])
            assert found == [Account(Identity("alice"), "wonderland")] * 8
            assert await users.account(asked("bob")) == Account(Identity("robert"), None, HASHES)
            assert await users.account(asked("carol")) == Account(Identity("carol"), "café")
            md5 = {Algorithm.MD5: HASHES[Algorithm.MD5]}
            assert await users.account(asked("dave")) == Account(Identity("dave"), None, md5)
            assert await users.account(asked("alice", "alice@sip.test")) == found[0]
            assert await users.account(asked("nobody")) is None
            # Values are not inserted into the query text.
            assert await users.account(asked("' OR 1=1 --")) is None
            for name, reason in (
                ("nothing", "no password and no hash is stored"),
                ("locked", "the password is empty"),
                ("starred", "not the 32 digits of MD5"),
                ("crypted", "a hashed password"),
                ("latin", "the stored secret is not UTF-8"),
            ):
                with pytest.raises(UnusableAccount, match=reason):
                    await users.account(asked(name))
            for name, reason in (("odd", "not a user name"), ("twice", "more than one row")):
                with pytest.raises(ValueError, match=reason) as caught:
                    await users.account(asked(name))
                assert not isinstance(caught.value, UnusableAccount)
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE users SET password = 'new' WHERE username = 'alice'")
            connection.close()
            assert await users.account(asked("alice")) == Account(Identity("alice"), "new")
        finally:
            await users.close()

    run(scenario())


def test_account_is_one_user_where_the_database_ignores_case(database: Path) -> None:
    async def scenario() -> None:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("CREATE TABLE folded (username CHAR(8) COLLATE NOCASE, password)")
            connection.execute("INSERT INTO folded VALUES ('alice   ', 'wonderland')")
        connection.close()
        query = "SELECT * FROM folded WHERE trim(username) = :name COLLATE NOCASE"
        users = SqlUsers(f"sqlite:///{database}", query)
        for name in ("alice", "ALICE", "Alice"):
            assert await users.account(asked(name)) == Account(Identity("alice"), "wonderland")
        await users.close()
        # The name that it is stored under is not another form of the one that was asked for.
        query = "SELECT * FROM folded WHERE :name = '1001'"
        users = SqlUsers(f"sqlite:///{database}", query)
        assert await users.account(asked("1001")) == Account(Identity("1001"), "wonderland")
        await users.close()

    run(scenario())


def test_custom_query_is_used(database: Path) -> None:
    async def scenario() -> None:
        query = "SELECT upper(password) AS password, :realm AS name FROM users "
        query += "WHERE username = :username"
        users = SqlUsers(f"sqlite:///{database}", query)
        found = await users.account(asked("someone", "alice"))
        assert found == Account(Identity("calls"), "WONDERLAND")
        await users.close()

    run(scenario())


def test_query_without_a_secret_is_a_fault_of_the_source(database: Path) -> None:
    async def scenario() -> None:
        query = "SELECT username, password AS secret FROM users WHERE username = :name"
        users = SqlUsers(f"sqlite:///{database}", query)
        with pytest.raises(ValueError, match="no column password, ha1 or ha1_sha256") as caught:
            await users.account(asked("alice"))
        assert not isinstance(caught.value, UnusableAccount)
        await users.close()

    run(scenario())


class Hanging:
    """A connection on which every query but the first hangs until released."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.free = threading.Event()
        self.closed = threading.Event()

    def rows(self, query: str, values: object) -> list[dict[str, str]]:
        self.asked.set()
        self.free.wait()
        return [{"password": "x"}]

    def close(self) -> None:
        self.closed.set()


def test_hanging_database_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Hanging()
    monkeypatch.setattr(users_sql, "_connector", lambda url: lambda: hanging)

    async def scenario() -> None:
        users = SqlUsers("sqlite:///x", threads=1)
        first = asyncio.ensure_future(users.account(asked("alice")))
        await asyncio.to_thread(hanging.asked.wait)
        # It waits for a thread, and is cancelled.
        second = asyncio.ensure_future(users.account(asked("bob")))
        await asyncio.sleep(0)
        second.cancel()
        await users.close(patience=0.01)
        assert not hanging.closed.is_set()
        hanging.free.set()
        assert await first == Account(Identity("alice"), "x")
        await asyncio.to_thread(hanging.closed.wait)
        # Closing twice, or without any query, waits for nothing.
        await users.close()

    run(scenario())


def test_lost_connections_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that a firewall has forgotten hang for hours; others are opened instead."""
    lost = [Hanging() for _ in range(3)]
    good = Hanging()
    good.free.set()
    connections = iter([*lost, good])
    monkeypatch.setattr(users_sql, "_connector", lambda url: lambda: next(connections))

    async def scenario() -> None:
        users = SqlUsers("sqlite:///x", threads=1)

        async def give_up(hanging: Hanging) -> None:
            asking = asyncio.ensure_future(users.account(asked("alice")))
            await asyncio.to_thread(hanging.asked.wait)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

        for hanging in lost:
            await give_up(hanging)
        for _ in range(2):
            assert await users.account(asked("alice")) == Account(Identity("alice"), "x")
        # There are so many stuck threads that this one is not replaced.
        good.free.clear()
        good.asked.clear()
        await give_up(good)
        waiting = asyncio.ensure_future(users.account(asked("alice")))
        await asyncio.sleep(0)
        monkeypatch.setattr(users_sql, "_MOST_JOBS", 1)
        with pytest.raises(OSError, match="does not answer"):
            await users.account(asked("alice"))
        good.free.set()
        assert await waiting == Account(Identity("alice"), "x")
        for hanging in lost:
            assert not hanging.closed.is_set()
            hanging.free.set()
            await asyncio.to_thread(hanging.closed.wait)
        await users.close()
        assert good.closed.is_set()

    run(scenario())


def test_missing_database_is_opened_later(tmp_path: Path) -> None:
    path = tmp_path / "late.db"

    async def scenario() -> None:
        users = SqlUsers(f"sqlite:///{path}", threads=1)
        with pytest.raises(sqlite3.OperationalError):
            users.check()
        with pytest.raises(sqlite3.OperationalError):
            await users.account(asked("alice"))
        other = SqlUsers(f"sqlite:///{path}")
        with pytest.raises(sqlite3.OperationalError):
            await other.account(asked("alice"))
        await other.close()
        # A query does not create it.
        assert not path.exists()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE others (username TEXT, password TEXT)")
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            await users.account(asked("alice"))
        connection.execute("ALTER TABLE others RENAME TO users")
        connection.execute("INSERT INTO users VALUES ('alice', 'x')")
        connection.commit()
        connection.close()
        assert await users.account(asked("alice")) == Account(Identity("alice"), "x")
        await users.close()

    run(scenario())


@pytest.mark.parametrize("url", ["users.db", "sqlite:users.db", "sqlite:///", "nothing://x/y"])
def test_invalid_database_is_refused(url: str) -> None:
    pytest.importorskip("sqlalchemy", reason="SQLAlchemy is not installed")
    with pytest.raises(ValueError, match=r"not the URL of a database|not sqlite:///FILE"):
        SqlUsers(url)
    with pytest.raises(ValueError, match="threads must be positive: 0"):
        SqlUsers("sqlite:///x", threads=0)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"wsproto-sip\[sql\]"):
        SqlUsers("postgresql://localhost/users")
    assert DEFAULT_QUERY in users_sql.__dict__.values()
