"""The words of --listen."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.cli.serve.places import Place


@pytest.mark.parametrize(
    ("word", "place", "shown"),
    [
        ("ws://127.0.0.1:80", Place(False, "127.0.0.1", 80), "127.0.0.1:80"),
        ("wss://0.0.0.0:443/", Place(True, "0.0.0.0", 443), "0.0.0.0:443"),
        ("ws://[::]:8080", Place(False, "::", 8080), "[::]:8080"),
        ("ws://example.com", Place(False, "example.com", 80), "example.com:80"),
        ("wss://example.com", Place(True, "example.com", 443), "example.com:443"),
        ("ws://[::1]:0", Place(False, "::1", 0), "[::1]:0"),
        ("wss://localhost:0/", Place(True, "localhost", 0), "localhost:0"),
        ("unix:/run/ws", Place(False, unix="/run/ws"), "unix:/run/ws"),
        ("wss+unix:/run/a b", Place(True, unix="/run/a b"), "unix:/run/a b"),
        ("systemd", Place(False, inherited=""), "systemd:"),
        ("ws+systemd:a", Place(False, inherited="a"), "systemd:a"),
        ("wss+systemd:public", Place(True, inherited="public"), "systemd:public"),
    ],
)
def test_places(word: str, place: Place, shown: str) -> None:
    assert Place.parse(word) == place
    assert str(place) == shown


@pytest.mark.parametrize(
    "word",
    [
        "",
        "8080",
        "127.0.0.1:8080",
        "http://127.0.0.1:8080",
        "ws://",
        "ws://:80",
        "ws://:0",
        "ws://h:65536",
        "ws://h:80/path",
        "ws://user@h:80",
        "ws://user@h:0",
        "ws://::1:80",
        "unix",
        "unix:",
        "unix:relative",
        "unix:/a\0b",
        "systemd2",
        "WS://h:1",
    ],
)
def test_other_words(word: str) -> None:
    with pytest.raises(ValueError):
        Place.parse(word)


@given(st.text("ws:/[]+unixtemdh.0128%@", max_size=24))
def test_a_word_is_a_place_or_an_error(word: str) -> None:
    try:
        place = Place.parse(word)
    except ValueError:
        return
    assert sum(kind is not None for kind in (place.host, place.unix, place.inherited)) == 1
    assert 0 <= place.port <= 65535
