"""One table of options: flags, TOML keys, kamailio.cfg, and what goes before what."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.auth.throttle import Slowdown
from wsproto_sip.cli.serve.settings import (
    Settings,
    SettingsError,
    about,
    add_options,
    load,
    option_name,
    restart_needed,
    share_of,
    slowdown_of,
)
from wsproto_sip.server.shares import ShareConfig

ROOT = Path(__file__).resolve().parents[3]
NAMES = [option_name(field.name) for field in fields(Settings)]


def flags(*words: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser)
    return vars(parser.parse_args(words))


def from_toml(tmp_path: Path, text: str, **given: Any) -> Settings:
    path = tmp_path / "serve.toml"
    path.write_text(text, encoding="utf-8")
    return load(given, config=str(path))[0]


def test_defaults() -> None:
    assert load({}) == (Settings(), [], {})
    assert flags() == {}


@pytest.mark.parametrize(
    ("words", "toml", "expected"),
    [
        (["--host", "::1"], 'host = "::1"', {"host": "::1"}),
        (["--port", "0"], "port = 0", {"port": 0}),
        (["--port", "65535"], "port = 65535", {"port": 65535}),
        (["--keepalive-timeout", "1.5"], "keepalive-timeout = 1.5", {"keepalive_timeout": 1.5}),
        (["--idle-timeout", "0"], "idle-timeout = 0", {"idle_timeout": 0}),
        (["--no-deflate"], "deflate = false", {"deflate": False}),
        (["--deflate"], "deflate = true", {"deflate": True}),
        (["--prefer", "server"], 'prefer = "server"', {"prefer": "server"}),
        (["--log-format", "json"], 'log-format = "json"', {"log_format": "json"}),
        (
            ["--origin", "https://a", "--origin", "null"],
            'origin = ["https://a", "null"]',
            {"origin": ("https://a", "null")},
        ),
        (["--subprotocol", "sip"], 'subprotocol = ["sip"]', {"subprotocol": ("sip",)}),
    ],
)
def test_flags_and_toml_mean_the_same(
    tmp_path: Path, words: list[str], toml: str, expected: dict[str, Any]
) -> None:
    wanted = replace(Settings(), **expected)
    assert load(flags(*words))[0] == wanted
    assert from_toml(tmp_path, toml) == wanted


def test_shares_are_a_total_and_bounds_by_name() -> None:
    assert share_of("2000") == ShareConfig(2000)
    assert share_of("9,user=4,reserve=0") == ShareConfig(9, reserve=0, per_user=4)
    assert share_of("9,connection=2,address=3,reserve=8") == ShareConfig(9, 8, 2, 3)
    with pytest.raises(ValueError, match="not of the form"):
        share_of("9,user")


def test_a_slowdown_is_read_as_it_is_written() -> None:
    assert slowdown_of("7,longest=30,forgive=60") == Slowdown(7, 30.0, 60.0)
    with pytest.raises(ValueError, match=r"not of the form .*: '7'"):
        slowdown_of("7")


SLOWDOWN = "FREE,longest=SECONDS,forgive=SECONDS with positive numbers"
SHARES = "TOTAL[,reserve=N][,connection=N][,address=N][,user=N] with a reserve below TOTAL"


@pytest.mark.parametrize(
    ("name", "word", "toml", "words"),
    [
        ("port", "65536", "65536", "a number from 0 to 65535"),
        ("port", "-1", "-1", "a number from 0 to 65535"),
        ("port", "", '""', "a number from 0 to 65535"),
        ("port", "\u0661", '"1"', "a number from 0 to 65535"),
        ("port", "1e3", "1e3", "a number from 0 to 65535"),
        ("port", "1_0", "true", "a number from 0 to 65535"),
        ("open-timeout", "0", "0", "a number of seconds from 0.1 to 3600"),
        ("open-timeout", "nan", "nan", "a number of seconds from 0.1 to 3600"),
        ("open-timeout", "inf", "inf", "a number of seconds from 0.1 to 3600"),
        ("prefer", "both", '"both"', "client or server"),
        ("keepalive-mechanism", "1", "1", "none, ping, pong or check"),
        ("host", "", '""', "a host"),
        ("host", "a\nb", '"a\\nb"', "a host"),
        ("cors-mode", "3", "3", "a number from 0 to 2"),
        *[
            ("sip-rate", text, f'"{text}"', SHARES)
            for text in ("0", "-1", "1,", "9,reserve=9", "9,address=0", "9,port=1", "many")
        ],
        *[
            ("guess-pair", text, f'"{text}"', SLOWDOWN)
            for text in ("5", "0,longest=1,forgive=1", "5,longest=0,forgive=1", "5,forgive=1")
        ],
    ],
)
def test_bad_values(tmp_path: Path, name: str, word: str, toml: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentError) as caught:
        flags(f"--{name}={word}")
    assert str(caught.value) == f"argument --{name}: {word!r} is not {words}"
    with pytest.raises(SettingsError, match=f"{name}: .* is not {re.escape(words)}$"):
        from_toml(tmp_path, f"{name} = {toml}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('deflate = "yes"', r"deflate: 'yes' is not true or false"),
        ('origin = "any"', r"origin: 'any' is not an array; each item must be an origin"),
        (
            'subprotocol = ["sip", "SIP"]',
            r"subprotocol: .* is not an array; each item must be sip, msrp or none",
        ),
        ("origin = [1]", r"origin: \[1\] is not an array; each item must be an origin"),
        ("ports = 1", r"'ports': no such option; did you mean port\?$"),
        (
            "max_connections = 1",
            r"'max_connections': no such option; did you mean max-connections\?$",
        ),
        ("[table]\nport = 1", r"'table': no such option$"),
        ("port =", r"Invalid value"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        from_toml(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "serve.toml"))


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    for option in ("config", "kamailio_cfg"):
        given: dict[str, Any] = {option: str(tmp_path / "nowhere")}
        with pytest.raises(SettingsError, match="nowhere: No such file or directory"):
            load({}, **given)
        with pytest.raises(SettingsError, match="latin: not UTF-8"):
            load({}, **{**given, option: str(tmp_path / "latin")})


KAMAILIO = """\
loadmodule "msrp.so"
loadmodule "websocket.so"
modparam("websocket", "keepalive_mechanism", 2)
modparam("websocket", "keepalive_processes", 3)
modparam("websocket", "ping_application_data", "there?")
modparam("websocket", "cors_mode", 1)
"""


def test_kamailio_cfg(tmp_path: Path) -> None:
    path = tmp_path / "kamailio.cfg"
    path.write_text(KAMAILIO, encoding="utf-8")
    assert load({}, kamailio_cfg=str(path))[:2] == (
        replace(
            Settings(),
            keepalive_mechanism="pong",
            keepalive_timeout=180.0,
            keepalive_processes=3,
            keepalive_interval=1.0,
            keepalive_data="there?",
            subprotocol=("sip", "msrp"),
            prefer="server",
            cors_mode=1,
        ),
        [],
    )
    path.write_text(f'{KAMAILIO}modparam("websocket", "cors_mode", 3)\n', encoding="utf-8")
    with pytest.raises(SettingsError, match=r"kamailio\.cfg: line 7: cors_mode = 3: must be"):
        load({}, kamailio_cfg=str(path))
    path.write_text(f'{KAMAILIO}modparam("websocket", "verbose_list", 1)\n', encoding="utf-8")
    assert load({}, kamailio_cfg=str(path))[1] == [
        f"{path}: line 7: verbose_list has no effect here: the command ws.dump shows the table"
    ]


@given(st.sets(st.sampled_from(["kamailio.cfg", "TOML", "flags"])))
def test_precedence(tmp_path_factory: pytest.TempPathFactory, given: set[str]) -> None:
    path = tmp_path_factory.getbasetemp()
    (path / "precedence.toml").write_text("cors-mode = 2", encoding="utf-8")
    (path / "precedence.cfg").write_text(KAMAILIO, encoding="utf-8")
    settings, *_ = load(
        {"cors_mode": 0} if "flags" in given else {},
        config=str(path / "precedence.toml") if "TOML" in given else None,
        kamailio_cfg=str(path / "precedence.cfg") if "kamailio.cfg" in given else None,
    )
    expected = 1 if "kamailio.cfg" in given else 0
    if "TOML" in given:
        expected = 2
    assert settings.cors_mode == (0 if "flags" in given else expected)


def test_errors_name_the_file_that_the_option_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "serve.toml"
    path.write_text('sip-users = "users"\nport = 1', encoding="utf-8")
    loaded = load({"port": 2}, config=str(path))
    assert loaded.files == {"sip_users": str(path)}
    for text, expected in (
        ("--sip-users: users: no such file", f"{path}: sip-users: users: no such file"),
        ("--sip-users, --port: no", f"{path}: sip-users, --port: no"),
        ("--port: in use", "--port: in use"),
        ("--host: not here", "--host: not here"),
        ("something else", "something else"),
    ):
        assert loaded.locate(SettingsError(text)) == expected


def test_an_option_is_put_in_front_of_errors_that_name_none() -> None:
    for text, expected in (("gone", "--fifo: gone"), ("--port: used", "--port: used")):
        with pytest.raises(SettingsError) as caught, about("fifo"):
            raise SettingsError(text)
        assert str(caught.value) == expected


def test_what_takes_a_restart() -> None:
    before = Settings()
    assert restart_needed(before, before) == []
    after = replace(before, port=1, path=("/a",), keepalive_processes=2)
    assert restart_needed(before, after) == ["port", "keepalive-processes"]


def test_help_names_every_option_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    text = parser.format_help()
    for name in NAMES:
        assert f"--{name}" in text
    assert "(default: sip, msrp, none)" in re.sub(r"\s+", " ", text)
    assert re.search(r"keep-alive:\n.*--keepalive-mechanism", text, re.DOTALL)


@pytest.mark.parametrize(
    ("option", "value", "other"),
    [
        ("--upstream-local", "a.example:5060", "b.example:5060"),
        ("--host", "127.0.0.1", "127.0.0.2"),
        ("--port", "8080", "8080"),
        ("--sip-mode", "alias", "outbound"),
    ],
)
def test_an_option_with_one_value_is_not_given_twice(
    option: str, value: str, other: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)
    assert len(vars(parser.parse_args([option, value]))) == 1
    with pytest.raises(SystemExit):
        parser.parse_args([option, value, option, other])
    assert f"argument {option}: may be given only once" in capsys.readouterr().err
    assert parser.parse_args(["--sip-name", "a", "--sip-name", "b"]).sip_name == ["a", "b"]
