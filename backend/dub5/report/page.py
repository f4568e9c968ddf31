"""A report as one HTML file that needs nothing else: style and plots are in it, and its policy lets nothing else in."""

from __future__ import annotations

import re
from html import escape

from dub5.report.document import (
    BAD,
    GOOD,
    LONGEST_SENTENCE,
    Code,
    Curve,
    Document,
    Fact,
    Part,
    Plot,
    Table,
    clean,
    clean_code,
    clean_rows,
    described,
)
from dub5.report.drawing import svg


def html(document: Document) -> str:
    title = _text(document.title)
    body = [f"<header>\n<h1>{title}</h1>", _verdict(document)]
    if document.facts:
        body.append("<dl class=facts>" + "".join(map(_fact, document.facts)) + "</dl>")
    body.append("</header>\n<main>")
    body.append(_plots(document.plots, "lead"))
    for place, section in enumerate(document.sections):
        body.append(f"<section><h2>{_text(section.title)}</h2>")
        body += _parts(section.parts, f"{place}")
        body.append("</section>")
    body.append("</main>")
    filled = {"TITLE": title, "BODY": "\n".join(each for each in body if each)}
    return re.sub("TITLE|BODY", lambda found: filled[found[0]], _PAGE)


def _text(written: str) -> str:
    return escape(clean(written, LONGEST_SENTENCE))


def _verdict(document: Document) -> str:
    outcome = f"<strong class={document.tone}>{_text(document.outcome)}</strong>"
    return f'<p class="verdict {document.tone}">{outcome} {_text(document.summary)}</p>'


def _fact(fact: Fact) -> str:
    more = f"<small>{_text(fact.more)}</small>" if fact.more else ""
    return f"<div><dt>{_text(fact.name)}</dt><dd class={fact.tone}>{_text(fact.value)}{more}</dd></div>"


def _parts(parts: list[Part], name: str) -> list[str]:
    """Plots that follow each other stand beside each other."""
    written, beside = [], list[Plot]()
    for place, part in enumerate(parts):
        if isinstance(part, Plot):
            beside.append(part)
            continue
        written += [_plots(beside, f"{name}-{place}"), _part(part)]
        beside = []
    return [*written, _plots(beside, name)]


def _part(part: str | Table | Code) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Code):
        return f"<pre tabindex=0><code>{escape(clean_code(part))}</code></pre>"
    return f"<p>{_text(part)}</p>"


def _table(table: Table) -> str:
    rows, more = clean_rows(table)
    columns = range(len(table.head))
    numbers = {column for column in columns if _numbers([row[column] for row in rows])}

    def cells(row: list[str]) -> str:
        return "".join(_cell(cell, column, column in numbers) for column, cell in enumerate(row))

    head = "".join(
        f"<th scope=col{' class=n' if column in numbers else ''}>{_text(cell)}</th>"
        for column, cell in enumerate(table.head)
    )
    body = "\n".join(f"<tr>{cells(row)}</tr>" for row in rows)
    said = f"<p>and {more} more rows</p>" if more else ""
    return (
        f"<div class=wide tabindex=0 role=group aria-label=table><table><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>{said}"
    )


def _cell(cell: str, column: int, number: bool) -> str:
    tone = "bad" if cell in BAD else "good" if cell in GOOD else "n" if number else ""
    marked = f" class={tone}" if tone else ""
    return f"<td{marked}>{escape(cell)}</td>" if column else f"<th scope=row{marked}>{escape(cell)}</th>"


def _numbers(cells: list[str]) -> bool:
    filled = [cell for cell in cells if cell]
    return bool(filled) and all(re.match(r"[+$-]?\d", cell) for cell in filled)


def _plots(plots: list[Plot], name: str) -> str:
    if not plots:
        return ""
    return "<div class=plots>" + "".join(plot(each, f"{name} {i}") for i, each in enumerate(plots)) + "</div>"


def plot(drawn: Plot, name: str) -> str:
    """A figure; `name` is one that no other has on its page."""
    unit = f", {_text(drawn.unit)}" if drawn.unit else ""
    keys = (
        "".join(_key(place, curve) for place, curve in enumerate(drawn.curves))
        if len(drawn.curves) > 1
        else ""
    )
    across = f"<p class=across>{_text(drawn.across)} →</p>" if drawn.across else ""
    image = svg(drawn, name).replace("<svg ", f'<svg role="img" aria-label="{escape(described(drawn))}" ', 1)
    return f"<figure><figcaption><b>{_text(drawn.title)}</b>{unit}<br>{keys}</figcaption>{image}{across}</figure>"


def _key(place: int, curve: Curve) -> str:
    """What a colour, and a dash or a mark for those who see none, stands for."""
    mark = {"dots": "•", "mark": "●■◆▲"[place % 4]}.get(curve.look, "")
    look = "level" if curve.look == "level" else f"k{place % 4}{' mark' if mark else ''}"
    return f'<span class=key><i class="{look}" aria-hidden=true>{mark}</i>{_text(curve.name)}</span> '


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer">
<title>TITLE</title>
<style>
:root {
  color-scheme: light dark;
  --bg: #ffffff; --fg: #1a1f29; --dim: #5b6472; --rule: #d5d9e0; --panel: #f5f6f8;
  --good: #146c2e; --bad: #b3140f; --plain: #1d4fbb;
  --c0: #c2410c; --c1: #1d4fbb; --c2: #5b6472; --c3: #7e22ce;
}
@media screen and (prefers-color-scheme: dark) { :root {
  --bg: #12151b; --fg: #e6e9ef; --dim: #a0a8b5; --rule: #3a414d; --panel: #1c2129;
  --good: #6fdc8c; --bad: #ff8a80; --plain: #8fb4ff;
  --c0: #ffa36b; --c1: #8fb4ff; --c2: #a0a8b5; --c3: #d8a6ff;
} }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1rem; color: var(--fg);
  background: var(--bg); overflow-wrap: anywhere; }
h1 { font-size: 1.35rem; margin: .5rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .5rem 0; max-width: 48rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .plain { color: var(--plain); }
p.verdict { color: var(--fg); border-left: .4rem solid; padding: .5rem 1rem; background: var(--panel);
  max-width: none; }
p.verdict.good { border-color: var(--good); } p.verdict.bad { border-color: var(--bad); }
p.verdict.plain { border-color: var(--plain); }
.verdict strong { display: block; font-size: 1.35rem; line-height: 1.3; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .5rem;
  margin: 1rem 0; }
.facts div { border: 1px solid var(--rule); border-radius: .3rem; padding: .4rem .8rem; }
dt, small, .across, figcaption { font-size: .85rem; color: var(--dim); }
dd { margin: 0; font-size: 1.2rem; font-weight: 600; }
dd.plain { color: var(--fg); }
dd small { display: block; font-weight: 400; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.2rem;
  margin: 1rem 0; }
figure { margin: 0; min-width: 0; max-width: 34rem; break-inside: avoid; }
figcaption b { color: var(--fg); }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
svg text { font-family: inherit !important; }
.across { text-align: right; margin: 0; }
.key { margin-right: 1em; white-space: nowrap; }
.key i { display: inline-block; width: 1.6em; margin-right: .4em; vertical-align: middle;
  border-top: 3px solid; font-style: normal; }
.key i.mark { border: 0; width: auto; line-height: 1; }
i.k0 { color: var(--c0); } i.k1 { color: var(--c1); border-top-style: dashed; }
i.k2 { color: var(--c2); border-top-style: dotted; } i.k3 { color: var(--c3); border-top-style: dashed; }
i.level { color: var(--dim); border-top: 2px dotted; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; font-weight: 400; padding: .25rem 1rem .25rem 0;
  border-bottom: 1px solid var(--rule); vertical-align: top;
  min-width: 3rem; max-width: 36rem; overflow-wrap: break-word; }
thead th { font-weight: 600; vertical-align: bottom; }
.n { text-align: right; }
td.n { white-space: nowrap; }
td.good, td.bad, th.good, th.bad { font-weight: 600; }
pre { background: var(--panel); padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; white-space: pre;
  overflow-wrap: normal; }
:focus-visible { outline: 2px solid var(--plain); }
@media print {
  body { max-width: none; font-size: 10pt; }
  .plots { grid-template-columns: 1fr 1fr; }
  pre { white-space: pre-wrap; }
  .wide { overflow: visible; }
  thead { display: table-header-group; } tr, pre { break-inside: avoid; } h2 { break-after: avoid; }
}
</style>
</head>
<body>
BODY
</body>
</html>
"""
