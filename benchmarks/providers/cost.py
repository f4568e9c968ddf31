"""The server's CPU time for a hit, a miss and a chunk, against another commit: `benchmarks.cost`."""

from __future__ import annotations

from benchmarks.cost import commits
from benchmarks.cost.comparison import BAR, ROUNDS, compared
from benchmarks.cost.load import ROWS
from benchmarks.figures import Figure


async def measure(against: str | None) -> list[Figure]:
    """Against where this branch left main, if no commit is named."""
    other = await commits.commit(against) if against else await commits.before()
    compares = f"{await commits.described()} against {other[:10]}"
    return [
        Figure(
            f"{verdict.row.what}, CPU time by {verdict.row.unit}, {compares}",
            f"<= {BAR}",
            f"{verdict.ratio} of {verdict.before * 1e6:,.1f} µs; {other[:10]} against itself {verdict.control}",
            verdict.good,
        )
        async for verdict in compared(other, list(ROWS), ROUNDS)
    ]
