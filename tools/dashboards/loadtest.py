"""k6's figures beside the service's."""

from __future__ import annotations

from tools.dashboards import promql
from tools.dashboards.table import Dashboard, Document, Panel, Row, Unit


def worst(name: str) -> str:
    """A percentile, which k6 computes for each set of its tags."""
    return f"max(k6_{name})"


DASHBOARD = Dashboard(
    "loadtest",
    "DUB5 / Load test",
    "What k6 sends and sees, beside what the service says of the same time. For k6's figures set "
    "`loadtest.remoteWrite`.",
    [
        Row(
            "What is asked, what comes back",
            [
                Panel(
                    "Callers",
                    Unit.COUNT,
                    "Requests that k6 has under way, and how many it may have. At the limit the load is "
                    "less than was asked for.",
                    Document.LOAD,
                    {"busy": "sum(k6_vus)", "at most": "sum(k6_vus_max)"},
                ),
                Panel(
                    "Chats: k6 and the service",
                    Unit.REQUESTS_PER_SECOND,
                    "Those that k6 has seen end, and those that the service has. Apart: somebody else asks "
                    "too, or requests are lost on the way.",
                    Document.LOAD,
                    {
                        "k6": "sum(rate(k6_chat_requests_total[$__rate_interval]))",
                        "service": promql.rate("http_requests_total", promql.CHAT),
                    },
                ),
                Panel(
                    "Chats by outcome, as k6 saw them",
                    Unit.REQUESTS_PER_SECOND,
                    "whole, cut, broken, refused, failed, rejected or lost.",
                    Document.LOAD,
                    {"{{outcome}}": "sum by (outcome) (rate(k6_chat_requests_total[$__rate_interval]))"},
                ),
                Panel(
                    "Chats by outcome, as the service saw them",
                    Unit.REQUESTS_PER_SECOND,
                    "A stream that broke is never ok.",
                    "Dub5AvailabilityFastBurn",
                    promql.CHATS_BY_OUTCOME,
                ),
                Panel(
                    "Answers that came whole",
                    Unit.SHARE,
                    "The lowest of all personalities and complexities since the run began.",
                    Document.LOAD,
                    {"whole": "min(k6_chat_whole_rate)"},
                ),
                Panel(
                    "Answers from the cache: k6 and the service",
                    Unit.SHARE,
                    "k6 tells it from `Cache-Status`, since the run began.",
                    "Dub5HitRatioCollapsed",
                    {"k6": "avg(k6_chat_hit_rate)", "service": promql.hits()},
                ),
            ],
        ),
        Row(
            "How soon",
            [
                Panel(
                    "Time to the first token, as k6 saw it",
                    Unit.SECONDS,
                    "Of the worst personality and complexity.",
                    Document.LOAD,
                    {share: worst(f"chat_ttft_{share}") for share in ("p50", "p95", "p99")},
                ),
                Panel(
                    "Time to the first token, as the service saw it",
                    Unit.SECONDS,
                    "Much less than k6's: the time is lost on the way, or in k6 itself.",
                    "Dub5FirstTokenFastBurn",
                    promql.FIRST_TOKEN,
                ),
                Panel(
                    "Where the time goes: p95",
                    Unit.SECONDS,
                    "The service's own split of each answer, from `Server-Timing`, as k6 read it.",
                    Document.LOAD,
                    {
                        phase: worst(f"chat_server_{phase}_p95")
                        for phase in ("auth", "queue", "cache", "provider")
                    },
                ),
                Panel(
                    "Time to the whole answer: p95",
                    Unit.SECONDS,
                    "As k6 saw it.",
                    Document.LOAD,
                    {"chat": worst("chat_duration_p95")},
                ),
                Panel(
                    "Time per token: p95",
                    Unit.SECONDS,
                    "The mean within each answer, after its first token.",
                    Document.LOAD,
                    {"chat": worst("chat_time_per_token_p95")},
                ),
                Panel(
                    "The provider's first token",
                    Unit.SECONDS,
                    "If this rises with the load, more replicas do not help.",
                    "Dub5ProviderSlow",
                    promql.PROVIDER_FIRST_TOKEN,
                ),
            ],
        ),
        Row(
            "What gets full",
            [
                Panel(
                    "Demand and capacity",
                    Unit.COUNT,
                    "What the autoscaler sees.",
                    Document.SCALING,
                    promql.DEMAND,
                ),
                Panel(
                    "Replicas",
                    Unit.COUNT,
                    "Those that give the autoscaler a figure.",
                    Document.SCALING,
                    {"replicas": promql.gauge("demand_requests", how="count")},
                ),
                Panel(
                    "CPU, by replica",
                    Unit.CORES,
                    "One core is all.",
                    "Dub5Cpu",
                    {"{{pod}}": promql.CPU},
                    limit=0.85,
                ),
                Panel(
                    "Event loop lag, by replica: p99",
                    Unit.SECONDS,
                    "How late the event loop runs a timer.",
                    "Dub5EventLoopLag",
                    {"{{pod}}": promql.LAG},
                    limit=0.1,
                ),
                Panel(
                    "Queue and calls under way",
                    Unit.COUNT,
                    "A queue: the gate is full.",
                    "Dub5QueueLong",
                    promql.QUEUE,
                ),
                Panel(
                    "Turned away, by reason",
                    Unit.REQUESTS_PER_SECOND,
                    "Answered with 503 for want of room.",
                    "Dub5Shedding",
                    promql.SHED,
                ),
            ],
        ),
    ],
)
