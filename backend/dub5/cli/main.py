"""The command line: finds the command that is meant, parses, and runs it. Each command is a module beside this one.

Only the module of that command is imported: `dub5 operator` has little memory, and `dub5 --help` no time for the rest.
A module has `add_arguments(parser)`, which sets `run` for each thing that it does: a function of the arguments that
gives the exit code. It may have `misused(arguments)`, for what else is to be done where they are wrong.

Exit codes: 0 done, 1 refused (a configuration in error) or the output cannot be written, 2 wrong usage, 3 of
`autoscale recommend` and `simulate` that the values miss the objective, 130 ended by Ctrl-C, 141 whatever
read the output has gone.
"""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module

from dub5 import __version__
from dub5.cli import command, standard_streams
from dub5.cli.command import Failed
from dub5.cli.standard_streams import OutputFailed, complain
from dub5.errors import ConfigError
from dub5.settings.model import is_text

COMMANDS = {
    "serve": ("Answer chat requests until a signal ends it.", "dub5 serve --config dub5.yaml"),
    "operator": (
        "Set TTLs from what is measured, as CachePolicy objects of a namespace say.",
        "dub5 operator --config dub5.yaml --namespace chat",
    ),
    "policy": (
        "Say why a TTL is what it is, and what it would be, by what is measured.",
        "dub5 policy plan --record 30m --redis redis://localhost:6379/0",
    ),
    "config": ("Check or describe the configuration.", "dub5 config check dub5.yaml"),
    "keys": ("Make, list and revoke the keys of callers.", "dub5 keys new --tenant acme"),
    "cache": ("Show what a running service's cache holds, purge or fill it.", "dub5 cache stats"),
    "smoke": (
        "Say whether an installation is well, and if not, what is missing; `helm test` runs this.",
        "dub5 smoke chat --url http://127.0.0.1:8000",
    ),
    "loadtest": (
        "Make something of a load test by deploy/k6.",
        "dub5 loadtest report run.log --prometheus http://127.0.0.1:9090",
    ),
    "autoscale": (
        "Try values of the autoscaler on a recorded load, before they are in force.",
        "dub5 autoscale simulate load.record --values values.yaml",
    ),
}
"""Each with its summary and an example."""
SERVICES = {"serve", "operator"}
"""Those that run until a signal ends them."""
WRONG_USAGE = 2
INTERRUPTED = 128 + signal.SIGINT


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    standard_streams.open_closed()
    try:
        return _run(sys.argv[1:] if arguments is None else arguments)
    except OutputFailed as error:
        return _complain(str(error)) if error.code == 1 else error.code
    except KeyboardInterrupt:
        return INTERRUPTED  # whoever did that knows


def _run(arguments: list[str]) -> int:
    for each in arguments:
        if not is_text(each):  # no request could say it, and no message show it
            complain(f"dub5: {each!a}: must be UTF-8")
            return WRONG_USAGE
    try:
        args = _parser(arguments).parse_args(arguments)
    except SystemExit as ended:
        if ended.code == WRONG_USAGE:
            _misused(arguments)
        standard_streams.flush()
        raise
    if args.command in SERVICES:
        # Until the event loop listens to signals itself there is nothing to leave.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        return standard_streams.with_unblocked_stderr(lambda: _outcome(args))
    return _outcome(args)


def _misused(arguments: list[str]) -> None:
    if (named := _named(arguments)) in COMMANDS:
        module = import_module(f"dub5.cli.{named}")
        if hasattr(module, "misused"):
            module.misused(arguments)


def _outcome(args: argparse.Namespace) -> int:
    try:
        code: int = args.run(args)
    except ConfigError as error:
        return _complain(error.message)
    except Failed as error:
        return _complain(str(error))
    return code


def _complain(message: str) -> int:
    complain(f"dub5: {message}")
    return 1


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """Knows all commands, and the arguments of the one that `arguments` name."""
    parser = argparse.ArgumentParser(
        prog="dub5", description="LLM chat backend: OpenAI-compatible, cached, measured."
    )
    parser.add_argument("--version", action="version", version=f"dub5 {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    named = _named(arguments)
    for name, (summary, example) in COMMANDS.items():
        one = command.add(commands, name, summary, example)
        if name == named:
            import_module(f"dub5.cli.{name}").add_arguments(one)
    return parser


def _named(arguments: list[str]) -> str | None:
    """No option before the command has a value, so the first word is the command."""
    return next((each for each in arguments if not each.startswith("-")), None)
