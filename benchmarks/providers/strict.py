"""Generated requests, translated for Claude, against the rules of a strict fake: `benchmarks.providers.claude`."""

from __future__ import annotations

import asyncio
import importlib

from benchmarks.figures import Figure, progress


async def measure() -> list[Figure]:
    """The bars, then each kind of request, with the fields for which this route passes it on."""
    claude = importlib.import_module("benchmarks.providers.claude")
    progress("claude: generated requests")
    bars: list[Figure] = await asyncio.to_thread(claude.figures)
    rows = await asyncio.to_thread(claude.rows)
    return bars + [_figure(row) for row in rows[1:]]  # the first one is of all kinds


def _figure(row: object) -> Figure:
    kind, generated, taken, declined, refused, fields = (
        cell.strip()
        for cell in str(row.line()).strip().strip("|").split("|")  # type: ignore[attr-defined]
    )
    measured = f"{generated} requests: {taken} taken, {declined} declined{f' for {fields}' if fields else ''}"
    return Figure(kind, "0 refused", f"{measured}, {refused} refused", refused == "0")
