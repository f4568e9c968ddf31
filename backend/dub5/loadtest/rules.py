"""Which resource was full, from when, and which one first. Pure: lines in, findings out.

This is the USE method (B. Gregg, https://www.brendangregg.com/usemethod.html): for every resource its utilisation, its
saturation and its errors. A resource is full from the first moment at which it is so for `LASTING` seconds on end; a
single point is no bottleneck.

What is full first is the bottleneck, with one exception: some are full only because of another. A provider that
answers slowly fills the gate, and a busy CPU delays the event loop, which delays everything. The cause may show later
than its effect, since rates and quantiles are those of a window and the gate is a gauge. So among those that fill
within `SLACK` windows of the first, or ten seconds, the one that stands higher in `RESOURCES` is taken: causes come
before effects.

The gate has a proof of its own. Whatever is slow fills it by holding its places longer; where they are held no longer
than before (Little's law: provider calls under way, by answers per second), more requests came in, and it is full by
itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import NamedTuple

from dub5.loadtest.prometheus import Points
from dub5.loadtest.series import Lines
from dub5.telemetry.metrics import REDIS

LASTING = 10.0
WINDOW = 60.0
"""Seconds: that of rates, where nothing else is said."""
SLACK = 0.75
"""Of a window: a rate that stands in its middle shows what has just begun up to half of it late, and the gauge of
another resource shows it with the next scrape."""

CPU_FULL = 0.9
"""Cores: one event loop cannot use more than one."""

NODE_FULL = 0.4
"""Share of the time in which a replica has work and waits for a CPU that others have, or that its limit takes away.
First tokens were late from there on (docs/reports/load), and in time at 0.3."""

LOOP_FULL = 0.1
REDIS_FULL = 0.05
"""Seconds; after 0.1 the service goes on without Redis."""

GATE_FULL = 0.98
MEMORY_FULL = 0.9
SLOWER = 2.0
"""A provider is slow when its first token takes this many times as long as at the run's beginning, or by itself as long
as the whole answer's may."""

LONGER = 1.25
"""Places that are held so many times as long as at the run's beginning are held by something that is slow."""

CALM = 0.15
"""Share of a run, from its beginning, that tells what is usual."""


class Limits(NamedTuple):
    """What the rules cannot know from the lines. `memory` in bytes, `first_token` in seconds; None: not known."""

    memory: float | None = None
    first_token: float | None = None


class Used(NamedTuple):
    """A resource: `full_from` is seconds since the run's beginning, None where it never was, `judged` False where no
    line told. `peak` is its utilisation in words; `touched` says that it was full for a moment. `errors` are those per
    second at most, None where nobody counts them."""

    name: str
    judged: bool
    full_from: float | None
    peak: str
    touched: bool
    errors: float | None
    said: str
    advice: str

    @property
    def since(self) -> str:
        """`full_from` of one that was full, in words."""
        return f"from {self.full_from:.0f} s" if self.full_from else "from the start"


class Judgement(NamedTuple):
    """`first` is the bottleneck; `words` says it, or that there was none."""

    first: Used | None
    resources: list[Used]
    words: str


class Resource(NamedTuple):
    """`full` tells of each moment of `line` whether it is full; None where that cannot be told. `turns` is the lag of
    the loop that waits for it, where its time is measured from there: that part of it is not its own."""

    name: str
    line: str
    full: Callable[[Points, Limits], list[tuple[float, bool]] | None]
    shown: Callable[[float], str]
    said: str
    advice: str
    errors: str = ""
    turns: str = ""


def judge(
    lines: Lines,
    *,
    began: float,
    limits: Limits = Limits(),  # noqa: B008  # a constant
    window: float = WINDOW,
) -> Judgement:
    """`began` is the Unix time in seconds at which the run began; `window`, in seconds, that of rates."""
    used = [_used(resource, lines, began, limits) for resource in RESOURCES]
    first = _first(used, lines, began, window)
    if first is None:
        return Judgement(None, used, _calm(used))
    # The rate of the window that begins in that moment.
    rate = _at(lines.get("arrivals", []), began + (first.full_from or 0.0) + window / 2)
    return Judgement(first, used, _words(first, used, rate))


def _first(used: list[Used], lines: Lines, began: float, window: float) -> Used | None:
    """The cause among those that were full at nearly the same time as the first."""
    full = [(each.full_from, each) for each in used if each.full_from is not None]
    if not full:
        return None
    latest = min(moment for moment, _ in full) + max(LASTING, SLACK * window)
    together = [(moment, each) for moment, each in full if moment <= latest]
    (cause_from, cause), (gate_from, gate) = together[0], together[-1]
    if gate.name == "gate" and _full_by_itself(_held(lines), began + cause_from, began + gate_from, window):
        return gate
    return cause


def _full_by_itself(held: Points, cause_from: float, gate_from: float, window: float) -> bool:
    """Places are held no longer than they were before what could be the cause; Unix times."""
    if not held:
        return False
    calm_ends = held[0][0] + CALM * (held[-1][0] - held[0][0])
    before = [seconds for moment, seconds in held if moment <= calm_ends]
    after = [
        seconds for moment, seconds in held if gate_from <= moment <= gate_from + max(LASTING, 2 * window)
    ]
    if not after or cause_from <= calm_ends:
        return False
    return statistics.median(after) < LONGER * statistics.median(before)


def _held(lines: Lines) -> Points:
    """Seconds that a place is held, by Little's law, where there are answers that had one."""
    points = []
    for moment, rate in lines.get("requests", []):
        held, failed = (_at(lines.get(name, []), moment) for name in ("inflight", "errors"))
        answered = rate - (failed or 0.0)
        if held is not None and answered > 0:
            points.append((moment, held / answered))
    return points


def _used(resource: Resource, lines: Lines, began: float, limits: Limits) -> Used:
    points = lines.get(resource.line, [])
    full_at = resource.full(_less(points, lines.get(resource.turns, [])), limits) if points else None
    full_from = None
    if full_at and (start := lasting(full_at)) is not None:
        full_from = (
            max(0.0, start - began) if start > full_at[0][0] else 0.0
        )  # full as long as anybody looked
    return Used(
        name=resource.name,
        judged=full_at is not None,
        full_from=full_from,
        peak=resource.shown(max(value for _, value in points)) if points else "not measured",
        touched=any(full for _, full in full_at or ()),
        errors=max((value for _, value in lines.get(resource.errors, [])), default=None),
        said=resource.said,
        advice=resource.advice,
    )


def _less(points: Points, lag: Points) -> Points:
    """Without what the event loop was late in the two turns, to send and to receive, that a command takes."""
    late = dict(lag)
    return [(moment, value - 2 * late.get(moment, 0.0)) for moment, value in points]


def lasting(full_at: list[tuple[float, bool]]) -> float | None:
    """The first moment from which it is so for `LASTING` seconds on end."""
    since: float | None = None
    for moment, full in full_at:
        if not full:
            since = None
        elif since is None:
            since = moment
        elif moment - since >= LASTING:
            return since
    return None


def _above(least: float) -> Callable[[Points, Limits], list[tuple[float, bool]] | None]:
    return lambda points, _: [(moment, value >= least) for moment, value in points]


def _memory(points: Points, limits: Limits) -> list[tuple[float, bool]] | None:
    limit = limits.memory
    if limit is None:
        return None
    return [(moment, value >= MEMORY_FULL * limit) for moment, value in points]


def _slow(points: Points, limits: Limits) -> list[tuple[float, bool]] | None:
    span = points[-1][0] - points[0][0]
    calm = [value for moment, value in points if moment - points[0][0] <= CALM * span]
    least = SLOWER * statistics.median(calm)
    if limits.first_token is not None:
        least = min(least, limits.first_token)
    return [(moment, value >= least) for moment, value in points]


def _calm(used: list[Used]) -> str:
    if not any(each.judged for each in used):
        return "No figures of the service: nothing can be said about its resources."
    return f"No resource was full: {_others(used, None)}."


def _words(first: Used, used: list[Used], rate: float | None) -> str:
    at = "" if rate is None else f" at {rate:.0f} requests/s"
    said = f"{first.said} {first.since}{at} ({first.peak}): {first.advice}"
    others = _others(used, first)
    return f"{said}; {others}." if others else f"{said}."


def _others(used: list[Used], first: Used | None) -> str:
    """What the others were at, those that were full after it first."""
    judged = [each for each in used if each.judged and each is not first]
    later = [each for each in judged if each.full_from is not None]
    calm = [each for each in judged if each.full_from is None]
    said = [f"{each.name} was full too, {each.since}" for each in later]
    return ", ".join([*said, *map(_unfilled, calm)])


def _unfilled(used: Used) -> str:
    if used.touched:
        return f"{used.name} touched {used.peak}, never for {LASTING:.0f} s on end"
    return f"{used.name} was at {used.peak}"


def _at(points: Points, moment: float) -> float | None:
    """The last value at or before a moment; the first one where there is none before."""
    before = [value for when, value in points if when <= moment]
    return before[-1] if before else points[0][1] if points else None


def percent(value: float) -> str:
    return f"{value * 100:.0f} %"


def milliseconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value >= 0.01 else f"{value * 1000:.1f} ms"


def mebibytes(value: float) -> str:
    return f"{value / 2**20:.0f} MiB"


RESOURCES = (
    Resource(
        "CPU",
        "cpu",
        _above(CPU_FULL),
        percent,
        "The CPU was full",
        "add replicas, or give each a core of its own; one replica cannot use more than one core",
    ),
    Resource(
        "node's CPU",
        "cpu_wait",
        _above(NODE_FULL),
        lambda value: f"{percent(value)} of the time waited for",
        "The node had no CPU to spare",
        "look for CPU limits and busy neighbours (k6 is one), ask for what a replica uses in resources.requests.cpu, "
        "or add nodes",
    ),
    Resource(
        "event loop",
        "loop",
        _above(LOOP_FULL),
        milliseconds,
        "The event loop was late",
        "something blocks it",
    ),
    Resource(
        "memory",
        "memory",
        _memory,
        mebibytes,
        "Memory was nearly full",
        "raise resources.limits.memory, or lower config.cache.local_bytes or config.admission.max_inflight",
    ),
    Resource(
        "Redis",
        "redis",
        _above(REDIS_FULL),
        lambda value: f"{milliseconds(value)} or more" if value >= REDIS[-1] else milliseconds(value),
        "Redis was slow",
        "give Redis more CPU, put it nearer, or share it with fewer",
        "redis_errors",
        turns="loop",
    ),
    Resource(
        "provider's limit",
        "provider_waiting",
        _above(1.0),
        lambda value: f"{value:.0f} waiting or turned away",
        "The provider's limit was reached",
        "raise the limit with the provider, or add another route; more replicas do not help",
    ),
    Resource(
        "provider",
        "provider",
        _slow,
        milliseconds,
        "The provider was slow",
        "add another route, or hedge (models.NAME.hedge); more replicas do not make it faster",
        "provider_errors",
    ),
    Resource(
        "gate",
        "gate",
        _above(GATE_FULL),
        percent,
        "The gate was full",
        "raise config.admission.max_inflight or the number of replicas",
        "shed",
    ),
)
