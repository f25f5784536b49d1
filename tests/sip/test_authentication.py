from __future__ import annotations

from itertools import count

import pytest

from wsproto_sip.policy.digest import Nonces
from wsproto_sip.sip.authentication import DigestAuthenticator
from wsproto_sip.sip.digest import DigestChallenge, DigestCredentials, digest_ha1, digest_response
from wsproto_sip.sip.errors import SipValueError
from wsproto_sip.sip.message import SipRequest
from wsproto_sip.sip.routing import Rejection
from wsproto_sip.sip.users import Users

USERS = Users({"alice": "secret"})


def counter_entropy() -> object:
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def authenticator(**options: object) -> DigestAuthenticator:
    return DigestAuthenticator("sip.test", USERS, entropy=counter_entropy(), **options)  # type: ignore[arg-type]


def request(*fields: tuple[str, str], method: str = "REGISTER") -> SipRequest:
    return SipRequest(
        method,
        "sip:sip.test",
        [
            ("Via", "SIP/2.0/WS x.invalid;branch=z9hG4bK1"),
            ("From", "<sip:alice@sip.test>;tag=1"),
            ("To", "<sip:alice@sip.test>"),
            ("Call-ID", "c"),
            ("CSeq", f"1 {method}"),
            *fields,
        ],
    )


def challenge(rejection: str | Rejection, status: int = 401) -> DigestChallenge:
    assert isinstance(rejection, Rejection)
    assert rejection.status == status
    name, value = rejection.headers[0]
    assert name == ("WWW-Authenticate" if status == 401 else "Proxy-Authenticate")
    found = DigestChallenge.parse(value)
    assert found is not None
    return found


def credentials(
    nonce: str,
    *,
    user: str = "alice",
    password: str = "secret",
    uri: str = "sip:sip.test",
    method: str = "REGISTER",
    algorithm: str = "MD5",
    nc: str | None = "00000001",
    realm: str = "sip.test",
) -> str:
    ha1 = digest_ha1(user, realm, password, algorithm)
    cnonce = None if nc is None else "c"
    proof = digest_response(ha1, method, uri, nonce, algorithm=algorithm, nc=nc, cnonce=cnonce)
    qop = None if nc is None else "auth"
    return str(DigestCredentials(user, realm, nonce, uri, proof, algorithm, qop, nc, cnonce))


def test_a_challenge_and_its_answer() -> None:
    server = authenticator()
    asked = challenge(server.check(request(), 10.0))
    assert asked.realm == "sip.test"
    assert (asked.algorithm, asked.qop, asked.stale) == ("MD5", True, False)
    answer = request(("Authorization", credentials(asked.nonce)))
    assert server.check(answer, 11.0) == "alice"
    again = challenge(server.check(answer, 12.0))
    assert again.stale
    later = request(("Authorization", credentials(asked.nonce, nc="00000002")))
    assert server.check(later, 12.0) == "alice"
    old = request(("Authorization", credentials(asked.nonce, nc="00000003")))
    assert challenge(server.check(old, 311.0)).stale


def test_as_a_proxy() -> None:
    server = authenticator()
    asked = challenge(server.check(request(method="MESSAGE"), 0.0, proxy=True), 407)
    given = credentials(asked.nonce, method="MESSAGE")
    wrong_field = request(("Authorization", given), method="MESSAGE")
    challenge(server.check(wrong_field, 0.0, proxy=True), 407)
    answer = request(("Proxy-Authorization", given), method="MESSAGE")
    assert server.check(answer, 0.0, proxy=True) == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"user": "bob"},
        {"user": "bob", "password": ""},
        {"password": "Secret"},
        {"method": "INVITE"},
        {"algorithm": "SHA-256"},
        {"nc": None},
        {"realm": "other.test"},
    ],
)
def test_what_proves_nothing_is_challenged_anew(changes: dict[str, str | None]) -> None:
    server = authenticator()
    asked = challenge(server.check(request(), 0.0))
    given = credentials(asked.nonce, **changes)  # type: ignore[arg-type]
    new = challenge(server.check(request(("Authorization", given)), 0.0))
    assert not new.stale
    assert new.nonce != asked.nonce


def test_somebody_elses_nonce_is_stale() -> None:
    made = Nonces(secret=b"x" * 16).make(0.0)
    answer = request(("Authorization", credentials(made)))
    assert challenge(authenticator().check(answer, 0.0)).stale


@pytest.mark.parametrize(
    "field",
    [
        "Digest",
        'Digest username="alice"',
        credentials("n", uri="sip:other.test"),
        credentials("n", uri="no uri"),
    ],
)
def test_bad_credentials(field: str) -> None:
    outcome = authenticator().check(request(("Authorization", field)), 0.0)
    assert isinstance(outcome, Rejection)
    assert outcome.status == 400
    assert outcome.headers == ()


def test_an_equal_uri_will_do() -> None:
    server = authenticator()
    asked = challenge(server.check(request(), 0.0))
    given = credentials(asked.nonce, uri="sip:SIP.test")
    assert server.check(request(("Authorization", given)), 0.0) == "alice"


def test_several_algorithms() -> None:
    server = authenticator(algorithms=("SHA-256", "MD5"), nonces=Nonces(secret=b"k" * 16))
    outcome = server.check(request(), 0.0)
    assert isinstance(outcome, Rejection)
    asked = [DigestChallenge.parse(value) for _, value in outcome.headers]
    assert [one and one.algorithm for one in asked] == ["SHA-256", "MD5"]
    assert asked[0] is not None
    given = credentials(asked[0].nonce, algorithm="SHA-256")
    assert server.check(request(("Authorization", given)), 0.0) == "alice"


@pytest.mark.parametrize("algorithms", [(), ("MD5", "SHA-1")])
def test_unknown_algorithms(algorithms: tuple[str, ...]) -> None:
    with pytest.raises(SipValueError):
        authenticator(algorithms=algorithms)


def test_own_credentials_are_consumed() -> None:
    server = authenticator()
    mine, other = credentials("n"), credentials("n", realm="other.test")
    both = request(("Proxy-Authorization", mine), ("Proxy-Authorization", other))
    server.consume(both)
    assert both.get_all("proxy-authorization") == [other]
    server.consume(both)
    assert both.get_all("proxy-authorization") == [other]
    alone = request(("Proxy-Authorization", mine))
    server.consume(alone)
    assert "proxy-authorization" not in alone


def test_who_is_known() -> None:
    assert authenticator().knows("alice")
    assert not authenticator().knows("bob")
