"""What the commands share: how one is described, how it fails, and how options are read."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001  # argparse has no public name

T = TypeVar("T")


class Failed(Exception):
    """The command could not do what it is for; the message is for people, the exit code 1."""


def check_writable(file: Path) -> None:
    """Failed where a file could not be written there; to be asked before anything is waited for."""
    if not file.parent.is_dir():
        raise Failed(f"{file} cannot be written: there is no folder {file.parent}")
    if file.is_dir() or not os.access(file.parent, os.W_OK):
        raise Failed(f"{file} cannot be written: it is a folder, or in one that is not ours to write")


def add(commands: Commands, name: str, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand whose help ends with an example."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_url(parser: argparse.ArgumentParser) -> None:
    """`--url`: where the service is."""
    parser.add_argument(
        "--url",
        type=read_by(address),
        default="http://127.0.0.1:8000",
        help="public listener of the service (default http://127.0.0.1:8000); the key is taken from DUB5_KEY",
    )


def own_key(environment: Mapping[str, str]) -> str:
    """That of DUB5_KEY, without the line feed that a file of it ends with. Failed, and no word of it, where it cannot
    be one: httpx would quote it."""
    key = environment.get("DUB5_KEY", "").strip()
    if not (key.isascii() and key.isprintable()):
        raise Failed("DUB5_KEY: a key must be printable ASCII")
    return key


def address(written: str) -> str:
    """A URL of HTTP, as it is written; ValueError where it is none."""
    parts = urlsplit(written)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
        raise ValueError("must be http://HOST:PORT or https://HOST:PORT")
    try:
        parts.hostname.encode("idna").decode("idna")
    except UnicodeError:
        raise ValueError("its host is no name and no IP address") from None
    return written


def read_by(parse: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which keeps the words of no other error."""

    def read(written: str) -> T:
        try:
            return parse(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read


def keep_apart(written: Mapping[str, Path | None], read: Iterable[Path | None]) -> None:
    """Failed where a file that an option would write is one that is read, or that another option writes, too."""
    others = [each for each in read if each is not None]
    for option, file in written.items():
        if file is not None:
            if any(_is_same(file, other) for other in others):
                raise Failed(
                    f"{option}: {file} is also read, or written by another option; name another file"
                )
            others.append(file)


def _is_same(one: Path, other: Path) -> bool:
    """Also by way of a link. What is no file of bytes, such as a terminal, may be several things at once."""
    with contextlib.suppress(OSError):
        return one.samefile(other) and one.is_file()
    return os.path.realpath(one) == os.path.realpath(other)
