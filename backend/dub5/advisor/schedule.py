"""Fewest replicas by hour of the week: what a record says of them, and how KEDA or a CronJob is told.

A load that comes back each morning needs no autoscaler to notice it: as many replicas as it will need are there when it
begins. Hours are of the week in UTC, 0 is Monday from 00:00 to 01:00. Where no such hour is known twice, since the
record is shorter than a week, one floor holds for that hour of every day.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from dub5.advisor.record import Record, slot_seconds

HOURS = 168
DAY, WEEK = 86400.0, 7 * 86400.0
LEAD = 300.0
"""Seconds by which an hour's floor also covers the beginning of the next one: pods start before the load comes."""

_LEVELS = 5
_DATED = 10**8
"""A record that began before this Unix time (1973) has no date."""

_MONDAY = 4 * 86400
"""The first one of Unix time."""


class Span(NamedTuple):
    """On these days (0 is Sunday, as cron counts) from one hour until another, 24 at most: the fewest replicas."""

    days: tuple[int, ...]
    begin: int
    end: int
    replicas: int


def hour_of_week(moment: float) -> int:
    """Of a Unix time."""
    return int((moment - _MONDAY) // 3600) % HOURS


def why_not(record: Record) -> str | None:
    """Why no floor by hour can be had from a record; None where it can."""
    if record.header.began < _DATED:
        return "the record does not say on which day it was made"
    if record.header.seconds < DAY:
        return "what is tuned on is shorter than a day, so no hour comes back"
    return None


def peaks(record: Record) -> list[float]:
    """By hour of the week the most calls at once that were on offer (Little's law, minute by minute).

    Of a record shorter than a week, by hour of the day. An hour that it has not is as good as empty.
    """
    found = [0.0] * HOURS
    weekly = record.header.seconds >= WEEK
    for at, offered in offered_by_minute(record):
        for moment in (at, at - LEAD):
            hour = hour_of_week(record.header.began + moment)
            hours = [hour] if weekly else range(hour % 24, HOURS, 24)
            for each in hours:
                found[each] = max(found[each], offered)
    return found


def offered_by_minute(record: Record) -> Iterator[tuple[float, float]]:
    """The calls at once of each minute with requests, if none had to wait: those that come times how long they take."""
    counts: dict[int, float] = defaultdict(float)
    mixes, index = record.mixes, 0
    for arrivals in record.arrivals:
        for number, requests in enumerate(arrivals.requests):
            at = arrivals.at + number * arrivals.step
            while index + 1 < len(mixes) and mixes[index + 1].at <= at:
                index += 1
            over = max(1, round(arrivals.step / 60))
            for minute in range(over):
                counts[int(at // 60) + minute] += requests * slot_seconds(mixes[index]) / over
    return ((minute * 60.0, taken / 60) for minute, taken in sorted(counts.items()))


def floors(peaks: Sequence[float], slots: float, most: int) -> tuple[int, ...]:
    """With so many slots of each replica taken at the peak, at most; in at most _LEVELS steps, each one a trigger."""
    exact = [min(most, math.ceil(peak / slots)) for peak in peaks]
    step = math.ceil(max(exact) / _LEVELS) or 1
    return tuple(min(most, math.ceil(each / step) * step) for each in exact)


def spans(floors: Sequence[int], least: int) -> list[Span]:
    """The fewest spans with one floor each; hours that `least` covers are left out."""
    days: dict[tuple[int, int, int], list[int]] = defaultdict(list)
    for day in range(7):
        hours = list(enumerate(floors[day * 24 : day * 24 + 24]))
        for replicas, run in itertools.groupby(hours, key=lambda hour: hour[1]):
            if replicas > least:
                inside = [hour for hour, _ in run]
                days[inside[0], inside[-1] + 1, replicas].append((day + 1) % 7)
    found = [Span(tuple(sorted(on)), begin, end, replicas) for (begin, end, replicas), on in days.items()]
    return sorted(found, key=lambda span: (span.days, span.begin))


def triggers(of: Sequence[Span]) -> list[dict[str, Any]]:
    """KEDA's, for `autoscaling.keda.triggers`."""
    return [
        {
            "type": "cron",
            "metadata": {
                "timezone": "Etc/UTC",
                "start": f"0 {span.begin} * * {_days(span.days)}",
                "end": _end(span),
                "desiredReplicas": str(span.replicas),
            },
        }
        for span in of
    ]


def _end(span: Span) -> str:
    """Hour 24 is hour 0 of the next day."""
    days = span.days if span.end < 24 else tuple(sorted((day + 1) % 7 for day in span.days))
    return f"0 {span.end % 24} * * {_days(days)}"


def changes(floors: Sequence[int], least: int) -> list[Span]:
    """When `minReplicas` is to become what, over a week; spans of no length."""
    days: dict[tuple[int, int], list[int]] = defaultdict(list)
    for hour in range(HOURS):
        now = max(least, floors[hour])
        if now != max(least, floors[hour - 1]):
            days[hour % 24, now].append((hour // 24 + 1) % 7)
    return sorted(Span(tuple(sorted(on)), hour, hour, replicas) for (hour, replicas), on in days.items())


def cron_jobs(of: Sequence[Span], name: str, image: str) -> list[dict[str, Any]]:
    """One CronJob for each change of the HorizontalPodAutoscaler `name`, and the right to make it, no further one."""
    job = f"{name}-floor"
    labels = {"app.kubernetes.io/name": job}
    role: dict[str, Any] = {
        "rules": [
            {
                "apiGroups": ["autoscaling"],
                "resources": ["horizontalpodautoscalers"],
                "resourceNames": [name],
                "verbs": ["get", "patch"],
            }
        ]
    }
    binding = {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": job},
        "subjects": [{"kind": "ServiceAccount", "name": job}],
    }

    def made(kind: str, api: str, named: str, rest: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": api, "kind": kind, "metadata": {"name": named, "labels": labels}, **rest}

    rights = "rbac.authorization.k8s.io/v1"
    return [
        made("ServiceAccount", "v1", job, {}),
        made("Role", rights, job, role),
        made("RoleBinding", rights, job, binding),
        *(
            made("CronJob", "batch/v1", f"{job}-{number}", {"spec": _cron_job(span, name, job, image)})
            for number, span in enumerate(of)
        ),
    ]


def _cron_job(span: Span, name: str, account: str, image: str) -> dict[str, Any]:
    patch = f'{{"spec":{{"minReplicas":{span.replicas}}}}}'
    container = {
        "name": "patch",
        "image": image,
        "args": ["patch", "horizontalpodautoscaler", name, "--type=merge", f"--patch={patch}"],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "serviceAccountName": account,
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return {
        "schedule": f"0 {span.begin} * * {_days(span.days)}",
        "timeZone": "Etc/UTC",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 900,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 1,
        "jobTemplate": {"spec": {"backoffLimit": 3, "template": {"spec": pod}}},
    }


def _days(days: Sequence[int]) -> str:
    return "*" if len(days) == 7 else ",".join(map(str, days))
