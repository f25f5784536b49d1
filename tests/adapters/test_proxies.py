"""Choosing a proxy, and the bytes of CONNECT."""

from __future__ import annotations

import sys
import urllib.request
from typing import Any

import h11
import pytest
from hypothesis import given, strategies as st

from wsproto_sip.adapters.exceptions import ProxyError
from wsproto_sip.adapters.proxies import Proxy, Tunnel, choose_proxy


class TestURI:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("http://p", Proxy("http", "p", 80)),
            ("https://P:1/", Proxy("https", "p", 1)),
            ("p:3128", Proxy("http", "p", 3128)),
            ("socks5://[::1]", Proxy("socks5", "::1", 1080)),
            ("socks4a://bücher.de", Proxy("socks4a", "xn--bcher-kva.de", 1080)),
            ("http://a%40b:c%3Ad@p", Proxy("http", "p", 80, "a@b", "c:d")),
            ("socks5h://a%3Ab@p", Proxy("socks5h", "p", 1080, "a:b", "")),
        ],
    )
    def test_uri_is_parsed(self, text: str, expected: Proxy) -> None:
        assert Proxy.parse(text) == expected
        assert expected.is_socks == expected.scheme.startswith("socks")
        assert expected.is_secure == (expected.scheme == "https")

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("http://p x", "must not contain spaces"),
            ("ftp://p", "must begin with one of http, https, socks4"),
            ("http://:1", "names no host"),
            ("http://p/x", "must end after the port"),
            ("http://p?x", "must end after the port"),
            ("http://p#x", "must end after the port"),
            ("http://a..b", "domain name"),
            ("http://a%3Ab:secret@p", "colon"),
            ("http://p:99999", "Port|port"),
        ],
    )
    def test_invalid_uri_is_refused(self, text: str, why: str) -> None:
        with pytest.raises(ValueError, match=why) as caught:
            Proxy.parse(text)
        assert "secret" not in str(caught.value)

    def test_password_is_not_printed(self) -> None:
        assert str(Proxy.parse("https://alice:secret@[::1]:1")) == "https://[::1]:1"


class TestChoice:
    @pytest.mark.parametrize("off", [None, False])
    def test_proxy_can_be_disabled(self, off: bool | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("all_proxy", "http://p")
        assert choose_proxy(off, secure=False, host="h", port=80) is None

    def test_given_proxy_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("no_proxy", "*")
        named = choose_proxy("socks5://p", secure=False, host="h", port=80)
        assert named == Proxy("socks5", "p", 1080)

    @pytest.mark.parametrize(
        ("secure", "names"),
        [
            (True, ["wss", "socks", "https", "all"]),
            (False, ["ws", "socks", "https", "http", "all"]),
        ],
    )
    def test_variables_are_used_in_order(
        self, secure: bool, names: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """RFC 6455 §4.1, each variable takes precedence over the later ones of the list."""
        assert choose_proxy(True, secure=secure, host="h", port=1) is None
        monkeypatch.setenv("http_proxy" if secure else "wss_proxy", "http://other")
        assert choose_proxy(True, secure=secure, host="h", port=1) is None
        for name in reversed(names):
            monkeypatch.setenv(f"{name}_proxy", f"http://{name}")
            found = choose_proxy(True, secure=secure, host="h", port=1)
            assert found is not None
            assert found.host == name
            assert found.scheme == ("socks5h" if name == "socks" else "http")

    @pytest.mark.parametrize(
        ("text", "scheme"),
        [("p:1", "socks5h"), ("http://p:1", "socks5h"), ("socks4://p:1", "socks4")],
    )
    def test_system_setting_means_socks5h(
        self, text: str, scheme: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("socks_proxy", text)
        assert choose_proxy(True, secure=True, host="h", port=1) == Proxy(scheme, "p", 1)

    @pytest.mark.parametrize(
        ("listed", "host", "bypassed"),
        [
            ("*", "h", True),
            ("h", "h", True),
            (".example.com", "a.example.com", True),
            ("example.com", "example.org", False),
            ("h:80", "h", True),
            ("h:81", "h", False),
            ("::1", "::1", True),
            ("::1", "::2", False),
            ("x, 10.0.0.0/8", "10.1.2.3", True),
            ("10.0.0.0/8", "11.1.2.3", False),
            ("10.0.0.0/8", "10.example", False),
            ("10.0.0.1/8", "10.1.2.3", True),
            ("fe80::/10", "fe80::1%eth0", True),
            ("[2001:db8::]/32", "2001:db9::1", False),
            ("10.0.0.0/99", "10.0.0.1", False),
            ("a *.example.com", "a.b.Example.com.", True),
            ("*.example.com", "example.com", False),
            ("*.example.com", "badexample.com", False),
            ("*.example.com:80", "a.example.com", True),
            ("*.example.com:81", "a.example.com", False),
            ("10.0.0.0/8 example.com", "example.com", True),
            ("10.0.0.0/8 .example.com", "example.com", True),
            ("10.0.0.0/8 example.com", "badexample.com", False),
            ("example.com.", "a.example.com", True),
            ("[fd00::]/8", "fd00::1", True),
            ("*. .", "example.com", False),
        ],
    )
    def test_no_proxy_exempts_hosts(
        self, listed: str, host: str, bypassed: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTTP_PROXY", "http://p")
        monkeypatch.setenv("NO_PROXY", listed)
        assert (choose_proxy(True, secure=False, host=host, port=80) is None) == bypassed

    def test_invalid_variable_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(urllib.request, "getproxies", lambda: {"https": "gopher://p"})
        with pytest.raises(ValueError, match=r"https_proxy of the environment: .* must begin"):
            choose_proxy(True, secure=True, host="h", port=443)


class TestSocks:
    @pytest.mark.parametrize(
        ("scheme", "name", "there"),
        [
            ("socks4", "SOCKS4", False),
            ("socks4a", "SOCKS4", True),
            ("socks5", "SOCKS5", False),
            ("socks5h", "SOCKS5", True),
        ],
    )
    def test_options_match_python_socks(self, scheme: str, name: str, there: bool) -> None:
        library = pytest.importorskip("python_socks")
        options = Proxy.parse(f"{scheme}://a:b@p:1").socks_options()
        assert options == {
            "proxy_type": library.ProxyType[name],
            "host": "p",
            "port": 1,
            "username": "a",
            "password": "b",
            "rdns": there,
        }
        assert Proxy.parse(f"{scheme}://p").socks_options()["password"] is None

    def test_missing_extra_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "python_socks", None)
        with pytest.raises(ModuleNotFoundError, match=r"socks5://p:1080 needs .*\[socks\]"):
            Proxy.parse("socks5://p").socks_options()

    @pytest.mark.parametrize(
        ("code", "replied", "transient"),
        [
            (1, True, True),
            (5, True, True),
            (2, True, False),
            (None, True, False),
            (None, False, True),
        ],
    )
    def test_socks_errors_are_converted(
        self, code: int | None, replied: bool, transient: bool
    ) -> None:
        class Reply(Exception):
            error_code = code

        error: Any = Exception("why")
        error.error_code = code
        error.__cause__ = Reply() if replied else OSError()
        made = Proxy.parse("socks5://p").socks_error(error)
        assert str(made) == "the proxy socks5://p:1080 refused: why"
        assert made.transient == transient
        assert made.status_code is None


def tunnel(uri: str = "http://p", host: str = "example.com", port: int = 443) -> Tunnel:
    return Tunnel(Proxy.parse(uri), host, port)


class TestTunnel:
    def test_connect_request_is_sent(self) -> None:
        assert tunnel().request == (
            b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n"
        )
        request = tunnel("http://Aladdin:open%20sesame@p", "::1", 80).request
        assert request == (
            b"CONNECT [::1]:80 HTTP/1.1\r\nHost: [::1]:80\r\n"
            b"Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"
        )

    def test_h11_parses_the_request(self) -> None:
        """Another parser reads the same request."""
        server = h11.Connection(h11.SERVER)
        server.receive_data(tunnel("http://ü:ö@p").request)
        request = server.next_event()
        assert isinstance(request, h11.Request)
        assert (request.method, request.target) == (b"CONNECT", b"example.com:443")
        assert (b"proxy-authorization", b"Basic w7w6w7Y=") in request.headers

    @given(st.data())
    def test_any_chunking_gives_the_same_result(self, data: st.DataObject) -> None:
        answer = b"HTTP/1.1 103 Wait\r\nX: y\r\n\r\nHTTP/1.0 200 Connected\r\nVia: x\r\n\r\n"
        asking = tunnel()
        cuts = sorted(data.draw(st.sets(st.integers(1, len(answer) - 1), max_size=5)))
        pieces = [answer[a:b] for a, b in zip([0, *cuts], [*cuts, len(answer)], strict=True)]
        assert [asking.receive(piece) for piece in pieces] == [False] * len(cuts) + [True]

    @pytest.mark.parametrize(
        ("answer", "why", "transient"),
        [
            (
                b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic realm=x\r\n\r\n",
                "the proxy http://p:80 refused: 407 Who (Basic realm=x)",
                False,
            ),
            (b"HTTP/1.1 403\r\n\r\n", "the proxy http://p:80 refused: 403", False),
            (b"HTTP/1.1 503 Later\r\n\r\n", "the proxy http://p:80 refused: 503 Later", True),
            (b"HTTP/1.1 304 \xfc\r\n\r\n", "the proxy http://p:80 refused: 304 \ufffd", False),
            (b"\x15\x03\x01", "the proxy http://p:80 did not send HTTP: ", True),
            (
                b"HTTP/1.1 200 OK\r\n\r\nx",
                "the proxy http://p:80 sent more than its answer",
                True,
            ),
        ],
    )
    def test_invalid_uri_is_refused(self, answer: bytes, why: str, transient: bool) -> None:
        with pytest.raises(ProxyError) as caught:
            tunnel().receive(answer)
        assert str(caught.value).startswith(why)
        assert caught.value.transient == transient
        assert (caught.value.status_code is not None) == ("refused" in why)
        assert isinstance(caught.value, OSError)

    @pytest.mark.parametrize("start", [b"", b"HTTP/1.1 2", b"HTTP/1.1 103 Wait\r\n\r\n"])
    def test_end_of_input_is_an_error(self, start: bytes) -> None:
        asking = tunnel()
        assert not asking.receive(start)
        with pytest.raises(ProxyError, match="http://p:80 closed the connection"):
            asking.receive(None)

    def test_answer_is_bounded(self) -> None:
        """Neither a long head nor many interim responses are accepted without bound."""
        interim = b"HTTP/1.1 103 Wait\r\n\r\n" * 50
        for start, piece in ((b"HTTP/1.1 200 ", b"x" * 1000), (b"", interim)):
            asking = tunnel()
            asking.receive(start)
            for _ in range(60_000 // len(piece)):
                assert not asking.receive(piece)
            with pytest.raises(ProxyError, match="did not send HTTP"):
                asking.receive(piece * (10_000 // len(piece)))
