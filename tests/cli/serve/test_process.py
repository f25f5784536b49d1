"""What each of several processes has of its own."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.cli.serve.places import Place
from wsproto_sip.cli.serve.process import (
    VARIABLE,
    ParentNotifier,
    Process,
    check_ports,
    check_processes,
    take_process,
)
from wsproto_sip.cli.serve.settings import Settings, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SO_REUSEPORT"), reason="processes cannot share a port"
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Process]]:
    """Yield the parent's end of a channel, and a process with the other end."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(10)
        yield ours, Process(1, 2, theirs.detach(), 0.5, {}, {})


def test_description_is_taken_from_the_environment(pair: tuple[socket.socket, Process]) -> None:
    _, process = pair
    with socket.socket() as sock:
        sock.set_inheritable(True)
        given = Process(
            1,
            3,
            process.channel,
            1.5,
            {"[::1]:0": [("::1", 8080)]},
            {"unix:/run/ws": sock.fileno()},
            [("public", sock.fileno())],
        )
        environment = {VARIABLE: given.describe(), "A": "b"}
        assert take_process(environment) == given
        assert environment == {"A": "b"}
        # For programs that this one starts.
        assert not os.get_inheritable(sock.fileno())
    ParentNotifier(process).close()


def test_single_process_has_no_description() -> None:
    assert take_process({}) is None


def test_places_are_those_of_the_parent() -> None:
    process = Process(0, 2, places={"h:0": [("10.0.0.1", 80)]}, sockets={"unix:/run/ws": 5})
    assert process.addresses(Place(host="h")) == [("10.0.0.1", 80)]
    assert process.socket(Place(unix="/run/ws")) == 5
    message = "only a restart of all processes changes it"
    with pytest.raises(SettingsError, match=f"--listen: h:1: {message}"):
        process.addresses(Place(host="h", port=1))
    with pytest.raises(SettingsError, match=f"--listen: unix:/w: {message}"):
        Process(0, 2).socket(Place(unix="/w"))
    with pytest.raises(SettingsError, match=message):
        Process(0, 2).addresses(Place(host="h"))


def test_each_process_has_ports_and_paths_of_its_own() -> None:
    stated = Settings(
        ctl_http=9000,
        ctl_socket="/run/ctl",
        fifo="/run/fifo",
        msrp_peer_port=0,
        upstream_local="[::1]:5060",
        upstream_local_tls="10.0.0.1",
        node_name="here",
        node_listen="10.0.0.1:5070",
    )
    own = Process(2, 3).own(stated)
    assert (own.ctl_http, own.ctl_socket, own.fifo) == (9002, "/run/ctl.2", "/run/fifo.2")
    assert (own.msrp_peer_port, own.upstream_local) == (0, "[::1]:5062")
    assert own.upstream_local_tls == "10.0.0.1"
    assert (own.node_name, own.node_listen) == ("here/2", "10.0.0.1:5072")
    assert Process(0, 3).own(stated).ctl_http == 9000
    assert Process(1, 3).own(Settings()) == Settings()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--processes: SIP users of one process could not call those of another: .*--store"),
        (
            {"subprotocol": ("msrp",), "msrp_users": "users"},
            "--processes: MSRP sessions of one process could not reach .*--store",
        ),
        (
            {"subprotocol": ("none",), "ctl_http": 65534},
            "--ctl-http: process 2 would have port 65536, above 65535",
        ),
        (
            {"upstream": ("sip:core",), "upstream_local": "h:65535"},
            "--upstream-local: process 2 would have port 65537, above 65535",
        ),
    ],
)
def test_settings_that_several_processes_cannot_have(options: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_processes(Settings(processes=3, **options))
    # One process can.
    check_processes(Settings(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"subprotocol": ("none", "msrp")},
        {"upstream": ("sip:core",), "ctl_http": 0, "upstream_local": "h:5060"},
        {"store": "redis://h", "msrp_users": "users", "msrp_node_port": 0},
    ],
)
def test_settings_that_several_processes_can_have(options: Any) -> None:
    check_processes(Settings(processes=3, **options))


def test_system_without_shared_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT")
    with pytest.raises(SettingsError, match="--processes: this system cannot share a port"):
        check_processes(Settings(processes=2, subprotocol=("none",)))


def test_parent_is_told_what_happens(pair: tuple[socket.socket, Process]) -> None:
    ours, process = pair
    with closing(ParentNotifier(process)) as notifier:
        tell_all(notifier, process)
    events = [json.loads(line) for line in ours.recv(4096).splitlines()]
    assert [event.pop("event") for event in events] == ["announced", "failed", "ready", "alive"]
    assert events[0] == {"urls": ["ws://h/"]}


def tell_all(notifier: ParentNotifier, process: Process) -> None:
    assert notifier.watchdog == 0.5
    assert notifier.fileno() == process.channel
    notifier.tell("announced", urls=["ws://h/"])
    notifier.reloading()
    notifier.not_reloaded()
    notifier.ready("Listening")
    notifier.alive()
    notifier.stopping(5.0, "Stopping")
    assert not notifier.gone()


def test_end_of_the_parent_is_noticed(pair: tuple[socket.socket, Process]) -> None:
    ours, process = pair
    with closing(ParentNotifier(process)) as notifier:
        ours.close()
        assert notifier.gone()
        # There is nothing more to do.
        notifier.alive()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems report the end alone")
def test_parent_that_has_not_read_everything_has_ended_too(
    pair: tuple[socket.socket, Process],
) -> None:
    ours, process = pair
    with closing(ParentNotifier(process)) as notifier:
        notifier.alive()
        ours.close()
        # ECONNRESET.
        assert notifier.gone()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ctl_http": 8080}, "--ctl-http: 127.0.0.1:8080 is used by --port, too"),
        ({"host": "0.0.0.0", "ctl_http": 8080}, "--ctl-http: 127.0.0.1:8080 is used by --port"),
        ({"host": "localhost", "ctl_http": 8080}, "--ctl-http: 127.0.0.1:8080 is used by --port"),
        ({"msrp_peer_port": 8080}, "--msrp-peer-port: 127.0.0.1:8080 is used by --port, too"),
        (
            {"listen": ("ws://127.0.0.1:8443", "wss://127.0.0.1:8443")},
            "--listen: 127.0.0.1:8443 is given twice",
        ),
        (
            {"node_listen": "[::1]:5070", "msrp_node_port": 5070},
            "--msrp-node-port: [::1]:5070 is used by --node-listen, too",
        ),
        # The third process has the port of the first one's metrics.
        (
            {"processes": 3, "node_listen": "127.0.0.1:5070", "ctl_http": 5072},
            "--node-listen: 127.0.0.1:5072 is used by --ctl-http, too",
        ),
    ],
)
def test_a_port_serves_one_purpose(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_ports(Settings(**fields))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"port": 0, "ctl_http": 0},
        {"host": "::", "ctl_http": 8080},
        {"listen": ("unix:/run/ws",), "ctl_http": 8080},
        {"host": "127.0.0.2", "ctl_http": 8080, "node_listen": "127.0.0.3:8080"},
        {"processes": 2, "node_listen": "127.0.0.1:5070", "ctl_http": 5072},
    ],
)
def test_ports_that_differ(fields: dict[str, Any]) -> None:
    check_ports(Settings(**fields))
