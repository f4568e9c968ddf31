"""Where things are: the top of the repository, and what is built once for all work trees.

CACHE   programs, base images: costly to make, named for what they are made from; may be deleted at any time
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dub5"


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Whoever else would make the same waits, and then finds it made."""
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
