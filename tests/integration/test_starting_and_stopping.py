"""An application that cannot start leaves nothing running, and one that stops does so whatever a part raises."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import structlog
from structlog.typing import EventDict

from dub5 import app
from dub5.admission import limits
from dub5.admission.limits import RateLimiter
from dub5.app import Application
from dub5.cache import samples
from dub5.cache.purges import Purges
from dub5.cache.samples import Sampler
from dub5.server.replica import Replica
from dub5.settings.loader import convert
from dub5.telemetry.process import LoopLagProbe
from tests.harness import LOOPBACK, later
from tests.integration.cache.support import until


@pytest.fixture(autouse=True)
def logs() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


def config(redis: str) -> dict[str, object]:
    """With every part that there is."""
    return {
        "redis": {"url": redis},
        "limits": {"default": {"requests_per_minute": 1000}},
        "server": LOOPBACK,
    }


async def built(redis: str) -> Application:
    return await asyncio.to_thread(Application, convert(config(redis)), {})


async def fail(*_: object) -> None:
    raise OSError("this part is broken")


def not_stopped(logs: list[EventDict]) -> list[str]:
    return [line["part"] for line in logs if line["event"] == "part did not stop"]


def nothing_is_left(application: Application) -> bool:
    return not application.background.tasks and asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_was_started_is_stopped_where_the_last_part_cannot_start(
    redis: str, monkeypatch: pytest.MonkeyPatch, logs: list[EventDict]
) -> None:
    monkeypatch.setattr(LoopLagProbe, "start", fail)
    application = await built(redis)
    with pytest.raises(OSError, match="this part is broken"):
        async with application:
            pytest.fail("it started")
    assert nothing_is_left(application)
    assert not_stopped(logs) == []


async def test_a_replica_that_cannot_start_gives_its_ports_back(
    redis: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoopLagProbe, "start", fail)
    replica = await asyncio.to_thread(Replica, convert(config(redis)), {})
    with pytest.raises(OSError, match="this part is broken"):
        await replica.run()
    for url in (replica.url, replica.operations_url):
        with socket.socket() as again:
            again.bind(("127.0.0.1", urlsplit(url).port))


@pytest.mark.parametrize(
    ("kind", "call"), [(Purges, "synchronise"), (Sampler, "register"), (RateLimiter, "_beat")]
)
async def test_what_is_done_again_later_does_not_keep_it_from_starting(
    redis: str, monkeypatch: pytest.MonkeyPatch, kind: type[object], call: str
) -> None:
    usual = getattr(kind, call)
    calls = 0

    async def fail_once(self: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("nobody foresaw this")
        await usual(self)

    monkeypatch.setattr(kind, call, fail_once)
    monkeypatch.setattr(samples, "INTERVAL", 0.01)
    monkeypatch.setattr(limits, "HEARTBEAT", 0.01)
    async with await built(redis):
        await until(lambda: calls > 2)


@pytest.mark.parametrize(
    "part",
    ["_tracer", "background", "_redis", "_leases", "_store", "_policies", "_sampler", "_limiter", "_lag"],
)
async def test_whichever_part_cannot_stop_the_others_do(
    redis: str, monkeypatch: pytest.MonkeyPatch, logs: list[EventDict], part: str
) -> None:
    application = await built(redis)
    stop = getattr(application, part).stop

    async def stop_and_fail() -> None:
        await stop()
        await fail()

    monkeypatch.setattr(getattr(application, part), "stop", stop_and_fail)
    async with application:
        assert len(application.background.tasks) > 5
    assert nothing_is_left(application)
    assert len(not_stopped(logs)) == 1


async def test_a_part_that_hangs_does_not_hold_the_others_up(
    redis: str, monkeypatch: pytest.MonkeyPatch, logs: list[EventDict]
) -> None:
    application = await built(redis)

    async def hang() -> None:
        await later(app.PART_STOP_TIMEOUT)
        await asyncio.Event().wait()

    monkeypatch.setattr(application._policies, "stop", hang)
    async with application:
        pass
    assert nothing_is_left(application)  # the reader of policies was ended all the same
    assert not_stopped(logs) == ["policies"]
