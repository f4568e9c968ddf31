"""The least that a Python server can do: read a body, answer 1 KB. `python -m benchmarks.gateways.floor PORT`.

A bare ASGI application, on uvicorn with the same options as the service has: no routing, no parsing, no log line.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

from benchmarks.gateways.provider import COMPLETION

_HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(COMPLETION))]


async def app(_: Any, receive: Any, send: Any) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": COMPLETION})


if __name__ == "__main__":
    uvicorn.run(
        app,
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
    )
