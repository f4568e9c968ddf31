"""Which values meet an objective at the least cost: simulations of one part of a record, judged on the rest of it.

What is tried are the fewest replicas, the target, and how long the autoscaler waits before it takes replicas away; the
other values stay as they are. Cost and refusals both go one way with the target, so of the targets on the grid the
highest that meets the objective is found by halving, for each of the other values. What looks best with one seed is
then tried with all; what is recommended is judged on the part of the record that no trial has seen, beside the present
values, and then with twice the load and without the cache.

`max_inflight` is not searched: it is what a replica's CPU can bear, of which a record knows nothing.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import msgspec

from dub5.advisor.record import Record, part, times, without_cache
from dub5.advisor.simulation import simulate
from dub5.advisor.values import Rules, Values

TARGETS = (20, 30, 40, 50, 60, 70, 80, 90)
LEAST = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
WINDOWS = (60, 300, 900)
"""The grid: targets in percent, fewest replicas, seconds of stabilization downwards."""

TUNED, HELD = "tuned on", "held out"
"""Parts of a record."""

_WARM_UP = 900.0
"""Seconds before a part in which the cluster finds its size; they do not count."""

_SHORTLIST = 4


class Objective(msgspec.Struct, frozen=True):
    """`refused`: the share of requests; `wait`: seconds that 99 % of calls wait at most."""

    refused: float = 0.001
    wait: float = 1.0


class Choice(msgspec.Struct, frozen=True, order=True):
    """The values that are searched, by the chart's names; `window` is `scaleDown.stabilizationWindowSeconds`."""

    minReplicas: int  # noqa: N815  # the chart's names
    targetPercentage: int  # noqa: N815
    window: int


class Judged(msgspec.Struct, frozen=True):
    """What one simulation has come to: replica-hours, shares of requests, seconds, and most replicas ready."""

    cost: float
    refused: float
    waited: float
    wait: float
    most: int

    def meets(self, objective: Objective) -> bool:
        return self.refused <= objective.refused and self.wait <= objective.wait


class Trial(msgspec.Struct, frozen=True):
    """One simulation to be made, of a record that is told by its place in `Parts`."""

    of: str
    choice: Choice
    seed: int


class Verdict(msgspec.Struct, frozen=True):
    """What some seeds have come to with one choice."""

    choice: Choice
    judged: list[Judged]

    @property
    def cost(self) -> float:
        return statistics.fmean(each.cost for each in self.judged)

    @property
    def refused(self) -> float:
        return statistics.fmean(each.refused for each in self.judged)

    @property
    def wait(self) -> float:
        return statistics.fmean(each.wait for each in self.judged)

    def meets(self, objective: Objective) -> bool:
        """With each seed."""
        return all(each.meets(objective) for each in self.judged)


class Advice(msgspec.Struct, frozen=True):
    """`present` and `best` are verdicts by the part of the record, TUNED and HELD; `best` is None where nothing on the
    grid met the objective on the first. `tried` are all trials of one seed there; `what_if` has `best`, or else the
    present values, under more.
    """

    objective: Objective
    present: dict[str, Verdict]
    best: dict[str, Verdict] | None
    tried: list[Verdict]
    what_if: dict[str, Verdict]

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


Run = Callable[[Sequence[Trial]], Iterable[Judged]]
"""Makes trials, and gives what they came to in their order."""


class Bench:
    """Makes single trials. Where several processes do that, each has one."""

    _here: ClassVar[Bench]

    def __init__(self, record: Record, values: Values, held_out: float) -> None:
        self._values = values
        seconds = record.header.seconds
        middle = seconds * (1 - held_out)
        begin = max(0.0, middle - _WARM_UP)
        rest = part(record, begin, seconds)
        self._records = {
            TUNED: (part(record, 0.0, middle), min(_WARM_UP, middle / 4)),
            HELD: (rest, middle - begin),
            "twice the load": (times(rest, 2.0), middle - begin),
            "without the cache": (without_cache(rest), middle - begin),
        }

    @classmethod
    def begin(cls, *made_of: Any) -> None:
        """Make the one of this process."""
        cls._here = cls(*made_of)

    @classmethod
    def judge_there(cls, trial: Trial) -> Judged:
        """By the one of this process."""
        return cls._here.judge(trial)

    def judge(self, trial: Trial) -> Judged:
        record, since = self._records[trial.of]
        outcome = simulate(record, chosen(self._values, trial.choice), seed=trial.seed, since=since)
        return Judged(
            cost=outcome.replica_hours,
            refused=outcome.refused_share,
            waited=outcome.waited_share,
            wait=outcome.wait(0.99),
            most=outcome.most,
        )


def present(values: Values) -> Choice:
    """The choice that is in force."""
    scaling, down = values.autoscaling, values.autoscaling.behavior.scaleDown
    window = down.stabilizationWindowSeconds if down is not None else None
    return Choice(scaling.minReplicas, scaling.targetPercentage, 300 if window is None else window)


def chosen(values: Values, choice: Choice) -> Values:
    """The values with this choice."""
    replace = msgspec.structs.replace
    scaling = values.autoscaling
    down = replace(scaling.behavior.scaleDown or Rules(), stabilizationWindowSeconds=choice.window)
    return replace(
        values,
        autoscaling=replace(
            scaling,
            minReplicas=choice.minReplicas,
            maxReplicas=max(scaling.maxReplicas, choice.minReplicas),
            targetPercentage=choice.targetPercentage,
            behavior=replace(scaling.behavior, scaleDown=down),
        ),
    )


def recommend(
    values: Values,
    objective: Objective,
    run: Run,
    seeds: Sequence[int],
    progress: Callable[[str], None] = lambda _: None,
) -> Advice:
    """`run` makes trials on a `Bench` of the record and these values."""
    now = present(values)
    tried = _search(values, objective, run, seeds[0], progress)
    best = _best(tried, objective, run, seeds, progress)

    def judged(of: str, choice: Choice) -> Verdict:
        progress(of)
        return Verdict(choice, list(run([Trial(of, choice, seed) for seed in seeds])))

    def on_both(choice: Choice) -> dict[str, Verdict]:
        return {of: judged(of, choice) for of in (TUNED, HELD)}

    choice = now if best is None else best
    return Advice(
        objective,
        present=on_both(now),
        best=None if best is None else on_both(best),
        tried=tried,
        what_if={of: judged(of, choice) for of in ("twice the load", "without the cache")},
    )


def _search(
    values: Values, objective: Objective, run: Run, seed: int, progress: Callable[[str], None]
) -> list[Verdict]:
    """For each window and each fewest number the highest target that meets the objective, by halving, all at once."""
    now = present(values)
    least = sorted({*(each for each in LEAST if each <= values.autoscaling.maxReplicas), now.minReplicas})
    windows = sorted({*WINDOWS, now.window})
    targets = sorted({*TARGETS, now.targetPercentage})
    bounds = {pair: (-1, len(targets)) for pair in itertools.product(least, windows)}
    tried: dict[Choice, Verdict] = {}
    while open_pairs := [pair for pair, (low, high) in bounds.items() if high - low > 1]:
        progress(f"{len(tried)} values tried")
        choices = [Choice(few, targets[sum(bounds[few, window]) // 2], window) for few, window in open_pairs]
        outcomes = run([Trial(TUNED, choice, seed) for choice in choices])
        for pair, choice, judged in zip(open_pairs, choices, outcomes, strict=True):
            tried[choice] = Verdict(choice, [judged])
            low, high = bounds[pair]
            middle = (low + high) // 2
            bounds[pair] = (middle, high) if judged.meets(objective) else (low, middle)
    return list(tried.values())


def _best(
    tried: Sequence[Verdict],
    objective: Objective,
    run: Run,
    seeds: Sequence[int],
    progress: Callable[[str], None],
) -> Choice | None:
    """The cheapest that meets the objective with every seed."""
    promising = sorted(
        (each for each in tried if each.meets(objective)), key=lambda each: (each.cost, each.choice)
    )
    for first in range(0, len(promising), _SHORTLIST):
        shortlist = promising[first : first + _SHORTLIST]
        progress(f"{first} of {len(promising)} tried with all seeds")
        trials = [Trial(TUNED, each.choice, seed) for each in shortlist for seed in seeds]
        outcomes = list(run(trials))
        for index, each in enumerate(shortlist):
            part_of = outcomes[index * len(seeds) : (index + 1) * len(seeds)]
            if Verdict(each.choice, part_of).meets(objective):
                return each.choice
    return None
