"""What the autoscaler sees, and who had to wait."""

from __future__ import annotations

from tools.dashboards import promql
from tools.dashboards.table import Dashboard, Document, Panel, Row, Unit

DASHBOARD = Dashboard(
    "autoscaling",
    "DUB5 / Autoscaling",
    "How much is wanted at once, how much there is room for, and who had to wait or go.",
    [
        Row(
            "Demand and capacity",
            [
                Panel(
                    "Demand and capacity",
                    Unit.COUNT,
                    "Demand: requests that want a provider call at once, also those that wait and those "
                    "turned away of late.",
                    "Dub5DemandAtMaximum",
                    promql.DEMAND,
                ),
                Panel(
                    "Demand, of capacity",
                    Unit.SHARE,
                    "The autoscaler adds replicas above 70 %, unless `autoscaling.targetPercentage` says "
                    "otherwise.",
                    "Dub5DemandAtMaximum",
                    {
                        "all replicas": f"{promql.gauge('demand_requests')} / {promql.gauge('capacity_requests')}"
                    },
                    limit=0.9,
                ),
                Panel(
                    "Replicas",
                    Unit.COUNT,
                    "Those that give the autoscaler a figure, and those that run.",
                    "Dub5AutoscalingMetricMissing",
                    {
                        "with demand": promql.gauge("demand_requests", how="count"),
                        "running": promql.gauge("build_info", how="count"),
                    },
                ),
                Panel(
                    "Demand, by replica",
                    Unit.COUNT,
                    "Far apart: the load balancer does not spread connections.",
                    Document.SCALING,
                    {"{{pod}}": promql.gauge("demand_requests", by="pod")},
                ),
                Panel(
                    "Gate in use, by replica",
                    Unit.SHARE,
                    "Provider calls under way, of those that may be.",
                    "Dub5QueueLong",
                    {"{{pod}}": promql.GATE},
                ),
                Panel(
                    "Restarts, by replica",
                    Unit.COUNT,
                    "In the half-hour before each moment, as the alert counts them.",
                    "Dub5Restarts",
                    {"{{pod}}": promql.process(f"changes(process_start_time_seconds{{{promql.OURS}}}[30m])")},
                    limit=2,
                ),
            ],
        ),
        Row(
            "Who waits, who has to go",
            [
                Panel(
                    "Queue and calls under way",
                    Unit.COUNT,
                    "A queue that stays: there is less room than is wanted.",
                    "Dub5QueueLong",
                    promql.QUEUE,
                ),
                Panel(
                    "Wait for a provider call",
                    Unit.SECONDS,
                    "Time in the queue of a replica; who would wait longer than `admission.queue_timeout` "
                    "is turned away at once.",
                    "Dub5QueueLong",
                    {
                        "p50": promql.quantile(0.5, "queue_wait_seconds"),
                        "p95": promql.quantile(0.95, "queue_wait_seconds"),
                    },
                ),
                Panel(
                    "Turned away, by reason",
                    Unit.REQUESTS_PER_SECOND,
                    "Requests that were answered with 503 for want of room.",
                    "Dub5Shedding",
                    promql.SHED,
                    limit=0.1,
                ),
            ],
        ),
    ],
)
