"""`dub5 smoke health | chat | autoscaling`: what is said of an installation that is well, and of one that is not."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dub5.cli import kubernetes, smoke
from dub5.cli.command import Failed, own_key
from dub5.cli.main import main
from testkit.http_server import Call, FakeServer, Script, Wire, raw, refuse, stream, whole
from testkit.openai_server import FakeOpenAI, chunk, frame, frames
from tests.harness import Running, running

METRIC = "dub5_demand_requests"
HPA = "/apis/autoscaling/v2/namespaces/chat/horizontalpodautoscalers/dub5"
CUSTOM = "/apis/custom.metrics.k8s.io"
FIGURES = f"{CUSTOM}/v1beta2/namespaces/chat/pods/*/{METRIC}"
EXTERNAL = "/apis/external.metrics.k8s.io"
TRIGGER = f"{EXTERNAL}/v1beta1/namespaces/chat/s0-prometheus"


class FakeKubernetes(FakeServer):
    """A Kubernetes API that has the objects in `objects`, by path, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Any] = {
            HPA: autoscaler({"type": "Pods", "pods": {"metric": {"name": METRIC}, "target": target("140")}}),
            CUSTOM: {"preferredVersion": {"version": "v1beta2"}},
            FIGURES: {"items": [{"value": "0"}]},
        }

    async def default(self, call: Call, wire: Wire) -> None:
        found = self.objects.get(urlsplit(call.path).path.replace("%2A", "*"))
        await (whole(found) if found is not None else refuse(404, "not found"))(call, wire)


def target(value: str) -> dict[str, str]:
    return {"type": "AverageValue", "averageValue": value}


def autoscaler(*metrics: dict[str, Any], active: str = "True", message: str = "fine") -> dict[str, Any]:
    conditions = [
        {"type": "AbleToScale", "status": "True"},
        {"type": "ScalingActive", "status": active, "message": message},
    ]
    return {"spec": {"metrics": list(metrics)}, "status": {"conditions": conditions}}


@pytest.fixture
async def cluster() -> AsyncIterator[FakeKubernetes]:
    async with FakeKubernetes() as fake:
        yield fake


async def check(cluster: FakeKubernetes, server: Running) -> str:
    return await smoke.autoscaling(
        kubernetes.Cluster(cluster.url, "a-token"),
        namespace="chat",
        hpa="dub5",
        selector="app=dub5,component=backend",
        operations=server.operations_url,
    )


async def reason(check: Any) -> str:
    with pytest.raises(Failed) as failed:
        await check
    return str(failed.value)


async def test_health_of_a_replica_that_is_well(server: Running) -> None:
    assert await smoke.health(server.operations_url) == "replicas that are alive and ready: 1"


async def test_health_of_a_replica_that_drains(server: Running) -> None:
    server.replica.application.drain.linger()
    assert "/readyz answered 503: draining" in await reason(smoke.health(server.operations_url))
    server.replica.application.drain.close()  # it has lingered long enough


async def test_health_of_something_else(fake: FakeOpenAI) -> None:
    fake.reply = whole({"hello": "there"})
    assert "/metrics has no dub5_demand_requests" in await reason(smoke.health(fake.url))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://nowhere.invalid:9000", "nowhere.invalid has no address: no replica is ready"),
        ("http://127.0.0.1:1", "cannot reach http://127.0.0.1:1/livez"),
    ],
)
async def test_health_of_nobody(url: str, said: str) -> None:
    assert said in await reason(smoke.health(url))


async def test_a_chat_that_reaches_its_end(server: Running, fake: FakeOpenAI) -> None:
    assert await smoke.chat(server.url, "", None) == "assistant answered in 2 pieces, to the end"
    assert (await smoke.chat(server.url, "", "small")).startswith("small answered")
    assert fake.calls[0].body["max_tokens"] == 16


async def test_a_chat_needs_a_key_that_is_known() -> None:
    known = {"KEYS": "a" * 64 + ": {tenant: acme, roles: [chat]}"}
    async with running({"auth": {"keys": {"env": "KEYS"}}}, known) as server:
        assert "answered 401: The key is not known here." in await reason(
            smoke.chat(server.url, "wrong", None)
        )


HALF = stream([frame(chunk({"content": "half an answ"}))])
BROKEN = stream([frame(chunk({"content": "half"})), frame({"error": {"message": "The provider broke off."}})])
EMPTY = stream(frames())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (refuse(400, "No such thing."), "small: 400: No such thing."),
        (whole({"error": "of another shape"}, status=500), 'small: 500: {"error": "of another shape"}'),
        (HALF, "small: the answer did not reach its end: no reason given"),
        (BROKEN, "small: the answer did not reach its end: The provider broke off."),
        (EMPTY, "small: the answer was empty"),
        (stream([]), "small: the answer did not reach its end: no reason given"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: {}"), "small: the answer broke off"),
    ],
)
async def test_a_chat_that_does_not(fake: FakeOpenAI, answer: Script, said: str) -> None:
    fake.reply = answer
    assert said in await reason(smoke.chat(fake.url, "a-key", "small"))
    assert fake.calls[0].headers["authorization"] == "Bearer a-key"


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ({"data": []}, "lists no model that this key may chat with"),
        ({"data": [{"id": "embed", "kind": "embedding"}]}, "lists no model that this key may chat with"),
        ({"error": "none"}, "lists no models"),
        (["small"], "lists no models"),
    ],
)
async def test_a_chat_with_nothing_that_is_listed(fake: FakeOpenAI, listed: Any, said: str) -> None:
    fake.reply = whole(listed)
    assert said in await reason(smoke.chat(fake.url, "", None))


async def test_a_chat_with_the_first_that_chats(fake: FakeOpenAI) -> None:
    listed = [{"id": "embed", "kind": "embedding"}, {"id": "small", "kind": "personality"}, {"id": "other"}]
    fake.replies = [whole({"data": listed}), stream(frames("Hello"))]
    assert (await smoke.chat(fake.url, "", None)).startswith("small answered")


async def test_an_autoscaler_that_is_well(cluster: FakeKubernetes, server: Running) -> None:
    said = await check(cluster, server)
    assert said == f"dub5 reads {METRIC} of 1 replicas and aims for 140 each"
    asked = cluster.calls[-1]
    assert asked.headers["authorization"] == "Bearer a-token"
    assert parse_qs(urlsplit(asked.path).query) == {"labelSelector": ["app=dub5,component=backend"]}


async def test_an_autoscaler_of_keda_that_is_well(cluster: FakeKubernetes, server: Running) -> None:
    name = {"name": "s0-prometheus", "selector": {"matchLabels": {"scaledobject.keda.sh/name": "dub5"}}}
    cpu = {"type": "ContainerResource", "containerResource": {"name": "cpu"}}
    cluster.objects = {
        HPA: autoscaler(cpu, {"type": "External", "external": {"metric": name, "target": target("140")}}),
        EXTERNAL: {"preferredVersion": {"version": "v1beta1"}},
        TRIGGER: {"items": [{"value": "0"}]},
    }
    assert "aims for 140 each" in await check(cluster, server)
    query = parse_qs(urlsplit(cluster.calls[-1].path).query)
    assert query == {"labelSelector": ["scaledobject.keda.sh/name=dub5"]}


@pytest.mark.parametrize(
    ("path", "instead", "said"),
    [
        (HPA, None, "there is no HorizontalPodAutoscaler dub5 in chat"),
        (HPA, autoscaler(), f"dub5 does not read {METRIC}"),
        (
            CUSTOM,
            None,
            "nothing serves custom.metrics.k8s.io: install prometheus-adapter, with the chart's files/",
        ),
        (
            FIGURES,
            None,
            f"is served, but knows no {METRIC}: is the rule of files/prometheus-adapter.yaml there",
        ),
        (FIGURES, {"items": []}, f"is served, but knows no {METRIC}"),
    ],
)
async def test_what_is_missing_is_named(
    cluster: FakeKubernetes, server: Running, path: str, instead: Any, said: str
) -> None:
    cluster.objects[path] = instead
    assert said in await reason(check(cluster, server))


async def test_a_replica_that_nobody_scrapes(
    cluster: FakeKubernetes, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def two(_: str) -> list[str]:
        return [server.operations_url, server.operations_url]

    monkeypatch.setattr(smoke, "_addresses", two)
    assert "is known of 1 replicas, and 2 are ready" in await reason(check(cluster, server))


async def test_an_autoscaler_that_cannot_see(cluster: FakeKubernetes, server: Running) -> None:
    metric = cluster.objects[HPA]["spec"]["metrics"][0]
    cluster.objects[HPA] = autoscaler(metric, active="False", message="no metrics returned")
    assert await reason(check(cluster, server)) == "dub5 does not scale: no metrics returned"
    del cluster.objects[HPA]["status"]
    assert await reason(check(cluster, server)) == "dub5 does not scale: it has not looked yet"


@pytest.mark.parametrize(("value", "well"), [("181", True), ("182", False), ("181500m", True), ("1k", False)])
async def test_a_full_replica_must_pass_the_target(
    cluster: FakeKubernetes, server: Running, value: str, well: bool
) -> None:
    cluster.objects[HPA]["spec"]["metrics"][0]["pods"]["target"] = target(value)
    if well:
        await check(cluster, server)
    else:
        assert "lower autoscaling.targetPercentage" in await reason(check(cluster, server))


async def test_an_api_that_refuses_or_is_away(cluster: FakeKubernetes, server: Running) -> None:
    cluster.reply = refuse(403, "forbidden")
    assert f"the Kubernetes API answered 403 to {HPA}" in await reason(check(cluster, server))
    cluster.reply = raw(b"")
    assert "cannot reach the Kubernetes API" in await reason(check(cluster, server))


def test_a_strange_quantity() -> None:
    with pytest.raises(Failed, match="`1Gi` is not a quantity"):
        smoke.quantity("1Gi")


def test_outside_of_a_cluster() -> None:
    with pytest.raises(Failed, match="not in a cluster"):
        kubernetes.in_cluster({})


def test_inside_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    monkeypatch.setattr(kubernetes, "ACCOUNT", tmp_path)
    with pytest.raises(Failed, match="no token"):
        kubernetes.in_cluster(inside)
    (tmp_path / "token").write_text("a-token\n")
    monkeypatch.setattr("ssl.create_default_context", lambda cafile: cafile)
    found = kubernetes.in_cluster(inside)
    assert found == ("https://[fd00::1]:443", "a-token", str(tmp_path / "ca.crt"))


async def test_a_timeout_waits_for_what_is_not_there_yet(fake: FakeOpenAI) -> None:
    fake.replies = [refuse(503, "not yet"), refuse(503, "not yet")]
    fake.reply = stream(frames("Hello"))
    said = await smoke.retried(lambda: smoke.chat(fake.url, "", "small"), timeout=20)
    assert said == "small answered in 1 pieces, to the end"
    assert len(fake.calls) == 3


@pytest.mark.parametrize(
    "url",
    [
        *("nonsense", "127.0.0.1:9000", "http://[::1", "http://127.0.0.1:70000", "http://:9000", "ftp://a:1"),
        *("http://xn--:1", "http://xn--a:1"),
    ],
)
@pytest.mark.parametrize("arguments", [("health", "--operations"), ("chat", "--url")])
def test_what_is_no_address_is_wrong_usage(
    arguments: tuple[str, ...], url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["smoke", *arguments, url])
    assert ended.value.code == 2
    assert f"argument {arguments[1]}: " in capsys.readouterr().err


async def test_an_address_needs_no_port() -> None:
    assert "http://127.0.0.1/livez" in await reason(smoke.health("http://127.0.0.1"))


@pytest.mark.parametrize("written", ["sk-one\nsk-two", "sk-€"])
@pytest.mark.parametrize("asking", [("smoke", "chat"), ("cache", "stats")])
def test_what_cannot_be_a_key_is_not_shown(
    asking: tuple[str, str],
    written: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DUB5_KEY", written)
    assert main([*asking, "--url", "http://127.0.0.1:1"]) == 1
    said = capsys.readouterr().err
    assert "DUB5_KEY" in said
    assert "sk-" not in said


def test_a_key_may_end_with_a_line_feed() -> None:
    assert own_key({"DUB5_KEY": "sk-one\n"}) == "sk-one"


async def command(*arguments: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", "smoke", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ},
    )
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_the_commands(server: Running, cluster: FakeKubernetes) -> None:
    operations = ("--operations", server.operations_url)
    scaling = ("autoscaling", *operations, "--namespace", "chat", "--api", cluster.url, "--timeout", "5s")
    assert await command("health", *operations) == (0, "replicas that are alive and ready: 1\n")
    code, said = await command("chat", "--url", server.url, "--model", "small")
    assert (code, said[:14]) == (0, "small answered")
    assert (await command(*scaling, "--hpa", "dub5"))[0] == 0
    cluster.objects = {}
    code, said = await command(*scaling, "--hpa", "other", "--timeout", "0s")
    assert (code, said) == (1, "dub5: there is no HorizontalPodAutoscaler other in chat\n")
    assert (await command("health", "--timeout", "soon"))[0] == 2
    assert await command("autoscaling", "--namespace", "a", "--hpa", "b") == (
        1,
        "dub5: not in a cluster: say where its API is with --api, such as the address of `kubectl proxy`\n",
    )
