"""OPTIONS to the edge itself: what is answered at once is answered as all steps would."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from tests.sip._phones import Phone, World, entropy
from wsproto_sip.server.shares import ShareConfig
from wsproto_sip.sip import SipResponse
from wsproto_sip.sip.edge import pipelines
from wsproto_sip.sip.edge.config import ChallengeScope
from wsproto_sip.sip.registrar.authentication import DigestAuthenticator

STEPS = pipelines.FROM_CLIENT[1:]


def head(*more: str, uri: str = "sip:edge.test:8080", **changed: str) -> str:
    usual = {
        "Via": "SIP/2.0/WS x.invalid;branch=z9hG4bK1",
        "Max-Forwards": "70",
        "To": "<sip:edge.test>",
        "From": "<sip:alice@sip.test>;tag=1",
        "Call-ID": "abc@x",
        "CSeq": "1 OPTIONS",
    }
    fields = [f"{name}: {value}" for name, value in (usual | changed).items()]
    return "\r\n".join([f"OPTIONS {uri} SIP/2.0", *fields, *more, "", ""])


class Pair:
    """Two edges that hear the same, of which the second one has only the usual steps."""

    def __init__(self, *, login: str | None = None, **options: object) -> None:
        self.worlds = [World(**options) for _ in range(2)]  # type: ignore[arg-type]
        self.phones = [Phone(world, "alice", registers=False, login=login) for world in self.worlds]

    def say(self, text: str) -> list[list[object]]:
        """Return what both answer, and what they have counted."""
        heard: list[list[object]] = []
        for index, (world, phone) in enumerate(zip(self.worlds, self.phones, strict=True)):
            with pytest.MonkeyPatch.context() as patch:
                if index:
                    patch.setattr(pipelines, "FROM_CLIENT", STEPS)
                phone.say(text)
            answers = [
                each.to_bytes() if isinstance(each, SipResponse) else each for each in phone.heard
            ]
            phone.heard.clear()
            edge = world.edge
            journal = edge.journal
            heard.append([*answers, edge.dropped, edge.refused, journal.requests, journal.refused])
        return heard


@pytest.mark.parametrize("login", [None, "alice"])
def test_both_ways_answer_the_same(login: str | None) -> None:
    pair = Pair(login=login)
    quick, usual = pair.say(head())
    assert quick == usual
    answer = quick[0]
    assert isinstance(answer, bytes)
    assert answer.startswith(
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1;rport=4001"
    )


def test_another_user_is_refused_in_both_ways() -> None:
    quick, usual = Pair(login="bob").say(head())
    assert quick == usual
    assert b"SIP/2.0 403 " in bytes(str(quick[0]), "ascii")


def test_password_is_asked_for_in_both_ways() -> None:
    pair = Pair()
    for world in pair.worlds:
        world.edge.authenticator = DigestAuthenticator(
            "sip.test", {"alice": "wonderland"}, entropy=entropy()
        )
    quick, usual = pair.say(head())
    assert quick == usual
    assert b"SIP/2.0 407 " in bytes(str(quick[0]), "ascii")


def test_pace_is_kept_in_both_ways() -> None:
    pair = Pair(requests_per_second=ShareConfig(4, reserve=0), challenge=ChallengeScope.NONE)
    answers = [pair.say(head(CSeq=f"{number} OPTIONS")) for number in range(1, 5)]
    assert all(quick == usual for quick, usual in answers)
    assert b"SIP/2.0 503 " in bytes(str(answers[-1][0][0]), "ascii")


@given(
    st.sampled_from(["sip:edge.test:8080", "sip:edge.test", "sips:sip.test", "sip:bob@sip.test"]),
    st.sampled_from(["70", "0", "300", "x"]),
    st.sampled_from(["<sip:edge.test>", "<sip:edge.test>;tag=1", "<"]),
    st.sampled_from(["1 OPTIONS", "2 INVITE", "1"]),
    st.lists(
        st.sampled_from(
            [
                *(
                    "Contact: <sip:a>",
                    "Contact: *",
                    "Require: path",
                    "Require: x",
                    "Route: <sip:a>",
                ),
                *(
                    "Route: <sip:edge.test:8080;lr>",
                    "Path: <sip:a>",
                    "Timestamp: 5",
                    "Via: SIP/2.0/WS y",
                ),
                *("User-Agent: x", "Proxy-Require: x", "Privacy: id", "Supported: path"),
            ]
        ),
        max_size=2,
        unique=True,
    ),
    st.sampled_from([None, "alice", "bob"]),
)
def test_any_options_is_handled_in_the_same_way(
    uri: str, hops: str, to: str, cseq: str, more: list[str], login: str | None
) -> None:
    pair = Pair(login=login)
    text = head(*more, uri=uri, **{"Max-Forwards": hops, "To": to, "CSeq": cseq})
    quick, usual = pair.say(text)
    assert quick == usual
