from __future__ import annotations

from dataclasses import replace

import pytest

from wsproto_sip.sip.edge.config import DATAGRAMS, STREAM, EdgeConfig, EdgeMode, Probing, Upstream
from wsproto_sip.sip.message.errors import SipValueError
from wsproto_sip.sip.registrar.domains import Domains


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
        {"max_branches": 0},
        {"answer_timeout": 0},
        {"max_users_per_connection": 0},
        {"failover_timeout": 0.0},
    ],
)
def test_wrong_numbers(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"ascending order|must be positive"):
        EdgeConfig("edge.test", **options)  # type: ignore[arg-type]


def test_an_invalid_host_is_refused() -> None:
    with pytest.raises(SipValueError):
        EdgeConfig("edge test")
    with pytest.raises(SipValueError):
        EdgeConfig("edge.test", port=65536)


def test_upstreams() -> None:
    datagrams = Upstream("core", "192.0.2.1", 5060, "192.0.2.2", 5080)
    assert (datagrams.reliable, datagrams.link) == (False, DATAGRAMS)
    stream = Upstream("core", "core.test", 5060, "192.0.2.2", 5080, "tcp")
    assert (stream.reliable, stream.link) == (True, STREAM)
    with pytest.raises(ValueError, match="must be udp, tcp or tls"):
        Upstream("core", "192.0.2.1", 5060, "192.0.2.2", 5080, "sctp")
    for host, port, local_host, local_port in (
        ("a b", 5060, "192.0.2.2", 5080),
        ("192.0.2.1", 70000, "192.0.2.2", 5080),
        ("192.0.2.1", 5060, "a b", 5080),
        ("192.0.2.1", 5060, "192.0.2.2", -1),
    ):
        with pytest.raises(SipValueError):
            Upstream("core", host, port, local_host, local_port)


def test_upstream_over_tls_is_secure() -> None:
    upstream = Upstream("core", "core.test", 5061, "Edge.test", 5081, "tls")
    assert (upstream.reliable, upstream.secure, upstream.link) == (True, True, STREAM)
    assert upstream.local == ("edge.test", 5081)
    assert not replace(upstream, transport="tcp").secure


@pytest.mark.parametrize(
    "options", [{"name": ""}, {"priority": -1}, {"weight": -1}], ids=lambda item: next(iter(item))
)
def test_an_invalid_upstream_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="needs a name, and a priority and weight"):
        replace(
            Upstream("core", "core.test", 5060, "edge.test", 5080),
            **options,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0.0},
        {"timeout": 11.0},
        {"jitter": -0.1},
        {"jitter": 1.0},
        {"dead_after": 0},
        {"alive_after": 0},
    ],
)
def test_invalid_probing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Probing(**options)  # type: ignore[arg-type]


def test_upstreams_must_be_distinct() -> None:
    one = Upstream("a", "a.test", 5060, "edge.test", 5080)
    other = replace(one, name="b", host="b.test")
    assert EdgeConfig("edge.test", upstreams=(one, other)).upstreams == (one, other)
    with pytest.raises(ValueError, match="the same name"):
        EdgeConfig("edge.test", upstreams=(one, replace(other, name="a")))
    with pytest.raises(ValueError, match="the same local address"):
        EdgeConfig("edge.test", upstreams=(one, replace(other, transport="tls")))
