"""OpenAI's Agents SDK: it asks by Responses, and where it is given no model for one of its own choice."""

from __future__ import annotations

import os

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.models.default_models import get_default_model
from pydantic import BaseModel

from tests.clients.asking import GPT, call, filled, main, url, wait

os.environ.update(OPENAI_BASE_URL=f"{url()}/v1", OPENAI_API_KEY="none")
set_tracing_disabled(True)  # it would send what was said to OpenAI, whatever the base URL
MODELS = {**GPT, "OpenAI": get_default_model()}


class Person(BaseModel):
    name: str
    age: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}"


def agent(model: str, **options: object) -> Agent[None]:
    chosen = {} if model == get_default_model() else {"model": model}
    return Agent(name="helper", instructions="Be kind.", **chosen, **options)  # type: ignore[arg-type]


@call("Runner.run", MODELS)
def run(model: str, text: str) -> object:
    return wait(Runner.run(agent(model), text)).final_output


async def listen(to: Agent[None], text: str) -> object:
    result = Runner.run_streamed(to, text)
    async for _ in result.stream_events():
        pass
    return result.final_output


@call("Runner.run_streamed", MODELS, streamed=True)
def streamed(model: str, text: str) -> object:
    return wait(listen(agent(model), text))


@call("Runner.run with a tool", MODELS, steps=2)
def tool(model: str, text: str) -> object:
    return wait(Runner.run(agent(model, tools=[function_tool(weather)]), text)).final_output


@call("Runner.run_streamed with a tool", MODELS, streamed=True, steps=2)
def tool_streamed(model: str, text: str) -> object:
    return wait(listen(agent(model, tools=[function_tool(weather)]), text))


@filled("Runner.run with an output_type", MODELS)
def typed(model: str, text: str) -> object:
    return wait(Runner.run(agent(model, output_type=Person), text)).final_output.model_dump()


if __name__ == "__main__":
    main("openai-agents")
