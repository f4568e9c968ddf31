"""A report as Markdown: what the page has, without its plots."""

from __future__ import annotations

import re

from dub5.report.document import (
    LONGEST_SENTENCE,
    Code,
    Document,
    Fact,
    Part,
    Table,
    clean,
    clean_code,
    clean_rows,
)

LIMIT = 900_000
"""Bytes, so that it fits into a ConfigMap, which holds 1 MiB, beside the rest of it."""

_CUT = "\n\n(Cut here, at its limit of length.)\n"

_ORDERS = re.compile(r"<(?=[A-Za-z/!?])|(?<=\])(?=[(\[:])|`")
"""Where text would begin a tag, a link or code."""


def markdown(document: Document, limit: int = LIMIT) -> str:
    """At most `limit` bytes in UTF-8."""
    blocks = [
        f"# {_plain(document.title)}",
        f"**{_plain(document.outcome)}** {_plain(document.summary)}".strip(),
    ]
    if document.facts:
        blocks.append("\n".join(_fact(fact) for fact in document.facts))
    for section in document.sections:
        parts = [block for block in map(_part, section.parts) if block]
        if parts:
            blocks += [f"## {_plain(section.title)}", *parts]
    written = ("\n\n".join(blocks) + "\n").encode()
    if len(written) <= limit:
        return written.decode()
    kept = written[: limit - len(_CUT)].decode(errors="ignore")
    return kept.rpartition("\n")[0] + _CUT


def _part(part: Part) -> str:
    if isinstance(part, Table):
        return _table(part)
    if isinstance(part, Code):
        return _code(part)
    return _plain(part) if isinstance(part, str) else ""


def _fact(fact: Fact) -> str:
    more = f" ({_plain(fact.more)})" if fact.more else ""
    return f"* {_plain(fact.name)}: {_plain(fact.value)}{more}"


def _code(code: Code) -> str:
    text = clean_code(code)
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{code.language}\n{text}\n{fence}"


def _table(table: Table) -> str:
    shown, more = clean_rows(table)
    rows = [table.head, ["---"] * len(table.head), *shown]
    lines = ["| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, *([f"\nand {more} more rows"] if more else [])])


def _plain(text: str) -> str:
    """With what Markdown would take for HTML, a link or code told apart from it."""
    return _ORDERS.sub(lambda found: f"\\{found[0]}", clean(text, LONGEST_SENTENCE).replace("\\", "\\\\"))
