"""docs/openapi.yaml says what a replica does: each of its routes is in there, and each answer in there is given."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import httpx
import jsonschema
import pytest
import yaml
from litestar import Litestar

from testkit.http_server import refuse
from testkit.openai_server import FakeOpenAI, call_tool, embed, go_on, say
from tests.harness import Running, openai_provider, running

Json = dict[str, Any]

ROOT = Path(__file__).parents[3]
DOCUMENT: Json = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text(encoding="utf-8"))
OPERATIONS: dict[tuple[str, str], Json] = {
    (method.upper(), path): operation
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
}
CHAT, TEXT, RESPONSES, KEPT, ITEMS, MESSAGES, COUNT, EMBED, PURGE, WRITE, MODEL = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/responses/{name}",
    "/v1/responses/{name}/input_items",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/cache/invalidations",
    "/v1/cache/answers",
    "/v1/models/{name}",
)
QUESTION: Json = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
BEGUN: Json = {"model": "small", "prompt": "Once"}
ASKED: Json = {"model": "small", "input": "hi"}
COUNTED: Json = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
LIMITED: Json = {**COUNTED, "max_tokens": 9}
UNKNOWN_ID = "resp_" + "0" * 32
REFERRING: Json = {"model": "small", "input": [{"type": "item_reference", "id": "msg_" + "0" * 36}]}
STREAMED = {**QUESTION, "stream": True, "stream_options": {"include_usage": True}}
WRITTEN = {"request": QUESTION, "answer": "Hello"}
TEXTS: Json = {"model": "small", "input": ["a", "b"]}
BODIES = {
    CHAT: QUESTION,
    TEXT: BEGUN,
    RESPONSES: ASKED,
    MESSAGES: LIMITED,
    COUNT: COUNTED,
    EMBED: TEXTS,
    PURGE: {"all": True},
    WRITE: WRITTEN,
}
INVALID: dict[str, list[Any]] = {
    CHAT: [[], {"model": "small"}, {**QUESTION, "temperature": 3}, {**QUESTION, "messages": []}],
    TEXT: [
        [],
        {"model": "small"},
        {**BEGUN, "prompt": []},
        {**BEGUN, "max_tokens": -1},
        {**BEGUN, "best_of": 0},
    ],
    RESPONSES: [[], {"model": "small"}, {**ASKED, "temperature": 3}, {**ASKED, "input": []}],
    MESSAGES: [[], COUNTED, {**LIMITED, "temperature": 3}, {**LIMITED, "messages": []}],
    COUNT: [[], {"model": "small"}, {**COUNTED, "messages": [{"role": "tool", "content": ""}]}],
    EMBED: [{"model": "small"}, {**TEXTS, "input": []}, {**TEXTS, "input": ""}, {**TEXTS, "dimensions": 0}],
    PURGE: [{"tags": []}, {"nothing": 1}, {"all": True, "more": 1}],
    WRITE: [{}, {"request": QUESTION}, {**WRITTEN, "more": 1}],
}
UNKNOWN = {**QUESTION, "model": "nobody"}
DIGESTS = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("boss", "nil", "few", "tied")}
KEYS = "\n".join(
    f"{DIGESTS[name]}: {{tenant: {name}, roles: [{role}]}}"
    for name, role in (("boss", "admin"), ("nil", "tenant_admin"), ("few", "chat"))
)
KEYS += f"\n{DIGESTS['tied']}: {{tenant: tied, roles: [admin], models: [other]}}"


class Case(NamedTuple):
    """One request, where it is sent, and how it is answered."""

    place: str
    method: str
    path: str
    status: int
    code: str | None = None
    body: Any = None
    headers: Mapping[str, str] = MappingProxyType({})
    name: str = "small"


def key(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {name}"}


def everywhere(place: str, status: int, code: str | None = None, **more: Any) -> list[Case]:
    """The same for each operation that has this status, and this code."""
    found = []
    for (method, path), operation in OPERATIONS.items():
        response = operation["responses"].get(str(status))
        if response and code in response.get("x-codes", [None]):
            found.append(Case(place, method, path, status, code, **more))
    return found


def lacking() -> list[Case]:
    """A key of each operation's wrong role."""
    wrong = {"chat": "nil", "admin": "nil", "tenant_admin": "few"}
    cases = everywhere("keys", 403, "forbidden")
    needed = [OPERATIONS[case.method, case.path]["description"].split("`")[1] for case in cases]
    return [case._replace(headers=key(wrong[role])) for case, role in zip(cases, needed, strict=True)]


CASES = [
    *(case._replace(place="kept" if case.path in (KEPT, ITEMS) else "open") for case in everywhere("", 200)),
    Case("open", "POST", CHAT, 200, body=STREAMED),
    Case("open", "POST", CHAT, 200, body={**QUESTION, "n": 2}, headers={"x-dub5-cache-tags": "a, b"}),
    Case("open", "POST", CHAT, 200, body={**QUESTION, "model": "tools"}),
    Case(
        "open", "POST", TEXT, 200, body={**BEGUN, "stream": True, "stream_options": {"include_usage": True}}
    ),
    Case(
        "open", "POST", TEXT, 200, body={**BEGUN, "prompt": ["a", "b"], "echo": True, "logprobs": 2, "n": 2}
    ),
    Case(
        "open", "POST", TEXT, 200, body={**BEGUN, "prompt": [[1, 2], [3]], "max_tokens": 0, "suffix": "end"}
    ),
    Case("open", "POST", RESPONSES, 200, body={**ASKED, "stream": True}),
    Case("open", "POST", RESPONSES, 200, body={**ASKED, "model": "tools", "instructions": "Be brief."}),
    Case("open", "POST", MESSAGES, 200, body={**LIMITED, "stream": True}),
    Case("open", "POST", MESSAGES, 200, body={**LIMITED, "model": "tools", "system": "Be brief."}),
    Case(
        "open", "POST", EMBED, 200, body={**TEXTS, "input": "a", "encoding_format": "base64", "dimensions": 2}
    ),
    Case("open", "POST", EMBED, 200, body={**TEXTS, "input": [[1, 2], [3]], "user": "me"}),
    Case("open", "POST", PURGE, 200, body={"tags": ["a"], "tenant": "acme"}),
    Case("without the page", "GET", "/", 200),
    *everywhere("open", 304),
    *(
        Case("open", "POST", path, 400, "invalid_request_error", body)
        for path in INVALID
        for body in INVALID[path]
    ),
    *everywhere("keys", 401, "invalid_api_key", headers=key("stranger")),
    *lacking(),
    *everywhere("keys", 403, "model_not_allowed", headers=key("tied")),
    *everywhere("keys", 403, "origin_not_allowed", headers={"origin": "https://elsewhere.example"}),
    Case("open", "POST", CHAT, 404, "model_not_found", UNKNOWN),
    Case("open", "POST", TEXT, 404, "model_not_found", {**BEGUN, "model": "nobody"}),
    Case("open", "POST", RESPONSES, 404, "model_not_found", {**ASKED, "model": "nobody"}),
    Case("open", "POST", MESSAGES, 404, "model_not_found", {**LIMITED, "model": "nobody"}),
    Case("open", "POST", COUNT, 404, "model_not_found", {**COUNTED, "model": "nobody"}),
    Case("open", "POST", EMBED, 404, "model_not_found", {**TEXTS, "model": "nobody"}),
    *everywhere("open", 404, "response_not_found", body=REFERRING),
    Case(
        "kept",
        "POST",
        RESPONSES,
        404,
        "previous_response_not_found",
        {**ASKED, "previous_response_id": UNKNOWN_ID},
    ),
    Case("kept", "GET", KEPT, 400, "invalid_request_error", body={"stream": True}),
    Case("kept", "GET", ITEMS, 400, "invalid_request_error", name="resp_1/input_items?limit=0#"),
    Case("open", "POST", WRITE, 404, "model_not_found", {**WRITTEN, "request": UNKNOWN}),
    Case("open", "GET", MODEL, 404, "model_not_found", name="nobody"),
    *everywhere("impatient", 408, "request_timeout"),
    *everywhere("open", 413, "request_too_large", body={"all": "a" * 9000}),
    *everywhere("open", 421, "host_not_allowed", headers={"host": "elsewhere.example"}),
    *everywhere("keys", 429, "rate_limit_exceeded", headers=key("few")),
    *everywhere("open", 431, "headers_too_large", headers={f"x-{number}": "a" for number in range(150)}),
    Case("open", "POST", CHAT, 502, "provider_error", {**QUESTION, "model": "broken"}),
    Case("open", "GET", MODEL, 502, "provider_error", name="all/unlisted"),
    Case("open", "POST", TEXT, 502, "provider_error", {**BEGUN, "model": "broken"}),
    Case("open", "POST", RESPONSES, 502, "provider_error", {**ASKED, "model": "broken"}),
    Case("open", "POST", MESSAGES, 502, "provider_error", {**LIMITED, "model": "broken"}),
    Case("open", "POST", COUNT, 502, "provider_error", {**COUNTED, "model": "counter-broken"}),
    Case("open", "POST", EMBED, 502, "provider_error", {**TEXTS, "model": "broken"}),
    *everywhere("drained", 503, "overloaded"),
    Case("drained", "GET", "/readyz", 503),
    *everywhere("without Redis", 503, "responses_away", body={**ASKED, "previous_response_id": UNKNOWN_ID}),
    Case("without Redis", "POST", PURGE, 503, "purged_here_only"),
    *everywhere("open", 504, "not_cached", headers={"cache-control": "only-if-cached, max-age=0"}),
    Case(
        "open",
        "POST",
        COUNT,
        504,
        "deadline_exceeded",
        {**COUNTED, "model": "counter-slow"},
        {"x-dub5-timeout": "50ms"},
    ),
    Case(
        "open",
        "POST",
        CHAT,
        504,
        "deadline_exceeded",
        {**QUESTION, "model": "slow"},
        {"x-dub5-timeout": "50ms"},
    ),
]


@contextlib.asynccontextmanager
async def serving(place: str, redis: str = "") -> AsyncIterator[Running]:
    async with FakeOpenAI() as fake:
        config = configured(fake)
        if place == "keys":
            config["auth"] = {"keys": {"env": "KEYS"}}
            config["limits"] = {"few": {"requests_per_minute": 1}}
        elif place == "impatient":
            config["server"]["read_timeout"] = "300ms"
        elif place == "without the page":
            config["server"]["page"] = False
        elif place == "kept":
            config["redis"] = {"url": redis}
        elif place == "without Redis":
            config["redis"] = {"url": "redis://127.0.0.1:9/0"}
        async with running(config, {"KEYS": KEYS}) as server:
            if place == "keys":
                await server.chat(headers=key("few"))
            elif place == "drained":
                server.replica.application.drain.close()
            yield server


def configured(fake: FakeOpenAI) -> Json:
    config = openai_provider(fake.base_url)

    async def reply(call: Any, wire: Any) -> None:
        if not call.raw:  # which models there are, it never says
            await refuse(500, "Oops")(call, wire)
            return
        scripts = {"tools": call_tool("find", "{}"), "broken": refuse(500, "Oops")}
        if call.body["model"] == "slow":
            await asyncio.sleep(60)
        usual = embed() if "input" in call.body else go_on() if "prompt" in call.body else say("Hello")
        await scripts.get(call.body["model"], usual)(call, wire)

    fake.reply = reply
    more = {name: {"routes": [f"fake/{name}"]} for name in ("tools", "broken", "slow")}
    more["all/*"] = {"routes": ["fake/*"]}
    more |= {f"counter-{name}": {"routes": [f"counter/{name}"]} for name in ("broken", "slow")}
    config["providers"]["counter"] = {"kind": "anthropic", "base_url": fake.url}
    return {**config, "models": {**config["models"], **more}, "server": {"max_body": "8KiB"}}


async def ask(server: Running, case: Case) -> httpx.Response:
    name = case.name
    if case.place == "kept" and case.status == 200:
        name = (await server.client.post(RESPONSES, json=ASKED)).json()["id"]
    path = case.path.replace("{name}", name).replace("{file}", "page.js")
    url = server.operations_url if "servers" in OPERATIONS[case.method, case.path] else server.url
    body = BODIES.get(case.path) if case.body is None else case.body
    content = json.dumps(body).encode() if body is not None else None
    sent = unfinished() if case.place == "impatient" else content
    headers = {"content-type": "application/json", **case.headers}
    if case.status == 304:
        headers["if-none-match"] = (await server.client.get(path)).headers["etag"]
    return await server.client.request(case.method, f"{url}{path}", content=sent, headers=headers)


async def unfinished() -> AsyncIterator[bytes]:
    yield b"{"
    await asyncio.sleep(1)  # longer than the server reads


def schema(found: Json) -> Json:
    """With what it refers to."""
    return {**found, "components": DOCUMENT["components"]}


def valid(found: Json, data: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(schema(found)).is_valid(data))


def check(found: Json, data: Any) -> None:
    jsonschema.Draft202012Validator(schema(found)).validate(data)


PLACES = sorted({case.place for case in CASES})


@pytest.mark.parametrize("place", PLACES)
async def test_it_is_answered_so(place: str, redis: str) -> None:
    async with serving(place, redis) as server:
        for case in (each for each in CASES if each.place == place):
            response = await ask(server, case)
            assert response.status_code == case.status, (case, response.text)
            documented = OPERATIONS[case.method, case.path]["responses"][str(case.status)]
            check_answer(documented, response)
            if case.code is not None:
                error = response.json()["error"]
                assert (error.get("code") or error["details"]["error_code"]) == case.code, case
                assert case.code in documented["x-codes"]


def check_answer(documented: Json, response: httpx.Response) -> None:
    kinds = documented.get("content")
    if kinds is None:
        assert response.content == b""
        return
    kind = response.headers["content-type"].partition(";")[0]
    found = kinds[kind if "*/*" not in kinds else "*/*"]["schema"]
    for name in documented.get("headers", {}):
        assert name == "Age" or name in response.headers
    if kind == "text/event-stream":
        *events, end = response.text.split("\n\n")
        if not events[-1].startswith("event: "):  # else its name says what an event is, also of the last
            assert events.pop() == "data: [DONE]"
        assert end == ""
        assert events
        for event in events:
            check(found, json.loads(event.partition("data: ")[2]))
    else:
        check(found, response.json() if kind == "application/json" else response.text)


def test_each_documented_answer_is_tried() -> None:
    documented = {
        (*route, int(status)) for route, found in OPERATIONS.items() for status in found["responses"]
    }
    assert {(case.method, case.path, case.status) for case in CASES} == documented


def test_what_is_documented_of_a_body_is_what_is_asked_of_it() -> None:
    for case in CASES:
        body = OPERATIONS[case.method, case.path].get("requestBody")
        if body is not None and case.place == "open" and case.status in (200, 400):
            asked = BODIES[case.path] if case.body is None else case.body
            found = body["content"]["application/json"]["schema"]
            assert valid(found, asked) is (case.status == 200), case


async def test_each_route_is_documented() -> None:
    async with serving("open") as server:
        application = server.replica.application
        served = {*routes(application.public), *routes(application.operations)}
    paths = [re.sub(r"{[^}]+}", "[^/]+", path) for path in DOCUMENT["paths"]]
    assert {path for path in served if not any(re.fullmatch(each, path) for each in paths)} == set()
    assert len(served) >= len(paths)


def routes(app: Any) -> set[str]:
    """Of the application within what is around it."""
    while not isinstance(app, Litestar):
        app = app._app
    return {re.sub(r"{[^}]+}", "x", route.path_format) for route in app.routes}


def test_it_is_an_openapi_document() -> None:
    assert DOCUMENT["openapi"].startswith("3.1.")
    text = json.dumps(DOCUMENT)
    schemas = DOCUMENT["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', text)) | {"Error"} <= schemas.keys()
    for each in schemas.values():
        jsonschema.Draft202012Validator.check_schema(each)
