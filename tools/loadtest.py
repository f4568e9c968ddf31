"""The data of the load test and the chart's copy of its scripts: Helm reads no file outside of a chart.

Both are generated: the scripts' own place is deploy/k6.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path

from testkit import trace
from testkit.places import ROOT

SCRIPTS = ROOT / "deploy/k6"
ARRIVALS = "deploy/k6/data/arrivals.json"
COPY = "deploy/helm/dub5/files/k6"

OF_THE_CHART = {"DUB5_URL", "DUB5_KEY", "SUMMARY_FILE", "SUMMARY_TEXT"}
"""What the chart itself tells k6, from other values, or never: without JSON in the log there is no result."""


def names_of_settings() -> set[str]:
    """What scenarios can be told, from where they read it."""
    scripts = "".join(_text(path) for path in sorted(SCRIPTS.rglob("*.js")))
    found = re.findall(
        r"__ENV\.([A-Z0-9_]+)|\b(?:number|whole|duration|list|toggle)\('([A-Z0-9_]+)'", scripts
    )
    return {one or other for one, other in found}


def arrivals() -> str:
    """`[milliseconds since the first, tokens of the prompt, tokens of the answer]` for each request of the trace."""
    lines = [f"[{round(row.at * 1000)},{row.prompt},{row.answer}]" for row in trace.read()]
    return "[" + ",\n".join(lines) + "]\n"


def copies() -> dict[str, Callable[[], str]]:
    """The chart's file -> its text: for each script, and the data with its licence."""
    scripts = [path.relative_to(SCRIPTS) for path in sorted(SCRIPTS.rglob("*.js"))]
    made = {f"{COPY}/{script}": functools.partial(_text, SCRIPTS / script) for script in scripts}
    licence = functools.partial(_text, SCRIPTS / "data/README.md")
    return {**made, f"{COPY}/data/arrivals.json": arrivals, f"{COPY}/data/README.md": licence}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
