"""A reader of kamailio.cfg for servers that replace Kamailio.

Theory of operation. The file is split into tokens once, in linear time: names, strings, numbers and
single characters. The preprocessor is followed as Kamailio's own lexer does it: conditions,
definitions (a name is replaced by its text), substitutions in strings, and included files, each of
which is read at the place where it is included::

    sources   [kamailio.cfg] [local.cfg] [what a name stands for]
                                              ^ tokens come from the last one until it ends

The reader does not check whether the rest is a configuration that Kamailio would accept. It does
not open files: its caller supplies their text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from ...errors import WsprotoSipError

__all__ = [
    "CfgCall",
    "CfgListen",
    "CfgModParam",
    "KamailioConfig",
    "ModParamError",
    "OpenFile",
    "read_kamailio_cfg",
]

#: Returns the path and text of an included file, given its name and the name of the including file;
#: ``None`` if it does not exist.
OpenFile = Callable[[str, str], tuple[str, str] | None]

_MAX_NOTES: Final = 100
#: The maximum depth of nested files and definitions; Kamailio allows ten files.
_MAX_DEPTH: Final = 40
#: How much may be read in total, as a multiple of the limit on one file.
_MAX_GROWTH: Final = 4


class ModParamError(WsprotoSipError, ValueError):
    """A parameter, or its file, with which Kamailio would not start either.

    Args:
        message: The place, and what is wrong there.
    """


@dataclass(frozen=True, slots=True)
class CfgListen:
    """A ``listen=`` statement.

    Args:
        protocol: ``udp``, ``tcp``, ``tls`` or ``sctp``; ``None`` for all.
        host: The name or address; an IPv6 address without brackets.
        port: The port; ``None`` for the protocol's default.
        advertised: The advertised host and port, or ``None``.
        where: File and line.
    """

    protocol: str | None
    host: str
    port: int | None
    advertised: tuple[str, int | None] | None
    where: str


@dataclass(frozen=True, slots=True)
class CfgModParam:
    """A parameter of a module.

    Args:
        module: The module.
        name: The parameter.
        value: Its value; ``None`` if it is neither a string nor a number.
        where: File and line.
    """

    module: str
    name: str
    value: int | str | None
    where: str


@dataclass(slots=True)
class CfgCall:
    """A function called by the script, or an event that it handles.

    Args:
        where: File and line of the first occurrence.
        count: The number of occurrences.
    """

    where: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class KamailioConfig:
    """The contents of a kamailio.cfg.

    Args:
        parameters: The values of the websocket module's parameters by name; if a name is repeated,
            the last one, as in Kamailio.
        where: File and line of each of them.
        loaded: Whether the file loads the module.
        msrp: Whether it loads ``msrp`` before it.
        listens: The ``listen=`` statements.
        settings: Settings of Kamailio itself (such as ``children``): text and place.
        modparams: The parameters of other modules.
        calls: Functions called by the script, and ``event_route[…]``, by name.
        notes: Parts that were not followed or not understood, with files and lines.
    """

    parameters: Mapping[str, int | str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    loaded: bool = False
    msrp: bool = False
    listens: tuple[CfgListen, ...] = ()
    settings: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    modparams: tuple[CfgModParam, ...] = ()
    calls: Mapping[str, CfgCall] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


#: The settings of Kamailio itself to collect.
_SETTINGS: Final = frozenset(
    [
        *("children", "tcp_children", "socket_workers", "tcp_max_connections"),
        *("tcp_connection_lifetime", "enable_tls", "tls_enable", "disable_tls", "alias", "port"),
        *("mpath", "loadpath", "user", "group"),
    ]
)
#: Statements that occur in a kamailio.cfg and not in other files.
_STATEMENTS: Final = frozenset(
    [
        *("loadmodule", "loadmodulex", "modparam", "modparamx", "include_file", "import_file"),
        *("request_route", "reply_route", "failure_route", "branch_route", "onreply_route"),
        *("onsend_route", "event_route"),
    ]
)

# The tokens, as far as they matter. Pseudo-variables are single tokens, since they may contain
# single quotes.
_TOKEN: Final = re.compile(
    r"""
    (?P<space>[ \t\r\n]+)
  | (?P<directive>(?:\#!|!!(?=(?:ifn?def|ifexp|else|endif|define|def|trydef|trydefine|redefine
                               |redef|undef|undefine|subst|substdefs?|defenvs?|trydefenvs?
                               |defexps?|include_file|import_file)\b))
                  (?:\\\r?\n|[^\n])*)
  | (?P<comment>\#[^\n]*|//[^\n]*|/\*.*?\*/)
  | (?P<variable>\$[A-Za-z_]*\((?:[^()\n]|\([^()\n]*\))*\))
  | (?P<string>"(?:[^"\\]|\\.)*"|'[^']*')
  | (?P<name>[A-Za-z_][A-Za-z0-9_.]*)
  | (?P<number>-?(?:0[xX][0-9A-Fa-f]+|[0-9]+)(?![A-Za-z0-9_.]))
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CONTINUED: Final = re.compile(r"\\\r?\n")
_DIRECTIVE: Final = re.compile(r"(?:#!|!!)([A-Za-z_]+)(?:[ \t]+(.*))?", re.DOTALL)
_CONDITION: Final = re.compile(
    r"^[ \t]*(?:#!|!!)(?:ifdef|ifndef|ifexp|else|endif)(?![A-Za-z_])[^\n]*", re.MULTILINE
)
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ESCAPE: Final = re.compile(r'\\(x[0-9A-Fa-f]{1,2}|[0-7]{2,3}|[nrta\\"])')
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "\\": "\\", '"': '"'}
_PLAIN_MODULE: Final = re.compile(r"[A-Za-z0-9_-]*")
#: References to other definitions, and to the environment, in values of definitions.
_TAKEN: Final = re.compile(r"\$(def|defn|defs|defv|env|envn|envs)\(([A-Za-z_][A-Za-z0-9_]*)\)")
_ASSIGNED: Final = re.compile(r"[ \t]*=(?!=)")
_COMMENT: Final = re.compile(r"(?:#|//|/\*).*")
_LISTEN: Final = re.compile(
    r'(?:(udp|tcp|tls|sctp)[ \t]*:[ \t]*)?(\[[0-9A-Fa-f:.%]{2,60}\]|[^\s:"\[\]()]{1,255})'
    r"(?:[ \t]*:[ \t]*([0-9]{1,5}))?(?:[ \t]+(.*))?",
    re.IGNORECASE,
)
_ADVERTISED: Final = re.compile(
    r'\badvertise[ \t]+"?(\[[0-9A-Fa-f:.%]{2,60}\]|[^\s:"\[\]()]{1,255})"?'
    r"(?:[ \t]*:[ \t]*([0-9]{1,5}))?",
    re.IGNORECASE,
)


@dataclass(slots=True)
class _Branch:
    """One ``#!ifdef`` block: whether it is read, and whether an earlier branch was read."""

    active: bool
    taken: bool
    line: str


@dataclass(slots=True)
class _Source:
    """A text to split into tokens.

    Args:
        text: The text.
        name: The file; empty for the first.
        line: The line of the token before the last one.
        inline: Whether it is the text of a definition, which has no lines of its own.
    """

    text: str
    name: str
    line: int = 1
    inline: bool = False
    position: int = 0
    counted: int = 0

    def count_lines(self, position: int) -> None:
        if not self.inline:
            self.line += self.text.count("\n", self.counted, position)
            self.counted = position


class _Reader:
    """Reads the files once."""

    def __init__(
        self,
        source: _Source,
        defines: Mapping[str, str],
        environment: Mapping[str, str],
        open_file: OpenFile | None,
        budget: int,
    ) -> None:
        self._sources = [source]
        self._given = defines
        self._defines = dict(defines)
        self._environment = environment
        self._open_file = open_file
        self._budget = budget
        self._branches: list[_Branch] = []
        self._notes: dict[str, CfgCall] = {}
        self._substitutions: list[tuple[str, str, bool]] = []
        #: Whether it is a kamailio.cfg at all.
        self.recognised = False

    @property
    def where(self) -> str:
        """File and line of the last token."""
        source = self._sources[-1]
        return f"{source.name}: line {source.line}" if source.name else f"line {source.line}"

    def fail(self, message: str) -> ModParamError:
        return ModParamError(f"{self.where}: {message}")

    def note(self, message: str) -> None:
        known = self._notes.get(message)
        if known is not None:
            known.count += 1
        elif len(self._notes) < _MAX_NOTES:
            self._notes[message] = CfgCall(self.where)

    def notes(self) -> tuple[str, ...]:
        """Return the notes without duplicates."""
        return tuple(
            f"{found.where}: {message}" + (f" ({found.count} times)" if found.count > 1 else "")
            for message, found in self._notes.items()
        )

    def _spend(self, characters: int) -> None:
        self._budget -= characters
        if self._budget < 0:
            raise self.fail("too much text, including included files and definitions")

    def _push(self, source: _Source) -> None:
        if len(self._sources) > _MAX_DEPTH:
            raise self.fail("files or definitions that contain themselves")
        self._spend(len(source.text) + 16)
        self._sources.append(source)

    # -- tokens ------------------------------------------------------------------------------------

    def tokens(self) -> Iterator[tuple[str, str]]:
        """Yield the names, strings, numbers and other characters."""
        while True:
            source = self._sources[-1]
            text = source.text
            if source.position >= len(text):
                if len(self._sources) == 1:
                    break
                self._sources.pop()
                continue
            if self._branches and not self._branches[-1].active:
                self._skip(source)
                continue
            # Never None: the last alternative matches any character.
            match = cast("re.Match[str]", _TOKEN.match(text, source.position))
            source.count_lines(match.start())
            source.position = match.end()
            kind, word = str(match.lastgroup), match[0]
            if kind == "directive":
                self._direct(word)
            elif kind == "name" and word in self._defines:
                self._push(_Source(self._defines[word], source.name, source.line, inline=True))
            elif kind == "name" and word in ("include_file", "import_file"):
                self.recognised = True
                self._include(word, self.rest_of_line())
            elif kind in ("name", "string", "number"):
                yield kind, word
            elif kind == "other":
                if word in "\"'" or text.startswith("/*", match.start()):
                    raise self.fail("an unterminated string or comment")
                yield kind, word
        if self._branches:
            raise ModParamError(f"{self._branches[-1].line}: a condition without #!endif")

    def _skip(self, source: _Source) -> None:
        """Skip a branch that is not read."""
        condition = _CONDITION.search(source.text, source.position)
        if condition is None:
            source.position = len(source.text)
            return
        source.count_lines(condition.start())
        source.position = condition.end()
        self._direct(condition[0].strip(" \t"))

    def rest_of_line(self) -> str:
        """Take the rest of the line, without a comment at its end."""
        source = self._sources[-1]
        end = source.text.find("\n", source.position)
        end = len(source.text) if end < 0 else end
        line = source.text[source.position : end]
        source.position = end
        return line.strip(" \t\r")

    def plain(self, text: str) -> str:
        """Return text with its definitions replaced."""
        text = _COMMENT.sub("", text).strip(" \t;")
        for _ in range(_MAX_DEPTH):
            found = _IDENTIFIER.sub(lambda match: self._defines.get(match[0], match[0]), text)
            self._spend(len(found))
            if found == text:
                return self._substituted(text)
            text = found
        raise self.fail("definitions that contain themselves")

    def assigned(self) -> bool:
        """Take a ``=`` if it comes next; return ``False`` for anything else, including ``==``."""
        source = self._sources[-1]
        match = _ASSIGNED.match(source.text, source.position)
        if match is None:
            return False
        source.position = match.end()
        return True

    def until(self, end: str) -> str:
        """Take the text up to a character in the same line, and the character."""
        source = self._sources[-1]
        found = source.text.find(end, source.position, source.position + 200)
        if found < 0:
            return ""
        taken = source.text[source.position : found]
        source.position = found + 1
        return taken.strip(" \t")

    def define_module(self, module: str) -> None:
        """Define the names that Kamailio defines for a loaded module."""
        self._defines[f"MOD_{module}"] = "1"

    # -- the preprocessor --------------------------------------------------------------------------

    def _direct(self, word: str) -> None:
        match = _DIRECTIVE.match(word)
        if match is None:
            return
        name, rest = match[1], _CONTINUED.sub("", match[2] or "").strip(" \t\r")
        if name in ("ifdef", "ifndef", "ifexp", "else", "endif"):
            self._branch(name, rest)
        elif name in ("define", "redefine", "redef", "trydef", "trydefine", "def"):
            identifier = self._identifier(name, rest)
            if not name.startswith("try") or identifier not in self._defines:
                value = rest[len(identifier) :].strip(" \t")
                self._defines[identifier] = self._taken(value)
        elif name in ("undef", "undefine", "tryundef", "tryundefine"):
            self._defines.pop(self._identifier(name, rest), None)
        elif name in ("include_file", "import_file"):
            self._include(name, rest)
        elif name in ("subst", "substdef", "substdefs"):
            self._substitute(name, rest)
        elif name in ("defenv", "defenvs", "trydefenv", "trydefenvs"):
            self._define_from_environment(name, rest)
        elif name in ("defexp", "defexps"):
            self.note(f"#!{name} is not evaluated")
        elif name in ("KAMAILIO", "OPENSER", "SER", "MAXCOMPAT", "ALL"):
            self.recognised = True

    def _identifier(self, directive: str, rest: str) -> str:
        match = _IDENTIFIER.match(rest)
        if match is None:
            raise self.fail(f"#!{directive} without a name")
        return match[0]

    def _branch(self, name: str, rest: str) -> None:
        branches = self._branches
        if name in ("else", "endif"):
            if not branches:
                raise self.fail(f"#!{name} without a condition")
            if name == "endif":
                branches.pop()
            else:
                branches[-1].active = not branches[-1].taken
                branches[-1].taken = True
            return
        reading = not branches or branches[-1].active
        if not reading:
            holds = False
        elif name == "ifexp":
            self.note("#!ifexp is not evaluated but taken as true")
            holds = True
        else:
            holds = (self._identifier(name, rest) in self._defines) is (name == "ifdef")
        # In a skipped part neither branch is read: as if one had been taken.
        branches.append(_Branch(holds, holds or not reading, self.where))

    def _taken(self, value: str) -> str:
        """Replace the references to definitions and the environment in a value."""

        def found(match: re.Match[str]) -> str:
            kind, name = match[1], match[2]
            known = self._environment if kind.startswith("env") else self._defines
            return known.get(name, match[0])

        taken = _TAKEN.sub(found, value)
        self._spend(len(taken))
        return taken

    def _define_from_environment(self, directive: str, rest: str) -> None:
        name = self._identifier(directive, rest)
        variable = rest[len(name) :].removeprefix("=").strip(" \t") or name
        value = self._environment.get(variable)
        if value is None:
            if not directive.startswith("try"):
                raise self.fail(f"#!{directive}: {variable[:80]} is not in the environment")
        else:
            self._defines[name] = f'"{value}"' if directive.endswith("s") else value

    def _substitute(self, directive: str, rest: str) -> None:
        rule = rest[1:-1] if len(rest) > 2 and rest[0] == rest[-1] == '"' else ""
        parts = rule[1:].split(rule[0]) if rule else []
        if len(parts) != 3 or not parts[0]:
            raise self.fail(f"malformed #!{directive}: {rest[:80]}")
        pattern, value, flags = parts
        if not _PLAIN_MODULE.fullmatch(pattern):
            self.note(f"#!{directive}: only plain words are replaced in strings: {pattern[:80]!r}")
            return
        if directive != "subst":
            # The caller's definitions have the values that only a running Kamailio knows.
            value = self._given.get(pattern, self._taken(value))
            self._defines[pattern] = f'"{value}"' if directive == "substdefs" else value
        # Values that only a running Kamailio knows are reported where they are used.
        if "\\" not in value and "$" not in value:
            self._substitutions.append((pattern, value, "g" in flags))

    def _substituted(self, text: str) -> str:
        for pattern, value, everywhere in self._substitutions:
            if pattern in text:
                text = text.replace(pattern, value, -1 if everywhere else 1)
                self._spend(len(text))
        return text

    def _include(self, directive: str, rest: str) -> None:
        match = _TOKEN.match(rest)
        if match is None or match.lastgroup != "string":
            raise self.fail(f"{directive} without a quoted file name")
        name = self._substituted(match[0][1:-1])
        if self._open_file is None:
            self.note(f"{directive} is not followed: {name[:80]!r}")
            return
        files = [source for source in self._sources if not source.inline]
        found = self._open_file(name, files[-1].name)
        if found is None:
            if directive == "include_file":
                raise self.fail(f"cannot find the file {name[:200]!r} to include")
            return
        path, text = found
        self._push(_Source(text, path))

    # -- values ------------------------------------------------------------------------------------

    def value(self, kind: str, word: str) -> int | str:
        """Return the value of a string or a number."""
        if kind == "name":
            raise self.fail(f"{word[:80]} is not defined")
        if kind == "string":
            if word.startswith("'"):
                return self._substituted(word[1:-1])
            return self._substituted(_ESCAPE.sub(_unescaped, word[1:-1]))
        digits = word.removeprefix("-")
        if kind != "number" or len(digits) > 20:
            raise self.fail("not a number or string")
        base = 16 if digits[:2] in ("0x", "0X") else 8 if digits.startswith("0") else 10
        try:
            return int(word, base)
        except ValueError:
            raise self.fail(f"{word} is not a number") from None

    def expect(self, tokens: Iterator[tuple[str, str]], wanted: str) -> tuple[str, str]:
        """Return the next token, which must be of a kind, or a character."""
        kind, word = next(tokens, ("end", "the end of the file"))
        if wanted not in (kind, word) and (wanted != "value" or kind == "end"):
            raise self.fail(f"malformed modparam: {word[:40]} where {wanted} belongs")
        return kind, word


def _unescaped(match: re.Match[str]) -> str:
    text = match[1]
    if text in _ESCAPED:
        return _ESCAPED[text]
    return chr(int(text[1:], 16) if text[0] == "x" else int(text, 8))


class _Collector:
    """Collects the relevant statements from the tokens."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._tokens = reader.tokens()
        self.parameters: dict[str, int | str] = {}
        self.where: dict[str, str] = {}
        self.loaded = self.msrp = self._msrp_before = False
        self.listens: list[CfgListen] = []
        self.settings: dict[str, tuple[str, str]] = {}
        self.modparams: list[CfgModParam] = []
        self.calls: dict[str, CfgCall] = {}

    def run(self) -> None:
        reader = self._reader
        before = ""
        for kind, word in self._tokens:
            if kind == "name":
                reader.recognised |= word in _STATEMENTS
                if word in ("modparam", "modparamx"):
                    self._modparam()
                elif word in ("loadmodule", "loadmodulex"):
                    self._loadmodule()
                elif word == "event_route":
                    self._event_route()
                elif word == "listen" or word in _SETTINGS:
                    self._setting(word)
            elif (kind, word) == ("other", "(") and before:
                self._called(before)
            before = word if kind == "name" else ""
        if not self.loaded:
            self.msrp = self._msrp_before

    def _called(self, name: str) -> None:
        known = self.calls.get(name)
        if known is None:
            self.calls[name] = CfgCall(self._reader.where)
        else:
            known.count += 1

    def _modparam(self) -> None:
        reader, tokens = self._reader, self._tokens
        if next(tokens, None) != ("other", "("):
            return
        where = reader.where
        kind, word = next(tokens, ("end", ""))
        if kind != "string":
            return
        modules = str(reader.value(kind, word)).split("|")
        if not all(_PLAIN_MODULE.fullmatch(name) for name in modules):
            # Kamailio takes it as a regular expression.
            reader.note(f"modules {'|'.join(modules)[:40]!r}: only plain names are supported")
        if any(name.lower() == "websocket" for name in modules):
            reader.expect(tokens, ",")
            name = str(reader.value(*reader.expect(tokens, "string")))
            reader.expect(tokens, ",")
            self.parameters[name] = reader.value(*reader.expect(tokens, "value"))
            self.where[name] = where
            reader.expect(tokens, ")")
            return
        # Parameters of other modules are not interpreted.
        if next(tokens, None) != ("other", ","):
            return
        kind, word = next(tokens, ("end", ""))
        if kind != "string" or next(tokens, None) != ("other", ","):
            return
        name = str(reader.value(kind, word))
        kind, word = next(tokens, ("end", ""))
        value = reader.value(kind, word) if kind == "string" else None
        if kind == "number" and len(word) < 20 and not word.startswith("0"):
            value = int(word)
        for module in modules:
            self.modparams.append(CfgModParam(module.lower(), name, value, where))

    def _loadmodule(self) -> None:
        reader, tokens = self._reader, self._tokens
        kind, word = next(tokens, ("end", ""))
        if (kind, word) == ("other", "("):
            kind, word = next(tokens, ("end", ""))
        if kind != "string":
            return
        module = str(reader.value(kind, word)).rpartition("/")[2].removesuffix(".so")
        reader.define_module(module)
        if module == "msrp":
            self._msrp_before = True
        elif module == "websocket":
            self.loaded, self.msrp = True, self._msrp_before

    def _event_route(self) -> None:
        if next(self._tokens, None) != ("other", "["):
            return
        name = self._reader.until("]")
        self._called(f"event_route[{name}]")

    def _setting(self, name: str) -> None:
        reader = self._reader
        if not reader.assigned():
            return
        reader.recognised = True
        text, where = reader.plain(reader.rest_of_line()), reader.where
        if name != "listen":
            self.settings[name] = (text, where)
            return
        if len(text) > 1 and text[0] == text[-1] == '"':
            text = text[1:-1]
        match = _LISTEN.fullmatch(text)
        if match is None or (match[3] is not None and int(match[3]) > 65535):
            reader.note(f"listen={text[:80]} is not understood")
            return
        protocol, host, port, rest = match.groups()
        advertised = None
        found = _ADVERTISED.search(rest or "")
        if found is not None:
            advertised = (found[1].strip("[]"), None if found[2] is None else int(found[2]))
        self.listens.append(
            CfgListen(
                None if protocol is None else protocol.lower(),
                host.strip("[]"),
                None if port is None else int(port),
                advertised,
                where,
            )
        )


def read_kamailio_cfg(
    text: str,
    *,
    name: str = "",
    defines: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    open_file: OpenFile | None = None,
    max_length: int = 1024 * 1024,
) -> KamailioConfig:
    """Read the parts of a kamailio.cfg that another server can use, in linear time.

    ``#!ifdef`` and related directives, ``#!define``, ``#!substdef``, ``#!defenv`` and included
    files are followed (also with ``!!`` in place of ``#!``). ``#!ifexp`` is taken as true, and
    ``#!subst`` is applied to plain words alone, both with a note. Module lists
    (``"websocket|other"``) are compared name by name, not as regular expressions.

    Args:
        text: The contents of the file.
        name: Its path, for messages and for included files.
        defines: Additional definitions, as with Kamailio's option ``-A``.
        environment: The environment.
        open_file: Returns included files; without it they are left out, with a note.
        max_length: The maximum length of a file in characters.

    Returns:
        The contents, unchecked.

    Raises:
        ModParamError: The file is too long or not a kamailio.cfg, includes itself or a file that
            does not exist, a string, comment or condition is unterminated, or a ``modparam`` of the
            module is malformed.
    """
    prefix = f"{name}: " if name else ""
    if len(text) > max_length:
        raise ModParamError(f"{prefix}the file is longer than {max_length} characters")

    def opened(wanted: str, by: str) -> tuple[str, str] | None:
        found = None if open_file is None else open_file(wanted, by)
        if found is not None and len(found[1]) > max_length:
            raise ModParamError(f"{found[0]}: the file is longer than {max_length} characters")
        return found

    reader = _Reader(
        _Source(text, name),
        defines or {},
        environment or {},
        None if open_file is None else opened,
        _MAX_GROWTH * max_length,
    )
    found = _Collector(reader)
    found.run()
    if not reader.recognised:
        raise ModParamError(
            f"{prefix}not a kamailio.cfg: it has no loadmodule, modparam, listen= or route"
        )
    notes = reader.notes()
    if not found.loaded:
        notes += (f'{prefix}no loadmodule "websocket.so"',)
    return KamailioConfig(
        found.parameters,
        found.where,
        found.loaded,
        found.msrp,
        tuple(found.listens),
        found.settings,
        tuple(found.modparams),
        found.calls,
        notes,
    )
