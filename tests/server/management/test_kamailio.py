from __future__ import annotations

import pytest

from wsproto_sip.events import Request
from wsproto_sip.policy.cors import CorsMode
from wsproto_sip.policy.decision import Accept, Outcome, PolicyChain, Reject, RequestContext
from wsproto_sip.server.management.kamailio import (
    DEFAULT_PING_DATA,
    ModParams,
    SubProtocols,
)
from wsproto_sip.server.management.kamailio_cfg import ModParamError
from wsproto_sip.session.keepalive import KeepaliveConfig, Mechanism

BOTH = SubProtocols.SIP | SubProtocols.MSRP
LOADED = 'loadmodule "websocket.so"\n'


def test_defaults_match_the_module() -> None:
    params = ModParams.from_modparams({})
    assert params == ModParams()
    assert params.keepalive_mechanism is Mechanism.PING
    assert params.keepalive_timeout == 180
    assert params.keepalive_processes == 1
    assert params.keepalive_interval == 1
    assert params.ping_application_data == DEFAULT_PING_DATA
    assert params.sub_protocols == BOTH
    assert params.cors_mode is CorsMode.NONE
    assert (params.timer_interval, params.rm_delay_interval) == (1, 5)
    assert (params.verbose_list, params.event_callback) == (0, "")
    assert params.notes == ()
    assert ModParams.from_modparams({}, msrp=False).sub_protocols is SubProtocols.SIP


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("keepalive_mechanism", 0, Mechanism.NONE),
        ("keepalive_mechanism", 2, Mechanism.PONG),
        ("keepalive_mechanism", 3, Mechanism.CHECK),
        ("keepalive_timeout", 1, 1),
        ("keepalive_timeout", 3600, 3600),
        ("keepalive_processes", 16, 16),
        ("keepalive_interval", 60, 60),
        ("ping_application_data", "WebSockets rock", b"WebSockets rock"),
        ("ping_application_data", b"\xff" * 125, b"\xff" * 125),
        ("ping_application_data", "\xe4", b"\xc3\xa4"),
        ("sub_protocols", 1, SubProtocols.SIP),
        ("sub_protocols", 2, SubProtocols.MSRP),
        ("sub_protocols", 3, BOTH),
        ("cors_mode", 2, CorsMode.ECHO),
    ],
)
def test_values_in_range(name: str, value: int | str | bytes, expected: object) -> None:
    params = ModParams.from_modparams({name: value})
    assert getattr(params, name) == expected
    assert params.notes == ()


@pytest.mark.parametrize(
    ("name", "value", "expected", "note"),
    [
        (
            "keepalive_mechanism",
            4,
            Mechanism.PING,
            "keepalive_mechanism = 4 is not 0 to 3: 1 is used",
        ),
        (
            "keepalive_mechanism",
            -1,
            Mechanism.PING,
            "keepalive_mechanism = -1 is not 0 to 3: 1 is used",
        ),
        ("keepalive_timeout", 0, 180, "keepalive_timeout = 0 is not 1 to 3600: 180 is used"),
        ("keepalive_timeout", 3601, 180, "keepalive_timeout = 3601 is not 1 to 3600: 180 is used"),
        ("keepalive_processes", 17, 1, "keepalive_processes = 17 is not 1 to 16: 1 is used"),
        ("keepalive_interval", 61, 1, "keepalive_interval = 61 is not 1 to 60: 1 is used"),
        (
            "ping_application_data",
            "",
            DEFAULT_PING_DATA,
            "ping_application_data of 0 bytes is not 1 to 125: wsproto-sip is used",
        ),
        (
            "ping_application_data",
            "\xe4" * 63,
            DEFAULT_PING_DATA,
            "ping_application_data of 126 bytes is not 1 to 125: wsproto-sip is used",
        ),
    ],
)
def test_fallback_to_a_default_is_noted(
    name: str, value: int | str, expected: object, note: str
) -> None:
    params = ModParams.from_modparams({name: value})
    assert getattr(params, name) == expected
    assert params.notes == (note,)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sub_protocols", 0, "sub_protocols = 0: must be 1 to 3"),
        ("sub_protocols", 4, "sub_protocols = 4: must be 1 to 3"),
        ("sub_protocols", 7, "sub_protocols = 7: must be 1 to 3"),
        ("cors_mode", -1, "cors_mode = -1: must be 0 to 2"),
        ("cors_mode", 3, "cors_mode = 3: must be 0 to 2"),
        ("keepalive_timeout", "30", "keepalive_timeout = '30': must be an integer, 1 to 3600"),
        ("cors_mode", True, "cors_mode = True: must be an integer, 0 to 2"),
        ("ping_application_data", 5, "ping_application_data = 5: must be a string"),
        ("event_callback", b"x", "event_callback = b'x': must be a string"),
        ("keepalive", 5, "keepalive: unknown parameter; known are keepalive_mechanism, "),
    ],
)
def test_values_refused_by_the_module_are_refused(
    name: str, value: int | str | bytes, message: str
) -> None:
    with pytest.raises(ModParamError) as caught:
        ModParams.from_modparams({name: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [2, 3])
def test_msrp_must_be_available(value: int) -> None:
    with pytest.raises(ModParamError, match=rf"sub_protocols = {value}: 2 \(msrp\) requires MSRP"):
        ModParams.from_modparams({"sub_protocols": value}, msrp=False)


def test_parameters_without_effect_are_noted() -> None:
    params = ModParams.from_modparams(
        {
            "timer_interval": 2,
            "rm_delay_interval": 61,
            "verbose_list": 1,
            "event_callback": "ksr_websocket_event",
        }
    )
    assert (params.timer_interval, params.rm_delay_interval) == (2, 5)
    assert (params.verbose_list, params.event_callback) == (1, "ksr_websocket_event")
    assert params.notes == (
        "rm_delay_interval = 61 is not 1 to 60: 5 is used",
        "timer_interval has no effect here: deadlines are kept when they are due",
        "rm_delay_interval has no effect here: connections leave the table when they end",
        "verbose_list has no effect here: the command ws.dump shows the table",
        "event_callback has no effect here: Endpoint.on_closed() and the log report ends",
    )


def test_keepalive_of_each_connection() -> None:
    params = ModParams.from_modparams(
        {"keepalive_mechanism": 2, "keepalive_timeout": 30, "ping_application_data": "x"}
    )
    assert params.keepalive_config() == KeepaliveConfig(Mechanism.PONG, 30.0, 20.0, b"x")
    assert params.keepalive_config(answer_timeout=5.0).answer_timeout == 5.0


def test_policies_of_the_module() -> None:
    def ask(sub_protocols: int, cors_mode: int, *proposed: str) -> Outcome:
        params = ModParams.from_modparams({"sub_protocols": sub_protocols, "cors_mode": cors_mode})
        request = Request(
            "example.com",
            "/",
            extra_headers=[(b"origin", b"https://a")],
            subprotocols=list(proposed),
        )
        return PolicyChain(params.policies()).decide(RequestContext(request))

    both = ask(3, 2, "msrp", "sip")
    assert isinstance(both, Accept)
    assert both.subprotocol == "sip"
    assert both.headers == ((b"access-control-allow-origin", b"https://a"),)
    msrp = ask(2, 0, "sip", "msrp")
    assert isinstance(msrp, Accept)
    assert (msrp.subprotocol, msrp.headers) == ("msrp", ())
    sip = ask(1, 1, "msrp")
    assert isinstance(sip, Reject)
    assert sip.status == 400
    assert dict(sip.headers) == {
        b"sec-websocket-protocol": b"sip",
        b"sec-websocket-version": b"13",
    }


GUIDE = """#!KAMAILIO
# comment with 'one quote
loadmodule "sl.so"
loadmodule "xhttp.so"
loadmodule "msrp.so"  # Only required if using MSRP over WebSockets
loadmodule "/usr/lib/kamailio/modules/websocket.so"
modparam("tm", "fr_timer", 30000)
modparam("websocket", "keepalive_mechanism", 0)
modparam("websocket", "keepalive_timeout", 30)
modparam("websocket", "keepalive_processes", 2)
modparam("websocket", "keepalive_interval", 2)
modparam("websocket", "ping_application_data", "WebSockets rock")
modparam("websocket", "sub_protocols", 2)
modparam("websocket", "cors_mode", 2)
request_route {
    if ($hdr(Upgrade)=~"websocket" && !is_myself("sip:" + $hdr(Host))) { exit; }
    $var(x) = $(ru{re.subst,/it's//g}); modparam;
}
"""


def test_examples_of_the_guide() -> None:
    assert ModParams.from_kamailio_cfg(GUIDE) == ModParams(
        keepalive_mechanism=Mechanism.NONE,
        keepalive_timeout=30,
        keepalive_processes=2,
        keepalive_interval=2,
        ping_application_data=b"WebSockets rock",
        sub_protocols=SubProtocols.MSRP,
        cors_mode=CorsMode.ECHO,
    )


def test_file_cannot_enable_msrp_without_loading_it() -> None:
    assert ModParams.from_kamailio_cfg(LOADED).sub_protocols is SubProtocols.SIP
    with pytest.raises(ModParamError, match="requires MSRP"):
        ModParams.from_kamailio_cfg(LOADED + 'modparam("websocket", "sub_protocols", 3)')
    defined = '#!ifdef M\nloadmodule "msrp"\n#!endif\n' + LOADED
    assert ModParams.from_kamailio_cfg(defined, defines={"M": ""}).sub_protocols == BOTH


def test_notes_of_the_reader_come_first() -> None:
    params = ModParams.from_kamailio_cfg(
        LOADED + 'modparam("websocket", "keepalive_timeout", 0)\nimport_file "x"'
    )
    assert params.notes == (
        "line 3: import_file is not followed: 'x'",
        "line 2: keepalive_timeout = 0 is not 1 to 3600: 180 is used",
    )


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        (
            '"ping_interval", 30',
            "ping_interval: unknown parameter; known are keepalive_",
        ),
        ('"x", 1', "x: unknown parameter; known are keepalive_mechanism, "),
        ('"cors_mode", 7', "cors_mode = 7: must be 0 to 2"),
        ('"cors_mode", "1"', "cors_mode = '1': must be an integer, 0 to 2"),
        ('"sub_protocols", 3', "sub_protocols = 3: 2 (msrp) requires MSRP; only 1 is possible"),
        ('"ping_application_data", 1', "ping_application_data = 1: must be a string"),
        ('"event_callback", 1', "event_callback = 1: must be a string"),
    ],
)
def test_errors_of_a_file_name_the_line(parameter: str, message: str) -> None:
    with pytest.raises(ModParamError) as caught:
        ModParams.from_kamailio_cfg(f'{LOADED}\n\nmodparam("websocket", {parameter})')
    assert str(caught.value).startswith(f"line 4: {message}")
