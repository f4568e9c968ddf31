"""The figures of docs/reports/bounds.md: the worst bodies that a search finds, and ordinary large ones beside them.

    python -m benchmarks.bounds           # some five minutes of one core
    python -m benchmarks.bounds --long    # ten times as many mutations

What is tried and how it is measured: `search`, for each size in a process of its own whose address space is limited.
First the bodies that were thought of, then mutations of the worst four: with the same seed the same number, and as far
as the worst ones are the same, the same bodies. Prints a Markdown table, and exits with 1 where a bar is missed.
"""

from __future__ import annotations

import asyncio
import sys

import msgspec

from benchmarks.bounds.search import MIB, SIZES, STALL, Measured
from benchmarks.bounds.sink import sink
from benchmarks.figures import Figure, progress
from testkit.processes import running

SEED = 7
AT_ONCE = 2
"""Sizes that are searched at once, each in a process of its own."""


async def measure(long: bool) -> list[Figure]:
    tried: list[Measured] = []
    turns = asyncio.Semaphore(AT_ONCE)
    async with sink() as url:
        codes = await asyncio.gather(*(_search(url, size, long, tried, turns) for size in (0, *SIZES)))
    figures = [_ordinary(each) for each in tried if each.ordinary]
    searched = [each for each in tried if not each.ordinary]
    for size in SIZES:
        figures += _worst(size, [each for each in searched if each.size == size])
    faults = sum(each.status >= 500 or each.status == 0 for each in tried)
    measured, good = f"{faults} of {len(tried):,}", faults == 0 and not any(codes)
    return [*figures, Figure("all of them: status 5xx, or none", "0", measured, good)]


async def _search(url: str, size: int, long: bool, tried: list[Measured], turns: asyncio.Semaphore) -> int:
    """Adds what was tried of a size to `tried`; the exit code."""
    arguments = (url, str(SEED), str(10 if long else 1), str(size))
    async with turns, running("benchmarks.bounds.search", *arguments) as process:
        assert process.stdout is not None
        async for line in process.stdout:
            if line.startswith(b'{"bytes"'):
                tried.append(msgspec.json.decode(line, type=Measured))
                progress(f"{len(tried)} bodies, now of {tried[-1].size:,} bytes")
        return await process.wait()


def _ordinary(each: Measured) -> Figure:
    used = f"{each.share:.0%} of the bar, {each.memory / each.bytes:.1f}x"
    measured = f"{each.status}; {each.stall * 1e3:.1f} ms; {used}"
    good = each.status == 200 and each.stall <= STALL and each.share <= 1
    what = f"{each.genes}, {each.bytes / MIB:.1f} MiB"
    return Figure(what, "200; <= 50 ms; <= 8x + 1 MiB", measured, good)


def _worst(size: int, tried: list[Measured]) -> list[Figure]:
    if not tried:
        return [Figure(f"{size:,} bytes", "tried", "none", False)]
    slowest, largest = max(tried, key=lambda each: each.stall), max(tried, key=lambda each: each.share)
    of = f"worst of {len(tried)} bodies of {size / 2**10:,.0f} KiB"
    if size >= MIB:
        of = f"worst of {len(tried)} bodies of {size / MIB:.0f} MiB"
    stall = f"{slowest.stall * 1e3:.1f} ms, {slowest.status}: {slowest.genes}"
    times = f"{largest.memory / largest.bytes:.1f}x"
    memory = f"{largest.share:.0%} of it, {times}, {largest.status}: {largest.genes}"
    return [
        Figure(f"{of}: stall", "<= 50 ms", stall, slowest.stall <= STALL),
        Figure(f"{of}: memory", "<= 8x + 1 MiB", memory, largest.share <= 1),
    ]


if __name__ == "__main__":
    figures = asyncio.run(measure("--long" in sys.argv[1:]))
    progress("")
    print("| what | bar | measured |\n|---|---|---|", *(figure.line() for figure in figures), sep="\n")
    sys.exit(any(figure.good is False for figure in figures))
