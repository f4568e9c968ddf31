"""Which models there are, and what is said of each: ids as other servers have them, and `vllm/*`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.harness import running

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
NAMED: dict[str, Any] = {
    "models": {LLAMA: {"routes": [f"demo/{LLAMA}"]}, "llama3:8b": {"routes": ["demo/x"]}},
    "personalities": {"team/pirate": {"model": LLAMA, "system": "Talk like a pirate."}},
}


@pytest.mark.parametrize("name", [LLAMA, "llama3:8b", "team/pirate"])
async def test_ids_of_other_servers_are_names_here(name: str) -> None:
    async with running(NAMED) as server, await server.openai() as client:
        assert name in [each.id for each in (await client.models.list()).data]
        assert (await client.models.retrieve(name)).id == name
        answer = await client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "hi"}]
        )
        assert answer.choices[0].message.content


@pytest.mark.parametrize(
    "path", [LLAMA, LLAMA.replace("/", "%2F"), LLAMA.replace("/", "%2f"), "llama3:8b", "llama3%3A8b"]
)
async def test_a_model_is_found_however_its_path_is_written(path: str) -> None:
    async with running(NAMED) as server:
        answer = await server.client.get(f"/v1/models/{path}")
        assert answer.json()["id"] in NAMED["models"]
        labels = {"route": "/v1/models/{name}", "outcome": "ok"}
        assert await server.metric("dub5_http_requests_total", **labels) == 1


async def test_what_is_known_of_each_is_told_and_is_the_same_everywhere() -> None:
    config = {
        "models": {
            "small": {"routes": ["demo/x"], "context_window": 128_000, "price": {"input": 1.0}},
            "vectors": {"routes": ["demo/y"], "kind": "embedding"},
        },
        "personalities": {"pirate": {"model": "small"}},
    }
    async with running(config) as one, running(config) as other:
        told = (await one.client.get("/v1/models")).json()["data"]
        assert told == (await other.client.get("/v1/models")).json()["data"]
    assert [(each["id"], each["kind"], each.get("context_window")) for each in told] == [
        ("pirate", "personality", 128_000),
        ("small", "chat", 128_000),
        ("vectors", "embedding", None),
    ]
    assert len({each["created"] for each in told}) == 1
    assert told[1]["price"] == {"input": 1.0, "cached_input": 1.0, "output": 0.0}
