"""Chats, text completions and vectors as OpenAI publishes them: each body and event is of its client's strict types.

Those of Responses and Messages are in test_responses_answer.py and test_messages_answer.py. `SIZE` is how many answers
are generated for each law.
"""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Completion, CreateEmbeddingResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from dub5.api.chat import ChatWriter
from dub5.api.completions import CompletionWriter
from dub5.api.embeddings import _pieces
from dub5.cache.flights import CacheStatus
from dub5.chat.answer import Writer
from dub5.chat.embeddings import Vectors
from dub5.frames import Frame
from dub5.providers import simulated
from dub5.providers.anthropic_answer import completion as of_anthropic
from dub5.providers.chunks import assemble, split
from dub5.providers.openai import Frames
from dub5.providers.openai_completions import as_chunk, as_completion
from dub5.providers.protocol import Call, Payload
from dub5.vectors import Vector
from testkit import anthropic_server
from tests.harness import size
from tests.published import check

Json = dict[str, Any]
law = settings(max_examples=size(60))

words = st.text(st.sampled_from('aé 😀\n"\\{}z\u2028'), max_size=12)
counts = st.integers(0, 1000)
numbers = st.floats(-9999, 0)
candidates = st.builds(
    lambda token, value, raw: {"token": token, "logprob": value, "bytes": raw},
    words,
    numbers,
    st.none() | st.lists(st.integers(0, 255), max_size=3),
)
likelihoods = st.lists(
    st.builds(lambda each, top: {**each, "top_logprobs": top}, candidates, st.lists(candidates, max_size=2)),
    max_size=2,
)
usages = st.fixed_dictionaries(
    {"prompt_tokens": counts, "completion_tokens": counts, "total_tokens": counts},
    optional={
        "prompt_tokens_details": st.just({"cached_tokens": 2, "audio_tokens": 0}),
        "completion_tokens_details": st.just({"reasoning_tokens": 1}),
    },
)


def heads(kind: str) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries(
        {"id": st.just("x-1"), "object": st.just(kind), "created": counts, "model": st.just("upstream")},
        optional={"system_fingerprint": words, "usage": usages},
    )


def bodies(kind: type[BaseModel], name: str, raw: bytes) -> Json:
    """The one in `raw`, which is of that type, and of that name in the description."""
    kind.model_validate_json(raw, strict=True)
    data: Json = json.loads(raw)
    check(name, data)
    return data


def events(raw: bytes) -> list[bytes]:
    *sent, done, end = raw.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    return [each.removeprefix(b"data: ") for each in sent]


def live(writer: Writer, chunks: list[Payload], together: int) -> bytes:
    """What is sent of chunks as they come."""
    frames = [Frame("chunk" if chunk.data["choices"] else "usage", chunk.raw) for chunk in chunks]
    groups = [frames[at : at + together] for at in range(0, len(frames), together)]
    return b"".join(map(writer.events, groups)) + writer.end()


# --- Chats ---


@st.composite
def chats(draw: st.DrawFn) -> Json:
    """A completion as OpenAI writes one; some compatible servers leave out what is null."""
    sparse = draw(st.booleans())
    choices = []
    for index in range(draw(st.integers(1, 2))):
        message: Json = {"role": "assistant", "content": draw(st.none() | words)}
        if not sparse:
            message["refusal"] = draw(st.none() | words)
        if draw(st.booleans()):
            message["reasoning_content"] = draw(words)
        if draw(st.booleans()):
            message["annotations"] = []
        calls = draw(st.lists(st.tuples(st.sampled_from(["f", "weather"]), words), max_size=2))
        if calls:
            message["tool_calls"] = [
                {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": said}}
                for at, (name, said) in enumerate(calls)
            ]
        choice: Json = {"index": index, "message": message}
        if not sparse:
            choice["logprobs"] = draw(
                st.none()
                | st.fixed_dictionaries({"content": likelihoods, "refusal": st.none() | likelihoods})
            )
        choice["finish_reason"] = draw(
            st.sampled_from(["stop", "length", "tool_calls", "content_filter", "function_call"])
        )
        choices.append(choice)
    return {**draw(heads("chat.completion")), "choices": choices}


def streamed(chunks: list[Json], as_chats: Any = lambda raw: raw) -> list[Payload]:
    """What the provider's module makes of them."""
    frames = Frames()
    made = [each for chunk in chunks for each in frames.read(b"", as_chats(Payload.of(chunk).raw))]
    frames.close()
    return made


@law
@given(chats(), st.integers(1, 4), st.booleans())
def test_chats(given_by: Json, together: int, usage: bool) -> None:
    chunks = streamed(list(split(given_by, include_usage=True)))
    stored = Payload.of_whole(assemble(chunk.data for chunk in chunks)).raw
    body = bodies(ChatCompletion, "CreateChatCompletionResponse", ChatWriter(usage).whole(stored))
    assert [each["message"]["content"] for each in body["choices"]] == [
        each["message"]["content"] for each in given_by["choices"]
    ]
    for raw in (live(ChatWriter(usage), chunks, together), ChatWriter(usage).replay(stored)):
        for event in events(raw):
            bodies(ChatCompletionChunk, "CreateChatCompletionStreamResponse", event)


@law
@given(words, words, st.integers(1, 40), st.booleans())
def test_chats_of_the_simulated_provider_and_of_anthropic(
    asked: str, said: str, limit: int, calls: bool
) -> None:
    body: Json = {"messages": [{"role": "user", "content": asked}], "max_tokens": limit}
    if calls:
        body |= {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}
    simulating = simulated.answer_to(Call(model="m", body=body, stream=False))
    blocks: list[Json] = [{"type": "text", "text": said}]
    blocks += [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": said}}] * calls
    claude = of_anthropic(anthropic_server.message(blocks, "tool_use" if calls else "end_turn"), created=7)
    for made in (simulating.completion(), claude):
        raw = Payload.of(made).raw
        bodies(ChatCompletion, "CreateChatCompletionResponse", ChatWriter(include_usage=True).whole(raw))
        for event in events(ChatWriter(include_usage=True).replay(raw)):
            bodies(ChatCompletionChunk, "CreateChatCompletionStreamResponse", event)
    chunks = [simulating.begin(), *map(simulating.token, simulating.tokens), *simulating.end()]
    for chunk in chunks:
        bodies(ChatCompletionChunk, "CreateChatCompletionStreamResponse", Payload.of(chunk).raw)
    stored = Payload.of(assemble(chunks)).raw
    bodies(ChatCompletion, "CreateChatCompletionResponse", ChatWriter(include_usage=True).whole(stored))


# --- Text completions ---

texts_likelihoods = st.fixed_dictionaries(
    {
        "tokens": st.lists(words, max_size=2),
        "token_logprobs": st.lists(numbers, max_size=2),
        "top_logprobs": st.lists(st.dictionaries(words | st.just("index"), numbers, max_size=2), max_size=2),
        "text_offset": st.lists(counts, max_size=2),
    }
)


@st.composite
def texts(draw: st.DrawFn) -> Json:
    sparse = draw(st.booleans())
    choices = []
    for index in range(draw(st.integers(1, 3))):
        choice: Json = {"text": draw(words), "index": index}
        if not sparse:
            choice["logprobs"] = draw(st.none() | texts_likelihoods)
        choice["finish_reason"] = draw(st.sampled_from(["stop", "length", "content_filter"]))
        choices.append(choice)
    return {**draw(heads("text_completion")), "choices": choices}


@st.composite
def text_chunks(draw: st.DrawFn, whole: Json) -> list[Json]:
    """As a provider sends them: texts are cut anywhere, the choices take turns."""
    head = {name: value for name, value in whole.items() if name not in ("usage", "choices")}
    made, ends = [], []
    for choice in whole["choices"]:
        at = draw(st.integers(0, len(choice["text"])))
        first, rest = choice["text"][:at], choice["text"][at:]
        made.append({**choice, "text": first, "finish_reason": None})
        ends.append({**choice, "text": rest, **({"logprobs": None} if "logprobs" in choice else {})})
    chunks = [{**head, "choices": [choice]} for choice in [*made, *ends]]
    return [*chunks, {**head, "choices": [], "usage": whole["usage"]}] if "usage" in whole else chunks


def text_event(raw: bytes) -> Json:
    """Until its end a choice has none: the API says null, though its description has no word for that."""
    data: Json = json.loads(raw)
    ended = [{**each, "finish_reason": each["finish_reason"] or "stop"} for each in data["choices"]]
    bodies(Completion, "CreateCompletionResponse", json.dumps({**data, "choices": ended}).encode())
    return data


def said(chunks: list[Json]) -> dict[int, tuple[str, Json]]:
    """The text of each choice, and the likelihoods of its tokens."""
    found: dict[int, tuple[str, Json]] = {}
    for choice in (each for chunk in chunks for each in chunk["choices"]):
        text, told = found.get(choice["index"], ("", {}))
        more = choice.get("logprobs") or {}
        told = {name: told.get(name, []) + more.get(name, []) for name in {**told, **more}}
        found[choice["index"]] = (text + choice["text"], told)
    return found


@law
@given(texts(), st.data(), st.integers(1, 4))
def test_text_completions(given_by: Json, data: st.DataObject, together: int) -> None:
    chunks = streamed(data.draw(text_chunks(given_by)), as_chunk)
    for stored in (
        Payload.of_whole(assemble(chunk.data for chunk in chunks)).raw,
        Payload.of(as_completion(given_by)).raw,
    ):
        writer = CompletionWriter(include_usage=True)
        body = bodies(Completion, "CreateCompletionResponse", writer.whole(stored))
        assert said([body]) == said([given_by])
        for raw in (live(writer, chunks, together), writer.replay(stored)):
            assert said(list(map(text_event, events(raw)))) == said([given_by])


# --- Vectors ---

vectors = st.lists(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=4).map(Vector.of_floats), min_size=1, max_size=4
)


@law
@given(vectors, counts, st.booleans())
def test_vectors(given_by: list[Vector], tokens: int, in_base64: bool) -> None:
    request: Any = SimpleNamespace(request=SimpleNamespace(base64=in_base64, model="m"))
    answer = Vectors(given_by, tokens, CacheStatus(), None)
    body = json.loads(b"".join(_pieces(request, answer)))
    for each in body["data"]:
        if in_base64:  # as its client reads it
            raw = base64.b64decode(each["embedding"])
            each["embedding"] = list(memoryview(raw).cast("f"))
    written = json.dumps(body).encode()
    found = bodies(CreateEmbeddingResponse, "CreateEmbeddingResponse", written)
    assert [each["embedding"] for each in found["data"]] == [list(each.floats()) for each in given_by]


def test_a_wrong_body_is_found() -> None:
    with pytest.raises(ValueError, match="finish_reason"):
        bodies(
            ChatCompletion,
            "CreateChatCompletionResponse",
            b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"role":"assistant"},"finish_reason":"odd"}]}',
        )
