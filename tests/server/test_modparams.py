from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.keepalive import KeepaliveConfig, Mechanism
from wsproto_sip.policy.cors import CorsMode
from wsproto_sip.policy.decision import Accept, Outcome, PolicyChain, Reject, RequestContext
from wsproto_sip.server.modparams import (
    DEFAULT_PING_DATA,
    KamailioConfig,
    ModParamError,
    ModParams,
    SubProtocols,
    read_kamailio_cfg,
)

BOTH = SubProtocols.SIP | SubProtocols.MSRP
LOADED = 'loadmodule "websocket.so"\n'


def test_the_defaults_are_the_modules() -> None:
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
            "keepalive_mechanism = 4 is not 0 to 3: 1 instead",
        ),
        (
            "keepalive_mechanism",
            -1,
            Mechanism.PING,
            "keepalive_mechanism = -1 is not 0 to 3: 1 instead",
        ),
        ("keepalive_timeout", 0, 180, "keepalive_timeout = 0 is not 1 to 3600: 180 instead"),
        ("keepalive_timeout", 3601, 180, "keepalive_timeout = 3601 is not 1 to 3600: 180 instead"),
        ("keepalive_processes", 17, 1, "keepalive_processes = 17 is not 1 to 16: 1 instead"),
        ("keepalive_interval", 61, 1, "keepalive_interval = 61 is not 1 to 60: 1 instead"),
        (
            "ping_application_data",
            "",
            DEFAULT_PING_DATA,
            "ping_application_data of 0 octets is not 1 to 125: wsproto-sip instead",
        ),
        (
            "ping_application_data",
            "\xe4" * 63,
            DEFAULT_PING_DATA,
            "ping_application_data of 126 octets is not 1 to 125: wsproto-sip instead",
        ),
    ],
)
def test_where_the_module_falls_back_there_is_a_note(
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
        ("keepalive", 5, "keepalive: no such parameter; there are keepalive_mechanism, "),
    ],
)
def test_what_the_module_refuses_is_refused(
    name: str, value: int | str | bytes, message: str
) -> None:
    with pytest.raises(ModParamError) as caught:
        ModParams.from_modparams({name: value})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [2, 3])
def test_msrp_has_to_be_there(value: int) -> None:
    with pytest.raises(ModParamError, match=rf"sub_protocols = {value}: 2 \(msrp\) needs MSRP"):
        ModParams.from_modparams({"sub_protocols": value}, msrp=False)


def test_parameters_without_an_effect_are_noted() -> None:
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
        "rm_delay_interval = 61 is not 1 to 60: 5 instead",
        "timer_interval has no effect here",
        "rm_delay_interval has no effect here",
        "verbose_list has no effect here",
        "event_callback has no effect here",
    )


def test_the_keepalive_of_each_connection() -> None:
    params = ModParams.from_modparams(
        {"keepalive_mechanism": 2, "keepalive_timeout": 30, "ping_application_data": "x"}
    )
    assert params.keepalive_config() == KeepaliveConfig(Mechanism.PONG, 30.0, 20.0, b"x")
    assert params.keepalive_config(answer_timeout=5.0).answer_timeout == 5.0


def test_the_policies_of_the_module() -> None:
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


def test_the_examples_of_the_guide() -> None:
    assert ModParams.from_kamailio_cfg(GUIDE) == ModParams(
        keepalive_mechanism=Mechanism.NONE,
        keepalive_timeout=30,
        keepalive_processes=2,
        keepalive_interval=2,
        ping_application_data=b"WebSockets rock",
        sub_protocols=SubProtocols.MSRP,
        cors_mode=CorsMode.ECHO,
    )


def read(text: str, **defines: str) -> KamailioConfig:
    return read_kamailio_cfg(LOADED + text, defines=defines)


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", {}),
        ('modparam("websocket", "a", 1)', {"a": 1}),
        ('modparam("websocket","a",1)modparam("websocket","b",2);', {"a": 1, "b": 2}),
        ('modparam ( "websocket" , /* x */ "a"\n,# y\n1 // z\n)', {"a": 1}),
        ("modparam('websocket', 'a', 'b\\n')", {"a": "b\\n"}),
        (r'modparam("websocket", "a", "q\"\\\n\r\t\a\z")', {"a": 'q"\\\n\r\t\a\\z'}),
        ('modparam("websocket", "a", "# no // comment /*")', {"a": "# no // comment /*"}),
        ('modparam("websocket", "a", 0)', {"a": 0}),
        ('modparam("websocket", "a", -5)', {"a": -5}),
        ('modparam("websocket", "a", 0x1F)', {"a": 31}),
        ('modparam("websocket", "a", 017)', {"a": 15}),
        ('modparam("websocket", "a", 1)\nmodparam("websocket", "a", 2)', {"a": 2}),
        ('modparam("tm|websocket", "a", 1)', {"a": 1}),
        ('modparam("WebSocket|tm", "a", 1)', {"a": 1}),
        ('modparamx("websocket", "a", 1)', {"a": 1}),
        ('modparam("web|socket", "a", 1)', {}),
        ('modparam("websockets", "a", 1)', {}),
        ('modparam("tm", $x)', {}),
        ('modparam(tm, "a", 1)', {}),
        ("modparam(", {}),
        ("modparam", {}),
        ("loadmodule", {}),
        ("loadmodule tm", {}),
        ('# modparam("websocket", "a", 1)', {}),
        ('// modparam("websocket", "a", 1)', {}),
        ('/* modparam("websocket", "a", 1)\n*/', {}),
        ('x = "modparam(\\"websocket\\", \\"a\\", 1)"', {}),
        ('xmodparam("websocket", "a", 1)', {}),
        ('x!!y modparam("websocket", "a", 1)', {"a": 1}),
    ],
)
def test_modparams_are_found(text: str, parameters: dict[str, int | str]) -> None:
    assert read(text).parameters == parameters


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("#!ifdef A\n@1\n#!endif", {}),
        ("#!ifndef A\n@1\n#!endif", {"p": 1}),
        ("#!define A\n#!ifdef A\n@1\n#!endif", {"p": 1}),
        ("#!ifdef B\n@1\n#!endif", {"p": 1}),
        ("#!ifdef B extra\n@1\n#!else\n@2\n#!endif", {"p": 1}),
        ("#!ifdef A\n@1\n#!else\n@2\n#!endif", {"p": 2}),
        ("#!ifdef A\n@1\n#!else\n@2\n#!else\n@3\n#!endif", {"p": 2}),
        ("  !!ifdef A\n@1\n  !!else\n@2\n\t!!endif", {"p": 2}),
        ("!!define A\n!!ifdef A\n@1\n!!else\n@2\n!!endif", {"p": 1}),
        ("#!ifdef A\n#!ifdef B\n@1\n#!else\n@2\n#!endif\n#!else\n@3\n#!endif", {"p": 3}),
        ("#!ifdef B\n#!ifdef A\n@1\n#!else\n@2\n#!endif\n#!else\n@3\n#!endif", {"p": 2}),
        ("#!ifdef A\n#!define C 5\n\"'/* unread\n#!endif\n@1", {"p": 1}),
        ("#!ifdef A\n#!ifdefined\n#!endif\n@1", {"p": 1}),
        ('#!define N 7\nmodparam("websocket", "p", N)', {"p": 7}),
        ('#!define N \\\n7\nmodparam("websocket", "p", N)', {"p": 7}),
        ('#!define S "x y"\nmodparam("websocket", "p", S)', {"p": "x y"}),
        ('#!define N 7\n#!trydef N 8\nmodparam("websocket", "p", N)', {"p": 7}),
        ('#!trydef N 8\nmodparam("websocket", "p", N)', {"p": 8}),
        ('#!define N 7\n#!redefine N 9\nmodparam("websocket", "p", N)', {"p": 9}),
        ('modparam("websocket", "p", B)', {"p": 4}),
        ("#!\n#!!x\n#!7\n@1", {"p": 1}),
    ],
)
def test_conditions_and_definitions(text: str, parameters: dict[str, int | str]) -> None:
    for number in "123":
        text = text.replace(f"@{number}", f'modparam("websocket", "p", {number})')
    assert read(text, B="4").parameters == parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\nmodparam("websocket", "a", "x)', "line 3: a string or comment without an end"),
        ("x = 'a", "line 2: a string or comment without an end"),
        ("/* x", "line 2: a string or comment without an end"),
        ("/" + "*" * 1000, "line 2: a string or comment without an end"),
        ("\n#!ifdef A\n\n", "line 3: a condition without #!endif"),
        ("#!ifdef B\n\n", "line 2: a condition without #!endif"),
        ("#!ifdef\n", "line 2: #!ifdef without a name"),
        ("#!ifndef 7\n", "line 2: #!ifndef without a name"),
        ("#!define\n", "line 2: #!define without a name"),
        ("#!else\n", "line 2: #!else without a condition"),
        ("#!endif\n", "line 2: #!endif without a condition"),
        ("#!ifdef A\n#!endif\n#!endif", "line 4: #!endif without a condition"),
        ('modparam("websocket"; "a", 1)', "line 2: malformed modparam: ; where , belongs"),
        ('modparam("websocket", a, 1)', "line 2: malformed modparam: a where string belongs"),
        ('modparam("websocket", "a" 1)', "line 2: malformed modparam: 1 where , belongs"),
        ('modparam("websocket", "a", 1', "malformed modparam: the end of the file where ) belongs"),
        ('modparam("websocket", "a",', "the end of the file where value belongs"),
        ('modparam("websocket", "a", )', "line 2: not a number or string"),
        ('modparam("websocket", "a", 1 + 2)', "line 2: malformed modparam: + where ) belongs"),
        ('modparam("websocket", "a", X)', "line 2: X is not defined"),
        ('modparam("websocket", "a", E)', "line 2: E is not defined as a number or string"),
        ('modparam("websocket", "a", 089)', "line 2: 089 is not a number"),
        ('modparam("websocket", "a", %s)' % ("9" * 21), "line 2: not a number or string"),
        ('modparam("websocket", "a", \u0661)', "line 2: not a number or string"),
        ('modparam("websocket", "a", 12ab)', "line 2: not a number or string"),
    ],
)
def test_malformed_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(ModParamError) as caught:
        read(text, B="", E="")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "loaded", "msrp"),
    [
        ("", False, False),
        ('loadmodule "msrp.so"', False, True),
        ('loadmodule "msrp"\nloadmodule "websocket"', True, True),
        ('loadmodule "a/b/msrp.so"\nloadmodule "/x/websocket.so"', True, True),
        ('loadmodule "websocket.so"\nloadmodule "msrp.so"', True, False),
        ('loadmodule("websocket.so")', True, False),
        ('loadmodulex "websocket.so"', True, False),
        ('loadmodule "xwebsocket.so"', False, False),
        ('loadmodule "so/websocket.so/"', False, False),
    ],
)
def test_which_modules_are_loaded(text: str, loaded: bool, msrp: bool) -> None:
    config = read_kamailio_cfg(text)
    assert (config.loaded, config.msrp) == (loaded, msrp)
    lines = text.count("\n") + 1
    expected = () if loaded else (f'line {lines}: no loadmodule "websocket.so"',)
    assert config.notes == expected


def test_without_msrp_the_file_may_not_enable_it() -> None:
    assert ModParams.from_kamailio_cfg(LOADED).sub_protocols is SubProtocols.SIP
    with pytest.raises(ModParamError, match="needs MSRP"):
        ModParams.from_kamailio_cfg(LOADED + 'modparam("websocket", "sub_protocols", 3)')
    defined = '#!ifdef M\nloadmodule "msrp"\n#!endif\n' + LOADED
    assert ModParams.from_kamailio_cfg(defined, defines={"M": ""}).sub_protocols == BOTH


def test_what_is_not_followed_is_noted() -> None:
    text = """#!ifexp X > 1
modparam("websocket", "p", 1)
#!else
modparam("websocket", "p", 2)
#!endif
include_file "other.cfg"
#!import_file "more.cfg"
#!substdef "!X!y!g"
modparam("web.*|tm", "p", 3)
"""
    config = read(text)
    assert config.parameters == {"p": 1}
    assert config.notes == (
        "line 2: #!ifexp is not evaluated and taken as true",
        "line 7: include_file is not followed",
        "line 8: import_file is not followed",
        "line 9: #!substdef is not applied",
        "line 10: modules 'web.*|tm': only plain names between | are compared",
    )
    params = ModParams.from_kamailio_cfg(
        LOADED + 'modparam("websocket", "keepalive_timeout", 0)\nimport_file "x"'
    )
    assert params.notes == (
        "line 3: import_file is not followed",
        "keepalive_timeout = 0 is not 1 to 3600: 180 instead",
    )


def test_length_and_notes_are_bounded() -> None:
    with pytest.raises(ModParamError, match="more than 10 characters"):
        read_kamailio_cfg(" " * 11, max_length=10)
    assert read_kamailio_cfg(" " * 10, max_length=10).parameters == {}
    assert len(read('include_file "x"\n' * 200).notes) == 100


NAMES = st.sampled_from(["keepalive_timeout", "cors_mode", "x"])
VALUES = st.integers(-(10**9), 10**9) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters='"\\'), max_size=10
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_what_is_written_is_read(pairs: list[tuple[str, int | str]]) -> None:
    lines = [
        'modparam("websocket", "{}", {})'.format(
            name, value if isinstance(value, int) else f'"{value}"'
        )
        for name, value in pairs
    ]
    assert read("\n".join(lines)).parameters == dict(pairs)


PIECES = st.sampled_from(
    ["modparam", "(", '"websocket"', ",", ")", "1", "\n", "#!ifdef A", "#!else", "#!endif", "'"]
) | st.sampled_from(["/*", "*/", "#", "//", "$(", "loadmodule", "!!", "\\", " ", "\x0b", "\xa0"])


@given(st.lists(PIECES, max_size=30).map("".join) | st.text())
def test_any_text_gives_a_result_or_the_documented_error(text: str) -> None:
    try:
        config: KamailioConfig | None = read_kamailio_cfg(text)
    except ModParamError:
        config = None
    assert config is None or isinstance(config.parameters, dict)
