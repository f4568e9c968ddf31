"""`dub5 keys new | list | revoke`: the file of callers' keys, which a running service reads again when it changes.

The file has the SHA-256 of each key and never a key: that is shown once, when it is made. Comments and order stay as
they are. With `--secret` the whole file is also printed as a Secret for Kubernetes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import yaml

from dub5.admission.keys import SHOWN, TENANT, Caller, Role, model_pattern, moment, parse_keys, written_time
from dub5.cli import command
from dub5.cli.command import Failed
from dub5.cli.standard_streams import complain, write
from dub5.errors import ConfigError
from dub5.settings.loader import parse_yaml
from dub5.settings.model import Duration, read_file

_RANDOM_BYTES = 24
"""Of a key: nobody guesses 192 bits, so that its plain SHA-256 gives nothing away."""

Entries = dict[str, Any]
"""Of the file: each digest with what is written of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    new = command.add(
        commands,
        "new",
        "Make a key, show it once and write its digest into the file, in force within seconds.",
        "dub5 keys new --tenant acme --model 'openrouter/*' --model tutor --expires 90d\n"
        "  dub5 keys new --tenant acme --secret dub5-callers --namespace chat | kubectl apply --filename -",
    )
    new.add_argument(
        "--tenant",
        required=True,
        type=command.read_by(_tenant),
        metavar="NAME",
        help="whose answers, limits and costs",
    )
    new.add_argument(
        "--role",
        action="append",
        dest="roles",
        choices=get_args(Role),
        help="may be given more than once (default chat)",
    )
    new.add_argument(
        "--model",
        action="append",
        dest="models",
        type=command.read_by(model_pattern),
        metavar="NAME",
        help="a model or personality that it may use, with a `*` for many; may be given more than once (default all)",
    )
    new.add_argument(
        "--expires",
        type=command.read_by(_expiry),
        metavar="WHEN",
        help="after 90d, or at 2027-01-31 or 2027-01-31T12:00:00Z (default never)",
    )
    new.set_defaults(run=_new)
    listed = command.add(commands, "list", "Show the keys of the file, and what each may.", "dub5 keys list")
    listed.set_defaults(run=_list)
    revoke = command.add(
        commands, "revoke", "Take keys out of the file, in force within seconds.", "dub5 keys revoke 1a2b3c4d"
    )
    revoke.add_argument(
        "keys", nargs="+", metavar="KEY", help=f"as `list` shows it: {SHOWN} digits of its digest, or more"
    )
    revoke.set_defaults(run=_revoke)
    for each in (new, listed, revoke):
        each.add_argument(
            "--file", type=Path, default=Path("keys.yaml"), help="what auth.keys names (default keys.yaml)"
        )
    for each in (new, revoke):
        each.add_argument(
            "--secret", metavar="NAME", help="also print the whole file as a Secret of this name"
        )
        each.add_argument("--namespace", metavar="NAME", help="of that Secret")


def _tenant(written: str) -> str:
    if not TENANT.fullmatch(written):
        raise ValueError("a tenant is 1 to 64 letters, digits or . _ -")
    return written


def _expiry(written: str) -> float:
    now = time.time()
    with contextlib.suppress(ValueError):
        return now + Duration.parse(written)
    if (at := moment(written)) <= now:
        raise ValueError("must not be in the past")
    return at


def _new(args: argparse.Namespace) -> int:
    key = f"dub5-{secrets.token_hex(_RANDOM_BYTES)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    entry: dict[str, Any] = {"tenant": args.tenant, "roles": args.roles or ["chat"]}
    if args.models:
        entry["models"] = args.models
    if args.expires is not None:
        entry["expires"] = written_time(args.expires)
    text = _change(args.file, lambda text, entries: _with(text, entries, digest, entry))
    complain(f"{args.file} has a new key: {_summary(dict(_callers(text))[digest])}. It is shown this once:")
    if args.secret:
        complain(key)
        _write_secret(args, text)
    else:
        write(key)
    return 0


def _list(args: argparse.Namespace) -> int:
    rows: list[tuple[str, ...]] = [("KEY", "TENANT", "ROLES", "MODELS", "EXPIRES")]
    rows += [_row(caller) for _, caller in _callers(_read(args.file))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _row(caller: Caller) -> tuple[str, ...]:
    expires = "never" if caller.expires is None else written_time(caller.expires)
    if caller.expires is not None and caller.expires <= time.time():
        expires += " (expired)"
    models = "all" if caller.models is None else ",".join(caller.models)
    return caller.key_id, caller.tenant, ",".join(sorted(caller.roles)), models, expires


def _summary(caller: Caller) -> str:
    key_id, tenant, roles, models, expires = _row(caller)
    return f"{key_id}, tenant {tenant}, roles {roles}, models {models}, expires {expires}"


def _revoke(args: argparse.Namespace) -> int:
    revoked: list[Caller] = []

    def without(text: str, entries: Entries) -> str:
        callers = _callers(text)
        revoked.extend(_found(shown, callers, args.file) for shown in args.keys)
        left = {
            digest: entry
            for digest, entry in entries.items()
            if digest.lower() not in {each.identity for each in revoked}
        }
        if not left:
            raise Failed(
                "the service does not take a file without keys, and would go on with the old ones: make a new key first"
            )
        return _in_step(_without(text, entries.keys() - left.keys()), left)

    text = _change(args.file, without)
    for caller in revoked:
        complain(f"Revoked: {_summary(caller)}.")
    if args.secret:
        _write_secret(args, text)
    return 0


def _found(shown: str, callers: list[tuple[str, Caller]], file: Path) -> Caller:
    wanted = shown.lower()
    found = [caller for digest, caller in callers if digest.startswith(wanted)]
    if len(wanted) < SHOWN or not found:
        raise Failed(f"no such key in {file}; `dub5 keys list` shows them by {SHOWN} digits")
    if len(found) > 1:
        raise Failed(f"{shown} is the beginning of {len(found)} keys; write more of its digest")
    return found[0]


def _write_secret(args: argparse.Namespace, text: str) -> None:
    metadata = {"name": args.secret} | ({"namespace": args.namespace} if args.namespace else {})
    head = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque"}
    content = "\n".join(f"    {line}" for line in text.rstrip("\n").split("\n"))
    # The 2 says how far it is moved to the right: else a text that begins with a blank would be read otherwise.
    write(f"{yaml.safe_dump(head, sort_keys=False)}stringData:\n  keys.yaml: |2\n{content}")


# The file.


def _read(path: Path) -> str:
    try:
        return read_file("the keys", path).decode()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: not UTF-8 at byte {error.start}") from None


def _callers(text: str) -> list[tuple[str, Caller]]:
    """By digest, in lower case, in the order of the file; ConfigError where the service would refuse it."""
    return [(digest.hex(), caller) for digest, caller in parse_keys(text)]


def _change(path: Path, change: Callable[[str, Entries], str]) -> str:
    """Put `change(text, entries)` in the file's place, all at once, and give it; a new file where there is none.

    What is written first lies beside it, and keeps a second command out meanwhile.
    """
    path = path.resolve()  # of a link what it leads to is changed
    beside = path.with_name(f"{path.name}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise Failed(
            f"another command writes {beside}; where none does, one was killed: delete that file"
        ) from None
    except OSError as error:
        raise Failed(f"cannot write {beside}: {error.strerror or type(error).__name__}") from None
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            text = ""
            if path.exists():
                text = _read(path)
                _as_before(descriptor, path)
            entries = parse_yaml(text) if text.strip() else None
            if entries is not None:
                parse_keys(text)
            text = change(text, {str(digest): entry for digest, entry in (entries or {}).items()})
            parse_keys(text)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return text


def _as_before(descriptor: int, path: Path) -> None:
    """The new file is for the same readers."""
    status = path.stat()
    os.fchmod(descriptor, status.st_mode & 0o7777)
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _with(text: str, entries: Entries, digest: str, entry: dict[str, Any]) -> str:
    added = f"{text}\n" if text and not text.endswith("\n") else text
    return _in_step(added + _line(digest, entry), {**entries, digest: entry})


def _line(digest: str, entry: Any) -> str:
    written = yaml.safe_dump(
        entry, default_flow_style=True, sort_keys=False, width=2**31, allow_unicode=True
    ).strip()
    return f'"{digest}": {written}\n'


def _without(text: str, digests: set[str]) -> str:
    """The lines of all others, and comments; of an entry all lines from its digest on to its last word."""
    root: Any = yaml.compose(text, Loader=yaml.SafeLoader)  # a mapping: it has been parsed
    lines: list[str | None] = list(text.splitlines(keepends=True))
    for key, value in root.value:
        if key.value in digests:
            last = value.end_mark.line if value.end_mark.column else value.end_mark.line - 1
            first = key.start_mark.line
            while last > first and (lines[last] or "").lstrip().startswith(("#", "\n")):
                last -= 1
            lines[first : last + 1] = [None] * (last + 1 - first)
    return "".join(line for line in lines if line is not None)


def _in_step(text: str, entries: Entries) -> str:
    """`text`, if it says just that; else, as of a file whose entries share lines, the plainest that does."""
    with contextlib.suppress(ConfigError, ValueError):
        read = parse_yaml(text)
        if isinstance(read, dict) and {str(digest): entry for digest, entry in read.items()} == entries:
            return text
    return "".join(_line(digest, entry) for digest, entry in entries.items())
