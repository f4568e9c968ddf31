"""Where the time goes: py-spy beside our server under each load: `python -m benchmarks.gateways.profile [WORKLOAD]`.

Prints for each workload the functions in which the server's samples were taken, most first, with file and line: in the
function itself, C functions included (`self`), and in all that it called (`with`). `Runner.run` itself is the event
loop: uvloop, and the kernel's part of reading and writing sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.gateways import cores
from benchmarks.gateways.contestants import Running, dub5, python_package
from benchmarks.gateways.load import Ask, run, streams, surroundings, wrk

PY_SPY = "0.4.3"
SECONDS, WARM_UP, SHOWN = 8, 4, 45
_PACE = "/paced/5/100"
_LIFE = {"default": {"ttl": "1h"}}

Loading = Callable[[Running], Awaitable[Any]]


def _wrk(asked: Ask) -> Loading:
    return lambda server: wrk(server.url, asked, connections=64, seconds=SECONDS + WARM_UP + 1)


WORKLOADS: dict[str, tuple[dict[str, Any], str, Loading]] = {
    "memory": ({}, "", _wrk(Ask(order="turn", count=1000))),
    "redis": (
        {"cache": {"local_bytes": 0, "classes": _LIFE}},
        "",
        _wrk(Ask(order="turn", count=1000)),
    ),
    "uncached": ({"cache": {"classes": {"default": {"cacheable": "never"}}}}, "", _wrk(Ask())),
    "caching": ({}, "", _wrk(Ask())),
    "streams": ({}, _PACE, lambda server: streams(server.url, 256, first=0, seconds=SECONDS + WARM_UP + 1)),
}
"""Sections of our configuration, the provider's pace, and the load."""


async def profiled(name: str) -> Counter[tuple[str, str]]:
    """Samples by (`self` or `with`, function)."""
    sections, pace, load = WORKLOADS[name]
    py_spy = await python_package(f"py-spy-{PY_SPY}", [f"py-spy=={PY_SPY}"], "py-spy")
    async with AsyncExitStack() as stack:
        folder, provider, redis = await surroundings(stack)
        ours = dub5("dub5", provider, redis=redis.port, pace=pace, **sections)
        server = await stack.enter_async_context(ours.running(folder))
        loading = asyncio.ensure_future(load(server))
        await asyncio.sleep(WARM_UP)
        raw = folder / "raw"
        await run(
            *(str(py_spy), "record", "--pid", str(server.pid), "--duration", str(SECONDS), "--rate", "500"),
            *("--format", "raw", "--output", str(raw), "--nonblocking"),
        )
        await loading
        return _counted(await asyncio.to_thread(raw.read_text))


def _counted(raw: str) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_shown(frame) for frame in stack.split(";")]
        if "Runner.run" not in stack:
            continue  # another thread
        found["self", frames[-1]] += int(count)
        for frame in set(frames):
            found["with", frame] += int(count)
        found["all", ""] += int(count)
    return found


def _shown(frame: str) -> str:
    """`function (module/file.py:12)` of whatever py-spy says."""
    name, _, where = frame.partition(" (")
    parts = where.rstrip(")").split("/")
    return f"{name} ({'/'.join(parts[-2:])})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", choices=[[], *WORKLOADS], metavar="WORKLOAD")
    os.sched_setaffinity(0, {cores.OTHERS})
    for name in parser.parse_args().workloads or WORKLOADS:
        found = asyncio.run(profiled(name))
        whole = found["all", ""]
        for kind in ("self", "with"):
            print(f"\n## {name}: {kind}\n")
            ranked = Counter({frame: count for (each, frame), count in found.items() if each == kind})
            for frame, count in ranked.most_common(SHOWN):
                print(f"{count / whole:6.1%}  {frame}")


if __name__ == "__main__":
    main()
