"""What OpenAI's clients, for Python and for Node.js, read in answers that are played back to them as they came."""

from __future__ import annotations

import asyncio
import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

from testkit.http_server import Call, FakeServer, Wire, stream, whole
from tests.providers.answers import Said, read
from tests.tolerant_reader import read_whole

MODULES = Path(__file__).parents[2] / ".venv" / "openai-node"
"""Where `tools/setup.sh openai-node` put it."""
NODE = shutil.which("node") if MODULES.exists() else None
READ = [str(Path(__file__).parent / "node" / "read.mjs"), str(MODULES.resolve())]
AT_ONCE = 20
ASKED: dict[str, Any] = {"model": "odd", "messages": [{"role": "user", "content": "hello?"}]}

Reading = tuple[Said, ...] | str
"""The choices, or what it complained of."""


class Answer(NamedTuple):
    """The body of a response."""

    body: bytes
    streamed: bool


async def by_clients(answers: Sequence[Answer]) -> dict[str, list[Reading]]:
    """By reader, in the order of `answers`; without openai-node where it is not installed."""
    scripts = [stream([each.body]) if each.streamed else whole(None, raw=each.body) for each in answers]

    async def play(call: Call, wire: Wire) -> None:
        await scripts[int(call.path.split("/")[1])](call, wire)

    async with FakeServer() as playing:
        playing.reply = play
        found = {"openai-python": await _by_python(playing.url, answers)}
        if NODE is not None:
            found["openai-node"] = await _by_node(NODE, playing.url, answers)
    return found


async def _by_python(url: str, answers: Sequence[Answer]) -> list[Reading]:
    at_once = asyncio.Semaphore(AT_ONCE)
    client = await asyncio.to_thread(
        openai.AsyncOpenAI, base_url=url, api_key="none", max_retries=0, timeout=60
    )

    async def one(number: int, answer: Answer) -> Reading:
        async with at_once:
            return await _read(client.with_options(base_url=f"{url}/{number}"), answer.streamed)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pydantic")  # of odd types, which are what this is about
        async with client:
            return await asyncio.gather(*(one(number, answer) for number, answer in enumerate(answers)))


async def _read(client: openai.AsyncOpenAI, streamed: bool) -> Reading:
    """Whatever a client raises over an odd answer is what is to be known."""
    try:
        if not streamed:
            answer = await client.chat.completions.create(**ASKED)
            return _said(answer.model_dump(warnings=False))
        state = ChatCompletionStreamState()
        async for chunk in await client.chat.completions.create(**ASKED, stream=True):
            state.handle_chunk(chunk)
        return _said(state.current_completion_snapshot.model_dump(warnings=False))
    except Exception as error:  # noqa: BLE001  # any
        return f"{type(error).__name__}: {error}"[:200]


async def _by_node(node: str, url: str, answers: Sequence[Answer]) -> list[Reading]:
    asked = [{"url": f"{url}/{number}", "stream": each.streamed} for number, each in enumerate(answers)]
    process = await asyncio.create_subprocess_exec(
        *(node, *READ),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complained = await process.communicate(json.dumps(asked).encode())
    assert process.returncode == 0, complained.decode()[-500:]
    return [each.get("error") or _said(each) for each in json.loads(printed)]


def _said(completion: dict[str, Any]) -> Reading:
    try:
        return read(read_whole(completion))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"[:200]
