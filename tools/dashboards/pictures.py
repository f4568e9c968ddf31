"""Draws the dashboards as they are committed, with matplotlib: for readers of the documents, not as Grafana draws them.

Without an address into docs/images, from the Prometheus of a real run, the one that the tests ask, only longer; it
takes some four minutes. Else from a Prometheus of yours, where there is no Grafana at hand:

    python -m tools.dashboards.pictures --prometheus http://127.0.0.1:9090 --minutes 30 --namespace chat
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import time
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from testkit.dashboards import Recorded, Series, played
from tools.dashboards.build import FOLDER

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "docs/images"
SECONDS = 200.0
POINTS = 100
WIDTH, COLUMNS, UNIT = 12.0, 24, 0.22
"""Inches; columns of Grafana's grid; inches that one of its rows is high."""
UNITS = {
    "percentunit": "",
    "currencyUSD": "$",
    "Bps": "B/s",
    "bytes": "B",
    "reqps": "req/s",
    "ops": "ops/s",
    "cps": "/s",
}

Json = dict[str, Any]
Answer = list[tuple[str, list[tuple[float, float]]]]
"""Lines by name, in the order of their names, so that a replica has one colour in all panels."""


def draw(dashboard: Json, answers: dict[str, list[Series]], began: float) -> Figure:
    """`answers` are by the query as the JSON has it."""
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    height = rows * UNIT + 0.7
    figure = Figure(figsize=(WIDTH, height), facecolor="#f4f5f5")
    figure.text(0.01, 1 - 0.25 / height, dashboard["title"], fontsize=14, weight="bold")
    figure.text(0.01, 1 - 0.5 / height, dashboard["description"], fontsize=8)
    for panel in panels:
        at = panel["gridPos"]
        left, top = at["x"] / COLUMNS, 1 - (0.6 + at["y"] * UNIT) / height
        if panel["type"] == "row":
            figure.text(0.01, top - 0.15 / height, panel["title"], fontsize=10, weight="bold")
            continue
        wide, high = at["w"] / COLUMNS, at["h"] * UNIT / height
        # What is left of the panel's place is for its ticks, its title and its legend; in inches, of the figure's.
        box = (left + 0.55 / WIDTH, top - high + 0.5 / height, wide - 0.65 / WIDTH, high - 0.75 / height)
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=8, loc="left", weight="bold")
        axes.tick_params(labelsize=6)
        lines: Answer = []
        for target in panel["targets"]:
            lines += sorted(
                (_legend(target["legendFormat"], each.labels), each.points)
                for each in answers[target["expr"]]
            )
        _KINDS[panel["type"]](axes, panel["fieldConfig"]["defaults"], lines, began)
    return figure


def _legend(text: str, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), text)


def _format(unit: str) -> PercentFormatter | EngFormatter:
    return (
        PercentFormatter(1.0)
        if unit == "percentunit"
        else EngFormatter(UNITS.get(unit, unit.removeprefix("suffix:").replace("short", "")))
    )


def _lines(axes: Axes, style: Json, lines: Answer, began: float) -> None:
    for name, points in lines:
        axes.plot([at - began for at, _ in points], [value for _, value in points], label=name, linewidth=1)
    steps = style.get("thresholds", {}).get("steps", [])
    axes.set_ylim(bottom=0)
    if steps and steps[-1]["value"] < 3 * axes.get_ylim()[1]:
        axes.axhline(steps[-1]["value"], color="red", linestyle="--", linewidth=1)
    axes.grid(visible=True, color="#dddddd")
    axes.yaxis.set_major_formatter(_format(style["unit"]))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    if any(name for name, _ in lines):
        axes.legend(fontsize=5, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.15), frameon=False)


def _number(axes: Axes, style: Json, lines: Answer, _: float) -> None:
    """The last value, in the colour that the limit gives it."""
    axes.set_axis_off()
    values = [value for _, points in lines[:1] for _, value in points]
    steps = [
        step
        for step in style.get("thresholds", {}).get("steps", [])
        if values and (step["value"] is None or values[-1] >= step["value"])
    ]
    text = (
        _format(style["unit"]).format_data(values[-1])
        if values and style["unit"] != "percentunit"
        else f"{values[-1]:.2%}"
        if values
        else "No data"
    )
    axes.text(0.5, 0.0, text, fontsize=18, ha="center", color=steps[-1]["color"] if steps else "black")


def _states(axes: Axes, style: Json, lines: Answer, began: float) -> None:
    """One bar for each line, of stretches in the colours of its states."""
    [mapping] = style["mappings"]
    for number, (_, points) in enumerate(lines):
        for (at, value), (end, _) in itertools.pairwise(points):
            axes.broken_barh(
                [(at - began, end - at)], (number - 0.4, 0.8), color=mapping["options"][f"{value:g}"]["color"]
            )
    axes.set_yticks(range(len(lines)), [name for name, _ in lines], ha="left", color="white")
    axes.tick_params(axis="y", pad=-4, length=0)  # the names are on the bars
    axes.xaxis.set_major_formatter(EngFormatter("s"))
    words = ", ".join(f"{each['color']}: {each['text']}" for each in mapping["options"].values())
    axes.set_xlabel(words, fontsize=6)


_KINDS = {"timeseries": _lines, "stat": _number, "state-timeline": _states}


async def pictures(recorded: Recorded, folder: Path) -> None:
    for path in sorted((ROOT / FOLDER).glob("*.json")):
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
        step = (recorded.ended - recorded.began) / POINTS
        answers = await asyncio.gather(*(recorded.ask(query, step) for query in queries))
        figure = draw(dashboard, dict(zip(queries, answers, strict=True)), recorded.began)
        out = folder / f"dashboard-{path.stem}.svg"
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dub5"}):
            figure.savefig(out, metadata={"Date": None})
        print(f"{out.name}: {out.stat().st_size // 1024} KiB")


async def main() -> None:
    asked = arguments()
    if asked.prometheus is None:
        async with played(SECONDS) as recorded:
            await pictures(recorded, asked.out)
        return
    now = time.time()
    chosen = {"namespace": asked.namespace, "job": asked.job, "window": asked.window}
    async with contextlib.aclosing(
        Recorded(asked.prometheus, now - asked.minutes * 60, now, **chosen)
    ) as seen:
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
