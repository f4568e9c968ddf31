"""What caches hold: the memory cache against a plain LRU, and what an answer takes in Redis. Repeatable, by a seed.

The memory cache is the service's own LocalCache, asked by a Zipf law with one scan of cold keys midway. Answers are
of three sizes, and each miss is followed by a store, as in the service; the LRU counts the same bytes for an entry.
"""

from __future__ import annotations

import itertools
import random
import statistics
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.figures import Figure, percentile, progress
from dub5.cache.store import BESIDE_BODY, Entry, Identity, LocalCache, pack, unpack
from dub5.contract import ENTRY_KEY
from testkit.redis_server import RedisServer

QUESTIONS, ACCESSES, SCAN, ZIPF, SEED = 50_000, 400_000, 20_000, 0.9, 1
CAPACITIES = (2 * 2**20, 8 * 2**20)
SIZES = (500, 2_000, 6_000)
"""Bytes of an answer's body; a question keeps its own."""
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/async-io.md", "docs/adr/*.md")
BODY = 2048
ROOT = Path(__file__).parents[2]

Cache = Callable[[int], bool]
"""Looks a question up, stores it where it is missing, and says whether it was there."""


async def hit_ratio() -> list[Figure]:
    rng = random.Random(SEED)
    weights = list(itertools.accumulate(1 / rank**ZIPF for rank in range(1, QUESTIONS + 1)))
    drawn = rng.choices(range(QUESTIONS), cum_weights=weights, k=ACCESSES)
    half, after = ACCESSES // 2, ACCESSES // 10
    questions = [*drawn[:half], *range(QUESTIONS, QUESTIONS + SCAN), *drawn[half:]]

    def ratio(cache: Cache) -> tuple[float, float]:
        """Hits of all but the scan; and of the tenth that follows the scan, which suffers most."""
        hits = [cache(question) for question in questions]
        wanted = hits[:half] + hits[half + SCAN :]
        return sum(wanted) / len(wanted), sum(wanted[half : half + after]) / after

    figures = []
    for capacity in CAPACITIES:
        progress(f"hit ratio with {capacity >> 20} MiB")
        ours, lru = ratio(admission_aware(capacity)), ratio(least_recently_used(capacity))
        measured = (
            f"{ours[0]:.1%} against {lru[0]:.1%}; in the {after:,} accesses after the scan "
            f"{ours[1]:.1%} against {lru[1]:.1%}"
        )
        what = f"L1 hit ratio, Zipf {ZIPF}, one scan of {SCAN:,} cold keys, {capacity >> 20} MiB, against LRU"
        figures.append(Figure(what, "better", measured, ours[0] > lru[0] and ours[1] > lru[1]))
    return figures


def _entry(question: int) -> Entry:
    return Entry(bytes(SIZES[question % len(SIZES)]), 0, 1.0, 0, 0)


def admission_aware(capacity: int) -> Cache:
    cache = LocalCache(capacity)

    def ask(question: int) -> bool:
        identity = Identity(str(question), "0")
        if cache.get(identity) is not None:
            return True
        cache.put(identity, _entry(question), seconds=3600)
        return False

    return ask


def least_recently_used(capacity: int) -> Cache:
    held: OrderedDict[int, int] = OrderedDict()
    used = 0

    def ask(question: int) -> bool:
        nonlocal used
        if question in held:
            held.move_to_end(question)
            return True
        held[question] = len(_entry(question).body) + BESIDE_BODY
        used += held[question]
        while used > capacity:
            used -= held.popitem(last=False)[1]
        return False

    return ask


async def entry_size() -> list[Figure]:
    """An answer of about 2 KB, against the same entry as plain JSON.

    The answers are prose of this repository's own documents, cut to length; random or repeated words would compress far
    worse or far better than what people are told.
    """
    ours, theirs, used, used_plain = list[int](), list[int](), list[int](), list[int]()
    async with RedisServer() as redis:
        for index, body in enumerate(bodies()):
            entry = Entry(body, 1_760_000_000_000_000 + index, 1.234, 214, 431)
            fields = {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "body"}
            stored, json = pack(entry), msgspec.json.encode({"body": msgspec.Raw(entry.body), **fields})
            if unpack(stored).body != body:
                raise RuntimeError("what is stored is not what was packed")
            key = ENTRY_KEY % (f"{index:048x}", "0a1b2c3d.0")
            for value, lengths, memory in ((stored, ours, used), (json, theirs, used_plain)):
                await redis.client.set(key, value, ex=3600)
                lengths.append(len(value))
                memory.append(await redis.command("MEMORY", "USAGE", key))
    saved = 1 - statistics.mean(ours) / statistics.mean(theirs)
    measured = (
        f"mean {statistics.mean(ours):.0f} bytes against {statistics.mean(theirs):.0f} ({saved:.0%} less; p99 "
        f"{percentile(ours, 99)}); MEMORY USAGE {statistics.mean(used):.0f} against "
        f"{statistics.mean(used_plain):.0f}; {len(ours)} answers"
    )
    return [Figure("entry of 2 KB: bytes in Redis against plain JSON", "figure", measured)]


def bodies() -> list[bytes]:
    """Whole completions of BODY bytes."""
    texts = (path.read_text(encoding="utf-8") for name in DOCUMENTS for path in sorted(ROOT.glob(name)))
    prose, step = "\n".join(texts), BODY - len(_body(""))
    made = [_body(prose[start : start + step]) for start in range(0, len(prose) - step, step)]
    return [body for body in made if len(body) <= BODY * 1.1]


def _body(text: str) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None, "annotations": []}
    return msgspec.json.encode(
        {
            "id": "chatcmpl-Bd1k0fQx7Hq2mWvT9sYzLrNp3aEuC",
            "object": "chat.completion",
            "created": 1_760_000_000,
            "model": "gpt-5-mini-2025-08-07",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 214, "completion_tokens": 431, "total_tokens": 645},
            "service_tier": "default",
        }
    )
