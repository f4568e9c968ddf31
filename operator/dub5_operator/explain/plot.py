"""The candidates of each class, drawn: what each TTL for all questions would do, beside what each one's own does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from dub5_operator.explain.reading import Explained
from dub5_operator.explain.refused import Refused
from dub5_operator.planner.durations import written

_LINE, _OTHER, _LIMIT = "#3b82f6", "#888888", "#dc2626"
_MOST = 20
"""Classes in one file."""


def draw(found: Sequence[Explained], path: Path) -> None:
    """Into a file whose name says its format. Refused where it cannot be written."""
    if len(found) > _MOST:
        raise Refused(
            f"--plot draws {_MOST} classes at most, and there are {len(found)}: choose one by --class."
        )
    figure = Figure(figsize=(12, 3.2 * len(found)), layout="constrained")  # inches
    for row, axes in zip(found, figure.subplots(len(found), 3, squeeze=False), strict=True):
        _draw_class(row, axes)
    try:
        with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dub5"}):  # the same plot is the same text
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise Refused(f"--plot {path} cannot be written: {error.strerror}.") from None


def _draw_class(found: Explained, axes: Sequence[Axes]) -> None:
    explanation = found.explanation
    ttls = [each.ttl for each in explanation.candidates]
    outcomes = [each.outcome for each in explanation.candidates]
    own = next((each.outcome for each in explanation.by_question if each.chosen), None)
    hits, stales, savings = axes
    hits.plot(ttls, [each.hit_ratio for each in outcomes], color=_LINE, label="one TTL for all")
    stales.plot(ttls, [each.stale for each in outcomes], color=_LINE, label="estimate")
    stales.plot(ttls, [each.stale_upper for each in outcomes], color=_LINE, linestyle=":", label="at most")
    stales.axhline(found.budget, color=_LIMIT, linewidth=1, label="budget")
    savings.plot(ttls, [each.saving for each in outcomes], color=_LINE)
    if own is not None:
        for each, value in ((hits, own.hit_ratio), (stales, own.stale), (savings, own.saving)):
            each.axhline(value, color=_OTHER, linestyle="--", label="each question its own")
    ttl, which = (
        (explanation.decision.recommended, "recommended")
        if own is None
        else (explanation.current, "in force")
    )
    for each, title in zip(axes, ("hit ratio", "stale hits", "saves, $ an hour"), strict=True):
        each.axvline(ttl or ttls[0], color=_OTHER, linewidth=1, label=which)
        each.set_xscale("log")
        each.set_title(f"{found.cache_class}: {title}", fontsize=10)
        each.xaxis.set_major_formatter(FuncFormatter(lambda ttl, _: written(ttl)))
        each.set_ylim(bottom=min(0.0, *each.get_ylim()))
    hits.yaxis.set_major_formatter(PercentFormatter(1.0))
    stales.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    stales.set_ylim(0.0, min(1.0, 4 * found.budget))
    stales.legend(fontsize=8)
