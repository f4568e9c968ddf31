"""Bad input never gives a 5xx or a hang, and is told in OpenAI's shape with the field that is wrong."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from tests.harness import Running, running

GOOD: dict[str, Any] = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
DEMO = {"providers": {"demo": {"kind": "simulated", "first_token": 0, "tokens_per_second": 1e6}}}


@pytest.fixture
async def server() -> AsyncIterator[Running]:
    async with running({**DEMO, "server": {"max_body": "64KiB"}}) as replica:
        yield replica


def assert_openai_shape(response: httpx.Response) -> None:
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"]
    assert "Traceback" not in response.text


FIELDS = ["temperature", "n", "stop", "tools", "stream", "stream_options", "content", "tool_calls", "seed"]
JUNK: list[Any] = [
    None,
    True,
    -1,
    1e308,
    2**70,
    "",
    "x" * 2000,
    [],
    [[]],
    {},
    {"a": {}},
    "\u0000",
    "é",
    [None],
]


def mutated(chance: random.Random) -> bytes:
    """A body that is wrong somewhere: a value replaced, a field dropped or added, or the bytes damaged."""
    body = json.loads(json.dumps(GOOD))
    for _ in range(chance.randint(1, 3)):
        messages = body.get("messages")
        inner = [each for each in messages if isinstance(each, dict)] if isinstance(messages, list) else []
        target = chance.choice([body, body, *inner])
        target[chance.choice([*target, *FIELDS])] = chance.choice(JUNK)
    raw = bytearray(json.dumps(body).encode())
    for _ in range(chance.choice([0, 0, 1, 3])):
        position = chance.randrange(len(raw))
        damage = bytes([chance.randrange(256)]) * chance.randint(0, 3)
        raw[position : position + chance.randint(0, 2)] = damage
    return bytes(raw)


async def test_two_thousand_generated_bodies_are_answered_properly(server: Running) -> None:
    chance = random.Random(20261123)
    seen: dict[int, int] = {}

    async def send(body: bytes) -> None:
        response = await server.client.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        )
        seen[response.status_code] = seen.get(response.status_code, 0) + 1
        assert response.status_code < 500, (body, response.text)
        if response.status_code != 200:
            assert_openai_shape(response)

    for _ in range(100):
        await asyncio.gather(*(send(mutated(chance)) for _ in range(20)))
    assert sum(seen.values()) == 2000
    assert seen[400] > 1000
    assert await server.metric("dub5_http_requests_total", outcome="server_error") == 0


async def test_fields_of_any_json_value_are_accepted_or_named(server: Running) -> None:
    chance = random.Random(7)
    values = [None, 0, 1, -5, 0.5, 3.5, "a", "", [], {}, [1], {"type": "x"}, True]
    for name in [
        "temperature",
        "top_p",
        "n",
        "max_tokens",
        "stop",
        "seed",
        "stream",
        "tools",
        "user",
        "response_format",
    ]:
        for value in values:
            body = {**GOOD, name: value, "messages": [{"role": "user", "content": str(chance.random())}]}
            response = await server.client.post("/v1/chat/completions", json=body)
            assert response.status_code in {200, 400}
            if response.status_code == 400:
                assert response.json()["error"]["param"].startswith(name)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("POST", "/v1/models", 405, "method_not_allowed"),
        ("DELETE", "/", 405, "method_not_allowed"),
        ("GET", "/v1/cache/invalidations", 405, "method_not_allowed"),
        ("GET", "/v1/models/nope", 404, "model_not_found"),
        ("GET", "/metrics", 404, "not_found"),
        ("PROPFIND", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/models/%00%ff", 404, "model_not_found"),
    ],
)
async def test_what_the_framework_refuses_has_our_shape(
    server: Running, method: str, path: str, status: int, code: str
) -> None:
    response = await server.client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert_openai_shape(response)
    assert response.headers["x-request-id"]
    if status == 405:
        assert response.headers["allow"]


async def test_what_is_not_there_is_answered_by_what_that_port_has(server: Running) -> None:
    for url, served in [(server.url, "/v1/chat/completions"), (server.operations_url, "/metrics")]:
        response = await server.client.get(f"{url}/nothing")
        assert response.status_code == 404
        assert served in response.json()["error"]["message"]


async def test_a_compressed_body_is_refused(server: Running) -> None:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    response = await server.client.post("/v1/chat/completions", content=b"\x1f\x8b", headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "Content-Encoding")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Cache-Control", "max-age=soon"),
        ("X-Dub5-Cache-Tags", ",".join(f"t{number}" for number in range(17))),
        ("X-Dub5-Cache-Tags", "x" * 65),
        ("X-Dub5-Cache-Tags", "two words"),
    ],
)
async def test_a_header_in_error_is_named(server: Running, header: str, value: str) -> None:
    response = await server.client.post("/v1/chat/completions", json=GOOD, headers={header: value})
    assert (response.status_code, response.json()["error"]["param"]) == (400, header)


async def test_an_announced_body_over_the_limit_is_refused_unread(server: Running) -> None:
    body = json.dumps({**GOOD, "x": "x" * 70_000})
    response = await server.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert response.headers["connection"] == "close"


async def test_a_body_of_unknown_length_is_counted_while_it_arrives(server: Running) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    response = await server.client.post(
        "/v1/chat/completions", content=endless(), headers={"content-type": "application/json"}
    )
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_body_over_the_limit_is_refused_on_every_route(server: Running) -> None:
    response = await server.client.post("/v1/cache/invalidations", json={"tags": ["x" * 70_000]})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
    assert_openai_shape(response)


async def test_invalidations_in_error_name_the_field(server: Running) -> None:
    for body, param in [({}, "body"), ({"tags": []}, "tags"), ({"tagz": ["a"]}, "body"), ({"all": 1}, "all")]:
        response = await server.client.post("/v1/cache/invalidations", json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("invalidations", r'{"tags":["a","\ud83d."]}', "tags[1]"),
        ("invalidations", '{"tags":["a",NaN]}', "tags[1]"),
        ("answers", r'{"request":{"model":"demo","foo":NaN},"answer":"a"}', "request.foo"),
        ("answers", r'{"request":{"model":"demo","user":"\ud83d."},"answer":"a"}', "request.user"),
        ("answers", r'{"request":REQUEST,"answer":"\ud83d."}', "answer"),
        ("answers", r'{"request":REQUEST,"answer":{"choices":[{"a":"\ud83d"}]}}', "answer.choices[0].a"),
    ],
)
async def test_what_json_cannot_say_to_the_cache_is_named(
    server: Running, path: str, body: str, param: str
) -> None:
    body = body.replace("REQUEST", '{"model":"demo","messages":[{"role":"user","content":"hi"}]}')
    headers = {"content-type": "application/json"}
    response = await server.client.post(f"/v1/cache/{path}", content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


@pytest.mark.parametrize(
    "tag", ["doc-17,prices", "prices ", "prices\n", "größe", "-a", "a" * 65, "prices@acme"]
)
async def test_a_tag_that_no_answer_can_have_is_no_purge_that_was_done(server: Running, tag: str) -> None:
    response = await server.client.post("/v1/cache/invalidations", json={"tags": ["prices", tag]})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "tags[1]"), response.text
    response = await server.client.post("/v1/cache/invalidations", json={"tags": ["a" * 64]})
    assert response.status_code == 200


RICH: dict[str, Any] = {
    "model": "demo",
    "messages": [
        {"role": "system", "content": "Be brief.", "name": "operator"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {
                    "type": "file",
                    "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    "reasoning_effort": "low",
    "service_tier": "auto",
    "user": "somebody",
    "stop": ["."],
}
LONG = "k" * 8000


def with_one_long(value: Any) -> Iterator[Any]:
    """`value` with each text, each name and each value of it in turn made long."""
    if isinstance(value, dict):
        for name in value:
            yield {LONG if each == name else each: inner for each, inner in value.items()}
            for changed in with_one_long(value[name]):
                yield {**value, name: changed}
    elif isinstance(value, list):
        for index, item in enumerate(value):
            for changed in with_one_long(item):
                yield [*value[:index], changed, *value[index + 1 :]]
    yield LONG


@pytest.mark.parametrize("model", ["demo", "claude", "guide"])
async def test_errors_are_short_whatever_is_long_in_a_body(model: str) -> None:
    claude = {"kind": "anthropic", "base_url": "http://127.0.0.1:9/v1"}
    settings: dict[str, Any] = {
        "providers": {**DEMO["providers"], "claude": claude},
        "models": {"demo": {"routes": ["demo/sim"]}, "claude": {"routes": ["claude/claude-sonnet-4-5"]}},
        "personalities": {"guide": {"model": "claude", "system": "You are a guide."}},
    }
    async with running(settings) as replica:
        for body in with_one_long({**RICH, "model": model}):
            for path, sent in (
                ("/v1/chat/completions", body),
                ("/v1/cache/answers", {"request": body, "answer": body}),
            ):
                response = await replica.client.post(path, json=sent)
                if response.status_code != 200:
                    assert len(response.content) < 1000, response.text


@pytest.mark.parametrize(
    "body",
    [
        {"tags": [LONG]},
        {"tags": ["a" * 60 + str(number) for number in range(101)]},
        {"model": LONG},
        {"personality": LONG},
        {"tenant": LONG},
        {LONG: 1},
        LONG,
    ],
)
async def test_errors_are_short_whatever_is_long_in_a_purge(body: Any, server: Running) -> None:
    response = await server.client.post("/v1/cache/invalidations", json=body)
    assert response.status_code == 400
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    "name",
    [
        *("x-dub5-cache-tags", "x-dub5-timeout", "cache-control", "authorization", "content-type"),
        *("content-encoding", "traceparent", "x-request-id", "x-stainless-read-timeout", "accept", "expect"),
    ],
)
@pytest.mark.parametrize("value", [LONG, "9" * 8000, ",".join("abcdef" for _ in range(1100)), "1h" * 4000])
async def test_errors_are_short_whatever_is_long_in_a_header(name: str, value: str, server: Running) -> None:
    headers = {"content-type": "application/json", name: value}
    response = await server.client.post("/v1/chat/completions", content=json.dumps(GOOD), headers=headers)
    assert response.status_code < 500
    assert len(response.content) < 1000
    assert sum(len(field) + len(said) for field, said in response.headers.items()) < 1000
