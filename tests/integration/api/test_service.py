"""What a replica does besides answering: keys, ids, traces, clients that leave, figures, and its other routes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from testkit.http_server import HANG, Call, Wire, hang, refuse, stream, whole
from testkit.openai_server import DONE, FakeOpenAI, chunk, completion, frame, frames, say
from tests.harness import Running, openai_provider, running


async def eventually(server: Running, name: str, value: float, **labels: str) -> None:
    """Wait until a metric has the value."""
    async with asyncio.timeout(60):
        while await server.metric(name, **labels) != value:  # noqa: ASYNC110  # a metric has no event
            await asyncio.sleep(0.01)


async def test_a_client_that_leaves_mid_stream_cancels_the_providers_call(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = stream([frame(chunk({"content": "Hel"})), HANG])
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    async with server.client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert b"Hel" in await anext(response.aiter_raw())
    await fake.wait_cancelled()
    await eventually(server, "dub5_http_requests_total", 1, outcome="client_disconnect")
    await eventually(server, "dub5_provider_requests_total", 1, outcome="cancelled")


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_before_the_first_token_cancels_it_too(
    server: Running, fake: FakeOpenAI, streamed: bool
) -> None:
    fake.reply = hang()
    asking = asyncio.create_task(server.chat(stream=streamed))
    await fake.wait_called()
    asking.cancel()
    await fake.wait_cancelled()
    await eventually(server, "dub5_http_requests_total", 1, outcome="client_disconnect")


async def test_a_broken_stream_is_counted_as_broken_and_told_in_the_stream(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = stream([frame(chunk({"content": "Hel"}))])
    response = await server.chat(stream=True)
    assert response.status_code == 200
    *_, last, end = response.text.split("\n\n")
    assert end == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "provider_error"
    assert "[DONE]" not in response.text
    assert await server.metric("dub5_http_requests_total", outcome="provider_error") == 1
    assert await server.metric("dub5_http_requests_total", outcome="ok") == 0


async def test_an_answer_longer_than_max_stream_ends_with_the_error_event(fake: FakeOpenAI) -> None:
    fake.reply = stream([frame(chunk({"content": "Hel"})), HANG])
    config = {**openai_provider(fake.base_url), "server": {"max_stream": "200ms"}}
    async with running(config) as server:
        response = await server.chat(stream=True)
    assert (
        json.loads(response.text.split("\n\n")[-2].removeprefix("data: "))["error"]["code"]
        == "provider_timeout"
    )
    await fake.wait_cancelled()


async def test_another_replica_finds_the_answer_in_redis_in_either_shape(
    fake: FakeOpenAI, redis: str
) -> None:
    config = {**openai_provider(fake.base_url), "redis": {"url": redis}}
    async with running(config) as one, running(config) as other:
        fake.reply = say("Hello")
        assert (await one.chat()).headers["cache-status"] == "dub5; fwd=uri-miss; stored"
        second = await other.chat(stream=True)
        assert second.headers["cache-status"] == "dub5; hit; ttl=299; detail=shared"
        assert "Hello" in second.text
        third = await other.chat()
        assert third.headers["cache-status"] == "dub5; hit; ttl=299; detail=local"
    assert len(fake.calls) == 1


async def test_request_directives_are_honoured(server: Running, fake: FakeOpenAI) -> None:
    async def status(directive: str, *, text: str = "hi") -> tuple[int, str | None]:
        response = await server.chat(text, headers={"cache-control": directive})
        return response.status_code, response.headers.get("cache-status")

    assert await status("only-if-cached") == (504, None)
    assert await status("no-store") == (200, "dub5; fwd=bypass; detail=no-store")
    assert await status("") == (200, "dub5; fwd=uri-miss; stored")
    assert await status("only-if-cached") == (200, "dub5; hit; ttl=299; detail=local")
    assert await status("no-cache") == (200, "dub5; fwd=request; stored")
    assert await status("max-age=0") == (200, "dub5; fwd=request; stored")
    assert await status("min-fresh=400") == (200, "dub5; fwd=request; stored")
    assert await status("max-age=100") == (200, "dub5; hit; ttl=299; detail=local")
    assert len(fake.calls) == 5


async def test_requests_that_cannot_be_cached_say_why(server: Running, fake: FakeOpenAI) -> None:
    tool = {"role": "tool", "tool_call_id": "t", "content": "42"}
    asked = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, tool]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"temperature": 1.5}, "temperature"),
        ({"n": 2}, "n"),
        ({"messages": asked}, "tool-results"),
    ]
    for fields, reason in cases:
        for _ in range(2):
            response = await server.chat(**fields)
            assert response.headers["cache-status"] == f"dub5; fwd=bypass; detail={reason}"
    assert len(fake.calls) == 6


async def test_a_refusal_by_the_provider_is_remembered_for_a_moment(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.reply = refuse(400, "Bad image")
    assert [(await server.chat()).status_code for _ in range(3)] == [400, 400, 400]
    assert len(fake.calls) == 1


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = f"""
{digest("ann")}: {{tenant: acme, roles: [chat]}}
{digest("bob")}: {{tenant: acme, roles: [chat]}}
{digest("eve")}: {{tenant: evil, roles: [chat]}}
{digest("own")}: {{tenant: acme, roles: [tenant_admin]}}
{digest("boss")}: {{tenant: acme, roles: [admin]}}
"""


async def test_keys_separate_tenants_and_roles(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "auth": {"keys": {"env": "KEYS"}}}
    async with running(config, {"KEYS": KEYS}) as server:

        async def chat(key: str) -> httpx.Response:
            return await server.chat(headers={"authorization": f"Bearer {key}"})

        assert (await server.chat()).status_code == 401
        refused = await chat("nobody")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert "nobody" not in refused.text
        assert (await chat("ann")).headers["cache-status"].startswith("dub5; fwd=uri-miss")
        assert (await chat("bob")).headers["cache-status"].startswith("dub5; hit")
        assert (await chat("eve")).headers["cache-status"].startswith("dub5; fwd=uri-miss")
        assert (await chat("own")).status_code == 403

        async def get(path: str, key: str) -> int:
            return (await server.client.get(path, headers={"authorization": f"Bearer {key}"})).status_code

        assert [await get("/v1/models", key) for key in ("ann", "nobody")] == [200, 401]
        assert [await get("/v1/cache", key) for key in ("boss", "own", "ann")] == [200, 403, 403]

        async def purge(key: str, **what: object) -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (
                await server.client.post("/v1/cache/invalidations", json=what, headers=headers)
            ).status_code

        assert await purge("ann", all=True) == 403
        assert await purge("own", tenant="evil") == 403
        assert await purge("own", all=True) == 200
        assert (await chat("eve")).headers["cache-status"].startswith("dub5; hit")
        assert (await chat("ann")).headers["cache-status"].startswith("dub5; fwd=uri-miss")
        assert await purge("boss", tenant="evil") == 200
        assert (await chat("eve")).headers["cache-status"].startswith("dub5; fwd=uri-miss")
        assert (await chat("ann")).headers["cache-status"].startswith("dub5; hit")


@pytest.mark.parametrize(
    "what",
    [{"personality": "pirate"}, {"model": "small"}, {"class": "banter"}, {"tags": ["b"]}, {"all": True}],
)
async def test_each_kind_of_purge_reaches_its_answers_and_no_others(
    fake: FakeOpenAI, what: dict[str, object]
) -> None:
    config = {
        **openai_provider(fake.base_url),
        "personalities": {"pirate": {"system": "Arr.", "cache_class": "banter"}},
        "cache": {"classes": {"banter": {"ttl": "1h"}}},
    }
    config["models"] = {**config["models"], "other": {"routes": ["fake/other"]}}
    async with running(config) as server:
        tags = {"x-dub5-cache-tags": "a, b"}
        await server.chat(model="pirate", headers=tags)
        await server.chat(model="other")
        assert (await server.client.post("/v1/cache/invalidations", json=what)).status_code == 200
        hit = "dub5; hit"
        assert not (await server.chat(model="pirate", headers=tags)).headers["cache-status"].startswith(hit)
        kept = (await server.chat(model="other")).headers["cache-status"].startswith(hit)
        assert kept is ("all" not in what)


async def test_ids_and_traces_go_through(server: Running, fake: FakeOpenAI) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"x-request-id": "my-id.1", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    response = await server.chat(headers=headers)
    assert response.headers["x-request-id"] == "my-id.1"
    passed = fake.calls[0].headers
    assert passed["x-request-id"] == "my-id.1"
    assert re.fullmatch(rf"00-{trace}-[0-9a-f]{{16}}-01", passed["traceparent"])
    assert "00f067aa0ba902b7" not in passed["traceparent"]
    assert re.search(r"auth;dur=\d.*cache;dur=\d.*provider;dur=\d", response.headers["server-timing"])


async def test_the_other_routes_tell_what_there_is(server: Running) -> None:
    await server.chat()
    await server.chat()
    described = (await server.client.get("/v1/personalities")).json()["data"]
    assert [each["name"] for each in described] == ["assistant", "coder", "tutor"]
    assert all(
        each.keys() == {"name", "description", "model", "cache_class", "revision"} for each in described
    )
    cache = (await server.client.get("/v1/cache")).json()
    assert cache["enabled"] is True
    assert cache["local"]["entries"] == 1
    assert cache["classes"]["default"]["hit_ratio"] == 0.5
    assert cache["classes"]["default"]["ttl"] == 300


async def test_the_operations_listener(server: Running) -> None:
    async with httpx.AsyncClient(base_url=server.operations_url) as operations:
        assert (await operations.get("/livez")).status_code == 200
        assert (await operations.get("/readyz")).status_code == 200
        await server.chat()
        text = (await operations.get("/metrics")).text
        assert 'dub5_http_requests_total{method="POST",outcome="ok",route="/v1/chat/completions"} 1.0' in text
        assert "process_resident_memory_bytes" in text
        assert re.search(r"^dub5_open_connections [1-9]", text, re.MULTILINE)
        opened = await operations.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert opened.text.endswith("# EOF\n")
        server.replica.application.drain.linger()
        assert (await operations.get("/readyz")).status_code == 503
        assert (await operations.get("/livez")).status_code == 200
        server.replica.application.drain.close()  # it has lingered long enough


async def test_tokens_and_money_are_counted_once_and_savings_apart(server: Running, fake: FakeOpenAI) -> None:
    fake.reply = stream(frames("Hel", "lo"))
    await server.chat(stream=True)
    await server.chat(stream=True)
    await server.chat()
    assert await server.metric("dub5_tokens_total", direction="input") == 9
    assert await server.metric("dub5_tokens_total", direction="output") == 3
    assert await server.metric("dub5_cost_dollars_total") == pytest.approx((9 * 1.0 + 3 * 2.0) / 1e6)
    assert await server.metric("dub5_saved_dollars_total") == pytest.approx(2 * (9 * 1.0 + 3 * 2.0) / 1e6)


@pytest.mark.parametrize("apart", [True, False], ids=["a chunk of its own", "with the end"])
async def test_what_a_joined_stream_saves_is_known_wherever_its_tokens_are_told(
    server: Running, fake: FakeOpenAI, apart: bool
) -> None:
    gate = asyncio.Event()
    end = {**chunk({}, "stop"), "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    parts = (
        frames("Hel", "lo")
        if apart
        else [*frames("Hel", "lo", usage=False, done=False)[:-1], frame(end), DONE]
    )
    fake.reply = stream([*parts[:2], gate, *parts[2:]])
    asked = [asyncio.create_task(server.chat(stream=True)) for _ in range(2)]
    await server.followed(2)
    gate.set()
    collapsed = [
        answer for answer in await asyncio.gather(*asked) if "collapsed" in answer.headers["cache-status"]
    ]
    assert len(collapsed) == 1
    assert await server.metric("dub5_saved_dollars_total") == pytest.approx((9 * 1.0 + 3 * 2.0) / 1e6)


async def test_a_draining_replica_answers_and_asks_its_clients_to_go(server: Running) -> None:
    server.replica.application.drain.linger()
    response = await server.chat()
    assert (response.status_code, response.headers["connection"]) == (200, "close")
    server.replica.application.drain.close()
    late = await server.chat()
    assert (late.status_code, late.json()["error"]["code"], late.headers["retry-after"]) == (
        503,
        "overloaded",
        "1",
    )
    assert await server.metric("dub5_http_requests_total", outcome="shed") == 1


async def test_without_a_cache_every_request_is_asked(fake: FakeOpenAI) -> None:
    async with running({**openai_provider(fake.base_url), "cache": {"enabled": False}}) as server:
        assert (await server.chat()).headers["cache-status"] == "dub5; fwd=bypass; detail=disabled"
        assert (await server.client.get("/v1/cache")).json()["enabled"] is False
        assert (await server.client.post("/v1/cache/invalidations", json={"all": True})).status_code == 200


async def test_an_answer_purged_while_its_provider_failed_is_not_served_as_a_last_resort(
    fake: FakeOpenAI,
) -> None:
    settings = {"classes": {"default": {"ttl": 0, "stale_if_error": "1h"}}}
    async with running({**openai_provider(fake.base_url), "cache": settings}) as server:
        fake.reply = say("Hello")
        await server.chat()
        fake.reply = refuse(500, "Oops")
        last_resort = await server.chat()
        assert (last_resort.status_code, last_resort.headers["cache-status"]) == (
            200,
            "dub5; hit; ttl=-1; detail=stale-if-error",
        )
        failing = asyncio.Event()

        async def fail_later(call: Call, wire: Wire) -> None:
            await failing.wait()
            await refuse(500, "Oops")(call, wire)

        fake.reply = fail_later
        asking = asyncio.create_task(server.chat())
        await fake.wait_called()
        await fake.wait_called()
        await fake.wait_called()
        assert (await server.client.post("/v1/cache/invalidations", json={"all": True})).status_code == 200
        failing.set()
        assert (await asking).status_code == 502


async def test_only_if_cached_asks_nobody_even_where_nothing_is_ever_cached(
    server: Running, fake: FakeOpenAI
) -> None:
    only = {"cache-control": "only-if-cached"}
    assert (await server.chat(headers=only, temperature=2)).status_code == 504
    assert (await server.chat(headers={"cache-control": "only-if-cached, no-store"})).status_code == 504
    assert fake.calls == []


async def test_a_refusal_of_what_is_not_in_the_key_concerns_its_sender_only(
    server: Running, fake: FakeOpenAI
) -> None:
    fake.replies = [refuse(400, "metadata is too long"), say("Hello")]
    assert (await server.chat(metadata={"a": "too long"})).status_code == 400
    assert (await server.chat(metadata={"a": "short"})).status_code == 200


async def test_a_follower_is_not_refused_for_its_leaders_metadata(server: Running, fake: FakeOpenAI) -> None:
    refusing = asyncio.Event()

    async def refuse_later(call: Call, wire: Wire) -> None:
        await refusing.wait()
        await refuse(400, "metadata is too long")(call, wire)

    fake.replies = [refuse_later, say("Hello")]
    leading = asyncio.create_task(server.chat(metadata={"a": "too long"}))
    await fake.wait_called()
    following = asyncio.create_task(server.chat(metadata={"a": "short"}))
    await eventually(server, "dub5_flight_followers", 2)
    refusing.set()
    assert ((await leading).status_code, (await following).status_code) == (400, 200)
    assert len(fake.calls) == 2


async def test_answers_for_everybody_are_written_by_an_admin_only(fake: FakeOpenAI) -> None:
    config = openai_provider(fake.base_url)
    config["models"]["small"]["cache_class"] = "shared"
    config |= {"cache": {"classes": {"shared": {"share": "public"}}}, "auth": {"keys": {"env": "KEYS"}}}
    body = {
        "request": {"model": "small", "messages": [{"role": "user", "content": "hi"}]},
        "answer": "Written",
    }
    async with running(config, {"KEYS": KEYS}) as server:
        for key, status in (("own", 403), ("boss", 200)):
            headers = {"authorization": f"Bearer {key}"}
            response = await server.client.post("/v1/cache/answers", json=body, headers=headers)
            assert response.status_code == status


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"request": {"messages": []}}, "request.messages"),
        ({"request": {"model": "small", "messages": [{"role": "user"}, 1]}}, "request.messages[1]"),
        ({"request": {"model": "small", "messages": ["x" * 200_000]}}, "request.messages[0]"),
        ({"request": {"model": "none", "messages": [{"role": "user", "content": "hi"}]}}, "request.model"),
        ({"request": 1}, "request"),
        ({"answer": 1}, "answer"),
        ({"tags": ["a b"]}, "tags"),
    ],
)
async def test_what_is_wrong_with_a_written_answer_is_named_by_its_path(
    server: Running, changed: dict[str, Any], field: str
) -> None:
    request = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    body = {"request": request, "answer": "Written", **changed}
    response = await server.client.post("/v1/cache/answers", json=body)
    assert response.json()["error"]["param"] == field


async def test_what_was_written_meanwhile_is_not_replaced_by_an_older_answer(
    server: Running, fake: FakeOpenAI
) -> None:
    answering = asyncio.Event()

    async def later(call: Call, wire: Wire) -> None:
        await answering.wait()
        await say("Made")(call, wire)

    fake.reply = later
    asking = asyncio.create_task(server.chat("hi"))
    await fake.wait_called()
    request = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    written = await server.client.post("/v1/cache/answers", json={"request": request, "answer": "Written"})
    assert written.json() == {"stored": True}
    answering.set()
    assert (await asking).json()["choices"][0]["message"]["content"] == "Made"
    assert (await server.chat("hi")).json()["choices"][0]["message"]["content"] == "Written"


async def test_a_client_that_does_not_read_is_cut_off_at_max_stream(fake: FakeOpenAI) -> None:
    fake.reply = stream([frame(chunk({"content": "x" * 100_000})) for _ in range(200)])
    config = {**openai_provider(fake.base_url), "server": {"max_stream": "300ms"}}
    async with running(config) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port), limit=1024)
        body = b'{"model":"small","stream":true,"messages":[{"role":"user","content":"hi"}]}'
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        )
        writer.write(head + body)
        await eventually(server, "dub5_http_requests_total", 1, outcome="client_disconnect")
        await eventually(server, "dub5_inflight_requests", 0)
        writer.close()


async def test_the_providers_own_prompt_cache_is_counted_as_a_saving(fake: FakeOpenAI) -> None:
    usage = {"prompt_tokens": 1000, "completion_tokens": 10, "prompt_tokens_details": {"cached_tokens": 800}}
    fake.reply = whole({**completion({"content": "Hello"}), "usage": usage})
    config = openai_provider(fake.base_url)
    config["models"]["small"]["price"]["cached_input"] = 0.25
    async with running(config) as server:
        await server.chat()
        assert await server.metric("dub5_tokens_total", direction="cached_input") == 800
        cost = await server.metric("dub5_cost_dollars_total", direction="input")
        assert cost == pytest.approx((200 * 1.0 + 800 * 0.25) / 1e6)
        saved = await server.metric("dub5_saved_dollars_total", direction="cached_input")
        assert saved == pytest.approx(800 * 0.75 / 1e6)


async def test_a_defect_of_ours_is_told_without_its_traceback(server: Running, fake: FakeOpenAI) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("my-secret-detail")

    server.replica.application._catalog.names = broken  # type: ignore[method-assign,assignment]
    server.replica.application._pipeline.prepare = broken  # type: ignore[method-assign,assignment]
    for response in (await server.client.get("/v1/models"), await server.chat()):
        assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
        assert "my-secret-detail" not in response.text
    assert sum("failed" in line["event"] for line in server.logs) == 2


async def test_a_changed_keys_file_is_noticed_by_a_running_replica(fake: FakeOpenAI, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    await asyncio.to_thread(file.write_text, f"{digest('old')}: {{tenant: acme}}")
    config = {**openai_provider(fake.base_url), "auth": {"keys": {"file": str(file)}}}
    async with running(config) as server:

        async def status(key: str) -> int:
            return (
                await server.client.get("/v1/models", headers={"authorization": f"Bearer {key}"})
            ).status_code

        assert (await status("old"), await status("new")) == (200, 401)
        await asyncio.to_thread(file.write_text, f"{digest('new')}: {{tenant: acme}}")
        async with asyncio.timeout(60):
            while await status("new") != 200:  # noqa: ASYNC110  # a file has no event
                await asyncio.sleep(0.05)
        assert await status("old") == 401
