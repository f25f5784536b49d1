"""Commands for several servers: whom they are for, and one result from the results of all.

Theory of operation: a command names other servers with ``all`` as its first parameter, or with a
connection in the form ``NODE/ID``. :func:`errand_of` turns it into an :class:`Errand`, which says
what to ask each server, and makes one result of the answers. A server that does not answer in time
is named in the result, so that what is missing is known.

Pages go from server to server by name: ``after=NODE/ID`` continues after that connection, so that
every connection that stays open is seen exactly once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Protocol

from .commands import (
    DEFAULT_PAGE,
    MAX_PAGE,
    ApplicationFault,
    CommandError,
    FactsResult,
    Fault,
    Params,
    Result,
    TreeResult,
)

__all__ = ["ALL", "Answer", "Errand", "errand_of", "explained", "is_for_others"]

#: The first parameter of a command for all servers.
ALL: Final = "all"

#: What a server has answered: its result in JSON, or an error.
Answer = object | CommandError

_OPTION: Final = re.compile(r"([a-z_]{1,20})=(.*)", re.DOTALL)
_CONNECTION: Final = re.compile(r"([ -~]{1,100})/([0-9]{1,18})")
_LINE: Final = re.compile(r"([0-9]+)(: .*)", re.DOTALL)
_IDLE: Final = re.compile(r"last used ([0-9]+)s ago")
_NOT_A_NODE: Final = ApplicationFault(404, "No such node")
_SILENT: Final = ApplicationFault(504, "The node has not answered")

#: Commands that take one connection.
_OF_CONNECTIONS: Final = frozenset(["ws.close", "ws.ping", "ws.pong"])
#: Commands whose results are shown by server.
_BY_SERVER: Final = frozenset(
    ["core.uptime", "core.version", "drain", "reload", "ws.disable", "ws.enable"]
)
_PAGED: Final = frozenset(["ul.dump", "ws.dump"])
#: Commands for the registrations of one address, which may be at any of the servers.
_OF_ADDRESSES: Final = frozenset(["ul.lookup", "ul.rm"])
#: What these say at a server that has none of them.
_ABSENT: Final = frozenset(["AOR not found in location table", "Failed to delete AOR"])
_SUMMED: Final = "ws.statistics"


def is_for_others(name: str) -> bool:
    """Return whether other servers may have a command executed here.

    Args:
        name: The command.
    """
    return name in _OF_CONNECTIONS | _OF_ADDRESSES | _BY_SERVER | _PAGED or name == _SUMMED


class Errand(Protocol):
    """A command for other servers."""

    @property
    def name(self) -> str:
        """The command."""
        ...

    def servers(self, known: Collection[str]) -> list[str]:
        """Return the servers to ask.

        Args:
            known: The names of all servers.

        Raises:
            CommandError: It names another server.
        """
        ...

    def params(self, server: str) -> Params:
        """Return the parameters of the command for one of them."""
        ...

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return the result.

        Args:
            answers: The answers by server.
            silent: The servers that have not answered.

        Raises:
            CommandError: The only server that was asked refused, or did not answer.
        """
        ...


def errand_of(name: str, params: Params) -> Errand | None:
    """Return the errand of a command; ``None`` if it is for the server that got it.

    Args:
        name: The command.
        params: Its parameters, by position or by name; ``node`` stands for the first position.

    Raises:
        CommandError: A parameter is invalid.
    """
    if name in _OF_CONNECTIONS:
        return _OneConnection.of(name, params)
    words, named = _split(params)
    if named.get("node") == ALL:
        del named["node"]
    elif words and words[0] == ALL:
        del words[0]
    else:
        return None
    if name == "ws.dump":
        return _Connections(words, named)
    if name == "ul.dump":
        return _Bindings(words, named)
    if name in _OF_ADDRESSES:
        return _OneAddress(name, words, named)
    if name == _SUMMED:
        return _Sum(words)
    return _Each(name, words, named) if name in _BY_SERVER else None


def explained(error: CommandError) -> CommandError:
    """Return the error of a command that was executed here alone, with where else to ask.

    Args:
        error: The error.
    """
    if error.text not in _ABSENT:
        return error
    return CommandError(error.fault, f"at this node; {ALL} as the first parameter asks every node")


def _split(params: Params) -> tuple[list[object], dict[str, object]]:
    """Return positional and named parameters."""
    if isinstance(params, Mapping):
        return [], dict(params)
    words: list[object] = []
    named: dict[str, object] = {}
    for value in params:
        match = _OPTION.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            words.append(value)
        else:
            named[match[1]] = match[2]
    return words, named


def _invalid(detail: str) -> CommandError:
    return CommandError(Fault.INVALID_PARAMETERS, detail)


def _refusal(error: CommandError) -> str:
    return f"{error.code} {error.text}" + (f": {error.detail}" if error.detail else "")


class _OneConnection:
    """A command for a connection of another server."""

    def __init__(self, name: str, server: str, params: Params) -> None:
        self.name = name
        self._server = server
        self._params = params

    @classmethod
    def of(cls, name: str, params: Params) -> _OneConnection | None:
        """Return the errand for ``NODE/ID``; ``None`` for an id alone."""
        first = params.get("id") if isinstance(params, Mapping) else next(iter(params), None)
        match = _CONNECTION.fullmatch(first) if isinstance(first, str) else None
        if match is None:
            return None
        if isinstance(params, Mapping):
            return cls(name, match[1], {**params, "id": match[2]})
        return cls(name, match[1], [match[2], *params[1:]])

    def servers(self, known: Collection[str]) -> list[str]:
        """Return the one that has the connection."""
        if self._server not in known:
            raise CommandError(_NOT_A_NODE, self._server)
        return [self._server]

    def params(self, server: str) -> Params:
        """Return the parameters with the number alone."""
        return self._params

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return its answer."""
        if silent:
            raise CommandError(_SILENT, self._server)
        answer = answers[self._server]
        if isinstance(answer, CommandError):
            raise answer
        return TreeResult(answer)


class _All:
    """A command for all servers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def servers(self, known: Collection[str]) -> list[str]:
        """Return all of them, in the order of pages."""
        return sorted(known)


class _Each(_All):
    """A command whose results are shown by server."""

    def __init__(self, name: str, words: Sequence[object], named: Mapping[str, object]) -> None:
        super().__init__(name)
        self._params: Params = dict(named) if named and not words else [*words, *_options(named)]

    def params(self, server: str) -> Params:
        """Return the parameters as given."""
        return self._params

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return what each has answered: one value, or several facts by name."""
        values: dict[str, object] = {}
        for server in sorted([*answers, *silent]):
            answer = "no answer" if server in silent else answers[server]
            several = isinstance(answer, dict) and len(answer) > 1
            values[server] = answer if several else _shown(answer)
        return TreeResult(values)


def _options(named: Mapping[str, object]) -> list[object]:
    return [f"{name}={value}" for name, value in named.items()]


def _shown(answer: Answer) -> int | float | str:
    if isinstance(answer, CommandError):
        return _refusal(answer)
    if isinstance(answer, int | float | str):
        return answer
    if isinstance(answer, dict) and len(answer) == 1:
        return _shown(next(iter(answer.values())))
    return json.dumps(answer) if answer else "done"


class _OneAddress(_All):
    """``ul.lookup`` and ``ul.rm``: the registrations of an address at all servers."""

    def __init__(self, name: str, words: Sequence[object], named: Mapping[str, object]) -> None:
        super().__init__(name)
        self._params: Params = dict(named) if named else words

    def params(self, server: str) -> Params:
        """Return the table and the address."""
        return self._params

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return what the servers with registrations have answered.

        Raises:
            CommandError: None has answered so, and one might have.
        """
        found = {server: answers[server] for server in sorted(answers)}
        errors = {
            server: answer for server, answer in found.items() if isinstance(answer, CommandError)
        }
        there = [server for server, answer in found.items() if isinstance(answer, dict)]
        silent = [*silent, *(found.keys() - errors.keys() - {*there})]
        refused = {server: error for server, error in errors.items() if error.text not in _ABSENT}
        if not there and not refused and silent:
            raise CommandError(_SILENT, ", ".join(sorted(silent)))
        if not there:
            raise next(iter([*refused.values(), *errors.values()]))
        about = {key.capitalize(): text for key, text in _missing(refused, silent).items()}
        if self.name == "ul.rm":
            return FactsResult({**dict.fromkeys(there, "done"), **about})
        contacts: list[object] = []
        aor = ""
        for server in there:
            info: Any = found[server]
            aor = str(info.get("AoR", aor))
            contacts += _with_server(server, {"Info": info})["Info"].get("Contacts", ())
        return TreeResult({"AoR": aor, "Contacts": contacts, **about})


class _Sum(_All):
    """``ws.statistics``: counters of all servers."""

    def __init__(self, names: Sequence[object]) -> None:
        super().__init__(_SUMMED)
        self._names = names

    def params(self, server: str) -> Params:
        """Return the names of the counters."""
        return self._names

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return the sums; of the longest times, the longest."""
        values: dict[str, int | float | str] = {}
        refused = {}
        for server, answer in answers.items():
            if not isinstance(answer, dict):
                refused[server] = answer
                continue
            for name, value in answer.items():
                known = values.get(name, 0)
                if isinstance(value, int | float) and isinstance(known, int | float):
                    largest = name.endswith("_max")
                    values[name] = max(known, value) if largest else known + value
        return FactsResult(
            {**values, "nodes": len(answers) - len(refused), **_missing(refused, silent)}
        )


def _missing(refused: Mapping[str, Answer], silent: Sequence[str]) -> dict[str, str]:
    """Return what to say about servers without a result."""
    found = {}
    if silent:
        found["silent"] = ", ".join(sorted(silent))
    if refused:
        texts = [f"{server}: {_shown(refused[server])}" for server in sorted(refused)]
        found["failed"] = ", ".join(texts)
    return found


class _Page(_All):
    """A command that shows a page of what all servers have."""

    def __init__(self, name: str, named: dict[str, object]) -> None:
        super().__init__(name)
        limit = named.pop("limit", DEFAULT_PAGE)
        text = str(limit)
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_PAGE):
            raise _invalid(f"limit must be 1 to {MAX_PAGE}")
        self._limit = int(text)
        after = named.pop("after", None)
        self._first, self._after = "", 0
        if after is not None:
            match = _CONNECTION.fullmatch(str(after))
            if match is None:
                raise _invalid("after must be NODE/NUMBER")
            self._first, self._after = match[1], int(match[2])
        if "offset" in named:
            raise _invalid("pages of several nodes go on with after=NODE/NUMBER")
        self._named = named

    def servers(self, known: Collection[str]) -> list[str]:
        """Return those that the page may show, in order."""
        return [server for server in super().servers(known) if server >= self._first]

    def _cut(
        self, pages: Sequence[tuple[str, Sequence[tuple[int, Any]], bool]]
    ) -> tuple[list[Any], str | None]:
        """Return a page, and where the next one goes on.

        Args:
            pages: Of each server its name, its items with the number to go on with after each, and
                whether it has more.
        """
        shown: list[Any] = []
        last = ""
        for server, items, more in pages:
            for number, item in items:
                if len(shown) == self._limit:
                    return shown, last
                shown.append(item)
                last = f"{server}/{number}"
            if more:
                return shown, last
        return shown, None


class _Connections(_Page):
    """``ws.dump``."""

    def __init__(self, words: Sequence[object], named: dict[str, object]) -> None:
        order = named.pop("order", words[0] if words else "id_hash")
        if len(words) > 1:
            raise _invalid("too many parameters")
        self._order = str(order).lower()
        super().__init__("ws.dump", named)
        if self._order != "id_hash" and self._first:
            raise _invalid("after goes with the order id_hash")

    def params(self, server: str) -> Params:
        """Return those of the first page, or of the one that goes on."""
        params = {**self._named, "order": self._order, "limit": self._limit}
        return params | ({"after": self._after} if server == self._first else {})

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return one page of the connections, each as ``NODE/ID``."""
        pages, refused = [], {}
        for server in sorted(answers):
            answer = answers[server]
            try:
                items = [_named(server, str(line)) for line in answer["connections"]]  # type: ignore[index]
                more = answer["info"]["truncated"] == "yes"  # type: ignore[index]
            except (LookupError, TypeError):
                refused[server] = answer
                continue
            pages.append((server, items, more))
        if self._order == "id_hash":
            lines, following = self._cut(pages)
            truncated = following is not None
        else:
            found = [line for _, items, _ in pages for _, line in items]
            found.sort(key=_idle, reverse=self._order == "used_desc")
            truncated = len(found) > self._limit or any(more for _, _, more in pages)
            lines, following = found[: self._limit], None
        info: dict[str, object] = {"wscounter": len(lines), "truncated": _yes(truncated)}
        if following is not None:
            info["next"] = following
        return TreeResult({"connections": lines, "info": {**info, **_missing(refused, silent)}})


def _named(server: str, line: str) -> tuple[int, str]:
    """Return the id of a connection, and its line with the server's name."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise LookupError("not a connection")
    return int(match[1]), f"{server}/{line}"


def _idle(line: str) -> int:
    match = _IDLE.search(line)
    return 0 if match is None else int(match[1])


def _yes(value: bool) -> str:
    return "yes" if value else "no"


class _Bindings(_Page):
    """``ul.dump``: each server has the bindings of its own connections."""

    def __init__(self, words: Sequence[object], named: dict[str, object]) -> None:
        self._form = named.pop("form", words[0] if words else None)
        if len(words) > 1:
            raise _invalid("too many parameters")
        super().__init__("ul.dump", named)

    def params(self, server: str) -> Params:
        """Return those of the first page, or of the one that goes on."""
        params: dict[str, object] = {**self._named, "limit": self._limit}
        if self._form is not None:
            params["form"] = self._form
        return params | ({"offset": self._after} if server == self._first else {})

    def merged(self, answers: Mapping[str, Answer], silent: Sequence[str]) -> Result:
        """Return one page of the addresses; one that is at several servers is there several times.

        Contacts have the name of their server.
        """
        pages, refused, records = [], {}, 0
        for server in sorted(answers):
            answer = answers[server]
            try:
                domain = answer["Domains"][0]["Domain"]  # type: ignore[index]
                begin = self._after if server == self._first else 0
                items = [
                    (begin + number, _with_server(server, item))
                    for number, item in enumerate(domain["AoRs"], 1)
                ]
                more = domain["Stats"]["Truncated"] == "yes"
                records += int(domain["Stats"]["Records"])
            except (LookupError, TypeError, ValueError, AttributeError):
                refused[server] = answer
                continue
            pages.append((server, items, more))
        shown, following = self._cut(pages)
        stats: dict[str, object] = {
            "Records": records,
            "Truncated": _yes(following is not None),
        }
        if following is not None:
            stats["Next"] = following
        for name, text in _missing(refused, silent).items():
            stats[name.capitalize()] = text
        domain = {"Domain": "location", "AoRs": shown, "Stats": stats}
        return TreeResult({"Domains": [{"Domain": domain}]})


def _with_server(server: str, item: Any) -> Any:
    for each in item.get("Info", {}).get("Contacts", ()):
        contact = each["Contact"]
        contact["Node"] = server
        contact["Tcpconn-Id"] = f"{server}/{contact['Tcpconn-Id']}"
    return item
