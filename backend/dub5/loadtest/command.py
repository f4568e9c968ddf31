"""`dub5 loadtest report`: reads what there is, asks Prometheus for the rest, and writes a folder.

The folder holds report.html and report.md, and summary.json and series.json, from which the report can be made again
and with which a later run is compared.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from dub5.loadtest.report import compose
from dub5.loadtest.rules import Limits
from dub5.loadtest.runs import Run, Unreadable, read_run
from dub5.loadtest.series import Lines, Series, ask_prometheus, read_series
from dub5.report.document import Document
from dub5.report.page import html
from dub5.report.text import markdown
from dub5.settings.model import Duration


def write_report(
    summary: Path,
    out: Path,
    *,
    prometheus: str | None = None,
    series: Path | None = None,
    pods: str = 'job=~".+"',
    window: Duration | None = None,
    earlier: Path | None = None,
) -> Document:
    """Writes the report of the run in `summary` into the folder `out`; Unreadable where it cannot be made.

    The figures of the service come from `prometheus`, else from the file `series`, else from the folder of `summary`.
    """
    run = read_run(summary)
    if prometheus is not None:
        measured = asyncio.run(
            ask_prometheus(prometheus, began=run.began, ended=run.ended, pods=pods, window=window)
        )
    else:
        measured = _kept(series, summary)
    document = compose(
        run,
        measured.lines,
        limits=Limits(memory=_memory_limit(measured.lines)),
        window=measured.window,
        earlier=None if earlier is None else read_run(earlier),
    )
    _write(out, run, measured, document)
    return document


def _kept(series: Path | None, summary: Path) -> Series:
    if series is not None:
        return read_series(series)
    if summary.is_dir() and (summary / "series.json").is_file():
        return read_series(summary)
    return Series(0.0, {})


def _memory_limit(lines: Lines) -> float | None:
    points = lines.get("memory_limit")
    return points[-1][1] if points else None


def _write(out: Path, run: Run, measured: Series, document: Document) -> None:
    files = {
        "report.html": html(document),
        "report.md": markdown(document),
        "summary.json": msgspec.json.encode({"dub5_loadtest": 1, **msgspec.to_builtins(run)}).decode() + "\n",
        "series.json": msgspec.json.encode(measured).decode() + "\n",
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise Unreadable(f"{out} cannot be written: {error.strerror}") from None
