"""/metrics as it is scraped: what docs/metrics.md says, and no more series for whatever callers send."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterator
from types import ModuleType

import httpx
import prometheus_client
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics, http_metrics, process_metrics
from opentelemetry.semconv.attributes import error_attributes, http_attributes
from opentelemetry.semconv.metrics import http_metrics as http_stable_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from dub5_operator.handlers.policy import Metrics as OperatorMetrics
from testkit.openai_server import FakeOpenAI
from tests.documents.reading import read
from tests.documents.reference import METRICS, labels, metrics, opentelemetry
from tests.harness import Running, openai_provider, running

PARTS = [metrics(heading) for heading in ("The backend", "The operator", "The process, of both")]
KNOWN = {each.name: each for part in PARTS for each in part}
BACKEND, OPERATOR, PROCESS = ({each.name: each.type for each in part} for part in PARTS)
"""Types by name."""
KEY = "a-key-that-is-known"
JUNK = "junk"
UNUSUAL = ("PROPFIND", "MKCOL", "LOCK", "SEARCH")  # any others never get past the parser


def scraped(url: str) -> str:
    response = httpx.get(f"{url}/metrics", timeout=60)
    assert response.status_code == 200
    return response.text


async def exposition(server: Running) -> str:
    return await asyncio.to_thread(scraped, server.operations_url)


def scraped_as_openmetrics(url: str) -> str:
    accept = (
        "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"  # a Prometheus's
    )
    response = httpx.get(f"{url}/metrics", timeout=20, headers={"accept": accept})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    return response.text


def exposed(text: str) -> dict[str, str]:
    """Types by name, as the documents name them."""
    found = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name] = "info" if name.endswith("_info") else family.type
    return found


def samples_of(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


async def test_a_replica_exposes_what_is_documented(server: Running) -> None:
    for stream in (False, True):
        assert (await server.chat(f"hi {stream}", stream=stream)).status_code == 200
    text = await exposition(server)
    assert exposed(text) == BACKEND | PROCESS
    labels_of_a_distribution = {"le"}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            assert sample.labels.keys() - labels_of_a_distribution == set(KNOWN[name].labels), name


async def test_the_time_to_the_first_token_is_that_of_streams_only(server: Running) -> None:
    await server.chat("whole")
    assert await server.metric("dub5_time_to_first_token_seconds_count") == 0
    await server.chat("streamed", stream=True)
    await server.chat("streamed", stream=True)  # this one from the cache
    await server.becomes("dub5_time_to_first_token_seconds_count", 2, outcome="ok")


async def test_openmetrics_has_the_trace_of_a_request_as_an_exemplar(server: Running) -> None:
    traced, unsampled = "a" * 32, "b" * 32
    for trace, flags in ((traced, "01"), (unsampled, "00")):
        headers = {"traceparent": f"00-{trace}-{'c' * 16}-{flags}"}
        assert (await server.chat(trace, stream=True, headers=headers)).status_code == 200
    await server.becomes("dub5_time_to_first_token_seconds_count", 2)
    text = await asyncio.to_thread(scraped_as_openmetrics, server.operations_url)
    assert unsampled not in text
    found = {
        sample.name: sample.exemplar
        for family in parse_openmetrics(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar and sample.exemplar.labels == {"trace_id": traced}
    }
    assert found.keys() == {
        "dub5_http_request_duration_seconds_bucket",
        "dub5_http_time_to_first_byte_seconds_bucket",
        "dub5_time_to_first_token_seconds_bucket",
        "dub5_provider_duration_seconds_bucket",
        "dub5_provider_time_to_first_token_seconds_bucket",
    }
    assert all(0 < each.value < 20 for each in found.values())
    assert traced not in await exposition(server)


def test_the_operator_exposes_what_is_documented() -> None:
    registry = OperatorMetrics().registry
    server, thread = prometheus_client.start_http_server(0, addr="127.0.0.1", registry=registry)
    try:
        text = scraped(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert exposed(text) == OPERATOR | PROCESS


def test_the_document_names_every_metric_and_label_and_nothing_else() -> None:
    rows = [line for line in read(METRICS) if line.startswith("| `dub5_")]
    assert len(rows) == len(BACKEND) + len(OPERATOR)
    assert set(labels()) == {label for each in KNOWN.values() for label in each.labels}


def test_what_is_mapped_to_opentelemetry_is_there() -> None:
    assert {here for _, here in opentelemetry("there")} <= KNOWN.keys()
    assert {here for _, here in opentelemetry("attribute there")} <= labels().keys()


def test_what_opentelemetry_calls_it_is_what_it_calls_it() -> None:
    """By the constants of its own package, which still has what has moved out of the conventions."""
    known = names_in(gen_ai_metrics, http_metrics, http_stable_metrics, process_metrics)
    assert {there for there, _ in opentelemetry("there")} <= known
    known = names_in(gen_ai_attributes, http_attributes, error_attributes)
    assert {there for there, _ in opentelemetry("attribute there")} <= known


def names_in(*modules: ModuleType) -> set[str]:
    return {value for module in modules for value in vars(module).values() if isinstance(value, str)}


async def flood(server: Running, times: range) -> None:
    """Everything that a caller may write, each time another."""
    known, unknown = {"authorization": f"Bearer {KEY}"}, {"authorization": "Bearer nobody"}
    for number in times:
        junk = f"{JUNK}-{number}"
        headers = {
            **known,
            "x-dub5-cache-tags": junk,
            "x-request-id": junk,
            "user-agent": junk,
            "traceparent": junk,
        }
        await server.chat(junk, headers={**headers, junk: junk})
        await server.chat("hi", model=junk, headers=headers)
        await server.chat("hi", user=junk, metadata={junk: junk}, headers=headers, **{junk: junk})
        await server.chat("hi", headers={"authorization": f"Bearer {junk}"})
        await server.client.post("/v1/chat/completions", content=junk, headers=known)
        for method, path in [
            (junk.upper(), "/v1/chat/completions"),
            (UNUSUAL[number % 4], "/v1/chat/completions"),
            (UNUSUAL[number % 4], f"/{junk}"),
            ("GET", f"/{junk}"),
            ("GET", f"/v1/{junk}/{junk}"),
            ("GET", f"/v1/models/{junk}"),
            ("GET", f"/v1/models?{junk}={junk}"),
        ]:
            await server.client.request(method, path, headers=known)
            await server.client.request(method, path, headers=unknown)
        for purge in ({"tags": [junk]}, {"tenant": junk}, {"model": junk}, {"class": junk}, {junk: junk}):
            await server.client.post("/v1/cache/invalidations", json=purge, headers=known)


def of_callers(text: str) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """All series but those of our own commands to Redis, some of which come with time."""
    found = [each for each in samples_of(text) if "operation" not in each.labels]
    return {(each.name, frozenset(each.labels.items())) for each in found}


async def test_junk_makes_no_series(fake: FakeOpenAI, redis: str) -> None:
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    keys = json.dumps({digest: {"tenant": "acme", "roles": ["chat", "admin"]}})
    config = {
        **openai_provider(fake.base_url),
        "auth": {"keys": {"env": "KEYS"}},
        "redis": {"url": redis},
        "cache": {"classes": {"default": {"cacheable": "always"}}},
    }
    async with running(config, {"KEYS": keys}) as server:
        await flood(server, range(8))
        first = await exposition(server)
        await flood(server, range(100, 116))
        second = await exposition(server)
    series = of_callers(first)
    assert of_callers(second) == series
    assert JUNK not in second.lower()
    assert "acme" not in second
    requests = [each.labels for each in samples_of(second) if each.name == "dub5_http_requests_total"]
    assert {"other"} < {each["route"] for each in requests}
    assert {"other"} < {each["method"] for each in requests}
    operations = {each.labels["operation"] for each in samples_of(second) if "operation" in each.labels}
    assert 3 < len(operations) < 20
    assert len(series) < 1500
