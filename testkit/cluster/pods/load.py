"""Keep-alive clients of the chat route, run inside the cluster: `python load.py URL`, with a KEY in the environment.

Reads how many clients there should be from standard input, a number a line, and ends when that closes. Each client
has one connection, asks one question after the other that nobody asked before, and reads each stream to its end.
Writes one JSON object a line for each stream that began or ended:

    {"live": 8, "client": 3}                                       streams at this moment
    {"live": 7, "client": 3, "outcome": "whole", "status": 200}    [DONE] was reached; or `cut`; or `refused`: no stream
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import sys
import threading
import uuid

import httpx

URL = sys.argv[1]
HEADERS = {"Authorization": f"Bearer {os.environ['KEY']}"} if os.environ.get("KEY") else {}
TIMEOUT = httpx.Timeout(60, connect=10)


class Load:
    """The clients. `wanted` is how many there should be: those past it stop after their present stream."""

    def __init__(self) -> None:
        self.wanted = 0
        self.live = 0
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def resize(self, wanted: int) -> None:
        self.wanted = wanted
        for index in range(wanted):
            if index not in self.tasks or self.tasks[index].done():
                self.tasks[index] = asyncio.create_task(self.client(index))

    async def client(self, index: int) -> None:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=URL, headers=HEADERS, timeout=TIMEOUT, limits=limits) as client:
            while index < self.wanted:
                await self.ask(client, index)

    async def ask(self, client: httpx.AsyncClient, index: int) -> None:
        status = 0
        outcome = "refused"
        reason = ""
        body = {
            "model": os.environ.get("MODEL", "standin"),
            "messages": [{"role": "user", "content": f"question {uuid.uuid4()}"}],
            "stream": True,
        }
        self.live += 1
        say({"live": self.live, "client": index})
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                status = answer.status_code
                if status == httpx.codes.OK:
                    outcome = "cut"
                    last = ""
                    async for line in answer.aiter_lines():
                        last = line or last
                    outcome = "whole" if last == "data: [DONE]" else "cut"
                    reason = "" if outcome == "whole" else last
                else:
                    reason = (await answer.aread()).decode(errors="replace")
        except httpx.HTTPError as error:
            reason = repr(error)
        self.live -= 1
        report = {"outcome": outcome, "status": status, "reason": reason[:300]}
        say({"live": self.live, "client": index, **report})
        if outcome == "refused":
            await asyncio.sleep(0.2)  # a server that is gone must not make us spin


def say(event: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def main() -> None:
    load = Load()
    loop = asyncio.get_running_loop()
    numbers: asyncio.Queue[int | None] = asyncio.Queue()

    def read() -> None:
        with contextlib.suppress(RuntimeError):  # the loop may have ended
            for line in itertools.chain(sys.stdin, [None]):
                loop.call_soon_threadsafe(numbers.put_nowait, None if line is None else int(line))

    threading.Thread(target=read, daemon=True).start()
    while (wanted := await numbers.get()) is not None:
        load.resize(wanted)
    load.resize(0)
    await asyncio.gather(*load.tasks.values())


if __name__ == "__main__":
    asyncio.run(main())
