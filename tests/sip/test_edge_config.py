from __future__ import annotations

import pytest

from wsproto_sip.sip.domains import Domains
from wsproto_sip.sip.edge_config import DATAGRAMS, STREAM, EdgeConfig, EdgeMode, Upstream
from wsproto_sip.sip.errors import SipValueError


def test_defaults() -> None:
    config = EdgeConfig("edge.test")
    assert config.mode is EdgeMode.OUTBOUND
    assert config.timeout == 32.0
    assert config.own_domains == Domains(("edge.test",))
    ours = Domains(("sip.test",))
    assert EdgeConfig("edge.test", ours).own_domains is ours


@pytest.mark.parametrize(
    "options",
    [
        {"t1": 0.0},
        {"t1": 5.0},
        {"t2": 6.0},
        {"t4": 33.0},
        {"ring_timeout": 32.0},
        {"max_transactions": 0},
        {"max_transactions_per_connection": 0},
        {"max_pending_octets": 0},
        {"max_pending_octets_per_connection": 0},
        {"max_branches": 0},
    ],
)
def test_wrong_numbers(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"not in order|not positive"):
        EdgeConfig("edge.test", **options)  # type: ignore[arg-type]


def test_a_host_that_is_none() -> None:
    with pytest.raises(SipValueError):
        EdgeConfig("edge test")
    with pytest.raises(SipValueError):
        EdgeConfig("edge.test", port=65536)


def test_upstreams() -> None:
    datagrams = Upstream("core", "192.0.2.1", 5060, "192.0.2.2", 5080)
    assert (datagrams.reliable, datagrams.link) == (False, DATAGRAMS)
    stream = Upstream("core", "core.test", 5060, "192.0.2.2", 5080, "tcp")
    assert (stream.reliable, stream.link) == (True, STREAM)
    with pytest.raises(ValueError, match="neither udp nor tcp"):
        Upstream("core", "192.0.2.1", 5060, "192.0.2.2", 5080, "tls")
    for host, port, local_host, local_port in (
        ("a b", 5060, "192.0.2.2", 5080),
        ("192.0.2.1", 70000, "192.0.2.2", 5080),
        ("192.0.2.1", 5060, "a b", 5080),
        ("192.0.2.1", 5060, "192.0.2.2", -1),
    ):
        with pytest.raises(SipValueError):
            Upstream("core", host, port, local_host, local_port)
