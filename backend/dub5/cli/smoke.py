"""`dub5 smoke health | chat | autoscaling`: checks an installation; `helm test` runs it in the product's own image.

Each check is made again every second until it succeeds or `--timeout` has passed: pods start, Prometheus has yet to
scrape, an autoscaler has yet to reconcile. A check that fails says what is missing and where to mend it.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import uvloop

from dub5.cli import command
from dub5.cli.command import Failed
from dub5.cli.kubernetes import Cluster, bracketed, in_cluster
from dub5.cli.standard_streams import write
from dub5.settings.model import Duration

_INTERVAL = 1.0
_TIMEOUT = 10.0
_CHAT_TIMEOUT = 120.0
_DEMAND = "dub5_demand_requests"
_TOLERANCE = 1.1
"""The HPA does nothing while demand is within 10 % of the target."""

_GROUPS = {
    "Pods": ("custom.metrics.k8s.io", "prometheus-adapter, with the chart's files/prometheus-adapter.yaml"),
    "External": ("external.metrics.k8s.io", "KEDA"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    checks = parser.add_subparsers(required=True, metavar="CHECK")
    health = command.add(
        checks, "health", "Every replica is alive and ready.", "dub5 smoke health --timeout 30s"
    )
    health.set_defaults(run=_run_health)
    chat = command.add(
        checks, "chat", "One streamed answer reaches its end.", "dub5 smoke chat --model tutor"
    )
    command.add_url(chat)
    chat.add_argument(
        "--model", metavar="NAME", help="model or personality; the first that is listed by default"
    )
    chat.set_defaults(run=_run_chat)
    scaling = command.add(
        checks,
        "autoscaling",
        "The autoscaling metric is served for every replica, used, and can pass its target.",
        "dub5 smoke autoscaling --hpa dub5 --namespace chat --selector app.kubernetes.io/instance=dub5",
    )
    scaling.add_argument("--hpa", required=True, metavar="NAME", help="the HorizontalPodAutoscaler")
    scaling.add_argument("--namespace", required=True, metavar="NAME")
    scaling.add_argument("--selector", default="", help="labels of the replicas' pods")
    scaling.add_argument(
        "--api",
        type=command.read_by(command.address),
        metavar="URL",
        help="Kubernetes API; by default that of the cluster it runs in",
    )
    scaling.set_defaults(run=_run_autoscaling)
    operations = (
        "operations listener; its host has one address for each replica (default http://127.0.0.1:9000)"
    )
    for each in (health, scaling):
        each.add_argument(
            "--operations",
            type=command.read_by(command.address),
            default="http://127.0.0.1:9000",
            metavar="URL",
            help=operations,
        )
    for each in (health, chat, scaling):
        each.add_argument(
            "--timeout",
            type=command.read_by(Duration.parse),
            default=Duration(0),
            help="how long to try again, such as 30s (default 0)",
        )


def _run_health(args: argparse.Namespace) -> int:
    return _run(args, lambda: health(args.operations))


def _run_chat(args: argparse.Namespace) -> int:
    key = command.own_key(os.environ)
    return _run(args, lambda: chat(args.url, key, args.model))


def _run_autoscaling(args: argparse.Namespace) -> int:
    check = functools.partial(
        autoscaling,
        Cluster(args.api) if args.api else in_cluster(os.environ),
        namespace=args.namespace,
        hpa=args.hpa,
        selector=args.selector,
        operations=args.operations,
    )
    return _run(args, check)


def _run(args: argparse.Namespace, check: Callable[[], Awaitable[str]]) -> int:
    write(uvloop.run(retried(check, timeout=args.timeout)))
    return 0


async def retried(check: Callable[[], Awaitable[str]], *, timeout: float) -> str:
    """What `check` says once it succeeds; its last Failed after `timeout` seconds of trying."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        try:
            return await check()
        except Failed:
            if loop.time() >= end:
                raise
        await asyncio.sleep(_INTERVAL)


async def health(operations: str) -> str:
    """Every replica is alive, ready and measured. `operations` is a URL whose host has one address for each of them."""
    replicas = await _addresses(operations)
    async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
        for replica in replicas:
            for path in ("/livez", "/readyz"):
                await _get(client, f"{replica}{path}")
            await _gauge(client, replica, _DEMAND)
    return f"replicas that are alive and ready: {len(replicas)}"


async def chat(url: str, key: str, model: str | None) -> str:
    """One streamed answer, whole. Without a model the first one that is listed and chats."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    context = ssl.create_default_context() if url.startswith("https:") else False
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=_CHAT_TIMEOUT, verify=context
    ) as client:
        if model is None:
            model = _first_of(await _get(client, "/v1/models"))
        body = {
            "model": model,
            "stream": True,
            "max_tokens": 16,
            "messages": [{"role": "user", "content": "Say hello."}],
        }
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise Failed(f"{model}: {response.status_code}: {_reason(await response.aread())}")
                events = [line[6:] async for line in response.aiter_lines() if line.startswith("data: ")]
        except httpx.TransportError as error:
            raise Failed(f"{model}: the answer broke off: {str(error) or type(error).__name__}") from None
    pieces = _pieces_of(model, events)
    return f"{model} answered in {pieces} pieces, to the end"


def _first_of(listed: httpx.Response) -> str:
    """What kind a model is other services do not say."""
    try:
        chats = [each["id"] for each in listed.json()["data"] if each.get("kind") != "embedding"]
    except (ValueError, LookupError, TypeError, AttributeError):
        raise Failed(f"{listed.url} lists no models") from None
    if not chats:
        raise Failed(f"{listed.url} lists no model that this key may chat with: name one with --model")
    return str(chats[0])


async def autoscaling(cluster: Cluster, *, namespace: str, hpa: str, selector: str, operations: str) -> str:
    """The demand of every replica is served, the autoscaler can use it, and one full replica would pass the target."""
    headers = {"authorization": f"Bearer {cluster.token}"} if cluster.token else {}
    async with httpx.AsyncClient(
        base_url=cluster.url, headers=headers, verify=cluster.verify, timeout=_TIMEOUT
    ) as api:
        found = await api_get(
            api, f"/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers/{hpa}"
        )
        if found is None:
            raise Failed(f"there is no HorizontalPodAutoscaler {hpa} in {namespace}")
        metric = _demand_metric(hpa, found)
        served = await _served(api, namespace, metric, selector)
    replicas = await _addresses(operations)
    if metric["type"] == "Pods" and served < len(replicas):
        raise Failed(
            f"{_DEMAND} is known of {served} replicas, and {len(replicas)} are ready: does Prometheus scrape port "
            "9000 of every pod, with the labels namespace and pod?"
        )
    _active(hpa, found)
    target = quantity(metric[metric["type"].lower()]["target"]["averageValue"])
    await _reachable(replicas, target)
    return f"{hpa} reads {_DEMAND} of {len(replicas)} replicas and aims for {target:g} each"


async def api_get(api: httpx.AsyncClient, path: str) -> dict[str, Any] | None:
    """An object of the Kubernetes API, None where there is none; Failed for every other answer."""
    try:
        response = await api.get(path)
    except httpx.TransportError as error:
        raise Failed(f"cannot reach the Kubernetes API: {str(error) or type(error).__name__}") from None
    if response.status_code == 404:
        return None
    if response.is_error:
        raise Failed(f"the Kubernetes API answered {response.status_code} to {path}")
    answer: dict[str, Any] = response.json()
    return answer


def quantity(written: str) -> float:
    """A Kubernetes quantity such as `140`, `140500m` or `2k`."""
    found = re.fullmatch(r"([0-9.]+)(m|k|M)?", written)
    if found is None:
        raise Failed(f"`{written}` is not a quantity that this understands")
    return float(found[1]) * {"m": 0.001, "k": 1e3, "M": 1e6, None: 1.0}[found[2]]


async def _served(api: httpx.AsyncClient, namespace: str, metric: dict[str, Any], selector: str) -> int:
    """How many figures the metrics API has for the autoscaler's first metric."""
    group, source = _GROUPS[metric["type"]]
    known = await api_get(api, f"/apis/{group}")
    if known is None:
        raise Failed(f"nothing serves {group}: install {source}")
    name, place = _DEMAND, f"pods/*/{_DEMAND}"
    if metric["type"] == "External":
        name = place = metric["external"]["metric"]["name"]
        labels = metric["external"]["metric"].get("selector", {}).get("matchLabels", {})
        selector = ",".join(f"{label}={value}" for label, value in labels.items())
    version = known["preferredVersion"]["version"]
    query = httpx.QueryParams(labelSelector=selector)
    figures = await api_get(api, f"/apis/{group}/{version}/namespaces/{namespace}/{place}?{query}")
    if figures is None or not figures["items"]:
        raise Failed(
            f"{group} is served, but knows no {name}: is the rule of files/prometheus-adapter.yaml there, and "
            "does Prometheus scrape port 9000 of the pods?"
        )
    return len(figures["items"])


def _demand_metric(hpa: str, found: dict[str, Any]) -> dict[str, Any]:
    for metric in found["spec"].get("metrics", []):
        if metric["type"] in _GROUPS:
            chosen: dict[str, Any] = metric
            return chosen
    raise Failed(f"{hpa} does not read {_DEMAND}")


def _active(hpa: str, found: dict[str, Any]) -> None:
    conditions = {each["type"]: each for each in found.get("status", {}).get("conditions", [])}
    active = conditions.get("ScalingActive", {"status": "Unknown", "message": "it has not looked yet"})
    if active["status"] != "True":
        raise Failed(f"{hpa} does not scale: {active['message']}")


async def _reachable(replicas: list[str], target: float) -> None:
    async with httpx.AsyncClient(timeout=_TIMEOUT) as client:
        for replica in replicas:
            capacity = await _gauge(client, replica, "dub5_capacity_requests")
            if capacity <= target * _TOLERANCE:
                raise Failed(
                    f"a full replica has a demand of {capacity:g}, which the autoscaler takes for its target of "
                    f"{target:g}: lower autoscaling.targetPercentage or raise config.admission.max_inflight"
                )


async def _addresses(url: str) -> list[str]:
    """The same URL once for each address of its host."""
    parts = urlsplit(url)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port, type=1)
    except OSError:
        raise Failed(f"{parts.hostname} has no address: no replica is ready") from None
    addresses = sorted({address[0] for *_, address in found})
    port = "" if parts.port is None else f":{parts.port}"
    return [f"{parts.scheme}://{bracketed(str(address))}{port}" for address in addresses]


async def _gauge(client: httpx.AsyncClient, replica: str, name: str) -> float:
    metrics = await _get(client, f"{replica}/metrics")
    found = re.search(rf"^{name} (\S+)$", metrics.text, re.MULTILINE)
    if found is None:
        raise Failed(f"{replica}/metrics has no {name}")
    return float(found[1])


async def _get(client: httpx.AsyncClient, url: str) -> httpx.Response:
    try:
        response = await client.get(url)
    except httpx.TransportError as error:
        raise Failed(
            f"cannot reach {client.base_url.join(url)}: {str(error) or type(error).__name__}"
        ) from None
    if response.status_code != 200:
        raise Failed(f"{response.url} answered {response.status_code}: {_reason(response.content)}")
    return response


def _pieces_of(model: str, events: list[str]) -> int:
    """How many pieces of text there were; Failed where the stream is not what an OpenAI client expects."""
    if not events or events[-1] != "[DONE]":
        error = msgspec.json.decode(events[-1]).get("error", {}) if events else {}
        raise Failed(f"{model}: the answer did not reach its end: {error.get('message', 'no reason given')}")
    choices = [choice for event in events[:-1] for choice in msgspec.json.decode(event).get("choices", [])]
    pieces = sum(bool(choice.get("delta", {}).get("content")) for choice in choices)
    if not pieces or not any(choice.get("finish_reason") for choice in choices):
        raise Failed(f"{model}: the answer was empty")
    return pieces


def _reason(body: bytes) -> str:
    """The message of an error of ours, else the beginning of whatever it is."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.MsgspecError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip()
