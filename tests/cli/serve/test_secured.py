"""Client certificates, ciphers, and commands that need a token, with a server as a process."""

from __future__ import annotations

import http.client
import signal
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trustme
from websockets.exceptions import InvalidMessage

from tests.cli._service import Dialed, Service, launched
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.setup import connect_targets, http_token, server_tls

if TYPE_CHECKING:
    from pathlib import Path

TOKEN = "0123456789abcdef"  # of a test


def test_clients_need_a_certificate_of_the_ca(tmp_path: Path) -> None:
    ours, theirs = trustme.CA(), trustme.CA()
    ours.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "server.pem")
    )
    theirs.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    with launched(
        *("--tls-cert", str(tmp_path / "server.pem")),
        *("--tls-client-ca", str(tmp_path / "clients.pem")),
        *("--tls-ciphers", "ECDHE+AESGCM"),
    ) as service:
        contexts = [ssl.create_default_context() for _ in range(3)]
        for context in contexts:
            ours.configure_trust(context)
            # With TLS 1.3 the client hears of its refusal only after the handshake.
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        without, other, right = contexts
        ours.issue_cert("client.example").configure_cert(other)
        theirs.issue_cert("client.example").configure_cert(right)
        for context in (without, other):
            with pytest.raises((OSError, InvalidMessage)), Dialed(service.url, ssl=context):
                pass
        with Dialed(service.url, ssl=right) as client:
            client.send("hello")
            assert client.recv() == "hello"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no Unix here")
def test_a_reload_takes_other_cas_and_ciphers_and_loses_no_connection(tmp_path: Path) -> None:
    ours, first, second = trustme.CA(), trustme.CA(), trustme.CA()
    server, clients, config = (tmp_path / name for name in ("server.pem", "ca.pem", "serve.toml"))
    ours.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(server))
    first.cert_pem.write_to_path(str(clients))

    def write(ciphers: str) -> None:
        config.write_text(
            f'tls-cert = "{server}"\ntls-client-ca = "{clients}"\ntls-ciphers = "{ciphers}"\n'
        )

    def client(authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.create_default_context()
        ours.configure_trust(context)
        authority.issue_cert("client.example").configure_cert(context)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def cipher(connection: Dialed) -> str:
        return str(connection.connection.transport.get_extra_info("cipher")[0])

    write("ECDHE+AESGCM")
    with (
        launched("--config", str(config)) as service,
        Dialed(service.url, ssl=client(first)) as before,
    ):
        assert "GCM" in cipher(before)
        # What is wrong changes nothing, and standard error says why.
        assert service.process.stderr is not None
        for text, ciphers, option in (
            (clients.read_text(), "ROT13", "tls-ciphers"),
            ("not a certificate", "ECDHE+CHACHA20", "tls-client-ca"),
        ):
            clients.write_text(text)
            write(ciphers)
            service.process.send_signal(signal.SIGHUP)
            line = service.process.stderr.readline()
            assert line.startswith(f"wsproto-sip: nothing is reloaded: {config}: {option}: ")
            with Dialed(service.url, ssl=client(first)) as still:
                assert "GCM" in cipher(still)
        second.cert_pem.write_to_path(str(clients))
        assert service.reload() == "Settings reloaded"
        with pytest.raises((OSError, InvalidMessage)), Dialed(service.url, ssl=client(first)):
            pass
        with Dialed(service.url, ssl=client(second)) as after:
            assert "CHACHA20" in cipher(after)
        before.send("hello")
        assert before.recv() == "hello"


def test_the_name_that_a_client_asks_for_decides_on_the_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def issue(file: str, *names: str) -> str:
        issued, path = authority.issue_cert(*names), tmp_path / f"{file}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    def asked(service: Service, name: str) -> Dialed:
        return Dialed(service.url, ssl=trust, server_hostname=name)

    def names(client: Dialed) -> set[str]:
        found = client.connection.transport.get_extra_info("peercert")["subjectAltName"]
        return {value for _, value in found}

    config, pems = tmp_path / "serve.toml", [issue("one", "one.test", "127.0.0.1")]
    pems.append(issue("two", "two.test", "*.two.test"))
    config.write_text(f"tls-cert = {pems!r}")
    with launched("--config", str(config)) as service:
        with asked(service, "one.test") as before, asked(service, "x.two.test") as wild:
            assert names(before) == {"one.test", "127.0.0.1"}
            assert names(wild) == {"two.test", "*.two.test"}
            with asked(service, "two.test") as two:
                assert names(two) == names(wild)
            # No name of a server, and one that is not there, get the first.
            with asked(service, "127.0.0.1") as default:
                assert names(default) == names(before)
            with pytest.raises(ssl.SSLCertVerificationError), asked(service, "three.test"):
                pass
            issue("two", "two.test", "three.test")
            pems.append(issue("four", "four.test"))
            config.write_text(f"tls-cert = {pems!r}")
            assert service.reload() == "Settings reloaded"
            for name, expected in (
                ("three.test", {"two.test", "three.test"}),
                ("four.test", {"four.test"}),
                ("one.test", {"one.test", "127.0.0.1"}),
            ):
                with asked(service, name) as after:
                    assert names(after) == expected
            with pytest.raises(ssl.SSLCertVerificationError), asked(service, "x.two.test"):
                pass
            # No connection is lost.
            for client in (before, wild):
                client.send("still here")
                assert client.recv() == "still here"
        config.write_text(f'tls-cert = "{pems[0]}"')
        assert service.reload() == "Settings reloaded"
        with pytest.raises(ssl.SSLCertVerificationError), asked(service, "four.test"):
            pass


def test_invalid_settings_of_tls_are_refused(tmp_path: Path) -> None:
    trustme.CA().issue_cert("a.example").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "both.pem")
    )
    cert, nameless = str(tmp_path / "both.pem"), str(tmp_path / "nameless.pem")
    issued = trustme.CA().issue_cert(common_name="nameless")
    issued.private_key_and_cert_chain_pem.write_to_path(nameless)
    for settings, message in (
        (Settings(tls_ciphers="HIGH"), "--tls-ciphers: requires --tls-cert"),
        (Settings(tls_client_ca=cert), "--tls-client-ca: requires --tls-cert"),
        (Settings(tls_cert=(cert,), tls_ciphers="ROT13"), "--tls-ciphers: no suite in 'ROT13'"),
        (
            Settings(tls_cert=(cert,), tls_client_ca="/nowhere"),
            "--tls-client-ca: /nowhere: No such",
        ),
    ):
        with pytest.raises(SettingsError) as caught:
            server_tls(settings)
        assert str(caught.value).startswith(message)


def test_commands_and_metrics_need_the_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    wrong = tmp_path / "wrong"
    wrong.write_text(TOKEN[::-1])
    wrong.chmod(0o600)
    with launched("--ctl-http", "0", "--ctl-http-token", str(path)) as service:
        code, _, err = service.ctl("ws.dump", place="--url")
        advice = "--token-file names the file of the server's --ctl-http-token"
        assert (code, err) == (1, f"wsproto-sip: 401: a token is required; {advice}\n")
        code, _, err = service.ctl("--token-file", str(wrong), "ws.dump", place="--url")
        advice = "the token is not that of the server's --ctl-http-token"
        assert (code, err) == (1, f"wsproto-sip: 401: a token is required; {advice}\n")
        assert service.ctl("--token-file", str(path), "ws.dump", place="--url")[0] == 0
        code, _, err = service.ctl("--token-file", "/nowhere", "ws.dump", place="--url")
        assert code == 2
        assert err.startswith("wsproto-sip: --token-file: /nowhere: No such file or directory; ")
        where = urlsplit(service.places["--url"])
        for fields, status in (({}, 401), ({"Authorization": f"bearer {TOKEN}"}, 200)):
            connection = http.client.HTTPConnection(str(where.hostname), where.port or 0)
            connection.request("GET", "/metrics", headers=fields)
            response = connection.getresponse()
            assert response.status == status
            assert (response.getheader("WWW-Authenticate") == "Bearer") == (status == 401)
            connection.close()
        # By default, the command reaches nothing.
        refused = service.ctl("--token-file", str(path), "ws.connect", service.url, place="--url")
        assert refused[0] == 1
        assert "the target is not in --connect-allow" in refused[2]


def test_invalid_settings_of_commands_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    for settings, message in (
        (Settings(ctl_http_token=str(path)), "--ctl-http-token: requires --ctl-http"),
        (
            Settings(ctl_http=0, ctl_http_token=str(path)),
            f"--ctl-http-token: {path}: other users may",
        ),
        (Settings(ctl_http=0, ctl_http_token="/nowhere"), "--ctl-http-token: /nowhere: No such"),
    ):
        with pytest.raises(SettingsError) as caught:
            http_token(settings)
        assert str(caught.value).startswith(message)
    with pytest.raises(SettingsError, match="--connect-allow: "):
        connect_targets(Settings(connect_allow=("a:b",)))
