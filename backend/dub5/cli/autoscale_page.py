"""`--html` and `--markdown` of `dub5 autoscale`: what was found as a report, beside what is printed."""

from __future__ import annotations

import argparse
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

from dub5 import __version__
from dub5.advisor.page import Origin
from dub5.cli.command import Failed, check_writable, keep_apart
from dub5.report.document import Document
from dub5.report.text import markdown
from dub5.settings.model import Duration

_NUMBERS = ("seed", "turns", "seeds", "refused", "held_out", "max_inflight", "max_replicas")
_TIMES = ("at", "wait")
"""Options that decide what is found, and that are said on the page with --values and --set. No others are: they may
hold what is nobody else's, such as the address of a Prometheus."""

_SETS = (
    "autoscaling.",
    "config.admission.",
    "config.drain.",
    "config.server.",
    "replicas=",
    "preStopSeconds=",
)
_NOT_SAID = ("autoscaling.keda.serverAddress", "autoscaling.keda.authenticationRef")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page that needs nothing else: verdict, plots, tables; needs dub5[loadtest]",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the same as Markdown, without plots, for a ConfigMap too",
    )


def check(args: argparse.Namespace) -> bool:
    """Whether a report is asked for; Failed, before anything is computed, where it could not be written, or something
    would be written over what is read."""
    keep_apart(
        {
            "--write-record": getattr(args, "write_record", None),
            "--html": args.html,
            "--markdown": args.markdown,
        },
        [args.record, *args.values, getattr(args, "token_file", None)],
    )
    if args.html is not None:
        _page()
    for file in (args.html, args.markdown):
        if file is not None:
            check_writable(file)
    return args.html is not None or args.markdown is not None


def write(args: argparse.Namespace, name: str, document: Callable[[Origin], Document]) -> None:
    """What the command of this `name` found, where that is asked for."""
    if args.html is None and args.markdown is None:
        return
    made = document(Origin(command_of(args, name), *_record(_file(args)), __version__))
    for file, form in ((args.markdown, markdown), (args.html, _page() if args.html else None)):
        if file is not None and form is not None:
            try:
                file.write_text(form(made), encoding="utf-8")
            except OSError as error:
                raise Failed(f"{file} cannot be written: {error.strerror}") from None


def _page() -> Callable[[Document], str]:
    try:
        from dub5.report.page import html  # noqa: PLC0415  # an extra, and large
    except ImportError as error:
        raise Failed(f"--html needs the extra: pip install 'dub5[loadtest]' ({error}).") from None
    return html


def _file(args: argparse.Namespace) -> Path | None:
    """Where the record is; None where it was taken from a Prometheus and not kept."""
    found: Path | None = args.record or getattr(args, "write_record", None)
    return found


def _record(file: Path | None) -> tuple[str, str]:
    """The record's name and SHA-256; both empty where it is in no file."""
    return ("", "") if file is None else (file.name, hashlib.sha256(file.read_bytes()).hexdigest())


def command_of(args: argparse.Namespace, name: str) -> str:
    """That makes the page again, from the folder of the record."""
    file = _file(args)
    words = ["dub5", "autoscale", name, "RECORD" if file is None else file.name]
    decisive = [each for each in args.set if each.startswith(_SETS) and not each.startswith(_NOT_SAID)]
    for option, values in (("--values", args.values), ("--set", decisive)):
        words += [word for value in values for word in (option, f"{value}")]
    given = {option: getattr(args, option, None) for option in (*_NUMBERS, *_TIMES)}
    for option, value in given.items():
        if value is not None:
            written = Duration(value).written() if option in _TIMES else _written(value)
            words += [f"--{option.replace('_', '-')}", written]
    return shlex.join([*words, "--html", "report.html"])


def _written(value: object) -> str:
    return "..".join(map(str, value)) if isinstance(value, tuple) else f"{value}"
