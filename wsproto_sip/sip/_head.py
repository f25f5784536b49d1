"""A head in its common spelling, read in one pass: the way of nearly every message.

Theory of operation: :data:`HEAD_RE` matches a start line and fields spelled as everybody spells
them, each on one line with one space behind the colon, and captures those that every element looks
at, up to the empty line behind them. It matches only where the fields are there without which a
message can neither be routed nor answered. A field that may be there once is not matched twice, and
a name that begins like one of those and is none of them is not matched at all, so that another
spelling of it cannot hide. No line holds control characters. Whatever is not matched is read by
slower code, which alone says what is wrong.
"""

from __future__ import annotations

import re

__all__ = ["HEAD_RE", "LENGTH", "METHOD", "MORE", "REASON", "ROUTING", "STATUS", "URI", "VALUES"]

#: Groups of the start line.
METHOD, URI, STATUS, REASON = 1, 2, 3, 4

#: The group of each value, by the canonical name of the field and by its usual spelling.
VALUES: dict[str, int] = {}
#: Of a field that may be there again: the group that is there then.
MORE: dict[str, int] = {}

# One range is what re is fastest with.
_LINE = r"[ -\U0010ffff]*+"
_VALUE = rf"[!-\U0010ffff]{_LINE}(?<! )"


def _once(spelling: str, value: str = _VALUE) -> str:
    """What stands behind the name of a field that may be there once."""
    group = max([REASON, *VALUES.values()]) + 1
    VALUES[spelling] = VALUES[spelling.lower()] = group
    # Where the group is set already, nothing matches.
    return rf": (?({group})(?!)|({value}))"


def _list(spelling: str) -> str:
    """The same for a field that may be there again; the first one is captured."""
    more = max([REASON, *VALUES.values()]) + 1
    VALUES[spelling] = VALUES[spelling.lower()] = more + 1
    MORE[spelling] = MORE[spelling.lower()] = more
    return rf": (?({more + 1})(){_VALUE}|({_VALUE}))"


_FIELDS = [
    "Via" + _list("Via"),
    "From" + _once("From"),
    "To" + _once("To"),
    "C(?:Seq" + _once("CSeq"),
    "all-ID" + _once("Call-ID"),
    "ontact" + _list("Contact"),
    "ontent-Length" + _once("Content-Length", "[0-9]{1,9}+"),
    "ontent-Type" + _once("Content-Type"),
    f"ontent-(?:Disposition|Encoding|Language): {_LINE})",
    "Max-Forwards" + _once("Max-Forwards"),
    "Expires" + _once("Expires"),
    # Nothing that is looked for begins with another letter.
    rf"[ABDG-LN-SUW-Z][A-Za-z\-]{{2,}}+: {_LINE}",
    f"(?:Event|Min-SE|Min-Expires|Flow-Timer|Timestamp): {_LINE}",
]
_REQUIRED = [VALUES[name] for name in ("via", "from", "to", "call-id", "cseq")]

HEAD_RE = re.compile(
    rf"(?:([A-Z]++) ([!-\U0010ffff]++) SIP/2\.0|SIP/2\.0 ([1-6][0-9][0-9]) ({_LINE}))"
    rf"(?:\r\n(?:{'|'.join(_FIELDS)}))*+{''.join([f'(?({group})|(?!))' for group in _REQUIRED])}"
    r"\r\n\r\n"
)
LENGTH = VALUES["content-length"]
#: The groups of what requests and responses are routed by.
ROUTING = tuple(VALUES[name] for name in ("via", "from", "to", "call-id", "cseq", "contact"))
