"""The commands of ``wsproto-sip serve`` itself."""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.reports import LOGGERS
from wsproto_sip.cli.serve.commands import add_service_commands
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.server.management.commands import (
    ApplicationCommand,
    CommandError,
    CommandTable,
    EmptyResult,
    FactsResult,
    ValueResult,
)

from .._service import Dialed, launched

if TYPE_CHECKING:
    from pathlib import Path

SETTINGS = replace(Settings(), origin=("https://a", "null"), port=9)


def run(name: str, *params: object, reload: Any = lambda: None) -> Any:
    commands = CommandTable()
    add_service_commands(commands, lambda: SETTINGS, reload)
    command = commands.parse(name, params)
    assert isinstance(command, ApplicationCommand)
    return command.execute(0.0)


def test_options_in_force() -> None:
    everything = run("config.get")
    assert isinstance(everything, FactsResult)
    values = everything.values
    assert (values["port"], values["origin"], values["deflate"]) == (9, "https://a, null", "yes")
    assert (values["sip-users"], values["close-timeout"]) == ("", 5.0)
    assert run("config.get", "sip-mode") == run("config.get", "--sip_mode")
    assert run("config.get", "sip-mode") == ValueResult("outbound")
    with pytest.raises(CommandError, match=r"404 No such option: prot; did you mean port\?"):
        run("config.get", "prot")


def test_reloading() -> None:
    assert run("reload") == EmptyResult()

    def fail() -> None:
        raise SettingsError("--port: no")

    with pytest.raises(CommandError, match="500 Nothing is reloaded: --port: no"):
        run("reload", reload=fail)


def test_log_levels() -> None:
    every = run("log.level", "warning").values
    assert every.keys() == LOGGERS.keys()
    assert set(every.values()) == {"warning"}
    assert run("log.level", "sip=debug").values == every | {"sip": "debug"}
    assert LOGGERS["sip"].level == logging.DEBUG
    assert run("log.level").values == every | {"sip": "debug"}
    for wrong in ("loud", "a b=debug", "sip=", "sip=loud"):
        with pytest.raises(CommandError, match="500 Invalid Parameters"):
            run("log.level", wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGHUP and Unix sockets")
class TestRunning:
    """With a server that runs."""

    def test_commands_of_all_applications(self, tmp_path: Path) -> None:
        users = tmp_path / "users"
        users.write_text("alice:secret\n", encoding="utf-8")
        options = ["--ctl-socket", str(tmp_path / "ctl"), "--fifo", str(tmp_path / "fifo")]
        options += ["--msrp-users", str(users), "--allow-insecure-msrp"]
        with launched(*options) as service:
            names = service.call("system.listMethods")
            assert {"ul.dump", "ul.lookup", "ul.rm", "tm.list", "msrp.sessions"} <= set(names)
            assert {"config.get", "reload", "log.level", "drain", "ws.dump"} <= set(names)
            assert service.call("core.help", "ul.rm").startswith("Remove ")
            [domain] = service.call("ul.dump")["Domains"]
            assert domain["Domain"]["Stats"]["Records"] == 0
            assert service.call("msrp.sessions")["sessions"] == []
            assert service.call("config.get", "msrp-users") == str(users)
            assert service.call("reload") == {}
            assert service.process.stdout is not None
            assert service.process.stdout.readline() == "Settings reloaded\n"
            users.write_text("alice", encoding="utf-8")
            error = service.call("reload")
            assert (error["code"], error["message"]) == (500, "Nothing is reloaded")
            assert error["data"].startswith("--msrp-users: ")
            # The form in lines has the same in it.
            for place in ("--fifo", "--socket"):
                assert service.ctl("ul.dump", "--json", place=place)[0] == 0
            one, two = (
                service.ctl("ul.dump", "--json", place=place)[1] for place in ("--fifo", "--socket")
            )
            assert one == two

    def test_what_cfg_seti_has_set_outlasts_a_reload(self, tmp_path: Path) -> None:
        config = tmp_path / "serve.toml"
        config.write_text("keepalive-interval = 2\n", encoding="utf-8")
        options = ["--config", str(config), "--ctl-socket", str(tmp_path / "ctl")]
        with launched(*options) as service:

            def settings() -> tuple[int, int, int]:
                found = service.call("cfg.get", "websocket")
                names = ("keepalive_timeout", "keepalive_mechanism", "keepalive_interval")
                return tuple(found[name] for name in names)

            assert settings() == (25, 1, 2)
            assert service.call("cfg.seti", "websocket", "keepalive_timeout", 60) == {}
            assert service.call("cfg.seti", "websocket", "keepalive_interval", 3) == {}
            assert service.reload() == "Settings reloaded"
            assert settings() == (60, 1, 3)
            # An option that was changed since is the later word; the others stay.
            config.write_text('keepalive-mechanism = "pong"\nkeepalive-interval = 4\n')
            assert service.reload() == "Settings reloaded"
            assert settings() == (60, 2, 4)
            config.write_text("keepalive-timeout = 90\nkeepalive-interval = 4\n")
            assert service.reload() == "Settings reloaded"
            assert settings() == (90, 1, 4)
            with Dialed(service.url) as client:
                client.send("x")
                assert client.recv() == "x"
            service.process.send_signal(signal.SIGTERM)
