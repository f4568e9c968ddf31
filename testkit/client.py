"""A client that notes what happened to each request, and when: the rows count and time by it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec


class Outcome(msgspec.Struct):
    """One request. Moments are monotonic seconds; `first` is when the first text came, 0 if none did.

    `error` is None for a complete answer. `text` is what came, whether or not it is complete.
    """

    question: str
    streamed: bool
    began: float
    status: int = 0
    cache: str = ""
    first: float = 0.0
    ended: float = 0.0
    text: str = ""
    error: str | None = None

    @property
    def took(self) -> float:
        return self.ended - self.began

    @property
    def hit(self) -> bool:
        return "; hit" in self.cache

    @property
    def failed_unsent(self) -> bool:
        """Failed although nothing of an answer had been sent to the client."""
        return self.error is not None and not self.text

    @property
    def failed_midway(self) -> bool:
        return self.error is not None and bool(self.text)

    @property
    def reported(self) -> bool:
        """Failed mid-answer with an error event, after which the stream ended properly."""
        return self.error is not None and self.error.startswith("error event")

    @property
    def generation(self) -> int:
        """Of the provider when it was called for this answer."""
        return int(self.text.partition("|")[0].removeprefix("g"))

    @property
    def asker(self) -> str:
        """For whom the provider was called."""
        return self.text.split("|", 2)[1]


class Client:
    """Asks replicas by their URL."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def ask(
        self,
        url: str,
        question: str,
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        model: str = "small",
        **fields: Any,
    ) -> Outcome:
        """Never raises for what a server does: that is in the Outcome."""
        outcome = Outcome(question, stream, time.monotonic())
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "stream": stream,
            **fields,
        }
        try:
            async with self.session.post(
                f"{url}/v1/chat/completions", json=body, headers=headers
            ) as response:
                outcome.status = response.status
                outcome.cache = response.headers.get("cache-status", "")
                if response.status != 200:
                    outcome.error = f"{response.status} {(await response.text())[:200]}"
                elif stream:
                    await _read_events(response, outcome)
                else:
                    outcome.text = _content(await response.read())
                    outcome.first = time.monotonic()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            outcome.error = type(error).__name__
        outcome.ended = time.monotonic()
        return outcome

    async def purge(self, url: str, **what: Any) -> int:
        """The status; 200 where every replica will know, 503 where only this one does."""
        async with self.session.post(f"{url}/v1/cache/invalidations", json=what) as response:
            await response.read()
            return response.status


async def _read_events(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    outcome.error = "no [DONE]"
    async for line in response.content:
        if line == b"data: [DONE]\n":
            outcome.error = None if outcome.error == "no [DONE]" else "[DONE] after an error event"
        elif line.startswith(b"data: "):
            data = msgspec.json.decode(line[6:])
            if "error" in data:
                outcome.error = f"error event {data['error'].get('code')}"
                continue
            choices = data.get("choices")
            text = (choices[0].get("delta") or {}).get("content") if choices else None
            if text:
                outcome.first = outcome.first or time.monotonic()
                outcome.text += text


def _content(body: bytes) -> str:
    return str(msgspec.json.decode(body)["choices"][0]["message"]["content"])


@asynccontextmanager
async def client(*, timeout: float = 60.0) -> AsyncIterator[Client]:
    """`timeout` bounds each request, in seconds."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout)
    ) as session:
        yield Client(session)


async def until(moment: float) -> None:
    """Sleep until a moment of the monotonic clock."""
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
