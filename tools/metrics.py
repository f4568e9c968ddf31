"""docs/metrics.md, from the registries of the backend and the operator themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prometheus_client import CollectorRegistry

from dub5.telemetry.metrics import CpuWait, MemoryLimit
from dub5.telemetry.metrics import Metrics as Backend
from dub5_operator.handlers.policy import Metrics as Operator
from testkit.tables import table

_SUFFIX = {"counter": "_total", "info": "_info"}
_UNITS = ("seconds", "bytes", "dollars", "requests", "tokens", "connections", "ratio", "entries")


class Described(NamedTuple):
    """One metric as it is exposed; of a histogram also `_bucket`, `_sum` and `_count` of that name."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def unit(self) -> str:
        """The name's last part that is a unit; a count of something else where there is none."""
        parts = re.split("_", self.name.removesuffix("_total"))
        return next((part for part in reversed(parts) if part in _UNITS), "")

    def row(self) -> tuple[str, ...]:
        labels = ", ".join(f"`{label}`" for label in self.labels)
        return f"`{self.name}`", self.type, self.unit, labels, self.meaning


def backend() -> list[Described]:
    """What a replica exposes."""
    own = Backend().registry
    own.register(CpuWait())
    own.register(MemoryLimit())
    return list(_described(own))


def operator() -> list[Described]:
    """What the operator exposes, but for the process's own figures."""
    return [each for each in _described(Operator().registry) if each.name.startswith("dub5_")]


def process() -> list[Described]:
    """What both expose of their process; from /proc, so on Linux only."""
    return [each for each in _described(Operator().registry) if each.name.startswith("process_")]


def _described(registry: CollectorRegistry) -> Iterator[Described]:
    for collector in registry._collector_to_names:  # noqa: SLF001  # a collector knows its labels, samples may be none
        for family in collector.collect():
            samples = [label for sample in family.samples[:1] for label in sample.labels if label != "le"]
            labels = _labels_of(collector) or tuple(samples)
            yield Described(
                family.name + _SUFFIX.get(family.type, ""), family.type, labels, family.documentation
            )


def _labels_of(collector: Any) -> tuple[str, ...]:
    return tuple(getattr(collector, "label_names", getattr(collector, "_labelnames", ())))


_HERE = Path(__file__).resolve().parent
_DATA = yaml.safe_load((_HERE / "metrics.yaml").read_text(encoding="utf-8"))
LABELS: dict[str, str] = _DATA["labels"]
OPENTELEMETRY: list[tuple[str, str, str]] = _DATA["opentelemetry"]
ATTRIBUTES: list[tuple[str, str, str]] = _DATA["attributes"]


def document() -> str:
    """The whole page."""
    head, tail = (_HERE / "templates/metrics.md").read_text(encoding="utf-8").split("@METRICS@")
    parts = [head]
    for title, metrics in (
        ("The backend", backend()),
        ("The operator", operator()),
        ("The process, of both", process()),
    ):
        made = table("metric | type | unit | labels | what", (each.row() for each in metrics))
        parts.append(f"\n## {title}\n\n{made}")
    labels = table("label | values", ((f"`{name}`", values) for name, values in LABELS.items()))
    parts.append(f"\n## Labels\n\nAll are bounded: no caller can make a series.\n\n{labels}")
    for before, columns, rows in (
        (tail, "there | here", OPENTELEMETRY),
        ("", "attribute there | label here", ATTRIBUTES),
    ):
        cells = ((f"`{there}`", f"`{here}`", differs) for there, here, differs in rows)
        parts.append(f"{before}\n{table(f'{columns} | differs', cells)}")
    return "".join(parts)
