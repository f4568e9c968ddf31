"""CachePolicy and CacheInvalidation: what they are as Structs, and the CustomResourceDefinitions made from them.

`tools/generate.py` writes the YAML into the chart. Everything that a webhook would check is in the schema, in patterns
and CEL rules, so that a mistake is refused also while the operator is down. Every text has a greatest length and every
list a greatest number: the API server reckons a rule's cost by them.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from dub5.contract import TAG

GROUP, VERSION = "dub5.io", "v1alpha1"
POLICIES, INVALIDATIONS = "cachepolicies", "cacheinvalidations"

Json = dict[str, Any]
_TIME: Json = {"type": "string", "format": "date-time"}

Duration = Annotated[str, Meta(pattern=r"^([0-9]{1,7}(\.[0-9]{1,3})?(ms|s|m|h))+$", max_length=24)]
Size = Annotated[str, Meta(pattern=r"^[0-9]{1,9}(\.[0-9]{1,3})?(k|M|G|T|Ki|Mi|Gi|Ti)?$", max_length=16)]
Percentage = Annotated[
    str, Meta(pattern=r"^(0\.0{0,3}[1-9][0-9]{0,3}|[1-9][0-9]?(\.[0-9]{1,4})?)%$", max_length=8)
]
Canary = Annotated[str, Meta(pattern=r"^(0|0\.[0-9]{1,4}|1|1\.0{1,4})%$", max_length=8)]
Cron = Annotated[str, Meta(pattern=r"^[^\s]+( [^\s]+){4}$", max_length=100)]
Zone = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}$", max_length=64)]
Word = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[^\s@]+$")]
Tag = Annotated[str, Meta(min_length=1, max_length=64, pattern=f"^{TAG}$")]
Amount = Annotated[float, Meta(ge=0, le=1e6)]


def seconds(written: str) -> float:
    """`1h30m` in seconds. ValueError where it is no duration."""
    if not re.fullmatch(r"([0-9]+(\.[0-9]+)?(ms|s|m|h))+", written):
        raise ValueError(f"{written!r} is not a duration such as 30s, 5m or 1h30m")
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", written))


class _Spec(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A part of an object as people write it."""


class StalenessSpec(_Spec, frozen=True):
    budget: Annotated[
        Percentage,
        Meta(
            description="Greatest share of hits that may be out of date: that a new answer would contradict."
        ),
    ] = "1%"
    confidence: Annotated[
        Literal["95%"],
        Meta(description="Kept for earlier releases: the bound on drift is that of 98 %, one-sided."),
    ] = "95%"
    per_question: Annotated[
        float,
        Meta(ge=1, le=100, description="How many times the budget one question's hits may be out of date."),
    ] = 3.0


class ScheduleSpec(_Spec, frozen=True):
    """Something that is known of when answers change."""

    cron: Annotated[Cron, Meta(description="Minute, hour, day of the month, month, day of the week.")]
    action: Annotated[
        Literal["Purge", "Cut"],
        Meta(description="Purge forgets the class's answers, Cut makes its TTL shorter for a while."),
    ]
    time_zone: Annotated[Zone, Meta(description="Of the cron times, as in Europe/Berlin.")] = "UTC"
    ttl: Annotated[Duration | None, Meta(description="Of Cut: the longest TTL meanwhile.")] = None
    for_: Annotated[Duration | None, Meta(description="Of Cut: for how long.")] = msgspec.field(
        default=None, name="for"
    )


class TtlSpec(_Spec, frozen=True):
    min: Annotated[Duration, Meta(description="Never shorter, whatever is measured; see onInfeasible.")] = (
        "5s"
    )
    max: Annotated[Duration, Meta(description="Never longer; nor than the class's own max_ttl.")] = "24h"
    initial: Annotated[
        Duration, Meta(description="Until enough is known, where none is in force yet; within min and max.")
    ] = "1m"


class MemorySpec(_Spec, frozen=True):
    max: Annotated[
        Size | None, Meta(description="Greatest size of the class's answers in Redis; absent: any.")
    ] = None


class PricesSpec(_Spec, frozen=True):
    memory_gib_hour: Annotated[
        Amount,
        Meta(description="$ per GiB and hour of Redis. What answers cost comes from the models' prices."),
    ] = msgspec.field(default=0.02, name="memoryGiBHour")


class StepSpec(_Spec, frozen=True):
    every: Annotated[Duration, Meta(description="How often the policy is reconciled.")] = "1m"
    max_factor: Annotated[
        float, Meta(ge=1, le=10, description="By how much it may change at once, up or down.")
    ] = 2.0


class CachePolicySpec(_Spec, frozen=True):
    """What is wanted of one cache class."""

    cache_class: Annotated[Word, Meta(description="Name of the class in the service's configuration.")]
    mode: Annotated[
        Literal["Auto", "Observe", "Off"],
        Meta(
            description="Auto sets the TTL, Observe recommends one and leaves it as it is, Off gives the class its own."
        ),
    ] = "Auto"
    staleness: Annotated[StalenessSpec, Meta(description="How much staleness is bearable.")] = StalenessSpec()
    ttl: Annotated[TtlSpec, Meta(description="Bounds of the TTL.")] = TtlSpec()
    on_infeasible: Annotated[
        Literal["Min", "Bypass"],
        Meta(description="Where ttl.min breaks the budget: Min keeps to ttl.min, Bypass does not cache."),
    ] = "Min"
    memory: Annotated[MemorySpec, Meta(description="How much memory is bearable.")] = MemorySpec()
    prices: Annotated[PricesSpec, Meta(description="What things cost.")] = PricesSpec()
    step: Annotated[StepSpec, Meta(description="How fast the TTL may move.")] = StepSpec()
    schedule: Annotated[
        list[ScheduleSpec],
        Meta(max_length=20, description="What is known of when answers change; in mode Auto."),
    ] = []
    canary: Annotated[
        Canary,
        Meta(
            description="Share of the class's calls spent on measuring how many hits are out of date; at most 1%."
        ),
    ] = "0%"


class CacheInvalidationSpec(_Spec, frozen=True):
    """What to forget, once: exactly one of the fields, of which `tenant` may also narrow another one."""

    tags: Annotated[
        Annotated[list[Tag], Meta(min_length=1, max_length=100)] | None,
        Meta(description="Answers with any of these tags."),
    ] = None
    personality: Annotated[Word | None, Meta(description="Answers of this personality.")] = None
    model: Annotated[Word | None, Meta(description="Answers of this model.")] = None
    class_: Annotated[Word | None, Meta(description="Answers of this cache class.")] = msgspec.field(
        default=None, name="class"
    )
    tenant: Annotated[
        Word | None,
        Meta(description="Answers of this tenant; with another field: those of its that it names."),
    ] = None
    all: Annotated[bool, Meta(description="Everything.")] = False
    ttl_seconds_after_finished: Annotated[
        int,
        Meta(
            ge=0,
            le=2**31 - 1,
            description="After so many seconds the object of what is done is deleted; a week.",
        ),
    ] = 604_800


def policies_definition() -> str:
    """The CustomResourceDefinition of CachePolicy, as YAML."""
    return _dumped(_policy())


def invalidations_definition() -> str:
    """The CustomResourceDefinition of CacheInvalidation, as YAML."""
    return _dumped(_invalidation())


def _dumped(definition: Json) -> str:
    text: str = yaml.dump(definition, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text


class _Dumper(yaml.SafeDumper):
    """Writes out what is there twice: an anchor would be one more thing to read."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _policy() -> Json:
    spec = _schema(CachePolicySpec)
    _rule(
        spec["properties"]["cacheClass"],
        "self == oldSelf",
        "cacheClass cannot be changed: make another policy",
    )
    ttl = spec["properties"]["ttl"]
    _rule(ttl, "duration(self.min) <= duration(self.max)", "ttl.min must not be above ttl.max")
    _rule(ttl, "duration(self.min) >= duration('1s')", "ttl.min must be at least 1s")
    _rule(ttl, "duration(self.max) <= duration('9600h')", "ttl.max must be at most 9600h")
    _rule(
        spec["properties"]["step"],
        "duration(self.every) >= duration('10s') && duration(self.every) <= duration('1h')",
        "step.every must be between 10s and 1h",
    )
    _rule(spec["properties"]["step"], "self.maxFactor > 1.0", "step.maxFactor must be above 1")
    entry = spec["properties"]["schedule"]["items"]
    _rule(
        entry,
        "self.action == 'Cut' ? has(self.ttl) && has(self.__for__) : !has(self.ttl) && !has(self.__for__)",
        "action Cut needs ttl and for, Purge has neither",
    )
    _rule(
        entry,
        "!has(self.__for__) || duration(self.__for__) >= duration('1m') && duration(self.__for__) <= duration('168h')",
        "for must be between 1m and 168h",
    )
    _rule(entry, "!has(self.ttl) || duration(self.ttl) >= duration('1s')", "ttl must be at least 1s")
    text, number = {"type": "string"}, {"type": "number"}
    status = {
        "ttl": text
        | {"description": "In force; where each question has one of its own, for what is no question."},
        "ttlSeconds": number | {"description": "The same in seconds, to begin with after a restart."},
        "recommended": text | {"description": "Where it is going, or would in mode Auto."},
        "boundBy": text
        | {"description": "What keeps it from being longer: Staleness, Memory, Cost, Bounds or Data."},
        "reason": text | {"description": "Why this TTL, in words."},
        "hitRatio": text
        | {"description": "Predicted for the TTL in force; where each question has its own, as measured."},
        "measuredHitRatio": text
        | {"description": "Of all look-ups so far; what is half an hour or four TTLs old counts half."},
        "stale": text | {"description": "Best estimate of the share of hits that are out of date."},
        "staleBound": text | {"description": "Its upper bound, which is held under the budget."},
        "staleMeasured": text | {"description": "As canaries found it, with an interval of 95 %."},
        "driftPerHour": text | {"description": "Changes per hour of the answer to a hit, with its interval."},
        "noise": text | {"description": "How often two new answers differ although nothing changed."},
        "saving": text | {"description": "$ per hour."},
        "memory": text | {"description": "Predicted size of the class's answers in Redis."},
        "lookUps": {"type": "integer", "format": "int64"},
        "comparisons": {"type": "integer", "format": "int64"},
        "lastReconcileTime": _TIME | {"description": "When it was last reconciled without an error."},
        "nextReconcileTime": _TIME | {"description": "When it will be reconciled next, if nothing changes."},
    }
    return _definition(
        "CachePolicy",
        POLICIES,
        spec,
        status,
        short="cpol",
        columns=[
            ("Class", "string", ".spec.cacheClass"),
            ("Mode", "string", ".spec.mode"),
            ("TTL", "string", ".status.ttl"),
            ("Hit", "string", ".status.hitRatio"),
            ("Stale", "string", ".status.stale"),
            ("Bound by", "string", ".status.boundBy"),
            ("Ready", "string", ".status.conditions[?(@.type=='Ready')].status"),
            ("Age", "date", ".metadata.creationTimestamp"),
        ],
        wide=[
            ("Recommended", "string", ".status.recommended"),
            ("Budget", "string", ".spec.staleness.budget"),
            ("At most", "string", ".status.staleBound"),
            ("Drift/h", "string", ".status.driftPerHour"),
            ("Saving", "string", ".status.saving"),
            ("Reconciled", "date", ".status.lastReconcileTime"),
            ("Reason", "string", ".status.conditions[?(@.type=='Ready')].reason"),
        ],
    )


def _invalidation() -> Json:
    spec = _schema(CacheInvalidationSpec)
    named = "has(self.tags), has(self.personality), has(self.model), has(self.class), self.all"
    others = "has(self.tags) || has(self.personality) || has(self.model) || has(self.class)"
    _rule(
        spec,
        f"[{named}, has(self.tenant) && !({others})].filter(said, said).size() == 1",
        "say exactly one of tags, personality, model, class, tenant, all; tenant may narrow another one, but not all",
    )
    _rule(spec, "self == oldSelf", "an invalidation is done once: make another one")
    status = {
        "purged": {"type": "array", "items": {"type": "string"}, "description": "What was forgotten."},
        "done": _TIME,
    }
    return _definition(
        "CacheInvalidation",
        INVALIDATIONS,
        spec,
        status,
        short="cinv",
        columns=[
            ("Purged", "string", ".status.purged"),
            ("Done", "string", ".status.conditions[?(@.type=='Done')].status"),
            ("Age", "date", ".metadata.creationTimestamp"),
        ],
        wide=[("Reason", "string", ".status.conditions[?(@.type=='Done')].reason")],
    )


_CONDITION: Json = {
    "type": "object",
    "required": ["type", "status", "reason", "message", "lastTransitionTime"],
    "properties": {
        "type": {"type": "string"},
        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "reason": {"type": "string"},
        "message": {"type": "string"},
        "lastTransitionTime": _TIME,
        "observedGeneration": {"type": "integer", "format": "int64"},
    },
}


_Columns = list[tuple[str, str, str]]
"""Of `kubectl get`: heads, types, and where they are found."""


def _definition(
    kind: str, plural: str, spec: Json, status: Json, *, short: str, columns: _Columns, wide: _Columns
) -> Json:
    """`wide` columns are printed with `--output=wide`."""
    status_schema = {
        "type": "object",
        "properties": {
            **status,
            "conditions": {
                "type": "array",
                "items": _CONDITION,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
            },
            # Where kopf keeps how far a handler has come.
            "kopf": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    schema = {
        "type": "object",
        "description": spec.pop("description"),
        "required": ["spec"],
        "properties": {"spec": spec, "status": status_schema},
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "type": kind_of, "jsonPath": path, **further}
            for some, further in ((columns, {}), (wide, {"priority": 1}))
            for name, kind_of, path in some
        ],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": [short],
                "categories": ["dub5"],
            },
            "versions": [version],
        },
    }


def _schema(of: type) -> Json:
    (schema,), parts = msgspec.json.schema_components([of], ref_template="{name}")
    found: Json = _structural(parts[schema["$ref"]], parts)
    return found


def _structural(schema: Json, parts: Json) -> Json:
    """As Kubernetes wants it: no references, no titles, no `or null`."""
    described = {"description": schema["description"]} if "description" in schema else {}
    if "$ref" in schema:
        inner = _structural(parts[schema["$ref"]], parts)
        # Whole, since rules are tried on it before the defaults inside are filled in.
        default = {name: each["default"] for name, each in inner["properties"].items() if "default" in each}
        return {**inner, **described, "default": default}
    if "anyOf" in schema:
        [one] = [each for each in schema["anyOf"] if each.get("type") != "null"]
        return {**_structural(one, parts), **described}
    if schema.get("type") == "object":
        properties = {name: _structural(each, parts) for name, each in schema["properties"].items()}
        required = {"required": schema["required"]} if schema.get("required") else {}
        return {"type": "object", **described, **required, "properties": properties}
    plain = {name: value for name, value in schema.items() if name not in {"title", "description"}}
    if plain.get("default", 0) is None:
        del plain["default"]
    if "enum" in plain:
        plain = {"type": "string", **plain}
        plain["enum"] = list(plain["enum"])
    if plain.get("type") == "array":
        plain["items"] = _structural(plain["items"], parts)
        plain["items"].pop("default", None)  # an element is written whole
    return {**plain, **described}


def _rule(schema: Json, rule: str, message: str) -> None:
    schema.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": message})
