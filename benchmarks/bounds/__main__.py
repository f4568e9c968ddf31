"""The figures of docs/reports/bounds.md: the worst bodies that a search finds, and ordinary large ones beside them.

    python -m benchmarks.bounds           # some five minutes of one core
    python -m benchmarks.bounds --long    # ten times as many mutations

What is tried and how it is measured: `search`, for each size in a process of its own whose address space is limited.
First the bodies that were thought of, then mutations of the worst four: with the same seed the same number, and as far
as the worst ones are the same, the same bodies. Prints a Markdown table, and exits with 1 where a bar is missed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from benchmarks.bounds.search import SIZES, STALL
from benchmarks.bounds.sink import sink
from benchmarks.figures import Figure, progress

SEED = 7
AT_ONCE = 2
"""Sizes that are searched at once, each in a process of its own."""
MIB = 2**20


async def measure(long: bool) -> list[Figure]:
    tried: list[dict[str, Any]] = []
    turns = asyncio.Semaphore(AT_ONCE)
    async with sink() as url:
        codes = await asyncio.gather(*(_search(url, size, long, tried, turns) for size in (0, *SIZES)))
    figures = [_ordinary(each) for each in tried if each["ordinary"]]
    searched = [each for each in tried if not each["ordinary"]]
    for size in SIZES:
        figures += _worst(size, [each for each in searched if each["size"] == size])
    faults = sum(each["status"] >= 500 or each["status"] == 0 for each in tried)
    measured, good = f"{faults} of {len(tried):,}", faults == 0 and not any(codes)
    return [*figures, Figure("all of them: status 5xx, or none", "0", measured, good)]


async def _search(
    url: str, size: int, long: bool, tried: list[dict[str, Any]], turns: asyncio.Semaphore
) -> int:
    """Adds what was tried of a size to `tried`; the exit code."""
    async with turns:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.bounds.search"),
            *(url, str(SEED), str(10 if long else 1), str(size)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                if line.startswith(b'{"size"'):
                    tried.append(json.loads(line))
                    progress(f"{len(tried)} bodies, now of {tried[-1]['size']:,} bytes")
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _share(each: dict[str, Any]) -> float:
    """Of the bar of memory."""
    return float(each["memory"] / (8 * each["bytes"] + MIB))


def _ordinary(each: dict[str, Any]) -> Figure:
    used = f"{_share(each):.0%} of the bar, {each['memory'] / each['bytes']:.1f}x"
    measured = f"{each['status']}; {each['stall'] * 1e3:.1f} ms; {used}"
    good = each["status"] == 200 and each["stall"] <= STALL and _share(each) <= 1
    what = f"{each['genes']}, {each['bytes'] / MIB:.1f} MiB"
    return Figure(what, "200; <= 50 ms; <= 8x + 1 MiB", measured, good)


def _worst(size: int, tried: list[dict[str, Any]]) -> list[Figure]:
    if not tried:
        return [Figure(f"{size:,} bytes", "tried", "none", False)]
    slowest, largest = max(tried, key=lambda each: each["stall"]), max(tried, key=_share)
    of = f"worst of {len(tried)} bodies of {size / 2**10:,.0f} KiB"
    if size >= MIB:
        of = f"worst of {len(tried)} bodies of {size / MIB:.0f} MiB"
    stall = f"{slowest['stall'] * 1e3:.1f} ms, {slowest['status']}: {slowest['genes']}"
    times = f"{largest['memory'] / largest['bytes']:.1f}x"
    memory = f"{_share(largest):.0%} of it, {times}, {largest['status']}: {largest['genes']}"
    return [
        Figure(f"{of}: stall", "<= 50 ms", stall, slowest["stall"] <= STALL),
        Figure(f"{of}: memory", "<= 8x + 1 MiB", memory, _share(largest) <= 1),
    ]


if __name__ == "__main__":
    figures = asyncio.run(measure("--long" in sys.argv[1:]))
    progress("")
    print("| what | bar | measured |\n|---|---|---|", *(figure.line() for figure in figures), sep="\n")
    sys.exit(any(figure.good is False for figure in figures))
