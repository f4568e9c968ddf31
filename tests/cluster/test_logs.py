"""examples/logs/rsyslog, for real: agents read what the pods of their nodes say, and one store has it all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import yaml

from testkit.cluster.ground import Images, load_images
from testkit.cluster.kube import Kube, eventually
from testkit.cluster.release import Release
from testkit.cluster.stage import Stage
from testkit.places import ROOT
from tests.log_lines import fault

EXAMPLE = ROOT / "examples/logs/rsyslog"
NAMESPACE = "dub5-logging"
ASK = """
import sys
import httpx

address, key, name, question = sys.argv[1:]
headers = {"Authorization": "Bearer " + key, "X-Request-Id": name}
body = {"model": "standin", "messages": [{"role": "user", "content": question}]}
answer = httpx.post(f"http://{address}:8000/v1/chat/completions", json=body, headers=headers, timeout=60)
print(answer.status_code, answer.headers.get("cache-status"))
"""

Line = dict[str, Any]


class Store:
    """Where all lines are."""

    def __init__(self, kube: Kube) -> None:
        self.kube = kube

    def find(self, words: str) -> list[Line]:
        """The lines with these words, each once; none is no failure, as it is for grep."""
        search = 'grep --fixed-strings -- "$0" /logs/dub5.jsonl || test $? = 1'
        command = ["exec", "--namespace", NAMESPACE, "deployment/dub5-logs", "--", "sh", "-c", search, words]
        return [json.loads(line) for line in dict.fromkeys(self.kube.kubectl(*command).splitlines())]


@pytest.fixture(scope="module")
def store(kube: Kube, images: Images) -> Iterator[Store]:
    load_images("rsyslog")
    text = kube.kubectl("kustomize", str(EXAMPLE))
    made = [
        each for each in yaml.safe_load_all(text.replace("localhost/rsyslog:test", images.rsyslog)) if each
    ]
    kube.apply(yaml.safe_dump_all(made))
    for name in ("deployment/dub5-logs", "daemonset/dub5-log-agent"):
        kube.kubectl("rollout", "status", f"--namespace={NAMESPACE}", name, "--timeout=120s")
    yield Store(kube)
    kube.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_a_request_is_found_by_its_id_across_two_pods(release: Release, stage: Stage, store: Store) -> None:
    release.install({"autoscaling": {"mode": "none"}, "replicas": 2})
    first, second = release.pods()
    # They are ready before that, and would each ask the provider.
    eventually(lambda: all(map(release.has_redis, release.names())), "both reach Redis")
    stage.pace(first_token=20.0, between=0.0, tokens=4)
    leader, follower = f"leader-{uuid.uuid4()}", f"follower-{uuid.uuid4()}"
    question = f"what nobody else asks {uuid.uuid4()}"

    def ask(pod: dict[str, Any], name: str) -> str:
        return stage.exec("python", "-c", ASK, pod["status"]["podIP"], release.key(), name, question).strip()

    with ThreadPoolExecutor() as pool:
        leads = pool.submit(ask, first, leader)
        eventually(lambda: stage.calls()[question], "the provider is asked")
        assert ask(second, follower) == "200 dub5; fwd=uri-miss; collapsed"
        assert leads.result() == "200 dub5; fwd=uri-miss; stored"

    [edge] = eventually(lambda: store.find(follower), "the follower's line is in the store")
    assert place(edge) == (release.namespace, second["metadata"]["name"], "backend", node(second))
    assert (edge["event"], edge["request_id"], edge["leader_request_id"]) == ("request", follower, leader)

    lines = eventually(
        lambda: found if len(found := store.find(f'"request_id": "{leader}"')) == 2 else [],
        "the leader's lines are in the store",
    )
    call, request = sorted(lines, key=lambda line: str(line["event"]))
    assert (call["event"], call["outcome"], call["provider"]) == ("provider call", "ok", "standin")
    assert {place(line) for line in lines} == {
        (release.namespace, first["metadata"]["name"], "backend", node(first))
    }
    assert call["trace_id"] == request["trace_id"] == edge["leader_trace_id"]
    assert store.find(question) == []


def test_lines_arrive_as_they_were_written(release: Release, store: Store) -> None:
    whole = store.find('"timestamp"')
    assert {"started", "request", "provider call"} <= {line["event"] for line in whole}
    written = [{name: value for name, value in line.items() if name != "kubernetes"} for line in whole]
    assert [each for each in map(fault, written) if each] == []
    pods = {line["kubernetes"]["pod"] for line in whole if line["event"] == "started"}
    assert set(release.names()) <= pods
    reported = {line["kubernetes"]["container"] for line in store.find('"message"')}
    assert "redis" in reported  # what is no JSON is kept too


def place(line: Line) -> tuple[str, str, str, str]:
    found = line["kubernetes"]
    return found["namespace"], found["pod"], found["container"], found["node"]


def node(pod: dict[str, Any]) -> str:
    name: str = pod["spec"]["nodeName"]
    return name
