"""Via: the path a request has taken (RFC 3261 §20.42), with rport and received (RFC 3581)."""

from __future__ import annotations

import re

from ._syntax import HOST, LWS, PARAMS, TOKEN, check_token, parse_port, parse_uint
from .errors import SipParseError, SipValueError
from .params import NO_PARAMS, Params

__all__ = ["MAGIC_COOKIE", "Via"]

#: The start of every branch written by an RFC 3261 element (§8.1.1.7).
MAGIC_COOKIE = "z9hG4bK"

_VIA_RE = re.compile(
    rf"{LWS}[sS][iI][pP]{LWS}/{LWS}2\.0{LWS}/{LWS}({TOKEN})[ \t]+"
    rf"({HOST})(?:{LWS}:{LWS}([0-9]+))?({PARAMS}){LWS}"
)
_HOST_RE = re.compile(HOST)


class Via:
    """One hop of a request.

    Args:
        transport: ``UDP``, ``TCP``, ``TLS``, ``WS``, ``WSS`` or any other token.
        host: The sent-by host: a name, an IPv4 address, or an IPv6 address in brackets.
        port: The sent-by port, or ``None``.
        params: The parameters.

    Raises:
        SipValueError: A part is not valid in a Via as it is.
    """

    __slots__ = ("_host", "_params", "_port", "_transport")

    def __init__(
        self, transport: str, host: str, port: int | None = None, params: Params = NO_PARAMS
    ) -> None:
        check_token(transport, "transport")
        if not _HOST_RE.fullmatch(host):
            raise SipValueError(f"not a host: {host!r:.100}")
        if port is not None and not 0 <= port <= 65535:
            raise SipValueError(f"not a port: {port!r}")
        self._transport = transport
        self._host = host
        self._port = port
        self._params = params

    @classmethod
    def parse(cls, text: str) -> Via:
        """Read one value.

        Raises:
            SipParseError: 400, for bad syntax, a port above 65535 or a protocol other than SIP/2.0.
        """
        match = _VIA_RE.fullmatch(text)
        if match is None:
            raise SipParseError(400, f"bad Via: {text!r:.100}")
        transport, host, port, params = match.groups()
        via = cls.__new__(cls)
        via._transport = transport
        via._host = host
        via._port = None if port is None else parse_port(port)
        via._params = Params.from_checked(params) if params else NO_PARAMS
        return via

    @property
    def transport(self) -> str:
        """The transport, as written."""
        return self._transport

    @property
    def host(self) -> str:
        """The sent-by host; an IPv6 address in brackets."""
        return self._host

    @property
    def port(self) -> int | None:
        """The sent-by port, or ``None``."""
        return self._port

    @property
    def params(self) -> Params:
        """The parameters."""
        return self._params

    @property
    def branch(self) -> str | None:
        """The branch parameter, which names the transaction (RFC 3261 §8.1.1.7)."""
        return self._params.get("branch")

    @property
    def received(self) -> str | None:
        """The address the request came from (RFC 3261 §18.2.1), without brackets."""
        value = self.params.get("received")
        return value[1:-1] if value and value[0] == "[" else value

    @property
    def rport(self) -> int | None:
        """The port the request came from (RFC 3581 §4); ``None`` while it is only requested.

        Raises:
            SipParseError: 400, if it is not a port.
        """
        value = self.params.get("rport")
        return parse_uint(value, 65535, "rport") if value else None

    @property
    def address(self) -> str:
        """The sent-by host without an IPv6 address's brackets."""
        return self.host[1:-1] if self.host[0] == "[" else self.host

    def with_param(self, name: str, value: str | None = None) -> Via:
        """Return a copy with a parameter set; see ``Params.with_param``."""
        return self._with(self._params.with_param(name, value))

    def without_param(self, name: str) -> Via:
        """Return a copy without a parameter."""
        return self._with(self._params.without(name))

    def seen_from(self, host: str, port: int) -> Via:
        """Return a copy with the request's source as ``received`` and ``rport`` (RFC 3581 §4).

        Args:
            host: An address; an IPv6 one in brackets.
            port: The port.
        """
        return self._with(self._params.with_written({"rport": f"{port}", "received": host}))

    def with_branch(self, branch: str) -> Via:
        """Return a copy with a branch parameter, which must be a token."""
        return self._with(self._params.with_written({"branch": branch}))

    def _with(self, params: Params) -> Via:
        via = Via.__new__(Via)
        via._transport = self._transport
        via._host = self._host
        via._port = self._port
        via._params = params
        return via

    def __eq__(self, other: object) -> bool:
        """Compare transport and host without regard to case, and port and parameters."""
        if not isinstance(other, Via):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, str, int | None, Params]:
        return (self._transport.upper(), self._host.lower(), self._port, self._params)

    def __repr__(self) -> str:
        return f"Via({str(self)!r})"

    def __str__(self) -> str:
        port = "" if self._port is None else f":{self._port}"
        return f"SIP/2.0/{self._transport} {self._host}{port}{self._params}"
