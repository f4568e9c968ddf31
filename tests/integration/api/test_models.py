"""Which models there are, and what is said of each: ids as other servers have them, and `vllm/*`."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from dub5.providers import listing
from dub5.telemetry.metrics import BREAKER_STATES
from testkit.http_server import Call, Script, Wire, hang, refuse, whole
from testkit.openai_server import FakeOpenAI, embed, say
from tests.harness import Running, openai_provider, running

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
        reported = (await one.client.get("/v1/models")).json()["data"]
        assert reported == (await other.client.get("/v1/models")).json()["data"]
    assert [(each["id"], each["kind"], each.get("context_window")) for each in reported] == [
        ("pirate", "personality", 128_000),
        ("small", "chat", 128_000),
        ("vectors", "embedding", None),
    ]
    assert len({each["created"] for each in reported}) == 1
    assert reported[1]["price"] == {"input": 1.0, "cached_input": 1.0, "output": 0.0}


def lists(*models: dict[str, Any], answer: Script | None = None) -> Script:
    """A provider that has these models, and answers each chat."""

    async def script(call: Call, wire: Wire) -> None:
        if call.path.partition("?")[0] == "/v1/models":
            await whole({"object": "list", "data": models})(call, wire)
        else:
            await (answer or say("Hello"))(call, wire)

    return script


def passing(fake: FakeOpenAI, **models: list[str]) -> dict[str, Any]:
    config = openai_provider(fake.base_url)
    named = {name: {"routes": routes} for name, routes in models.items()}
    return {**config, "models": named, "personalities": {}}


async def listed(server: Running) -> list[str]:
    return [each["id"] for each in (await server.client.get("/v1/models")).json()["data"]]


async def test_a_file_with_nothing_but_a_pattern_needs_no_more(fake: FakeOpenAI) -> None:
    fake.reply = lists({"id": "one"})
    config = {**openai_provider(fake.base_url), "models": {"*": {"routes": ["fake/*"]}}}
    async with running(config) as server:
        await until_listed(server, ["one"])  # and no personality, which would need a model by name


async def until_listed(server: Running, names: list[str]) -> None:
    async with asyncio.timeout(60):
        while await listed(server) != names:  # noqa: ASYNC110  # a list has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "REFRESH", 0.02)


async def test_a_pattern_lets_through_what_the_provider_lists(fake: FakeOpenAI) -> None:
    fake.reply = lists({"id": LLAMA, "max_model_len": 8192}, {"id": "e5", "type": "embedding"}, {"id": 7})
    async with running(passing(fake, **{"*": ["fake/*"]})) as server, await server.openai() as client:
        await until_listed(server, [LLAMA, "e5"])
        reported = (await server.client.get(f"/v1/models/{LLAMA}")).json()
        assert (reported["id"], reported["context_window"], "kind" in reported) == (LLAMA, 8192, False)
        assert (await server.client.get("/v1/models/e5")).json()["kind"] == "embedding"
        for _ in range(2):  # the second from the cache
            await client.chat.completions.create(model=LLAMA, messages=[{"role": "user", "content": "hi"}])
        assert [call.body["model"] for call in fake.calls if call.raw] == [LLAMA]
        unknown = await server.chat(model="gpt-9")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_label_is_the_pattern_and_never_the_callers_word(fake: FakeOpenAI) -> None:
    fake.reply = lists(*({"id": f"m{number}"} for number in range(5)))
    async with running(passing(fake, **{"all/*": ["fake/*"]})) as server:
        await until_listed(server, [f"all/m{number}" for number in range(5)])
        for number in range(7):  # two that nobody has
            await server.chat(str(number), model=f"all/m{number}")
        await server.chat(model="m0")
        samples = [
            sample
            for family in server.replica.application.metrics.registry.collect()
            for sample in family.samples
            if "model" in sample.labels
        ]
        assert {sample.labels["model"] for sample in samples} == {"all/*"}
        assert await server.metric("dub5_provider_requests_total", model="all/*", outcome="ok") == 5


async def test_each_model_of_a_pattern_has_its_own_health(fake: FakeOpenAI) -> None:
    async def answer(call: Call, wire: Wire) -> None:
        limited = refuse(429, "Slow down", headers={"retry-after": "20"})
        await (limited if call.body["model"] == "busy" else say("Hello"))(call, wire)

    fake.reply = lists({"id": "busy"}, {"id": "idle"}, answer=answer)
    async with running(passing(fake, **{"*": ["fake/*"]})) as server:
        await until_listed(server, ["busy", "idle"])
        assert (await server.chat(model="busy")).status_code == 429
        assert (await server.chat(model="idle")).status_code == 200
        state = await server.metric("dub5_provider_breaker_state", provider="fake", model="*")
        assert state == BREAKER_STATES["open"]


async def test_one_model_of_a_pattern_that_hangs_leaves_room_for_the_others(fake: FakeOpenAI) -> None:
    async def answer(call: Call, wire: Wire) -> None:
        await (hang() if call.body["model"] == "stuck" else say("Hello"))(call, wire)

    fake.reply = lists({"id": "stuck"}, {"id": "idle"}, answer=answer)
    config = passing(fake, **{"*": ["fake/*"]}) | {"admission": {"max_inflight": 5}}
    async with running(config) as server:
        await until_listed(server, ["stuck", "idle"])
        hanging = [asyncio.create_task(server.chat(str(number), model="stuck")) for number in range(6)]
        await server.becomes("dub5_queued_requests", 2)  # four hold what one model may
        assert (await server.chat(model="idle")).status_code == 200
        for each in hanging:
            each.cancel()


async def test_so_does_one_that_makes_vectors(fake: FakeOpenAI) -> None:
    async def answer(call: Call, wire: Wire) -> None:
        await (hang() if call.body["model"] == "stuck" else embed())(call, wire)

    fake.reply = lists({"id": "stuck"}, {"id": "idle"}, answer=answer)
    config = passing(fake, **{"*": ["fake/*"]}) | {"admission": {"max_inflight": 5}}
    async with running(config) as server:
        await until_listed(server, ["stuck", "idle"])

        async def ask(model: str, text: str) -> int:
            asked = {"model": model, "input": text}
            return (await server.client.post("/v1/embeddings", json=asked)).status_code

        hanging = [asyncio.create_task(ask("stuck", str(number))) for number in range(6)]
        await server.becomes("dub5_queued_requests", 2)
        assert await ask("idle", "a") == 200
        for each in hanging:
            each.cancel()


@pytest.mark.usefixtures("often")
async def test_the_last_good_list_is_kept_while_the_provider_is_away(fake: FakeOpenAI) -> None:
    fake.reply = lists({"id": "one"})
    async with running(passing(fake, **{"*": ["fake/*"]})) as server:
        await until_listed(server, ["one"])
        fake.reply = refuse(500, "Oops")
        before = len(fake.calls)
        async with asyncio.timeout(60):
            while len(fake.calls) < before + 3:
                await fake.wait_called()
            while not (said := [line for line in server.logs if line["event"] == "models not listed"]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the log is written by a thread
        assert len(said) == 1
        assert await listed(server) == ["one"]
        fake.reply = lists({"id": "two"})
        await until_listed(server, ["two"])
        gone = await server.chat(model="one")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


async def test_before_there_is_a_list_nobody_is_told_that_a_model_does_not_exist(fake: FakeOpenAI) -> None:
    fake.reply = hang()
    async with running(passing(fake, **{"own": ["fake/x"], "all/*": ["fake/*"]})) as server:
        early = await server.chat(model="all/one")
        assert (early.status_code, early.headers["retry-after"]) == (502, "1")
        assert (await server.client.get("/v1/models/all/one")).status_code == 502
        assert (await server.chat(model="other")).status_code == 404  # no pattern stands for it
        assert await listed(server) == ["own"]


async def test_a_name_of_its_own_comes_before_a_pattern_and_an_earlier_pattern_before_a_later_one(
    fake: FakeOpenAI,
) -> None:
    fake.reply = lists({"id": "gpt-a"}, {"id": "gpt-b"}, {"id": "other"})
    patterns = {"gpt-a": ["demo/x"], "gpt-*": ["demo/absent-*", "fake/gpt-*", "demo/spare"], "*": ["fake/*"]}
    config = passing(fake, **patterns)
    config["providers"]["demo"] = {"kind": "simulated"}
    async with running(config) as server:
        await until_listed(server, ["gpt-a", "gpt-b", "other"])
        for name in ("gpt-a", "gpt-b", "other"):
            assert (await server.chat(model=name)).status_code == 200
        calls = [await server.metric("dub5_provider_requests_total", model=each) for each in patterns]
        assert calls == [1, 1, 1]
        fake.reply = lists(answer=refuse(500, "Oops"))
        assert (await server.chat("again", model="gpt-b")).status_code == 200  # from the spare


async def test_two_replicas_find_each_others_answers_though_one_has_heard_of_fewer_routes(
    redis: str, fake: FakeOpenAI
) -> None:
    async with FakeOpenAI() as other:
        fake.reply = lists({"id": "m"})
        other.reply = refuse(500, "Oops")
        config = passing(fake, **{"*": ["fake/*", "other/*"]}) | {"redis": {"url": redis}}
        config["providers"]["other"] = {"kind": "openai", "base_url": other.base_url}
        async with running(config) as one:
            await until_listed(one, ["m"])
            await one.chat(model="m")
            other.reply = lists({"id": "m"}, {"id": "n"})
            async with running(config) as two:
                await until_listed(two, ["m", "n"])
                assert "; hit" in (await two.chat(model="m")).headers["cache-status"]


async def test_a_key_sees_and_uses_only_the_models_that_it_may(fake: FakeOpenAI) -> None:
    fake.reply = lists({"id": "one"})
    config = passing(fake, small=["fake/x"], big=["fake/y"], **{"all/*": ["fake/*"]})
    config["personalities"] = {"pirate": {"model": "big"}, "tutor": {"model": "big"}}
    config["auth"] = {"keys": {"env": "KEYS"}}
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("tied", "free")}
    keys = (
        f"{digests['tied']}: {{tenant: t, roles: [chat, tenant_admin], models: [small, pirate, 'all/*']}}\n"
        f"{digests['free']}: {{tenant: t}}"
    )
    tied, free = ({"authorization": f"Bearer {name}"} for name in ("tied", "free"))
    async with running(config, {"KEYS": keys}) as server:
        server.client.headers.update(tied)
        await until_listed(server, ["pirate", "small", "all/one"])
        personalities = (await server.client.get("/v1/personalities")).json()["data"]
        assert [each["name"] for each in personalities] == ["pirate"]
        for name in ("small", "pirate", "all/one"):
            assert (await server.chat(model=name)).status_code == 200
            assert (await server.client.get(f"/v1/models/{name}")).status_code == 200
        large = "x" * 200_000
        await server.chat(large, model="big", headers=free)  # now it is in the cache
        await server.chat(model="big", headers=free)
        for name in ("big", "tutor", "nobody"):
            request = {"model": name, "messages": [{"role": "user", "content": "hi"}]}
            refused = [
                await server.chat(model=name),
                await server.chat(model=name, stream=True),
                await server.chat(large, model=name),
                await server.client.get(f"/v1/models/{name}"),
                await server.client.post("/v1/cache/answers", json={"request": request, "answer": "No"}),
            ]
            errors = [each.json()["error"] for each in refused]
            assert [(each.status_code) for each in refused] == [403] * 5
            assert {each["code"] for each in errors} == {"model_not_allowed"}
            assert [each["param"] for each in errors] == ["model"] * 4 + ["request.model"]
        assert len((await server.client.get("/v1/models", headers=free)).json()["data"]) == 5
