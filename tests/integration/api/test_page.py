"""The files of the page, over HTTP. What a browser makes of them is in tests/page."""

from __future__ import annotations

import re

import pytest

from dub5.api import page
from testkit.openai_server import FakeOpenAI
from tests.harness import Running, openai_provider, running

FILES = {
    "/": "text/html; charset=utf-8",
    "/page/icon.svg": "image/svg+xml",
    "/page/page.css": "text/css; charset=utf-8",
    "/page/page.js": "text/javascript; charset=utf-8",
    "/page/chat.js": "text/javascript; charset=utf-8",
    "/page/plots.js": "text/javascript; charset=utf-8",
    "/page/words.js": "text/javascript; charset=utf-8",
}


@pytest.mark.parametrize(("path", "kind"), FILES.items())
async def test_each_file_has_its_type_and_the_security_headers(server: Running, path: str, kind: str) -> None:
    response = await server.client.get(path)
    assert (response.status_code, response.headers["content-type"]) == (200, kind)
    for name, value in page.SECURITY:
        assert response.headers[name.decode()] == value.decode()
    assert response.headers["cache-control"] == "no-cache"
    assert await server.metric("dub5_http_requests_total", route=path, method="GET", outcome="ok") == 1


async def test_the_policy_allows_nothing_inline_and_nothing_foreign(server: Running) -> None:
    policy = (await server.client.get("/")).headers["content-security-policy"]
    directives = dict(each.strip().split(" ", 1) for each in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["frame-ancestors"] == "'none'"
    allowed = {source for sources in directives.values() for source in sources.split()}
    assert allowed == {"'none'", "'self'", "'script'"}


async def test_files_name_no_foreign_origin(server: Running) -> None:
    for path in FILES:
        text = (await server.client.get(path)).text
        assert set(re.findall(r"https?://[\w.-]+", text)) <= {"http://www.w3.org"}, path  # a namespace


async def test_an_unchanged_file_is_not_sent_again(server: Running) -> None:
    first = await server.client.get("/page/page.js")
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = await server.client.get("/page/page.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert again.headers["content-security-policy"]
    other = await server.client.get("/page/page.js", headers={"if-none-match": '"other"'})
    assert other.content == first.content


async def test_head_is_get_without_the_body(server: Running) -> None:
    whole, head = await server.client.get("/"), await server.client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))


async def test_other_methods_and_paths_are_refused_in_the_usual_shape(server: Running) -> None:
    refused = await server.client.post("/", json={})
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    for path in (
        "/page",
        "/page/",
        "/page/other.js",
        "/page/__init__.py",
        "/page/../settings.py",
        "/page/%2e%2e",
    ):
        missing = await server.client.get(path)
        assert (missing.status_code, missing.json()["error"]["type"]) == (404, "invalid_request_error"), path


@pytest.mark.parametrize("path", ["//", "/page/page.js/", "//page/page.js", "/page//page.js"])
async def test_odd_spellings_make_no_error_of_ours_and_no_label(server: Running, path: str) -> None:
    response = await server.client.get(f"{server.url}{path}")
    assert response.status_code in {200, 404}
    assert await server.metric("dub5_http_requests_total", outcome="server_error") == 0
    assert await server.metric("dub5_http_requests_total", route=path) == 0


async def test_it_needs_no_key_and_tells_nothing_of_the_installation(fake: FakeOpenAI) -> None:
    digest = "a" * 64
    auth = {"keys": {"env": "KEYS"}}
    keys = {"KEYS": f"{digest}: {{tenant: acme}}"}
    async with running({**openai_provider(fake.base_url), "auth": auth}, keys) as server:
        response = await server.client.get("/")
        assert response.status_code == 200
        assert "acme" not in response.text
        assert (await server.client.get("/v1/models")).status_code == 401


async def test_it_can_be_switched_off(fake: FakeOpenAI) -> None:
    async with running({**openai_provider(fake.base_url), "server": {"page": False}}) as server:
        index = await server.client.get("/")
        assert index.json()["chat"] == "POST /v1/chat/completions"
        assert (await server.client.get("/page/page.js")).status_code == 404


async def test_models_tell_their_price(fake: FakeOpenAI) -> None:
    config = openai_provider(fake.base_url)
    config["models"]["free"] = {"routes": ["fake/free"]}
    config["personalities"] = {"pirate": {"system": "Arr.", "model": "small"}}
    async with running(config) as server:
        models = {each["id"]: each for each in (await server.client.get("/v1/models")).json()["data"]}
    assert models["small"]["price"] == {"input": 1.0, "cached_input": 1.0, "output": 2.0}
    assert models["pirate"]["price"] == models["small"]["price"]
    assert "price" not in models["free"]
