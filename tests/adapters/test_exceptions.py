"""The exceptions of the adapters."""

from __future__ import annotations

import pytest

from wsproto_sip.adapters import exceptions
from wsproto_sip.adapters.exceptions import (
    ClientDisconnected,
    ConnectionClosedError,
    HandshakeRejected,
    ProxyError,
)
from wsproto_sip.events import CloseConnection, RejectConnection, RejectData
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed


class TestExceptions:
    @pytest.mark.parametrize(
        ("code", "received", "in_order"),
        [
            (1000, True, True),
            (1001, True, True),
            (1005, True, True),
            (1011, True, False),
            (1000, False, False),
            (1006, False, False),
        ],
    )
    def test_closed_error_describes_the_end(
        self, code: int, received: bool, in_order: bool
    ) -> None:
        frame = CloseConnection(code) if received else None
        error = ConnectionClosedError(ConnectionClosed(code, "why", Cause.REMOTE, frame))
        assert (error.code, error.reason, error.in_order) == (code, "why", in_order)
        assert str(error) == f"connection closed with {code} (remote): why"

    def test_closed_error_without_a_reason(self) -> None:
        error = ConnectionClosedError(ConnectionClosed(1006, "", Cause.END_OF_INPUT))
        assert str(error) == "connection closed with 1006 (end of input)"

    def test_rejection_has_status_and_headers(self) -> None:
        error = HandshakeRejected(401, [(b"A", b"b"), (b"a", b"c")], b"body")
        assert str(error) == "the handshake was rejected with status 401"
        assert (error.header(b"a"), error.header(b"x")) == (b"b", None)
        length = (b"content-length", b"4")
        assert error.events() == [
            RejectConnection(401, [(b"A", b"b"), (b"a", b"c"), length], has_body=True),
            RejectData(b"body"),
        ]

    def test_rejection_needs_a_final_status(self) -> None:
        with pytest.raises(ValueError, match="not a status from 200 to 599: 101"):
            HandshakeRejected(101).events()

    def test_proxy_error_is_a_connection_error(self) -> None:
        error = ProxyError("no", 407, [(b"a", b"b")], transient=False)
        assert (str(error), error.status_code, error.headers) == ("no", 407, [(b"a", b"b")])
        assert not error.transient
        assert isinstance(error, ConnectionError)
        assert isinstance(ClientDisconnected(), OSError)


def test_drawn_tree_matches_the_classes() -> None:
    tree = str(exceptions.__doc__)
    for name in exceptions.__all__:
        bases = [base.__name__ for base in getattr(exceptions, name).__bases__]
        assert bases[0] == "WsprotoSipError"
        assert f"── {name}{''.join(f' ({base})' for base in bases[1:])} " in tree
