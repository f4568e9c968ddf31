"""Runs and lines of figures that tests plant bottlenecks into."""

from __future__ import annotations

import json
from typing import Any

from dub5.loadtest.series import Lines

BEGAN = 1_795_000_000.0
LENGTH = 300
STEP = 5

HEALTHY = {
    "requests": 100.0,
    "arrivals": 100.0,
    "errors": 0.0,
    "first_byte": 0.35,
    "demand": 20.0,
    "replicas": 2.0,
    "gate": 0.2,
    "inflight": 20.0,
    "queued": 0.0,
    "shed": 0.0,
    "cpu": 0.48,
    "cpu_wait": 0.01,
    "loop": 0.002,
    "memory": 150 * 2.0**20,
    "memory_limit": 512 * 2.0**20,
    "redis": 0.001,
    "redis_errors": 0.0,
    "provider": 0.3,
    "provider_errors": 0.0,
    "provider_waiting": 0.0,
    "hits": 0.4,
    "sent": 1e6,
}


def calm() -> Lines:
    """Five minutes in which all is well."""
    moments = [BEGAN + second for second in range(0, LENGTH + 1, STEP)]
    return {name: [(moment, value) for moment in moments] for name, value in HEALTHY.items()}


def planted(**changes: tuple[float, float]) -> Lines:
    """`name=(second, value)`: from that second on the line has that value."""
    lines = calm()
    for name, (second, value) in changes.items():
        lines[name] = [(moment, value if moment >= BEGAN + second else was) for moment, was in lines[name]]
    return lines


def summary(**changes: Any) -> dict[str, Any]:
    """As deploy/k6 prints it."""
    trend = {
        "count": 990,
        "avg": 320.0,
        "min": 300.0,
        "med": 310.0,
        "max": 900.0,
        "p(95)": 400.0,
        "p(99)": 600.0,
    }
    return {
        "dub5_loadtest": 1,
        "scenario": "steady",
        "passed": True,
        "began": BEGAN,
        "ended": BEGAN + LENGTH,
        "url": "http://dub5",
        "thresholds": [
            {"metric": "chat_ttft", "gate": "p(95)<2000", "ok": True},
            {"metric": "chat_whole", "gate": "rate>=0.99", "ok": True},
        ],
        "findings": {},
        "settings": {"RATE": "4", "TTFT_P95": "2000"},
        "metrics": {
            "chat_requests": {"count": 1000, "rate": 3.3333},
            "chat_requests{outcome:refused}": {"count": 10, "rate": 0.0333},
            "chat_whole": {"rate": 0.99, "passes": 990, "fails": 10},
            "chat_whole{personality:tutor}": {"rate": 0.98, "passes": 490, "fails": 10},
            "chat_ttft": trend,
            "chat_ttft{personality:tutor}": {**trend, "count": 490},
            "chat_duration": {**trend, "med": 1500.0},
            "chat_hit": {"rate": 0.25, "passes": 250, "fails": 750},
            "chat_server_auth": {**trend, "avg": 0.1},
            "chat_server_queue": {**trend, "avg": 15.9},
            "chat_server_cache": {**trend, "avg": 1.0},
            "chat_server_provider": {**trend, "avg": 300.0},
        },
        **changes,
    }


def line(**changes: Any) -> str:
    return json.dumps(summary(**changes), separators=(",", ":"))
