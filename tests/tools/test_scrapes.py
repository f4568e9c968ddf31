"""Lines without Prometheus: what happened between two scrapes."""

from __future__ import annotations

import math

import pytest

from dub5.loadtest.series import LINES
from dub5.telemetry.metrics import Metrics
from tools.scrapes import FIGURES, Between, Scrape, parsed

ROUTE = "/v1/chat/completions"


def scrape(metrics: Metrics, at: float) -> Scrape:
    return parsed(metrics.render("")[0].decode(), at)


def two() -> Between:
    """Ten seconds in which three requests ended, of which one was shed, and the loop was late once."""
    metrics = Metrics()
    metrics.capacity_requests.set(4)
    metrics.event_loop_lag.observe(0.001)
    before = scrape(metrics, 100.0)
    for outcome in ("ok", "ok", "shed"):
        metrics.observe_request(ROUTE, "POST", outcome, duration=1.0, first_byte=0.2, received=10, sent=1000)
    metrics.shed.labels("full").inc()
    metrics.inflight_requests.set(3)
    metrics.event_loop_lag.observe(0.3)
    metrics.cache_lookups.labels("default", "local").inc(1)
    metrics.cache_lookups.labels("default", "miss").inc(3)
    return Between(before, scrape(metrics, 110.0))


def test_every_line_has_a_figure() -> None:
    assert FIGURES.keys() == LINES.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requests", 0.3),
        ("errors", 0.1),
        ("shed", 0.1),
        ("gate", 0.75),
        ("first_byte", 0.2),
        ("arrivals", 0.6),  # three that ended, and three that are there
        ("loop", 0.4975),  # one in the bucket from 0.25 to 0.5
        ("hits", 0.25),
        ("sent", 300.0),
        ("demand", 0.0),
        ("provider", math.nan),  # nobody was asked
        ("redis", math.nan),
        ("provider_errors", 0.0),
    ],
)
def test_a_figure_is(name: str, value: float) -> None:
    assert FIGURES[name](two()) == pytest.approx(value, nan_ok=True)


def test_the_process_is_measured() -> None:
    assert FIGURES["memory"](two()) > 2**20
    assert FIGURES["cpu"](two()) >= 0
