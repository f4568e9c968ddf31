"""Responses that are kept: conversations by `previous_response_id`, items by reference, GET, DELETE, their items."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import openai
import pytest
from msgspec.msgpack import encode
from openai import AsyncOpenAI
from openai.types.responses import Response
from redis.asyncio import Redis
from redis.driver_info import DriverInfo

from dub5.contract import response_keys
from testkit import anthropic_server, http_server
from testkit.anthropic_server import FakeAnthropic
from testkit.openai_server import FakeOpenAI, call_tool, say
from testkit.redis_server import RedisServer
from tests.harness import Running, openai_provider, running

STREAMED = pytest.mark.parametrize("streamed", [False, True])
TOOLS: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}]
KEYS = "\n".join(
    f"{hashlib.sha256(name.encode()).hexdigest()}: {{tenant: {name}, roles: [chat]}}"
    for name in ("ann", "bob")
)


@pytest.fixture
async def server(redis: str, fake: FakeOpenAI) -> AsyncIterator[Running]:
    async with running({**openai_provider(fake.base_url), "redis": {"url": redis}}) as replica:
        yield replica


@pytest.fixture
async def client(server: Running) -> AsyncIterator[AsyncOpenAI]:
    async with await server.openai() as client:
        yield client


def plain(url: str) -> Redis:
    return Redis.from_url(url, driver_info=DriverInfo(lib_version="1"))  # it would be read from disk


async def ask(client: AsyncOpenAI, *, streamed: bool = False, **request: Any) -> Response:
    if not streamed:
        return await client.responses.create(model="small", **request)
    async with client.responses.stream(model="small", **request) as events:
        return await events.get_final_response()


def asked(fake: FakeOpenAI) -> list[Any]:
    return [(message["role"], message["content"]) for message in fake.calls[-1].body["messages"]]


@STREAMED
async def test_a_conversation_goes_on_from_an_answer(
    client: AsyncOpenAI, fake: FakeOpenAI, streamed: bool
) -> None:
    fake.replies = [say("Hi", " Ann"), say("Ann"), say("Yes")]
    first = await ask(client, streamed=streamed, input="I am Ann", instructions="Be brief.")
    assert first.to_dict()["store"] is True
    second = await ask(client, streamed=streamed, input="Who am I?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert asked(fake) == [("user", "I am Ann"), ("assistant", "Hi Ann"), ("user", "Who am I?")]
    third = await ask(
        client,
        streamed=streamed,
        input=[{"role": "user", "content": "Sure?"}],
        previous_response_id=second.id,
        instructions="Be kind.",
    )
    assert third.output_text == "Yes"
    assert asked(fake) == [
        ("system", "Be kind."),
        ("user", "I am Ann"),
        ("assistant", "Hi Ann"),
        ("user", "Who am I?"),
        ("assistant", "Ann"),
        ("user", "Sure?"),
    ]


@pytest.mark.parametrize("own_first", [True, False])
async def test_metadata_may_name_another_answer(
    client: AsyncOpenAI, fake: FakeOpenAI, own_first: bool
) -> None:
    first = await ask(client, input="one")
    other = {"metadata": {"previous_response_id": "resp_" + "0" * 32}}
    own = {"previous_response_id": first.id}
    body: dict[str, Any] = own | other if own_first else other | own
    await client.post("/responses", cast_to=Response, body={"model": "small", "input": "two", **body})
    assert [content for _, content in asked(fake)] == ["one", "You said: one", "two"]


@STREAMED
async def test_an_answer_is_there_as_it_was_given(
    client: AsyncOpenAI, fake: FakeOpenAI, streamed: bool
) -> None:
    for _ in ("fetched", "from the cache"):
        answer = await ask(client, streamed=streamed, input="hi", metadata={"a": "b"})
        again = await client.responses.retrieve(answer.id)
        assert [item.id for item in again.output] == [item.id for item in answer.output]
        assert (again.id, again.metadata, again.output_text) == (answer.id, {"a": "b"}, "You said: hi")
        Response.model_validate_json(
            (await client.responses.with_raw_response.retrieve(answer.id)).content, strict=True
        )
    assert len(fake.calls) == 1


async def test_who_wants_events_of_an_old_answer_is_told_that_there_are_none(client: AsyncOpenAI) -> None:
    answer = await ask(client, input="hi")
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.retrieve(answer.id, stream=True, starting_after=3)
    assert caught.value.param == "stream"
    assert (await client.responses.retrieve(answer.id, stream=False)).id == answer.id


async def test_what_was_asked_is_shown_in_pages(client: AsyncOpenAI) -> None:
    answer = await ask(client, input=[{"role": "user", "content": text} for text in "abc"])
    shown = [item async for item in client.responses.input_items.list(answer.id, order="asc", limit=2)]
    texts = [item.content[0].text for item in shown]  # type: ignore[union-attr, index]
    assert texts == ["a", "b", "c"]
    page = await client.responses.input_items.list(answer.id, limit=1)
    assert page.data[0].content[0].text == "c"  # type: ignore[union-attr, index]
    assert len({item.id for item in shown}) == 3


async def test_no_page_begins_after_an_item_that_is_not_there(client: AsyncOpenAI) -> None:
    answer = await ask(client, input=[{"role": "user", "content": text} for text in "abc"])
    with pytest.raises(openai.BadRequestError) as caught:
        await client.responses.input_items.list(answer.id, after="msg_of_another")
    assert caught.value.param == "after"


async def test_pages_of_items_of_one_name_come_to_an_end(client: AsyncOpenAI) -> None:
    given: Any = [{"role": "user", "content": text, "id": "msg_same"} for text in "abc"]
    answer = await ask(client, input=given)
    page = await client.responses.input_items.list(answer.id, limit=1)
    pages = 1
    while page.has_next_page():
        page = await page.get_next_page()
        pages += 1
        assert pages <= len(given)


async def test_a_deleted_answer_is_gone(client: AsyncOpenAI) -> None:
    answer = await ask(client, input="hi")
    await client.responses.delete(answer.id)
    gone: list[Callable[[], Awaitable[object]]] = [
        lambda: client.responses.retrieve(answer.id),
        lambda: client.responses.delete(answer.id),
        lambda: client.responses.input_items.list(answer.id)._get_page(),
        lambda: ask(client, input="And?", previous_response_id=answer.id),
    ]
    for asking in gone:
        with pytest.raises(openai.NotFoundError) as caught:
            await asking()
        assert caught.value.code in {"response_not_found", "previous_response_not_found"}
        assert caught.value.param in {"id", "previous_response_id"}


async def test_what_holds_no_answer_cannot_be_deleted(client: AsyncOpenAI) -> None:
    answer = await ask(client, input="hi")
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete("bytes")
    await ask(client, input="again")
    assert (await client.responses.retrieve(answer.id)).id == answer.id


async def test_an_answer_in_the_middle_of_a_conversation_may_be_lost(client: AsyncOpenAI) -> None:
    first = await ask(client, input="one")
    second = await ask(client, input="two", previous_response_id=first.id)
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(client, input="three", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"
    assert first.id in caught.value.message


@STREAMED
async def test_items_are_referred_to_by_their_ids(
    client: AsyncOpenAI, fake: FakeOpenAI, streamed: bool
) -> None:
    """As the AI SDK does unless told otherwise."""
    fake.replies = [call_tool("weather", '{"city":"Oslo"}'), say("Rain")]
    question = {"role": "user", "content": "Oslo?"}
    first = await ask(client, streamed=streamed, input=[question], tools=TOOLS)
    [call] = first.output
    assert call.type == "function_call"
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    history = [question, {"type": "item_reference", "id": call.id}, result]
    second = await ask(client, streamed=streamed, input=history, tools=TOOLS)
    assert second.output_text == "Rain"
    assert fake.calls[1].body["messages"][1]["tool_calls"][0]["id"] == call.call_id
    with pytest.raises(openai.NotFoundError) as caught:
        await ask(client, input=[question, {"type": "item_reference", "id": "msg_" + "0" * 36}])
    assert caught.value.param == "input[1].id"
    with pytest.raises(openai.BadRequestError) as twice:
        await ask(client, input=[{"type": "item_reference", "id": call.id}] * 2)
    assert twice.value.param == "input[1].id"


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ({"query": {"stream": "true"}}, 400),
        ({"body": {"stream": True}}, 400),  # as OpenAI's client for Go
        ({"body": {"stream": False}}, 200),
        ({"body": {"stream": "x" * 2000}}, 200),
        ({"body": ["stream"]}, 200),
        ({"content": b'{"stream":'}, 200),
        ({"content": b'{"a":' + b"[" * 1015}, 200),
    ],
)
async def test_who_wants_events_of_a_kept_response_is_told_that_there_are_none(
    client: AsyncOpenAI, extra: dict[str, Any], status: int
) -> None:
    kept = await ask(client, input="hi")
    url = f"{client.base_url}responses/{kept.id}"
    async with httpx.AsyncClient() as plain:
        for _ in range(2):  # the body is not taken for the next request
            found = await plain.request(
                "GET", url, params=extra.get("query"), json=extra.get("body"), content=extra.get("content")
            )
            assert found.status_code == status
            assert status == 200 or found.json()["error"]["param"] == "stream"


@pytest.mark.parametrize("order", [["type", "id"], ["id", "type"]])
async def test_items_of_many_answers_are_referred_to(
    client: AsyncOpenAI, fake: FakeOpenAI, order: list[str]
) -> None:
    """Each turn refers to the answers of all before it, with little between them."""
    history: list[Any] = []
    said: list[str] = []
    for question in ("one", "two", "three", "four"):
        history.append({"role": "user", "content": question})
        answer = await ask(client, input=history)
        said.append(question)
        assert [content for _, content in asked(fake)] == said
        reference = {"type": "item_reference", "id": answer.output[0].id}
        history.append({name: reference[name] for name in order})
        said.append(answer.output_text)
    await ask(client, input=[*history[1::2], {"role": "user", "content": "five"}])
    assert [content for _, content in asked(fake)] == [*said[1::2], "five"]


async def test_more_items_than_answers_can_be_referred_to(server: Running, fake: FakeOpenAI) -> None:
    """By httpx: OpenAI's client takes a second for so many."""

    async def answer(given: Any) -> Any:
        response = await server.client.post("/v1/responses", json={"model": "small", "input": given})
        return response.json()

    first = await answer([{"role": "user", "content": f"{number}"} for number in range(1000)])
    second = await answer("two")
    named: list[str] = []
    after = ""
    while len(named) < 1000:
        path = f"/v1/responses/{first['id']}/input_items?order=asc&limit=100{after}"
        page = (await server.client.get(path)).json()
        named += [item["id"] for item in page["data"]]
        after = f"&after={page['last_id']}"
    last = second["output"][0]
    await answer([{"type": "item_reference", "id": each} for each in (*named, last["id"])])
    said = last["content"][0]["text"]
    assert [content for _, content in asked(fake)] == [*map(str, range(1000)), said]


@pytest.mark.parametrize(
    "ids",
    [
        [f"msg_{number:032x}0000" for number in range(1001)],
        [f"msg_{0:032x}{number:04x}" for number in range(10_000)],
    ],
)
async def test_more_than_can_be_referred_to_is_said_to_be_too_much(server: Running, ids: list[str]) -> None:
    references = [{"type": "item_reference", "id": each} for each in ids]
    response = await server.client.post("/v1/responses", json={"model": "small", "input": references})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "input"


async def test_a_conversation_goes_on_from_items_that_were_referred_to(
    client: AsyncOpenAI, fake: FakeOpenAI
) -> None:
    first = await ask(client, input="one")
    history: Any = [
        {"role": "user", "content": "one", "id": ["of no use"]},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "two", "id": None},
    ]
    second = await ask(client, input=history)
    await client.responses.delete(first.id)
    await ask(client, input="three", previous_response_id=second.id)
    said = ["one", "You said: one", "two", "You said: two", "three"]
    assert [content for _, content in asked(fake)] == said
    shown = [item async for item in client.responses.input_items.list(second.id, order="asc")]
    assert len({item.id for item in shown}) == 3


@STREAMED
async def test_what_was_signed_is_kept_for_the_next_turn(redis: str, streamed: bool) -> None:
    thinking = {"type": "thinking", "thinking": "Let me look", "signature": "signed"}
    use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    async with FakeAnthropic() as claude:
        whole = http_server.whole(anthropic_server.message([thinking, use], "tool_use"))
        deltas = [
            {"type": "thinking_delta", "thinking": "Let me look"},
            {"type": "signature_delta", "signature": "signed"},
        ]
        parts = [
            *anthropic_server.block_frames(0, {"type": "thinking", "thinking": ""}, *deltas),
            *anthropic_server.block_frames(1, use),
        ]
        live = http_server.stream(anthropic_server.answer(*parts, stop_reason="tool_use"))
        claude.replies = [live if streamed else whole, anthropic_server.say("Rain")]
        config = {
            "providers": {"claude": {"kind": "anthropic", "base_url": claude.base_url}},
            "models": {"small": {"routes": ["claude/claude-sonnet-4-5"]}},
            "redis": {"url": redis},
        }
        request: dict[str, Any] = {
            "tools": TOOLS,
            "extra_body": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
        }
        async with running(config) as server, await server.openai() as client:
            first = await ask(client, streamed=streamed, input="Oslo?", **request)
            thought, call = first.output
            assert thought.type == "reasoning"
            assert thought.encrypted_content is None
            assert call.type == "function_call"
            result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
            await ask(client, streamed=streamed, input=[result], previous_response_id=first.id, **request)
        assert claude.calls[1].body["messages"][1]["content"] == [thinking, use]


async def test_store_false_keeps_nothing(client: AsyncOpenAI, redis: str) -> None:
    answer = await ask(client, input="hi", store=False)
    assert answer.to_dict()["store"] is False
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)
    async with plain(redis) as direct:
        assert [key async for key in direct.scan_iter("dub5:{responses:*")] == []


@pytest.mark.parametrize("more", [{}, {"responses": {"store": False}}])
async def test_without_redis_or_by_a_setting_nothing_is_kept(redis: str, fake: FakeOpenAI, more: Any) -> None:
    config = {**openai_provider(fake.base_url), **more, **({"redis": {"url": redis}} if more else {})}
    async with running(config) as server, await server.openai() as client:
        answer = await ask(client, input="hi", store=True)
        assert (answer.output_text, answer.to_dict()["store"]) == ("You said: hi", False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(answer.id)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, input="hi", previous_response_id=answer.id)
        assert caught.value.param == "previous_response_id"
        with pytest.raises(openai.NotFoundError) as lost:
            await ask(client, input=[{"type": "item_reference", "id": answer.output[0].id}])  # type: ignore[typeddict-item]
        assert lost.value.param == "input[0].id"


@STREAMED
async def test_while_redis_is_away_answers_go_on(fake: FakeOpenAI, streamed: bool) -> None:
    config = {**openai_provider(fake.base_url), "redis": {"url": "redis://127.0.0.1:9/0"}}
    async with running(config) as server, await server.openai() as client:
        answer = await ask(client, streamed=streamed, input="hi")
        assert (answer.output_text, answer.to_dict()["store"]) == ("You said: hi", False)
        name = "resp_" + "0" * 32
        away: list[Callable[[], Awaitable[object]]] = [
            lambda: client.responses.retrieve(name),
            lambda: client.responses.delete(name),
            lambda: ask(client, input="hi", previous_response_id=name),
        ]
        for asking in away:
            with pytest.raises(openai.InternalServerError) as caught:
                await asking()
            assert (caught.value.status_code, caught.value.code) == (503, "responses_away")
            assert caught.value.response.headers["retry-after"] == "1"


@STREAMED
async def test_what_was_kept_is_there_while_redis_is_full(fake: FakeOpenAI, streamed: bool) -> None:
    async with RedisServer() as full:
        config = {**openai_provider(fake.base_url), "redis": {"url": full.url}}
        async with running(config) as server, await server.openai() as client:
            answer = await ask(client, input="hi")
            await full.client.config_set("maxmemory", "1")
            assert (await client.responses.retrieve(answer.id)).output_text == "You said: hi"
            another = await ask(client, streamed=streamed, input="And?", previous_response_id=answer.id)
            assert (another.output_text, another.to_dict()["store"]) == ("You said: And?", False)
            assert asked(fake) == [("user", "hi"), ("assistant", "You said: hi"), ("user", "And?")]
            await client.responses.delete(answer.id)
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(answer.id)


async def test_tenants_do_not_see_each_other_s(redis: str, fake: FakeOpenAI) -> None:
    config = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "auth": {"keys": {"env": "KEYS"}},
    }
    async with (
        running(config, {"KEYS": KEYS}) as server,
        await server.openai("ann") as ann,
        await server.openai("bob") as bob,
        await server.openai("eve") as eve,
    ):
        answer = await ask(ann, input="hi")
        assert (await ann.responses.retrieve(answer.id)).id == answer.id
        hidden: list[Callable[[], Awaitable[object]]] = [
            lambda: bob.responses.retrieve(answer.id),
            lambda: bob.responses.delete(answer.id),
            lambda: ask(bob, input="hi", previous_response_id=answer.id),
            lambda: ask(bob, input=[{"type": "item_reference", "id": answer.output[0].id}]),
        ]
        for asking in hidden:
            with pytest.raises(openai.NotFoundError):
                await asking()
        with pytest.raises(openai.AuthenticationError):
            await eve.responses.retrieve(answer.id)
        asked = {"json": {"model": "small", "input": "hi"}, "headers": {"x-api-key": "ann"}}
        assert (await server.client.post("/v1/responses", **asked)).status_code == 200  # type: ignore[arg-type]


async def test_a_tenant_s_oldest_go_first_where_there_is_no_room(redis: str, fake: FakeOpenAI) -> None:
    most = 16 * 2**10
    config = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "responses": {"max_bytes_per_tenant": most},
    }
    async with running(config) as server, await server.openai() as client, plain(redis) as direct:
        answers = [await ask(client, input=f"{number} {'x' * 1000}") for number in range(20)]
        keys = [key.decode() async for key in direct.scan_iter("dub5:{responses:*")]
        [name] = [key for key in keys if not key.endswith(":order")]
        held = await direct.hgetall(name)
        size = int(held.pop(b"bytes"))
        assert size == sum(len(record) + 256 for record in held.values()) <= most
        assert 2 < len(held) < 20
        assert await direct.zcard(f"{name}:order") == len(held)
        assert set(held) == {answer.id.encode() for answer in answers[-len(held) :]}
        assert 0 < await direct.pttl(name) <= 3_600_000
        too_large = await ask(client, input="x" * most)
        assert too_large.to_dict()["store"] is False
        assert too_large.output_text.startswith("You said")
        await client.responses.delete(answers[-1].id)
        assert int(await direct.hget(name, "bytes") or 0) < size


async def test_what_was_used_while_redis_s_clock_was_ahead_does_not_push_out_the_others(
    redis: str, fake: FakeOpenAI
) -> None:
    config = {
        **openai_provider(fake.base_url),
        "redis": {"url": redis},
        "responses": {"max_bytes_per_tenant": 16 * 2**10},
    }
    async with running(config) as server, await server.openai() as client:
        ahead = [await ask(client, input=f"{number} {'x' * 1000}") for number in range(20)]
        _, order = response_keys(await _tenant(redis))
        async with plain(redis) as direct:
            for answer in ahead:
                await direct.zadd(order, {answer.id: 2**42}, xx=True)
        last = [await ask(client, input=f"again {number} {'x' * 1000}") for number in range(2)]
        for answer in last:
            await client.responses.retrieve(answer.id)


async def test_what_is_not_used_for_its_time_is_gone(redis: str, fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(config) as server, await server.openai() as client, plain(redis) as direct:
        used, unused = [await ask(client, input=text) for text in ("used", "unused")]
        [name] = [
            key.decode() async for key in direct.scan_iter("dub5:{responses:*") if not key.endswith(b":order")
        ]
        order = f"{name}:order"
        for answer in (used, unused):  # as if almost all of its time were over
            await direct.zincrby(order, -3_590_000, answer.id)
        await client.responses.retrieve(used.id)
        for answer in (used, unused):
            await direct.zincrby(order, -20_000, answer.id)
        await client.responses.retrieve(used.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(unused.id)
        await ask(client, input="one more")
        assert not await direct.hexists(name, unused.id)
        assert await direct.hexists(name, used.id)


@pytest.mark.parametrize("garbage", ["records", "order", "field", "input", "response", "bytes"])
async def test_garbage_in_redis_is_nothing_that_is_kept(
    redis: str, server: Running, client: AsyncOpenAI, garbage: str
) -> None:
    answer = await ask(client, input="hi")
    name, order = response_keys(await _tenant(redis))
    async with plain(redis) as direct:
        match garbage:
            case "records" | "order":
                await direct.set(name if garbage == "records" else order, "x")
            case "field":
                await direct.hset(name, answer.id, b"\xc1")
            case "input":
                await direct.hset(name, answer.id, encode([b"[1]", b'{"id":"","output":[]}']))
            case "response":
                await direct.hset(name, answer.id, encode([b'"hi"', b"{}"]))
            case "bytes":
                await direct.hset(name, "bytes", "many")
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(answer.id)
    with pytest.raises(openai.NotFoundError):
        await ask(client, input="And?", previous_response_id=answer.id)
    another = await ask(client, input="again")
    assert (await client.responses.retrieve(another.id)).output_text == "You said: again"


async def test_what_nobody_can_count_is_gone_when_it_is_deleted(
    redis: str, server: Running, client: AsyncOpenAI
) -> None:
    answer = await ask(client, input="hi")
    async with plain(redis) as direct:
        await direct.hset(response_keys(await _tenant(redis))[0], "bytes", "many")
    for asking in (client.responses.delete, client.responses.retrieve):
        with pytest.raises(openai.NotFoundError):
            await asking(answer.id)


async def _tenant(redis: str) -> str:
    async with plain(redis) as direct:
        keys = [key.decode() async for key in direct.scan_iter("dub5:{responses:*")]
    return keys[0].partition("{responses:")[2].partition("}")[0]
