"""The import contracts hold, and each breaks where its rule is broken."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANNER = "dub5_operator/planner/decision.py"
PURE = "The planner is pure"
OPERATOR = "Of the backend, the operator"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, in which something may be planted."""
    tree = tmp_path_factory.mktemp("tree")
    for source in ("backend/dub5", "operator/dub5_operator", "tests", "tools", "benchmarks", "testkit"):
        if (ROOT / source).exists():
            ignored = shutil.ignore_patterns("*.pyc", "*.json", "*.csv", "node_modules", "go")
            shutil.copytree(ROOT / source, tree / Path(source).name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def broken(tree: Path) -> list[str]:
    """The names of the contracts that are broken, as the command says."""
    program = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    ended = subprocess.run(
        [sys.executable, "-c", program, "--no-cache"],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Contracts:" in ended.stdout, ended.stdout + ended.stderr
    names = [line.removesuffix(" BROKEN") for line in ended.stdout.splitlines() if line.endswith(" BROKEN")]
    assert (ended.returncode != 0) == bool(names)
    return names


def test_they_are_kept(tree: Path) -> None:
    assert broken(tree) == []


@pytest.mark.parametrize(
    ("file", "planted", "contract"),
    [
        (PLANNER, "import httpx", PURE),
        (PLANNER, "import msgspec", PURE),
        (PLANNER, "def f():\n    import redis.asyncio", PURE),
        (PLANNER, "from dub5_operator import metrics", PURE),
        ("dub5_operator/crd.py", "from dub5.errors import ConfigError", OPERATOR),
        ("dub5_operator/crd.py", "import dub5.shares", OPERATOR),
        ("dub5/contract.py", "import redis", "contract.py knows"),
        ("dub5/contract.py", "from dub5 import errors", "contract.py knows"),
    ],
)
def test_what_is_not_allowed_breaks_them(tree: Path, file: str, planted: str, contract: str) -> None:
    source = (tree / file).read_text(encoding="utf-8")
    try:
        (tree / file).write_text(f"{source}\n{planted}\n", encoding="utf-8")
        assert any(name.startswith(contract) for name in broken(tree))
    finally:
        (tree / file).write_text(source, encoding="utf-8")
