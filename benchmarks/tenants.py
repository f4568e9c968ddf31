"""Keys for callers of several tenants, each known by a name."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def tenants(**keys: str) -> Iterator[dict[str, Any]]:
    """The section `auth` of a configuration that knows these keys, each of a tenant."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.yaml"
        lines = [
            f"{hashlib.sha256(key.encode()).hexdigest()}: {{tenant: {tenant}, roles: [chat]}}\n"
            for key, tenant in keys.items()
        ]
        file.write_text("".join(lines), encoding="utf-8")
        yield {"keys": {"file": str(file)}}


def of(key: str) -> dict[str, str]:
    """The header with which its callers ask."""
    return {"authorization": f"Bearer {key}"}
