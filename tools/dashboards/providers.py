"""What providers are asked and how they answer."""

from __future__ import annotations

from tools.dashboards import promql
from tools.dashboards.table import Dashboard, Document, Panel, Row, Unit

DASHBOARD = Dashboard(
    "providers",
    "DUB5 / Providers",
    "What each provider is asked, how it answers, what is done where it does not, and what it costs.",
    [
        Row(
            "Calls",
            [
                Panel(
                    "Calls, by provider",
                    Unit.REQUESTS_PER_SECOND,
                    "Questions that the cache did not answer, and those asked again.",
                    Document.METRICS,
                    {"{{provider}}": promql.rate("provider_requests_total", by="provider")},
                ),
                Panel(
                    "Calls, by outcome",
                    Unit.REQUESTS_PER_SECOND,
                    "How calls ended. Cancelled: nobody waited for the answer any more.",
                    "Dub5ProviderErrors",
                    {
                        "{{provider}} {{outcome}}": promql.rate(
                            "provider_requests_total", by="provider, outcome"
                        )
                    },
                ),
                Panel(
                    "Failed calls, by provider",
                    Unit.SHARE,
                    "Of the calls that somebody waited for. Callers see failures only where no other route "
                    "answers.",
                    "Dub5ProviderErrors",
                    {
                        "{{provider}}": promql.ratio(
                            promql.rate(
                                "provider_requests_total", 'outcome!~"ok|cancelled|overloaded"', by="provider"
                            ),
                            promql.rate(
                                "provider_requests_total", 'outcome!~"cancelled|overloaded"', by="provider"
                            ),
                        )
                    },
                    limit=0.1,
                ),
            ],
        ),
        Row(
            "Latency",
            [
                Panel(
                    "Time to the first token",
                    Unit.SECONDS,
                    "From the call to the first chunk of a streamed answer.",
                    "Dub5ProviderSlow",
                    promql.PROVIDER_FIRST_TOKEN,
                    limit=10,
                ),
                Panel(
                    "Time to the whole answer: p95",
                    Unit.SECONDS,
                    "From the call to the end of the answer. It follows the length of answers.",
                    "Dub5ProviderSlow",
                    {
                        "{{provider}}": promql.quantile(
                            0.95, "provider_duration_seconds", promql.OK, by="provider"
                        )
                    },
                ),
                Panel(
                    "Time to the first token, by model: p90",
                    Unit.SECONDS,
                    "The same by the configuration's models: tells a slow model from a slow provider.",
                    "Dub5ProviderSlow",
                    {
                        "{{model}}": promql.quantile(
                            0.9, "provider_time_to_first_token_seconds", promql.OK, by="model"
                        )
                    },
                ),
            ],
        ),
        Row(
            "What is done about it",
            [
                Panel(
                    "Breakers",
                    Unit.COUNT,
                    "The worst replica's, by model. Open: the provider is not asked for it at all, for half a minute "
                    "at most; then the next call tries, whenever that comes.",
                    "Dub5BreakerOpen",
                    {
                        "{{provider}} {{model}}": promql.gauge(
                            "provider_breaker_state", by="provider, model", how="max"
                        )
                    },
                    "states",
                    states=("closed", "trying again", "open"),
                ),
                Panel(
                    "Asked again, by reason",
                    Unit.REQUESTS_PER_SECOND,
                    "Calls for a question that had one before: fallback to another route, retry, hedge.",
                    "Dub5ProviderErrors",
                    {"{{provider}} {{reason}}": promql.rate("provider_retries_total", by="provider, reason")},
                ),
                Panel(
                    "Waiting for a place, and places",
                    Unit.COUNT,
                    "Each model is given as many calls at once as its provider bears; as many wait, and the others "
                    "are turned away. More replicas do not help.",
                    "Dub5ProviderSlow",
                    {
                        "{{provider}} waiting": promql.gauge("provider_waiting_requests", by="provider"),
                        "{{provider}} turned away per second": promql.rate(
                            "provider_rejected_total", by="provider"
                        ),
                        "{{provider}} {{model}} places": promql.gauge(
                            "provider_concurrency_limit", by="provider, model"
                        ),
                    },
                ),
            ],
        ),
        Row(
            "Tokens and money",
            [
                Panel(
                    "Tokens, by model",
                    Unit.TOKENS_PER_SECOND,
                    "Tokens per second that providers counted.",
                    Document.METRICS,
                    {"{{model}} {{direction}}": promql.rate("tokens_total", by="model, direction")},
                ),
                Panel(
                    "Input that the provider had cached",
                    Unit.SHARE,
                    "Of the tokens of input, those that the provider's own prompt cache had.",
                    Document.CACHING,
                    {
                        "{{model}}": promql.ratio(
                            promql.rate("tokens_total", 'direction="cached_input"', by="model"),
                            promql.rate("tokens_total", 'direction="input"', by="model"),
                        )
                    },
                ),
                Panel(
                    "Spent by the hour, by model",
                    Unit.DOLLARS,
                    "Dollars per hour by the prices of the configuration.",
                    Document.METRICS,
                    {"{{model}}": f"3600 * {promql.rate('cost_dollars_total', by='model')}"},
                ),
            ],
        ),
    ],
)
