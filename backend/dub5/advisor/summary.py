"""What a simulation has shown, as a table for people and as plain data; and how far it is from what was seen.

A record may come from a stranger: its words are shown as a report shows them, one line each and without characters that
a terminal obeys.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from dub5.advisor.record import Cluster, Record
from dub5.advisor.simulation import Outcome
from dub5.advisor.values import Values
from dub5.report.document import LONGEST_SENTENCE, clean

_MOST_ROWS = 60
_ROW_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 240, 480, 720, 1440)


class Spread(NamedTuple):
    """Of replicas within a while; the mean is by time."""

    least: int
    mean: float
    most: int


class Row(NamedTuple):
    """From `minute` on, of some minutes."""

    minute: int
    requests: float
    refused: float
    waited: float
    wanted: Spread
    ready: Spread


class Agreement(NamedTuple):
    """How a simulation agrees with what was seen; None is what the record does not say.

    Of replicas wanted, and ready, at each second: replica-seconds that the simulation has more, as a share of those
    that were seen, and the share of moments at which it is within one replica. `refused` and `waited` are shares of
    the requests that came, as they were seen.
    """

    wanted_error: float | None = None
    wanted_within_one: float | None = None
    ready_error: float | None = None
    ready_within_one: float | None = None
    refused: float | None = None
    waited: float | None = None


def rows(outcome: Outcome, minutes: int) -> list[Row]:
    """Of `minutes` each."""
    found = []
    for first in range(0, len(outcome.minutes), minutes):
        part = outcome.minutes[first : first + minutes]
        begin, end = first * 60.0, min(outcome.seconds, (first + minutes) * 60.0)
        found.append(
            Row(
                first,
                sum(each.requests for each in part),
                sum(each.refused for each in part),
                sum(each.waited for each in part),
                *_spreads(outcome, begin, end),
            )
        )
    return found


def _spreads(outcome: Outcome, begin: float, end: float) -> tuple[Spread, Spread]:
    """Of replicas wanted and ready."""
    inside = [outcome.at(begin), *(change for change in outcome.changes if begin < change.at < end)]
    moments = [begin, *(change.at for change in inside[1:]), end]
    lengths = [later - earlier for earlier, later in itertools.pairwise(moments)]

    def spread(values: list[int]) -> Spread:
        total = sum(value * length for value, length in zip(values, lengths, strict=True))
        return Spread(min(values), total / (end - begin), max(values))

    return spread([change.wanted for change in inside]), spread([change.ready for change in inside])


def agreement(record: Record, outcome: Outcome) -> Agreement | None:
    """None where the record has nothing that was seen."""
    if not record.seen:
        return None
    wanted_error, wanted_within_one = _replicas(record, outcome, "wanted")
    ready_error, ready_within_one = _replicas(record, outcome, "ready")
    return Agreement(
        wanted_error,
        wanted_within_one,
        ready_error,
        ready_within_one,
        refused=_counted(record, outcome, "shed"),
        waited=_counted(record, outcome, "waited"),
    )


def _replicas(
    record: Record, outcome: Outcome, which: Literal["wanted", "ready"]
) -> tuple[float | None, float | None]:
    """Error and share within one."""
    seen = [each for each in record.seen if getattr(each, which) is not None]
    if not seen:
        return None, None
    index, pairs = 0, []
    for second in range(math.ceil(seen[0].at), math.floor(outcome.seconds)):
        while index + 1 < len(seen) and seen[index + 1].at <= second:
            index += 1
        pairs.append((getattr(outcome.at(second), which), getattr(seen[index], which)))
    there = sum(real for _, real in pairs)
    within = sum(abs(simulated - real) <= 1 for simulated, real in pairs)
    return (
        (sum(simulated for simulated, _ in pairs) - there) / there if there else 0.0,
        within / len(pairs) if pairs else 1.0,
    )


def _counted(record: Record, outcome: Outcome, which: Literal["shed", "waited"]) -> float | None:
    """The share of requests since `outcome.since`."""
    seen = [each for each in record.seen if getattr(each, which) is not None and each.requests is not None]
    if not seen:
        return None
    before = [each for each in seen if each.at <= outcome.since][-1:]
    first, came = (getattr(before[0], which), before[0].requests or 0.0) if before else (0.0, 0.0)
    requests = (seen[-1].requests or 0.0) - came
    return float(getattr(seen[-1], which) - first) / requests if requests > 0 else 0.0


def notes(record: Record, values: Values) -> list[str]:
    """What whoever believes a figure should know: what was odd in the record, what is assumed, what is left out."""
    found = [clean(note, LONGEST_SENTENCE) for note in record.header.notes]
    cluster, scaling = record.header.cluster, values.autoscaling
    if scaling.mode != "none":
        if cluster.starts == Cluster().starts:
            found.append(
                f"Pods are taken to be ready after {min(cluster.starts):g} to {max(cluster.starts):g} s, "
                "since the record does not say how long they took."
            )
        if scaling.cpu.enabled:
            found.append(
                "autoscaling.cpu is left out, since a record knows nothing of CPU: "
                "it can only ask for more replicas, and keep them longer."
            )
    if not values.one_model:
        found.append("Of several models one is simulated, which has its share of the slots.")
    return found


def plain(record: Record, values: Values, outcome: Outcome, seed: int) -> dict[str, Any]:
    """For `--json`: durations in seconds, shares of requests."""
    compared = agreement(record, outcome)
    return {
        "source": record.header.source,
        "seed": seed,
        "seconds": outcome.seconds,
        "capacity": values.capacity,
        "target": values.target,
        "requests": outcome.requests,
        "hits": outcome.hits,
        "calls": outcome.calls,
        "refused_share": outcome.refused_share,
        "waited_share": outcome.waited_share,
        "wait_p50": outcome.wait(0.5),
        "wait_p99": outcome.wait(0.99),
        "cut": outcome.cut,
        "replica_hours": outcome.replica_hours,
        "most_replicas": outcome.most,
        "seen": None if compared is None else compared._asdict(),
        "notes": notes(record, values),
        "minutes": [
            {**row._asdict(), "wanted": row.wanted._asdict(), "ready": row.ready._asdict()}
            for row in rows(outcome, 1)
        ],
    }


def text(record: Record, values: Values, outcome: Outcome) -> str:
    """For people."""
    minutes = next(
        (each for each in _ROW_MINUTES if len(outcome.minutes) <= each * _MOST_ROWS), _ROW_MINUTES[-1]
    )
    lines = [
        *_head(record, values, outcome),
        "",
        *_table(rows(outcome, minutes)),
        "",
        f"refused         {outcome.refused_share:.3%} of requests",
        f"waited          {outcome.waited_share:.3%} of requests",
        f"wait of calls   p50 {outcome.wait(0.5):.2f} s, p99 {outcome.wait(0.99):.2f} s",
        f"streams cut     {outcome.cut}" + (" at server.max_stream" if outcome.cut else ""),
        f"replica-hours   {outcome.replica_hours:.2f}",
    ]
    compared = agreement(record, outcome)
    if compared is not None:
        lines += _seen(compared)
    lines += [f"note: {note}" for note in notes(record, values)]
    return "\n".join(lines)


def _head(record: Record, values: Values, outcome: Outcome) -> list[str]:
    scaling, source = values.autoscaling, clean(record.header.source)
    hits = outcome.hits / outcome.requests if outcome.requests else 0.0
    between = (
        f"{scaling.minReplicas} to {scaling.maxReplicas} replicas by {scaling.mode}, target {values.target}"
    )
    return [
        f"{source}: {duration(outcome.seconds)}, {outcome.requests:,.0f} requests, {hits:.1%} hits",
        f"{values.replicas} replicas" if scaling.mode == "none" else between,
        f"at most {values.capacity} calls at once in each",
    ]


def _seen(compared: Agreement) -> Iterator[str]:
    for what, error, within in (
        ("wanted", compared.wanted_error, compared.wanted_within_one),
        ("ready", compared.ready_error, compared.ready_within_one),
    ):
        if error is not None:
            yield f"beside what was {what}: {error:+.1%} replica-seconds, within one at {within:.1%} of moments"
    shares = (("refused", compared.refused), ("waited", compared.waited))
    told = ", ".join(f"{what} {share:.3%}" for what, share in shares if share is not None)
    if told:
        yield f"as it was seen: {told} of requests"


def _table(found: list[Row]) -> list[str]:
    head = f"{'minute':>6}  {'requests':>9}  {'refused':>8}  {'waited':>8}  {'wanted':>14}  {'ready':>14}"
    unit = f"{'':>6}  {'':>9}  {'':>8}  {'':>8}  {'min mean max':>14}  {'min mean max':>14}"
    return [head, unit, *(_row(row) for row in found)]


def _row(row: Row) -> str:
    def spread(of: Spread) -> str:
        return f"{of.least:>3} {of.mean:>6.1f} {of.most:>3}"

    counts = f"{row.minute:>6}  {row.requests:>9,.0f}  {row.refused:>8,.0f}  {row.waited:>8,.0f}"
    return f"{counts}  {spread(row.wanted)}  {spread(row.ready)}"


def duration(seconds: float) -> str:
    """In words."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return " ".join(
        f"{count} {unit}" for count, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if count
    )
