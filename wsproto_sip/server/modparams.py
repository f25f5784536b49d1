"""Parameters under the names of Kamailio's ``websocket`` module, from Python or a kamailio.cfg.

What the module refuses to start with is refused here, and where it silently falls back to a
default, so does this, but with a note. The reader understands as much of kamailio.cfg as it takes
to find ``modparam`` and ``loadmodule``: comments, strings, and the conditions around them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from typing import cast

from ..keepalive import KeepaliveConfig, Mechanism
from ..policy.cors import CorsMode, CorsPolicy
from ..policy.decision import Policy
from ..policy.subprotocol import SubprotocolPolicy
from ..subprotocols import MSRP, SIP

__all__ = [
    "DEFAULT_PING_DATA",
    "KamailioConfig",
    "ModParamError",
    "ModParams",
    "SubProtocols",
    "read_kamailio_cfg",
]

#: What keep-alive frames carry unless told otherwise; the module sends its Server header.
DEFAULT_PING_DATA = b"wsproto-sip"

_MAX_PING_DATA = 125
_MAX_NOTES = 100


class ModParamError(ValueError):
    """A parameter, or the file it stands in, that the module would not start with either.

    Args:
        message: Parameter, value and range; or line and what is wrong with it.
    """


class SubProtocols(IntFlag):
    """The bits of ``sub_protocols``."""

    SIP = 1
    MSRP = 2


@dataclass(frozen=True, slots=True)
class _Number:
    """A parameter that is a whole number.

    Args:
        low: The lowest value.
        high: The highest value.
        default: What it is unless given.
        falls_back: Whether a value out of range becomes the default, as in the module, which
            otherwise refuses to start.
    """

    low: int
    high: int
    default: int
    falls_back: bool = True


_NUMBERS = {
    "keepalive_mechanism": _Number(0, 3, Mechanism.PING),
    "keepalive_timeout": _Number(1, 3600, 180),
    "keepalive_processes": _Number(1, 16, 1),
    "keepalive_interval": _Number(1, 60, 1),
    "sub_protocols": _Number(1, 3, 3, falls_back=False),
    "cors_mode": _Number(0, 2, CorsMode.NONE, falls_back=False),
    "timer_interval": _Number(1, 60, 1),
    "rm_delay_interval": _Number(1, 60, 5),
    "verbose_list": _Number(0, 1, 0),
}
_STRINGS = ("ping_application_data", "event_callback")


@dataclass(frozen=True, slots=True)
class ModParams:
    """The module's parameters, checked.

    Args:
        keepalive_mechanism: How connections are kept alive.
        keepalive_timeout: Seconds without use after which one is.
        keepalive_processes: Into how many parts the connections are split for that.
        keepalive_interval: Seconds between two visits of a part.
        ping_application_data: What Pings and Pongs carry, 1 to 125 octets.
        sub_protocols: The enabled sub-protocols.
        cors_mode: What Access-Control-Allow-Origin holds.
        timer_interval: Seconds between two runs of the module's timer; accepted for its sake.
        rm_delay_interval: Seconds for which it keeps ended connections; accepted for its sake.
        verbose_list: Whether it logs its table; accepted for its sake.
        event_callback: The script function it calls at events; accepted for its sake.
        notes: Where a default took the place of what was given, and what has no effect here.
    """

    keepalive_mechanism: Mechanism = Mechanism.PING
    keepalive_timeout: int = 180
    keepalive_processes: int = 1
    keepalive_interval: int = 1
    ping_application_data: bytes = DEFAULT_PING_DATA
    sub_protocols: SubProtocols = SubProtocols.SIP | SubProtocols.MSRP
    cors_mode: CorsMode = CorsMode.NONE
    timer_interval: int = 1
    rm_delay_interval: int = 5
    verbose_list: int = 0
    event_callback: str = ""
    notes: tuple[str, ...] = ()

    @classmethod
    def from_modparams(
        cls, params: Mapping[str, int | str | bytes], *, msrp: bool = True
    ) -> ModParams:
        """Check parameters as the module does.

        Args:
            params: Values by the module's names. Only ``ping_application_data`` may be ``bytes``.
            msrp: Whether MSRP is there; without it, ``sub_protocols`` defaults to 1 and may not
                name it.

        Raises:
            ModParamError: A name is unknown, a value has the wrong type, ``sub_protocols`` or
                ``cors_mode`` is out of range, or MSRP is enabled without being there.
        """
        notes: list[str] = []
        numbers: dict[str, int] = {}
        for name in params:
            if name not in _NUMBERS and name not in _STRINGS:
                known = ", ".join([*_NUMBERS, *_STRINGS])
                raise ModParamError(f"{name}: no such parameter; there are {known}")
        for name, form in _NUMBERS.items():
            default = form.default if name != "sub_protocols" or msrp else SubProtocols.SIP
            numbers[name] = _number(name, params.get(name, default), form, notes)
        if numbers["sub_protocols"] & SubProtocols.MSRP and not msrp:
            value = numbers["sub_protocols"]
            raise ModParamError(f"sub_protocols = {value}: 2 (msrp) needs MSRP; it can be 1 only")
        data = params.get("ping_application_data", DEFAULT_PING_DATA)
        callback = params.get("event_callback", "")
        if not isinstance(data, str | bytes):
            raise ModParamError(f"ping_application_data = {data!r}: must be a string")
        if not isinstance(callback, str):
            raise ModParamError(f"event_callback = {callback!r}: must be a string")
        octets = data if isinstance(data, bytes) else data.encode("utf-8", "replace")
        if not 1 <= len(octets) <= _MAX_PING_DATA:
            notes.append(
                f"ping_application_data of {len(octets)} octets is not 1 to {_MAX_PING_DATA}: "
                f"{DEFAULT_PING_DATA.decode('ascii')} instead"
            )
            octets = DEFAULT_PING_DATA
        for name in ("timer_interval", "rm_delay_interval", "verbose_list", "event_callback"):
            if name in params:
                notes.append(f"{name} has no effect here")
        return cls(
            keepalive_mechanism=Mechanism(numbers["keepalive_mechanism"]),
            keepalive_timeout=numbers["keepalive_timeout"],
            keepalive_processes=numbers["keepalive_processes"],
            keepalive_interval=numbers["keepalive_interval"],
            ping_application_data=octets,
            sub_protocols=SubProtocols(numbers["sub_protocols"]),
            cors_mode=CorsMode(numbers["cors_mode"]),
            timer_interval=numbers["timer_interval"],
            rm_delay_interval=numbers["rm_delay_interval"],
            verbose_list=numbers["verbose_list"],
            event_callback=callback,
            notes=tuple(notes),
        )

    @classmethod
    def from_kamailio_cfg(cls, text: str, *, defines: Mapping[str, str] | None = None) -> ModParams:
        """Take the parameters from a kamailio.cfg.

        Args:
            text: The file.
            defines: As for :func:`read_kamailio_cfg`.

        Returns:
            The parameters, with the reader's notes in front of their own.

        Raises:
            ModParamError: As :func:`read_kamailio_cfg` and :meth:`from_modparams`.
        """
        config = read_kamailio_cfg(text, defines=defines)
        params = cls.from_modparams(config.parameters, msrp=config.msrp)
        values = {name: getattr(params, name) for name in (*_NUMBERS, *_STRINGS)}
        return cls(**values, notes=config.notes + params.notes)

    def keepalive_config(self, *, answer_timeout: float = 20.0) -> KeepaliveConfig:
        """How each connection is kept alive.

        Args:
            answer_timeout: Seconds that the peer has to answer a Ping. The module has no parameter
                for it: it ends the connection when it next finds it unused for
                ``keepalive_timeout``, and by then has counted its own Ping as use.

        Raises:
            ValueError: ``answer_timeout`` is out of its range.
        """
        return KeepaliveConfig(
            mechanism=self.keepalive_mechanism,
            interval=float(self.keepalive_timeout),
            answer_timeout=answer_timeout,
            application_data=self.ping_application_data,
        )

    def policies(self) -> list[Policy]:
        """What the module checks and adds itself: sub-protocol (``sip`` first) and CORS.

        Policies on port, target, Host, Origin and authentication, which the module leaves to the
        script around it, belong in front of these.
        """
        names = ((SubProtocols.SIP, SIP), (SubProtocols.MSRP, MSRP))
        enabled = [name for bit, name in names if bit in self.sub_protocols]
        return [SubprotocolPolicy(enabled, server_preference=True), CorsPolicy(self.cors_mode)]


def _number(name: str, value: int | str | bytes, form: _Number, notes: list[str]) -> int:
    span = f"{form.low} to {form.high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModParamError(f"{name} = {value!r}: must be an integer, {span}")
    if form.low <= value <= form.high:
        return value
    if not form.falls_back:
        raise ModParamError(f"{name} = {value}: must be {span}")
    notes.append(f"{name} = {value} is not {span}: {form.default:d} instead")
    return form.default


@dataclass(frozen=True, slots=True)
class KamailioConfig:
    """What a kamailio.cfg says about the module.

    Args:
        parameters: The values by name; of several for one name the last, as in Kamailio.
        loaded: Whether the file loads the module.
        msrp: Whether it loads ``msrp`` before it.
        notes: What was not followed or not understood, with line numbers.
    """

    parameters: Mapping[str, int | str] = field(default_factory=dict)
    loaded: bool = False
    msrp: bool = False
    notes: tuple[str, ...] = ()


# The tokens of kamailio.cfg, as far as they matter. Pseudo-variables are taken as a whole, since
# they may hold single quotes.
_TOKEN = re.compile(
    r"""
    (?P<space>[ \t\r\n]++)
  | (?P<directive>(?:\#!|!!(?=ifdef|ifndef|ifexp|else|endif|define|trydef|redef))
                  (?:\\\r?\n|[^\n])*+)
  | (?P<comment>\#[^\n]*+|//[^\n]*+|/\*.*?\*/)
  | (?P<variable>\$[A-Za-z_]*+\((?:[^()\n]|\([^()\n]*+\))*+\))
  | (?P<string>"(?:[^"\\]|\\.)*+"|'[^']*+')
  | (?P<name>[A-Za-z_][A-Za-z0-9_.]*+)
  | (?P<number>-?(?:0[xX][0-9A-Fa-f]++|[0-9]++)(?![A-Za-z0-9_.]))
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTINUED = re.compile(r"\\\r?\n")
_DIRECTIVE = re.compile(r"(?:#!|!!)([A-Za-z_]+)(?:[ \t]+(.*))?", re.DOTALL)
_CONDITION = re.compile(
    r"^[ \t]*+(?:#!|!!)(?:ifdef|ifndef|ifexp|else|endif)(?![A-Za-z_])[^\n]*+", re.MULTILINE
)
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*+")
_ESCAPE = re.compile(r'\\([nrta\\"])')
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "\\": "\\", '"': '"'}
_PLAIN_MODULE = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(slots=True)
class _Branch:
    """One ``#!ifdef`` and what follows it: is it read, and was a branch of it read before."""

    active: bool
    taken: bool
    line: int


class _Reader:
    """Walks through a file once and collects what matters."""

    def __init__(self, text: str, defines: Mapping[str, str]) -> None:
        self._text = text
        self._position = 0
        self._counted = 0
        self._line = 1
        self._defines = dict(defines)
        self._branches: list[_Branch] = []
        self.notes: list[str] = []

    def _fail(self, message: str) -> ModParamError:
        return ModParamError(f"line {self._line}: {message}")

    def note(self, message: str) -> None:
        if len(self.notes) < _MAX_NOTES:
            self.notes.append(f"line {self._line}: {message}")

    def _count_lines(self, position: int) -> None:
        self._line += self._text.count("\n", self._counted, position)
        self._counted = position

    def tokens(self) -> Iterator[tuple[str, str]]:
        """The names, strings, numbers and other characters of what is read."""
        text = self._text
        while self._position < len(text):
            if self._branches and not self._branches[-1].active:
                condition = _CONDITION.search(text, self._position)
                if condition is None:
                    break
                self._count_lines(condition.start())
                self._position = condition.end()
                self._direct(condition[0].strip(" \t"))
                continue
            # Never None: the last alternative takes any character.
            match = cast("re.Match[str]", _TOKEN.match(text, self._position))
            self._count_lines(match.start())
            self._position = match.end()
            kind, token = str(match.lastgroup), match[0]
            if kind == "directive":
                self._direct(token)
            elif kind in ("name", "string", "number"):
                yield kind, token
            elif kind == "other":
                if text[match.start()] in "\"'" or text.startswith("/*", match.start()):
                    raise self._fail("a string or comment without an end")
                yield kind, token
        if self._branches:
            self._line = self._branches[-1].line
            raise self._fail("a condition without #!endif")

    def _direct(self, token: str) -> None:
        match = _DIRECTIVE.match(token)
        if match is None:
            return
        name, rest = match[1], _CONTINUED.sub("", match[2] or "").strip(" \t\r")
        branches = self._branches
        if name in ("ifdef", "ifndef", "ifexp"):
            reading = not branches or branches[-1].active
            if not reading:
                holds = False
            elif name == "ifexp":
                self.note("#!ifexp is not evaluated and taken as true")
                holds = True
            else:
                identifier = _IDENTIFIER.match(rest)
                if identifier is None:
                    raise self._fail(f"#!{name} without a name")
                holds = (identifier[0] in self._defines) is (name == "ifdef")
            # Inside what is not read, neither branch is: as if one had been taken.
            branches.append(_Branch(holds, holds or not reading, self._line))
        elif name in ("else", "endif"):
            if not branches:
                raise self._fail(f"#!{name} without a condition")
            if name == "endif":
                branches.pop()
            else:
                branches[-1].active = not branches[-1].taken
                branches[-1].taken = True
        elif name in ("define", "redefine", "trydef", "trydefine", "def"):
            identifier = _IDENTIFIER.match(rest)
            if identifier is None:
                raise self._fail(f"#!{name} without a name")
            if not name.startswith("try") or identifier[0] not in self._defines:
                self._defines[identifier[0]] = rest[identifier.end() :].strip(" \t")
        elif name in ("include_file", "import_file"):
            self.note(f"{name} is not followed")
        elif name.startswith(("subst", "defexp", "defenv")):
            self.note(f"#!{name} is not applied")

    def value(self, kind: str, token: str) -> int | str:
        """The value of a string, a number, or a name that was defined as one of these."""
        if kind == "name":
            if token not in self._defines:
                raise self._fail(f"{token} is not defined")
            match = _TOKEN.fullmatch(self._defines[token])
            if match is None or match.lastgroup not in ("string", "number"):
                raise self._fail(f"{token} is not defined as a number or string")
            kind, token = match.lastgroup, match[0]
        if kind == "string":
            if token.startswith("'"):
                return token[1:-1]
            return _ESCAPE.sub(lambda found: _ESCAPED[found[1]], token[1:-1])
        digits = token.removeprefix("-")
        if kind != "number" or len(digits) > 20:
            raise self._fail("not a number or string")
        base = 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") else 10
        try:
            return int(token, base)
        except ValueError:
            raise self._fail(f"{token} is not a number") from None

    def expect(self, tokens: Iterator[tuple[str, str]], wanted: str) -> tuple[str, str]:
        """The next token, which has to be of a kind, or a character."""
        kind, token = next(tokens, ("end", "the end of the file"))
        if wanted not in (kind, token) and (wanted != "value" or kind == "end"):
            raise self._fail(f"malformed modparam: {token[:40]} where {wanted} belongs")
        return kind, token


def _names_module(modules: str, reader: _Reader) -> bool:
    """Whether a list of modules names ours; Kamailio takes it as a regular expression."""
    alternatives = modules.split("|")
    if any(name.lower() == "websocket" for name in alternatives):
        return True
    if not all(_PLAIN_MODULE.fullmatch(name) for name in alternatives):
        reader.note(f"modules {modules[:40]!r}: only plain names between | are compared")
    return False


def read_kamailio_cfg(
    text: str, *, defines: Mapping[str, str] | None = None, max_length: int = 1024 * 1024
) -> KamailioConfig:
    """Find ``modparam("websocket", …)`` and ``loadmodule`` in a kamailio.cfg, in linear time.

    ``#!ifdef``, ``#!ifndef``, ``#!else``, ``#!endif``, ``#!define`` and ``#!trydef`` are followed
    (with ``!!`` in place of ``#!`` too); ``#!ifexp`` is taken as true, and
    included files and substitutions are left out, all three with a note. Module lists
    (``"websocket|other"``) are compared name by name, not as regular expressions. Whether the rest
    of the file is a configuration that Kamailio would accept is not looked at.

    Args:
        text: The file.
        defines: What is defined besides what the file defines, as with Kamailio's option ``-A``.
        max_length: Characters it may have.

    Returns:
        The parameters as they are written, unchecked.

    Raises:
        ModParamError: The file is too long, a string, comment or condition has no end, or a
            ``modparam`` of the module is malformed.
    """
    if len(text) > max_length:
        raise ModParamError(f"the file has more than {max_length} characters")
    reader = _Reader(text, defines or {})
    parameters: dict[str, int | str] = {}
    loaded = msrp = msrp_before = False
    tokens = reader.tokens()
    for kind, token in tokens:
        if kind != "name":
            continue
        if token in ("modparam", "modparamx"):
            if next(tokens, None) != ("other", "("):
                continue
            kind, token = next(tokens, ("end", ""))
            if kind != "string" or not _names_module(str(reader.value(kind, token)), reader):
                continue
            reader.expect(tokens, ",")
            name = str(reader.value(*reader.expect(tokens, "string")))
            reader.expect(tokens, ",")
            parameters[name] = reader.value(*reader.expect(tokens, "value"))
            reader.expect(tokens, ")")
        elif token in ("loadmodule", "loadmodulex"):
            kind, token = next(tokens, ("end", ""))
            if (kind, token) == ("other", "("):
                kind, token = next(tokens, ("end", ""))
            if kind != "string":
                continue
            module = str(reader.value(kind, token)).rpartition("/")[2].removesuffix(".so")
            if module == "msrp":
                msrp_before = True
            elif module == "websocket":
                loaded, msrp = True, msrp_before
        elif token in ("include_file", "import_file"):
            reader.note(f"{token} is not followed")
    if not loaded:
        reader.note('no loadmodule "websocket.so"')
        msrp = msrp_before
    return KamailioConfig(parameters, loaded, msrp, tuple(reader.notes))
