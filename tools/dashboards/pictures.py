"""Draws the dashboards as they are committed: `python -m tools.dashboards.pictures`.

Without an address into docs/images, from the Prometheus of a real run, the one that the tests ask, only longer; it
takes some four minutes. Else from a Prometheus of yours, where there is no Grafana at hand:

    python -m tools.dashboards.pictures --prometheus http://127.0.0.1:9090 --minutes 30 --namespace chat
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from pathlib import Path

from tools.dashboards.build import FOLDER
from tools.dashboards.draw import Json, Span, draw
from tools.dashboards.stage import Recorded, played

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
SECONDS = 200.0
POINTS = 100


async def picture(recorded: Recorded, dashboard: Json) -> str:
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    step = (recorded.ended - recorded.began) / POINTS
    answers = await asyncio.gather(*(recorded.ask(query, step) for query in queries))
    return draw(dashboard, dict(zip(queries, answers, strict=True)), Span(recorded.began, recorded.ended))


async def pictures(recorded: Recorded, folder: Path) -> None:
    for path in sorted((ROOT / FOLDER).glob("*.json")):
        text = await picture(recorded, json.loads(path.read_text(encoding="utf-8")))
        out = folder / f"dashboard-{path.stem}.svg"
        out.write_text(text, encoding="utf-8")
        print(f"{out.name}: {len(text.encode()) // 1024} KiB")


async def main() -> None:
    asked = arguments()
    if asked.prometheus is None:
        async with played(SECONDS) as recorded:
            await pictures(recorded, asked.out)
        return
    now = time.time()
    seen = Recorded(
        asked.prometheus,
        now - asked.minutes * 60,
        now,
        namespace=asked.namespace,
        job=asked.job,
        window=asked.window,
    )
    async with contextlib.aclosing(seen):
        await pictures(seen, asked.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Draws the dashboards.")
    parser.add_argument("--prometheus", metavar="URL", help="ask this one; without it a run is made")
    parser.add_argument("--minutes", type=float, default=30, help="of the past (default: 30)")
    parser.add_argument("--namespace", default=".*", help="as at the top of a dashboard (default: all)")
    parser.add_argument("--job", default=".*", help="the same")
    parser.add_argument(
        "--window", default="1m", help="of rates: four scrapes, as Grafana does it (default: 1m)"
    )
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
