"""What the cache answers, and what the operator makes of it."""

from __future__ import annotations

from tools.dashboards import promql
from tools.dashboards.table import Dashboard, Document, Panel, Row, Unit

CHANGED, COMPARED = (
    promql.rate("cache_revalidations_total", f'verdict=~"{verdict}"', by="class", window="$__range")
    for verdict in ("changed", "same|changed")
)

DASHBOARD = Dashboard(
    "cache",
    "DUB5 / Cache and TTL policy",
    "What the cache answers, how old and how true its answers are, and what the operator makes of that.",
    [
        Row(
            "Hits",
            [
                Panel(
                    "Hit ratio, by class",
                    Unit.SHARE,
                    "Hits of lookups; callers who ask to go past the cache do not count.",
                    "Dub5HitRatioCollapsed",
                    {"{{class}}": promql.hits(by="class")},
                ),
                Panel(
                    "Lookups, by result",
                    Unit.REQUESTS_PER_SECOND,
                    "local: this replica's memory; shared: Redis; stale: served while it is refreshed; "
                    "collapsed: waited for somebody else's call.",
                    "Dub5HitRatioCollapsed",
                    {"{{result}}": promql.rate("cache_lookups_total", by="result")},
                ),
                Panel(
                    "Saved by the hour, by model",
                    Unit.DOLLARS,
                    "Dollars per hour that the answers from the cache would have cost.",
                    Document.CACHING,
                    {"{{model}}": f"3600 * {promql.rate('saved_dollars_total', by='model')}"},
                ),
            ],
        ),
        Row(
            "Age and truth",
            [
                Panel(
                    "Age of hits, by class",
                    Unit.SECONDS,
                    "How old answers from the cache are when they are served.",
                    "Dub5StalenessOverBudget",
                    {
                        "{{class}} p50": promql.quantile(0.5, "cache_hit_age_seconds", by="class"),
                        "{{class}} p95": promql.quantile(0.95, "cache_hit_age_seconds", by="class"),
                    },
                ),
                Panel(
                    "TTL in force, by class",
                    Unit.SECONDS,
                    "What replicas go by: the configuration's, or the operator's.",
                    Document.CACHING,
                    {"{{class}}": promql.gauge("cache_ttl_seconds", by="class", how="max")},
                ),
                Panel(
                    "Answers compared, by verdict",
                    Unit.REQUESTS_PER_SECOND,
                    "Each new answer to a known question is compared with the one before.",
                    "Dub5StalenessOverBudget",
                    {"{{verdict}}": promql.rate("cache_revalidations_total", by="verdict")},
                ),
                Panel(
                    "Changed when compared, by class",
                    Unit.SHARE,
                    "The measured staleness: of the answers compared in the time shown, those that had "
                    "changed. Most were compared when they had expired, so of hits it is less.",
                    "Dub5StalenessOverBudget",
                    {"{{class}}": promql.ratio(CHANGED, COMPARED)},
                    limit=0.1,
                ),
                Panel(
                    "Stale hits and their budget, by policy",
                    Unit.SHARE,
                    "The operator's estimate of the hits that are out of date, and how many the policy allows.",
                    "Dub5StalenessOverBudget",
                    {
                        "{{policy}} stale": promql.operator("predicted_stale_ratio"),
                        "{{policy}} budget": promql.operator("stale_budget_ratio"),
                    },
                ),
                Panel(
                    "Changes per hour, by policy",
                    Unit.COUNT,
                    "How often the answer to a hit changes, as measured.",
                    Document.TTL,
                    {"{{policy}}": promql.operator("drift_per_hour")},
                ),
            ],
        ),
        Row(
            "The operator's policies",
            [
                Panel(
                    "TTL, by policy",
                    Unit.SECONDS,
                    "In force, and where the measurements say that it should go; it gets there step by step.",
                    Document.TTL,
                    {
                        "{{policy}} in force": promql.operator("ttl_seconds"),
                        "{{policy}} recommended": promql.operator("recommended_ttl_seconds"),
                    },
                ),
                Panel(
                    "What bounds the TTL",
                    Unit.COUNT,
                    "What keeps it from being longer. Staleness, Memory, Cost: the policy's own limits. Bounds: its "
                    "minimum or maximum. Data: too little is known.",
                    Document.TTL,
                    {"{{policy}}: {{reason}}": f"{promql.operator('bound_by')} == 1"},
                    "states",
                    states=("", "binds"),
                ),
                Panel(
                    "Hit ratio, by policy",
                    Unit.SHARE,
                    "As measured of late, and as predicted for the TTL in force.",
                    Document.TTL,
                    {
                        "{{policy}} measured": promql.operator("measured_hit_ratio"),
                        "{{policy}} predicted": promql.operator("predicted_hit_ratio"),
                    },
                ),
                Panel(
                    "Looks at policies",
                    Unit.REQUESTS_PER_SECOND,
                    "Each policy is reconciled once in each `step.every` of its own. Failed: Redis or the Kubernetes "
                    "API does not answer.",
                    "Dub5OperatorNotReconciling",
                    {
                        "looks": promql.operator_rate("reconcile_seconds_count"),
                        "{{policy}} failed": promql.operator_rate("errors_total", by="policy"),
                    },
                ),
            ],
            across=4,
        ),
        Row(
            "How it holds and shares them",
            [
                Panel(
                    "Answers in memory",
                    Unit.COUNT,
                    "Answers in the replicas' own memory, in front of Redis.",
                    Document.CACHING,
                    {"{{pod}}": promql.gauge("cache_entries", by="pod")},
                ),
                Panel(
                    "Size of answers in memory",
                    Unit.BYTES,
                    "At most `cache.local_bytes` a replica.",
                    "Dub5Memory",
                    {"{{pod}}": promql.gauge("cache_bytes", by="pod")},
                ),
                Panel(
                    "Flights, by role",
                    Unit.REQUESTS_PER_SECOND,
                    "Identical questions at once: the leader asks the provider, followers wait for its answer.",
                    Document.CACHING,
                    {"{{role}} {{outcome}}": promql.rate("flights_total", by="role, outcome")},
                ),
                Panel(
                    "Cache operations that failed",
                    Unit.REQUESTS_PER_SECOND,
                    "The service goes on without: such a request is a miss.",
                    "Dub5RedisDown",
                    {"{{operation}}": promql.rate("cache_errors_total", by="operation")},
                ),
                Panel(
                    "Undecodable values in Redis, by kind",
                    Unit.COUNTS_PER_SECOND,
                    "Values and messages that are not what we write there: each is taken for none.",
                    Document.CACHING,
                    {"{{kind}}": promql.rate("redis_undecodable_total", by="kind")},
                ),
            ],
        ),
    ],
)
