"""Asking a Prometheus, or what answers as one does, in bounded time and memory.

Of a time that is long much is asked: so samples are taken as they were scraped (a range vector, with its true
moments), a part of the time after the other. An answer that is too large, too slow, cut off or none is refused with
the reason; who is let in is said by headers, and no error repeats them.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import statistics
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self

import httpx
import msgspec

from dub5.report.document import clean

TIMEOUT = 60.0
"""Seconds that one answer may take, to its last byte."""

LARGEST = 64 * 2**20
"""Bytes of one answer."""

LATEST = 6e10
"""Unix time, of the year 3871; as long before 1970 there are dates, too."""

_AT_ONCE = 4
_MOST_WORDS = 300
"""Characters of what a server says of itself."""


class Unanswered(Exception):
    """Nothing that Prometheus would give: in a sentence for people, without a password."""


Points = list[tuple[float, float]]
"""(Unix time in seconds, value), in order."""


def number(written: str) -> float:
    """As Prometheus writes one: a value, or the bound of a bucket. Unanswered where it is none."""
    try:
        return float(written)
    except ValueError:
        raise Unanswered(f"Prometheus gave {written[:_MOST_WORDS]!r} for a number") from None


class Series(msgspec.Struct):
    """`value` is an instant's, `values` are those of a range."""

    metric: dict[str, str] = {}
    value: tuple[float, str] | None = None
    values: list[tuple[float, str]] = []

    @property
    def points(self) -> Points:
        """Unanswered where one is no finite number, or of no time: none of ours may be anything else."""
        written = self.values if self.value is None else [self.value]
        found = [(moment, number(value)) for moment, value in written]
        for moment, value in found:
            if not math.isfinite(value) or abs(moment) > LATEST:
                name = self.metric.get("__name__", "a figure")
                raise Unanswered(f"{name} of {self.metric.get('pod', '?')} is {value:g} at {moment:.15g}")
        return found


class _Data(msgspec.Struct):
    result: list[Series]


class _Answer(msgspec.Struct):
    """A list with nothing in it is null where Go writes it."""

    data: _Data
    status: str = "success"
    warnings: list[str] | None = None


class _Failure(msgspec.Struct):
    error: str


class Prometheus:
    """`warnings` are what it said beside its answers, such as that a part of it was away."""

    def __init__(
        self,
        url: str,
        headers: Sequence[tuple[str, str]] = (),
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        try:
            address = httpx.URL(url)
            possible = bool(address.host) and (address.port is None or address.port < 2**16)
        except (httpx.InvalidURL, UnicodeError):  # the latter of a name that IDNA cannot have
            possible = False
        if not possible or address.scheme not in ("http", "https"):
            raise Unanswered("--prometheus: write an address such as http://prometheus.monitoring:9090")
        self._shown = str(address.copy_with(username=None, password=None, query=None)).rstrip("/")
        self._client = httpx.AsyncClient(
            base_url=str(address).rstrip("/"), headers=[*headers], timeout=TIMEOUT, transport=transport
        )
        self._places = asyncio.Semaphore(_AT_ONCE)
        self.warnings: set[str] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def at(self, query: str, moment: float | None = None) -> list[Series]:
        """An instant vector, or with a query such as `up[5m]` samples as they were scraped; now by its own clock."""
        asked = {"query": query} if moment is None else {"query": query, "time": f"{moment:.3f}"}
        return await self._ask("/api/v1/query", asked)

    async def over(self, query: str, began: float, ended: float, step: float) -> list[Series]:
        """What the query gives at each step."""
        asked = {"query": query, "start": f"{began:.3f}", "end": f"{ended:.3f}", "step": f"{step:g}"}
        return await self._ask("/api/v1/query_range", asked)

    async def _ask(self, path: str, asked: Mapping[str, str]) -> list[Series]:
        try:
            async with self._places, asyncio.timeout(TIMEOUT):
                status, content = await self._fetch(path, asked)
        except TimeoutError:
            raise self._failed(f"no whole answer within {TIMEOUT:.0f} s") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(str(error) or type(error).__name__) from None
        if status != httpx.codes.OK:
            raise self._failed(f"HTTP {status}{_words_of(content)}")
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._failed(_words_of(content).removeprefix(": ") or str(error)) from None
        except RecursionError:
            raise self._failed("an answer that is nested too deep") from None
        if answer.status != "success":
            raise self._failed(f"{answer.status}{_words_of(content)}")
        self.warnings.update(clean(each, _MOST_WORDS) for each in (answer.warnings or [])[:5])
        return answer.data.result

    async def _fetch(self, path: str, asked: Mapping[str, str]) -> tuple[int, bytes]:
        content = bytearray()
        async with self._client.stream("GET", path, params=asked) as answer:
            async for piece in answer.aiter_bytes():
                content += piece
                if len(content) > LARGEST:
                    raise self._failed(
                        f"more than {LARGEST // 2**20} MiB in one answer: ask for a shorter time, or fewer replicas"
                    )
            return answer.status_code, bytes(content)

    def _failed(self, reason: str) -> Unanswered:
        return Unanswered(f"{self._shown} does not answer as Prometheus does: {clean(reason, _MOST_WORDS)}")


def scrape_interval(series: Iterable[Series]) -> float | None:
    """Seconds between two scrapes, in the middle of all."""
    apart = [
        later - earlier
        for each in series
        for (earlier, _), (later, _) in itertools.pairwise(each.values)
        if later > earlier
    ]
    return statistics.median(apart) if apart else None


class Together(asyncio.TaskGroup):
    """Where one of its tasks fails, that error is raised once the others have ended: Prometheus' connections are closed
    then, and whatever still waited for an answer on one would fail, too, with nobody to tell."""

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await super().__aexit__(*raised)
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None


async def together(*asked: Coroutine[Any, Any, list[Series]]) -> list[list[Series]]:
    """What each answers."""
    async with Together() as group:
        tasks = [group.create_task(each) for each in asked]
    return [task.result() for task in tasks]


def _words_of(content: bytes) -> str:
    """Why it failed, where it says so as Prometheus does."""
    try:
        return f": {msgspec.json.decode(content, type=_Failure).error}"
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
