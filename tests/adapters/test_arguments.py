"""Checking and converting what callers pass."""

from __future__ import annotations

from typing import Any

import pytest

from wsproto_sip.adapters._arguments import (
    adapted,
    check_arguments,
    check_options,
    header_fields,
    make_extensions,
    no_extensions,
    protocol_names,
)
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.session.config import SessionConfig
from wsproto_sip.utilities import LocalProtocolError


@pytest.mark.parametrize(
    "headers",
    [
        {"X-One": "1", "X-Two": "2"},
        {b"X-One": b"1", b"X-Two": b"2"},
        [("X-One", "1"), (b"X-Two", b"2")],
        (field for field in [["X-One", "1"], ["X-Two", "2"]]),
    ],
)
def test_header_fields_are_a_mapping_or_pairs(headers: Any) -> None:
    assert header_fields(headers) == [(b"X-One", b"1"), (b"X-Two", b"2")]


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ("X: y", "headers must be a mapping or pairs, not str"),
        (b"X: y", "headers must be a mapping or pairs, not bytes"),
        (5, "headers must be a mapping or pairs, not int"),
        (["X: y"], "headers: 'X: y' is not a pair of name and value"),
        ([("a", "b", "c")], r"headers: \('a', 'b', 'c'\) is not a pair"),
    ],
)
def test_other_types_of_header_fields_are_a_type_error(headers: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        header_fields(headers)


def test_unsendable_header_fields_are_refused() -> None:
    with pytest.raises(LocalProtocolError, match="X has a value that cannot be sent"):
        header_fields({"X": "a\r\nY: b"})


def test_configuration_is_adapted() -> None:
    config = SessionConfig(whole_messages=False, max_age=9, profiles={"sip": SessionConfig()})
    assert not adapted(config).whole_messages
    for result in (adapted(config), adapted(config).profiles["sip"]):
        assert not result.auto_pause
        assert result.limits.max_frames_per_call == 16
        assert result.limits.max_outgoing is None
        assert result.limits.max_message_size == config.limits.max_message_size
    assert adapted(config).max_age == 9


def test_other_types_of_configuration_are_refused() -> None:
    with pytest.raises(TypeError, match="config must be a SessionConfig, not dict"):
        adapted({})  # type: ignore[arg-type]


def test_single_name_is_not_a_list_of_sub_protocols() -> None:
    assert protocol_names(("a", "b")) == ["a", "b"]
    with pytest.raises(TypeError, match=r"must be a sequence of names: \['sip'\]"):
        protocol_names("sip")


@pytest.mark.parametrize("names", [None, 5, b"sip"])
def test_what_is_not_several_is_not_a_list_of_sub_protocols(names: Any) -> None:
    with pytest.raises(TypeError, match="must be a sequence of names: "):
        protocol_names(names)


def test_sub_protocol_that_is_not_text() -> None:
    with pytest.raises(TypeError, match="subprotocols: b'sip' is not text"):
        protocol_names(["msrp", b"sip"])  # type: ignore[list-item]


def test_arguments_of_their_types() -> None:
    check_arguments(
        port=0, proxy=True, ssl=None, extensions=list, drain=1, max_redirects=0, on_wire=None
    )


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("port", "80", "port must be an integer from 0 to 65535, or None, not '80'"),
        ("ssl", True, "ssl must be an ssl.SSLContext or None, not True"),
        ("extensions", [1], r"extensions must be a function that makes the .*, not \[1\]"),
        ("max_redirects", True, "max_redirects must be an integer, not True"),
        ("handler", None, "handler must be a function, not None"),
        ("host", b"x" * 1000, r"host must be text or None, not b'x{98}$"),
        (
            "proxy",
            b"http://user:secret@proxy",
            "proxy must be a URI, True, False or None, not bytes",
        ),
    ],
)
def test_argument_of_another_type_is_named(name: str, value: object, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        check_arguments(**{name: value})


@pytest.mark.parametrize("port", [-1, 65536])
def test_port_that_is_not_one(port: int) -> None:
    with pytest.raises(ValueError, match=f"port must be an integer from 0 to 65535, .* not {port}"):
        check_arguments(port=port)


def test_extensions_are_made_by_a_function_that_returns_several() -> None:
    [made] = make_extensions(lambda: (PerMessageDeflate(),))
    assert isinstance(made, PerMessageDeflate)
    with pytest.raises(TypeError, match=r"extensions must return .*, not <PerMessage"):
        make_extensions(PerMessageDeflate)  # type: ignore[arg-type]


def test_default_extensions_are_empty() -> None:
    assert list(no_extensions()) == []


def test_options_are_checked_before_the_call() -> None:
    def connect(*, known: int = 0) -> None: ...

    check_options(connect, {"known": 1})
    with pytest.raises(
        TypeError, match=r"connect\(\) got an unexpected keyword argument 'ping_interval'"
    ):
        check_options(connect, {"ping_interval": 5})
    with pytest.raises(TypeError, match=r"^reconnect\(\) got an unexpected"):
        check_options(connect, {"ping_interval": 5}, "reconnect")
