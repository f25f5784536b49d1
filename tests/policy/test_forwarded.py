from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.events import Request
from wsproto_sip.policy.decision import Continue, Decision, Reject, RequestContext
from wsproto_sip.policy.forwarded import ForwardedHeader, ForwardedPolicy, TrustedNetworks

TRUSTED = TrustedNetworks(["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.7"])
STANDARD = ForwardedPolicy(TRUSTED)
CUSTOM = ForwardedPolicy(TRUSTED, header=ForwardedHeader.X_FORWARDED)

Effective = tuple[str, int | None, bool]


def ask(
    policy: ForwardedPolicy,
    *headers: tuple[bytes, bytes],
    peer: str = "10.0.0.1",
    secure: bool = False,
) -> tuple[Decision, RequestContext]:
    context = RequestContext(
        Request("example.com", "/", extra_headers=list(headers)),
        now=7.0,
        peer_address=peer,
        peer_port=4000,
        secure=secure,
    )
    return policy(context), context


def effective(policy: ForwardedPolicy, *headers: tuple[bytes, bytes]) -> Effective:
    decision, context = ask(policy, *headers)
    assert isinstance(decision, Continue)
    after = decision.context
    assert after is not None
    assert after == replace(
        context,
        peer_address=after.peer_address,
        peer_port=after.peer_port,
        secure=after.secure,
    )
    return after.peer_address, after.peer_port, after.secure


def forwarded(*values: bytes) -> Effective:
    return effective(STANDARD, *((b"forwarded", value) for value in values))


def x_forwarded(addresses: bytes, *protocols: bytes) -> Effective:
    headers = [(b"x-forwarded-for", addresses)]
    headers += [(b"x-forwarded-proto", protocol) for protocol in protocols]
    return effective(CUSTOM, *headers)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"for=192.0.2.60", ("192.0.2.60", None, False)),
        (b"For=192.0.2.60;Proto=https;by=203.0.113.43", ("192.0.2.60", None, True)),
        (b'for="192.0.2.60:4711" ; proto=WSS', ("192.0.2.60", 4711, True)),
        (b'for="[2001:db8:cafe::17]:4711"', ("2001:db8:cafe::17", 4711, False)),
        (b'for="[2001:DB8:CAFE:0::17]"', ("2001:db8:cafe::17", None, False)),
        (b'for="[::ffff:192.0.2.60]"', ("192.0.2.60", None, False)),
        (b'for="192.0.2.60:_hidden"', ("192.0.2.60", None, False)),
        (b'for="\\192.0.2.60"', ("192.0.2.60", None, False)),
        (b"for=198.51.100.1, for=192.0.2.60", ("192.0.2.60", None, False)),
        (b"for=192.0.2.60;proto=https, for=10.9.9.9;proto=http", ("192.0.2.60", None, True)),
        (b"for=192.0.2.60;proto=https,for=10.9.9.9", ("192.0.2.60", None, True)),
        (b"for=10.1.1.1, for=10.2.2.2", ("10.1.1.1", None, False)),
        (b"for=unknown;proto=https", ("10.0.0.1", 4000, True)),
        (b"for=_gazonk", ("10.0.0.1", 4000, False)),
        (b"proto=https", ("10.0.0.1", 4000, True)),
        (b"for=198.51.100.1, for=_secret, for=10.2.2.2", ("10.2.2.2", None, False)),
    ],
)
def test_forwarded(value: bytes, expected: Effective) -> None:
    assert forwarded(value) == expected


def test_several_fields_are_one_list() -> None:
    assert forwarded(b"for=192.0.2.60;proto=wss", b"for=10.2.2.2") == ("192.0.2.60", None, True)
    headers = [(b"x-forwarded-for", b"192.0.2.60"), (b"x-forwarded-for", b"10.2.2.2")]
    assert effective(CUSTOM, *headers) == ("192.0.2.60", None, False)


@pytest.mark.parametrize(
    "value",
    [
        b"for=192.0.2.60;proto=wss;",
        b";for=192.0.2.60 ; ;proto=wss",
        b"for=192.0.2.60;proto=wss,",
        b", ,for=192.0.2.60;proto=wss, ;,for=10.2.2.2 , ",
    ],
)
def test_empty_parameters_and_hops_are_ignored(value: bytes) -> None:
    assert forwarded(value) == ("192.0.2.60", None, True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "no hop"),
        (b" ;, ;", "no hop"),
        (b"for", "invalid parameter at character 0"),
        (b"for=192.0.2.60;x", "invalid parameter at character 15"),
        (b"for =192.0.2.60", "invalid parameter at character 0"),
        (b"for=192.0.2.60:80", "invalid parameter at character 0"),
        (b'for="192.0.2.60', "invalid parameter at character 0"),
        (b'for="192.0.2.60\\"', "invalid parameter at character 0"),
        (b"\x85for=192.0.2.60", "invalid parameter at character 0"),
        (b"for=192.0.2.60\xa0", "invalid parameter at character 0"),
        (b"for=192.0.2.60;for=192.0.2.61", "parameter for is repeated"),
        (b"for=192.0.2.60;FOR=192.0.2.61", "parameter for is repeated"),
        (b"for=localhost", "not an address"),
        (b"for=192.0.2", "not an address"),
        (b"for=1920.2.0.60", "not an address"),
        (b"for=192.0.2.600", "not an address"),
        (b'for="192.0.2.60:65536"', "not a port"),
        (b'for="2001:db8::1"', "not an address"),
        (b'for="[2001:db8::1"', "not an address"),
        (b'for="[fe80::1%eth0]"', "not an address"),
        (b'for="[1.2.3.4]"', "not an address"),
        (b'for="[1:2]"', "not an address"),
        (b"for=192.0.2.60;proto=gopher", "unknown scheme"),
        (b",".join([b"for=10.0.0.2"] * 33), "too many hops"),
    ],
)
def test_malformed_forwarded_is_400(value: bytes, reason: str) -> None:
    decision, _ = ask(STANDARD, (b"forwarded", value))
    assert isinstance(decision, Reject)
    assert decision.status == 400
    assert decision.reason.startswith("malformed forwarded: ")
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("addresses", "protocols", "expected"),
    [
        (b"192.0.2.60", [], ("192.0.2.60", None, False)),
        (b"192.0.2.60:4711", [b"https"], ("192.0.2.60", 4711, True)),
        (b"2001:db8::1", [b"Https"], ("2001:db8::1", None, True)),
        (b"::ffff:192.0.2.60", [], ("192.0.2.60", None, False)),
        (b"[2001:db8::1]:80", [b"http"], ("2001:db8::1", 80, False)),
        (b"garbage, 192.0.2.60 ,\t10.1.1.1", [b"wss"], ("192.0.2.60", None, True)),
        (b"192.0.2.60, 10.1.1.1", [b"https, http"], ("192.0.2.60", None, True)),
        (b"192.0.2.60, 10.1.1.1", [b"https", b"http"], ("192.0.2.60", None, True)),
        (b"10.1.1.1, 2001:db8:1::5", [], ("10.1.1.1", None, False)),
        (b",".join([b"10.0.0.2"] * 32), [], ("10.0.0.2", None, False)),
    ],
)
def test_x_forwarded(addresses: bytes, protocols: list[bytes], expected: Effective) -> None:
    assert x_forwarded(addresses, *protocols) == expected


@pytest.mark.parametrize(
    ("addresses", "protocols", "reason"),
    [
        (b"", [], "not an address"),
        (b"192.0.2.60,", [], "not an address"),
        (b"192.0.2.60, unknown", [], "not an address"),
        (b"192.0.2.60, _x", [], "not an address"),
        (b"192.0.2.60\x0b", [], "not an address"),
        (b"1:2:3", [], "not an address"),
        (b"192.0.2.60", [b"gopher"], "unknown scheme"),
        (
            b"192.0.2.60, 10.1.1.1",
            [b"http, http, http"],
            "the numbers of schemes and addresses differ",
        ),
        (b",".join([b"10.0.0.2"] * 33), [], "too many hops"),
        (b"10.0.0.2", [b",".join([b"http"] * 33)], "too many hops"),
    ],
)
def test_malformed_x_forwarded_is_400(
    addresses: bytes, protocols: list[bytes], reason: str
) -> None:
    headers = [(b"x-forwarded-for", addresses)]
    headers += [(b"x-forwarded-proto", protocol) for protocol in protocols]
    decision, _ = ask(CUSTOM, *headers)
    assert isinstance(decision, Reject)
    assert decision.status == 400
    assert decision.reason == f"malformed x-forwarded-for: {reason}"


@pytest.mark.parametrize(
    "peer", ["192.0.2.8", "", "unix", "2001:db8:2::1", "::ffff:192.0.2.8", "10.0.0.1 "]
)
def test_untrusted_peers_are_ignored(peer: str) -> None:
    for policy in (STANDARD, CUSTOM):
        headers = [(b"forwarded", b"for=;;;"), (b"x-forwarded-for", b"1.1.1.1")]
        decision, _ = ask(policy, *headers, peer=peer, secure=True)
        assert decision == Continue()


@pytest.mark.parametrize(
    "peer", ["10.255.0.1", "192.0.2.7", "2001:db8:1::9", "::ffff:10.0.0.1", "2001:db8:1::9%eth0"]
)
def test_trusted_peers(peer: str) -> None:
    decision, _ = ask(STANDARD, (b"forwarded", b"for=198.51.100.1"), peer=peer)
    assert isinstance(decision, Continue)
    assert decision.context is not None
    assert decision.context.peer_address == "198.51.100.1"


def test_without_header_fields_and_with_the_other_kind_nothing_changes() -> None:
    assert ask(STANDARD)[0] == Continue()
    assert ask(STANDARD, (b"x-forwarded-for", b"1.1.1.1"))[0] == Continue()
    assert ask(CUSTOM, (b"forwarded", b"for=1.1.1.1"))[0] == Continue()


def test_unnamed_scheme_stays_as_it_is() -> None:
    decision, _ = ask(STANDARD, (b"forwarded", b"for=198.51.100.1"), secure=True)
    assert isinstance(decision, Continue)
    assert decision.context is not None
    assert decision.context.secure


def test_none_is_in_no_network() -> None:
    assert None not in TrustedNetworks(["0.0.0.0/0", "::/0"])


def test_peers_at_a_unix_socket_are_trusted_by_that_name_alone() -> None:
    unix = TrustedNetworks(["unix", "10.0.0.0/8"])
    assert "" in unix
    assert "unix" in unix
    assert "unix-1000" in unix
    assert "10.0.0.1" in unix
    assert "192.0.2.1" not in unix
    assert None not in unix
    assert "" not in TRUSTED
    assert "unix-1000" not in TRUSTED


def test_proxy_of_one_user_at_a_unix_socket() -> None:
    proxy = TrustedNetworks(["unix-33"])
    assert "unix-33" in proxy
    for other in ("unix-0", "unix", "", "unix-333"):
        assert other not in proxy
    with pytest.raises(ValueError):
        TrustedNetworks(["unix-www-data"])


def test_networks_are_checked() -> None:
    for network in ("10.0.0.1/8", "10.0.0.0/33", "localhost", ""):
        with pytest.raises(ValueError):
            TrustedNetworks([network])
    with pytest.raises(TypeError, match="not one string"):
        TrustedNetworks("10.0.0.0/8")


ADDRESSES = st.ip_addresses(v=4, network="198.51.100.0/24") | st.ip_addresses(
    v=6, network="2001:db8:2::/48"
)
PROXIES = st.lists(st.ip_addresses(v=4, network="10.0.0.0/8").map(str), max_size=4)
SPOOFED = st.lists(st.sampled_from(["1.2.3.4", "10.3.3.3", "127.0.0.1"]), max_size=3)


@given(SPOOFED, ADDRESSES, PROXIES)
def test_what_the_client_claims_changes_nothing(
    spoofed: list[str],
    client: ipaddress.IPv4Address | ipaddress.IPv6Address,
    proxies: list[str],
) -> None:
    hops = [*spoofed, str(client), *proxies]
    assert x_forwarded(", ".join(hops).encode()) == (str(client), None, False)
    quoted = [f'for="[{hop}]"' if ":" in hop else f"for={hop}" for hop in hops]
    assert forwarded(", ".join(quoted).encode()) == (str(client), None, False)


@given(st.binary() | st.text('for=";,\\ 1.:[]_', max_size=30).map(str.encode))
def test_any_header_gets_a_decision(value: bytes) -> None:
    for policy, name in ((STANDARD, b"forwarded"), (CUSTOM, b"x-forwarded-for")):
        decision, _ = ask(policy, (name, value), (b"x-forwarded-proto", value))
        if isinstance(decision, Reject):
            assert decision.status == 400
        else:
            assert isinstance(decision, Continue)
