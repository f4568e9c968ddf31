"""Every command of the documents is run somewhere, and every query of the runbooks is one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.documents import table
from tests.documents.reading import ROOT, Command, all_commands, commands, documents, promql, read
from tests.unit.alerts.test_alerts import PROMTOOL

KNOWN = [
    table.HERE,
    table.SERVES,
    table.HELD.keys(),
    table.NAMED,
    table.NOT_RUN.keys(),
    {each for stage in table.CLUSTER.values() for each in stage if not each.startswith(":")},
]


def test_every_command_is_run_somewhere() -> None:
    missing = [
        f"{each.place}: {each.text}" for each in all_commands() if not any(each.text in of for of in KNOWN)
    ]
    assert missing == [], "put it into tests/documents/table.py"


def test_nothing_is_in_the_table_that_is_in_no_document() -> None:
    written = {each.text for each in all_commands()}
    assert [each for of in KNOWN for each in of if each not in written] == []
    everything = "\n".join((ROOT / document).read_text(encoding="utf-8") for document in documents())
    assert [each for each in (*table.INSTEAD, *table.INSTEAD_THERE) if each not in everything] == []


@pytest.mark.parametrize("holder", sorted(set(table.HELD.values())))
def test_what_holds_a_command_is_there(holder: str) -> None:
    place, _, name = holder.partition("::")
    if place.startswith("ci:"):
        targets = re.search(r"^targets=\((.*)\)$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
        assert targets
        assert place.removeprefix("ci:") in targets[1].split()
    else:
        assert name
        assert f"def {name}" in (ROOT / place).read_text(encoding="utf-8")


TEXT = """\
Say `make check` or `dub5; hit`, not `make`.

```sh
make run     # serves
curl http://x \\
  --data 'a # b' --include
# nothing

  k6 run a.js &
```
```
$ kubectl get pods
NAME  READY
```
```
kubectl = not a shell
```
"""


def test_commands_are_found() -> None:
    assert commands("x.md", TEXT.splitlines()) == [
        Command("x.md", 1, 1, "make check"),
        Command("x.md", 4, 4, "make run"),
        Command("x.md", 5, 4, "curl http://x --data 'a # b' --include"),
        Command("x.md", 9, 4, "k6 run a.js &"),
        Command("x.md", 12, 12, "kubectl get pods"),
    ]


def elsewhere(found: list[Command]) -> list[str]:
    """Commands for a cluster that depend on the namespace that happens to be the current one."""
    of_clusters = [each for each in found if each.text.startswith(("kubectl ", "helm "))]
    return [f"{each.place}: {each.text}" for each in of_clusters if "--namespace chat" not in each.text]


def test_commands_of_the_runbooks_name_the_namespace() -> None:
    found = [each for each in all_commands() if each.document in RUNBOOKS]
    assert len(found) > 20
    assert elsewhere(found) == []
    wrong = commands("x.md", ["`kubectl get pods`, `helm test dub5 --namespace chat`, `dub5 config schema`"])
    assert elsewhere(wrong) == ["x.md:1: kubectl get pods"]


RUNBOOKS = [each for each in documents() if each.startswith("docs/runbooks/")]
QUERIES = [(f"{each}:{line}", text) for each in RUNBOOKS for line, text in promql(read(each))]


def faults(tmp_path: Path, queries: list[tuple[str, str]]) -> str:
    """What promtool says against them; each is a rule, named for its place."""
    rules = [
        {"record": f"query:{number}", "expr": text, "labels": {"place": re.sub(r"\W", "_", place)}}
        for number, (place, text) in enumerate(queries)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}))
    run = subprocess.run([str(PROMTOOL), "check", "rules", path], capture_output=True, text=True, check=False)
    return "" if run.returncode == 0 else run.stdout + run.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool")
def test_queries_of_the_runbooks_are_promql(tmp_path: Path) -> None:
    assert len(QUERIES) > 30
    assert faults(tmp_path, QUERIES) == ""
    assert "parse" in faults(tmp_path, [("x", "rate(dub5_shed_total[5m)")])


def leaning(found: list[Command]) -> list[str]:
    """Commands that work only where a namespace was chosen before, or where .venv is activated."""
    whole = [each for each in found if each.text not in table.NAMED]
    return [
        f"{each.place}: {each.text}"
        for each in whole
        if (
            re.match(r"(kubectl|helm) (?!apply -k|delete namespace)", each.text)
            and not re.search(r"( --namespace | -n |…)", each.text)
        )
        or re.match(r"(dub5|k6|python) ", each.text)
    ]


def test_commands_are_written_out_in_full() -> None:
    assert leaning(all_commands()) == []
    bad = ["`kubectl get pods`", "`dub5 config schema`", "`helm test dub5 --namespace chat`", "`helm test`"]
    assert leaning(commands("x.md", bad)) == ["x.md:1: kubectl get pods", "x.md:2: dub5 config schema"]
