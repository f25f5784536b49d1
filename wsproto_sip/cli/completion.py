"""``wsproto-sip completion``: completion scripts for bash, zsh and fish.

The scripts are generated from the parsers of the commands, so that they know every option and its
values; the names of a server's commands are those that any server can have.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ..server.management.commands import COMMAND_NAMES
from ._commands import COMMANDS, options_of, parser_of

__all__ = ["SERVER_COMMANDS", "add_arguments", "script"]

SHELLS: Final = ("bash", "zsh", "fish")

#: The commands of ``ctl``: those of every server, of its applications, and its own.
SERVER_COMMANDS: Final = tuple(
    sorted(
        [
            *COMMAND_NAMES,
            *("ul.dump", "ul.lookup", "ul.rm", "tm.list", "ws.upstreams", "msrp.sessions"),
            "ws.nodes",
            *("config.get", "log.level", "reload"),
            "top",
        ]
    )
)

_WORDS: Final = re.compile(r"[a-z0-9-]+(?:\|[a-z0-9-]+)+")


@dataclass(frozen=True, slots=True)
class _Option:
    """An option, or an argument without a name.

    Args:
        names: The names of an option; none for an argument.
        help: The help.
        metavar: The placeholder for its value; empty for none.
        words: The possible values, if they are known.
        files: Whether the value is a file name.
        many: Whether it can be repeated.
    """

    names: tuple[str, ...]
    help: str
    metavar: str
    words: tuple[str, ...]
    files: bool
    many: bool


def _options(command: str) -> Iterator[_Option]:
    for action in options_of(parser_of(command)):
        metavar = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        words: tuple[str, ...] = ()
        if action.choices is not None:
            words = tuple(map(str, action.choices))
        elif _WORDS.fullmatch(metavar):
            words = tuple(metavar.split("|"))
        elif command == "ctl" and action.dest == "name":
            words = SERVER_COMMANDS
        yield _Option(
            tuple(action.option_strings),
            " ".join(str(action.help or "").replace("%(default)s", str(action.default)).split()),
            metavar,
            words,
            metavar in ("PATH", "FILE", "FILE.toml"),
            isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+"),
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _bash() -> Iterator[str]:
    yield "# wsproto-sip: completion for bash; made by 'wsproto-sip completion bash'"
    yield "_wsproto_sip() {"
    yield '    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words=""'
    yield "    COMPREPLY=()"
    yield '    if [ "$COMP_CWORD" -eq 1 ]; then'
    yield f'        words="{" ".join(COMMANDS)} --version --help"'
    yield '        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")'
    yield "        return"
    yield "    fi"
    yield '    case "${COMP_WORDS[1]} $prev" in'
    for command in COMMANDS:
        for option in _options(command):
            if not option.metavar or not option.names:
                continue
            pattern = "|".join(_quoted(f"{command} {name}") for name in option.names)
            if option.files:
                yield f"    {pattern})"
                yield '        mapfile -t COMPREPLY < <(compgen -f -- "$cur")'
                yield "        compopt -o filenames 2>/dev/null"
                yield "        return ;;"
            else:
                words = " ".join(option.words)
                yield f"    {pattern})"
                yield f'        mapfile -t COMPREPLY < <(compgen -W "{words}" -- "$cur")'
                yield "        return ;;"
    yield "    esac"
    yield '    case "${COMP_WORDS[1]}" in'
    for command in COMMANDS:
        known = [word for option in _options(command) for word in (option.names or option.words)]
        yield f'    {command}) words="{" ".join(known)}" ;;'
    yield "    esac"
    yield '    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")'
    yield "}"
    yield "complete -F _wsproto_sip wsproto-sip"


def _zsh() -> Iterator[str]:
    yield "#compdef wsproto-sip"
    yield "# made by 'wsproto-sip completion zsh'"
    yield "_wsproto_sip() {"
    yield "    local -a commands"
    yield "    commands=("
    for name, (_, text) in COMMANDS.items():
        yield f"        {_quoted(f'{name}:{text}')}"
    yield "    )"
    yield "    if (( CURRENT == 2 )); then"
    yield "        _describe command commands"
    yield "        return"
    yield "    fi"
    yield "    local command=$words[2]"
    yield "    shift words"
    yield "    (( CURRENT-- ))"
    yield "    case $command in"
    for command in COMMANDS:
        yield f"    {command})"
        yield "        _arguments \\"
        for option in _options(command):
            for name in option.names or ("",):
                yield f"            {_quoted(_zsh_spec(option, name))} \\"
        yield "            ;;"
    yield "    esac"
    yield "}"
    yield "compdef _wsproto_sip wsproto-sip"


def _zsh_spec(option: _Option, name: str) -> str:
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.help)
    metavar = re.sub(r"([:\\])", r"\\\1", option.metavar)
    action = "_files" if option.files else f"({' '.join(option.words)})" if option.words else " "
    if not name:
        return f"{'*' if option.many else ''}:{metavar}:{action}"
    spec = f"{'*' if option.many else ''}{name}[{text}]"
    return f"{spec}:{metavar}:{action}" if option.metavar else spec


def _fish() -> Iterator[str]:
    yield "# wsproto-sip: completion for fish; made by 'wsproto-sip completion fish'"
    yield "complete -c wsproto-sip -f"
    yield "complete -c wsproto-sip -n __fish_use_subcommand -l version -d 'show the version'"
    for name, (_, text) in COMMANDS.items():
        yield f"complete -c wsproto-sip -n __fish_use_subcommand -a {name} -d {_fish_text(text)}"
    for command in COMMANDS:
        begin = f"complete -c wsproto-sip -n '__fish_seen_subcommand_from {command}'"
        for option in _options(command):
            words = f" -a {_fish_text(' '.join(option.words))}" if option.words else ""
            if not option.names:
                if words:
                    yield f"{begin}{words} -d {_fish_text(option.metavar)}"
                continue
            names = " ".join(
                f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}"
                for name in option.names
            )
            takes = ""
            if option.metavar:
                takes = " -r -F" if option.files else f" -x{words}"
            yield f"{begin} {names}{takes} -d {_fish_text(option.help)}"


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SCRIPTS: Final = {"bash": _bash, "zsh": _zsh, "fish": _fish}


def script(shell: str) -> str:
    """Return the script for a shell.

    Args:
        shell: One of ``bash``, ``zsh`` and ``fish``.
    """
    lines: Sequence[str] = list(_SCRIPTS[shell]())
    # A continued line must not be the last of its list.
    text = "\n".join(lines) + "\n"
    return re.sub(r" \\\n( +);;", r"\n\1;;", text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``completion`` to its parser."""
    parser.description = (
        "Print a script that completes the words of wsproto-sip. In bash: "
        "source <(wsproto-sip completion bash)"
    )
    parser.add_argument("shell", metavar="|".join(SHELLS), choices=SHELLS, help="the shell")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    print(script(arguments.shell), end="")
    return 0
