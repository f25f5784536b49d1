"""The common spelling of a message's head, matched in one pass: the fast path of the parser.

Theory of operation: :data:`HEAD_RE` matches a start line and header fields in their usual spelling
(one line each, one space after the colon) up to and including the empty line that ends the head. It
captures the fields that every element looks at, and fails to match if a field that routing or
answering needs is missing. It also fails if a field that may occur once is repeated, or if a name
only begins like one of the captured ones, so that an unusual spelling of such a field cannot slip
through. Control characters do not match at all. The slower parser reads whatever does not match,
and it alone reports errors.

Most messages have neither routes nor demands (Route, Require, Privacy, Path …). Few letters begin
the names of those fields, and :data:`RARE` is set if a field begins with one of them, a few usual
ones excepted; otherwise the absence of all of them is known at once.
"""

from __future__ import annotations

import re

__all__ = [
    "HEAD_RE",
    "LENGTH",
    "METHOD",
    "MORE",
    "RARE",
    "RARE_LETTERS",
    "REASON",
    "ROUTING",
    "STATUS",
    "URI",
    "USUAL",
    "VALUES",
]

#: Groups of the start line.
METHOD, URI, STATUS, REASON = 1, 2, 3, 4

#: The group of each value, by the canonical name of the field and by its usual spelling.
VALUES: dict[str, int] = {}
#: For fields that may be repeated: the group that is set if the field is.
MORE: dict[str, int] = {}

#: The first letters of fields that :data:`RARE` reports, and the canonical names that it does not.
RARE_LETTERS = "dhprst"
USUAL = frozenset(("server", "session-expires", "subject", "supported", "to"))

# A single range is the fastest class in re.
_LINE = r"[ -\U0010ffff]*"
_VALUE = rf"[!-\U0010ffff]{_LINE}(?<! )"


def _once(spelling: str, value: str = _VALUE) -> str:
    """Build the pattern for what follows the name of a field that may occur once."""
    group = max([REASON, *VALUES.values()]) + 1
    VALUES[spelling] = VALUES[spelling.lower()] = group
    # If the group is already set, this alternative cannot match.
    return rf": (?({group})(?!)|({value}))"


def _list(spelling: str) -> str:
    """Build the pattern for a field that may be repeated; the first one is captured."""
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
    "ontent-Length" + _once("Content-Length", "[0-9]{1,9}"),
    "ontent-Type" + _once("Content-Type"),
    f"ontent-(?:Disposition|Encoding|Language): {_LINE})",
    "Max-Forwards" + _once("Max-Forwards"),
    "Expires" + _once("Expires"),
    # None of the captured names begins with one of these letters.
    rf"[ABGI-LNOQUW-Z][A-Za-z\-]{{2,}}: {_LINE}",
    f"S(?:erver|ession-Expires|ubject|upported): {_LINE}",
    f"(?:Event|Min-SE|Min-Expires|Flow-Timer): {_LINE}",
    rf"(?:[DHPRS][A-Za-z\-]{{2,}}|Timestamp): {_LINE}()",
]
_REQUIRED = [VALUES[name] for name in ("via", "from", "to", "call-id", "cseq")]

HEAD_RE = re.compile(
    rf"(?:([A-Z]+) ([!-\U0010ffff]+) SIP/2\.0|SIP/2\.0 ([1-6][0-9][0-9]) ({_LINE}))"
    rf"(?:\r\n(?:{'|'.join(_FIELDS)}))*{''.join([f'(?({group})|(?!))' for group in _REQUIRED])}"
    r"\r\n\r\n"
)
LENGTH = VALUES["content-length"]
RARE = HEAD_RE.groups
#: The groups of the fields that requests and responses are routed by.
ROUTING = tuple(VALUES[name] for name in ("via", "from", "to", "call-id", "cseq", "contact"))
