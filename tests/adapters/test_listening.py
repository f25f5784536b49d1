"""Unix sockets and inherited sockets to listen on, and failures to accept."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING

import pytest

from wsproto_sip.adapters._listening import (
    AcceptBackoff,
    as_address,
    open_listener,
    peer_of,
    place_of,
    unlink,
)

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"


def test_address_is_left_to_the_adapter() -> None:
    assert open_listener(0, None, None, 5) is None


@pytest.mark.parametrize(
    ("port", "unix", "sock"), [(None, None, None), (1, "x", None), (1, None, 0), (None, "x", 0)]
)
def test_exactly_one_place_is_required(
    port: int | None, unix: str | None, sock: int | None
) -> None:
    with pytest.raises(TypeError, match="name exactly one place to listen on"):
        open_listener(port, unix, sock, 5)


@pytest.mark.parametrize("by_number", [False, True])
def test_inherited_socket_is_used(by_number: bool) -> None:
    given = socket.create_server((HOST, 0))
    place = given.getsockname()
    listener = open_listener(None, None, given.detach() if by_number else given, 5)
    assert listener
    with listener:
        assert not listener.getblocking()
        assert place_of(listener) == place
        unlink(listener)
        socket.create_connection(place).close()


def test_descriptor_that_is_not_a_socket_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("w") as file, pytest.raises(OSError, match="socket"):
        open_listener(None, None, file.fileno(), 5)


def test_unix_socket_is_made_and_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    for _ in range(2):
        # The second time the path exists, and no server listens on it.
        listener = open_listener(None, path, None, 5)
        assert listener
        assert place_of(listener) == (path, 0)
        listener.close()
    listener = open_listener(None, path, None, 5)
    assert listener
    with listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        unlink(listener)
        assert not os.path.exists(path)
        # It may have been removed by someone else.
        unlink(listener)


def test_path_in_use_is_not_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = open_listener(None, path, None, 5)
    assert listener
    with listener:
        with pytest.raises(OSError, match="in use"):
            open_listener(None, path, None, 5)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("kept")
    with pytest.raises(OSError, match="in use"):
        open_listener(None, str(path), None, 5)
    assert path.read_text() == "kept"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux has it")
def test_abstract_namespace() -> None:
    path = f"\0wsproto-sip-{os.getpid()}"
    listener = open_listener(None, path, None, 5)
    assert listener
    with listener:
        assert place_of(listener) == (path, 0)
        unlink(listener)


def test_addresses() -> None:
    assert as_address(("::1", 5, 0, 0)) == ("::1", 5)
    assert as_address("/x") == ("/x", None)
    assert as_address(b"\0x") == ("\0x", None)
    assert as_address(None) == ("", None)


def test_failing_accept_backs_off_and_logs_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Immediate retries would use all CPU, and their log records would fill the disk."""
    backoff = AcceptBackoff(logging.getLogger("wsproto_sip.test"))
    error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    now, pauses = 0.0, []
    while now < 59:
        pauses.append(backoff.failed(error, now))
        now += pauses[-1]
    assert pauses[:6] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0]
    assert set(pauses[5:]) == {1.0}
    assert [record.getMessage() for record in caplog.records] == [
        'accept-failed reason="Too many open files" failures=1'
    ]
    backoff.succeeded()
    assert backoff.failed(RuntimeError("can't start new thread"), 60.0) == 0.05
    assert caplog.messages[1].endswith(f"can't start new thread\" failures={len(pauses) + 1}")


# -- the peer of a connection ----------------------------------------------------------------------


def test_peer_at_an_address_is_called_by_it() -> None:
    with socket.create_server((HOST, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        ours, name = listener.accept()
        with client, ours:
            assert peer_of(name, ours) == name
            assert peer_of(None, None) == ("", None)


def test_peer_that_has_gone_is_unknown_at_a_unix_socket() -> None:
    with socket.socket() as ours:
        assert peer_of(None, ours) == ("unknown", None)


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="users are not told here")
def test_peer_at_a_unix_socket_is_its_user_and_not_what_it_calls_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    user = f"unix-{os.getuid()}", None
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
        listener.listen()
        client.bind("10.0.0.1")
        client.connect("s")
        ours, name = listener.accept()
        with ours:
            assert name == "10.0.0.1"
            assert peer_of(name, ours) == user
            assert peer_of("", ours) == user
        # Its descriptor is gone.
        assert peer_of(name, ours) == ("unix", None)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="there are no Unix sockets here")
def test_system_that_does_not_tell_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_PEERCRED", raising=False)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert peer_of("", ours) == ("unix", None)


def test_socket_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="sock must be a socket or a descriptor, not 'listener'"):
        open_listener(None, None, "listener", 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="port must be an integer from 0 to 65535"):
        open_listener("80", None, None, 1)  # type: ignore[arg-type]
