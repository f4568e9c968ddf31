"""The words that queries are written with, and those queries that more than one panel needs.

`$namespace` and `$job` are variables of the dashboards, `$__rate_interval` and `$__range` are Grafana's own.
"""

from __future__ import annotations

OURS = 'namespace=~"$namespace",job=~"$job"'
OPERATOR = 'namespace=~"$namespace"'
"""The operator is scraped by a job of its own."""

CHAT = 'route="/v1/chat/completions"'
OK = 'outcome="ok"'
FAILED = 'outcome=~"shed|provider_error|server_error"'
"""What the objective of availability counts as failed, as in the alerts."""

COUNTED = 'outcome!~"client_error|limited|client_disconnect"'
RATE = "$__rate_interval"


def gauge(name: str, by: str = "", how: str = "sum") -> str:
    """Over all replicas, or for each value of the labels in `by`."""
    return f"{how}{_by(by)}(dub5_{name}{{{OURS}}})"


def rate(name: str, *labels: str, by: str = "", window: str = RATE) -> str:
    """Per second."""
    return f"sum{_by(by)}(rate(dub5_{name}{{{_all(labels)}}}[{window}]))"


def quantile(share: float, name: str, *labels: str, by: str = "") -> str:
    """Of a histogram."""
    le = ", ".join(("le", by) if by else ("le",))
    return f"histogram_quantile({share}, {rate(f'{name}_bucket', *labels, by=le)})"


def ratio(part: str, whole: str) -> str:
    """0 where nothing of the whole is in the part; nothing where there is no whole."""
    return f"(({part}) or 0 * ({whole})) / (({whole}) > 0)"


def process(metric: str) -> str:
    """A figure of our replicas' processes: every exporter has these."""
    on = "on (namespace, pod, instance)"
    return f"{metric} and {on} dub5_capacity_requests{{{OURS}}}"


def operator(name: str) -> str:
    """A figure of the operator, by policy."""
    return f"dub5_operator_{name}{{{OPERATOR}}}"


def operator_rate(name: str, by: str = "") -> str:
    """Per second."""
    return f"sum{_by(by)}(rate({operator(name)}[{RATE}]))"


def operator_process(metric: str) -> str:
    """A figure of the operator's process."""
    return f"{metric} and on (namespace, job, instance) {operator('reconcile_seconds_count')}"


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else ""


def _all(labels: tuple[str, ...]) -> str:
    return ",".join((OURS, *labels))


ALLOWED_TO_FAIL, ALLOWED_TO_BE_LATE = 0.005, 0.05
"""The objectives: 99.5 % of chats are answered, 95 % of streams begin within ten seconds."""


def failed(window: str) -> str:
    """Share of chats."""
    whole = rate("http_requests_total", CHAT, COUNTED, window=window)
    return ratio(rate("http_requests_total", CHAT, FAILED, window=window), whole)


def late(window: str) -> str:
    """Share of streams."""
    soon = rate("time_to_first_token_seconds_bucket", OK, 'le="10.0"', window=window)
    return f"1 - {ratio(soon, rate('time_to_first_token_seconds_count', OK, window=window))}"


def hits(by: str = "") -> str:
    """Share of lookups."""
    found = rate("cache_lookups_total", 'result=~"local|shared|stale|collapsed"', by=by)
    return ratio(found, rate("cache_lookups_total", 'result!="bypass"', by=by))


GATE = f"max by (pod) (dub5_inflight_requests{{{OURS}}} / dub5_capacity_requests{{{OURS}}})"
CPU = process(f"rate(process_cpu_seconds_total{{{OURS}}}[$__rate_interval])")
MEMORY = process(f"process_resident_memory_bytes{{{OURS}}}")
LAG = quantile(0.99, "event_loop_lag_seconds", by="pod")

CHATS_BY_OUTCOME = {"{{outcome}}": rate("http_requests_total", CHAT, by="outcome")}
FIRST_TOKEN = {
    f"p{share * 100:.0f}": quantile(share, "time_to_first_token_seconds", OK) for share in (0.5, 0.95, 0.99)
}
DEMAND = {"demand": gauge("demand_requests"), "capacity": gauge("capacity_requests")}
QUEUE = {"in the queue": gauge("queued_requests"), "under way": gauge("inflight_requests")}
SHED = {"{{reason}}": rate("shed_total", by="reason")}
MONEY = {
    "spent": f"3600 * {rate('cost_dollars_total')}",
    "saved": f"3600 * {rate('saved_dollars_total')}",
}
PROVIDER_FIRST_TOKEN = {
    "{{provider}} p50": quantile(0.5, "provider_time_to_first_token_seconds", OK, by="provider"),
    "{{provider}} p90": quantile(0.9, "provider_time_to_first_token_seconds", OK, by="provider"),
}
