"""What LangChain's models are asked, whoever's they are."""

from __future__ import annotations

from collections.abc import Callable

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from tests.clients.asking import call, filled


class Person(BaseModel):
    """A person."""

    name: str
    age: int


def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}"


lookup = tool(weather)


def calls_of(chat: Callable[[str], BaseChatModel], models: dict[str, str]) -> None:
    """`chat` makes a model, of its name."""

    @call("invoke", models)
    def invoked(model: str, text: str) -> object:
        return chat(model).invoke(text).text

    @call("stream", models, streamed=True)
    def streamed(model: str, text: str) -> object:
        return "".join(chunk.text for chunk in chat(model).stream(text))

    @filled("with_structured_output", models)
    def structured(model: str, text: str) -> object:
        found = chat(model).with_structured_output(Person).invoke(text)
        assert isinstance(found, Person)
        return found.model_dump()

    @call("bind_tools", models, steps=2)
    def tools(model: str, text: str) -> object:
        bound, asked = chat(model).bind_tools([lookup]), HumanMessage(text)
        answer = bound.invoke([asked])
        results = [lookup.invoke(each) for each in answer.tool_calls]
        return bound.invoke([asked, answer, *results]).text
