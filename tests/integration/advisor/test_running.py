"""Records of a release that runs, made of histories in a real Prometheus, of which every request is known here."""

from __future__ import annotations

import asyncio
import bisect
import math
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from dub5.advisor.record import BadRecord, Header, Record, read, write
from dub5.advisor.running import measure
from dub5.advisor.simulation import simulate
from dub5.advisor.values import of_values
from dub5.cli.main import main
from testkit.monitoring import PROMETHEUS, Prometheus
from testkit.programs import which

PROMTOOL = which("promtool")

pytestmark = pytest.mark.skipif(None in (PROMETHEUS, PROMTOOL), reason="needs Prometheus and its promtool")

SCRAPE = 15
LENGTH = 1800
SERVICE = 5.3
BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, math.inf)
Rate = Callable[[float], float]
Samples = dict[str, list[str]]


class Process(NamedTuple):
    """Of a pod, in seconds of the history; it is scraped from `began` up to `ended`, but for `unseen`."""

    pod: str
    began: float = -3600.0
    ended: float = 1e9
    unseen: tuple[float, float] = (0.0, 0.0)
    namespace: str = "chat"
    more: str = ""


class World:
    """What there was: processes, and the moments of their calls (each with a slot at once), hits and refusals."""

    def __init__(self, *processes: Process, **rates: Rate) -> None:
        self.processes = processes
        self.known: dict[str, list[tuple[float, Process]]] = {"calls": [], "hits": [], "refused": []}
        rng = random.Random(1)
        for kind, rate in rates.items():
            for second in range(-900, LENGTH):
                alive = [each for each in processes if each.began <= second < each.ended]
                count = int(rate(second) + rng.random()) if alive else 0
                self.known[kind] += [(second + rng.random(), rng.choice(alive)) for _ in range(count)]

    def count(
        self, since: float = 0.0, until: float = LENGTH, kinds: tuple[str, ...] = ("calls", "hits", "refused")
    ) -> int:
        return sum(since < moment <= until for kind in kinds for moment, _ in self.known[kind])

    def scraped(self, job: str, began: float, samples: Samples) -> None:
        for number, process in enumerate(self.processes):
            at = {
                kind: sorted(at for at, of in events if of is process) for kind, events in self.known.items()
            }
            labels = f'job="{job}",namespace="{process.namespace}",pod="{process.pod}"{process.more}'
            moment = -300.0 + (number * 4.7) % SCRAPE
            while moment <= LENGTH + SCRAPE:
                unseen = process.unseen[0] < moment < process.unseen[1]
                if process.began <= moment <= process.ended and not unseen:
                    for said_of, value in said(at, moment):
                        name, _, more = said_of.partition("{")
                        line = f"{name}{{{labels}{more and ',' + more}}} {value} {began + moment:.3f}"
                        samples.setdefault(name, []).append(line)
                    line = (
                        f"process_start_time_seconds{{{labels}}} {began + process.began} {began + moment:.3f}"
                    )
                    samples.setdefault("process_start_time_seconds", []).append(line)
                moment += SCRAPE


def said(at: dict[str, list[float]], moment: float) -> Iterator[tuple[str, float]]:
    """What a process says of itself then: names, with a brace before further labels, and values."""
    calls, hits, refused = (bisect.bisect(at[kind], moment) for kind in ("calls", "hits", "refused"))
    ended = bisect.bisect(at["calls"], moment - SERVICE)
    yield "dub5_demand_requests", calls - ended
    yield "dub5_queued_requests", 0
    yield "dub5_capacity_requests", 20
    yield "dub5_queue_wait_seconds_count", calls
    yield 'dub5_queue_wait_seconds_bucket{le="0.001"', calls
    if hits:
        yield 'dub5_cache_lookups_total{class="chat",result="shared"', hits
    if refused:
        yield 'dub5_shed_total{reason="queue_full"', refused
        yield 'dub5_http_requests_total{outcome="shed"', refused
    for bound in BUCKETS:
        le = "+Inf" if math.isinf(bound) else f"{bound}"
        yield f'dub5_provider_duration_seconds_bucket{{le="{le}"', ended if bound >= SERVICE else 0
    yield "dub5_provider_duration_seconds_count", ended
    yield "dub5_provider_duration_seconds_sum", ended * SERVICE


def steady(*processes: Process) -> World:
    return World(*processes, calls=lambda _: 4.0, hits=lambda _: 4.0)


def of_kubernetes(began: float, samples: Samples) -> None:
    """What kube-state-metrics says of the world that grows: it has a namespace of its own."""
    pod = f'namespace="grows",pod="{NEW}"'
    for moment in range(-300, LENGTH, SCRAPE):
        wanted = f'{{namespace="grows",deployment="dub5"}} {2 if moment < 880 else 3} {began + moment:.3f}'
        samples.setdefault("kube_deployment_spec_replicas", []).append(
            f"kube_deployment_spec_replicas{wanted}"
        )
        if moment >= 900:
            for name, value in (("kube_pod_created", 880.0), ("kube_pod_status_ready_time", 907.0)):
                samples.setdefault(name, []).append(f"{name}{{{pod}}} {began + value} {began + moment:.3f}")


class Recorded(NamedTuple):
    """`record` makes that of what it selects."""

    url: str
    began: float
    record: Callable[[str], Record]


NEW = "dub5-6f9c-ccccc"
A, B = Process("dub5-6f9c-aaaaa"), Process("dub5-6f9c-bbbbb")
WORLDS = {
    "grows": World(
        A._replace(namespace="grows"),
        B._replace(namespace="grows"),
        Process(NEW, namespace="grows", began=903.0),
        calls=lambda second: 2.0 if second < 900 else 6.0,
        hits=lambda second: 2.0 if second < 1200 else 0.0,
        refused=lambda second: 0.5 if 900 <= second < 960 else 0.0,
    ),
    "restarts": steady(A, B._replace(ended=700.0), B._replace(began=703.0)),
    "is-rolled-out": steady(
        A._replace(unseen=(300.0, 500.0)), B._replace(ended=1000.0), Process("dub5-77aa-ccccc", began=990.0)
    ),
    "two-releases": steady(A, Process("other-5d5d-bbbbb")),
    "two-namespaces": steady(A, B._replace(namespace="two")),
    "scraped-twice": steady(A, A._replace(more=',prometheus_replica="b"')),
    "gap": steady(A._replace(unseen=(300.0, 500.0))),
    "began-late": steady(A._replace(began=600.0)),
    "no-calls": World(A, hits=lambda _: 4.0),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """A Prometheus with all of these worlds."""
    directory = tmp_path_factory.mktemp("history")
    began = math.floor(time.time()) - LENGTH - 60.0
    samples: Samples = {}
    for name, world in WORLDS.items():
        world.scraped(name, began, samples)
    of_kubernetes(began, samples)
    text = directory / "samples"
    text.write_text(
        "".join(line + "\n" for _, lines in sorted(samples.items()) for line in lines) + "# EOF\n"
    )
    data = directory / "prometheus"
    subprocess.run(
        [str(PROMTOOL), "tsdb", "create-blocks-from", "openmetrics", text, data],
        check=True,
        capture_output=True,
    )

    def header(at: float, seconds: float) -> Header:
        return Header(source="a test", began=at, seconds=seconds)

    async def start() -> Prometheus:
        return await Prometheus(directory, {}).__aenter__()

    with asyncio.Runner() as runner:
        prometheus = runner.run(start())
        yield Recorded(
            prometheus.url,
            began,
            lambda selector: runner.run(measure(prometheus.url, selector, LENGTH, began + LENGTH, header)),
        )
        runner.run(prometheus.__aexit__())


def test_every_request_is_in_the_record_at_its_time(recorded: Recorded, tmp_path: Path) -> None:
    world, record = WORLDS["grows"], recorded.record('job="grows"')
    assert record.requests == pytest.approx(world.count(), abs=20)
    (arrivals,) = record.arrivals
    assert arrivals.step == record.header.pace.scrape == SCRAPE
    for begin, end in ((0, 870), (930, 1170), (1230, 1770)):
        found = sum(arrivals.requests[begin // SCRAPE : end // SCRAPE])
        assert found == pytest.approx(world.count(begin, end), rel=0.02)
    before, after = (next(mix for mix in reversed(record.mixes) if mix.at <= at) for at in (1100, 1400))
    assert before.hits == pytest.approx(2 / 8, abs=0.1)
    assert after.hits == 0.0
    assert record.seen[-1].shed == pytest.approx(world.count(kinds=("refused",)), abs=1)
    assert [next(seen.ready for seen in record.seen if seen.at >= at) for at in (60, 1000)] == [2, 3]
    service = record.mixes[0].service
    assert (service[0][1], service[-1][1]) == pytest.approx((5.0, 5.6), abs=0.01)
    assert [next(seen.wanted for seen in record.seen if seen.at >= at) for at in (60, 1000)] == [2, 3]
    assert (record.header.cluster.replicas, record.header.cluster.starts) == (2, (27.0,))
    assert record.header.notes == []
    assert record.header.values == {"config": {"admission": {"max_inflight": 20}}}
    path = tmp_path / "a.record"
    write(record, path)
    assert simulate(read(path), of_values(record.header.values)).requests == pytest.approx(
        world.count(), rel=0.02
    )


def test_the_command_says_what_is_in_it_and_what_was_odd(
    recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    until = datetime.fromtimestamp(recorded.began + LENGTH, UTC).isoformat()
    token = tmp_path / "token"
    token.write_text("secret\n")
    out = str(tmp_path / "load.record")
    options = [
        "--last",
        "30m",
        "--until",
        until,
        "--token-file",
        str(token),
        "--header",
        "X-Scope-OrgID: chat",
    ]
    command = ["autoscale", "record", "--prometheus", recorded.url, *options, "--out", out]
    assert main([*command, "--selector", 'job="restarts"']) == 0
    assert "note: dub5-6f9c-bbbbb began anew" in capsys.readouterr().out
    assert main(["autoscale", "simulate", out]) == 0
    printed = capsys.readouterr().out
    assert "note: dub5-6f9c-bbbbb began anew" in printed
    assert "as it was seen: refused 0.000%, waited 0.000% of requests" in printed
    assert main([*command, "--selector", 'job="gap"']) == 1
    assert capsys.readouterr().out == ""


def test_a_process_that_began_anew_is_said_and_loses_nothing_else(recorded: Recorded) -> None:
    world, record = WORLDS["restarts"], recorded.record('job="restarts"')
    lost = SCRAPE * 4  # of one of two, since it was scraped last
    assert world.count() - lost - 20 <= record.requests <= world.count() + 20
    (note,) = record.header.notes
    assert note.startswith("dub5-6f9c-bbbbb began anew in place")


def test_a_rollout_and_a_replica_that_was_not_scraped_are_said(recorded: Recorded) -> None:
    world, record = WORLDS["is-rolled-out"], recorded.record('job="is-rolled-out"')
    assert record.requests == pytest.approx(world.count(), abs=60)
    starts, rollout, unseen = record.header.notes
    assert "--starts" in starts
    assert "rolled out meanwhile" in rollout
    assert unseen.startswith("dub5-6f9c-aaaaa was not scraped from ")
    assert {seen.ready for seen in record.seen if 330 <= seen.at <= 480} == {2}


@pytest.mark.parametrize(
    ("selector", "said"),
    [
        (
            'job="two-releases"',
            """dub5 in chat, other in chat: name one, such as --selector 'namespace="chat",pod=~"dub5-[a-z0-9]+-""",
        ),
        ('job="two-namespaces"', "dub5 in chat, dub5 in two"),
        ('job="scraped-twice"', "scraped twice, with prometheus_replica="),
        ('job="gap"', "nothing was scraped from"),
        ('job="began-late"', "it is there from"),
        ('job="absent"', 'no dub5_demand_requests{job="absent"}'),
        ('job="grows', "HTTP 400: invalid parameter"),
        ('job="no-calls"', "how long calls take is not known"),
    ],
)
def test_what_no_record_can_be_made_of(recorded: Recorded, selector: str, said: str) -> None:
    with pytest.raises(BadRecord) as raised:
        recorded.record(selector)
    assert said in str(raised.value)
