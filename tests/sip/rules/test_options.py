"""The answer to an ordinary OPTIONS, beside the one that is made in the usual way."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from wsproto_sip.sip import SipParseError, SipRequest, Source, force_rport, parse_message
from wsproto_sip.sip.rules.options import quick_response
from wsproto_sip.sip.rules.routing import validate_request

FIELDS = (("Accept", "*/*"), ("Supported", "path"))
LINES = "".join([f"{name}: {value}\r\n" for name, value in FIELDS])
SOURCES = [Source("192.0.2.1", 40000, "ws"), Source("2001:db8::1", 1, "wss")]
#: Fields of a request, the usual value first.
USUAL = {
    "Via": "SIP/2.0/WS x.invalid;branch=z9hG4bK1",
    "Max-Forwards": "70",
    "To": "<sip:edge.test>",
    "From": '"A" <sip:alice@sip.test>;tag=1',
    "Call-ID": "abc@x",
    "CSeq": "1 OPTIONS",
}
VALUES = {
    "Via": [
        *(
            "SIP/2.0/WSS x.invalid:5060;branch=z",
            "SIP/2.0/WS [::1];branch=z",
            "SIP/2.0/UDP a;branch=z",
        ),
        *(
            "SIP/2.0/WS a;branch=z;rport",
            "SIP/2.0/WS a;branch=z;branch=y",
            'SIP/2.0/WS a;branch="z"',
        ),
        *(
            "SIP/2.0/WS a:05060;branch=z",
            "SIP/2.0/WS a:70000;branch=z",
            "SIP/2.0/WS a",
            "SIP/2.0/WS",
        ),
        *(
            "SIP/2.0/WS a;branch=z, SIP/2.0/WS b;branch=y",
            "SIP / 2.0/WS a;branch=z",
            "WS a;branch=z",
        ),
        "SIP/2.0/WS a;branch=z\r\nVia: SIP/2.0/WS b;branch=y",
    ],
    "Max-Forwards": ["0", "1", "255", "256", "-1", "x", "070"],
    "To": ["sip:edge.test", "<sip:edge.test>;tag=2", "<sip:edge.test>;a=b", "<", "<tel:1>", "a b"],
    "From": ["<sip:alice@sip.test>", "sip:a@b;tag=1", "<sip:a@b", "*", '<sip:a@b>;tag="', ">"],
    "Call-ID": ["a b", "\x80", "a,b", '"'],
    "CSeq": ["1 INVITE", "1  OPTIONS", "999999999 OPTIONS", "9999999999 OPTIONS", "x OPTIONS", "1"],
}
MORE = [
    *("Contact: <sip:a@x.invalid>", "Contact: *", "Contact: <", "Contact: <sip:a>,<sip:b>"),
    *("Timestamp: 1", "Route: <sip:a;lr>", "Record-Route: <sip:a>", "Require: x", "Subject: x"),
    *("Supported: path", "f: <sip:a>", "User-Agent: x", "Proxy-Require: x", "Expires: x"),
]


def options(fields: dict[str, str], more: list[str]) -> SipRequest:
    head = [
        "OPTIONS sip:edge.test SIP/2.0",
        *[f"{name}: {value}" for name, value in fields.items()],
    ]
    message = parse_message("\r\n".join([*head, *more, "", ""]))
    assert isinstance(message, SipRequest)
    return message


def usual_way(request: SipRequest, source: Source) -> str | bytes | None:
    """Return the answer that all steps come to; ``None`` if it is a refusal."""
    if validate_request(request, as_server=True) is not None:
        return None
    force_rport(request, source)
    return request.make_response(200, headers=FIELDS).to_websocket()


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("more", [[], MORE[:1], ["User-Agent: x", "Supported: path"]])
def test_ordinary_request_is_answered(source: Source, more: list[str]) -> None:
    quick = quick_response(options(USUAL, more), source, LINES)
    assert quick is not None
    assert quick == usual_way(options(USUAL, more), source)


def test_request_without_hops_is_answered() -> None:
    fields = {name: value for name, value in USUAL.items() if name != "Max-Forwards"}
    assert quick_response(options(fields, []), SOURCES[0], LINES) is not None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Via", VALUES["Via"][3]),
        ("Max-Forwards", "256"),
        ("Max-Forwards", "x"),
        ("To", "<sip:edge.test>;tag=2"),
        ("From", "<"),
        ("CSeq", "1 INVITE"),
    ],
)
def test_unusual_request_is_left_alone(name: str, value: str) -> None:
    assert quick_response(options(USUAL | {name: value}, []), SOURCES[0], LINES) is None


@pytest.mark.parametrize("more", ["Contact: <", "Require: x", "Via: SIP/2.0/WS b;branch=y"])
def test_unusual_field_is_left_alone(more: str) -> None:
    assert quick_response(options(USUAL, [more]), SOURCES[0], LINES) is None


@given(
    st.fixed_dictionaries(
        {name: st.sampled_from([USUAL[name], *values]) for name, values in VALUES.items()}
    ),
    st.permutations(list(USUAL)),
    st.lists(st.sampled_from(MORE), max_size=3),
    st.sampled_from(SOURCES),
)
def test_answer_is_the_usual_one_or_none(
    fields: dict[str, str], order: list[str], more: list[str], source: Source
) -> None:
    fields = {name: fields[name] for name in order}
    try:
        request = options(fields, more)
    except SipParseError:
        return
    quick = quick_response(request, source, LINES)
    assert quick is None or quick == usual_way(options(fields, more), source)
