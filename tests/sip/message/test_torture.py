"""The classes of unusual and invalid messages of RFC 4475 and RFC 5118, in our own messages."""

from __future__ import annotations

import pytest

from wsproto_sip.auth import Credentials
from wsproto_sip.sip import (
    AbsoluteUri,
    CSeq,
    KeepAlive,
    SipParseError,
    SipRequest,
    SipResponse,
    SipStreamParser,
    SipUri,
    TelUri,
    nat_uac_test,
    parse_message,
    validate_request,
)
from wsproto_sip.sip.message.transport import Source


def build(start: str = "OPTIONS sip:user@example.com SIP/2.0", **fields: str) -> str:
    """Return a valid message in which the named fields are replaced or added."""
    method = start.partition(" ")[0]
    all_fields = {
        "Via": "SIP/2.0/TCP host.example.com;branch=z9hG4bK1",
        "Max-Forwards": "70",
        "From": "<sip:caller@example.net>;tag=1",
        "To": "<sip:user@example.com>",
        "Call-ID": "torture@example.net",
        "CSeq": f"1 {method if method[:3] != 'SIP' else 'INVITE'}",
    } | {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [start] + [f"{name}: {value}" for name, value in all_fields.items()]
    return "\r\n".join([*lines, "", ""])


def request(data: str | bytes) -> SipRequest:
    message = parse_message(data)
    assert isinstance(message, SipRequest)
    raw = data.encode() if isinstance(data, str) else data
    assert message.to_bytes() == raw
    return message


def status(data: str | bytes) -> int | None:
    """Return the status of the answer: from the parser, or from the checks before routing."""
    try:
        message = parse_message(data)
    except SipParseError as error:
        return error.status
    assert isinstance(message, SipRequest)
    rejection = validate_request(message, as_server=True)
    return None if rejection is None else rejection.status


# -- RFC 4475 §3.1.1: valid ------------------------------------------------------------------------


def test_folds_and_white_space_everywhere() -> None:
    # §3.1.1.1
    message = request(
        "INVITE sip:v@chair.example.com;unknownparam SIP/2.0\r\n"
        "TO :\r\n sip:v@chair.example.com ;   tag    = 19\r\n"
        'from   : "J R \\\\\\"" <sip:j@example.com>\r\n  ;\r\n  tag = 98\r\n'
        "MaX-fOrWaRdS: 0068\r\n"
        "Call-ID: ws@192.0.2.1\r\n"
        "cseq: 0009\r\n  INVITE\r\n"
        "Via  : SIP  /   2.0\r\n /UDP\r\n    192.0.2.2;branch=390sk\r\n"
        "s :\r\n"
        "Newfangled:   value\r\n continued value\r\n"
        "Unusual: ;;,,;;,;\r\n"
        "v:  SIP  / 2.0  / TCP     spindle.example.com   ;\r\n"
        "  branch  =   z9hG4bK9 ,\r\n SIP  /    2.0   / UDP  192.168.255.111   ; branch=\r\n"
        " z9hG4bK30\r\n"
        'm:"Quoted \\"\\"" <sip:j@example.com> ; newparam =\r\n      newvalue ;\r\n'
        "  secondparam ; q = 0.33\r\n"
        "Content-Length   : 3\r\n\r\nv=0"
    )
    assert message.to.tag == "19"
    assert (message.from_.display_name, message.from_.tag) == ('J R \\"', "98")
    assert message.max_forwards == 68
    assert message.cseq == CSeq(9, "INVITE")
    assert [(via.transport, via.host, via.branch) for via in message.vias] == [
        ("UDP", "192.0.2.2", "390sk"),
        ("TCP", "spindle.example.com", "z9hG4bK9"),
        ("UDP", "192.168.255.111", "z9hG4bK30"),
    ]
    assert message.get("subject") == ""
    assert message.get("Newfangled") == "value continued value"
    assert message.get("Unusual") == ";;,,;;,;"
    contacts = message.contacts
    assert contacts is not None
    assert contacts[0].display_name == 'Quoted ""'
    assert contacts[0].params.get("newparam") == "newvalue"
    assert contacts[0].params.get("secondparam") == ""
    assert validate_request(message) is None


def test_wide_range_of_characters() -> None:
    # §3.1.1.2
    method = "!interesting-Method0123456789_*+`.%indeed'~"
    uri = "sip:1_odd.URI~(to-be!sure)&isn't+it$/crazy?,/;;*:&it+has=1,pas$wo~d_too.(no)@example.com"
    message = request(
        build(
            f"{method} {uri} SIP/2.0",
            To='"BEL:\\\x07 NUL:\\\x00 DEL:\\\x7f" <sip:1_odd~@example.com>',
            From="token1~` token2'+_ token3*%!.- <sip:mundane@example.com>"
            ";fromParam''~+*_!.-%=\"\u0440\u0430\u0431\";tag=_token~1'+`*%!-.",
        )
    )
    assert message.method == method
    assert isinstance(message.uri, SipUri)
    assert message.uri.password == "&it+has=1,pas$wo~d_too.(no)"
    assert message.to.display_name == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert message.from_.display_name == "token1~` token2'+_ token3*%!.-"
    assert message.from_.params.get("fromParam''~+*_!.-%") == "\u0440\u0430\u0431"
    assert message.from_.tag == "_token~1'+`*%!-."
    assert validate_request(message) is None


def test_escapes() -> None:
    # §3.1.1.3 to §3.1.1.5
    message = request(build("INVITE sip:sips%3Auser%40example.com@example.net SIP/2.0"))
    assert isinstance(message.uri, SipUri)
    assert message.uri.username == "sips:user@example.com"
    message = request(
        build("REGISTER sip:example.com SIP/2.0", Contact="<sip:%00@h.com>, <sip:%00%00@h.com>")
    )
    contacts = message.contacts
    assert contacts is not None
    assert [contact.sip_uri.username for contact in contacts] == ["\0", "\0\0"]
    assert contacts[0].uri != contacts[1].uri
    message = request(
        build("RE%47IST%45R sip:example.com SIP/2.0", To='"%Z%45" <sip:r@example.com>')
    )
    assert message.method == "RE%47IST%45R"
    assert message.to.display_name == "%Z%45"


def test_missing_space_before_bracket_is_accepted() -> None:
    # §3.1.1.6
    assert request(build(From="caller<sip:c@example.com>;tag=1")).from_.display_name == "caller"


def test_long_values() -> None:
    # §3.1.1.7
    user = "user" * 200
    message = request(
        build(
            f"INVITE sip:{user}@example.com SIP/2.0", Unknown="long" * 900, Call_ID="x" * 500
        ).replace("Via: ", "Via: " + "SIP/2.0/TCP h;branch=z9hG4bK" + "b" * 500 + ", " * 1, 1)
    )
    assert len(message.vias) == 2
    assert len(message.call_id) == 500
    assert validate_request(message) is None


def test_bytes_after_a_message_are_refused() -> None:
    # §3.1.1.8: after a datagram's message they are ignored; here they are an error.
    assert status(build(Content_Length="0") + build()) == 400


def test_semicolon_in_the_user_part() -> None:
    # §3.1.1.9
    message = request(build("OPTIONS sip:user;par=u%40example.net@example.com SIP/2.0"))
    assert isinstance(message.uri, SipUri)
    assert message.uri.username == "user;par=u@example.net"
    assert len(message.uri.params) == 0


def test_transports() -> None:
    # §3.1.1.10
    vias = ", ".join([f"SIP/2.0/{t} t.example.com" for t in ("UDP", "SCTP", "TLS", "UNKNOWN")])
    message = request(build(Via=vias))
    assert [via.transport for via in message.vias] == ["UDP", "SCTP", "TLS", "UNKNOWN"]


def test_binary_body() -> None:
    # §3.1.1.11
    body = b"--7a\r\nContent-Type: text/plain\r\n\r\n\x00\xff\r\n\r\n--7a--"
    data = build(Content_Type="multipart/mixed;boundary=7a", Content_Length=str(len(body)))
    message = request(data.encode() + body)
    assert message.body == body
    assert isinstance(message.to_websocket(), bytes)


def test_reason_phrases() -> None:
    # §3.1.1.12, §3.1.1.13
    unusual = "= 2**3 * 5**2 \u043d\u043e \u0441\u0442\u043e"
    for reason in (unusual, ""):
        message = parse_message(build(f"SIP/2.0 200 {reason}"))
        assert isinstance(message, SipResponse)
        assert message.reason == reason


# -- RFC 4475 §3.1.2: invalid ----------------------------------------------------------------------

NO_BRACKETS = "sip:user@example.com?Route=%3Csip:sip.example.com%3E"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # §3.1.2.1 separators with nothing between them
        (build(Via="SIP/2.0/UDP 192.0.2.15;;,;,,"), 400),
        (build(Contact='"Joe" <sip:joe@example.org>;;;;'), 400),
        # §3.1.2.2, §3.1.2.3 a body shorter than announced, a negative length
        (build(Content_Length="9999") + "v=0", 400),
        (build(Content_Length="-999"), 400),
        # §3.1.2.4 numbers out of range
        (build(CSeq="36893488147419103232 OPTIONS"), 400),
        (build(Max_Forwards="300"), 400),
        # §3.1.2.6 unclosed quotes
        (build(To='"Mr. J. User <sip:j.user@example.com>'), 400),
        # §3.1.2.7 brackets around the Request-URI
        (build("OPTIONS <sip:user@example.com> SIP/2.0"), 400),
        # §3.1.2.8, §3.1.2.9, §3.1.2.10 white space in and around the request line
        (build("OPTIONS sip:user@example.com; lr SIP/2.0"), 400),
        (build("OPTIONS  sip:user@example.com  SIP/2.0"), 400),
        (build("OPTIONS sip:user@example.com SIP/2.0  "), 400),
        # §3.1.2.11 header fields in the Request-URI
        (build("OPTIONS sip:user@example.com?Route=%3Csip:example.com%3E SIP/2.0"), 400),
        # §3.1.2.13 a Contact whose URI needs brackets
        (build(Contact=NO_BRACKETS), 400),
        # §3.1.2.14 space within the brackets
        (build(To='"Watson, Thomas" < sip:t.watson@example.org >'), 400),
        # §3.1.2.15 a display name that needs quotes
        (build(From="Bell, Alexander <sip:a.g.bell@example.com>;tag=43"), 400),
        # §3.1.2.16 an unknown version
        (build("OPTIONS sip:t.watson@example.org SIP/7.0"), 505),
        # §3.1.2.17, §3.1.2.18 CSeq names another method
        (build(CSeq="1 INVITE"), 400),
        (build("NEWMETHOD sip:user@example.com SIP/2.0", CSeq="1 INVITE"), 400),
    ],
)
def test_invalid_request_is_refused(data: str, expected: int) -> None:
    assert status(data) == expected


def test_invalid_date_is_ignored() -> None:
    # §3.1.2.12
    assert status(build(Date="Fri, 01 Jan 2010 16:00:00 EST")) is None


@pytest.mark.parametrize("code", ["4294967301", "0200", "99", "2\u0660\u0660"])
def test_invalid_status_code_gets_no_answer(code: str) -> None:
    # §3.1.2.5, §3.1.2.19: a response is dropped without an answer
    with pytest.raises(SipParseError) as caught:
        parse_message(build(f"SIP/2.0 {code} better not"))
    assert caught.value.response is None


# -- RFC 4475 §3.2 to §3.4: transactions, applications, old clients --------------------------------


def test_branch_of_only_the_cookie_is_accepted() -> None:
    # §3.2.1
    assert request(build(Via="SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK")).via.branch == "z9hG4bK"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        # §3.3.1 required fields
        ("INVITE sip:user@example.com SIP/2.0\r\nCSeq: 193942 INVITE\r\nl: 0\r\n\r\n", 400),
        # §3.3.2, §3.3.3 schemes, unknown and known but not routed
        (build("OPTIONS nobodyKnowsThisScheme:opaque SIP/2.0"), 416),
        (build("OPTIONS soap.beep://192.0.2.103:3002 SIP/2.0"), 416),
        # §3.3.4 an unknown scheme in other fields does not make the message invalid
        (build(To="isbn:2983792873", From="<http://www.example.com>;tag=1"), None),
        # §3.3.5 extensions that are required
        (build(Require="nothingSupportsThis", Proxy_Require="nothingEither"), 420),
        # §3.3.8, §3.3.9 repeated fields that may occur once
        (build().replace("To:", "CSeq: 5 INVITE\r\nTo:"), 400),
        (build(Content_Length="0").replace("To:", "l: 0\r\nTo:"), 400),
        (build().replace("To:", "f: <sip:x@y>\r\nTo:"), 400),
        (build().replace("To:", "Max-Forwards: 5\r\nTo:"), 400),
        # §3.3.11 no hops left, if the request does not go on
        (build(Max_Forwards="0"), None),
        # §3.3.12, §3.3.13, §3.3.14 parameters of a Contact and of its URI
        (build(Contact="<sip:+1972;unknown@gw.example.net>;other=x"), None),
        (build(Contact="sip:user@example.com;unknown=x"), None),
        (build(Contact="<sip:user@example.com?Route=%3Csip:sip.example.com%3E>"), None),
        # §3.4.1 a client of RFC 2543: no branch, no tag, no Max-Forwards
        (
            (
                "INVITE sip:UserB@example.com SIP/2.0\r\nVia: SIP/2.0/UDP iftgw.example.com\r\n"
                "From: <sip:+13035551111@ift.client.example.net;user=phone>\r\n"
                "To: sip:+16505552222@ss1.example.net;user=phone\r\nCall-ID: 1717@ift\r\n"
                "CSeq: 56 INVITE\r\nContent-Type: application/sdp\r\n\r\nv=0"
            ),
            None,
        ),
    ],
)
def test_semantics(data: str, expected: int | None) -> None:
    assert status(data) == expected


def test_exhausted_hops_end_a_forwarded_request() -> None:
    rejection = validate_request(request(build(Max_Forwards="0")))
    assert rejection is not None
    assert rejection.status == 483


def test_unknown_authorization_scheme() -> None:
    # §3.3.7
    message = request(build(Authorization="NoOneKnowsThisScheme opaque-data=here"))
    assert Credentials.parse(message.get("authorization") or "") is None


def test_broadcast_address_in_a_response_is_accepted() -> None:
    # §3.3.10: it is only ever compared, never a destination
    message = parse_message(
        build("SIP/2.0 200 OK", Via="SIP/2.0/UDP 192.0.2.1, SIP/2.0/UDP 255.255.255.255")
    )
    assert message.vias[1].host == "255.255.255.255"


def test_other_schemes_are_kept() -> None:
    message = request(build(To="isbn:2983792873", From="<tel:+1-201;x>;tag=1"))
    assert message.to.uri == AbsoluteUri("isbn:2983792873")
    assert message.from_.uri == TelUri("+1201", ";x")


# -- RFC 5118: IPv6 --------------------------------------------------------------------------------


def test_references() -> None:
    # §4.1, §4.3, §4.4
    message = request(
        build(
            "REGISTER sip:[2001:db8::10] SIP/2.0",
            Via="SIP/2.0/UDP [2001:db8::9:1];branch=z9hG4bK1",
            Contact="sip:caller@[2001:db8::1]",
        )
    )
    assert message.uri == SipUri("[2001:db8::10]")
    assert message.via.address == "2001:db8::9:1"
    ambiguous = SipUri.parse("sip:[2001:db8::10:5070]")
    assert (ambiguous.address, ambiguous.port) == ("2001:db8::10:5070", None)
    clear = SipUri.parse("sip:[2001:db8::10]:5070")
    assert (clear.address, clear.port) == ("2001:db8::10", 5070)


def test_ipv6_without_brackets_is_refused() -> None:
    # §4.2
    assert status(build("REGISTER sip:2001:db8::10 SIP/2.0")) == 400


def test_brackets_in_received() -> None:
    # §4.5
    for received in ("[2001:db8::9:255]", "2001:db8::9:255"):
        via = request(build(Via=f"SIP/2.0/UDP [2001:db8::9:1];received={received}")).via
        assert via.received == "2001:db8::9:255"


def test_session_description() -> None:
    # §4.6, §4.8
    body = "v=0\r\nc=IN IP6 2001:db8::20\r\nm=audio 1 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\n"
    data = build(Content_Type="application/sdp", Content_Length=str(len(body))) + body
    assert nat_uac_test(request(data), Source("2001:db8::20", 1, "ws"), 8 | 256) == 256


def test_both_families() -> None:
    # §4.7, §4.9
    message = request(
        build(Via="SIP/2.0/UDP [2001:db8::9:1], SIP/2.0/TCP 192.0.2.1;received=192.0.2.1")
    )
    assert [via.address for via in message.vias] == ["2001:db8::9:1", "192.0.2.1"]
    assert SipUri.parse("sip:a@[::ffff:192.0.2.10]:19823").address == "::ffff:192.0.2.10"


def test_ipv6_with_an_extra_colon_is_accepted() -> None:
    # §4.10: the old grammar produced it, so it is accepted
    assert SipUri.parse("sip:user@[2001:db8:::192.0.2.1]").host == "[2001:db8:::192.0.2.1]"


def test_in_a_stream() -> None:
    parser = SipStreamParser()
    good = build(Content_Length="0").encode()
    broken = build("OPTIONS sip:a SIP/7.0", Content_Length="0").encode()
    items = parser.receive(b"\r\n\r\n" + good + broken + good)
    assert items[0] is KeepAlive.PING
    error = items[2]
    assert isinstance(error, SipParseError)
    assert error.status == 505
    assert error.response is not None
    assert isinstance(items[3], SipRequest)
