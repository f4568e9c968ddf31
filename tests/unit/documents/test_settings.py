"""The settings that the runbooks name are there: values of the chart, or fields of the custom resources.

In the text they are whole, from the top, as `config.models.MODEL.routes`; a name that is free is `*` or in capitals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.documents.reading import ROOT, documents, read
from tests.documents.reference import labels, log_fields

Json = dict[str, Any]

CHART = ROOT / "deploy/helm/dub5"
VALUES: Json = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
RESOURCES: list[Json] = [
    yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path in sorted((CHART / "files/crds").glob("*.yaml"))
]

_INLINE = re.compile(r"`([^`]+)`")
_PATH = re.compile(r"(?!.*\.(?:yaml|md)$)[A-Za-z]\w*(?:\.(?:\w+|\*))+")
_WORD = re.compile(r"[a-z][a-z_]*")
LABELS = labels()
WORDS = {
    "up",
    *log_fields(),
    *LABELS,
    *(word for meaning in LABELS.values() for word in _INLINE.findall(meaning)),
}
"""What a word without dots may be: a series of Prometheus, a field of a log line, a label or its value. No setting."""

RUNBOOKS = [each for each in documents() if each.startswith("docs/runbooks/")]


def alternatives(schema: Json, root: Json) -> Iterator[Json]:
    """`schema` and all that it refers to."""
    yield schema
    if "$ref" in schema:
        yield from alternatives(root["definitions"][schema["$ref"].rpartition("/")[2]], root)
    parts = [part for kind in ("allOf", "anyOf", "oneOf") for part in schema.get(kind, [])]
    for each in [*parts, *([schema["then"]] if "then" in schema else [])]:
        yield from alternatives(each, root)


def below(schema: Json, name: str, root: Json) -> Iterator[Json]:
    """What `name` may be there. Names that are free are `*` or in capitals, unless what they name has nothing below."""
    for each in alternatives(schema, root):
        further = each.get("additionalProperties")
        if name in each.get("properties", {}):
            yield each["properties"][name]
        elif isinstance(further, dict):
            whole = any(
                {"properties", "additionalProperties"} & of.keys() for of in alternatives(further, root)
            )
            if name == "*" or name.isupper() or not whole:
                yield further


def is_there(path: str, root: Json) -> bool:
    found = [root]
    for name in path.split("."):
        found = [each for schema in found for each in below(schema, name, root)]
    return bool(found)


def unknown(text: str) -> list[str]:
    """Settings in backticks that there are not, and words that are nothing we know."""
    named = [each.partition(": ")[0] for each in _INLINE.findall(text)]
    paths = [each for each in named if _PATH.fullmatch(each)]
    words = [each for each in named if _WORD.fullmatch(each) and not each.startswith("dub5_")]
    wrong = [each for each in paths if not any(is_there(each, root) for root in (VALUES, *RESOURCES))]
    return wrong + [each for each in words if each not in WORDS]


@pytest.mark.parametrize("document", RUNBOOKS)
def test_the_settings_that_a_runbook_names_are_there(document: str) -> None:
    assert unknown("\n".join(read(document))) == []


@pytest.mark.parametrize(
    "path",
    [
        "autoscaling.maxReplicas",
        "resources.limits.memory",
        "config.models.*.routes",
        "config.providers.NAME.max_connections",
        "config.cache.classes.CLASS.ttl",
        "spec.ttl.min",
    ],
)
def test_one_that_is_there_is_found(path: str) -> None:
    assert unknown(f"Lower `{path}`, or write `{path}: 1`, by `mine.yaml`.") == []


@pytest.mark.parametrize(
    "path",
    [
        "models.*.routes",
        "config.models.routes",
        "config.models.*.root",
        "config.providers.NAME.concurrency",
        "server.max_body",
        "autoscaling.maxReplica",
        "autoscaling.*",
        "autoscaling.maxReplicas.more",
        "spec.ttl.least",
        "concurrency",
        "stale_if_error",
    ],
)
def test_one_that_is_not_is_told(path: str) -> None:
    assert unknown(f"The runbook says: lower `{path}`.") == [path]
