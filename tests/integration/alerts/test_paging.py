"""From a fault to a page and back: a real service, Prometheus, Alertmanager and a receiver of webhooks.

The routes are those of docs/alerts.md. The rules are those that are committed, with every duration divided by 60,
since nobody waits two minutes for a test; all else is as in deploy/helm/dub5/alerts.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testkit.http_server import FakeServer, refuse
from testkit.monitoring import ALERTMANAGER, PROMETHEUS, TIMEOUT, Alertmanager, Prometheus
from testkit.openai_server import FakeOpenAI, say
from testkit.redis_server import RedisServer
from testkit.service import serving
from tests.harness import openai_provider

pytestmark = [
    pytest.mark.skipif(None in {PROMETHEUS, ALERTMANAGER}, reason="needs Prometheus and Alertmanager"),
    pytest.mark.timeout(400),
]

RULES = Path(__file__).parents[3] / "deploy/helm/dub5/alerts/dub5.yaml"
TEXT = RULES.read_text(encoding="utf-8")
RULE_COUNT = sum(len(group["rules"]) for group in yaml.safe_load(TEXT)["groups"])
DOCUMENT = (Path(__file__).parents[3] / "docs/alerts.md").read_text(encoding="utf-8")
ROUTES: dict[str, Any] = yaml.safe_load(
    DOCUMENT.partition("Alertmanager:\n\n```yaml\n")[2].partition("```")[0]
)
OF_THE_MACHINE = {
    *("Dub5Cpu", "Dub5EventLoopLag", "Dub5RedisDown"),
    *("Dub5Absent", "Dub5AutoscalingMetricMissing"),
}
"""They tell how busy the machine is that this runs on, where minutes are seconds."""

TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
Json = Any


def shortened(rules: str) -> str:
    """The rules with all windows (`[5m]`), offsets and `for:` a sixtieth as long."""

    def short(found: re.Match[str]) -> str:
        return f"{found[1]}{int(found[2]) * SECONDS[found[3]] * 1000 // 60}ms"

    return re.sub(r"(\[|offset |for: )(\d+)([smhd])\b", short, rules)


def test_only_durations_are_shortened() -> None:
    assert (
        shortened("rate(a[5m]) offset 1d > 5\nfor: 2m") == "rate(a[5000ms]) offset 1440000ms > 5\nfor: 2000ms"
    )
    durations = r"(?<=\[)\d+\w+|(?<=offset )\d+\w+|(?<=for: )\d+\w+"
    assert re.sub(durations, "", shortened(TEXT)) == re.sub(durations, "", TEXT)


class Pager(FakeServer):
    """Receives what Alertmanager sends."""

    async def page(self, name: str, status: str, since: int = 0) -> Json:
        """The alert of this name, once it has been sent with this status, not counting the first `since` calls."""
        async with asyncio.timeout(TIMEOUT):
            while True:
                for call in self.calls[since:]:
                    for alert in call.body["alerts"]:
                        if (alert["labels"]["alertname"], alert["status"]) == (name, status):
                            return {**alert, "receiver": call.path.strip("/")}
                await self._came.get()


@contextlib.asynccontextmanager
async def callers(url: str) -> AsyncIterator[None]:
    """Somebody always asks something new, and somebody else the same again."""

    async def ask() -> None:
        async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT) as client:
            for number in itertools.count():
                for text, stream in ((f"question {number}", True), ("the same", False)):
                    message = {"role": "user", "content": text}
                    body = {"model": "small", "messages": [message], "stream": stream}
                    await client.post("/v1/chat/completions", json=body, headers=TRACED)
                await asyncio.sleep(0.05)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking


async def test_a_fault_is_paged_and_taken_back_once_it_is_mended(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    await asyncio.to_thread(rules.write_text, shortened(TEXT))
    async with (
        FakeOpenAI() as provider,
        RedisServer() as redis,
        Pager() as pager,
        Alertmanager(tmp_path, ROUTES, pager.url, ["pager", "tickets"]) as alertmanager,
    ):
        provider.reply = say("Hello")
        settings = {**openai_provider(provider.base_url), "redis": {"url": redis.url}}
        settings["cache"] = {"classes": {"default": {"cacheable": "always"}}}
        async with contextlib.AsyncExitStack() as running:
            service = await running.enter_async_context(serving(settings))
            await running.enter_async_context(callers(service.url))
            targets = {"dub5": {service.operations_url: {"namespace": "chat", "pod": "dub5-a"}}}
            alerting = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]}
            async with Prometheus(
                tmp_path, targets, rule_files=[str(rules)], alerting=alerting
            ) as prometheus:
                await quiet(prometheus)
                await exemplars(prometheus)
                await evaluated(prometheus)
                provider.reply = refuse(500, "Oops")
                await redis.stop()
                for name, severity, words in (
                    ("Dub5BreakerOpen", "warning", "fake"),
                    ("Dub5RedisDown", "critical", "chat"),
                    ("Dub5AvailabilityFastBurn", "critical", "% in 1h in chat"),
                ):
                    alert = await pager.page(name, "firing")
                    assert alert["labels"]["severity"] == severity
                    assert alert["receiver"] == ("pager" if severity == "critical" else "tickets")
                    assert alert["labels"]["namespace"] == "chat"
                    assert words in alert["annotations"]["description"]
                    assert alert["annotations"]["summary"]
                    assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
                await evaluated(prometheus)
                mended = len(pager.calls)
                provider.reply = say("Hello")
                await redis.start()
                for name in ("Dub5BreakerOpen", "Dub5RedisDown", "Dub5AvailabilityFastBurn"):
                    await pager.page(name, "resolved", since=mended)
                # The replica is gone, and with it all that it told; its target stays.
                gone = len(pager.calls)
                await running.aclose()
                for name, receiver in (("Dub5Absent", "pager"), ("Dub5AutoscalingMetricMissing", "tickets")):
                    alert = await pager.page(name, "firing", since=gone)
                    assert alert["receiver"] == receiver
                assert await prometheus.query("dub5:replicas:up == 0")
                await evaluated(prometheus)


async def quiet(prometheus: Prometheus) -> None:
    """Nothing has fired once there was something to judge by, for as long as ten minutes are."""
    await prometheus.until("dub5:chat_errors:ratio_rate5m == 0 and dub5:chat_slow:ratio_rate5m == 0")
    await prometheus.until("dub5:hits:ratio_rate30m > 0 and dub5:replicas:max == 10")
    await prometheus.until("count_over_time(dub5:chat_errors:ratio_rate5m[10m]) > 20")
    fired = await prometheus.query('count_over_time(ALERTS{alertstate="firing"}[10m])')
    assert {each["metric"]["alertname"] for each in fired} <= OF_THE_MACHINE


async def exemplars(prometheus: Prometheus) -> None:
    """Prometheus has kept a trace for what it scraped."""
    for name in ("dub5_http_request_duration_seconds", "dub5_time_to_first_token_seconds"):
        now = time.time()
        span = {"start": str(now - 600), "end": str(now + 600)}
        found = await prometheus.get("query_exemplars", query=f"{name}_bucket", **span)
        assert {each["labels"]["trace_id"] for series in found for each in series["exemplars"]} == {TRACE}


async def evaluated(prometheus: Prometheus) -> None:
    """Every rule was, and without an error."""
    groups = (await prometheus.get("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == RULE_COUNT
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []
