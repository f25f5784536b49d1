"""What every adapter must do with policies, plain requests, and the arguments of its functions."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import unix_connect
from websockets.exceptions import InvalidStatus

from wsproto_sip.adapters.exceptions import ConnectionClosedError, HandshakeRejected
from wsproto_sip.auth.identity import Identity
from wsproto_sip.extensions import PerMessageDeflate
from wsproto_sip.policy import Continue, Deferred, PolicyChain
from wsproto_sip.policy.decision import Respond
from wsproto_sip.policy.origin import OriginPolicy
from wsproto_sip.session.config import SessionConfig

from ._suite import HOST, NOISE, Behaviour, echo, peer, turns

if TYPE_CHECKING:
    from pathlib import Path

    from wsproto_sip.policy import RequestContext
    from wsproto_sip.policy.decision import Decision


async def fetch(port: int, head: str) -> bytes:
    """Send a request, and return the response up to its end."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"{head}\r\nHost: x\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


class Policies(Behaviour):
    """All the tests."""

    def test_pages_of_another_origin_are_refused(self) -> None:
        origin = OriginPolicy(["https://app.example"], allow_null=False, allow_missing=False)

        async def scenario() -> None:
            async with self.serving(echo, policies=PolicyChain([origin])) as port:
                async with peer(port, origin="https://app.example") as websocket:
                    await websocket.send("x")
                    assert await websocket.recv() == "x"
                for other in ("https://evil.example", None):
                    with pytest.raises(InvalidStatus, match="403"):
                        await peer(port, origin=other)

        self.run(scenario())

    def test_deferred_identity_is_on_the_connection(self) -> None:
        def defer(context: RequestContext) -> Decision:
            def conclude(answer: object) -> Decision:
                return Continue([(b"X-For", str(answer).encode())], identity=Identity(str(answer)))

            return Deferred(context.request.target, conclude)

        async def resolve(end: Any, question: object) -> str:
            return f"user of {question}"

        async def program(end: Any) -> None:
            await end.send(f"{end.identity.name}, {end.peer[0]}, {end.local[1]}")

        async def scenario() -> None:
            policies = PolicyChain([defer])
            async with (
                self.serving(program, policies=policies, resolve=resolve) as port,
                peer(port, "/a") as websocket,
            ):
                assert websocket.response
                assert websocket.response.headers["X-For"] == "user of /a"
                assert await websocket.recv() == f"user of /a, {HOST}, {port}"

        self.run(scenario())

    def test_plain_requests_are_answered_by_the_program(self) -> None:
        async def process_request(end: Any) -> Respond | None:
            if not end.upgrade and end.request.target == "/health":
                return Respond(200, body=b"well")
            return None

        async def scenario() -> None:
            config = SessionConfig(plain_requests=True)
            async with self.serving(echo, config=config, process_request=process_request) as port:
                answer = await fetch(port, "GET /health HTTP/1.1")
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.endswith(b"\r\n\r\nwell")
                answer = await fetch(port, "GET /health HTTP/1.0")
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert answer.endswith(b"\r\n\r\nwell")
                answer = await fetch(port, "HEAD /health HTTP/1.1")
                assert b"content-length: 4\r\n" in answer.lower()
                assert answer.endswith(b"\r\n\r\n")
                assert (await fetch(port, "GET / HTTP/1.1")).startswith(b"HTTP/1.1 426 ")
                async with peer(port) as websocket:
                    await websocket.send("x")
                    assert await websocket.recv() == "x"

        self.run(scenario())

    def test_unix_socket(self, tmp_path: Path) -> None:
        path = str(tmp_path / "s")
        seen: list[Any] = []

        async def program(end: Any) -> None:
            seen.append((end.peer, end.local))
            await echo(end)

        async def scenario() -> None:
            async with self.serving(program, unix=path) as port:
                assert port == 0
                async with unix_connect(path, ping_interval=None) as websocket:
                    await websocket.send("x")
                    assert await websocket.recv() == "x"

        self.run(scenario())
        [(client, local)] = seen
        assert local == (path, None)
        assert client[0].startswith("unix")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("by_number", [False, True])
    def test_inherited_socket(self, by_number: bool) -> None:
        async def scenario() -> None:
            given = socket.create_server((HOST, 0))
            place = given.getsockname()
            async with self.serving(echo, sock=given.detach() if by_number else given) as port:
                assert port == place[1]
                async with peer(port) as websocket:
                    await websocket.send("x")
                    assert await websocket.recv() == "x"

        self.run(scenario())

    def test_missing_place_and_unknown_option_are_type_errors(self) -> None:
        async def scenario() -> None:
            with pytest.raises(TypeError, match="name exactly one place to listen on"):
                async with self.serving(echo, unix="x", sock=0):
                    pass
            with pytest.raises(TypeError, match=r"serve.* unexpected keyword argument 'ping'"):
                async with self.serving(echo, ping=5):
                    pass
            with pytest.raises(TypeError, match=r"^connect\(.* unexpected keyword argument 'ping'"):
                async with self.client("ws://x/", ping=5):
                    pass
            with pytest.raises(TypeError, match="headers: 'x' is not a pair"):
                async with self.client("ws://x/", headers=["x"]):
                    pass

        self.run(scenario())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("extensions", [PerMessageDeflate()]),
            ("ssl", True),
            ("unix", 5),
            ("sock", "listener"),
            ("backlog", "many"),
            ("drain", None),
        ],
    )
    def test_argument_of_another_type_is_refused_when_the_server_is_made(
        self, name: str, value: object
    ) -> None:
        async def scenario() -> None:
            with pytest.raises(TypeError, match=f"^{name} must be "):
                async with self.serving(echo, **{name: value}):
                    pass

        self.run(scenario())

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("extensions", [PerMessageDeflate()]),
            ("host", b"localhost"),
            ("port", "80"),
            ("ssl", True),
            ("proxy", 5),
            ("proxy_ssl", "no"),
            ("max_redirects", None),
            ("server_hostname", 5),
        ],
    )
    def test_argument_of_another_type_is_refused_before_connecting(
        self, name: str, value: object
    ) -> None:
        async def scenario() -> None:
            with pytest.raises(TypeError, match=f"^{name} must be "):
                async with self.client("wss://x/", **{name: value}):
                    pass

        self.run(scenario())

    def test_header_fields_may_be_a_mapping(self) -> None:
        async def program(end: Any) -> None:
            await end.send(dict(end.request.extra_headers)[b"x-one"].decode())

        async def scenario() -> None:
            async with (
                self.serving(program) as port,
                self.client(f"ws://{HOST}:{port}", headers={"X-One": "1"}) as end,
            ):
                assert await end.recv() == "1"
                assert end.peer == (HOST, port)

        self.run(scenario())

    def test_overrides_do_not_apply_to_another_origin(self) -> None:
        """The address given for the first server is not used after a redirect to another one."""
        asked: list[str] = []

        async def scenario() -> None:
            async def redirect(end: Any) -> None:
                asked.append(end.request.host)
                place = f"ws://{HOST}:{there}/".encode()
                raise HandshakeRejected(302, [(b"Location", place)])

            async with (
                self.serving(echo) as there,
                self.serving(echo, process_request=redirect) as here,
                self.client("ws://first.invalid/", host=HOST, port=here) as end,
            ):
                assert end.peer == (HOST, there)
                await end.send("x")
                assert await end.recv() == "x"

        self.run(scenario())
        assert asked == ["first.invalid"]

    def test_iterable_is_sent_in_fragments(self) -> None:
        """Each piece is a fragment; another sender waits until the message is sent."""

        async def program(end: Any) -> None:
            await end.send(["Grü", "", "ße"])
            await end.send(NOISE[start : start + 65536] for start in range(0, len(NOISE), 65536))
            await end.send([])
            await end.send("after")
            for wrong in ({"a": "b"}, [5]):
                with pytest.raises(TypeError, match="must be str"):
                    await end.send(wrong)
            await end.send(b"end")
            await end.recv()

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                assert [piece async for piece in websocket.recv_streaming()] == [
                    "Grü",
                    "",
                    "ße",
                    "",
                ]
                assert await websocket.recv() == NOISE
                assert await websocket.recv() == "after"
                assert await websocket.recv() == b"end"

        self.run(scenario())

    @pytest.mark.parametrize("wrong", [["a", b"b"], ["a", 5]])
    def test_failing_iterable_closes_with_1011(self, wrong: Any) -> None:
        async def program(end: Any) -> None:
            with pytest.raises(TypeError, match="piece"):
                await end.send(wrong)

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                with pytest.raises(Exception, match="1011"):
                    await websocket.recv()

        self.run(scenario())

    def test_iterator_sending_on_its_own_connection_fails_instead_of_hanging(self) -> None:
        async def program(end: Any) -> None:
            def pieces() -> Any:
                yield "first"
                # In the same task or thread, up to the point where it would wait.
                end.send("x").send(None)

            with pytest.raises(RuntimeError, match="the iterator of a message sends on"):
                await end.send(pieces())
            with pytest.raises(ConnectionClosedError):
                await end.send("after")

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                with pytest.raises(Exception, match="1011"):
                    await websocket.recv()

        self.run(scenario())

    def test_iterator_can_continue_after_that_error(self) -> None:
        async def program(end: Any) -> None:
            def pieces() -> Any:
                for message in ("x", ["a"]):
                    with pytest.raises(RuntimeError, match="the iterator of a message sends on"):
                        end.send(message).send(None)
                    yield "piece "

            await end.send(pieces())
            await end.send("after")
            await end.recv()

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                assert await websocket.recv() == "piece piece "
                assert await websocket.recv() == "after"

        self.run(scenario())

    def test_connection_that_ends_stops_an_iterable(self) -> None:
        ends: list[int] = []

        async def program(end: Any) -> None:
            def pieces() -> Any:
                while True:
                    yield bytes(65536)

            with pytest.raises(ConnectionClosedError) as caught:
                await end.send(pieces())
            ends.append(caught.value.code)

        async def scenario() -> None:
            async with self.serving(program) as port:
                websocket = await peer(port)
                websocket.transport.abort()
                await turns(lambda: bool(ends))

        self.run(scenario())
        assert ends == [1006]
