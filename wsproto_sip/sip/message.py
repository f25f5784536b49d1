"""SIP messages: reading, looking at, editing and writing them.

Theory of operation: a message keeps the text of every header field as it came. Reading one checks
the framing (limits, line ends, start line, the fields every message needs, Content-Length) and
notes where each field is; a value is taken apart when it is first asked for. Writing a message
that nobody edited gives back its octets; an edit changes the fields it names and no others.

Text is UTF-8 with :pep:`383` escapes, so that octets which are no UTF-8 survive unchanged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from ._syntax import check_text, check_token, parse_uint, split_first
from .address import NameAddr
from .errors import SipParseError, SipValueError, reason_phrase
from .fields import HeaderFields, HeaderValue
from .headers import CSeq, parse_contacts, parse_expires, parse_tokens
from .uri import Uri, parse_uri
from .via import Via

__all__ = ["SipMessage", "SipRequest", "SipResponse"]

_M = TypeVar("_M", bound="SipMessage")

_CALL_ID_RE = re.compile(r"[^\x00-\x20\x7f]++")
_MAX_FORWARDS = 255


class SipMessage(HeaderFields):
    """What requests and responses have in common.

    Header names are taken in any spelling: ``"Via"``, ``"via"`` and ``"v"`` are the same.
    """

    __slots__ = ("_body", "_start")

    _start: str
    _body: bytes

    def _begin(self, headers: Iterable[tuple[str, HeaderValue]], body: bytes) -> None:
        self._names = []
        self._fields = []
        self._first = {}
        self._cache = {}
        self._wire = self._quick = None
        self._body = body
        for name, value in headers:
            self.add_header(name, value)
        self.replace_header("Content-Length", len(body))

    # -- looking -----------------------------------------------------------------------------------

    @property
    def start_line(self) -> str:
        """The request line or status line, as written."""
        return self._start

    @property
    def body(self) -> bytes:
        """The octets behind the empty line."""
        return self._body

    @property
    def via(self) -> Via:
        """The topmost Via.

        Raises:
            SipParseError: 400, for bad syntax or none.
        """
        found = self._cache.get("via")
        if found is None:
            found = self._cache["via"] = Via.parse(split_first(self._required("via"))[0])
        return found

    @property
    def vias(self) -> list[Via]:
        """All Via values, topmost first."""
        return [Via.parse(value) for value in self.values("via")]

    def _address(self, name: str) -> NameAddr:
        found = self._cache.get(name)
        if found is None:
            found = self._cache[name] = NameAddr.parse(self._required(name))
        return found

    @property
    def from_(self) -> NameAddr:
        """The From value.

        Raises:
            SipParseError: 400, for bad syntax or none.
        """
        return self._address("from")

    @property
    def to(self) -> NameAddr:
        """The To value.

        Raises:
            SipParseError: 400, for bad syntax or none.
        """
        return self._address("to")

    @property
    def call_id(self) -> str:
        """The Call-ID, compared octet by octet.

        Raises:
            SipParseError: 400, for bad syntax or none.
        """
        value = self._required("call-id")
        if not _CALL_ID_RE.fullmatch(value):
            raise SipParseError(400, f"bad Call-ID: {value!r:.100}")
        return value

    @property
    def cseq(self) -> CSeq:
        """The CSeq value.

        Raises:
            SipParseError: 400, for bad syntax or none.
        """
        found = self._cache.get("cseq")
        if found is None:
            found = self._cache["cseq"] = CSeq.parse(self._required("cseq"))
        return found

    @property
    def contacts(self) -> list[NameAddr] | None:
        """The Contact values; ``None`` stands for ``Contact: *``, an empty list for no Contact.

        Raises:
            SipParseError: 400, for bad syntax.
        """
        return parse_contacts(self.values("contact"))

    def addresses(self, name: str) -> list[NameAddr]:
        """All values of a header of addresses: Route, Record-Route, Path, Service-Route.

        Raises:
            SipParseError: 400, for bad syntax.
        """
        return [NameAddr.parse(value) for value in self.values(name)]

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
        """A token list in lower case: the option tags of Supported, Require and Proxy-Require.

        Raises:
            SipParseError: 400, for bad syntax or more than 128 of them.
        """
        text = ", ".join(filter(None, self.get_all(name)))
        return [token.lower() for token in parse_tokens(text)]

    # -- editing -----------------------------------------------------------------------------------

    def set_contacts(self, contacts: Sequence[NameAddr]) -> None:
        """Put these contacts in the place of those that are there; none removes the field."""
        if contacts:
            self.replace_header("Contact", ", ".join([str(contact) for contact in contacts]))
        else:
            self.remove_header("contact")

    def set_body(self, body: bytes, content_type: str | None = None) -> None:
        """Set the body, its Content-Length and its Content-Type.

        Args:
            body: The octets.
            content_type: The Content-Type field's value; ``None`` removes the field.

        Raises:
            SipValueError: The type holds a line break or NUL.
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
        other._cache = {}
        other._quick = self._quick
        other._body = self._body
        return other

    # -- writing -----------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """The message's octets; those received, where nothing was edited."""
        wire = self._wire
        if wire is None:
            self._indexed()
            head = "\r\n".join([self._start, *self._fields, "", ""])
            wire = self._wire = head.encode("utf-8", "surrogateescape") + self._body
        return wire

    __bytes__ = to_bytes

    def to_websocket(self) -> str | bytes:
        """The message as one WebSocket message: text, or octets where it is not UTF-8.

        RFC 7118 §4.2 wants a binary message in the second case.
        """
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
        method: The method, a token, with its case.
        uri: The Request-URI.
        headers: Names and values, in their order; Content-Length is set to the body's size.
        body: The octets of the body.

    Raises:
        SipValueError: Something would not be one line.
    """

    __slots__ = ("_method", "_uri")

    _method: str
    _uri: str

    def __init__(
        self,
        method: str,
        uri: Uri | str,
        headers: Iterable[tuple[str, HeaderValue]] = (),
        body: bytes = b"",
    ) -> None:
        self._method = check_token(method, "method")
        self._uri = _checked_uri(uri)
        self._start = f"{method} {self._uri} SIP/2.0"
        self._begin(headers, body)

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
            SipValueError: On assignment, if it is no URI.
        """
        found = self._cache.get("uri")
        if found is None:
            found = self._cache["uri"] = parse_uri(self._uri)
        return found

    @uri.setter
    def uri(self, uri: Uri | str) -> None:
        self._uri = _checked_uri(uri)
        self._start = f"{self._method} {self._uri} SIP/2.0"
        self._wire = None
        self._cache.clear()

    def copy(self) -> SipRequest:
        """An independent copy: one branch of a fork."""
        other = self._copy_into(SipRequest.__new__(SipRequest))
        other._method = self._method
        other._uri = self._uri
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
        """The response to this request (RFC 3261 §8.2.6).

        Via, From, To, Call-ID, CSeq and Timestamp are copied, and Record-Route into responses
        that can make a dialog (101 to 299).

        Args:
            status: 100 to 699.
            reason: The reason phrase; the usual one by default.
            to_tag: The tag that To gets if it has none, except in a 100. By default one that is
                the same for every retransmission of this request, as a stateless server needs it
                (§8.2.7).
            headers: More fields, behind the copied ones.
            body: The body; its Content-Type is one of ``headers``.

        Raises:
            SipValueError: A status out of range, or something that would not be one line.
            SipParseError: The request lacks one of those fields.
        """
        copied: list[tuple[str, HeaderValue]] = [("Via", v) for v in self.get_all("via")]
        if 101 <= status <= 299:
            copied += [("Record-Route", value) for value in self.get_all("record-route")]
        to = self._required("to")
        if status > 100 and not self._has_tag(to):
            to = f"{to};tag={check_token(to_tag or self._stateless_tag(), 'tag')}"
        copied += [
            ("From", self._required("from")),
            ("To", to),
            ("Call-ID", self._required("call-id")),
            ("CSeq", self._required("cseq")),
        ]
        timestamp = self.get("timestamp")
        if timestamp is not None:
            copied.append(("Timestamp", timestamp))
        return SipResponse(status, reason, [*copied, *headers], body)

    @staticmethod
    def _has_tag(to: str) -> bool:
        try:
            return "tag" in NameAddr.parse(to).params
        except SipParseError:
            # It goes back as it came: nothing can be added to what cannot be read.
            return True

    def _stateless_tag(self) -> str:
        seed = [self._required(name) for name in ("via", "from", "to", "call-id")]
        seed.append(self._required("cseq").partition(" ")[0])
        text = "\r\n".join(seed).encode("utf-8", "surrogateescape")
        return hashlib.sha256(text).hexdigest()[:20]


class SipResponse(SipMessage):
    """A response.

    Args:
        status: 100 to 699.
        reason: The reason phrase; the usual one by default.
        headers: Names and values, in their order; Content-Length is set to the body's size.
        body: The octets of the body.

    Raises:
        SipValueError: The status is out of range, or something would not be one line.
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
        usual = reason_phrase(status)
        self._status = status
        self._reason = usual if reason is None else check_text(reason, "reason phrase")
        self._start = f"SIP/2.0 {status} {self._reason}"
        self._begin(headers, body)

    @property
    def status(self) -> int:
        """The status code, 100 to 699."""
        return self._status

    @property
    def reason(self) -> str:
        """The reason phrase, perhaps empty."""
        return self._reason

    def copy(self) -> SipResponse:
        """An independent copy."""
        other = self._copy_into(SipResponse.__new__(SipResponse))
        other._status = self._status
        other._reason = self._reason
        return other


def _checked_uri(uri: Uri | str) -> str:
    try:
        return str(parse_uri(uri) if isinstance(uri, str) else uri)
    except SipParseError as error:
        raise SipValueError(error.detail) from None
