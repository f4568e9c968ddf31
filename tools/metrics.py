"""docs/metrics.md, from the registries of the backend and the operator themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry

from dub5.telemetry.metrics import CpuWait, MemoryLimit
from dub5.telemetry.metrics import Metrics as Backend
from dub5_operator.report import Metrics as Operator

_SUFFIX = {"counter": "_total", "info": "_info"}
_UNITS = ("seconds", "bytes", "dollars", "requests", "tokens", "connections", "ratio", "entries")


class Described(NamedTuple):
    """One metric as it is exposed; of a histogram also `_bucket`, `_sum` and `_count` of that name."""

    name: str
    type: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def unit(self) -> str:
        """The name's last part that is a unit; a count of something else where there is none."""
        parts = re.split("_", self.name.removesuffix("_total"))
        return next((part for part in reversed(parts) if part in _UNITS), "")

    def row(self) -> str:
        labels = ", ".join(f"`{label}`" for label in self.labels)
        return f"| `{self.name}` | {self.type} | {self.unit} | {labels} | {self.meaning} |\n"


def backend() -> list[Described]:
    """What a replica exposes."""
    own = Backend().registry
    own.register(CpuWait())
    own.register(MemoryLimit())
    return list(_described(own))


def operator() -> list[Described]:
    """What the operator exposes, but for the process's own figures."""
    return [each for each in _described(Operator().registry) if each.name.startswith("dub5_")]


def process() -> list[Described]:
    """What both expose of their process; from /proc, so on Linux only."""
    return [each for each in _described(Operator().registry) if each.name.startswith("process_")]


def _described(registry: CollectorRegistry) -> Iterator[Described]:
    for collector in registry._collector_to_names:  # noqa: SLF001  # a collector knows its labels, samples may be none
        for family in collector.collect():
            samples = [label for sample in family.samples[:1] for label in sample.labels if label != "le"]
            labels = _labels_of(collector) or tuple(samples)
            yield Described(
                family.name + _SUFFIX.get(family.type, ""), family.type, labels, family.documentation
            )


def _labels_of(collector: Any) -> tuple[str, ...]:
    return tuple(getattr(collector, "label_names", getattr(collector, "_labelnames", ())))


LABELS = {
    "class": "a cache class of the configuration",
    "direction": "`in`, `out` of the network; `input`, `cached_input`, `output` of tokens and money. Cached "
    "input is part of input, as a provider counts it",
    "hash": "of the configuration",
    "kind": "of what is read from Redis; a fixed list",
    "method": "of HTTP; any that is not a usual one is `other`",
    "model": "a model of the configuration",
    "operation": "a command, or group of commands, of ours to Redis; a fixed list",
    "outcome": "of requests: `ok`, `client_error`, `shed`, `limited`, `provider_error`, `server_error`, "
    "`client_disconnect`; of calls and flights: fixed lists of their own. A stream that broke is never `ok`, "
    "and a provider's 429 is its `provider_error`",
    "policy": "the name of a CachePolicy; its series go when it does",
    "provider": "a provider of the configuration",
    "python": "version",
    "reason": "why, from a fixed list",
    "result": "`local`, `shared`, `stale`, `collapsed`, `miss`, `bypass`",
    "role": "`leader` asks the provider, `follower` waits for its answer",
    "route": "the path's template; a path that is none of ours is `other`",
    "source": "`refetch`: the answer was needed anyway; `re-ask`: asked only to compare",
    "task": "what runs in the background; a fixed list",
    "tier": "`local`: this replica's memory",
    "verdict": "`same`, `changed`, `error`",
    "version": "of DUB5",
}

OPENTELEMETRY = (
    ("gen_ai.client.operation.duration", "dub5_provider_duration_seconds", ""),
    (
        "gen_ai.client.operation.time_to_first_chunk",
        "dub5_provider_time_to_first_token_seconds",
        "streamed answers only",
    ),
    (
        "gen_ai.client.token.usage",
        "dub5_tokens_total",
        "a histogram there, a counter here, and no provider; `cached_input` is part of `input`",
    ),
    (
        "gen_ai.server.request.duration",
        "dub5_http_request_duration_seconds",
        '`route="/v1/chat/completions"`; answers from the cache are in it',
    ),
    (
        "gen_ai.server.time_to_first_token",
        "dub5_time_to_first_token_seconds",
        "the first chunk with something of the answer. Answers from the cache are in it",
    ),
    ("http.server.request.duration", "dub5_http_request_duration_seconds", "`http.route` is `route`"),
    ("http.server.active_requests", "dub5_inflight_requests", "only those that hold a provider call"),
    ("process.cpu.time", "process_cpu_seconds_total", ""),
    ("process.memory.usage", "process_resident_memory_bytes", ""),
)
"""Name there, name here, what differs."""

ATTRIBUTES = (
    ("gen_ai.provider.name", "provider", "a name of the configuration, not the vendor's"),
    ("gen_ai.request.model", "model", "the configuration's model, not the one behind the route"),
    ("error.type", "outcome", "absent there where it is `ok` here"),
    ("gen_ai.token.type", "direction", "`input`, `output`"),
    ("http.request.method", "method", "`_OTHER` there is `other` here"),
    ("http.route", "route", ""),
)

_HEAD = """\
# Metrics

<!-- Generated by `make generate` from the registries of the backend and the operator. -->

A replica exposes these at `/metrics` of its operations port (9000), the operator at its port 9001, as Prometheus's
text or, for those who ask, as OpenMetrics. Names and labels change only with a line in the changelog.

Of a counter look at `rate(…[5m])`. Of a histogram there are `_bucket`, `_sum` and `_count`. Units are base units, as
the name says; where it names none, the figure is a plain count, a state or a ratio.

Scraped as OpenMetrics, the buckets of durations and of times to first byte and first token, of requests and of calls to
providers, carry an exemplar: the `trace_id` of the last request in that bucket, which `traceparent` and log line name
too. Traces that a caller marked as not sampled are left out. Prometheus asks for OpenMetrics by itself, and keeps
exemplars with `--enable-feature=exemplar-storage`.
"""

_TABLE = "\n| metric | type | unit | labels | what |\n|---|---|---|---|---|\n"


def document() -> str:
    """The whole page."""
    parts = [_HEAD]
    for title, metrics in (
        ("The backend", backend()),
        ("The operator", operator()),
        ("The process, of both", process()),
    ):
        parts += [f"\n## {title}\n", _TABLE, *(each.row() for each in metrics)]
    parts.append("\n## Labels\n\nAll are bounded: no caller can make a series.\n")
    parts.append("\n| label | values |\n|---|---|\n")
    parts.extend(f"| `{name}` | {values} |\n" for name, values in LABELS.items())
    parts.append(_OPENTELEMETRY + "\n| there | here | differs |\n|---|---|---|\n")
    parts.extend(f"| `{there}` | `{here}` | {differs} |\n" for there, here, differs in OPENTELEMETRY)
    parts.append("\n| attribute there | label here | differs |\n|---|---|---|\n")
    parts.extend(f"| `{there}` | `{here}` | {differs} |\n" for there, here, differs in ATTRIBUTES)
    return "".join(parts)


_OPENTELEMETRY = """
## In OpenTelemetry's words

For dashboards written to the semantic conventions. The names for generative AI are those of [release 1.41.0]\
(https://github.com/open-telemetry/semantic-conventions/tree/v1.41.0/docs/gen-ai), the last with them: they have moved
to [a repository of their own](https://github.com/open-telemetry/semantic-conventions-genai), in which those of tokens
are changing. None is stable. Nothing is exported under these names; a relabelling in your collector can do that.
"""
