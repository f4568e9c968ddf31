"""`dub5 config check | schema`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from dub5.cli import command
from dub5.cli.standard_streams import complain, write
from dub5.settings.loader import load, schema


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = command.add(
        commands, "check", "Say whether a file is valid, and if not, why.", "dub5 config check dub5.yaml"
    )
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run=_check)
    described = command.add(
        commands, "schema", "Print the JSON Schema.", "dub5 config schema > dub5.schema.json"
    )
    described.set_defaults(run=_schema)


def _check(args: argparse.Namespace) -> int:
    # It knows all that `serve` is made of; `schema` has no use for that.
    from dub5.cli import preflight  # noqa: PLC0415

    settings = load(args.file, os.environ)
    for warning in preflight.check(settings, os.environ):
        complain(f"dub5: warning: {warning}")
    counted = ", ".join(
        (
            _count(len(settings.providers), "provider", "providers"),
            _count(len(settings.models), "model", "models"),
            _count(len(settings.personalities), "personality", "personalities"),
        )
    )
    write(f"{args.file}: good. {counted}.")
    return 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _schema(_: argparse.Namespace) -> int:
    write(json.dumps(schema(), indent=2))
    return 0
