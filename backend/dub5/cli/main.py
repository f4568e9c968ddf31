"""The command line: parses, calls, prints; no logic.

Exit codes: 0 done, 1 refused (a configuration in error) or the output cannot be written, 2 wrong usage, 141 whoever
read the output has gone.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import uvloop

from dub5 import __version__
from dub5.cli import smoke, standard_streams
from dub5.cli.remote import Refused, Remote, Warmed, read_questions
from dub5.cli.standard_streams import OutputFailed, complain, write
from dub5.errors import ConfigError
from dub5.loadtest.runs import Unreadable
from dub5.process.threads import then_end
from dub5.settings.loader import load, schema
from dub5.settings.model import Duration
from dub5.telemetry.logging import configure

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    standard_streams.open_closed()
    try:
        return _run(arguments)
    except OutputFailed as error:
        return _complain(str(error)) if error.code == 1 else error.code


def _run(arguments: list[str] | None) -> int:
    try:
        chosen = _parser().parse_args(arguments)
    except SystemExit:
        standard_streams.flush()
        raise
    if chosen.run in {_serve, _operator}:
        # Until the event loop listens to signals itself there is nothing to leave.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        return standard_streams.unhindered(lambda: _outcome(chosen))
    return _outcome(chosen)


def _outcome(chosen: argparse.Namespace) -> int:
    try:
        result: int = chosen.run(chosen)
    except ConfigError as error:
        return _complain(error.message)
    except (Refused, Unreadable, smoke.Failed) as error:
        return _complain(str(error))
    return result


def _complain(message: str) -> int:
    complain(f"dub5: {message}")
    return 1


def _serve(chosen: argparse.Namespace) -> int:
    # What only this command needs, and the operator has no room for.
    from dub5.process import descriptors  # noqa: PLC0415
    from dub5.server.replica import Replica, serve  # noqa: PLC0415

    settings = load(chosen.config, os.environ)
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


def _operator(chosen: argparse.Namespace) -> int:
    from dub5.cli import operator  # noqa: PLC0415  # an extra

    operator.run(
        chosen.config,
        os.environ,
        chosen.namespace,
        health_port=chosen.health_port,
        metrics_port=chosen.metrics_port,
    )
    return 0


def _config_check(chosen: argparse.Namespace) -> int:
    from dub5.cli import preflight  # noqa: PLC0415  # what only this command needs, and the operator has no room for

    settings = load(chosen.file, os.environ)
    for warning in preflight.check(settings, os.environ):
        _complain(f"warning: {warning}")
    counted = ", ".join(
        (
            _count(len(settings.providers), "provider", "providers"),
            _count(len(settings.models), "model", "models"),
            _count(len(settings.personalities), "personality", "personalities"),
        )
    )
    write(f"{chosen.file}: good. {counted}.")
    return 0


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _config_schema(_: argparse.Namespace) -> int:
    write(json.dumps(schema(), indent=2))
    return 0


def _cache_stats(chosen: argparse.Namespace) -> int:
    write(json.dumps(_with_remote(chosen, lambda remote: remote.stats()), indent=2))
    return 0


def _cache_invalidate(chosen: argparse.Namespace) -> int:
    given = {
        name: getattr(chosen, name) for name in ("tags", "personality", "model", "class", "tenant", "all")
    }
    what = {name: value for name, value in given.items() if value}
    purged = _with_remote(chosen, lambda remote: remote.invalidate(what))["purged"]
    write(f"Purged: {', '.join(purged)}")
    return 0


def _cache_warm(chosen: argparse.Namespace) -> int:
    lines = read_questions(chosen.file)
    terminal = sys.stderr.isatty()

    def tell(warmed: Warmed) -> None:
        if terminal or warmed.done == len(lines):
            text = f"{warmed.done} of {len(lines)}, {warmed.hits} were there already, {warmed.failed} failed"
            complain(text, end="\r" if terminal and warmed.done < len(lines) else "\n")

    warmed = _with_remote(chosen, lambda remote: remote.warm(lines, rate=chosen.rate, tell=tell))
    return 1 if warmed.failed else 0


def _with_remote(chosen: argparse.Namespace, ask: Callable[[Remote], Awaitable[T]]) -> T:
    remote = Remote(chosen.url, os.environ.get("DUB5_KEY", ""))

    async def run() -> T:
        async with remote:
            return await ask(remote)

    return uvloop.run(run())


def _smoke_health(chosen: argparse.Namespace) -> int:
    return _smoke(chosen, lambda: smoke.health(chosen.operations))


def _smoke_chat(chosen: argparse.Namespace) -> int:
    key = os.environ.get("DUB5_KEY", "")
    return _smoke(chosen, lambda: smoke.chat(chosen.url, key, chosen.model))


def _smoke_autoscaling(chosen: argparse.Namespace) -> int:
    cluster = smoke.Cluster(chosen.api) if chosen.api else smoke.in_cluster(os.environ)
    check = functools.partial(
        smoke.autoscaling,
        cluster,
        namespace=chosen.namespace,
        hpa=chosen.hpa,
        selector=chosen.selector,
        operations=chosen.operations,
    )
    return _smoke(chosen, check)


def _smoke(chosen: argparse.Namespace, check: Callable[[], Awaitable[str]]) -> int:
    write(uvloop.run(smoke.patiently(check, patience=chosen.patience)))
    return 0


def _loadtest_report(chosen: argparse.Namespace) -> int:
    from dub5.loadtest.command import write_report  # noqa: PLC0415  # what only this command needs

    document = write_report(
        chosen.summary,
        chosen.out,
        prometheus=chosen.prometheus,
        series=chosen.series,
        pods=chosen.selector,
        window=chosen.window,
        earlier=chosen.compare,
    )
    write(f"{document.title}: {document.verdict}\nSee {chosen.out / 'report.html'}")
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
    operator = _command(
        commands,
        "operator",
        "Set TTLs from what is measured, as CachePolicy objects of a namespace say.",
        "dub5 operator --config dub5.yaml --namespace chat",
    )
    operator.add_argument(
        "--config", type=Path, metavar="FILE", help="the service's configuration, for its Redis"
    )
    operator.add_argument("--namespace", default="default", help="whose objects to watch (default: default)")
    operator.add_argument(
        "--health-port", type=int, default=8080, help="of /healthz; 0 for none (default 8080)"
    )
    operator.add_argument(
        "--metrics-port", type=int, default=9001, help="of /metrics; 0 for none (default 9001)"
    )
    operator.set_defaults(run=_operator)
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
    _add_cache_commands(commands)
    _add_smoke_commands(commands)
    _add_loadtest_commands(commands)
    return parser


def _add_cache_commands(commands: Commands) -> None:
    cache = _command(
        commands, "cache", "Look into a running service's cache, purge or fill it.", "dub5 cache stats"
    )
    of_cache = cache.add_subparsers(required=True, metavar="COMMAND")
    stats = _command(of_cache, "stats", "Print what the cache holds and does, as JSON.", "dub5 cache stats")
    stats.set_defaults(run=_cache_stats)
    purge = _command(
        of_cache,
        "invalidate",
        "Purge answers everywhere within a second; exit code 1 where that failed.",
        "dub5 cache invalidate --tag prices --tag doc-17",
    )
    purge.add_argument("--tag", action="append", dest="tags", help="may be given more than once")
    for name in ("personality", "model", "class", "tenant"):
        purge.add_argument(f"--{name}", metavar="NAME")
    purge.add_argument("--all", action="store_true", help="everything")
    purge.set_defaults(run=_cache_invalidate)
    warm = _command(
        of_cache,
        "warm",
        "Fill the cache with common questions and written answers, one JSON object a line.",
        "dub5 cache warm questions.jsonl --rate 5",
    )
    warm.add_argument("file", type=Path, metavar="QUESTIONS.jsonl")
    warm.add_argument("--rate", type=_rate, default=2.0, help="questions per second at most (default 2)")
    warm.set_defaults(run=_cache_warm)
    for command in (stats, purge, warm):
        command.add_argument(
            "--url",
            default="http://127.0.0.1:8000",
            help="public listener of the service (default http://127.0.0.1:8000); the key is taken from DUB5_KEY",
        )


def _add_smoke_commands(commands: Commands) -> None:
    checks = _command(
        commands,
        "smoke",
        "Say whether an installation is well, and if not, what is missing; `helm test` runs this.",
        "dub5 smoke chat --url http://127.0.0.1:8000",
    )
    of_checks = checks.add_subparsers(required=True, metavar="CHECK")
    operations = (
        "operations listener; its host has one address for each replica (default http://127.0.0.1:9000)"
    )
    health = _command(
        of_checks, "health", "Every replica is alive and ready.", "dub5 smoke health --patience 30s"
    )
    health.set_defaults(run=_smoke_health)
    chat = _command(
        of_checks, "chat", "One streamed answer reaches its end.", "dub5 smoke chat --model tutor"
    )
    chat.add_argument(
        "--url",
        default="http://127.0.0.1:8000",
        help="public listener of the service (default http://127.0.0.1:8000); the key is taken from DUB5_KEY",
    )
    chat.add_argument(
        "--model", metavar="NAME", help="model or personality; the first that is listed by default"
    )
    chat.set_defaults(run=_smoke_chat)
    scaling = _command(
        of_checks,
        "autoscaling",
        "The autoscaling metric is served for every replica, used, and can pass its target.",
        "dub5 smoke autoscaling --hpa dub5 --namespace chat --selector app.kubernetes.io/instance=dub5",
    )
    scaling.add_argument("--hpa", required=True, metavar="NAME", help="the HorizontalPodAutoscaler")
    scaling.add_argument("--namespace", required=True, metavar="NAME")
    scaling.add_argument("--selector", default="", help="labels of the replicas' pods")
    scaling.add_argument(
        "--api", metavar="URL", help="Kubernetes API; by default that of the cluster it runs in"
    )
    scaling.set_defaults(run=_smoke_autoscaling)
    for command in (health, scaling):
        command.add_argument("--operations", default="http://127.0.0.1:9000", metavar="URL", help=operations)
    for command in (health, chat, scaling):
        command.add_argument(
            "--patience",
            type=_read_by(Duration.parse),
            default=Duration(0),
            help="how long to try again, such as 30s (default 0)",
        )


def _add_loadtest_commands(commands: Commands) -> None:
    loadtest = _command(
        commands,
        "loadtest",
        "Make something of a load test by deploy/k6.",
        "dub5 loadtest report run.log --prometheus http://127.0.0.1:9090",
    )
    of_loadtest = loadtest.add_subparsers(required=True, metavar="COMMAND")
    report = _command(
        of_loadtest,
        "report",
        "Say whether it passed, where the time went and which resource was full first, as HTML and Markdown.",
        "kubectl --namespace chat logs job/NAME > run.log    # its name is in what Helm says: helm get notes\n"
        "  dub5 loadtest report run.log --prometheus http://127.0.0.1:9090 --selector 'namespace=\"chat\"'",
    )
    report.add_argument(
        "summary",
        type=Path,
        metavar="RUN",
        help="k6's summary, a log that ends with it, or a report's folder",
    )
    report.add_argument(
        "--out", type=Path, default=Path("report"), metavar="FOLDER", help="(default: report)"
    )
    source = report.add_mutually_exclusive_group()
    source.add_argument(
        "--prometheus", metavar="URL", help="asked for the figures of the service in that time"
    )
    source.add_argument(
        "--series", type=Path, metavar="FILE", help="those figures, as a report has kept them"
    )
    report.add_argument(
        "--selector",
        default='job=~".+"',
        metavar="MATCHERS",
        help='what selects the replicas, in PromQL, such as namespace="chat" (default: all there are)',
    )
    report.add_argument(
        "--window",
        type=_read_by(Duration.parse),
        help="of rates (default: four scrapes)",
    )
    report.add_argument("--compare", type=Path, metavar="RUN", help="an earlier run")
    report.set_defaults(run=_loadtest_report)


def _read_by(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which keeps the words of no other error."""

    def read(written: str) -> T:
        try:
            return parse(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def _rate(written: str) -> float:
    rate = float(written)
    if not 0 < rate <= 1000:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 1000")
    return rate


def _command(among: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose help ends with an example."""
    return among.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
