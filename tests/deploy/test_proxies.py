"""nginx and HAProxy in front of the server, with the configurations of deploy/."""

from __future__ import annotations

import os
import re
import signal
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli._service import HANGS, Dialed, status_of

from ._proxies import (
    CLIENT,
    DEPLOY,
    adapted,
    block,
    certificate,
    free_port,
    program,
    running,
    server,
)

if TYPE_CHECKING:
    import ssl
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli._service import Service

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 is Linux's")

#: Connections that are open while something is reloaded.
MANY = 20


class Proxied:
    """A server behind a proxy.

    Args:
        service: The server.
        proxy: The proxy's process.
        plain: Its URL without TLS.
        secure: And with.
        tls: How clients trust it.
        reloads: The signal that has it read its configuration again.
    """

    def __init__(
        self,
        service: Service,
        proxy: subprocess.Popen[str],
        plain: str,
        secure: str,
        tls: ssl.SSLContext,
        reloads: signal.Signals,
    ) -> None:
        self.service = service
        self.proxy = proxy
        self.plain = plain
        self.secure = secure
        self.tls = tls
        self.reloads = reloads

    def dial(self, *, secure: bool = False) -> Dialed:
        url, tls = (self.secure, self.tls) if secure else (self.plain, None)
        return Dialed(f"{url}ws", ssl=tls, local_addr=(CLIENT, 0), proxy=None)


@contextmanager
def nginx(folder: Path, nodes: list[Path] | None = None) -> Iterator[Proxied]:
    path = program("nginx")
    tls, plain, secure = certificate(folder), free_port(), free_port()
    changes = {"unix:/run/wsproto-sip/ws": f"unix:{folder}/ws"}
    if nodes is not None:
        upstream = block("upstream wsproto_sip")
        for number, node in enumerate(nodes, 1):
            upstream = upstream.replace(f"10.0.0.{number}:8080", f"unix:{node}/ws")
        changes = {
            "upstream wsproto_sip {\n    server unix:/run/wsproto-sip/ws;\n}\n": upstream,
            "proxy_next_upstream off;\n": block("proxy_next_upstream"),
        }
    site = adapted(
        DEPLOY / "nginx" / "wsproto-sip.conf",
        **changes,
        **{
            "listen 80;": f"listen 127.0.0.1:{plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{secure} ssl;",
            "/etc/wsproto-sip/tls": str(folder),
        },
    )
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user} daemon off; pid {folder}/pid; error_log stderr warn; worker_processes 1;\n"
        "worker_shutdown_timeout 1h; events { worker_connections 512; }\n"
        f"http {{ access_log off;\n{paths}{site}}}\n",
        encoding="utf-8",
    )
    command = [path, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    home = folder if nodes is None else nodes[0]
    with server(home, "x-forwarded-for") as service, running(command, plain) as proxy:
        yield Proxied(
            service,
            proxy,
            f"ws://127.0.0.1:{plain}/",
            f"wss://127.0.0.1:{secure}/",
            tls,
            signal.SIGHUP,
        )


@contextmanager
def haproxy(folder: Path, nodes: list[Path] | None = None) -> Iterator[Proxied]:
    path = program("haproxy")
    tls, plain, secure = certificate(folder), free_port(), free_port()
    changes = {"unix@/run/wsproto-sip/ws": f"unix@{folder}/ws"}
    if nodes is not None:
        config = (DEPLOY / "haproxy" / "haproxy.cfg").read_text(encoding="utf-8")
        backend = block("backend wsproto_sip")
        for number, node in enumerate(nodes, 1):
            backend = backend.replace(f"10.0.0.{number}:8080", f"unix@{node}/ws")
        changes = {config[config.index("\nbackend wsproto_sip") :]: f"\n{backend}"}
    text = adapted(
        DEPLOY / "haproxy" / "haproxy.cfg",
        **changes,
        **{
            "bind :80\n": f"bind 127.0.0.1:{plain}\n",
            "bind :443 ssl": f"bind 127.0.0.1:{secure} ssl",
            "/etc/wsproto-sip/tls": str(folder),
        },
    )
    (folder / "haproxy.cfg").write_text(text, encoding="utf-8")
    # With a master process, as Debian's unit starts it.
    command = [path, "-W", "-db", "-f", str(folder / "haproxy.cfg")]
    home = folder if nodes is None else nodes[0]
    with server(home, "proxy-protocol") as service, running(command, plain) as proxy:
        yield Proxied(
            service,
            proxy,
            f"ws://127.0.0.1:{plain}/",
            f"wss://127.0.0.1:{secure}/",
            tls,
            signal.SIGUSR2,
        )


PROXIES = {"nginx": nginx, "haproxy": haproxy}
HEADERS = {"nginx": "x-forwarded-for", "haproxy": "proxy-protocol"}


@pytest.fixture(params=PROXIES)
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    with PROXIES[request.param](tmp_path) as found:
        yield found


def test_the_server_knows_who_comes_and_how(proxied: Proxied) -> None:
    with proxied.dial() as plain, proxied.dial(secure=True) as secure:
        for client in (plain, secure):
            client.send("hello")
            assert client.recv() == "hello"
            client.send(b"x" * 100_000)
            assert client.recv() == b"x" * 100_000
        shown = proxied.service.call("ws.dump")["connections"]
        peers = [re.search(r": (wss?):([0-9.]+):", line) for line in shown]
        assert [match and match.groups() for match in peers] == [("ws", CLIENT), ("wss", CLIENT)]
    # No other path leads to the server.
    assert status_of(proxied.plain, proxy=None) == 404
    assert status_of(f"{proxied.secure}other", ssl=proxied.tls, proxy=None) == 404


def test_what_a_client_says_of_itself_is_not_believed(proxied: Proxied) -> None:
    claims = {
        "X-Forwarded-For": "192.0.2.66",
        "X-Forwarded-Proto": "https",
        "Forwarded": "for=192.0.2.66;proto=https",
    }
    url = f"{proxied.plain}ws"
    with Dialed(url, local_addr=(CLIENT, 0), additional_headers=claims, proxy=None):
        [line] = proxied.service.call("ws.dump")["connections"]
        assert re.search(rf": ws:{re.escape(CLIENT)}:", line)


def test_reloading_under_load_loses_no_connection(proxied: Proxied) -> None:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(proxied.dial(secure=number % 2 == 0)) for number in range(MANY)
        ]

        def echoed(text: str) -> None:
            for client in clients:
                client.send(text)
            assert [client.recv() for client in clients] == [text] * len(clients)

        echoed("before")
        for round_ in range(3):
            for client in clients:
                client.send("meanwhile")
            proxied.proxy.send_signal(proxied.reloads)
            assert proxied.service.reload() == "Settings reloaded"
            assert [client.recv() for client in clients] == ["meanwhile"] * len(clients)
            clients.append(stack.enter_context(proxied.dial(secure=True)))
            echoed(f"after {round_}")
        assert len(proxied.service.call("ws.dump")["connections"]) == MANY + 3


@pytest.mark.parametrize("name", PROXIES)
def test_node_that_leaves_costs_no_client_a_handshake(name: str, tmp_path: Path) -> None:
    nodes = [tmp_path / "one", tmp_path / "two"]
    for node in nodes:
        node.mkdir()
    with (
        server(nodes[1], HEADERS[name]) as other,
        PROXIES[name](tmp_path, nodes) as proxied,
        ExitStack() as stack,
    ):

        def dialled() -> list[Dialed]:
            return [stack.enter_context(proxied.dial()) for _ in range(4)]

        def connections() -> list[int]:
            found = [proxied.service, other]
            return [len(service.call("ws.dump")["connections"]) for service in found]

        dialled()
        assert connections() == [2, 2]
        # It has the fewest connections then, and would be chosen for each new one.
        proxied.service.call("drain", 0)
        dialled()
        assert connections() == [0, 6]
        proxied.service.process.terminate()
        proxied.service.process.wait(HANGS)
        for client in dialled():
            client.send("hello")
            assert client.recv() == "hello"


@pytest.mark.parametrize(
    ("path", "option"),
    [
        ("nginx/wsproto-sip.conf", r"proxy_read_timeout +(\d+)s;"),
        ("haproxy/haproxy.cfg", r"timeout tunnel +(\d+)s"),
    ],
)
def test_proxies_wait_longer_than_the_keep_alive(path: str, option: str) -> None:
    from wsproto_sip.cli.serve.setup import _KEEPALIVE_TIMEOUT_SIP

    match = re.search(option, (DEPLOY / path).read_text(encoding="utf-8"))
    assert match is not None
    # A Ping, and the time that its answer may take.
    assert int(match[1]) > _KEEPALIVE_TIMEOUT_SIP + 60
