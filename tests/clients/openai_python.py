"""OpenAI's own client."""

from __future__ import annotations

from openai import OpenAI
from pydantic import BaseModel

from testkit.openai_server import vector_of
from tests.clients.asking import GPT, call, continued, filled, main, url

client = OpenAI(base_url=f"{url()}/v1", api_key="none")


class Person(BaseModel):
    name: str
    age: int


@call("chat.completions.create")
def chat(model: str, text: str) -> object:
    answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return answer.choices[0].message.content


@call("chat.completions.create", streamed=True)
def chat_streamed(model: str, text: str) -> object:
    chunks = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], stream=True
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@filled("chat.completions.parse")
def chat_parsed(model: str, text: str) -> object:
    answer = client.chat.completions.parse(
        model=model, messages=[{"role": "user", "content": text}], response_format=Person
    )
    assert answer.choices[0].message.parsed is not None
    return answer.choices[0].message.parsed.model_dump()


@filled("chat.completions.stream", streamed=True)
def chat_helper(model: str, text: str) -> object:
    asked = client.chat.completions.stream(
        model=model, messages=[{"role": "user", "content": text}], response_format=Person
    )
    with asked as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.parsed is not None
    return message.parsed.model_dump()


@call("responses.create")
def response(model: str, text: str) -> object:
    return client.responses.create(model=model, input=text).output_text


@call("responses.create", streamed=True)
def response_streamed(model: str, text: str) -> object:
    events = client.responses.create(model=model, input=text, stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


@call("responses.stream", streamed=True)
def response_helper(model: str, text: str) -> object:
    with client.responses.stream(model=model, input=text) as stream:
        return stream.get_final_response().output_text


@filled("responses.parse")
def response_parsed(model: str, text: str) -> object:
    parsed = client.responses.parse(model=model, input=text, text_format=Person).output_parsed
    assert parsed is not None
    return parsed.model_dump()


@call("responses.create with previous_response_id", steps=2)
def chain(model: str, text: str) -> object:
    first = client.responses.create(model=model, input=f"{text}, at first")
    then = client.responses.create(model=model, input=text, previous_response_id=first.id)
    assert client.responses.retrieve(then.id).output_text == then.output_text
    assert len(client.responses.input_items.list(then.id).data) == 1
    client.responses.delete(first.id)
    return then.output_text


@call("completions.create", {"OpenAI": GPT["OpenAI"]}, expect=continued)
def completion(model: str, text: str) -> object:
    return client.completions.create(model=model, prompt=text).choices[0].text


@call("completions.create", {"OpenAI": GPT["OpenAI"]}, streamed=True, expect=continued)
def completion_streamed(model: str, text: str) -> object:
    parts = client.completions.create(model=model, prompt=text, stream=True)
    return "".join(part.choices[0].text for part in parts if part.choices)


@call("embeddings.create", {"OpenAI": GPT["OpenAI"]}, expect=vector_of)
def embedding(model: str, text: str) -> object:
    return client.embeddings.create(model=model, input=text).data[0].embedding


if __name__ == "__main__":
    main("openai")
