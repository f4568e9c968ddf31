"""Whether chats are answered, how soon, how full it is, what is saved."""

from __future__ import annotations

from tools.dashboards import promql
from tools.dashboards.table import Dashboard, Document, Panel, Row, Unit

DASHBOARD = Dashboard(
    "overview",
    "DUB5 / Overview",
    "Whether chats are answered, how soon, how full the replicas are, and what the cache saves.",
    [
        Row(
            "Objectives",
            [
                Panel(
                    "Chats answered",
                    Unit.SHARE,
                    "Of the chats in the time shown, those that did not fail for want of room, by a "
                    "provider or by us. The objective is 99.5 %; refusals that the caller earned do not count.",
                    "Dub5AvailabilityFastBurn",
                    {"answered": f"1 - {promql.failed('$__range')}"},
                    "number",
                    limit=1 - promql.ALLOWED_TO_FAIL,
                ),
                Panel(
                    "Streams that begin within 10 s",
                    Unit.SHARE,
                    "Of the streamed answers in the time shown. The objective is 95 %. An answer that is asked "
                    "for whole takes as long as it is long, and has no part in it.",
                    "Dub5FirstTokenFastBurn",
                    {"in time": f"1 - ({promql.late('$__range')})"},
                    "number",
                    limit=1 - promql.ALLOWED_TO_BE_LATE,
                ),
                Panel(
                    "Answered from the cache",
                    Unit.SHARE,
                    "Hits of the lookups in the last minutes; callers who ask to go past the cache do not "
                    "count.",
                    "Dub5HitRatioCollapsed",
                    {"hits": promql.hits()},
                    "number",
                ),
                Panel(
                    "Saved",
                    Unit.DOLLARS,
                    "What the answers from the cache would have cost in the time shown, by the prices of "
                    "the configuration.",
                    Document.METRICS,
                    {"saved": f"sum(increase(dub5_saved_dollars_total{{{promql.OURS}}}[$__range]))"},
                    "number",
                ),
            ],
            across=4,
        ),
        Row(
            "Budget of errors",
            [
                Panel(
                    "How fast failures burn the budget",
                    Unit.TIMES,
                    "1: the month's budget of failed chats lasts a month. At 14.4 it is gone in two days, "
                    "and somebody is paged.",
                    "Dub5AvailabilityFastBurn",
                    {
                        "over 1 h": f"({promql.failed('1h')}) / {promql.ALLOWED_TO_FAIL}",
                        "over 6 h": f"({promql.failed('6h')}) / {promql.ALLOWED_TO_FAIL}",
                    },
                    limit=1,
                ),
                Panel(
                    "How fast late streams burn the budget",
                    Unit.TIMES,
                    "The same for streams that begin after more than 10 s; 5 % of them may.",
                    "Dub5FirstTokenFastBurn",
                    {
                        "over 1 h": f"({promql.late('1h')}) / {promql.ALLOWED_TO_BE_LATE}",
                        "over 6 h": f"({promql.late('6h')}) / {promql.ALLOWED_TO_BE_LATE}",
                    },
                    limit=1,
                ),
            ],
            across=2,
        ),
        Row(
            "Traffic and errors",
            [
                Panel(
                    "Requests, by endpoint",
                    Unit.REQUESTS_PER_SECOND,
                    "All requests to the public listener; a path that is none of ours is `other`.",
                    Document.METRICS,
                    {"{{route}}": promql.rate("http_requests_total", by="route")},
                ),
                Panel(
                    "Chats, by outcome",
                    Unit.REQUESTS_PER_SECOND,
                    "A stream that broke is never ok.",
                    "Dub5AvailabilityFastBurn",
                    promql.CHATS_BY_OUTCOME,
                ),
                Panel(
                    "Errors, by endpoint",
                    Unit.SHARE,
                    "Of each endpoint's requests, those that failed for want of room, by a provider or by us.",
                    "Dub5AvailabilitySlowBurn",
                    {
                        "{{route}}": promql.ratio(
                            promql.rate("http_requests_total", promql.FAILED, by="route"),
                            promql.rate("http_requests_total", promql.COUNTED, by="route"),
                        )
                    },
                ),
            ],
        ),
        Row(
            "Latency",
            [
                Panel(
                    "Time to the first token",
                    Unit.SECONDS,
                    "From the request's head to the first chunk of a streamed answer; the queue and hits are in it.",
                    "Dub5FirstTokenFastBurn",
                    promql.FIRST_TOKEN,
                    limit=10,
                ),
                Panel(
                    "Time to the last byte, by endpoint: p95",
                    Unit.SECONDS,
                    "From the request's head to the answer's last byte. A long answer takes long: this "
                    "follows what is asked.",
                    Document.METRICS,
                    {
                        "{{route}}": promql.quantile(
                            0.95, "http_request_duration_seconds", promql.OK, by="route"
                        )
                    },
                ),
                Panel(
                    "Wait for a provider call: p95",
                    Unit.SECONDS,
                    "Time in the queue of a replica. More than moments: there are too few replicas, or a "
                    "slow provider.",
                    "Dub5QueueLong",
                    {"wait": promql.quantile(0.95, "queue_wait_seconds")},
                ),
            ],
        ),
        Row(
            "How full it is, and what it costs",
            [
                Panel(
                    "Demand and capacity",
                    Unit.COUNT,
                    "Requests that want a provider call at once, and how many may have one. The autoscaler "
                    "aims at 70 % of capacity.",
                    "Dub5DemandAtMaximum",
                    promql.DEMAND,
                ),
                Panel(
                    "Turned away, by reason",
                    Unit.REQUESTS_PER_SECOND,
                    "Requests that were answered with 503 for want of room.",
                    "Dub5Shedding",
                    promql.SHED,
                    limit=0.1,
                ),
                Panel(
                    "CPU of the busiest replica",
                    Unit.CORES,
                    "A replica can use one core and no more.",
                    "Dub5Cpu",
                    {"busiest": f"max({promql.CPU})"},
                    limit=0.85,
                ),
                Panel(
                    "Money, by the hour",
                    Unit.DOLLARS,
                    "Dollars per hour by the prices of the configuration: what providers were paid, and "
                    "what the cache saved.",
                    Document.METRICS,
                    promql.MONEY,
                ),
                Panel(
                    "Tokens, by direction",
                    Unit.TOKENS_PER_SECOND,
                    "Tokens per second that providers counted; cached input is part of input.",
                    Document.METRICS,
                    {"{{direction}}": promql.rate("tokens_total", by="direction")},
                ),
                Panel(
                    "Replicas, by release",
                    Unit.COUNT,
                    "How many are scraped. Two releases side by side: a rollout is under way, or stuck.",
                    "Dub5ConfigurationsDiffer",
                    {"{{version}}": promql.gauge("build_info", by="version", how="count")},
                ),
            ],
        ),
    ],
)
