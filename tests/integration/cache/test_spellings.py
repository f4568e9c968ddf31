"""One question, asked by three protocols at once on four replicas, is one call, and every answer is right.

The official clients ask, a third of the requests by each protocol, and read the answers. The provider waits until all
of them have been asked. `SIZE` is how many.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from testkit import anthropic_server, openai_server
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import Call, FakeServer, Script, Wire
from testkit.openai_server import FakeOpenAI
from tests.harness import Running, running, size

ASKED, TOGETHER, REPLICAS = size(120), 40, 4
"""Requests, how many are sent at a time (all of them wait together in the end), and replicas."""

SAID = ("The ", "Danube", ", a ri", "ver.")
TEXT, LIMIT, SYSTEM, QUESTION = "".join(SAID), 50, "Be brief.", "Name a river."
TIMEOUTS = dict.fromkeys(("first_token", "between_tokens", "total"), "1h")
SAYS: dict[str, Callable[..., Script]] = {"openai": openai_server.say, "anthropic": anthropic_server.say}


class Clients(NamedTuple):
    """Of one replica."""

    server: Running
    openai: AsyncOpenAI
    anthropic: AsyncAnthropic


async def chat(clients: Clients) -> str | None:
    messages: Any = [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": QUESTION}]
    asking = clients.openai.chat.completions
    answer = await asking.create(model="small", messages=messages, max_completion_tokens=LIMIT)
    return answer.choices[0].message.content


async def chat_streamed(clients: Clients) -> str:
    content = [{"type": "text", "text": QUESTION}]
    messages: Any = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]
    asking = clients.openai.chat.completions
    stream = await asking.create(model="small", messages=messages, max_tokens=LIMIT, stream=True)
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def respond(clients: Clients) -> str:
    asking = clients.openai.responses
    answer = await asking.create(
        model="small", instructions=SYSTEM, input=QUESTION, max_output_tokens=LIMIT, metadata={"a": "b"}
    )
    return answer.output_text


async def respond_streamed(clients: Clients) -> str:
    said: Any = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}]
    asking = clients.openai.responses.stream(
        model="small", instructions=SYSTEM, input=said, max_output_tokens=LIMIT, store=False
    )
    async with asking as stream:
        return (await stream.get_final_response()).output_text


async def message(clients: Clients) -> str:
    answer = await clients.anthropic.messages.create(
        model="small",
        system=SYSTEM,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=LIMIT,
        metadata={"user_id": "me"},
    )
    return "".join(block.text for block in answer.content if block.type == "text")


async def message_streamed(clients: Clients) -> str:
    said: Any = [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]
    system: Any = [{"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}]
    asking = clients.anthropic.messages.stream(model="small", system=system, messages=said, max_tokens=LIMIT)
    async with asking as stream:
        return await stream.get_final_text()


WAYS: list[Callable[[Clients], Awaitable[str | None]]] = [
    *(chat, respond, message, chat_streamed, respond_streamed, message_streamed)
]


def waiting(fleet: list[Clients]) -> int:
    """Requests that follow a flight on their replica; other replicas that follow it there count, too."""
    return sum(each.server.replica.application._flights.followers() for each in fleet)


@contextlib.asynccontextmanager
async def clients_of(config: Any) -> Any:
    async with running(config) as server, contextlib.AsyncExitStack() as stack:
        patient: Any = {
            "api_key": "none",
            "max_retries": 0,
            "timeout": 600.0,
        }  # also until there is a connection
        openai = await asyncio.to_thread(AsyncOpenAI, base_url=f"{server.url}/v1", **patient)
        anthropic = await asyncio.to_thread(AsyncAnthropic, base_url=server.url, **patient)
        await stack.enter_async_context(openai)
        await stack.enter_async_context(anthropic)
        yield Clients(server, openai, anthropic)


@pytest.mark.timeout(3600)  # a thousand clients on a busy machine
@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_one_question_in_three_protocols_is_one_call(redis: str, kind: str) -> None:
    gate = asyncio.Event()

    async def held(call: Call, wire: Wire) -> None:
        await gate.wait()
        await SAYS[kind](*SAID)(call, wire)

    provider: FakeServer = FakeOpenAI() if kind == "openai" else FakeAnthropic()
    async with provider, contextlib.AsyncExitStack() as stack:
        provider.reply = held
        config = {
            "providers": {"fake": {"kind": kind, "base_url": f"{provider.url}/v1", "timeouts": TIMEOUTS}},
            "models": {"small": {"routes": ["fake/claude-haiku-4-5"]}},
            "redis": {"url": redis},
            "server": {"max_stream": "1h"},
        }
        fleet: list[Clients] = [await stack.enter_async_context(clients_of(config)) for _ in range(REPLICAS)]
        each = itertools.cycle([(way, clients) for way in WAYS for clients in fleet])
        asking: list[asyncio.Future[str | None]] = []
        while len(asking) < ASKED:
            some = [next(each) for _ in range(min(TOGETHER, ASKED - len(asking)))]
            asking += [asyncio.ensure_future(way(clients)) for way, clients in some]
            while waiting(fleet) < len(asking):  # a count has no event
                assert [task.result() for task in asking if task.done()] == []
                await asyncio.sleep(0.01)
        gate.set()
        answers = await asyncio.gather(*asking)
        assert answers == [TEXT] * ASKED
        for way, clients in [next(each) for _ in range(len(WAYS) * REPLICAS)]:
            assert await way(clients) == TEXT
        assert len(provider.calls) == 1
