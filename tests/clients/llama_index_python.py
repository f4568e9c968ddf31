"""LlamaIndex's model and embeddings of OpenAI."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI, OpenAIResponses
from pydantic import BaseModel

from testkit.openai_server import vector_of
from tests.clients.asking import call, filled, main, url

OPTIONS: Any = {"api_base": f"{url()}/v1", "api_key": "none"}


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}"


@call("complete")
def complete(model: str, text: str) -> object:
    return OpenAI(model, **OPTIONS).complete(text).text


@call("complete", streamed=True)
def complete_streamed(model: str, text: str) -> object:
    return "".join(each.delta or "" for each in OpenAI(model, **OPTIONS).stream_complete(text))


@call("chat")
def chat(model: str, text: str) -> object:
    return OpenAI(model, **OPTIONS).chat([ChatMessage(text)]).message.content


@call("chat", streamed=True)
def chat_streamed(model: str, text: str) -> object:
    return "".join(each.delta or "" for each in OpenAI(model, **OPTIONS).stream_chat([ChatMessage(text)]))


@filled("as_structured_llm")
def structured(model: str, text: str) -> object:
    answer = OpenAI(model, **OPTIONS).as_structured_llm(Person).chat([ChatMessage(text)])
    assert isinstance(answer.raw, Person)
    return answer.raw.model_dump()


@call("predict_and_call", expect=lambda _: "It rains in Oslo")
def tool(model: str, text: str) -> object:
    tools = [FunctionTool.from_defaults(weather)]
    return str(OpenAI(model, **OPTIONS).predict_and_call(tools, text))


@call("OpenAIResponses.chat")
def response(model: str, text: str) -> object:
    return OpenAIResponses(model, **OPTIONS).chat([ChatMessage(text)]).message.content


@call("OpenAIResponses.chat", streamed=True)
def response_streamed(model: str, text: str) -> object:
    parts = OpenAIResponses(model, **OPTIONS).stream_chat([ChatMessage(text)])
    return "".join(each.delta or "" for each in parts)


@call("OpenAIEmbedding.get_text_embedding", {"OpenAI": "text-embedding-3-small"}, expect=vector_of)
def embedding(model: str, text: str) -> object:
    return OpenAIEmbedding(model=model, **OPTIONS).get_text_embedding(text)


if __name__ == "__main__":
    main("llama-index-llms-openai")
