"""docs/logs.schema.json and the tables in docs/logs.md: every event that is logged, and every field.

A new event, or a new field of one, is written down here; tests/tools/test_logs.py finds those that are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = "docs/logs.md"
SCHEMA = "docs/logs.schema.json"

_TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_TEXTS: Json = {"type": "array", "items": _TEXT}
_MILLISECONDS: Json = {"type": "object", "additionalProperties": _NUMBER}


def _hex(digits: int) -> Json:
    return {"type": "string", "pattern": f"^[0-9a-f]{{{digits}}}$"}


def _one_of(*values: str) -> Json:
    return {"enum": list(values)}


_OUTCOMES = ("ok", "client_error", "shed", "limited", "provider_error", "server_error", "client_disconnect")

FIELDS: dict[str, tuple[Json, str]] = {
    "timestamp": (
        {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"},
        "When, in UTC, to the microsecond.",
    ),
    "level": (_one_of("debug", "info", "warning", "error", "critical"), "How grave it is."),
    "event": (_TEXT, "What happened: one of the names below, or a library's own sentence."),
    "logger": (_TEXT, "Which library speaks; our own lines have none."),
    "exception": (_TEXT, "The traceback, without values of variables."),
    "request_id": (
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "`X-Request-Id` of the request and of its response.",
    ),
    "trace_id": (_hex(32), "W3C trace of the request: the caller's, or one that began here."),
    "span_id": (_hex(16), "The request's span; of a provider call, the parent that the provider was told."),
    "leader_request_id": (
        {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,128}$"},
        "The request, perhaps on another replica, whose provider call this one waited for.",
    ),
    "leader_trace_id": (_hex(32), "That request's trace."),
    "route": (_TEXT, "The route's template; `other` where there is none."),
    "method": (_TEXT, "HTTP method; `other` where it is no usual one."),
    "status": ({"type": ["integer", "null"]}, "HTTP status; none where no response began."),
    "outcome": (_TEXT, "How it really ended; of a request as in `dub5_http_requests_total`."),
    "model": (_TEXT, "Our name of the model; `other` where it is not known."),
    "stream": ({"type": "boolean"}, "Whether the answer was asked for as a stream."),
    "duration_ms": (_MILLISECONDS, "Milliseconds: `total`, and of its parts those that there were."),
    "error_code": (_TEXT, "`error.code` of the response."),
    "tenant": (_TEXT, "Whose key it was."),
    "personality": (_TEXT, "Which one was asked for."),
    "cache": (_TEXT, "`Cache-Status` of the response."),
    "provider": (_TEXT, "Name of the provider in the configuration."),
    "prompt_tokens": (_COUNT, "As the provider counts them."),
    "completion_tokens": (_COUNT, "As the provider counts them."),
    "upstream_model": (_TEXT, "The provider's name of the model."),
    "attempt": ({"type": "integer", "minimum": 1}, "Number of this call among those for one question."),
    "attempt_reason": (_one_of("fallback", "retry", "hedge"), "Why it was not the only one."),
    "provider_request_id": (
        _TEXT,
        "The provider's own id: its `x-request-id` or `request-id`. Quote it to the provider.",
    ),
    "trouble": (_TEXT, "What went wrong, in our words; never the provider's, which may quote the prompt."),
    "background": ({"type": "boolean"}, "Nobody waited for it: it renews an answer behind a hit."),
    "version": (_TEXT, "Of DUB5."),
    "url": (_TEXT, "Of the public listener."),
    "operations_url": (_TEXT, "Of the operations listener."),
    "connections": (_COUNT, "Client connections that are open."),
    "linger": ({"type": "boolean"}, "Whether it goes on to take requests for a while."),
    "limit": (_COUNT, "File descriptors that the process may have."),
    "max_connections": (_COUNT, "Client connections there is room for."),
    "max_inflight": (_COUNT, "Provider calls at once that there is room for."),
    "provider_connections": (
        {"type": ["integer", "null"]},
        "Connections to all providers together; none where that is no limit.",
    ),
    "wanted": (_COUNT, "What `server.max_connections` asks for."),
    "closed": (_COUNT, "Connections that were turned away since the last such line."),
    "reason": (_TEXT, "Why, in a word or a sentence."),
    "detail": (_TEXT, "The same at length."),
    "server": (_TEXT, "Address of a Redis."),
    "error": (_TEXT, "Kind of the error, or its message."),
    "operation": (_TEXT, "What was asked of Redis."),
    "channel": (_TEXT, "Where in Redis the message came from."),
    "issued": (_NUMBER, "When the operator decided, in seconds since the epoch."),
    "classes": (_TEXTS, "Cache classes that it sets."),
    "keys": (_COUNT, "API keys that are known."),
    "replicas": (_NUMBER, "Among how many the limits are divided."),
    "namespace": (_TEXT, "Whose objects the operator watches."),
    "policy": (_TEXT, "Name of a CachePolicy."),
    "invalidation": (_TEXT, "Name of a CacheInvalidation."),
    "cache_class": (_TEXT, "The class whose TTL it is about."),
    "ttl_seconds": (_NUMBER, "The TTL that is in force now."),
    "bound_by": (_TEXT, "What kept it from being another."),
    "names": (_TEXTS, "What was purged; which tasks did not stop."),
    "part": (_TEXT, "Of the service."),
    "task": (_TEXT, "What runs in the background, as in `dub5_background_failures_total`."),
    "object": (_TEXT, "Kind and name of the object a library's line is about."),
}


class Event(NamedTuple):
    """Fields beside timestamp, level and event are `always` or `perhaps` there; `narrowed` says more of some."""

    name: str
    levels: tuple[str, ...]
    by: str
    meaning: str
    always: tuple[str, ...] = ()
    perhaps: tuple[str, ...] = ()
    narrowed: Mapping[str, Json] = MappingProxyType({})

    @property
    def key(self) -> str:
        return self.name.replace(" ", "_")

    def row(self) -> str:
        fields = ", ".join([*(f"`{name}`" for name in self.always), *(f"`{name}`?" for name in self.perhaps)])
        return f"| `{self.name}` | {', '.join(self.levels)} | {self.by} | {self.meaning} | {fields} |\n"


_IDS = ("request_id", "trace_id")
_BOTH = "both"
_BACKEND = "backend"
_OPERATOR = "operator"

EVENTS = (
    Event(
        "started",
        ("info",),
        _BOTH,
        "It serves, or watches.",
        ("version",),
        ("url", "operations_url", "namespace"),
    ),
    Event("stopped", ("info",), _BOTH, "All is done; the process ends."),
    Event(
        "part did not stop",
        ("error",),
        _BACKEND,
        "It raised something, or took too long; the others were stopped all the same.",
        ("part", "exception"),
    ),
    Event(
        "request",
        ("info",),
        _BACKEND,
        "One HTTP request, once it is over. The only line of a hit.",
        (*_IDS, "span_id", "route", "method", "status", "outcome", "model", "stream", "duration_ms"),
        (
            "error_code",
            "tenant",
            "personality",
            "cache",
            "provider",
            "prompt_tokens",
            "completion_tokens",
            "leader_request_id",
            "leader_trace_id",
        ),
        {"outcome": _one_of(*_OUTCOMES)},
    ),
    Event(
        "provider call",
        ("info", "warning"),
        _BACKEND,
        "One call of a provider, once it is over; a warning where it failed.",
        (*_IDS, "span_id", "provider", "model", "upstream_model", "attempt", "outcome", "duration_ms"),
        ("status", "provider_request_id", "attempt_reason", "trouble", "background"),
        {"outcome": _one_of("ok", "error", "timeout", "limited", "refused", "cancelled", "overloaded")},
    ),
    Event(
        "request failed", ("error",), _BACKEND, "A defect of ours, with its traceback.", (*_IDS, "exception")
    ),
    Event(
        "stream failed", ("error",), _BACKEND, "The same, in the middle of a stream.", (*_IDS, "exception")
    ),
    Event(
        "flight failed", ("error",), _BACKEND, "The same, while a provider was asked.", ("exception",), _IDS
    ),
    Event(
        "connection refused",
        ("info",),
        _BACKEND,
        "What came was no HTTP request that we take; there is no `request` line.",
        ("request_id", "status", "reason"),
    ),
    Event(
        "too many connections",
        ("warning",),
        _BACKEND,
        "Some were turned away.",
        ("closed", "max_connections"),
    ),
    Event(
        "few file descriptors",
        ("warning",),
        _BACKEND,
        "Fewer connections are taken, or fewer calls made at once, than configured.",
        ("limit", "max_connections", "max_inflight", "provider_connections", "wanted"),
    ),
    Event(
        "connection not accepted",
        ("error",),
        _BACKEND,
        "The system had no descriptor or memory for it: it waits. At most once in ten seconds.",
        ("error",),
    ),
    Event(
        "background task failed",
        ("error",),
        _BACKEND,
        "A defect of ours. What goes on for ever is started again. Logged for the first of each kind of error,"
        " until there was none for half a minute.",
        ("task", "exception"),
    ),
    Event(
        "background task recovered",
        ("info",),
        _BACKEND,
        "It has run for half a minute without a failure.",
        ("task",),
    ),
    Event(
        "background tasks did not stop",
        ("error",),
        _BACKEND,
        "They did not end when they were cancelled, and were left behind.",
        ("names",),
    ),
    Event(
        "draining",
        ("info",),
        _BACKEND,
        "It was told to leave, and ends its streams.",
        ("connections", "linger"),
    ),
    Event(
        "redis unavailable",
        ("warning",),
        _BACKEND,
        "It answers without Redis from now on.",
        ("server", "error"),
    ),
    Event("redis available again", ("info",), _BACKEND, "And with it again.", ("server",)),
    Event("redis refused", ("debug",), _BACKEND, "Redis answered with an error.", ("operation", "error")),
    Event(
        "redis value undecodable",
        ("warning",),
        _BOTH,
        "A value or message is not what we write there, and is taken for none; once a minute for each kind.",
        ("kind", "reason"),
    ),
    Event(
        "redis clock differs",
        ("warning",),
        _BACKEND,
        "Our clock and Redis's lie apart by more than 2 s. Ages of answers, samples and registrations go by Redis's.",
        ("seconds",),
    ),
    Event(
        "purges begun anew",
        ("warning",),
        _BACKEND,
        "What Redis had of purges could not be read: it is deleted, and with it every stored answer forgotten.",
        ("reason",),
    ),
    Event(
        "message not understood",
        ("error",),
        _BACKEND,
        "A defect in what takes messages from Redis.",
        ("channel", "exception"),
    ),
    Event(
        "policy in force", ("info",), _BACKEND, "The operator's TTLs are taken over.", ("issued", "classes")
    ),
    Event("keys reloaded", ("info",), _BACKEND, "The file of API keys has changed.", ("keys",)),
    Event(
        "keys not reloaded",
        ("error",),
        _BACKEND,
        "It has changed and is refused, or cannot be read; the old keys stay.",
        ("reason",),
    ),
    Event(
        "limits not shared",
        ("warning",),
        _BACKEND,
        "Without Redis each replica gives out its share of a tenant's limits.",
        ("tenant", "replicas"),
    ),
    Event("limits shared again", ("info",), _BACKEND, "They are exact again.", ("tenant",)),
    Event(
        "policy reconciled",
        ("info",),
        _OPERATOR,
        "What a CachePolicy comes to, each `step.every`.",
        ("policy", "cache_class", "ttl_seconds", "bound_by", "reason"),
    ),
    Event(
        "policy not in force",
        ("warning",),
        _OPERATOR,
        "Why it comes to nothing, when that begins.",
        ("policy", "cache_class", "reason", "detail"),
    ),
    Event(
        "policy gone",
        ("info",),
        _OPERATOR,
        "Deleted; its class has its own TTL again.",
        ("policy", "cache_class"),
    ),
    Event("purged", ("info",), _OPERATOR, "A CacheInvalidation is done.", ("invalidation", "names")),
    Event(
        "purge waits",
        ("warning",),
        _OPERATOR,
        "Redis does not answer; it will be tried again.",
        ("invalidation", "error"),
    ),
)

_FIRST = ("timestamp", "level", "event")
_LIBRARY = Event("", ("warning", "error", "critical"), "", "", ("logger",), ("exception", "object"))


def schema() -> str:
    """One line of a log, as JSON Schema: of the backend or the operator, or of k6."""
    definitions: Json = {event.key: _of_event(event) for event in EVENTS}
    definitions["library"] = _of_event(_LIBRARY) | {
        "description": "What a library says, from warnings upwards."
    }
    definitions |= _k6()
    fields = {f"field.{name}": {**kind, "description": what} for name, (kind, what) in FIELDS.items()}
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A line of DUB5's logs",
        "oneOf": [{"$ref": f"#/$defs/{name}"} for name in definitions],
        "$defs": {**definitions, **fields},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _of_event(event: Event) -> Json:
    properties: Json = {
        name: {"$ref": f"#/$defs/field.{name}"} for name in (*_FIRST, *event.always, *event.perhaps)
    }
    properties["level"] = _one_of(*event.levels)
    if event.name:
        properties["event"] = {"const": event.name}
    properties.update(event.narrowed)
    return {
        "type": "object",
        "description": event.meaning,
        "properties": properties,
        "required": [*_FIRST, *event.always],
        "additionalProperties": False,
    }


def _k6() -> Json:
    """k6 has names of its own, and its lines have whatever fields a thing has: `time` and `msg` are what all have."""
    line = {
        "type": "object",
        "description": "What k6 says with `--log-format json`.",
        "properties": {
            "time": FIELDS["timestamp"][0],
            "level": _one_of("debug", "info", "warning", "error", "fatal", "panic"),
            "msg": _TEXT,
        },
        "required": ["time", "level", "msg"],
        "not": {"required": ["event"]},
    }
    summary: Json = {
        "type": "object",
        "description": "What is left of a load test: its last line, which `dub5 loadtest report` reads.",
        "properties": {
            "dub5_loadtest": {"const": 1, "description": "Version of this shape."},
            "scenario": _TEXT,
            "passed": {"type": "boolean", "description": "Whether every gate was kept."},
            "began": {**_NUMBER, "description": "Seconds since the epoch."},
            "ended": {**_NUMBER, "description": "Seconds since the epoch."},
            "url": _TEXT,
            "thresholds": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {"metric": _TEXT, "gate": _TEXT, "ok": {"type": "boolean"}},
                    "required": ["metric", "gate", "ok"],
                    "additionalProperties": False,
                },
            },
            "settings": {
                "type": "object",
                "description": "What it was told, by the names of docs/load-testing.md.",
                "additionalProperties": _TEXT,
            },
            "findings": {"type": "object", "description": "The scenario's own."},
            "metrics": {
                "type": "object",
                "additionalProperties": {"type": "object", "additionalProperties": _NUMBER},
            },
        },
        "additionalProperties": False,
    }
    summary["required"] = list(summary["properties"])
    return {"k6_line": line, "k6_summary": summary}


def document() -> str:
    """docs/logs.md, with its tables written anew."""
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    events = "".join(event.row() for event in EVENTS)
    text = _between(
        text,
        "events",
        f"| event | level | of | what | fields; `?`: perhaps |\n|---|---|---|---|---|\n{events}",
    )
    fields = "".join(f"| `{name}` | {what} |\n" for name, (_, what) in FIELDS.items())
    return _between(text, "fields", f"| field | what |\n|---|---|\n{fields}")


def _between(text: str, name: str, table: str) -> str:
    """`text` with `table` between the two comments of that name."""
    begin, end = f"<!-- {name}, by `make generate` from tools/logs.py -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"
