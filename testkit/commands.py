"""How commands of this repository read their arguments."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any


def parser(description: str | None, rows: Iterable[str] = (), **options: Any) -> argparse.ArgumentParser:
    """One whose help keeps the lines of `description`; with `rows` it takes some of them by name."""
    keep = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=description, formatter_class=keep, **options)
    if names := list(rows):
        made.add_argument(
            "rows", nargs="*", choices=[[], *names], metavar="ROW", help=", ".join(names).replace("%", "%%")
        )
    return made
