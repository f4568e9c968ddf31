"""What each replica uses."""

from __future__ import annotations

from tools.dashboards import promql
from tools.dashboards.table import Dashboard, Document, Panel, Row, Unit

DASHBOARD = Dashboard(
    "resources",
    "DUB5 / Resources",
    "What each replica uses: CPU, memory, network, connections, its event loop, Redis.",
    [
        Row(
            "The process",
            [
                Panel(
                    "CPU, by replica",
                    Unit.CORES,
                    "A replica can use one core and no more.",
                    "Dub5Cpu",
                    {"{{pod}}": promql.CPU},
                    limit=0.85,
                ),
                Panel(
                    "Memory, by replica",
                    Unit.BYTES,
                    "Resident, and the limit of a container, past which it is killed.",
                    "Dub5Memory",
                    {"{{pod}}": promql.MEMORY, "limit": promql.gauge("memory_limit_bytes", how="min")},
                ),
                Panel(
                    "Event loop lag, by replica: p99",
                    Unit.SECONDS,
                    "How late the event loop runs a timer. Every stream of that replica stalls as long.",
                    "Dub5EventLoopLag",
                    {"{{pod}}": promql.LAG},
                    limit=0.1,
                ),
                Panel(
                    "Time without a CPU",
                    Unit.SHARE,
                    "In which the event loop had work and no CPU: taken by others on the node, or throttled.",
                    "Dub5EventLoopLag",
                    {"{{pod}}": promql.rate("cpu_wait_seconds_total", by="pod")},
                ),
            ],
            across=4,
        ),
        Row(
            "Network",
            [
                Panel(
                    "Bodies, by direction",
                    Unit.BYTES_PER_SECOND,
                    "Bytes of request bodies (in) and response bodies (out).",
                    Document.METRICS,
                    {"{{direction}}": promql.rate("network_bytes_total", by="direction")},
                ),
                Panel(
                    "Open connections, by replica",
                    Unit.COUNT,
                    "At most `server.max_connections` each.",
                    Document.METRICS,
                    {"{{pod}}": promql.gauge("open_connections", by="pod")},
                ),
                Panel(
                    "Memory for arriving requests, by replica",
                    Unit.BYTES,
                    "What requests take that arrive or wait for their answer. Large ones are refused from 75 % of the "
                    "limit on.",
                    "Dub5ArrivingFull",
                    {
                        "{{pod}}": promql.gauge("arriving_bytes", by="pod"),
                        "limit": promql.gauge("arriving_limit_bytes", how="min"),
                    },
                ),
                Panel(
                    "Connections closed, by reason",
                    Unit.COUNTS_PER_SECOND,
                    "For what their client did or did not do.",
                    Document.METRICS,
                    {"{{reason}}": promql.rate("connections_refused_total", by="reason")},
                ),
                Panel(
                    "File descriptors in use",
                    Unit.SHARE,
                    "Of those that the process may have. Each connection takes one, each provider call "
                    "another.",
                    Document.METRICS,
                    {
                        "{{pod}}": promql.process(
                            f"process_open_fds{{{promql.OURS}}} / process_max_fds{{{promql.OURS}}}"
                        )
                    },
                    limit=0.8,
                ),
            ],
        ),
        Row(
            "Redis",
            [
                Panel(
                    "Redis answers",
                    Unit.COUNT,
                    "By replica; without it each caches, counts and limits for itself.",
                    "Dub5RedisDown",
                    {"{{pod}}": promql.gauge("redis_up", by="pod", how="max")},
                    "states",
                    states=("no", "yes"),
                ),
                Panel(
                    "Commands, by operation",
                    Unit.OPERATIONS_PER_SECOND,
                    "Failed ones too.",
                    Document.METRICS,
                    {"{{operation}}": promql.rate("redis_duration_seconds_count", by="operation")},
                ),
                Panel(
                    "Time of a command: p95",
                    Unit.SECONDS,
                    "Past `redis.timeout`, 100 ms, the service goes on without.",
                    "Dub5RedisDown",
                    {"{{operation}}": promql.quantile(0.95, "redis_duration_seconds", by="operation")},
                    limit=0.1,
                ),
                Panel(
                    "Limits checked without Redis",
                    Unit.REQUESTS_PER_SECOND,
                    "Requests whose rate was checked against this replica's share of a tenant's limit.",
                    "Dub5RedisDown",
                    {"requests": promql.rate("limits_unshared_total")},
                ),
            ],
            across=4,
        ),
        Row(
            "Configuration, logs and background tasks",
            [
                Panel(
                    "Replicas, by configuration",
                    Unit.COUNT,
                    "For long more than one: a rollout has stopped half-way.",
                    "Dub5ConfigurationsDiffer",
                    {"{{hash}}": promql.gauge("config_info", by="hash", how="count")},
                ),
                Panel(
                    "API keys reloaded",
                    Unit.COUNT,
                    "No: the file has changed and was refused. That replica goes on with the old keys.",
                    "Dub5KeysNotReloaded",
                    {"{{pod}}": promql.gauge("keys_last_reload_successful", by="pod", how="min")},
                    "states",
                    states=("no", "yes"),
                ),
                Panel(
                    "Log lines lost",
                    Unit.COUNTS_PER_SECOND,
                    "Lines per second that nobody took from our output in time.",
                    Document.METRICS,
                    {"{{pod}}": promql.rate("log_lines_dropped_total", by="pod")},
                ),
                Panel(
                    "Background failures, by task",
                    Unit.COUNTS_PER_SECOND,
                    "Each is started again, ever later while it fails; a short one is done once.",
                    "Dub5BackgroundTaskFailing",
                    {"{{task}}": promql.rate("background_failures_total", by="task")},
                ),
            ],
            across=4,
        ),
        Row(
            "The operator",
            [
                Panel(
                    "The operator: CPU",
                    Unit.CORES,
                    "Of its process.",
                    "Dub5OperatorNotReconciling",
                    {
                        "operator": promql.operator_process(
                            f"rate(process_cpu_seconds_total{{{promql.OPERATOR}}}[$__rate_interval])"
                        )
                    },
                ),
                Panel(
                    "The operator: memory",
                    Unit.BYTES,
                    "Resident; it rests at 85 MB.",
                    "Dub5OperatorNotReconciling",
                    {
                        "operator": promql.operator_process(
                            f"process_resident_memory_bytes{{{promql.OPERATOR}}}"
                        )
                    },
                ),
            ],
            across=2,
        ),
    ],
)
