"""Where a program is that is not ours."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from testkit.places import CACHE


def which(*names: str) -> str | None:
    """The first of these: on PATH, beside this Python, or where the cluster's are built; None where there is none."""
    for name in names:
        path = shutil.which(name) or shutil.which(name, path=Path(sys.executable).parent)
        built = sorted((CACHE / "programs").glob(f"*/{name}"))
        if path or built:
            return path or str(built[-1])
    return None
