from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from tests.msrp.recording import read_recording
from wsproto_sip.auth.digest import (
    Algorithm,
    Challenge,
    Credentials,
    DigestError,
    answer_challenge,
    digest_ha1,
    digest_response,
    server_proof,
    verify_response,
    verify_server,
)

MD5, SHA_256, SHA_512_256 = Algorithm.MD5, Algorithm.SHA_256, Algorithm.SHA_512_256
# The examples of RFC 2617 §3.5 and RFC 7616 §3.9.1: known answers of other implementations.
URI = "/dir/index.html"


def test_known_answers() -> None:
    ha1 = digest_ha1("Mufasa", "testrealm@host.com", "Circle Of Life")
    nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093"
    assert digest_response(ha1, "GET", URI, nonce, nc="00000001", cnonce="0a4f113b") == (
        "6629fae49393a05397450978507c4ef1"
    )
    nonce = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
    cnonce = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    realm, password = "http-auth@example.org", "Circle of Life"
    for algorithm, answer in (
        (MD5, "8ca523f5e9506fed4657c9700eebdbec"),
        (SHA_256, "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ):
        ha1 = digest_ha1("Mufasa", realm, password, algorithm)
        response = digest_response(
            ha1, "GET", URI, nonce, algorithm=algorithm, nc="00000001", cnonce=cnonce
        )
        assert response == answer


def test_without_qop() -> None:
    # RFC 2069's example as corrected by its erratum.
    ha1 = digest_ha1("Mufasa", "testrealm@host.com", "CircleOfLife")
    assert digest_response(ha1, "GET", URI, "dcd98b7102dd2f0e8b11d0f600bfb0c093") == (
        "1949323746fe6a43ef61f9606e7febea"
    )


def test_recorded_browser_credentials_are_valid() -> None:
    # From a recording: JsSIP with Kamailio, user alice with the password of that setup.
    text = (
        'Digest algorithm=MD5, username="alice", realm="sip.test", '
        'nonce="awPhGmsD3+62VUYGxgZlFXbPqDQMzkaq", uri="sip:sip.test", '
        'response="19019518ce060fe654bb08e36a319d91", qop=auth, cnonce="h1kdg9r8cdfa", nc=00000001'
    )
    credentials = Credentials.parse(text)
    assert credentials is not None
    assert (credentials.username, credentials.realm, credentials.count) == ("alice", "sip.test", 1)
    assert Credentials.parse(str(credentials)) == credentials


@given(
    st.sampled_from([(MD5, "md5"), (SHA_256, "sha256"), (SHA_512_256, "sha512_256")]),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.text("abc/?=%", max_size=8),
)
def test_response_agrees_with_an_independent_one(
    algorithm: tuple[Algorithm, str], username: str, password: str, uri: str
) -> None:
    ours, name = algorithm

    def h(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    ha1 = h(f"{username}:r:{password}")
    assert digest_ha1(username, "r", password, ours) == ha1
    expected = h(f"{ha1}:n:0000000a:c:auth:{h(f'GET:{uri}')}")
    response = digest_response(ha1, "GET", uri, "n", algorithm=ours, nc="0000000a", cnonce="c")
    assert response == expected


def test_bytes_outside_utf8_are_hashed_unchanged() -> None:
    text = b"caf\xe9".decode("utf-8", "surrogateescape")
    assert MD5.hash(text, "x") == hashlib.md5(b"caf\xe9:x").hexdigest()


def test_count_needs_a_client_nonce() -> None:
    with pytest.raises(ValueError, match="requires a client nonce"):
        digest_response("x", "GET", "u", "n", nc="00000001")


# -- challenges ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "challenge",
    [
        Challenge("r", "n"),
        Challenge('a "realm" é', "n\\", SHA_256, qop=False, stale=True, opaque="o"),
        Challenge("", "", SHA_512_256, opaque="", utf8=True),
    ],
)
def test_written_challenge_is_parsed_back(challenge: Challenge) -> None:
    assert Challenge.parse(str(challenge)) == challenge


def test_challenge_in_full() -> None:
    challenge = Challenge("calls", "abc", SHA_256, stale=True, opaque="o", utf8=True)
    assert str(challenge) == (
        'Digest realm="calls", nonce="abc", algorithm=SHA-256, qop="auth", charset=UTF-8, '
        'opaque="o", stale=true'
    )


@pytest.mark.parametrize(
    ("text", "challenge"),
    [
        # Kamailio's, with more white space; its MSRP relay gives no algorithm.
        (' digest realm="sip.test" ,nonce="abc=", qop="auth-int, AUTH" ', ("sip.test", "abc=")),
        ('Digest realm="sip.test", nonce="awPhTGsD=", qop="auth"', ("sip.test", "awPhTGsD=")),
        ("dIGEST  realm = r,nonce=n , qop=auth, algorithm=md5, stale=FALSE\t,a=b", ("r", "n")),
        ('Digest realm="r", , nonce="n",,qop="auth",', ("r", "n")),
    ],
)
def test_challenges_of_other_servers_are_parsed(text: str, challenge: tuple[str, str]) -> None:
    assert Challenge.parse(text) == Challenge(*challenge)


@pytest.mark.parametrize(
    "text",
    [
        'NoOneKnowsThisScheme opaque-data=here, response="x"',
        "Basic",
        "Negotiate",
        'Digest realm="r", nonce="n", algorithm=MD5-sess',
        'Digest realm="r", nonce="n", qop="auth-int"',
    ],
)
def test_unsupported_challenges_are_ignored(text: str) -> None:
    assert Challenge.parse(text) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing authentication scheme"),
        ('"', "missing authentication scheme"),
        ("Digest", "realm, nonce missing"),
        ("Digest x", "malformed parameter: 'x'"),
        ('Digest realm="r"', "nonce missing"),
        ('Digest nonce="n"', "realm missing"),
        ('Digest realm="r', "malformed parameter"),
        ('Digest realm="r\\"', "malformed parameter"),
        ('Digest realm="r" nonce="n"', "malformed parameter"),
        ('Digest realm="r"\x0b, nonce="n"', "malformed parameter"),
        ('Digest realm="r\n", nonce="n"', "realm contains control characters"),
        ('Digest realm="r\\\0", nonce="n"', "realm contains control characters"),
        ('Digest a=b, A="c"', "parameter a is repeated"),
        ("Digest " + ",".join(f"p{number}=1" for number in range(33)), "too many parameters"),
    ],
)
def test_malformed_challenges(text: str, message: str) -> None:
    with pytest.raises(DigestError, match=message):
        Challenge.parse(text)


# -- credentials -----------------------------------------------------------------------------------


def made(algorithm: Algorithm = SHA_256, *, qop: bool = True) -> Credentials:
    challenge = Challenge("r", "n", algorithm, qop=qop, opaque="o")
    return answer_challenge(challenge, "a", "pw", "REGISTER", "sip:r", count=10, entropy=bytes)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("qop", [True, False])
def test_answered_challenge_is_verified(algorithm: Algorithm, qop: bool) -> None:
    credentials = Credentials.parse(str(made(algorithm, qop=qop)))
    assert credentials == made(algorithm, qop=qop)
    assert credentials is not None
    assert (credentials.algorithm, credentials.opaque) == (algorithm, "o")
    assert credentials.count == (10 if qop else None)
    ha1 = digest_ha1("a", "r", "pw", algorithm)
    assert verify_response(credentials, ha1, "REGISTER")
    assert not verify_response(credentials, ha1, "INVITE")
    assert not verify_response(credentials, digest_ha1("a", "r", "pW", algorithm), "REGISTER")


def test_stored_hash_answers_a_challenge_for_it() -> None:
    challenge = Challenge("r", "n", SHA_256)
    ha1 = digest_ha1("a", "r", "pw", SHA_256)
    credentials = answer_challenge(challenge, "a", {SHA_256: ha1}, "AUTH", "u")
    assert verify_response(credentials, ha1, "AUTH")
    with pytest.raises(ValueError, match="the password's MD5 hash is unknown"):
        answer_challenge(Challenge("r", "n"), "a", {SHA_256: ha1}, "AUTH", "u")


def test_response_digits_are_case_insensitive() -> None:
    credentials, ha1 = made(MD5), digest_ha1("a", "r", "pw")
    upper = replace(credentials, response=credentials.response.upper())
    assert verify_response(upper, ha1, "REGISTER")
    for response in ("", "\u00e4", "\u0660", "0" * 32, "\udce4"):
        assert not verify_response(replace(credentials, response=response), ha1, "REGISTER")


FULL = 'Digest username="a", realm="r", nonce="n", uri="u", response="x"'


@pytest.mark.parametrize(
    "text",
    [
        "Bearer x",
        FULL + ", algorithm=MD4",
        FULL + ", algorithm=SHA-256-sess",
        FULL + ", qop=auth-int, nc=00000001, cnonce=c",
        FULL + ", userhash=true",
    ],
)
def test_unsupported_credentials_are_ignored(text: str) -> None:
    assert Credentials.parse(text) is None


def test_extended_notation_of_a_name() -> None:
    text = FULL.replace('username="a"', "username*=utf-8'en'J%C3%A4s%C3%B8n")
    credentials = Credentials.parse(text + ", userhash=false")
    assert credentials is not None
    assert credentials.username == "Jäsøn"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FULL.replace("username", "user"), "username missing"),
        (FULL.replace("uri", "url"), "uri missing"),
        (FULL + ", qop=auth", "nc, cnonce missing"),
        (FULL + ", qop=auth, nc=00000001", "cnonce missing"),
        (FULL + ", qop=auth, nc=1, cnonce=x", "nc must be eight hexadecimal digits: '1'"),
        (FULL + ", qop=auth, nc=0000000g, cnonce=x", "nc must be eight"),
        (FULL + f', qop=auth, nc="{chr(0x661) * 8}", cnonce=x', "nc must be eight"),
        (FULL + ', realm="other"', "realm is repeated"),
        (FULL + ', x="y', "malformed parameter"),
        (FULL.replace('"a"', '""'), "not a valid user name"),
        (FULL.replace('"a"', '"a\tb"'), "not a valid user name"),
        (FULL + ", username*=UTF-8''a", "username and username"),
        (FULL.replace('username="a"', "username*=latin-1''a"), "username. is not in UTF-8"),
        (FULL.replace('username="a"', "username*=UTF-8''a%4"), "malformed parameter|not in UTF-8"),
        (FULL.replace('username="a"', "username*=UTF-8''%FF"), "username. is not in UTF-8"),
        (FULL.replace('username="a"', "username*=UTF-8''%0D"), "not a valid user name"),
    ],
)
def test_malformed_credentials(text: str, message: str) -> None:
    with pytest.raises(DigestError, match=message):
        Credentials.parse(text)


@pytest.mark.parametrize("text", ["n\r\nEvil: 1", "\0", "\x7f", "\ud800"])
def test_unwritable_values_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        Challenge(text, "n")
    with pytest.raises(ValueError, match="cannot be"):
        Challenge("r", "n", opaque=text)
    with pytest.raises(ValueError, match="cannot be"):
        Credentials("a", "r", text, "u", "x")
    with pytest.raises(ValueError, match="cannot be"):
        Credentials("a", "r", "n", "u", "x", nc="00000001", cnonce=text)


def test_count_of_credentials_needs_a_client_nonce() -> None:
    with pytest.raises(ValueError, match="cnonce missing"):
        Credentials("a", "r", "n", "u", "x", nc="00000001")


def test_credentials_of_the_msrp_recording_are_parsed() -> None:
    seen = 0
    for entry in read_recording():
        for line in entry.data.split(b"\r\n"):
            name, _, value = line.partition(b": ")
            if name != b"Authorization" or b'nonce="x"' in value:
                continue
            credentials = Credentials.parse(value.decode())
            assert credentials is not None
            assert (credentials.realm, credentials.nc) == ("sip.test", "00000001")
            assert credentials.uri == f"msrp://{credentials.username}@127.0.0.1:28591;ws"
            assert Credentials.parse(str(credentials)) == credentials
            seen += 1
    assert seen == 3


# -- the server's proof ----------------------------------------------------------------------------


def test_server_proves_knowledge_of_the_password() -> None:
    credentials, ha1 = made(), digest_ha1("a", "r", "pw", SHA_256)
    info = server_proof(credentials, ha1)
    assert verify_server(credentials, "pw", info)
    assert verify_server(credentials, {SHA_256: ha1}, info)
    assert not verify_server(credentials, "other", info)
    assert not verify_server(credentials, "pw", info.replace("nc=0000000a", "nc=0000000b"))
    assert not verify_server(credentials, "pw", info.replace(credentials.cnonce or "", "x"))
    assert not verify_server(credentials, "pw", server_proof(made(qop=True), ha1[::-1]))
    alone = ", ".join(part for part in info.split(", ") if part.startswith("rspauth"))
    assert verify_server(credentials, "pw", alone)


@pytest.mark.parametrize(
    ("info", "message"),
    [("", "rspauth missing"), ("qop=auth", "rspauth missing"), ("rspauth", "malformed parameter")],
)
def test_malformed_proof_is_refused(info: str, message: str) -> None:
    with pytest.raises(DigestError, match=message):
        verify_server(made(), "pw", info)


# -- properties ------------------------------------------------------------------------------------


@given(st.text(), st.text(), st.text(), st.booleans())
def test_writing_injects_nothing(realm: str, nonce: str, opaque: str, stale: bool) -> None:
    try:
        challenge = Challenge(realm, nonce, stale=stale, opaque=opaque)
    except ValueError:
        return
    assert Challenge.parse(str(challenge)) == challenge


@given(st.text(), st.text(), st.text())
def test_written_credentials_are_parsed_back(username: str, uri: str, cnonce: str) -> None:
    try:
        credentials = Credentials(username, "r", "n", uri, "x", MD5, "0000000a", cnonce)
    except ValueError:
        return
    assert Credentials.parse(str(credentials)) == credentials


@given(st.text() | st.text('a=", \\\t\x0b', max_size=30))
def test_any_text_is_parsed_ignored_or_refused(text: str) -> None:
    for start in ("", "Digest ", FULL):
        for kind in (Challenge, Credentials):
            try:
                found = kind.parse(start + text)
            except DigestError:
                continue
            assert found is None or kind.parse(str(found)) == found


def test_parsing_takes_linear_time() -> None:
    # Each would take seconds if it were quadratic.
    size = 200_000
    for text in (
        '"' * size,
        "a" * size,
        " " * size,
        'a="' + "\\" * size,
        "a= " * size,
        ", " * size,
    ):
        with pytest.raises(DigestError):
            Challenge.parse(f"Digest a={text}!")
        with pytest.raises(DigestError):
            Challenge.parse(f"Digest {text}=")
