"""Instructor, which has answers fill in a type: of OpenAI by chat and by Responses, of Anthropic by Messages."""

from __future__ import annotations

from typing import Any

import instructor
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.asking import CLAUDE, filled, main, url


class Person(BaseModel):
    """A person."""

    name: str
    age: int


openai = OpenAI(base_url=f"{url()}/v1", api_key="none")
chat = instructor.from_openai(openai)
responses = instructor.from_openai(openai, mode=instructor.Mode.RESPONSES_TOOLS)
messages = instructor.from_anthropic(Anthropic(base_url=url(), api_key="none"))


def asked(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


@filled("from_openai, create")
def create(model: str, text: str) -> object:
    return chat.create(response_model=Person, **asked(model, text)).model_dump()


@filled("from_openai, create_partial", streamed=True)
def partial(model: str, text: str) -> object:
    return list(chat.create_partial(response_model=Person, **asked(model, text)))[-1].model_dump()


@filled("from_openai by Responses, create")
def response(model: str, text: str) -> object:
    return responses.create(response_model=Person, **asked(model, text)).model_dump()


@filled("from_anthropic, create", CLAUDE)
def message(model: str, text: str) -> object:
    return messages.create(response_model=Person, max_tokens=1024, **asked(model, text)).model_dump()


@filled("from_anthropic, create_partial", CLAUDE, streamed=True)
def message_partial(model: str, text: str) -> object:
    found = messages.create_partial(response_model=Person, max_tokens=1024, **asked(model, text))
    return list(found)[-1].model_dump()


if __name__ == "__main__":
    main("instructor")
