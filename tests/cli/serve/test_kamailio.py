"""What ``wsproto-sip serve`` takes from a kamailio.cfg, and what it says about the rest."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.adapters._sip import free_port
from wsproto_sip.cli import main
from wsproto_sip.cli.serve.kamailio import take_kamailio_cfg
from wsproto_sip.cli.serve.settings import Settings, SettingsError, load, option_name
from wsproto_sip.server.management.kamailio_cfg import ModParamError

from .._service import ROOT, launched

MAIN = """#!KAMAILIO
#!ifdef WITH_LOCAL
import_file "local.cfg"
#!endif
#!trydef MY_IP 127.0.0.1
#!substdef "!MY_WS!tcp:MY_IP:MY_WS_PORT!g"
#!trydef MY_WS_PORT 8080
children=8
tcp_max_connections=4096
enable_tls=yes
listen=udp:MY_IP:5060
listen=MY_WS
listen=tls:MY_IP:4443 advertise sip.example.com:443
alias="example.com"
loadmodule "xhttp.so"
loadmodule "websocket.so"
include_file "params/websocket.cfg"
modparam("tls", "certificate", "tls/cert.pem")
modparam("tls", "private_key", "/etc/key.pem")
modparam("registrar|usrloc", "max_expires", 3600)
modparam("nathelper", "natping_interval", 30)
modparam("nathelper", "natping_interval", 30)
modparam("outbound", "flow_token_key", "secret")
modparam("tm", "fr_timer", 3000)
request_route {
    if (nat_uac_test("64")) { fix_nated_register(); add_contact_alias(); }
    if (nat_uac_test("8")) { exit; }
    if (!save("location")) sl_reply_error();
}
event_route[xhttp:request] {
    if (ws_handle_handshake()) { exit; }
    xhttp_reply("404", "Not Found", "", "");
}
event_route[websocket:closed] { xlog("$si:$sp\\n"); }
"""


@pytest.fixture
def cfg(tmp_path: Path) -> Path:
    """Write a configuration in several files."""
    path = tmp_path / "kamailio.cfg"
    path.write_text(MAIN, encoding="utf-8")
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "websocket.cfg").write_text(
        'modparam("websocket", "keepalive_timeout", KEEPALIVE)\n', encoding="utf-8"
    )
    (tmp_path / "local.cfg").write_text("#!define MY_IP 192.0.2.1\n", encoding="utf-8")
    return path


def test_what_is_taken(cfg: Path) -> None:
    settings, _, files = load({}, kamailio_cfg=str(cfg), defines={"KEEPALIVE": "30"})
    assert settings.listen == ("ws://127.0.0.1:8080", "wss://127.0.0.1:4443")
    assert settings.sip_name == ("sip.example.com:443",)
    assert settings.max_connections == 4096
    assert (settings.tls_cert, settings.tls_key) == (
        (str(cfg.with_name("tls") / "cert.pem"),),
        ("/etc/key.pem",),
    )
    assert settings.keepalive_timeout == 30.0
    assert files["keepalive_timeout"] == f"{cfg.parent}/params/websocket.cfg: line 1"
    assert files["listen"] == f"{cfg}: line 12"
    assert files["cors_mode"] == str(cfg)


def test_names_are_defined_and_files_imported(cfg: Path) -> None:
    defines = {"KEEPALIVE": "30", "WITH_LOCAL": "", "MY_WS_PORT": "80"}
    settings, *_ = load({}, kamailio_cfg=str(cfg), defines=defines)
    assert settings.listen == ("ws://192.0.2.1:80", "wss://192.0.2.1:4443")


def test_each_unsupported_part_is_reported_once_with_a_replacement(cfg: Path) -> None:
    notes = load({}, kamailio_cfg=str(cfg), defines={"KEEPALIVE": "30"}).notes
    told = dict(re.fullmatch(rf"{cfg}: line ([0-9]+): (.*)", note).groups() for note in notes)  # type: ignore[union-attr, misc]
    expected = {
        "8": "children is not taken over: one process",
        "11": "listen=udp is not taken over: WebSockets come over tcp and tls",
        "14": "alias is not taken over: --sip-domain",
        "20": "registrar: max_expires is not taken over: write --sip-max-expires 3600",
        "21": "nathelper: natping_interval is not taken over: clients are found",
        "23": "outbound: flow_token_key is not taken over: --sip-flow-keys FILE",
        "26": "add_contact_alias() is not taken over: ",
        "28": "save() is not taken over: REGISTER is answered here",
        "31": "ws_handle_handshake() is not taken over: --path, --allowed-host",
        "32": "xhttp_reply() is not taken over: ",
        "34": "event_route[websocket:closed] is not taken over: ",
        "30": "event_route[xhttp:request] is not taken over: ",
    }
    assert {line: text[: len(expected.get(line, ""))] for line, text in told.items()} == expected
    [nat] = [note for note in notes if "nat_uac_test()" in note]
    assert nat.endswith(" (2 times)")
    [ping] = [note for note in notes if "natping_interval" in note]
    assert ping.endswith(" (2 times)")


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("listen=192.0.2.1", ("ws://192.0.2.1:5060",)),
        ("enable_tls=1\nlisten=192.0.2.1", ("ws://192.0.2.1:5060", "wss://192.0.2.1:5061")),
        ("tls_enable=on\nlisten=192.0.2.1:80", ("ws://192.0.2.1:80",)),
        ("listen=tls:[2001:db8::1]", ("wss://[2001:db8::1]:5061",)),
        ("listen=tcp:a:1\nlisten=tcp:a:1", ("ws://a:1",)),
        ("listen=sctp:a:1", ()),
    ],
)
def test_listeners(text: str, listen: tuple[str, ...]) -> None:
    taken = take_kamailio_cfg("a.cfg", f'loadmodule "websocket"\n{text}', {})
    assert taken.values.get("listen", ()) == listen
    assert "sip_name" not in taken.values


def test_names_that_are_advertised_are_names_of_the_server() -> None:
    text = 'listen=tcp:a:1 advertise b.example\nlisten=tcp:a:2 advertise "[2001:db8::1]":80'
    assert take_kamailio_cfg("a.cfg", text, {}).values["sip_name"] == (
        "b.example",
        "[2001:db8::1]:80",
    )


def test_a_key_without_a_certificate_is_left_out() -> None:
    text = 'modparam("tls", "private_key", "k")\nmodparam("tls", "config", "tls.cfg")'
    taken = take_kamailio_cfg("a.cfg", text, {})
    assert "tls_key" not in taken.values
    assert taken.notes == [
        'a.cfg: no loadmodule "websocket.so"',
        "a.cfg: line 2: tls: config is not taken over: --tls-cert FILE and --tls-key FILE",
    ]


def test_a_place_that_is_stated_elsewhere_holds(tmp_path: Path, cfg: Path) -> None:
    given: dict[str, Any] = {"kamailio_cfg": str(cfg), "defines": {"KEEPALIVE": "30"}}
    toml = tmp_path / "serve.toml"
    assert load({"port": 1}, **given).settings.places[0].port == 1
    assert load({"listen": ["unix:/run/ws"]}, **given).settings.listen == ("unix:/run/ws",)
    toml.write_text('host = "::1"\n', encoding="utf-8")
    assert load({}, config=str(toml), **given).settings.listen == ()
    toml.write_text('listen = ["ws://h:1"]\n', encoding="utf-8")
    assert load({}, config=str(toml), **given).settings.listen == ("ws://h:1",)


def test_errors_name_file_and_line(
    tmp_path: Path, cfg: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for defines, message in (
        ({}, f"{cfg.parent}/params/websocket.cfg: line 1: KEEPALIVE is not defined"),
        ({"KEEPALIVE": '"30"'}, "line 1: keepalive_timeout = '30': must be an integer, 1 to 3600"),
    ):
        with pytest.raises(SettingsError) as caught:
            load({}, kamailio_cfg=str(cfg), defines=defines)
        assert message in str(caught.value)
    # What a line means for other options is told with it too.
    cfg.write_text('loadmodule "websocket"\nlisten=tls:127.0.0.1:443\n', encoding="utf-8")
    assert main(["serve", "--check-config", "--kamailio-cfg", str(cfg)]) == 2
    assert capsys.readouterr().err.endswith(
        f"wsproto-sip: {cfg}: line 2: listen: wss://127.0.0.1:443: requires --tls-cert\n"
    )


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "kamailio.cfg"
    (tmp_path / "latin").write_bytes(b"\xe9")
    for text, message in (
        ("\n\nx", "not a kamailio.cfg"),
        ('include_file "nowhere"', "line 1: cannot find the file 'nowhere' to include"),
        ('include_file "latin"', "latin: not UTF-8"),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(SettingsError, match=message):
            load({}, kamailio_cfg=str(path))
        with pytest.raises(ModParamError, match=message):
            take_kamailio_cfg(str(path), text, {})


def test_an_included_file_that_may_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kamailio.cfg"
    path.write_text('include_file "other"', encoding="utf-8")
    (tmp_path / "other").write_text("")

    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "other"))

    monkeypatch.setattr("wsproto_sip.cli.serve.settings.take_kamailio_cfg", refused)
    with pytest.raises(SettingsError, match="other: Permission denied"):
        load({}, kamailio_cfg=str(path))


def test_what_is_to_be_written_instead_exists() -> None:
    """Every option that a note names is one."""
    text = "".join(
        f'modparam("{module}", "{name}", 1)\n'
        for module, name in (
            *[("registrar", f"{kind}_expires") for kind in ("default", "min", "max")],
            *[("registrar", name) for name in ("max_contacts", "flow_timer", "x")],
            *[("msrp", name) for name in ("auth_min_expires", "auth_max_expires", "x")],
            *[("outbound", "flow_token_key"), ("outbound", "x"), ("nathelper", "x")],
            *[("xhttp", "url_match"), ("tls", "config"), ("registrar", "gruu_enabled")],
        )
    )
    text += (
        "alias=a\nchildren=1\nroute { msrp_relay(); ws_close(); fix_nated_sdp(); xhttp_reply(); }"
    )
    notes = take_kamailio_cfg("a.cfg", text, {}).notes
    options = set(re.findall(r"--([a-z-]+)", "\n".join(notes)))
    assert len(options) > 15
    assert options <= {option_name(name) for name in Settings.__dataclass_fields__}


# -- whole configurations --------------------------------------------------------------------------

EDGE = ROOT / "tests" / "data" / "kamailio" / "edge.cfg"
#: Those that Kamailio's own package brings, where it is installed.
EXAMPLES = sorted(Path("/usr/share/doc/kamailio/examples").rglob("*.cfg"))
DEFAULT = Path("/etc/kamailio/kamailio.cfg")


def test_edge_starts_with_its_own_values(tmp_path: Path) -> None:
    port = free_port()
    flags = ("--kamailio-cfg", str(EDGE), "-A", f"WS_PORT={port}", "--origin", "missing")
    control = ("--ctl-socket", str(tmp_path / "ctl"))
    with launched(*flags, *control, port=False) as service:
        assert service.url == f"ws://127.0.0.1:{port}/"
        shown = service.call("config.get")
        assert {
            name: shown[name]
            for name in (
                *("keepalive-mechanism", "keepalive-timeout", "keepalive-interval"),
                *("keepalive-data", "subprotocol", "cors-mode", "max-connections", "sip-name"),
            )
        } == {
            "keepalive-mechanism": "ping",
            "keepalive-timeout": 30.0,
            "keepalive-interval": 5.0,
            "keepalive-data": "edge",
            "subprotocol": "sip",
            "cors-mode": 2,
            "max-connections": 4096,
            "sip-name": "sip.example.org:8088",
        }
        with service.dial(subprotocols=["sip"]) as client:
            assert client.subprotocol == "sip"
        _, err = service.stop()
    # Every line of the parts that it does not take over is told of.
    told = {line.split(": line ")[1].split(":")[0] for line in err if f"{EDGE}: line " in line}
    passed_over = re.compile(
        r"children|alias=|\"tls\", \"config|event_callback|received_avp|sipping_from|nat_uac_test|"
        r"force_rport|fix_nated|add_contact_alias|event_route|ws_handle_handshake"
    )
    lines = enumerate(EDGE.read_text(encoding="utf-8").splitlines(), 1)
    missing = [line for at, line in lines if passed_over.search(line) and str(at) not in told]
    assert missing == []
    assert any("listen.cfg: line 1: listen=udp is not taken over" in line for line in err)


@pytest.mark.skipif(not EXAMPLES, reason="Kamailio's examples are not installed")
def test_every_example_of_kamailio_is_read() -> None:
    faults = []
    for path in [*EXAMPLES, DEFAULT]:
        try:
            load({}, kamailio_cfg=str(path))
        except SettingsError as exc:
            faults.append(str(exc))
    # Parts of other files, files that are to be written first, and unbalanced conditions.
    of_its_own = re.compile(r"cannot find the file|not a kamailio\.cfg|condition")
    assert [fault for fault in faults if not of_its_own.search(fault)] == []
    assert len(faults) < len(EXAMPLES) / 4
