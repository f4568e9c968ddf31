"""What the advisor's Job leaves in its ConfigMap, at a real API server and with the rights that the chart gives it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from dub5.cli import advice_configmap
from dub5.cli.advice_configmap import MOST
from dub5.cli.command import Failed
from dub5.cli.kubernetes import OF, Cluster, ConfigMap
from tests.operator.conftest import NAMESPACE, ApiServer
from tests.unit.chart.support import Json, render

PLURALS = {"ConfigMap": "configmaps", "ServiceAccount": "serviceaccounts"}
RIGHTS = {"Role": "roles", "RoleBinding": "rolebindings"}
CORE = f"/api/v1/namespaces/{NAMESPACE}"
RBAC = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}"
ON = {"advisor": {"enabled": True, "prometheus": "http://prometheus:9090"}}


class Account:
    """The Job's own, as the chart makes it, with a token that the API server has made."""

    def __init__(self, server: ApiServer, admin: httpx.AsyncClient, token: str) -> None:
        self.server, self.admin, self.token = server, admin, token

    def cluster(self) -> Cluster:
        return Cluster(
            self.server.url, self.token, ssl.create_default_context(cafile=str(self.server.ca_file))
        )

    async def leave(self, name: str, *texts: str | None) -> None:
        verdict, table, *more = texts
        place = ConfigMap(name, NAMESPACE, self.cluster)
        assert verdict is not None
        assert table is not None
        await asyncio.to_thread(advice_configmap.leave, place, "misses", verdict, table, *more)

    async def left(self) -> Json:
        answer = await self.admin.get(f"{CORE}/configmaps/dub5-advice")
        found: Json = answer.json()
        return found

    async def status(self, method: str, path: str, body: Any = None) -> int:
        headers = {"authorization": f"Bearer {self.token}"}
        answer = await self.admin.request(method, path, json=body, headers=headers)
        return answer.status_code


@pytest.fixture
async def account(api_server: ApiServer) -> AsyncIterator[Account]:
    made = [(path, found) for (kind, _), found in render(ON).objects.items() if (path := place(kind, found))]
    async with api_server.client() as admin:
        for path, found in made:
            (await admin.post(path, json=found)).raise_for_status()
        asked = await admin.post(f"{CORE}/serviceaccounts/dub5-advisor/token", json={"spec": {}})
        yield Account(api_server, admin, asked.raise_for_status().json()["status"]["token"])
        for path, found in made:
            await admin.delete(f"{path}/{found['metadata']['name']}")


def place(kind: str, found: Json) -> str | None:
    """Where an object of the advisor is made; None for others, and for what needs no API server to be tried."""
    if found["metadata"]["labels"].get("app.kubernetes.io/component") != "advisor":
        return None
    if kind in PLURALS:
        return f"{CORE}/{PLURALS[kind]}"
    return f"{RBAC}/{RIGHTS[kind]}" if kind in RIGHTS else None


async def test_advice_is_left_and_the_next_one_takes_its_place(account: Account) -> None:
    await account.leave("dub5-advice", "missed", "a table", "autoscaling: {}", "kind: CronJob")
    first = await account.left()
    assert {
        "verdict": "missed",
        "table": "a table",
        "snippet": "autoscaling: {}",
        "schedule": "kind: CronJob",
    }.items() <= first["data"].items()
    assert first["metadata"]["labels"]["dub5.io/advice"] == "misses"
    assert first["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
    await account.leave("dub5-advice", "met", "another", None, None)
    second = await account.left()
    assert second["data"].keys() == {"verdict", "table", "ended"}


async def test_a_job_of_other_values_changes_nothing(account: Account) -> None:
    of = (await account.left())["metadata"]["annotations"][OF]
    for claimed, verdict in ((of, "of these"), ("another", "of others")):
        place = ConfigMap("dub5-advice", NAMESPACE, account.cluster, of=claimed)
        with contextlib.suppress(Failed):
            await asyncio.to_thread(advice_configmap.leave, place, "meets", verdict, "a table", None, None)
    assert (await account.left())["data"]["verdict"] == "of these"


async def test_as_much_as_there_is_room_for(account: Account) -> None:
    line = "ünïcode in a lïne\n"
    whole = [line * (2 * most // len(line)) for most in MOST.values()]
    await account.leave("dub5-advice", *whole)
    data = (await account.left())["data"]
    for key, most in MOST.items():
        assert 0.9 * most < len(data[key].encode()) <= most
        assert "the Job's log has them" in data[key].splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "said"), [("dub5-advisor", 'cannot patch resource "configmaps"'), ("dub5-missing", "403")]
)
async def test_no_other_configmap_is_its_own(account: Account, name: str, said: str) -> None:
    with pytest.raises(Failed, match=said):
        await account.leave(name, "missed", "a table", None, None)


async def test_one_that_is_gone_and_a_token_that_is_not_known(account: Account) -> None:
    await account.admin.delete(f"{CORE}/configmaps/dub5-advice")
    with pytest.raises(Failed, match="there is no ConfigMap dub5-advice in chat"):
        await account.leave("dub5-advice", "missed", "a table", None, None)
    account.token = "another"
    with pytest.raises(Failed, match="401"):
        await account.leave("dub5-advice", "missed", "a table", None, None)


async def test_it_may_do_nothing_else(account: Account) -> None:
    own = f"{CORE}/configmaps/dub5-advice"
    refused: list[tuple[str, str]] = [
        ("GET", own),
        ("PUT", own),
        ("DELETE", own),
        ("GET", f"{CORE}/configmaps"),
        ("POST", f"{CORE}/configmaps"),
        ("GET", f"{CORE}/secrets"),
        ("GET", f"{CORE}/pods"),
        ("POST", f"{CORE}/events"),
        ("PATCH", f"/apis/autoscaling/v2/namespaces/{NAMESPACE}/horizontalpodautoscalers/dub5"),
        ("PATCH", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/dub5"),
        ("GET", "/api/v1/nodes"),
    ]
    assert {await account.status(method, path, {}) for method, path in refused} == {403}
    review = {"spec": {"namespace": NAMESPACE}}
    headers = {"authorization": f"Bearer {account.token}"}
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    answer = await account.admin.post(path, json=review, headers=headers)
    rules = answer.json()["status"]["resourceRules"]
    ours = [
        rule
        for rule in rules
        if "authorization.k8s.io" not in str(rule) and "authentication.k8s.io" not in str(rule)
    ]
    assert ours == [
        {"verbs": ["patch"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["dub5-advice"]}
    ]
