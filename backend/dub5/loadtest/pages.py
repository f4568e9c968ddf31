"""A document as Markdown, and as one HTML file that needs nothing else: style and plots are in it."""

from __future__ import annotations

from html import escape

from dub5.loadtest.report import Document, Plot, Table

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 150, 62, 20
"""Pixels of a plot, and what its axes take."""


def markdown(document: Document) -> str:
    """Without the plots: text has none."""
    blocks = [f"# {document.title}", f"**{document.verdict}**"]
    for section in document.sections:
        blocks.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Table):
                blocks.append(_markdown_table(part))
            elif isinstance(part, str):
                blocks.append(part)
    return "\n\n".join(blocks) + "\n"


def _markdown_table(table: Table) -> str:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def html(document: Document) -> str:
    body = [f"<h1>{escape(document.title)}</h1>", f"<p class=verdict>{escape(document.verdict)}</p>"]
    for section in document.sections:
        body.append(f"<h2>{escape(section.title)}</h2>")
        for part in section.parts:
            if isinstance(part, Table):
                body.append(_html_table(part))
            elif isinstance(part, Plot):
                body.append(plot(part))
            else:
                body.append(f"<p>{escape(part)}</p>")
    return _PAGE.replace("TITLE", escape(document.title)).replace("BODY", "\n".join(body))


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join(
        "<tr>" + "".join(f"<td{_mark(cell)}>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _mark(cell: str) -> str:
    return " class=bad" if cell in {"MISSED", "WORSE"} else ""


def plot(drawn: Plot) -> str:
    """One line over time as SVG, from zero or the least value, whichever is lower."""
    moments = [moment for moment, _ in drawn.points]
    values = [value for _, value in drawn.points]
    low, high = min(0.0, *values), max(values)
    span, height = (moments[-1] - moments[0]) or 1.0, (high - low) or 1.0
    across, up = _WIDTH - _LEFT - 6, _HEIGHT - _BOTTOM - 8

    def place(moment: float, value: float) -> str:
        x = _LEFT + across * (moment - moments[0]) / span
        return f"{x:.1f},{8 + up * (1 - (value - low) / height):.1f}"

    line = " ".join(place(moment, value) for moment, value in drawn.points)
    caption = f"{drawn.title}, {drawn.unit}" if drawn.unit else drawn.title
    floor = _HEIGHT - _BOTTOM
    return (
        f"<figure><figcaption>{escape(caption)}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(caption)}">'
        f'<path class="axis" d="M{_LEFT},8V{floor}H{_WIDTH - 6}"/>'
        f'<text x="{_LEFT - 4}" y="14" class="y">{_tick(high)}</text>'
        f'<text x="{_LEFT - 4}" y="{floor}" class="y">{_tick(low)}</text>'
        f'<text x="{_LEFT}" y="{_HEIGHT - 6}">{moments[0]:.0f} s</text>'
        f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 6}" class="y">{moments[-1]:.0f} s</text>'
        f'<polyline points="{line}"/></svg></figure>'
    )


def _tick(value: float) -> str:
    for factor, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {letter}"
    return f"{value:.3g}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<style>
:root { color-scheme: light dark; --line: #2563eb; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --line: #7aa2f7; --bad: #f87171; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
.verdict { font-size: 1.15rem; font-weight: 600; border-left: .3rem solid var(--line); padding-left: 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
.bad { color: var(--bad); font-weight: 600; }
figure { display: inline-block; width: 460px; max-width: 100%; margin: .5rem 1rem .5rem 0; }
svg { width: 100%; }
polyline { fill: none; stroke: var(--line); stroke-width: 1.5; }
.axis { fill: none; stroke: #888; }
text { font-size: 11px; fill: currentColor; }
.y { text-anchor: end; }
</style>
BODY
</html>
"""
