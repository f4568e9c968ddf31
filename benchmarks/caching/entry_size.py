"""What an answer of about 2 KB takes in Redis, against the same entry as plain JSON.

The answers are prose of this repository's own documents, cut to length; random or repeated words would
compress far worse or far better than what people are told.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.figures import Figure, percentile
from dub5.cache.entry import Entry, pack, unpack
from dub5.contract import entry_key
from testkit.redis_server import RedisServer

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/async-io.md", "docs/adr/*.md")
BODY = 2048
ROOT = Path(__file__).parents[2]


def bodies() -> list[bytes]:
    """Whole completions of BODY bytes."""
    prose = "\n".join(
        path.read_text(encoding="utf-8") for name in DOCUMENTS for path in sorted(ROOT.glob(name))
    )
    shell = len(_body(""))
    step = BODY - shell
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


def plain(entry: Entry) -> bytes:
    fields = {name: getattr(entry, name) for name in entry.__struct_fields__ if name != "body"}
    return msgspec.json.encode({"body": msgspec.Raw(entry.body), **fields})


async def measure() -> list[Figure]:
    ours: list[int] = []
    theirs: list[int] = []
    used: list[int] = []
    used_plain: list[int] = []
    async with RedisServer() as redis:
        for index, body in enumerate(bodies()):
            entry = Entry(body, 1_760_000_000_000_000 + index, 1.234, 214, 431)
            stored, json = pack(entry), plain(entry)
            if unpack(stored).body != body:
                raise RuntimeError("what is stored is not what was packed")
            key = entry_key(f"{index:048x}", "0a1b2c3d.0")
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
