"""A document as Markdown, and as one HTML file that needs nothing else: style and plots are in it."""

from __future__ import annotations

import io
from html import escape

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dub5.loadtest.report import Document, Plot, Table

_LINE, _GREY = "#3b82f6", "#888888"
"""Colours of a plot that can be read on a white page and on a black one."""


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
    moments, values = zip(*drawn.points, strict=True)
    caption = escape(f"{drawn.title}, {drawn.unit}" if drawn.unit else drawn.title)
    figure = Figure(figsize=(4.6, 1.5), layout="constrained", facecolor="none")  # inches, each of 72 points
    axes = figure.add_subplot(facecolor="none")
    axes.plot(moments, values, color=_LINE, linewidth=1.2, clip_on=False)  # all of it is inside
    axes.set_xmargin(0)
    axes.set_ylim(min(0.0, *values))
    axes.xaxis.set_major_formatter(EngFormatter(unit="s"))
    axes.yaxis.set_major_formatter(EngFormatter(places=None))
    axes.locator_params(nbins=4)
    axes.tick_params(colors=_GREY, labelsize=7)
    axes.spines[:].set_color(_GREY)
    svg = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": drawn.title}):  # the same plot is the same text
        figure.savefig(svg, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = svg.getvalue()
    return f"<figure><figcaption>{caption}</figcaption>{text[text.index('<svg') :]}</figure>"


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
svg { width: 100%; height: auto; }
</style>
BODY
</html>
"""
