"""A replica before a fake of OpenAI and one of Anthropic, for the scripts of clients; and what is reported of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from testkit import anthropic_server as claude
from testkit import openai_server as gpt
from testkit.anthropic_server import FakeAnthropic, complaint_about
from testkit.http_server import Call, FakeServer, Script, Wire, refuse
from testkit.openai_server import FakeOpenAI
from tests.clients.asking import ADA, CLAUDE, GPT, TOGETHER, TOGETHER_TOKEN
from tests.harness import Running, running

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs/reports/clients.md"
DEFAULTS = {"OpenAI": ["gpt-5.6-luna", "text-embedding-3-small"], "Anthropic": []}
"""What clients ask for where they are given no model."""

Json = dict[str, Any]


class Trial:
    """`openai` and `anthropic` answer by what they are asked: see `_answer`."""

    def __init__(self, server: Running, openai: FakeOpenAI, anthropic: FakeAnthropic) -> None:
        self.url = server.url
        self._server = server
        self._providers: dict[str, FakeServer] = {"OpenAI": openai, "Anthropic": anthropic}
        openai.reply, anthropic.reply = self._as_openai, self._as_anthropic

    async def run(self, *command: str, cwd: Path = ROOT) -> Json:
        """What the script of a client printed, each call of which was right, and paid for once by question."""
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=cwd,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            printed, complained = await process.communicate()
        finally:
            if process.returncode is None:  # the test is over before it is
                process.kill()
        assert process.returncode == 0, complained.decode()[-5000:]
        seen: Json = json.loads(printed)
        wrong = [f"{row['call']}: {row['wrong']}" for row in seen["rows"] if row["wrong"]]
        assert not wrong, "\n".join(wrong)
        for row in seen["rows"]:
            for question, calls in row["asked"].items():
                found = self._asked(row["provider"], question)
                assert found == calls, f"{question}: {found} calls of the provider, not {calls}"
        return seen

    def _asked(self, provider: str, question: str) -> int:
        texts = [_question(call) for call in self._providers[provider].calls]
        return sum(question in text for text in texts)

    async def _as_openai(self, call: Call, wire: Wire) -> None:
        await self._together(call)
        body = call.body
        if "messages" not in body:
            await self._providers["OpenAI"].default(call, wire)
        elif _unknown_results(body["messages"]):
            await refuse(400, "A message of role 'tool' must answer a tool call.")(call, wire)
        elif body["messages"][-1]["role"] == "user" and "tools" in body:
            function = body["tools"][0]["function"]
            await gpt.call_tool(function["name"], _filled(function["parameters"]))(call, wire)
        elif "response_format" in body:
            await gpt.say(*_halves(json.dumps(ADA)))(call, wire)
        else:
            await gpt.say("You said: ", _question(call))(call, wire)

    async def _as_anthropic(self, call: Call, wire: Wire) -> None:
        counting = call.path == "/v1/messages/count_tokens"
        await self._together(call)
        body = call.body
        complaint = complaint_about(call, counting=counting)
        if complaint is not None:
            script: Script = refuse(400, complaint)
        elif counting:
            script = self._providers["Anthropic"].default
        elif "tools" in body and not _has_results(body["messages"][-1]):
            tool = body["tools"][0]
            script = claude.use_tool(tool["name"], json.loads(_filled(tool["input_schema"])))
        elif "format" in body.get("output_config", {}) or "JSON object" in json.dumps(body.get("system", "")):
            script = claude.say(*_halves(json.dumps(ADA)))
        else:
            script = claude.say("You said: ", _question(call))
        await script(call, wire)

    async def _together(self, call: Call) -> None:
        """Keep it waiting until another one waits for its answer, where the question says that there is one."""
        if any(word in _question(call) for word in (TOGETHER, f" {TOGETHER_TOKEN}]")):
            await self._server.followed()


@contextlib.asynccontextmanager
async def trial(redis: str) -> AsyncIterator[Trial]:
    """Behind each name of a model is one of the two, as `asking` says; answers to the results of tools are kept too."""
    async with FakeOpenAI() as openai, FakeAnthropic() as anthropic:
        routes = {"OpenAI": "o/gpt", "Anthropic": "a/claude-sonnet-4-5"}
        names = {
            name: {"routes": [route]}
            for provider, route in routes.items()
            for name in (GPT[provider], CLAUDE[provider], *DEFAULTS[provider])
        }
        config = {
            "redis": {"url": redis},
            "providers": {
                "o": {"kind": "openai", "base_url": openai.base_url},
                "a": {"kind": "anthropic", "base_url": anthropic.base_url},
            },
            "models": names,
            "cache": {"classes": {"default": {"tool_results": True}}},
        }
        async with running(config) as server:
            yield Trial(server, openai, anthropic)


def hold(seen: Json) -> None:
    """The report's rows of this client are what was seen; with REPORT=1 they are written."""
    lines = REPORT.read_text(encoding="utf-8").splitlines()
    mine = [number for number, line in enumerate(lines) if line.startswith(f"| {seen['client']} ")]
    assert mine, "the report has no row of it"
    rows = _rows(seen)
    if os.environ.get("REPORT"):
        lines[mine[0] : mine[-1] + 1] = rows
        REPORT.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        assert [lines[number] for number in mine] == rows, "REPORT=1 writes them anew"


def _rows(seen: Json) -> list[str]:
    found: dict[str, dict[tuple[str, bool], str]] = {}
    for row in seen["rows"]:
        came = "yes" if row["asked"] else "asked each time"
        found.setdefault(row["call"], {})[row["provider"], row["streamed"]] = came
    columns = [(provider, streamed) for provider in GPT for streamed in (False, True)]
    return [
        f"| {seen['client']} {seen['version']} | {call} | {' | '.join(came.get(each, '') for each in columns)} |"
        for call, came in found.items()
    ]


def _question(call: Call) -> str:
    """The last that the user said, or the texts to embed, or to go on with."""
    body = call.body
    if "messages" not in body:
        return " ".join(map(str, body["input"])) if "input" in body else str(body["prompt"])
    asked = [message["content"] for message in body["messages"] if message["role"] == "user"]
    return next(filter(None, map(_text, reversed(asked))), "")


def _text(content: str | list[Json]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _unknown_results(messages: list[Json]) -> bool:
    """Results of tools that nobody asked for."""
    asked = {each["id"] for message in messages for each in message.get("tool_calls") or []}
    return any(message["role"] == "tool" and message["tool_call_id"] not in asked for message in messages)


def _has_results(message: Json) -> bool:
    content = message["content"]
    return isinstance(content, list) and any(block["type"] == "tool_result" for block in content)


def _filled(schema: Json) -> str:
    """Arguments for a tool: `ADA`, or the city of one that wants a city."""
    return json.dumps({"city": "Oslo"} if "city" in schema["properties"] else ADA)


def _halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]
