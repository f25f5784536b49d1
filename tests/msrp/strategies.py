"""Chunks for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from wsproto_sip.msrp.message.chunk import Continuation, MsrpRequest, MsrpResponse
from wsproto_sip.msrp.message.uri import MsrpPath, parse_path

idents = st.from_regex(rb"\A[0-9A-Za-z][0-9A-Za-z.\-+%=]{3,31}\Z")
texts = st.from_regex(rb"\A[\t\x20-\x7e\x80-\xff]{0,20}\Z")
names = st.from_regex(rb"\AX-[!#$%&'*+\-.^_`|~0-9A-Za-z]{0,10}\Z")
uris = st.sampled_from(
    [b"msrp://a:1/s;tcp", b"msrps://[::1]:2/t;ws", b"msrp://u@b;tcp;x=y", b"MSRP://C:7/z;TCP"]
)
paths: st.SearchStrategy[MsrpPath] = st.lists(uris, min_size=1, max_size=8).map(
    lambda items: parse_path(b" ".join(items))
)
others = st.lists(st.tuples(names, texts), max_size=5)


@st.composite
def requests(draw: st.DrawFn) -> MsrpRequest:
    body = draw(st.none() | st.binary(max_size=80))
    headers = draw(others)
    if draw(st.booleans()):
        headers.append((b"Message-ID", draw(idents)))
    if body is not None:
        headers.append((b"Content-Type", b"application/octet-stream"))
    tid = draw(idents)
    if body is not None and draw(st.booleans()):
        # Similar to an end-line: with a longer id, or without the CRLF before it.
        body += b"\r\n-------x" + tid + b"$\r\n"
    return MsrpRequest(
        tid,
        draw(st.sampled_from([b"SEND", b"REPORT", b"AUTH", b"NICKNAME"])),
        draw(paths),
        draw(paths),
        headers,
        body,
        draw(st.sampled_from(Continuation)),
    )


@st.composite
def responses(draw: st.DrawFn) -> MsrpResponse:
    return MsrpResponse(
        draw(idents),
        draw(st.integers(100, 999)),
        draw(paths),
        draw(paths),
        draw(others),
        draw(st.none() | texts),
    )
