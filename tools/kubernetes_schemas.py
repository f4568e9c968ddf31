"""What the Kubernetes API accepts, as JSON Schema, for the tests of the chart: `python -m tools.kubernetes_schemas`.

Taken from the Go module proxy, so this needs Go, but only whoever moves to newer versions: the result is kept in
tests/unit/chart/schemas, without descriptions and without what the chart never makes. Built-in kinds come from the
OpenAPI document of k8s.io/kubernetes, the others from the CustomResourceDefinitions of their own modules; all of them
are under the Apache License 2.0. The API server prunes unknown fields in silence; here every object is closed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

OUT = Path(__file__).resolve().parent.parent / "tests/unit/chart/schemas"

Json = dict[str, Any]

KUBERNETES = {"oldest": "v1.29.15", "newest": "v1.36.3"}
"""The oldest that Chart.yaml admits, and the newest that we test on."""

KINDS = {
    "api__v1": ("ConfigMap", "Pod", "Secret", "Service", "ServiceAccount"),
    "apis__apps__v1": ("Deployment", "StatefulSet"),
    "apis__batch__v1": ("CronJob", "Job"),
    "apis__autoscaling__v2": ("HorizontalPodAutoscaler",),
    "apis__networking.k8s.io__v1": ("Ingress", "NetworkPolicy"),
    "apis__policy__v1": ("PodDisruptionBudget",),
    "apis__rbac.authorization.k8s.io__v1": ("Role", "RoleBinding"),
}

CUSTOM = {
    "github.com/kedacore/keda/v2@v2.21.0": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
    ),
    "sigs.k8s.io/gateway-api@v1.4.0": ("config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",),
}


def main() -> None:
    for name, version in KUBERNETES.items():
        documents = module(f"k8s.io/kubernetes@{version}") / "api/openapi-spec/v3"
        _write(f"kubernetes-{name}", version, _built_in(documents))
    for source, paths in CUSTOM.items():
        directory = module(source)
        for path in paths:
            _write(Path(path).stem.partition("_")[2], source, _custom(directory / path))


def module(name: str) -> Path:
    """Where `go mod download` has put a module."""
    command = ["go", "mod", "download", "-json", name]
    answer = subprocess.run(command, capture_output=True, check=False, text=True, cwd="/").stdout
    found: Json = json.loads(answer)
    if "Error" in found:
        sys.exit(found["Error"])
    return Path(found["Dir"])


def _built_in(documents: Path) -> Json:
    schemas: Json = {}
    kinds: Json = {}
    for document, wanted in KINDS.items():
        components = json.loads((documents / f"{document}_openapi.json").read_text(encoding="utf-8"))
        components = components["components"]["schemas"]
        schemas |= components
        for name, schema in components.items():
            for known in schema.get("x-kubernetes-group-version-kind", []):
                if known["kind"] in wanted and name.endswith(f".{known['kind']}"):
                    version = "/".join(part for part in (known["group"], known["version"]) if part)
                    kinds[f"{version} {known['kind']}"] = {"$ref": f"#/definitions/{name}"}
    needed = dict(_needed(list(kinds.values()), schemas))
    return {"kinds": kinds, "definitions": {name: _closed(schema) for name, schema in needed.items()}}


def _needed(nodes: list[Any], schemas: Json) -> Iterator[tuple[str, Json]]:
    """Every schema that is referred to, directly or not."""
    seen: set[str] = set()
    queue = _references(nodes)
    while queue:
        name = queue.pop()
        if name not in seen:
            seen.add(name)
            queue += _references(schemas[name])
            yield name, schemas[name]


def _references(node: Any) -> list[str]:
    return re.findall(r'"\$ref": "[^"]*/([^"/]+)"', json.dumps(node))


def _custom(path: Path) -> Json:
    crd = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    kinds: Json = {}
    for version in crd["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        schema["properties"].pop("status", None)
        kinds[f"{crd['group']}/{version['name']} {crd['names']['kind']}"] = _closed(schema)
    return {"kinds": kinds}


def _closed(node: Any) -> Any:
    """Without prose, and with no room for unknown keys where the keys are known."""
    if isinstance(node, list):
        return [_closed(each) for each in node]
    if not isinstance(node, dict):
        return node
    made = {
        name: _closed(value)
        for name, value in node.items()
        if name == "properties" or not _prose(name, value)
    }
    if "properties" in node:
        made["properties"] = {name: _closed(value) for name, value in node["properties"].items()}
    open_ended = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and node.get("type") == "object" and not open_ended:
        made["additionalProperties"] = False
    if "$ref" in made:
        made["$ref"] = f"#/definitions/{made['$ref'].rpartition('/')[2]}"
    if node.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def _prose(name: str, value: Any) -> bool:
    if name in {"description", "title", "example"}:
        return isinstance(value, str)
    # Formats are Go's own, and rules in CEL are for the API server.
    return name.startswith("x-kubernetes-") or name in {"format", "default"}


def _write(name: str, source: str, schema: Json) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"source": source, **schema}, separators=(",", ":"), sort_keys=True)
    (OUT / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    print(f"{name}: {len(text) // 1024} KiB")


if __name__ == "__main__":
    main()
