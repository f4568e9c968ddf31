"""Three readers of the same answer: openai-python, openai-node, and one that joins by what the fields mean.

The official clients read real responses, from a server that plays back what the service sent: so one answer of the
service is read by all three. The tolerant reader is written apart from the service, so that they cannot err alike.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import openai
from openai.lib.streaming.chat import ChatCompletionStreamState

from benchmarks.providers.answers import Said, Tool
from benchmarks.providers.fake import Fake, Json, Reply, fake

NODE = Path(__file__).parents[2] / ".venv" / "openai-node"
"""Where `tools/setup.sh openai-node` put it."""
_AT_ONCE = 20


class Answer(msgspec.Struct, frozen=True):
    """A response as it came, without its head."""

    body: bytes
    streamed: bool


class Read(msgspec.Struct, frozen=True):
    """By one reader: the choices, or what it complained of."""

    choices: tuple[Said, ...] = ()
    error: str | None = None

    def means(self, expected: Sequence[Said], *, reasoning: bool = False) -> bool:
        """Whether it is that message; `reasoning` counts only for readers that keep fields of others."""
        if self.error is not None or len(self.choices) != len(expected):
            return False
        return all(
            _like(mine, theirs, reasoning) for mine, theirs in zip(self.choices, expected, strict=True)
        )


def _like(mine: Said, expected: Said, reasoning: bool) -> bool:
    return (
        (mine.content, mine.refusal, mine.calls) == (expected.content, expected.refusal, expected.calls)
        and expected.finish in {None, mine.finish}
        and (not reasoning or mine.reasoning == expected.reasoning)
    )


def tolerant(answer: Answer) -> Read:
    """What it says, whatever is odd about it."""
    try:
        text = _decoded(answer.body)
        return Read(_joined(_events(text)) if answer.streamed else _said(json.loads(text)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Read(error=f"{type(error).__name__}: {error}"[:200])


def _decoded(body: bytes) -> str:
    return body.decode("utf-8").removeprefix("\ufeff")


def _events(text: str) -> list[Json]:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found: list[Json] = []
    data: list[str] = []
    for line in [*lines, ""]:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
        elif not line and data:
            if (joined := "\n".join(data).strip()) == "[DONE]":
                return found
            if joined:
                found.append(json.loads(joined))
            data = []
    raise ValueError("no [DONE]")


def _joined(chunks: list[Json]) -> tuple[Said, ...]:
    choices: dict[int, _Joining] = {}
    for chunk in chunks:
        if "error" in chunk and chunk["error"] is not None:
            raise ValueError(f"an error event: {chunk['error']}")
        for choice in chunk.get("choices") or ():
            at = int(choice.get("index") or 0)
            choices.setdefault(at, _Joining()).add(choice)
    return tuple(choices[index].said() for index in sorted(choices))


class _Joining:
    """One choice, as its chunks come."""

    def __init__(self) -> None:
        self._texts = {"content": "", "refusal": "", "reasoning": ""}
        self._calls: list[dict[str, Any]] = []
        self._finish: str | None = None

    def add(self, choice: Json) -> None:
        delta = choice.get("delta") or {}
        for name in ("content", "refusal"):
            self._texts[name] += _text(delta.get(name))
        self._texts["reasoning"] += _text(delta.get("reasoning_content") or delta.get("reasoning"))
        for call in delta.get("tool_calls") or ():
            self._add_call(call)
        if choice.get("finish_reason") not in {None, "", "null"}:
            self._finish = choice["finish_reason"]

    def _add_call(self, part: Json) -> None:
        index = None if part.get("index") is None else int(part["index"])
        known = [call for call in self._calls if index is None or call["index"] == index]
        call = known[-1] if known else None
        new_id = part.get("id")
        if call is None or (new_id and call["id"] and new_id != call["id"]):
            call = {"index": index, "id": "", "name": "", "arguments": "", "order": len(self._calls)}
            self._calls.append(call)
        function = part.get("function") or part.get("custom") or {}
        call["id"] = call["id"] or new_id or ""
        call["name"] = call["name"] or function.get("name") or ""
        call["arguments"] += _argued(function.get("arguments", function.get("input")))

    def said(self) -> Said:
        ordered = sorted(self._calls, key=lambda call: (call["index"] or 0, call["order"]))
        calls = tuple(Tool(call["id"], call["name"], _whole(call["arguments"])) for call in ordered)
        texts = {name: _whole(text) for name, text in self._texts.items()}
        return Said(**texts, calls=calls, finish=self._finish)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "".join(part.get("text") or "" for part in value)
    return value or ""


def _argued(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else value or ""


def _whole(text: str) -> str:
    """Halves of a character that stand side by side are one; half of one alone is U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _said(completion: Json) -> tuple[Said, ...]:
    """The choices of a whole completion."""
    if completion.get("error") is not None:
        raise ValueError(f"an error: {completion['error']}")
    return tuple(_choice(choice) for choice in completion["choices"])


def _choice(choice: Json) -> Said:
    message = choice["message"]
    calls = []
    for call in message.get("tool_calls") or ():
        function = call.get("function") or call.get("custom") or {}
        arguments = _argued(function.get("arguments", function.get("input")))
        calls.append(Tool(call.get("id") or "", function.get("name") or "", _whole(arguments)))
    return Said(
        content=_whole(_text(message.get("content"))),
        refusal=_whole(message.get("refusal") or ""),
        reasoning=_whole(message.get("reasoning_content") or message.get("reasoning") or ""),
        calls=tuple(calls),
        finish=choice.get("finish_reason"),
    )


async def by_official_clients(answers: Sequence[Answer]) -> dict[str, list[Read]]:
    """By reader, in the order of `answers`. openai-node is left out where it is not installed."""
    played = [
        Reply((each.body,), kind="text/event-stream" if each.streamed else "application/json")
        for each in answers
    ]

    async def play(name: str, _: Json) -> Reply:
        return played[int(name)]

    async with fake(play) as playing:
        found = {"openai-python": await _by_python(playing, answers)}
        node = shutil.which("node")
        if node is not None and NODE.exists():
            found["openai-node"] = await _by_node(node, playing, answers)
    return found


async def _by_python(playing: Fake, answers: Sequence[Answer]) -> list[Read]:
    at_once = asyncio.Semaphore(_AT_ONCE)
    async with openai.AsyncOpenAI(base_url=playing.url, api_key="none", max_retries=0, timeout=20) as client:

        async def read(number: int, answer: Answer) -> Read:
            async with at_once:
                here = client.with_options(base_url=f"{playing.url}/{number}")
                return await _read(here, streamed=answer.streamed)

        return await asyncio.gather(*(read(number, answer) for number, answer in enumerate(answers)))


async def _read(client: openai.AsyncOpenAI, *, streamed: bool) -> Read:
    """Whatever a client raises over an odd answer is what is to be known."""
    try:
        if not streamed:
            answer = await client.chat.completions.create(
                model="odd", messages=[{"role": "user", "content": "hello?"}]
            )
            return Read(_said(answer.model_dump(warnings=False)))
        state = ChatCompletionStreamState()
        chunks = await client.chat.completions.create(
            model="odd", messages=[{"role": "user", "content": "hello?"}], stream=True
        )
        async for chunk in chunks:
            state.handle_chunk(chunk)
        return Read(_said(state.current_completion_snapshot.model_dump(warnings=False)))
    except Exception as error:  # noqa: BLE001
        return Read(error=f"{type(error).__name__}: {error}"[:200])


async def _by_node(node: str, playing: Fake, answers: Sequence[Answer]) -> list[Read]:
    asked = [
        {"url": f"{playing.url}/{number}", "stream": each.streamed} for number, each in enumerate(answers)
    ]
    process = await asyncio.create_subprocess_exec(
        *(node, str(Path(__file__).parent / "node" / "read.mjs"), str(NODE.resolve())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complained = await process.communicate(json.dumps(asked).encode())
    if process.returncode:
        raise RuntimeError(f"node failed: {complained.decode()[-500:]}")
    return [_by_node_one(each) for each in json.loads(printed)]


def _by_node_one(found: Json) -> Read:
    if "error" in found:
        return Read(error=found["error"])
    try:
        return Read(_said(found))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Read(error=f"{type(error).__name__}: {error}"[:200])
