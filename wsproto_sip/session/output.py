"""The output of a session: frames in order, automatic Pongs, and the transport's backlog.

Theory of operation. Frames wait in a list until :meth:`Output.take` joins them; bytes that were
taken belong to the transport. Adapters that know how many of them the transport has not sent yet
report that with :meth:`Output.set_backlog`. Automatic frames must not pile up while a peer does not
read: Pings are recorded, and answered when the output is taken. While the transport holds nothing,
each Ping gets its Pong, in order. If there is a backlog, one Pong answers all (RFC 6455 §5.5.3),
and while the transport still holds that Pong, no other is written.

::

    send() ──> frames ──> take() ──> transport: backlog ──> peer
                 ^
    Pings ──> pongs
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..frame_protocol import Opcode

if TYPE_CHECKING:
    from ..frame_protocol import FrameEncoder

__all__ = ["Output"]

#: Shared by sessions without output: an idle connection should cost little.
_NOTHING: Final[list[bytes]] = []

#: How many Pongs may be due at once, which is a read's worth; later ones replace earlier ones.
_MOST_PONGS: Final = 256

#: First byte of the handshake's response; frames never start with it.
_HTTP: Final = ord("H")


class Output:
    """The output of one session.

    Args:
        encoder: Encodes the frames.

    Attributes:
        encoder: Encodes the frames.
        waiting: The number of bytes waiting for :meth:`take`.
        backlog: The number of bytes that the transport had not sent at its last report.
        handed_out: The number of bytes taken since that report.
        pongs: The payloads of the Pongs that are due, in order.
    """

    __slots__ = (
        "_frames",
        "_ping_leaves_in",
        "_pong_leaves_in",
        "backlog",
        "encoder",
        "handed_out",
        "pongs",
        "waiting",
    )

    def __init__(self, encoder: FrameEncoder) -> None:
        self.encoder = encoder
        self._frames = _NOTHING
        self.waiting = 0
        self.backlog = 0
        self.handed_out = 0
        self.pongs = _NOTHING
        # How many more bytes the transport has to send until the last Pong has left, and until the
        # unanswered Ping has.
        self._pong_leaves_in = 0
        self._ping_leaves_in = 0

    def write(self, raw: bytes) -> None:
        """Append bytes to the output."""
        if not raw:
            return
        if self._frames:
            self._frames.append(raw)
        else:
            self._frames = [raw]
        self.waiting += len(raw)

    def mark_ping(self) -> None:
        """Remember the position of the last Ping: see :attr:`ping_waits`."""
        self._ping_leaves_in = self.backlog + self.handed_out + self.waiting

    @property
    def ping_waits(self) -> bool:
        """Whether the transport is known to hold the marked Ping, or bytes before it."""
        return self.backlog > 0 and self._ping_leaves_in > 0

    def answer(self, pings: list[bytes]) -> None:
        """Record Pings to be answered.

        Args:
            pings: Their payloads, in order.
        """
        if self.backlog:
            self.pongs = pings[-1:]
        else:
            self.pongs = [*self.pongs, *pings][-_MOST_PONGS:]

    def write_pongs(self) -> int:
        """Write the Pongs that are due, unless the transport still holds an earlier one.

        Returns:
            How many were written.
        """
        pongs = self.pongs
        if self.backlog:
            if self._pong_leaves_in > 0:
                return 0
            pongs = pongs[-1:]
        if not pongs:
            return 0
        self.pongs = _NOTHING
        encoder = self.encoder
        raw = b"".join([encoder.control(Opcode.PONG, payload) for payload in pongs])
        in_transport = self.backlog + self.handed_out
        self._pong_leaves_in = in_transport + len(raw)
        if self._ping_leaves_in > in_transport:
            self._ping_leaves_in += len(raw)
        self.waiting += len(raw)
        # Before other waiting output, which may be long, and before our close frame (RFC 6455
        # §5.5.1); only the handshake comes first.
        frames = self._frames
        first = 1 if frames and frames[0][0] == _HTTP else 0
        self._frames = [*frames[:first], raw, *frames[first:]]
        return len(pongs)

    def drop_pongs(self) -> None:
        """Leave the recorded Pings unanswered."""
        self.pongs = _NOTHING

    def take(self) -> bytes:
        """Take all waiting output."""
        frames = self._frames
        if not frames:
            return b""
        raw = frames[0] if len(frames) == 1 else b"".join(frames)
        self._frames = _NOTHING
        self.handed_out += len(raw)
        self.waiting = 0
        return raw

    def set_backlog(self, size: int) -> int:
        """Record how many of the bytes taken the transport has not sent yet.

        Args:
            size: The number of bytes.

        Returns:
            How many bytes the transport has sent since the last report; 0 or less if none.
        """
        sent = self.backlog + self.handed_out - size
        self.backlog = size
        self.handed_out = 0
        if sent > 0:
            self._pong_leaves_in -= sent
            self._ping_leaves_in -= sent
        return sent
