from __future__ import annotations

import pytest

from wsproto_sip.msrp.message.uri import MsrpUriError
from wsproto_sip.msrp.relay.config import (
    DropConnection,
    ForwardToPeer,
    MsrpRelayConfig,
    RelayNode,
    SendChunk,
    node_hop,
)


def test_defaults() -> None:
    config = MsrpRelayConfig("relay.example", 2855)
    assert config.secure
    assert (config.min_expires, config.default_expires, config.max_expires) == (60, 900, 3600)
    assert (config.transaction_timeout, config.authentication_timeout) == (30.0, 30.0)
    assert (config.peers, config.aliases) == ({}, frozenset())


@pytest.mark.parametrize(
    "times",
    [{"min_expires": 0}, {"min_expires": 901}, {"default_expires": 3601}, {"max_expires": 899}],
)
def test_times_are_in_order(times: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not in ascending order"):
        MsrpRelayConfig("relay.example", 2855, **times)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="answer_timeout must be positive: 0"):
        MsrpRelayConfig("relay.example", 2855, answer_timeout=0)
    for name in ("transaction_timeout", "authentication_timeout"):
        with pytest.raises(ValueError, match=f"{name} must not be negative: -1"):
            MsrpRelayConfig("relay.example", 2855, **{name: -1})  # type: ignore[arg-type]


def test_hosts_make_uris() -> None:
    MsrpRelayConfig("[::1]", 1, aliases=frozenset({("a", None)}), peers={"p": ("10.0.0.1", 2855)})
    with pytest.raises(MsrpUriError):
        MsrpRelayConfig("a b", 1)
    with pytest.raises(MsrpUriError):
        MsrpRelayConfig("a", 1, aliases=frozenset({("a/", None)}))
    with pytest.raises(MsrpUriError):
        MsrpRelayConfig("a", 1, peers={"p": ("b", 0)})


def test_nodes_have_hosts_and_names_that_no_peer_has() -> None:
    assert RelayNode("n2.relay.example").boot == ""
    with pytest.raises(MsrpUriError):
        RelayNode("n2/relay")
    with pytest.raises(ValueError, match="must not start with 'node:': 'node:n2'"):
        MsrpRelayConfig("a", 1, peers={node_hop("n2"): ("b", 1)})


def test_actions_are_values() -> None:
    assert SendChunk(1, b"x") == SendChunk(1, b"x")
    assert ForwardToPeer("p", b"x") != ForwardToPeer("q", b"x")
    assert DropConnection(1, "why").reason == "why"
