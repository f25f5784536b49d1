"""Numbers, states, dashboard and alert rules of a running server."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from wsproto_sip.cli import main
from wsproto_sip.cli.serve.operation import event_hook
from wsproto_sip.cli.serve.settings import Settings, SettingsError

from .._service import HANGS, FrameClient, Service, launched

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "wsproto-sip.rules.yml"
DASHBOARD = DEPLOY / "grafana" / "wsproto-sip.json"


def fetch(service: Service, path: str) -> tuple[int, str]:
    where = urlsplit(service.places["--url"])
    return _fetch(str(where.hostname), where.port or 80, path)


def _fetch(host: str, port: int, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, port, timeout=HANGS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the metrics of a server with all features."""
    path = tmp_path_factory.mktemp("operation")
    (path / "users").write_text("alice:secret\n")
    (path / "users").chmod(0o600)
    (path / "keys").write_text("ab" * 32 + "\n")
    (path / "keys").chmod(0o600)
    with launched(
        *("--ctl-http", "0", "--log-file", str(path / "log"), "--event-hook-command", "true"),
        *("--msrp-users", str(path / "users"), "--allow-insecure-msrp", "--no-page"),
        # Nothing asks it.
        *("--users-http", "http://127.0.0.1:1/users"),
        # It cannot be reached.
        *("--store", "redis://127.0.0.1:1", "--node-listen", "127.0.0.1:0"),
        *("--sip-flow-keys", str(path / "keys")),
    ) as service:
        with service.dial() as client:
            client.send("hello")
            client.recv()
        assert service.status(origin="https://elsewhere.test") == 403
        yield fetch(service, "/metrics")[1]


def promtool() -> str:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    return program


def test_promtool_accepts_the_names(metrics: str) -> None:
    done = subprocess.run(
        [promtool(), "check", "metrics"], input=metrics, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_accepts_the_rules() -> None:
    done = subprocess.run(
        [promtool(), "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def names_in(expression: str) -> set[str]:
    """Return the metrics of an expression: words that are not functions, labels or keywords."""
    bare = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    bare = re.sub(r"\{[^}]*\}|\bby \([^)]*\)", "", bare)
    words = set(re.findall(r"[a-z_][a-z_0-9]*(?!\w)(?!\s*\()", bare))
    return words - {"or", "and", "le", "up", "by", "e9"}


def shown(metrics: str) -> set[str]:
    names = set()
    for line in metrics.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            names.add(name)
            if kind == "histogram":
                names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
    return names


#: Shown with an upstream only.
UPSTREAM = {"sip_upstream_registrations_total"}


def test_every_metric_of_the_dashboard_exists(metrics: str) -> None:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    used = set()
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            used |= names_in(target["expr"])
    assert len(used) > 30
    assert used - UPSTREAM <= shown(metrics)


def test_every_metric_of_the_rules_exists(metrics: str) -> None:
    expressions = re.findall(
        r"expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", RULES.read_text(encoding="utf-8")
    )
    assert len(expressions) >= 11
    used = set().union(*[names_in(first or second) for first, second in expressions])
    assert len(used) > 10
    assert used <= shown(metrics)


def test_metrics_count_the_events(metrics: str) -> None:
    lines = metrics.splitlines()
    assert "ws_successful_handshakes_total 1" in lines
    assert 'ws_answers_total{status="403"} 1' in lines
    assert "ws_message_size_bytes_count 1" in lines
    assert "sip_registrations 0" in lines
    assert "msrp_sessions 0" in lines
    assert "wsproto_sip_log_dropped_lines_total 0" in lines


def test_alive_and_ready(tmp_path: Path) -> None:
    with launched("--ctl-http", "0", "--ctl-socket", str(tmp_path / "socket")) as service:
        assert fetch(service, "/health") == (200, "alive\n")
        assert fetch(service, "/ready") == (200, "ready\n")
        service.call("ws.disable")
        assert fetch(service, "/ready") == (503, "not ready\n")
        assert fetch(service, "/health") == (200, "alive\n")


def at_the_port(service: Service, path: str) -> tuple[int, str]:
    """Return the response to a path on the port of the connections."""
    return _fetch(*service.address, path)


def test_not_ready_while_it_drains(tmp_path: Path) -> None:
    """On request the server goes on running; at SIGTERM only the management port is left."""
    with launched(
        *("--health", "/healthz", "--ready", "/readyz", "--drain-seconds", "60"),
        *("--ctl-http", "0", "--ctl-socket", str(tmp_path / "socket")),
        *("--log-format", "text", "--log-level", "ws=debug"),
    ) as service:
        assert at_the_port(service, "/readyz") == (200, "ready\n")
        # A client that does not answer the close frame.
        with FrameClient(service):
            assert service.ctl("drain", "60")[0] == 0
            assert at_the_port(service, "/readyz") == (503, "not ready\n")
            assert at_the_port(service, "/healthz") == (200, "alive\n")
            assert fetch(service, "/ready") == (503, "not ready\n")
            # What is asked of a server that drains is not a handshake that has failed.
            _, metrics = fetch(service, "/metrics")
            assert "ws_failed_handshakes_total 0" in metrics.splitlines()
            assert 'ws_answers_total{status="503"} 1' in metrics.splitlines()
            service.process.send_signal(signal.SIGTERM)
            assert service.process.stderr is not None
            lines = iter(service.process.stderr.readline, "")
            told: list[str] = []
            while not any("server stopping" in line for line in told):
                told.append(next(lines))
            assert fetch(service, "/ready") == (503, "not ready\n")
            assert fetch(service, "/health") == (200, "alive\n")
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(HANGS) == 0
        served = [line for line in told if " debug ws served " in line]
        assert [line.partition(" status=")[2][:3] for line in served] == ["200", "503", "200"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"event_hook": "nothing"}, "--event-hook: 'nothing' is not MODULE:FUNCTION"),
        ({"event_hook": "a b:c"}, "--event-hook: 'a b:c' is not MODULE:FUNCTION"),
        ({"event_hook": "a:b", "event_hook_command": "true"}, "there is an --event-hook"),
        ({"event_hook_command": "'"}, "--event-hook-command: No closing quotation"),
        ({"event_hook_command": " "}, "--event-hook-command: not a command"),
    ],
)
def test_invalid_hooks_are_refused(options: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(expected)):
        event_hook(Settings(**options))  # type: ignore[arg-type]
    assert event_hook(Settings()) is None


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--event-hook", "json:nothing"], "--event-hook: AttributeError: "),
        (["--event-hook", "no_such_module:f"], "--event-hook: ModuleNotFoundError: "),
        (["--event-hook-command", "/nowhere/program"], "no such program: /nowhere/program"),
    ],
)
def test_hooks_that_are_not_there(
    flags: list[str], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--port", "0", *flags]) == 2
    assert expected in capfd.readouterr().err
