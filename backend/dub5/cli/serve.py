"""`dub5 serve`: one replica of the service."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import uvloop

from dub5 import __version__
from dub5.cli.standard_streams import complain
from dub5.process import descriptors
from dub5.process.threads import then_end
from dub5.server.replica import Replica, serve
from dub5.settings.loader import load
from dub5.telemetry.logging import configure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration; without it a simulated provider"
    )
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    settings = load(args.config, os.environ)
    terminal = sys.stdout.isatty()
    writer = configure(settings.telemetry, stream=sys.stdout, terminal=terminal)
    try:
        descriptors.raise_limit()
        replica = Replica(settings, os.environ)
        uvloop.run(then_end(serve(replica, announce=_announce)))
    finally:
        writer.stop()
    return 0


def _announce(text: str) -> None:
    complain(f"DUB5 {__version__}. {text}")
