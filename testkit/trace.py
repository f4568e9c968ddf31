"""Real arrivals and lengths, which the replay and k6 play again; benchmarks/replay/DATA.md says where they are from."""

from __future__ import annotations

import csv
from datetime import datetime

import msgspec

from testkit.places import ROOT


class Row(msgspec.Struct, frozen=True):
    """One request of the trace: seconds after the first, tokens of prompt and answer."""

    at: float
    prompt: int
    answer: int


def read() -> list[Row]:
    path = ROOT / "benchmarks/replay/azure_llm_2023_conv_10min.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    moments = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    return [
        Row((moment - moments[0]).total_seconds(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for moment, row in zip(moments, rows, strict=True)
    ]
