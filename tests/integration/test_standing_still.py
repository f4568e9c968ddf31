"""A process that was stopped for longer than a provider may take: what has come meanwhile counts."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import pytest

from testkit.http_server import Call, Wire
from testkit.openai_server import FakeOpenAI, completion, frames
from testkit.service import serving
from testkit.wire import Wire as Client
from testkit.wire import request
from tests.harness import openai_provider

MOST = 1.0
"""Seconds between two parts of an answer."""


@pytest.mark.parametrize(
    ("stream", "timeouts"),
    [
        (True, {"between_tokens": f"{MOST}s"}),
        (True, {"first_token": f"{MOST}s"}),
        (True, {"total": f"{MOST}s"}),
        (False, {"total": f"{MOST}s"}),
    ],
    ids=["between tokens", "first token", "total", "whole"],
)
async def test_no_provider_is_out_of_time(fake: FakeOpenAI, stream: bool, timeouts: dict[str, str]) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()
    answer = [part for part in frames("Hel", "lo") if isinstance(part, bytes)]
    if not stream:
        answer = [json.dumps(completion({"content": "Hello"})).encode()]
    at_first = answer[:2] if "between_tokens" in timeouts else []

    async def reply(_: Call, wire: Wire) -> None:
        head = 200, {"content-type": "text/event-stream" if stream else "application/json"}
        if at_first:
            await wire.head(*head)
            await wire.send(b"".join(at_first))
        begun.set()
        await stopped.wait()
        if not at_first:
            await wire.head(*head)
        await wire.send(b"".join(answer[len(at_first) :]))
        await wire.end()

    fake.reply = reply
    within: dict[str, Any] = {"first_token": f"{MOST}s", "between_tokens": f"{MOST}s"}
    settings = openai_provider(fake.base_url, timeouts={**within, "total": "60s", **timeouts})
    async with serving(settings) as service:
        client = await Client.to(service.url)
        asking = asyncio.create_task(client.ask(request("a question", stream=stream)))
        await begun.wait()
        await asyncio.sleep(0.1)  # it has come that far
        service.process.send_signal(signal.SIGSTOP)
        stopped.set()
        await asyncio.sleep(1.5 * MOST)
        service.process.send_signal(signal.SIGCONT)
        reply_ = await asking
        assert reply_.status == 200
        assert reply_.body.rstrip().endswith(b"data: [DONE]" if stream else b"}")
        assert b"error" not in reply_.body
        client.close()
