"""Which values meet an objective at the least cost: simulations of one part of a record, judged on the rest of it.

Cost and refusals both go one way with the target, so of the targets on the grid the highest that meets the objective is
found by halving, whatever the other values are. Those are changed one kind after the other from what has come out best
so far, and a change counts only where it spares a hundredth. What is recommended is judged on the part of the record
that no trial has seen, beside the present values, and then with twice the load and without the cache.

The cheapest values that meet an objective on a record just meet it, and were chosen for the chance in it: the next hour
would miss it half of the time. So no trial is of what came as it came. Its requests are drawn anew (`again`), and the
objective has to be met by what one more block of so drawn load stays below with 90 % (`_bound`); a block is as long
as what is held out. What the search has found by a few draws is then tried with others, which did not choose it: its
target goes down until they meet the objective, too, and up as long as they do.

Where the tuned part is long, trials are of three hours of it (`_cuts`), and what they find is tried on the whole, with
higher targets, too, since those hours are more demanding than it.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import signal
import statistics
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import msgspec

from dub5.advisor import schedule
from dub5.advisor.record import Record, again, part, preceded, times, without_cache
from dub5.advisor.simulation import simulate, wait_of
from dub5.advisor.values import Policy, Rules, Values
from dub5.settings.model import Duration

TARGETS = (20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80, 85, 90)
LEAST = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
WINDOWS = (60, 300, 900)
UPS = ((100, 4, 15), (300, 10, 15))
DOWNS = ((25, 60), (100, 60))
TIMEOUTS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
TAKEN = (60, 80, 100, 130)
"""The grid, beside what is in force: targets in percent, fewest replicas, seconds of stabilization downwards; policies:
percent, pods, seconds; seconds of `queue_timeout`; percent of slots that a floor by hour leaves taken at the peak."""

TUNED, HELD, CUTS = "tuned on", "held out", "three hours of it"
"""Parts of a record; trials of the search are of the first or the last, with requests drawn anew."""

DOUBLED, NO_CACHE = "twice the load", "without the cache"

_WARM_UP = 900.0
"""Seconds before a part in which the cluster finds its size; they do not count."""

_SHORT, _BEFORE = 3600.0, 300.0
"""Seconds to tune on, of less than which they would be too much to leave out: there a cluster begins with the size that
it would find, and so many seconds, in which calls get under way, are made up before the record."""

_SHORTLIST, _MOST_SHORTLISTS = 2, 6
_NEAR, _FAR = 2, 5
_MOST_BLOCKS = 100
_GAIN = 0.01
_SIGMAS = 1.28
"""Standard deviations above the mean; nine of ten stay below."""

_FEWEST = 4
"""Blocks from which on their spread says what one more may bring."""

_MORE, _OPEN = 6, (0.5, 2.0)
"""Blocks that a trial goes on with where it comes to between so many times the objective."""

_TRIED_WITH, _OTHERS = 20, 10**6
"""Blocks that what was found is tried with at least; added to the first seed for those draws."""

_SEEDS_OF_LONG = 2
"""Seeds that a verdict on a record is by that is searched on cuts, at most."""

_HEAVY = 400_000
"""Requests from which on the search is made on cuts, where they are shorter than the whole by half at least."""

_HOUR = 3600.0


class Objective(msgspec.Struct, frozen=True):
    """`refused`: the share of requests; `wait`: seconds that 99 % of calls wait at most."""

    refused: float = 0.001
    wait: float = 1.0

    def is_met(self, refused: float, wait: float) -> bool:
        return refused <= self.refused and wait <= self.wait


class Choice(msgspec.Struct, frozen=True, order=True, kw_only=True):
    """The values that are searched, by the chart's names; `window` is `scaleDown.stabilizationWindowSeconds`.

    `up` are policies of `scaleUp`, (percent, pods, seconds), and `down` of `scaleDown`, (percent, seconds); () leaves
    those in force. `floors` are the fewest replicas by hour of the week (schedule.py), or none.
    """

    minReplicas: int  # noqa: N815  # the chart's names
    maxReplicas: int  # noqa: N815
    targetPercentage: int  # noqa: N815
    window: int
    max_inflight: int
    queue_timeout: float
    up: tuple[int, ...] = ()
    down: tuple[int, ...] = ()
    floors: tuple[int, ...] = ()

    def changed(self, before: Choice) -> int:
        """How many values differ."""
        return sum(getattr(self, name) != getattr(before, name) for name in self.__struct_fields__)


class Judged(msgspec.Struct, frozen=True):
    """What one simulation has come to: replica-hours, shares of requests, seconds, most replicas ready, streams cut.

    `blocks` are shares refused, and waits, of equal parts of it.
    """

    cost: float
    refused: float
    waited: float
    wait: float
    most: int
    cut: int = 0
    blocks: tuple[tuple[float, float], ...] = ()

    def meets(self, objective: Objective) -> bool:
        return objective.is_met(self.refused, self.wait)


class Trial(msgspec.Struct, frozen=True):
    """One simulation to be made, of a part of the record; `anew`: with requests drawn anew, by the seed."""

    of: str
    choice: Choice
    seed: int
    anew: bool = False


class Spread(NamedTuple):
    """Over seeds."""

    least: float
    mean: float
    most: float


class Verdict(msgspec.Struct, frozen=True):
    """What some seeds have come to with one choice."""

    choice: Choice
    judged: list[Judged]

    @property
    def cost(self) -> float:
        return self.spread("cost").mean

    @property
    def refused(self) -> float:
        return self.spread("refused").mean

    @property
    def wait(self) -> float:
        return self.spread("wait").mean

    @property
    def cut(self) -> int:
        return max(each.cut for each in self.judged)

    @property
    def most(self) -> int:
        """Replicas that were ready at once."""
        return max(each.most for each in self.judged)

    def spread(self, of: str) -> Spread:
        """Of a number in `Judged`."""
        values = [getattr(each, of) for each in self.judged]
        return Spread(min(values), statistics.fmean(values), max(values))

    def meets(self, objective: Objective) -> bool:
        """With each seed."""
        return all(each.meets(objective) for each in self.judged)

    def keeps(self, objective: Objective) -> bool:
        """Whether it can be expected of one more block to meet it."""
        return self.excess(objective) <= 1.0

    def excess(self, objective: Objective) -> float:
        """How many times the objective one more block comes to, at worst: each block in the mean of the seeds, and what
        one of all of them stays below; with few of them, the worst."""
        each = [judged.blocks or ((judged.refused, judged.wait),) for judged in self.judged]
        refused, waits = (
            max(
                _bound([block[part] for blocks in each for block in blocks]),
                *(statistics.fmean(block[part] for block in same) for same in zip(*each, strict=True)),
            )
            for part in (0, 1)
        )
        # Nobody waits for longer.
        wait = min(waits, self.choice.queue_timeout)
        return max(refused / max(objective.refused, 1e-5), wait / max(objective.wait, 1e-2))

    def rank(self, objective: Objective, now: Choice) -> tuple[bool, float, Choice]:
        """Less is better: what keeps the objective, at the least cost with a fee for each change; then what misses it
        by least."""
        excess = self.excess(objective)
        number = self.cost * (1 + _GAIN * self.choice.changed(now))
        return (excess > 1.0, number if excess <= 1.0 else excess, self.choice)


def _bound(found: Sequence[float]) -> float:
    """What one more stays below with 90 %, if they are of a gamma distribution, which like shares of refusals is
    skew and never below 0 (Wilson and Hilferty 1931); the greatest of few."""
    mean = statistics.fmean(found)
    if len(found) < _FEWEST or mean == 0:
        return max(found)
    relative = statistics.stdev(found) / mean / 3
    return mean * (1 - relative**2 + _SIGMAS * relative) ** 3


class Advice(msgspec.Struct, frozen=True):
    """`present` and `best` are verdicts by the part of the record, TUNED and HELD; `best` is None where nothing on the
    grid met the objective on the first. `tried` are all trials of one seed in the search, on `searched_on`; `what_if`
    has `best`, or else the present values, under more. `notes` say what was left out and assumed, in sentences. `hpa`
    is the name of the HorizontalPodAutoscaler.
    """

    objective: Objective
    present: dict[str, Verdict]
    best: dict[str, Verdict] | None
    tried: list[Verdict]
    what_if: dict[str, Verdict]
    searched_on: str
    notes: list[str]
    hpa: str = "dub5"

    @property
    def part_searched(self) -> str:
        """Of the record, in words."""
        return TUNED if self.searched_on == TUNED else f"{TUNED}, {self.searched_on}"

    @property
    def present_meets(self) -> bool:
        """On both parts."""
        return all(verdict.meets(self.objective) for verdict in self.present.values())

    def front(self) -> list[Verdict]:
        """Those of `tried` for which none that is cheaper refuses as few and waits as short, by cost."""
        found: list[Verdict] = []
        for each in sorted(self.tried, key=lambda verdict: (verdict.cost, verdict.refused, verdict.wait)):
            if not any(other.refused <= each.refused and other.wait <= each.wait for other in found):
                found.append(each)
        return found


class Nothing(Exception):
    """Of a record from which nothing can be recommended; the message says why."""


class Bounds(NamedTuple):
    """Within which values may be searched that a record says nothing of; None leaves `max_inflight` as it is."""

    max_inflight: tuple[int, int] | None = None
    max_replicas: int | None = None


class Space(msgspec.Struct, frozen=True):
    """What is searched, and on what. `most` are maxima of replicas, of which the next is tried where nothing up to one
    met the objective; `floors` by percent of slots taken. By so many `draws` of the load a trial of the search is, by
    so many `more` where those do not decide, by so many `others` what it has found; a replica that is there all the
    time costs `hours`."""

    now: Choice
    least: tuple[int, ...]
    inflight: tuple[int, ...]
    ups: tuple[tuple[int, ...], ...]
    downs: tuple[tuple[int, ...], ...]
    most: tuple[int, ...]
    peaks: tuple[float, ...]
    searched_on: str
    hours: float
    draws: int
    more: int
    others: int
    notes: list[str]


Run = Callable[[Sequence[Trial]], Iterable[Judged]]
"""Makes trials, and gives what they came to in their order."""

Progress = Callable[[str], None]


def space_of(record: Record, values: Values, held_out: float, bounds: Bounds) -> Space:
    """Nothing where the record has no load to tune on."""
    tuned = part(record, 0.0, record.header.seconds * (1 - held_out))
    held = part(record, record.header.seconds * (1 - held_out), record.header.seconds)
    notes = list(_notes(tuned, held, bounds))
    replace, now = msgspec.structs.replace, present(values)
    as_it_is = chosen(values, now)
    offered = [offered for _, offered in schedule.offered_by_minute(tuned)]
    peak = max(offered, default=0.0) or max((float(each.count) for each in tuned.callers), default=0.0)
    low = now.max_inflight if bounds.max_inflight is None else min(bounds.max_inflight[0], now.max_inflight)
    limit = 2 * now.maxReplicas if bounds.max_replicas is None else max(now.maxReplicas, bounds.max_replicas)
    needed = min(limit, math.ceil(peak / low) + 2)
    cuts = _cuts(tuned)
    heavy = tuned.requests > _HEAVY and 2 * len(cuts) * (_HOUR + _WARM_UP) < tuned.header.seconds
    if heavy:
        notes.append(
            "The part that was tuned on is long: values were searched on three hours of it, the most demanding of its"
            " quiet, middle and busy ones, and then tried on all of it, with two seeds at most."
        )
    return Space(
        now=now,
        least=tuple(sorted({*(each for each in LEAST if each <= needed), now.minReplicas})),
        inflight=_between(bounds.max_inflight, now.max_inflight),
        ups=((), *(up for up in UPS if chosen(values, replace(now, up=up)) != as_it_is)),
        downs=((), *(down for down in DOWNS if chosen(values, replace(now, down=down)) != as_it_is)),
        most=tuple(_maxima(now.maxReplicas, limit)),
        peaks=() if schedule.why_not(tuned) else tuple(schedule.peaks(tuned)),
        searched_on=CUTS if heavy else TUNED,
        hours=sum(weight for _, weight in cuts)
        if heavy
        else (tuned.header.seconds - _left_out(tuned.header.seconds)) / 3600,
        draws=1 if heavy else math.ceil(_FEWEST / _blocks(held_out)),
        more=0 if heavy else math.ceil(_MORE / _blocks(held_out)),
        others=_FEWEST if heavy else max(_FEWEST, math.ceil(_TRIED_WITH / _blocks(held_out))),
        notes=notes,
    )


def _maxima(now: int, limit: int) -> Iterator[int]:
    """Of replicas: that in force, then half as many more and twice as many, again and again, and at last the limit."""
    doubled = now
    while doubled < limit:
        yield doubled
        between = math.ceil(1.5 * doubled)
        if between < min(limit, 2 * doubled):
            yield between
        doubled *= 2
    yield limit


def _blocks(held_out: float) -> int:
    """As long as what is held out, of what is tuned on."""
    return min(_MOST_BLOCKS, max(1, round((1 - held_out) / held_out)))


def _left_out(seconds: float) -> float:
    """Seconds, of so many to tune on."""
    return 0.0 if seconds < _SHORT else _WARM_UP


def _settled(record: Record, values: Values) -> Record:
    """Begun with as many replicas as the autoscaler wants for the calls of the first minute. From the fewest it would
    go beyond that, since a queue is demand, too, and a window of 900 s would hold it there until the part begins."""
    header, scaling = record.header, values.autoscaling
    taken = dict(schedule.offered_by_minute(record)).get(0.0, 0.0)
    taken += sum(each.count for each in record.callers[:1] if each.at == 0)
    asked = max(scaling.minReplicas, min(scaling.maxReplicas, math.ceil(taken / values.target)))
    room = header.cluster.room
    replicas = asked if room is None else min(asked, room)
    replace = msgspec.structs.replace
    return replace(record, header=replace(header, cluster=replace(header.cluster, replicas=replicas)))


def _between(bounds: tuple[int, int] | None, now: int) -> tuple[int, ...]:
    """Five numbers, evenly by factor; and the present one where it is between them."""
    if bounds is None:
        return (now,)
    low, high = bounds
    steps = {round(low * (high / low) ** (index / 4)) for index in range(5)}
    return tuple(sorted({*steps, *([now] if low <= now <= high else [])}))


def _notes(tuned: Record, held: Record, bounds: Bounds) -> Iterable[str]:
    if not _has_load(tuned):
        raise Nothing("the part of the record that values are tuned on has no requests")
    if not _has_load(held):
        yield "The part that was held out has no requests: nothing was judged on it."
    if not _left_out(tuned.header.seconds):
        yield (
            "The record is short, so all of it counts: what came before is taken to be like its first minute (at most"
            " an eighth of it), and a cluster begins with the replicas that its values come to under that. For a jump"
            " within that minute it is prepared; `simulate` shows how it is where it is not."
        )
    if bounds.max_inflight is None:
        yield (
            "config.admission.max_inflight was left as it is: what a replica's CPU can bear is not in the record. Where"
            " you know, give the bounds: --max-inflight 20..100."
        )
    else:
        yield (
            "config.admission.max_inflight was searched within the bounds that were given; the record knows nothing of"
            " CPU, so that a replica bears it is yours to know."
        )
    why = schedule.why_not(tuned)
    yield (
        f"No floor by hour of the week was tried: {why}."
        if why
        else f"Floors by hour of the {'week' if tuned.header.seconds >= schedule.WEEK else 'day'} were tried."
    )


def _has_load(record: Record) -> bool:
    return record.requests > 0 or any(each.count for each in record.callers)


class Bench:
    """Makes single trials. Where several processes do that, each has one."""

    _here: ClassVar[Bench]

    def __init__(self, record: Record, values: Values, held_out: float) -> None:
        self._values = values
        seconds = record.header.seconds
        self._short = not _left_out(seconds * (1 - held_out))
        if self._short:
            record = preceded(record, _BEFORE)
        before = record.header.seconds - seconds
        middle = before + seconds * (1 - held_out)
        begin = max(0.0, middle - _WARM_UP)
        tuned, rest = part(record, 0.0, middle), part(record, begin, before + seconds)
        self._records = {
            TUNED: [(tuned, before or _WARM_UP, _blocks(held_out), 1.0)],
            HELD: [(rest, middle - begin, 1, 1.0)],
            DOUBLED: [(times(rest, 2.0), middle - begin, 1, 1.0)],
            NO_CACHE: [(without_cache(rest), middle - begin, 1, 1.0)],
            CUTS: [
                (part(tuned, max(0.0, at - _WARM_UP), at + _HOUR), min(at, _WARM_UP), 1, weight)
                for at, weight in _cuts(tuned)
            ],
        }

    @classmethod
    def begin(cls, *made_of: Any) -> None:
        """Make the one of this process, which ends with the one that it works for, whatever ended that."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
        cls._here = cls(*made_of)

    @classmethod
    def judge_there(cls, trial: Trial) -> Judged:
        """By the one of this process."""
        return cls._here.judge(trial)

    def judge(self, trial: Trial) -> Judged:
        """Of several records the sum, each as often as its weight says."""
        values = chosen(self._values, trial.choice)
        made = [
            (
                weight,
                simulate(
                    again(begun, trial.seed) if trial.anew else begun,
                    values,
                    seed=trial.seed,
                    since=since,
                    blocks=blocks,
                    floors=trial.choice.floors,
                ),
            )
            for record, since, blocks, weight in self._records[trial.of]
            for begun in (_settled(record, values) if self._short else record,)
        ]
        requests = sum(weight * outcome.requests for weight, outcome in made) or 1.0
        waits: dict[int, float] = defaultdict(float)
        for weight, outcome in made:
            for wait, count in outcome.waits.items():
                waits[wait] += weight * count
        blocks = [block for _, outcome in made for block in outcome.blocks if len(outcome.blocks) > 1]
        return Judged(
            cost=sum(weight * outcome.replica_hours for weight, outcome in made),
            refused=sum(weight * outcome.refused for weight, outcome in made) / requests,
            waited=sum(weight * outcome.waited for weight, outcome in made) / requests,
            wait=wait_of(waits, 0.99),
            most=max(outcome.most for _, outcome in made),
            cut=sum(outcome.cut for _, outcome in made),
            blocks=tuple((block.refused / max(block.requests, 1.0), block.wait(0.99)) for block in blocks),
        )


def _end_with_parent() -> None:
    """Else it would wait for further trials for ever: it holds both ends of the pipe that they come by."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _cuts(tuned: Record) -> list[tuple[float, float]]:
    """When three hours begin that stand for the whole, and for how many times their load each does: of the hours by
    load, the quiet third, the middle and the busy one, that in which load rises most within five minutes.
    """
    minutes = dict(schedule.offered_by_minute(tuned))
    hours = range(int(tuned.header.seconds // _HOUR))

    def rise(hour: int) -> float:
        loads = [minutes.get(hour * _HOUR + minute * 60.0, 0.0) for minute in range(-5, 60)]
        return max(later - earlier for earlier, later in zip(loads, loads[5:], strict=False))

    def load(hour: int) -> float:
        return sum(minutes.get(hour * _HOUR + minute * 60.0, 0.0) for minute in range(60))

    ordered = sorted(hours, key=load)
    third = math.ceil(len(ordered) / 3) or 1
    thirds = [ordered[first : first + third] for first in range(0, len(ordered), third)]
    chosen = [(max(each, key=rise), each) for each in thirds]
    return [
        (hour * _HOUR, sum(map(load, each)) / load(hour) if load(hour) else float(len(each)))
        for hour, each in chosen
    ]


def present(values: Values) -> Choice:
    """The choice that is in force."""
    scaling, down = values.autoscaling, values.autoscaling.behavior.scaleDown
    window = down.stabilizationWindowSeconds if down is not None else None
    return Choice(
        minReplicas=scaling.minReplicas,
        maxReplicas=scaling.maxReplicas,
        targetPercentage=scaling.targetPercentage,
        window=300 if window is None else window,
        max_inflight=values.config.admission.max_inflight,
        queue_timeout=float(values.config.admission.queue_timeout),
    )


def chosen(values: Values, choice: Choice) -> Values:
    """The values with this choice."""
    replace = msgspec.structs.replace
    scaling, admission = values.autoscaling, values.config.admission
    up, down = scaling.behavior.scaleUp, scaling.behavior.scaleDown or Rules()
    down = replace(down, stabilizationWindowSeconds=choice.window)
    if choice.up:
        percent, pods, seconds = choice.up
        policies = [Policy("Percent", percent, seconds), Policy("Pods", pods, seconds)]
        up = replace(up or Rules(), policies=policies)
    if choice.down:
        percent, seconds = choice.down
        down = replace(down, policies=[Policy("Percent", percent, seconds)])
    return replace(
        values,
        autoscaling=replace(
            scaling,
            minReplicas=choice.minReplicas,
            maxReplicas=max(choice.maxReplicas, choice.minReplicas),
            targetPercentage=choice.targetPercentage,
            behavior=replace(scaling.behavior, scaleUp=up, scaleDown=down),
        ),
        config=replace(
            values.config,
            admission=replace(
                admission,
                max_inflight=choice.max_inflight,
                queue_timeout=Duration(choice.queue_timeout),
            ),
        ),
    )


def recommend(
    space: Space,
    objective: Objective,
    run: Run,
    seeds: Sequence[int],
    progress: Progress = lambda _: None,
) -> Advice:
    """`run` makes trials on a `Bench` of the record and these values."""
    if space.searched_on == CUTS:
        seeds = seeds[:_SEEDS_OF_LONG]
    judges = _Judges(space, run, seeds, progress)
    search = _Search(space, objective, judges)
    search.run()
    tried = list(search.tried.values())
    best, keeps = _best(space, tried, objective, judges)

    def on_both(choice: Choice) -> dict[str, Verdict]:
        return {of: judges.by_seeds(of, choice) for of in (TUNED, HELD)}

    now = on_both(space.now)
    if best is None:
        notes = []
    elif keeps:
        margin = (
            f"The objective was also kept with {space.others} loads like what was tuned on, each with requests drawn"
            " anew, that had no part in the search: in the mean, and with a margin for one"
            " block more. A load that is another one in the end is not in that."
        )
        notes = [margin]
    else:
        notes = [
            "The objective is met by what was tuned on as it came; by what else may come it is missed: no margin."
        ]
    return Advice(
        objective,
        present=now,
        best=None if best is None else on_both(best),
        tried=tried,
        what_if={of: judges.by_seeds(of, space.now if best is None else best) for of in (DOUBLED, NO_CACHE)},
        searched_on=space.searched_on,
        notes=[*space.notes, *notes],
    )


class _Judges:
    """Verdicts by many trials at once."""

    def __init__(self, space: Space, run: Run, seeds: Sequence[int], progress: Progress) -> None:
        self._of = space.searched_on
        self._run = run
        self._seeds = seeds
        self._verdicts: dict[tuple[str, Choice], Verdict] = {}
        first = seeds[0]
        self._first = range(first, first + space.draws)
        self._more = range(first + space.draws, first + space.draws + space.more)
        self._others = range(first + _OTHERS, first + _OTHERS + space.others)
        self.progress = progress

    def by_seeds(self, of: str, choice: Choice) -> Verdict:
        """On a part as it is; simulated once."""
        verdict = self._verdicts.get((of, choice))
        if verdict is None:
            self.progress(f"judged: {of}")
            trials = [Trial(of, choice, seed) for seed in self._seeds]
            verdict = self._verdicts[of, choice] = Verdict(choice, list(self._run(trials)))
        return verdict

    def in_search(self, choices: Sequence[Choice], objective: Objective) -> list[Verdict]:
        """On load drawn anew, more often where that does not decide."""
        verdicts = self._by_draws(choices, self._first)
        low, high = _OPEN
        open_ones = [each.choice for each in verdicts if low < each.excess(objective) < high]
        more = {each.choice: each.judged for each in self._by_draws(open_ones, self._more)}
        return [Verdict(each.choice, each.judged + more.get(each.choice, [])) for each in verdicts]

    def by_others(self, choice: Choice) -> Verdict:
        """On load drawn anew that has no part in the search."""
        (verdict,) = self._by_draws([choice], self._others)
        return verdict

    def on_the_whole(self, choice: Choice) -> Verdict:
        """The same, of all that is tuned on."""
        (verdict,) = self._by_draws([choice], self._others[: len(self._seeds)], TUNED)
        return verdict

    def _by_draws(self, choices: Sequence[Choice], draws: range, of: str = "") -> list[Verdict]:
        of = of or self._of
        trials = [Trial(of, choice, draw, anew=True) for choice in choices for draw in draws]
        outcomes = iter(self._run(trials))
        return [Verdict(choice, list(itertools.islice(outcomes, len(draws)))) for choice in choices]


class _Search:
    """`tried` are all that were."""

    def __init__(self, space: Space, objective: Objective, judges: _Judges) -> None:
        self._space = space
        self._objective = objective
        self._judges = judges
        self._targets = _targets(space)
        self._known: dict[Choice, Verdict] = {}
        """By what they come to (`_whole`)."""
        self._least_cost = math.inf
        """Of what keeps the objective."""
        self.tried: dict[Choice, Verdict] = {}

    def run(self) -> None:
        """With more replicas at most as long as nothing meets the objective. What cannot be met with all of them there
        all the time is not searched with fewer."""
        slots = min(self._space.inflight, key=lambda each: abs(each - self._space.now.max_inflight))
        for most in self._space.most:
            now = msgspec.structs.replace(self._space.now, maxReplicas=most, max_inflight=slots)
            self._judge([now])
            if most == self._space.most[-1] or self._can_do(now):
                self._from(now)
            if any(verdict.keeps(self._objective) for verdict in self.tried.values()):
                return

    def _can_do(self, now: Choice) -> bool:
        """Whether the objective is met with that maximum, by these values or with all replicas there all the time."""
        if self.tried[now].keeps(self._objective):
            return True
        all_there = msgspec.structs.replace(
            now, minReplicas=now.maxReplicas, max_inflight=max(self._space.inflight)
        )
        choices = [msgspec.structs.replace(all_there, queue_timeout=each) for each in _timeouts(now)]
        self._judge(choices)
        return any(self.tried[choice].keeps(self._objective) for choice in choices)

    def _from(self, now: Choice) -> None:
        space = self._space
        least = [each for each in space.least if each <= now.maxReplicas]
        self._vary(now, "max_inflight", space.inflight, everywhere=True)
        self._vary(now, "minReplicas", least, everywhere=True)
        self._vary(now, "window", sorted({*WINDOWS, now.window}))
        self._vary(now, "up", space.ups)
        self._vary(now, "down", space.downs)
        self._vary(now, "queue_timeout", _timeouts(now))
        self._vary_floors(now)
        self._vary(now, "minReplicas", least)

    def _vary(self, now: Choice, name: str, options: Sequence[Any], *, everywhere: bool = False) -> None:
        """From the best so far, this value changed; each with the target near by, or `everywhere`, that is best."""
        best = self._best(now)
        bases = [msgspec.structs.replace(best, **{name: each}) for each in options]
        self._highest(bases, everywhere=everywhere)

    def _vary_floors(self, now: Choice) -> None:
        """They spare something where less is there at other times."""
        if not self._space.peaks:
            return
        best = self._best(now)
        bases = []
        for taken in TAKEN:
            floors = schedule.floors(self._space.peaks, best.max_inflight * taken / 100, now.maxReplicas)
            for least in {1, min(2, best.minReplicas), best.minReplicas}:
                if max(floors) > max(least, min(floors)):
                    least_of_all = max(least, min(floors))
                    bases.append(msgspec.structs.replace(best, minReplicas=least_of_all, floors=floors))
        self._highest(sorted(set(bases)), everywhere=True)

    def _best(self, now: Choice) -> Choice:
        """Of those with that maximum of replicas."""
        verdicts = (each for each in self.tried.values() if each.choice.maxReplicas == now.maxReplicas)
        return min(verdicts, key=lambda each: each.rank(self._objective, self._space.now)).choice

    def _highest(self, bases: Sequence[Choice], *, everywhere: bool) -> None:
        """For each the highest target that keeps the objective, by halving, all at once; but for those whose fewest
        replicas alone would cost more than what is known to do."""
        targets = self._targets
        bounds = {}
        for base in bases:
            index = targets.index(base.targetPercentage)
            near = (max(-1, index - _NEAR), min(len(targets), index + _NEAR))
            bounds[base] = (-1, len(targets)) if everywhere else near
        while open_bases := [
            base
            for base, (low, high) in bounds.items()
            if high - low > 1 and base.minReplicas * self._space.hours < self._least_cost
        ]:
            middles = [sum(bounds[base]) // 2 for base in open_bases]
            choices = [
                msgspec.structs.replace(base, targetPercentage=targets[middle])
                for base, middle in zip(open_bases, middles, strict=True)
            ]
            self._judge(choices)
            for base, middle, choice in zip(open_bases, middles, choices, strict=True):
                low, high = bounds[base]
                keeps = self.tried[choice].keeps(self._objective)
                bounds[base] = (middle, high) if keeps else (low, middle)

    def _judge(self, choices: Sequence[Choice]) -> None:
        """A target is a whole number of requests: with few slots several percentages are the same, and tried once."""
        self._judges.progress(f"{len(self.tried)} values tried")
        new = {_whole(choice): choice for choice in choices if _whole(choice) not in self._known}
        for verdict in self._judges.in_search(list(new.values()), self._objective):
            self._known[_whole(verdict.choice)] = verdict
            if verdict.keeps(self._objective):
                self._least_cost = min(self._least_cost, verdict.cost)
        for choice in choices:
            self.tried[choice] = Verdict(choice, self._known[_whole(choice)].judged)


def _whole(choice: Choice) -> Choice:
    """Its target in requests."""
    return msgspec.structs.replace(
        choice, targetPercentage=max(1, choice.max_inflight * choice.targetPercentage // 100)
    )


def _timeouts(now: Choice) -> list[float]:
    return sorted({*TIMEOUTS, now.queue_timeout})


def _targets(space: Space) -> list[int]:
    return sorted({*TARGETS, space.now.targetPercentage})


def _best(
    space: Space, tried: Sequence[Verdict], objective: Objective, judges: _Judges
) -> tuple[Choice | None, bool]:
    """The cheapest that keeps the objective also with loads that had no part in the search, and that it does; where
    none does, the cheapest that meets it on what was tuned on as it came."""
    promising = sorted(tried, key=lambda each: each.rank(objective, space.now))
    promising = [each for each in promising if objective.is_met(each.refused, each.wait)]
    for first in range(0, min(len(promising), _SHORTLIST * _MOST_SHORTLISTS), _SHORTLIST):
        judges.progress(f"{first} of {len(promising)} tried with other loads")
        shortlist = [each.choice for each in promising[first : first + _SHORTLIST]]
        found = [_with_safe_target(choice, space, objective, judges) for choice in shortlist]
        kept = [each for each in found if each is not None]
        for each in sorted(kept, key=lambda verdict: verdict.rank(objective, space.now)):
            if judges.by_seeds(TUNED, each.choice).meets(objective):
                return _raised(each, objective, judges) if space.searched_on == CUTS else each.choice, True
    for each in promising[:_SHORTLIST]:
        if judges.by_seeds(TUNED, each.choice).meets(objective):
            return each.choice, False
    return None, False


def _raised(best: Verdict, objective: Objective, judges: _Judges) -> Choice:
    """With a higher target where that keeps the objective on the whole: cuts are more demanding."""
    choice = best.choice
    for target in [each for each in TARGETS if each > choice.targetPercentage][:_NEAR]:
        higher = msgspec.structs.replace(choice, targetPercentage=target)
        if not judges.on_the_whole(higher).keeps(objective):
            break
        choice = higher
    return choice


def _with_safe_target(choice: Choice, space: Space, objective: Objective, judges: _Judges) -> Verdict | None:
    """With the highest target, near that of the search, that keeps the objective with loads that had no part in it."""
    targets = _targets(space)
    index = targets.index(choice.targetPercentage)

    def kept(target: int) -> Verdict | None:
        changed = msgspec.structs.replace(choice, targetPercentage=target)
        verdict = judges.by_others(changed)
        return verdict if verdict.keeps(objective) else None

    best = kept(targets[index])
    if best is None:
        lower = reversed(targets[max(0, index - _FAR) : index])
        return next((found for target in lower if (found := kept(target))), None)
    for target in targets[index + 1 : index + 1 + _NEAR]:
        higher = kept(target)
        if higher is None or higher.cost >= best.cost:
            break
        best = higher
    return best
