"""`dub5 policy explain | plan`: why a TTL is what it is, and what it would be.

Both run the operator's own planner and need its extra. `explain` is for where the operator runs: in its pod are the
rights, the configuration and the way to Redis. `plan` needs no Kubernetes, only the Redis of a service.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from dub5.cli import command
from dub5.cli.command import Failed, check_writable
from dub5.cli.operators_redis import client_of
from dub5.cli.standard_streams import complain, write
from dub5.settings.loader import load

if TYPE_CHECKING:
    from dub5_operator.explain.reading import Explained
    from dub5_operator.explain.recording import Recorded

T = TypeVar("T")

IN_ITS_POD = Path("/etc/dub5/config/dub5.yaml")
"""Where the chart mounts the configuration."""
FORMATS = (".svg", ".png", ".pdf")
_OPTIONS = ("staleness", "per-question", "min-ttl", "max-ttl", "memory", "memory-price")


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
    plan = command.add(
        commands,
        "plan",
        "Learn from a service's requests for a while, and say which TTLs would be set. Publishes nothing.",
        "dub5 policy plan --record 30m --redis redis://localhost:6379/0 --staleness 1%",
    )
    plan.add_argument(
        "--record", required=True, metavar="DURATION", help="for how long, such as 30m; at most 168h"
    )
    plan.add_argument(
        "--class", dest="only", metavar="NAME", help="a cache class (default: all that are used)"
    )
    plan.add_argument("--staleness", metavar="SHARE", help="of hits that may be out of date (default 1%%)")
    plan.add_argument(
        "--per-question", metavar="TIMES", help="as often as that one question's may be (default 3)"
    )
    plan.add_argument("--min-ttl", metavar="DURATION", help="(default 5s)")
    plan.add_argument(
        "--max-ttl", metavar="DURATION", help="(default 24h); nor longer than the class's max_ttl"
    )
    plan.add_argument("--memory", metavar="SIZE", help="of a class's answers in Redis, such as 256Mi")
    plan.add_argument("--memory-price", metavar="DOLLARS", help="per GiB and hour (default 0.02)")
    plan.set_defaults(run=_run_plan)
    for each in (explain, plan):
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


def _run_plan(args: argparse.Namespace) -> int:
    return _run(args, _plan)


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


def _plan(args: argparse.Namespace) -> None:
    from dub5_operator.explain import options  # noqa: PLC0415
    from dub5_operator.explain.recording import plan  # noqa: PLC0415

    draw = _drawer(args.plot)
    spec = options.policy({name: getattr(args, name.replace("-", "_")) for name in _OPTIONS})
    record, terminal = options.duration(args.record), sys.stderr.isatty()

    def report_progress(recorded: Recorded) -> None:
        if terminal:
            end = "\r" if recorded.passed < record else "\n"
            complain(f"{recorded.passed:.0f} of {record:.0f} s, look-ups: {recorded.look_ups}", end=end)

    found = _with_redis(
        args, lambda redis: plan(redis, spec, args.only, record=record, report_progress=report_progress)
    )
    _show(args, found, {"recorded_seconds": record, "classes": found}, draw)


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
    check_writable(path)
    return lambda found: draw(found, path)


def _show(
    args: argparse.Namespace, found: list[Explained], whole: object, draw: Callable[[list[Explained]], None]
) -> None:
    from dub5_operator.explain.text import text  # noqa: PLC0415

    if args.json:
        encoded = msgspec.json.encode(whole, enc_hook=_plain)
        write(msgspec.json.format(encoded, indent=2).decode())
    else:
        write("\n\n".join(map(text, found)))
    draw(found)  # last: what was recorded for hours is told whatever comes of it


def _plain(number: Any) -> Any:
    """A number of numpy's, as which the planner may have computed it."""
    return number.item()
