"""The answer to an ordinary OPTIONS, written in one pass (RFC 3261 §11.2).

Clients and load balancers send OPTIONS again and again, to see that a server is there. Such a
request needs no objects: its answer repeats the texts of its head.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ..message.errors import SipParseError
from ..message.message import stateless_tag
from ..message.uri import bracketed

if TYPE_CHECKING:
    from ..message.message import SipRequest
    from ..message.transport import Source

__all__ = ["quick_response"]

#: A Via of a WebSocket client with a branch and nothing else, a Call-ID, and a CSeq.
_PLAIN: Final = re.compile(
    r"SIP/2\.0/WSS? [A-Za-z0-9.\-]+(?::[1-9][0-9]{0,3})?;branch=[A-Za-z0-9.\-_~*+%!']+\n"
    r"[!-~]+\n[0-9]{1,9} OPTIONS"
)


def quick_response(request: SipRequest, source: Source, fields: str) -> str | None:
    """Return the 200 to an OPTIONS, with the source of the request in Via (RFC 3581 §4).

    Args:
        request: A request with the method OPTIONS, for this element, that was not edited.
        source: Where it came from.
        fields: Further header fields as they are written, each with its CRLF.

    Returns:
        The same text that the response has which is made in the usual way; ``None`` if the request
        is unusual, and has to be handled in that way.
    """
    if request.rare_names:
        return None
    texts = [text or "" for text in request.routing_texts]
    via, sender, to, call_id, cseq, contact = texts
    hops = request.get("max-forwards") or "0"
    if not (
        _PLAIN.fullmatch(f"{via}\n{call_id}\n{cseq}")
        and len(hops) < 3
        and hops.isdigit()
        and len(request.get_all("via")) == 1
    ):
        return None
    try:
        # Parsing is the check.
        checked = request.from_, request.contacts if contact else ()
        if request.to.tag is not None:
            return None
    except SipParseError:
        return None
    del checked
    via = f"{via};rport={source.port};received={bracketed(source.host)}"
    tag = stateless_tag(via, sender, to, call_id, cseq)
    return (
        f"SIP/2.0 200 OK\r\nVia: {via}\r\nFrom: {sender}\r\nTo: {to};tag={tag}\r\n"
        f"Call-ID: {call_id}\r\nCSeq: {cseq}\r\n{fields}Content-Length: 0\r\n\r\n"
    )
