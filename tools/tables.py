"""Tables within documents that are made from data: between `<!-- NAME: … -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def readme() -> str:
    """README.md, with the table beside other gateways: each cell names its source, and when it was read."""
    data = _yaml("docs/peers.yaml")
    lines = [_row("", "DUB5", *data["peers"]), "|---" * (len(data["peers"]) + 2) + "|"]
    references = {}
    for row in data["rows"]:
        words, page = row["dub5"]
        cells = [f"[{said}][{source}, {date}]" for said, source, date in row["cells"]]
        lines.append(_row(row["feature"], f"[{words}]({page})", *cells))
        for _, source, date in row["cells"]:
            references[f"{source}, {date}"] = f'[{source}, {date}]: {data["sources"][source]} "read {date}"'
    return _with_table("README.md", "peers", [*lines, "", *(references[name] for name in sorted(references))])


def incidents() -> str:
    """docs/incidents.md, with each alert, what it says and where its runbook is."""
    groups = _yaml("deploy/helm/dub5/alerts/dub5.yaml")["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    lines = [_row("alert", "severity", "what it says"), "|---|---|---|"]
    for rule in sorted(alerts, key=lambda rule: str(rule["labels"]["severity"])):
        name = rule["alert"]
        lines.append(
            _row(f"[{name}](runbooks/{name}.md)", rule["labels"]["severity"], rule["annotations"]["summary"])
        )
    return _with_table("docs/incidents.md", "alerts", lines)


def _yaml(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _with_table(file: str, name: str, lines: list[str]) -> str:
    text = (ROOT / file).read_text(encoding="utf-8")
    begin, end = re.escape(f"<!-- {name}: "), re.escape(f"<!-- /{name} -->")
    table = "\n".join(lines)
    return re.sub(rf"(?s)({begin}[^\n]*\n).*?({end})", lambda found: f"{found[1]}{table}\n{found[2]}", text)
