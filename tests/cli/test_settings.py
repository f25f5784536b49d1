"""One table of options: flags, TOML keys, kamailio.cfg, and what goes before what."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.cli.settings import (
    Settings,
    SettingsError,
    add_options,
    load,
    option_name,
    restart_needed,
)

ROOT = Path(__file__).resolve().parent.parent.parent
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
    assert load({}) == (Settings(), [])
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


@pytest.mark.parametrize(
    ("name", "word", "toml", "words"),
    [
        ("port", "65536", "65536", "number from 0 to 65535"),
        ("port", "-1", "-1", "number from 0 to 65535"),
        ("port", "", '""', "number from 0 to 65535"),
        ("port", "\u0661", '"1"', "number from 0 to 65535"),
        ("port", "1e3", "1e3", "number from 0 to 65535"),
        ("port", "1_0", "true", "number from 0 to 65535"),
        ("open-timeout", "0", "0", "number of seconds from 0.1 to 3600"),
        ("open-timeout", "nan", "nan", "number of seconds from 0.1 to 3600"),
        ("open-timeout", "inf", "inf", "number of seconds from 0.1 to 3600"),
        ("prefer", "both", '"both"', "client or server"),
        ("keepalive-mechanism", "1", "1", "none, ping, pong or check"),
        ("host", "", '""', "host"),
        ("host", "a\nb", '"a\\nb"', "host"),
        ("cors-mode", "3", "3", "number from 0 to 2"),
    ],
)
def test_bad_values(tmp_path: Path, name: str, word: str, toml: str, words: str) -> None:
    with pytest.raises(argparse.ArgumentError) as caught:
        flags(f"--{name}={word}")
    assert str(caught.value) == f"argument --{name}: {word!r} is no {words}"
    with pytest.raises(SettingsError, match=f"{name}: .* is no {re.escape(words)}$"):
        from_toml(tmp_path, f"{name} = {toml}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('deflate = "yes"', r"deflate: 'yes' is no true or false"),
        ('origin = "any"', r"origin: 'any' is no array of origins"),
        ('subprotocol = ["sip", "SIP"]', r"subprotocol: .* is no array of sip, msrp or nones"),
        ("origin = [1]", r"origin: \[1\] is no array of origins"),
        ("ports = 1", r"no such option: 'ports'; there are host, port, "),
        ("max_connections = 1", r"no such option: 'max_connections'"),
        ("[serve]\nport = 1", r"no such option: 'serve'"),
        ("port =", r"Invalid value"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        from_toml(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / "serve.toml"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"\xe9")
    for option in ("config", "kamailio_cfg"):
        with pytest.raises(SettingsError, match="nowhere: No such file or directory"):
            load({}, **{option: str(tmp_path / "nowhere")})
        with pytest.raises(SettingsError, match="latin: not UTF-8"):
            load({}, **{option: str(tmp_path / "latin")})


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
    assert load({}, kamailio_cfg=str(path)) == (
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
    with pytest.raises(SettingsError, match=r"kamailio\.cfg: cors_mode = 3: must be 0 to 2"):
        load({}, kamailio_cfg=str(path))
    path.write_text(f'{KAMAILIO}modparam("websocket", "verbose_list", 1)\n', encoding="utf-8")
    assert load({}, kamailio_cfg=str(path))[1] == [f"{path}: verbose_list has no effect here"]


@given(st.sets(st.sampled_from(["kamailio.cfg", "TOML", "flags"])))
def test_precedence(tmp_path_factory: pytest.TempPathFactory, given: set[str]) -> None:
    path = tmp_path_factory.getbasetemp()
    (path / "precedence.toml").write_text("cors-mode = 2", encoding="utf-8")
    (path / "precedence.cfg").write_text(KAMAILIO, encoding="utf-8")
    settings, _ = load(
        {"cors_mode": 0} if "flags" in given else {},
        config=str(path / "precedence.toml") if "TOML" in given else None,
        kamailio_cfg=str(path / "precedence.cfg") if "kamailio.cfg" in given else None,
    )
    expected = 1 if "kamailio.cfg" in given else 0
    if "TOML" in given:
        expected = 2
    assert settings.cors_mode == (0 if "flags" in given else expected)


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
    assert "(sip, msrp, none)" in text
    assert re.search(r"keep-alive:\n.*--keepalive-mechanism", text, re.DOTALL)


def test_the_page_lists_every_option_and_no_other() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    section = page.partition("## `wsproto-sip serve`")[2].partition("\n## ")[0]
    listed = re.findall(r"^\| `--(?:\[no-\])?([a-z-]+)", section, re.MULTILINE)
    assert sorted(listed) == sorted([*NAMES, "config", "kamailio-cfg"])
