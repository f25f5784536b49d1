"""What opening a connection costs a server and a client, compared with other libraries.

Run from the root of the repository::

    python -m benchmarks.handshake
    python -m benchmarks.handshake --smoke
    python -m benchmarks.handshake --markdown

Theory of operation: for each handshake a candidate creates a connection object, gets the request in
one piece, examines it and accepts it; the lengths of the responses are added up. As a client it
makes a request and gets the matching response. Responses are parsed once before the clock starts,
and must accept the key, with compression if that is measured. No sockets are involved, and no time
is spent on tasks or timers.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from benchmarks._harness import DeliveryError, Goal, Results, Turn, read_options, take_turns

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
TOKEN = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

#: Chromium's request for a page that logs in with a cookie.
CHROMIUM = (
    b"GET /sip?room=1 HTTP/1.1\r\n"
    b"Host: sip.example.org:8443\r\n"
    b"Connection: Upgrade\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/141.0.0.0 Safari/537.36\r\n"
    b"Upgrade: websocket\r\n"
    b"Origin: https://phone.example.org\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7\r\n"
    b"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    b"Sec-WebSocket-Protocol: sip\r\n"
    b"\r\n"
)
#: Firefox's request: more fields, and a list in Connection.
FIREFOX = (
    b"GET /sip?room=1 HTTP/1.1\r\n"
    b"Host: sip.example.org:8443\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0\r\n"
    b"Accept: */*\r\n"
    b"Accept-Language: de,en-US;q=0.7,en;q=0.3\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Sec-WebSocket-Version: 13\r\n"
    b"Origin: https://phone.example.org\r\n"
    b"Sec-WebSocket-Protocol: sip\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
    b"Sec-WebSocket-Key: " + KEY + b"\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-Fetch-Dest: empty\r\n"
    b"Sec-Fetch-Mode: websocket\r\n"
    b"Sec-Fetch-Site: cross-site\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache\r\n"
    b"Upgrade: websocket\r\n"
    b"\r\n"
)
#: Chromium's request with unusual white space, which readers of the usual form do not accept.
UNUSUAL = CHROMIUM.replace(b"Pragma: no-cache", b"Pragma:  no-cache")

ACCEPT = "accept, Chromium's head"
#: Rows: title, the request's head, whether to accept permessage-deflate.
SERVERS: list[tuple[str, bytes, bool]] = [
    (ACCEPT, CHROMIUM, False),
    ("accept with deflate, Chromium's head", CHROMIUM, True),
    ("accept, Firefox's head", FIREFOX, False),
    ("accept, unusual white space", UNUSUAL, False),
]
CLIENT = "request and response, client"
GOALS = [
    Goal(ACCEPT, "wsproto_sip", "wsproto", 0.40),
    Goal("accept with deflate, Chromium's head", "wsproto_sip", "wsproto", 0.50),
]

#: Opens one connection, returns its output.
Open = Callable[[], bytes]


def response_to(key: bytes, subprotocol: bool = True) -> bytes:
    """Return a response that accepts a request with this key, and its sub-protocol."""
    token = importlib.import_module("wsproto_sip.utilities").generate_accept_token(key)
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%bServer: any\r\n\r\n"
        % (token, b"Sec-WebSocket-Protocol: sip\r\n" if subprotocol else b"")
    )


def key_of(request: bytes) -> bytes:
    """Return the key in a request's head."""
    fields = [line.partition(b": ") for line in request.split(b"\r\n")]
    return next(value for name, _, value in fields if name.lower() == b"sec-websocket-key")


def wsproto_like_server(package: str, head: bytes, deflate: bool) -> Open:
    """Run ``WSConnection`` of this package or of wsproto, from its creation to the response."""
    make = importlib.import_module(package).WSConnection
    role = importlib.import_module(f"{package}.connection").ConnectionType.SERVER
    accept = importlib.import_module(f"{package}.events").AcceptConnection
    compression = importlib.import_module(f"{package}.extensions").PerMessageDeflate

    def run() -> bytes:
        connection = make(role)
        connection.receive_data(head)
        for request in connection.events():
            chosen = request.subprotocols[0]
        extensions = [compression()] if deflate else []
        raw: bytes = connection.send(accept(subprotocol=chosen, extensions=extensions))
        return raw

    return run


def wsproto_like_client(package: str) -> Open:
    """Run ``WSConnection`` of either package, from its creation to ``AcceptConnection``."""
    make = importlib.import_module(package).WSConnection
    role = importlib.import_module(f"{package}.connection").ConnectionType.CLIENT
    request = importlib.import_module(f"{package}.events").Request

    def run() -> bytes:
        connection = make(role)
        raw: bytes = connection.send(
            request(host="sip.example.org:8443", target="/sip", subprotocols=["sip"])
        )
        connection.receive_data(response_to(key_of(raw)))
        for event in connection.events():
            if event.subprotocol != "sip":
                raise DeliveryError(f"{package} gave {event}")
        return raw

    return run


def websockets_server(head: bytes, deflate: bool) -> Open:
    """Run the sans-IO ``ServerProtocol``."""
    make = importlib.import_module("websockets.server").ServerProtocol
    module = importlib.import_module("websockets.extensions.permessage_deflate")

    def run() -> bytes:
        factories = [module.ServerPerMessageDeflateFactory()] if deflate else None
        connection = make(subprotocols=["sip"], extensions=factories)
        connection.receive_data(head)
        for request in connection.events_received():
            connection.send_response(connection.accept(request))
        return b"".join(connection.data_to_send())

    return run


def websockets_client() -> Open:
    """Run the sans-IO ``ClientProtocol``."""
    make = importlib.import_module("websockets.client").ClientProtocol
    parse = importlib.import_module("websockets.uri").parse_uri

    def run() -> bytes:
        connection = make(parse("ws://sip.example.org:8443/sip"), subprotocols=["sip"])
        connection.send_request(connection.connect())
        raw = b"".join(connection.data_to_send())
        connection.receive_data(response_to(key_of(raw)))
        for _ in connection.events_received():
            if connection.subprotocol != "sip":
                raise DeliveryError(f"websockets agreed on {connection.subprotocol}")
        return raw

    return run


CANDIDATES: dict[str, tuple[str, Callable[[bytes, bool], Open], Callable[[], Open]]] = {
    name: (
        "WSConnection",
        lambda head, deflate, name=name: wsproto_like_server(name, head, deflate),  # type: ignore[misc]
        lambda name=name: wsproto_like_client(name),  # type: ignore[misc]
    )
    for name in ("wsproto_sip", "wsproto")
}
CANDIDATES["websockets"] = (
    "the sans-IO ServerProtocol and ClientProtocol",
    websockets_server,
    websockets_client,
)


def check_response(candidate: str, response: bytes, deflate: bool) -> None:
    """Parse a response.

    Raises:
        DeliveryError: The response does not accept the request.
    """
    start, *lines = bytes(response).split(b"\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
    if not (
        start.startswith(b"HTTP/1.1 101")
        and fields.get(b"sec-websocket-accept") == TOKEN
        and fields.get(b"sec-websocket-protocol") == b"sip"
        and (b"sec-websocket-extensions" in fields) is deflate
    ):
        raise DeliveryError(f"{candidate} answers {response!r}")


def measure(results: Results, number: int, rounds: int) -> None:
    """Time every candidate in both roles.

    Args:
        results: Receives the figures.
        number: The number of handshakes in one turn.
        rounds: How often each candidate is timed.
    """
    for title, head, deflate in SERVERS:
        turns = []
        for name in results.candidates:
            run = CANDIDATES[name][1](head, deflate)
            check_response(name, run(), deflate)
            turns.append(Turn(name, _turn(run, number)))
        results.samples[title] = take_turns(
            turns, expected=number, operations=number, rounds=rounds
        )
    turns = [Turn(name, _turn(CANDIDATES[name][2](), number)) for name in results.candidates]
    results.samples[CLIENT] = take_turns(turns, expected=number, operations=number, rounds=rounds)


def _turn(run: Open, number: int) -> Callable[[], Callable[[], int]]:
    def repeat() -> int:
        return sum(bool(run()) for _ in range(number))

    return lambda: repeat


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 0 if every candidate opened its connections."""
    options = read_options("handshake", __doc__ or "", arguments, rounds=15)
    results = Results(
        "Opening connections, CPU time in µs per handshake", {}, ["wsproto_sip"], per="handshake"
    )
    for name, (note, make, _) in CANDIDATES.items():
        try:
            make(CHROMIUM, False)
        except ImportError as error:
            results.missing.append(f"{name} ({error})")
        else:
            results.candidates[name] = note
    try:
        measure(results, 5 if options.smoke else 300, 1 if options.smoke else options.rounds)
    except DeliveryError as error:
        print(error, file=sys.stderr)
        return 1
    goals = [] if options.smoke else GOALS
    print(results.render(goals, markdown=options.markdown))
    if options.smoke:
        print("\nsmoke run: every connection was opened; the figures mean nothing")
    if options.json:
        results.write_json(options.json, goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
