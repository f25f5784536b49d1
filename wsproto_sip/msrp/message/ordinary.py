"""The SEND as nearly every client writes it, read in one pass (RFC 4975 §7.1).

Theory of operation: a relay has to know only a few parts of a SEND. If the fields are the usual
ones in their usual order and spelling, one pattern finds these parts, and the end-line is where the
bytes end. :func:`read_ordinary` reads nothing that
:func:`~wsproto_sip.msrp.message.chunk.split_chunk` would refuse or read in another way; it leaves
everything else to it.
"""

from __future__ import annotations

import re
from itertools import permutations, product
from typing import Final

from .chunk import END_FLAGS, END_LINE
from .fields import IDENT, TEXT, FailureReport
from .limits import MsrpLimits

__all__ = ["Sent", "is_ordinary_within", "read_ordinary"]

#: What a relay keeps of a request: its transaction id, Message-ID and Byte-Range; the failures to
#: report; the bytes between the paths and the end-line; the size of the body; and the flag. No
#: named tuple: making one takes as long as finding half of them.
Sent = tuple[bytes, bytes | None, bytes | None, FailureReport, bytes, int, bytes]

_REPORT = rb"(?:Success|Failure)-Report: [a-z]{2,7}\r\n"

_SEND: Final = re.compile(
    rb"MSRP (%b) SEND\r\n"
    rb"(To-Path: .{1,400}\r\nFrom-Path: .{1,200}\r\n)"
    rb"Message-ID: (%b)\r\n"
    rb"((?:%b){0,2})"
    # Below 10¹⁸, and so below the bound of 2⁶³.
    rb"Byte-Range: (([0-9]{1,18})-([0-9]{1,18}|\*)/([0-9]{1,18}|\*))\r\n"
    rb"((?:%b){0,2})"
    rb"Content-Type: %b{0,100}\r\n"
    rb"\r\n" % (IDENT, IDENT, _REPORT, _REPORT, TEXT.removesuffix(b"*"))
)

#: The limits below which an ordinary chunk may be too large: its first line and fields.
_FIRST_LINE: Final = len(b"MSRP  SEND\r\n") + 32
_HEADER_LINE: Final = len(b"Content-Type: \r\n") + 100
_HEADERS: Final = 5


def _report_lines() -> dict[bytes, FailureReport]:
    """Return the failures to report by the lines of Success-Report and Failure-Report."""
    found = {}
    for success, failure in product((b"", b"yes", b"no"), (None, *FailureReport)):
        lines = [b"Success-Report: %b\r\n" % success] if success else []
        if failure is not None:
            lines.append(b"Failure-Report: %b\r\n" % failure.value)
        for order in permutations(lines):
            found[b"".join(order)] = failure or FailureReport.YES
    return found


_REPORTS: Final = _report_lines()


def is_ordinary_within(limits: MsrpLimits) -> bool:
    """Return whether the first line and the fields of an ordinary SEND stay within the limits.

    Its paths and its size are for the caller to check.
    """
    return (
        limits.max_first_line >= _FIRST_LINE
        and limits.max_header_line >= _HEADER_LINE
        and limits.max_headers >= _HEADERS
    )


def read_ordinary(data: bytes) -> tuple[bytes, Sent] | None:
    """Read an ordinary SEND; ``None`` for any other chunk.

    The paths are not checked; they are two lines of limited length, as
    :func:`~wsproto_sip.msrp.message.chunk.path_lines` writes them. Byte-Range agrees with the body.

    Args:
        data: The bytes of the chunk.

    Returns:
        The lines of the paths, and the rest.
    """
    match = _SEND.match(data)
    if match is None:
        return None
    tid, paths, message_id, before, held, first, last, total, after = match.groups()
    body = match.end()
    end = len(data) - len(tid) - 12
    # The first end-line of this transaction is the one at the end. It cannot start before the empty
    # line, and one that starts there would leave the chunk without a body.
    if data.find(END_LINE + tid, body - 2) != end or data[-3:] not in END_FLAGS or end < body:
        return None
    size = end - body
    wanted = _REPORTS.get(before + after)
    start = int(first)
    until = start - 1 if last == b"*" else int(last)
    if (
        wanted is None
        or start < 1
        or (last != b"*" and until - start + 1 != size)
        or (total != b"*" and until > int(total))
    ):
        return None
    rest = data[match.end(2) : end + 2]
    return paths, (tid, message_id, held, wanted, rest, size, data[-3:-2])
