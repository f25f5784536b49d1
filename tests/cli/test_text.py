"""What the commands print: safe text, addresses, and reasons."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest

from wsproto_sip.cli._text import authority, did_you_mean, in_uri, notice, reason_of


def test_notice_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    notice("a\nb")
    assert capsys.readouterr() == ("", "-- a\\nb\n")


def test_default_port_is_left_out() -> None:
    assert authority("h", 80) == "h:80"
    assert authority("h", 80, 80) == "h"
    assert authority("::1", 5) == "[::1]:5"


def test_ipv6_host_has_brackets_in_a_uri() -> None:
    assert in_uri("::1") == in_uri("[::1]") == "[::1]"
    assert in_uri("h") == "h"


def test_reason_has_no_numbers_and_no_call() -> None:
    assert reason_of(OSError(errno.ECONNREFUSED, "x")) == "Connection refused"
    resolver = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert reason_of(resolver) == "Name or service not known"
    assert reason_of(OSError("own words")) == "own words"
    mismatch = "[X509: KEY_VALUES_MISMATCH] key values mismatch (_ssl.c:3905)"
    assert reason_of(ssl.SSLError(1, mismatch)) == "key values mismatch"
    assert reason_of(ssl.SSLError("No cipher can be selected.")) == "No cipher can be selected."
    pem = ssl.SSLError(1, "[SSL] PEM lib (_ssl.c:3905)")
    assert reason_of(pem) == "not a certificate with its private key, in PEM"
    refused = ssl.SSLCertVerificationError(1, "x")
    refused.verify_message = "self-signed"
    assert reason_of(refused) == "the certificate is not accepted: self-signed"


def test_nearest_known_word_is_suggested() -> None:
    assert did_you_mean("--prot", ["--port", "--path"]) == "; did you mean --port?"
    assert did_you_mean("--zebra", ["--port", "--path"]) == ""
