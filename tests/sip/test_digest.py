from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip.digest import (
    DIGEST_ALGORITHMS,
    DigestChallenge,
    DigestCredentials,
    digest_ha1,
    digest_response,
    parse_credentials,
    verify_digest,
)
from wsproto_sip.sip.errors import SipParseError, SipValueError

# The examples of RFC 2617 §3.5 and RFC 7616 §3.9.1: known answers of somebody else's computation.
OLD = {"nonce": "dcd98b7102dd2f0e8b11d0f600bfb0c093", "nc": "00000001", "cnonce": "0a4f113b"}
NEW = {
    "nonce": "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    "nc": "00000001",
    "cnonce": "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ",
}


def test_known_answers() -> None:
    ha1 = digest_ha1("Mufasa", "testrealm@host.com", "Circle Of Life")
    assert digest_response(ha1, "GET", "/dir/index.html", **OLD) == (
        "6629fae49393a05397450978507c4ef1"
    )
    realm, password = "http-auth@example.org", "Circle of Life"
    for algorithm, answer in (
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        ha1 = digest_ha1("Mufasa", realm, password, algorithm)
        assert digest_response(ha1, "GET", "/dir/index.html", algorithm=algorithm, **NEW) == answer


def test_without_qop() -> None:
    # RFC 2069's example as corrected by its erratum.
    ha1 = digest_ha1("Mufasa", "testrealm@host.com", "CircleOfLife")
    assert digest_response(ha1, "GET", "/dir/index.html", OLD["nonce"]) == (
        "1949323746fe6a43ef61f9606e7febea"
    )


def test_a_browser_was_let_in() -> None:
    # From a recording: JsSIP against Kamailio, user alice with the password of that set-up.
    text = (
        'Digest algorithm=MD5, username="alice", realm="sip.test", '
        'nonce="awPhGmsD3+62VUYGxgZlFXbPqDQMzkaq", uri="sip:sip.test", '
        'response="19019518ce060fe654bb08e36a319d91", qop=auth, cnonce="h1kdg9r8cdfa", nc=00000001'
    )
    credentials = DigestCredentials.parse(text)
    assert credentials is not None
    assert (credentials.username, credentials.realm, credentials.count) == ("alice", "sip.test", 1)
    assert DigestCredentials.parse(str(credentials)) == credentials


def made(algorithm: str = "SHA-256", qop: str | None = "auth") -> DigestCredentials:
    nc, cnonce = ("0000000A", "c") if qop else (None, None)
    response = digest_response(
        digest_ha1("a", "r", "pw", algorithm),
        "REGISTER",
        "sip:r",
        "n",
        algorithm=algorithm,
        nc=nc,
        cnonce=cnonce,
    )
    return DigestCredentials(
        "a", "r", "n", "sip:r", response, algorithm, qop, nc, cnonce, opaque="o"
    )


@pytest.mark.parametrize("algorithm", list(DIGEST_ALGORITHMS))
@pytest.mark.parametrize("qop", ["auth", None])
def test_verified(algorithm: str, qop: str | None) -> None:
    credentials = DigestCredentials.parse(str(made(algorithm, qop)))
    assert credentials == made(algorithm, qop)
    assert credentials is not None
    assert credentials.count == (10 if qop else None)
    ha1 = digest_ha1("a", "r", "pw", algorithm)
    assert verify_digest(credentials, ha1, "REGISTER")
    assert not verify_digest(credentials, ha1, "INVITE")
    assert not verify_digest(credentials, digest_ha1("a", "r", "pW", algorithm), "REGISTER")


def test_not_verified() -> None:
    plain = DigestCredentials("a", "r", "n", "u", "\u00e4")
    assert not verify_digest(plain, digest_ha1("a", "r", "pw"), "REGISTER")
    upper = made("MD5")
    again = DigestCredentials.parse(str(upper).replace(upper.response, upper.response.upper()))
    assert again is not None
    assert verify_digest(again, digest_ha1("a", "r", "pw"), "REGISTER")


@pytest.mark.parametrize(
    "challenge",
    [
        DigestChallenge("r", "n"),
        DigestChallenge('a "realm"', "n\\", "SHA-256", False, True, "o"),
        DigestChallenge("", "", "SHA-512-256", opaque=""),
    ],
)
def test_challenges(challenge: DigestChallenge) -> None:
    assert DigestChallenge.parse(str(challenge)) == challenge


def test_challenge_as_kamailio_writes_it() -> None:
    assert DigestChallenge.parse(
        ' digest realm="sip.test" ,nonce="abc=", qop="auth-int, AUTH" '
    ) == (DigestChallenge("sip.test", "abc="))


@pytest.mark.parametrize(
    "text",
    [
        'NoOneKnowsThisScheme opaque-data=here, response="x"',
        "Basic",
        'Digest realm="r", nonce="n", algorithm=MD5-sess',
        'Digest realm="r", nonce="n", qop="auth-int"',
    ],
)
def test_other_challenges(text: str) -> None:
    assert DigestChallenge.parse(text) is None


@pytest.mark.parametrize(
    "text", ["", "Digest", "Digest x", 'Digest realm="r"', 'Digest nonce="n"', 'Digest a=b, a="c"']
)
def test_bad_challenges(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        DigestChallenge.parse(text)
    assert caught.value.status == 400


FULL = 'Digest username="a", realm="r", nonce="n", uri="u", response="x"'


@pytest.mark.parametrize(
    "text", ["Bearer x", FULL + ", algorithm=MD4", FULL + ", qop=auth-int, nc=00000001"]
)
def test_other_credentials(text: str) -> None:
    assert DigestCredentials.parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        FULL.replace("username", "user"),
        FULL + ", qop=auth",
        FULL + ", qop=auth, nc=1, cnonce=x",
        FULL + ", qop=auth, nc=00000001",
        FULL + ',, x="y"',
        FULL + ', realm="other"',
        FULL + ', x="y',
        '"',
    ],
)
def test_bad_credentials(text: str) -> None:
    with pytest.raises(SipParseError) as caught:
        DigestCredentials.parse(text)
    assert caught.value.status == 400


def test_of_a_realm() -> None:
    fields = ["Basic x", FULL, FULL.replace('"r"', '"other"')]
    found = parse_credentials(fields, "other")
    assert found is not None
    assert found.realm == "other"
    assert parse_credentials(fields, "third") is None
    with pytest.raises(SipParseError):
        parse_credentials(["Digest"], "r")


def test_what_cannot_be_written() -> None:
    with pytest.raises(SipValueError, match="unknown digest algorithm"):
        digest_ha1("a", "r", "pw", "MD4")
    with pytest.raises(SipValueError, match="needs a client nonce"):
        digest_response("x", "GET", "u", "n", nc="00000001")
    with pytest.raises(SipValueError, match="not a token"):
        digest_response("x", "G T", "u", "n")
    with pytest.raises(SipValueError):
        DigestChallenge("r", "n\r\nEvil: 1")
    with pytest.raises(SipValueError):
        DigestChallenge("r", "n", "MD4")
    with pytest.raises(SipValueError):
        DigestCredentials("a\n", "r", "n", "u", "x")
    with pytest.raises(SipValueError):
        DigestCredentials("a", "r", "n", "u", "x", qop="auth-int")
    with pytest.raises(SipValueError):
        DigestCredentials("a", "r", "n", "u", "x", cnonce="\r")


@given(st.text(), st.text(), st.text(), st.booleans())
def test_writing_injects_nothing(realm: str, nonce: str, opaque: str, stale: bool) -> None:
    try:
        challenge = DigestChallenge(realm, nonce, stale=stale, opaque=opaque)
    except SipValueError:
        return
    assert DigestChallenge.parse(str(challenge)) == challenge


@given(st.text())
def test_any_text(text: str) -> None:
    for start in ("", "Digest ", FULL):
        for kind in (DigestChallenge, DigestCredentials):
            try:
                found = kind.parse(start + text)
            except SipParseError:
                continue
            assert found is None or kind.parse(str(found)) == found
