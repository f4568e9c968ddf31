"""`dub5 loadtest report`: what a load test has shown."""

from __future__ import annotations

import argparse
from pathlib import Path

from dub5.cli import command
from dub5.cli.command import Failed
from dub5.cli.standard_streams import write
from dub5.loadtest.runs import Unreadable
from dub5.settings.model import Duration


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = command.add(
        commands,
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
        type=command.read_by(Duration.parse),
        help="of rates (default: four scrapes)",
    )
    report.add_argument("--compare", type=Path, metavar="RUN", help="an earlier run")
    report.set_defaults(run=_report)


def _report(args: argparse.Namespace) -> int:
    try:
        from dub5.loadtest.command import write_report  # noqa: PLC0415  # an extra, and large
    except ImportError as error:
        raise Failed(f"The report needs the extra: pip install 'dub5[loadtest]' ({error}).") from None
    try:
        document = write_report(
            args.summary,
            args.out,
            prometheus=args.prometheus,
            series=args.series,
            pods=args.selector,
            window=args.window,
            earlier=args.compare,
        )
    except Unreadable as error:
        raise Failed(str(error)) from None
    write(f"{document.title}: {document.verdict}\nSee {args.out / 'report.html'}")
    return 0
