"""A dashboard's JSON and Prometheus's answers as one plain SVG: for readers of the documents, not as Grafana draws it.

Of the JSON it follows what says how a panel looks: place, title, kind, unit, limit, words for states, legends.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

Json = dict[str, Any]
Points = Sequence[tuple[float, float]]

COLUMN, UNIT = 50, 24
"""Pixels of Grafana's grid: 24 columns, and rows as high as one UNIT."""

_TOP, _GAP, _LEFT, _HEAD, _LEGEND = 56, 8, 72, 26, 17
_PALETTE = ("#3a7bd5", "#e0752d", "#3f9e4d", "#b05cc6", "#c9302c", "#8a6d3b", "#17a2a2", "#6c757d")
_COLOURS = {"green": "#3f9e4d", "orange": "#e0a02d", "red": "#c9302c", "transparent": "none"}
_LETTER = 6.7
"""Width of a letter of the small text, about."""


class Line(NamedTuple):
    """One series as it is named in its legend."""

    name: str
    points: Points


class Box(NamedTuple):
    """Pixels."""

    x: float
    y: float
    width: float
    height: float


class Span(NamedTuple):
    """Unix times in seconds."""

    began: float
    ended: float


def draw(
    dashboard: Json, answers: Mapping[str, Sequence[tuple[Mapping[str, str], Points]]], span: Span
) -> str:
    """`answers` are (labels, points) by the query as the JSON has it."""
    parts, bottom = [], 0.0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        box = Box(
            at["x"] * COLUMN + 10, _TOP + at["y"] * UNIT, at["w"] * COLUMN - _GAP, at["h"] * UNIT - _GAP
        )
        bottom = max(bottom, box.y + box.height)
        if panel["type"] == "row":
            parts.append(_text(box.x, box.y + 13, panel["title"], 'class="b"'))
            continue
        lines = [line for target in panel["targets"] for line in _named(target, answers)]
        parts.append(_frame(box, panel["title"]) + _KINDS[panel["type"]](panel, lines, box, span))
    width, height = 24 * COLUMN + 12, math.ceil(bottom + 10)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="#333">'
        "<style>.b{font-weight:bold;font-size:13px}.l{fill:none;stroke-width:1.5;stroke-linejoin:round}"
        ".g{stroke:#ddd}.e{text-anchor:end}.m{text-anchor:middle}</style>"
        f'<rect width="{width}" height="{height}" fill="#f4f5f5"/>'
        + _text(10, 26, dashboard["title"], 'font-size="18" font-weight="bold"')
        + _text(10, 44, dashboard["description"])
        + "".join(parts)
        + "</svg>\n"
    )


def _frame(box: Box, title: str) -> str:
    x, y, width, height = box
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="3" fill="white" stroke="#ccc"/>'
        + _text(x + 8, y + 17, _cut(title, width - 16, 7.9), 'class="b"')
    )


def _lines(panel: Json, lines: Sequence[Line], box: Box, span: Span) -> str:
    style = panel["fieldConfig"]["defaults"]
    limit = _limit(style)
    legends = _legends(lines, box)
    plot = Box(
        box.x + _LEFT,
        box.y + _HEAD + 6,
        box.width - _LEFT - 12,
        box.height - _HEAD - 28 - _LEGEND * legends.count("<g>"),
    )
    values = [value for line in lines for _, value in line.points if math.isfinite(value)]
    highest = max(values, default=0.0) * 1.1 or 1.0
    if limit is not None and limit < 3 * highest:
        highest = max(highest, limit * 1.1)
    parts = [legends, _times(plot, span)]
    for tick in _ticks(highest, style["unit"]):
        y = plot.y + plot.height * (1 - tick / highest)
        parts.append(f'<path class="g" d="M{plot.x:g},{y:.0f}h{plot.width:g}"/>')
        parts.append(_text(plot.x - 5, round(y + 4), shown(tick, style["unit"]), 'class="e"'))
    for number, line in enumerate(lines):
        path = _path(line.points, plot, span, highest)
        parts.append(f'<path class="l" stroke="{_colour(number)}" d="{path}"/>')
    if limit is not None and limit <= highest:
        y = plot.y + plot.height * (1 - limit / highest)
        parts.append(
            f'<path d="M{plot.x:g},{y:.0f}h{plot.width:g}" stroke="{_COLOURS["red"]}" stroke-dasharray="6 4"/>'
        )
    return "".join(parts)


def _ticks(highest: float, unit: str) -> list[float]:
    """Round figures, about four."""
    base = 1.0
    if unit == "bytes" and highest > 1:
        base = 1024.0 ** int(math.log(highest, 1024))
    elif unit == "s" and highest > 60:
        base = 60.0
    power = base * 10.0 ** math.floor(math.log10(highest / base / 4))
    step = next(power * each for each in (1, 2, 5, 10) if highest / (power * each) <= 5)
    return [number * step for number in range(int(highest / step) + 1)]


def _path(points: Points, plot: Box, span: Span, highest: float) -> str:
    """Broken where there was no value for some time."""
    made, last = [], -math.inf
    step = (span.ended - span.began) / 100
    for at, value in points:
        if math.isfinite(value):
            x = plot.x + plot.width * (at - span.began) / (span.ended - span.began)
            y = plot.y + plot.height * (1 - min(value / highest, 1.0))
            made.append(f"{'L' if at - last < 2 * step else 'M'}{x:.0f},{y:.0f}")
            last = at
    return re.sub("(?<=[0-9])L", " ", "".join(made).replace("M", "M", 1))


def _number(panel: Json, lines: Sequence[Line], box: Box, span: Span) -> str:  # noqa: ARG001  # kinds look alike
    """The last value, in the colour that the limit gives it."""
    style = panel["fieldConfig"]["defaults"]
    where = (box.x + box.width / 2, box.y + box.height - 16)
    values = [value for line in lines[:1] for _, value in line.points if math.isfinite(value)]
    if not values:
        return _text(*where, "No data", 'class="m" font-size="14"')
    value = values[-1]
    colour = "#333"
    for step in style.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = _COLOURS[step["color"]]
    text = shown(value, style["unit"], digits=4)
    return _text(*where, text, f'class="m" font-size="30" style="fill:{colour}"')


def _states(panel: Json, lines: Sequence[Line], box: Box, span: Span) -> str:
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    words = mapping["options"]
    left = 8 + max((len(line.name) for line in lines), default=0) * _LETTER
    plot = Box(box.x + left + 8, box.y + _HEAD + 6, box.width - left - 20, box.height - _HEAD - 28)
    high = plot.height / max(len(lines), 1)
    parts = [_times(plot, span)]
    for number, line in enumerate(lines):
        y = plot.y + number * high
        parts.append(_text(box.x + 8, round(y + high / 2 + 4), line.name))
        for began, ended, value in _stretches(line.points, span):
            x, end = (
                plot.x + plot.width * (at - span.began) / (span.ended - span.began) for at in (began, ended)
            )
            state = words[f"{value:g}"]
            parts.append(
                f'<rect x="{x:.0f}" y="{y + 2:.0f}" width="{max(end - x, 1):.0f}" height="{high - 4:.0f}" '
                f'fill="{_COLOURS[state["color"]]}" fill-opacity="0.75"/>'
            )
            if end - x > (len(state["text"]) + 2) * _LETTER:
                middle = (round((x + end) / 2), round(y + high / 2 + 4))
                parts.append(_text(*middle, state["text"], 'class="m" style="fill:white"'))
    return "".join(parts)


def _stretches(points: Points, span: Span) -> list[tuple[float, float, float]]:
    """Begin, end and value of each stretch of the same value."""
    made: list[tuple[float, float, float]] = []
    step = (span.ended - span.began) / 100
    for at, value in points:
        if made and made[-1][2] == value and at - made[-1][1] < 2 * step:
            made[-1] = (made[-1][0], at, value)
        else:
            made.append((made[-1][1] if made and at - made[-1][1] < 2 * step else at, at, value))
    return made


_KINDS: dict[str, Callable[[Json, Sequence[Line], Box, Span], str]] = {
    "timeseries": _lines,
    "stat": _number,
    "state-timeline": _states,
}


def _legends(lines: Sequence[Line], box: Box) -> str:
    """In as many rows, each a group, as they need; at most three."""
    rows: list[list[str]] = [[]]
    x = box.x + 10
    for number, line in enumerate(lines):
        name = _cut(line.name, box.width - 40, _LETTER)
        wide = len(name) * _LETTER + 26
        if x + wide > box.x + box.width and rows[-1]:
            rows.append([])
            x = box.x + 10
        rows[-1].append(
            f'<rect x="{x:.0f}" y="-8" width="12" height="4" fill="{_colour(number)}"/>{_text(round(x + 16), -3, name)}'
        )
        x += wide
    rows = rows[:3]
    bottom = box.y + box.height - 4
    return "".join(
        f"<g>{''.join(row)}</g>".replace('y="-8"', f'y="{y - 8:.0f}"').replace('y="-3"', f'y="{y - 3:.0f}"')
        for row, y in ((row, bottom - _LEGEND * (len(rows) - 1 - number)) for number, row in enumerate(rows))
    )


def _times(plot: Box, span: Span) -> str:
    """Minutes and seconds since the beginning."""
    whole = span.ended - span.began
    step = next((each for each in (5, 10, 15, 30, 60, 120, 300) if whole / each <= plot.width / 60), 600)
    y = plot.y + plot.height + 15
    return "".join(
        _text(round(plot.x + plot.width * at / whole), round(y), f"{at // 60}:{at % 60:02}", 'class="m"')
        for at in range(0, int(whole) + 1, step)
    )


def _limit(style: Json) -> float | None:
    steps = style.get("thresholds", {}).get("steps", [])
    return None if not steps else float(steps[-1]["value"])


def _named(target: Json, answers: Mapping[str, Sequence[tuple[Mapping[str, str], Points]]]) -> list[Line]:
    """In the order of their names, so that a replica has one colour in all panels."""
    found = [
        Line(_legend(target["legendFormat"], labels), points) for labels, points in answers[target["expr"]]
    ]
    return sorted(found, key=lambda line: line.name)


def _legend(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), text)


def _colour(number: int) -> str:
    return _PALETTE[number % len(_PALETTE)]


def _cut(text: str, width: float, letter: float) -> str:
    most = int(width / letter)
    return text if len(text) <= most else text[: most - 1] + "…"


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{" " + more if more else ""}>{escape(text, quote=False)}</text>'


def shown(value: float, unit: str, digits: int = 3) -> str:
    """A figure with its unit, short: `1.5 s`, `12 %`, `96 MiB`."""
    if unit == "percentunit":
        return f"{100 * value:.{digits}g} %"
    if unit == "currencyUSD":
        return f"${value:.{digits}g}"
    if unit == "s":
        return _scaled(value, ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")), digits)
    if unit == "bytes":
        return _scaled(value, ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B")), digits)
    if unit == "Bps":
        return _scaled(value, ((1e6, "MB/s"), (1e3, "kB/s"), (1, "B/s")), digits)
    word = unit.removeprefix("suffix:") if unit.startswith("suffix:") else _WORDS[unit]
    figure = f"{value:.{digits}g}" if value < 1000 else f"{value / 1000:.{digits}g} K"
    return f"{figure} {word}".strip()


_WORDS = {"short": "", "reqps": "req/s", "ops": "ops/s", "cps": "/s"}


def _scaled(value: float, steps: Sequence[tuple[float, str]], digits: int) -> str:
    factor, word = next((step for step in steps if value >= step[0]), steps[-1])
    return f"{value / factor:.{digits}g} {word}" if value else "0"
