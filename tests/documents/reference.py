"""What the reference documents name: metrics, labels, fields of log lines, settings of load tests.

They are generated, and kept in step with their sources by `make check`. So tests that hold them to the running product
read them as users do, and no test needs the tool that writes them.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from tests.documents.reading import ROOT, read

METRICS = "docs/metrics.md"
OF_THE_CHART = {"DUB5_URL", "DUB5_KEY", "SUMMARY_FILE", "SUMMARY_TEXT"}
"""Settings of a load test that the chart itself gives k6, from other values, or never."""

_NAME = re.compile(r"`([^`]+)`")


class Metric(NamedTuple):
    """A row of docs/metrics.md."""

    name: str
    type: str
    labels: tuple[str, ...]


def metrics(heading: str) -> list[Metric]:
    """Those of one part of the document."""
    rows = _rows(METRICS, heading, "metric")
    return [Metric(_NAME.findall(row[0])[0], row[1], tuple(_NAME.findall(row[3]))) for row in rows]


def labels() -> dict[str, str]:
    """What the values of each label are."""
    return {_NAME.findall(row[0])[0]: row[1] for row in _rows(METRICS, "Labels", "label")}


def opentelemetry(first: str) -> list[tuple[str, str]]:
    """OpenTelemetry's name and ours, from the table whose first column is called `first`."""
    rows = _rows(METRICS, "In OpenTelemetry's words", first)
    return [(_NAME.findall(row[0])[0], _NAME.findall(row[1])[0]) for row in rows]


def log_fields() -> set[str]:
    """Every field that a log line may have."""
    schema = json.loads((ROOT / "docs/logs.schema.json").read_text(encoding="utf-8"))
    named = (name.partition("field.") for name in schema["$defs"])
    return {field for before, found, field in named if found and not before}


def settings_of_load_tests() -> set[str]:
    """What a scenario can be told through the chart."""
    values: Any = json.loads((ROOT / "deploy/helm/dub5/values.schema.json").read_text(encoding="utf-8"))
    return set(values["definitions"]["LoadtestSettings"]["properties"])


def _rows(document: str, heading: str, first: str) -> list[list[str]]:
    """The cells of the table under `heading` whose first column is called `first`."""
    lines = read(document)
    at = lines.index(f"## {heading}")
    at = next(number for number in range(at, len(lines)) if lines[number].startswith(f"| {first} |"))
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found
