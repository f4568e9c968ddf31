"""Requests that come whatever becomes of those before: `python arriving.py URL SEED`, with a KEY in the environment.

Standard input has a JSON object a line and ends the requests by closing. `{"rate": 8.0, "known": 0.8}`: from now on as
many a second by chance (Poisson), that share of them one of `KNOWN` questions, the others asked by nobody before; all
are streamed. `{"warm": true}`: ask each of those questions once, and write a line when that is done. Connections are
kept for five seconds of idleness, and nobody asks again who was refused. Each second writes what there was since the
beginning, `cut` being streams that began and did not end as they should:

    {"sent": 310, "live": 12, "whole": 280, "hits": 190, "refused": 6, "cut": 0, "warm": 0, "error": ""}
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from collections import Counter

import httpx

URL, SEED = sys.argv[1:3]
HEADERS = {"Authorization": f"Bearer {os.environ['KEY']}"}
KNOWN = 1200
AT_ONCE = 8
"""Of the questions that warm the cache."""


class Arriving:
    """The requests, and what became of them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.rng = random.Random(SEED)
        self.rate = self.known = 0.0
        self.changed = asyncio.Event()
        self.seen: Counter[str] = Counter()
        self.error = ""
        self.new = 0

    async def come(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self.changed.clear()
            if self.rate:
                due = max(due, loop.time() - 1) + self.rng.expovariate(self.rate)
            try:
                async with asyncio.timeout_at(due if self.rate else None):
                    await self.changed.wait()  # then the next one is drawn anew, which is as likely
                due = loop.time()
            except TimeoutError:
                group.create_task(self.ask(self.question()))

    def question(self) -> str:
        if self.rng.random() < self.known:
            return f"known {self.rng.randrange(KNOWN)}"
        self.new += 1
        return f"new {SEED} {self.new}"

    async def ask(self, question: str) -> None:
        self.seen["sent"] += 1
        self.seen["live"] += 1
        outcome = "refused"
        body = {"model": "standin", "messages": [{"role": "user", "content": question}], "stream": True}
        try:
            async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code == httpx.codes.OK:
                    outcome, last = "cut", ""
                    async for line in answer.aiter_lines():
                        last = line or last
                    outcome = "whole" if last == "data: [DONE]" else "cut"
                    self.seen["hits"] += "; hit" in answer.headers["cache-status"]
                else:
                    self.error = (await answer.aread()).decode(errors="replace")[:200]
        except (httpx.HTTPError, KeyError) as error:
            self.error = repr(error)
        self.seen["live"] -= 1
        self.seen[outcome] += 1

    async def warm(self) -> None:
        room = asyncio.Semaphore(AT_ONCE)

        async def one(number: int) -> None:
            async with room:
                await self.ask(f"known {number}")

        await asyncio.gather(*map(one, range(KNOWN)))
        self.seen.clear()
        self.seen["warm"] = 1

    def tell(self) -> None:
        names = ("sent", "live", "whole", "hits", "refused", "cut", "warm")
        sys.stdout.write(json.dumps({name: self.seen[name] for name in names} | {"error": self.error}) + "\n")
        sys.stdout.flush()

    async def report(self) -> None:
        while True:
            self.tell()
            await asyncio.sleep(1)


async def main() -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=5)
    async with httpx.AsyncClient(base_url=URL, headers=HEADERS, timeout=60, limits=limits) as client:
        arriving = Arriving(client)
        reporting = asyncio.create_task(arriving.report())
        async with asyncio.TaskGroup() as requests:
            coming = asyncio.create_task(arriving.come(requests))
            while line := await asyncio.to_thread(sys.stdin.readline):
                asked = json.loads(line)
                if "warm" in asked:
                    await arriving.warm()
                else:
                    arriving.rate, arriving.known = asked["rate"], asked["known"]
                    arriving.changed.set()
            coming.cancel()
        reporting.cancel()
        arriving.tell()


if __name__ == "__main__":
    asyncio.run(main())
