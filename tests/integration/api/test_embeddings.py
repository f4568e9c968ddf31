"""POST /v1/embeddings: each text is found, joined or asked for by itself, and the official client gets its vector."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from msgspec.structs import replace
from openai import AsyncOpenAI

from dub5.cache.store import pack, unpack
from testkit.anthropic_server import FakeAnthropic
from testkit.http_server import Call, Wire, refuse, whole
from testkit.openai_server import FakeOpenAI, embed, vector_of
from tests.harness import Running, later, openai_provider, running
from tests.integration.cache.support import plain
from tests.turns import counted_turns

Json = dict[str, Any]


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with await server.openai() as client:
        yield client


async def ask(
    server: Running, texts: Any, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    body = {"model": "small", "input": texts, **fields}
    return await server.client.post("/v1/embeddings", json=body, headers=headers)


def vectors(response: httpx.Response) -> list[list[float]]:
    assert response.status_code == 200, response.text
    assert [each["index"] for each in response.json()["data"]] == list(range(len(response.json()["data"])))
    return [each["embedding"] for each in response.json()["data"]]


def status(response: httpx.Response) -> str:
    return response.headers["cache-status"]


def asked(fake: FakeOpenAI) -> list[list[Any]]:
    """The texts of each call that the provider got."""
    return [call.body["input"] for call in fake.calls]


async def until_stale(server: Running) -> None:
    """Until what is stored of the text `a` is no longer fresh."""
    stale = {"cache-control": "only-if-cached, max-stale"}
    async with asyncio.timeout(60):
        while not status(await ask(server, ["a"], stale)).endswith(("max-stale", "revalidate")):  # noqa: ASYNC110  # nor has a clock
            await asyncio.sleep(0.01)


class Gated:
    """Holds each call until `gate` is set."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()

    async def __call__(self, call: Call, wire: Wire) -> None:
        await self.gate.wait()
        await embed()(call, wire)


# The official client.


async def test_by_the_official_clients_defaults(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    for _ in ("missed", "hit"):
        answer = await client.embeddings.create(model="small", input="a text")
        assert answer.data[0].embedding == vector_of("a text")
        assert (answer.model, answer.object) == ("small", "list")
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    [call] = fake.calls
    assert call.body == {"model": "gpt-small", "input": ["a text"], "encoding_format": "base64"}


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_both_encodings_are_one_answer(client: AsyncOpenAI, fake: FakeOpenAI, encoding: Any) -> None:
    await client.embeddings.create(model="small", input=["a", "b"])
    answer = await client.embeddings.create(model="small", input=["a", "b"], encoding_format=encoding)
    found: list[Any] = [each.embedding for each in answer.data]
    if encoding == "base64":
        found = [list(struct.unpack("<4f", base64.b64decode(each))) for each in found]
    assert found == [vector_of("a"), vector_of("b")]
    assert len(fake.calls) == 1


async def test_dimensions_are_another_vector(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    for dimensions in (2, 6, 2):
        answer = await client.embeddings.create(model="small", input="a", dimensions=dimensions)
        assert answer.data[0].embedding == vector_of("a", dimensions)
    assert [call.body["dimensions"] for call in fake.calls] == [2, 6]


async def test_tokens_of_one_text_and_of_several(client: AsyncOpenAI, fake: FakeOpenAI) -> None:
    one = await client.embeddings.create(model="small", input=[5, 6, 7])
    several = await client.embeddings.create(model="small", input=[[5, 6, 7], [8]])
    assert [each.embedding for each in one.data] == [vector_of([5, 6, 7])]
    assert [each.embedding for each in several.data] == [vector_of([5, 6, 7]), vector_of([8])]
    assert asked(fake) == [[[5, 6, 7]], [[8]]]


async def test_the_simulated_provider_gives_the_same_unit_vector_to_the_same_text() -> None:
    async with (
        running(
            {
                "providers": {"demo": {"kind": "simulated", "first_token": 0}},
                "models": {"small": {"routes": ["demo/one"]}, "other": {"routes": ["demo/two"]}},
            }
        ) as server,
        await server.openai() as client,
    ):
        first = await client.embeddings.create(model="small", input=["a", "b", "a"])
        again = await client.embeddings.create(
            model="small", input="b", extra_headers={"cache-control": "no-store"}
        )
        short = await client.embeddings.create(
            model="small", input="b", dimensions=64, encoding_format="float"
        )
        other = await client.embeddings.create(model="other", input="b")
        with pytest.raises(openai.BadRequestError) as refused:
            await client.embeddings.create(model="small", input="b", dimensions=5000)
    a, b, third = (each.embedding for each in first.data)
    assert (len(a), third, again.data[0].embedding) == (1536, a, b)
    assert a != b
    assert other.data[0].embedding != b
    for each in (a, b, short.data[0].embedding):
        assert math.hypot(*each) == pytest.approx(1, abs=1e-6)
    scale = math.hypot(*b[:64])
    assert [each / scale for each in b[:64]] == pytest.approx(short.data[0].embedding, abs=1e-6)
    assert len(short.data[0].embedding) == 64
    assert refused.value.param == "dimensions"


# By text.


async def test_a_batch_of_which_most_is_known_asks_for_the_rest(server: Running, fake: FakeOpenAI) -> None:
    known = [f"text {number}" for number in range(90)]
    missed = await ask(server, known)
    assert status(missed) == "dub5; fwd=uri-miss; stored"
    batch = [f"text {number}" for number in range(100)]
    partly = await ask(server, batch)
    assert vectors(partly) == [vector_of(each) for each in batch]
    assert asked(fake) == [known, batch[90:]]
    assert status(partly) == 'dub5; fwd=partial; stored; detail="90 of 100"'
    hit = await ask(server, batch)
    assert status(hit).startswith("dub5; hit; ttl=")
    assert status(hit).endswith("; detail=local")
    assert int(hit.headers["age"]) >= 0
    assert len(fake.calls) == 2
    assert missed.json()["usage"] == {"prompt_tokens": 270, "total_tokens": 270}
    assert hit.json()["usage"] == partly.json()["usage"] == {"prompt_tokens": 300, "total_tokens": 300}
    assert await server.metric("dub5_tokens_total", direction="input") == 300
    assert await server.metric("dub5_saved_dollars_total", direction="input") == pytest.approx(
        (270 + 300) / 1e6
    )
    assert await server.metric("dub5_cache_lookups_total", result="local") == 190
    assert await server.metric("dub5_cache_lookups_total", result="miss") == 100


async def test_a_text_that_stands_twice_in_a_batch_is_asked_for_once(
    server: Running, fake: FakeOpenAI
) -> None:
    response = await ask(server, ["a", "b", "a"])
    assert vectors(response) == [vector_of("a"), vector_of("b"), vector_of("a")]
    assert asked(fake) == [["a", "b"]]
    assert response.json()["usage"]["total_tokens"] == 9


async def test_batches_that_share_texts_ask_for_each_once(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = gated = Gated()
    first = asyncio.create_task(ask(server, ["a", "b", "c"]))
    await fake.wait_called()
    second = asyncio.create_task(ask(server, ["d", "c", "b"]))
    await fake.wait_called()
    third = asyncio.create_task(ask(server, ["c", "d"]))
    await server.followed(3 + 3 + 2)
    gated.gate.set()
    assert vectors(await first) == [vector_of("a"), vector_of("b"), vector_of("c")]
    assert vectors(await second) == [vector_of("d"), vector_of("c"), vector_of("b")]
    assert vectors(await third) == [vector_of("c"), vector_of("d")]
    assert asked(fake) == [["a", "b", "c"], ["d"]]
    assert status(await third) == "dub5; fwd=uri-miss; collapsed"
    assert status(await second) == "dub5; fwd=uri-miss; stored"
    assert await server.metric("dub5_cache_lookups_total", result="collapsed") == 4


async def test_a_text_whose_first_client_left_is_still_answered(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = gated = Gated()
    first = asyncio.create_task(ask(server, ["a", "b"]))
    await fake.wait_called()
    second = asyncio.create_task(ask(server, ["b"]))
    await server.followed(3)
    first.cancel()
    await server.becomes("dub5_http_requests_total", 1, outcome="client_disconnect")
    gated.gate.set()
    assert vectors(await second) == [vector_of("b")]
    assert len(fake.calls) == 1


async def test_a_call_that_nobody_waits_for_is_cancelled(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = Gated()
    asking = asyncio.create_task(ask(server, ["a", "b"]))
    await fake.wait_called()
    asking.cancel()
    await fake.wait_cancelled()
    fake.reply = embed()
    assert vectors(await ask(server, ["a"])) == [vector_of("a")]


async def test_who_joined_a_batch_that_is_refused_asks_for_its_own_texts(
    server: Running, fake: FakeOpenAI
) -> None:
    gate = asyncio.Event()

    async def reply(call: Call, wire: Wire) -> None:
        await gate.wait()
        script = refuse(400, "too long", param="input[1]") if "long" in call.body["input"] else embed()
        await script(call, wire)

    fake.reply = reply
    first = asyncio.create_task(ask(server, ["a", "long"]))
    await fake.wait_called()
    second = asyncio.create_task(ask(server, ["b", "a"]))
    await fake.wait_called()
    gate.set()
    refused = await first
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[1]")
    assert vectors(await second) == [vector_of("b"), vector_of("a")]
    assert asked(fake) == [["a", "long"], ["b"], ["a"]]


async def test_what_is_refused_of_one_request_says_nothing_of_others_with_its_id(
    server: Running, fake: FakeOpenAI
) -> None:
    async def reply(call: Call, wire: Wire) -> None:
        await (refuse(400, "too long") if "long" in call.body["input"] else embed())(call, wire)

    fake.reply = reply
    one_id = {"x-request-id": "one-task-in-several-requests"}
    assert (await ask(server, ["long"], one_id)).status_code == 400
    assert vectors(await ask(server, ["a"], one_id)) == [vector_of("a")]


async def test_other_fields_and_models_are_other_questions(server: Running, fake: FakeOpenAI) -> None:
    await ask(server, "a")
    await ask(server, "a", user="me", encoding_format="base64")  # the same
    assert len(fake.calls) == 1
    await ask(server, "a", input_type="query")
    assert [call.body.get("input_type") for call in fake.calls] == [None, "query"]


async def test_what_a_request_asks_of_the_cache(server: Running, fake: FakeOpenAI) -> None:
    missing = await ask(server, ["a"], {"cache-control": "only-if-cached"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (504, "not_cached")
    assert (
        status(await ask(server, ["a"], {"cache-control": "no-store"})) == "dub5; fwd=bypass; detail=no-store"
    )
    assert status(await ask(server, ["a"])) == "dub5; fwd=uri-miss; stored"
    assert status(await ask(server, ["a", "b"], {"cache-control": "no-cache"})) == "dub5; fwd=request; stored"
    assert status(await ask(server, ["b", "a"], {"cache-control": "only-if-cached"})).startswith("dub5; hit")
    assert (
        status(await ask(server, ["b", "c"], {"cache-control": "max-age=0"})) == "dub5; fwd=request; stored"
    )
    assert asked(fake) == [["a"], ["a"], ["a", "b"], ["b", "c"]]


async def test_what_is_never_cached_is_not_asked_for_where_only_that_may_be_had(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "cache": {"classes": {"default": {"cacheable": "never"}}}}
    async with running(config) as server:
        refused = await ask(server, ["a"], {"cache-control": "only-if-cached"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
        assert fake.calls == []


async def test_a_purge_by_tag_reaches_vectors(fake: FakeOpenAI, redis: str) -> None:
    async with running({**openai_provider(fake.base_url), "redis": {"url": redis}}) as server:
        await ask(server, ["a"], {"x-dub5-cache-tags": "doc"})
        await ask(server, ["a"])
        purged = await server.client.post("/v1/cache/invalidations", json={"tags": ["doc"]})
        assert purged.status_code == 200
        assert status(await ask(server, ["a"])).startswith("dub5; hit")
        assert status(await ask(server, ["a"], {"x-dub5-cache-tags": "doc"})) == "dub5; fwd=uri-miss; stored"
        assert len(fake.calls) == 3


async def test_stale_vectors_are_served_while_new_ones_are_fetched_and_where_nothing_better_is_to_be_had(
    fake: FakeOpenAI,
) -> None:
    config = openai_provider(fake.base_url)
    config["models"]["small"]["cache_class"] = "short"
    config["cache"] = {
        "classes": {"short": {"ttl": "50ms", "stale_while_revalidate": 0, "stale_if_error": "1h"}}
    }
    async with running(config) as server:
        await ask(server, ["a"])
        await until_stale(server)
        fake.reply = refuse(500, "Oops")
        response = await ask(server, ["a"])
        assert vectors(response) == [vector_of("a")]
        assert status(response).endswith("detail=stale-if-error")
        assert (await ask(server, ["a", "b"])).status_code == 502
    config["cache"] = {"classes": {"short": {"ttl": "50ms", "stale_while_revalidate": "1h"}}}
    fake.reply = embed()
    async with running(config) as server:
        await ask(server, ["a", "b"])
        begun = len(fake.calls)
        await until_stale(server)
        response = await ask(server, ["b", "a"])
        assert status(response).endswith("detail=stale-while-revalidate")
        assert vectors(response) == [vector_of("b"), vector_of("a")]
        while {text for texts in asked(fake)[begun:] for text in texts} != {"a", "b"}:
            await fake.wait_called()


# Providers.


async def test_batches_are_split_to_the_providers_limit(fake: FakeOpenAI) -> None:
    config = openai_provider(fake.base_url, embeddings={"max_items": 3, "max_bytes": 20})
    async with running(config) as server:
        texts = ["a", "b", "c", "d", "eight by", "f" * 12, "g" * 50, "h"]
        assert vectors(await ask(server, texts)) == [vector_of(each) for each in texts]
    assert sorted(asked(fake)) == [["a", "b", "c"], ["d", "eight by"], ["f" * 12], ["g" * 50], ["h"]]


async def test_the_next_route_is_asked_where_one_fails_or_makes_no_vectors(fake: FakeOpenAI) -> None:
    async with FakeAnthropic() as anthropic, FakeOpenAI() as broken:
        broken.reply = refuse(500, "Oops")
        config = openai_provider(fake.base_url)
        config["providers"]["claude"] = {"kind": "anthropic", "base_url": anthropic.base_url}
        config["providers"]["broken"] = {"kind": "openai", "base_url": broken.base_url}
        config["models"]["small"]["routes"] = ["claude/claude-haiku-4-5", "broken/one", "fake/gpt-small"]
        config["models"]["talker"] = {"routes": ["claude/claude-haiku-4-5"]}
        async with running(config) as server:
            assert vectors(await ask(server, ["a"])) == [vector_of("a")]
            refused = await ask(server, ["a"], model="talker")
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "model")
        assert (len(broken.calls), len(fake.calls), anthropic.calls) == (1, 1, [])


@pytest.mark.parametrize("floats", [False, True])
async def test_what_compatible_servers_write_otherwise(
    server: Running, fake: FakeOpenAI, floats: bool
) -> None:
    fake.reply = embed(floats=floats, index=False)
    assert vectors(await ask(server, ["a", "b"])) == [vector_of("a"), vector_of("b")]


@pytest.mark.parametrize("field", ["output_dtype", "embed_dtype", "endianness"])
async def test_bytes_of_another_kind_of_number_are_not_taken_for_floats(
    server: Running, fake: FakeOpenAI, field: str
) -> None:
    """Servers that know the field write its kind of number into base64; of bytes alone nobody can tell which."""

    async def of_that_kind(call: Call, wire: Wire) -> None:
        vector: Any = [12, -6, 3, 64]
        if call.body["encoding_format"] == "base64":
            vector = base64.b64encode(struct.pack("4b", *vector)).decode()
        await whole({"data": [{"index": 0, "embedding": vector}]})(call, wire)

    fake.reply = of_that_kind
    asked_for: Json = {field: "other"}
    assert vectors(await ask(server, ["a"], **asked_for)) == [[12, -6, 3, 64]]
    assert fake.calls[0].body[field] == "other"


async def test_numbers_of_64_bits_are_served_as_they_were_said(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = whole({"data": [{"index": 0, "embedding": [0.1, -2, 1e-200]}]})
    for _ in ("missed", "hit"):
        assert vectors(await ask(server, ["a"])) == [[0.1, -2, 1e-200]]
    assert len(fake.calls) == 1


ANSWERS: list[Any] = [
    {},
    [],
    {"data": []},
    {"data": [{"index": 1, "embedding": [1]}]},
    {"data": [{"index": 0, "embedding": [1]}] * 2},
    {"data": [{"index": 0, "embedding": []}]},
    {"data": [{"index": 0, "embedding": None}]},
    {"data": [{"index": 0, "embedding": [1, None]}]},
    {"data": [{"index": 0, "embedding": "no base64"}]},
    {"data": [{"index": 0, "embedding": [[1]]}]},
    {"data": [{"index": 0, "embedding": [0] * 100_000}]},
    {"data": [{"index": 0, "embedding": [1]}], "usage": {"prompt_tokens": -1}, "more": [{}] * 100},
]


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda each: json.dumps(each)[:60])
async def test_an_answer_that_is_none_is_the_providers_fault_and_never_kept(
    server: Running, fake: FakeOpenAI, answer: Any
) -> None:
    fake.reply = whole(answer)
    response = await ask(server, ["a"])
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_error")
    fake.reply = embed()
    assert vectors(await ask(server, ["a"])) == [vector_of("a")]


async def test_an_error_with_status_200_is_one(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = whole({"error": {"message": "The model is loading.", "code": "loading"}})
    response = await ask(server, ["a"])
    assert response.status_code == 502
    assert "loading" in response.json()["error"]["message"]


# Bad input, and what every request goes through.

BAD: list[tuple[Json, str]] = [
    ({}, "input"),
    ({"input": None}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": ["a", ""]}, "input[1]"),
    ({"input": ["a", "b", {}]}, "input[2]"),
    ({"input": ["a", 1]}, "input[1]"),
    ({"input": [1, 2, -1]}, "input[2]"),
    ({"input": [1, 2.5]}, "input[1]"),
    ({"input": [[1], []]}, "input[1]"),
    ({"input": [[1], [2, "a"]]}, "input[1][1]"),
    ({"input": ["a"] * 2049}, "input"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ({"input": "a", "dimensions": 0}, "dimensions"),
    ({"input": "a", "user": 3}, "user"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda each: str(each)[:50])
async def test_bad_input_names_the_field(server: Running, fake: FakeOpenAI, fields: Json, param: str) -> None:
    response = await server.client.post("/v1/embeddings", json={"model": "small", **fields})
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert fake.calls == []


async def test_a_personality_has_no_vectors(fake: FakeOpenAI) -> None:
    config = {
        **openai_provider(fake.base_url),
        "personalities": {"pirate": {"system": "Arr.", "model": "small"}},
    }
    async with running(config) as server:
        response = await ask(server, "a", model="pirate")
        assert (response.status_code, response.json()["error"]["param"]) == (400, "model")
        assert (await ask(server, "a", model="nobody")).status_code == 404
        assert (await server.client.get("/v1/embeddings")).status_code == 405


async def test_limits_count_what_was_asked_for(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "limits": {"default": {"tokens_per_minute": 6000}}}
    async with running(config) as server:
        left = [
            int((await ask(server, texts)).headers["x-ratelimit-remaining-tokens"])
            for texts in (["a" * 4000], ["a" * 4000, "b"], ["a" * 4000, "b"])
        ]
        assert left[0] == 5000  # a thousand are reserved until it is answered, and three were used
        assert left[1] > 5990
        assert left[2] > 5990


async def test_a_batch_may_take_what_it_is_long_until_it_is_answered(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "limits": {"default": {"tokens_per_minute": 6000}}}
    fake.reply = gated = Gated()
    async with running(config) as server:
        asking = asyncio.create_task(
            ask(server, ["c" * 40_000])
        )  # more than there is, but nothing was used yet
        await fake.wait_called()
        assert (await ask(server, ["d" * 40_000])).status_code == 429
        gated.gate.set()
        assert vectors(await asking) == [vector_of("c" * 40_000)]


async def test_a_deadline_and_a_line_in_the_log(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = Gated()
    asking = asyncio.create_task(ask(server, ["a"], {"x-dub5-timeout": "15"}))
    await fake.wait_called()
    await later(15)
    late = await asking
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    fake.reply = embed()
    await ask(server, ["b"])
    [line] = [each for each in server.logs if each["event"] == "request" and each.get("status") == 200]
    assert (line["route"], line["model"], line["prompt_tokens"]) == ("/v1/embeddings", "small", 3)
    assert line["cache"] == "dub5; fwd=uri-miss; stored"


async def test_two_thousand_texts_are_written_as_they_are_read() -> None:
    config = {
        "providers": {"demo": {"kind": "simulated", "first_token": 0}},
        "models": {"small": {"routes": ["demo/one"]}},
    }
    texts = [f"text {number}" for number in range(2048)]
    async with running(config) as server:
        for expected in ("dub5; fwd=uri-miss; stored", "dub5; hit"):
            response = await ask(server, texts, dimensions=100)
            assert status(response).startswith(expected)
            assert "content-length" not in response.headers
            assert len(vectors(response)) == 2048


async def test_others_have_their_turn_while_a_client_takes_all_that_is_written() -> None:
    config = {
        "providers": {"demo": {"kind": "simulated", "first_token": 0}},
        "models": {"small": {"routes": ["demo/one"]}},
    }
    body = {"model": "small", "input": [f"text {number}" for number in range(300)]}
    async with running(config) as server:
        await server.client.post("/v1/embeddings", json=body)
        application: Any = server.replica.application.public
        # To send never has to wait there.
        async with (
            httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url=server.url) as client,
            counted_turns() as turns,
        ):
            response = await client.post("/v1/embeddings", json=body)
        assert status(response).startswith("dub5; hit")
        assert turns.count > len(response.content) // (128 * 2**10)


async def test_large_batches_wait_for_each_other_and_none_for_ever(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each wants several places for large calls, of which there are two in all."""
    monkeypatch.setattr("dub5.chat.embeddings._LARGE_GROUPS", 2)
    async with running(openai_provider(fake.base_url, embeddings={"max_items": 32})) as server:
        batches = [[f"{batch} {number}" for number in range(100)] for batch in range(5)]
        async with asyncio.timeout(60):
            for batch, response in zip(
                batches, await asyncio.gather(*(ask(server, each) for each in batches)), strict=True
            ):
                assert vectors(response) == [vector_of(each) for each in batch]
        assert len(fake.calls) == 5 * 4
        await server.becomes("dub5_flight_followers", 0)


async def test_a_model_that_hangs_leaves_room_for_large_batches_of_others(
    fake: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dub5.chat.embeddings._LARGE_GROUPS", 5)
    async with FakeOpenAI() as hung:
        hung.reply = gated = Gated()
        config = openai_provider(fake.base_url)
        config["providers"]["hung"] = {"kind": "openai", "base_url": hung.base_url}
        config["models"]["slow"] = {"routes": ["hung/one"]}
        async with running(config) as server:
            batches = [[f"{batch} {number}" for number in range(32)] for batch in range(6)]
            waiting = [asyncio.create_task(ask(server, each, model="slow")) for each in batches]
            for _ in range(4):
                await hung.wait_called()
            async with asyncio.timeout(20):
                assert vectors(await ask(server, batches[0])) == [vector_of(each) for each in batches[0]]
            gated.gate.set()
            for batch, response in zip(batches, await asyncio.gather(*waiting), strict=True):
                assert vectors(response) == [vector_of(each) for each in batch]


async def test_tenants_share_no_vectors(fake: FakeOpenAI) -> None:
    keys = "\n".join(
        f"{hashlib.sha256(name.encode()).hexdigest()}: {{tenant: {name}, roles: [chat]}}"
        for name in ("a", "b")
    )
    config = {**openai_provider(fake.base_url), "auth": {"keys": {"env": "KEYS"}}}
    async with running(config, {"KEYS": keys}) as server:
        for name in ("a", "b", "a"):
            assert vectors(await ask(server, ["x"], {"authorization": f"Bearer {name}"})) == [vector_of("x")]
        assert (await ask(server, ["x"])).status_code == 401
    assert asked(fake) == [["x"], ["x"]]


# Replicas.


@contextlib.asynccontextmanager
async def replicas(fake: FakeOpenAI, redis: str) -> AsyncIterator[list[Running]]:
    config = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(config) as one, running(config) as other:
        yield [one, other]


async def test_replicas_share_vectors(fake: FakeOpenAI, redis: str) -> None:
    async with replicas(fake, redis) as [one, other]:
        await ask(one, ["a", "b"])
        partly = await ask(other, ["a", "b", "c"])
        assert status(partly) == 'dub5; fwd=partial; stored; detail="2 of 3"'
        assert vectors(partly) == [vector_of(each) for each in "abc"]
        assert partly.json()["usage"]["total_tokens"] == 9
        hit = await ask(one, ["c", "b"])
        assert status(hit).endswith("detail=shared")
        assert vectors(hit) == [vector_of("c"), vector_of("b")]
        assert asked(fake) == [["a", "b"], ["c"]]


async def test_replicas_ask_for_each_text_once(fake: FakeOpenAI, redis: str) -> None:
    fake.reply = gated = Gated()
    async with replicas(fake, redis) as [one, other]:
        first = asyncio.create_task(ask(one, ["a", "b"]))
        await fake.wait_called()
        second = asyncio.create_task(ask(other, ["b", "c"]))
        await fake.wait_called()
        await one.followed(3)  # and the other replica
        gated.gate.set()
        assert vectors(await first) == [vector_of("a"), vector_of("b")]
        joined = await second
        assert vectors(joined) == [vector_of("b"), vector_of("c")]
        assert joined.json()["usage"]["total_tokens"] == 6
        assert asked(fake) == [["a", "b"], ["c"]]


async def test_what_is_no_vector_in_redis_is_asked_for_again(fake: FakeOpenAI, redis: str) -> None:
    config = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(config) as server:
        await ask(server, ["a"])
    async with plain(redis) as client:
        [name] = [each async for each in client.scan_iter("dub5:*:entry:*")]
        stored: Any = await client.get(name)
        entry = unpack(stored)
        for body in (b'{"choices":[]}', entry.body[:-1], entry.body[:8]):
            await client.set(name, pack(replace(entry, body=body)))
            async with running(config) as server:
                assert vectors(await ask(server, ["a"])) == [vector_of("a")]
                assert await server.metric("dub5_redis_undecodable_total", kind="entry") > 0
    assert asked(fake) == [["a"]] * 4


async def test_without_a_redis_that_answers_everything_works(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "redis": {"url": "redis://127.0.0.1:9/0"}}
    async with running(config) as server:
        assert status(await ask(server, ["a", "b"])) == "dub5; fwd=uri-miss; stored"
        assert status(await ask(server, ["b", "c"])) == 'dub5; fwd=partial; stored; detail="1 of 2"'
    assert asked(fake) == [["a", "b"], ["c"]]
