"""Opening a client's connection: requests, redirects, and what another origin must not get."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from wsproto_sip.adapters._opening import TOO_LATE, Opening, too_late
from wsproto_sip.adapters.exceptions import HandshakeRejected
from wsproto_sip.auth.digest import (
    Algorithm,
    Challenge,
    Credentials,
    digest_ha1,
    verify_response,
)
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.utilities import LocalProtocolError

SECRETS = {"Cookie": "c", "authorization": "a", "X-Api-Key": "k", "Origin": "http://o"}


def opening(uri: str, **options: Any) -> Opening:
    return Opening(uri, config=SessionConfig(), **options)


def redirect(location: bytes, status: int = 302) -> HandshakeRejected:
    return HandshakeRejected(status, [(b"Location", location)])


class TestRequest:
    def test_credentials_of_the_uri_are_sent(self) -> None:
        request = opening(
            "ws://Aladdin:open%20sesame@h/", headers={"X": "y"}, subprotocols=["a"]
        ).request()
        # The example of RFC 7617 §2.
        basic = (b"Authorization", b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
        assert request.extra_headers == [(b"X", b"y"), basic]
        assert request.subprotocols == ["a"]

    def test_authorization_header_replaces_credentials(self) -> None:
        request = opening("ws://a:b@h/", headers={"AUTHORIZATION": "Bearer x"}).request()
        assert request.extra_headers == [(b"AUTHORIZATION", b"Bearer x")]

    @pytest.mark.parametrize(
        ("uri", "options", "error", "why"),
        [
            (b"ws://h", {}, TypeError, "uri must be a str, not bytes"),
            ("http://h", {}, ValueError, "ws://"),
            (
                "ws://h",
                {"server_hostname": "x"},
                ValueError,
                "server_hostname is only allowed with wss://",
            ),
            ("ws://h", {"credentials": ("", "x")}, ValueError, "not a user name: ''"),
            ("ws://h", {"headers": "x"}, TypeError, "headers must be"),
            ("ws://h", {"headers": {"x": "\n"}}, LocalProtocolError, "cannot be sent"),
            ("ws://h", {"subprotocols": "sip"}, TypeError, "sequence of names"),
        ],
    )
    def test_wrong_arguments_are_named(
        self, uri: Any, options: dict[str, Any], error: type[Exception], why: str
    ) -> None:
        with pytest.raises(error, match=why):
            opening(uri, **options)


def challenge(*values: str, status: int = 401) -> HandshakeRejected:
    fields = [(b"WWW-Authenticate", value.encode()) for value in values]
    return HandshakeRejected(status, [(b"Server", b"x"), *fields])


def digest(nonce: str = "n", algorithm: str = "SHA-256", **options: Any) -> str:
    return str(Challenge("r", nonce, Algorithm(algorithm), **options))


ALICE = ("alice", "secret")
BASIC = (b"Authorization", b"Basic YWxpY2U6c2VjcmV0")


def test_timeout_of_the_system_is_kept() -> None:
    own = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
    assert too_late(own) is own
    assert str(too_late(TimeoutError())) == TOO_LATE


class TestChallenge:
    def test_nothing_is_sent_unasked(self) -> None:
        assert opening("ws://h/", credentials=ALICE).request().extra_headers == []

    def test_basic(self) -> None:
        way = opening("ws://h/", credentials=ALICE)
        way.follow(challenge('Basic realm="r", charset="UTF-8"'))
        assert way.request().extra_headers == [BASIC]

    def test_digest_goes_before_basic_and_the_first_one_counts(self) -> None:
        way = opening("ws://h/a?b", credentials=ALICE)
        unknown = 'Digest realm="r", nonce="n", algorithm=SHA-1'
        way.follow(challenge('Basic realm="r"', unknown, digest(), digest(algorithm="MD5")))
        ((name, value),) = way.request().extra_headers
        found = Credentials.parse(value.decode())
        assert name == b"Authorization"
        assert found is not None
        assert (found.username, found.uri, found.nc) == ("alice", "/a?b", "00000001")
        ha1 = digest_ha1("alice", "r", "secret", Algorithm.SHA_256)
        assert verify_response(found, ha1, "GET")

    @pytest.mark.parametrize(
        "rejection",
        [
            challenge(digest(), status=403),
            challenge(),
            challenge("Bearer"),
            challenge("Digest x"),
        ],
    )
    def test_what_asks_for_nothing_that_there_is_stays_a_rejection(
        self, rejection: HandshakeRejected
    ) -> None:
        with pytest.raises(HandshakeRejected):
            opening("ws://h/", credentials=ALICE).follow(rejection)

    def test_without_credentials_or_with_another_authorization_it_is_not_answered(self) -> None:
        options: dict[str, Any]
        for options in ({}, {"credentials": ALICE, "headers": {"authorization": "Bearer x"}}):
            with pytest.raises(HandshakeRejected):
                opening("ws://h/", **options).follow(challenge(digest()))

    def test_wrong_credentials_are_not_tried_again(self) -> None:
        way = opening("ws://h/", credentials=ALICE)
        way.follow(challenge(digest()))
        with pytest.raises(HandshakeRejected):
            way.follow(challenge(digest("m")))

    def test_stale_nonce_is_answered_once_more(self) -> None:
        way = opening("ws://h/", credentials=ALICE)
        way.follow(challenge(digest()))
        way.follow(challenge(digest("m", stale=True)))
        assert b'nonce="m"' in way.request().extra_headers[0][1]
        with pytest.raises(HandshakeRejected):
            way.follow(challenge(digest("l", stale=True)))

    def test_name_with_a_colon_is_not_for_basic(self) -> None:
        with pytest.raises(HandshakeRejected):
            opening("ws://h/", credentials=("a:b", "c")).follow(challenge("Basic realm=r"))

    def test_another_origin_gets_none(self) -> None:
        way = opening("ws://h/", credentials=ALICE)
        way.follow(challenge("Basic realm=r"))
        way.follow(redirect(b"ws://i/"))
        assert way.request().extra_headers == []
        with pytest.raises(HandshakeRejected):
            way.follow(challenge("Basic realm=r"))

    def test_same_origin_asks_anew_after_a_redirect(self) -> None:
        way = opening("ws://h/", credentials=ALICE)
        way.follow(challenge(digest()))
        way.follow(redirect(b"/there"))
        assert way.request().extra_headers == []
        way.follow(challenge(digest()))
        assert b'uri="/there"' in way.request().extra_headers[0][1]


class TestRedirect:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    @pytest.mark.parametrize(
        ("location", "target"),
        [
            (b"there", "wss://h:1/a/there"),
            (b"/there?x", "wss://h:1/there?x"),
            (b"https://h:1/x", "wss://h:1/x"),
            (b"wss://h:1/x", "wss://h:1/x"),
        ],
    )
    def test_same_origin_gets_everything(self, status: int, location: bytes, target: str) -> None:
        place = {"host": "10.0.0.1", "port": 5, "server_hostname": "n"}
        way = opening("wss://a:b@h:1/a/b?c", headers=SECRETS, subprotocols=["x" * 50], **place)
        before = way.request()
        way.follow(redirect(location, status))
        assert str(way.uri) == target
        assert way.uri.credentials == b"a:b"
        assert way.request().extra_headers == before.extra_headers
        assert way.request().subprotocols == before.subprotocols
        assert (way.host, way.port, way.server_hostname) == ("10.0.0.1", 5, "n")

    @pytest.mark.parametrize("location", [b"//h:2/", b"wss://i:1/", b"wss://h/"])
    def test_other_origin_gets_no_secrets(self, location: bytes) -> None:
        way = opening("wss://a:b@h:1/", headers=SECRETS)
        way.follow(redirect(location))
        assert way.uri.credentials is None
        assert way.request().extra_headers == [(b"Origin", b"http://o")]
        # Nor the first one when redirected back.
        way.follow(redirect(b"wss://h:1/"))
        assert way.request().extra_headers == [(b"Origin", b"http://o")]

    def test_other_origin_gets_no_sub_protocol_that_may_be_a_token(self) -> None:
        names = ["sip", "v12.stomp", "graphql-transport-ws", "v4.channel.k8s.io"]
        tokens = [
            "base64url.bearer.authorization.k8s.io.c2VjcmV0",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dBjftJeZ4CVP",
            "1b4e28ba-2fa1-11d2-883f-0016d3cca427",
            "5f4dcc3b5aa765d61d8327deb882cf99",
            "s3cret!",
        ]
        way = opening("ws://h/", subprotocols=[*names, *tokens])
        way.follow(redirect(b"ws://i/"))
        assert way.request().subprotocols == names

    def test_overrides_apply_to_the_first_origin_only(self) -> None:
        way = opening("wss://h/", host="10.0.0.1", port=5, server_hostname="n")
        assert (way.host, way.port, way.server_hostname) == ("10.0.0.1", 5, "n")
        way.follow(redirect(b"wss://i./"))
        assert (way.host, way.port, way.server_hostname) == ("i.", 443, "i")

    def test_credentials_of_the_redirect_are_sent(self) -> None:
        way = opening("ws://a:b@h/")
        way.follow(redirect(b"ws://c:d@h/"))
        assert way.uri.credentials == b"c:d"

    @pytest.mark.parametrize(
        ("status", "headers"),
        [
            (302, []),
            (302, [(b"location", b"")]),
            (302, [(b"location", b"/\xff")]),
            (302, [(b"location", b"ftp://x/")]),
            (302, [(b"location", b"ws://h/")]),
            (302, [(b"location", b"http://h/")]),
            (302, [(b"location", b"/#x")]),
            (302, [(b"location", b"//[x/")]),
            (200, [(b"location", b"/x")]),
            (304, [(b"location", b"/x")]),
        ],
    )
    def test_unusable_redirect_is_raised(
        self, status: int, headers: list[tuple[bytes, bytes]]
    ) -> None:
        rejection = HandshakeRejected(status, headers)
        with pytest.raises(HandshakeRejected) as caught:
            opening("wss://h/").follow(rejection)
        assert caught.value is rejection

    def test_redirects_above_the_maximum_are_raised(self) -> None:
        way = opening("ws://h/", max_redirects=1)
        way.follow(redirect(b"/a"))
        with pytest.raises(HandshakeRejected):
            way.follow(redirect(b"/b"))
