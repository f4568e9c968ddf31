"""Anthropic's own client."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, beta_tool
from anthropic.types import Message, MessageParam
from pydantic import BaseModel

from tests.clients.asking import CLAUDE, call, filled, main, url

client = Anthropic(base_url=url(), api_key="none")


class Person(BaseModel):
    name: str
    age: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}"


def asked(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "max_tokens": 1024, "messages": [{"role": "user", "content": text}]}


def text_of(message: Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


@call("messages.create", CLAUDE)
def message(model: str, text: str) -> object:
    return text_of(client.messages.create(**asked(model, text)))


@call("messages.create", CLAUDE, streamed=True)
def message_streamed(model: str, text: str) -> object:
    events = client.messages.create(**asked(model, text), stream=True)
    deltas = [event.delta for event in events if event.type == "content_block_delta"]
    return "".join(delta.text for delta in deltas if delta.type == "text_delta")


@call("messages.stream", CLAUDE, streamed=True)
def message_helper(model: str, text: str) -> object:
    with client.messages.stream(**asked(model, text)) as stream:
        assert "".join(stream.text_stream)
        return text_of(stream.get_final_message())


@filled("messages.parse", CLAUDE)
def message_parsed(model: str, text: str) -> object:
    parsed = client.messages.parse(**asked(model, text), output_format=Person).parsed_output
    assert parsed is not None
    return parsed.model_dump()


@call("beta.messages.tool_runner", CLAUDE, steps=2)
def tool_runner(model: str, text: str) -> object:
    message = client.beta.messages.tool_runner(**asked(model, text), tools=[beta_tool(weather)]).until_done()
    return "".join(block.text for block in message.content if block.type == "text")


@call("beta.messages.tool_runner", CLAUDE, streamed=True, steps=2)
def tool_runner_streamed(model: str, text: str) -> object:
    said = ""
    for stream in client.beta.messages.tool_runner(
        **asked(model, text), tools=[beta_tool(weather)], stream=True
    ):
        said = "".join(block.text for block in stream.get_final_message().content if block.type == "text")
    return said


@call("messages.count_tokens", CLAUDE, expect=lambda _: True, steps=0)
def tokens(model: str, text: str) -> object:
    messages: list[MessageParam] = [{"role": "user", "content": text}]
    return client.messages.count_tokens(model=model, messages=messages).input_tokens > 0


if __name__ == "__main__":
    main("anthropic")
