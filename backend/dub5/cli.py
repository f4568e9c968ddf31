"""The command line: parses, calls, prints; no logic.

Exit codes: 0 done, 1 refused (a configuration in error), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import uvloop

from dub5 import __version__, server
from dub5.errors import ConfigError
from dub5.settings_loader import load, schema
from dub5.telemetry.logging import configure


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    chosen = _parser().parse_args(arguments)
    try:
        result: int = chosen.run(chosen)
    except ConfigError as error:
        print(f"dub5: {error.message}", file=sys.stderr)
        return 1
    return result


def _serve(chosen: argparse.Namespace) -> int:
    settings = load(chosen.config, os.environ)
    terminal = sys.stdout.isatty()
    writer = configure(settings.telemetry, stream=sys.stdout, terminal=terminal)
    try:
        replica = server.Replica(settings, os.environ)
        uvloop.run(server.serve(replica, announce=_announce))
    finally:
        writer.stop()
    return 0


def _announce(text: str) -> None:
    print(f"DUB5 {__version__}. {text}", file=sys.stderr, flush=True)


def _config_check(chosen: argparse.Namespace) -> int:
    settings = load(chosen.file, os.environ)
    print(
        f"{chosen.file}: good. {len(settings.providers)} providers, {len(settings.models)} models, "
        f"{len(settings.personalities)} personalities."
    )
    return 0


def _config_schema(_: argparse.Namespace) -> int:
    print(json.dumps(schema(), indent=2))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dub5", description="LLM chat backend: OpenAI-compatible, cached, measured."
    )
    parser.add_argument("--version", action="version", version=f"dub5 {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    serve = _command(
        commands, "serve", "Answer chat requests until told to stop.", "dub5 serve --config dub5.yaml"
    )
    serve.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration; without it a simulated provider"
    )
    serve.set_defaults(run=_serve)
    config = _command(
        commands, "config", "Check or describe the configuration.", "dub5 config check dub5.yaml"
    )
    of_config = config.add_subparsers(required=True, metavar="COMMAND")
    check = _command(
        of_config, "check", "Say whether a file is valid, and if not, why.", "dub5 config check dub5.yaml"
    )
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(run=_config_check)
    described = _command(
        of_config, "schema", "Print the JSON Schema.", "dub5 config schema > dub5.schema.json"
    )
    described.set_defaults(run=_config_schema)
    return parser


def _command(
    among: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str, example: str
) -> argparse.ArgumentParser:
    """A subcommand whose help ends with an example."""
    return among.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
