"""`dub5 policy plan`: what comes because it listens is decided by as an operator would, and nothing else is done."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from dub5.contract import CLASSES_KEY, LEARNT_KEY, POLICY_KEY, SAMPLES, SAMPLES_READER, AnnouncedClass
from dub5_operator.explain import recording
from dub5_operator.explain.options import policy
from dub5_operator.explain.reading import read
from dub5_operator.explain.refused import Refused
from dub5_operator.handlers.policy import limits_of
from dub5_operator.planner.decision import PolicyLimits
from dub5_operator.redis import Samples
from testkit.processes import free_port
from tests.operator.test_explain import everything, said
from tests.operator.test_policies import Bench

CLASS = AnnouncedClass(ttl=300, max_ttl=86400, stale_while_revalidate=60)


@pytest.fixture
async def bench(client: Redis) -> Bench:
    """Writes samples, of now."""
    found = Bench(client)
    found.clock.now = time.time()
    await found.announced()
    return found


async def planned(
    capsys: pytest.CaptureFixture[str], bench: Bench, url: str, *words: str, changed: float = 0.1
) -> tuple[int, str, str]:
    """An hour's samples come once somebody listens."""
    listening = asyncio.create_task(said(capsys, "plan", "--redis", url, "--record", "2s", *words))
    async with asyncio.timeout(60):
        while not await bench.redis.exists(SAMPLES_READER):  # noqa: ASYNC110  # in another thread
            await asyncio.sleep(0.02)
    await bench.sample(changed=changed, came=not await bench.redis.exists(SAMPLES))
    return await listening


async def test_a_plan_is_what_an_operator_would_decide_and_nothing_is_published(
    bench: Bench, redis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--staleness", "50%", "--max-ttl", "10m", "--min-ttl", "10s", "--memory", "64Mi")
    code, out, err = await planned(capsys, bench, redis, *words, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["recorded_seconds"] == 2
    [shown] = found["classes"]  # of `facts` there were no look-ups
    assert (shown["cache_class"], shown["policy"], shown["status"]) == ("banter", None, shown["now"])
    samples = Samples(bench.redis, time.time)
    await samples.refresh(())
    spec = policy({"staleness": "50%", "max-ttl": "10m", "min-ttl": "10s", "memory": "64Mi"})
    limits = limits_of(spec, CLASS)
    assert limits == PolicyLimits(
        shortest=10,
        longest=600,
        budget=0.5,
        initial=60,
        memory=64 * 2**20,
        memory_price=0.02,
        question=1.0,
    )
    held = samples.learnings["banter"]
    truth = held.learning.decide(limits, held.ttl, time.time())
    decision = shown["explanation"]["decision"]
    assert (decision["bound_by"], decision["sufficient"]) == (truth.bound_by, True)
    for name in ("recommended", "hit_ratio", "stale", "stale_upper", "saving"):
        assert decision[name] == pytest.approx(getattr(truth, name), rel=0.02), name
    assert {each.decode() for each in await bench.redis.keys()} == {CLASSES_KEY, SAMPLES, SAMPLES_READER}


async def test_a_class_that_came_and_went_meanwhile_is_left_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As replicas of two configurations announce theirs, one after the other."""
    await bench.sample(minutes=5, came=True)
    announced = iter([{"banter": CLASS}, {"banter": CLASS, "new": CLASS}])

    async def read_then(samples: Samples) -> None:
        await bench.announce(**next(announced, {"banter": CLASS}))
        await read(samples)

    monkeypatch.setattr(recording, "read", read_then)
    monkeypatch.setattr(recording, "POLL", 0.05)
    found = await recording.plan(bench.redis, policy({}), None, record=1.0, report_progress=lambda _: None)
    assert [each.cache_class for each in found] == ["banter"]
    assert list(announced) == []


async def test_that_redis_went_away_is_said_where_nothing_was_seen(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(samples: Samples) -> None:
        raise Refused("Redis does not answer")

    def report_progress(_: recording.Recorded) -> None:
        monkeypatch.setattr(recording, "read", away)

    with pytest.raises(Refused, match="Redis"):
        await recording.plan(bench.redis, policy({}), None, record=0.1, report_progress=report_progress)


async def test_what_was_recorded_is_told_although_redis_is_empty_in_the_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "POLL", 0.2)
    await bench.sample(changed=0.1, came=True)

    async def emptied() -> None:
        await seen.wait()
        await bench.redis.flushall()

    seen = asyncio.Event()
    emptying = asyncio.create_task(emptied())
    found = await recording.plan(
        bench.redis,
        policy({"staleness": "1%\n"}),
        None,
        record=1.0,
        report_progress=lambda recorded: seen.set() if recorded.look_ups else None,
    )
    await emptying
    assert [each.cache_class for each in found] == ["banter"]


async def test_a_plan_is_a_table_and_a_plot(
    bench: Bench, redis: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plot = tmp_path / "plan.svg"
    words = ("--staleness", "50%", "--class", "banter", "--plot", str(plot))
    code, out, err = await planned(capsys, bench, redis, *words)
    assert (code, err) == (0, "")
    assert "banter" in out
    marked = [line for line in out.splitlines() if line.lstrip().startswith(">")]
    assert len(marked) == 1
    drawn = await asyncio.to_thread(plot.read_text)
    assert drawn.startswith("<?xml")
    assert "banter: hit ratio" in drawn


async def test_an_operator_beside_it_is_not_disturbed(
    bench: Bench, redis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await bench.sample(changed=0.1, came=True)
    assert await bench.attempt() is not None
    before = await everything(bench.redis)
    code, _, _ = await said(capsys, "plan", "--redis", redis, "--record", "1s")
    assert code == 0
    after = await everything(bench.redis)
    assert {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)} == set()
    assert {POLICY_KEY, LEARNT_KEY % "banter"} <= {key.decode() for key in after}
    bench.clock.now = time.time() + 60
    assert await bench.attempt() is not None  # it is still the one that publishes


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--record", "1s"], "No look-ups came in 1 s"),
        (["--record", "1s", "--class", "facts"], "No look-ups of the class facts"),
        (["--record", "1s", "--class", "nobody"], "it has banter, facts"),
        (["--record", "forever"], "'forever' is not a duration"),
        (["--record", "0s"], "--record 0s"),
        (["--record=-5m"], "'-5m' is not a duration"),
        (["--record", "999h"], "--record 999h"),
        (["--record", "1s", "--staleness", "1"], "--staleness 1: "),
        (["--record", "1s", "--staleness", "100%"], "--staleness 100%"),
        (["--record", "1s", "--staleness", "0%"], "--staleness 0%"),
        (["--record", "1s", "--per-question", "0.5"], "--per-question 0.5"),
        (["--record", "1s", "--min-ttl", "soon"], "--min-ttl soon"),
        (["--record", "1s", "--min-ttl", "2h", "--max-ttl", "1h"], "--min-ttl 2h and --max-ttl 1h"),
        (["--record", "1s", "--min-ttl", "10ms"], "--min-ttl 10ms"),
        (["--record", "1s", "--memory", "much"], "--memory much"),
        (["--record", "1s", "--memory-price=-1"], "--memory-price -1"),
        (["--record", "1s", "--plot", "plan.doc"], "plan.doc"),
        (["--record", "1h", "--plot", "/nowhere/plan.svg"], "/nowhere/plan.svg"),
        (["--record", "1s", "--redis", "http://127.0.0.1"], "redis.url"),
    ],
)
async def test_what_cannot_be_planned_is_said_in_one_line(
    bench: Bench, redis: str, capsys: pytest.CaptureFixture[str], words: list[str], word: str
) -> None:
    code, out, err = await said(capsys, "plan", "--redis", redis, *words)
    assert (code, out) == (1, "")
    assert word in err
    assert len(err.splitlines()) == 1


async def test_without_a_service_or_a_redis_that_is_said_at_once(
    client: Redis, redis: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    away = f"redis://127.0.0.1:{free_port()}"
    for url, word in ((redis, "No replica"), (away, "Redis does not answer")):
        code, out, err = await said(capsys, "plan", "--redis", url, "--record", "1h")
        assert (code, out) == (1, "")
        assert word in err
    code, out, err = await said(capsys, "plan", "--record", "1h")
    assert (code, out) == (1, "")
    assert "redis.url" in err


@pytest.mark.parametrize("budget", ["0.50%", "1%", "2.5%", "0.01%", "99.9999%"])
def test_what_is_a_budget_of_a_policy_is_one_here(budget: str) -> None:
    assert policy({"staleness": budget}).staleness.budget == budget


WITHOUT = "import sys; sys.modules['{}'] = None; from dub5.cli.main import main; sys.exit(main({}))"


@pytest.mark.parametrize(
    ("module", "extra", "words"),
    [
        ("numpy", "operator", ["plan", "--record", "1s"]),
        ("kopf", "operator", ["explain", "banter"]),
        ("matplotlib", "loadtest", ["plan", "--record", "1s", "--plot", "plan.svg"]),
    ],
)
def test_without_an_extra_the_command_says_what_to_install(module: str, extra: str, words: list[str]) -> None:
    command: list[Any] = [sys.executable, "-c", WITHOUT.format(module, ["policy", *words])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert f"pip install 'dub5[{extra}]'" in line
