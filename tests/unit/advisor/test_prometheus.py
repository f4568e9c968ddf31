"""Asking Prometheus: what it is asked in, and answers that are none are refused with the reason."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from dub5.advisor.record import BadRecord, Header, Record
from dub5.advisor.running import measure
from dub5.loadtest.prometheus import TIMEOUT
from dub5.telemetry.metrics import Metrics
from testkit.programs import which
from tests.harness import later

PROMTOOL = which("promtool")
NOW = 1_795_000_000.0
LENGTH = 600
Answer = (
    Callable[[httpx.Request], httpx.Response]
    | Callable[[httpx.Request], Coroutine[None, None, httpx.Response]]
)


def calm(request: httpx.Request) -> httpx.Response:
    """One replica that is scraped, and does nothing but a call now and then."""
    query, parameters = request.url.params["query"], request.url.params
    pod = {"pod": "dub5-6f9c-aaaaa", "namespace": "chat"}
    result: list[dict[str, Any]] = []
    if query == "vector(time())":
        result = [{"metric": {}, "value": [NOW, str(NOW)]}]
    elif found := re.fullmatch(r"dub5_\w+\{.*\}\[(\d+)ms\]", query):
        ended = float(parameters["time"])
        moments = range(int(ended - int(found[1]) / 1000) // 15 * 15, int(ended) + 1, 15)
        result = [{"metric": pod, "values": [[moment, "7"] for moment in moments]}]
    elif "query_range" in request.url.path:
        moments = range(int(float(parameters["start"])), int(float(parameters["end"])) + 1, 300)
        labels = {"le": "+Inf"} if "le" in query else {}
        result = [{"metric": labels, "values": [[moment, "40"] for moment in moments]}]
    elif "dub5_capacity" in query:
        result = [{"metric": pod, "value": [NOW, "20" if query.startswith("min") else "25"]}]
    return httpx.Response(
        200, json={"status": "success", "data": {"result": result}, "warnings": ["a part is away"]}
    )


async def measured(answer: Answer, url: str = "http://prometheus", **options: Any) -> Record:
    def header(began: float, seconds: float) -> Header:
        return Header(source="a test", began=began, seconds=seconds)

    transport = httpx.MockTransport(answer)
    return await measure(url, 'namespace="chat"', LENGTH, None, header, transport=transport, **options)


async def test_it_is_the_time_up_to_a_minute_ago_by_its_own_clock_and_warnings_are_kept() -> None:
    record = await measured(calm)
    assert (record.header.began, record.header.seconds) == (NOW - 60 - LENGTH, LENGTH)
    changed, warned = record.header.notes
    assert "max_inflight was changed meanwhile, between 20 and 25" in changed
    assert warned == "Prometheus warned: a part is away"


@pytest.mark.parametrize("moment", [1e18, -1e18, -1e15])
async def test_samples_of_no_time(moment: float) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.params["query"].startswith("dub5_demand_requests"):
            series = {"metric": {"pod": "a"}, "values": [[NOW - 300, "7"], [moment, "7"]]}
            return httpx.Response(200, json={"data": {"result": [series]}})
        return calm(request)

    with pytest.raises(BadRecord, match=r"a figure of a is 7 at -?1e\+1"):
        await measured(answer)


async def test_warnings_may_be_null() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={**calm(request).json(), "warnings": None})

    assert not any("warned" in note for note in (await measured(answer)).header.notes)


@pytest.mark.parametrize("replicas", ["1e12", "-3"])
async def test_what_would_be_no_record_is_none_before_it_is_written(replicas: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if "kube_deployment" in request.url.params["query"]:
            return httpx.Response(200, json={"data": {"result": [{"values": [[NOW, replicas]]}]}})
        return calm(request)

    with pytest.raises(BadRecord, match=r"line 1: cluster\.replicas"):
        await measured(answer)


class Drip(httpx.AsyncByteStream):
    """Of an answer that never ends."""

    def __init__(self) -> None:
        self.began = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b" "
        self.began.set()
        await asyncio.Event().wait()


class Flood(httpx.AsyncByteStream):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            yield b" " * 2**20


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx.Response(503, text="starting"), "HTTP 503"),
        (httpx.Response(302, headers={"Location": "https://login.example"}), "HTTP 302"),
        (httpx.Response(401, text="<html>who are you</html>"), "HTTP 401"),
        (
            httpx.Response(422, json={"status": "error", "error": "too many samples"}),
            "HTTP 422: too many samples",
        ),
        (httpx.Response(200, text="<html>"), "malformed"),
        (httpx.Response(200, text='{"data": {"result": [{"metric": {}, "val'), "truncated"),
        (httpx.Response(200, json={"status": "success"}), "missing required field `data`"),
        (httpx.Response(200, content=b"\xff\xfe"), "malformed"),
        (httpx.Response(200, stream=Flood()), "more than 64 MiB in one answer"),
        (httpx.Response(200, json={"data": {"result": [{"value": [NOW, "NaN"]}]}}), "is nan at"),
        (httpx.Response(200, json={"data": {"result": []}}), "does not say what time it is"),
        (httpx.Response(200, text='{"data": {"result": [{"x": ' + "[" * 10**5), "nested too deep"),
        (httpx.Response(200, json={"status": "error", "error": "bad"}), "as Prometheus does: bad"),
        (
            httpx.Response(200, json={"status": "error", "error": "bad", "data": {"result": []}}),
            "as Prometheus does: error: bad",
        ),
        (httpx.Response(500, text='{"x": ' + "[" * 10**5), "HTTP 500"),
        (httpx.Response(200, json={"data": {"result": [{"value": [1e18, "7"]}]}}), "is 7 at 1e+18"),
        (
            httpx.Response(200, json={"data": {"result": [{"value": [NOW, "1e18"]}]}}),
            "second 1e+18: that is no",
        ),
        (
            httpx.Response(200, json={"data": {"result": [{"value": [NOW, "-1e15"]}]}}),
            "second -1e+15: that is no",
        ),
        (httpx.Response(200, json={"data": {"result": [{"value": [NOW, "0"]}]}}), "second 0: that is no"),
    ],
)
async def test_answers_that_are_none(answer: httpx.Response, said: str) -> None:
    with pytest.raises(BadRecord) as raised:
        await measured(lambda _: answer)
    assert said in str(raised.value)


ESCAPES = "\x1b]0;owned\x07\n\u202e" + "x" * 5000


async def test_what_it_says_of_itself_is_one_line_that_no_terminal_obeys() -> None:
    with pytest.raises(BadRecord) as raised:
        await measured(lambda _: httpx.Response(422, json={"status": "error", "error": ESCAPES}))
    assert str(raised.value).partition("HTTP 422: ")[2].startswith("\ufffd]0;owned\ufffd \ufffdxxx")
    assert len(str(raised.value)) < 400

    def warns(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={**calm(request).json(), "warnings": [ESCAPES]})

    warned = (await measured(warns)).header.notes[-1]
    assert warned.startswith("Prometheus warned: \ufffd]0;owned\ufffd \ufffdxxx")
    assert len(warned) < 400


async def test_an_answer_that_drips_is_not_waited_for() -> None:
    drip = Drip()
    asking = asyncio.create_task(measured(lambda _: httpx.Response(200, stream=drip)))
    await drip.began.wait()
    await later(TIMEOUT)
    with pytest.raises(BadRecord, match="no whole answer within 60 s"):
        await asking


@pytest.mark.parametrize(
    ("fails", "waits"),
    [
        ("dub5_shed_total", "dub5_queue_wait_seconds_count"),
        ("dub5_provider_duration_seconds_count", "dub5_provider_duration_seconds_bucket"),
        ("kube_pod_status_ready_time", "kube_pod_created"),
        ("dub5_capacity_requests", "dub5_provider_duration_seconds_bucket"),
    ],
)
async def test_where_one_answer_is_none_the_others_are_asked_for_no_more(fails: str, waits: str) -> None:
    """When the client is closed, nothing of it is in use."""
    waiting: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        query = request.url.params["query"]
        if fails in query:
            return httpx.Response(503)
        if waits in query:
            waiting.append(query)
            try:
                await asyncio.Event().wait()
            finally:
                waiting.remove(query)
        return calm(request)

    with pytest.raises(BadRecord, match="HTTP 503"):
        await measured(answer)
    assert waiting == []


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://[2001:db8::7]:9090", "http://[2001:db8::7]:9090/api/v1/query"),
        ("https://metrics.example/tenants/7/", "https://metrics.example/tenants/7/api/v1/query"),
    ],
)
async def test_addresses_and_who_asks(url: str, asked: str) -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return calm(request)

    await measured(answer, url, headers=[("X-Scope-OrgID", "chat")])
    assert str(requests[0].url).partition("?")[0] == asked
    assert {request.headers["X-Scope-OrgID"] for request in requests} == {"chat"}


async def test_a_password_is_sent_and_not_shown() -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Authorization"])
        return httpx.Response(500)

    with pytest.raises(BadRecord) as raised:
        await measured(answer, "https://us:secret@metrics.example")
    assert sent == ["Basic dXM6c2VjcmV0"]
    assert str(raised.value).startswith("https://metrics.example does not answer")


@pytest.mark.parametrize("url", ["prometheus:9090", "ftp://prometheus", "http://", "", "http://xn--:1"])
async def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(BadRecord, match="--prometheus: write an address"):
        await measured(calm, url)


async def test_a_time_that_is_too_short() -> None:
    with pytest.raises(BadRecord, match="from a minute to 32 days"):
        await measure("http://prometheus", "", 5, None, lambda *_: Header(source="", seconds=1))


def test_it_asks_for_metrics_of_ours_in_promql(tmp_path: Path) -> None:
    queries: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        queries.append(request.url.params["query"])
        return calm(request)

    asyncio.run(measured(answer))
    families = {family.name for family in Metrics().registry.collect()}
    names = {name for query in queries for name in re.findall(r"\bdub5_\w+", query)}
    assert len(names) > 6
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names} <= families
    if PROMTOOL is None:
        pytest.skip("needs promtool")
    # A rule is no range of samples.
    rules = [
        {"record": f"a{number}", "expr": f"count_over_time({query})" if query.endswith("]") else query}
        for number, query in enumerate(queries)
    ]
    (tmp_path / "rules.yaml").write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))
    done = subprocess.run(
        [PROMTOOL, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
