"""What a run comes to, as a document of report/: the verdict, the plots that show it, and then all the rest."""

from __future__ import annotations

import datetime as dt
import shlex
import statistics
from collections.abc import Iterator
from typing import NamedTuple

from dub5.loadtest.prometheus import Points
from dub5.loadtest.rules import RESOURCES, WINDOW, Judgement, Limits, judge, mebibytes, percent
from dub5.loadtest.runs import Run
from dub5.loadtest.series import LINES, Lines
from dub5.report.document import Code, Curve, Document, Fact, Part, Plot, Section, Table

PHASES = ("auth", "queue", "cache", "provider")
OUTCOMES = ("whole", "cut", "broken", "refused", "failed", "rejected", "lost")
_TAGS = {
    "personality": (),
    "complexity": ("short", "long", "turns", "tool", "code"),
    "phase": ("before", "spike", "settling", "after"),
    "third": (),
}
"""What the load is told apart by, and in which order where that is not the alphabet's."""
_NOTABLE = 0.1
"""A change of less than a tenth is within what two runs of the same differ by."""

_LEADING = (
    ("requests", "per s", ("arrivals", "requests", "errors", "shed")),
    ("time to first byte, mean", "s", ("first_byte", "provider")),
    ("calls", "requests", ("inflight", "queued")),
)
"""Plots that stand beside the verdict, and the lines in each; with that of the resource that was full first."""


def compose(
    run: Run, lines: Lines, *, limits: Limits, window: float = WINDOW, earlier: Run | None = None
) -> Document:
    """Everything that is known of a run; `window` is that of rates in `lines`, `earlier` a run to compare it with."""
    began = dt.datetime.fromtimestamp(run.began, dt.UTC)
    limits = limits._replace(first_token=allowed_first_token(run))
    judged = judge(lines, began=run.began, limits=limits, window=window)
    missed = sum(not gate.ok for gate in run.thresholds)
    outcome = "passed" if run.passed else f"FAILED, {missed} of {len(run.thresholds)} gates missed"
    leading = _leading(judged, lines)
    shown = {name for _, _, names in leading for name in names}
    sections = [
        *_findings(run),
        _gates(run),
        _callers(run),
        *_mix(run),
        _time(run),
        _resources(judged),
        *_comparison(run, earlier),
        _over_time(run, lines, shown),
        _asked(run),
    ]
    lasted = f"{began:%Y-%m-%d %H:%M} UTC, {run.ended - run.began:.0f} s"
    return Document(
        f"Load test {run.scenario}",
        "good" if run.passed else "bad",
        f"{outcome}.",
        f"{judged.words} ({lasted})",
        _facts(run, judged),
        [
            Plot(title, unit, [_curve(run, name, lines[name]) for name in names])
            for title, unit, names in leading
        ],
        sections,
    )


def _facts(run: Run, judged: Judgement) -> list[Fact]:
    whole, first = run.value("chat_whole", "rate"), run.value("chat_ttft", "p(95)")
    facts = [
        Fact("requests", _of(run, "chat_requests", "count"), f"{_of(run, 'chat_requests', 'rate', 1)} per s")
    ]
    if whole is not None:
        facts.append(Fact("answered whole", f"{whole:.2%}"))
    if first is not None:
        facts.append(
            Fact("time to first token, p95", f"{first:,.0f} ms", f"median {_of(run, 'chat_ttft', 'med')} ms")
        )
    if judged.first is not None:
        facts.append(Fact("full first", judged.first.name, judged.first.since))
    return facts


def _leading(judged: Judgement, lines: Lines) -> list[tuple[str, str, list[str]]]:
    plots = [
        (title, unit, [name for name in names if lines.get(name)])
        for title, unit, names in (*_LEADING, _fourth(judged))
    ]
    return [each for each in plots if each[2]]


def _fourth(judged: Judgement) -> tuple[str, str, tuple[str, ...]]:
    """What was full first, else the replicas."""
    name = next(
        (each.line for each in RESOURCES if judged.first and each.name == judged.first.name), "replicas"
    )
    line = LINES[name]
    return (f"full first: {line.title}" if judged.first else line.title), line.unit, (name,)


def allowed_first_token(run: Run) -> float | None:
    """Seconds; the gate of those scenarios that have one, and what the others were told."""
    written = run.settings.get("TTFT_P95")
    return float(written) / 1000 if written is not None else None


def _asked(run: Run) -> Section:
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(run.settings.items()))
    return Section(
        "What was asked",
        [Code(f"{settings} make loadtest SCENARIO={shlex.quote(run.scenario)}".strip(), "sh")],
    )


def _gates(run: Run) -> Section:
    ordered = sorted(run.thresholds, key=lambda gate: (gate.ok, gate.metric))
    rows = [["ok" if gate.ok else "MISSED", gate.metric, gate.gate] for gate in ordered]
    return Section("Gates", [Table(["held", "of", "gate"], rows)])


def _callers(run: Run) -> Section:
    whole = run.metrics.get("chat_whole", {}).get("passes", 0)
    counts = {name: values["count"] for name, values in run.by("chat_requests", "outcome").items()}
    ended = {name: counts.get(name, 0) for name in OUTCOMES} | {"whole": whole}
    ended["of which nothing is known"] = (run.value("chat_requests", "count") or 0) - sum(ended.values())
    rows = [
        ["requests", f"{_of(run, 'chat_requests', 'count')}, {_of(run, 'chat_requests', 'rate', 1)} per s"],
        ["how they ended", ", ".join(f"{count:.0f} {name}" for name, count in ended.items() if count)],
        ["not sent, for want of a caller", _of(run, "dropped_iterations", "count")],
        ["time to first token, median / p95 / p99", _spread(run, "chat_ttft")],
        ["whole answer", _spread(run, "chat_duration")],
        ["mean time per token", _spread(run, "chat_time_per_token", 1)],
        ["tokens", f"{_of(run, 'chat_tokens', 'count')}, {_of(run, 'chat_tokens', 'rate')} per s"],
        ["from the cache", _share(run, "chat_hit")],
        [
            "saved",
            f"{_of(run, 'chat_saved_tokens', 'count')} tokens, ${_of(run, 'chat_saved_dollars', 'count', 4)}",
        ],
    ]
    note = "Single gaps between tokens are not seen: k6 gets an answer when it is complete."
    return Section("What callers saw", [Table(["what", "value"], rows), note])


def _mix(run: Run) -> Iterator[Section]:
    for tag, order in _TAGS.items():
        ttft, whole = run.by("chat_ttft", tag), run.by("chat_whole", tag)
        seen = {*ttft, *whole}
        names = [name for name in order if name in seen] + sorted(seen.difference(order))
        rows = [[name, *_answers(ttft.get(name, {}), whole.get(name))] for name in names]
        if rows:
            head = [tag, "answers", "first token, median", "p95", "p99", "whole"]
            yield Section(f"By {tag}", [Table(head, rows)])


def _answers(ttft: dict[str, float], whole: dict[str, float] | None) -> Iterator[str]:
    yield f"{ttft.get('count', 0):.0f}"
    yield from (f"{ttft[key]:.0f} ms" if key in ttft else "" for key in ("med", "p(95)", "p(99)"))
    yield "" if whole is None else percent(whole["rate"])


def _time(run: Run) -> Section:
    """The mean time to the first token, split as the service's Server-Timing says; the rest is not in its hands."""
    mean = run.value("chat_ttft", "avg")
    if not mean:
        return Section("Where the time went", ["No answer arrived."])
    parts = {phase: run.value(f"chat_server_{phase}", "avg") or 0.0 for phase in PHASES}
    parts["everything else: network, both programs' own work"] = max(0.0, mean - sum(parts.values()))
    rows = [[name, f"{value:.1f} ms", percent(value / mean)] for name, value in parts.items()]
    said = f"Of {mean:.0f} ms to the first token, on average:"
    return Section("Where the time went", [said, Table(["part", "mean", "share"], rows)])


def _resources(judged: Judgement) -> Section:
    rows = [
        [
            f"{each.name} (first)" if each is judged.first else each.name,
            each.peak,
            "not judged" if not each.judged else "never" if each.full_from is None else each.since,
            "not measured" if each.errors is None else f"{each.errors:.2g} per s" if each.errors else "none",
        ]
        for each in judged.resources
    ]
    return Section("Resources", [judged.words, Table(["resource", "at most", "full", "errors"], rows)])


def _findings(run: Run) -> Iterator[Section]:
    plain = [[name, f"{value}"] for name, value in run.findings.items() if not isinstance(value, list | dict)]
    nested = {name: value for name, value in run.findings.items() if isinstance(value, dict)}
    plain += [[f"{name}: {key}", f"{each}"] for name, value in nested.items() for key, each in value.items()]
    parts: list[Part] = [Table(["what", "value"], plain)] if plain else []
    for name, value in run.findings.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = [[_short(each) for each in row.values()] for row in value]
            parts += [f"{name.capitalize()}:", Table(list(value[0]), rows)]
    if parts:
        yield Section("What the scenario found", parts)


class _Compared(NamedTuple):
    """`better` is 1 where more is better, -1 where less is."""

    title: str
    metric: str
    statistic: str
    better: int


_COMPARED = (
    _Compared("requests per s", "chat_requests", "rate", 1),
    _Compared("share that was whole", "chat_whole", "rate", 1),
    _Compared("time to first token, median, ms", "chat_ttft", "med", -1),
    _Compared("time to first token, p95, ms", "chat_ttft", "p(95)", -1),
    _Compared("time to first token, p99, ms", "chat_ttft", "p(99)", -1),
    _Compared("whole answer, p95, ms", "chat_duration", "p(95)", -1),
    _Compared("mean time per token, ms", "chat_time_per_token", "avg", -1),
    _Compared("share from the cache", "chat_hit", "rate", 1),
    *(_Compared(f"{phase}, mean, ms", f"chat_server_{phase}", "avg", -1) for phase in PHASES),
)


def _comparison(run: Run, earlier: Run | None) -> Iterator[Section]:
    if earlier is None:
        return
    rows = []
    for each in _COMPARED:
        then, now = (one.value(each.metric, each.statistic) for one in (earlier, run))
        if then is not None and now is not None:
            rows.append([each.title, _short(then), _short(now), *_change(then, now, each.better)])
    parts: list[Part] = [Table(["what", "then", "now", "change", "verdict"], rows)]
    if earlier.scenario != run.scenario:
        parts.insert(0, f"Not the same scenario: the earlier one is {earlier.scenario}.")
    when = dt.datetime.fromtimestamp(earlier.began, dt.UTC)
    yield Section(f"Compared with the run of {when:%Y-%m-%d %H:%M} UTC", parts)


def _change(then: float, now: float, better: int) -> tuple[str, str]:
    if then == 0:
        return "", ""
    change = (now - then) / then
    verdict = "" if abs(change) < _NOTABLE else "better" if change * better > 0 else "WORSE"
    return f"{change:+.0%}", verdict


def _over_time(run: Run, lines: Lines, shown: set[str]) -> Section:
    """A table for those who read text, for everybody else plots: of the lines that are not beside the verdict."""
    drawn = {name: lines[name] for name in LINES if lines.get(name) and name != "memory_limit"}
    if not drawn:
        return Section("Over time", ["No figures of the service: give --prometheus or --series."])
    rows = [
        [
            f"{LINES[name].title}, {LINES[name].unit}".rstrip(", "),
            *(_figure(name, value) for value in _extent(points)),
        ]
        for name, points in drawn.items()
    ]
    plots = [
        Plot(LINES[name].title, LINES[name].unit, [_curve(run, name, points)])
        for name, points in drawn.items()
        if name not in shown
    ]
    return Section("Over time", [Table(["figure", "least", "median", "most", "at the end"], rows), *plots])


def _curve(run: Run, name: str, points: Points) -> Curve:
    return Curve(LINES[name].title, [(moment - run.began, value) for moment, value in points])


def _extent(points: Points) -> list[float]:
    values = [value for _, value in points]
    return [min(values), statistics.median(values), max(values), values[-1]]


def _figure(name: str, value: float) -> str:
    return mebibytes(value) if LINES[name].unit == "bytes" else _short(value)


def _of(run: Run, metric: str, statistic: str, digits: int = 0) -> str:
    return f"{run.value(metric, statistic) or 0:,.{digits}f}"


def _spread(run: Run, metric: str, digits: int = 0) -> str:
    if not run.value(metric, "count"):
        return "none"
    return " / ".join(_of(run, metric, each, digits) for each in ("med", "p(95)", "p(99)")) + " ms"


def _share(run: Run, metric: str) -> str:
    rate = run.value(metric, "rate")
    return "none" if rate is None else f"{rate:.1%}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"
