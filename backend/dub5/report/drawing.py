"""Plots as SVG, by matplotlib: shapes, numbers of the axes, and no other text, which the page sets beside them.

Colours are left to the page, by names that it gives to them for light and for dark: a curve's is its place.

A curve of many points is thinned so that it looks the same: of all points in a column of the plot it keeps the first,
the lowest, the highest and the last (M4: U. Jugel et al., "M4: A Visualization-Oriented Time Series Data Aggregation",
VLDB 2014).
"""

from __future__ import annotations

import datetime as dt
import io
import itertools
import re
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    EngFormatter,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    MultipleLocator,
    NullLocator,
)

from dub5.report.document import Curve, Plot

COLUMNS = 240
"""Of a plot, within each of which a curve keeps at most four points."""

MOST_DOTS = 400

TIMES = (0.01, 100.0)

_DAY = 86400
_STEPS = (
    1,
    2,
    5,
    10,
    20,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    14400,
    21600,
    43200,
    _DAY,
    2 * _DAY,
    7 * _DAY,
)
_TICKS = 5
_ROUND = [1, 2, 5, 10]

_COLOURS = ("#010101", "#020202", "#030303", "#040404")
"""Stand for the page's variables --c0 to --c3, `_GREY` for --dim: matplotlib knows no variables."""
_GREY = "#050505"
_DASHES: tuple[object, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)))
_MARKS = ("o", "s", "D", "^")


def svg(plot: Plot, name: str) -> str:
    """`name` is one that no other plot of the page has."""
    figure = Figure(figsize=(5.0, 2.3), layout="constrained", facecolor="none")  # inches, each of 72 points
    axes = figure.add_subplot(facecolor="none")
    axes.grid(axis="y", color=_GREY, linewidth=0.4, alpha=0.35)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(_GREY)
    axes.tick_params(colors=_GREY, labelsize=10)
    for place, curve in enumerate(plot.curves):
        _draw(axes, plot, place % len(_COLOURS), curve)
    _scale(axes, plot)
    drawn = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "path.simplify": False}):
        figure.savefig(drawn, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _small(drawn.getvalue())


def thinned(points: Sequence[tuple[float, float]], columns: int = COLUMNS) -> list[tuple[float, float]]:
    """At most four points for each column; all where there are no more than that."""
    if len(points) <= 4 * columns:
        return list(points)
    begin, end = points[0][0], points[-1][0]
    width = (end - begin) / columns or 1.0
    kept: list[tuple[float, float]] = []
    for _, group in itertools.groupby(
        points, lambda point: min(columns - 1, int((point[0] - begin) / width))
    ):
        column = list(group)
        values = [y for _, y in column]
        places = {0, values.index(min(values)), values.index(max(values)), len(column) - 1}
        kept += [column[place] for place in sorted(places)]
    return kept


def _draw(axes: Axes, plot: Plot, place: int, curve: Curve) -> None:
    points = curve.points if plot.across else thinned(curve.points)
    if not points:
        return
    x = [point[0] for point in points]
    y = [min(TIMES[1], max(TIMES[0], point[1])) if plot.times else point[1] for point in points]
    colour, dashes = _COLOURS[place], _DASHES[place]
    if curve.look == "level":
        axes.axhline(y[0], color=_GREY, linewidth=1.2, linestyle=(0, (1, 2)), clip_on=False)
    elif curve.look in {"dots", "mark"}:
        size = 9 if curve.look == "mark" else 4
        axes.plot(
            x[:MOST_DOTS],
            y[:MOST_DOTS],
            _MARKS[place],
            color=colour,
            markersize=size,
            markeredgewidth=0,
            clip_on=False,
        )
    else:
        drawn = "steps-post" if curve.look == "steps" else "default"
        axes.plot(x, y, color=colour, linewidth=1.6, linestyle=dashes, drawstyle=drawn, clip_on=False)


def _scale(axes: Axes, plot: Plot) -> None:
    """Everything is inside: nothing is clipped."""
    large = EngFormatter(places=None)
    if plot.times:
        axes.set_yscale("log")
        axes.set_ylim(*TIMES)
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        values = [y for curve in plot.curves for _, y in curve.points] or [0.0]
        least, most = min(0.0, *values), max(0.0, *values)
        axes.set_ylim(least, most + 0.06 * (most - least) if most > least else 1.0)
        axes.yaxis.set_major_locator(
            MaxNLocator(4, steps=[1, 2, 5, 10], integer=all(float(y).is_integer() for y in values))
        )
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}" if abs(y) < 1000 else large(y)))
    if plot.across:
        axes.xaxis.set_major_locator(MaxNLocator(_TICKS, steps=_ROUND))
        axes.margins(x=0.04)
        return
    axes.set_xmargin(0)
    moments = [x for curve in plot.curves if curve.look != "level" for x, _ in curve.points] or [0.0]
    span = max(moments) - min(moments)
    step = next((step for step in _STEPS if span / step <= _TICKS), _STEPS[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step, -(plot.began % step)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda moment, _: clock(moment, step, plot.began)))


def clock(moment: float, step: float, began: float) -> str:
    """The number at a tick of the time's axis, where there is one each `step` seconds."""
    if began:
        when = dt.datetime.fromtimestamp(began + moment + 0.5, dt.UTC)
        return f"{when:%d %b}" if step >= _DAY else f"{when:%a %H:%M}" if step >= 21600 else f"{when:%H:%M}"
    seconds = round(moment)
    if step <= 300:
        return f"{seconds} s"
    return f"{seconds // _DAY} d" if step >= _DAY else f"{seconds // 3600}:{seconds % 3600 // 60:02}"


def _small(drawn: str) -> str:
    """Without what the page has already or that would be there twice, and with as many digits as are seen."""
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(
        r"<style.*?</style>|<!--.*?-->|<metadata>.*?</metadata>|<clipPath.*?</clipPath>",
        "",
        drawn,
        flags=re.DOTALL,
    )
    drawn = re.sub(r' id="[a-z0-9]+_\d+"| clip-path="[^"]*"', "", drawn)
    drawn = re.sub("<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), drawn)
    for place, colour in enumerate(_COLOURS):
        drawn = drawn.replace(colour, f"var(--c{place})")
    return re.sub(r"\s*\n\s*", "\n", drawn.replace(_GREY, "var(--dim)"))
