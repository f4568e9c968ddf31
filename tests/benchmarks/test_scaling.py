"""Runs that were recorded on a cluster, simulated: docs/reports/autoscaling-advisor.md has the figures."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest

from dub5.advisor import record
from dub5.advisor.simulation import simulate
from dub5.advisor.summary import agreement
from dub5.advisor.values import of_values
from testkit.places import ROOT

RECORDS = sorted((ROOT / "docs/reports/autoscaling").rglob("*.record"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_replicas_are_as_many_as_they_were(path: Path) -> None:
    """In the mean of five seeds: one run of the cluster, too, is one of many that might have been."""
    there = record.read(path)
    outcomes = [simulate(there, of_values(there.header.values), seed=seed) for seed in range(5)]
    found = [each for outcome in outcomes if (each := agreement(there, outcome)) is not None]
    assert abs(fmean(float(each.wanted_error or 0.0) for each in found)) <= 0.1
    assert fmean(float(each.wanted_within_one or 0.0) for each in found) >= 0.9
    came = max(each.requests or 0.0 for each in there.seen)
    assert all(outcome.requests == pytest.approx(came, rel=0.05) for outcome in outcomes)
