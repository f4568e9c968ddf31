"""`dub5 autoscale record | simulate | explain | recommend`: values of the autoscaler, tried on a load that was."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import multiprocessing
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from dub5.advisor import advice as words
from dub5.advisor import page, sources, summary
from dub5.advisor.explanation import explain
from dub5.advisor.record import (
    LONGEST,
    BadRecord,
    Cluster,
    Connections,
    Header,
    Mix,
    Pace,
    Record,
    read,
    write,
)
from dub5.advisor.running import measure
from dub5.advisor.search import (
    HELD,
    Advice,
    Bench,
    Bounds,
    Judged,
    Nothing,
    Objective,
    Run,
    Trial,
    chosen,
    recommend,
    space_of,
)
from dub5.advisor.simulation import Outcome, simulate
from dub5.advisor.values import Values, read_values
from dub5.cli import advice_configmap, autoscale_page, command, kubernetes
from dub5.cli import standard_streams as streams
from dub5.cli.command import Failed
from dub5.errors import ConfigError
from dub5.report.document import LONGEST_SENTENCE, clean
from dub5.settings.loader import parse_yaml, read_text
from dub5.settings.model import Duration

_DEEPEST = 100
"""Levels of names that --set may have."""

MISSED = 3
"""The exit code where the present values miss the objective."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_record(commands)
    _add_simulate(commands)
    _add_explain(commands)
    _add_recommend(commands)


def _add_record(commands: command.Commands) -> None:
    record = command.add(
        commands,
        "record",
        "Make the record of a load, one file for `simulate`.",
        "dub5 autoscale record --csv arrivals.csv --hits 0.4 --service '0.5=6s,0.99=40s' --out load.record",
    )
    source = record.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="arrivals, one a row: `TIMESTAMP` or `second`, `GeneratedTokens`",
    )
    source.add_argument("--scaling", type=Path, metavar="FILE", help="a CSV of benchmarks.scaling")
    source.add_argument("--loadtest", type=Path, metavar="FOLDER", help="the report of a load test")
    source.add_argument("--prometheus", metavar="URL", help="of a release that runs")
    source.add_argument(
        "--shape",
        choices=sources.SHAPES,
        help="; ".join(f"{name}: {what}" for name, what in sources.SHAPES.items()),
    )
    record.add_argument("--out", type=Path, required=True, metavar="FILE", help="where the record goes")
    record.add_argument(
        "--rate", type=_positive, default=10.0, help="requests a second at a shape's peak (default 10)"
    )
    record.add_argument("--length", type=_duration, default=3600.0, help="of a shape (default 1h)")
    record.add_argument("--seed", type=int, default=1, help="of a shape's chances (default 1)")
    record.add_argument("--hits", type=_share, default=0.0, help="share answered from the cache (default 0)")
    record.add_argument(
        "--followers", type=_share, default=0.0, help="share answered by the call of another (default 0)"
    )
    record.add_argument(
        "--service",
        type=command.read_by(_service),
        default=[(0.0, 2.0), (0.5, 6.0), (0.9, 15.0), (0.99, 30.0), (1.0, 60.0)],
        metavar="SHARE=TIME,…",
        help="how long calls take: shares of them and what those take at most, such as 0.5=6s,0.99=40s, or one time "
        "for all (default 0=2s,0.5=6s,0.9=15s,0.99=30s,1=60s)",
    )
    record.add_argument(
        "--first-token", type=_duration, default=0.3, help="with GeneratedTokens (default 300ms)"
    )
    record.add_argument("--tokens-per-second", type=_positive, default=60.0, help="the same (default 60)")
    _add_measured(record)
    _add_values(record, "of the chart, that were in force")
    record.set_defaults(run=_record)


def _add_measured(parser: argparse.ArgumentParser) -> None:
    """What of Prometheus a record is made of, and how the cluster was that it does not tell."""
    parser.add_argument(
        "--selector",
        default='job=~".+"',
        metavar="MATCHERS",
        help='what selects the replicas of one release there, such as namespace="chat" (default: all there are)',
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="that Prometheus asks for, such as X-Scope-OrgID:chat",
    )
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help="with the bearer token that Prometheus asks for"
    )
    parser.add_argument("--last", type=_duration, default=3600.0, help="how long, up to --until (default 1h)")
    parser.add_argument(
        "--until",
        type=command.read_by(_moment),
        metavar="TIME",
        help="such as 2026-11-27T09:30:00Z (default: now)",
    )
    parser.add_argument(
        "--replicas",
        type=_number_of("replicas", 0),
        help="at the beginning (default: as few as the values allow)",
    )
    parser.add_argument(
        "--starts",
        type=command.read_by(_durations),
        default=None,
        metavar="TIME,…",
        help="of pods, as measured (default 3s to 5s)",
    )
    parser.add_argument("--scrape", type=_duration, default=15.0, help="of Prometheus (default 15s)")
    parser.add_argument("--sync", type=_duration, default=15.0, help="of the autoscaler (default 15s)")
    parser.add_argument(
        "--keep",
        type=_duration,
        default=5.0,
        help="of idle connections by clients; 0s: a proxy balances each request (default 5s)",
    )
    parser.add_argument(
        "--stay-when-full",
        action="store_true",
        help="connections stay where a replica was full, as those of HTTP/2",
    )
    parser.add_argument(
        "--synced",
        type=_duration,
        metavar="TIME",
        help="a moment at which the autoscaler looked (default: by chance)",
    )


def _add_simulate(commands: command.Commands) -> None:
    simulated = command.add(
        commands,
        "simulate",
        "Say what the cluster would have done with a record's load: replicas, refusals, waits, cost.",
        "dub5 autoscale simulate load.record --values values.yaml --set autoscaling.targetPercentage=60",
    )
    _add_what_is_simulated(simulated)
    simulated.add_argument(
        "--refused",
        type=_share,
        help="of requests, at most: the verdict is whether that is met, 3 is the exit code if not",
    )
    simulated.add_argument("--wait", type=_duration, help="of 99 %% of calls for a slot, at most: the same")
    simulated.add_argument("--json", action="store_true", help="print plain data")
    autoscale_page.add_arguments(simulated)
    simulated.set_defaults(run=_simulate)


def _add_explain(commands: command.Commands) -> None:
    explained = command.add(
        commands,
        "explain",
        "Say in words why the autoscaler did what it did with a record's load, decision by decision.",
        "dub5 autoscale explain load.record --at 12m",
    )
    _add_what_is_simulated(explained)
    explained.add_argument(
        "--at",
        type=_duration,
        metavar="TIME",
        help="since the beginning (default: all that changed the number)",
    )
    explained.add_argument(
        "--turns", type=_number_of("turns"), default=3, help="of the autoscaler before that (default 3)"
    )
    autoscale_page.add_arguments(explained)
    explained.set_defaults(run=_explain)


def _add_recommend(commands: command.Commands) -> None:
    recommended = command.add(
        commands,
        "recommend",
        "Find values that meet an objective at the least cost. Exit code 3: the present ones miss it.",
        "dub5 autoscale recommend load.record --values values.yaml --refused 0.001 --wait 1s",
    )
    source = recommended.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "record", type=Path, nargs="?", metavar="RECORD", help="as `dub5 autoscale record` makes it"
    )
    source.add_argument(
        "--prometheus",
        metavar="URL",
        help="of a release that runs: its record is made first, and --values tried",
    )
    _add_measured(recommended)
    recommended.add_argument(
        "--write-record", type=Path, metavar="FILE", help="where the record of --prometheus goes"
    )
    _add_tried_values(recommended)
    recommended.add_argument(
        "--refused", type=_share, default=0.001, help="of requests, at most (default 0.001)"
    )
    recommended.add_argument(
        "--wait", type=_duration, default=1.0, help="of 99 %% of calls for a slot, at most (default 1s)"
    )
    recommended.add_argument(
        "--seeds", type=_number_of("seeds"), default=5, help="that each verdict is by (default 5)"
    )
    recommended.add_argument(
        "--held-out",
        type=_share,
        default=0.33,
        help="share of the record, its end, that values are judged on and not tuned (default 0.33)",
    )
    recommended.add_argument(
        "--max-inflight",
        type=command.read_by(_between),
        metavar="LEAST..MOST",
        help="search this value too, within what a replica's CPU bears, such as 20..100 (default: as it is)",
    )
    recommended.add_argument(
        "--max-replicas",
        type=_number_of("replicas"),
        metavar="NUMBER",
        help="may be raised to this where nothing else meets the objective (default: twice the present)",
    )
    recommended.add_argument(
        "--jobs",
        type=_number_of("simulations"),
        default=os.cpu_count() or 1,
        help="simulations at once (default: as many as there are cores)",
    )
    recommended.add_argument(
        "--hpa",
        default="dub5",
        metavar="NAME",
        help="the HorizontalPodAutoscaler, for CronJobs that raise minReplicas by hour (default dub5)",
    )
    recommended.add_argument("--json", action="store_true", help="print plain data")
    autoscale_page.add_arguments(recommended)
    recommended.add_argument(
        "--exit-zero", action="store_true", help="end with 0 also where the present values miss the objective"
    )
    _add_place(recommended)
    recommended.set_defaults(run=_recommend)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--configmap",
        metavar="NAME",
        help="that is there, in --namespace: verdict, table and lines to change are left in it, or why there are none",
    )
    parser.add_argument("--namespace", metavar="NAME", help="of the ConfigMap")
    parser.add_argument(
        "--of", metavar="TEXT", help=f"change the ConfigMap only while its annotation {kubernetes.OF} is this"
    )
    parser.add_argument(
        "--api", metavar="URL", help="Kubernetes API; by default that of the cluster it runs in"
    )


def misused(arguments: list[str]) -> None:
    """Leave in the ConfigMap that there is no advice, since an argument is wrong: what is there came of others."""
    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_place(known)
    try:
        args, _ = known.parse_known_args(arguments)
    except SystemExit:
        return  # one of these is the one that is wrong
    if args.configmap is not None and args.namespace is not None:
        advice_configmap.leave_none(
            _place(args), "an argument is wrong (advisor.args): the Job's log says which"
        )


def _add_what_is_simulated(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("record", type=Path, metavar="RECORD", help="as `dub5 autoscale record` makes it")
    _add_tried_values(parser)


def _add_tried_values(parser: argparse.ArgumentParser) -> None:
    _add_values(parser, "of the chart; several are laid over each other (default: those that were in force)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one value of the chart, laid over the files",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="of everything that is left to chance (default 1)"
    )


def _add_values(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--values", type=Path, action="append", default=[], metavar="FILE", help=what)


def _record(args: argparse.Namespace) -> int:
    command.keep_apart({"--out": args.out}, [args.csv, args.scaling, *args.values, args.token_file])
    try:
        mix = Mix(hits=args.hits, followers=args.followers, service=args.service)
        made = _read_source(args, mix)
        write(made, args.out)
    except BadRecord as error:
        raise _failed(str(error)) from None
    requests = (
        f"{made.requests:,.0f} requests" if made.arrivals else "callers that ask one question after the other"
    )
    streams.write(f"{args.out}: {made.header.seconds:.0f} s, {requests}.")
    for note in made.header.notes:
        streams.write(f"note: {clean(note, LONGEST_SENTENCE)}")
    return 0


def _read_source(args: argparse.Namespace, mix: Mix) -> Record:
    named = args.csv or args.scaling or args.loadtest

    header = _header(args, named.name if named else f"shape {args.shape}")
    if args.csv:
        return sources.of_csv(args.csv, header, mix, sources.Speed(args.first_token, args.tokens_per_second))
    if args.scaling:
        return sources.of_run(args.scaling, header, mix)
    if args.loadtest:
        return sources.of_loadtest(args.loadtest, header, mix)
    if args.prometheus:
        return _measured(args)
    if args.length > LONGEST:
        raise Failed(f"--length: a record has at most {LONGEST // 86400} days")
    return sources.of_shape(args.shape, header, mix, rate=args.rate, seconds=args.length, seed=args.seed)


def _measured(args: argparse.Namespace) -> Record:
    header, headers = _header(args, args.selector), _headers(args)
    return asyncio.run(
        measure(args.prometheus, args.selector, args.last, args.until, header, headers=headers)
    )


def _header(args: argparse.Namespace, source: str) -> Callable[[float, float], Header]:
    """Makes one of when the record began, and its length."""

    def header(began: float, seconds: float) -> Header:
        return Header(
            source=source,
            began=began,
            seconds=seconds,
            pace=Pace(scrape=args.scrape, sync=args.sync, synced=args.synced),
            cluster=Cluster(replicas=args.replicas, **({"starts": args.starts} if args.starts else {})),
            connections=Connections(keep=args.keep, leave_full=not args.stay_when_full),
            values=read_values(args.values).for_record() if args.values else {},
        )

    return header


def _headers(args: argparse.Namespace) -> list[tuple[str, str]]:
    headers = []
    for written in args.header:
        name, colon, value = written.partition(":")
        if (
            not colon
            or re.fullmatch(r"[A-Za-z0-9-]+", name) is None
            or not (value.isascii() and value.isprintable())
        ):
            raise Failed("--header: write NAME:VALUE, such as X-Scope-OrgID:chat")
        headers.append((name, value.strip()))
    if args.token_file is not None:
        try:
            token = read_text("token", args.token_file).strip()
        except ConfigError as error:
            raise Failed(f"--token-file: {error.message}") from None
        if not token.isascii() or not token.isprintable() or not token:
            raise Failed("--token-file: there is no token in it")
        headers.append(("Authorization", f"Bearer {token}"))
    return headers


def _simulate(args: argparse.Namespace) -> int:
    record, values, outcome = _simulated(args)
    objective = _objective(args)
    autoscale_page.write(
        args, "simulate", lambda origin: page.simulated(record, values, outcome, origin, objective)
    )
    if args.json:
        streams.write(json.dumps(summary.plain(record, values, outcome, args.seed)))
    else:
        streams.write(summary.text(record, values, outcome))
    return 0 if objective is None or page.meets(outcome, objective) else MISSED


def _objective(args: argparse.Namespace) -> Objective | None:
    """What is asked of one simulation; of what is not said anything will do."""
    if args.refused is None and args.wait is None:
        return None
    return Objective(
        refused=1.0 if args.refused is None else args.refused,
        wait=math.inf if args.wait is None else args.wait,
    )


def _explain(args: argparse.Namespace) -> int:
    found = _simulated(args)
    if args.at is not None and args.at > found[2].seconds:
        raise Failed(f"--at: the record ends after {found[2].seconds:.0f} s")
    autoscale_page.write(args, "explain", lambda origin: page.explained(*found, args.at, args.turns, origin))
    streams.write(explain(*found, args.at, args.turns))
    return 0


def _recommend(args: argparse.Namespace) -> int:
    place = None if args.configmap is None else _place(args)
    with contextlib.nullcontext() if place is None else advice_configmap.reason_left(place):
        advice, values = _advised(args)
    text = words.text(advice, values)
    if place is not None:
        verdict, _, table = text.partition("\n\n")
        state: Literal["meets", "misses"] = "meets" if advice.present_meets else "misses"
        lines = words.snippet(advice, values)
        by_hour = words.schedule(advice, values)
        advice_configmap.leave(place, state, verdict, table, "\n".join(lines) or None, by_hour or None)
    streams.write(json.dumps(words.plain(advice, values)) if args.json else text)
    return 0 if advice.present_meets or args.exit_zero else MISSED


def _place(args: argparse.Namespace) -> kubernetes.ConfigMap:
    if args.namespace is None:
        raise Failed("--configmap: say in which --namespace it is")

    def cluster() -> kubernetes.Cluster:
        return kubernetes.Cluster(args.api) if args.api else kubernetes.in_cluster(os.environ)

    return kubernetes.ConfigMap(args.configmap, args.namespace, cluster, of=args.of)


def _advised(args: argparse.Namespace) -> tuple[Advice, Values]:
    """And the present values."""
    reported = autoscale_page.check(args)
    record, values = _given(args)
    if values.autoscaling.mode == "none":
        raise Failed("autoscaling.mode: none has no values to recommend; try `hpa` or `keda`")
    if not 0 < args.held_out < 1:
        raise Failed("--held-out: something must be left on either side; write a number between 0 and 1")
    objective = Objective(refused=args.refused, wait=args.wait)
    seeds = range(args.seed, args.seed + args.seeds)
    try:
        space = space_of(record, values, args.held_out, Bounds(args.max_inflight, args.max_replicas))
    except Nothing as error:
        raise Failed(f"{args.record or 'the record'}: {error}") from None
    with _benches(record, values, args.held_out, args.jobs) as run:
        advice = recommend(space, objective, run, seeds, _show)
        advice = msgspec.structs.replace(advice, hpa=args.hpa)
    if reported:
        present = simulate(record, values, seed=args.seed, progress=_progress("present values over time"))
        best = None
        if advice.best is not None:
            choice = advice.best[HELD].choice
            best = simulate(
                record,
                chosen(values, choice),
                seed=args.seed,
                floors=choice.floors,
                progress=_progress("recommended values over time"),
            )
        autoscale_page.write(
            args, "recommend", lambda origin: page.recommended(record, values, advice, present, best, origin)
        )
    _show("")
    # The page has those of the record in a place of their own.
    return msgspec.structs.replace(advice, notes=[*summary.notes(record, values), *advice.notes]), values


@contextlib.contextmanager
def _benches(record: Record, values: Values, held_out: float, jobs: int) -> Iterator[Run]:
    """One in each of `jobs` processes; with one job, in this one."""
    if jobs <= 1:
        bench = Bench(record, values, held_out)
        yield lambda trials: map(bench.judge, trials)
        return
    spawned = multiprocessing.get_context("spawn")
    made_of = (record, values, held_out)
    with _ended_by_sigterm(), ProcessPoolExecutor(jobs, spawned, Bench.begin, made_of) as pool:

        def run(trials: Sequence[Trial]) -> Iterator[Judged]:
            # Processes begin here: none is left half begun, and they inherit it, since Ctrl-C is this one's to hear.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
            try:
                return pool.map(Bench.judge_there, trials)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)

        try:
            yield run
        except BaseException:
            # Else all that they were asked for would be waited for.
            for process in multiprocessing.active_children():
                process.kill()
            raise


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """The block, by an exception, so that what it has begun is ended, too."""
    before = signal.getsignal(signal.SIGTERM)
    if before == signal.SIG_DFL:  # else a reason is to be left first (advice_configmap)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _simulated(args: argparse.Namespace) -> tuple[Record, Values, Outcome]:
    autoscale_page.check(args)
    record, values = _given(args)
    outcome = simulate(record, values, seed=args.seed, progress=_progress("simulated"))
    _show("")
    return record, values, outcome


def _given(args: argparse.Namespace) -> tuple[Record, Values]:
    try:
        if args.record is not None:
            if getattr(args, "write_record", None) is not None:
                raise Failed("--write-record: RECORD is one already; it goes with --prometheus")
            record = read(args.record)
        else:
            record = _measured(args)
            if args.write_record is not None:
                write(record, args.write_record)
    except BadRecord as error:
        raise _failed(str(error)) from None
    given = [_set(written) for written in args.set]
    try:
        return record, read_values(args.values, *([] if args.values else [record.header.values]), *given)
    except ConfigError as error:
        raise _failed(error.message) from None


def _failed(reason: str) -> Failed:
    """For what may repeat words of a record, or of a Prometheus: no terminal is to obey them."""
    return Failed(clean(reason, LONGEST_SENTENCE))


def _progress(what: str) -> Callable[[float], None]:
    return lambda share: _show(f"{what}: {share:.0%}")


def _show(progress: str) -> None:
    """How far it is, on a terminal."""
    if sys.stderr.isatty():
        streams.complain(f"\r\033[K{progress}", end="")


def _set(written: str) -> dict[str, object]:
    """`a.b=1` as {a: {b: 1}}, values as in YAML."""
    name, equals, value = written.partition("=")
    if not equals or not all(name.split(".")):
        raise Failed(f"--set {written}: write NAME=VALUE, such as autoscaling.targetPercentage=60")
    *parents, last = name.split(".")
    if len(parents) > _DEEPEST:
        raise Failed(f"--set {name[:40]}…: there are no values of more than {_DEEPEST} levels")
    found: dict[str, object] = {last: parse_yaml(value)}
    for part in reversed(parents):
        found = {part: found}
    return found


def _service(written: str) -> list[tuple[float, float]]:
    parts = written.split(",")
    if "=" not in written:
        return [(1.0, _seconds(written))]
    points = []
    for part in parts:
        share, equals, time = part.partition("=")
        if not equals:
            raise ValueError(f"{part!r} is not SHARE=TIME, such as 0.5=6s")
        points.append((_share_of(share), _seconds(time)))
    return points


def _share_of(written: str) -> float:
    if re.fullmatch(r"[01](\.[0-9]+)?|\.[0-9]+", written) is None or float(written) > 1:
        raise ValueError(f"{written!r} is no share: write a number from 0 to 1")
    return float(written)


def _durations(written: str) -> tuple[float, ...]:
    return tuple(_seconds(part) for part in written.split(","))


def _seconds(written: str) -> float:
    return float(Duration.parse(written))


def _moment(written: str) -> float:
    """Unix time."""
    try:
        moment = datetime.fromisoformat(written)
    except ValueError:
        raise ValueError(f"{written!r} is no date and time, such as 2026-11-27T09:30:00Z") from None
    if not 1970 < moment.year < 9999:
        raise ValueError(f"{written!r} is no date that a Prometheus has something of")
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _number_of(what: str, least: int = 1) -> Callable[[str], int]:
    def read(written: str) -> int:
        if re.fullmatch(r"[0-9]{1,4}", written) is None or int(written) < least:
            raise ValueError(f"{written[:40]!r} is no number of {what}: write {least} to 9999")
        return int(written)

    return command.read_by(read)


def _between(written: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})\.\.([0-9]{1,5})", written)
    if found is None or not 0 < int(found[1]) <= int(found[2]):
        raise ValueError(f"{written!r} is no least and most, such as 20..100")
    if int(found[1]) == 1:
        raise ValueError(
            "the chart takes 2 or more: full replicas of 1 are within the autoscaler's tolerance, and none is added"
        )
    return int(found[1]), int(found[2])


def _positive_of(written: str) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", written) is None or float(written) == 0:
        raise ValueError(f"{written!r} is no number above 0")
    return float(written)


_positive = command.read_by(_positive_of)
_share = command.read_by(_share_of)
_duration = command.read_by(_seconds)
