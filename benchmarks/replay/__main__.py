"""Replay real arrivals and lengths against `dub5 serve`, with the official OpenAI client.

    python -m benchmarks.replay                      # ten minutes of the trace, four times as fast
    python -m benchmarks.replay --requests 200       # a short look

What is real: when requests arrive, how long prompts and answers are (see DATA.md). What is made up: the trace
does not tell which questions repeat, so each request draws one of QUESTIONS by a Zipf law with exponent ZIPF (the
k-th most popular has weight 1/k^s); a question keeps the lengths of one row of the trace. The provider is the simulated
one, in the same process, so the figures are the service's own and its cache's. What requests cost is the service's own
word: its metrics, with the prices of SETTINGS.

Prints a Markdown table. Exits with 1 where any request failed.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections import Counter, defaultdict

import msgspec
from openai import AsyncOpenAI, OpenAIError

from benchmarks.figures import percentile, progress
from testkit import trace
from testkit.commands import parser
from testkit.service import Service, scraped, serving
from testkit.tables import table
from testkit.trace import Row

CHARACTERS_PER_TOKEN = 4
QUESTIONS, ZIPF, SEED = 1000, 0.9, 1
SETTINGS = {
    "providers": {"demo": {"kind": "simulated", "first_token": "300ms", "tokens_per_second": 60}},
    "models": {"demo": {"routes": ["demo/simulated"], "price": {"input": 0.15, "output": 0.60}}},
    "cache": {"local_bytes": "256MiB", "classes": {"default": {"ttl": "1h"}}},
}
"""By default, but pace, memory and price said aloud."""


class Result(msgspec.Struct, frozen=True):
    """What one client saw; durations in seconds. `cache`: hit, collapsed (joined a call under way) or asked."""

    error: str | None
    cache: str
    first_token: float
    whole: float
    answer_tokens: int


async def spent(service: Service) -> dict[str, float]:
    """What the service has spent so far, by the names of its metrics, labels summed up."""
    total: defaultdict[str, float] = defaultdict(float)
    for name, value in (await scraped(service)).items():
        total[name.partition("{")[0]] += value
    return total


def draw_questions(count: int) -> list[int]:
    """For each of so many requests the index of its question, by popularity."""
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, min(QUESTIONS, count) + 1)))
    return random.Random(SEED).choices(range(len(weights)), cum_weights=weights, k=count)


def prompt(question: int, tokens: int) -> str:
    opening = f"Question {question}: what follows from these notes? "
    return (opening + "note " * tokens)[: max(len(opening), tokens * CHARACTERS_PER_TOKEN)]


async def ask(client: AsyncOpenAI, question: int, lengths: Row) -> Result:
    started = time.perf_counter()
    first, tokens, cache, error = 0.0, 0, "asked", None
    try:
        response = await client.chat.completions.with_raw_response.create(
            model="assistant",
            messages=[{"role": "user", "content": prompt(question, lengths.prompt)}],
            max_tokens=lengths.answer,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"min_tokens": lengths.answer},  # or the simulated provider would stop earlier
        )
        status = response.headers["cache-status"]
        cache = next((kind for kind in ("hit", "collapsed") if f"; {kind}" in status), cache)
        async for chunk in response.parse():
            first = first or time.perf_counter() - started
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
        error = None if tokens else "no usage at the end"
    except OpenAIError as failure:
        error = type(failure).__name__
    return Result(error, cache, first, time.perf_counter() - started, tokens)


async def replay(url: str, rows: list[Row], questions: list[int], speed: float) -> list[Result]:
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        began = time.perf_counter()
        asking: list[asyncio.Task[Result]] = []
        for row, question in zip(rows, questions, strict=True):
            await asyncio.sleep(max(0.0, began + row.at / speed - time.perf_counter()))
            asking.append(asyncio.create_task(ask(client, question, rows[question])))
            progress(f"{len(asking)} of {len(rows)}")
        return await asyncio.gather(*asking)


def _times(results: list[Result]) -> str:
    values = [result.first_token for result in results]
    return " / ".join(f"{percentile(values, percent) * 1000:.1f}" for percent in (50, 95, 99)) + " ms"


def share(part: list[Result], whole: list[Result]) -> str:
    return f"{len(part) / max(1, len(whole)):.1%}"


def report(results: list[Result], repeats: int, before: dict[str, float], after: dict[str, float]) -> str:
    def for_1000(name: str) -> float:
        return (after[name] - before[name]) * 1000 / max(1, len(results))

    good = [result for result in results if result.error is None]
    by_cache = {
        kind: [result for result in good if result.cache == kind] for kind in ("hit", "collapsed", "asked")
    }
    tokens = sum(result.answer_tokens for result in good)
    saved = tokens - sum(result.answer_tokens for result in by_cache["asked"])
    lines = [
        ("requests", f"{len(results):,}"),
        (
            "errors",
            f"{len(results) - len(good)} {dict(Counter(r.error for r in results if r.error)) or ''}".strip(),
        ),
        ("repeated questions (the most that any cache could hit)", f"{repeats / len(results):.1%}"),
        ("hit ratio", share(by_cache["hit"], good)),
        ("joined a call under way", share(by_cache["collapsed"], good)),
        ("time to first token, all, p50 / p95 / p99", _times(good)),
        ("time to first token, hits", _times(by_cache["hit"])),
        ("time to first token, misses", _times(by_cache["asked"])),
        ("answer tokens delivered", f"{tokens:,}"),
        ("answer tokens saved", f"{saved:,} ({saved / max(1, tokens):.1%})"),
        ("provider, for 1,000 requests", f"${for_1000('dub5_cost_dollars_total'):.4f}"),
        ("saved by the cache, for 1,000 requests", f"${for_1000('dub5_saved_dollars_total'):.4f}"),
        (
            "CPU of the service, simulated provider included, for 1,000 requests",
            f"{for_1000('process_cpu_seconds_total'):.2f} s",
        ),
    ]
    return table("what | value", lines)


async def main() -> int:
    options = parser(__doc__)
    options.add_argument("--requests", type=int, default=None, help="only so many of the trace's requests")
    options.add_argument(
        "--speed", type=float, default=4.0, help="how much faster than the trace (default 4)"
    )
    chosen = options.parse_args()
    rows = trace.read()[: chosen.requests]
    questions = draw_questions(len(rows))
    async with serving(SETTINGS) as service:
        before = await spent(service)
        results = await replay(service.url, rows, questions, chosen.speed)
        after = await spent(service)
    print(report(results, len(questions) - len(set(questions)), before, after), end="")
    return 1 if any(result.error for result in results) else 0


sys.exit(asyncio.run(main()))
