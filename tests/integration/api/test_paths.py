"""Paths as clients write them, HEAD, `/health`, and what is said of what is not served."""

from __future__ import annotations

import asyncio

import pytest
from openai import AsyncOpenAI

from testkit.openai_server import FakeOpenAI
from tests.harness import Running

ASK = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "/v1/v1"])
async def test_a_base_url_may_end_in_its_version_or_not(server: Running, base: str) -> None:
    async with await asyncio.to_thread(AsyncOpenAI, base_url=server.url + base, api_key="x") as client:
        assert "small" in [each.id for each in (await client.models.list()).data]
        assert (await client.models.retrieve("small")).id == "small"
        stream = await client.chat.completions.create(
            model="small", messages=[{"role": "user", "content": "hi"}], stream=True
        )
        assert [chunk async for chunk in stream]
    for route in ("/v1/models", "/v1/models/{name}", "/v1/chat/completions"):
        assert await server.metric("dub5_http_requests_total", route=route, outcome="ok") == 1


async def test_a_question_is_the_same_by_either_path(server: Running, fake: FakeOpenAI) -> None:
    for path in ("/v1/chat/completions", "/chat/completions"):
        answer = await server.client.post(path, json=ASK)
        assert answer.status_code == 200
    assert "; hit" in answer.headers["cache-status"]
    assert len(fake.calls) == 1


@pytest.mark.parametrize(
    "path", ["/", "/health", "/v1/models", "/models", "/v1/models/small", "/page/page.js"]
)
async def test_head_is_get_without_a_body(server: Running, path: str) -> None:
    got, head = await server.client.get(path), await server.client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == got.headers[name]
    assert (await server.client.get("/v1/models")).status_code == 200  # the connection is as it was
    assert await server.metric("dub5_http_requests_total", method="HEAD", outcome="ok") == 1
    assert await server.metric("dub5_http_requests_total", method="HEAD", route="other") == 0


@pytest.mark.parametrize(
    ("path", "status"), [("/nope", 404), ("/v1/models/nope", 404), ("/v1/chat/completions", 405)]
)
async def test_head_fails_as_get_does(server: Running, path: str, status: int) -> None:
    answer = await server.client.head(path)
    assert (answer.status_code, answer.content) == (status, b"")


async def test_what_takes_get_says_that_it_takes_head(server: Running) -> None:
    refused = await server.client.delete("/v1/models")
    assert {"GET", "HEAD"} <= set(refused.headers["allow"].split(", "))
    refused = await server.client.get("/v1/cache/invalidations")
    assert "HEAD" not in refused.headers["allow"]


async def test_a_path_below_another_says_what_it_takes_itself(server: Running) -> None:
    answer = await server.client.delete("/v1/responses/resp_1/input_items")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS"


async def test_health_is_open_to_all_until_the_replica_leaves(server: Running) -> None:
    answer = await server.client.get("/health")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    server.replica.application.drain.linger()
    leaving = await server.client.get("/health")
    assert (leaving.status_code, leaving.json()["error"]["code"]) == (503, "overloaded")
    assert (await server.chat()).status_code == 200  # what comes is still answered


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/images/generations", "/v1/audio/speech", "/v1/moderations", "/v1/files", "/v1/batches"),
        *("/v1/rerank", "/v1/realtime", "/api/chat", "/openai/deployments/x/chat/completions", "/nope"),
        *(
            "/v1/images/edits",
            "/v1/audio/transcriptions",
            "/v2/rerank",
            "/rerank",
            "/realtime",
            "/audio/speech",
        ),
        *("/v1/assistants", "/v1/threads/x/runs", "/v1/vector_stores", "/v1/fine_tuning/jobs", "/v1/uploads"),
        *("/v1/containers", "/v1/conversations", "/v1/responses/resp_1/cancel"),
        *("/v1/responses/input_tokens", "/v1/responses/compact", "/v1/evals", "/v1/skills", "/v1/videos"),
    ],
)
async def test_whoever_asks_for_what_is_not_served_is_told_what_is(server: Running, path: str) -> None:
    answer = await server.client.post(path, json={})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "not_found")
    for served in ("/v1/chat/completions", "/v1/models"):
        assert served in error["message"]


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ({"x-client-request-id": "mine-1"}, "mine-1"),
        ({"x-client-request-id": "mine-1", "x-request-id": "mine-2"}, "mine-2"),
        ({"x-request-id": "mine-2", "x-client-request-id": "mine-1"}, "mine-2"),
        ({"x-client-request-id": "not usable"}, None),
    ],
)
async def test_a_clients_own_id_is_the_requests(
    server: Running, fake: FakeOpenAI, sent: dict[str, str], taken: str | None
) -> None:
    answer = await server.chat(headers=sent)
    given = answer.headers["x-request-id"]
    assert given == taken if taken is not None else given not in sent.values()
    assert fake.calls[0].headers["x-request-id"] == given
    assert answer.headers["openai-processing-ms"].isdigit()
