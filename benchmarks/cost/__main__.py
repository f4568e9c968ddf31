"""CPU time per request of the server, this work tree against another commit: `python -m benchmarks.cost`.

    python -m benchmarks.cost                       # against where this branch left main: every row, some 10 minutes
    python -m benchmarks.cost --against HEAD^ chunk # against another commit; some rows
    python -m benchmarks.cost hit messages responses kept  # what other protocols add to a hit
    python -m benchmarks.cost --out FILE            # adds the table to a file

The other commit gets its own environment, once, below ~/.cache/dub5-cost. Two servers of each commit are started; the
two of the other one beside each other are the control, which shows what a difference of nothing looks like here. They
have a Redis each and the same provider, and take turns after every few requests. A round is so many requests that a
commit's servers use 3 seconds of CPU; all servers get the same number of them. What counts against the bar is the
upper end of the 95 % interval of the rounds' ratios. Exits with 1 where one is above it. Linux; needs redis-server.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvloop

from benchmarks.cost import commits
from benchmarks.cost.comparison import ROUNDS, compared
from benchmarks.cost.load import ROWS
from benchmarks.cost.verdict import FEWEST
from benchmarks.figures import progress
from testkit.commands import parser


async def main(against: str | None, rows: list[str], rounds: int, out: Path | None) -> int:
    other = await commits.commit(against) if against else await commits.before()
    lines = [
        f"CPU time of the server, {await commits.described()} against {other[:10]}, {rounds} rounds:",
        "",
        "| what | before | now | ratio (95 %) | before against itself (95 %) | bar |",
        "|---|---|---|---|---|---|",
    ]
    print("\n".join(lines), flush=True)
    good = True
    async for verdict in compared(other, rows, rounds):
        progress("")
        lines.append(verdict.line())
        print(lines[-1], flush=True)
        good &= verdict.good
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write("\n".join([*lines, "", ""]))
    return 0 if good else 1


if __name__ == "__main__":
    options = parser(__doc__, ROWS)
    options.add_argument("--against", metavar="COMMIT", help="the commit before; where this branch left main")
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"{FEWEST} or more ({ROUNDS})")
    options.add_argument("--out", type=Path, metavar="FILE", help="add the table to it")
    given = options.parse_args()
    if given.rounds < FEWEST:
        options.error(f"--rounds is at least {FEWEST}: with fewer there is no interval of 95 %")
    try:
        sys.exit(uvloop.run(main(given.against, given.rows or list(ROWS), given.rounds, given.out)))
    except RuntimeError as error:
        sys.exit(f"nothing is compared: {error}")
