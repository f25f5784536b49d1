"""The upstreams of a server: how they are written, and where their names lead."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import sys
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
import trustme

from tests.adapters._msrp import until
from tests.adapters._sip import HOST, Core, free_port, phone
from tests.peers._support import run
from wsproto_sip.cli.serve import upstreams as module
from wsproto_sip.cli.serve.settings import Settings, SettingsError
from wsproto_sip.cli.serve.upstreams import Site, UpstreamSet, site_of, sites_of, upstream_tls
from wsproto_sip.sip.edge.config import Upstream
from wsproto_sip.sip.rules.location import Answer, Question, Srv

from .._service import Service, launched

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

AUTHORITY = trustme.CA()


def settings(*words: str, **more: Any) -> Settings:
    return replace(Settings(), upstream=words, **more)


def found(given: Settings, resolver: Any = None) -> list[Upstream]:
    async def scenario() -> list[Upstream]:
        return await UpstreamSet(given, resolver).find()

    return run(scenario())


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Return the files of a certificate, its key, and its authority."""
    issued = AUTHORITY.issue_cert("edge.test")
    names = {name: str(tmp_path / f"{name}.pem") for name in ("chain", "key", "ca")}
    for blob in issued.cert_chain_pems:
        blob.write_to_path(names["chain"], append=True)
    issued.private_key_pem.write_to_path(names["key"])
    AUTHORITY.cert_pem.write_to_path(names["ca"])
    return names


@pytest.mark.parametrize(
    ("word", "site"),
    [
        ("sip:192.0.2.1", Site("192.0.2.1")),
        ("sip:[::1]:5070", Site("[::1]", 5070)),
        ("SIP:core.test:5060;Transport=TCP", Site("core.test", 5060, "tcp")),
        ("sip:core.test;priority=2;weight=0", Site("core.test", priority=2, weight=0)),
        ("sips:core.test", Site("core.test", transport="tls")),
        ("sips:core.test:5061;transport=tcp", Site("core.test", 5061, "tls")),
        (
            "sip:192.0.2.1;transport=tls;name=core.test",
            Site("192.0.2.1", transport="tls", tls_name="core.test"),
        ),
    ],
)
def test_words(word: str, site: Site) -> None:
    assert site_of(word) == site


@pytest.mark.parametrize(
    "word",
    [
        *("udp:127.0.0.1:5060", "core.test", "sip:", "sip:a b", "sip:core.test:0", "tel:+1"),
        *("sip:user@core.test", "sip:core.test?x=y", "sip:core.test;lr", "sip:core.test:70000"),
        *("sip:core.test;transport=ws", "sip:core.test;transport", "sips:core.test;transport=udp"),
        *("sip:core.test;priority=-1", "sip:core.test;priority", "sip:core.test;weight=65536"),
        *("sip:core.test;weight=x", "sip:core.test;name", "sip:core.test;name=a%20b"),
    ],
)
def test_invalid_upstreams_are_refused(word: str) -> None:
    with pytest.raises(SettingsError, match=r"--upstream: .* is not sip:HOST\[:PORT\] or sips"):
        site_of(word)


def test_the_same_upstream_twice() -> None:
    with pytest.raises(SettingsError, match="there twice"):
        sites_of(settings("sip:core.test:5060", "sip:CORE.test:5060;priority=1"))


@pytest.mark.parametrize("word", ["0.0.0.0", "a:0", "a:70000", "a b", "[::1"])
@pytest.mark.parametrize("option", ["upstream_local", "upstream_local_tls"])
def test_invalid_local_addresses_are_refused(option: str, word: str) -> None:
    with pytest.raises(SettingsError, match=f"--{option.replace('_', '-')}: '.*' is not HOST"):
        sites_of(settings("sip:192.0.2.1", **{option: word}))


def test_several_share_the_side_of_this_machine() -> None:
    local = f"{HOST}:5080"
    one, two, three = found(
        settings(
            "sip:127.0.0.1",
            "sip:127.0.0.1:5070;transport=tcp;priority=1;weight=5",
            "sip:core.test:5060;priority=2",
            upstream_local=local,
        )
    )
    assert (one.name, one.host, one.port, one.transport) == (
        "sip:127.0.0.1:5060",
        HOST,
        5060,
        "udp",
    )
    assert two.name == "sip:127.0.0.1:5070;transport=tcp"
    assert (two.priority, two.weight) == (65536, 5)
    assert (three.name, three.tls_name) == ("sip:core.test:5060", "core.test")
    assert {item.local for item in (one, two, three)} == {(HOST, 5080)}


def test_those_over_tls_have_a_side_of_their_own(files: dict[str, str]) -> None:
    given = settings(
        "sip:127.0.0.1",
        "sips:127.0.0.1;name=core.test",
        upstream_local=f"{HOST}:5080",
        upstream_tls_cert=files["chain"],
        upstream_tls_key=files["key"],
    )
    plain, secure = found(given)
    assert (plain.local_port, secure.local_host) == (5080, HOST)
    assert (secure.port, secure.tls_name, secure.secure) == (5061, "core.test", True)
    assert secure.local_port != 5080
    (_, secure) = found(replace(given, upstream_local_tls="edge.test:5091"))
    assert (secure.local_host, secure.local_port) == ("edge.test", 5091)


# -- certificates ----------------------------------------------------------------------------------


def test_certificates(files: dict[str, str]) -> None:
    given = settings(
        "sips:core.test",
        upstream_tls_ca=files["ca"],
        upstream_tls_cert=files["chain"],
        upstream_tls_key=files["key"],
    )
    client, server = upstream_tls(given, sites_of(given))
    assert client is not None
    assert server is not None
    assert client.verify_mode is ssl.CERT_REQUIRED
    assert not client.check_hostname
    assert server.verify_mode is ssl.CERT_OPTIONAL
    # By default the certificate for clients, and the system's authorities.
    given = settings("sips:core.test", tls_cert=(files["chain"],), tls_key=(files["key"],))
    assert all(upstream_tls(given, sites_of(given)))
    given = settings("sip:192.0.2.1")
    assert upstream_tls(given, sites_of(given)) == (None, None)
    # A name may lead there, and need not.
    assert upstream_tls(given, [Site("core.test")])[1] is None


@pytest.mark.parametrize(
    ("word", "fields", "message"),
    [
        ("sips:a:1", {}, "--upstream-tls-cert: an upstream over TLS needs one"),
        ("sips:a:1", {"upstream_tls_key": "x"}, "--upstream-tls-key: requires --upstream-tls-c"),
        ("sip:a:1", {"upstream_tls_ca": "x"}, "--upstream-tls-ca: no --upstream is reached"),
        ("sip:a:1", {"upstream_tls_cert": "x"}, "--upstream-tls-cert: no --upstream is reached"),
        ("sip:a:1", {"upstream_tls_key": "x"}, "--upstream-tls-key: no --upstream is reached"),
        ("sips:a:1", {"upstream_tls_cert": "nowhere"}, "--upstream-tls-cert: nowhere: "),
        (
            "sips:a:1",
            {"upstream_tls_cert": "x", "upstream_tls_ca": "nowhere"},
            "--upstream-tls-ca: nowhere: ",
        ),
    ],
)
def test_invalid_certificates_are_refused(word: str, fields: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        sites_of(settings(word, **fields))


def test_key_with_a_password_is_refused() -> None:
    with pytest.raises(ValueError, match="the key has a password"):
        module._no_password()


# -- names -----------------------------------------------------------------------------------------


class Table:
    """A DNS that says what it is told to."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked = 0

    async def ask(self, question: Question) -> Answer:
        self.asked += 1
        if question.name == "broken.test":
            raise OSError("the DNS is out of order")
        kind, name = question.kind, question.name.replace(".", "_")
        return self.answers.get(f"{kind}_{name}", Answer((), 60.0))


UDP = Table(
    SRV__sip__udp_core_test=Answer(
        [Srv(1, 3, 5070, "a.core.test."), Srv(2, 1, 5071, "b.core.test.")], 30.0
    ),
    A_a_core_test=Answer(["127.0.0.1"], 20.0),
    A_b_core_test=Answer(["127.0.0.2"], 40.0),
)


def test_a_name_leads_to_its_servers() -> None:
    async def scenario() -> None:
        given = settings("sip:core.test;priority=2;weight=10", upstream_local=f"{HOST}:5080")
        upstreams = UpstreamSet(given, UDP)
        first, second = await upstreams.find()
        assert first.name == "sip:127.0.0.1:5070"
        assert (first.priority, first.weight) == (2 * 65536 + 1, 30)
        assert first.aliases == ("core.test", "a.core.test")
        assert first.tls_name == "core.test"
        assert second.name == "sip:127.0.0.2:5071"
        assert upstreams.ttl == 20.0

    run(scenario())


def test_addresses_of_the_other_family_are_not_asked_for() -> None:
    for local, kinds in (("[::1]", ("AAAA",)), ("127.0.0.1", ("A",)), (None, ("A", "AAAA"))):
        assert UpstreamSet(settings("sip:192.0.2.1", upstream_local=local))._kinds() == kinds


def test_servers_over_tls_are_left_out_without_a_certificate(files: dict[str, str]) -> None:
    table = Table(
        SRV__sips__tcp_core_test=Answer([Srv(1, 1, 5061, "127.0.0.1")]),
        SRV__sip__udp_core_test=Answer([Srv(1, 1, 5060, "127.0.0.1")]),
    )
    assert found(settings("sip:core.test", upstream_local=HOST), table) == []
    given = settings(
        "sip:core.test",
        upstream_local=HOST,
        upstream_tls_cert=files["chain"],
        upstream_tls_key=files["key"],
    )
    (secure,) = found(given, table)
    assert (secure.transport, secure.tls_name) == ("tls", "core.test")


def test_an_unresolvable_name_does_not_affect_the_others() -> None:
    async def scenario() -> None:
        upstreams = UpstreamSet(settings("sip:broken.test", "sip:127.0.0.1"), Table())
        assert [item.name for item in await upstreams.find()] == ["sip:127.0.0.1:5060"]
        assert upstreams.ttl == 60.0

    run(scenario())
    with pytest.raises(SettingsError, match=r"--upstream: sip:broken\.test: .*out of order"):
        found(settings("sip:broken.test"), Table())
    with pytest.raises(SettingsError, match=r"--upstream: sip:nowhere\.test: no server of"):
        found(settings("sip:nowhere.test"), Table())


def test_names_are_looked_up_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_SHORTEST", 0.0)
    monkeypatch.setattr(module, "_AFTER_FAILURE", 0.0)
    used: list[list[str]] = []

    async def use(upstreams: Sequence[Upstream]) -> None:
        used.append([item.name for item in upstreams])

    async def scenario() -> None:
        table = Table(SRV__sip__udp_core_test=Answer([Srv(1, 1, 5070, "127.0.0.1")], 0.0))
        upstreams = UpstreamSet(settings("sip:core.test;transport=udp", upstream_local=HOST), table)
        await upstreams.find()
        upstreams.keep(use)
        await until(lambda: used)
        table.answers["SRV__sip__udp_core_test"] = Answer([Srv(1, 1, 5071, "127.0.0.1")], 0.0)
        await until(lambda: used[-1] == ["sip:127.0.0.1:5071"])
        table.answers.clear()
        # What was known stays.
        await until(lambda: "upstreams-unchanged reason=" in caplog.text)
        assert used[-1] == ["sip:127.0.0.1:5071"]
        await upstreams.close()
        # Without a name there is nothing to look up.
        fixed = UpstreamSet(settings("sip:127.0.0.1"))
        fixed.keep(use)
        await fixed.close()

    run(scenario())


def test_names_need_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(SettingsError, match=r"a name without a port: .*wsproto-sip\[dns\]"):
        sites_of(settings("sip:core.test"))
    assert len(sites_of(settings("sip:core.test:5060"))) == 1


# -- a server that runs ----------------------------------------------------------------------------


def test_state_of_upstreams_is_in_the_log_the_metrics_and_a_command(tmp_path: Path) -> None:
    """The first of two is not there: its requests go to the second."""
    core, local, gone = Core("udp"), free_port(), free_port()
    words = {"gone": f"sip:{HOST}:{gone}", "there": f"sip:{HOST}:{core.port}"}
    # What answers is told from what sends by the edge's own side.
    core.upstream = replace(core.upstream, local_port=local)

    async def scenario(service: Service) -> None:
        async with core.datagrams(), phone(service.url, "alice") as alice:
            alice.send("MESSAGE", "sip:core@sip.test", body=b"there")
            await alice.response(200)
            assert core.requests[-1].body == b"there"

    with launched(
        *("--upstream", words["gone"], "--upstream", f"{words['there']};priority=1"),
        *("--upstream-local", f"{HOST}:{local}", "--ctl-socket", str(tmp_path / "ctl")),
        *("--ctl-http", "0"),
    ) as service:
        line = f"SIP edge of {words['gone']}, {words['there']}, which reach it at {HOST}:{local}; "
        assert any(text.startswith(line) for text in service.announced)
        run(scenario(service))
        states = service.call("ws.upstreams")
        assert states[words["gone"]].startswith("out of service, ")
        assert states[words["there"]] == "in service, 2 requests, 0 failures"
        with urlopen(f"{service.places['--url'].rstrip('/')}/metrics") as response:
            metrics = response.read().decode()
        assert f'ws_sip_upstream_up{{upstream="{words["gone"]}"}} 0\n' in metrics
        assert f'ws_sip_upstream_up{{upstream="{words["there"]}"}} 1\n' in metrics
        assert f'ws_sip_upstream_requests_total{{upstream="{words["there"]}"}} 2\n' in metrics
        _, log = service.stop()
    (told,) = [text for text in log if "upstream-down" in text]
    assert f"warning sip upstream-down upstream={words['gone']} reason=" in told
    assert "refused" in told


def test_upstream_over_tls_has_to_have_the_right_certificate(files: dict[str, str]) -> None:
    core = Core("tcp")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("core.test").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED

    async def scenario(service: Service, status: int, sock: socket.socket) -> None:
        writers: list[asyncio.StreamWriter] = []

        async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.append(writer)
            await core.attach(reader, writer)

        async with await asyncio.start_server(attach, sock=sock, ssl=context):
            # What is to be sent waits until the server has connected, or cannot.
            async with phone(service.url, "alice", registers=False) as alice:
                assert (await alice.register()).status == status
            service.process.terminate()
            for writer in writers:
                # It ends with the server.
                with suppress(OSError):
                    await writer.wait_closed()

    for name, status in (("core.test", 200), ("other.test", 503)):
        with (
            socket.create_server((HOST, core.port)) as sock,
            launched(
                *("--upstream", f"sips:{HOST}:{core.port};name={name}", "--upstream-local", HOST),
                *("--upstream-tls-ca", files["ca"], "--upstream-tls-cert", files["chain"]),
                *("--upstream-tls-key", files["key"]),
            ) as service,
        ):
            run(scenario(service, status, sock))
            _, log = service.process.communicate(timeout=30)
        assert ("the certificate is not for the upstream" in log) is (status == 503)


# -- a reload --------------------------------------------------------------------------------------


async def said(service: Service, text: str) -> None:
    """Wait until a line on standard error has a text in it."""
    stderr = service.process.stderr
    assert stderr is not None
    line: str | None = None
    try:
        while text not in (line or ""):
            line = await asyncio.to_thread(stderr.readline)
            assert line
    except asyncio.CancelledError:
        # A thread that reads would hold the test up.
        service.process.kill()
        raise


def test_a_reload_takes_other_upstreams(tmp_path: Path) -> None:
    first, second, local = Core("udp"), Core("udp"), free_port()
    for core in (first, second):
        core.upstream = replace(core.upstream, local_port=local)
    config = tmp_path / "serve.toml"

    def write(*words: str) -> None:
        given = f'upstream = {list(words)!r}\nupstream-local = "{HOST}:{local}"\n' if words else ""
        config.write_text(f'{given}sip-domain = ["sip.test"]\n')

    def messages() -> list[bytes]:
        # Among them are OPTIONS, by which upstreams are watched.
        return [request.body for request in second.requests if request.method == "MESSAGE"]

    async def scenario(service: Service) -> None:
        async with (
            first.datagrams(),
            second.datagrams(),
            phone(service.url, "alice") as alice,
        ):
            write(f"sip:{HOST}:{second.port}", f"sip:{HOST}:{first.port};priority=1")
            assert await asyncio.to_thread(service.reload) == "Settings reloaded"
            await said(service, f'upstreams-changed upstreams="sip:{HOST}:{second.port}, ')
            alice.send("MESSAGE", "sip:core@sip.test", body=b"moved")
            await alice.response(200)
            assert messages()[-1] == b"moved"
            states = await asyncio.to_thread(service.call, "ws.upstreams")
            assert len(states) == 2
            # What is wrong changes nothing.
            write(f"udp:{HOST}")
            service.process.send_signal(signal.SIGHUP)
            await said(service, "nothing is reloaded: ")
            # An edge does not become a registrar.
            write()
            assert await asyncio.to_thread(service.reload) == "Settings reloaded"
            await said(service, "only a restart changes upstream-local, upstream")
            alice.send("MESSAGE", "sip:core@sip.test", body=b"still there")
            await alice.response(200)
            assert messages()[-1] == b"still there"

    write(f"sip:{HOST}:{first.port}")
    with launched("--config", str(config), "--ctl-socket", str(tmp_path / "ctl")) as service:
        run(scenario(service))


def test_a_registrar_does_not_become_an_edge(tmp_path: Path) -> None:
    config = tmp_path / "serve.toml"
    config.write_text("")
    with launched("--config", str(config)) as service:
        config.write_text(f'upstream = ["sip:{HOST}:{free_port()}"]\n')
        assert service.reload() == "Settings reloaded"
        run(said(service, "only a restart changes upstream"))


def test_upstreams_whose_place_is_not_known_yet_are_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_AFTER_FAILURE", 0.0)
    used: list[list[str]] = []

    async def use(upstreams: Sequence[Upstream]) -> None:
        used.append([item.name for item in upstreams])

    async def scenario() -> None:
        table = Table()
        upstreams = UpstreamSet(settings("sip:127.0.0.1", upstream_local=f"{HOST}:5080"), table)
        await upstreams.find()
        upstreams.keep(use)
        given = settings("sip:core.test;transport=udp", upstream_local="192.0.2.1")
        upstreams.change(given, use)
        await until(lambda: "upstreams-unchanged reason=" in caplog.text)
        assert not used
        table.answers["SRV__sip__udp_core_test"] = Answer([Srv(1, 1, 5071, "127.0.0.1")], 60.0)
        await until(lambda: used)
        assert used == [["sip:127.0.0.1:5071"]]
        # Where they reach this side stays.
        (found,) = await upstreams.find()
        assert (found.local_host, found.local_port) == (HOST, 5080)
        upstreams.change(settings("sip:127.0.0.2"), use)
        await until(lambda: used[-1] == ["sip:127.0.0.2:5060"])
        await upstreams.close()

    run(scenario())
    assert "upstreams-changed upstreams=sip:127.0.0.2:5060" in caplog.text


def test_a_reload_reads_the_certificates_for_upstreams_again(files: dict[str, str]) -> None:
    """Another authority signs the upstream's certificate, and the edge comes to trust it."""
    core, other = Core("tcp"), trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    other.issue_cert("core.test").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    seen: list[Any] = []

    async def scenario(service: Service, sock: socket.socket) -> None:
        writers: list[asyncio.StreamWriter] = []

        async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(writer.get_extra_info("peercert"))
            writers.append(writer)
            await core.attach(reader, writer)

        async with await asyncio.start_server(attach, sock=sock, ssl=context):
            async with phone(service.url, "alice", registers=False) as alice:
                assert (await alice.register()).status == 503
                other.cert_pem.write_to_path(files["ca"])
                issued = AUTHORITY.issue_cert("renewed.test")
                issued.private_key_pem.write_to_path(files["key"])
                issued.cert_chain_pems[0].write_to_path(files["chain"])
                assert await asyncio.to_thread(service.reload) == "Settings reloaded"
                while (await alice.register()).status != 200:
                    pass
            service.process.terminate()
            for writer in writers:
                with suppress(OSError):
                    await writer.wait_closed()

    with (
        socket.create_server((HOST, core.port)) as sock,
        launched(
            *("--upstream", f"sips:{HOST}:{core.port};name=core.test", "--upstream-local", HOST),
            *("--upstream-tls-ca", files["ca"], "--upstream-tls-cert", files["chain"]),
            *("--upstream-tls-key", files["key"]),
        ) as service,
    ):
        run(scenario(service, sock))
        service.process.communicate(timeout=30)
    assert ("DNS", "renewed.test") in seen[-1]["subjectAltName"]
