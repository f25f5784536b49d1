"""Run uvicorn or hypercorn with wsproto_sip in place of wsproto, in a process of its own.

``python -m tests.peers._alias_server uvicorn|hypercorn``: listens on a free port of 127.0.0.1,
prints the port, and serves :func:`application` until SIGTERM.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import socket
import sys
from pathlib import Path
from typing import Any

#: Bytes of the longest message that the servers accept.
MAX_MESSAGE = 65536

#: The modules of wsproto.
SUBMODULES = (
    "connection",
    "events",
    "extensions",
    "frame_protocol",
    "handshake",
    "typing",
    "utilities",
)

Scope = dict[str, Any]

#: What the application was told at the end of each connection.
_ends: asyncio.Queue[Scope] = asyncio.Queue()


def install() -> None:
    """Make every ``import wsproto…`` of this process find wsproto_sip."""
    assert not any(_is_wsproto(name) for name in sys.modules)
    sys.modules["wsproto"] = importlib.import_module("wsproto_sip")
    for name in SUBMODULES:
        sys.modules[f"wsproto.{name}"] = importlib.import_module(f"wsproto_sip.{name}")


def _is_wsproto(name: str) -> bool:
    return name == "wsproto" or name.startswith("wsproto.")


def _files() -> dict[str, str]:
    """Return the directories of all modules named wsproto, or below it."""
    return {
        name: Path(module.__file__ or "").parent.name
        for name, module in sys.modules.items()
        if _is_wsproto(name)
    }


async def application(scope: Scope, receive: Any, send: Any) -> None:
    """Serve the tests; the path selects the behaviour."""
    if scope["type"] == "lifespan":
        while (event := (await receive())["type"]) != "lifespan.shutdown":
            await send({"type": f"{event}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    assert scope["type"] == "websocket", scope["type"]
    assert (await receive())["type"] == "websocket.connect"
    match scope["path"]:
        case "/echo":
            await _echo(scope, receive, send)
        case "/refuse":
            await send({"type": "websocket.close"})
        case "/response":
            await send(
                {
                    "type": "websocket.http.response.start",
                    "status": 401,
                    "headers": [(b"www-authenticate", b"Basic"), (b"content-length", b"7")],
                }
            )
            for body, more in ((b"no ", True), (b"way!", False)):
                piece = {"type": "websocket.http.response.body", "body": body, "more_body": more}
                await send(piece)
        case "/modules":
            await _tell(send, _files())
        case "/scope":
            told = {name: scope[name] for name in ("http_version", "query_string", "subprotocols")}
            told["query_string"] = told["query_string"].decode()
            await _tell(send, told)
        case "/end":
            end = await _ends.get()
            await _tell(send, {name: end.get(name) for name in ("code", "reason")})


async def _tell(send: Any, value: object) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps(value)})
    await send({"type": "websocket.close"})


async def _echo(scope: Scope, receive: Any, send: Any) -> None:
    subprotocol = next(iter(scope["subprotocols"]), None)
    headers = [(b"x-echo", b"yes")]
    await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            _ends.put_nowait(message)
            return
        text = message.get("text")
        if text is not None and text.startswith("close "):
            _, code, reason = text.split(" ", 2)
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        elif text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": message["bytes"]})


def _uvicorn(listener: socket.socket) -> None:
    import uvicorn

    config = uvicorn.Config(
        application,
        http="h11",
        ws="wsproto",
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=None,
        lifespan="off",
    )
    uvicorn.Server(config).run([listener])


def _hypercorn(listener: socket.socket) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.websocket_max_message_size = MAX_MESSAGE
    config.errorlog = "-"
    asyncio.run(serve(application, config))  # type: ignore[arg-type]


def main() -> None:
    """Run the server named on the command line."""
    install()
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    {"uvicorn": _uvicorn, "hypercorn": _hypercorn}[sys.argv[1]](listener)


if __name__ == "__main__":
    main()
