"""Replicas work as one, and go on without Redis or without each other."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from testkit.cluster.kube import eventually
from testkit.cluster.release import Release
from testkit.cluster.stage import Load, Stage

ASK_TOGETHER = """
import asyncio, json, sys
import httpx

key, question, *addresses = sys.argv[1:]
body = {"model": "standin", "messages": [{"role": "user", "content": question}]}

async def ask(address):
    async with httpx.AsyncClient(timeout=60, headers={"Authorization": "Bearer " + key}) as client:
        answer = await client.post(f"http://{address}:8000/v1/chat/completions", json=body)
        content = answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.text
        return {"status": answer.status_code, "cache": answer.headers.get("cache-status"), "content": content}

async def main():
    print(json.dumps(await asyncio.gather(*map(ask, addresses))))

asyncio.run(main())
"""


MANY = 16  # clients: some on each replica, but for one case in 30 000


@pytest.fixture(scope="module")
def pair(release: Release) -> Release:
    """Two replicas and a Redis, which both have found: a replica is ready before that."""
    release.install({"autoscaling": {"mode": "none"}, "replicas": 2})
    eventually(lambda: all(map(release.has_redis, release.names())), "both replicas have found Redis")
    return release


@pytest.fixture
def load(pair: Release, stage: Stage) -> Iterator[Load]:
    stage.pace(first_token=0.2, between=0.1, tokens=10)
    with stage.load(pair.url, pair.key()) as load:
        load.set(6)
        load.wait_for(6)
        yield load


def ask_together(release: Release, stage: Stage, question: str, times: int) -> list[dict[str, Any]]:
    """The same question to each replica, `times` times, all at once."""
    addresses = [pod["status"]["podIP"] for pod in release.pods()] * times
    answers: list[dict[str, Any]] = json.loads(
        stage.exec("python", "-c", ASK_TOGETHER, release.key(), question, *addresses)
    )
    return answers


def test_two_replicas_make_one_provider_call_for_one_question(pair: Release, stage: Stage) -> None:
    stage.pace(first_token=1.0, between=0.05, tokens=10)

    def calls() -> int:
        question = f"asked by many {uuid.uuid4()}"
        answers = ask_together(pair, stage, question, times=5)
        assert [answer["status"] for answer in answers] == [200] * 10
        assert len({answer["content"] for answer in answers}) == 1
        return stage.calls()[question]

    # On a busy machine a replica may give Redis up, after the tenth of a second that it waits, and ask by itself.
    eventually(lambda: calls() == 1, "one call for all who ask")


def test_without_redis_nobody_notices_but_the_provider(pair: Release, stage: Stage, load: Load) -> None:
    (redis,) = pair.names("redis")
    uid = pair.pods("redis")[0]["metadata"]["uid"]
    pair.kubectl("delete", "pod", redis, "--grace-period=0", "--force")
    load.wait_for(30)
    eventually(lambda: is_another_and_ready(pair.pods("redis"), uid), "Redis is back")
    load.wait_for(12)
    load.finish()
    load.assert_whole(at_least=48)
    stage.pace(first_token=1.0, between=0.05, tokens=10)
    eventually(lambda: calls_for_one_question(pair, stage) == 1, "the replicas answer as one again")


def is_another_and_ready(pods: list[dict[str, Any]], uid: str) -> bool:
    return [pod["metadata"]["uid"] != uid and is_ready(pod) for pod in pods] == [True]


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True"


def calls_for_one_question(release: Release, stage: Stage) -> int:
    question = f"asked by two {uuid.uuid4()}"
    ask_together(release, stage, question, times=1)
    return stage.calls()[question]


def test_a_killed_pod_takes_down_nothing_but_its_own_streams(pair: Release, stage: Stage, load: Load) -> None:
    # Much longer than the two seconds that a kubelet gives to a pod that is given none: some end in them.
    stage.pace(first_token=0.2, between=1.0, tokens=10)
    load.set(MANY)
    eventually(lambda: load.live == MANY, "all clients are in a stream")
    victim, survivor = pair.names()
    pair.kubectl("delete", "pod", victim, "--grace-period=0", "--force")
    eventually(lambda: load.outcomes["cut"] > 0, "its streams are cut")
    eventually(lambda: pair.ready() == 2 and victim not in pair.names(), "another takes its place")
    load.wait_for(2 * MANY)
    load.finish()
    assert survivor in pair.names()
    assert set(load.hurt.values()) == {1}, load.failures  # one stream for each client that it had
    assert len(load.hurt) < MANY
