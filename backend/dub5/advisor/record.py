"""The record of a load: what came, how long calls took, and how the cluster went along, in one file to be sent.

JSON lines, gzipped. The first line is the `Header`; each further one says what holds from its second `at` on, until
the next of its kind: requests (`Arrivals`), or callers that ask one question after the other (`Callers`); what became
of requests (`Mix`); and what was seen of the cluster (`Seen`), which no simulation reads: it is compared with that.
There are no prompts, answers, keys or names of callers in it.

A record bounds what is read of it: `LIMIT` bytes unzipped, LONGEST seconds. What is in it is bounded before it is made,
since two bytes of a line may be a number that takes thirty.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import math
import random
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

VERSION = 1
LIMIT = 256 * 2**20
"""Bytes of a record, unzipped."""

LONGEST = 32 * 86400
"""Seconds."""

_AROUND = 5.0
"""Seconds, which is less than anything takes that an autoscaler goes by."""

_BEGINNING = 60.0
"""Seconds of a record that what came before it is taken to be like, at most an eighth of it."""

LEAST_TIME = 0.01
"""Seconds after which a caller of `Callers` may ask again: answers take that at least, also those of the cache."""

_MOST_QUESTIONS = 10**8
"""Of `Callers`, which a simulation asks one by one."""

_MOST_REQUESTS = 10**9
"""Of `Arrivals`: hours of simulating, and more than a thousand a second in a week."""

_MOST_AT_ONCE = 10**6
_MOST_LINES = 10**6
_MOST_PARTS = 20_000_000
"""Of all lines together: numbers, for the most part."""

_MOST_IN_A_LINE = LONGEST + 1000
_LONGEST_HEADER = 4 * 2**20
_LARGEST_VALUES = 2**20
"""Bytes."""

_DEEPEST = 100
"""Levels of values."""

_GZIP = b"\x1f\x8b"

Seconds = Annotated[float, Meta(ge=0, le=LONGEST)]
Share = Annotated[float, Meta(ge=0, le=1)]
_Count = Annotated[int, Meta(ge=0, le=10**6)]
_Amount = Annotated[float, Meta(ge=0, le=1e12)]


class BadRecord(Exception):
    """A file that is no record, or one that cannot be; the message says which line and field."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line"):
    """One line of a record."""


class Pace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often things look, in seconds: Prometheus at pods, and the autoscaler at the metric.

    `synced` is a moment at which the autoscaler looked, where that is known: it looks each `sync` before and after it.
    A figure counts for `window` after it was scraped; a new pod is found by Prometheus within `discovery`.
    """

    scrape: Annotated[float, Meta(ge=0.1, le=600)] = 15.0
    sync: Annotated[float, Meta(ge=0.1, le=600)] = 15.0
    synced: Seconds | None = None
    window: Annotated[float, Meta(gt=0, le=3600)] = 60.0
    discovery: Annotated[float, Meta(ge=0, le=600)] = 5.0


class Cluster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`replicas` are there at first; absent: as few as may be. `starts`: seconds from a pod's making until it is ready,
    as measured, each as likely as the others. `room`: how many pods there is room for; absent: for all. Where a pod
    finds none, `more_room` is there `more_room_after` seconds later, as a cluster autoscaler makes it.
    `blind`: from when to when the autoscaler's metric could not be read.
    """

    replicas: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    starts: Annotated[
        tuple[Annotated[float, Meta(gt=0, le=3600)], ...], Meta(min_length=1, max_length=100_000)
    ] = (3.0, 3.5, 4.0, 4.5, 5.0)
    room: Annotated[int, Meta(ge=1)] | None = None
    more_room: Annotated[int, Meta(ge=0)] = 0
    more_room_after: Annotated[float, Meta(ge=0)] = 120.0
    blind: list[tuple[Seconds, Seconds]] = []


class Connections(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`keep`: seconds for which clients keep an idle connection, and so stay with one replica; 0: each request is
    balanced anew, as an HTTP/2 proxy does it. `leave_full`: they end where a replica was full, as answers then ask for.
    `again`: seconds after which a caller of `Callers` that was refused asks again.
    """

    keep: Annotated[float, Meta(ge=0, le=3600)] = 5.0
    leave_full: bool = True
    again: Annotated[float, Meta(ge=LEAST_TIME, le=3600)] = 1.0


class Header(Line, frozen=True, kw_only=True, tag="record"):
    """`source` says where it is from, in words; `began` is the Unix time of its second 0, `seconds` its length.

    `values` are the chart's values that were in force, as far as they differ from its defaults. `notes` are sentences
    on what was not as it should be, and what was made of it.
    """

    version: int = VERSION
    source: str
    began: Annotated[float, Meta(ge=0, le=1e11)] = 0.0
    seconds: Annotated[float, Meta(gt=0, le=LONGEST)]
    pace: Pace = Pace()
    cluster: Cluster = Cluster()
    connections: Connections = Connections()
    values: dict[str, Any] = {}
    notes: Annotated[list[Annotated[str, Meta(max_length=1000)]], Meta(max_length=100)] = []


class Arrivals(Line, frozen=True, kw_only=True, tag="arrivals"):
    """How many requests came in each `step` seconds from `at` on; each fell anywhere within its step.

    A fraction is the chance of one more.
    """

    at: Seconds
    step: Annotated[float, Meta(ge=1e-3, le=3600)] = 1.0
    requests: Annotated[list[Annotated[float, Meta(ge=0, le=_MOST_AT_ONCE)]], Meta(max_length=LONGEST)]


class Callers(Line, frozen=True, kw_only=True, tag="callers"):
    """From `at` on so many callers each ask one question after the other, on a connection of their own."""

    at: Seconds
    count: Annotated[int, Meta(ge=0, le=100_000)]


class Mix(Line, frozen=True, kw_only=True, tag="mix"):
    """What becomes of requests from `at` on: `hits` of them are answered from the cache, `followers` by another's call;
    the rest are calls, which hold a slot for as long as `service` says: (share of calls, seconds that they took at
    most), both ascending, between which lines are drawn.
    """

    at: Seconds = 0.0
    hits: Share = 0.0
    followers: Share = 0.0
    service: Annotated[list[tuple[Share, Seconds]], Meta(min_length=1, max_length=1001)]


class Seen(Line, frozen=True, kw_only=True, tag="seen"):
    """What there was at `at`, as far as it is known: replicas wanted and ready, demand and queue of all of them
    together; and since the beginning requests that came, those that were shed, and calls that had to wait for a slot,
    whether they got it or not."""

    at: Seconds
    wanted: _Count | None = None
    ready: _Count | None = None
    demand: _Amount | None = None
    queued: _Amount | None = None
    requests: _Amount | None = None
    shed: _Amount | None = None
    waited: _Amount | None = None


AnyLine = Header | Arrivals | Callers | Mix | Seen
L = TypeVar("L", bound="Arrivals | Callers | Mix | Seen")


class Record(msgspec.Struct, frozen=True):
    """A header, and the lines of each kind by time."""

    header: Header
    arrivals: list[Arrivals]
    callers: list[Callers]
    mixes: list[Mix]
    seen: list[Seen]

    @property
    def requests(self) -> float:
        """How many came; those of `callers` are not known before the service answers."""
        return sum(sum(each.requests) for each in self.arrivals)


def make(header: Header, lines: Iterable[AnyLine]) -> Record:
    """A record of these lines; BadRecord where they do not fit together."""
    found = list(lines)

    def of(kind: type[L]) -> list[L]:
        return sorted((line for line in found if isinstance(line, kind)), key=lambda line: line.at)

    record = Record(header, of(Arrivals), of(Callers), of(Mix), of(Seen))
    _check(record)
    return record


def write(record: Record, path: Path) -> None:
    """BadRecord where the file cannot be written, or `read` would not take it."""
    text = _written(record)
    try:
        path.write_bytes(gzip.compress(text, mtime=0))
    except OSError as error:
        raise BadRecord(f"{path} cannot be written: {error.strerror}") from None


def checked(record: Record) -> Record:
    """The same; BadRecord where `read` would not take it."""
    _written(record)
    return record


def _written(record: Record) -> bytes:
    lines = [record.header, *record.arrivals, *record.callers, *record.mixes, *record.seen]
    text = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
    _parse(text)
    return text


def read(path: Path) -> Record:
    """BadRecord says what is wrong with which line."""
    try:
        return _parse(_unzipped(path))
    except OSError as error:
        raise BadRecord(f"{path} cannot be read: {error.strerror or error}") from None
    except BadRecord as error:
        raise BadRecord(f"{path}: {error}") from None


def _unzipped(path: Path) -> bytes:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        source: io.BufferedIOBase | gzip.GzipFile = gzip.GzipFile(fileobj=file) if zipped else file
        try:
            content = source.read(LIMIT + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise BadRecord("it is damaged: it cannot be unzipped") from None
    if len(content) > LIMIT:
        raise BadRecord(f"it has more than {LIMIT // 2**20} MiB")
    return content


def _parse(content: bytes) -> Record:
    if max(content.count(b"\n"), content.count(b"\r")) > _MOST_LINES:
        raise BadRecord(f"it has more than {_MOST_LINES} lines")
    written = content.splitlines()
    if content.count(b",") > _MOST_PARTS:
        raise BadRecord(f"it has more than {_MOST_PARTS} numbers and other values")
    if written and len(written[0]) > _LONGEST_HEADER:
        raise BadRecord(f"line 1: it has more than {_LONGEST_HEADER // 2**20} MiB")
    _check_version(written[0] if written else b"")
    lines = [_line(number, each) for number, each in enumerate(written, 1) if each.strip()]
    if not lines or not isinstance(lines[0], Header):
        raise BadRecord("this is no record of a load: its first line is not of kind `record`")
    header, rest = lines[0], lines[1:]
    if any(isinstance(line, Header) for line in rest):
        raise BadRecord("there is a second line of kind `record`")
    return make(header, rest)


class _Version(msgspec.Struct):
    version: int = VERSION


def _check_version(first: bytes) -> None:
    """Before anything else of it: a later one may have fields that are not known here."""
    with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        found = msgspec.json.decode(first, type=_Version).version
        if found != VERSION:
            raise BadRecord(f"line 1: version: it is of version {found}, this program reads {VERSION}")


def _line(number: int, written: bytes) -> AnyLine:
    if written.count(b",") > _MOST_IN_A_LINE:
        raise BadRecord(f"line {number}: it has more than {_MOST_IN_A_LINE} numbers and other values")
    try:
        line: AnyLine = msgspec.json.decode(written, type=AnyLine)
    except RecursionError:
        raise BadRecord(f"line {number}: it is nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        if number == 1 and b'"record"' not in written:
            raise BadRecord("this is no record of a load") from None
        text, _, place = str(error).partition(" - at `$")
        raise BadRecord(f"line {number}: {place.strip('`.')}{': ' if place else ''}{text}") from None
    return line


def _check(record: Record) -> None:
    seconds = record.header.seconds
    if not record.arrivals and not record.callers:
        raise BadRecord("it has no load: no line of kind `arrivals` or `callers`")
    if not record.mixes or record.mixes[0].at > 0:
        raise BadRecord("there is no line of kind `mix` at second 0: how long calls take is not known")
    if _is_deeper(record.header.values, _DEEPEST):
        raise BadRecord(f"values: they are nested deeper than {_DEEPEST} levels")
    if len(msgspec.json.encode(record.header.values)) > _LARGEST_VALUES:
        raise BadRecord(f"values: they have more than {_LARGEST_VALUES // 2**20} MiB")
    if any(earlier >= later for earlier, later in record.header.cluster.blind):
        raise BadRecord("cluster.blind: an outage ends before it begins")
    for mix in record.mixes:
        if mix.hits + mix.followers > 1:
            raise BadRecord(f"mix at {mix.at:g}: hits and followers are more than all requests")
        if not _ascending(mix.service):
            raise BadRecord(f"mix at {mix.at:g}: service: shares and seconds must both ascend")
    for before, after in itertools.pairwise(record.arrivals):
        if after.at < _end(before) - 1e-6:
            raise BadRecord(f"arrivals at {after.at:g}: those before reach until {_end(before):g}")
    if record.requests > _MOST_REQUESTS:
        raise BadRecord(
            f"arrivals: they are {record.requests:.9g} requests; at most {_MOST_REQUESTS:,} are simulated"
        )
    if (questions := _questions(record)) > _MOST_QUESTIONS:
        raise BadRecord(
            f"callers: with answers as fast as the lines of kind `mix` say they ask {questions:,.0f} questions; "
            f"at most {_MOST_QUESTIONS:,} are simulated"
        )
    if record.arrivals and _end(record.arrivals[-1]) > seconds + record.arrivals[-1].step:
        raise BadRecord(f"arrivals reach until {_end(record.arrivals[-1]):g}, the record until {seconds:g}")


def _is_deeper(values: Any, levels: int) -> bool:
    if not isinstance(values, dict | list):
        return False
    parts = values.values() if isinstance(values, dict) else values
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in parts)


def _questions(record: Record) -> float:
    """That `Callers` ask, if none has to wait."""
    asked, count, answer, before = 0.0, 0, 1.0, 0.0
    lines: list[Mix | Callers] = [*record.mixes, *record.callers]
    for line in sorted(lines, key=lambda line: line.at):
        at = min(line.at, record.header.seconds)
        asked += count * (at - before) / answer
        before = at
        if isinstance(line, Callers):
            count = line.count
        else:
            answer = max(LEAST_TIME, slot_seconds(line))
    return asked + count * (record.header.seconds - before) / answer


def slot_seconds(mix: Mix) -> float:
    """For how long a request holds a slot, in the mean over all requests."""
    mean = mix.service[0][0] * mix.service[0][1]
    for (before, low), (after, high) in itertools.pairwise(mix.service):
        mean += (after - before) * (low + high) / 2
    mean += (1 - mix.service[-1][0]) * mix.service[-1][1]
    return (1 - mix.hits - mix.followers) * mean


def _end(arrivals: Arrivals) -> float:
    return arrivals.at + arrivals.step * len(arrivals.requests)


def _ascending(points: Sequence[tuple[float, float]]) -> bool:
    return all(a[0] <= b[0] and a[1] <= b[1] for a, b in itertools.pairwise(points))


def part(record: Record, begin: float, end: float) -> Record:
    """From second `begin` to `end`, which are its seconds 0 and so on; what holds at `begin` holds at its second 0."""
    header, moved = record.header, msgspec.structs.replace
    pace, cluster = header.pace, header.cluster
    synced = None if pace.synced is None else (pace.synced - begin) % pace.sync
    blind = [(max(0.0, a - begin), b - begin) for a, b in cluster.blind if b > begin and a < end]
    arrivals = [_cut(each, begin, end) for each in record.arrivals if each.at < end and _end(each) > begin]

    def held(lines: Sequence[L]) -> list[L]:
        before = [each for each in lines if each.at <= begin][-1:]
        later = [each for each in lines if begin < each.at < end]
        return [moved(each, at=max(0.0, each.at - begin)) for each in [*before, *later]]

    return Record(
        moved(
            header,
            began=header.began + begin,
            seconds=end - begin,
            pace=moved(pace, synced=synced),
            cluster=moved(cluster, blind=blind, replicas=cluster.replicas if begin == 0 else None),
        ),
        arrivals,
        held(record.callers),
        held(record.mixes),
        held(record.seen),
    )


def _cut(arrivals: Arrivals, begin: float, end: float) -> Arrivals:
    """The steps that begin in that time."""
    first = max(0, math.ceil((begin - arrivals.at) / arrivals.step))
    last = math.ceil((end - arrivals.at) / arrivals.step)
    at = arrivals.at + first * arrivals.step - begin
    return msgspec.structs.replace(arrivals, at=at, requests=arrivals.requests[first:last])


def preceded(record: Record, seconds: float) -> Record:
    """The same after so many seconds, or somewhat more, of what its beginning is like, over and over: when its own load
    begins, calls are under way, and the autoscaler has gone by them."""
    replace, header = msgspec.structs.replace, record.header
    first = part(record, 0.0, min(_BEGINNING, max(1.0, header.seconds / 8)))
    length = max([first.header.seconds, *map(_end, first.arrivals)])
    before = math.ceil(seconds / length) * length

    def moved(lines: Sequence[L], by: float) -> list[L]:
        return [replace(each, at=each.at + by) for each in lines]

    def repeated(lines: Sequence[L], own: Sequence[L]) -> list[L]:
        turns = range(round(before / length))
        return [*(each for turn in turns for each in moved(lines, turn * length)), *moved(own, before)]

    pace, cluster = header.pace, header.cluster
    synced = None if pace.synced is None else (pace.synced + before) % pace.sync
    return Record(
        replace(
            header,
            began=header.began - before,
            seconds=before + header.seconds,
            pace=replace(pace, synced=synced),
            cluster=replace(cluster, blind=[(a + before, b + before) for a, b in cluster.blind]),
        ),
        repeated(first.arrivals, record.arrivals),
        repeated(first.callers, record.callers),
        repeated(first.mixes, record.mixes),
        moved(record.seen, before),
    )


def times(record: Record, factor: float) -> Record:
    """The same with so many times the load."""
    replace = msgspec.structs.replace
    return replace(
        record,
        arrivals=[
            replace(each, requests=[count * factor for count in each.requests]) for each in record.arrivals
        ],
        callers=[replace(each, count=round(each.count * factor)) for each in record.callers],
    )


def again(record: Record, seed: int) -> Record:
    """The same with requests as they might have come: in each step as many as came in one of those around it, within
    _AROUND seconds, by chance. So they come as unevenly as they did, and what follows from a minute or an hour of
    them is as uncertain as it is; a jump stays one (a bootstrap of local blocks, Paparoditis and Politis 2002)."""
    rng = random.Random(f"{seed} again")
    return msgspec.structs.replace(record, arrivals=[_drawn(each, rng) for each in record.arrivals])


def _drawn(arrivals: Arrivals, rng: random.Random) -> Arrivals:
    came, last = arrivals.requests, len(arrivals.requests) - 1
    reach = max(1, int(_AROUND / arrivals.step))
    drawn = (
        came[min(max(0, index + int(rng.random() * (2 * reach + 1)) - reach), last)]
        for index in range(len(came))
    )
    return msgspec.structs.replace(arrivals, requests=list(drawn))


def without_cache(record: Record) -> Record:
    """The same where nothing is a hit."""
    return msgspec.structs.replace(
        record, mixes=[msgspec.structs.replace(each, hits=0.0) for each in record.mixes]
    )
