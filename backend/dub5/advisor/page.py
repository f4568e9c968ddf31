"""What the advisor found, as documents of report/: the verdict, the plots that show it, and then all the rest.

Each is made of what the command has computed anyway, and of simulations of the whole record for the plots over time.
Nothing in it depends on when or where it is made: the same command on the same record writes the same page.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from dub5.advisor import advice as words
from dub5.advisor import explanation, summary
from dub5.advisor.record import Record
from dub5.advisor.search import HELD, TUNED, Advice, Judged, Objective, Verdict
from dub5.advisor.simulation import Minute, Outcome
from dub5.advisor.values import Values
from dub5.report.document import Code, Curve, Document, Fact, Part, Plot, Points, Section, Table, Tone

PRESENT, RECOMMENDED = "present", "recommended"

_MOST_ROWS = 48
_ROW_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1440)

_LEFT_OUT = (
    "Left out of the simulation: CPU, retries of clients beyond those in the record, hedged calls, rate limits, limits "
    "of providers, rollouts, several tenants. Load that depends on the answers, as that of callers who give up, stays "
    "as it was. It changes nothing by itself."
)


class Origin(NamedTuple):
    """How to make a page again: the command, the record's file and its SHA-256, and this program's version."""

    command: str
    record: str
    digest: str
    version: str


class Run(NamedTuple):
    """A simulation of the whole record under `name`d values."""

    name: str
    outcome: Outcome


def recommended(
    record: Record, values: Values, advice: Advice, present: Outcome, best: Outcome | None, origin: Origin
) -> Document:
    """`present` and `best` are simulations of the whole record."""
    runs = [Run(PRESENT, present), *([Run(RECOMMENDED, best)] if best is not None else [])]
    outcome, said = _judged(advice, values)
    return Document(
        f"Autoscaler for {record.header.source}",
        "good" if advice.present_meets else "bad",
        outcome,
        said,
        _facts(advice),
        [
            _refused(record, runs, advice.objective),
            _replicas(record, "ready", runs),
            _costs(advice),
            _replicas(record, "wanted", runs),
            _waited(record, runs),
            _load(record, present),
        ],
        [
            *_changes(advice, values),
            *_floors(advice, values),
            *_comparisons(advice),
            Section("Over time", [_minutes(runs)]),
            *_provenance(record, present, origin),
        ],
    )


def simulated(
    record: Record, values: Values, outcome: Outcome, origin: Origin, objective: Objective | None = None
) -> Document:
    """With an `objective` the verdict is whether it is met."""
    figures = (
        f"{outcome.refused_share:.2%} of requests are refused, 99 % of calls wait at most {outcome.wait(0.99):.2f} s, "
        f"for {outcome.replica_hours:.2f} replica-hours."
    )
    tone: Tone = "plain"
    said = "What the cluster would have done:"
    if objective is not None:
        met = meets(outcome, objective)
        tone, said = ("good", "These values meet") if met else ("bad", "These values miss")
        said += " the objective."
    runs = [Run("simulated", outcome)]
    return Document(
        f"Autoscaler for {record.header.source}, simulated",
        tone,
        said,
        figures,
        [
            Fact("refused", f"{outcome.refused_share:.2%}", _asked(objective, "refused")),
            Fact("wait of calls, p99", f"{outcome.wait(0.99):.2f} s", _asked(objective, "wait")),
            Fact("replica-hours", f"{outcome.replica_hours:.2f}", f"at most {outcome.most} ready at once"),
            Fact("streams cut", f"{outcome.cut}"),
        ],
        [
            _refused(record, runs, objective),
            _replicas(record, "ready", runs),
            _load(record, outcome),
            _replicas(record, "wanted", runs),
            _waited(record, runs),
        ],
        [
            *_compared(record, outcome),
            Section("Over time", [_minutes(runs)]),
            Section("Values", [_values(values), *summary.notes(record, values)]),
            *_provenance(record, outcome, origin),
        ],
    )


def meets(outcome: Outcome, objective: Objective) -> bool:
    return objective.is_met(outcome.refused_share, outcome.wait(0.99))


def explained(
    record: Record, values: Values, outcome: Outcome, at: float | None, turns: int, origin: Origin
) -> Document:
    """The same decisions as `explanation.explain` explains."""
    decisions = explanation.chosen(outcome, at, turns)
    changed = sum(each.rescaled for each in outcome.decisions)
    rows = [
        [
            explanation.clock(each.time),
            f"{each.current}",
            f"{outcome.at(each.time - 1e-9).ready}",
            f"{each.replicas}" if each.rescaled else "no change",
            " ".join(explanation.words(each, values)),
            explanation.beside(record, each.time),
        ]
        for each in decisions
    ]
    until = "" if at is None else f" up to {explanation.clock(at)}"
    shown = f"The last {len(rows)}{until}" if at is not None else f"All {len(rows)} that changed the number"
    return Document(
        f"Autoscaler for {record.header.source}, explained",
        "plain",
        f"It decided {len(outcome.decisions)} times and changed the number {changed} times.",
        f"{shown} are explained below.",
        [],
        [
            _replicas(record, "wanted", [Run("simulated", outcome)]),
            _replicas(record, "ready", [Run("simulated", outcome)]),
            _load(record, outcome),
        ],
        [
            Section(
                "Decisions",
                [Table(["time", "wanted", "ready", "decided", "why", "in the record"], rows)]
                if rows
                else [explanation.explain(record, values, outcome, at, turns)],
            ),
            Section("Values", [_values(values), *summary.notes(record, values)]),
            *_provenance(record, outcome, origin),
        ],
    )


# --- Plots ---


def _replicas(record: Record, what: str, runs: Iterable[Run]) -> Plot:
    """Replicas `wanted` or `ready`, as simulated and as recorded."""
    curves = []
    for run in runs:
        steps = [(change.at, float(getattr(change, what))) for change in run.outcome.changes]
        curves.append(Curve(run.name, _until_end(steps, run.outcome.seconds), "steps"))
    there = [(each.at, float(value)) for each in record.seen if (value := getattr(each, what)) is not None]
    if there:
        curves.append(Curve("recorded", _until_end(there, record.header.seconds), "steps"))
    return Plot(f"replicas {what}", "", curves, record.header.began)


def _until_end(steps: list[tuple[float, float]], end: float) -> Points:
    """Only where it changes, and at the end."""
    kept = [step for before, step in itertools.pairwise([(0.0, -1.0), *steps]) if step[1] != before[1]]
    return [*kept, (end, steps[-1][1])] if steps else []


def _refused(record: Record, runs: Iterable[Run], objective: Objective | None) -> Plot:
    plot = _over_time(record, "refused", runs, lambda minute: minute.refused)
    if objective is not None:
        level = [(0.0, 100 * objective.refused)]
        plot.curves.append(Curve("at most, of all requests together", level, "level"))
    return plot


def _waited(record: Record, runs: Iterable[Run]) -> Plot:
    return _over_time(record, "waited for a slot", runs, lambda minute: minute.waited)


def _over_time(record: Record, title: str, runs: Iterable[Run], of: Callable[[Minute], float]) -> Plot:
    """Each minute's share of its requests."""
    curves = [
        Curve(
            run.name,
            [
                (60.0 * place, 100 * of(each) / each.requests)
                for place, each in enumerate(run.outcome.minutes)
                if each.requests
            ],
        )
        for run in runs
    ]
    return Plot(title, "% of requests", curves, record.header.began)


def _load(record: Record, outcome: Outcome) -> Plot:
    minutes = outcome.minutes
    lengths = [min(60.0, outcome.seconds - 60 * place) for place in range(len(minutes))]
    points = [
        (60.0 * place, each.requests / length)
        for place, (each, length) in enumerate(zip(minutes, lengths, strict=True))
        if length >= 1
    ]
    return Plot("load", "requests per s", [Curve("requests", points)], record.header.began)


def _costs(advice: Advice) -> Plot:
    """What was tried: its cost, and how many times the objective its refusals or waits were, whichever is worse."""

    def of(*verdicts: Verdict) -> Points:
        return [
            (each.cost, max(_times(judged, advice.objective) for judged in each.judged)) for each in verdicts
        ]

    def tried(side: Mapping[str, Verdict] | None) -> Points:
        return of(*(each for each in advice.tried if side is not None and each.choice == side[TUNED].choice))

    return Plot(
        "refusals and waits by cost",
        "times what the objective allows, the worse of both",
        [
            Curve(PRESENT, tried(advice.present), "mark"),
            Curve(RECOMMENDED, tried(advice.best), "mark"),
            Curve("tried", of(*advice.tried), "dots"),
            Curve("the objective is just met", [(0.0, 1.0)], "level"),
        ],
        across=f"replica-hours, on the part that was {advice.part_searched}",
        times=True,
    )


def _times(judged: Judged, objective: Objective) -> float:
    def times(figure: float, asked: float) -> float:
        return figure / asked if asked else float(figure > 0) * 1e9

    return max(times(judged.refused, objective.refused), times(judged.wait, objective.wait))


# --- Words and tables ---


def _judged(advice: Advice, values: Values) -> tuple[str, str]:
    """The verdict, and what there is to say of it: what to change first."""
    first, *more = words.verdict(advice)
    changes = [
        f"{each.name.rpartition('.')[2]} {each.before} → {each.after}"
        for each in words.changes(advice, values)
    ]
    return first, " ".join([*([f"Recommended: {', '.join(changes)}."] if changes else []), *more])


def _facts(advice: Advice) -> list[Fact]:
    """The worst of both parts and all seeds, since that is what is judged; costs of both together."""
    sides = [advice.present, *([] if advice.best is None else [advice.best])]

    def worst(of: str) -> list[float]:
        return [max(getattr(each, of) for part in side.values() for each in part.judged) for side in sides]

    objective = advice.objective
    refused, wait = worst("refused"), worst("wait")
    costs = [sum(each.cost for each in side.values()) for side in sides]
    change = f"{costs[-1] / costs[0] - 1:+.0%}" if len(costs) > 1 and costs[0] else ""

    def tone(met: bool) -> Tone:
        return "good" if met else "bad"

    return [
        Fact(
            "refused, at worst",
            _then([f"{each:.2%}" for each in refused]),
            _asked(objective, "refused"),
            tone(refused[-1] <= objective.refused),
        ),
        Fact(
            "wait of calls, p99, at worst",
            _then([f"{each:.2f} s" for each in wait]),
            _asked(objective, "wait"),
            tone(wait[-1] <= objective.wait),
        ),
        Fact("replica-hours", _then([f"{each:.2f}" for each in costs]), change),
    ]


def _then(values: list[str]) -> str:
    """From the present values to those recommended."""
    return " → ".join(values)


def _asked(objective: Objective | None, of: Literal["refused", "wait"]) -> str:
    """What the objective says of it, where it says something."""
    if objective is None or (objective.refused >= 1 if of == "refused" else math.isinf(objective.wait)):
        return ""
    return (
        f"asked: at most {objective.refused:.2%}"
        if of == "refused"
        else f"asked: at most {objective.wait:g} s"
    )


def _changes(advice: Advice, values: Values) -> Iterator[Section]:
    found = words.changes(advice, values)
    if not found:
        yield Section(
            "What to change", ["Nothing." if advice.best is not None else "Nothing on the grid meets it."]
        )
        return
    rows = [[change.name, change.before, change.after, change.reason] for change in found]
    yield Section(
        "What to change",
        [
            Table(["value", "now", "then", "why"], rows),
            "In values.yaml:",
            Code("\n".join(words.snippet(advice, values)), "yaml"),
        ],
    )


def _comparisons(advice: Advice) -> Iterator[Section]:
    def beside(part: str) -> Table:
        sides = {PRESENT: advice.present, **({} if advice.best is None else {RECOMMENDED: advice.best})}
        return _verdicts(advice, {name: side[part] for name, side in sides.items()})

    said = (
        "Tuned on the beginning of the record, judged on its end; in the mean of the seeds (least to most)."
    )
    parts: list[Part] = [part for of in (TUNED, HELD) for part in (f"On the part that was {of}:", beside(of))]
    yield Section("Present and recommended", [said, *parts])
    front = {f"{place}": verdict for place, verdict in enumerate(advice.front(), 1)}
    said = (
        f"On the part that was {advice.part_searched}, its requests drawn anew: for less none refuses as few and waits"
        " as short."
    )
    yield Section("What less money buys", [said, _verdicts(advice, front)])
    said = f"On the part that was {HELD}, the {PRESENT if advice.best is None else RECOMMENDED} values with:"
    yield Section("What if", [said, _verdicts(advice, advice.what_if)])
    if advice.notes:
        yield Section("What was left out and assumed", list(advice.notes))


def _floors(advice: Advice, values: Values) -> Iterator[Section]:
    """Fewest replicas by hour, a column for each day where days differ, and what makes them so."""
    floors = () if advice.best is None else advice.best[HELD].choice.floors
    if not floors:
        return
    days = [floors[24 * day : 24 * day + 24] for day in range(7)]
    names = ["every day"] if len(set(days)) == 1 else ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    rows = [[f"{hour}:00", *(f"{day[hour]}" for day in days[: len(names)])] for hour in range(24)]
    parts: list[Part] = ["In UTC.", Table(["from", *names], rows)]
    by_hour = words.schedule(advice, values)
    if by_hour:
        parts += ["To be applied beside the chart:", Code(by_hour, "yaml")]
    yield Section("Fewest replicas by hour", parts)


def _verdicts(advice: Advice, verdicts: Mapping[str, Verdict]) -> Table:
    """A row for each; of the values those that are not the same in all of them, too."""
    choices = [_plain(each.choice) for each in verdicts.values()]
    names = [
        name
        for name in (choices[0] if choices else {})
        if name in _ALWAYS or len({c[name] for c in choices}) > 1
    ]
    rows = [
        [
            name,
            "meets" if verdict.meets(advice.objective) else "misses",
            _spread(verdict, lambda judged: judged.refused, "{:.2%}"),
            _spread(verdict, lambda judged: judged.wait, "{:.2f} s"),
            _spread(verdict, lambda judged: judged.cost, "{:.2f}"),
            *(choice[value] for value in names),
        ]
        for (name, verdict), choice in zip(verdicts.items(), choices, strict=True)
    ]
    return Table(["values", "objective", "refused", "wait p99", "replica-hours", *names], rows)


_ALWAYS = frozenset({"minReplicas", "targetPercentage"})


def _plain(choice: Any) -> dict[str, str]:
    """The values of a choice in words."""
    return {name: _worded(value) for name, value in msgspec.structs.asdict(choice).items()}


def _worded(value: object) -> str:
    if value is None or value == ():
        return "as it is"
    if isinstance(value, tuple):
        return "by hour" if len(value) > 3 else " / ".join(f"{each:g}" for each in value)
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def _spread(verdict: Verdict, of: Callable[[Judged], float], form: str) -> str:
    values = [of(each) for each in verdict.judged]
    mean = form.format(statistics.fmean(values))
    return mean if len(values) == 1 else f"{mean} ({form.format(min(values))} to {form.format(max(values))})"


def _minutes(runs: list[Run]) -> Table:
    """A row for each minute, or for more of them in a long record; runs beside each other."""
    length = len(runs[0].outcome.minutes)
    minutes = next((each for each in _ROW_MINUTES if length <= each * _MOST_ROWS), _ROW_MINUTES[-1])
    head = ["from", "requests"]
    for run in runs:
        named = f", {run.name}" if len(runs) > 1 else ""
        head += [f"{what}{named}" for what in ("refused", "waited", "replicas ready")]
    rows = []
    for beside in zip(*(summary.rows(run.outcome, minutes) for run in runs), strict=True):
        row = [explanation.clock(beside[0].minute * 60), f"{beside[0].requests:,.0f}"]
        for each in beside:
            row += [f"{each.refused:,.0f}", f"{each.waited:,.0f}", f"{each.ready.mean:.1f}"]
        rows.append(row)
    return Table(head, rows)


def _compared(record: Record, outcome: Outcome) -> Iterator[Section]:
    """How far it is from what was recorded; what the record does not say is left out."""
    compared = summary.agreement(record, outcome)
    found = (
        {}
        if compared is None
        else {name: value for name, value in compared._asdict().items() if value is not None}
    )
    rows = [
        [title, form.format(found[name])]
        for name, title, form in (
            ("wanted_error", "replicas wanted: replica-seconds, more than recorded", "{:+.1%}"),
            ("wanted_within_one", "moments at which they are within one", "{:.1%}"),
            ("ready_error", "replicas ready: replica-seconds, more than recorded", "{:+.1%}"),
            ("ready_within_one", "moments at which they are within one", "{:.1%}"),
            ("refused", "requests that were refused, as recorded", "{:.3%}"),
            ("waited", "requests that waited, as recorded", "{:.3%}"),
        )
        if name in found
    ]
    if rows:
        yield Section("Beside what was recorded", [Table(["what", "is"], rows)])


def _values(values: Values) -> Table:
    scaling, admission = values.autoscaling, values.config.admission
    rows = [
        ["autoscaling.mode", scaling.mode],
        ["autoscaling.minReplicas", f"{scaling.minReplicas}"],
        ["autoscaling.maxReplicas", f"{scaling.maxReplicas}"],
        [
            "autoscaling.targetPercentage",
            f"{scaling.targetPercentage} (demand of {values.target} in each replica)",
        ],
        ["config.admission.max_inflight", f"{admission.max_inflight}"],
        ["config.admission.max_queued", f"{admission.max_queued}"],
        ["config.admission.queue_timeout", admission.queue_timeout.written()],
    ]
    return Table(["value", "is"], rows)


def _provenance(record: Record, outcome: Outcome, origin: Origin) -> Iterator[Section]:
    header, mix = record.header, record.mixes[0]
    began = (
        f"{dt.datetime.fromtimestamp(header.began, dt.UTC):%Y-%m-%d %H:%M} UTC"
        if header.began
        else "not said"
    )
    service = ", ".join(f"{share:.0%} within {seconds:.3g} s" for share, seconds in _points(mix.service))
    starts = header.cluster.starts
    rows = [
        ["from", header.source],
        ["began", began],
        ["length", summary.duration(header.seconds)],
        ["requests", f"{outcome.requests:,.0f}"],
        ["answered from the cache", f"{outcome.hits / outcome.requests:.1%}" if outcome.requests else "none"],
        ["calls, at the beginning", service],
        ["pods are ready after", f"{min(starts):.3g} to {max(starts):.3g} s"],
        ["Prometheus, the autoscaler look each", f"{header.pace.scrape:g} s, {header.pace.sync:g} s"],
    ]
    yield Section("The record", [Table(["what", "is"], rows), *header.notes, _LEFT_OUT])
    kept = (
        f"{origin.record} has the SHA-256 {origin.digest}"
        if origin.record
        else "The record was not kept (--write-record)"
    )
    yield Section(
        "To make this page again",
        [Code(origin.command, "sh"), f"{kept}; this was made by dub5 {origin.version}."],
    )


def _points(service: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most five of them."""
    step = max(1, len(service) // 4)
    return service if len(service) <= 5 else [*service[::step][:4], service[-1]]
