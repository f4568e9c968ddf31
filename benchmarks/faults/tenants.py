"""Keys for callers of several tenants. A tenant's key is its name."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def tenants(*names: str) -> Iterator[dict[str, Any]]:
    """The section `auth` of a configuration that knows them."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.yaml"
        lines = [
            f"{hashlib.sha256(name.encode()).hexdigest()}: {{tenant: {name}, roles: [chat]}}\n"
            for name in names
        ]
        keys.write_text("".join(lines), encoding="utf-8")
        yield {"keys": {"file": str(keys)}}


def of(tenant: str) -> dict[str, str]:
    """The header with which its callers ask."""
    return {"authorization": f"Bearer {tenant}"}
