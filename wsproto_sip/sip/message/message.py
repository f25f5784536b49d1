"""SIP messages: reading, inspecting, editing and writing them.

Theory of operation: a message keeps the text of every header field as received. Reading a message
checks the framing (limits, line ends, start line, the required fields, Content-Length) and notes
where each field is; a value is parsed when it is first asked for. Writing an unedited message
returns the received bytes. An edit changes the fields it names and no others.

Text is UTF-8 with :pep:`383` escapes, so that bytes that are not UTF-8 survive unchanged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ._syntax import check_text, check_token, parse_uint, split_first
from .address import NameAddr
from .errors import SipParseError, SipValueError, reason_phrase
from .fields import HeaderFields, HeaderValue, plain
from .headers import CANONICAL, CSeq, parse_contacts, parse_expires, parse_tokens
from .uri import Uri, parse_uri
from .via import Via

__all__ = ["SipMessage", "SipRequest", "SipResponse", "stateless_tag"]

_M = TypeVar("_M", bound="SipMessage")

_CALL_ID_RE = re.compile(r"[^\x00-\x20\x7f]+")
_PLAIN_NAME = re.compile(r"[a-z0-9._-]+")
_MAX_FORWARDS = 255


class SipMessage(HeaderFields):
    """The common part of requests and responses.

    Header names are accepted in any spelling: ``"Via"``, ``"via"`` and ``"v"`` are the same.
    """

    __slots__ = ("_body", "_start")

    _start: str
    _body: bytes

    def _complete(self, headers: Iterable[tuple[str, HeaderValue]], body: bytes) -> None:
        """Append fields, the body and its length to a message without cached values."""
        self._body = body
        self._extend(headers)
        if "content-length" in self._names:
            self.replace_header("Content-Length", len(body))
        else:
            self._names += ("content-length",)
            self._fields += (f"Content-Length: {len(body)}",)

    # -- inspecting --------------------------------------------------------------------------------

    @property
    def start_line(self) -> str:
        """The request line or status line, as written."""
        return self._start

    @property
    def body(self) -> bytes:
        """The bytes after the empty line."""
        return self._body

    @property
    def via(self) -> Via:
        """The topmost Via.

        Raises:
            SipParseError: 400, if it is missing or malformed.
        """
        if "via" in self._single:
            via: Via = self._single["via"]
            return via
        if vias := self._lists.get("via"):
            via = vias[0]
        else:
            via = Via.parse(split_first(self._required("via"))[0])
        self._single["via"] = via
        return via

    @property
    def vias(self) -> list[Via]:
        """All Via values, topmost first."""
        if "via" not in self._lists:
            self._lists["via"] = [Via.parse(value) for value in self.values("via")]
        return [*self._lists["via"]]

    def _address(self, name: str) -> NameAddr:
        address = self._single[name] = NameAddr.parse(self._required(name))
        return address

    @property
    def from_(self) -> NameAddr:
        """The From value.

        Raises:
            SipParseError: 400, if it is missing or malformed.
        """
        known: NameAddr | None = self._single.get("from")
        return self._address("from") if known is None else known

    @property
    def to(self) -> NameAddr:
        """The To value.

        Raises:
            SipParseError: 400, if it is missing or malformed.
        """
        known: NameAddr | None = self._single.get("to")
        return self._address("to") if known is None else known

    @property
    def call_id(self) -> str:
        """The Call-ID. Comparison is byte by byte (RFC 3261 §20.8).

        Raises:
            SipParseError: 400, if it is missing or malformed.
        """
        if "call-id" in self._single:
            known: str = self._single["call-id"]
            return known
        text = self._required("call-id")
        if not _CALL_ID_RE.fullmatch(text):
            raise SipParseError(400, f"bad Call-ID: {text!r:.100}")
        self._single["call-id"] = text
        return text

    @property
    def cseq(self) -> CSeq:
        """The CSeq value.

        Raises:
            SipParseError: 400, if it is missing or malformed.
        """
        if "cseq" not in self._single:
            self._single["cseq"] = CSeq.parse(self._required("cseq"))
        known: CSeq = self._single["cseq"]
        return known

    @property
    def contacts(self) -> list[NameAddr] | None:
        """The Contact values; ``None`` for ``Contact: *``, an empty list without Contact.

        Raises:
            SipParseError: 400, for bad syntax.
        """
        if "contact" not in self._lists:
            values = self.values("contact")
            contacts = parse_contacts(values) if values else []
            if contacts is None:
                return None
            self._lists["contact"] = contacts
        return [*self._lists["contact"]]

    def addresses(self, name: str) -> list[NameAddr]:
        """Return all values of an address header: Route, Record-Route, Path, Service-Route.

        Raises:
            SipParseError: 400, for bad syntax.
        """
        canonical = CANONICAL[name]
        if canonical not in self._lists:
            if canonical not in (self._first or self._with(canonical)):
                return []
            self._lists[canonical] = [NameAddr.parse(value) for value in self.values(canonical)]
        return [*self._lists[canonical]]

    @property
    def routes(self) -> list[NameAddr]:
        """The Route values, topmost first."""
        return self.addresses("route")

    @property
    def record_routes(self) -> list[NameAddr]:
        """The Record-Route values, topmost first."""
        return self.addresses("record-route")

    @property
    def paths(self) -> list[NameAddr]:
        """The Path values (RFC 3327), topmost first."""
        return self.addresses("path")

    @property
    def max_forwards(self) -> int | None:
        """The Max-Forwards value, 0 to 255 (RFC 3261 §20.22).

        Raises:
            SipParseError: 400, for bad syntax.
        """
        value = self.get("max-forwards")
        return None if value is None else parse_uint(value, _MAX_FORWARDS, "Max-Forwards")

    @property
    def expires(self) -> int | None:
        """The Expires value in seconds.

        Raises:
            SipParseError: 400, for bad syntax.
        """
        value = self.get("expires")
        return None if value is None else parse_expires(value)

    @property
    def content_length(self) -> int | None:
        """The Content-Length value; on a WebSocket it may be absent (RFC 7118 §5)."""
        value = self.get("content-length")
        return None if value is None else parse_uint(value, 10**18, "Content-Length")

    @property
    def content_type(self) -> str | None:
        """The media type of the body in lower case, without its parameters."""
        value = self.get("content-type")
        return None if value is None else value.partition(";")[0].strip(" \t").lower()

    def tokens(self, name: str) -> list[str]:
        """Return a token list in lower case: the option tags of Supported, Require, Proxy-Require.

        Raises:
            SipParseError: 400, for bad syntax or more than 128 of them.
        """
        name = CANONICAL[name]
        if name not in (self._first or self._with(name)):
            return []
        text = ", ".join(filter(None, self.get_all(name)))
        return [token.lower() for token in parse_tokens(text)]

    # -- editing -----------------------------------------------------------------------------------

    def set_contacts(self, contacts: Sequence[NameAddr]) -> None:
        """Replace the contacts; an empty sequence removes the field."""
        if contacts:
            self.replace_header("Contact", ", ".join([str(contact) for contact in contacts]))
        else:
            self.remove_header("contact")

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Set the body, its Content-Length and its Content-Type.

        Args:
            body: The new body.
            content_type: The value of the Content-Type field; ``None`` removes the field.

        Raises:
            SipValueError: The type contains a line break or NUL.
        """
        if content_type is None:
            self.remove_header("content-type")
        else:
            self.replace_header("Content-Type", content_type)
        self._body = bytes(body)
        self.replace_header("Content-Length", len(body))

    def _copy_into(self, other: _M) -> _M:
        other._wire = self._wire
        other._start = self._start
        self._indexed()
        other._names = self._names.copy()
        other._fields = self._fields.copy()
        other._first = self._first.copy()
        other._single = self._single.copy()
        other._lists = self._lists.copy()
        other._quick = self._quick
        other._edited = self._edited
        other._top = None
        other._body = self._body
        return other

    # -- writing -----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the message's bytes: those received, unless it was edited."""
        wire = self._wire
        if wire is None:
            head = self._head_text()
            wire = self._wire = head.encode("utf-8", "surrogateescape") + self._body
        return wire

    def _head_text(self) -> str:
        """Return the head, including the empty line that ends it."""
        if self._quick is not None:
            self._indexed()
        return "\r\n".join([self._start, *self._fields, "", ""])

    __bytes__ = to_bytes

    def to_stream(self) -> bytes:
        """Return the message's bytes for a next hop that frames by Content-Length.

        Over WebSocket the frame ends a message, and Content-Length may be absent (RFC 7118 §5). On
        a stream the body of such a message would be read as the next message (RFC 3261 §18.3,
        §20.14). Framers also differ: Kamailio uses the first Content-Length it sees, even on a
        continuation line, and takes ``Content_Length`` for one. Content-Length is therefore the
        first field here, each field is one line (§7.3.1), and no other field resembles
        Content-Length. Fields whose names contain characters other than letters, digits, ``-``,
        ``_`` and ``.`` are omitted: Kamailio closes the connection on ``Max-Forwards*``.
        """
        self._indexed()
        fields = [
            f"{field.partition(':')[0]}: {plain(field.partition(':')[2])}"
            if "\r\n" in field
            else field
            for name, field in zip(self._names, self._fields, strict=True)
            if _PLAIN_NAME.fullmatch(name) and name.replace("_", "-") != "content-length"
        ]
        length = f"Content-Length: {len(self._body)}"
        head = "\r\n".join([self._start, length, *fields, "", ""])
        return head.encode("utf-8", "surrogateescape") + self._body

    def to_websocket(self) -> str | bytes:
        """Return the message as one WebSocket message: text, or bytes if it is not UTF-8.

        RFC 7118 §4.2 requires a binary message in the second case.
        """
        if self._wire is None and not self._body and (head := self._head_text()).isascii():
            return head
        data = self.to_bytes()
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._start!r:.100}>"


class SipRequest(SipMessage):
    """A request.

    Args:
        method: The method, a token; case matters.
        uri: The Request-URI.
        headers: Names and values, in order; Content-Length is set to the body's size.
        body: The body.

    Raises:
        SipValueError: An argument contains a line break or is malformed.
    """

    __slots__ = ("_method", "_target", "_uri")

    _method: str
    _uri: str
    #: The Request-URI, once parsed.
    _target: Uri | None

    def __init__(
        self,
        method: str,
        uri: Uri | str,
        headers: Iterable[tuple[str, HeaderValue]] = (),
        body: bytes = b"",
    ) -> None:
        self._method = check_token(method, "method")
        self._uri = _checked_uri(uri)
        self._target = None
        self._start = f"{method} {self._uri} SIP/2.0"
        self._clear()
        self._complete(headers, body)

    @property
    def method(self) -> str:
        """The method; methods that differ in case are different (RFC 3261 §7.1)."""
        return self._method

    @property
    def uri_text(self) -> str:
        """The Request-URI as written."""
        return self._uri

    @property
    def uri(self) -> Uri:
        """The Request-URI; assign a URI or its text to change it.

        Raises:
            SipParseError: 400, for bad syntax.
            SipValueError: On assignment, if it is not a URI.
        """
        target = self._target
        if target is None:
            target = self._target = parse_uri(self._uri)
        return target

    @uri.setter
    def uri(self, uri: Uri | str) -> None:
        self._uri = _checked_uri(uri)
        self._target = None if isinstance(uri, str) else uri
        self._start = f"{self._method} {self._uri} SIP/2.0"
        self._wire = None

    def copy(self) -> SipRequest:
        """Return an independent copy, for one branch of a fork."""
        other = self._copy_into(SipRequest.__new__(SipRequest))
        other._method = self._method
        other._uri = self._uri
        other._target = self._target
        return other

    def make_response(
        self,
        status: int,
        reason: str | None = None,
        *,
        to_tag: str | None = None,
        headers: Iterable[tuple[str, HeaderValue]] = (),
        body: bytes = b"",
    ) -> SipResponse:
        """Build a response to this request (RFC 3261 §8.2.6).

        Via, From, To, Call-ID, CSeq and Timestamp are copied, and Record-Route into responses
        that can establish a dialog (101 to 299).

        Args:
            status: 100 to 699.
            reason: The reason phrase; the usual one by default.
            to_tag: The tag to add to To if it has none, except in a 100. By default it is the same
                for every retransmission of this request, as a stateless server needs (§8.2.7).
            headers: More fields, after the copied ones.
            body: The body; pass its Content-Type in ``headers``.

        Raises:
            SipValueError: The status is out of range, or an argument contains a line break.
            SipParseError: The request lacks one of the copied fields.
        """
        response = SipResponse.__new__(SipResponse)
        response._answer(status, reason)
        vias = self.get_all("via")
        sender, to = self._required("from"), self._required("to")
        call_id, cseq = self._required("call-id"), self._required("cseq")
        if status > 100 and not self._has_tag():
            if to_tag is None:
                tag = stateless_tag(self._required("via"), sender, to, call_id, cseq)
            else:
                tag = check_token(to_tag, "tag")
            to = f"{to};tag={tag}"
        # Copied text was either parsed from a message or checked when it was set.
        names = ["via"] * len(vias)
        fields = [f"Via: {via}" for via in vias]
        if 101 <= status <= 299 and "record-route" in self:
            routes = self.get_all("record-route")
            names += ["record-route"] * len(routes)
            fields += [f"Record-Route: {route}" for route in routes]
        names += ("from", "to", "call-id", "cseq")
        fields += (f"From: {sender}", f"To: {to}", f"Call-ID: {call_id}", f"CSeq: {cseq}")
        if "timestamp" in self:
            names += ("timestamp",)
            fields += (f"Timestamp: {self.get('timestamp')}",)
        response._names = names
        response._fields = fields
        response._complete(headers, body)
        return response

    def _has_tag(self) -> bool:
        try:
            return self.to.tag is not None
        except SipParseError:
            # A To that cannot be parsed is returned as received, without a tag.
            return True


class SipResponse(SipMessage):
    """A response.

    Args:
        status: 100 to 699.
        reason: The reason phrase; the usual one by default.
        headers: Names and values, in order; Content-Length is set to the body's size.
        body: The body.

    Raises:
        SipValueError: The status is out of range, or an argument contains a line break.
    """

    __slots__ = ("_reason", "_status")

    _status: int
    _reason: str

    def __init__(
        self,
        status: int,
        reason: str | None = None,
        headers: Iterable[tuple[str, HeaderValue]] = (),
        body: bytes = b"",
    ) -> None:
        self._answer(status, reason)
        self._complete(headers, body)

    def _answer(self, status: int, reason: str | None) -> None:
        """Start with the status line alone."""
        usual = reason_phrase(status)
        self._status = status
        self._reason = usual if reason is None else check_text(reason, "reason phrase")
        self._start = f"SIP/2.0 {status} {self._reason}"
        self._clear()

    @property
    def status(self) -> int:
        """The status code, 100 to 699."""
        return self._status

    @property
    def reason(self) -> str:
        """The reason phrase, possibly empty."""
        return self._reason

    def copy(self) -> SipResponse:
        """Return an independent copy."""
        other = self._copy_into(SipResponse.__new__(SipResponse))
        other._status = self._status
        other._reason = self._reason
        return other


def stateless_tag(via: str, sender: str, to: str, call_id: str, cseq: str) -> str:
    """Return a To tag that is the same for every retransmission of a request."""
    number = cseq.partition(" ")[0]
    text = f"{via}\r\n{sender}\r\n{to}\r\n{call_id}\r\n{number}"
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:20]


def _checked_uri(uri: Uri | str) -> str:
    try:
        return str(parse_uri(uri) if isinstance(uri, str) else uri)
    except SipParseError as error:
        raise SipValueError(error.detail) from None
