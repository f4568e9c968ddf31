"""Coding agents' command lines do a task twice, in the same folder: before providers that play their part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.anthropic_server import FakeAnthropic
from testkit.openai_server import FakeOpenAI
from tests.clients.coding_agents import BROKEN, CLAUDE_CODE, CODEX, DONE, HOME, MENDED, Agent, Tasks
from tests.harness import Running, running

AGENTS = {"codex": CODEX, "claude": CLAUDE_CODE}
TURNS = 4
"""It reads, edits, runs and is done."""

KEPT = {"codex": 1, "claude": TURNS}
"""How many of a second run's questions the cache knows: Codex puts a random id before each output of a command."""

pytestmark = pytest.mark.skipif(not HOME.exists(), reason="tools/setup.sh agents was not run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the task is."""
    for name in ("task", "home"):
        (tmp_path / name).mkdir()
    return tmp_path / "task"


@pytest.fixture(params=["OpenAI-like", "Anthropic-like"])
async def server(request: pytest.FixtureRequest, fake: FakeOpenAI, folder: Path) -> AsyncIterator[Running]:
    """Any model that an agent asks for is behind that provider."""
    async with FakeAnthropic() as theirs:
        tasks = Tasks(folder)
        fake.reply, theirs.reply = tasks.as_openai, tasks.as_anthropic
        route = "o/gpt" if request.param == "OpenAI-like" else "a/claude-sonnet-4-5"
        config = {
            "providers": {
                "o": {"kind": "openai", "base_url": fake.base_url},
                "a": {"kind": "anthropic", "base_url": theirs.base_url},
            },
            "models": {name: {"routes": [route]} for name in ("gpt", "claude-opus-5-5")},
            "cache": {"classes": {"default": {"tool_results": True}}},
        }
        async with running(config) as replica:
            yield replica


@pytest.mark.parametrize("name", AGENTS)
async def test_a_task_is_done_again_from_what_was_kept(server: Running, folder: Path, name: str) -> None:
    first = await work(AGENTS[name], server, folder)
    second = await work(AGENTS[name], server, folder)
    assert [status.split(";")[1] for status in first] == [" fwd=uri-miss"] * TURNS
    assert len(second) == TURNS
    assert sum(status.startswith("dub5; hit") for status in second) == KEPT[name]


async def work(agent: Agent, server: Running, folder: Path) -> list[str]:
    """The Cache-Status of each question of a task, which was done."""
    file = folder / "check.py"
    await asyncio.to_thread(file.write_text, BROKEN, "utf-8")
    server.logs.clear()
    assert DONE in await agent.work(folder, folder.parent / "home", server.url)
    assert await asyncio.to_thread(file.read_text, "utf-8") == MENDED
    return [log["cache"] for log in server.logs if log["event"] == "request" and "cache" in log]
