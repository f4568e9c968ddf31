"""Draws the dashboards into docs/images: `python -m tools.dashboards.pictures`; it takes some four minutes.

From the committed JSON and the Prometheus of a real run, the one that the tests ask, only longer.
"""

from __future__ import annotations

import asyncio
import json
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


async def main() -> None:
    async with played(SECONDS) as recorded:
        for path in sorted((ROOT / FOLDER).glob("*.json")):
            text = await picture(recorded, json.loads(path.read_text(encoding="utf-8")))
            out = IMAGES / f"dashboard-{path.stem}.svg"
            out.write_text(text, encoding="utf-8")
            print(f"{out.relative_to(ROOT)}: {len(text.encode()) // 1024} KiB")


if __name__ == "__main__":
    asyncio.run(main())
