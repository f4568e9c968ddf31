"""Records of what is there already: CSVs of arrivals and of runs of benchmarks.scaling, load tests; and made-up loads.

None of them knows everything: what it does not say (how long calls take, how many are hits) is given as a `Mix`.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
import random
import re
import statistics
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import msgspec

from dub5.advisor.record import (
    LONGEST,
    AnyLine,
    Arrivals,
    BadRecord,
    Callers,
    Header,
    Mix,
    Record,
    Seen,
    make,
)
from dub5.loadtest.prometheus import LATEST, Points
from dub5.loadtest.runs import Run, Unreadable, read_run
from dub5.loadtest.series import read_series

SHAPES: dict[str, str] = {
    "step": "from a fifth of the rate to all of it, at a third of the time",
    "ramp": "evenly from nothing to the rate",
    "daily": "one wave, from a tenth of the rate up to it and back",
    "spike": "a fifth of the rate, and all of it for five minutes in the middle",
    "cache-lost": "the rate throughout; in the middle the cache is lost, and fills within half an hour",
    "slow-provider": "the rate throughout; for the middle third calls take three times as long",
}
"""Each with what it is."""

_TIMES = ("TIMESTAMP", "timestamp", "time", "second", "seconds")
_TOKENS = ("GeneratedTokens", "tokens")
_MOST_ROWS = 20_000_000
_LONGEST_LINE = 2**20
"""Characters."""

_PARTS = re.compile(r"(\.[0-9]{6})[0-9]+")
"""Of a second; six digits are read."""

_SPIKE = 300.0
_REFILL = 1800.0
_POINTS = (0.0, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


class Speed(NamedTuple):
    """How a provider writes: seconds until the first token, and tokens a second after it."""

    first_token: float = 0.3
    tokens_per_second: float = 60.0


def of_csv(path: Path, header: Callable[[float, float], Header], mix: Mix, speed: Speed) -> Record:
    """Arrivals, one a row, in any order. The column `TIMESTAMP` (a date and time) or `second` says when; where there is
    `GeneratedTokens`, calls take as long as so many tokens at `speed`, else as long as `mix` says. `header` is made of
    the Unix time at which it began and its seconds. BadRecord names the line.

    Rows are counted, not kept: memory follows from the seconds that they span.
    """
    first, least, most = None, 0, 0
    counts: Counter[int] = Counter()
    tokens: Counter[float] = Counter()
    with _naming(path):
        for number, row in _rows(path):
            moment = _moment(row, number)
            if first is None:
                first = moment
            second = math.floor(moment - first)
            least, most = min(least, second), max(most, second)
            if most - least >= LONGEST:
                raise BadRecord(
                    f"line {number}: its rows are {most - least:g} s apart, a record has at most {LONGEST}; "
                    "a number counts seconds"
                )
            counts[second] += 1
            written = next((row[name] for name in _TOKENS if row.get(name)), None)
            if written is not None:
                tokens[_tokens(written, number)] += 1
    if first is None:
        raise BadRecord(f"{path} has no rows")
    requests = [float(counts[second]) for second in range(least, most + 1)]
    if tokens:
        took = {speed.first_token + each / speed.tokens_per_second: count for each, count in tokens.items()}
        if max(took) > LONGEST:
            raise BadRecord(f"{path}: a call of {max(took):.9g} s: a record has at most {LONGEST}")
        mix = msgspec.structs.replace(mix, service=distribution(took))
    return make(header(first + least, float(len(requests))), [Arrivals(at=0, requests=requests), mix])


def _tokens(written: str, number: int) -> float:
    """To four digits, so that there are not many different ones."""
    found = _number(written, number)
    if found < 0:
        raise BadRecord(f"line {number}: {written[:40]!r} tokens")
    return float(f"{found:.4g}")


def of_run(path: Path, header: Callable[[float, float], Header], mix: Mix) -> Record:
    """A CSV that benchmarks.scaling has written: `second, clients`, and `wanted, ready, demand` as seen."""
    lines: list[AnyLine] = [mix]
    before = None
    second = 0.0
    with _naming(path):
        for number, row in _rows(path):
            second, clients = (_number(row.get(name), number) for name in ("second", "clients"))
            if clients != before:
                lines.append(Callers(at=second, count=int(clients)))
                before = clients
            wanted, ready, demand = (_number(row.get(name), number) for name in ("wanted", "ready", "demand"))
            lines.append(Seen(at=second, wanted=int(wanted), ready=int(ready), demand=demand))
    if second == 0:
        raise BadRecord(f"{path} has no rows")
    return make(header(0.0, second), lines)


def of_loadtest(path: Path, header: Callable[[float, float], Header], mix: Mix) -> Record:
    """A report's folder of a load test that had a Prometheus: arrivals, hits, demand and replicas of its series.json.

    Calls take what callers measured (`chat_duration`), but as long in the mean as what was in flight says by Little's
    law: without hits and without the wait for a slot.
    """
    try:
        run, lines = read_run(path), read_series(path).lines
    except Unreadable as error:
        raise BadRecord(str(error)) from None
    arrivals = lines.get("arrivals") or lines.get("requests")
    if not arrivals or len(arrivals) < 2:
        raise BadRecord(f"{path}: series.json has no arrivals: the load test had no Prometheus")
    began, length = run.began, run.ended - run.began
    if not 0 < length <= LONGEST:
        raise BadRecord(f"{path}: a load test of {length:.0f} s: a record has at most {LONGEST}")
    # A report asks for no finer ones than of a second.
    step = max(
        1.0, statistics.median(later - earlier for (earlier, _), (later, _) in itertools.pairwise(arrivals))
    )
    steps = [began + index * step for index in range(math.ceil(length / step))]
    hits = lines.get("hits") or []
    service = _service(run, lines, mix)
    mixes = [
        Mix(at=max(0.0, moment - began), hits=min(1.0, max(0.0, share)), service=service)
        for moment, share in hits
    ]
    first = msgspec.structs.replace(mixes[0] if mixes else mix, at=0.0, service=service)
    seen = [
        Seen(at=max(0.0, moment - began), ready=round(value), demand=_at(lines.get("demand") or [], moment))
        for moment, value in lines.get("replicas") or []
    ]
    requests = [max(0.0, _at(arrivals, moment + step / 2) or 0.0) * step for moment in steps]
    return make(
        header(began, length),
        [
            Arrivals(at=0, step=step, requests=requests),
            first,
            *(each for each in mixes if each.at > 0),
            *seen,
        ],
    )


def _service(run: Run, lines: Mapping[str, Points], mix: Mix) -> list[tuple[float, float]]:
    names = ((0.0, "min"), (0.5, "med"), (0.9, "p(90)"), (0.95, "p(95)"), (0.99, "p(99)"), (1.0, "max"))
    found = ((share, run.value("chat_duration", name)) for share, name in names)
    points = [(share, value / 1000) for share, value in found if value is not None]
    if len(points) < 2:
        return mix.service
    calls = sum(
        rate * (1 - (_at(lines.get("hits") or [], moment) or 0.0))
        for moment, rate in lines.get("arrivals") or []
    )
    inflight = sum(value for _, value in lines.get("inflight") or [])
    mean = statistics.fmean(_mean(points, index / 100) for index in range(101))
    factor = inflight / calls / mean if calls > 0 and inflight > 0 else 1.0
    return [(share, seconds * factor) for share, seconds in points]


def _mean(points: list[tuple[float, float]], share: float) -> float:
    """What this share of calls takes at most."""
    for (before, low), (after, high) in itertools.pairwise(points):
        if share <= after:
            return low + (high - low) * (share - before) / (after - before)
    return points[-1][1]


def of_shape(
    shape: str, header: Callable[[float, float], Header], mix: Mix, *, rate: float, seconds: float, seed: int
) -> Record:
    """One of SHAPES; requests come by chance (Poisson), `rate` a second at the peak."""
    rng = random.Random(f"{seed} shape")
    rates: dict[str, Callable[[float], float]] = {
        "step": lambda at: rate if at >= seconds / 3 else rate / 5,
        "ramp": lambda at: rate * at / seconds,
        "daily": lambda at: rate * (0.55 - 0.45 * math.cos(2 * math.pi * at / seconds)),
        "spike": lambda at: rate if abs(at - seconds / 2) < _SPIKE / 2 else rate / 5,
        "cache-lost": lambda _: rate,
        "slow-provider": lambda _: rate,
    }
    rate_at = rates[shape]
    requests = [float(_poisson(rng, rate_at(second + 0.5))) for second in range(math.ceil(seconds))]
    return make(header(0.0, seconds), [Arrivals(at=0, requests=requests), *_mixes(shape, mix, seconds)])


def _mixes(shape: str, mix: Mix, seconds: float) -> Iterable[Mix]:
    yield mix
    replace = msgspec.structs.replace
    if shape == "cache-lost":
        steps = 30
        for index in range(steps + 1):
            filled = mix.hits * (1 - math.exp(-3 * index / steps)) if index < steps else mix.hits
            yield replace(mix, at=seconds / 2 + index * min(_REFILL, seconds / 2) / steps, hits=filled)
    elif shape == "slow-provider":
        yield replace(mix, at=seconds / 3, service=[(share, 3 * each) for share, each in mix.service])
        yield replace(mix, at=2 * seconds / 3)


def _poisson(rng: random.Random, mean: float) -> int:
    """Knuth's for small means; beyond that a normal one is as good."""
    if mean > 100:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def distribution(took: Mapping[float, int]) -> list[tuple[float, float]]:
    """Points of the distribution of these durations, each with how often there was it."""
    ordered = sorted(took)
    passed = list(itertools.accumulate(took[each] for each in ordered))
    ranks = (min(passed[-1] - 1, int(share * passed[-1])) for share in _POINTS)
    return [(share, ordered[bisect_right(passed, rank)]) for share, rank in zip(_POINTS, ranks, strict=True)]


def _at(points: Points, moment: float) -> float | None:
    """The value of the last point up to then, else of the first."""
    before = [value for at, value in points if at <= moment]
    return before[-1] if before else points[0][1] if points else None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """What is wrong with a line is said with the file's name."""
    try:
        yield
    except BadRecord as error:
        raise BadRecord(str(error) if str(path) in str(error) else f"{path}: {error}") from None


def _rows(path: Path) -> Iterable[tuple[int, dict[str, str]]]:
    """With their numbers, as an editor counts lines."""
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            names, reader = _head(file)
            for rows, row in enumerate(reader):
                number = reader.line_num + 1
                if rows == _MOST_ROWS:
                    raise BadRecord(f"{path} has more than {_MOST_ROWS} rows")
                if any(row) and not "".join(row).isspace():
                    yield number, dict(zip(names, row, strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else f"it is no CSV near line {number}"
        raise BadRecord(f"{path} cannot be read: {reason}") from None


def _head(file: TextIO) -> tuple[list[str], Any]:
    """The names of columns, and a reader of the lines behind them. What separates columns is what separates names."""
    lines = _lines(file)
    head = next(lines, "")
    separator = max(",;\t", key=head.count)
    names = next(csv.reader([head], delimiter=separator), [])
    return [name.strip() for name in names], csv.reader(lines, delimiter=separator)


def _lines(file: TextIO) -> Iterator[str]:
    """One may have no end."""
    number = 0
    while line := file.readline(_LONGEST_LINE + 1):
        number += 1
        if len(line) > _LONGEST_LINE:
            raise BadRecord(f"line {number}: it has more than {_LONGEST_LINE} characters")
        yield line


def _moment(row: dict[str, str], number: int) -> float:
    """Unix time, or seconds since whenever."""
    written = next((row[name] for name in _TIMES if row.get(name)), None)
    if written is None:
        raise BadRecord(
            f"line {number}: there is no column {' or '.join(_TIMES)}, or nothing in it (columns: "
            f"{', '.join([*row][:10])[:200]})"
        )
    try:
        found = _finite(float(written), written, number)
    except ValueError:
        found = _date(written, number)
    if not 0 <= found <= LATEST:
        raise BadRecord(
            f"line {number}: {written[:40]!r} is before 1970 or too far ahead: a number counts seconds"
        )
    return found


def _date(written: str, number: int) -> float:
    try:
        moment = datetime.fromisoformat(_PARTS.sub(r"\1", written.strip()))
    except ValueError:
        raise BadRecord(f"line {number}: {written[:40]!r} is neither a number nor a date and time") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number(written: str | None, number: int) -> float:
    try:
        return _finite(float(written or ""), written, number)
    except ValueError:
        raise BadRecord(f"line {number}: {str(written)[:40]!r} is no number") from None


def _finite(found: float, written: str | None, number: int) -> float:
    if not math.isfinite(found):
        raise BadRecord(f"line {number}: {str(written)[:40]!r} is no number")
    return found
