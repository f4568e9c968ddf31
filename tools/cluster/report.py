"""What the command says to people."""

from __future__ import annotations

import sys


class Stop(Exception):
    """Ends the command with a sentence and exit code 1."""


def say(message: str, end: str = "\n") -> None:
    print(message, end=end, flush=True, file=sys.stderr)
