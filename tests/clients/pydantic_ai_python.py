"""Pydantic AI, which asks OpenAI by Responses and Anthropic by Messages."""

from __future__ import annotations

import os

from pydantic import BaseModel
from pydantic_ai import Agent

from tests.clients.asking import CLAUDE, GPT, call, filled, main, url, wait

os.environ.update(OPENAI_BASE_URL=f"{url()}/v1", OPENAI_API_KEY="none")
os.environ.update(ANTHROPIC_BASE_URL=url(), ANTHROPIC_API_KEY="none")


class Person(BaseModel):
    name: str
    age: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}"


async def listen(agent: Agent, text: str) -> object:
    async with agent.run_stream(text) as result:
        return await result.get_output()


def calls_of(prefix: str, models: dict[str, str]) -> None:
    named = {provider: f"{prefix}:{model}" for provider, model in models.items()}

    @call(f"`{prefix}:` Agent.run", named)
    def run(model: str, text: str) -> object:
        return wait(Agent(model).run(text)).output

    @call(f"`{prefix}:` Agent.run_stream", named, streamed=True)
    def streamed(model: str, text: str) -> object:
        return wait(listen(Agent(model), text))

    @call(f"`{prefix}:` Agent.run with a tool", named, steps=2)
    def tool(model: str, text: str) -> object:
        return wait(Agent(model, tools=[weather]).run(text)).output

    @call(f"`{prefix}:` Agent.run_stream with a tool", named, streamed=True, steps=2)
    def tool_streamed(model: str, text: str) -> object:
        return wait(listen(Agent(model, tools=[weather]), text))

    @filled(f"`{prefix}:` Agent.run with an output_type", named)
    def typed(model: str, text: str) -> object:
        return wait(Agent(model, output_type=Person).run(text)).output.model_dump()


if __name__ == "__main__":
    calls_of("openai", GPT)
    calls_of("anthropic", CLAUDE)
    main("pydantic-ai-slim")
