"""Reading a kamailio.cfg: tokens, the preprocessor, and the collected statements."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.server.management.kamailio_cfg import (
    CfgListen,
    CfgModParam,
    KamailioConfig,
    ModParamError,
    read_kamailio_cfg,
)

LOADED = 'loadmodule "websocket.so"\n'


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
        ("#!\n#!!x\n#!7\n#!other\n@1", {"p": 1}),
    ],
)
def test_conditions_and_definitions(text: str, parameters: dict[str, int | str]) -> None:
    for number in "123":
        text = text.replace(f"@{number}", f'modparam("websocket", "p", {number})')
    assert read(text, B="4").parameters == parameters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\nmodparam("websocket", "a", "x)', "line 3: an unterminated string or comment"),
        ("x = 'a", "line 2: an unterminated string or comment"),
        ("/* x", "line 2: an unterminated string or comment"),
        ("/" + "*" * 1000, "line 2: an unterminated string or comment"),
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
        ('modparam("websocket", "a", E)', "line 2: not a number or string"),
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
        ("#!KAMAILIO", False, False),
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
    expected = () if loaded else ('no loadmodule "websocket.so"',)
    assert config.notes == expected


def test_ignored_parts_are_noted() -> None:
    text = """#!ifexp X > 1
modparam("websocket", "p", 1)
#!else
modparam("websocket", "p", 2)
#!endif
include_file "other.cfg"
#!import_file "more.cfg"
#!substdef "!X.*!y!g"
modparam("web.*|tm", "p", 3)
#!defexp N 1 + 1
modparam("web.*|tm", "p", 3)
"""
    config = read(text)
    assert config.parameters == {"p": 1}
    assert config.notes == (
        "line 2: #!ifexp is not evaluated but taken as true",
        "line 7: include_file is not followed: 'other.cfg'",
        "line 8: import_file is not followed: 'more.cfg'",
        "line 9: #!substdef: only plain words are replaced in strings: 'X.*'",
        "line 10: modules 'web.*|tm': only plain names are supported (2 times)",
        "line 11: #!defexp is not evaluated",
    )


def test_length_and_notes_are_bounded() -> None:
    with pytest.raises(ModParamError, match="longer than 10 characters"):
        read_kamailio_cfg(" " * 11, max_length=10)
    assert read_kamailio_cfg("#!KAMAILIO", max_length=10).parameters == {}
    assert len(read("".join(f'import_file "{n}"\n' for n in range(200))).notes) == 100


@pytest.mark.parametrize("text", ["", "# only words", "root:x:0:0::/root:/bin/sh", "listen 80;"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(ModParamError, match=r"^a\.cfg: not a kamailio.cfg: "):
        read_kamailio_cfg(text, name="a.cfg")


def parameters_of(text: str, **environment: str) -> dict[str, int | str]:
    return dict(read_kamailio_cfg(LOADED + text, environment=environment).parameters)


P = 'modparam("websocket", "p", {})'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # A name is replaced by any text, including other names in it.
        ('#!define A B\n#!define B 5\nmodparam("websocket", "p", A)', 5),
        ('#!define ALL modparam("websocket", "p", 6)\nALL', 6),
        ("#!define N 7 # a comment\n" + P.format("N"), 7),
        ("#!define N 7\n#!undef N\n#!trydef N 8\n" + P.format("N"), 8),
        ("#!define A 3\n#!define N $def(A)\n" + P.format("N"), 3),
        # Substitutions apply to strings; names in them are replaced too.
        ('#!substdef "!HOST!h.example!g"\n' + P.format('"HOST:HOST"'), "h.example:h.example"),
        ('#!substdef "!HOST!h.example!"\n' + P.format("'HOST:HOST'"), "h.example:HOST"),
        ('#!subst "/HOST/h.example/g"\n' + P.format('"HOST"'), "h.example"),
        ('#!substdef "!N!12!g"\n' + P.format("N"), 12),
        ('#!substdefs "!S!words!g"\n' + P.format("S"), "words"),
        ('#!define A a\n#!substdef "!S!$def(A)$env(E)!g"\n' + P.format('"S"'), "aenv"),
        ('#!substdef "!S!$unknown(x)!g"\n' + P.format('"S"'), "S"),
        # The environment.
        ("#!defenv E\n#!ifdef E\n" + P.format(4) + "\n#!endif", 4),
        ("#!defenvs S=E\n" + P.format("S"), "env"),
        ("#!trydefenv NONE\n#!ifndef NONE\n" + P.format(2) + "\n#!endif", 2),
        # Names that a loaded module defines.
        ("#!ifdef MOD_websocket\n" + P.format(1) + "\n#!endif", 1),
        (P.format(r'"\x41\101\9"'), "AA\\9"),
    ],
)
def test_preprocessor(text: str, expected: int | str) -> None:
    assert parameters_of(text, E="env") == {"p": expected}


def test_given_definitions_take_precedence() -> None:
    text = '#!substdef "!M!$version(num)!g"\n' + LOADED + P.format('"x-M"')
    assert read_kamailio_cfg(text, defines={"M": "5.6"}).parameters == {"p": "x-5.6"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!define A A\nA", "line 3: files or definitions that contain themselves"),
        ("#!define A B\n#!define B A\nlisten=A", "line 4: definitions that contain themselves"),
        ("#!substdef", "line 2: malformed #!substdef: "),
        ('#!substdef "!a!b"', "line 2: malformed #!substdef: "),
        ('#!substdef "!!b!g"', "line 2: malformed #!substdef: "),
        ("#!defenv NONE", "line 2: #!defenv: NONE is not in the environment"),
        ("#!undef 5", "line 2: #!undef without a name"),
        ("include_file x", "line 2: include_file without a quoted file name"),
        ("#!import_file", "line 2: import_file without a quoted file name"),
    ],
)
def test_faults_of_the_preprocessor(text: str, message: str) -> None:
    with pytest.raises(ModParamError) as caught:
        parameters_of(text)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "text",
    [
        # Each name is replaced by two of the next one.
        "".join(f"#!define N{n} N{n + 1} N{n + 1}\n" for n in range(35)) + "N0",
        "".join(f"#!define N{n} N{n + 1} N{n + 1}\n" for n in range(35)) + "listen=N0",
        "".join('#!subst "!a!aa!g"\n' for n in range(40)) + P.format('"a"'),
    ],
)
def test_endlessly_growing_text_is_refused(text: str) -> None:
    with pytest.raises(ModParamError, match="too much text"):
        read_kamailio_cfg(LOADED + text, max_length=10_000)


class TestIncludes:
    """Files that are read at the place where they are included."""

    def test_names_lines_and_conditions(self) -> None:
        files = {
            "local.cfg": "#!define WITH_WS\n#!define TIMEOUT 30\n",
            "ws.cfg": f'\n{LOADED}import_file "params-X.cfg"\n#!ifdef NO\n',
            "params-30.cfg": '\n\nmodparam("websocket", "keepalive_timeout", TIMEOUT)',
        }
        asked = []

        def opened(name: str, by: str) -> tuple[str, str] | None:
            asked.append((name, by))
            return (f"/etc/{name}", files[name]) if name in files else None

        text = """#!KAMAILIO
import_file "nowhere.cfg"
include_file "local.cfg"
#!substdef "!X!TIMEOUT!g"
#!subst "!TIMEOUT!30!g"
#!ifdef WITH_WS
#!include_file "ws.cfg"
modparam("websocket", "skipped", 1)
#!endif
modparam("websocket", "cors_mode", 1)
#!else
include_file "never.cfg"
#!endif
"""
        config = read_kamailio_cfg(text, name="/etc/kamailio.cfg", open_file=opened)
        assert config.parameters == {"keepalive_timeout": 30, "cors_mode": 1}
        assert config.where == {
            "keepalive_timeout": "/etc/params-30.cfg: line 3",
            "cors_mode": "/etc/kamailio.cfg: line 10",
        }
        assert asked == [
            ("nowhere.cfg", "/etc/kamailio.cfg"),
            ("local.cfg", "/etc/kamailio.cfg"),
            ("ws.cfg", "/etc/kamailio.cfg"),
            ("params-30.cfg", "/etc/ws.cfg"),
        ]
        assert config.notes == ()

    def test_faults(self) -> None:
        def opened(name: str, by: str) -> tuple[str, str] | None:
            return {"self": ("self", 'include_file "self"'), "big": ("big", " " * 1001)}.get(name)

        for text, message in (
            ('\ninclude_file "x"', "a.cfg: line 2: cannot find the file 'x' to include"),
            ('include_file "self"', "self: line 1: files or definitions that contain themselves"),
            ('include_file "big"', "big: the file is longer than 1000 characters"),
        ):
            with pytest.raises(ModParamError) as caught:
                read_kamailio_cfg(text, name="a.cfg", open_file=opened, max_length=1000)
            assert str(caught.value) == message

    def test_unterminated_condition_names_its_file(self) -> None:
        with pytest.raises(ModParamError, match=r"^b\.cfg: line 2: a condition without #!endif"):
            read_kamailio_cfg(
                'include_file "b"\n',
                name="a.cfg",
                open_file=lambda name, by: ("b.cfg", "\n#!ifdef A"),
            )


@pytest.mark.parametrize(
    ("text", "listen"),
    [
        ("listen=tcp:192.0.2.1:80", ("tcp", "192.0.2.1", 80, None)),
        ("listen = TLS:[2001:db8::1]:443;", ("tls", "2001:db8::1", 443, None)),
        ('listen="tcp:h.example:80"', ("tcp", "h.example", 80, None)),
        ("listen=udp:192.0.2.1", ("udp", "192.0.2.1", None, None)),
        ("listen=192.0.2.1 # all of them", (None, "192.0.2.1", None, None)),
        (
            "listen=tls:10.0.0.1:443 advertise sip.example.com:8443",
            ("tls", "10.0.0.1", 443, ("sip.example.com", 8443)),
        ),
        (
            'listen=tcp:10.0.0.1:80 advertise "[2001:db8::1]" name "a"',
            ("tcp", "10.0.0.1", 80, ("2001:db8::1", None)),
        ),
        (
            '#!substdef "!WS!tcp:IP:PORT!g"\n#!define IP 192.0.2.1\n#!define PORT 80\nlisten=WS',
            ("tcp", "192.0.2.1", 80, None),
        ),
    ],
)
def test_listeners(
    text: str, listen: tuple[str | None, str, int | None, tuple[str, int | None] | None]
) -> None:
    config = read(text)
    [found] = config.listens
    assert found == CfgListen(*listen, found.where)
    assert config.notes == ()


def test_listeners_that_are_not_understood_are_noted() -> None:
    config = read("listen=(eth0, eth1)\nlisten=tcp:h:65536\nlisten=tcp:$HN(i):80\n")
    assert config.listens == ()
    assert config.notes == (
        "line 2: listen=(eth0, eth1) is not understood",
        "line 3: listen=tcp:h:65536 is not understood",
        "line 4: listen=tcp:$HN(i):80 is not understood",
    )


def test_other_statements_are_collected() -> None:
    config = read(
        """children=8
enable_tls = yes  # a comment
if (children == 4) port;
modparam("registrar|nathelper", "max_expires", 3600)
modparam("nathelper", "sipping_from", "sip:a@b")
modparam("tm", "x", $var(y))
modparam("tm", "octal", 017)
modparam("tm", "name")
modparam("tm")
modparam(4
event_route[xhttp:request] { ws_handle_handshake(); if (nat_uac_test("64")) { nat_uac_test(1); } }
event_route;
event_route[without an end
"""
    )
    assert config.settings == {"children": ("8", "line 2"), "enable_tls": ("yes", "line 3")}
    assert config.modparams == (
        CfgModParam("registrar", "max_expires", 3600, "line 5"),
        CfgModParam("nathelper", "max_expires", 3600, "line 5"),
        CfgModParam("nathelper", "sipping_from", "sip:a@b", "line 6"),
        CfgModParam("tm", "x", None, "line 7"),
        CfgModParam("tm", "octal", None, "line 8"),
    )
    calls = {name: (call.where, call.count) for name, call in config.calls.items()}
    assert calls.pop("nat_uac_test") == ("line 12", 2)
    assert calls.pop("ws_handle_handshake") == ("line 12", 1)
    assert calls.pop("event_route[xhttp:request]") == ("line 12", 1)
    assert calls.pop("event_route[]") == ("line 14", 1)


NAMES = st.sampled_from(["keepalive_timeout", "cors_mode", "x"])
VALUES = st.integers(-(10**9), 10**9) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters='"\\'), max_size=10
)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=5))
def test_written_parameters_are_read_back(pairs: list[tuple[str, int | str]]) -> None:
    lines = [
        'modparam("websocket", "{}", {})'.format(
            name, value if isinstance(value, int) else f'"{value}"'
        )
        for name, value in pairs
    ]
    assert read("\n".join(lines)).parameters == dict(pairs)


PIECES = st.sampled_from(
    [
        "modparam",
        "(",
        '"websocket"',
        "listen=",
        ")",
        "1",
        "\n",
        "#!ifdef A",
        "#!else",
        "#!endif",
        "'",
    ]
) | st.sampled_from(
    [
        "/*",
        "*/",
        "#",
        "//",
        "$(",
        "loadmodule",
        "#!define A B\n",
        "A",
        "B",
        '#!substdef "!B!A!g"\n',
        "!!",
        "\\",
        " ",
        "\x0b",
        "\xa0",
    ]
)


@given(st.lists(PIECES, max_size=30).map("".join) | st.text())
def test_any_text_gives_a_result_or_the_documented_error(text: str) -> None:
    try:
        config: KamailioConfig | None = read_kamailio_cfg(
            text, open_file=lambda name, by: (name, text), max_length=10_000
        )
    except ModParamError:
        config = None
    assert config is None or isinstance(config.parameters, dict)
