"""Tables within documents that are made from data: between `<!-- NAME: … -->` and `<!-- /NAME -->`."""

from __future__ import annotations

import re
from typing import Any

import yaml

from testkit.places import ROOT
from testkit.tables import table


def within(file: str, **made: str) -> str:
    """The text of a document with these in their places, by name."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, part in made.items():
        place = rf"(?s)(<!-- {name}: [^\n]*\n).*?(<!-- /{name} -->)"
        text = re.sub(place, lambda found, part=part: f"{found[1]}\n{part}\n{found[2]}", text)  # type: ignore[misc]
    return text


def readme() -> str:
    """README.md, with the table beside other gateways: each cell names its source, and when it was read."""
    data = _yaml("docs/peers.yaml")
    rows, references = [], {}
    for row in data["rows"]:
        words, page = row["dub5"]
        cells = [f"[{said}][{source}, {date}]" for said, source, date in row["cells"]]
        rows.append((row["feature"], f"[{words}]({page})", *cells))
        for _, source, date in row["cells"]:
            references[f"{source}, {date}"] = f'[{source}, {date}]: {data["sources"][source]} "read {date}"\n'
    made = table(" | ".join(["", "DUB5", *data["peers"]]), rows)
    return within(
        "README.md", peers="\n".join([made, "".join(references[name] for name in sorted(references))])
    )


def incidents() -> str:
    """docs/incidents.md, with each alert, what it says and where its runbook is."""
    groups = _yaml("deploy/helm/dub5/alerts/dub5.yaml")["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    rows = [
        (
            f"[{rule['alert']}](runbooks/{rule['alert']}.md)",
            rule["labels"]["severity"],
            rule["annotations"]["summary"],
        )
        for rule in sorted(alerts, key=lambda rule: str(rule["labels"]["severity"]))
    ]
    return within("docs/incidents.md", alerts=table("alert | severity | what it says", rows))


def _yaml(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
