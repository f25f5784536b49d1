"""What every adapter must do when messages are received in pieces."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from wsproto_sip.adapters.exceptions import ConnectionClosedError
from wsproto_sip.limits import STREAMING_LIMITS, Limits
from wsproto_sip.session.config import SessionConfig

from .._sessions import frame
from ._ends import Ends, raw_client
from ._suite import MESSAGES, NOISE, deflate, echo, peer, turns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

#: A configuration for messages of any size.
ENDLESS = SessionConfig(whole_messages=False, limits=STREAMING_LIMITS)


def raw_pieces(end: Any) -> Any:
    """Return the adapter's own iterator, if the suite wraps it."""
    return getattr(end, "connection", end).recv_streaming()


async def received(end: Any) -> list[str | bytes]:
    return [piece async for piece in end.recv_streaming()]


async def add_up(end: Any, sizes: list[int]) -> None:
    async for piece in end.recv_streaming():
        sizes.append(len(piece))


class Streaming(Ends):
    """All the tests."""

    @pytest.mark.parametrize("whole", [True, False], ids=["asked", "configured"])
    @pytest.mark.parametrize("compression", [None, "deflate"])
    def test_messages_are_sent_back_piece_by_piece(
        self, compression: str | None, whole: bool
    ) -> None:
        async def program(end: Any) -> None:
            with suppress(ConnectionClosedError):
                while True:
                    await end.send(raw_pieces(end))

        async def scenario() -> None:
            config = SessionConfig(whole_messages=whole)
            async with (
                self.serving(program, extensions=deflate, config=config) as port,
                peer(port, compression=compression) as websocket,
            ):
                for message in MESSAGES:
                    await websocket.send(message)
                    assert await websocket.recv() == message
                for pieces in (["Grü", "", "ße"], [b"", b"\xff" * 70000, b""], ["", ""]):
                    await websocket.send(pieces)
                    assert await websocket.recv() == pieces[0][:0].join(pieces)  # type: ignore[arg-type]

        self.run(scenario())

    def test_pieces_arrive_before_their_message_is_complete(self) -> None:
        got: list[str | bytes] = []

        async def program(end: Any) -> None:
            got.append(await end.recv())
            async for piece in end.recv_streaming():
                got.append(piece)
                await end.send("go on")
            await end.send("done")
            await end.recv()

        async def scenario() -> None:
            async with self.serving(program) as port:
                sock = await raw_client(port)
                loop = asyncio.get_running_loop()
                go_on, character = b"\x81\x05go on", "€".encode()
                # The message begins before its pieces are asked for, and a character is split.
                for data in (
                    frame(0x81, b"whole") + frame(0x01, b"a" + character[:1]),
                    frame(0x00, character[1:2]) + frame(0x00, character[2:] + b"b"),
                    frame(0x00, b"c" * 200)[:100],
                ):
                    await loop.sock_sendall(sock, data)
                    answer = b""
                    while answer != go_on:
                        answer += await loop.sock_recv(sock, 7 - len(answer))
                await loop.sock_sendall(sock, frame(0x00, b"c" * 200)[100:] + frame(0x80))
                answer = b""
                while not answer.endswith(b"done"):
                    answer += await loop.sock_recv(sock, 100)
                sock.close()

        self.run(scenario())
        assert got[:3] == ["whole", "a", "€b"]
        assert "".join(got[3:]) == "c" * 200  # type: ignore[arg-type]
        assert len(got) in (5, 6)

    def test_rest_of_an_abandoned_message_is_skipped(self) -> None:
        got: list[object] = []

        async def program(end: Any) -> None:
            async for piece in end.recv_streaming():
                got.append(len(piece) > 0)
                break
            got.append(await end.recv())
            pieces = end.recv_streaming()
            got.append(len(await anext(pieces)) > 0)
            await pieces.aclose()
            got.append([piece async for piece in pieces])
            got.append("".join(await received(end)))  # type: ignore[arg-type]
            # An iterator that was not started has nothing to skip.
            unused = end.recv_streaming()
            got.append(await end.recv())
            await unused.aclose()
            await end.send("done")

        async def scenario() -> None:
            async with self.serving(program) as port, peer(port) as websocket:
                for message in ([NOISE[:70000], NOISE[:300000]], "a", ["x" * 70000, "y"], "b", "c"):
                    await websocket.send(message)
                assert await websocket.recv() == "done"

        self.run(scenario())
        assert got == [True, "a", True, [], "b", "c"]

    def test_receiving_within_a_message_is_refused(self) -> None:
        async def program(end: Any) -> None:
            pieces = end.recv_streaming()
            first = await anext(pieces)
            for call in (end.recv, lambda: anext(end), lambda: anext(end.recv_streaming())):
                with pytest.raises(RuntimeError, match="a message is being received in pieces"):
                    await call()
            await end.send("go on")
            rest = b"".join([piece async for piece in pieces])
            assert first + rest == NOISE[:300000]
            await end.send(await end.recv())

        async def scenario() -> None:
            # In pieces from the start: the first may come before the program asks for them.
            async with self.serving(program, config=ENDLESS) as port, peer(port) as websocket:

                async def fragments() -> AsyncIterator[bytes]:
                    yield NOISE[:150000]
                    assert await websocket.recv() == "go on"
                    yield NOISE[150000:300000]

                await websocket.send(fragments())
                await websocket.send("next")
                assert await websocket.recv() == "next"

        self.run(scenario())

    def test_long_message_in_pieces_is_bounded_by_the_queue(self) -> None:
        most: list[int] = []
        sizes: list[int] = []

        async def program(end: Any) -> None:
            size = 0
            async for piece in end.recv_streaming():
                size += len(piece)
                most.append(end._pieces.size + len(piece))
                await self.nap()
            sizes.append(size)
            await end.send("done")
            await end.recv()

        async def fragments() -> AsyncIterator[bytes]:
            for _ in range(24):
                yield NOISE

        async def scenario() -> None:
            async with (
                self.serving(program, config=ENDLESS, extensions=deflate) as port,
                peer(port, compression=None) as websocket,
            ):
                await websocket.send(fragments())
                await websocket.send(NOISE * 8)
                assert await websocket.recv() == "done"

        self.run(scenario())
        assert sizes == [24 * len(NOISE)]
        # A full queue, and what one read adds to it.
        assert max(most) <= 2 * 64 * 1024 + 256 * 1024 + 1000

    def test_peer_waits_while_no_piece_is_taken(self) -> None:
        paused: list[int] = []

        async def program(end: Any) -> None:
            pieces = end.recv_streaming()
            await anext(pieces)
            while not end.session.paused:
                await self.nap()
            paused.append(end._pieces.size)
            assert sum([len(piece) async for piece in pieces]) > 0
            await end.send("done")

        async def scenario() -> None:
            async with (
                self.serving(program, config=ENDLESS) as port,
                peer(port, compression=None) as websocket,
            ):
                await websocket.send([NOISE] * 24)
                assert await websocket.recv() == "done"

        self.run(scenario())
        assert 0 < paused[0] <= 64 * 1024 + 256 * 1024 + 1000

    def test_message_size_bound_applies_to_pieces(self) -> None:
        seen: list[int] = []

        async def program(end: Any) -> None:
            with pytest.raises(ConnectionClosedError, match="more than 500000 bytes") as caught:
                await add_up(end, seen)
            sent = caught.value.event.close_sent
            assert sent is not None
            assert sent.code == 1009

        async def scenario() -> None:
            # In pieces from the start: the end may come before the program asks for them.
            config = replace(ENDLESS, limits=Limits(max_message_size=500_000))
            async with self.serving(program, config=config) as port, peer(port) as websocket:
                with suppress(Exception):
                    await websocket.send([NOISE[:400_000], NOISE[:200_000]])
                with pytest.raises(Exception, match="1009"):
                    await websocket.recv()
                await turns(lambda: bool(seen))

        self.run(scenario())
        assert sum(seen) == 400_000

    @pytest.mark.parametrize("code", [1000, 4001, 1006])
    def test_end_within_a_message_is_reported_after_its_pieces(self, code: int) -> None:
        seen: list[object] = []

        async def program(end: Any) -> None:
            pieces = end.recv_streaming()
            seen.append(await anext(pieces))
            for call in (lambda: anext(pieces), lambda: anext(end.recv_streaming()), end.recv):
                with pytest.raises(ConnectionClosedError) as caught:
                    await call()
            with pytest.raises(StopAsyncIteration):
                await anext(pieces)
            seen.append(caught.value.code)

        async def scenario() -> None:
            # In pieces from the start: the end may come before the program asks for them.
            async with self.serving(program, config=ENDLESS) as port:
                sock = await raw_client(port)
                data = frame(0x01, b"begin")
                if code != 1006:
                    data += frame(0x88, code.to_bytes(2))
                await asyncio.get_running_loop().sock_sendall(sock, data)
                # The server's answer must not cause a reset before everything is read.
                sock.shutdown(socket.SHUT_WR)
                await turns(lambda: len(seen) == 2)
                sock.close()

        self.run(scenario())
        assert seen == ["begin", code]

    def test_recv_joins_pieces(self) -> None:
        async def scenario() -> None:
            config = replace(ENDLESS, limits=Limits())
            async with (
                self.serving(echo, config=config, extensions=deflate) as port,
                peer(port) as websocket,
            ):
                for message in MESSAGES:
                    await websocket.send(message)
                    assert await websocket.recv() == message
                await websocket.send([NOISE[:5], b"", NOISE[5:100_000]])
                assert await websocket.recv() == NOISE[:100_000]

        self.run(scenario())

    def test_client_receives_pieces(self) -> None:
        async def program(end: Any) -> None:
            await end.send(["Grü", "ße", "x" * 100_000])
            await end.send("")
            await end.recv()

        async def scenario() -> None:
            async with self.serving(program) as port, self.client(f"ws://127.0.0.1:{port}") as end:
                assert "".join(await received(end)) == "Grüße" + "x" * 100_000  # type: ignore[arg-type]
                assert await received(end) == [""]
                await end.send("done")

        self.run(scenario())
