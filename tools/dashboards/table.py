"""What a dashboard is made of."""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple


class Unit(enum.StrEnum):
    """As Grafana names them."""

    COUNT = "short"
    SECONDS = "s"
    SHARE = "percentunit"
    REQUESTS_PER_SECOND = "reqps"
    OPERATIONS_PER_SECOND = "ops"
    COUNTS_PER_SECOND = "cps"
    TOKENS_PER_SECOND = "suffix:tokens/s"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    DOLLARS = "currencyUSD"
    CORES = "suffix:cores"
    TIMES = "suffix:times"


class Document:
    """In docs: what to read where no runbook fits."""

    METRICS = "metrics.md"
    LOAD = "load-testing.md"
    SCALING = "autoscaling.md"
    CACHING = "caching.md"
    TTL = "adaptive-ttl.md"


Kind = Literal["lines", "number", "states"]


class Panel(NamedTuple):
    """One picture. `queries` are by legend; `{{label}}` in it stands for that label.

    `guide` is an alert's runbook, or else a document. `limit` is drawn as a line: what lies beyond is bad.
    `states` are the words for 0, 1, 2, … of a panel of that kind.
    """

    title: str
    unit: Unit
    description: str
    guide: str
    queries: dict[str, str]
    kind: Kind = "lines"
    limit: float | None = None
    states: tuple[str, ...] = ()


class Row(NamedTuple):
    """Panels under a heading, so many side by side."""

    title: str
    panels: list[Panel]
    across: int = 3


class Dashboard(NamedTuple):
    """`name` is the file's and part of the address."""

    name: str
    title: str
    description: str
    rows: list[Row]

    def panels(self) -> list[Panel]:
        return [panel for row in self.rows for panel in row.panels]
