"""Guessing at the passwords of a running server: what it answers, counts and logs."""

from __future__ import annotations

import base64
import logging
import shutil
import subprocess
from pathlib import Path

import pytest

from wsproto_sip.adapters.reports import Reports, report
from wsproto_sip.auth import Attempt, Challenge, Failure, FailureCause, answer_challenge
from wsproto_sip.cli.serve.logs import set_up
from wsproto_sip.msrp import MsrpRequest, MsrpResponse, MsrpUri, parse_chunk
from wsproto_sip.sip import SipResponse, parse_message

from .._service import Dialed, Service, launched, status_of

FILTER = Path(__file__).parents[3] / "deploy" / "fail2ban" / "filter.d" / "wsproto-sip.conf"
#: A user name that would get another address banned if it was parsed as a field.
FRAMED = "eve address=198.51.100.1 service=sip"


def basic(name: str, password: str, address: str) -> dict[str, str]:
    text = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"Authorization": f"Basic {text}", "X-Forwarded-For": address}


def guessed(tmp_path: Path, *arguments: str) -> list[str]:
    """Return the log lines of a server after four addresses guessed passwords."""
    users = tmp_path / "users"
    users.write_text("alice:secret\n", encoding="utf-8")
    flags = ["--auth-file", str(users), "--trusted-proxy", "127.0.0.1", "--origin", "missing"]
    flags += ["--proxy-header", "x-forwarded-for", "--ctl-socket"]
    with launched(*flags, str(tmp_path / "socket"), *arguments) as service:
        url = service.url
        for address in ("203.0.113.7", "2001:db8::7"):
            answers = [
                status_of(url, additional_headers=basic("alice", f"guess {number}", address))
                for number in range(12)
            ]
            # 6 at once; for all of them to be looked at it would have to take a minute.
            assert answers[:6] == [401] * 6
            assert 429 in answers
        assert status_of(url, additional_headers=basic(FRAMED, "x", "203.0.113.8")) == 401
        assert status_of(url, additional_headers=basic("bob", "x", "2001:db8::9")) == 401
        assert status_of(url, additional_headers=basic("alice", "secret", "203.0.113.9")) == 101
        names = ["wrong", "slowed_pair"]
        counted = service.call(
            "ws.statistics", *[f"ws_authentication_failures_basic_{name}" for name in names]
        )
        assert sum(counted.values()) == 26
        return service.stop()[1]


def banned(program: str, log: Path, lines: list[str]) -> list[str]:
    """Return the addresses that fail2ban finds in these lines, with repetitions."""
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return subprocess.run(
        [program, "--out", "<ip>", str(log), str(FILTER)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()


@pytest.fixture
def fail2ban() -> str:
    """Debian's program that tries filters."""
    program = shutil.which("fail2ban-regex")
    if program is None:
        pytest.skip("fail2ban is not installed")
    return program


def in_journal(line: str) -> str:
    return f"sip.example.com wsproto-sip[4711]: {line}"


@pytest.mark.parametrize("arguments", [(), ("--log-format", "text"), ("--log-format", "json")])
def test_fail2ban_finds_the_addresses_of_guesses(
    tmp_path: Path, fail2ban: str, arguments: tuple[str, ...]
) -> None:
    lines = guessed(tmp_path, *arguments)
    for text in (lines, list(map(in_journal, lines))):
        found = banned(fail2ban, tmp_path / "log", text)
        assert set(found) == {"203.0.113.7", "2001:db8::7", "203.0.113.8", "2001:db8::9"}
        assert len(found) == len([line for line in lines if "authentication-failed" in line[:120]])


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_name_cannot_have_another_address_banned(
    tmp_path: Path, fail2ban: str, capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    set_up(log_format)
    pretended = "warning auth authentication-failed address=198.51.100.1 service=sip cause=wrong"
    names = [
        pretended,
        f" {pretended}",
        in_journal(pretended),
        f'x" {pretended}',
        f'\\" {pretended}',
    ]
    names += [
        in_journal(
            '"", "level": "warning", "area": "auth", "address": "198.51.100.1", "service": "sip"'
        )
    ]
    for name in names:
        Reports().authentication_failed(
            Failure(Attempt("sip", "203.0.113.7", name), FailureCause.WRONG)
        )
        report("ws", logging.INFO, "opened", connection=1, target=f"/{name}")
        report("ws", logging.INFO, "closed", reason=name)
        report("ws", logging.WARNING, "something", name=name)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 * len(names)
    for text in (lines, list(map(in_journal, lines))):
        assert banned(fail2ban, tmp_path / "log", text) == ["203.0.113.7"] * len(names)


def test_guesses_are_logged_without_a_log_format(tmp_path: Path) -> None:
    lines = guessed(tmp_path)
    assert len(lines) >= 16
    time, _, first = lines[0].partition(" ")
    assert time.endswith("+00:00")
    assert first == (
        "warning auth authentication-failed address=203.0.113.7 service=basic cause=wrong "
        "user=alice"
    )
    assert " cause=slowed-pair wait=" in lines[6]
    assert lines[-2].endswith(f'cause=wrong user="{FRAMED}"')


# -- SIP and MSRP ----------------------------------------------------------------------------------

REGISTER = """\
REGISTER sip:sip.test SIP/2.0
Via: SIP/2.0/WS a.invalid;branch=z9hG4bK{number}
From: <sip:alice@sip.test>;tag=1
To: <sip:alice@sip.test>
Call-ID: c
CSeq: {number} REGISTER
Contact: <sip:alice@a.invalid;transport=ws>
Max-Forwards: 70
{field}
"""


def register(service: Service, passwords: list[str]) -> list[int]:
    """Register with each of these passwords, on one connection; the status of each answer."""
    statuses, asked = [], ""
    with service.dial(subprotocols=["sip"]) as client:
        for number, password in enumerate(["", *passwords], 1):
            field = ""
            if password:
                challenge = Challenge.parse(asked)
                assert challenge is not None
                given = answer_challenge(challenge, "alice", password, "REGISTER", "sip:sip.test")
                field = f"Authorization: {given}\n"
            client.send(REGISTER.format(number=number, field=field).replace("\n", "\r\n"))
            answer = parse_message(client.recv())
            assert isinstance(answer, SipResponse)
            asked = answer.get("www-authenticate") or asked
            statuses.append(answer.status)
    return statuses[1:]


def sent(client: Dialed, request: MsrpRequest) -> bytes:
    client.send(request.to_bytes())
    answer = client.recv()
    return answer.encode() if isinstance(answer, str) else answer


def authenticate(service: Service, passwords: list[str]) -> list[int]:
    """Send AUTH with each of these passwords, on a connection each; the codes."""
    relay, own = MsrpUri.parse(b"msrp://sip.test:443;ws"), MsrpUri.parse(b"msrp://a.invalid:1/a;ws")
    codes = []
    for password in passwords:
        request = MsrpRequest(b"abcd", b"AUTH", (relay,), (own,))
        with service.dial(subprotocols=["msrp"]) as client:
            answer = parse_chunk(sent(client, request))
            assert isinstance(answer, MsrpResponse)
            challenge = Challenge.parse((answer.header(b"www-authenticate") or b"").decode())
            assert challenge is not None
            given = answer_challenge(challenge, "alice", password, "AUTH", str(relay))
            request.headers = [(b"Authorization", str(given).encode())]
            answer = parse_chunk(sent(client, request))
            assert isinstance(answer, MsrpResponse)
            codes.append(answer.code)
    return codes


def test_guesses_over_sip_and_msrp_count_together(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n", encoding="utf-8")
    flags = ["--sip-users", str(users), "--msrp-users", str(users), "--auth-realm", "sip.test"]
    flags += ["--sip-domain", "sip.test", "--msrp-name", "sip.test", "--allow-insecure-msrp"]
    with launched(*flags) as service:
        # Each by itself would be for nothing.
        assert register(service, ["a", "b", "c", "d"]) == [401] * 4
        codes = authenticate(service, ["e", "f", "g", "h", "i"])
        assert codes[:2] == [401] * 2
        # For all of them to be looked at it would have to take seven seconds.
        assert 403 in codes
        lines = service.stop()[1]
    services = [line.partition("service=")[2].partition(" cause=wrong")[0] for line in lines]
    assert services[:6] == ["sip"] * 4 + ["msrp"] * 2


def test_guessing_is_slowed_down_as_the_options_say(tmp_path: Path) -> None:
    users = tmp_path / "users"
    users.write_text("alice:secret\n", encoding="utf-8")
    flags = ["--auth-file", str(users), "--trusted-proxy", "127.0.0.1", "--origin", "missing"]
    flags += ["--proxy-header", "x-forwarded-for", "--sip-anyone", "--sip-name", "a.test"]
    flags += ["--guess-pair", "1,longest=60,forgive=60"]
    with launched(*flags) as service:
        for address in ("203.0.113.7", "203.0.113.8"):
            headers = basic("alice", "guess", address)
            answers = [status_of(service.url, additional_headers=headers) for _ in range(3)]
            assert answers == [401, 401, 429]
