"""POST /v1/completions: the official client has texts continued, by a provider that is asked to the letter."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from dub5.api.completions import CompletionWriter
from dub5.cache.store import check_completion
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import DIE, Call, Script, Wire, refuse, stream, whole
from testkit.openai_server import FakeOpenAI, continuation, frame, go_on
from tests.harness import Running, openai_provider, running

Json = dict[str, Any]


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with await server.openai() as client:
        yield client


async def ask(server: Running, prompt: Any = "Once", **fields: Any) -> httpx.Response:
    return await server.client.post("/v1/completions", json={"model": "small", "prompt": prompt, **fields})


def said(prompt: str | list[int]) -> str:
    return "".join(continuation(prompt))


def events(response: httpx.Response) -> list[Json]:
    *sent, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(each.removeprefix("data: ")) for each in sent]


def joined(chunks: list[Json]) -> dict[int, str]:
    """The text of each choice."""
    texts: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


@pytest.mark.parametrize("stored", [b"{}", b'{"choices":null}', b'{"choices":[]}'])
def test_what_passes_for_a_stored_answer_is_served(stored: bytes) -> None:
    check_completion(stored)
    writer = CompletionWriter(include_usage=True)
    assert json.loads(writer.whole(stored)) == {"object": "text_completion", "choices": []}
    assert writer.replay(stored) == b"data: [DONE]\n\n"


def test_what_is_streamed_of_a_stored_answer_has_only_so_many_events_however_many_texts_it_is() -> None:
    """Else a stored answer to many prompts would become forty times as long, in one step of the event loop."""
    texts = ["some words " * 100] * 100
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        for index, text in enumerate(texts)
    ]
    writer = CompletionWriter(include_usage=False)
    *sent, _, _ = writer.replay(json.dumps({"choices": choices}).encode()).decode().split("\n\n")
    assert list(joined([json.loads(each.removeprefix("data: ")) for each in sent]).values()) == texts
    assert len(sent) <= 2000 + len(texts)


class Gated:
    """Holds each call until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, call: Call, wire: Wire) -> None:
        await self.gate.wait()
        await go_on()(call, wire)


# The official client.


async def test_by_the_official_clients_defaults(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    for _ in ("missed", "hit"):
        answer = await client.completions.create(model="small", prompt="Once")
        assert answer.object == "text_completion"
        [choice] = answer.choices
        assert (choice.text, choice.finish_reason, choice.logprobs) == (said("Once"), "length", None)
        assert answer.usage is not None
        assert answer.usage.total_tokens == 25
    [call] = fake.calls
    assert (call.path, call.body) == ("/v1/completions", {"model": "gpt-small", "prompt": "Once"})


@pytest.mark.parametrize("first", [True, False])
async def test_streamed_and_whole_are_one_answer(client: AsyncOpenAI, fake: FakeOpenAI, first: bool) -> None:
    for streamed in (first, not first, True):
        if streamed:
            chunks = [
                each
                async for each in await client.completions.create(
                    model="small", prompt="Once", stream=True, stream_options={"include_usage": True}
                )
            ]
            *texts, last = chunks
            assert "".join(each.choices[0].text for each in texts) == said("Once")
            assert texts[-1].choices[0].finish_reason == "length"
            assert (last.choices, last.usage and last.usage.total_tokens) == ([], 25)
        else:
            answer = await client.completions.create(model="small", prompt="Once")
            assert answer.choices[0].text == said("Once")
    assert len(fake.calls) == 1


@pytest.mark.parametrize("streamed", [False, True])
async def test_several_prompts_are_answered_in_their_order(
    server: Running, fake: FakeOpenAI, streamed: bool
) -> None:
    for prompt in (["a", "b", "c"], [[1, 2], [3]], [1, 2]):
        for _ in ("missed", "hit"):
            response = await ask(server, prompt, stream=streamed)
            found = joined(events(response)) if streamed else joined([response.json()])
            given = [prompt] if prompt == [1, 2] else prompt
            assert found == {index: said(each) for index, each in enumerate(given)}  # type: ignore[arg-type]
        assert "; hit" in response.headers["cache-status"]
    assert [call.body["prompt"] for call in fake.calls] == [["a", "b", "c"], [[1, 2], [3]], [1, 2]]


async def test_everything_reaches_the_provider_as_it_was_written(server: Running, fake: FakeOpenAI) -> None:
    fields = {
        "suffix": "end",
        "echo": True,
        "logprobs": 2,
        "best_of": 4,
        "n": 2,
        "max_tokens": 5,
        "stop": ["x"],
        "temperature": 0,
        "logit_bias": {"50256": -100},
        "user": "me",
        "unknown": {"a": [1]},
    }
    response = await ask(server, **fields)
    assert fake.calls[0].body == {"model": "gpt-small", "prompt": "Once", **fields}
    assert joined([response.json()]) == {0: "Once" + said("Once"), 1: "Once" + said("Once")}
    assert response.headers["cache-status"] == "dub5; fwd=bypass; detail=n"


@pytest.mark.parametrize("prompt", ["word " * 50_000, list(range(20_000)), ["word " * 500] * 100])
async def test_large_prompts_are_as_good(server: Running, fake: FakeOpenAI, prompt: Any) -> None:
    """They are read, and asked for, in steps."""
    for _ in ("missed", "hit"):
        response = await ask(server, prompt)
        assert response.status_code == 200, response.text
        assert len(response.json()["choices"]) == (100 if prompt[0] == "word " * 500 else 1)
    assert "; hit" in response.headers["cache-status"]
    assert [call.body["prompt"] for call in fake.calls] == [prompt]


@pytest.mark.parametrize("streamed", [False, True])
async def test_logprobs_are_those_of_the_provider(server: Running, fake: FakeOpenAI, streamed: bool) -> None:
    """Streamed or not, and from the cache: also where a candidate is called as a field is."""
    expected = {
        "tokens": continuation("Once"),
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{token: -0.5, "index": -0.25} for token in continuation("Once")],
        "text_offset": [0, 0],
    }
    for asks_streamed in (streamed, False, True):
        response = await ask(server, logprobs=2, stream=asks_streamed)
        chunks = events(response) if asks_streamed else [response.json()]
        found: Json = {}
        for chunk in chunks:
            for name, values in (chunk["choices"][0]["logprobs"] or {}).items():
                found[name] = found.get(name, []) + values
        assert found == expected
    assert len(fake.calls) == 1


async def test_no_tokens_may_be_wanted(server: Running, fake: FakeOpenAI) -> None:
    """Then it is asked how likely the text is. A chat cannot ask so."""

    async def measured(call: Call, wire: Wire) -> None:
        choice = {"text": call.body["prompt"], "index": 0, "logprobs": None, "finish_reason": "length"}
        usage = {"prompt_tokens": 1, "completion_tokens": 0, "total_tokens": 1}
        await whole(
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )(call, wire)

    fake.reply = measured
    for _ in ("missed", "hit"):
        response = await ask(server, max_tokens=0, echo=True, logprobs=1)
        assert joined([response.json()]) == {0: "Once"}
    assert len(fake.calls) == 1
    assert (await server.chat(max_tokens=0)).status_code == 400


# What holds for chats holds for texts.


async def test_a_text_is_another_question_than_a_chat(server: Running, fake: FakeOpenAI) -> None:
    assert (await ask(server, "hi", max_tokens=9)).status_code == 200
    chat = await server.chat("hi", max_tokens=9)
    assert chat.json()["object"] == "chat.completion"
    assert chat.headers["cache-status"] == "dub5; fwd=uri-miss; stored"
    assert [call.path for call in fake.calls] == ["/v1/completions", "/v1/chat/completions"]


async def test_the_same_text_is_asked_for_once(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = gated = Gated()
    asking = [asyncio.create_task(ask(server, stream=index % 2 == 0)) for index in range(6)]
    await server.followed(6)
    gated.gate.set()
    for index, response in enumerate(await asyncio.gather(*asking)):
        found = joined(events(response)) if index % 2 == 0 else joined([response.json()])
        assert found == {0: said("Once")}
    assert len(fake.calls) == 1


async def test_what_asks_for_nothing_makes_no_other_question(server: Running, fake: FakeOpenAI) -> None:
    same: list[Json] = [
        {},
        {"echo": False, "n": 1, "best_of": 1, "suffix": None},
        {"stop": []},
        {"user": "me"},
    ]
    for fields in same:
        await ask(server, ["Once"] if fields else "Once", **fields)
    assert len(fake.calls) == 1
    for other in ({"echo": True}, {"suffix": "x"}, {"logprobs": 0}, {"max_tokens": 16}, {"best_of": 2}):
        assert (await ask(server, **other)).headers["cache-status"] == "dub5; fwd=uri-miss; stored"
    await ask(server, ["On", "ce"])
    await ask(server, [[1], [2]])
    await ask(server, [1, 2])
    assert len(fake.calls) == 9


async def test_a_limit_of_the_providers_own_is_no_end(server: Running, fake: FakeOpenAI) -> None:
    """Where the request has none there is OpenAI's usual one, and what is shorter was cut by something else."""

    def ended_after(tokens: int) -> Any:
        choice = {"text": " x", "index": 0, "logprobs": None, "finish_reason": "length"}
        usage = {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 1 + tokens}
        return whole(
            {
                "id": "c",
                "object": "text_completion",
                "created": 1,
                "model": "m",
                "choices": [choice],
                "usage": usage,
            }
        )

    for tokens, stored in ((3, False), (16, True)):
        fake.reply = ended_after(tokens)
        status = (await ask(server)).headers["cache-status"]
        assert status.endswith("; stored") is stored


async def test_limits_metrics_and_purges_hold(server: Running, fake: FakeOpenAI) -> None:
    await ask(server, ["a", "b"], max_tokens=5)
    assert await server.metric("dub5_http_requests_total", route="/v1/completions", outcome="ok") == 1
    assert await server.metric("dub5_tokens_total", direction="output") == 5
    assert await server.metric("dub5_cache_lookups_total", result="miss") == 1
    await server.client.post("/v1/cache/invalidations", json={"model": "small"})
    assert "stored" in (await ask(server, ["a", "b"], max_tokens=5)).headers["cache-status"]
    assert len(fake.calls) == 2


async def test_what_may_follow_each_prompt_counts_against_a_tenants_tokens(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "limits": {"default": {"tokens_per_minute": 1000}}}
    async with running(config) as server:
        assert (await ask(server, ["a", "b"], max_tokens=300)).status_code == 200
        refused = await ask(server, ["c", "d", "e", "f"], max_tokens=300)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert len(fake.calls) == 1


# Who has it.


async def test_a_personality_has_no_text_completions(fake: FakeOpenAI) -> None:
    config = openai_provider(fake.base_url)
    config["personalities"] = {"sage": {"description": "Wise.", "system": "Be wise.", "model": "small"}}
    async with running(config) as server:
        refused = await ask(server, model="sage")
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "model")
    assert "`sage`" in error["message"]
    assert fake.calls == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_route_that_has_none_is_passed_over(fake: FakeOpenAI, streamed: bool) -> None:
    async with FakeAnthropic() as claude:
        config = openai_provider(fake.base_url)
        config["providers"]["claude"] = {"kind": "anthropic", "base_url": claude.url}
        config["models"] |= {
            "both": {"routes": ["claude/claude-haiku-4-5", "fake/gpt-small"]},
            "chats": {"routes": ["claude/claude-haiku-4-5"]},
        }
        async with running(config) as server:
            assert (await ask(server, model="both", stream=streamed)).status_code == 200
            refused = await ask(server, model="chats", stream=streamed)
        assert claude.calls == []
    error = refused.json()["error"]
    assert (refused.status_code, error["param"]) == (400, "model")
    assert "claude-haiku-4-5" in error["message"]


NOWHERE = [
    refuse(404, "Unknown request URL: POST /v1/completions"),
    refuse(404, "The model `gpt-small` does not exist"),
    refuse(404, "This is a chat model and not supported in the v1/completions endpoint."),
    refuse(405, "Method Not Allowed"),
    refuse(501, "Not Implemented"),
]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("script", NOWHERE)
async def test_a_provider_without_it_is_no_outage(
    server: Running, fake: FakeOpenAI, script: Script, path: str
) -> None:
    fake.reply = script
    for number in range(12):
        body = {"model": "small", "prompt": "Once", "input": "Once", "stream": number % 2 == 0}
        response = await server.client.post(path, json=body)
        assert response.status_code == 404, response.text
        assert "model" in response.json()["error"]["message"]
    fake.reply = fake.default
    assert (await server.chat()).status_code == 200  # whatever is asked of it, its chats go on


# What a provider may answer.


async def test_fewer_texts_than_prompts_are_no_answer(server: Running, fake: FakeOpenAI) -> None:
    choice = {"text": " x", "index": 0, "logprobs": None, "finish_reason": "stop"}
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}
    fake.reply = whole(head)
    assert (await ask(server, ["a", "b"])).status_code == 502
    fake.reply = stream([frame(head), b"data: [DONE]\n\n"])
    broken = await ask(server, ["a", "b"], stream=True)
    assert '"error"' in broken.text
    assert "[DONE]" not in broken.text
    fake.reply = fake.default
    assert (await ask(server, ["a", "b"])).headers["cache-status"] == "dub5; fwd=uri-miss; stored"


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (b'[{"choices": [{"text": " x", "index": 0}]}]', " x x"),
        (b'{"choices": [{"text": " \xff", "index": 0, "more": NaN}]}', " \ufffd \ufffd"),
        (b'{"choices": [{"text": " \\ud83d\\ude00", "index": 0}]}', " \U0001f600 \U0001f600"),
        (b'["choices"]', None),
        (b'"choices"', None),
    ],
)
async def test_what_is_odd_in_a_stream_is_understood_or_reported(
    server: Running, fake: FakeOpenAI, odd: bytes, text: str | None
) -> None:
    head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
    end = {"text": "", "index": 0, "logprobs": None, "finish_reason": "stop"}
    fake.reply = stream([b"data: %b\n\n" % odd * 2, frame({**head, "choices": [end]}), b"data: [DONE]\n\n"])
    for streamed in (True, False):
        response = await ask(server, stream=streamed)
        if text is None:
            assert response.status_code == 502
            assert response.json()["error"]["code"] == "provider_error"
        else:
            assert joined(events(response) if streamed else [response.json()]) == {0: text}


async def test_a_stream_that_breaks_off_ends_with_an_error(server: Running, fake: FakeOpenAI) -> None:
    choice = {"text": " x", "index": 0, "logprobs": None, "finish_reason": None}
    fake.reply = stream(
        [
            frame({"id": "c", "object": "text_completion", "created": 1, "model": "m", "choices": [choice]}),
            DIE,
        ]
    )
    response = await ask(server, stream=True)
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "provider_error"


async def test_an_answer_that_is_streamed_unasked_is_understood(server: Running, fake: FakeOpenAI) -> None:
    async def streamed(call: Call, wire: Wire) -> None:
        choice = {"text": said("Once"), "index": 0, "logprobs": None, "finish_reason": "stop"}
        head = {"id": "c", "object": "text_completion", "created": 1, "model": "m"}
        await stream([frame({**head, "choices": [choice]}), b"data: [DONE]\n\n"])(call, wire)

    fake.reply = streamed
    assert joined([(await ask(server)).json()]) == {0: said("Once")}


async def test_the_simulated_provider_continues_texts() -> None:
    async with (
        running(
            {
                "providers": {"demo": {"kind": "simulated", "first_token": 0, "tokens_per_second": 10**6}},
                "models": {"small": {"routes": ["demo/one"]}},
            }
        ) as server,
        await server.openai() as client,
    ):
        first = await client.completions.create(model="small", prompt=["Once", "Twice"], echo=True)
        again = await client.completions.create(
            model="small", prompt=["Once", "Twice"], extra_headers={"cache-control": "no-store"}, echo=True
        )
        one = await client.completions.create(model="small", prompt="Once", max_tokens=3)
        streamed = await ask(server, ["Once", "Twice"], stream=True, echo=True, temperature=2)
        refused = await ask(server, n=2)
    assert first.model_dump() == again.model_dump()
    texts = {each.index: each.text for each in first.choices}
    assert texts[0].startswith("Once" + one.choices[0].text)
    assert texts[1].startswith("Twice ")
    assert joined(events(streamed)) == texts
    assert first.usage is not None
    assert first.usage.completion_tokens == 32
    assert refused.json()["error"]["param"] == "n"
