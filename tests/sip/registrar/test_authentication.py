from __future__ import annotations

from itertools import count

import pytest

from wsproto_sip.auth import (
    LATER,
    Account,
    AccountCache,
    AccountQuestion,
    Algorithm,
    Challenge,
    Identity,
    Nonces,
    Question,
    TimedAccounts,
    Unavailable,
    answer_challenge,
    digest_ha1,
    timed_credentials,
)
from wsproto_sip.sip.message.message import SipRequest
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator
from wsproto_sip.sip.registrar.bearer import BearerQuestion, BearerVerifier
from wsproto_sip.sip.registrar.domains import Domains
from wsproto_sip.sip.rules.routing import Rejection

USERS = {"alice": "secret"}


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


def challenge(rejection: object, status: int = 401) -> Challenge:
    assert isinstance(rejection, Rejection)
    assert rejection.status == status
    name, value = rejection.headers[0]
    assert name == ("WWW-Authenticate" if status == 401 else "Proxy-Authenticate")
    found = Challenge.parse(value)
    assert found is not None
    return found


def credentials(
    nonce: str,
    *,
    user: str = "alice",
    password: str = "secret",
    uri: str = "sip:sip.test",
    method: str = "REGISTER",
    algorithm: Algorithm = Algorithm.MD5,
    count: int | None = 1,
    realm: str = "sip.test",
) -> str:
    challenge = Challenge(realm, nonce, algorithm, qop=count is not None)
    return str(answer_challenge(challenge, user, password, method, uri, count=count or 1))


def test_a_challenge_and_its_answer() -> None:
    server = authenticator()
    asked = challenge(server.check(request(), 10.0))
    assert asked.realm == "sip.test"
    assert (asked.algorithm, asked.qop, asked.stale) == (Algorithm.MD5, True, False)
    answer = request(("Authorization", credentials(asked.nonce)))
    assert server.check(answer, 11.0) == "alice"
    again = challenge(server.check(answer, 12.0))
    assert again.stale
    later = request(("Authorization", credentials(asked.nonce, count=2)))
    assert server.check(later, 12.0) == "alice"
    old = request(("Authorization", credentials(asked.nonce, count=3)))
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
        {"algorithm": Algorithm.SHA_512_256},
        {"count": None},
        {"realm": "other.test"},
    ],
)
def test_invalid_credentials_are_challenged_again(changes: dict[str, str | None]) -> None:
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
    server = authenticator(
        offer_all=True,
        algorithms=(Algorithm.SHA_256, Algorithm.MD5),
        nonces=Nonces(secret=b"k" * 16),
    )
    outcome = server.check(request(), 0.0)
    assert isinstance(outcome, Rejection)
    asked = [Challenge.parse(value) for _, value in outcome.headers]
    assert [one and one.algorithm for one in asked] == [Algorithm.SHA_256, Algorithm.MD5]
    assert asked[0] is not None
    given = credentials(asked[0].nonce, algorithm=Algorithm.SHA_256)
    assert server.check(request(("Authorization", given)), 0.0) == "alice"


def test_users_may_be_exchanged() -> None:
    server = authenticator()
    asked = challenge(server.check(request(), 0.0))
    server.users = {"bob": "builder"}
    assert (server.knows("alice"), server.knows("bob")) == (False, True)
    assert server.users == {"bob": "builder"}
    given = credentials(asked.nonce, user="bob", password="builder")
    assert server.check(request(("Authorization", given)), 0.0) == "bob"


def test_the_secret_of_credentials_that_expire_may_be_exchanged() -> None:
    old, new = [TimedAccounts(byte * 16, lambda: 0.0) for byte in (b"o", b"n")]
    server = authenticator(timed=old)
    name, password = timed_credentials(b"n" * 16, "alice", 100)
    statuses: list[object] = []
    for timed in (old, new):
        server.timed = timed
        assert server.timed is timed
        asked = challenge(server.check(request(), 0.0))
        given = credentials(asked.nonce, user=name, password=password)
        outcome = server.check(request(("Authorization", given)), 0.0)
        statuses.append(outcome if isinstance(outcome, str) else "refused")
    assert statuses == ["refused", "alice"]


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


def test_those_for_an_own_challenge_alone_can_be_consumed() -> None:
    server = authenticator()
    nonce = challenge(server.check(request(), 0.0)).nonce
    others = [credentials("n"), "Basic x", 'Digest realm="sip.test"', "Bearer x"]
    answers = [credentials(nonce), credentials(nonce, realm="x"), f"Digest {nonce}"]
    both = request(*[("Authorization", text) for text in (*answers, *others)])
    server.consume(both, "Authorization", only_answers=True)
    assert both.get_all("authorization") == others


def test_malformed_credentials_are_consumed() -> None:
    # Another reader may find in them what this one does not.
    both = request(*[("Authorization", text) for text in ('Digest realm="sip.test"', "Basic x")])
    authenticator().consume(both, "Authorization")
    assert both.get_all("authorization") == ["Basic x"]


def test_credentials_that_come_too_early_after_failed_ones() -> None:
    server = authenticator()
    asked = challenge(server.check(request(), 0.0))
    wrong = request(("Authorization", credentials(asked.nonce, password="guess")))
    for _ in range(6):
        assert not challenge(server.check(wrong, 0.0, address="192.0.2.1", connection=1)).stale
    right = request(("Authorization", credentials(asked.nonce)))
    refused = server.check(right, 0.0, address="192.0.2.1", connection=1)
    assert isinstance(refused, Rejection)
    assert (refused.status, refused.headers) == (503, (("Retry-After", "1"),))
    # A client that only asks for a challenge does not wait.
    challenge(server.check(request(), 0.0, address="192.0.2.1", connection=1))
    assert server.check(right, 0.0, address="192.0.2.1", proven={"alice"}) == "alice"


def test_one_challenge_is_sent_unless_all_are_asked_for() -> None:
    # JsSIP reads the last challenge of a response and SIP.js the first; both know MD5 alone.
    outcome = authenticator().check(request(), 0.0)
    assert isinstance(outcome, Rejection)
    [(_, value)] = outcome.headers
    asked = Challenge.parse(value)
    assert asked is not None
    assert asked.algorithm is Algorithm.MD5


def test_md5_and_sha_256_are_offered_md5_first_on_request() -> None:
    # RFC 8760 §2.4.
    outcome = authenticator(offer_all=True).check(request(), 0.0)
    assert isinstance(outcome, Rejection)
    offered = [Challenge.parse(value) for _, value in outcome.headers]
    assert [one and one.algorithm for one in offered] == [Algorithm.MD5, Algorithm.SHA_256]


@pytest.mark.parametrize("algorithm", [Algorithm.MD5, Algorithm.SHA_256])
def test_users_with_hashes_of_one_algorithm_are_asked_with_it(algorithm: Algorithm) -> None:
    ha1 = digest_ha1("alice", "sip.test", "secret", algorithm)
    server = DigestAuthenticator(
        "sip.test", {"alice": Account(Identity("alice"), ha1={algorithm: ha1})}
    )
    outcome = server.check(request(), 0.0)
    asked = challenge(outcome)
    assert asked.algorithm is algorithm
    assert isinstance(outcome, Rejection)
    assert len(outcome.headers) == 1
    given = credentials(asked.nonce, algorithm=algorithm)
    assert server.check(request(("Authorization", given)), 0.0) == "alice"


@pytest.mark.parametrize("name", ["alice", "alice@sip.test", "alice@SIP.test", "alice@other.test"])
def test_a_name_with_a_domain_of_ours_is_the_user(name: str) -> None:
    domains = Domains(("sip.test", "other.test"))
    server = authenticator(domains=domains)
    asked = challenge(server.check(request(), 0.0))
    given = credentials(asked.nonce, user=name)
    assert server.check(request(("Authorization", given)), 0.0) == "alice"


@pytest.mark.parametrize("name", ["alice@elsewhere.test", "@sip.test", "alice@", "alice@a b"])
def test_a_name_with_another_domain_is_another_user(name: str) -> None:
    server = authenticator(domains=Domains(("sip.test",)))
    asked = challenge(server.check(request(), 0.0))
    given = credentials(asked.nonce, user=name)
    assert not challenge(server.check(request(("Authorization", given)), 0.0)).stale


def test_a_hash_of_a_name_with_its_domain() -> None:
    # What Kamailio's subscriber table has in ha1b.
    ha1 = digest_ha1("alice@sip.test", "sip.test", "secret")
    users = {"alice@sip.test": Account(Identity("alice@sip.test"), ha1={Algorithm.MD5: ha1})}
    server = DigestAuthenticator("sip.test", users, domains=Domains(("sip.test",)))
    asked = challenge(server.check(request(), 0.0))
    given = credentials(asked.nonce, user="alice@sip.test")
    assert server.check(request(("Authorization", given)), 0.0) == "alice"
    assert server.knows("alice")
    assert not server.knows("bob")


def test_a_user_has_no_second_name_for_guesses() -> None:
    """Each name has its own count of failures."""
    users = {"alice@sip.test": "secret"}
    server = DigestAuthenticator("sip.test", users, domains=Domains(("sip.test",)))
    for name, status in (("alice@sip.test@sip.test", 401), ("alice@sip.test", None)):
        asked = challenge(server.check(request(), 0.0))
        given = credentials(asked.nonce, user=name, password="secret")
        outcome = server.check(request(("Authorization", given)), 0.0)
        assert (outcome.status if isinstance(outcome, Rejection) else None) == status


def test_credentials_that_expire() -> None:
    secret = b"a secret of sixteen bytes"
    domains = Domains(("sip.test",))
    server = authenticator(timed=TimedAccounts(secret, lambda: 1000.0), domains=domains)
    assert server.knows("carol")
    for user in ("carol", "carol@sip.test"):
        asked = challenge(server.check(request(), 0.0))
        name, password = timed_credentials(secret, user, 1001)
        given = credentials(asked.nonce, user=name, password=password)
        assert server.check(request(("Authorization", given)), 0.0) == "carol"
    asked = challenge(server.check(request(), 0.0))
    name, password = timed_credentials(secret, "carol", 1000)
    given = credentials(asked.nonce, user=name, password=password)
    challenge(server.check(request(("Authorization", given)), 0.0))


def test_who_is_known() -> None:
    assert authenticator().knows("alice")
    assert not authenticator().knows("bob")


# -- users from elsewhere --------------------------------------------------------------------------


def test_an_account_from_elsewhere_is_asked_for() -> None:
    users = AccountCache(lambda: 0.0)
    server = DigestAuthenticator("sip.test", users, domains=Domains(("sip.test",)))
    assert server.users is users
    asked = challenge(server.check(request(), 10.0))
    answer = request(("Authorization", credentials(asked.nonce, user="alice@sip.test")))
    pending = server.check(answer, 10.0)
    assert isinstance(pending, Question)
    assert pending.question == AccountQuestion("alice@sip.test", "sip.test", "alice")
    again = challenge(pending.conclude(None))
    assert again.nonce != asked.nonce
    refused = pending.conclude(Unavailable("no database", 7))
    assert isinstance(refused, Rejection)
    assert (refused.status, refused.headers) == (503, (("Retry-After", "7"),))
    assert pending.conclude(Account(Identity("alice@sip.test"), "secret")) == "alice"
    # Whether there is such a user is not known here.
    assert server.knows("nobody")


TOKENS = {"abc": Identity("alice@sip.test"), "def": Identity("bob")}


def with_tokens(users: dict[str, str], **options: object) -> DigestAuthenticator:
    bearer = BearerVerifier("sip.test", lambda question: TOKENS.get(question.token))
    return DigestAuthenticator(
        "sip.test",
        users,
        bearer=bearer,
        domains=Domains(("sip.test",)),
        **options,  # type: ignore[arg-type]
    )


def asked_with(outcome: object) -> list[str]:
    assert isinstance(outcome, Rejection)
    return [value.partition(" ")[0] + value[-6:] for _, value in outcome.headers]


def test_a_token_names_its_user() -> None:
    server = with_tokens({})
    for field, proxy in (("Authorization", False), ("Proxy-Authorization", True)):
        for token, user in (("abc", "alice"), ("def", "bob")):
            given = request((field, f"Bearer {token}"))
            assert server.check(given, 0.0, proxy=proxy, secure=True) == user
    assert server.knows("anybody")


def test_only_tokens_are_requested_without_passwords() -> None:
    server = with_tokens({})
    outcome = server.check(request(), 0.0, proxy=True)
    assert isinstance(outcome, Rejection)
    assert outcome.status == 407
    assert outcome.headers == (("Proxy-Authenticate", 'Bearer realm="sip.test"'),)
    wrong = server.check(request(("Authorization", "Bearer x")), 0.0, secure=True)
    assert asked_with(wrong) == ['Bearertoken"']


def test_passwords_are_requested_before_tokens() -> None:
    plain = request()
    wrong = request(("Authorization", "Bearer x"))
    one = with_tokens({"alice": "secret"})
    assert asked_with(one.check(plain, 0.0)) == ['Digest"auth"']
    assert asked_with(one.check(wrong, 0.0, secure=True)) == ['Bearertoken"']
    each = with_tokens({"alice": "secret"}, offer_all=True)
    assert [text[:6] for text in asked_with(each.check(plain, 0.0))] == ["Digest"] * 2 + ["Bearer"]
    nonce = challenge(one.check(plain, 0.0)).nonce
    assert one.check(request(("Authorization", credentials(nonce))), 0.0) == "alice"


def test_a_token_may_be_verified_later() -> None:
    bearer = BearerVerifier("sip.test", lambda question: LATER, require_tls=False)
    server = DigestAuthenticator("sip.test", {}, bearer=bearer)
    pending = server.check(request(("Authorization", "Bearer abc")), 0.0)
    assert isinstance(pending, Question)
    assert pending.question == BearerQuestion("abc")
    assert pending.conclude(Identity("alice")) == "alice"
    assert asked_with(pending.conclude(None)) == ['Bearertoken"']


def test_a_token_is_removed_before_forwarding() -> None:
    fields = [("Proxy-Authorization", text) for text in ("Bearer abc", 'Digest realm="x"')]
    forwarded = request(fields[0], ("Proxy-Authorization", "Basic abc"))
    with_tokens({}).consume(forwarded)
    assert forwarded.get_all("proxy-authorization") == ["Basic abc"]
    forwarded = request(fields[0])
    authenticator().consume(forwarded)
    assert forwarded.get_all("proxy-authorization") == ["Bearer abc"]
