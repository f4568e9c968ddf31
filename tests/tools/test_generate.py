"""What is generated is known to be."""

from __future__ import annotations

import re

from testkit.places import ROOT
from tools.generate import GENERATED


def test_contributors_know_what_is_generated() -> None:
    """Each file by its path, or a folder that it is in; those of the chart from there on."""
    document = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.*`.*) \| ", document, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    paths = [path.removeprefix("deploy/helm/dub5/") for path in GENERATED]
    assert [path for path in paths if not any(f"{path}/".startswith(f"{name}/") for name in named)] == []
