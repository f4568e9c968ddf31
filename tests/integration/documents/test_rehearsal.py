"""The outage that docs/rehearsal.md rehearses: what its release runs, asked by its callers, until it is mended."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.documents.reading import all_commands, read
from tests.integration.documents.test_commands import BIN, Session

pytest.importorskip("helm_python", reason="`make test` installs Helm")

from testkit.chart import CHART
from tests.unit.chart.support import parsed, render

VALUES = (CHART / "examples/rehearsal.yaml").read_text(encoding="utf-8")
ASKED = 3


def callers() -> str:
    """As documented, but so many."""
    [command] = [each.text for each in all_commands() if each.text.startswith("while sleep 0.3; do curl")]
    few = command.replace("while sleep 0.3", f"for one in $(seq {ASKED})")
    return few.replace("http://127.0.0.1:8000", "$URL")


def one_request() -> str:
    [command] = [each.text for each in all_commands() if "X-Request-Id: rehearsal-1" in each.text]
    return command.replace("http://127.0.0.1:8000", "$URL")


def rehearsed(values: str, folder: Path) -> tuple[list[str], list[dict[str, Any]]]:
    """The callers' statuses, and the log."""
    config = render(parsed(values)).one("ConfigMap")["data"]["dub5.yaml"]
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    with contextlib.ExitStack() as stack:
        session = Session(folder, stack)
        session.serve(".venv/bin/dub5 serve --config config.yaml > log.jsonl", DUB5_SERVER__HOST="127.0.0.1")
        statuses = session.run(callers(), "docs/rehearsal.md").split()
        session.run(f"{one_request()} || true", "docs/rehearsal.md")  # sessions take 502 for a failure
    return statuses, [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_an_outage_is_rehearsed(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(BIN.parent)
    [remedy] = re.findall(r"make the routes `(.*?)`", "\n".join(read("docs/rehearsal.md")))

    statuses, log = rehearsed(VALUES, tmp_path)
    assert statuses == ["502"] * ASKED
    requests = [each for each in log if each["event"] == "request"]
    assert [each["outcome"] for each in requests] == ["provider_error"] * (ASKED + 1)
    assert requests[-1]["request_id"] == "rehearsal-1"
    assert any(each["event"] == "provider call" and each["trouble"] for each in log)

    statuses, log = rehearsed(VALUES.replace("[first/any]", remedy), tmp_path)
    assert statuses == ["200"] * ASKED
    assert {each["provider"] for each in log if each["event"] == "provider call"} == {"second"}
