"""`dub5 policy explain`, by a real Redis and an API that has objects: what is said, and that nothing is done."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from redis.asyncio import Redis

from dub5.cli.main import main
from dub5.contract import (
    CLASSES_KEY,
    LEARNT_KEY,
    POLICY_KEY,
    SAMPLES,
    Canary,
    SampleBatch,
)
from dub5_operator.crd import GROUP, VERSION
from testkit.http_server import Call, FakeServer, Wire, whole
from testkit.processes import free_port
from tests.operator.test_policies import Bench

Json = dict[str, Any]
PATH = f"/apis/{GROUP}/{VERSION}/namespaces/chat/cachepolicies"


TOKEN = "secret-token"


class FakeKubernetes(FakeServer):
    """An API that has the objects in `objects`, by path; of others it says that there are none, as a real one does."""

    def __init__(self) -> None:
        super().__init__(shared_loop=False)
        self.objects: dict[str, Json] = {}

    async def default(self, call: Call, wire: Wire) -> None:
        path = urlsplit(call.path).path
        missing = {"kind": "Status", "message": "not found", "details": {"name": path.rpartition("/")[2]}}
        answer = whole(self.objects[path]) if path in self.objects else whole(missing, status=404)
        if call.headers.get("authorization") != f"Bearer {TOKEN}":
            answer = whole({"kind": "Status", "message": "Unauthorized"}, status=401)
        await answer(call, wire)


@pytest.fixture
async def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeKubernetes]:
    """The one that the kubeconfig names, with the namespace `chat`."""
    async with FakeKubernetes() as fake:
        await write_kubeconfig(tmp_path / "kubeconfig", fake.url)
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        yield fake


async def write_kubeconfig(path: Path, server: str, token: str = TOKEN, **cluster: str) -> None:
    config = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "chat"}}],
        "clusters": [{"name": "c", "cluster": {"server": server, **cluster}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    await asyncio.to_thread(path.write_text, yaml.safe_dump(config))


async def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of `dub5 policy`."""
    code = await asyncio.to_thread(main, ["policy", *words])
    return code, *capsys.readouterr()


async def reconciled(client: Redis, cluster: FakeKubernetes, **spec: Any) -> Bench:
    """An operator that has learnt an hour of the class `banter`, and reported on its policy."""
    bench = Bench(client)
    bench.clock.now = time.time()
    await bench.announced()
    await bench.sample(changed=0.1, came=True)
    canaries = [
        Canary(7, "banter", bench.clock.now - 90, bench.clock.now - 30, 10.0, number % 50 == 0, False)
        for number in range(200)
    ]
    await bench.send(SampleBatch("a", bench.clock.now - 30, canaries=canaries))
    await bench.reconcile(spec)
    bench.body["spec"] = {"cacheClass": "banter", **spec}
    cluster.objects[f"{PATH}/banter"] = bench.body
    return bench


async def everything(client: Redis) -> dict[Any, Any]:
    return {key: await client.dump(key) for key in await client.keys()}


@pytest.mark.parametrize(
    "spec",
    [
        {"staleness": {"budget": "50%"}},
        {"staleness": {"budget": "50%"}, "mode": "Observe"},
        {"ttl": {"min": "1m"}},
        {"staleness": {"budget": "0.50%"}, "memory": {"max": "1Mi"}},
    ],
)
async def test_an_explanation_says_what_the_status_says(
    client: Redis, redis: str, cluster: FakeKubernetes, capsys: pytest.CaptureFixture[str], spec: Json
) -> None:
    bench = await reconciled(client, cluster, **spec)
    before, status = await everything(client), bench.body["status"]
    code, out, err = await said(capsys, "explain", "banter", "--redis", redis, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["policy"], found["cache_class"], found["status"]) == ("chat/banter", "banter", status)
    now = found["now"]
    for name in ("boundBy", "staleMeasured", "comparisons", "lookUps"):
        assert now[name] == status[name]
    assert float(now["noise"].rstrip("%")) == pytest.approx(float(status["noise"].rstrip("%")), rel=0.02)
    decision, [in_force] = (
        found["explanation"]["decision"],
        [
            each
            for each in found["explanation"]["candidates"]
            if each["ttl"] == pytest.approx(status["ttlSeconds"])
        ],
    )
    shares = (("hitRatio", "hit_ratio"), ("stale", "stale"), ("staleBound", "stale_upper"))
    chosen = [each["outcome"] for each in found["explanation"]["by_question"] if each["chosen"]]
    in_auto = spec.get("mode", "Auto") == "Auto"
    for outcome in chosen if chosen and in_auto else [in_force["outcome"]]:
        for theirs, ours in shares:
            assert outcome[ours] == pytest.approx(float(status[theirs].rstrip("%")) / 100, rel=0.02), ours
    assert bool(chosen) == (decision["question"] is not None and decision["within_budget"])
    assert await everything(client) == before  # nothing is written
    assert before.keys() >= {POLICY_KEY.encode(), (LEARNT_KEY % "banter").encode()}
    code, out, err = await said(capsys, "explain", "banter", "--redis", redis)
    assert (code, err) == (0, "")
    for word in (status["ttl"], status["boundBy"], status["reason"], status["staleMeasured"]):
        assert word in out
    assert await bench.attempt(spec) is not None  # the operator is still the one that publishes


async def test_each_question_and_what_would_change_it_are_explained(
    client: Redis, redis: str, cluster: FakeKubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    await reconciled(client, cluster, staleness={"budget": "50%"}, ttl={"max": "10m"})
    _, out, _ = await said(capsys, "explain", "banter", "--redis", redis, "--json")
    explanation = json.loads(out)["explanation"]
    assert explanation["decision"]["question"]["cost"] > 0
    assert len(explanation["by_question"]) == 7
    assert len(explanation["examples"]) == 12
    assert explanation["hazard"] >= 1
    assert [each["limit"] for each in explanation["alternatives"]]


async def test_what_came_since_the_operator_stored_is_taken_in(
    client: Redis, redis: str, cluster: FakeKubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = await reconciled(client, cluster)
    bench.clock.now = time.time()
    await bench.sample(minutes=1)
    _, out, _ = await said(capsys, "explain", "banter", "--redis", redis, "--json")
    assert json.loads(out)["now"]["lookUps"] == bench.body["status"]["lookUps"] + 40


def broken(name: str, bench: Bench) -> list[str]:
    """What is asked where something is wrong, which is made so."""
    status = bench.body["status"]
    conditions = {each["type"]: each for each in status["conditions"]}
    if name == "not in force":
        conditions["Ready"] |= {"status": "False", "message": "CachePolicy older sets it."}
    elif name == "not reconciled":
        del bench.body["status"]
    elif name == "of another release":
        del status["ttlSeconds"]
    elif name == "class unknown":
        bench.body["spec"]["cacheClass"] = "nobody"
    return ["explain", "other" if name == "unknown" else "Ban/ter" if name == "no name" else "banter"]


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ("unknown", "no CachePolicy other in the namespace chat"),
        ("no name", "Ban/ter"),
        ("not in force", "CachePolicy older sets it."),
        ("not reconciled", "not reconciled yet"),
        ("of another release", "ttlSeconds"),
        ("class unknown", "it has banter, facts"),
        ("no look-ups", "look-ups"),
        ("no classes", "No replica"),
        ("Redis away", "Redis does not answer"),
        ("samples damaged", "Redis does not answer: ResponseError"),
        ("API away", "Kubernetes API does not answer"),
        ("token refused", "401"),
        ("no definition", "knows no CachePolicy"),
        ("kubeconfig damaged", "kubeconfig"),
        ("no cluster", "KUBECONFIG"),
    ],
)
async def test_what_cannot_be_explained_is_said_in_one_line(
    client: Redis,
    redis: str,
    cluster: FakeKubernetes,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wrong: str,
    word: str,
) -> None:
    words, kubeconfig = broken(wrong, await reconciled(client, cluster)), tmp_path / "kubeconfig"
    if wrong == "no look-ups":
        await client.delete(SAMPLES, LEARNT_KEY % "banter")
    elif wrong == "no classes":
        await client.delete(CLASSES_KEY)
    elif wrong == "Redis away":
        redis = f"redis://127.0.0.1:{free_port()}"
    elif wrong == "samples damaged":
        await client.set(SAMPLES, "somebody else's")
    elif wrong == "API away":
        await write_kubeconfig(kubeconfig, f"http://127.0.0.1:{free_port()}")
    elif wrong == "token refused":
        await write_kubeconfig(kubeconfig, cluster.url, "another")
    elif wrong == "no definition":
        cluster.reply = whole(None, raw=b"404 page not found\n", status=404)
    elif wrong == "kubeconfig damaged":
        await asyncio.to_thread(kubeconfig.write_text, "current-context: there\n")
    elif wrong == "no cluster":
        monkeypatch.delenv("KUBECONFIG")
        monkeypatch.setenv("HOME", str(tmp_path))
    before = await everything(client)
    code, out, err = await said(capsys, *words, "--redis", redis)
    assert (code, out) == (1, "")
    assert word in err
    assert TOKEN not in err
    assert len(err.splitlines()) == 1
    assert await everything(client) == before


async def test_the_cluster_is_asked_of_the_namespace_that_is_named(
    client: Redis, redis: str, cluster: FakeKubernetes, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = await said(capsys, "explain", "banter", "--namespace", "other", "--redis", redis)
    assert code == 1
    assert "in the namespace other" in err
