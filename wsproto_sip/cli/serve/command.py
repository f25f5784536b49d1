"""The command ``wsproto-sip serve``: from words and files to a running service."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from contextlib import (
    ExitStack,
    closing,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
    suppress,
)
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ...subprotocols import MSRP
from .logs import Log, tell_dropped
from .outlet import Outlet
from .page import page_url
from .process import ParentNotifier, check_ports, check_processes, take_process
from .processes import Parent, command_of
from .service import Service, warn
from .settings import Loaded, Settings, SettingsError, add_options, load
from .setup import (
    begin_log,
    open_to_others,
    served_page,
    shared_addresses,
    within_descriptors,
)
from .systemd import Notifier, take_inherited

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .process import Process

__all__ = ["add_arguments"]

_GUIDE: Final = """\
Sub-protocols {subprotocols}; messages of at most {size} bytes.
{echo}{commands}Ctrl-C stops the server.
"""

_ECHO: Final = """\
{where}, every message comes back as it was sent. Try it from another terminal:
  {command}
or in a browser's console, on a page that may connect:
  ws = new WebSocket({arguments}); ws.onmessage = (e) => console.log(e.data); ws.onopen = () => ws.send("hello")
"""  # noqa: E501  # one line to copy


_EXAMPLES: Final = """\
Examples:
  wsproto-sip serve
      serve this machine on port 8080, with a telephone for browsers
  wsproto-sip serve --host 192.0.2.1 --port 443 --tls-cert chain.pem --tls-key key.pem \\
      --origin https://phone.example.com --sip-domain example.com --sip-users users
      let the users in a file register, from the pages of one site
  wsproto-sip serve --config serve.toml --check-config
      check a configuration without starting"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``serve`` to its parser."""
    # All options together fill the screen before the first one is explained.
    parser.usage = "%(prog)s [OPTION ...]"
    parser.epilog = _EXAMPLES
    parser.description = (
        "Serve WebSocket connections. Clients of sip get a registrar and proxy, clients of msrp "
        "get a relay if --msrp-users is given, and all others get their messages back. "
        "A flag overrides the same option in the file of --config, which overrides kamailio.cfg, "
        "which overrides the default."
    )
    parser.add_argument("--config", metavar="FILE.toml", help="read options from a TOML file")
    parser.add_argument(
        "--kamailio-cfg",
        metavar="FILE",
        help="read options from a kamailio.cfg, and report what to write for the others",
    )
    parser.add_argument(
        "-A",
        "--kamailio-define",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="define a name for --kamailio-cfg, like Kamailio's -A",
    )
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="check the configuration as at a start, report errors, and exit",
    )
    add_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    flags = vars(arguments).copy()
    del flags["run"]
    words = flags.pop("words")
    config, kamailio_cfg = flags.pop("config"), flags.pop("kamailio_cfg")
    check = flags.pop("check_config")
    pairs = [word.partition("=") for word in flags.pop("kamailio_define")]
    defines = {name: value for name, _, value in pairs}
    # Both remove what they take from the environment, so that child processes do not use it.
    inherited, notifier = take_inherited(os.environ), Notifier(os.environ)
    process = take_process(os.environ)
    if process is not None:
        inherited, notifier = list(process.inherited), ParentNotifier(process)

    def read() -> Loaded:
        loaded = load(flags, config=config, kamailio_cfg=kamailio_cfg, defines=defines)
        try:
            settings, note = within_descriptors(loaded.settings)
            check_processes(settings)
            if process is None:
                check_ports(settings)
        except SettingsError as exc:
            raise SettingsError(loaded.locate(exc)) from None
        notes = [*loaded.notes, *note, *open_to_others(settings), *shared_addresses(settings)]
        if process is not None:
            # Its parent, or at a reload the first process, has told them.
            settings, notes = process.own(settings), notes if process.index == 0 else []
        return loaded._replace(settings=settings, notes=notes)

    with _outlets():
        try:
            loaded = read()
            for note in () if process is not None else loaded.notes:
                warn(note)
            if inherited and not any(
                place.inherited is not None for place in loaded.settings.places
            ):
                warn(f"systemd has passed sockets ({len(inherited)}), which no --listen takes")
            try:
                settings = loaded.settings
                with closing(begin_log(settings)) as log:
                    if process is None and settings.processes > 1 and not check:
                        command = command_of(words)
                        return asyncio.run(_parent(settings, command, inherited, notifier, log))
                    serving = _serve(settings, read, inherited, notifier, log, process, check=check)
                    asyncio.run(serving)
            except SettingsError as exc:
                raise SettingsError(loaded.locate(exc)) from None
        except SettingsError as exc:
            warn(str(exc))
            return 2
        return 0


@contextmanager
def _outlets() -> Iterator[None]:
    """Write to standard output and error without waiting for their readers."""
    with ExitStack() as stack:
        for stream, redirect in ((sys.stdout, redirect_stdout), (sys.stderr, redirect_stderr)):
            # A program that calls this one's main() may have put something else in their place.
            with suppress(AttributeError, OSError, ValueError):
                outlet = stack.enter_context(Outlet(stream.fileno(), tell_dropped))
                stack.enter_context(redirect(outlet))
        yield


async def _serve(
    settings: Settings,
    read: Callable[[], Loaded],
    inherited: Sequence[tuple[str, int]],
    notifier: Notifier,
    log: Log,
    process: Process | None,
    *,
    check: bool,
) -> None:
    service = Service(settings, read, inherited, notifier, log, process)
    if check:
        await service.check()
        for place in settings.places:
            network = place.unix is None and place.inherited is None
            scheme = ("wss" if place.secure else "ws") + "://"
            print(f"Would listen on {scheme if network else ''}{place}")
        for line in service.offers:
            print(line)
        print("The configuration is valid")
        return

    def announce() -> None:
        page = page_url(served_page(settings, service.users), [*service.urls, *settings.origin])
        announced = {
            "urls": service.urls,
            "offers": service.offers,
            "places": service.places,
            "page": page,
        }
        if isinstance(notifier, ParentNotifier):
            notifier.tell("announced", **announced)
        else:
            _announce(settings, [announced])

    await service.run(announce)


async def _parent(
    settings: Settings,
    command: Sequence[str],
    inherited: Sequence[tuple[str, int]],
    notifier: Notifier,
    log: Log,
) -> int:
    parent = Parent(settings, command, inherited, notifier, log, warn)
    return await parent.run(partial(_announce, settings))


def _announce(settings: Settings, processes: Sequence[Mapping[str, Any]]) -> None:
    """Tell the operator that clients can connect.

    Args:
        settings: The settings.
        processes: What each process offers; all listen on the same places.
    """
    program, first_of_all = _program(), processes[0]
    urls: list[str] = first_of_all["urls"]
    for url in urls:
        print("Listening on", url)
    for line in first_of_all["offers"]:
        print(line)
    first = next((url for url in urls if not url.startswith("unix:")), None)
    if first_of_all["page"] is not None:
        print(
            f"A telephone for browsers: {first_of_all['page']} (two tabs of it can call each other)"
        )
    places = [place for process in processes for place in process["places"]]
    commands = "".join(f"  {program} ctl {place} ws.dump\n" for place in places)
    each = f" in each of {len(processes)} processes" if len(processes) > 1 else ""
    print(
        f"Up to {settings.max_connections} connections and {settings.max_handshakes} "
        f"opening handshakes at a time{each}"
    )
    guide = _GUIDE.format(
        subprotocols=_listed(settings.subprotocol),
        size=settings.max_message_size,
        echo="" if first is None else _echo(settings, program, first),
        commands=f"Give commands with\n{commands}" if commands else "",
    )
    print(guide, end="", flush=True)


def _echo(settings: Settings, program: str, url: str) -> str:
    """Return instructions for trying the echo; empty without an echo."""
    places = []
    if "none" in settings.subprotocol:
        places.append("Without a sub-protocol")
    if MSRP in settings.subprotocol and settings.msrp_users is None:
        places.append(f"{'on' if places else 'On'} msrp")
    if not places:
        return ""
    if "none" not in settings.subprotocol:
        program, url = f"{program} connect --subprotocol msrp {url}", f'"{url}", "msrp"'
    else:
        program, url = f"{program} connect {url}", f'"{url}"'
    return _ECHO.format(where=" and ".join(places), command=program, arguments=url)


def _listed(words: Sequence[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last


def _program() -> str:
    """Return the command that started this program."""
    if os.path.basename(sys.argv[0]) == "__main__.py":
        return shlex.join([sys.executable, "-m", "wsproto_sip"])
    return shlex.quote(sys.argv[0])
