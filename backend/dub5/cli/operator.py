"""`dub5 operator`: reads the service's own configuration, connects to its Redis, and runs the operator.

The composition root of the second program, as `app` is of the first: the operator itself knows nothing of settings and
is handed a client. What only the service needs is not imported, so that the operator stays small.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from dub5 import __version__
from dub5.cli.operators_redis import client_of
from dub5.errors import ConfigError
from dub5.process.threads import then_end
from dub5.settings.loader import load
from dub5.telemetry.logging import configure, get_logger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the service's configuration, for its Redis"
    )
    parser.add_argument("--namespace", default="default", help="whose objects to watch (default: default)")
    everywhere = "0.0.0.0"  # noqa: S104  # in its pod; probes come from outside
    parser.add_argument("--host", default=everywhere, help="address of both listeners (default 0.0.0.0)")
    parser.add_argument(
        "--health-port", type=int, default=8080, help="of /healthz; 0 for none (default 8080)"
    )
    parser.add_argument(
        "--metrics-port", type=int, default=9001, help="of /metrics; 0 for none (default 9001)"
    )
    parser.set_defaults(run=_operator)


def _operator(args: argparse.Namespace) -> int:
    options = {"host": args.host, "health_port": args.health_port, "metrics_port": args.metrics_port}
    run(args.config, os.environ, args.namespace, **options)
    return 0


def run(config: Path | None, environment: Mapping[str, str], namespace: str, **options: object) -> None:
    """Run until a signal ends it. ConfigError where the configuration names no Redis, or the extra is not installed."""
    try:
        from dub5_operator.main import Options  # noqa: PLC0415  # an extra, and large
        from dub5_operator.main import run as run_operator  # noqa: PLC0415
    except ImportError as error:
        raise ConfigError(f"The operator needs the extra `dub5[operator]`: {error}.") from None
    whole = load(config, environment)
    redis = client_of(whole, environment)

    async def serve() -> None:
        get_logger().info("started", version=__version__, namespace=namespace)
        try:
            await run_operator(redis, msgspec.convert({"namespace": namespace, **options}, Options))
        finally:
            await redis.aclose()
        get_logger().info("stopped")

    writer = configure(whole.telemetry, stream=sys.stdout, terminal=sys.stdout.isatty())
    try:
        asyncio.run(then_end(serve()))
    finally:
        writer.stop()
