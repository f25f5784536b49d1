"""The answered calls of an edge that are not known to have ended, and the connections they use.

A proxy need not know the calls that pass it. This one counts them for its operator, and closes a
connection without a call first when the server stops. A call whose BYE takes another way stays here
until its connections end, or until too many later ones have pushed it out.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final

from ..message.errors import SipParseError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..message.message import SipMessage
    from ..rules.outbound import Flow

__all__ = ["CallName", "Calls", "name_of"]

#: The calls to remember.
_MOST: Final = 100_000

#: The name of a call: its Call-ID and both tags (RFC 3261 §12), the same in either direction.
CallName = tuple[str, frozenset[str | None]]


def name_of(message: SipMessage) -> CallName | None:
    """Return the name of the call that a message belongs to; ``None`` if it cannot be parsed.

    Args:
        message: A request within a call, or the response that began it.
    """
    try:
        return message.call_id, frozenset((message.from_.tag, message.to.tag))
    except SipParseError:
        return None


class Calls:
    """Answered calls.

    Args:
        most: The calls to remember; the oldest is forgotten first.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        # The beginning of each call, and its connections. An upstream can lead a call back to
        # another client, so that it passes twice under one name.
        self._calls: OrderedDict[CallName, list[tuple[float, tuple[Flow, ...]]]] = OrderedDict()
        self._on: Counter[Flow] = Counter()

    def __len__(self) -> int:
        """Return the number of calls."""
        return len(self._calls)

    def begin(self, name: CallName, flows: Iterable[Flow | None], now: float) -> None:
        """Add a call.

        Args:
            name: Its name.
            flows: The connections it uses; ``None`` stands for an upstream.
            now: The time, in seconds.
        """
        used = tuple({flow: None for flow in flows if flow is not None})
        self._calls.setdefault(name, []).append((now, used))
        self._on.update(used)
        if len(self._calls) > self._most:
            _, forgotten = self._calls.popitem(last=False)
            for _, those in forgotten:
                self._leave(those)

    def end(self, name: CallName, now: float) -> float | None:
        """Remove a call.

        Args:
            name: Its name.
            now: The time, in seconds.

        Returns:
            Its duration in seconds; ``None`` if it is unknown.
        """
        found = self._calls.get(name)
        if found is None:
            return None
        began, used = found.pop(0)
        if not found:
            del self._calls[name]
        self._leave(used)
        return max(now - began, 0.0)

    def on(self, flow: Flow) -> int:
        """Return the number of calls that use a connection."""
        return self._on[flow]

    def _leave(self, flows: Iterable[Flow]) -> None:
        for flow in flows:
            self._on[flow] -= 1
            if not self._on[flow]:
                del self._on[flow]
