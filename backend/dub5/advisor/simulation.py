"""What a cluster would have done with a recorded load under given values: a simulation of discrete events.

Time is virtual. Calls go through the gate of the product (gate.py says how that is held to it), Prometheus scrapes each
pod's demand, the autoscaler (hpa.py) reads what the adapter or KEDA would answer and decides each `sync` seconds, pods
start, drain and go. Everything that the load does is drawn from random numbers of its own, so that the same record and
seed bring the same load whatever the values are: two runs differ by the values alone.

Events are tuples in one heap, and arrivals, of which there are most, never go through it.

Not simulated: what CPU does, hedged and retried calls, deadlines of callers, limits of tenants and providers, rollouts,
the seconds in which nodes learn that a pod is gone (`preStopSeconds` is made for them).
"""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any

import msgspec

from dub5.advisor.cluster import DELETED, Pod, Pods
from dub5.advisor.gate import SimulatedGate
from dub5.advisor.hpa import Autoscaler, Decision
from dub5.advisor.hpa_metrics import Pod as SeenPod
from dub5.advisor.hpa_metrics import Sample
from dub5.advisor.hpa_spec import Controller, read_spec
from dub5.advisor.record import LEAST_TIME, Mix, Record
from dub5.advisor.schedule import hour_of_week
from dub5.advisor.values import Values
from dub5.errors import ConfigError

_POINTS = 256
"""Of a distribution of service times, evenly spaced, between which lines are drawn."""

_CRON = {
    "type": "External",
    "external": {
        "metric": {"name": "s1-cron"},
        "target": {"type": "AverageValue", "averageValue": "1"},
    },
}
"""What KEDA makes of all cron triggers together: the greatest counts."""

_NOBODY = -1
"""Who asks a question that no caller of `Callers` asks."""

# Kinds of events.
_LEAVE, _EXPIRE, _SCRAPE, _SYNC, _READY, _SIGTERM, _CLOSE, _ROOM, _CALLERS, _ASK, _COUNT, _BLOCK = range(12)


class Change(msgspec.Struct, frozen=True):
    """From `at` on so many replicas were wanted, ready, and there (with those that start and those that leave)."""

    at: float
    wanted: int
    ready: int
    there: int


class Minute(msgspec.Struct):
    """Of one minute: requests that came, and of them those that were refused and those that waited for a slot."""

    requests: float = 0.0
    refused: float = 0.0
    waited: float = 0.0


class Block(msgspec.Struct, frozen=True):
    """Of a part of the time: requests that came, those that were refused, and waits as in `Outcome`."""

    requests: float
    refused: float
    waits: dict[int, int]

    def wait(self, quantile: float) -> float:
        """As that of `Outcome`."""
        return wait_of(self.waits, quantile)

    def less(self, before: Block) -> Block:
        """What came after those of `before`."""
        more = ((wait, count - before.waits.get(wait, 0)) for wait, count in self.waits.items())
        waits = {wait: count for wait, count in more if count}
        return Block(self.requests - before.requests, self.refused - before.refused, waits)


class Outcome(msgspec.Struct, frozen=True):
    """What has happened. Requests are fractions, since those that follow another's call share its fate.

    Counts are of what came after second `since`: until then the cluster finds its size. `waits` are how many calls
    waited how many milliseconds, `decisions` all of the autoscaler's, `blocks` equal parts of that time. `cut` are
    streams that reached `server.max_stream`; pods that leave cut none, since the chart gives them the time of the
    longest one. `queued` are calls that wait for a slot in the end.
    """

    seconds: float
    since: float
    requests: float
    hits: float
    calls: int
    refused: float
    waited: float
    cut: int
    waits: dict[int, int]
    changes: list[Change]
    minutes: list[Minute]
    decisions: list[Decision]
    blocks: list[Block] = []
    queued: int = 0

    @property
    def refused_share(self) -> float:
        """Of all requests."""
        return self.refused / self.requests if self.requests else 0.0

    @property
    def waited_share(self) -> float:
        return self.waited / self.requests if self.requests else 0.0

    @property
    def replica_hours(self) -> float:
        """Of pods that were there, starting and leaving ones included: that is what is paid for."""
        return self.integral(lambda change: change.there) / 3600

    @property
    def most(self) -> int:
        """Replicas that were ready at once."""
        # A part of a record may be so short that no time is in it.
        return max((change.ready for change, length in self._lengths() if length > 0), default=0)

    def wait(self, quantile: float) -> float:
        """Seconds that this share of the calls that got a slot waited for it at most."""
        return wait_of(self.waits, quantile)

    def integral(self, of: Callable[[Change], int]) -> float:
        """Replica-seconds after `since`."""
        return sum(of(change) * length for change, length in self._lengths())

    def at(self, moment: float) -> Change:
        """What there was then."""
        index = bisect_right(self.changes, moment, key=lambda change: change.at)
        return self.changes[max(0, index - 1)]

    def _lengths(self) -> Iterator[tuple[Change, float]]:
        ends = [change.at for change in self.changes[1:]] + [self.seconds]
        return (
            (change, max(0.0, end - max(change.at, self.since)))
            for change, end in zip(self.changes, ends, strict=True)
        )


def wait_of(waits: Mapping[int, float], quantile: float) -> float:
    """Seconds; `waits` are numbers of calls by milliseconds."""
    rank, passed = quantile * sum(waits.values()), 0.0
    for milliseconds, count in sorted(waits.items()):
        passed += count
        if passed >= rank:
            return milliseconds / 1000
    return 0.0


class _Phase:
    """A `Mix` made ready: `times` are service times at evenly spaced shares of calls."""

    def __init__(self, mix: Mix) -> None:
        self.at = mix.at
        self.hits = mix.hits
        self.not_called = mix.hits + mix.followers
        calls = 1 - self.not_called
        self.weight = 1 + mix.followers / calls if calls > 0 else 1.0
        """Requests that share the fate of one call."""
        self.times = [_interpolated(mix.service, index / _POINTS) for index in range(_POINTS + 1)]

    def service(self, chance: float) -> float:
        index = int(chance * _POINTS)
        low = self.times[index]
        return low + (self.times[index + 1] - low) * (chance * _POINTS - index)


def _interpolated(points: list[tuple[float, float]], share: float) -> float:
    index = bisect_right(points, share, key=lambda point: point[0])
    if index == 0:
        return points[0][1]
    if index == len(points):
        return points[-1][1]
    (before, low), (after, high) = points[index - 1], points[index]
    return low + (high - low) * (share - before) / (after - before)


def simulate(
    record: Record,
    values: Values,
    *,
    seed: int = 1,
    since: float = 0.0,
    blocks: int = 1,
    floors: Sequence[int] = (),
    progress: Callable[[float], None] = lambda _: None,
) -> Outcome:
    """What would have happened. `progress` is told the share of the time that is over, about each minute of it.

    `floors` are the fewest replicas by hour of the week (schedule.py), where there are any: under `hpa` its
    `minReplicas` is changed, under `keda` a cron trigger stands beside the other.

    ConfigError where the autoscaler's spec cannot be: its message names the value.
    """
    return _Simulation(record, values, seed, since, blocks, floors).run(progress)


class _Simulation:
    """One run. Handlers of events take the event; what is common to them is here."""

    def __init__(
        self, record: Record, values: Values, seed: int, since: float, blocks: int, floors: Sequence[int]
    ) -> None:
        header = record.header
        self._record = record
        self._values = values
        self._pace = header.pace
        self._connections = header.connections
        self._seconds = header.seconds
        self._since = since
        self._ends = [since + (header.seconds - since) * index / blocks for index in range(1, blocks)]
        self._floors = floors
        self._phases = [_Phase(mix) for mix in record.mixes]
        self._phase = self._phases[0]
        self._next_phase = 1
        self._max_stream = float(values.config.server.max_stream)
        self._queue_timeout = float(values.config.admission.queue_timeout)
        # Of its own each: what one draws changes nothing of the others.
        self._load = random.Random(f"{seed} load")
        self._routing = random.Random(f"{seed} routing").random
        self._clocks = random.Random(f"{seed} clocks")
        self._pods = Pods(header.cluster, random.Random(f"{seed} starts"))
        self._idle: list[tuple[Pod, float]] = []
        """Connections on which nobody asks at the moment, with when the last answer ended."""
        self._kept: dict[int, Pod] = {}
        """The connections of `Callers`."""
        self._callers: set[int] = set()
        self._wanted_callers = 0
        self._events: list[tuple[Any, ...]] = []
        self._numbers = itertools.count()
        self._failed_queries = 0
        self._room_is_due = False
        self._wanted = 0
        self._requests = self._hits = self._refused = self._waited = 0.0
        self._calls = self._cut = 0
        self._waits: dict[int, int] = {}
        self._until: list[Block] = []
        self._changes: list[Change] = []
        self._minutes = [Minute() for _ in range(math.ceil(header.seconds / 60))]
        self._decisions: list[Decision] = []
        self._handlers: list[Callable[[float, Any, Any, Any], None]] = [
            self._leave,
            self._expire,
            self._scrape,
            self._sync,
            self._become_ready,
            self._sigterm,
            self._close,
            self._have_room,
            self._set_callers,
            self._ask,
            self._count_from_now,
            self._end_block,
        ]

    def run(self, progress: Callable[[float], None]) -> Outcome:
        self._begin()
        told = 0.0
        for at, call in self._arriving():
            if at - told >= 60:
                told = at
                progress(at / self._seconds)
            self._advance(at)
            if call:
                self._arrive(at, self._phase.service(self._load.random()), _NOBODY)
        self._advance(self._seconds)
        self._end_block()
        return Outcome(
            seconds=self._seconds,
            since=self._since,
            requests=self._requests,
            hits=self._hits,
            calls=self._calls,
            refused=self._refused,
            waited=self._waited,
            cut=self._cut,
            waits=self._waits,
            changes=self._changes,
            minutes=self._minutes,
            decisions=self._decisions,
            blocks=[
                later.less(earlier)
                for earlier, later in itertools.pairwise([Block(0.0, 0.0, {}), *self._until])
            ],
            queued=sum(len(pod.waiting) for pod in self._pods.all),
        )

    def _begin(self) -> None:
        """The pods that are there at first are ready, and have been scraped while they were idle."""
        scaling, cluster = self._values.autoscaling, self._record.header.cluster
        autoscaler = _autoscaler(self._values, with_floors=bool(self._floors))
        if autoscaler is None:
            self._wanted = self._values.replicas
        else:
            least = max(scaling.minReplicas, self._floor(0.0))
            self._wanted = least if cluster.replicas is None else cluster.replicas
            synced = self._pace.synced
            first = self._clocks.uniform(0, self._pace.sync) if synced is None else synced % self._pace.sync
            self._at(first, _SYNC, autoscaler)
        for _ in range(self._wanted):
            pod = self._pods.make(self._gate())
            self._pods.ready(pod)
            first = self._clocks.uniform(0, self._pace.scrape)
            pod.demand, pod.scraped = 0.0, first - self._pace.scrape
            self._at(first, _SCRAPE, pod)
        for callers in self._record.callers:
            self._at(callers.at, _CALLERS, callers.count)
        if self._since:
            self._at(self._since, _COUNT)
        for end in self._ends:
            self._at(end, _BLOCK)
        self._note(0.0)

    def _gate(self) -> SimulatedGate:
        # A record does not say which of several models is asked for: then they are taken for one that has its share.
        return SimulatedGate(self._values.config.admission, one_model=self._values.one_model)

    def _at(self, moment: float, kind: int, a: Any = None, b: Any = None, c: Any = None) -> None:
        heappush(self._events, (moment, next(self._numbers), kind, a, b, c))

    def _advance(self, until: float) -> None:
        """Everything that happens up to then."""
        events, handlers = self._events, self._handlers
        while events and events[0][0] <= until:
            now, _, kind, a, b, c = heappop(events)
            handlers[kind](now, a, b, c)

    # --- The load ---

    def _arriving(self) -> Iterator[tuple[float, bool]]:
        """Moments at which calls come, and the beginning of each step, which is no call."""
        chance = self._load.random
        for arrivals in self._record.arrivals:
            step = arrivals.step
            for index, expected in enumerate(arrivals.requests):
                at = arrivals.at + index * step
                if at >= self._seconds:
                    return
                yield at, False
                self._enter_phase(at)
                requests = int(expected + chance())
                not_called, hits = self._phase.not_called, self._phase.hits
                calls = sum(chance() >= not_called for _ in range(requests))
                self._requests += requests
                self._hits += (requests - calls) * (hits / not_called if not_called else 0.0)
                self._minutes[int(at // 60)].requests += requests
                for moment in sorted(at + chance() * step for _ in range(calls)):
                    if moment < self._seconds:
                        yield moment, True

    def _enter_phase(self, now: float) -> None:
        while self._next_phase < len(self._phases) and self._phases[self._next_phase].at <= now:
            self._phase = self._phases[self._next_phase]
            self._next_phase += 1

    def _set_callers(self, now: float, count: int, *_: Any) -> None:
        """Those past the number that is wanted stop after their present answer."""
        before, self._wanted_callers = self._wanted_callers, count
        for caller in range(before, count):
            if caller not in self._callers:  # else it has yet to notice that it was to stop
                self._callers.add(caller)
                self._ask(now, caller)

    def _ask(self, now: float, caller: int, *_: Any) -> None:
        """One of the callers asks its next question."""
        if caller >= self._wanted_callers:
            self._callers.discard(caller)
            self._kept.pop(caller, None)
            return
        self._enter_phase(now)
        self._requests += 1
        self._minute(now).requests += 1
        if self._load.random() < self._phase.not_called:
            self._hits += 1
            self._at(now + LEAST_TIME, _ASK, caller)
        else:
            self._arrive(now, self._phase.service(self._load.random()), caller)

    # --- One call ---

    def _arrive(self, now: float, service: float, caller: int) -> None:
        self._calls += 1
        call = next(self._numbers)
        weight = self._phase.weight
        if service > self._max_stream:
            service = self._max_stream
            self._cut += 1
        if caller != _NOBODY:
            service = max(service, LEAST_TIME)  # else no time would pass
        pod = self._connect(now, caller)
        if pod is None:
            self._refuse(now, weight, caller)
            return
        verdict, evicted = pod.gate.enter(call, 0, now)
        if evicted is not None:
            _, _, others, other = pod.waiting.pop(evicted)
            pod.calls -= 1
            self._refuse(now, others, other)
        if verdict == "entered":
            pod.calls += 1
            self._waits[0] = self._waits.get(0, 0) + 1
            heappush(self._events, (now + service, next(self._numbers), _LEAVE, pod, now, (caller, False)))
        elif verdict == "queued":
            pod.calls += 1
            pod.waiting[call] = (now, service, weight, caller)
            self._at(now + self._queue_timeout, _EXPIRE, pod, call)
        else:
            self._refuse(now, weight, caller)

    def _connect(self, now: float, caller: int) -> Pod | None:
        """The pod that the connection of a call leads to; None where no pod is ready."""
        if caller != _NOBODY:
            pod = self._kept.get(caller)
            if pod is None or pod.state in ("closed", "gone"):
                pod = self._endpoint()
            if pod is not None:
                self._kept[caller] = pod
            return pod
        idle = self._idle
        while idle:
            index = int(self._routing() * len(idle))
            pod, since = idle[index]
            idle[index] = idle[-1]
            idle.pop()
            if since > now - self._connections.keep and pod.state not in ("closed", "gone"):
                return pod
        return self._endpoint()

    def _endpoint(self) -> Pod | None:
        """A Service chooses evenly among pods that are ready."""
        endpoints = self._pods.endpoints
        return endpoints[int(self._routing() * len(endpoints))] if endpoints else None

    def _leave(self, now: float, pod: Pod, entered: float, who: tuple[int, bool]) -> None:
        """A call ends, and gives its slot to whoever waits."""
        pod.calls -= 1
        for call, _ in pod.gate.leave(0, entered, now):
            came, service, weight, caller = pod.waiting.pop(call)
            self._waited += weight
            self._minute(came).waited += weight
            milliseconds = int((now - came) * 1000)
            self._waits[milliseconds] = self._waits.get(milliseconds, 0) + 1
            self._at(now + service, _LEAVE, pod, now, (caller, True))
        caller, waited = who
        leaves = waited and self._connections.leave_full
        self._answered(now, pod, caller, stays=not leaves and pod.state in ("ready", "leaving"))
        if pod.calls == 0 and pod.state == "closed":
            self._end(now, pod)

    def _answered(self, now: float, pod: Pod, caller: int, *, stays: bool) -> None:
        """`stays`: its connection is kept, and leads to the same pod (docs/adr/0019)."""
        if caller == _NOBODY:
            if stays and self._connections.keep:
                self._idle.append((pod, now))
            return
        if not stays:
            self._kept.pop(caller, None)
        self._ask(now, caller)

    def _expire(self, now: float, pod: Pod, call: int, _: Any) -> None:
        if call not in pod.waiting:
            return
        pod.gate.expire(call, 0)
        came, _, weight, caller = pod.waiting.pop(call)
        pod.calls -= 1
        self._waited += weight
        self._minute(came).waited += weight
        self._refuse(now, weight, caller)
        if pod.calls == 0 and pod.state == "closed":
            self._end(now, pod)

    def _refuse(self, now: float, weight: float, caller: int) -> None:
        self._refused += weight
        self._minute(now).refused += weight
        if caller != _NOBODY:
            self._kept.pop(caller, None)
            self._at(now + self._connections.again, _ASK, caller)

    # --- The autoscaler ---

    def _scrape(self, now: float, pod: Pod, *_: Any) -> None:
        if pod.state == "gone":
            return
        pod.demand, pod.scraped = pod.gate.demand(now), now
        self._at(now + self._pace.scrape, _SCRAPE, pod)

    def _sync(self, now: float, autoscaler: Autoscaler, *_: Any) -> None:
        self._at(now + self._pace.sync, _SYNC, autoscaler)
        if not self._wanted:
            return  # an autoscaler lets those rest that are scaled to nothing
        pods = [
            SeenPod(
                name=pod.name,
                phase="Pending" if pod.state in ("pending", "starting") else "Running",
                deleted=pod.state in DELETED,
            )
            for pod in self._pods.all
        ]
        readings = [self._reading(now)]
        if self._floors and self._values.autoscaling.mode == "keda":
            readings.append([self._floor(now) * 1000])
        elif self._floors:
            least = max(self._values.autoscaling.minReplicas, self._floor(now))
            autoscaler.spec = msgspec.structs.replace(autoscaler.spec, min_replicas=least)
        decision = autoscaler.decide(
            now, self._wanted, pods, readings, status_replicas=len(self._pods.active)
        )
        self._decisions.append(decision)
        if decision.replicas != self._wanted:
            self._wanted = decision.replicas
            self._reconcile(now)

    def _floor(self, now: float) -> int:
        """The fewest replicas of this hour of the week, as far as `maxReplicas` allows."""
        if not self._floors:
            return 0
        hour = hour_of_week(self._record.header.began + now)
        return min(self._floors[hour], self._values.autoscaling.maxReplicas)

    def _reading(self, now: float) -> Mapping[str, Sample] | list[int] | None:
        """What the metrics API answers."""
        blind = any(since <= now < until for since, until in self._record.header.cluster.blind)
        if self._values.autoscaling.mode == "keda":
            return self._answer_of_keda(now, blind=blind)
        if blind:
            return None
        found = ((pod.name, pod.figure(now, self._pace.window)) for pod in self._pods.all)
        return {name: Sample(int(figure * 1000)) for name, figure in found if figure is not None} or None

    def _answer_of_keda(self, now: float, *, blind: bool) -> list[int] | None:
        """The sum of all pods that are there; one that was scraped before and is not now counts as one at its target.

        After `failureThreshold` failures what keeps the replicas that there are, and at least `minReplicas`.
        """
        target = self._values.target
        figures = [pod.figure(now, self._pace.window) for pod in self._pods.all]
        known = [figure for figure in figures if figure is not None]
        if known and not blind:
            self._failed_queries = 0
            lost = sum(
                pod.demand is not None and pod.figure(now, self._pace.window) is None
                for pod in self._pods.all
            )
            return [int((sum(known) + target * lost) * 1000)]
        self._failed_queries += 1
        if self._failed_queries <= self._values.autoscaling.keda.failureThreshold:
            return None
        return [max(self._wanted, self._values.autoscaling.minReplicas) * target * 1000]

    # --- Pods ---

    def _reconcile(self, now: float) -> None:
        """As many pods as are wanted."""
        for _ in range(self._wanted - len(self._pods.active)):
            self._pods.make(self._gate())
        for _ in range(len(self._pods.active) - self._wanted):
            pod = self._pods.leaves_first()
            if self._pods.delete(pod):
                self._at(now + self._values.preStopSeconds, _SIGTERM, pod)
        self._place(now)

    def _place(self, now: float) -> None:
        for pod, start in self._pods.place():
            self._at(now + start, _READY, pod)
        cluster = self._record.header.cluster
        if self._pods.pending and cluster.more_room and not self._room_is_due:
            self._room_is_due = True
            self._at(now + cluster.more_room_after, _ROOM, cluster.more_room)
        self._note(now)

    def _have_room(self, now: float, more: int, *_: Any) -> None:
        self._room_is_due = False
        if self._pods.pending:
            self._pods.add_room(more)
            self._place(now)

    def _become_ready(self, now: float, pod: Pod, *_: Any) -> None:
        if pod.state != "starting":
            return
        self._pods.ready(pod)
        self._note(now)
        found = self._clocks.uniform(0, self._pace.discovery)
        self._at(now + found + self._clocks.uniform(0, self._pace.scrape), _SCRAPE, pod)

    def _sigterm(self, now: float, pod: Pod, *_: Any) -> None:
        pod.state = "lingering"
        pod.gate.draining = True
        self._at(now + self._values.config.drain.linger, _CLOSE, pod)

    def _close(self, now: float, pod: Pod, *_: Any) -> None:
        pod.state = "closed"
        if pod.calls == 0:
            self._end(now, pod)

    def _end(self, now: float, pod: Pod) -> None:
        self._pods.remove(pod)
        self._place(now)

    # --- What is noted ---

    def _count_from_now(self, *_: Any) -> None:
        self._requests = self._hits = self._refused = self._waited = 0.0
        self._calls = self._cut = 0
        self._waits = {}

    def _end_block(self, *_: Any) -> None:
        self._until.append(Block(self._requests, self._refused, dict(self._waits)))

    def _note(self, now: float) -> None:
        change = Change(now, self._wanted, len(self._pods.endpoints), len(self._pods.all))
        if self._changes and self._changes[-1].at == now:
            self._changes.pop()
        self._changes.append(change)

    def _minute(self, now: float) -> Minute:
        return self._minutes[min(int(now // 60), len(self._minutes) - 1)]


def _autoscaler(values: Values, *, with_floors: bool) -> Autoscaler | None:
    if values.autoscaling.mode == "none":
        return None
    spec = values.autoscaler()
    if with_floors and values.autoscaling.mode == "keda":
        spec["metrics"].append(_CRON)
    try:
        return Autoscaler(read_spec(spec), Controller())
    except (msgspec.ValidationError, ValueError) as error:
        text, _, place = str(error).partition(" - at `$")
        raise ConfigError(f"autoscaling{place.rstrip('`') or ''}: {text}") from None
