"""A run as a picture: two charts over the same seconds, in plain SVG that any browser and GitHub shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

WIDTH, HEIGHT = 900, 250  # of one chart, in pixels
LEFT, RIGHT, TOP, GAP = 60, 20, 50, 70


class Sampled(Protocol):
    @property
    def second(self) -> float: ...


# Label, colour, width, value of a sample, whether it goes in steps.
Line = tuple[str, str, int, Callable[..., float], bool]


def draw(samples: Sequence[Sampled], target: int) -> str:
    streams: list[Line] = [
        ("clients", "#999999", 2, lambda sample: sample.clients, True),
        ("live streams", "#9ecae1", 6, lambda sample: sample.live, False),
        ("demand", "#d62728", 2, lambda sample: sample.demand, False),
        (
            f"target of the ready replicas ({target} each)",
            "#2ca02c",
            2,
            lambda sample: sample.ready * target,
            True,
        ),
    ]
    replicas: list[Line] = [
        ("wanted", "#d62728", 2, lambda sample: sample.wanted, True),
        ("ready", "#2ca02c", 2, lambda sample: sample.ready, True),
        ("streams cut or refused", "#000000", 2, lambda sample: sample.cut + sample.refused, True),
    ]
    height = TOP + 2 * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        chart("Requests", streams, samples, TOP),
        chart("Replicas", replicas, samples, TOP + HEIGHT + GAP),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def chart(title: str, lines: list[Line], samples: Sequence[Sampled], top: int) -> str:
    seconds = max(sample.second for sample in samples) or 1
    highest = max(1.0, *(value(sample) for _, _, _, value, _ in lines for sample in samples)) * 1.1

    def x(second: float) -> float:
        return LEFT + second / seconds * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return top + HEIGHT - value / highest * HEIGHT

    parts = [f'<text x="{LEFT}" y="{top - 28}" font-weight="bold">{title}</text>']
    for tick in ticks(highest):
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#dddddd"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [
        f'<text x="{x(tick):.1f}" y="{top + HEIGHT + 18}" text-anchor="middle">{tick:g} s</text>'
        for tick in ticks(seconds)
    ]
    for index, (label, colour, width, value, in_steps) in enumerate(lines):
        points = path([(x(sample.second), y(value(sample))) for sample in samples], in_steps)
        parts.append(f'<path d="{points}" fill="none" stroke="{colour}" stroke-width="{width}"/>')
        where = LEFT + index * 190
        parts.append(f'<rect x="{where}" y="{top - 20}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{where + 20}" y="{top - 13}">{label}</text>')
    return "\n".join(parts)


def path(points: list[tuple[float, float]], in_steps: bool) -> str:
    (x, y), *rest = points
    to = "H{:.1f}V{:.1f}" if in_steps else "L{:.1f},{:.1f}"
    return f"M{x:.1f},{y:.1f}" + "".join(to.format(*point) for point in rest)


def ticks(highest: float) -> list[float]:
    """Round numbers, about six of them."""
    step = next(step for step in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600) if highest / step <= 8)
    return [float(index * step) for index in range(int(highest // step) + 1)]
