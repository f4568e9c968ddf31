"""examples/logs: what no test can run is at least well formed, reads fields that there are, and keeps labels few."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents.reference import log_fields

FIELDS = log_fields()
EXAMPLES = Path(__file__).parents[2] / "examples/logs"
LABELS = {"namespace", "component", "level"}
METADATA = {"pod", "event", "request_id", "trace_id", "leader_request_id", "provider_request_id"}


def text(name: str) -> str:
    return (EXAMPLES / name).read_text(encoding="utf-8")


def read(name: str) -> Any:
    return yaml.safe_load(text(name))


def block(name: str) -> set[str]:
    """The names inside `stage.NAME { values = { … } }` of Alloy's configuration, or `expressions`."""
    found = re.search(rf"stage\.{name} {{\s+\w+ = {{(.*?)}}", text("alloy/config.alloy"), re.DOTALL)
    assert found
    return set(re.findall(r"(\w+)\s+=", found[1]))


def pairs(written: str) -> set[str]:
    return {pair.partition("=")[0].strip() for pair in written.split(",")}


def test_alloy_keeps_labels_few() -> None:
    targets = set(re.findall(r'target_label\s+= "([a-z]+)"', text("alloy/config.alloy")))
    assert targets | block("labels") == LABELS | {"pod"}
    assert block("structured_metadata") == METADATA
    assert 'values = ["pod", "filename"]' in text("alloy/config.alloy")
    assert block("json") - FIELDS == set()


def test_vector_keeps_labels_few() -> None:
    written = read("vector/vector.yaml")
    assert written["sinks"]["loki"]["labels"].keys() == LABELS
    source = written["transforms"]["lines"]["source"]
    assert set(re.findall(r'^\s+"(\w+)":', source, re.MULTILINE)) == METADATA
    assert set(re.findall(r"\bline\.(\w+)", source)) - FIELDS == set()


def test_fluent_bit_keeps_labels_few() -> None:
    [loki] = read("fluent-bit/fluent-bit.yaml")["pipeline"]["outputs"]
    assert pairs(loki["labels"]) == LABELS
    assert pairs(loki["structured_metadata"]) == METADATA
    read_fields = set(re.findall(r"\$line\['(\w+)'\]", loki["labels"] + loki["structured_metadata"]))
    assert read_fields - FIELDS == set()


@pytest.mark.parametrize("name", ["alloy/config.alloy", "vector/vector.yaml", "fluent-bit/fluent-bit.yaml"])
def test_what_was_not_run_says_so(name: str) -> None:
    assert "NOT RUN by us" in text(name).splitlines()[0]


def test_rsyslogs_pods_have_no_more_rights_than_they_need() -> None:
    for name in ("agent.yaml", "store.yaml"):
        pod = next(iter(yaml.safe_load_all(text(f"rsyslog/{name}"))))["spec"]["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            of_node = {volume["name"] for volume in pod["volumes"] if "hostPath" in volume}
            mounts = [mount for mount in container["volumeMounts"] if mount["name"] in of_node]
            assert all(mount["readOnly"] for mount in mounts)
