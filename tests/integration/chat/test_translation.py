"""What a model takes is what it is sent, through the whole service: defaults give way, odd histories are repaired."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from testkit.anthropic_server import FakeAnthropic
from testkit.openai_server import FakeOpenAI
from tests.harness import Running, running


@pytest.fixture
async def openai() -> AsyncIterator[FakeOpenAI]:
    async with FakeOpenAI() as server:
        yield server


@pytest.fixture
async def claude() -> AsyncIterator[FakeAnthropic]:
    async with FakeAnthropic() as server:
        yield server


@pytest.fixture
async def server(openai: FakeOpenAI, claude: FakeAnthropic) -> AsyncIterator[Running]:
    config: dict[str, Any] = {
        "providers": {
            "openai": {
                "kind": "openai",
                "base_url": openai.base_url,
                "quirks": {"mine*": {"drop": ["seed"], "rename": {"max_tokens": "limit"}}},
            },
            "claude": {
                "kind": "anthropic",
                "base_url": claude.base_url,
                "headers": {"Anthropic-Beta": "context-management-2025-06-27"},
                "quirks": {"own*": {"drop": ["temperature"]}},
            },
        },
        "models": {
            "reasoning": {"routes": ["openai/o3"]},
            "mine": {"routes": ["openai/mine-1"]},
            "strict": {"routes": ["claude/claude-sonnet-4-5"]},
            "own": {"routes": ["claude/own-1"]},
        },
        "personalities": {
            "thinker": {"model": "reasoning", "temperature": 0.3, "stop": "END", "max_tokens": 50},
            "pirate": {"model": "strict", "system": "Talk like a pirate.", "temperature": 0.7},
        },
        "cache": {"enabled": False},
    }
    async with running(config) as replica:
        yield replica


def fields(call: Any) -> dict[str, Any]:
    return {name: value for name, value in call.body.items() if name not in ("messages", "model")}


async def test_a_personalitys_defaults_give_way_to_what_a_model_takes(
    server: Running, openai: FakeOpenAI
) -> None:
    assert (await server.chat("Hi", model="thinker")).status_code == 200
    assert fields(openai.calls[0]) == {"max_completion_tokens": 50}


async def test_what_a_caller_asks_for_himself_is_not_left_out_unsaid(
    server: Running, openai: FakeOpenAI
) -> None:
    answer = await server.chat("Hi", model="thinker", stop="END")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "stop")
    assert not openai.calls


async def test_an_operators_table_is_followed(
    server: Running, openai: FakeOpenAI, claude: FakeAnthropic
) -> None:
    await server.chat("Hi", model="mine", max_tokens=5, seed=7, temperature=0.5)
    assert fields(openai.calls[0]) == {"limit": 5, "temperature": 0.5}
    await server.chat("Hi", model="own", temperature=0.5)
    assert "temperature" not in claude.calls[0].body


async def test_a_personalitys_temperature_gives_way_to_a_callers_top_p(
    server: Running, claude: FakeAnthropic
) -> None:
    assert (await server.chat("Hi", model="pirate", top_p=0.9)).status_code == 200
    assert (claude.calls[0].body["top_p"], "temperature" in claude.calls[0].body) == (0.9, False)


async def test_an_agents_history_that_was_cut_short_goes_on(server: Running, claude: FakeAnthropic) -> None:
    called = {
        "id": "call:1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city": "Os'},
    }
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "\n", "tool_calls": [called]},
        {"role": "user", "content": "Well?"},
    ]
    answer = await server.chat("", model="strict", messages=messages)
    assert answer.status_code == 200
    assert [turn["role"] for turn in claude.calls[0].body["messages"]] == ["user", "assistant", "user"]


async def test_fields_of_a_beta_go_with_its_header(server: Running, claude: FakeAnthropic) -> None:
    assert (await server.chat("Hi", model="strict", context_management={"edits": []})).status_code == 200
    assert claude.calls[0].body["context_management"] == {"edits": []}
