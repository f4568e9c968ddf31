"""What a page of another origin can do, told by the headers that browsers send for it: tests/page has the browser."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from testkit.http_server import CLOSE, refuse, stream
from testkit.openai_server import FakeOpenAI, frames
from tests.harness import Running, openai_provider, running

PATH = "/v1/chat/completions"
GOOD = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
OWN_PAGE, CHAT, EVIL = "https://own.example", "https://chat.example.com", "https://evil.example"
KEY = "sk-dub5-test"
FOREIGN = [
    {"origin": ""},
    {"origin": EVIL},
    {"origin": "null"},
    {"origin": EVIL, "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
    {"origin": "http://127.0.0.1:1", "sec-fetch-site": "same-site"},
]
ROUTES: list[tuple[str, str, Any]] = [
    ("POST", PATH, GOOD),
    ("POST", "/v1/cache/invalidations", {"all": True}),
    ("POST", "/v1/cache/answers", {"request": GOOD, "answer": "POISON"}),
    ("GET", "/v1/cache", None),
    ("GET", "/v1/models", None),
    ("GET", "/", None),
    ("GET", "/page/page.js", None),
    ("GET", "/nowhere", None),
    ("OPTIONS", PATH, None),
]


@pytest_asyncio.fixture
async def server(fake: FakeOpenAI) -> AsyncIterator[Running]:
    config = {**openai_provider(fake.base_url), "server": {"allowed_origins": [CHAT, "app://obsidian.md"]}}
    async with running(config) as server:
        yield server


def with_keys(fake: FakeOpenAI, **server: Any) -> dict[str, Any]:
    return {**openai_provider(fake.base_url), "auth": {"keys": {"env": "KEYS"}}, "server": server}


KEYS = {"KEYS": f"{hashlib.sha256(KEY.encode()).hexdigest()}: {{tenant: acme, roles: [admin]}}"}


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_a_foreign_page_gets_in_nowhere(
    server: Running, fake: FakeOpenAI, method: str, path: str, body: Any
) -> None:
    for headers in FOREIGN:
        answer = await server.client.request(method, path, json=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed"), headers
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-request-id"]
    assert fake.calls == []
    assert server.replica.application._store.occupancy() == (0, 0)


@pytest.mark.parametrize("path", [PATH, "/v1/cache/invalidations", "/v1/cache/answers"])
@pytest.mark.parametrize(
    "kind",
    [
        None,
        "",
        "text/plain",
        "text/plain;application/json",
        "text/plain, application/json",
        "application/x-www-form-urlencoded",
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_refused(
    server: Running, fake: FakeOpenAI, path: str, kind: str | None
) -> None:
    headers = {} if kind is None else {"content-type": kind}
    body = next(body for _, each, body in ROUTES if each == path)
    request = server.client.build_request("POST", path, json=body)
    del request.headers["content-type"]
    request.headers.update(headers)
    answer = await server.client.send(request)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Content-Type")
    assert fake.calls == []


async def test_a_program_with_an_odd_origin_is_served_with_its_key_and_only_with_it(fake: FakeOpenAI) -> None:
    async with running(with_keys(fake), KEYS) as server:
        for headers in FOREIGN:
            for wrong in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}):
                assert (await server.chat(headers=headers | wrong)).status_code == 403
            assert (
                await server.chat(headers=headers | {"authorization": f"Bearer {KEY}"})
            ).status_code == 200
        assert (await server.chat()).status_code == 401


async def test_a_key_opens_nothing_where_there_are_none(server: Running) -> None:
    answer = await server.chat(headers={"origin": EVIL, "authorization": f"Bearer {KEY}"})
    assert answer.status_code == 403


async def test_the_page_of_the_service_and_links_to_it_work(server: Running) -> None:
    own = {"origin": server.url, "sec-fetch-site": "same-origin"}
    assert (await server.chat(headers=own)).status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert (await server.client.get("/", headers=link)).status_code == 200
    assert (await server.client.get(f"{server.operations_url}/metrics", headers=link)).status_code == 200


async def test_the_page_works_behind_a_proxy_that_passes_the_host_on(fake: FakeOpenAI) -> None:
    config = {**openai_provider(fake.base_url), "server": {"allowed_hosts": ["own.example"]}}
    async with running(config) as server:
        headers = {"host": "own.example", "origin": OWN_PAGE, "sec-fetch-site": "same-origin"}
        assert (await server.chat(headers=headers)).status_code == 200


async def test_operations_are_for_no_foreign_page(server: Running) -> None:
    for headers in [*FOREIGN, {"origin": CHAT}]:
        for path in ("/metrics", "/livez", "/readyz"):
            answer = await server.client.get(server.operations_url + path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert (await server.client.get(f"{server.operations_url}/metrics")).status_code == 200


async def preflight(server: Running, origin: str, path: str = PATH, **headers: str) -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": "POST", **headers}
    return await server.client.options(path, headers=asked)


@pytest.mark.parametrize("origin", [CHAT, "app://obsidian.md"])
async def test_an_allowed_origin_is_told_that_it_may(server: Running, fake: FakeOpenAI, origin: str) -> None:
    names = "authorization,content-type,x-dub5-timeout,x-stainless-os,x-stainless-retry-count"
    answer = await preflight(
        server, origin, **{"access-control-request-headers": names, "sec-fetch-site": "cross-site"}
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == names
    assert "Origin" in answer.headers["vary"]
    assert (await preflight(server, origin, "/nowhere")).status_code == 204  # so that the 404 can be read
    answered = await server.chat(headers={"origin": origin, "sec-fetch-site": "cross-site"})
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == origin
    assert "cache-status" in answered.headers["access-control-expose-headers"]
    assert len(fake.calls) == 1


async def test_all_that_is_served_may_be_asked_for_and_its_ids_read(server: Running) -> None:
    """OpenAI's client deletes a Response; Anthropic's reads the request's id where its own service has it."""
    answer = await preflight(server, CHAT, "/v1/responses/x", **{"access-control-request-method": "DELETE"})
    assert "DELETE" in answer.headers["access-control-allow-methods"].split(", ")
    answered = await server.client.post("/v1/messages", json={}, headers={"origin": CHAT})
    exposed = answered.headers["access-control-expose-headers"].split(", ")
    assert {"request-id", "x-request-id"} <= answered.headers.keys() & set(exposed)


async def test_no_other_origin_is(server: Running) -> None:
    for origin in (EVIL, "null", "http://chat.example.com"):
        answer = await preflight(server, origin)
        assert answer.status_code == 403
        assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_what_differs_by_origin_says_so(server: Running, fake: FakeOpenAI) -> None:
    assert (await server.chat()).headers["vary"] == "Origin"
    assert (await server.client.get("/v1/models", headers={"origin": server.url})).headers["vary"] == "Origin"
    async with running(openai_provider(fake.base_url)) as plain:
        assert "vary" not in (await plain.chat()).headers


@pytest.mark.parametrize("origin", [EVIL, "", None])
async def test_so_do_refusals(server: Running, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    answers = [
        await server.chat(headers={**headers, "sec-fetch-site": "cross-site"}),
        await server.chat(headers={**headers, "x-long": "x" * 100_000}),
        await server.chat(headers={**headers, "host": "no host"}),
        await server.chat(headers={**headers, "host": "evil.example"}),
    ]
    assert [answer.status_code for answer in answers] == [403, 431, 400, 421]
    assert [answer.headers.get_list("vary") for answer in answers] == [["Origin"]] * 4


async def test_before_there_are_headers_refusals_do_as_well(server: Running) -> None:
    reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
    writer.write(b"nonsense\r\n\r\n")
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nvary: Origin\r\n" in answer


async def test_errors_can_be_read_wherever_they_arise(fake: FakeOpenAI) -> None:
    fake.reply = refuse(500, "x")
    config = with_keys(fake, allowed_origins=[CHAT], max_body="2KiB")
    config["limits"] = {"acme": {"requests_per_minute": 2}}
    key = {"authorization": f"Bearer {KEY}", "origin": CHAT}
    async with running(config, KEYS) as server:
        answers = [
            await server.chat(headers={"origin": CHAT}),
            await server.chat(headers=key),
            await server.chat(headers=key, temperature=9),
            await server.chat("x" * 4000, headers=key),
            await server.client.get("/nowhere", headers=key),
            await server.client.delete("/v1/models", headers=key),
            await server.chat(headers={**key, "x-long": "x" * 100_000}),
            await server.chat(headers=key),
            await server.chat(headers=key),
        ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [401, 502, 400, 413, 404, 405, 431, 502, 429]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == CHAT, answer.status_code
    assert "retry-after" in answers[-1].headers["access-control-expose-headers"]


async def test_a_stream_and_its_failure_can_be_read(server: Running, fake: FakeOpenAI) -> None:
    fake.replies = [stream([*frames("Hel", "lo")[:2], CLOSE])]
    async with server.client.stream(
        "POST", PATH, json={**GOOD, "stream": True}, headers={"origin": CHAT}
    ) as answer:
        text = (await answer.aread()).decode()
    assert answer.headers["access-control-allow-origin"] == CHAT
    assert '"error"' in text


async def test_a_defect_can_be_read(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setitem(server.replica.application.public._app._by_path, PATH, broken)  # type: ignore[attr-defined]
    answer = await server.chat(headers={"origin": CHAT})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (500, CHAT)


async def test_whoever_leaves_tells_pages_too(server: Running) -> None:
    server.replica.application.drain.close()
    answer = await server.chat(headers={"origin": CHAT})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, CHAT)


async def test_a_websocket_of_a_foreign_page_is_not_opened(server: Running) -> None:
    wish = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "eA==",
    }
    answer = await server.client.get("/v1/models", headers={**wish, "origin": EVIL})
    assert answer.status_code == 403


@pytest.mark.parametrize("listener", ["url", "operations_url"])
async def test_without_keys_only_known_names_are_served_on_both_listeners(
    fake: FakeOpenAI, listener: str
) -> None:
    config = {**openai_provider(fake.base_url), "server": {"allowed_hosts": ["dub5", "*.chat.svc"]}}
    path = "/v1/models" if listener == "url" else "/metrics"
    async with running(config) as server:
        url = getattr(server, listener) + path
        for host in ("localhost:1", "127.0.0.1", "[::1]:1", "dub5:8000", "a.chat.svc"):
            assert (await server.client.get(url, headers={"host": host})).status_code == 200, host
        for host in ("evil.example", "evil.example:80", "10.0.0.5", "chat.svc", "localhost.evil.example"):
            answer = await server.client.get(url, headers={"host": host})
            assert (answer.status_code, answer.json()["error"]["code"]) == (421, "host_not_allowed"), host
            assert "server.allowed_hosts" in answer.json()["error"]["message"]
        assert await server.metric("dub5_connections_refused_total", reason="host") == 5


async def test_with_keys_any_name_is_served(fake: FakeOpenAI) -> None:
    async with running(with_keys(fake), KEYS) as server:
        headers = {"host": "chat.example.com", "authorization": f"Bearer {KEY}"}
        assert (await server.chat(headers=headers)).status_code == 200
        assert (await server.client.get(f"{server.operations_url}/livez", headers=headers)).status_code == 200


async def test_the_address_that_the_client_has_reached_is_a_name(fake: FakeOpenAI) -> None:
    """As a pod's address in probes and scrapes: nobody can point a name at it and have the browser send the address."""
    config = {
        **openai_provider(fake.base_url),
        "auth": {"anonymous": True},
        "server": {"host": "0.0.0.0"},
    }
    address = await asyncio.to_thread(_own_address)
    if address is None:
        pytest.skip("this machine has no address but loopback")
    async with running(config) as server:
        port = server.operations_url.rpartition(":")[2]
        assert (await server.client.get(f"http://{address}:{port}/livez")).status_code == 200
        answer = await server.client.get(
            f"http://127.0.0.1:{port}/livez", headers={"host": f"{address}:{port}"}
        )
        assert answer.status_code == 421


def _own_address() -> str | None:
    """One of this machine, other than loopback; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address: str = asking.getsockname()[0]
    return None if address.startswith("127.") else address
