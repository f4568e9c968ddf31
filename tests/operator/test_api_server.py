"""The operator against a real API server and a real Redis, with no more rights than the chart gives it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import kopf
import msgspec
import pytest
from blockbuster import BlockBuster
from redis.asyncio import Redis

from dub5.cli.kubernetes import bracketed
from dub5.cli.main import main
from dub5.contract import (
    CLASSES_KEY,
    POLICY_KEY,
    PURGE_JOURNAL,
    SAMPLES,
    Access,
    AnnouncedClass,
    Announcement,
    ClassPolicy,
    PolicyDocument,
    SampleBatch,
    Verdict,
)
from dub5_operator.crd import GROUP, VERSION
from dub5_operator.main import Operator, register
from testkit.processes import free_port
from tests.log_lines import decoded
from tests.operator.conftest import NAMESPACE, ApiServer

Json = dict[str, Any]
DAILY: Json = {"cron": "0 3 * * *", "action": "Purge"}
BASE = f"/apis/{GROUP}/{VERSION}/namespaces/{NAMESPACE}"


class Relay:
    """A way to the API server that can be cut off, at `url`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut = False
        self.url = ""

    def cut(self) -> None:
        self._cut = True
        for writer in self._writers:
            writer.close()

    def mend(self) -> None:
        self._cut = False

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection, until either side ends it."""
        if self._cut:
            writer.close()
            return
        back, forth = await asyncio.open_connection("127.0.0.1", self._port)
        both = {writer, forth}
        self._writers |= both
        await asyncio.gather(_pass_on(reader, forth), _pass_on(back, writer))
        self._writers -= both


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def relayed(server: ApiServer) -> AsyncIterator[tuple[Relay, ApiServer]]:
    """The API server at the end of a relay."""
    relay = Relay(int(server.url.rpartition(":")[2]))
    async with await asyncio.start_server(relay.take, "127.0.0.1", 0) as listener:
        url = f"https://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        yield relay, ApiServer(url, server.ca_file, server.admin, server.operator)
        relay.cut()


@contextlib.asynccontextmanager
async def operating(
    server: ApiServer, redis: Redis, settings: kopf.OperatorSettings | None = None
) -> AsyncIterator[Operator]:
    """The operator, until the block ends."""
    operator, registry = Operator(redis), kopf.OperatorRegistry()
    register(registry, operator)

    @kopf.on.login(registry=registry)  # type: ignore[arg-type]
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=server.url, ca_path=str(server.ca_file), token=server.operator)

    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(
        kopf.operator(
            registry=registry,
            standalone=True,
            namespaces=[NAMESPACE],
            settings=settings,
            stop_flag=stop,
            ready_flag=ready,
        )
    )
    try:
        await ready.wait()
        yield operator
    finally:
        stop.set()
        await asyncio.wait_for(running, 30)


@pytest.fixture
async def kubernetes(
    api_server: ApiServer, no_blocking_calls: BlockBuster
) -> AsyncIterator[httpx.AsyncClient]:
    """An administrator, who leaves no objects behind."""
    no_blocking_calls.deactivate()  # kopf reads the CA's file while it connects, before it serves anything
    async with api_server.client() as admin:
        yield admin
        for plural in ("cachepolicies", "cacheinvalidations"):
            for each in (await admin.get(f"{BASE}/{plural}")).json()["items"]:
                await admin.delete(f"{BASE}/{plural}/{each['metadata']['name']}")


async def create(admin: httpx.AsyncClient, plural: str, name: str, spec: Json) -> httpx.Response:
    kind = {"cachepolicies": "CachePolicy", "cacheinvalidations": "CacheInvalidation"}[plural]
    body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": kind, "metadata": {"name": name}, "spec": spec}
    return await admin.post(f"{BASE}/{plural}", json=body)


async def until(admin: httpx.AsyncClient, plural: str, name: str, holds: Callable[[Json], bool]) -> Json:
    """The object, once it is as expected."""
    body: Json = {}
    try:
        async with asyncio.timeout(60):
            while True:
                body = (await admin.get(f"{BASE}/{plural}/{name}")).json()
                if holds(body):
                    return body
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"never came: {body.get('status')}")


def condition(body: Json, kind: str) -> Json:
    found = [each for each in body.get("status", {}).get("conditions", []) if each["type"] == kind]
    return found[0] if found else {}


async def announce(redis: Redis, *names: str) -> None:
    classes = {name: AnnouncedClass(ttl=300, max_ttl=86400) for name in names}
    await redis.set(CLASSES_KEY, msgspec.json.encode(Announcement(time.time(), classes)))


async def sample(redis: Redis, name: str, *, hours: float = 2.0, changed: float = 0.0) -> None:
    """What a busy hour looks like: answers asked for every 30 s, refetched every 300 s."""
    now = time.time()
    began = now - hours * 3600
    for minute in range(int(hours * 60)):
        at = began + minute * 60
        accesses = [
            Access(key, name, at + second, bool(minute % 5 or second), 1000, 0.001, 1.0)
            for key in range(20)
            for second in (0, 30)
        ]
        verdicts = [
            Verdict(key, name, at - 300 - key, at, (minute * 20 + key) % 1000 < 1000 * changed, 9, "refetch")
            for key in range(20)
        ]
        batch = SampleBatch("a", at, accesses, verdicts, looked_up={name: len(accesses)})
        await redis.xadd(SAMPLES, {b"b": msgspec.msgpack.encode(batch)})


async def published(redis: Redis) -> PolicyDocument:
    return msgspec.json.decode(await redis.get(POLICY_KEY) or b"{}", type=PolicyDocument)


async def until_published(redis: Redis, names: set[str]) -> None:
    """That these classes, and no others, have the operator's TTL."""
    async with asyncio.timeout(60):
        while (await published(redis)).classes.keys() != names:  # noqa: ASYNC110  # in another process
            await asyncio.sleep(0.1)


def timers() -> list[asyncio.Task[Any]]:
    """One for each policy."""
    return [task for task in asyncio.all_tasks() if task.get_name() == "runner of reconcile"]


async def events(admin: httpx.AsyncClient, name: str) -> list[str]:
    found = (await admin.get(f"/api/v1/namespaces/{NAMESPACE}/events")).json()["items"]
    return [each["message"] for each in found if each["involvedObject"]["name"] == name]


async def test_a_policy_sets_the_ttl_and_says_why(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    await announce(client, "banter")
    await sample(client, "banter")
    assert (await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter"})).status_code == 201
    async with operating(api_server, client) as operator:
        await until_published(client, {"banter"})
        assert len(timers()) == 1
        body = await until(
            kubernetes,
            "cachepolicies",
            "banter",
            lambda body: condition(body, "Ready").get("status") == "True",
        )
        assert "finalizers" not in body["metadata"]
        assert body["status"]["ttl"] == "2m"  # one step up from a minute
        assert body["status"]["boundBy"] in {"Data", "Cost"}
        assert float(body["status"]["stale"].rstrip("%")) < 0.5  # the budget
        assert condition(body, "DataSufficient")["status"] == "True"
        assert condition(body, "Published")["status"] == "True"
        assert (await published(client)).classes["banter"].ttl == 120
        table = await kubernetes.get(
            f"{BASE}/cachepolicies", headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        )
        columns = [each["name"] for each in table.json()["columnDefinitions"] if not each["priority"]]
        assert columns == ["Name", "Class", "Mode", "TTL", "Hit", "Stale", "Bound by", "Ready", "Age"]
        await kubernetes.delete(f"{BASE}/cachepolicies/banter")
        await until(kubernetes, "cachepolicies", "banter", lambda body: body.get("code") == 404)
        await until_published(client, set())
        assert operator.policies._due == {}
        async with asyncio.timeout(60):
            while timers():  # noqa: ASYNC110  # kopf's
                await asyncio.sleep(0.1)


async def test_nobody_need_be_there_for_a_policy_to_go(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    await announce(client, "banter", "facts")
    for name in ("banter", "facts"):
        await create(kubernetes, "cachepolicies", name, {"cacheClass": name})
    async with operating(api_server, client):
        await until_published(client, {"banter", "facts"})
    await kubernetes.delete(f"{BASE}/cachepolicies/banter")
    assert (await kubernetes.get(f"{BASE}/cachepolicies/banter")).status_code == 404
    assert (await published(client)).classes.keys() == {"banter", "facts"}
    async with operating(api_server, client):
        await until_published(client, {"facts"})


async def test_a_round_under_way_ends_before_its_operator(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is reported by the session that all use; one of its own would be left open."""
    await announce(client, "banter")
    under_way = asyncio.Event()
    async with operating(api_server, client) as operator:
        [ending] = [task for task in asyncio.all_tasks() if task.get_name() == "startup/cleanup activities"]
        reconcile = operator.policies.reconcile

        async def slow(**of: Any) -> Any:
            under_way.set()
            await asyncio.wait([ending], timeout=1)  # in vain, if it is waited for
            return await reconcile(**of)

        monkeypatch.setattr(operator.policies, "reconcile", slow)
        await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter"})
        await under_way.wait()
    assert "ttl" in (await kubernetes.get(f"{BASE}/cachepolicies/banter")).json()["status"]
    gc.collect()  # a session that was left open says so


async def test_a_policy_is_attended_after_the_api_server_was_away(
    api_server: ApiServer,
    kubernetes: httpx.AsyncClient,
    client: Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For longer than a report is tried again."""
    settings = kopf.OperatorSettings()
    settings.networking.error_backoffs = ()
    await announce(client, "banter")
    await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter"})
    async with relayed(api_server) as (relay, server), operating(server, client, settings) as operator:
        await until(kubernetes, "cachepolicies", "banter", lambda body: "ttl" in body.get("status", {}))
        relay.cut()
        operator.policies._due.clear()
        async with asyncio.timeout(60):
            while not any("PATCH" in each.getMessage() for each in caplog.records):  # noqa: ASYNC110  # kopf's
                await asyncio.sleep(0.1)
        relay.mend()
        await kubernetes.patch(
            f"{BASE}/cachepolicies/banter",
            json={"spec": {"mode": "Observe"}},
            headers={"content-type": "application/merge-patch+json"},
        )
        await until(
            kubernetes,
            "cachepolicies",
            "banter",
            lambda body: condition(body, "Published").get("reason") == "Observe",
        )


async def test_a_policy_that_went_unseen_is_not_kept_in_force(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    """The API server has forgotten what happened while the operator was cut off, and one was made anew."""
    settings = kopf.OperatorSettings()
    settings.networking.error_backoffs = (0.2, 1, 1, 1)
    await announce(client, "banter", "facts")
    for name in ("banter", "facts"):
        await create(kubernetes, "cachepolicies", name, {"cacheClass": name})
    async with relayed(api_server) as (relay, server), operating(server, client, settings) as operator:
        for name in ("banter", "facts"):
            await until(kubernetes, "cachepolicies", name, lambda body: "ttl" in body.get("status", {}))
        relay.cut()
        for name in ("banter", "facts"):
            await kubernetes.delete(f"{BASE}/cachepolicies/{name}")
        await asyncio.sleep(1.1)  # times of creation are whole seconds
        await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter"})
        definition = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/cachepolicies.{GROUP}"
        answer = await kubernetes.patch(  # it forgets what came before
            definition,
            json={"spec": {"names": {"shortNames": ["cpol", "cpols"]}}},
            headers={"content-type": "application/merge-patch+json"},
        )
        assert answer.status_code == 200
        relay.mend()
        operator.policies._due.clear()
        await until(kubernetes, "cachepolicies", "banter", lambda body: "ttl" in body.get("status", {}))
        await until_published(client, {"banter"})


async def test_finalizers_of_an_earlier_release_are_taken_away(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    """Also of a policy that was deleted while no operator was there, and waits for one to let it go."""
    await announce(client, "banter", "facts")
    for name in ("banter", "facts"):
        await create(kubernetes, "cachepolicies", name, {"cacheClass": name})
        await kubernetes.patch(
            f"{BASE}/cachepolicies/{name}",
            json={"metadata": {"finalizers": ["dub5.io/operator"]}},
            headers={"content-type": "application/merge-patch+json"},
        )
    before = PolicyDocument(
        issued=time.time(), classes={"banter": ClassPolicy(9.0), "facts": ClassPolicy(9.0)}
    )
    await client.set(POLICY_KEY, msgspec.json.encode(before))
    await kubernetes.delete(f"{BASE}/cachepolicies/banter")
    async with operating(api_server, client):
        await until(kubernetes, "cachepolicies", "banter", lambda body: body.get("code") == 404)
        await until(kubernetes, "cachepolicies", "facts", lambda body: "finalizers" not in body["metadata"])
        await until_published(client, {"facts"})
        assert (await published(client)).classes["facts"].ttl == 9  # what was in force stays


async def test_an_operator_that_begins_anew_takes_nothing_back(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    await announce(client, "banter")
    await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter", "ttl": {"initial": "7m"}})

    def ready(body: Json) -> bool:
        return bool(body.get("status", {}).get("ttl") == "7m")

    async with operating(api_server, client):
        await until(kubernetes, "cachepolicies", "banter", ready)
    await client.delete(POLICY_KEY)  # Redis was flushed meanwhile, and the policy's own wish is another one
    await kubernetes.patch(
        f"{BASE}/cachepolicies/banter",
        json={"spec": {"ttl": {"initial": "9m"}}},
        headers={"content-type": "application/merge-patch+json"},
    )
    async with operating(api_server, client):
        async with asyncio.timeout(60):
            while "banter" not in (await published(client)).classes:  # noqa: ASYNC110  # in another process
                await asyncio.sleep(0.1)
        assert (await published(client)).classes["banter"].ttl == 420


async def test_the_older_of_two_policies_wins_and_an_unknown_class_is_said(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    await announce(client, "banter")
    await create(kubernetes, "cachepolicies", "a-first", {"cacheClass": "banter"})
    await create(kubernetes, "cachepolicies", "strange", {"cacheClass": "nobody"})
    await asyncio.sleep(1.1)  # times of creation are whole seconds
    await create(kubernetes, "cachepolicies", "second", {"cacheClass": "banter", "ttl": {"initial": "1m"}})
    async with operating(api_server, client):
        body = await until(
            kubernetes,
            "cachepolicies",
            "second",
            lambda body: condition(body, "Ready").get("status") == "False",
        )
        assert condition(body, "Ready")["message"] == (
            "CachePolicy a-first, which is older, sets the TTL of class banter."
        )
        body = await until(
            kubernetes,
            "cachepolicies",
            "strange",
            lambda body: condition(body, "Ready").get("status") == "False",
        )
        assert condition(body, "Ready")["message"] == "The service has no cache class nobody; it has banter."
        await until(kubernetes, "cachepolicies", "a-first", lambda body: "ttl" in body.get("status", {}))
        await kubernetes.delete(f"{BASE}/cachepolicies/a-first")
        await until(kubernetes, "cachepolicies", "second", lambda body: "ttl" in body.get("status", {}))
        async with asyncio.timeout(60):
            while not any(  # noqa: ASYNC110  # in another process
                "has no cache class nobody" in each for each in await events(kubernetes, "strange")
            ):
                await asyncio.sleep(0.2)


async def test_the_program(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis, redis: str, tmp_path: Path
) -> None:
    """`dub5 operator` with a configuration and a kubeconfig, as people run it outside a cluster."""
    health, metrics = free_port(), free_port()
    host = _loopback()
    await announce(client, "banter")
    await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter"})
    await create(kubernetes, "cachepolicies", "strange", {"cacheClass": "nobody"})
    await create(kubernetes, "cachepolicies", "gone", {"cacheClass": "facts"})
    await asyncio.to_thread((tmp_path / "dub5.yaml").write_text, f"redis: {{url: '{redis}'}}\n")
    await asyncio.to_thread((tmp_path / "kubeconfig").write_text, _kubeconfig(api_server))
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dub5", "operator", "--namespace", NAMESPACE),
        *(
            "--config",
            str(tmp_path / "dub5.yaml"),
            "--host",
            host,
            "--health-port",
            str(health),
            "--metrics-port",
            str(metrics),
        ),
        env={**os.environ, "KUBECONFIG": str(tmp_path / "kubeconfig")},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        await until(kubernetes, "cachepolicies", "banter", lambda body: "ttl" in body.get("status", {}))
        await until(
            kubernetes,
            "cachepolicies",
            "strange",
            lambda body: condition(body, "Ready").get("status") == "False",
        )
        await until(kubernetes, "cachepolicies", "gone", lambda body: bool(condition(body, "Ready")))
        await kubernetes.delete(f"{BASE}/cachepolicies/gone")
        await create(kubernetes, "cacheinvalidations", "all", {"all": True})
        await until(kubernetes, "cacheinvalidations", "all", lambda body: bool(condition(body, "Done")))
        await until(kubernetes, "cachepolicies", "gone", lambda body: body.get("code") == 404)
        async with httpx.AsyncClient() as plain:
            assert (await plain.get(f"http://{bracketed(host)}:{health}/healthz")).status_code == 200
            reported = (await plain.get(f"http://{bracketed(host)}:{metrics}/metrics")).text
        assert 'dub5_operator_ttl_seconds{policy="banter"} 60.0' in reported
        [resident] = [
            line for line in reported.splitlines() if line.startswith("process_resident_memory_bytes")
        ]
        assert float(resident.split()[1]) < 100e6  # at rest
    finally:
        program.terminate()
        said, _ = await asyncio.wait_for(program.communicate(), 30)
    assert program.returncode == 0
    found = decoded(said.splitlines())
    assert (found[0]["event"], found[-1]["event"]) == ("started", "stopped")
    lines = {line["event"]: line for line in found}
    assert lines["policy not in force"]["reason"] == "UnknownClass"
    assert (lines["policy reconciled"]["policy"], lines["policy reconciled"]["ttl_seconds"]) == ("banter", 60)
    assert lines["purged"]["names"] == ["all"]
    assert lines["policy gone"]["policy"] == "gone"
    assert (await published(client)).classes["banter"].ttl == 60  # what was decided stays


def _loopback() -> str:
    """IPv6's, whose addresses are written otherwise in URLs, where the machine has it."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "::1"
    except OSError:
        return "127.0.0.1"


def _kubeconfig(server: ApiServer) -> str:
    cluster = {"server": server.url, "certificate-authority": str(server.ca_file)}
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": server.operator}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
    )


async def test_what_the_operator_decided_is_explained_with_its_own_rights(
    api_server: ApiServer,
    kubernetes: httpx.AsyncClient,
    client: Redis,
    redis: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "kubeconfig").write_text(_kubeconfig(api_server))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    await announce(client, "banter")
    await sample(client, "banter")
    await create(kubernetes, "cachepolicies", "banter", {"cacheClass": "banter"})
    words = ["policy", "explain", "banter", "--namespace", NAMESPACE, "--redis", redis]
    assert await asyncio.to_thread(main, words) == 1
    assert "not reconciled yet" in capsys.readouterr().err
    async with operating(api_server, client):
        body = await until(
            kubernetes, "cachepolicies", "banter", lambda body: bool(condition(body, "Published"))
        )
    capsys.readouterr()
    assert await asyncio.to_thread(main, [*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["status"]["reason"] == body["status"]["reason"]
    assert found["now"]["lookUps"] == body["status"]["lookUps"] == 2 * 60 * 40
    assert (await published(client)).classes.keys() == {"banter"}
    assert await asyncio.to_thread(main, ["policy", "explain", "nobody", *words[3:]]) == 1
    assert "no CachePolicy nobody" in capsys.readouterr().err
    assert await asyncio.to_thread(main, [*words[:3], "--namespace", "kube-system", *words[5:]]) == 1
    assert "403" in capsys.readouterr().err


async def test_an_invalidation_is_done_once(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    spec = {"tags": ["prices"], "tenant": "acme"}
    assert (await create(kubernetes, "cacheinvalidations", "new-prices", spec)).status_code == 201
    async with operating(api_server, client):
        body = await until(
            kubernetes, "cacheinvalidations", "new-prices", lambda body: bool(condition(body, "Done"))
        )
        assert body["status"]["purged"] == ["tag:prices@acme"]
        first: Any = await client.xrange(PURGE_JOURNAL)
        [(_, fields)] = first
        assert fields == {b"tag:prices@acme": b""}
    async with operating(api_server, client):
        await create(kubernetes, "cacheinvalidations", "all", {"all": True})
        await until(kubernetes, "cacheinvalidations", "all", lambda body: bool(condition(body, "Done")))
        events: Any = await client.xrange(PURGE_JOURNAL)
        assert [event for event in events if b"all" not in event[1]] == first


async def test_an_invalidation_that_cannot_be_done_says_so(
    api_server: ApiServer,
    kubernetes: httpx.AsyncClient,
    client: Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The API server takes a no-break space, as web pages have them, for a letter."""
    spec = {"class": "new\u00a0prices", "ttlSecondsAfterFinished": 0}
    assert (await create(kubernetes, "cacheinvalidations", "pasted", spec)).status_code == 201
    async with operating(api_server, client):
        body = await until(
            kubernetes, "cacheinvalidations", "pasted", lambda body: bool(condition(body, "Done"))
        )
    assert (condition(body, "Done")["status"], condition(body, "Done")["reason"]) == ("False", "InvalidSpec")
    assert not [each for each in caplog.records if each.exc_info]


async def test_an_invalidation_goes_a_while_after_it_was_done(
    api_server: ApiServer, kubernetes: httpx.AsyncClient, client: Redis
) -> None:
    for name, kept in (("soon", {"ttlSecondsAfterFinished": 0}), ("later", {})):
        made = (await create(kubernetes, "cacheinvalidations", name, {"tags": [name], **kept})).json()
    assert made["spec"]["ttlSecondsAfterFinished"] == 604_800
    async with operating(api_server, client):
        await until(kubernetes, "cacheinvalidations", "later", lambda body: bool(condition(body, "Done")))
        await until(kubernetes, "cacheinvalidations", "soon", lambda body: body.get("code") == 404)
        assert (await kubernetes.get(f"{BASE}/cacheinvalidations/later")).status_code == 200
    events: Any = await client.xrange(PURGE_JOURNAL)
    assert {name for _, fields in events for name in fields} == {b"tag:soon", b"tag:later"}


@pytest.mark.parametrize(
    ("plural", "spec", "said"),
    [
        ("cachepolicies", {}, "cacheClass"),
        ("cachepolicies", {"cacheClass": "a b"}, "cacheClass"),
        (
            "cachepolicies",
            {"cacheClass": "a", "ttl": {"min": "1h", "max": "1m"}},
            "ttl.min must not be above",
        ),
        ("cachepolicies", {"cacheClass": "a", "ttl": {"min": "1ms"}}, "at least 1s"),
        ("cachepolicies", {"cacheClass": "a", "ttl": {"min": "soon"}}, "ttl.min"),
        ("cachepolicies", {"cacheClass": "a", "mode": "Sometimes"}, "mode"),
        ("cachepolicies", {"cacheClass": "a", "staleness": {"budget": "0%"}}, "budget"),
        ("cachepolicies", {"cacheClass": "a", "step": {"every": "1s"}}, "step.every"),
        ("cachepolicies", {"cacheClass": "a", "step": {"maxFactor": 1}}, "maxFactor"),
        ("cachepolicies", {"cacheClass": "a", "memory": {"max": "lots"}}, "memory.max"),
        ("cachepolicies", {"cacheClass": "a", "staleness": {"perQuestion": 0.5}}, "perQuestion"),
        ("cachepolicies", {"cacheClass": "a", "canary": "1.01%"}, "canary"),
        ("cachepolicies", {"cacheClass": "a", "schedule": [{"action": "Purge"}]}, "cron"),
        ("cachepolicies", {"cacheClass": "a", "schedule": [{"cron": "0 3 * *", "action": "Purge"}]}, "cron"),
        ("cachepolicies", {"cacheClass": "a", "schedule": [DAILY | {"action": "Cut"}]}, "needs ttl and for"),
        ("cachepolicies", {"cacheClass": "a", "schedule": [DAILY | {"ttl": "1m"}]}, "needs ttl and for"),
        (
            "cachepolicies",
            {"cacheClass": "a", "schedule": [DAILY | {"action": "Cut", "ttl": "1m", "for": "169h"}]},
            "for must be between",
        ),
        (
            "cachepolicies",
            {"cacheClass": "a", "schedule": [DAILY | {"action": "Cut", "ttl": "1ms", "for": "1h"}]},
            "at least 1s",
        ),
        ("cacheinvalidations", {}, "exactly one"),
        ("cacheinvalidations", {"tags": ["a"], "model": "b"}, "exactly one"),
        ("cacheinvalidations", {"all": True, "tenant": "a"}, "exactly one"),
        ("cacheinvalidations", {"tags": []}, "tags"),
    ],
)
async def test_what_makes_no_sense_is_refused_without_the_operator(
    kubernetes: httpx.AsyncClient, plural: str, spec: Json, said: str
) -> None:
    answer = await create(kubernetes, plural, "wrong", spec)
    assert answer.status_code == 422
    assert said in answer.json()["message"]


async def test_defaults_are_written_and_the_class_is_for_good(kubernetes: httpx.AsyncClient) -> None:
    made = (await create(kubernetes, "cachepolicies", "plain", {"cacheClass": "a"})).json()
    assert made["spec"] == {
        "cacheClass": "a",
        "mode": "Auto",
        "staleness": {"budget": "1%", "confidence": "95%", "perQuestion": 3},
        "ttl": {"min": "5s", "max": "24h", "initial": "1m"},
        "onInfeasible": "Min",
        "memory": {},
        "prices": {"memoryGiBHour": 0.02},
        "step": {"every": "1m", "maxFactor": 2},
        "schedule": [],
        "canary": "0%",
    }
    schedule = [DAILY, DAILY | {"action": "Cut", "ttl": "1m", "for": "2h", "timeZone": "Europe/Berlin"}]
    planned = {"cacheClass": "a", "schedule": schedule, "canary": "1.0%", "staleness": {"budget": "0.50%"}}
    assert (await create(kubernetes, "cachepolicies", "planned", planned)).status_code == 201
    answer = await kubernetes.patch(
        f"{BASE}/cachepolicies/plain",
        json={"spec": {"cacheClass": "b"}},
        headers={"content-type": "application/merge-patch+json"},
    )
    assert answer.status_code == 422
    assert "cacheClass cannot be changed" in answer.json()["message"]
    for spec in ({"tenant": "acme"}, {"class": "banter", "tenant": "acme"}, {"personality": "pirate"}):
        name = next(iter(spec))
        assert (await create(kubernetes, "cacheinvalidations", name, spec)).status_code == 201
