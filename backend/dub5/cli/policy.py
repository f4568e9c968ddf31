"""`dub5 policy explain`: why a TTL is what it is.

It runs the operator's own planner and needs its extra. It is for where the operator runs: in its pod are the rights,
the configuration and the way to Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dub5.cli import command
from dub5.cli.command import Failed
from dub5.cli.operators_redis import client_of
from dub5.cli.standard_streams import write
from dub5.settings.loader import load

if TYPE_CHECKING:
    from dub5_operator.explain.reading import Explained

T = TypeVar("T")

IN_ITS_POD = Path("/etc/dub5/config/dub5.yaml")
"""Where the chart mounts the configuration."""
FORMATS = (".svg", ".png", ".pdf")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    explain = command.add(
        commands,
        "explain",
        "Say why a CachePolicy's TTL is what it is, what other TTLs would do, and what would change it.",
        "kubectl exec deployment/dub5-operator --namespace chat -- dub5 policy explain banter",
    )
    explain.add_argument("name", metavar="NAME", help="of the CachePolicy")
    explain.add_argument("--namespace", help="of it (default: the pod's, or the kubeconfig's)")
    explain.set_defaults(run=_run_explain)
    for each in (explain,):
        each.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help=f"the service's configuration, for its Redis (default: {IN_ITS_POD} where there is one)",
        )
        each.add_argument("--redis", metavar="URL", help="in place of the configuration's")
        each.add_argument("--json", action="store_true", help="all of it, for programs")
        each.add_argument(
            "--plot",
            type=Path,
            metavar="FILE",
            help="draw the candidates, .svg, .png or .pdf; needs dub5[loadtest]",
        )


def _run_explain(args: argparse.Namespace) -> int:
    return _run(args, _explain)


def _run(args: argparse.Namespace, do: Callable[[argparse.Namespace], None]) -> int:
    from dub5_operator.explain.refused import Refused  # noqa: PLC0415  # of the operator, which others go without

    try:
        do(args)
    except ImportError as error:
        raise Failed(f"This needs the operator's extra: pip install 'dub5[operator]' ({error}).") from None
    except Refused as error:
        raise Failed(str(error)) from None
    return 0


def _explain(args: argparse.Namespace) -> None:
    from dub5_operator.explain.in_force import explain_policy  # noqa: PLC0415

    draw = _drawer(args.plot)
    found = _with_redis(args, lambda redis: explain_policy(redis, args.name, args.namespace))
    _show(args, [found], found, draw)


def _with_redis(args: argparse.Namespace, ask: Callable[[Any], Awaitable[T]]) -> T:
    config = args.config or (IN_ITS_POD if IN_ITS_POD.exists() else None)
    environment = {**os.environ, **({"DUB5_REDIS__URL": args.redis} if args.redis is not None else {})}
    settings = load(config, environment)

    async def run() -> T:
        redis = client_of(settings, environment)
        try:
            return await ask(redis)
        finally:
            await redis.aclose()

    return asyncio.run(run())


def _drawer(path: Path | None) -> Callable[[list[Explained]], None]:
    """Before anything is waited for, since it may not be there."""
    if path is None:
        return lambda _: None
    try:
        from dub5_operator.explain.plot import draw  # noqa: PLC0415  # an extra, and large
    except ImportError as error:
        raise Failed(f"--plot needs the extra: pip install 'dub5[loadtest]' ({error}).") from None
    if path.suffix not in FORMATS:
        raise Failed(f"--plot {path}: its name must end with {', '.join(FORMATS)}.")
    return lambda found: draw(found, path)


def _show(
    args: argparse.Namespace, found: list[Explained], whole: object, draw: Callable[[list[Explained]], None]
) -> None:
    from dub5_operator.explain.text import text  # noqa: PLC0415

    draw(found)
    if args.json:
        write(msgspec.json.format(msgspec.json.encode(whole), indent=2).decode())
    else:
        write("\n\n".join(map(text, found)))
