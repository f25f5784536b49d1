"""How long a client waits before it retries, and after which errors."""

from __future__ import annotations

import socket
import ssl

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters.backoff import Backoff, is_transient, retry_after
from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected, ProxyError
from wsproto_sip.session.lifecycle import Cause, ConnectionClosed
from wsproto_sip.utilities import LocalProtocolError


def most(size: int) -> bytes:
    """Return entropy that makes every wait as long as possible."""
    return b"\xff" * size


class TestBackoff:
    def test_bound_grows_up_to_the_longest(self) -> None:
        backoff = Backoff(entropy=most)
        waits = [backoff.failed(0.0) for _ in range(6)]
        assert waits == pytest.approx([5, 10, 20, 40, 60, 60])
        assert backoff.failures == 6

    def test_waits_are_random(self) -> None:
        """Clients do not all return at the same moment (RFC 6455 §7.2.3)."""
        waits = {Backoff().failed(0.0) for _ in range(50)}
        assert len(waits) > 40
        assert all(0 <= wait < 5 for wait in waits)
        assert Backoff(entropy=bytes).failed(0.0) == 0

    def test_lasting_connection_resets_the_bound(self) -> None:
        backoff = Backoff(entropy=most, steady=60)
        assert [round(backoff.failed(0.0)) for _ in range(3)] == [5, 10, 20]
        backoff.opened(100.0)
        assert round(backoff.failed(159.0)) == 40
        backoff.opened(200.0)
        assert round(backoff.failed(260.0)) == 5
        # The next failure does not count as the end of that connection.
        assert round(backoff.failed(1000.0)) == 10

    def test_retry_after_is_added_up_to_an_hour(self) -> None:
        backoff = Backoff(entropy=most, factor=1)
        assert round(backoff.failed(0.0, at_least=100)) == 105
        assert round(backoff.failed(0.0, at_least=1e9)) == 3605
        assert round(backoff.failed(0.0, at_least=-1)) == 5

    @given(
        st.floats(0.001, 1e6),
        st.floats(1, 1e6),
        st.floats(0.001, 1e6),
        st.integers(1, 2000),
        st.binary(min_size=4, max_size=4),
    )
    def test_waits_stay_below_the_longest(
        self, first: float, factor: float, longest: float, times: int, random: bytes
    ) -> None:
        backoff = Backoff(first=first, factor=factor, longest=longest, entropy=lambda _: random)
        for _ in range(times):
            assert 0 <= backoff.failed(0.0) < longest

    @pytest.mark.parametrize("wrong", ["first", "longest", "steady"])
    @pytest.mark.parametrize("value", [0, -1, float("nan")])
    def test_times_must_be_positive(self, wrong: str, value: float) -> None:
        with pytest.raises(ValueError, match="positive"):
            Backoff(**{wrong: value})  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", [0.9, float("nan")])
    def test_factor_must_be_at_least_1(self, value: float) -> None:
        with pytest.raises(ValueError, match="factor"):
            Backoff(factor=value)


def closed(cause: Cause) -> ConnectionClosedError:
    return ConnectionClosedError(ConnectionClosed(1006, "", cause))


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (OSError(), True),
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (socket.gaierror(socket.EAI_NONAME, "x"), True),
        (ssl.SSLError(), True),
        (ssl.SSLCertVerificationError(), False),
        (HandshakeRejected(503), True),
        (HandshakeRejected(429), True),
        (HandshakeRejected(403), False),
        (HandshakeRejected(302), False),
        (ProxyError("x"), True),
        (ProxyError("x", 407, transient=False), False),
        (closed(Cause.END_OF_INPUT), True),
        (closed(Cause.OPEN_TIMEOUT), True),
        (closed(Cause.PROTOCOL_ERROR), False),
        (closed(Cause.LIMIT), False),
        (ValueError(), False),
        (LocalProtocolError("x"), False),
        (ZeroDivisionError(), False),
    ],
)
def test_only_transient_errors_are_retried(error: Exception, transient: bool) -> None:
    assert is_transient(error) == transient


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (HandshakeRejected(503, [(b"Retry-After", b"120")]), 120),
        (ProxyError("x", 503, [(b"retry-after", b"7")]), 7),
        (HandshakeRejected(503, [(b"Retry-After", b"9" * 400)]), 999999999),
        (HandshakeRejected(503, [(b"Retry-After", b"Fri, 01 Jan 2027 00:00:00 GMT")]), 0),
        (HandshakeRejected(503, [(b"Retry-After", b"-1")]), 0),
        (HandshakeRejected(503), 0),
        (OSError(), 0),
    ],
)
def test_retry_after_is_parsed(error: Exception, seconds: float) -> None:
    assert retry_after(error) == seconds
