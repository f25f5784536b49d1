"""The configuration of an endpoint, also from the module's parameters."""

from __future__ import annotations

import pytest

from wsproto_sip.limits import Limits
from wsproto_sip.policy.decision import Continue, Decision, RequestContext
from wsproto_sip.server.config import EndpointConfig, subprotocol_profiles
from wsproto_sip.server.management.kamailio import ModParamError, ModParams
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.session.keepalive import Mechanism


def anybody(context: RequestContext) -> Decision:
    return Continue()


def test_defaults_are_those_documented() -> None:
    config = EndpointConfig()
    assert (config.max_connections, config.max_per_address) == (10_000, 100)
    assert (config.max_handshaking, config.max_handshaking_per_address) == (1000, 50)
    assert (config.max_queued_messages, config.max_queued_bytes) == (16, 64 * 1024)
    assert config.session == SessionConfig()
    assert config.policies.policies == ()
    assert list(config.extensions("sip")) == []


@pytest.mark.parametrize("shards", [0, 17, -1])
def test_shards_are_1_to_16(shards: int) -> None:
    with pytest.raises(ValueError, match=f"shards must be 1 to 16: {shards}"):
        EndpointConfig(shards=shards)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, float("nan")])
def test_message_timeout_is_positive_or_none(seconds: float) -> None:
    with pytest.raises(ValueError, match="message_timeout must be positive"):
        EndpointConfig(message_timeout=seconds)
    assert EndpointConfig(message_timeout=None).message_timeout is None


@pytest.mark.parametrize("seconds", [-0.1, 60.1, float("nan")])
def test_timer_intervals_are_0_to_60(seconds: float) -> None:
    with pytest.raises(ValueError, match="timer_interval must be 0 to 60 seconds"):
        EndpointConfig(timer_interval=seconds)


def test_ends_of_the_ranges() -> None:
    assert EndpointConfig(shards=1, timer_interval=0.0).shards == 1
    assert EndpointConfig(shards=16, timer_interval=60.0).timer_interval == 60


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("max_due", 1),
        ("max_connections", 0),
        ("max_per_address", 0),
        ("max_handshaking", 0),
        ("max_handshaking_per_address", 0),
        ("max_queued_messages", 0),
        ("max_queued_bytes", 0),
    ],
)
def test_bounds(name: str, least: int) -> None:
    assert getattr(EndpointConfig(**{name: least}), name) == least  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=f"{name} must be {least} or more: {least - 1}"):
        EndpointConfig(**{name: least - 1})  # type: ignore[arg-type]
    if not name.startswith("max_queued"):
        assert getattr(EndpointConfig(**{name: None}), name) is None  # type: ignore[arg-type]


def test_profiles() -> None:
    session = SessionConfig(close_timeout=3.0, limits=Limits(control_burst=7))
    profiles = subprotocol_profiles(session)
    assert sorted(profiles) == ["msrp", "sip"]
    for profile in profiles.values():
        assert profile.text_as_bytes
        assert profile.close_timeout == 3.0
        assert profile.limits.max_message_size == 64 * 1024
        assert profile.limits.control_burst == 7
    assert profiles["sip"].limits.max_fragments == 64
    assert profiles["msrp"].limits.max_fragments == session.limits.max_fragments


def test_profiles_keep_lower_limits() -> None:
    small = SessionConfig(limits=Limits(max_message_size=1000, max_fragments=5))
    large = SessionConfig(limits=Limits(max_message_size=None, max_fragments=None))
    for profile in subprotocol_profiles(small).values():
        assert profile.limits.max_message_size == 1000
        assert profile.limits.max_fragments == 5
    assert subprotocol_profiles(large)["sip"].limits.max_fragments == 64
    assert subprotocol_profiles(large)["msrp"].limits.max_message_size == 64 * 1024


def test_from_modparams() -> None:
    own = SessionConfig(text_as_bytes=True, max_age=5.0)
    config = EndpointConfig.from_modparams(
        {
            "keepalive_mechanism": 2,
            "keepalive_timeout": 30,
            "keepalive_processes": 3,
            "keepalive_interval": 4,
            "sub_protocols": 1,
        },
        policies=[anybody],
        session=SessionConfig(close_timeout=1.0, profiles={"sip": own}),
        max_connections=7,
    )
    assert (config.shards, config.timer_interval, config.max_connections) == (3, 4.0, 7)
    assert config.session.keepalive.mechanism is Mechanism.PONG
    assert config.session.keepalive.interval == 30
    assert config.session.close_timeout == 1.0
    # The caller's own profile is kept, the others are the defaults.
    assert config.session.profiles["sip"] is own
    assert config.session.profiles["msrp"].keepalive == config.session.keepalive
    assert config.policies.policies[0] is anybody
    assert len(config.policies.policies) > 1


def test_from_parsed_modparams() -> None:
    params = ModParams.from_modparams({"keepalive_timeout": 77})
    assert EndpointConfig.from_modparams(params).session.keepalive.interval == 77


def test_values_refused_by_the_module_are_refused() -> None:
    with pytest.raises(ModParamError, match="cors_mode"):
        EndpointConfig.from_modparams({"cors_mode": 9})
