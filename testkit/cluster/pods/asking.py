"""Clients that ask the same questions again and again: `python asking.py URL MODEL`, with a KEY in the environment.

Each has one connection and asks some questions a second, drawn from a list that all share. Answers say until when
they are true (`changes_every` in testkit/provider.py), so each hit is known to be stale or not. Each second writes
what was seen since the beginning; ends when standard input closes:

    {"hits": 310, "stale": 12, "misses": 90, "failed": 0, "missed": {"question 7": 4}, "error": ""}
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter

import httpx

URL, MODEL = sys.argv[1:3]
HEADERS = {"Authorization": f"Bearer {os.environ['KEY']}"}
CLIENTS = 12
QUESTIONS = 60
PAUSE = 0.3
"""Mean seconds between an answer and a client's next question."""


class Asking:
    """The clients, and what they saw."""

    def __init__(self) -> None:
        self.seen = {"hits": 0, "stale": 0, "misses": 0, "failed": 0}
        self.missed: Counter[str] = Counter()
        self.error = ""

    async def client(self) -> None:
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(base_url=URL, headers=HEADERS, timeout=30, limits=limits) as client:
            while True:
                await asyncio.sleep(random.expovariate(1 / PAUSE))
                try:
                    await self.ask(client, f"question {random.randrange(QUESTIONS)}")
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    self.seen["failed"] += 1
                    self.error = repr(error)

    async def ask(self, client: httpx.AsyncClient, question: str) -> None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
        answer = await client.post("/v1/chat/completions", json=body)
        answer.raise_for_status()
        until = float(answer.json()["choices"][0]["message"]["content"].split("|")[2])
        if "; hit" in answer.headers["cache-status"]:
            self.seen["hits"] += 1
            self.seen["stale"] += time.time() > until
        else:
            self.seen["misses"] += 1
            self.missed[question] += 1

    async def report(self) -> None:
        while True:
            await asyncio.sleep(1)
            sys.stdout.write(json.dumps({**self.seen, "missed": self.missed, "error": self.error}) + "\n")
            sys.stdout.flush()


async def main() -> None:
    asking = Asking()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asking.client()) for _ in range(CLIENTS)]
        tasks.append(group.create_task(asking.report()))
        await asyncio.to_thread(sys.stdin.read)
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
