"""The limit of memory, as both versions of control groups tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dub5.telemetry.container import memory, memory_limit


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "536870912"}, 536870912),
        ("0::/\n", {"memory.max": "max"}, None),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "536870912"}, 536870912),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("0::/a/b\n", {"a/memory.max": "1000", "a/b/memory.max": "max"}, 1000),
        (
            "7:cpu,memory:/a/b\n",
            {"memory/a/b/memory.limit_in_bytes": "900", "memory/a/memory.limit_in_bytes": "9000"},
            900,
        ),
        ("0::/../x\n", {}, None),
        ("nonsense\n", {"memory.max": "800"}, 800),
        (None, {}, None),
    ],
)
def test_the_smallest_limit_holds(
    groups: str | None, files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    root = tmp_path / "cgroup"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    reported = tmp_path / "self"
    if groups is not None:
        reported.write_text(groups)
    assert memory_limit(reported, root) == limit


def test_without_a_limit_it_is_what_the_machine_has() -> None:
    assert memory() > 2**28
